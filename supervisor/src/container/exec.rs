//! Exec: another process in a container, with streams of its own. Its output is not in the log; it goes to the client who asked for it, as
//! fast as he takes it.

use std::path::Path;
use std::sync::Arc;

use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};
use ttrpc::r#async::{SSSender, ServerStream};

use super::create::{blocking, random};
use super::flow::{self, Inputs, Output};
use super::look_up::{capabilities, snapshot, user};
use super::{Container, Supervisor, bundle, told};
use crate::fault::{Fault, Kind, Result, Tried as _};
use crate::protos::containers::{AttachResponse, ExecRequest, exec_request, state::Status};
use crate::records::Change;
use crate::requests::Requests;
use crate::shim::Shim;
use crate::spec;
use ::shim::protos::task::ExecProcessRequest;

/// How much is read at once.
const CHUNK: usize = 32 << 10;

/// Fifos and id of one exec, which go when this does.
struct Files {
    bundle: std::path::PathBuf,
    id: String,
}

/// A process that runs. If its client leaves, it goes on, and is forgotten when it has ended.
struct Running<'a> {
    shim: &'a Arc<Shim>,
    id: &'a str,
    over: bool,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let (shim, id) = (self.shim.clone(), self.id.to_owned());
        tokio::spawn(async move {
            // Its end is of interest to nobody but the shim.
            shim.wait(&id).await.ok();
            shim.delete(&id).await.ok();
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
    if container.status() == Status::PAUSED {
        return Err(Fault::precondition(format!(
            "container {} is paused: unpause it before",
            container.name()
        )));
    }
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
        (None, None)
    } else {
        (
            Some(open("stdout")?),
            (!asked.terminal).then(|| open("stderr")).transpose()?,
        )
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
    let mut running = Running {
        shim: &shim,
        id: &files.id,
        over: false,
    };
    let event = told(&container.record(), "exec_start", &[("execID", &files.id)]);
    supervisor
        .records
        .apply(Change::default().event(event))
        .await?;
    flow::attached(&sender, &files.id, asked.terminal).await?;
    if asked.detach {
        return Ok(());
    }
    let client = Client {
        sender,
        requests,
        stdin: asked.stdin,
    };
    client.serve(&shim, &files, streams).await?;
    running.over = true;
    Ok(())
}

struct Client {
    sender: SSSender<AttachResponse>,
    requests: Requests<ExecRequest>,
    stdin: bool,
}

impl Client {
    async fn serve(
        self,
        shim: &Arc<Shim>,
        files: &Files,
        streams: (Option<pipe::Receiver>, Option<pipe::Receiver>),
    ) -> Result<()> {
        let (taken_sender, taken) = watch::channel(0);
        let stdin = files.path("stdin");
        let inputs = Inputs {
            shim,
            exec: &files.id,
            stdin: self.stdin.then_some(&*stdin),
            sender: self.sender.clone(),
            taken: taken_sender,
        };
        let mut output = Output::new(self.sender, taken);
        let (to_inputs, next) = mpsc::channel(16);
        let ended = async {
            let exit = shim.wait(&files.id).await?;
            // Its streams end with it, when what it has written has been copied.
            shim.delete(&files.id).await?;
            Ok::<_, Fault>(exit)
        };
        let served = async {
            let (exit, copied) = tokio::join!(ended, copy(streams, &mut output));
            copied?;
            output
                .ended(i32::try_from(exit?.code).unwrap_or(-1), 0)
                .await
        };
        tokio::select! {
            done = served => done,
            failed = inputs.run(next) => failed,
            () = flow::receive(self.requests, to_inputs) => Ok(()),
        }
    }
}

/// Until both streams have ended.
async fn copy(
    (mut stdout, mut stderr): (Option<pipe::Receiver>, Option<pipe::Receiver>),
    output: &mut Output,
) -> Result<()> {
    let (mut first, mut second) = (vec![0; CHUNK], vec![0; CHUNK]);
    while stdout.is_some() || stderr.is_some() {
        output.room().await?;
        tokio::select! {
            read = some(&mut stdout, &mut first) => {
                let length = read.tried(|| "read the process' output".into())?;
                if length == 0 { stdout = None } else { output.data(false, first[..length].to_vec()).await? }
            }
            read = some(&mut stderr, &mut second) => {
                let length = read.tried(|| "read the process' output".into())?;
                if length == 0 { stderr = None } else { output.data(true, second[..length].to_vec()).await? }
            }
        }
    }
    Ok(())
}

async fn some(stream: &mut Option<pipe::Receiver>, buffer: &mut [u8]) -> std::io::Result<usize> {
    match stream {
        Some(stream) => stream.read(buffer).await,
        None => std::future::pending().await,
    }
}

impl Supervisor {
    async fn exec_request(
        &self,
        container: &Arc<Container>,
        asked: &exec_request::Process,
        files: &Files,
    ) -> Result<ExecProcessRequest> {
        let (store, record, directory) =
            (self.store.clone(), container.record(), files.bundle.clone());
        let words = asked.user.clone();
        let (process, user) = blocking(move || {
            let process = bundle::process(&directory)?;
            let words = if words.is_empty() {
                format!("{}:{}", process["user"]["uid"], process["user"]["gid"])
            } else {
                words
            };
            let snapshot = snapshot(&store, &record)?;
            Ok((process, user(&snapshot, &words, &[])?))
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
