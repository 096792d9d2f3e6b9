//! `crash VICTIM CLOCK CALL [PID] -- COMMAND [ARGUMENT...]`: runs a command, and kills VICTIM at the CALLth system call of CLOCK.
//!
//! Both are `command`, the process of the command itself with all its threads, or `child`: those that it starts, and that these start, and PID. What is killed
//! at its own call never gets to make it; what is killed at a call of the other is where it just happens to be. With `child child`,
//! the one is killed that makes the call; with `child command`, all there are. `VICTIM=SIGNAL` sends another signal than SIGKILL.
//!
//! Exits as the command did, with 128+N if signal N killed it; with 100 if it succeeded before there were so many calls, or before it was killed. Children that it has
//! killed have ended by then.
//! What was killed, and at what call, is written to standard error, and how many calls there were.

use integration::{sys, waiting};
use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

/// The exit status of a command that had ended before it was time.
const NOT_REACHED: i32 = 100;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Command,
    Child,
}

struct Crash {
    victim: Who,
    clock: Who,
    signal: Signal,
    /// How many calls of the clock's are still to come.
    left: u64,
    counted: u64,
    command: Pid,
    /// Those that are traced and have not ended.
    children: BTreeSet<Pid>,
    /// Those of them that are killed.
    killed: Vec<Pid>,
    /// The end of the command, if it came while we waited for that of others.
    ended: Option<WaitStatus>,
}

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let separator = args.iter().position(|arg| arg == "--");
    let (ours, its) = args.split_at(separator.unwrap_or(args.len()));
    let ours: Vec<_> = ours.iter().map(|arg| arg.to_string_lossy()).collect();
    let ended = match (parse(&ours), its) {
        (Some(mut crash), [_, program, rest @ ..]) => crash
            .start(Command::new(program).args(rest))
            .and_then(|()| crash.until_end()),
        _ => Err(io::Error::other(
            "usage: crash command|child[=SIGNAL] command|child CALL [PID] -- COMMAND [ARGUMENT...]",
        )),
    };
    match ended {
        Ok(code) => ExitCode::from(code as u8),
        Err(error) => {
            say(&error.to_string());
            ExitCode::from(99)
        }
    }
}

fn parse(words: &[Cow<'_, str>]) -> Option<Crash> {
    let [victim, clock, call, pid @ ..] = words else {
        return None;
    };
    let (victim, signal) = match victim.split_once('=') {
        Some((victim, signal)) => (victim, signal.parse().ok()?),
        None => (&**victim, Signal::SIGKILL),
    };
    let pids = pid.iter().map(|pid| pid.parse().map(Pid::from_raw));
    Some(Crash {
        victim: who(victim)?,
        clock: who(clock)?,
        signal,
        left: call.parse().ok()?,
        counted: 0,
        command: Pid::from_raw(0),
        children: pids.collect::<Result<_, _>>().ok()?,
        killed: Vec::new(),
        ended: None,
    })
}

fn who(word: &str) -> Option<Who> {
    match word {
        "command" => Some(Who::Command),
        "child" => Some(Who::Child),
        _ => None,
    }
}

impl Crash {
    /// Starts the command, traced from its first instruction on. Seized, not attached: what is born into the trace is not sent a
    /// SIGSTOP then, which would outlive us.
    fn start(&mut self, command: &mut Command) -> io::Result<()> {
        let (mut held, hold) = io::pipe()?;
        let Some(pid) = sys::fork()? else {
            drop(hold);
            // The end of the pipe is the word to go.
            held.read_to_end(&mut Vec::new()).ok();
            return Err(command.exec());
        };
        self.command = Pid::from_raw(pid);
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEEXEC;
        for pid in std::iter::once(&self.command).chain(&self.children) {
            ptrace::seize(*pid, options)?;
        }
        // Without a stop there would be no first call to count.
        ptrace::interrupt(self.command)?;
        drop(hold);
        Ok(())
    }

    /// The same for processes that were there before. What they were waiting in is their first call.
    fn stop_children(&self) -> io::Result<()> {
        for child in &self.children {
            ptrace::interrupt(*child)?;
        }
        Ok(())
    }

    /// Traces the command to its end. Whoever is still traced then goes on untraced.
    fn until_end(&mut self) -> io::Result<i32> {
        let mut begun = false;
        loop {
            let status = match self.ended.take() {
                Some(status) => status,
                None => self.next()?,
            };
            match status {
                WaitStatus::Exited(pid, code) if pid == self.command => {
                    // While it ends by itself, its children make their last calls: a signal then comes too late.
                    let unhurt = self.victim == Who::Command && self.signal == Signal::SIGKILL;
                    let early = code == 0 && (self.left > 0 || unhurt);
                    say(&format!("{} calls", self.counted));
                    self.until_ended()?;
                    return Ok(if early { NOT_REACHED } else { code });
                }
                WaitStatus::Signaled(pid, signal, _) if pid == self.command => {
                    return Ok(128 + signal as i32);
                }
                WaitStatus::PtraceSyscall(pid) if begun && self.is_time(pid) => self.strike(pid)?,
                // What precedes the command's own first instruction is ours.
                WaitStatus::PtraceEvent(pid, _, libc::PTRACE_EVENT_EXEC)
                    if pid == self.command && !begun =>
                {
                    begun = true;
                    self.stop_children()?;
                }
                _ => {}
            }
            go_on(status);
        }
    }

    /// Waits for the next event, and keeps account of who there is.
    fn next(&mut self) -> io::Result<WaitStatus> {
        let status = loop {
            let (pid, status) = sys::reap_any()?;
            match WaitStatus::from_raw(Pid::from_raw(pid), status) {
                // nix knows no real-time signals, with which some runtimes' threads reach each other.
                Err(_) if libc::WIFSTOPPED(status) => pass_on(pid, libc::WSTOPSIG(status)),
                other => break other?,
            }
        };
        match status {
            WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) => {
                self.children.remove(&pid);
            }
            WaitStatus::PtraceEvent(pid, _, event) => self.notice(pid, event),
            _ => {}
        }
        Ok(status)
    }

    fn notice(&mut self, pid: Pid, event: i32) {
        let gives_birth = matches!(
            event,
            libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE
        );
        let born = gives_birth.then(|| ptrace::getevent(pid).ok()).flatten();
        let born = born.map(|born| Pid::from_raw(born as i32));
        // On a busy machine, the child may have come, gone and been reaped before the parent gets to tell of its birth.
        let told = born.filter(|born| is_traced(*born)).into_iter();
        let children = told.chain([pid]).filter(|pid| !self.is_of_command(*pid));
        let children: Vec<Pid> = children.collect();
        self.children.extend(children);
    }

    /// Whether this is the command, or a thread of its process: some runtimes have several.
    fn is_of_command(&self, pid: Pid) -> bool {
        Path::new(&format!("/proc/{}/task/{pid}", self.command)).exists()
    }

    /// Counts a call of the clock's on its way into the kernel; true if it is the one.
    fn is_time(&mut self, pid: Pid) -> bool {
        let who = match self.children.contains(&pid) {
            true => Who::Child,
            false => Who::Command,
        };
        let enters = ptrace::syscall_info(pid).is_ok_and(|info| info.op == ENTRY);
        if who != self.clock || self.left == 0 || !enters {
            return false;
        }
        self.left -= 1;
        self.counted += 1;
        self.left == 0
    }

    /// Kills. `pid` is the one whose call it is.
    fn strike(&mut self, pid: Pid) -> io::Result<()> {
        let victims: Vec<Pid> = match (self.victim, self.clock) {
            (Who::Command, _) => vec![self.command],
            (Who::Child, Who::Child) => vec![pid],
            (Who::Child, Who::Command) => self.children.iter().copied().collect(),
        };
        say(&format!("{} to {victims:?} at {}", self.signal, call(pid)));
        for victim in &victims {
            kill(*victim, self.signal).ok(); // It may have ended just now.
        }
        if self.victim == Who::Child && self.signal == Signal::SIGKILL {
            self.killed = victims;
        }
        if self.clock == Who::Command {
            // It waits for us, so that all that happens is that these end.
            self.until_ended()?;
        }
        Ok(())
    }

    /// Waits until those have ended that are killed. A process 1 ends after all of its namespace have been reaped.
    fn until_ended(&mut self) -> io::Result<()> {
        while self
            .children
            .iter()
            .any(|child| self.killed.contains(child))
        {
            // One that was just being born, or the last words of a victim.
            let status = self.next()?;
            // Only the thread that made the call waits for us.
            if let WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) = status
                && pid == self.command
            {
                self.ended = Some(status);
            }
            go_on(status);
        }
        Ok(())
    }
}

/// Lets one that has stopped go on, with the signal that it has stopped for.
fn go_on(status: WaitStatus) {
    let (pid, signal) = match status {
        WaitStatus::PtraceSyscall(pid) | WaitStatus::PtraceEvent(pid, ..) => (pid, None),
        WaitStatus::Stopped(pid, signal) => (pid, Some(signal)),
        _ => return,
    };
    // It may have been killed meanwhile.
    ptrace::syscall(pid, signal).ok();
}

/// The same, with the signal by its number.
fn pass_on(pid: i32, signal: i32) {
    let request = u64::from(libc::PTRACE_SYSCALL);
    let arguments = [request, pid as u64, 0, signal as u64, 0, 0];
    sys::call(libc::SYS_ptrace, arguments).ok();
}

/// Whether a process is traced by us and its end has not been taken yet.
fn is_traced(pid: Pid) -> bool {
    let look =
        WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT | WaitPidFlag::__WALL;
    waitid(Id::Pid(pid), look) != Err(Errno::ECHILD)
}

/// PTRACE_SYSCALL_INFO_ENTRY.
const ENTRY: u8 = 1;

/// The system call that a process is about to make, for people.
fn call(pid: Pid) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let call = waiting::call(pid.as_raw());
    let call = call.as_deref().unwrap_or("a call");
    format!("{call} of {}", name.trim_end())
}

fn say(text: &str) {
    writeln!(io::stderr(), "crash: {text}").ok();
}
