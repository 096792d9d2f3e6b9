//! The runtime's command line: one function per verb. Any OCI runtime with runc's is driven by it.
//!
//! Each call is a child that dies with us, has a deadline, and writes its log and (where it has no streams of a container) its output into
//! memory files of ours: they never fill up and block it, nothing needs to be read while it runs, and errors of two calls do not mix.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::Deserialize;

use crate::error::{Error, Kind, Result};
use crate::io::{Inner, Stdio as Streams};
use crate::log;
use crate::options::Options;
use crate::reaper::Reaper;
use crate::sys;

/// For what makes, starts, removes or saves: hooks, a checkpoint or a slow disk may take long.
const LONG: Duration = Duration::from_secs(600);

/// For what a client waits for impatiently.
const SHORT: Duration = Duration::from_secs(30);

/// What of a log or an output is read: its end.
const MOST: u64 = 64 * 1024;

#[derive(Clone, Debug)]
pub(crate) struct Runtime {
    options: Options,
    /// Of this namespace.
    root: PathBuf,
    reaper: Reaper,
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
            reaper,
        }
    }

    pub(crate) async fn create(
        &self,
        id: &str,
        bundle: &Path,
        pid_file: &Path,
        streams: &Streams,
    ) -> Result<()> {
        let mut arguments: Vec<OsString> = vec![
            "--bundle".into(),
            bundle.into(),
            "--pid-file".into(),
            pid_file.into(),
        ];
        console(&mut arguments, streams);
        if self.options.no_pivot_root {
            arguments.push("--no-pivot".into());
        }
        if self.options.no_new_keyring {
            arguments.push("--no-new-keyring".into());
        }
        arguments.push(id.into());
        let inner = streams
            .take_inner()
            .map_err(|error| Error::os("take the streams", error))?;
        self.call("create", arguments, Ends::Streams(inner), LONG)
            .await
            .map(drop)
    }

    pub(crate) async fn start(&self, id: &str) -> Result<()> {
        self.call("start", vec![id.into()], Ends::Nothing, LONG)
            .await
            .map(drop)
    }

    /// `process` is the JSON of an OCI process.
    pub(crate) async fn exec(
        &self,
        id: &str,
        process: &[u8],
        pid_file: &Path,
        streams: &Streams,
    ) -> Result<()> {
        let process = memory("process", process)?;
        let mut arguments: Vec<OsString> = vec![
            "--process".into(),
            path_of(&process),
            "--detach".into(),
            "--pid-file".into(),
            pid_file.into(),
        ];
        console(&mut arguments, streams);
        arguments.push(id.into());
        let inner = streams
            .take_inner()
            .map_err(|error| Error::os("take the streams", error))?;
        self.call("exec", arguments, Ends::Streams(inner), LONG)
            .await
            .map(drop)
    }

    pub(crate) async fn kill(&self, id: &str, signal: u32, all: bool) -> Result<()> {
        let mut arguments: Vec<OsString> = Vec::new();
        if all {
            arguments.push("--all".into());
        }
        arguments.extend([id.into(), signal.to_string().into()]);
        self.call("kill", arguments, Ends::Nothing, SHORT)
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
            Err(_) if !self.root.join(id).exists() => Ok(()),
            other => other.map(drop),
        }
    }

    pub(crate) async fn pause(&self, id: &str) -> Result<()> {
        self.call("pause", vec![id.into()], Ends::Nothing, SHORT)
            .await
            .map(drop)
    }

    pub(crate) async fn resume(&self, id: &str) -> Result<()> {
        self.call("resume", vec![id.into()], Ends::Nothing, SHORT)
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
        ends: Ends,
        deadline: Duration,
    ) -> Result<String> {
        let failed =
            |error: &io::Error| Error::unknown(format!("run {} {verb}: {error}", self.program()));
        let log = memory("log", b"")?;
        let output = memory("output", b"")?;
        let mut command = self.command(verb, arguments, &log);
        ends.connect(&mut command, &output)
            .map_err(|error| failed(&error))?;
        let expectation = self.reaper.expect();
        let spawned = command.spawn().map_err(|error| failed(&error))?;
        // Our copies of the container's ends of its streams would keep them open.
        drop(command);
        let child = expectation
            .claim(spawned.id().cast_signed())
            .map_err(|error| failed(&error))?;
        drop(expectation);
        let exit = match tokio::time::timeout(deadline, child.exited()).await {
            Ok(exit) => exit.map_err(|error| failed(&error))?,
            Err(_) => {
                // It can have ended just now.
                child.signal(libc::SIGKILL).ok();
                child.exited().await.map_err(|error| failed(&error))?;
                let story = format!(
                    "OCI runtime {verb} did not end within {} seconds and was killed",
                    deadline.as_secs()
                );
                return Err(Error::new(Kind::DeadlineExceeded, story));
            }
        };
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
        Err(Error::unknown(format!("OCI runtime {verb} failed: {why}")))
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
        sys::dies_with_us(&mut command);
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

/// What the command's standard streams are.
enum Ends {
    /// A container's.
    Streams(Inner),
    /// Something to read.
    Input(File),
    Nothing,
}

impl Ends {
    fn connect(self, command: &mut Command, output: &File) -> io::Result<()> {
        let stdin = match self {
            Self::Streams(inner) => {
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

fn console(arguments: &mut Vec<OsString>, streams: &Streams) {
    if let Some(socket) = streams.console_socket() {
        arguments.extend(["--console-socket".into(), socket.into()]);
    }
}

/// A file without a place on disk, with this content.
fn memory(name: &str, content: &[u8]) -> Result<File> {
    let make = || {
        let mut file = File::from(OwnedFd::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?));
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
    let records = log
        .lines()
        .rev()
        .filter_map(|line| serde_json::from_str::<Record>(line).ok());
    records
        .into_iter()
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
        assert_eq!(last_error(""), None);
    }
}
