//! What goes through the daemon's interface in pieces: how large they are, and the ends that threads write to and read from. Used by the daemon
//! and the client.

use std::io::{self, Read, Write};

use protobuf::Message;
use tokio::sync::mpsc;
use ttrpc::r#async::{ClientStreamReceiver, ServerStreamSender};

use crate::fault::{Result, Tried as _};
use crate::protos::parts::Part;

/// Of one message.
pub(crate) const CHUNK: usize = 256 << 10;

/// Sends an answer of any size.
pub(crate) async fn answer(to: &ServerStreamSender<Part>, answer: &impl Message) -> Result<()> {
    let encoded = answer.write_to_bytes().tried(|| "encode".into())?;
    for chunk in encoded.chunks(CHUNK) {
        let part = Part {
            data: chunk.to_vec(),
            ..Default::default()
        };
        to.send(&part).await?;
    }
    Ok(())
}

/// Receives what [`answer`] sends.
pub(crate) async fn answered<A: Message>(
    call: impl Future<Output = ttrpc::Result<ClientStreamReceiver<Part>>>,
) -> Result<A> {
    let mut parts = call.await?;
    let mut encoded = vec![];
    while let Some(part) = parts.recv().await? {
        encoded.extend_from_slice(&part.data);
    }
    A::parse_from_bytes(&encoded).tried(|| "decode".into())
}

/// Takes what a thread writes to those who send it. What is buffered goes with `flush`.
pub(crate) struct Outgoing {
    chunks: mpsc::Sender<Vec<u8>>,
    buffer: Vec<u8>,
}

impl Outgoing {
    pub(crate) fn new(chunks: mpsc::Sender<Vec<u8>>) -> Self {
        Self {
            chunks,
            buffer: vec![],
        }
    }
}

impl Write for Outgoing {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(data);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let chunk = std::mem::take(&mut self.buffer);
        if chunk.is_empty() {
            return Ok(());
        }
        self.chunks
            .blocking_send(chunk)
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Gives what comes in to a thread that reads it. Nothing is the end; without that, what came has been cut off, which is an error.
pub(crate) struct Incoming {
    chunks: mpsc::Receiver<Option<Vec<u8>>>,
    rest: Vec<u8>,
    at: usize,
    over: bool,
    total: u64,
    /// Is told how much has been taken, in all.
    taken: Box<dyn Fn(u64) + Send>,
}

impl Incoming {
    pub(crate) fn new(
        chunks: mpsc::Receiver<Option<Vec<u8>>>,
        taken: impl Fn(u64) + Send + 'static,
    ) -> Self {
        Self {
            chunks,
            rest: vec![],
            at: 0,
            over: false,
            total: 0,
            taken: Box::new(taken),
        }
    }
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.rest.len() {
            if self.over {
                return Ok(0);
            }
            match self.chunks.blocking_recv() {
                Some(Some(chunk)) => {
                    self.total += chunk.len() as u64;
                    (self.taken)(self.total);
                    (self.rest, self.at) = (chunk, 0);
                }
                Some(None) => self.over = true,
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let length = buffer.len().min(self.rest.len() - self.at);
        buffer[..length].copy_from_slice(&self.rest[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}
