//! What a client sends on a stream, in the daemon.

use std::time::Duration;

use tokio::runtime::Handle;
use ttrpc::r#async::SSReceiver;
use ttrpc::proto::Codec;

/// ttrpc passes an answer on within moments; a loaded machine has longer ones.
const LINGER: Duration = Duration::from_secs(1);

/// The requests of a stream. They outlive the method that reads them for a moment: to what a client sends while a method fails, ttrpc would
/// answer that the stream is gone, and that can overtake the method's own answer, which says why.
pub(crate) struct Requests<Q: Send + 'static>(Option<SSReceiver<Q>>);

impl<Q: Send + 'static> Requests<Q> {
    pub(crate) fn new(receiver: SSReceiver<Q>) -> Self {
        Self(Some(receiver))
    }
}

impl<Q> Requests<Q>
where
    Q: Codec + Send + 'static,
    <Q as Codec>::E: std::fmt::Display,
{
    /// Nothing at the stream's end.
    pub(crate) async fn next(&mut self) -> ttrpc::Result<Option<Q>> {
        match &mut self.0 {
            Some(receiver) => receiver.recv().await,
            None => Ok(None),
        }
    }
}

impl<Q: Send + 'static> Drop for Requests<Q> {
    fn drop(&mut self) {
        // Without a runtime the daemon ends, and nobody is answered.
        if let (Some(receiver), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(async move {
                tokio::time::sleep(LINGER).await;
                drop(receiver);
            });
        }
    }
}
