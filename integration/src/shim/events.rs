//! Events of a shim under test, taken the way containerd does, and put into words.

use protobuf::Message;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::empty::Empty;
use shim::protos::events::{
    TaskCheckpointed, TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskOOM,
    TaskPaused, TaskResumed, TaskStart,
};
use shim::protos::forward::ForwardRequest;
use shim::protos::forward_ttrpc::{Events, create_events};
use shim::protos::types::Envelope;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;
use ttrpc::r#async::{Server, TtrpcContext};

/// How events are taken.
#[derive(Default)]
pub(super) struct Pace {
    /// Milliseconds that each takes after it has been noticed.
    pub(super) slowness: AtomicU64,
    /// How many have been taken.
    pub(super) taken: AtomicU64,
}

/// Takes events the way containerd does.
pub(super) async fn take_events(
    path: &str,
    sender: mpsc::Sender<String>,
    pace: Arc<Pace>,
) -> Server {
    let service = create_events(Arc::new(Taken {
        sender: Mutex::new(sender),
        pace,
    }));
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

struct Taken {
    sender: Mutex<mpsc::Sender<String>>,
    pace: Arc<Pace>,
}

#[async_trait::async_trait]
impl Events for Taken {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let told = tell(&request.envelope);
        // The test may be over.
        self.sender
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .send(told)
            .ok();
        let each = Duration::from_millis(self.pace.slowness.load(Ordering::Relaxed));
        if !each.is_zero() {
            tokio::time::sleep(each).await;
        }
        self.pace.taken.fetch_add(1, Ordering::Relaxed);
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
        "containerd.events.TaskCheckpointed" => decoded::<TaskCheckpointed>(event).checkpoint,
        other => format!("an odd type, {other}"),
    };
    format!("{topic} {about}")
}
