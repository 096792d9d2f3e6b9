//! A container's shim, as its client: the task service over ttrpc, each call with a deadline but for Wait. Any runtime-v2 shim will do; of
//! version 2 and 3 of the service, whose messages are the same, it speaks what the shim said.
//!
//! Knows nothing of the daemon's containers.

mod launch;

use std::time::Duration;
use std::{fmt, fs, io};

use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::empty::Empty;
use protobuf::{Message, MessageField};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::timeout;
use ttrpc::r#async::Client;

use crate::fault::{Fault, Kind, Result};
use ::shim::protos::cgroup_metrics::Metrics;
use ::shim::protos::task::{
    CloseIORequest, CreateTaskRequest, CreateTaskResponse, DeleteRequest, DeleteResponse,
    ExecProcessRequest, KillRequest, PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest,
    ResumeRequest, ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse,
    StatsRequest, StatsResponse, UpdateTaskRequest, WaitRequest, WaitResponse,
};

pub(crate) use launch::{Launch, clean_up};

/// What only asks.
const SHORT: Duration = Duration::from_secs(10);
/// How long a shim may take to know of an end that the runtime knows of.
const NOTICED: Duration = Duration::from_secs(2);
/// What runs the runtime, with its hooks.
const LONG: Duration = Duration::from_secs(120);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) code: u32,
    /// Nanoseconds since the epoch.
    pub(crate) at: i64,
}

/// A connection to a shim, for one container.
pub(crate) struct Shim {
    client: Client,
    version: u32,
    socket: String,
    id: String,
}

impl fmt::Debug for Shim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shim of {} at {}", self.id, self.socket)
    }
}

impl Shim {
    /// `address` is what [`Shim::address`] said.
    pub(crate) async fn connect(address: &str, id: &str) -> Result<Self> {
        let (version, socket) = address.split_once(' ').unwrap_or(("3", address));
        let connected = timeout(SHORT, Client::connect(socket)).await;
        let client = connected
            .map_err(|_| Fault::of(Kind::Unavailable, format!("no answer from {socket}")))?
            .map_err(|error| {
                Fault::of(Kind::Unavailable, format!("connect to {socket}: {error}"))
            })?;
        Ok(Self {
            client,
            version: version.parse().unwrap_or(3),
            socket: socket.to_owned(),
            id: id.to_owned(),
        })
    }

    /// How to find it again.
    pub(crate) fn address(&self) -> String {
        format!("{} {}", self.version, self.socket)
    }

    async fn call<Q: Message, P: Message>(
        &self,
        method: &str,
        request: &Q,
        limit: Duration,
    ) -> Result<P> {
        let request = ttrpc::Request {
            service: format!("containerd.task.v{}.Task", self.version),
            method: method.into(),
            timeout_nano: i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX),
            payload: encode(request)?,
            ..Default::default()
        };
        let response = self.client.request(request).await.map_err(|error| {
            let gone = "the container's shim has ended before it answered, its log says why";
            Fault::of_call(error, gone)
        })?;
        P::parse_from_bytes(&response.payload).map_err(|error| {
            Fault::unknown(format!("decode the shim's answer to {method}: {error}"))
        })
    }

    pub(crate) async fn create(&self, request: &CreateTaskRequest) -> Result<u32> {
        let response: Result<CreateTaskResponse> = self.call("Create", request, LONG).await;
        response.map(|response| response.pid).map_err(of_program)
    }

    /// `exec` is empty for the container itself, here and below.
    pub(crate) async fn start(&self, exec: &str) -> Result<u32> {
        let request = StartRequest {
            id: self.id.clone(),
            exec_id: exec.into(),
            ..Default::default()
        };
        let response: Result<StartResponse> = self.call("Start", &request, LONG).await;
        response.map(|response| response.pid).map_err(of_program)
    }

    /// Comes back when the process has ended.
    pub(crate) async fn wait(&self, exec: &str) -> Result<Exit> {
        let request = WaitRequest {
            id: self.id.clone(),
            exec_id: exec.into(),
            ..Default::default()
        };
        let response: WaitResponse = self.call("Wait", &request, Duration::ZERO).await?;
        Ok(Exit {
            code: response.exit_status,
            at: nanoseconds(&response.exited_at),
        })
    }

    /// Whether the container's process has, or is gone with its shim. The runtime may know of that before the shim does.
    pub(crate) async fn has_ended(&self) -> bool {
        timeout(NOTICED, self.wait("")).await.is_ok()
    }

    pub(crate) async fn state(&self, limit: Duration) -> Result<StateResponse> {
        let request = StateRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        self.call("State", &request, limit).await
    }

    pub(crate) async fn kill(&self, exec: &str, signal: u32) -> Result<()> {
        let request = KillRequest {
            id: self.id.clone(),
            exec_id: exec.into(),
            signal,
            ..Default::default()
        };
        self.call::<_, Empty>("Kill", &request, SHORT)
            .await
            .map(drop)
    }

    /// Waits for the rest of the output.
    pub(crate) async fn delete(&self, exec: &str) -> Result<DeleteResponse> {
        let request = DeleteRequest {
            id: self.id.clone(),
            exec_id: exec.into(),
            ..Default::default()
        };
        self.call("Delete", &request, LONG).await
    }

    pub(crate) async fn add_exec(&self, request: &ExecProcessRequest) -> Result<()> {
        self.call::<_, Empty>("Exec", request, SHORT)
            .await
            .map(drop)
    }

    pub(crate) async fn resize(&self, exec: &str, width: u32, height: u32) -> Result<()> {
        let request = ResizePtyRequest {
            id: self.id.clone(),
            exec_id: exec.into(),
            width,
            height,
            ..Default::default()
        };
        self.call::<_, Empty>("ResizePty", &request, SHORT)
            .await
            .map(drop)
    }

    pub(crate) async fn close_stdin(&self, exec: &str) -> Result<()> {
        let request = CloseIORequest {
            id: self.id.clone(),
            exec_id: exec.into(),
            stdin: true,
            ..Default::default()
        };
        self.call::<_, Empty>("CloseIO", &request, SHORT)
            .await
            .map(drop)
    }

    pub(crate) async fn pause(&self) -> Result<()> {
        let request = PauseRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        self.call::<_, Empty>("Pause", &request, LONG)
            .await
            .map(drop)
    }

    pub(crate) async fn resume(&self) -> Result<()> {
        let request = ResumeRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        self.call::<_, Empty>("Resume", &request, LONG)
            .await
            .map(drop)
    }

    pub(crate) async fn pids(&self) -> Result<Vec<u32>> {
        let request = PidsRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        let response: PidsResponse = self.call("Pids", &request, SHORT).await?;
        Ok(response
            .processes
            .iter()
            .map(|process| process.pid)
            .collect())
    }

    /// `resources` is JSON of the OCI specification.
    pub(crate) async fn update(&self, resources: String) -> Result<()> {
        let request = UpdateTaskRequest {
            id: self.id.clone(),
            resources: MessageField::some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".into(),
                value: resources.into_bytes(),
                ..Default::default()
            }),
            ..Default::default()
        };
        self.call::<_, Empty>("Update", &request, LONG)
            .await
            .map(drop)
    }

    pub(crate) async fn stats(&self) -> Result<Metrics> {
        let request = StatsRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        let response: StatsResponse = self.call("Stats", &request, SHORT).await?;
        let stats = response.stats.unwrap_or_default();
        if !stats.type_url.ends_with("io.containerd.cgroups.v2.Metrics") {
            return Err(Fault::of(
                Kind::Unimplemented,
                format!("the shim's statistics are a {}", stats.type_url),
            ));
        }
        Metrics::parse_from_bytes(&stats.value)
            .map_err(|error| Fault::unknown(format!("decode the statistics: {error}")))
    }

    /// It may be gone before it has answered.
    pub(crate) async fn shut_down(&self) {
        let request = ShutdownRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        let answer: Result<Empty> = self.call("Shutdown", &request, SHORT).await;
        // Either way it is no more needed.
        answer.ok();
    }
}

/// Kills the shim of the container that has this process: its parent, if that has the container's id among its words. Whether there is one.
pub(crate) fn end(pid: u32, id: &str) -> io::Result<bool> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    let parent = parent.and_then(|parent| parent.trim().parse().ok());
    let Some(parent) = parent.and_then(Pid::from_raw) else {
        return Ok(false);
    };
    // Held first: who has that number from then on is this one, or the words are somebody else's and the signal meets nobody.
    let process = pidfd_open(parent, PidfdFlags::empty())?;
    let words = fs::read(format!("/proc/{}/cmdline", parent.as_raw_nonzero()))?;
    let found = words
        .split(|byte| *byte == 0)
        .any(|word| word == id.as_bytes());
    if found {
        pidfd_send_signal(&process, Signal::KILL)?;
    }
    Ok(found)
}

fn encode(message: &impl Message) -> Result<Vec<u8>> {
    message
        .write_to_bytes()
        .map_err(|error| Fault::unknown(format!("encode a message: {error}")))
}

pub(crate) fn nanoseconds(
    time: &MessageField<protobuf::well_known_types::timestamp::Timestamp>,
) -> i64 {
    time.as_ref().map_or(0, |time| {
        time.seconds * 1_000_000_000 + i64::from(time.nanos)
    })
}

/// Of an error of the runtime, whether it is the program's fault: the only thing that comes through a shim is the text, and these parts of it
/// are what all runtimes agree on, since Docker's client looks for them too.
fn of_program(fault: Fault) -> Fault {
    let has = |words: &[&str]| words.iter().any(|word| fault.text.contains(word));
    let kind = if !has(&["exec", "working directory"]) {
        fault.kind
    } else if has(&[
        "executable file not found",
        "no such file or directory",
        "No such file or directory",
    ]) {
        Kind::NoProgram
    } else if has(&[
        "permission denied",
        "Permission denied",
        "is a directory",
        "Is a directory",
        "exec format error",
        "Exec format error",
    ]) {
        Kind::NotExecutable
    } else {
        fault.kind
    };
    Fault { kind, ..fault }
}
