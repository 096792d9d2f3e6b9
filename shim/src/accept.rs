//! Connections to the serving shim: whose are accepted, how many there are, and what of their bytes ttrpc must see otherwise.

use std::io::Result;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::{Sleep, sleep};

use crate::log;

/// How long nothing is accepted when the kernel lacks something for it, a descriptor mostly (EMFILE): trying at once would go on for ever.
const PAUSE: Duration = Duration::from_millis(100);

/// How many connections there are.
#[derive(Debug)]
pub(crate) struct Open {
    count: AtomicUsize,
    changes: watch::Sender<()>,
}

impl Open {
    /// `changes` is told of each change.
    pub(crate) fn new(changes: watch::Sender<()>) -> Arc<Self> {
        let count = AtomicUsize::new(0);
        Arc::new(Self { count, changes })
    }

    pub(crate) fn any(&self) -> bool {
        self.count() > 0
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

/// The connections of those who may use the shim: its own user. Others are closed at once.
pub(crate) struct Accepted {
    listener: UnixListener,
    open: Arc<Open>,
    pause: Option<Pin<Box<Sleep>>>,
    services: Services,
}

/// The names of services that there are.
pub(crate) type Services = Arc<[String]>;

impl Accepted {
    pub(crate) fn new(listener: UnixListener, open: Arc<Open>, services: Services) -> Self {
        Self {
            listener,
            open,
            pause: None,
            services,
        }
    }
}

impl Stream for Accepted {
    type Item = Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            let stream = match ready!(self.listener.poll_accept(context)) {
                Ok((stream, _)) => stream,
                Err(error) => {
                    log::warn(&format!("accept a connection: {error}, trying again"));
                    self.pause = Some(Box::pin(sleep(PAUSE)));
                    continue;
                }
            };
            match peer(stream.as_fd()) {
                Ok(uid) if uid == geteuid().as_raw() => {
                    let connection = Connection::new(stream, &self.open, &self.services);
                    return Poll::Ready(Some(Ok(connection)));
                }
                Ok(uid) => log::warn(&format!("refused a connection of uid {uid}")),
                Err(error) => log::warn(&format!("whose connection is it: {error}, ignoring")),
            }
        }
    }
}

fn peer(stream: BorrowedFd<'_>) -> nix::Result<u32> {
    Ok(getsockopt(&stream, PeerCredentials)?.uid())
}

/// One that is counted while it lives.
pub(crate) struct Connection {
    stream: UnixStream,
    open: Arc<Open>,
    frames: Frames,
}

impl Connection {
    fn new(stream: UnixStream, open: &Arc<Open>, services: &Services) -> Self {
        open.count.fetch_add(1, Ordering::Relaxed);
        open.changes.send_replace(());
        Self {
            stream,
            open: open.clone(),
            frames: Frames::new(services.clone()),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.open.count.fetch_sub(1, Ordering::Relaxed);
        self.open.changes.send_replace(());
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.frames.pass(&mut buffer.filled_mut()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Has requests to services that there are not answered with UNIMPLEMENTED, on which containerd falls back to an older service. ttrpc
/// knows that answer for methods only, and would say INVALID_ARGUMENT: such a request is made one to the service with the empty
/// name, which has no methods, by renaming its first field, the service, into one that no request has.
///
/// A request whose first bytes come one by one is passed on as it is.
struct Frames {
    services: Services,
    header: [u8; Self::HEADER],
    /// Of the header.
    known: usize,
    /// Of the message behind the header.
    left: usize,
    at_start: bool,
}

impl Frames {
    /// Length, stream, type and flags.
    const HEADER: usize = 10;
    const REQUEST: u8 = 1;
    /// The tags of fields 1 and 15 with bytes in them.
    const SERVICE: u8 = 1 << 3 | 2;
    const NOTHING: u8 = 15 << 3 | 2;

    fn new(services: Services) -> Self {
        Self {
            services,
            header: [0; Self::HEADER],
            known: 0,
            left: 0,
            at_start: false,
        }
    }

    fn pass(&mut self, mut bytes: &mut [u8]) {
        while let Some(first) = bytes.first().copied() {
            if self.left == 0 {
                self.header[self.known] = first;
                self.known += 1;
                bytes = &mut bytes[1..];
                if self.known == Self::HEADER {
                    let length = self.header[..4].iter();
                    self.left = length.fold(0, |sum, byte| sum << 8 | usize::from(*byte));
                    self.known = 0;
                    self.at_start = self.header[8] == Self::REQUEST;
                }
                continue;
            }
            let (message, rest) = bytes.split_at_mut(self.left.min(bytes.len()));
            if std::mem::take(&mut self.at_start) {
                self.rename(message);
            }
            self.left -= message.len();
            bytes = rest;
        }
    }

    fn rename(&self, message: &mut [u8]) {
        let [tag, length, rest @ ..] = message else {
            return;
        };
        if *tag != Self::SERVICE {
            return;
        }
        // A longer name has a length of more than one byte, and is none of ours either.
        let name = rest.get(..usize::from(*length));
        if name.is_some_and(|name| self.services.iter().all(|known| known.as_bytes() != name)) {
            *tag = Self::NOTHING;
        }
    }
}

#[cfg(test)]
mod tests {
    use protobuf::Message;
    use ttrpc::Request;

    use super::*;

    fn request(service: &str) -> Vec<u8> {
        let request = Request {
            service: service.to_owned(),
            method: "Do".to_owned(),
            ..Request::default()
        };
        let payload = request.write_to_bytes().unwrap();
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes().to_vec();
        frame.extend([0, 0, 0, 1, Frames::REQUEST, 0]);
        frame.extend(payload);
        frame
    }

    fn service(frame: &[u8]) -> String {
        Request::parse_from_bytes(&frame[Frames::HEADER..])
            .unwrap()
            .service
    }

    #[test]
    fn a_service_that_there_is_not_has_no_name() {
        let mut frames = Frames::new([String::from("a.B")].into());
        for (name, seen) in [("a.B", "a.B"), ("a.C", ""), ("a.B", "a.B"), ("", "")] {
            // As ttrpc reads it: the header first. And as one piece with the next.
            let mut frame = request(name);
            let (header, message) = frame.split_at_mut(Frames::HEADER);
            frames.pass(header);
            frames.pass(message);
            assert_eq!(service(&frame), seen);
            let mut two = [request(name), request("a.B")].concat();
            frames.pass(&mut two);
            let length = request(name).len();
            assert_eq!(
                (service(&two[..length]), service(&two[length..])),
                (seen.into(), "a.B".into())
            );
        }
    }
}
