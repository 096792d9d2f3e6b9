//! What goes through the daemon's interface in pieces: how large they are, and the end that a thread writes to. Used by the daemon and the client.

use std::io::{self, Write};

use tokio::sync::mpsc;

/// Of one message.
pub(crate) const CHUNK: usize = 256 << 10;

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
