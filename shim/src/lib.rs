//! `containerd-shim-caisson-v2`: the process that stands between containerd and a container, or all containers of a pod.
//!
//! containerd runs it by name, three ways: `start` makes the serving shim and says where it listens; without an action it is that
//! serving shim; `delete` cleans up after one that died.

pub mod protos;

mod events;
mod io;
mod metrics;
mod oom;
#[allow(unsafe_code, reason = "the only module with unsafe code")]
mod sys;

use std::process::ExitCode;

/// Runs the program.
pub fn main() -> ExitCode {
    ExitCode::FAILURE
}
