//! Events for containerd: one spool, in order. An event leaves it when containerd has taken it; while containerd is away it is tried again,
//! for as long as the shim lives. Publishing never waits.
//!
//! Runs in the serving shim. Connects when there is something to say, to the address of TTRPC_ADDRESS; wakes by itself only while
//! something waits, and tries again at once when a client comes to the shim: it mostly is the containerd that was away.
//!
//! * Order: one event is on its way at a time, and the next goes only when it has been taken. containerd may take long: while the
//!   connection stands, its answer will come.
//! * Doubles: only if the connection or the answer was lost on the way, where nobody can know; it has its old timestamp then.
//! * Loss: an event that containerd refuses as invalid would be refused for ever, and is given up. Beyond [`WAITING`] events, the oldest
//!   that is no exit is given up. Exits never are: there are no more of them than processes that ran when containerd went, since
//!   nobody but containerd has new ones made.
//! * What happens over and over without containerd, a container whose processes are killed for want of memory, is one event
//!   while that waits: it says nothing but the container's name.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;
use ttrpc::Code;
use ttrpc::r#async::Client;
use ttrpc::r#async::transport::Socket;
use ttrpc::context::Context;

use crate::lock::lock;
use crate::protos::events::{
    TaskCheckpointed, TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskOOM,
    TaskPaused, TaskResumed, TaskStart,
};
use crate::protos::forward::ForwardRequest;
use crate::protos::forward_ttrpc::EventsClient;
use crate::protos::pack;
use crate::protos::types::Envelope;

/// How many events may wait.
const WAITING: usize = 1024;
/// How long the end of the shim waits for a containerd that is away; of one that is there, for the next event to be taken, and for all.
const AWAY: Duration = Duration::from_secs(2);
const NEXT: Duration = Duration::from_secs(30);
const ALL: Duration = Duration::from_secs(300);
/// How long something else waits for an event that is to come first.
const SETTLING: Duration = Duration::from_secs(2);
/// How long to wait before trying again: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Topics are `/tasks/create` and so on, types `containerd.events.TaskCreate` and so on.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Create(TaskCreate),
    Start(TaskStart),
    ExecAdded(TaskExecAdded),
    ExecStarted(TaskExecStarted),
    Exit(TaskExit),
    Delete(TaskDelete),
    Oom(TaskOOM),
    Paused(TaskPaused),
    Resumed(TaskResumed),
    Checkpointed(TaskCheckpointed),
}

/// A handle; clones are handles of the same spool.
#[derive(Clone, Debug)]
pub(crate) struct Spool {
    waiting: Arc<Mutex<Waiting>>,
    /// None: nobody listens.
    left: Option<watch::Sender<Left>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Left {
    /// How many wait, with the one on its way.
    events: usize,
    /// How many have been taken or given up, ever.
    gone: u64,
    /// Since the last attempt.
    connected: bool,
}

/// Events, and when they were published.
type Waiting = VecDeque<(Event, SystemTime)>;

impl Spool {
    /// Starts the task that forwards. `address` is a path, or `unix://` and a path; empty if nobody listens: events go nowhere then.
    /// `clients` is told when one comes.
    pub(crate) fn new(address: &str, namespace: &str, clients: watch::Sender<()>) -> Self {
        let left = (!address.is_empty()).then(watch::Sender::default);
        let spool = Self {
            waiting: Arc::default(),
            left,
        };
        if let Some(left) = spool.left.clone() {
            let address = PathBuf::from(address.strip_prefix("unix://").unwrap_or(address));
            tokio::spawn(forward(
                address,
                namespace.to_owned(),
                spool.waiting.clone(),
                left,
                clients,
            ));
        }
        spool
    }

    pub(crate) fn publish(&self, event: Event) {
        let Some(left) = &self.left else { return };
        let mut waiting = lock(&self.waiting);
        let before = waiting.len();
        add(&mut waiting, (event, SystemTime::now()));
        let added = waiting.len() - before;
        left.send_modify(|left| left.events += added);
    }

    /// Waits until what has been published up to now has been taken, but not for long: what comes next must come, too.
    pub(crate) async fn settled(&self) {
        let Some(left) = &self.left else { return };
        let mut left = left.subscribe();
        let now = *left.borrow();
        // One that is given up for a newer one is counted as that one.
        let all = now.gone + now.events as u64;
        timeout(SETTLING, left.wait_for(|left| left.gone >= all))
            .await
            .ok();
    }

    /// How many events wait, with the one on its way.
    pub(crate) fn waiting(&self) -> usize {
        self.left.as_ref().map_or(0, |left| left.borrow().events)
    }

    /// Waits until everything has been taken, as long as that is to be expected; before the shim ends.
    pub(crate) async fn flushed(&self) -> bool {
        let Some(left) = &self.left else { return true };
        let mut left = left.subscribe();
        let taken = async {
            loop {
                let now = *left.borrow_and_update();
                let patience = if now.connected { NEXT } else { AWAY };
                if now.events == 0 {
                    return true;
                }
                if timeout(patience, left.changed()).await.is_err() {
                    return false;
                }
            }
        };
        timeout(ALL, taken).await.unwrap_or(false)
    }
}

/// It may take the place of one that waits.
fn add(waiting: &mut Waiting, published: (Event, SystemTime)) {
    if let Event::Oom(oom) = &published.0
        && waiting.iter().any(|(event, _)| matches!(event, Event::Oom(earlier) if earlier.container_id == oom.container_id))
    {
        return;
    }
    if waiting.len() >= WAITING
        && let Some(oldest) = waiting
            .iter()
            .position(|(event, _)| !matches!(event, Event::Exit(_)))
    {
        waiting.remove(oldest);
    }
    waiting.push_back(published);
}

async fn forward(
    address: PathBuf,
    namespace: String,
    waiting: Arc<Mutex<Waiting>>,
    left: watch::Sender<Left>,
    clients: watch::Sender<()>,
) {
    let (mut more, mut come) = (left.subscribe(), clients.subscribe());
    let mut connection = None;
    // The senders are ours, so this is for ever.
    while more.wait_for(|left| left.events > 0).await.is_ok() {
        let next = lock(&waiting).pop_front();
        // No event is as large as protobuf's limit.
        if let Some(request) = next.and_then(|(event, at)| request(event, at, &namespace).ok()) {
            deliver(&address, &mut connection, &request, &left, &mut come).await;
        }
        left.send_modify(|left| {
            left.events -= 1;
            left.gone += 1;
        });
    }
}

/// Until it has been taken or refused.
async fn deliver(
    address: &Path,
    connection: &mut Option<EventsClient>,
    request: &ForwardRequest,
    left: &watch::Sender<Left>,
    come: &mut watch::Receiver<()>,
) {
    let (mut pause, longest) = PAUSE;
    loop {
        come.borrow_and_update();
        let had_connection = connection.is_some();
        let sent = send(address, connection, request, left).await;
        match sent {
            Ok(()) => return,
            Err(ttrpc::Error::RpcStatus(status)) if status.code() == Code::INVALID_ARGUMENT => {
                return;
            }
            // One of before, which containerd's end may have closed.
            Err(_) if had_connection => *connection = None,
            Err(_) => {
                *connection = None;
                note(left, false);
                pause = match timeout(pause, come.changed()).await {
                    Ok(_) => PAUSE.0,
                    Err(_) => longest.min(pause * 2),
                };
            }
        }
    }
}

async fn send(
    address: &Path,
    connection: &mut Option<EventsClient>,
    request: &ForwardRequest,
    left: &watch::Sender<Left>,
) -> ttrpc::Result<()> {
    let client = match connection {
        Some(client) => client,
        None => {
            // Not ttrpc's own way to connect, which blocks while the other's queue is full (unix(7)).
            let stream = UnixStream::connect(address)
                .await
                .map_err(|error| ttrpc::Error::Socket(error.to_string()))?;
            connection.insert(EventsClient::new(Client::new(Socket::new(stream))))
        }
    };
    note(left, true);
    client.forward(Context::default(), request).await.map(drop)
}

fn note(left: &watch::Sender<Left>, connected: bool) {
    left.send_if_modified(|left| std::mem::replace(&mut left.connected, connected) != connected);
}

fn request(event: Event, at: SystemTime, namespace: &str) -> protobuf::Result<ForwardRequest> {
    let (topic, event) = event.packed()?;
    let envelope = Envelope {
        timestamp: MessageField::some(Timestamp::from(at)),
        namespace: namespace.to_owned(),
        topic: topic.to_owned(),
        event: MessageField::some(event),
        ..Envelope::default()
    };
    Ok(ForwardRequest {
        envelope: MessageField::some(envelope),
        ..ForwardRequest::default()
    })
}

impl Event {
    fn packed(&self) -> protobuf::Result<(&'static str, Any)> {
        let (topic, event) = match self {
            Self::Create(event) => ("/tasks/create", pack("containerd.events.TaskCreate", event)),
            Self::Start(event) => ("/tasks/start", pack("containerd.events.TaskStart", event)),
            Self::ExecAdded(event) => (
                "/tasks/exec-added",
                pack("containerd.events.TaskExecAdded", event),
            ),
            Self::ExecStarted(event) => (
                "/tasks/exec-started",
                pack("containerd.events.TaskExecStarted", event),
            ),
            Self::Exit(event) => ("/tasks/exit", pack("containerd.events.TaskExit", event)),
            Self::Delete(event) => ("/tasks/delete", pack("containerd.events.TaskDelete", event)),
            Self::Oom(event) => ("/tasks/oom", pack("containerd.events.TaskOOM", event)),
            Self::Paused(event) => ("/tasks/paused", pack("containerd.events.TaskPaused", event)),
            Self::Resumed(event) => (
                "/tasks/resumed",
                pack("containerd.events.TaskResumed", event),
            ),
            Self::Checkpointed(event) => (
                "/tasks/checkpointed",
                pack("containerd.events.TaskCheckpointed", event),
            ),
        };
        event.map(|event| (topic, event))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use protobuf::Message;
    use protobuf::well_known_types::empty::Empty;
    use ttrpc::r#async::{Server, TtrpcContext};

    use super::*;
    use crate::protos::forward_ttrpc::{Events, create_events};

    /// containerd's end.
    #[derive(Default)]
    struct Taken {
        envelopes: Mutex<Vec<Envelope>>,
        /// How many to refuse before it takes one.
        refusals: AtomicUsize,
        code: Mutex<Code>,
    }

    #[async_trait]
    impl Events for Taken {
        async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
            if self
                .refusals
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(1)
                })
                .is_ok()
            {
                return Err(ttrpc::Error::RpcStatus(ttrpc::get_status(
                    *self.code.lock().unwrap(),
                    "no",
                )));
            }
            self.envelopes
                .lock()
                .unwrap()
                .push(request.envelope.unwrap());
            Ok(Empty::new())
        }
    }

    impl Taken {
        /// The statuses of the exits, in order.
        fn exits(&self) -> Vec<u32> {
            let envelopes = self.envelopes.lock().unwrap();
            let exit = |envelope: &Envelope| {
                TaskExit::parse_from_bytes(&envelope.event.value)
                    .unwrap()
                    .exit_status
            };
            envelopes.iter().map(exit).collect()
        }
    }

    struct Scratch(PathBuf);

    impl Scratch {
        fn new() -> Self {
            Self(nix::unistd::mkdtemp(&std::env::temp_dir().join("caisson-events-XXXXXX")).unwrap())
        }

        fn address(&self) -> String {
            format!("unix://{}/s", self.0.display())
        }

        async fn serve(&self, taken: &Arc<Taken>) -> Server {
            std::fs::remove_file(self.0.join("s")).ok();
            let mut server = Server::new()
                .bind(&self.address())
                .unwrap()
                .register_service(create_events(taken.clone()));
            server.start().await.unwrap();
            server
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn exit(exit_status: u32) -> Event {
        Event::Exit(TaskExit {
            exit_status,
            ..TaskExit::default()
        })
    }

    fn oom(container: &str) -> Event {
        Event::Oom(TaskOOM {
            container_id: container.to_owned(),
            ..TaskOOM::default()
        })
    }

    async fn soon(spool: &Spool, time: Duration) -> bool {
        timeout(time, spool.flushed()).await == Ok(true)
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn events_arrive_in_order_with_what_containerd_demands() {
        let scratch = Scratch::new();
        let taken = Arc::default();
        let mut server = scratch.serve(&taken).await;
        let spool = Spool::new(&scratch.address(), "k8s.io", watch::Sender::default());
        let create = TaskCreate {
            container_id: "c".to_owned(),
            pid: 7,
            ..TaskCreate::default()
        };
        spool.publish(Event::Create(create.clone()));
        spool.publish(Event::Start(TaskStart::default()));
        spool.publish(Event::Delete(TaskDelete::default()));
        assert!(soon(&spool, LONG).await);
        let envelopes = std::mem::take(&mut *taken.envelopes.lock().unwrap());
        let topics: Vec<_> = envelopes
            .iter()
            .map(|envelope| envelope.topic.as_str())
            .collect();
        assert_eq!(topics, ["/tasks/create", "/tasks/start", "/tasks/delete"]);
        assert_eq!(envelopes[0].namespace, "k8s.io");
        assert_eq!(envelopes[0].event.type_url, "containerd.events.TaskCreate");
        assert_eq!(
            TaskCreate::parse_from_bytes(&envelopes[0].event.value).unwrap(),
            create
        );
        let age = SystemTime::now()
            .duration_since(envelopes[0].timestamp.clone().unwrap().into())
            .unwrap();
        assert!(age < LONG);
        server.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn what_is_published_while_containerd_is_away_arrives_once_and_in_order_when_it_is_back()
    {
        let scratch = Scratch::new();
        let taken = Arc::default();
        let spool = Spool::new(&scratch.address(), "ns", watch::Sender::default());
        (0..100).for_each(|status| spool.publish(exit(status)));
        assert!(
            !soon(&spool, Duration::from_millis(100)).await,
            "nobody has taken them"
        );
        let mut server = scratch.serve(&taken).await;
        assert!(soon(&spool, LONG).await);
        // It restarts while the shim is idle, and while it is not.
        server.shutdown().await.unwrap();
        drop(server);
        (100..200).for_each(|status| spool.publish(exit(status)));
        assert!(
            !soon(&spool, Duration::from_millis(100)).await,
            "nobody has taken them"
        );
        let mut server = scratch.serve(&taken).await;
        assert!(soon(&spool, LONG).await);
        assert_eq!(taken.exits(), (0..200).collect::<Vec<_>>());
        server.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn what_waits_for_an_event_goes_on_when_it_is_taken_and_is_not_held_up_for_ever() {
        let scratch = Scratch::new();
        let taken = Arc::new(Taken::default());
        let spool = Spool::new(&scratch.address(), "ns", watch::Sender::default());
        let mut server = scratch.serve(&taken).await;
        spool.publish(exit(1));
        spool.publish(oom("a"));
        timeout(LONG, spool.settled()).await.unwrap();
        assert_eq!(taken.envelopes.lock().unwrap().len(), 2);
        server.shutdown().await.unwrap();
        drop(server);
        spool.publish(oom("a"));
        timeout(LONG, spool.settled()).await.unwrap();
        assert_eq!(spool.waiting(), 1);
    }

    #[tokio::test]
    async fn a_temporary_refusal_keeps_the_order_and_a_final_one_does_not_stop_the_rest() {
        let scratch = Scratch::new();
        let taken = Arc::new(Taken::default());
        let mut server = scratch.serve(&taken).await;
        let spool = Spool::new(&scratch.address(), "ns", watch::Sender::default());
        *taken.code.lock().unwrap() = Code::UNAVAILABLE;
        taken.refusals.store(3, Ordering::Relaxed);
        (0..5).for_each(|status| spool.publish(exit(status)));
        assert!(soon(&spool, LONG).await);
        *taken.code.lock().unwrap() = Code::INVALID_ARGUMENT;
        taken.refusals.store(1, Ordering::Relaxed);
        (5..8).for_each(|status| spool.publish(exit(status)));
        assert!(soon(&spool, LONG).await);
        assert_eq!(taken.exits(), [0, 1, 2, 3, 4, 6, 7]);
        server.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn a_containerd_that_accepts_nobody_does_not_block_the_shim() {
        let scratch = Scratch::new();
        let listener = std::os::unix::net::UnixListener::bind(scratch.0.join("s")).unwrap();
        // No queue at all, and one in it.
        let backlog = nix::sys::socket::Backlog::new(0).unwrap();
        nix::sys::socket::listen(&listener, backlog).unwrap();
        let _first = std::os::unix::net::UnixStream::connect(scratch.0.join("s")).unwrap();
        let spool = Spool::new(&scratch.address(), "ns", watch::Sender::default());
        spool.publish(exit(0));
        assert!(!soon(&spool, Duration::from_millis(100)).await);
    }

    #[tokio::test]
    async fn a_client_of_the_shim_has_waiting_events_tried_again_at_once() {
        let scratch = Scratch::new();
        let taken = Arc::default();
        let clients = watch::Sender::default();
        let spool = Spool::new(&scratch.address(), "ns", clients.clone());
        spool.publish(exit(0));
        // Long enough for pauses to have become longer than what is waited below.
        assert!(!soon(&spool, Duration::from_secs(4)).await);
        let mut server = scratch.serve(&taken).await;
        clients.send_replace(());
        assert!(soon(&spool, Duration::from_secs(2)).await);
        server.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn without_an_address_nothing_waits() {
        let spool = Spool::new("", "ns", watch::Sender::default());
        spool.publish(exit(0));
        assert!(spool.flushed().await);
    }

    #[test]
    fn a_full_spool_gives_up_the_oldest_that_is_no_exit_and_keeps_every_exit() {
        let now = SystemTime::now();
        let mut waiting = Waiting::new();
        add(&mut waiting, (exit(0), now));
        add(&mut waiting, (Event::Paused(TaskPaused::default()), now));
        add(&mut waiting, (Event::Resumed(TaskResumed::default()), now));
        (1..)
            .map(exit)
            .take(WAITING)
            .for_each(|event| add(&mut waiting, (event, now)));
        assert_eq!(waiting.len(), WAITING + 1);
        let statuses = waiting.iter().map(|(event, _)| match event {
            Event::Exit(exit) => exit.exit_status,
            other => panic!("{other:?} is still there"),
        });
        assert!(statuses.eq(0..=u32::try_from(WAITING).unwrap()));
    }

    #[test]
    fn kills_for_want_of_memory_are_one_event_per_container_while_it_waits() {
        let now = SystemTime::now();
        let mut waiting = Waiting::new();
        for event in [oom("a"), oom("b"), oom("a"), exit(1), oom("b")] {
            add(&mut waiting, (event, now));
        }
        assert_eq!(waiting.len(), 3);
    }
}
