//! The init of a container that asks for one: runs a program, passes signals on to it, reaps what loses its parent, and ends as it does.
//!
//! Runs in the container, as process 1, from the daemon's own file, which is mounted there.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, pthread_sigmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

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
        let code = if error.kind() == std::io::ErrorKind::NotFound {
            127
        } else {
            126
        };
        (
            code,
            format!("execute {}: {error}", program.to_string_lossy()),
        )
    })?;
    let main = Pid::from_raw(child.id().cast_signed());
    let all = SigSet::all();
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&all), None)
        .map_err(|errno| (125, format!("block signals: {errno}")))?;
    if let Some(code) = reap(main) {
        return Ok(code);
    }
    loop {
        match all.wait() {
            Ok(Signal::SIGCHLD) => {
                if let Some(code) = reap(main) {
                    return Ok(code);
                }
            }
            // Those of the terminal go to its foreground group anyway.
            Ok(Signal::SIGTTIN | Signal::SIGTTOU) => {}
            // One that has just ended is reaped next.
            Ok(signal) => drop(kill(main, signal)),
            Err(errno) => return Err((125, format!("wait for signals: {errno}"))),
        }
    }
}

/// The code to end with, if the program has ended.
fn reap(main: Pid) -> Option<u8> {
    let mut code = None;
    loop {
        let (pid, ended) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) => (pid, status),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return code,
            Ok(_) => continue,
            Err(_) => return code,
        };
        if pid == main {
            code = Some(u8::try_from(ended & 0xff).unwrap_or(255));
        }
    }
}
