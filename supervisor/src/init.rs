//! The init of a container that asks for one: runs a program, passes signals on to it, reaps what loses its parent, and ends as it does.
//!
//! Runs in the container, as process 1, from the daemon's own file, which is mounted there. Signals are numbers: real-time ones have no names,
//! and systemd, for one, is stopped by such a one.

use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use nix::sys::signal::SigSet;
use nix::unistd::{Pid, tcsetpgrp};
use rustix::process::{WaitOptions, wait};

use crate::sys;

/// What the program is called there.
const NAME: &str = "caisson-init";

pub(crate) fn is_meant(program: &OsStr) -> bool {
    Path::new(program).file_name() == Some(OsStr::new(NAME))
}

/// `arguments` are `--` and the program's.
pub(crate) fn run(arguments: &[OsString]) -> ExitCode {
    let words = arguments
        .iter()
        .skip_while(|word| *word == "--")
        .collect::<Vec<_>>();
    match supervise(&words) {
        Ok(code) => ExitCode::from(code),
        Err((code, text)) => {
            // Nobody can be told that standard error is closed.
            writeln!(std::io::stderr(), "{NAME}: {text}").ok();
            ExitCode::from(code)
        }
    }
}

fn supervise(words: &[&OsString]) -> Result<u8, (u8, String)> {
    let [program, arguments @ ..] = words else {
        return Err((125, "no program".into()));
    };
    // Before signals are blocked: the program would inherit that. What comes until then process 1 does not die of.
    let child = Command::new(program)
        .args(arguments.iter())
        .process_group(0)
        .spawn();
    let child = child.map_err(|error| {
        let code = if error.kind() == ErrorKind::NotFound {
            127
        } else {
            126
        };
        (
            code,
            format!("execute {}: {error}", program.to_string_lossy()),
        )
    })?;
    let main = child.id().cast_signed();
    foreground(main);
    let all = SigSet::all();
    all.thread_block()
        .map_err(|errno| (125, format!("block signals: {errno}")))?;
    if let Some(code) = reap(main) {
        return Ok(code);
    }
    loop {
        match sys::next_signal(&all) {
            Ok(libc::SIGCHLD) => {
                if let Some(code) = reap(main) {
                    return Ok(code);
                }
            }
            // Those of the terminal go to its foreground group anyway.
            Ok(libc::SIGTTIN | libc::SIGTTOU) => {}
            // One that has just ended is reaped next.
            Ok(signal) => drop(sys::kill(main, signal)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err((125, format!("wait for signals: {error}"))),
        }
    }
}

/// The program's group gets the terminal, if there is one: who is not in the foreground is stopped when it reads.
fn foreground(main: i32) {
    if tcsetpgrp(std::io::stdin(), Pid::from_raw(main)).is_ok() {
        // It may have been faster.
        sys::kill(-main, libc::SIGCONT).ok();
    }
}

/// The code to end with, if the program has ended.
fn reap(main: i32) -> Option<u8> {
    let mut code = None;
    // An error is that there are no children any more.
    while let Ok(Some((pid, ended))) = wait(WaitOptions::NOHANG) {
        if pid.as_raw_nonzero().get() == main {
            let signal = ended.terminating_signal().map(|signal| 128 + signal);
            let ended = ended.exit_status().or(signal).unwrap_or(255);
            code = Some(u8::try_from(ended & 0xff).unwrap_or(255));
        }
    }
    code
}
