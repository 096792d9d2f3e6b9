//! Caisson's low-level OCI runtime.

mod cli;
mod log;
mod plan;
pub mod report;
pub mod state;
mod sys;
mod timestamp;

/// Runs the command line and returns the exit code.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
