//! Numbers for whoever watches the machine: one page in Prometheus' text format, over HTTP, at the address that `--metrics` names; without it
//! nobody listens and nothing is counted but what the daemon knows anyway.
//!
//! Who may connect to a TCP port cannot be said, so only loopback addresses are taken, and all users of the machine can read there how
//! containers are called and what they use. A socket is for those who may use the daemon.

mod page;

use std::collections::VecDeque;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};
use tokio::time::timeout;

use super::accept;
use crate::container::Supervisor;
use crate::fault::{Fault, Result, Tried as _};

/// For a client to ask, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Clients that are answered at a time. More wait.
const MOST: usize = 8;
/// Those that have not asked yet, or wait for their answer. One more takes the place of the one that has for longest: who says nothing keeps
/// nobody out.
const WAITING: usize = 32;
/// A request with all its headers.
const LONGEST: usize = 8 << 10;

/// Where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Address {
    pub(super) fn parse(word: &str) -> Result<Self> {
        let path = word.strip_prefix("unix:");
        let path = path.map(|path| path.strip_prefix("//").unwrap_or(path));
        if let Some(path) = path.filter(|path| path.starts_with('/')) {
            return Ok(Self::Unix(path.into()));
        }
        let address: Option<SocketAddr> = word.parse().ok();
        match address.filter(|address| address.ip().is_loopback()) {
            Some(address) => Ok(Self::Tcp(address)),
            None => Err(Fault::new(format!(
                "--metrics {word}: it is 127.0.0.1:PORT, [::1]:PORT or unix:PATH, as there is no protection but being on this machine"
            ))),
        }
    }

    /// The socket's file, to be removed at the end.
    pub(super) fn file(&self) -> Option<&Path> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(path) => Some(path),
        }
    }
}

/// Listens, and answers in tasks of its own until the daemon ends.
pub(super) async fn serve(
    address: &Address,
    group: Option<u32>,
    supervisor: Arc<Supervisor>,
) -> Result<()> {
    let answering = Arc::new(Answering {
        supervisor,
        since: SystemTime::now(),
        room: Semaphore::new(MOST),
    });
    match address {
        Address::Tcp(address) => {
            let listener = TcpListener::bind(address).await;
            let listener = listener.tried(|| format!("listen on {address}"))?;
            tokio::spawn(accepting(answering, async move || {
                listener.accept().await.map(|(stream, _)| stream)
            }));
        }
        Address::Unix(path) => {
            let listener = accept::bind(path, group)?;
            let listener = UnixListener::from_std(listener)
                .tried(|| format!("listen on {}", path.display()))?;
            tokio::spawn(accepting(answering, async move || {
                listener.accept().await.map(|(stream, _)| stream)
            }));
        }
    }
    Ok(())
}

struct Answering {
    supervisor: Arc<Supervisor>,
    since: SystemTime,
    room: Semaphore,
}

async fn accepting<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    answering: Arc<Answering>,
    mut next: impl AsyncFnMut() -> std::io::Result<S>,
) {
    // Each of them ends when this end of its channel does.
    let mut waiting = VecDeque::with_capacity(WAITING);
    loop {
        match next().await {
            Ok(stream) => {
                waiting.retain(|one: &oneshot::Sender<()>| !one.is_closed());
                if waiting.len() == WAITING {
                    waiting.pop_front();
                }
                let (place, replaced) = oneshot::channel();
                waiting.push_back(place);
                tokio::spawn(attend(answering.clone(), stream, replaced));
            }
            Err(error) => {
                super::warn(&Fault::unknown(format!(
                    "accept who asks for metrics: {error}"
                )));
                // Too many open files, which is over when something ends.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// One that goes, or takes too long, gets no answer and needs no more than that.
async fn attend<S: AsyncRead + AsyncWrite + Unpin>(
    answering: Arc<Answering>,
    mut stream: S,
    replaced: oneshot::Receiver<()>,
) {
    let asked = tokio::select! {
        asked = timeout(PATIENCE, asked(&answering, &mut stream)) => asked.ok().flatten(),
        // Nothing is sent through it.
        _ = replaced => None,
    };
    if let Some((request, _permit)) = asked {
        let answered = timeout(PATIENCE, answer(&answering, &request, stream));
        answered.await.ok();
    }
}

/// The request, when there is room for answering it; none if there is none.
async fn asked<'a>(
    answering: &'a Answering,
    stream: &mut (impl AsyncRead + Unpin),
) -> Option<(Vec<u8>, SemaphorePermit<'a>)> {
    let mut request = vec![];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() > LONGEST || stream.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
    }
    Some((request, answering.room.acquire().await.ok()?))
}

async fn answer(
    answering: &Answering,
    request: &[u8],
    mut stream: impl AsyncWrite + Unpin,
) -> std::io::Result<()> {
    let line = request.split(|byte| *byte == b'\r').next();
    let line = String::from_utf8_lossy(line.unwrap_or_default()).into_owned();
    let mut words = line.split(' ');
    let (method, target) = (words.next(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    let (status, body) = match (method, path) {
        (Some("GET" | "HEAD"), "/metrics") => {
            match page::page(&answering.supervisor, answering.since).await {
                Ok(page) => ("200 OK", page),
                Err(fault) => ("500 Internal Server Error", format!("{fault}\n")),
            }
        }
        (Some("GET" | "HEAD"), _) => ("404 Not Found", "see /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", String::new()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    if method != Some("HEAD") {
        stream.write_all(body.as_bytes()).await?;
    }
    stream.shutdown().await
}

/// The socket's file, if it has one.
pub(super) fn remove(address: &Address) {
    // The next daemon may have removed it.
    address.file().map(fs::remove_file);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_listens_on_this_machine_only() {
        let parse = |word| Address::parse(word).unwrap();
        assert_eq!(parse("unix:/a"), Address::Unix("/a".into()));
        assert_eq!(parse("unix:///a"), Address::Unix("/a".into()));
        assert!(matches!(parse("127.0.0.1:9"), Address::Tcp(_)));
        assert!(matches!(parse("[::1]:9"), Address::Tcp(_)));
        for word in ["0.0.0.0:9", "10.0.0.1:9", "9", ":9", "unix:a", "/a", ""] {
            assert!(Address::parse(word).is_err(), "{word}");
        }
    }
}
