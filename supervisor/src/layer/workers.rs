//! Unpacks layers: one confined process for each, several at a time.
//!
//! Runs in the daemon, in the thread that asks; it waits for what the processes report, and parses nothing else of theirs. They end with this
//! thread.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{ACTION, Unpacked};
use crate::digest::Digest;

/// A report longer than this is not the child's. Names of directories that a layer implies are in it.
const REPORT_LIMIT: usize = 64 << 20;

type Progress<'a> = dyn FnMut(usize, u64) -> Result<()> + 'a;

/// A layer to be unpacked.
pub(crate) struct Job {
    pub(crate) blob: File,
    /// None if it is not known before.
    pub(crate) diff_id: Option<Digest>,
    /// Exists and is empty.
    pub(crate) directory: PathBuf,
}

struct Worker {
    index: usize,
    child: Child,
    report: PipeReader,
    said: Vec<u8>,
    expected: Option<Digest>,
}

/// Results are in the order of the jobs. With the first that fails, all end. `progress` is told of a job and how much of its blob is done; its
/// error ends all, too.
pub(crate) fn unpack(jobs: Vec<Job>, progress: &mut Progress<'_>) -> Result<Vec<Unpacked>> {
    let most = std::thread::available_parallelism().map_or(2, |count| count.get().max(2));
    let mut results: Vec<Option<Unpacked>> = jobs.iter().map(|_| None).collect();
    let mut waiting: VecDeque<_> = jobs.into_iter().enumerate().collect();
    let mut workers: Vec<Worker> = Vec::new();
    let mut rounds = || {
        loop {
            while workers.len() < most
                && let Some((index, job)) = waiting.pop_front()
            {
                workers.push(start(index, job)?);
            }
            if workers.is_empty() {
                return Ok(());
            }
            round(&mut workers, &mut results, progress)?;
        }
    };
    let outcome: Result<()> = rounds();
    for worker in &mut workers {
        // One that has ended already cannot be killed, and that is as well.
        worker.child.kill().ok();
        worker
            .child
            .wait()
            .context("wait for an unpacking process")?;
    }
    outcome?;
    results
        .into_iter()
        .map(|result| result.context("a layer was not unpacked"))
        .collect()
}

fn start(index: usize, job: Job) -> Result<Worker> {
    let (report, writer) = io::pipe().context("make a pipe")?;
    let child = Command::new("/proc/self/exe")
        .arg0("caissond:[UNPACK]")
        .arg(ACTION)
        .arg(std::process::id().to_string())
        .arg(&job.directory)
        .env_clear()
        .current_dir("/")
        .stdin(job.blob)
        .stdout(Stdio::null())
        .stderr(Stdio::from(writer))
        .spawn()
        .context("start a process that unpacks")?;
    Ok(Worker {
        index,
        child,
        report,
        said: Vec::new(),
        expected: job.diff_id,
    })
}

/// Waits until any of them says something, and takes it.
fn round(
    workers: &mut Vec<Worker>,
    results: &mut [Option<Unpacked>],
    progress: &mut Progress<'_>,
) -> Result<()> {
    let mut ready: Vec<_> = workers
        .iter()
        .map(|worker| PollFd::new(worker.report.as_fd(), PollFlags::POLLIN))
        .collect();
    match poll(&mut ready, PollTimeout::NONE) {
        Ok(_) | Err(nix::Error::EINTR) => {}
        Err(errno) => return Err(errno).context("wait for unpacking processes"),
    }
    let ready: Vec<_> = ready.iter().map(|fd| fd.any().unwrap_or(false)).collect();
    for index in (0..workers.len()).rev().filter(|index| ready[*index]) {
        if workers[index].listen(progress)? {
            let mut worker = workers.swap_remove(index);
            let status = worker
                .child
                .wait()
                .context("wait for an unpacking process")?;
            let result = worker.result(status);
            results[worker.index] = Some(match worker.expected {
                Some(layer) => result.with_context(|| format!("layer {layer}"))?,
                None => result?,
            });
        }
    }
    Ok(())
}

impl Worker {
    /// Whether it has said all.
    fn listen(&mut self, progress: &mut Progress<'_>) -> Result<bool> {
        let mut buffer = [0; 16 << 10];
        let count = match self.report.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(false),
            other => other.context("read what an unpacking process says")?,
        };
        self.said.extend_from_slice(&buffer[..count]);
        ensure!(
            self.said.len() <= REPORT_LIMIT,
            "an unpacking process says too much"
        );
        // What it says at last is one line that may be long, and looked through only once.
        if !buffer[..count].contains(&b'\n') {
            return Ok(count == 0);
        }
        while let Some(end) = self.said.iter().position(|byte| *byte == b'\n') {
            let Some(done) = std::str::from_utf8(&self.said[..end])
                .ok()
                .and_then(|line| line.parse().ok())
            else {
                break;
            };
            progress(self.index, done)?;
            self.said.drain(..=end);
        }
        Ok(count == 0)
    }

    fn result(&self, status: ExitStatus) -> Result<Unpacked> {
        let said = String::from_utf8_lossy(&self.said);
        if let Some(signal) = status.signal() {
            bail!(
                "the unpacking process was killed by signal {signal}: {}",
                said.trim_end()
            );
        }
        if !status.success() {
            bail!("{}", said.trim_end().trim_start_matches("caissond: "));
        }
        let unpacked: Unpacked =
            serde_json::from_slice(&self.said).context("the report of an unpacking process")?;
        if let Some(expected) = self.expected
            && expected != unpacked.diff_id
        {
            bail!(
                "the layer is {}, and the image says {expected}",
                unpacked.diff_id
            );
        }
        Ok(unpacked)
    }
}
