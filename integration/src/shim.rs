//! A shim under test, used as containerd uses it, without containerd: the bundles' directories, `start` and `delete`, a client, and
//! a socket that takes the events.
//!
//! The shim's containers run the runtime under test. When a [`Shim`] is dropped, it and what is left of them is killed.

use crate::bundle::Bundle;
use crate::children::{self, Since};
use crate::runtime::{self, Lines, deadline};
use crate::{host, place};
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use shim::protos::pack;
use shim::protos::runc_options::Options;
use shim::protos::task::{
    ConnectRequest, CreateTaskRequest, DeleteRequest, DeleteResponse, ExecProcessRequest,
    KillRequest, ShutdownRequest, StartRequest, StateRequest, StateResponse, WaitRequest,
};
use shim::protos::task_ttrpc::TaskClient;
use shim::protos::types::RuntimeInfo;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tokio::task::JoinHandle;
use ttrpc::Code;
use ttrpc::r#async::transport::Socket;
use ttrpc::r#async::{Client, Server};
use ttrpc::context::{Context, with_timeout};

mod actions;
mod events;
mod process;
mod sandbox;
mod trouble;

use actions::{
    address_of, client, command, connect, directory, output, parameters, prepare, run, start,
};
use events::{Pace, take_events};

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
    /// The directory of its socket, of its own.
    pub sockets: PathBuf,
    /// The serving shim's process.
    pub pid: i32,
    /// Its containers' root file system and configuration.
    pub bundle: Bundle,
    since: Since,
    /// What it had open when it was started.
    inherited: BTreeMap<i32, String>,
    namespace: String,
    id: String,
    daemon: Option<Daemon>,
    sender: mpsc::Sender<String>,
    events: mpsc::Receiver<String>,
    pace: Arc<Pace>,
    /// What containers write, by their ids.
    outputs: RefCell<HashMap<String, Lines>>,
    /// More of the environment in which shims are started.
    pub environment: Vec<(String, String)>,
    /// A program and arguments that execute it; empty for none.
    pub wrapper: Vec<String>,
    /// What `start` and Create are told: at first that the runtime under test is to be used.
    pub options: Options,
}

/// containerd, as far as a shim sees it: a connection, and a socket that takes events.
struct Daemon {
    asynchronous: tokio::runtime::Runtime,
    /// None while nobody listens.
    client: Option<TaskClient>,
    _server: Server,
}

impl Daemon {
    #[track_caller]
    fn new(address: &str, sender: mpsc::Sender<String>, pace: Arc<Pace>) -> Daemon {
        let asynchronous = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap_or_else(|error| panic!("start tokio: {error}"));
        // Of one that is dead.
        fs::remove_file(address).ok();
        let server = asynchronous.block_on(take_events(address, sender, pace));
        Daemon {
            asynchronous,
            client: None,
            _server: server,
        }
    }
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
        let mut shim = Shim::prepared(bundle);
        shim.launch(protocol);
        shim
    }

    /// All that containerd does before it starts a shim.
    #[track_caller]
    pub fn prepared(bundle: Bundle) -> Shim {
        let (sender, events) = mpsc::channel();
        let pace = Arc::default();
        let (namespace, id) = (place::unique("ns"), place::unique("shim"));
        prepare(&bundle, &namespace, &id);
        // A path that fits into an address: the name is a digest.
        let sockets = std::env::temp_dir().join(place::unique("s"));
        fs::create_dir(&sockets)
            .unwrap_or_else(|error| panic!("make {}: {error}", sockets.display()));
        Shim {
            socket: PathBuf::new(),
            sockets,
            pid: 0,
            since: children::now(),
            inherited: BTreeMap::new(),
            namespace,
            id,
            daemon: Some(Daemon::new(
                &bundle.scratch.name("events.sock"),
                sender.clone(),
                Arc::clone(&pace),
            )),
            sender,
            events,
            pace,
            outputs: RefCell::default(),
            environment: Vec::new(),
            wrapper: Vec::new(),
            options: Options {
                binary_name: place::runtime().display().to_string(),
                root: bundle.scratch.name("runtimes"),
                ..Default::default()
            },
            bundle,
        }
    }

    /// Starts it.
    #[track_caller]
    pub fn launch(&mut self, protocol: Protocol) {
        self.since = children::now();
        let said = start(protocol, self, &self.id);
        self.socket = address_of(protocol, &said);
        self.adopt();
        self.inherited = self.descriptors();
    }

    /// Runs the action `start`, and after this time kills it, or closes all that it could tell the result to. Where it would have
    /// listened is not known then.
    #[track_caller]
    pub fn launch_in_vain(&mut self, after: Duration, kill: bool) {
        self.since = children::now();
        let mut command = self.command(&self.id);
        let (reader, writer) = runtime::pipe();
        let input = parameters(self, &self.id);
        let mut stdin = runtime::memory_file();
        let fed = stdin.write_all(&input).and_then(|()| stdin.rewind());
        fed.unwrap_or_else(|error| panic!("write the input: {error}"));
        command
            .arg("start")
            .current_dir(self.directory(&self.id))
            .stdin(Stdio::from(stdin))
            .stdout(writer)
            .stderr(Stdio::null());
        let (pid, since) = children::spawn(&mut command);
        command.stdout(Stdio::null());
        std::thread::park_timeout(after);
        if kill {
            host::kill_descendant(pid);
        }
        drop(reader);
        assert!(children::wait(pid, since).is_some(), "start does not end");
    }

    fn command(&self, id: &str) -> Command {
        let mut command = command(&self.bundle, &self.namespace, id, &self.wrapper);
        let set = self.environment.iter();
        command.envs(set.map(|(name, value)| (name, value)));
        command
    }

    #[track_caller]
    fn daemon(&self) -> &Daemon {
        self.daemon
            .as_ref()
            .unwrap_or_else(|| panic!("the daemon is dead"))
    }

    /// All that containerd has open goes, as the kernel closes it when it is killed.
    pub fn kill_daemon(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.asynchronous.shutdown_timeout(deadline());
        }
        self.outputs.borrow_mut().clear();
    }

    /// Another containerd, which connects to the shim if that is alive.
    #[track_caller]
    pub fn restart_daemon(&mut self) -> bool {
        self.kill_daemon();
        let address = self.bundle.scratch.name("events.sock");
        let mut daemon = Daemon::new(&address, self.sender.clone(), self.pace.clone());
        let address = format!("unix://{}", self.socket.display());
        let connected = daemon.asynchronous.block_on(Socket::connect(&address));
        let guard = daemon.asynchronous.enter();
        daemon.client = connected
            .ok()
            .map(|socket| TaskClient::new(Client::new(socket)));
        drop(guard);
        let alive = daemon.client.is_some();
        self.daemon = Some(daemon);
        alive
    }

    /// A call that goes on by itself; it says whether it succeeded.
    pub fn begin<F>(&self, call: impl FnOnce(TaskClient) -> F) -> JoinHandle<bool>
    where
        F: Future<Output = bool> + Send + 'static,
    {
        let daemon = self.daemon();
        daemon.asynchronous.spawn(call(self.client()))
    }

    /// Waits for such a call.
    #[track_caller]
    pub fn wait_for(&self, call: JoinHandle<bool>) -> bool {
        let limited = async { tokio::time::timeout(deadline(), call).await };
        let ended = self.daemon().asynchronous.block_on(limited);
        ended
            .unwrap_or_else(|_| panic!("no answer within {:?}", deadline()))
            .unwrap_or_else(|error| panic!("a call: {error}"))
    }

    #[track_caller]
    fn client(&self) -> TaskClient {
        let client = self.daemon().client.clone();
        client.unwrap_or_else(|| panic!("not connected"))
    }

    /// Kills a process of this shim's.
    pub fn kill_process(&self, pid: i32) {
        host::kill_descendant(pid);
    }

    /// How a process ended that was left to the test process, if it was.
    pub fn left_to_us(&self, pid: i32) -> bool {
        children::has_ended(pid, self.since)
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
        let said = start(Protocol::Bootstrap, self, id);
        address_of(Protocol::Bootstrap, &said)
    }

    /// Runs the action `delete`, as containerd does for a shim that has died.
    #[track_caller]
    pub fn clean_up(&self) -> DeleteResponse {
        let directory = directory(&self.bundle, &self.namespace, &self.id);
        let mut command = self.command(&self.id);
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
        let client = self.client();
        let limited =
            async { tokio::time::timeout(deadline(), call(&client, with_timeout(0))).await };
        let answer = self.daemon().asynchronous.block_on(limited);
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
        let call = self.daemon().asynchronous.spawn(async move {
            let client = connect(&socket).await;
            client.create(with_timeout(0), &request).await.is_ok()
        });
        until();
        call.abort();
        let left = self.daemon().asynchronous.block_on(call);
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

    fn any_options(&self) -> Any {
        pack("containerd.runc.v1.Options", &self.options)
            .unwrap_or_else(|error| panic!("encode the options: {error}"))
    }

    /// Runs the action `start` in vain; what it says comes back.
    #[track_caller]
    pub fn launch_fails(&self) -> String {
        let mut command = self.command(&self.id);
        command.arg("start").current_dir(self.directory(&self.id));
        let finished = runtime::finish(command).failure();
        finished.stderr
    }

    /// What `-info` says of the runtime.
    #[track_caller]
    pub fn info(&self) -> RuntimeInfo {
        let mut command = self.command(&self.id);
        command.arg("-info");
        let input = self.any_options().write_to_bytes();
        let input = input.unwrap_or_else(|error| panic!("encode: {error}"));
        let output = run(&mut command, &input, false);
        RuntimeInfo::parse_from_bytes(&output)
            .unwrap_or_else(|error| panic!("decode the answer of -info: {error}"))
    }

    /// The shim's log, from before it is started on.
    #[track_caller]
    pub fn log(&self) -> Lines {
        output(&self.directory(&self.id).join("log").display().to_string())
    }

    /// Another request than those of the task service.
    pub fn request_raw(&self, service: &str, method: &str) -> Answer<Vec<u8>> {
        let request = ttrpc::Request {
            service: service.into(),
            method: method.into(),
            ..Default::default()
        };
        let asked = async { client(&self.socket).await.request(request).await };
        match self.daemon().asynchronous.block_on(asked) {
            Ok(answer) => Ok(answer.payload),
            Err(ttrpc::Error::RpcStatus(status)) => Err((status.code(), status.message)),
            Err(other) => Err((Code::UNAVAILABLE, other.to_string())),
        }
    }

    /// What Create is asked.
    pub fn request(&self, id: &str) -> CreateTaskRequest {
        CreateTaskRequest {
            id: id.to_owned(),
            bundle: self.directory(id).display().to_string(),
            stdout: self.directory(id).join("stdout").display().to_string(),
            options: MessageField::some(self.any_options()),
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

    /// Those that have come, without waiting.
    pub fn events_so_far(&self) -> Vec<String> {
        self.events.try_iter().collect()
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
            .daemon()
            .asynchronous
            .block_on(async { client(&self.socket).await.request(request).await });
        let answer = answer.unwrap_or_else(|error| panic!("State of version 2: {error}"));
        StateResponse::parse_from_bytes(&answer.payload)
            .unwrap_or_else(|error| panic!("decode: {error}"))
    }

    /// Takes over a serving shim that was started in the place of one that is gone.
    #[track_caller]
    pub fn adopt(&mut self) {
        assert!(
            self.restart_daemon(),
            "nobody listens at {}",
            self.socket.display()
        );
        self.pid = self.connected() as i32;
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        if self.pid != 0 {
            host::kill_descendant(self.pid);
            self.has_ended();
        }
        // A killed one leaves it; one that has ended does not.
        fs::remove_file(&self.socket).ok();
        fs::remove_dir_all(&self.sockets).ok();
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
