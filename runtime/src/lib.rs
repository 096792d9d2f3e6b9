//! Caisson's low-level OCI runtime.

mod cgroup;
mod cli;
mod console;
mod foreground;
mod hooks;
mod host;
mod init;
mod log;
mod plan;
pub mod report;
mod spawn;
mod spec;
pub mod state;
mod sync;
mod sys;
mod timestamp;

/// Runs the command line and returns the exit code.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
