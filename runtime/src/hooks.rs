//! Runs hooks in the runtime namespace, one after the other, each with the container's state on its standard input.
//!
//! Used by create, run, start and delete, in the runtime's own process; createContainer and startContainer hooks, which run in the
//! container's namespaces, are init's. Decides nothing: whether a failure ends the command is the caller's affair.
//!
//! A hook gets the environment its entry states and nothing else, no blocked signals, and none of our descriptors: they are
//! close-on-exec, those that we were started with too.
//! It stays in our process group, so that Ctrl-C reaches a hook that hangs. It may ignore its input, write without end and leave
//! children behind that hold its output open: only its own death ends the wait. If we die, it does, but for a poststop hook, which cleans
//! up, and which nobody would run again.

use crate::report::{Context, Error, Kind as ErrorKind, Result};
use crate::sys::{self, Errno, signal};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::Hook;
use std::fmt;
use std::fs::File;
use std::io::ErrorKind::{BrokenPipe, Interrupted, WouldBlock};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// When a hook runs. Displayed as config.json names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Prestart,
    CreateRuntime,
    StartContainer,
    Poststart,
    Poststop,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Prestart => "prestart",
            Kind::CreateRuntime => "createRuntime",
            Kind::StartContainer => "startContainer",
            Kind::Poststart => "poststart",
            Kind::Poststop => "poststop",
        })
    }
}

/// How hooks are run.
pub(crate) struct Manner<'a> {
    /// Their working directory.
    pub(crate) dir: &'a Path,
    /// Where standard output and standard error go; None: the end of each is kept for the error.
    pub(crate) outputs: [Option<HookOutput>; 2],
    /// How long a hook without a timeout may run before `warn` is told.
    pub(crate) warn_after: Option<Duration>,
    pub(crate) warn: &'a dyn Fn(String),
    /// The pidfd of the process that hooks of the creation are for: without it, there is nothing for them to do.
    pub(crate) creates: Option<OwnedFd>,
}

/// A file that hooks write to.
#[derive(Debug)]
pub(crate) struct HookOutput {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
}

impl HookOutput {
    /// Opens the file to append to it, made if there is none. Hooks run as the runtime does, so it is the runtime's alone.
    pub(crate) fn open(path: &Path) -> Result<HookOutput> {
        let mut options = File::options();
        options.append(true).create(true).mode(0o600);
        let file = options
            .open(path)
            .context(|| format!("open {} for the output of hooks", path.display()))?;
        Ok(HookOutput {
            path: path.to_owned(),
            file,
        })
    }
}

/// Runs hooks in order up to the first that fails.
pub(crate) fn run_all(
    kind: Kind,
    hooks: &[Hook],
    state_json: &[u8],
    manner: &Manner<'_>,
) -> Result<()> {
    let run = |(index, hook)| run_one(kind, index, hook, state_json, manner);
    hooks.iter().enumerate().try_for_each(run)
}

/// Runs all poststop hooks, whether or not one fails, as the specification wants it, and returns the failures.
pub(crate) fn run_poststop(hooks: &[Hook], state_json: &[u8], manner: &Manner<'_>) -> Vec<Error> {
    let run = |(index, hook)| run_one(Kind::Poststop, index, hook, state_json, manner).err();
    hooks.iter().enumerate().filter_map(run).collect()
}

/// Runs one hook to its end. `index` is its place in the list, for the message, which begins as runc's does.
pub(crate) fn run_one(
    kind: Kind,
    index: usize,
    hook: &Hook,
    state_json: &[u8],
    manner: &Manner<'_>,
) -> Result<()> {
    let path = hook.path().display();
    let warn = || {
        (manner.warn)(format!(
            "{kind} hook #{index} ({path}) is still running and has no timeout, waiting"
        ));
    };
    run(kind, hook, state_json, manner, &warn)
        .context(|| format!("error running {kind} hook #{index}"))
}

/// How long a hook may run, if there is a limit.
pub(crate) fn timeout(hook: &Hook) -> Result<Option<Duration>> {
    match hook.timeout() {
        None => Ok(None),
        Some(secs) if secs > 0 => Ok(Some(Duration::from_secs(secs.unsigned_abs()))),
        Some(secs) => {
            let text = format!("timeout must be greater than zero: {secs}");
            Err(Error::invalid(text).in_field("timeout"))
        }
    }
}

fn run(
    kind: Kind,
    hook: &Hook,
    state_json: &[u8],
    manner: &Manner<'_>,
    warn: &dyn Fn(),
) -> Result<()> {
    let timeout = timeout(hook)?;
    let path = hook.path().display();
    let mut command = command(hook, manner)?;
    if kind != Kind::Poststop {
        sys::signal::end_child_with_us(&mut command);
    }
    let mut child = command.spawn().context(|| format!("exec {path}"))?;
    let alarm = match (timeout, manner.warn_after) {
        (None, Some(after)) => Some((after, warn)),
        _ => None,
    };
    let watched = Watch::new(&mut child, state_json).and_then(|mut watch| {
        let end = watch.until_end(&mut child, timeout, alarm, manner.creates.as_ref())?;
        Ok((end, watch))
    });
    match watched {
        Ok((End::Exited(status), _)) if status.success() => Ok(()),
        Ok((end, watch)) => {
            let [stdout, stderr] = &manner.outputs;
            let text = format!(
                "{end}, stdout: {}, stderr: {}, path: {path}",
                said(stdout, &watch.stdout),
                said(stderr, &watch.stderr)
            );
            Err(Error::new(ErrorKind::System, text))
        }
        Err(error) => {
            // It cannot be watched, so it must not run on. These two can only fail if it is gone already.
            child.kill().ok();
            child.wait().ok();
            Err(error)
        }
    }
}

/// What a hook wrote, or where.
fn said(file: &Option<HookOutput>, output: &Output) -> String {
    match file {
        Some(file) => format!("(in {})", file.path.display()),
        None => output.tail.to_string(),
    }
}

fn command(hook: &Hook, manner: &Manner<'_>) -> Result<Command> {
    // A path without a slash would be searched for in PATH; joined to `.`, it is relative to the working directory, as in runc.
    let path = hook.path();
    let mut command = Command::new(if path.is_absolute() {
        path.clone()
    } else {
        Path::new(".").join(path)
    });
    match hook.args().as_deref().and_then(|args| args.split_first()) {
        Some((name, rest)) => command.arg0(name).args(rest),
        None => command.arg0(path),
    };
    command.env_clear();
    // An entry without `=` sets no variable.
    command.envs(
        hook.env()
            .iter()
            .flatten()
            .filter_map(|entry| entry.split_once('=')),
    );
    command.current_dir(manner.dir);
    // In the foreground our signals are blocked, to be forwarded; a hook must not start so.
    sys::signal::unblock_in_child(&mut command);
    let stream = |output: &Option<HookOutput>| match output {
        None => Ok(Stdio::piped()),
        Some(output) => {
            let file = output.file.try_clone();
            file.map(Stdio::from)
                .context(|| "duplicate the file for the output of hooks")
        }
    };
    let [stdout, stderr] = &manner.outputs;
    command
        .stdin(Stdio::piped())
        .stdout(stream(stdout)?)
        .stderr(stream(stderr)?);
    Ok(command)
}

/// Why the wait for a hook ended.
enum End {
    Exited(ExitStatus),
    TimedOut(Duration),
    /// The container's process was first.
    Forsaken,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::TimedOut(timeout) => write!(
                f,
                "hook ran past specified timeout of {:.1}s",
                timeout.as_secs_f64()
            ),
            End::Forsaken => {
                f.write_str("the container's process has ended, and the hook was killed")
            }
            End::Exited(status) => {
                match (status.code(), status.signal()) {
                    (Some(code), _) => write!(f, "exit status {code}")?,
                    (None, Some(number)) => write!(f, "signal: {}", signal::meaning(number))?,
                    (None, None) => write!(f, "{status}")?,
                }
                f.write_str(if status.core_dumped() {
                    " (core dumped)"
                } else {
                    ""
                })
            }
        }
    }
}

/// A running hook: its death, its input and its output. All descriptors are non-blocking; each pipe end has its own
/// open file description, so that the hook's end stays as a hook expects it.
struct Watch<'a> {
    pidfd: OwnedFd,
    /// None once all has been written, or the hook has closed its end.
    stdin: Option<ChildStdin>,
    unwritten: &'a [u8],
    stdout: Output,
    stderr: Output,
}

impl<'a> Watch<'a> {
    fn new(child: &mut Child, state_json: &'a [u8]) -> Result<Self> {
        let pid = child.id().cast_signed();
        let pidfd = sys::process::pidfd_open(pid).context(|| "open a pidfd")?;
        let stdin = child.stdin.take();
        if let Some(pipe) = &stdin {
            set_nonblocking(pipe)?;
        }
        let stdout = Output::new(child.stdout.take().map(OwnedFd::from))?;
        let stderr = Output::new(child.stderr.take().map(OwnedFd::from))?;
        Ok(Watch {
            pidfd,
            stdin,
            unwritten: state_json,
            stdout,
            stderr,
        })
    }

    /// `alarm`: what is done once if it takes this long.
    fn until_end(
        &mut self,
        child: &mut Child,
        timeout: Option<Duration>,
        alarm: Option<(Duration, &dyn Fn())>,
        container: Option<&OwnedFd>,
    ) -> Result<End> {
        // A time beyond what the clock can hold is none.
        let begun = Instant::now();
        let deadline = timeout.and_then(|timeout| Some((begun.checked_add(timeout)?, timeout)));
        let mut alarm = alarm.and_then(|(after, ring)| Some((begun.checked_add(after)?, ring)));
        let end = loop {
            self.write_state()?;
            if let Some((_, ring)) = alarm.take_if(|(at, _)| Instant::now() >= *at) {
                ring();
            }
            let next = deadline.map(|(at, _)| at).or(alarm.map(|(at, _)| at));
            let [hook_ended, container_ended] = self.wait(next, container)?;
            if hook_ended {
                break End::Exited(child.wait().context(|| "wait")?);
            }
            self.stdout.read_some()?;
            self.stderr.read_some()?;
            let late = deadline.filter(|(at, _)| Instant::now() >= *at);
            let end = match late {
                Some((_, timeout)) => End::TimedOut(timeout),
                None if container_ended => End::Forsaken,
                None => continue,
            };
            child.kill().context(|| "kill")?;
            child.wait().context(|| "wait")?;
            break end;
        };
        self.stdout.read_rest()?;
        self.stderr.read_rest()?;
        Ok(end)
    }

    /// Waits until something can be done or `deadline` has passed. Says whether the hook is dead, and whether the container's process is.
    fn wait(&self, deadline: Option<Instant>, container: Option<&OwnedFd>) -> Result<[bool; 2]> {
        let timeout = deadline.map_or(PollTimeout::NONE, |at| {
            // Rounded up, lest the last millisecond be spent in turning round.
            let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        let mut fds = vec![PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        fds.extend(
            self.stdin
                .iter()
                .map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)),
        );
        for output in [&self.stdout, &self.stderr] {
            fds.extend(
                output
                    .pipe
                    .iter()
                    .map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)),
            );
        }
        let last = fds.len();
        fds.extend(container.map(|pidfd| PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => Ok([false; 2]),
            other => other.context(|| "poll").map(|_| {
                let has_ended = |at: usize| fds.get(at).and_then(PollFd::any).unwrap_or(false);
                [0, last].map(has_ended)
            }),
        }
    }

    fn write_state(&mut self) -> Result<()> {
        while let Some(pipe) = &mut self.stdin {
            match pipe.write(self.unwritten) {
                Ok(written) => self.unwritten = &self.unwritten[written..],
                Err(error) if error.kind() == WouldBlock => return Ok(()),
                Err(error) if error.kind() == Interrupted => continue,
                // The hook does not want it.
                Err(error) if error.kind() == BrokenPipe => self.unwritten = &[],
                Err(error) => {
                    return Err(error).context(|| "write the state to its standard input");
                }
            }
            if self.unwritten.is_empty() {
                self.stdin = None;
            }
        }
        Ok(())
    }
}

/// One output of a hook: what is left of it is its end.
struct Output {
    /// None once the hook and all its children have closed it.
    pipe: Option<File>,
    tail: Tail,
}

impl Output {
    fn new(pipe: Option<OwnedFd>) -> Result<Self> {
        if let Some(pipe) = &pipe {
            set_nonblocking(pipe)?;
        }
        Ok(Output {
            pipe: pipe.map(File::from),
            tail: Tail::default(),
        })
    }

    /// Reads once, if there is something. Returns how much.
    fn read_some(&mut self) -> Result<usize> {
        let mut buffer = [0; 4096];
        let Some(pipe) = &mut self.pipe else {
            return Ok(0);
        };
        match pipe.read(&mut buffer) {
            Ok(0) => self.pipe = None,
            Ok(length) => {
                self.tail.push(&buffer[..length]);
                return Ok(length);
            }
            Err(error) if matches!(error.kind(), WouldBlock | Interrupted) => (),
            Err(error) => return Err(error).context(|| "read its output"),
        }
        Ok(0)
    }

    /// Reads what a dead hook has left in the pipe. That is no more than a pipe holds; whoever inherited the pipe may go on
    /// writing to it for ever.
    fn read_rest(&mut self) -> Result<()> {
        let Some(pipe) = &self.pipe else {
            return Ok(());
        };
        let mut left = fcntl(pipe, FcntlArg::F_GETPIPE_SZ).context(|| "read its output")?;
        while left > 0 {
            match self.read_some()? {
                0 => break,
                length => left = left.saturating_sub(i32::try_from(length).unwrap_or(i32::MAX)),
            }
        }
        Ok(())
    }
}

/// The last bytes of an output. Displayed as text.
#[derive(Default)]
struct Tail {
    bytes: Vec<u8>,
    dropped: usize,
}

impl Tail {
    /// How much of each output goes into an error. Engines keep the message in a log on a tmpfs, or in a JSON answer.
    const LIMIT: usize = 4096;

    fn push(&mut self, more: &[u8]) {
        self.bytes.extend_from_slice(more);
        let excess = self.bytes.len().saturating_sub(Self::LIMIT);
        self.bytes.drain(..excess);
        self.dropped += excess;
    }
}

impl fmt::Display for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::report::tail(self.dropped, &self.bytes))
    }
}

fn set_nonblocking(pipe: impl AsFd) -> Result<()> {
    fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
        .map(drop)
        .context(|| "make a pipe non-blocking")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn hook(value: serde_json::Value) -> Hook {
        serde_json::from_value(value).unwrap()
    }

    fn sh(script: &str) -> Hook {
        hook(json!({"path": "/bin/sh", "args": ["hook-name", "-c", script]}))
    }

    fn manner() -> Manner<'static> {
        Manner {
            dir: Path::new("."),
            outputs: [None, None],
            warn_after: None,
            warn: &|_| {},
            creates: None,
        }
    }

    fn manner_in(dir: &Path) -> Manner<'_> {
        Manner { dir, ..manner() }
    }

    fn failure(hook: &Hook, state: &[u8]) -> String {
        run_one(Kind::CreateRuntime, 0, hook, state, &manner())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_hook_that_exits_with_zero_succeeds() {
        run_one(
            Kind::Prestart,
            0,
            &hook(json!({"path": "/bin/true"})),
            b"{}",
            &manner(),
        )
        .unwrap();
    }

    #[test]
    fn an_exit_status_is_told_with_both_outputs_and_the_path() {
        assert_eq!(
            failure(&sh("echo out; echo err >&2; exit 3"), b"{}"),
            "error running createRuntime hook #0: exit status 3, stdout: out, stderr: err, path: /bin/sh"
        );
    }

    #[test]
    fn a_deadly_signal_is_told_by_its_meaning() {
        assert!(failure(&sh("kill -KILL $$"), b"{}").contains("#0: signal: killed, stdout"));
        let real_time = "#0: signal: real-time signal 3, stdout";
        assert!(failure(&sh("kill -37 $$"), b"{}").contains(real_time));
    }

    #[test]
    fn a_missing_program_is_told_by_its_path_and_errno() {
        let text = failure(&hook(json!({"path": "/no/such/hook"})), b"{}");
        assert_eq!(
            text,
            "error running createRuntime hook #0: exec /no/such/hook: no such file or directory"
        );
    }

    #[test]
    fn the_state_arrives_whole_even_if_it_is_larger_than_a_pipe() {
        let state = "x".repeat(300_000);
        let script = "test \"$(cat | wc -c)\" = 300000";
        run_one(Kind::Poststart, 0, &sh(script), state.as_bytes(), &manner()).unwrap();
    }

    #[test]
    fn a_hook_that_reads_nothing_is_no_failure() {
        let state = "x".repeat(300_000);
        run_one(
            Kind::Poststart,
            0,
            &sh("exec <&-; exit 0"),
            state.as_bytes(),
            &manner(),
        )
        .unwrap();
        run_one(
            Kind::Poststart,
            0,
            &hook(json!({"path": "/bin/true"})),
            state.as_bytes(),
            &manner(),
        )
        .unwrap();
    }

    #[test]
    fn the_environment_is_the_hooks_own_and_nothing_else() {
        // cat fails for the last file, after it has printed the environment the hook was started with.
        let mut entry = json!({"path": "/bin/cat", "args": ["cat", "/proc/self/environ", "/none"]});
        assert!(failure(&hook(entry.clone()), b"").contains("exit status 1, stdout: , stderr"));
        entry["env"] = json!(["A=1=2", "PATH=/bin", "no equals sign"]);
        assert!(
            failure(&hook(entry), b"")
                .contains("exit status 1, stdout: A=1=2\0PATH=/bin\0, stderr")
        );
    }

    #[test]
    fn arguments_are_given_as_they_are_and_the_path_is_the_default_name() {
        assert!(failure(&sh("echo $0; exit 1"), b"").contains("stdout: hook-name, stderr"));
        let text = failure(
            &hook(json!({"path": "/bin/cat", "args": ["cat", "/proc/self/cmdline", "/none"]})),
            b"",
        );
        assert!(
            text.contains("stdout: cat\0/proc/self/cmdline\0/none\0,"),
            "{text}"
        );
        run_one(
            Kind::Prestart,
            0,
            &hook(json!({"path": "/bin/true", "args": []})),
            b"",
            &manner(),
        )
        .unwrap();
    }

    #[test]
    fn the_working_directory_is_the_one_given_and_relative_paths_start_there() {
        let dir = std::env::temp_dir().canonicalize().unwrap();
        let script = format!("test \"$(pwd -P)\" = '{}'", dir.display());
        run_one(Kind::Prestart, 0, &sh(&script), b"", &manner_in(&dir)).unwrap();
        run_one(
            Kind::Prestart,
            0,
            &hook(json!({"path": "true"})),
            b"",
            &manner_in(Path::new("/bin")),
        )
        .unwrap();
        assert!(
            failure(&hook(json!({"path": "true"})), b"").contains("exec true: no such file"),
            "not looked up in PATH"
        );
    }

    #[test]
    fn a_timeout_kills_the_hook_and_keeps_its_output() {
        let start = Instant::now();
        let mut entry = json!({"path": "/bin/sh", "args": ["sh", "-c", "echo begun; exec sleep 60"], "timeout": 1});
        let text = failure(&hook(entry.clone()), b"");
        assert!(
            text.contains("hook ran past specified timeout of 1.0s, stdout: begun, stderr: , path"),
            "{text}"
        );
        assert!((1..30).contains(&start.elapsed().as_secs()));
        entry["timeout"] = json!(0);
        assert!(failure(&hook(entry), b"").ends_with("timeout must be greater than zero: 0"));
    }

    #[test]
    fn a_child_that_keeps_the_output_open_does_not_delay_the_end() {
        let start = Instant::now();
        run_one(Kind::Prestart, 0, &sh("sleep 20 & exit 0"), b"", &manner()).unwrap();
        assert!(failure(&sh("yes & echo $! >&2; exit 1"), b"").contains("exit status 1"));
        assert!(start.elapsed().as_secs() < 10);
    }

    #[test]
    fn endless_output_is_drained_and_its_end_is_kept() {
        let text = failure(
            &sh("head -c 3000000 /dev/zero | tr '\\0' a; echo the end; exit 1"),
            b"",
        );
        assert!(
            text.contains("stdout: [2995912 bytes before] aaa"),
            "{}",
            &text[..200]
        );
        assert!(text.ends_with("aaathe end, stderr: , path: /bin/sh"));
        assert!(text.len() < 5000);
    }

    #[test]
    fn the_first_failure_ends_a_list_except_for_poststop() {
        let hooks = [sh("exit 0"), sh("exit 4"), sh("exit 5")];
        let text = run_all(Kind::Poststart, &hooks, b"", &manner())
            .unwrap_err()
            .to_string();
        assert!(text.starts_with("error running poststart hook #1: exit status 4"));
        let all = run_poststop(&hooks, b"", &manner());
        assert_eq!(all.len(), 2);
        assert!(
            all[1]
                .to_string()
                .starts_with("error running poststop hook #2: exit status 5")
        );
    }

    #[test]
    fn a_hook_starts_with_no_signal_blocked_and_sigpipe_not_ignored() {
        use nix::sys::signal::{SigSet, SigmaskHow};
        let old = SigSet::all()
            .thread_swap_mask(SigmaskHow::SIG_BLOCK)
            .unwrap();
        let text = failure(
            &hook(
                json!({"path": "/bin/grep", "args": ["grep", "-h", "Sig[BI]", "/proc/self/status", "/none"]}),
            ),
            b"",
        );
        old.thread_set_mask().unwrap();
        assert!(text.contains("stdout: SigBlk:\t0000000000000000"), "{text}");
        let ignored = text.split_once("SigIgn:\t").unwrap().1;
        let ignored = u64::from_str_radix(&ignored[..16], 16).unwrap();
        assert_eq!(ignored & 1 << (libc::SIGPIPE - 1), 0, "{text}");
    }

    #[test]
    fn output_goes_to_files_if_there_are_any_and_the_error_names_them() {
        let path = std::env::temp_dir().join(format!("caisson-hooks-{}", std::process::id()));
        let to_file = Manner {
            outputs: [None, Some(HookOutput::open(&path).unwrap())],
            ..manner()
        };
        let hook = sh("echo out; echo err >&2; exit 3");
        for _ in 0..2 {
            let error = run_one(Kind::Poststart, 0, &hook, b"", &to_file).unwrap_err();
            let text = format!("stdout: out, stderr: (in {})", path.display());
            assert!(error.to_string().contains(&text), "{error}");
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "err\nerr\n");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_hook_that_takes_long_is_warned_of_once_unless_it_has_a_timeout() {
        let warnings = std::cell::RefCell::new(Vec::new());
        let warn = |text| warnings.borrow_mut().push(text);
        let watchful = Manner {
            warn_after: Some(Duration::from_millis(50)),
            warn: &warn,
            ..manner()
        };
        let mut entry = json!({"path": "/bin/sh", "args": ["sh", "-c", "sleep 0.5"]});
        run_one(Kind::Prestart, 2, &hook(entry.clone()), b"", &watchful).unwrap();
        assert_eq!(
            warnings.take(),
            ["prestart hook #2 (/bin/sh) is still running and has no timeout, waiting"]
        );
        entry["timeout"] = json!(60);
        run_one(Kind::Prestart, 2, &hook(entry), b"", &watchful).unwrap();
        run_one(Kind::Prestart, 2, &sh("exit 0"), b"", &watchful).unwrap();
        assert!(warnings.take().is_empty());
    }
}
