//! containerd's interfaces: messages, and services as ttrpc has them. Written by `scripts/protos` from `shim/protos`, without reflection:
//! what goes into an `Any` is named by hand ([`pack`]).

#![allow(
    missing_debug_implementations,
    unreachable_pub,
    clippy::let_underscore_must_use,
    clippy::too_many_lines,
    clippy::wildcard_imports,
    reason = "generated code"
)]

pub mod bootstrap;
pub mod cgroup_metrics;
pub mod events;
pub mod forward;
pub mod forward_ttrpc;
pub mod pod;
pub mod runc_options;
pub mod runtime_options;
pub mod sandbox;
pub mod sandbox_ttrpc;
pub mod task;
pub mod task_ttrpc;
pub mod task_types;
pub mod types;

use protobuf::Message;
use protobuf::well_known_types::any::Any;

/// A message in an `Any`. `name` is the full name of its type; containerd uses it as the URL, without a host.
pub fn pack(name: &str, message: &impl Message) -> protobuf::Result<Any> {
    Ok(Any {
        type_url: name.to_owned(),
        value: message.write_to_bytes()?,
        ..Any::default()
    })
}
