//! `containerd-shim-caisson-v2`. All of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    shim::main()
}
