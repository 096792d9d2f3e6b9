//! Runs the runtime under test (or any other command) and keeps what it said.
//!
//! Output goes to memory files, not to pipes: a container that outlives the command and holds its standard streams open then
//! cannot make a test hang. [`Running`] uses a pipe for standard output where a test waits for lines.

use crate::children::{self, Since};
use crate::{peer, place, waiting};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long a test waits for anything before it fails: long, because a virtual machine without KVM is slow; `DEADLINE=N`
/// makes it N seconds. A test that is to fail, as a peer's does after [`beyond!`](crate::beyond), need not take its time.
pub fn deadline() -> Duration {
    static SECONDS: OnceLock<u64> = OnceLock::new();
    let given = || std::env::var("DEADLINE").ok()?.parse().ok();
    let seconds = *SECONDS.get_or_init(|| given().unwrap_or(120));
    Duration::from_secs(if peer::is_to_fail() {
        seconds.div_ceil(20)
    } else {
        seconds
    })
}

/// Where the runtime finds programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The runtime under test, as one test uses it: which binary, which state directory, which global flags.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// The binary.
    pub binary: PathBuf,
    /// Its `--root`.
    pub root: PathBuf,
    /// More global flags.
    pub globals: Vec<String>,
    /// What to run it under: a command line that ends where the runtime's begins.
    pub wrapper: Vec<OsString>,
    /// Environment variables; nothing else of the environment but PATH reaches it.
    pub env: Vec<(String, String)>,
    /// Run as this user and group instead of as the test's own.
    pub user: Option<(u32, u32)>,
}

/// A command that ended, with everything it wrote.
#[derive(Debug)]
pub struct Finished {
    /// The command line, for messages.
    pub command: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// A command that may still run. Killed and reaped if it is dropped before [`Running::wait`].
#[derive(Debug)]
pub struct Running {
    command: String,
    pid: i32,
    since: Since,
    /// Its standard input, until it is dropped or taken.
    pub stdin: Option<File>,
    /// Its standard output.
    pub stdout: Lines,
    stderr: File,
    waited: bool,
}

/// Lines from a pipe, each waited for with a deadline.
#[derive(Debug)]
pub struct Lines {
    pipe: File,
    buffer: Vec<u8>,
}

impl Runtime {
    /// The runtime that the environment names, with this state directory. `WITHOUT=openat2,clone3` makes these system
    /// calls fail with ENOSYS in everything it does.
    #[track_caller]
    pub fn new(root: &Path) -> Runtime {
        let without = std::env::var_os("WITHOUT").filter(|calls| !calls.is_empty());
        Runtime {
            binary: place::runtime(),
            root: root.to_owned(),
            globals: Vec::new(),
            wrapper: without.map_or_else(Vec::new, |calls| {
                vec![place::enosys().into(), calls, "--".into()]
            }),
            env: Vec::new(),
            user: None,
        }
    }

    /// The same with more global flags.
    #[must_use]
    pub fn with(&self, globals: &[&str]) -> Runtime {
        let mut more = self.clone();
        more.globals
            .extend(globals.iter().map(|flag| (*flag).to_owned()));
        more
    }

    /// The same with CRIU in PATH. Ask `require!(criu)` first.
    #[must_use]
    pub fn with_criu(&self) -> Runtime {
        let mut more = self.clone();
        let directory = place::criu().unwrap_or_default();
        let path = format!("{}:{PATH}", directory.display());
        more.env.push(("PATH".to_owned(), path));
        more
    }

    /// The same with these files open as descriptors 3, 4 and so on.
    #[must_use]
    pub fn with_files(&self, files: &[&Path]) -> Runtime {
        let mut more = self.clone();
        let mut wrapper: Vec<OsString> = vec![place::probe().into(), "with-files".into()];
        wrapper.extend(files.iter().map(Into::into));
        wrapper.push("--".into());
        more.wrapper.splice(0..0, wrapper);
        more
    }

    /// The command line with these arguments after the global ones.
    pub fn command(&self, args: &[impl AsRef<OsStr>]) -> Command {
        let root = ["--root".into(), self.root.clone().into()];
        self.words(
            root.into_iter().chain(self.globals.iter().map(Into::into)),
            args,
        )
    }

    /// The command line with no global arguments at all, so with the runtime's own choice of a state directory.
    pub fn bare_command(&self, args: &[impl AsRef<OsStr>]) -> Command {
        self.words(std::iter::empty(), args)
    }

    fn words(
        &self,
        globals: impl Iterator<Item = OsString>,
        args: &[impl AsRef<OsStr>],
    ) -> Command {
        let mut words: Vec<OsString> = self.wrapper.clone();
        words.push(self.binary.clone().into());
        words.extend(globals);
        words.extend(args.iter().map(Into::into));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env_clear().env("PATH", PATH);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Runs a command to its end.
    #[track_caller]
    pub fn call(&self, args: &[impl AsRef<OsStr>]) -> Finished {
        finish(self.command(args))
    }

    /// Starts a command and lets it run.
    #[track_caller]
    pub fn start(&self, args: &[impl AsRef<OsStr>]) -> Running {
        Running::start(self.command(args))
    }
}

impl Finished {
    /// The exit code; 128+n for one killed by signal n.
    pub fn code(&self) -> i32 {
        self.status
            .code()
            .unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Fails the test unless the command succeeded.
    #[track_caller]
    pub fn success(self) -> Finished {
        assert!(self.status.success(), "should have succeeded: {self}");
        self
    }

    /// Fails the test unless the command failed by itself.
    #[track_caller]
    pub fn failure(self) -> Finished {
        assert!(
            self.status.code().is_some_and(|code| code != 0),
            "should have failed: {self}"
        );
        self
    }

    /// Fails the test unless standard error contains this text, in any case. Log lines escape quotes; that does not count.
    #[track_caller]
    pub fn says(self, text: &str) -> Finished {
        assert!(
            self.stderr
                .replace("\\\"", "\"")
                .to_lowercase()
                .contains(&text.to_lowercase()),
            "should have said {text:?}: {self}"
        );
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {self}"))
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: {}\n--- stdout\n{}--- stderr\n{}",
            self.command, self.status, self.stdout, self.stderr
        )
    }
}

impl Running {
    /// Starts a command with pipes for standard input and output.
    #[track_caller]
    pub fn start(mut command: Command) -> Running {
        let stderr = memory_file();
        let line = describe(&command);
        let ((stdin, its_stdin), (stdout, its_stdout)) = (pipe(), pipe());
        command
            .stdin(stdin)
            .stdout(its_stdout)
            .stderr(share(&stderr));
        let (pid, since) = children::spawn(&mut command);
        // Its ends of the pipes must not stay open here, or its output would never end.
        drop(command);
        Running {
            command: line,
            pid,
            since,
            stdin: Some(File::from(its_stdin)),
            stdout: Lines::new(stdout),
            stderr,
            waited: false,
        }
    }

    /// The pid of the command itself.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        children::has_ended(self.pid, self.since)
    }

    /// Sends the command a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let pid = nix::unistd::Pid::from_raw(self.pid());
        nix::sys::signal::kill(pid, signal)
            .unwrap_or_else(|errno| panic!("{signal} to {}: {errno}", self.command));
    }

    /// The same of one that has no name.
    #[track_caller]
    pub fn signal_number(&self, number: u64) {
        let pid = u64::from(self.pid().cast_unsigned());
        crate::sys::call(libc::SYS_kill, [pid, number, 0, 0, 0, 0])
            .unwrap_or_else(|error| panic!("signal {number} to {}: {error}", self.command));
    }

    /// Waits until it ends, but not for the end of its output, which a container that outlives it may hold open.
    #[track_caller]
    pub fn wait_for_exit(mut self) -> ExitStatus {
        drop(self.stdin.take());
        let status = wait_for(self.pid, self.since, &self.command);
        self.waited = true;
        status
    }

    /// Waits until it ends, with what it wrote to standard error; not for the end of its output, as [`Running::wait_for_exit`].
    #[track_caller]
    pub fn wait_for_errors(mut self) -> Finished {
        let status = wait_for(self.pid, self.since, &self.command);
        self.waited = true;
        Finished {
            command: self.command.clone(),
            status,
            stdout: String::new(),
            stderr: contents(&self.stderr),
        }
    }

    /// Waits until it ends; its standard input is closed first.
    #[track_caller]
    pub fn wait(mut self) -> Finished {
        drop(self.stdin.take());
        let status = wait_for(self.pid, self.since, &self.command);
        self.waited = true;
        Finished {
            command: self.command.clone(),
            status,
            stdout: self.stdout.rest(),
            stderr: contents(&self.stderr),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.waited && !children::has_ended(self.pid, self.since) {
            // It may end just now; either way nothing of it remains.
            kill(self.pid);
            children::wait(self.pid, self.since);
        }
    }
}

impl Lines {
    pub(crate) fn new(pipe: OwnedFd) -> Lines {
        Lines {
            pipe: File::from(pipe),
            buffer: Vec::new(),
        }
    }

    /// The next line without its end; fails the test at the end of input or at the deadline.
    #[track_caller]
    pub fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return String::from_utf8_lossy(&line[..end])
                    .trim_end_matches('\r')
                    .to_owned();
            }
            assert!(
                self.fill() > 0,
                "end of output where a line was expected; left: {:?}",
                self.text()
            );
        }
    }

    /// Reads until this text has come, and returns everything up to its end.
    #[track_caller]
    pub fn until(&mut self, text: &str) -> String {
        loop {
            if let Some(start) = self.text().find(text) {
                let seen: Vec<u8> = self.buffer.drain(..start + text.len()).collect();
                return String::from_utf8_lossy(&seen).into_owned();
            }
            assert!(
                self.fill() > 0,
                "end of output before {text:?}; left: {:?}",
                self.text()
            );
        }
    }

    /// Everything until the end of input.
    #[track_caller]
    pub fn rest(&mut self) -> String {
        while self.fill() > 0 {}
        let rest = self.text();
        self.buffer.clear();
        rest
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.buffer).into_owned()
    }

    #[track_caller]
    fn fill(&mut self) -> usize {
        assert!(
            readable(&self.pipe),
            "no output within {:?}; so far: {:?}",
            deadline(),
            self.text()
        );
        let mut chunk = [0; 4096];
        // A terminal whose other side is closed reads as EIO, which is its way to say end of file.
        let count = self.pipe.read(&mut chunk).unwrap_or(0);
        self.buffer.extend_from_slice(&chunk[..count]);
        count
    }
}

/// Runs a command to its end, with nothing on its standard input.
#[track_caller]
pub fn finish(mut command: Command) -> Finished {
    let (stdout, stderr) = (memory_file(), memory_file());
    let line = describe(&command);
    command
        .stdin(Stdio::null())
        .stdout(share(&stdout))
        .stderr(share(&stderr));
    let (pid, since) = children::spawn(&mut command);
    let status = wait_for(pid, since, &line);
    Finished {
        command: line,
        status,
        stdout: contents(&stdout),
        stderr: contents(&stderr),
    }
}

/// Waits until a descriptor is readable (for a pidfd: the process has ended); false at the deadline.
pub fn readable(fd: &impl AsFd) -> bool {
    let end = Instant::now() + deadline();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout) {
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => panic!("poll: {errno}"),
            Ok(ready) => return ready > 0,
        }
    }
}

pub(crate) fn memory_file() -> File {
    let fd = memfd_create("output", MFdFlags::MFD_CLOEXEC)
        .unwrap_or_else(|errno| panic!("memfd_create: {errno}"));
    File::from(fd)
}

/// Another owner of the same open file, for a child's standard stream.
#[track_caller]
pub(crate) fn share(file: &File) -> Stdio {
    Stdio::from(
        file.try_clone()
            .unwrap_or_else(|error| panic!("duplicate a descriptor: {error}")),
    )
}

pub(crate) fn contents(file: &File) -> String {
    let mut file = file;
    let mut bytes = Vec::new();
    let read = file
        .seek(SeekFrom::Start(0))
        .and_then(|_| file.read_to_end(&mut bytes));
    read.unwrap_or_else(|error| panic!("read output: {error}"));
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(crate) fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Waits until a command ends; at the deadline kills it and fails the test.
#[track_caller]
pub(crate) fn wait_for(pid: i32, since: Since, line: &str) -> ExitStatus {
    match children::wait(pid, since) {
        Some(status) => status,
        None => {
            let waiting = waiting::describe(pid);
            kill(pid);
            children::wait(pid, since);
            panic!("killed after {:?}: {line}\n{waiting}", deadline());
        }
    }
}

/// Reading end, writing end.
#[track_caller]
pub(crate) fn pipe() -> (OwnedFd, OwnedFd) {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap_or_else(|errno| panic!("pipe: {errno}"))
}

/// Kills a child that is not reaped yet, as far as anybody knows.
fn kill(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).ok(); // It may have ended just now.
}

/// Writes a line where a person sees it even though the test harness captures what tests print.
pub fn announce(line: &str) {
    // In one write, so that what other threads and the harness print stays apart. Nobody to tell if even this fails.
    io::stderr().write_all(format!("{line}\n").as_bytes()).ok();
}
