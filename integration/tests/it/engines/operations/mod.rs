//! The operations, for each engine; Podman and Docker have most of them in common.
//!
//! `$engine` is the engine's command line before a verb, `$run` the one that makes a container (without a network: `${run%none}host`
//! is one with the host's), `$readme` the line of README.md, `$limits` options for all kinds of limits if the engine may set them, `$shared` a
//! directory for volumes, `$show` what shows properties of a unit if systemd has the containers' cgroups. Where a container's own complaints
//! count, its script says `exec 2>&1`: what an engine itself says on standard error has the runtime's words in it.
//!
//! `web` is a service that says in /ready that it is ready, and ends in its own way when it is told to. Each call of an engine starts
//! several large programs, and the machine may be an emulated one: an operation has no more of them than it needs.
//! What is `seldom` done is what takes the minutes: none of the others relies on it.

mod buildah;
mod containerd;
mod everyday;
mod podman;
mod shim;

pub(super) use buildah::{BUILDAH, CONTAINERFILES};
pub(super) use containerd::CONTAINERD;
pub(super) use everyday::{DOCKER, EVERYDAY, LIMITED};
pub(super) use podman::{DELEGATED, POD, PODMAN, UNPRIVILEGED};
pub(super) use shim::{DOCKED, SHIM};

use super::compare::{Operation, operation, seldom};

const AS_WRITTEN: Operation = operation("run, as README.md says", "$readme", 0, "as written");

const MISSING: &str = "executable file not found in $PATH";
