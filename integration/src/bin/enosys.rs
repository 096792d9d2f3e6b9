//! `enosys CALL[=ERRNO],... -- COMMAND [ARGUMENT...]`: runs a command, and everything it starts, with these system calls failing.
//!
//! The error is ENOSYS, as on a kernel that lacks the call, or the errno named. This is how the fallbacks for older kernels
//! are tested on a new one. The filter is a plain chain of comparisons; it sets no_new_privs only where it must.

use integration::sys::{self, Instruction};
use nix::errno::Errno;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::str::FromStr;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let error = match &args[..] {
        [calls, separator, program, rest @ ..] if separator == "--" => {
            match program_for(&calls.to_string_lossy()) {
                Ok(filter) => match sys::filter_system_calls(&filter) {
                    Ok(()) => Command::new(program).args(rest).exec().to_string(),
                    Err(error) => format!("install the filter: {error}"),
                },
                Err(error) => error,
            }
        }
        _ => "usage: enosys CALL[=ERRNO],... -- COMMAND [ARGUMENT...]".to_owned(),
    };
    writeln!(io::stderr(), "enosys: {error}").ok();
    ExitCode::from(99)
}

/// The calls' BPF program. `struct seccomp_data` starts with the number; the architecture is not looked at, because a test
/// that runs foreign code has no use for this program.
fn program_for(calls: &str) -> Result<Vec<Instruction>, String> {
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let mut program = vec![(LOAD_WORD, 0, 0, 0)];
    for call in calls.split(',') {
        let (name, errno) = call.split_once('=').unwrap_or((call, "ENOSYS"));
        let number =
            syscalls::Sysno::from_str(name).map_err(|()| format!("no system call named {name}"))?;
        let errno = errno_named(errno).ok_or_else(|| format!("no errno named {errno}"))?;
        program.push((JUMP_IF_EQUAL, 0, 1, number.id() as u32));
        program.push((RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32));
    }
    program.push((RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
    Ok(program)
}

fn errno_named(name: &str) -> Option<i32> {
    (1..134).find(|number| format!("{:?}", Errno::from_raw(*number)) == name)
}
