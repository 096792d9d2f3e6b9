//! Where output goes, and what becomes of it when it cannot go there. One rule for all:
//!
//! * While somebody has the other end open, nothing is lost: if he is slow, the container waits, as it would with a pipe of its own.
//! * While nobody has, the container does not wait. The newest output that fits goes into the fifo, which is enlarged for that ([`KEPT`]) and
//!   whose next reader gets it; what no longer fits is dropped and counted. A logger that has ended has no next reader: all is dropped.
//! * A client may take [`PATIENCE`] to open its end for the first time; until then, which is when it reads, it counts as a slow one.
//! * What a file does not take (ENOSPC, EIO) is dropped and counted, and the next write is tried again.
//!
//! To tell the second case from the first, the shim keeps only the writer open, which is enough to keep what is in the fifo and to spare
//! a reader that comes back the end of file: EPIPE then says that nobody reads. To write all the same it opens a reader of its own
//! for the moment of writing.
//!
//! Data is moved by splice(2) from pipe to pipe, and otherwise over the stack; none of it is held in memory across a wait, but for the
//! beginning of a line for a log, and that not for long.

use std::future::pending;
use std::io::Result;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{read, write};
use tokio::io::Interest;
use tokio::time::{Instant, timeout_at};

use super::fifo;
use super::log_file::{Lines, Log};
use crate::sys;

/// What a fifo without a reader may hold: the default of /proc/sys/fs/pipe-max-size.
const KEPT: libc::c_int = 1 << 20;
/// How long a client may take to open its end for the first time; as long as containerd's own shim waits.
const PATIENCE: Duration = Duration::from_secs(30);
/// How much is read at once where splice(2) does not do.
const CHUNK: usize = 16 << 10;
/// What a pipe that can be written to takes without remainder (PIPE_BUF).
const ATOMIC: usize = 4 << 10;

/// What becomes of the output of one process, whichever way it goes.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// Bytes that nobody read or that could not be written.
    pub(super) dropped: AtomicU64,
    /// How many of its sinks are full: a client is slow.
    pub(super) full: AtomicUsize,
}

impl Account {
    fn lose(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.dropped.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[derive(Debug)]
pub(super) struct Sink {
    to: To,
    account: Arc<Account>,
}

#[derive(Debug)]
enum To {
    Nowhere,
    File(OwnedFd),
    Log(Lines),
    Pipe(Pipe),
}

#[derive(Debug)]
pub(super) struct Pipe {
    writer: OwnedFd,
    without_reader: WithoutReader,
    expecting: Option<Expecting>,
}

/// While the client is expected to open a fifo.
#[derive(Debug)]
struct Expecting {
    /// Our own, so that there is one.
    _reader: OwnedFd,
    until: Instant,
    /// How many bytes have gone into the fifo: fewer that wait there tell that the client has come.
    put: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WithoutReader {
    Keep,
    Drop,
    End,
}

/// What became of a chance to move data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    Something,
    /// The source is empty.
    Nothing,
    /// The sink is full.
    Full,
    /// There will be no more.
    End,
}

/// What data comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source<'a> {
    Pipe(BorrowedFd<'a>),
    Terminal(BorrowedFd<'a>),
}

impl Sink {
    pub(super) fn nowhere() -> Self {
        Self {
            to: To::Nowhere,
            account: Arc::default(),
        }
    }

    pub(super) fn file(file: OwnedFd, account: &Arc<Account>) -> Self {
        Self {
            to: To::File(file),
            account: account.clone(),
        }
    }

    pub(super) fn log(log: Arc<Mutex<Log>>, stream: &'static str, account: &Arc<Account>) -> Self {
        Self {
            to: To::Log(Lines::new(log, stream)),
            account: account.clone(),
        }
    }

    /// A client's fifo.
    pub(super) fn fifo(ends: fifo::Ends, account: &Arc<Account>) -> Self {
        let expecting = Some(Expecting {
            _reader: ends.reader,
            until: Instant::now() + PATIENCE,
            put: 0,
        });
        let pipe = Pipe {
            writer: ends.writer,
            without_reader: WithoutReader::Keep,
            expecting,
        };
        Self {
            to: To::Pipe(pipe),
            account: account.clone(),
        }
    }

    /// A logger's pipe.
    pub(super) fn logger(writer: OwnedFd, account: &Arc<Account>) -> Self {
        let pipe = Pipe {
            writer,
            without_reader: WithoutReader::Drop,
            expecting: None,
        };
        Self {
            to: To::Pipe(pipe),
            account: account.clone(),
        }
    }

    /// A process's standard input. Its end is the end of copying, which the client then sees as EPIPE.
    pub(super) fn process(writer: OwnedFd) -> Self {
        let pipe = Pipe {
            writer,
            without_reader: WithoutReader::End,
            expecting: None,
        };
        Self {
            to: To::Pipe(pipe),
            account: Arc::default(),
        }
    }

    /// Moves once, without waiting.
    pub(super) fn take(&mut self, source: Source<'_>) -> Moved {
        if let To::Pipe(pipe) = &mut self.to {
            pipe.look_for_reader();
        }
        match (&mut self.to, source) {
            (To::Pipe(pipe), Source::Pipe(fd)) => match pipe.splice(fd) {
                Ok(moved) => moved,
                Err(_) if pipe.without_reader == WithoutReader::End => Moved::End,
                Err(_) => self.copy::<CHUNK>(fd),
            },
            (To::Pipe(pipe), Source::Terminal(fd)) => {
                if pipe.is_full() {
                    Moved::Full
                } else {
                    self.copy::<ATOMIC>(fd)
                }
            }
            (To::Nowhere | To::File(_) | To::Log(_), Source::Pipe(fd)) => self.copy::<CHUNK>(fd),
            (To::Nowhere | To::File(_) | To::Log(_), Source::Terminal(fd)) => {
                let moved = self.copy::<CHUNK>(fd);
                // Somebody may be typing.
                self.flush();
                moved
            }
        }
    }

    /// Waits until the sink may have room, or until its reader has gone.
    pub(super) async fn room(&mut self) {
        self.account.full.fetch_add(1, Ordering::Relaxed);
        if let To::Pipe(pipe) = &mut self.to
            && pipe.room().await.is_err()
        {
            // The kernel has no memory or no watch left for us. The container must not wait for ever.
            self.to = To::Nowhere;
        }
        self.account.full.fetch_sub(1, Ordering::Relaxed);
    }

    fn copy<const SIZE: usize>(&mut self, source: BorrowedFd<'_>) -> Moved {
        let mut buffer = [0; SIZE];
        let data = match read(source, &mut buffer) {
            Ok(0) => return Moved::End,
            Ok(length) => &buffer[..length],
            Err(Errno::EAGAIN) => return Moved::Nothing,
            Err(Errno::EINTR) => return Moved::Something,
            // EIO: nobody has the terminal open any more.
            Err(_) => return Moved::End,
        };
        let lost = match &mut self.to {
            To::Nowhere => 0,
            To::File(file) => data.len() - put(file.as_fd(), data),
            To::Log(lines) => lines.add(data),
            To::Pipe(pipe) => data.len() - pipe.put(data),
        };
        self.account.lose(lost);
        Moved::Something
    }

    /// Comes back if what is held of a line should be written, by [`Sink::flush`].
    pub(super) async fn overdue(&self) {
        match &self.to {
            To::Log(lines) => lines.overdue().await,
            To::Nowhere | To::File(_) | To::Pipe(_) => pending().await,
        }
    }

    pub(super) fn flush(&mut self) {
        if let To::Log(lines) = &mut self.to {
            self.account.lose(lines.flush());
        }
    }
}

/// Copying has ended, or is given up.
impl Drop for Sink {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Pipe {
    /// Whoever has read is no more expected: if he goes, nobody reads.
    fn look_for_reader(&mut self) {
        if let Some(expecting) = &self.expecting
            && let Ok(waiting) = sys::waiting(self.writer.as_fd())
            && usize::try_from(waiting).is_ok_and(|waiting| waiting < expecting.put)
        {
            self.expecting = None;
        }
    }

    fn note(&mut self, put: usize) {
        if let Some(expecting) = &mut self.expecting {
            expecting.put += put;
        }
    }

    /// An error if nobody reads.
    fn splice(&mut self, source: BorrowedFd<'_>) -> std::result::Result<Moved, Errno> {
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
        match splice(source, None, &self.writer, None, 1 << 20, flags) {
            Ok(0) => Ok(Moved::End),
            Ok(length) => {
                self.note(length);
                Ok(Moved::Something)
            }
            Err(Errno::EINTR) => Ok(Moved::Something),
            Err(Errno::EAGAIN) if !is_ready(source, PollFlags::POLLIN) => Ok(Moved::Nothing),
            Err(Errno::EAGAIN) if self.is_full() => Ok(Moved::Full),
            // One of them has changed meanwhile.
            Err(Errno::EAGAIN) => Ok(Moved::Something),
            Err(errno) => Err(errno),
        }
    }

    /// Full, and there is a reader.
    fn is_full(&self) -> bool {
        !is_ready(self.writer.as_fd(), PollFlags::POLLOUT)
    }

    fn put(&mut self, data: &[u8]) -> usize {
        let put = match write(&self.writer, data) {
            Err(Errno::EPIPE) if self.without_reader == WithoutReader::Keep => self.keep(data),
            result => result.unwrap_or(0),
        };
        self.note(put);
        put
    }

    /// Writes although nobody reads.
    fn keep(&self, data: &[u8]) -> usize {
        let Ok(_reader) = fifo::again(self.writer.as_fd(), OFlag::O_RDONLY) else {
            return 0;
        };
        // Not allowed beyond a user's share of such memory (pipe(7)); it holds less then.
        if fcntl(&self.writer, FcntlArg::F_GETPIPE_SZ).is_ok_and(|size| size < KEPT) {
            fcntl(&self.writer, FcntlArg::F_SETPIPE_SZ(KEPT)).ok();
        }
        write(&self.writer, data).unwrap_or(0)
    }

    /// Registered for the wait only: a fifo whose reader has gone and come again would stay "closed" for an `AsyncFd`.
    async fn room(&mut self) -> Result<()> {
        let writer = sys::register(self.writer.try_clone()?, Interest::WRITABLE)?;
        let Some(expecting) = self.expecting.take() else {
            return writer.writable().await.map(drop);
        };
        // The client has read, then, or he has had his time.
        timeout_at(expecting.until, writer.writable())
            .await
            .map_or(Ok(()), |ready| ready.map(drop))
    }
}

/// Writes as much as the file takes.
pub(super) fn put(file: BorrowedFd<'_>, data: &[u8]) -> usize {
    let mut taken = 0;
    while taken < data.len() {
        match write(file, &data[taken..]) {
            Ok(0) => break,
            Ok(length) => taken += length,
            Err(Errno::EINTR) => {}
            Err(_) => break,
        }
    }
    taken
}

/// Also if it has failed or ended (POLLERR, POLLHUP).
fn is_ready(fd: BorrowedFd<'_>, events: PollFlags) -> bool {
    let mut fds = [PollFd::new(fd, events)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}
