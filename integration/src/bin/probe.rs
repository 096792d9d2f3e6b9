//! The program that tests run as a container's process. It does what its first argument says and reports what it sees.
//!
//! Static, needs no other file and no mounted /proc: what it cannot find out it reports with the reason.
//! Also used as a hook, on either side of the pivot.

use integration::probe;

fn main() -> std::process::ExitCode {
    probe::main()
}
