//! The `caisson` binary. Everything is in the library; see its crate documentation.

fn main() -> std::process::ExitCode {
    runtime::main()
}
