//! A shim under test, used as containerd uses it, without containerd: the bundles' directories, `start` and `delete`, a client, and
//! a socket that takes the events.
//!
//! The shim's containers run the runtime under test. When a [`Shim`] is dropped, it and what is left of them is killed.

use crate::bundle::Bundle;
use crate::children::{self, Since};
use crate::runtime::{self, Lines, deadline};
use crate::{host, peer, place};
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::empty::Empty;
use protobuf::{Message, MessageField};
use shim::protos::bootstrap::{BootstrapParams, BootstrapResult, Extension};
use shim::protos::events::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskOOM, TaskPaused,
    TaskResumed, TaskStart,
};
use shim::protos::forward::ForwardRequest;
use shim::protos::forward_ttrpc::{Events, create_events};
use shim::protos::pack;
use shim::protos::runc_options::Options;
use shim::protos::task::{
    ConnectRequest, CreateTaskRequest, DeleteRequest, DeleteResponse, ExecProcessRequest,
    KillRequest, ShutdownRequest, StartRequest, StateRequest, StateResponse, WaitRequest,
};
use shim::protos::task_ttrpc::TaskClient;
use shim::protos::types::Envelope;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use ttrpc::Code;
use ttrpc::r#async::transport::Socket;
use ttrpc::r#async::{Client, Server, TtrpcContext};
use ttrpc::context::{Context, with_timeout};

/// What a call answers: an error is its code and its text.
pub type Answer<T> = Result<T, (Code, String)>;

/// The exit status of a process.
pub type Status = u32;

/// Which of the two protocols of `start` to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// containerd up to 2.2: options on standard input, JSON comes back.
    Json,
    /// containerd from 2.3 on: parameters on standard input, a message comes back.
    Bootstrap,
}

/// A shim that serves, its containers' bundles, and what it has published.
pub struct Shim {
    /// Where the shim listens.
    pub socket: PathBuf,
    /// The serving shim's process.
    pub pid: i32,
    /// Its containers' root file system and configuration.
    pub bundle: Bundle,
    since: Since,
    namespace: String,
    id: String,
    client: TaskClient,
    events: mpsc::Receiver<String>,
    /// What containers write, by their ids.
    outputs: RefCell<HashMap<String, Lines>>,
    asynchronous: tokio::runtime::Runtime,
    _server: Server,
}

impl std::fmt::Debug for Shim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "shim {} at {}", self.pid, self.socket.display())
    }
}

impl Shim {
    /// A shim for a container with this configuration, which is not created yet.
    #[track_caller]
    pub fn start(bundle: Bundle) -> Shim {
        Shim::start_by(Protocol::Bootstrap, bundle)
    }

    /// The same by one of the protocols.
    #[track_caller]
    pub fn start_by(protocol: Protocol, bundle: Bundle) -> Shim {
        let asynchronous = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap_or_else(|error| panic!("start tokio: {error}"));
        let (sender, events) = mpsc::channel();
        let address = bundle.scratch.name("events.sock");
        let server = asynchronous.block_on(take_events(&address, sender));
        let (namespace, id) = (place::unique("ns"), place::unique("shim"));
        prepare(&bundle, &namespace, &id);
        let since = children::now();
        let said = start(protocol, &bundle, &namespace, &id);
        let socket = address_of(protocol, &said);
        let client = asynchronous.block_on(connect(&socket));
        let mut shim = Shim {
            socket,
            pid: 0,
            bundle,
            since,
            namespace,
            id,
            client,
            events,
            outputs: RefCell::default(),
            asynchronous,
            _server: server,
        };
        shim.pid = shim.connected() as i32;
        shim
    }

    /// The id of the container that the shim was started for.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Another bundle beside the first one, with the first's configuration, in its group.
    #[track_caller]
    pub fn sibling(&self) -> String {
        let id = place::unique("shim");
        prepare(&self.bundle, &self.namespace, &id);
        id
    }

    /// `start` for another container: what it says is checked, and the address comes back.
    #[track_caller]
    pub fn start_again(&self, id: &str) -> PathBuf {
        let said = start(Protocol::Bootstrap, &self.bundle, &self.namespace, id);
        address_of(Protocol::Bootstrap, &said)
    }

    /// Runs the action `delete`, as containerd does for a shim that has died.
    #[track_caller]
    pub fn clean_up(&self) -> DeleteResponse {
        let directory = directory(&self.bundle, &self.namespace, &self.id);
        let mut command = command(&self.bundle, &self.namespace, &self.id);
        command.arg("-bundle").arg(&directory).arg("delete");
        let output = run(command.current_dir(&directory), &[], false);
        DeleteResponse::parse_from_bytes(&output)
            .unwrap_or_else(|error| panic!("decode the answer of delete: {error}"))
    }

    /// Kills the serving shim, and waits for its end.
    #[track_caller]
    pub fn crash(&self) {
        host::kill_descendant(self.pid);
        assert!(self.has_ended(), "the shim should have ended");
    }

    /// Waits for the shim's end; false at the deadline.
    pub fn has_ended(&self) -> bool {
        children::wait(self.pid, self.since).is_some()
    }

    /// The directory of a container's bundle.
    pub fn directory(&self, id: &str) -> PathBuf {
        directory(&self.bundle, &self.namespace, id)
    }

    /// Calls a method, with a deadline.
    pub fn call<T>(
        &self,
        call: impl AsyncFnOnce(&TaskClient, Context) -> ttrpc::Result<T>,
    ) -> Answer<T> {
        let limited =
            async { tokio::time::timeout(deadline(), call(&self.client, with_timeout(0))).await };
        let answer = self.asynchronous.block_on(limited);
        answer
            .unwrap_or_else(|_| panic!("no answer within {:?}", deadline()))
            .map_err(|error| match error {
                ttrpc::Error::RpcStatus(status) => (status.code(), status.message),
                other => (Code::UNAVAILABLE, other.to_string()),
            })
    }

    /// Create over a connection of its own, which is closed when `until` comes back, without an answer.
    pub fn create_and_leave(&self, id: &str, until: impl FnOnce()) {
        let (socket, request) = (self.socket.clone(), self.request(id));
        let call = self.asynchronous.spawn(async move {
            let client = connect(&socket).await;
            client.create(with_timeout(0), &request).await.is_ok()
        });
        until();
        call.abort();
        let left = self.asynchronous.block_on(call);
        assert!(left.is_err(), "there was an answer");
    }

    /// Create, with the options that have the shim use the runtime under test.
    pub fn create(&self, id: &str) -> Answer<i32> {
        self.create_with(id, |_| {})
    }

    /// The same, with the request edited.
    pub fn create_with(&self, id: &str, edit: impl FnOnce(&mut CreateTaskRequest)) -> Answer<i32> {
        let mut request = self.request(id);
        edit(&mut request);
        self.outputs
            .borrow_mut()
            .insert(id.to_owned(), output(&request.stdout));
        self.call(async |client, ctx| client.create(ctx, &request).await)
            .map(|response| response.pid as i32)
    }

    /// The next line of what a container that [`Shim::create`] made writes to its standard output.
    #[track_caller]
    pub fn line(&self, id: &str) -> String {
        let mut outputs = self.outputs.borrow_mut();
        let output = outputs.get_mut(id);
        output
            .unwrap_or_else(|| panic!("{id} was not created"))
            .line()
    }

    fn request(&self, id: &str) -> CreateTaskRequest {
        CreateTaskRequest {
            id: id.to_owned(),
            bundle: self.directory(id).display().to_string(),
            stdout: self.directory(id).join("stdout").display().to_string(),
            options: MessageField::some(options(&self.bundle)),
            ..Default::default()
        }
    }

    /// Start; `exec` is empty for init.
    pub fn start_process(&self, id: &str, exec: &str) -> Answer<i32> {
        let request = StartRequest {
            id: id.into(),
            exec_id: exec.into(),
            ..Default::default()
        };
        self.call(async |client, ctx| client.start(ctx, &request).await)
            .map(|response| response.pid as i32)
    }

    /// Exec: registers the probe with these arguments.
    pub fn exec(&self, id: &str, exec: &str, args: &[&str]) -> Answer<()> {
        let mut process = self.bundle.config.0["process"].clone();
        process["args"] = std::iter::once("/bin/probe")
            .chain(args.iter().copied())
            .collect();
        let spec = Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
            value: process.to_string().into_bytes(),
            ..Default::default()
        };
        let request = ExecProcessRequest {
            id: id.into(),
            exec_id: exec.into(),
            spec: MessageField::some(spec),
            ..Default::default()
        };
        self.call(async |client, ctx| client.exec(ctx, &request).await)
            .map(drop)
    }

    /// Kill.
    pub fn kill(&self, id: &str, exec: &str, signal: u32) -> Answer<()> {
        let request = KillRequest {
            id: id.into(),
            exec_id: exec.into(),
            signal,
            ..Default::default()
        };
        self.call(async |client, ctx| client.kill(ctx, &request).await)
            .map(drop)
    }

    /// Wait.
    pub fn wait(&self, id: &str, exec: &str) -> Answer<Status> {
        let request = WaitRequest {
            id: id.into(),
            exec_id: exec.into(),
            ..Default::default()
        };
        self.call(async |client, ctx| client.wait(ctx, &request).await)
            .map(|response| response.exit_status)
    }

    /// State.
    pub fn state(&self, id: &str, exec: &str) -> Answer<StateResponse> {
        let request = StateRequest {
            id: id.into(),
            exec_id: exec.into(),
            ..Default::default()
        };
        self.call(async |client, ctx| client.state(ctx, &request).await)
    }

    /// Delete: pid and exit status.
    pub fn delete(&self, id: &str, exec: &str) -> Answer<(i32, Status)> {
        let request = DeleteRequest {
            id: id.into(),
            exec_id: exec.into(),
            ..Default::default()
        };
        self.call(async |client, ctx| client.delete(ctx, &request).await)
            .map(|response| (response.pid as i32, response.exit_status))
    }

    /// Shutdown; the shim may be gone before it has answered.
    pub fn shutdown(&self) {
        let request = ShutdownRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        self.call(async |client, ctx| client.shutdown(ctx, &request).await)
            .ok();
    }

    /// The shim's pid, by Connect.
    fn connected(&self) -> u32 {
        let request = ConnectRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        let answer = self.call(async |client, ctx| client.connect(ctx, &request).await);
        answer
            .unwrap_or_else(|(code, text)| panic!("Connect: {code:?} {text}"))
            .shim_pid
    }

    /// The next event: its topic and what it is about, `exit web 0`.
    #[track_caller]
    pub fn event(&self) -> String {
        self.events
            .recv_timeout(deadline())
            .unwrap_or_else(|_| panic!("no event within {:?}", deadline()))
    }

    /// As many events.
    #[track_caller]
    pub fn events(&self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.event()).collect()
    }

    /// That nothing else was published. To be asked when the shim has ended, or nothing can come any more.
    #[track_caller]
    pub fn no_more_events(&self) {
        let left: Vec<String> = self.events.try_iter().collect();
        assert!(left.is_empty(), "unexpected: {left:?}");
    }

    /// State, by the name that the service had before version 3.
    #[track_caller]
    pub fn state_by_version_2(&self, id: &str) -> StateResponse {
        let request = StateRequest {
            id: id.into(),
            ..Default::default()
        };
        let request = ttrpc::Request {
            service: "containerd.task.v2.Task".into(),
            method: "State".into(),
            payload: request
                .write_to_bytes()
                .unwrap_or_else(|error| panic!("encode: {error}")),
            ..Default::default()
        };
        let answer = self
            .asynchronous
            .block_on(async { client(&self.socket).await.request(request).await });
        let answer = answer.unwrap_or_else(|error| panic!("State of version 2: {error}"));
        StateResponse::parse_from_bytes(&answer.payload)
            .unwrap_or_else(|error| panic!("decode: {error}"))
    }

    /// Takes over a serving shim that was started in the place of one that is gone.
    #[track_caller]
    pub fn adopt(&mut self) {
        self.since = children::now();
        self.client = self.asynchronous.block_on(connect(&self.socket));
        self.pid = self.connected() as i32;
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        host::kill_descendant(self.pid);
        self.has_ended();
        // A killed one leaves it; one that has ended does not.
        fs::remove_file(&self.socket).ok();
        let tasks = self
            .directory(&self.id)
            .parent()
            .map(Path::to_owned)
            .unwrap_or_default();
        for entry in fs::read_dir(&tasks).into_iter().flatten().flatten() {
            host::clear(&entry.file_name().to_string_lossy());
            // Usually there is no mount.
            nix::mount::umount2(
                &entry.path().join("rootfs"),
                nix::mount::MntFlags::MNT_DETACH,
            )
            .ok();
        }
    }
}

/// containerd's directory for a container.
fn directory(bundle: &Bundle, namespace: &str, id: &str) -> PathBuf {
    bundle.scratch.path().join("tasks").join(namespace).join(id)
}

/// What containerd puts there: the configuration, and the fifo for the log.
#[track_caller]
fn prepare(bundle: &Bundle, namespace: &str, id: &str) {
    let directory = directory(bundle, namespace, id);
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory);
    made.unwrap_or_else(|error| panic!("make {}: {error}", directory.display()));
    let mut config = bundle.config.clone();
    if config
        .0
        .pointer("/root/path")
        .is_some_and(|path| path == "rootfs")
    {
        config.set("/root/path", bundle.rootfs().display().to_string());
    }
    // The harness finds what is left of a container by its id.
    config.set("/linux/cgroupsPath", format!("/{id}"));
    place::write(
        &directory.join("config.json"),
        peer::adapted(&config).0.to_string(),
    );
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
    for name in ["log", "stdout"] {
        nix::unistd::mkfifo(&directory.join(name), mode)
            .unwrap_or_else(|errno| panic!("make the fifo {name}: {errno}"));
    }
}

/// The client's end of a fifo, open before the shim's is, and for writing too: it neither waits for the shim nor sees an end.
#[track_caller]
fn output(fifo: &str) -> Lines {
    let opened = fs::OpenOptions::new().read(true).write(true).open(fifo);
    Lines::new(
        opened
            .unwrap_or_else(|error| panic!("open {fifo}: {error}"))
            .into(),
    )
}

fn command(bundle: &Bundle, namespace: &str, id: &str) -> Command {
    let mut command = Command::new(place::shim());
    command.args([
        "-namespace",
        namespace,
        "-id",
        id,
        "-address",
        "/run/containerd/containerd.sock",
    ]);
    command.args(["-publish-binary", "/usr/bin/containerd"]);
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("TTRPC_ADDRESS", bundle.scratch.name("events.sock"));
    command
}

/// runc's options, with the runtime under test.
fn options(bundle: &Bundle) -> Any {
    let options = Options {
        binary_name: place::runtime().display().to_string(),
        root: bundle.scratch.name("runtimes"),
        ..Default::default()
    };
    pack("containerd.runc.v1.Options", &options)
        .unwrap_or_else(|error| panic!("encode the options: {error}"))
}

/// Runs the action `start`.
#[track_caller]
fn start(protocol: Protocol, bundle: &Bundle, namespace: &str, id: &str) -> Vec<u8> {
    let mut command = command(bundle, namespace, id);
    command
        .arg("start")
        .current_dir(directory(bundle, namespace, id));
    let input = match protocol {
        Protocol::Json => options(bundle).write_to_bytes(),
        Protocol::Bootstrap => BootstrapParams {
            instance_id: id.into(),
            namespace: namespace.into(),
            containerd_ttrpc_address: bundle.scratch.name("events.sock"),
            // A path that fits into an address: the name is a digest. Shims remove it when they end.
            socket_dir: std::env::temp_dir().display().to_string(),
            extensions: vec![Extension {
                value: MessageField::some(options(bundle)),
                ..Default::default()
            }],
            ..Default::default()
        }
        .write_to_bytes(),
    };
    run(
        &mut command,
        &input.unwrap_or_else(|error| panic!("encode: {error}")),
        true,
    )
}

/// Runs a command to the end of its output, as containerd does: it waits until nobody holds the pipe any more.
#[track_caller]
fn run(command: &mut Command, input: &[u8], errors_too: bool) -> Vec<u8> {
    let line = runtime::describe(command);
    let mut stdin = runtime::memory_file();
    let fed = stdin.write_all(input).and_then(|()| stdin.rewind());
    fed.unwrap_or_else(|error| panic!("write the input: {error}"));
    let (reader, writer) = runtime::pipe();
    let errors = runtime::memory_file();
    let stderr = if errors_too {
        writer.try_clone().map(Stdio::from)
    } else {
        Ok(runtime::share(&errors))
    };
    command.stdin(Stdio::from(stdin)).stdout(writer);
    command.stderr(stderr.unwrap_or_else(|error| panic!("duplicate the pipe: {error}")));
    let (pid, since) = children::spawn(command);
    // The writing ends in it.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (mut output, mut reader) = (Vec::new(), File::from(reader));
    let mut buffer = [0; 4096];
    loop {
        assert!(
            runtime::readable(&reader),
            "something holds the output of {line}"
        );
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => output.extend_from_slice(&buffer[..count]),
            Err(error) => panic!("read the output of {line}: {error}"),
        }
    }
    let status = runtime::wait_for(pid, since, &line);
    let said = [
        String::from_utf8_lossy(&output).into_owned(),
        runtime::contents(&errors),
    ]
    .concat();
    assert!(status.success(), "{line}: {status}: {said}");
    output
}

/// The socket's path, out of what `start` said, which must be of the right form.
#[track_caller]
fn address_of(protocol: Protocol, said: &[u8]) -> PathBuf {
    let (version, address, transport) = match protocol {
        Protocol::Json => {
            let said: serde_json::Value = serde_json::from_slice(said)
                .unwrap_or_else(|error| panic!("{:?}: {error}", String::from_utf8_lossy(said)));
            let text = |key: &str| said[key].as_str().unwrap_or_default().to_owned();
            (said["version"].as_i64(), text("address"), text("protocol"))
        }
        Protocol::Bootstrap => {
            let said = BootstrapResult::parse_from_bytes(said)
                .unwrap_or_else(|error| panic!("{:?}: {error}", String::from_utf8_lossy(said)));
            (Some(said.version.into()), said.address, said.protocol)
        }
    };
    let expected = if protocol == Protocol::Json { 2 } else { 3 };
    assert_eq!((version, &*transport), (Some(expected), "ttrpc"));
    let path = address.strip_prefix("unix://");
    path.unwrap_or_else(|| panic!("an address: {address}"))
        .into()
}

async fn connect(socket: &Path) -> TaskClient {
    TaskClient::new(client(socket).await)
}

async fn client(socket: &Path) -> Client {
    let address = format!("unix://{}", socket.display());
    let connected = Socket::connect(&address).await;
    Client::new(connected.unwrap_or_else(|error| panic!("connect to {address}: {error}")))
}

/// Takes events the way containerd does.
async fn take_events(path: &str, sender: mpsc::Sender<String>) -> Server {
    let service = create_events(Arc::new(Taken(Mutex::new(sender))));
    let bound = Server::new().bind(&format!("unix://{path}"));
    let mut server = bound
        .unwrap_or_else(|error| panic!("bind {path}: {error}"))
        .register_service(service);
    server
        .start()
        .await
        .unwrap_or_else(|error| panic!("take events: {error}"));
    server
}

struct Taken(Mutex<mpsc::Sender<String>>);

#[async_trait::async_trait]
impl Events for Taken {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let told = tell(&request.envelope);
        // The test may be over.
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .send(told)
            .ok();
        Ok(Empty::new())
    }
}

/// An event in words. What containerd would refuse is said as well.
fn tell(envelope: &Envelope) -> String {
    fn decoded<M: Message>(event: &Any) -> M {
        M::parse_from_bytes(&event.value)
            .unwrap_or_else(|error| panic!("decode {}: {error}", event.type_url))
    }
    let event = &*envelope.event;
    let Some(topic) = envelope.topic.strip_prefix("/tasks/") else {
        return format!("an odd topic, {}", envelope.topic);
    };
    if envelope.namespace.is_empty() || envelope.timestamp.seconds == 0 {
        return format!("{topic} without namespace or time");
    }
    let about = match event.type_url.as_str() {
        "containerd.events.TaskCreate" => decoded::<TaskCreate>(event).container_id,
        "containerd.events.TaskStart" => decoded::<TaskStart>(event).container_id,
        "containerd.events.TaskExecAdded" => decoded::<TaskExecAdded>(event).exec_id,
        "containerd.events.TaskExecStarted" => decoded::<TaskExecStarted>(event).exec_id,
        "containerd.events.TaskExit" => {
            let exit: TaskExit = decoded(event);
            format!("{} {}", exit.id, exit.exit_status)
        }
        "containerd.events.TaskDelete" => {
            let deleted: TaskDelete = decoded(event);
            format!("{} {}", deleted.container_id, deleted.exit_status)
        }
        "containerd.events.TaskOOM" => decoded::<TaskOOM>(event).container_id,
        "containerd.events.TaskPaused" => decoded::<TaskPaused>(event).container_id,
        "containerd.events.TaskResumed" => decoded::<TaskResumed>(event).container_id,
        other => format!("an odd type, {other}"),
    };
    format!("{topic} {about}")
}
