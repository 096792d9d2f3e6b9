//! The probe's verbs. Runs as the container's process (or as a hook), never in the test process.
//!
//! | verb | does |
//! |---|---|
//! | `report [QUESTION...]` | prints one JSON object, [`crate::seen::Seen`]; questions are `sysctl=`, `stat=`, `ls=`, `cat=`, `try=` |
//! | `note FILE LABEL [exit CODE]` | appends one JSON line to FILE: label, standard input, report. For hooks |
//! | `pause [CODE]` | prints `ready`, then every signal it gets as `signal N`; TERM ends it with CODE (0) |
//! | `count [BY...]` | prints `ready`, then how many USR1 it has got, for each of them; TERM ends it. By way of what: see `count` |
//! | `notify TEXT` | sends this to NOTIFY_SOCKET, then pauses; `notify-and-exit` ends instead |
//! | `exit CODE`, `signal-self N`, `echo WORD...`, `cat [FILE]`, `complain WORD...` | as named; `complain` writes to standard error |
//! | `write-file FILE BYTES` | writes that many bytes to FILE and syncs it |
//! | `spin` | uses one CPU until it is killed |
//! | `glut` | writes blocks until nobody has taken one for a second, then says on standard error how many bytes |
//! | `linger MILLISECONDS` | takes that long |
//! | `burn MILLISECONDS` | prints `begin`, uses that much CPU time, prints `done` |
//! | `write-direct FILE BYTES`, `read-direct FILE BYTES` | print `begin`, write or read that many bytes past the page cache, print `done` |
//! | `eat MIB` | touches that much memory, prints `full`, pauses |
//! | `fork N` | starts up to N copies of `pause`, prints how many it got and the errno that stopped it |
//! | `try ACTION...` | prints a JSON object: action to `ok` or errno name. Actions below |
//! | `syscall NAME [ARGUMENT...]` | the same for one system call by name or number |
//! | `exec PROGRAM [ARG...]` | replaces itself |
//! | `with-files FILE... -- PROGRAM [ARG...]` | the same with these files open as descriptors 3, 4 and so on, and LISTEN_PID set if only LISTEN_FDS is |
//! | `as-user UID GROUPS ETC CGROUP -- PROGRAM [ARG...]` | enters CGROUP (or none: `-`) and becomes this user with these groups, the first of which is his own, where passwd, group, subuid and subgid are those of the directory ETC |
//! | `spy` | attacks the processes of others that it sees until it is killed, prints what it gets: see `attack` |
//! | `seize` | traces every copy of itself that it sees, to its end, and prints `seized` for each |
//! | `leaderless` | prints `ready`; its first thread ends, another one stays |
//! | `name HEX VERB...` | names itself with these bytes, then does the verb |
//!
//! Actions of `try`: `read:PATH`, `write:PATH` (opens, changes nothing), `create:PATH` (creates and removes it), `mkdir:PATH` (the
//! same), `exec:PATH` (runs it with no arguments), `mknod:PATH:MAJOR:MINOR` (character device; removes it), `syscall:NAME`
//! (all arguments zero), `bind:PORT` (TCP, on the loopback address), `hostname:NAME` (sets it), `mount:PATH` (a tmpfs),
//! `remount:PATH` (the same mount without any flag).

mod attack;
mod attempt;
mod become_user;
mod count;
mod load;
mod report;

use crate::sys;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{SigSet, Signal};
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// Runs the verb on the command line.
pub fn main() -> ExitCode {
    // Arguments are read as bytes of whatever encoding: a container may pass anything.
    let args: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            writeln!(io::stderr(), "probe {}: {error}", args.join(" ")).ok();
            ExitCode::from(99)
        }
    }
}

#[expect(clippy::too_many_lines, reason = "a flat table of verbs")]
fn run(args: &[&str]) -> io::Result<ExitCode> {
    match args {
        ["report", questions @ ..] => say(&serde_json::to_string(&report::seen(questions))?)?,
        ["note", file, label, rest @ ..] => {
            note(file, label)?;
            return run(rest);
        }
        ["pause"] => return pause(0),
        ["pause", code] => return pause(number(code)? as u8),
        [] => {}
        ["count", by @ ..] => return count::count(by),
        ["notify", text] => {
            notify(text)?;
            return pause(0);
        }
        ["notify-and-exit", text] => notify(text)?,
        ["exit", code] => return Ok(ExitCode::from(number(code)? as u8)),
        ["signal-self", signal] => {
            let own = u64::from(std::process::id());
            sys::call(libc::SYS_kill, [own, number(signal)?, 0, 0, 0, 0])?;
        }
        ["echo", words @ ..] => say(&words.join(" "))?,
        ["complain", words @ ..] => writeln!(io::stderr(), "{}", words.join(" "))?,
        ["cat"] => drop(io::copy(&mut io::stdin(), &mut io::stdout())?),
        ["cat", file] => drop(io::copy(&mut File::open(file)?, &mut io::stdout())?),
        ["write-file", file, bytes] => load::write_file(file, number(bytes)?)?,
        ["glut"] => load::glut()?,
        ["spin"] => load::spin(),
        ["linger", milliseconds] => {
            let timeout = number(milliseconds)? as u16;
            nix::poll::poll(&mut [], timeout)?;
        }
        ["burn", milliseconds] => load::burn(number(milliseconds)?)?,
        ["write-direct", file, bytes] => load::write_direct(file, number(bytes)?)?,
        ["read-direct", file, bytes] => load::read_direct(file, number(bytes)?)?,
        ["eat", mib] => {
            let memory = load::eat(number(mib)? as usize);
            say("full")?;
            let code = pause(0);
            drop(memory);
            return code;
        }
        ["fork", count] => load::fork(number(count)?)?,
        ["try", actions @ ..] => say(&serde_json::to_string(&attempt::all(actions))?)?,
        ["syscall", name, arguments @ ..] => {
            let arguments = arguments
                .iter()
                .map(|word| number(word))
                .collect::<io::Result<Vec<u64>>>()?;
            say(&json!({ *name: attempt::system_call(name, &arguments) }).to_string())?;
        }
        ["spy"] => attack::spy()?,
        ["seize"] => attack::seize()?,
        ["leaderless"] => attack::leaderless()?,
        ["name", hex, rest @ ..] => {
            attack::rename_self(hex)?;
            return run(rest);
        }
        ["exec", program, rest @ ..] => return Err(Command::new(program).args(rest).exec()),
        ["with-files", rest @ ..] => return Err(with_files(rest)?),
        [
            "as-user",
            user,
            groups,
            etc,
            cgroup,
            "--",
            program,
            rest @ ..,
        ] => {
            become_user::become_user(number(user)? as u32, groups, etc, cgroup)?;
            return Err(Command::new(program).args(rest).exec());
        }
        _ => {
            return Err(io::Error::other(
                "no such verb; see the documentation of integration::probe",
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn notify(text: &str) -> io::Result<()> {
    let path = std::env::var_os("NOTIFY_SOCKET").ok_or(io::Error::other("no NOTIFY_SOCKET"))?;
    let socket = std::os::unix::net::UnixDatagram::unbound()?;
    socket.send_to(text.as_bytes(), path).map(drop)
}

/// Waits for signals. They are blocked and taken one by one: even process 1 of a pid namespace gets a blocked signal.
fn pause(code: u8) -> io::Result<ExitCode> {
    let all = SigSet::all();
    all.thread_block()?;
    say("ready")?;
    loop {
        match all.wait()? {
            Signal::SIGTERM => return Ok(ExitCode::from(code)),
            // Children of `fork` ending.
            Signal::SIGCHLD => {}
            signal => say(&format!("signal {}", signal as i32))?,
        }
    }
}

fn note(file: &str, label: &str) -> io::Result<()> {
    let mut input = String::new();
    io::stdin().read_to_string(&mut input)?;
    let line =
        json!({ "label": label, "stdin": input, "seen": report::seen(&[]) }).to_string() + "\n";
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)?
        .write_all(line.as_bytes())
}

/// A fresh process has 0, 1 and 2 open, so files get the numbers that follow. Returns only if the program cannot be run.
fn with_files(args: &[&str]) -> io::Result<io::Error> {
    let (files, command) = args.split_at(
        args.iter()
            .position(|arg| *arg == "--")
            .unwrap_or(args.len()),
    );
    let [_, program, rest @ ..] = command else {
        return Err(io::Error::other("with-files FILE... -- PROGRAM"));
    };
    let mut open = Vec::new();
    for file in files {
        let file = File::open(file)?;
        fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty()))?;
        open.push(file);
    }
    let mut command = Command::new(program);
    let set = |name| std::env::var_os(name).is_some();
    if set("LISTEN_FDS") && !set("LISTEN_PID") {
        // By the protocol of socket activation, descriptors are for the process that this names.
        command.env("LISTEN_PID", std::process::id().to_string());
    }
    Ok(command.args(rest).exec())
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn number(word: &str) -> io::Result<u64> {
    word.parse()
        .map_err(|error| io::Error::other(format!("{word:?}: {error}")))
}
