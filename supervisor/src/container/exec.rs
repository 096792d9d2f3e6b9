//! Exec: another process in a container, with streams of its own. Its output is not in the log; it goes to the client who asked for it, as
//! fast as he takes it: until then the process waits. If he leaves, it goes on, and its output to nowhere.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::{RwLockReadGuard, mpsc, watch};
use tokio::time::{Instant, sleep};
use ttrpc::r#async::{SSSender, ServerStream};

use super::create::{blocking, random};
use super::flow::{self, Inputs, Output, Seen};
use super::layers::Layers;
use super::look_up::{capabilities, snapshot, user};
use super::{Container, Supervisor, bundle, ids};
use crate::fault::{Fault, Kind, Result, Tried as _};
use crate::protos::containers::{AttachResponse, ExecRequest, exec_request, state::Status};
use crate::requests::{Requests, attended};
use crate::shim::{Exit, Shim};
use crate::spec;
use ::shim::protos::task::ExecProcessRequest;

/// How much is read at once.
const CHUNK: usize = 32 << 10;
/// How long the output of a process that has ended is awaited, if others have it open too: as long as shims await a container's.
const GRACE: Duration = Duration::from_secs(10);

/// Fifos and id of one exec, which go when this does.
struct Files {
    bundle: std::path::PathBuf,
    id: String,
}

/// A process that runs. When its client has left, or has seen its end, it is looked after until the shim can forget it.
struct Running {
    supervisor: Arc<Supervisor>,
    container: Arc<Container>,
    shim: Arc<Shim>,
    id: String,
    streams: Streams,
}

/// What it writes, as far as that is not known to have ended.
#[derive(Default)]
struct Streams {
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let (supervisor, container) = (self.supervisor.clone(), self.container.clone());
        let (shim, id) = (self.shim.clone(), std::mem::take(&mut self.id));
        let mut streams = std::mem::take(&mut self.streams);
        // It is not the client who leaves when the daemon does.
        if supervisor.ending.is_shutdown() {
            return;
        }
        tokio::spawn(async move {
            // Nobody is left to write to it, or to be told what goes wrong.
            shim.close_stdin(&id).await.ok();
            let exit = copy(&mut streams, None, shim.wait(&id)).await;
            shim.delete(&id).await.ok();
            if let Ok(exit) = exit {
                let code = exit.code.to_string();
                let attributes = [("execID", &*id), ("exitCode", &code)];
                supervisor
                    .tell_of(&container, "exec_die", &attributes)
                    .await;
            }
        });
    }
}

impl Files {
    fn path(&self, stream: &str) -> std::path::PathBuf {
        self.bundle.join(format!("exec-{}-{stream}", self.id))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for stream in ["stdin", "stdout", "stderr"] {
            // Not all of them are there.
            std::fs::remove_file(self.path(stream)).ok();
        }
    }
}

pub(crate) async fn exec(
    supervisor: &Arc<Supervisor>,
    stream: ServerStream<AttachResponse, ExecRequest>,
) -> Result<()> {
    let (sender, receiver) = stream.split();
    let mut requests = Requests::new(receiver);
    let first = requests.next().await?;
    let Some(exec_request::Of::Process(asked)) = first.and_then(|request| request.of) else {
        return Err(Fault::new("the first request does not say what to execute"));
    };
    let container = supervisor.found(&asked.container).await?;
    let awake = awake(&container, &sender).await?;
    let shim = container.shim()?;
    let files = Files {
        bundle: supervisor.host.bundle(&container.id),
        id: random()?[..16].to_owned(),
    };
    let request = supervisor.exec_request(&container, &asked, &files).await?;
    let open = |stream: &str| {
        let path = files.path(stream);
        pipe::OpenOptions::new()
            .open_receiver(&path)
            .tried(|| format!("open {}", path.display()))
    };
    let streams = if asked.detach {
        Streams::default()
    } else {
        Streams {
            stdout: Some(open("stdout")?),
            stderr: (!asked.terminal).then(|| open("stderr")).transpose()?,
        }
    };
    shim.add_exec(&request).await?;
    if let Some(size) = asked.size.as_ref().filter(|_| asked.terminal) {
        shim.resize(&files.id, size.width, size.height).await?;
    }
    if let Err(fault) = shim.start(&files.id).await {
        // The first fault is the one to report.
        shim.delete(&files.id).await.ok();
        return Err(fault);
    }
    drop(awake);
    let mut running = Running {
        supervisor: supervisor.clone(),
        container: container.clone(),
        shim,
        id: files.id.clone(),
        streams,
    };
    // Not to be written is no reason to keep somebody out who may make room.
    let attributes = [("execID", &*files.id)];
    supervisor
        .tell_of(&container, "exec_start", &attributes)
        .await;
    flow::attached(&sender, &files.id, asked.terminal).await?;
    if asked.detach {
        return Ok(());
    }
    let client = Client {
        sender: sender.clone(),
        requests,
        stdin: asked.stdin,
    };
    attended(&sender, client.serve(&mut running, &files)).await
}

/// Nobody freezes it for an image until this is dropped: if somebody has, that is awaited as long as the client is there.
async fn awake<'a>(
    container: &'a Container,
    client: &SSSender<AttachResponse>,
) -> Result<Option<RwLockReadGuard<'a, ()>>> {
    let mut awake = None;
    let waking = async {
        awake = Some(container.awake.read().await);
        Ok(())
    };
    attended(client, waking).await?;
    if container.status() == Status::PAUSED {
        return Err(Fault::precondition(format!(
            "container {} is paused: unpause it before",
            container.name()
        )));
    }
    Ok(awake)
}

struct Client {
    sender: SSSender<AttachResponse>,
    requests: Requests<ExecRequest>,
    stdin: bool,
}

impl Client {
    async fn serve(self, running: &mut Running, files: &Files) -> Result<()> {
        let (shim, streams) = (&running.shim, &mut running.streams);
        let (taken_sender, taken) = watch::channel(0);
        let stdin = files.path("stdin");
        let seen = Seen::default();
        let inputs = Inputs {
            shim,
            exec: &files.id,
            stdin: self.stdin.then_some(&*stdin),
            sender: self.sender.clone(),
            taken: taken_sender,
            keep: false,
            seen: &seen,
        };
        let mut output = Output::new(self.sender, taken);
        let (to_inputs, mut next) = mpsc::channel(16);
        let served = async {
            let exit = copy(streams, Some(&mut output), shim.wait(&files.id)).await?;
            let code = i32::try_from(exit.code).unwrap_or(-1);
            output.ended(code, 0).await
        };
        tokio::select! {
            done = served => done,
            failed = inputs.run(&mut next) => failed,
            () = flow::receive(self.requests, to_inputs) => Ok(()),
        }
    }
}

/// Until the process and both streams have ended. Others may have these too, and are awaited for [`GRACE`]: only while nothing comes, so that
/// what the process itself has written waits for a client who pauses. The shim must have the process until then; without it, it closes them.
async fn copy(
    Streams { stdout, stderr }: &mut Streams,
    mut output: Option<&mut Output>,
    ended: impl Future<Output = Result<Exit>>,
) -> Result<Exit> {
    let (mut first, mut second) = (vec![], vec![]);
    let (mut ended, mut exit, mut left) = (pin!(ended), None, GRACE);
    while stdout.is_some() || stderr.is_some() {
        if let Some(output) = &mut output {
            output.room().await?;
        }
        let begin = Instant::now();
        let (is_stderr, read) = tokio::select! {
            read = some(stdout, &mut first) => (false, read),
            read = some(stderr, &mut second) => (true, read),
            over = &mut ended, if exit.is_none() => {
                exit = Some(over);
                continue;
            }
            () = sleep(left), if exit.is_some() => break,
        };
        if exit.is_some() {
            left = left.saturating_sub(begin.elapsed());
        }
        let length = read.tried(|| "read the process' output".into())?;
        let (stream, buffer) = if is_stderr {
            (&mut *stderr, &second)
        } else {
            (&mut *stdout, &first)
        };
        if length == 0 {
            *stream = None;
        } else if let Some(output) = &mut output {
            output.data(is_stderr, buffer.clone()).await?;
        }
    }
    match exit {
        Some(exit) => exit,
        None => ended.await,
    }
}

async fn some(stream: &mut Option<pipe::Receiver>, buffer: &mut Vec<u8>) -> std::io::Result<usize> {
    let Some(stream) = stream else {
        return std::future::pending().await;
    };
    buffer.clear();
    buffer.reserve(CHUNK);
    stream.read_buf(buffer).await
}

impl Supervisor {
    async fn exec_request(
        self: &Arc<Self>,
        container: &Arc<Container>,
        asked: &exec_request::Process,
        files: &Files,
    ) -> Result<ExecProcessRequest> {
        let (supervisor, record, directory) =
            (self.clone(), container.record(), files.bundle.clone());
        let words = asked.user.clone();
        let (process, user) = blocking(move || {
            let process = bundle::process(&directory)?;
            supervisor.profile.keep(&process)?;
            if words.is_empty() {
                return Ok((process, None));
            }
            let layers = Layers::of(&snapshot(&supervisor.store, &record)?);
            let user = user(&layers, &words, &[])?;
            for id in [user.uid, user.gid].iter().chain(&user.groups) {
                ids::has(&record, *id)?;
            }
            Ok((process, Some(user)))
        })
        .await?;
        let exec = spec::Exec {
            args: asked.args.clone(),
            env: asked.env.clone(),
            user,
            working_dir: asked.working_dir.clone(),
            terminal: asked.terminal,
            privileged: asked.privileged,
        };
        if exec.args.is_empty() {
            return Err(Fault::of(Kind::Invalid, "no command specified"));
        }
        let process = spec::exec(&process, &exec, &capabilities())?;
        let name = |stream: &str, wanted: bool| -> Result<String> {
            if !wanted {
                return Ok(String::new());
            }
            let path = files.path(stream);
            bundle::fifo(&path)?;
            Ok(text(&path))
        };
        Ok(ExecProcessRequest {
            id: container.id.clone(),
            exec_id: files.id.clone(),
            terminal: asked.terminal,
            stdin: name("stdin", asked.stdin && !asked.detach)?,
            stdout: name("stdout", !asked.detach)?,
            stderr: name("stderr", !asked.detach && !asked.terminal)?,
            spec: MessageField::some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
                value: process.to_string().into_bytes(),
                ..Default::default()
            }),
            ..Default::default()
        })
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
