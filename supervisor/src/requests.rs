//! A client's stream, in the daemon: what he sends, and whether he is still there.

use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use ttrpc::r#async::{SSReceiver, SSSender, ServerStreamSender};
use ttrpc::proto::Codec;

use crate::fault::Result;

/// ttrpc passes an answer on within moments; a loaded machine has longer ones.
const LINGER: Duration = Duration::from_secs(1);
/// Between two looks whether the client is still there.
const ATTENDANCE: Duration = Duration::from_secs(3);

/// The requests of a stream, in their order. That of ttrpc takes a hundred; of more, which its tasks hand over one each, a later one may come
/// first. So they are taken from it as they come, however long the method that reads them takes. How much that is, who sends them limits by
/// what he is told has been taken.
///
/// They outlive that method for a moment: to what a client sends while it fails, ttrpc would answer that the stream is gone, and that can
/// overtake the method's own answer, which says why.
pub(crate) struct Requests<Q>(UnboundedReceiver<ttrpc::Result<Option<Q>>>);

impl<Q> Requests<Q>
where
    Q: Codec + Send + 'static,
    <Q as Codec>::E: std::fmt::Display,
{
    pub(crate) fn new(mut receiver: SSReceiver<Q>) -> Self {
        let (sender, requests) = unbounded_channel();
        tokio::spawn(async move {
            let taking = async {
                loop {
                    let request = receiver.recv().await;
                    let last = !matches!(request, Ok(Some(_)));
                    if sender.send(request).is_err() || last {
                        return;
                    }
                }
            };
            tokio::select! {
                () = taking => {}
                () = sender.closed() => {}
            }
            tokio::time::sleep(LINGER).await;
        });
        Self(requests)
    }

    /// Nothing at the stream's end.
    pub(crate) async fn next(&mut self) -> ttrpc::Result<Option<Q>> {
        self.0.recv().await.unwrap_or(Ok(None))
    }
}

/// Somebody who is answered with a stream.
pub(crate) trait Client {
    /// Sends an empty response.
    fn look(&self) -> impl Future<Output = ttrpc::Result<()>> + Send;
}

impl<P> Client for SSSender<P>
where
    P: Codec + Default + Send + Sync,
    <P as Codec>::E: std::fmt::Display,
{
    async fn look(&self) -> ttrpc::Result<()> {
        self.send(&P::default()).await
    }
}

impl<P> Client for ServerStreamSender<P>
where
    P: Codec + Default + Send + Sync,
    <P as Codec>::E: std::fmt::Display,
{
    async fn look(&self) -> ttrpc::Result<()> {
        self.send(&P::default()).await
    }
}

/// Does it as long as the client is there. ttrpc does not tell those who answer a stream that he has left, and what they wait for may never
/// come. What is sent to him fails then: so an empty response is, now and then.
pub(crate) async fn attended(
    client: &impl Client,
    work: impl Future<Output = Result<()>>,
) -> Result<()> {
    // Beside the work: to one who takes nothing, nothing can be sent either, and the work may end all the same.
    let looking = async {
        let mut looks = tokio::time::interval(ATTENDANCE);
        loop {
            looks.tick().await;
            client.look().await?;
        }
    };
    tokio::select! {
        done = work => done,
        gone = looking => gone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client who takes nothing.
    struct Stuck;

    impl Client for Stuck {
        async fn look(&self) -> ttrpc::Result<()> {
            std::future::pending().await
        }
    }

    #[test]
    fn a_client_who_takes_nothing_does_not_hold_up_the_work() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let work = async {
                // He has been looked for by then.
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
                Ok(())
            };
            let done = tokio::time::timeout(Duration::from_secs(60), attended(&Stuck, work));
            done.await.expect("it should not wait").unwrap();
        });
    }
}
