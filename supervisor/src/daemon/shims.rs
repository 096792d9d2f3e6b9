//! What shims tell of their own accord, by containerd's interface for that. Ends are learnt by Wait; the one thing that is only told here
//! is that processes were killed for want of memory.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use protobuf::Message as _;
use protobuf::well_known_types::empty::Empty;
use ttrpc::r#async::{Service, TtrpcContext};

use crate::container::Supervisor;
use crate::shim::nanoseconds;
use ::shim::protos::events::TaskOOM;
use ::shim::protos::forward::ForwardRequest;
use ::shim::protos::forward_ttrpc::{Events, create_events};

struct Taken(Arc<Supervisor>);

pub(super) fn service(supervisor: Arc<Supervisor>) -> HashMap<String, Service> {
    create_events(Arc::new(Taken(supervisor)))
}

#[async_trait]
impl Events for Taken {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let event = request.envelope.event.get_or_default();
        if request.envelope.topic == "/tasks/oom"
            && let Ok(oom) = TaskOOM::parse_from_bytes(&event.value)
            && let Ok(container) = self.0.find(&oom.container_id)
        {
            let at = nanoseconds(&request.envelope.timestamp);
            self.0.told_oom(&container, at).await;
        }
        Ok(Empty::new())
    }
}
