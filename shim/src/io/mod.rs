//! The standard streams of a container's process: what its runtime command gets, and the copying to and from what the client named.
//!
//! ```text
//! client ── fifo, file, logger ◀── sink ◀── copy ◀── pipe or terminal ── process
//!        ── fifo ────────────────────────▶ copy ──▶ pipe or terminal ──
//! ```
//!
//! Runs in the serving shim. Knows neither containers nor the runtime. Copying never blocks a container because of a reader that is gone,
//! and goes on after a write error: see [`mod@sink`]. Nothing here blocks, but for writing to a file, which the kernel delays when too
//! much of its memory is dirty.

mod console;
mod copy;
mod fifo;
mod log_file;
mod logger;
mod pipe;
mod sink;
mod target;
#[cfg(test)]
mod tests;

use std::fs::{DirBuilder, OpenOptions};
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time;

use self::console::Console;
use self::fifo::Opened;
pub(crate) use self::logger::Stopping;
use self::sink::{Account, Sink};
use self::target::Target;
use crate::error::told;
use crate::lock::lock;
use crate::{log, sys};

/// What a request (Create or Exec) says of the streams: paths or URIs, empty for none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Streams {
    pub(crate) terminal: bool,
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Whose streams they are: for the environment of a logger (`binary://`), the owner of pipes (`io_uid`, `io_gid` of the options),
/// where the console's socket may be, and who is told of a logger that is to end.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    pub(crate) namespace: String,
    pub(crate) container: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) directory: PathBuf,
    pub(crate) stopping: Stopping,
}

/// What becomes descriptors 0, 1 and 2 of the runtime command. With a terminal, /dev/null.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// The streams of one process, from before its creation until its deletion. All methods take `&self`: a call that waits
/// (`drained`) does not keep others (`resize`, `close_stdin`) out. Dropping it ends the copying and closes everything, the
/// console socket included.
#[derive(Debug)]
pub(crate) struct Stdio {
    owner: Owner,
    state: Arc<Mutex<State>>,
    copies: Mutex<JoinSet<()>>,
    /// Who has output to finish, a copy or a logger, holds a receiver.
    outputs: watch::Sender<()>,
    /// Whether the runtime's command has succeeded.
    made: watch::Sender<bool>,
    account: Arc<Account>,
    console: Option<Console>,
    /// Its drop asks the logger to end.
    _logger: Option<logger::Stop>,
}

#[derive(Debug, Default)]
struct State {
    outer: Outer,
    given: bool,
    /// Keeps the end of file from a process whose client has not opened the fifo yet, or has left and may come back.
    stdin_writer: Option<OwnedFd>,
    terminal: Option<Arc<AsyncFd<OwnedFd>>>,
    /// Of a terminal that nobody types to: this is no end.
    typing: Option<watch::Sender<()>>,
    /// As asked for before there was a terminal.
    size: Option<(u16, u16)>,
}

/// What the client named; until copying starts.
#[derive(Debug, Default)]
struct Outer {
    stdin: Option<OwnedFd>,
    stdout: Option<Sink>,
    stderr: Option<Sink>,
}

impl Stdio {
    /// Opens what the request names, or the console socket. Does not hang if the other end of a fifo is never opened.
    pub(crate) async fn open(streams: &Streams, owner: &Owner) -> Result<Self> {
        let (outputs, ended) = watch::channel(());
        let account = Arc::default();
        let mut state = State::default();
        if !streams.stdin.is_empty() {
            let Target::Fifo(path) = Target::parse(&streams.stdin)? else {
                return Err(Error::new(
                    ErrorKind::InvalidInput,
                    format!("stdin '{}': not a fifo", streams.stdin),
                ));
            };
            let ends = fifo::ends(&path)?;
            state.outer.stdin = Some(ends.reader);
            state.stdin_writer = Some(ends.writer);
        }
        let console = streams.terminal.then(|| Console::new(&owner.directory));
        let console = console.transpose()?;
        let logger = state
            .outer
            .name_sinks(streams, owner, &account, ended)
            .await?;
        let state = Arc::new(Mutex::new(state));
        let (copies, owner) = (Mutex::default(), owner.clone());
        Ok(Self {
            owner,
            state,
            copies,
            outputs,
            made: watch::Sender::new(false),
            account,
            console,
            _logger: logger,
        })
    }

    /// The inner ends, for the runtime command; once. They are to be closed here when it has been spawned, so that the end of the
    /// process is the end of its output. Copying to pipes starts; from them when the command has succeeded, or writes more than a pipe holds.
    pub(crate) fn take_inner(&self) -> Result<Inner> {
        let mut state = lock(&self.state);
        if std::mem::replace(&mut state.given, true) {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                "the streams have been given away before",
            ));
        }
        if self.console.is_some() {
            return Ok(Inner {
                stdin: null()?,
                stdout: null()?,
                stderr: null()?,
            });
        }
        let outer = std::mem::take(&mut state.outer);
        let stdin = outer
            .stdin
            .map_or_else(null, |fifo| self.copy_input(fifo))?;
        let stdout = outer
            .stdout
            .map_or_else(null, |sink| self.copy_output(sink))?;
        let stderr = outer
            .stderr
            .map_or_else(null, |sink| self.copy_output(sink))?;
        Ok(Inner {
            stdin,
            stdout,
            stderr,
        })
    }

    /// The path for `--console-socket`, with a terminal.
    pub(crate) fn console_socket(&self) -> Option<&Path> {
        self.console.as_ref().map(Console::path)
    }

    /// To be called when the runtime command has succeeded: takes the terminal from the console socket, and starts to copy.
    pub(crate) async fn start(&self) -> Result<()> {
        self.made.send_replace(true);
        let Some(console) = &self.console else {
            return Ok(());
        };
        let terminal = Arc::new(sys::register(
            console.terminal()?,
            Interest::READABLE | Interest::WRITABLE,
        )?);
        let mut state = lock(&self.state);
        if let Some((width, height)) = state.size.take() {
            sys::tty::set_size(terminal.as_fd(), width, height)?;
        }
        let outer = std::mem::take(&mut state.outer);
        let mut copies = lock(&self.copies);
        let (typing, input) = watch::channel(());
        if let Some(fifo) = outer.stdin {
            let typed = copy::to_terminal(readable(fifo)?, terminal.clone(), typing);
            let state = self.state.clone();
            // The end of what is typed is that of the terminal, which hangs up when nobody has its master any more.
            copies.spawn(async move {
                typed.await;
                lock(&state).terminal = None;
            });
        } else {
            state.typing = Some(typing);
        }
        if let Some(sink) = outer.stdout {
            let output = copy::from_terminal(terminal.clone(), sink, input);
            copies.spawn(until_ended(output, self.outputs.subscribe()));
        }
        state.terminal = Some(terminal);
        Ok(())
    }

    /// Closes the shim's own writer of the stdin fifo, so that the process sees the end when the client's is closed too. Any number of
    /// times, and at any time.
    pub(crate) fn close_stdin(&self) {
        lock(&self.state).stdin_writer = None;
    }

    /// The terminal's size, now or as soon as there is one. Without a terminal, nothing.
    pub(crate) fn resize(&self, width: u16, height: u16) -> Result<()> {
        let mut state = lock(&self.state);
        match &state.terminal {
            Some(terminal) => sys::tty::set_size(terminal.as_fd(), width, height)?,
            None => state.size = Some((width, height)),
        }
        Ok(())
    }

    /// Waits until all output has been copied, and a logger has ended, at most so long. False if the time was over before: something
    /// holds the pipe still, or a live client does not read.
    pub(crate) async fn drained(&self, timeout: Duration) -> bool {
        time::timeout(timeout, self.outputs.closed()).await.is_ok()
    }

    /// Whether a client does not keep up with it now.
    pub(crate) fn waits_for_client(&self) -> bool {
        self.account.full.load(Ordering::Relaxed) > 0
    }

    /// So many bytes of output nobody read, or they could not be written.
    pub(crate) fn dropped(&self) -> u64 {
        self.account.dropped.load(Ordering::Relaxed)
    }

    /// The reader of a pipe that is fed from a client's fifo.
    fn copy_input(&self, fifo: OwnedFd) -> Result<OwnedFd> {
        let (writer, reader) = pipe::to_reader()?;
        pipe::give(&reader, self.owner.uid, self.owner.gid)?;
        lock(&self.copies).spawn(copy::from_pipe(readable(fifo)?, Sink::process(writer)));
        Ok(reader)
    }

    /// The writer of a pipe that is emptied into the sink.
    fn copy_output(&self, sink: Sink) -> Result<OwnedFd> {
        let (reader, writer) = pipe::to_writer()?;
        pipe::give(&writer, self.owner.uid, self.owner.gid)?;
        let output = copy::from_process(readable(reader)?, self.made.subscribe(), sink);
        lock(&self.copies).spawn(until_ended(output, self.outputs.subscribe()));
        Ok(writer)
    }
}

impl Drop for Stdio {
    fn drop(&mut self) {
        let dropped = self.dropped();
        if dropped > 0 {
            let container = &self.owner.container;
            log::warn(&format!(
                "{dropped} bytes of output of '{container}' are lost: not read, or not written"
            ));
        }
    }
}

impl Outer {
    /// A logger or a log takes both streams; with a terminal there is only one.
    async fn name_sinks(
        &mut self,
        streams: &Streams,
        owner: &Owner,
        account: &Arc<Account>,
        ended: watch::Receiver<()>,
    ) -> Result<Option<logger::Stop>> {
        if streams.stdout.is_empty() {
            // A terminal that nobody reads would block the process.
            self.stdout = streams.terminal.then(Sink::nowhere);
        } else {
            match Target::parse(&streams.stdout)? {
                Target::Logger(logger) => {
                    let running = logger::start(&logger, owner, ended).await?;
                    self.stdout = Some(Sink::logger(running.stdout, account));
                    self.stderr =
                        (!streams.terminal).then(|| Sink::logger(running.stderr, account));
                    return Ok(Some(running.stop));
                }
                Target::Log(target) => {
                    let log = Arc::new(Mutex::new(log_file::Log::open(&target)?));
                    self.stdout = Some(Sink::log(log.clone(), "stdout", account));
                    self.stderr = (!streams.terminal).then(|| Sink::log(log, "stderr", account));
                    return Ok(None);
                }
                target => self.stdout = Some(sink(&target, account)?),
            }
        }
        if !streams.terminal && !streams.stderr.is_empty() {
            self.stderr = Some(sink(&Target::parse(&streams.stderr)?, account)?);
        }
        Ok(None)
    }
}

fn sink(target: &Target, account: &Arc<Account>) -> Result<Sink> {
    match target {
        Target::Fifo(path) => Ok(opened(fifo::opened(path)?, account)),
        Target::File(path) => {
            make(path)?;
            Ok(opened(fifo::opened(path)?, account))
        }
        Target::Logger(_) | Target::Log(_) => Err(Error::new(
            ErrorKind::InvalidInput,
            "a logger for stderr only",
        )),
    }
}

fn opened(opened: Opened, account: &Arc<Account>) -> Sink {
    match opened {
        Opened::Fifo(ends) => Sink::fifo(ends, account),
        Opened::Other(file) => Sink::file(file, account),
    }
}

/// Makes the file and its directories if there is nothing. What there is may be something whose opening waits.
fn make(path: &Path) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let made = path.parent().map_or(Ok(()), |parent| {
        DirBuilder::new().recursive(true).mode(0o755).create(parent)
    });
    let file = made.and_then(|()| {
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o644)
            .open(path)
    });
    file.map(drop)
        .map_err(|error| told(format_args!("make {}", path.display()), error))
}

fn null() -> Result<OwnedFd> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/null");
    file.map(OwnedFd::from)
        .map_err(|error| told("open /dev/null", error))
}

fn readable(fd: OwnedFd) -> Result<AsyncFd<OwnedFd>> {
    sys::register(fd, Interest::READABLE)
}

async fn until_ended(output: impl Future<Output = ()>, _ended: watch::Receiver<()>) {
    output.await;
}
