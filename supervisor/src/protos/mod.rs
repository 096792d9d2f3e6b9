//! The interface of the daemon, package `caisson.v1`: messages and services. Written by `scripts/protos` from `supervisor/protos`.
//! The messages are also what is kept of containers, volumes and events: fields that an older daemon does not know survive it.

#![allow(
    missing_debug_implementations,
    unreachable_pub,
    clippy::let_underscore_must_use,
    clippy::too_many_lines,
    clippy::wildcard_imports,
    reason = "generated code"
)]

pub mod containers;
pub mod containers_ttrpc;
pub mod images;
pub mod images_ttrpc;
pub mod parts;
pub mod system;
pub mod system_ttrpc;
