//! `containerd-shim-caisson-v2`: the process that stands between containerd and a container, or all containers of a pod.
//!
//! containerd runs it by name, three ways: `start` makes the serving shim and says where it listens; without an action it is that
//! serving shim; `delete` cleans up after one that died. Containers are made by an OCI runtime, which the shim runs as a command.

pub mod protos;
pub mod readers;
pub mod timestamp;

mod accept;
mod aside;
mod bundle;
mod cgroup;
mod cli;
mod container;
mod containers;
mod delete;
mod descriptors;
mod end;
mod error;
mod events;
mod execs;
mod info;
mod io;
mod lock;
mod log;
mod memory;
mod metrics;
mod mounts;
mod oom;
mod options;
mod pod;
mod process;
mod reaper;
mod runtime;
mod sandbox;
mod serve;
mod socket;
mod start;
#[allow(unsafe_code, reason = "the only module with unsafe code")]
mod sys;
mod task;

pub use mounts::user_namespace;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;

use cli::Action;

/// What the program is called, in its errors too.
const NAME: &str = "containerd-shim-caisson-v2";

/// Runs the program.
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody can be told that standard error is closed.
            writeln!(std::io::stderr(), "{NAME}: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let invocation = cli::parse(std::env::args_os())?;
    match invocation.action {
        Action::Start => start::run(&invocation),
        Action::Serve => serve::run(&invocation),
        Action::Delete => delete::run(&invocation),
        Action::Info => info::run(),
        Action::Version => Ok(writeln!(
            std::io::stdout(),
            "{NAME}: {}",
            env!("CARGO_PKG_VERSION")
        )?),
    }
}
