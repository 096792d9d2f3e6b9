//! Copying files out of a container and into it: archives between the client and the process that copies. While a container that does not run is
//! copied, it is not started. One that ends meanwhile is copied to the end, unless it is started again or removed with its end.

use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, openat};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::sync::{MutexGuard, watch};
use ttrpc::r#async::{SSSender, ServerStream};

use super::create::blocking;
use super::look_up::snapshot;
use super::{Container, Supervisor};
use crate::chunks::CHUNK;
use crate::copy::rules::Source;
use crate::copy::worker::{Process, Worker};
use crate::copy::{Bind, Ids, Overlay, Request, Root, Task};
use crate::fault::{Fault, Result, Tried as _};
use crate::protos::containers as api;
use crate::requests::{Client, Requests, attended};

/// How far an archive that goes out may be ahead of its reader.
const WINDOW: u64 = 1 << 20;
/// Of the line that says what is copied; a name has 255 bytes.
const LINE: usize = 4096;

/// What must stay as it is while files are copied.
enum Held<'a> {
    /// [`super::Run::copies`].
    Running(watch::Receiver<bool>),
    Stopped(#[expect(dead_code, reason = "held, not looked at")] MutexGuard<'a, ()>),
}

impl Held<'_> {
    /// Comes back when the container has ended and does not stay down, or is removed by force.
    async fn gone(&mut self, container: &Container) -> Fault {
        let has_gone = async {
            match self {
                // The sender is gone with the run only.
                Self::Running(copied) => copied.wait_for(|gone| *gone).await.is_ok(),
                Self::Stopped(_) => std::future::pending().await,
            }
        };
        let mut going = container.going.subscribe();
        let what = tokio::select! {
            _ = has_gone => "has ended while it was copied, and does not stay as it is",
            _ = going.wait_for(|going| *going) => "was removed by force while it was copied",
        };
        Fault::precondition(format!("container {} {what}", container.name()))
    }
}

pub(crate) async fn copy_out(
    supervisor: &Arc<Supervisor>,
    stream: ServerStream<api::CopyOutResponse, api::CopyOutRequest>,
) -> Result<()> {
    let (sender, receiver) = stream.split();
    let mut requests = Requests::new(receiver);
    let first = requests.next().await?;
    let Some(api::copy_out_request::Of::From(from)) = first.and_then(|request| request.of) else {
        return Err(Fault::new("the first request does not say what to copy"));
    };
    let container = supervisor.found(&from.container).await?;
    let task = match from.root_file_system {
        true => Task::Root,
        false => Task::Out {
            path: from.path,
            follow: from.follow,
        },
    };
    let alone = from.root_file_system;
    let (root, namespace, mut held) = supervisor.tree(&container, alone).await?;
    let ids = Ids::of(&container.record());
    let Worker {
        process,
        archive,
        report,
    } = Worker::start(&Request { root, ids, task }, namespace)?;
    let (noticing, taken) = watch::channel(0);
    let sent = attended(&sender, async {
        tokio::select! {
            outcome = send(archive, &sender, taken) => outcome,
            fault = held.gone(&container) => Err(fault),
            () = acknowledged(&mut requests, &noticing) => Ok(()),
        }
    });
    let sent = sent.await;
    end(&sender, process, report, sent).await
}

/// All of it. An archive that does not even begin has its reason in the process' report.
async fn send(
    archive: OwnedFd,
    sender: &SSSender<api::CopyOutResponse>,
    mut taken: watch::Receiver<u64>,
) -> Result<()> {
    let read = || "read an archive".to_owned();
    let mut archive = pipe::Receiver::from_owned_fd(archive).tried(read)?;
    let mut chunk = Vec::with_capacity(CHUNK);
    let end = loop {
        if archive.read_buf(&mut chunk).await.tried(read)? == 0 {
            return Ok(());
        }
        match chunk.iter().position(|byte| *byte == b'\n') {
            Some(end) => break end,
            None if chunk.len() > LINE => return Err(Fault::unknown("a line without end")),
            None => {}
        }
    };
    let source: Source =
        serde_json::from_slice(&chunk[..end]).tried(|| "read what is copied".into())?;
    let source = api::CopySource {
        name: source.name,
        directory: source.directory,
        contents: source.contents,
        ..Default::default()
    };
    respond(sender, api::copy_out_response::Of::Source(source)).await?;
    chunk.drain(..=end);
    let mut sent = 0_u64;
    loop {
        if !chunk.is_empty() {
            let least = sent.saturating_sub(WINDOW);
            taken
                .wait_for(|taken| *taken >= least)
                .await
                .tried(|| "the client has left".into())?;
            let length = chunk.len() as u64;
            let data = std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK));
            respond(sender, api::copy_out_response::Of::Data(data)).await?;
            sent += length;
        }
        if archive.read_buf(&mut chunk).await.tried(read)? == 0 {
            return Ok(());
        }
    }
}

async fn respond(
    sender: &SSSender<api::CopyOutResponse>,
    of: api::copy_out_response::Of,
) -> Result<()> {
    let response = api::CopyOutResponse {
        of: Some(of),
        ..Default::default()
    };
    Ok(sender.send(&response).await?)
}

/// Notes what the client has taken; never comes back.
async fn acknowledged(requests: &mut Requests<api::CopyOutRequest>, noticing: &watch::Sender<u64>) {
    while let Ok(Some(request)) = requests.next().await {
        if let Some(api::copy_out_request::Of::Taken(bytes)) = request.of {
            noticing.send_modify(|taken| *taken = bytes);
        }
    }
    std::future::pending().await
}

pub(crate) async fn copy_in(
    supervisor: &Arc<Supervisor>,
    stream: ServerStream<api::CopyInResponse, api::CopyInRequest>,
) -> Result<()> {
    let (sender, receiver) = stream.split();
    let mut requests = Requests::new(receiver);
    let first = requests.next().await?;
    let Some(api::copy_in_request::Of::To(to)) = first.and_then(|request| request.of) else {
        return Err(Fault::new("the first request does not say where to copy"));
    };
    let container = supervisor.found(&to.container).await?;
    let (root, namespace, mut held) = supervisor.tree(&container, false).await?;
    let source = to.source.into_option().map(|source| Source {
        name: source.name,
        directory: source.directory,
        contents: source.contents,
    });
    let task = Task::In {
        path: to.path,
        source,
        to_root: to.to_root,
    };
    let ids = Ids::of(&container.record());
    let Worker {
        process,
        archive,
        report,
    } = Worker::start(&Request { root, ids, task }, namespace)?;
    let received = attended(&sender, async {
        tokio::select! {
            received = receive(archive, &mut requests, &sender) => received,
            fault = held.gone(&container) => Err(fault),
        }
    });
    let received = received.await;
    end(&sender, process, report, received).await
}

/// Until the client says that there is no more, or the process takes no more.
async fn receive(
    archive: OwnedFd,
    requests: &mut Requests<api::CopyInRequest>,
    sender: &SSSender<api::CopyInResponse>,
) -> Result<()> {
    let mut archive = pipe::Sender::from_owned_fd(archive).tried(|| "write an archive".into())?;
    let mut response = api::CopyInResponse::default();
    loop {
        match requests.next().await?.and_then(|request| request.of) {
            Some(api::copy_in_request::Of::Data(data)) => {
                if archive.write_all(&data).await.is_err() {
                    // It says why.
                    return Ok(());
                }
                response.taken += data.len() as u64;
                sender.send(&response).await?;
            }
            Some(api::copy_in_request::Of::End(_)) => return Ok(()),
            _ => return Err(Fault::new("an archive without its end")),
        }
    }
}

/// Until the process has ended, too, or has had its time: what it copies to or from stays as it is until then.
async fn end(
    client: &impl Client,
    process: Process,
    report: std::io::PipeReader,
    sent: Result<()>,
) -> Result<()> {
    if sent.is_err() {
        process.leave(report).await;
        return sent;
    }
    attended(client, blocking(move || process.end(report))).await
}

impl Supervisor {
    /// Where the container's files are, and what keeps them there; `alone`, nothing is mounted in the root of one that does not run.
    async fn tree<'a>(
        self: &Arc<Self>,
        container: &'a Arc<Container>,
        alone: bool,
    ) -> Result<(Root, Option<OwnedFd>, Held<'a>)> {
        let operation = loop {
            let operation = container.operation.lock().await;
            self.check_known(container)?;
            let Some(run) = container.run().filter(|_| container.is_alive()) else {
                break operation;
            };
            match mount_namespace(container) {
                Ok(namespace) => {
                    // The process that copies is in the namespace, which lasts for as long as that.
                    let held = Held::Running(run.copies.subscribe());
                    return Ok((Root::Running, Some(namespace), held));
                }
                // Its end is not noted during an operation, so its shim is asked.
                Err(fault) if !run.shim.has_ended().await => return Err(fault),
                Err(_) => {
                    drop(operation);
                    run.ended().await;
                }
            }
        };
        let (supervisor, record) = (self.clone(), container.record());
        let overlay = blocking(move || {
            let snapshot = snapshot(&supervisor.store, &record)?;
            let mut binds = vec![];
            if !alone {
                supervisor.fill_volumes(&record, &snapshot)?;
                binds = supervisor.binds(&record)?;
            }
            let binds = binds.into_iter().map(|bind| Bind {
                source: bind.source.into(),
                within: bind.within,
                target: bind.target,
                read_only: bind.read_only,
                shifted: !bind.mapped,
            });
            Ok(Overlay {
                lower: snapshot.lower,
                upper: snapshot.upper,
                work: snapshot.work,
                read_only: record.config.read_only,
                binds: binds.collect(),
            })
        })
        .await?;
        Ok((Root::Stopped(overlay), None, Held::Stopped(operation)))
    }
}

/// Of a container that runs. Its pid may be another's by now: that it is in the container's group, and the namespace, are asked of one process.
fn mount_namespace(container: &Container) -> Result<OwnedFd> {
    let record = container.record();
    let path = format!("/proc/{}", record.state.pid);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let what = || format!("find the files of container {}", record.name);
    let process = openat(CWD, &path, flags, Mode::empty()).tried(what)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut groups = String::new();
    openat(&process, "cgroup", flags, Mode::empty())
        .map_err(std::io::Error::from)
        .and_then(|file| std::fs::File::from(file).read_to_string(&mut groups))
        .tried(what)?;
    if !groups.contains(&crate::spec::cgroup(&record.config, &record.id)?) {
        return Err(Fault::precondition(format!(
            "container {} is not running any more",
            record.name
        )));
    }
    openat(&process, "ns/mnt", flags, Mode::empty()).tried(what)
}
