//! The supervisor: `caissond`, which keeps images and containers above the shim, and `caissonctl`, its client.

mod archive;
mod chunks;
pub mod digest;
pub mod fault;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod image;
pub mod layer;
pub mod protos;
pub mod store;

mod client;
mod container;
mod copy;
mod daemon;
mod host;
mod init;
mod lock;
#[cfg(test)]
mod mutants;
mod offline;
mod records;
mod removal;
mod requests;
mod shim;
mod spec;
#[allow(unsafe_code, reason = "the only module with unsafe code")]
mod sys;
mod walk;
mod wanted;
mod way;
mod whole;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;

/// Runs `caissond`.
pub fn daemon() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let arguments: Vec<OsString> = arguments.collect();
    if init::is_meant(&name) {
        return init::run(&arguments);
    }
    finish("caissond", start(&arguments))
}

fn start(arguments: &[OsString]) -> Result<()> {
    match arguments.first().and_then(|action| action.to_str()) {
        Some(layer::ACTION) => layer::child(&arguments[1..]),
        Some(copy::ACTION) => copy::child(&arguments[1..]),
        Some("store") => offline::run(&arguments[1..]),
        Some("--version") => Ok(writeln!(
            std::io::stdout(),
            "caissond {}",
            env!("CARGO_PKG_VERSION")
        )?),
        _ => Ok(daemon::run(arguments)?),
    }
}

/// Runs `caissonctl`.
pub fn client() -> ExitCode {
    client::main()
}

fn finish(program: &str, result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody can be told that standard error is closed.
            let line = format!("{program}: {error:#}\n");
            std::io::stderr().write_all(line.as_bytes()).ok();
            ExitCode::FAILURE
        }
    }
}
