//! The runtime's command line: one function per verb. Any OCI runtime with runc's is driven by it.
//!
//! Each call is a child that dies with us, has a deadline, and writes its log and (where it has no streams of a container) its output into
//! memory files of ours: they never fill up and block it, nothing needs to be read while it runs, and errors of two calls do not mix.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::Deserialize;
use tokio::sync::watch;

use crate::descriptors;
use crate::error::{Error, Kind, Result};
use crate::io::{Inner, Stdio as Streams};
use crate::log;
use crate::memory;
use crate::options::Options;
use crate::protos::runc_options::CheckpointOptions;
use crate::reaper::{Child, Exit, Expectation, Reaper};
use crate::sys;

/// For what makes, starts, removes or saves: hooks, a checkpoint or a slow disk may take long.
const LONG: Duration = Duration::from_secs(600);

/// For what a client waits for impatiently.
const SHORT: Duration = Duration::from_secs(30);

/// How long a command may go on when its container has ended: what waits for it must not wait long.
const POINTLESS: Duration = Duration::from_secs(2);

/// The same of one by which a container ends, and which has still something to do then.
const SAVING: Duration = Duration::from_secs(10);

/// The environment's word for seconds that no command may exceed.
const DEADLINE: &str = "CAISSON_SHIM_DEADLINE";

/// What of a log or an output is read: its end.
const MOST: u64 = 64 * 1024;

#[derive(Clone, Debug)]
pub(crate) struct Runtime {
    options: Options,
    /// Of this namespace.
    root: PathBuf,
    /// What no deadline is beyond.
    longest: Duration,
    reaper: Reaper,
}

/// A process that a command is to make: where it says the pid, the streams, and by what it is claimed then.
pub(crate) struct Newborn<'a> {
    pub(crate) pid_file: &'a Path,
    pub(crate) streams: &'a Streams,
    pub(crate) expectation: &'a Expectation,
}

/// Says when a container has ended.
pub(crate) type Closing = watch::Receiver<bool>;

/// How long a command may take, and how long from the end of its container on.
struct Limit {
    deadline: Duration,
    closing: Option<(Closing, Duration)>,
}

impl Limit {
    fn until(self, closing: Closing, rest: Duration) -> Self {
        let closing = Some((closing, rest));
        Self { closing, ..self }
    }
}

impl From<Duration> for Limit {
    fn from(deadline: Duration) -> Self {
        let closing = None;
        Self { deadline, closing }
    }
}

impl Runtime {
    pub(crate) fn new(options: Options, namespace: &str, reaper: Reaper) -> Self {
        let root = if options.root.is_empty() {
            "/run/containerd/runc"
        } else {
            &options.root
        };
        Self {
            root: Path::new(root).join(namespace),
            options,
            longest: seconds(DEADLINE).unwrap_or(LONG),
            reaper,
        }
    }

    /// Whether there is something by this name, of whatever use.
    pub(crate) fn knows(&self, id: &str) -> bool {
        self.root.join(id).exists()
    }

    pub(crate) async fn create(
        &self,
        id: &str,
        bundle: &Path,
        newborn: Newborn<'_>,
        closing: Closing,
    ) -> Result<()> {
        let mut arguments: Vec<OsString> = vec![
            "--bundle".into(),
            bundle.into(),
            "--pid-file".into(),
            newborn.pid_file.into(),
        ];
        console(&mut arguments, newborn.streams);
        if self.options.no_pivot_root {
            arguments.push("--no-pivot".into());
        }
        if self.options.no_new_keyring {
            arguments.push("--no-new-keyring".into());
        }
        arguments.push(id.into());
        let limit = Limit::from(LONG).until(closing, POINTLESS);
        self.call("create", arguments, newborn.ends()?, limit)
            .await
            .map(drop)
    }

    /// Makes the container that was saved in `images`, and has it go on.
    pub(crate) async fn restore(
        &self,
        id: &str,
        bundle: &Path,
        images: &Path,
        newborn: Newborn<'_>,
    ) -> Result<()> {
        let work = if self.options.criu_work_path.is_empty() {
            bundle.join("criu-restore")
        } else {
            PathBuf::from(&self.options.criu_work_path)
        };
        let mut arguments: Vec<OsString> = vec![
            "--bundle".into(),
            bundle.into(),
            "--pid-file".into(),
            newborn.pid_file.into(),
            "--image-path".into(),
            images.into(),
            "--work-path".into(),
            work.into(),
            "--detach".into(),
            "--no-subreaper".into(),
        ];
        console(&mut arguments, newborn.streams);
        if self.options.no_pivot_root {
            arguments.push("--no-pivot".into());
        }
        arguments.push(id.into());
        self.call("restore", arguments, newborn.ends()?, LONG)
            .await
            .map(drop)
    }

    /// Saves the container; it ends if `options` say so.
    pub(crate) async fn checkpoint(
        &self,
        id: &str,
        images: &Path,
        work: &Path,
        options: &CheckpointOptions,
        closing: Closing,
    ) -> Result<()> {
        let mut arguments: Vec<OsString> = vec![
            "--image-path".into(),
            images.into(),
            "--work-path".into(),
            work.into(),
        ];
        let flags = [
            (!options.exit, "--leave-running"),
            (options.open_tcp, "--tcp-established"),
            (options.external_unix_sockets, "--ext-unix-sk"),
            (options.terminal, "--shell-job"),
            (options.file_locks, "--file-locks"),
        ];
        let flags = flags.into_iter().filter(|(on, _)| *on);
        arguments.extend(flags.map(|(_, flag)| OsString::from(flag)));
        for kind in &options.empty_namespaces {
            arguments.extend(["--empty-ns".into(), kind.into()]);
        }
        if !options.cgroups_mode.is_empty() {
            arguments.extend([
                "--manage-cgroups-mode".into(),
                options.cgroups_mode.clone().into(),
            ]);
        }
        arguments.push(id.into());
        let limit = Limit::from(LONG).until(closing, SAVING);
        self.call("checkpoint", arguments, Ends::Nothing, limit)
            .await
            .map(drop)
    }

    /// Whether the container's program runs, as the runtime sees it.
    pub(crate) async fn is_running(&self, id: &str, closing: Closing) -> bool {
        #[derive(Deserialize)]
        struct State {
            status: String,
        }
        let limit = Limit::from(SHORT).until(closing, POINTLESS);
        let state = self.call("state", vec![id.into()], Ends::Nothing, limit);
        let state = state.await.ok();
        let state = state.and_then(|text| serde_json::from_str::<State>(&text).ok());
        state.is_some_and(|state| state.status == "running")
    }

    pub(crate) async fn start(&self, id: &str, closing: Closing) -> Result<()> {
        let limit = Limit::from(LONG).until(closing, POINTLESS);
        self.call("start", vec![id.into()], Ends::Nothing, limit)
            .await
            .map(drop)
    }

    /// `process` is the JSON of an OCI process.
    pub(crate) async fn exec(
        &self,
        id: &str,
        process: &[u8],
        newborn: Newborn<'_>,
        closing: Closing,
    ) -> Result<()> {
        let process = memory("process", process)?;
        let mut arguments: Vec<OsString> = vec![
            "--process".into(),
            path_of(&process),
            "--detach".into(),
            "--pid-file".into(),
            newborn.pid_file.into(),
        ];
        console(&mut arguments, newborn.streams);
        arguments.push(id.into());
        let limit = Limit::from(LONG).until(closing, POINTLESS);
        self.call("exec", arguments, newborn.ends()?, limit)
            .await
            .map(drop)
    }

    pub(crate) async fn kill(
        &self,
        id: &str,
        signal: u32,
        all: bool,
        closing: Closing,
    ) -> Result<()> {
        let mut arguments: Vec<OsString> = Vec::new();
        if all {
            arguments.push("--all".into());
        }
        arguments.extend([id.into(), signal.to_string().into()]);
        let limit = Limit::from(SHORT).until(closing, POINTLESS);
        self.call("kill", arguments, Ends::Nothing, limit)
            .await
            .map(drop)
    }

    /// That there is no such container is no error.
    pub(crate) async fn delete(&self, id: &str, force: bool) -> Result<()> {
        let mut arguments: Vec<OsString> = Vec::new();
        if force {
            arguments.push("--force".into());
        }
        arguments.push(id.into());
        match self.call("delete", arguments, Ends::Nothing, LONG).await {
            Err(_) if !self.knows(id) => Ok(()),
            other => other.map(drop),
        }
    }

    pub(crate) async fn pause(&self, id: &str, closing: Closing) -> Result<()> {
        let limit = Limit::from(SHORT).until(closing, POINTLESS);
        self.call("pause", vec![id.into()], Ends::Nothing, limit)
            .await
            .map(drop)
    }

    pub(crate) async fn resume(&self, id: &str, closing: Closing) -> Result<()> {
        let limit = Limit::from(SHORT).until(closing, POINTLESS);
        self.call("resume", vec![id.into()], Ends::Nothing, limit)
            .await
            .map(drop)
    }

    /// `resources` is the JSON of OCI Linux resources.
    pub(crate) async fn update(&self, id: &str, resources: &[u8]) -> Result<()> {
        let resources = memory("resources", resources)?;
        self.call(
            "update",
            vec!["--resources".into(), "-".into(), id.into()],
            Ends::Input(resources),
            SHORT,
        )
        .await
        .map(drop)
    }

    /// What `features` prints.
    pub(crate) async fn features(&self) -> Result<String> {
        self.call("features", Vec::new(), Ends::Nothing, SHORT)
            .await
    }

    /// Runs one command to its end, and returns what it printed.
    async fn call(
        &self,
        verb: &'static str,
        arguments: Vec<OsString>,
        ends: Ends<'_>,
        limit: impl Into<Limit>,
    ) -> Result<String> {
        let mut limit = limit.into();
        limit.deadline = limit.deadline.min(self.longest);
        let failed =
            |error: &io::Error| Error::unknown(format!("run {} {verb}: {error}", self.program()));
        let log = memory("log", b"")?;
        let output = memory("output", b"")?;
        let mut command = self.command(verb, arguments, &log);
        let newborn = match &ends {
            Ends::Streams(_, expectation) => Some(*expectation),
            Ends::Input(_) | Ends::Nothing => None,
        };
        ends.connect(&mut command, &output)
            .map_err(|error| failed(&error))?;
        let expectation = self.reaper.expect();
        let spawned = command.spawn().map_err(|error| failed(&error))?;
        // Our copies of the container's ends of its streams would keep them open.
        drop(command);
        let child = expectation
            .claim(spawned.id().cast_signed())
            .map_err(|error| failed(&error))?;
        if let Some(newborn) = newborn {
            newborn.is_told_by(&child);
        }
        let command = Running(child);
        drop(expectation);
        let exit = command.ended(verb, limit).await?;
        let exit = exit.map_err(|error| failed(&error))?;
        let output = text(output)?;
        let log = text(log)?;
        if !log.is_empty() {
            log::debug(&format!("{verb}: {log}"));
        }
        if exit.status == 0 {
            return Ok(output);
        }
        let why = last_error(&log)
            .unwrap_or_else(|| format!("exit status {}: {}", exit.status, output.trim_end()));
        let error = Error::unknown(format!("OCI runtime {verb} failed: {why}"));
        // Of a signal, which no runtime expects.
        Err(if exit.status > 128 {
            error.unfinished()
        } else {
            error
        })
    }

    fn command(&self, verb: &str, arguments: Vec<OsString>, log: &File) -> Command {
        let mut command = Command::new(self.program());
        command
            .arg("--root")
            .arg(&self.root)
            .arg("--log")
            .arg(path_of(log))
            .args(["--log-format", "json"]);
        if self.options.systemd_cgroup {
            command.arg("--systemd-cgroup");
        }
        command.arg(verb).args(arguments);
        // What it says there would be the container's readiness, not ours.
        command.env_remove("NOTIFY_SOCKET");
        memory::leave(&mut command);
        sys::dies_with_us(&mut command, descriptors::lower);
        command
    }

    fn program(&self) -> &str {
        if self.options.binary_name.is_empty() {
            "caisson"
        } else {
            &self.options.binary_name
        }
    }
}

/// A command of the runtime. Nobody waits for it any more when it is dropped: it ends then.
struct Running(Child);

impl Running {
    /// Waits for its end. One that does not end in time is killed, and that is the error.
    async fn ended(&self, verb: &str, limit: Limit) -> Result<io::Result<Exit>> {
        let deadline = limit.deadline;
        let pointless = async {
            match limit.closing {
                Some((mut closing, rest)) => {
                    // Its sender is the container, which is in use here.
                    closing.wait_for(|closing| *closing).await.ok();
                    tokio::time::sleep(rest).await;
                }
                None => std::future::pending().await,
            }
        };
        let error = tokio::select! {
            biased;
            exit = self.0.exited() => return Ok(exit),
            () = pointless => Error::precondition(format!("OCI runtime {verb} was killed: the container has ended, or is to")),
            () = tokio::time::sleep(deadline) => Error::new(
                Kind::DeadlineExceeded,
                format!("OCI runtime {verb} did not end within {} seconds and was killed", deadline.as_secs()),
            ),
        };
        self.0.abandon();
        // It can have ended by itself just now, which is no better.
        self.0.exited().await.ok();
        Err(error.unfinished())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

impl<'a> Newborn<'a> {
    fn ends(&self) -> Result<Ends<'a>> {
        let inner = self.streams.take_inner();
        let inner = inner.map_err(|error| Error::os("take the streams", error))?;
        Ok(Ends::Streams(inner, self.expectation))
    }
}

/// What the command's standard streams are.
enum Ends<'a> {
    /// Those of a process that it is to make.
    Streams(Inner, &'a Expectation),
    /// Something to read.
    Input(File),
    Nothing,
}

impl Ends<'_> {
    fn connect(self, command: &mut Command, output: &File) -> io::Result<()> {
        let stdin = match self {
            Self::Streams(inner, _) => {
                command
                    .stdin(inner.stdin)
                    .stdout(inner.stdout)
                    .stderr(inner.stderr);
                return Ok(());
            }
            Self::Input(file) => Stdio::from(file),
            Self::Nothing => Stdio::null(),
        };
        command
            .stdin(stdin)
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?);
        Ok(())
    }
}

/// A number of seconds in the environment.
pub(crate) fn seconds(variable: &str) -> Option<Duration> {
    let text = std::env::var(variable).ok()?;
    text.parse().ok().map(Duration::from_secs)
}

fn console(arguments: &mut Vec<OsString>, streams: &Streams) {
    if let Some(socket) = streams.console_socket() {
        arguments.extend(["--console-socket".into(), socket.into()]);
    }
}

/// A file without a place on disk, with this content.
fn memory(name: &str, content: &[u8]) -> Result<File> {
    let make = || {
        let mut file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?);
        file.write_all(content)?;
        file.rewind()?;
        Ok(file)
    };
    make()
        .map_err(|error: io::Error| Error::os(format!("make a memory file for the {name}"), error))
}

/// A path by which a child opens a file of ours: it inherits nothing that could come into a container.
fn path_of(file: &File) -> OsString {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into()
}

/// The end of what was written to it.
fn text(mut file: File) -> Result<String> {
    let mut read = || {
        let size = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(size.saturating_sub(MOST)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes =
        read().map_err(|error: io::Error| Error::os("read what the runtime wrote", error))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The message of the last error in a runtime's log.
fn last_error(log: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Record {
        level: String,
        msg: String,
    }
    // crun 1.28 writes a record over several lines, the others one per line.
    let starts = log.rmatch_indices('{').map(|(at, _)| at);
    let lines = starts.filter(|at| *at == 0 || log[..*at].ends_with('\n'));
    let mut records = lines.filter_map(|at| {
        let mut from_here = serde_json::Deserializer::from_str(&log[at..]).into_iter::<Record>();
        from_here.next()?.ok()
    });
    records
        .find(|record| matches!(record.level.as_str(), "error" | "fatal"))
        .map(|record| record.msg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_a_log_is_found() {
        let log = "{\"level\":\"error\",\"msg\":\"first\",\"time\":\"t\"}\n{\"level\":\"error\",\"msg\":\"second\"}\n{\"level\":\"info\",\"msg\":\"after\"}\nnot json\n";
        assert_eq!(last_error(log).as_deref(), Some("second"));
        let log = "{\n  \"msg\": \"on lines\",\n  \"level\": \"error\",\n  \"time\": \"t\"\n}\n";
        assert_eq!(last_error(log).as_deref(), Some("on lines"));
        assert_eq!(last_error(""), None);
    }
}
