//! Runs the process that copies.
//!
//! Runs in the daemon, which parses nothing of what goes through but the one line that says what it is. The process ends with this handle.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::time::timeout;

use super::{ACTION, Request, Task};
use crate::fault::{Fault, Result, Tried as _};

/// What it has to say is shorter.
const REPORT_LIMIT: u64 = 64 << 10;
/// How long it may take to clean up.
const GRACE: Duration = Duration::from_secs(5);

/// The process, the archive's end that is ours, and what it says.
pub(crate) struct Worker {
    pub(crate) process: Process,
    pub(crate) archive: OwnedFd,
    pub(crate) report: io::PipeReader,
}

/// Killed when this is dropped before its end is known.
#[derive(Debug)]
pub(crate) struct Process(Option<Child>);

impl Worker {
    /// `namespace` is the container's mount namespace, if it runs.
    pub(crate) fn start(request: &Request, namespace: Option<OwnedFd>) -> Result<Self> {
        let pipe = || io::pipe().tried(|| "make a pipe".into());
        let ((reader, writer), (report, said)) = (pipe()?, pipe()?);
        let other = namespace.map_or_else(Stdio::null, |fd| File::from(fd).into());
        let (input, output, archive): (Stdio, Stdio, OwnedFd) = match request.task {
            Task::In { .. } => (reader.into(), other, writer.into()),
            Task::Out { .. } | Task::Root | Task::Layer { .. } => {
                (other, writer.into(), reader.into())
            }
        };
        let request = serde_json::to_string(request).tried(|| "write a request".into())?;
        let child = Command::new("/proc/self/exe")
            .arg0("caissond:[COPY]")
            .arg(ACTION)
            .arg(std::process::id().to_string())
            .arg(request)
            .env_clear()
            .current_dir("/")
            .stdin(input)
            .stdout(output)
            .stderr(Stdio::from(said))
            .spawn()
            .tried(|| "start a process that copies".into())?;
        Ok(Self {
            process: Process(Some(child)),
            archive,
            report,
        })
    }
}

impl Process {
    /// How it has ended, with what it said; blocks until then.
    pub(crate) fn end(mut self, report: io::PipeReader) -> Result<()> {
        let mut said = vec![];
        report
            .take(REPORT_LIMIT)
            .read_to_end(&mut said)
            .tried(|| "read what a process that copies says".into())?;
        let Some(mut child) = self.0.take() else {
            return Ok(());
        };
        let status = child
            .wait()
            .tried(|| "wait for a process that copies".into())?;
        judge(status, &String::from_utf8_lossy(&said))
    }
}

impl Process {
    /// Lets one whose archive has been cut off see that, and take away what is not complete; if it does not, it is killed.
    pub(crate) async fn leave(mut self, report: io::PipeReader) {
        let ended = async {
            let mut report = pipe::Receiver::from_owned_fd(report.into())?;
            let mut said = [0; 4096];
            // It says what is known already.
            while report.read(&mut said).await? > 0 {}
            io::Result::Ok(())
        };
        if let Ok(Ok(())) = timeout(GRACE, ended).await
            && let Some(mut child) = self.0.take()
        {
            // There is nothing in it that anybody asks for.
            tokio::task::spawn_blocking(move || child.wait()).await.ok();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // One that has ended already cannot be killed, and that is as well.
            child.kill().ok();
            // Something that it waits for may be a file system of the container's: nobody else is to wait with it.
            match tokio::runtime::Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn_blocking(move || child.wait())),
                Err(_) => drop(child.wait()),
            }
        }
    }
}

fn judge(status: ExitStatus, said: &str) -> Result<()> {
    use std::os::unix::process::ExitStatusExt as _;
    let said = said.trim_end().trim_start_matches("caissond: ");
    match status.signal() {
        None if status.success() => Ok(()),
        None => Err(Fault::unknown(said)),
        Some(signal) => Err(Fault::unknown(format!(
            "the process that copies was killed by signal {signal}: {said}"
        ))),
    }
}
