//! A client of CRI, by which the kubelet drives an engine: gRPC over a Unix socket, and streams over WebSockets.
//!
//! Messages are JSON, with the names of `protos/cri.proto`, which is read when a client is made: it says how they are written.

use crate::runtime::{deadline, readable};
use crate::wire::Schema;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

/// What a call answers: an error is gRPC's code and the text.
pub type Answer = Result<Value, (u32, String)>;

/// The code of a call that took too long.
pub const DEADLINE_EXCEEDED: u32 = 4;

/// An engine's socket.
#[derive(Debug)]
pub struct Cri {
    socket: PathBuf,
    schema: Schema,
    asynchronous: tokio::runtime::Runtime,
}

/// What an engine says of its containers as it happens.
pub struct Events<'cri> {
    cri: &'cri Cri,
    /// What is not answered before there is something to say.
    asked: Option<h2::client::ResponseFuture>,
    body: Option<h2::RecvStream>,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Events<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "events of {}", self.cri.socket.display())
    }
}

impl Cri {
    /// A client of the engine at this socket.
    pub fn new(socket: &Path) -> Cri {
        let asynchronous = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap_or_else(|error| panic!("start tokio: {error}"));
        Cri {
            socket: socket.to_owned(),
            schema: Schema::parse(include_str!("../protos/cri.proto")),
            asynchronous,
        }
    }

    /// Calls a method of the runtime service.
    #[track_caller]
    pub fn call(&self, method: &str, request: &Value) -> Answer {
        let (takes, gives) = self.schema.method(method);
        let bytes = self.schema.encode(takes, request);
        let answer = async {
            let mut body = answered(self.open(method, &bytes).await?).await?;
            let mut buffer = Vec::new();
            while let Some(chunk) = body.data().await {
                let chunk = chunk.map_err(broken)?;
                body.flow_control()
                    .release_capacity(chunk.len())
                    .map_err(broken)?;
                buffer.extend_from_slice(&chunk);
            }
            let trailers = body.trailers().await.map_err(broken)?;
            status(&trailers.unwrap_or_default())?;
            Ok(buffer)
        };
        let limited = async { tokio::time::timeout(deadline(), answer).await };
        let answer = self.asynchronous.block_on(limited);
        let bytes =
            answer.unwrap_or_else(|_| panic!("{method}: no answer within {:?}", deadline()))?;
        let message = unframed(&bytes).unwrap_or_default();
        Ok(self.schema.decode(gives, message))
    }

    /// The same, if it must succeed.
    #[track_caller]
    pub fn done(&self, method: &str, request: &Value) -> Value {
        match self.call(method, request) {
            Ok(answer) => answer,
            Err((code, text)) => panic!("{method} {request}: {code} {text}"),
        }
    }

    /// What happens to containers from now on.
    #[track_caller]
    pub fn events(&self) -> Events<'_> {
        let open = self.open("GetContainerEvents", &[]);
        let asked = self.asynchronous.block_on(open);
        let asked =
            asked.unwrap_or_else(|(code, text)| panic!("GetContainerEvents: {code} {text}"));
        Events {
            cri: self,
            asked: Some(asked),
            body: None,
            buffer: Vec::new(),
        }
    }

    /// Sends a request.
    async fn open(
        &self,
        method: &str,
        message: &[u8],
    ) -> Result<h2::client::ResponseFuture, (u32, String)> {
        let socket = tokio::net::UnixStream::connect(&self.socket)
            .await
            .map_err(broken)?;
        let (client, connection) = h2::client::handshake(socket).await.map_err(broken)?;
        // It ends with the streams.
        tokio::spawn(async move { connection.await.ok() });
        let request = http::Request::post(format!(
            "http://localhost/runtime.v1.RuntimeService/{method}"
        ))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .map_err(broken)?;
        let mut client = client.ready().await.map_err(broken)?;
        let (response, mut stream) = client.send_request(request, false).map_err(broken)?;
        let mut frame = vec![0];
        frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
        frame.extend_from_slice(message);
        stream.send_data(frame.into(), true).map_err(broken)?;
        Ok(response)
    }

    /// Opens the stream that Exec, Attach or PortForward has named.
    #[track_caller]
    pub fn stream(&self, method: &str, request: &Value) -> Stream {
        let answer = self.done(method, request);
        Stream::open(answer["url"].as_str().unwrap_or_default())
    }
}

impl Events<'_> {
    /// Waits until a container has stopped.
    #[track_caller]
    pub fn stopped(&mut self, container: &str) {
        const STOPPED: i64 = 2;
        loop {
            let event = self.next();
            if event["container_id"] == container && event["container_event_type"] == STOPPED {
                return;
            }
        }
    }

    #[track_caller]
    fn next(&mut self) -> Value {
        loop {
            if let Some(message) = unframed(&self.buffer) {
                let event = self.cri.schema.decode("ContainerEventResponse", message);
                self.buffer.drain(..message.len() + 5);
                return event;
            }
            let (asked, body) = (self.asked.take(), &mut self.body);
            let more = async {
                if let Some(asked) = asked {
                    *body = Some(answered(asked).await?);
                }
                match body {
                    Some(body) => body.data().await.transpose().map_err(broken),
                    None => Ok(None),
                }
            };
            let limited = async { tokio::time::timeout(deadline(), more).await };
            match self.cri.asynchronous.block_on(limited) {
                Ok(Ok(Some(chunk))) => {
                    // Without this, containerd would stop once it has sent as much as a window takes.
                    if let Some(body) = &mut self.body {
                        body.flow_control().release_capacity(chunk.len()).ok();
                    }
                    self.buffer.extend_from_slice(&chunk);
                }
                Ok(other) => panic!("the end of events: {other:?}"),
                Err(_) => panic!("no event within {:?}", deadline()),
            }
        }
    }
}

/// Waits for the answer, of which the body is to come.
async fn answered(asked: h2::client::ResponseFuture) -> Result<h2::RecvStream, (u32, String)> {
    let response = asked.await.map_err(broken)?;
    // If there is nothing but a failure, it is told at once.
    status(response.headers())?;
    Ok(response.into_body())
}

/// The first message of a body, if all of it is there.
fn unframed(bytes: &[u8]) -> Option<&[u8]> {
    let length = bytes
        .get(1..5)?
        .iter()
        .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    bytes.get(5..5 + length)
}

/// gRPC's code, in the headers or trailers of an answer.
fn status(headers: &http::HeaderMap) -> Result<(), (u32, String)> {
    let text = |name: &str| {
        let value = headers.get(name).map(http::HeaderValue::as_bytes);
        String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
    };
    match text("grpc-status").parse() {
        Ok(0) | Err(_) => Ok(()),
        Ok(code) => Err((code, text("grpc-message"))),
    }
}

/// An error of the connection, as gRPC's code Unavailable.
fn broken(error: impl std::fmt::Display) -> (u32, String) {
    (14, error.to_string())
}

/// The streams of a process, or of ports: RFC 6455, with the first byte of each message saying which (`v4.channel.k8s.io`).
#[derive(Debug)]
pub struct Stream {
    socket: TcpStream,
}

impl Stream {
    #[track_caller]
    fn open(url: &str) -> Stream {
        let rest = url
            .strip_prefix("http://")
            .unwrap_or_else(|| panic!("a URL: {url}"));
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let socket =
            TcpStream::connect(host).unwrap_or_else(|error| panic!("connect to {host}: {error}"));
        let mut stream = Stream { socket };
        stream.write(
            format!(
                "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: Y2Fpc3Nvbi1pbi10ZXN0cw==\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n"
            )
            .as_bytes(),
        );
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.bytes(1)[0]);
        }
        let head = String::from_utf8_lossy(&head);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        stream
    }

    /// Sends a message on a channel. Of a process, 0 is standard input and 4 the terminal's size.
    #[track_caller]
    pub fn send(&mut self, channel: u8, text: &str) {
        // Binary, whole; masked, by zeros.
        let mut frame = vec![0x82];
        let length = text.len() + 1;
        match u8::try_from(length) {
            Ok(length) if length < 126 => frame.push(0x80 | length),
            _ => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
            }
        }
        frame.extend_from_slice(&[0; 4]);
        frame.push(channel);
        frame.extend_from_slice(text.as_bytes());
        self.write(&frame);
    }

    /// The terminal's size.
    #[track_caller]
    pub fn resize(&mut self, width: u16, height: u16) {
        self.send(4, &json!({ "Width": width, "Height": height }).to_string());
    }

    /// The next message that is not empty: its channel and itself. Nothing at the end.
    #[track_caller]
    pub fn message(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            let head = self.bytes(2);
            let size = match head[1] & 0x7f {
                126 => self.bytes(2),
                127 => self.bytes(8),
                size => vec![size],
            };
            let size = size
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            let message = self.bytes(size);
            match head[0] & 0x0f {
                8 => return None,
                1 | 2 if message.len() > 1 => return Some((message[0], message[1..].to_vec())),
                _ => {}
            }
        }
    }

    /// What comes on a channel until it contains this text.
    #[track_caller]
    pub fn until(&mut self, channel: u8, text: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(text) {
            match self.message() {
                Some((from, bytes)) if from == channel => seen += &String::from_utf8_lossy(&bytes),
                Some((from, bytes)) => panic!("on {from}: {:?}", String::from_utf8_lossy(&bytes)),
                None => panic!("the end before {text:?}, after {seen:?}"),
            }
        }
        seen
    }

    /// How the process ended: a Status of Kubernetes.
    #[track_caller]
    pub fn end(&mut self) -> Value {
        loop {
            match self.message() {
                Some((3, status)) => {
                    return serde_json::from_slice(&status)
                        .unwrap_or_else(|error| panic!("a status: {error}"));
                }
                Some(_) => {}
                None => panic!("the end without a status"),
            }
        }
    }

    #[track_caller]
    fn write(&mut self, bytes: &[u8]) {
        let written = self.socket.write_all(bytes);
        written.unwrap_or_else(|error| panic!("write to the stream: {error}"));
    }

    #[track_caller]
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let (mut bytes, mut filled) = (vec![0; count], 0);
        while filled < count {
            assert!(
                readable(&self.socket),
                "nothing on the stream within {:?}",
                deadline()
            );
            match self.socket.read(&mut bytes[filled..]) {
                Ok(0) => panic!("the end of the stream"),
                Ok(more) => filled += more,
                Err(error) => panic!("read the stream: {error}"),
            }
        }
        bytes
    }
}
