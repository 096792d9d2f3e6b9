//! The log of one run of the runtime: what `--log`, `--log-format` and `--log-level` ask for.
//!
//! Lives in the parent only; `main` owns it, lends it to the command and ends it with the command's result. Init does not log.
//!
//! Two readers decide how JSON records are written. containerd decodes the file as a stream of objects and takes the last
//! error; Podman decodes the whole file as one object. So warnings wait until the end: a failure is exactly one object which has
//! them in it, a success is one object for each. Who asks for debug records gets everything at once, as a stream. Every record
//! is one `write` to a file opened for appending, because BuildKit has many containers share one.
//!
//! A probe that fails every few seconds for weeks must not fill /run, where containerd has this file. So a record that would make the
//! file larger than a mebibyte first cuts it down to its last whole records, in place: readers know the file by its name, and other
//! writers have it open, so it can neither be renamed nor be replaced. What is kept and the new record are one `write` to the emptied
//! file, so at every moment the file holds whole records, the newest of this command last. Who cuts has an exclusive lock on the file
//! (flock), and who adds to one that is more than half full a shared one, so that nothing is lost. Whoever may read the file may lock it
//! too, and nobody may keep a command from its work: after a moment it goes on without the lock.

mod service;

use crate::report::{Context, Error, Kind, Result};
use crate::timestamp;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::Mode;
use serde::Serialize;
pub(crate) use service::Protocol;
use service::Service;
use std::cell::RefCell;
use std::fmt::{self, Display};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// How large a log file gets.
const LIMIT: u64 = 1 << 20;

/// How much of it stays when it is cut.
const KEPT: u64 = 1 << 16;

/// How long a command waits for the others.
const PATIENCE: Duration = Duration::from_millis(200);

/// Where the log goes and what it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) to: Destination,
    pub(crate) format: Format,
    /// The least important records that are kept.
    pub(crate) level: Level,
}

/// Where the log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Destination {
    #[default]
    StandardError,
    File(PathBuf),
    /// A log of the system, and the name that the records have there.
    Service(Protocol, String),
}

/// How a record is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Format {
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// How important a record is, the least important first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    Debug,
    #[default]
    Warning,
    Error,
}

impl Level {
    /// As logrus has it.
    fn name(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}

/// The log of this run.
#[derive(Debug)]
pub(crate) struct Log {
    to: Open,
    format: Format,
    level: Level,
    /// The warnings that wait for the end, and when they came.
    waiting: RefCell<Vec<(SystemTime, String)>>,
}

/// A [`Destination`] that can be written to.
#[derive(Debug)]
enum Open {
    StandardError,
    File(File),
    Service(Service),
}

impl Log {
    /// Opens the log, making the file if there is none.
    pub(crate) fn open(settings: &Settings) -> Result<Log> {
        let mut format = settings.format;
        let to = match &settings.to {
            Destination::StandardError => Open::StandardError,
            // The name cannot be opened if standard error is a socket, and errors must not be there twice.
            Destination::File(path) if path == Path::new("/dev/stderr") => Open::StandardError,
            Destination::File(path) => {
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_APPEND | OFlag::O_CLOEXEC;
                let file = open(path, flags, Mode::from_bits_truncate(0o644));
                Open::File(file.context(|| format!("open log {path:?}"))?.into())
            }
            Destination::Service(protocol, name) => {
                format = Format::Text;
                Open::Service(Service::open(*protocol, name)?)
            }
        };
        Ok(Log {
            to,
            format,
            level: settings.level,
            waiting: RefCell::default(),
        })
    }

    /// Something that does not keep the command from succeeding. The text ends in what is done about it: ", ignoring".
    pub(crate) fn warn(&self, message: impl Display) {
        if self.level > Level::Warning {
            return;
        }
        if self.format == Format::Json && self.level > Level::Debug {
            self.waiting
                .borrow_mut()
                .push((SystemTime::now(), message.to_string()));
        } else {
            self.write(&Record::plain(
                Level::Warning,
                message.to_string(),
                SystemTime::now(),
            ));
        }
    }

    /// A warning that somebody should see now, since the command may not end: on standard error too, if it has to wait for the end in the
    /// log. Where the log is standard error, it does not wait.
    pub(crate) fn alert(&self, message: impl Display) {
        let waits = self.format == Format::Json && self.level == Level::Warning;
        if waits && self.is_standard_error() {
            let (text, now) = (message.to_string(), SystemTime::now());
            return self.write(&Record::plain(Level::Warning, text, now));
        }
        if waits {
            io::stderr()
                .write_all(format!("{message}\n").as_bytes())
                .ok(); // nowhere left to say it
        }
        self.warn(message);
    }

    /// Something for whoever looks for a fault. The text is made only if it is wanted.
    pub(crate) fn debug<T: Display>(&self, message: impl FnOnce() -> T) {
        if self.level == Level::Debug {
            self.write(&Record::plain(
                Level::Debug,
                message().to_string(),
                SystemTime::now(),
            ));
        }
    }

    /// Ends the log of a command that succeeded.
    pub(crate) fn succeed(self) {
        for (time, warning) in self.waiting.take() {
            self.write(&Record::plain(Level::Warning, warning, time));
        }
    }

    /// Ends the log of a command that failed. People read standard error even if there is a log file.
    pub(crate) fn fail(self, error: &Error) {
        let warnings = self
            .waiting
            .take()
            .into_iter()
            .map(|(_, warning)| warning)
            .collect();
        let record = Record {
            kind: Some(kind(error.kind())),
            errno: error.errno().map(|errno| errno as i32),
            warnings,
            ..Record::plain(Level::Error, error.to_string(), SystemTime::now())
        };
        self.write(&record);
        if !self.is_standard_error() {
            // There is nowhere left to say that this failed.
            io::stderr().write_all(format!("{error}\n").as_bytes()).ok();
        }
    }

    fn is_standard_error(&self) -> bool {
        matches!(self.to, Open::StandardError)
    }

    fn write(&self, record: &Record) {
        let line = || match self.format {
            Format::Text => format!("{record}\n"),
            Format::Json => match serde_json::to_string(record) {
                Ok(line) => line + "\n",
                // Strings and numbers cannot fail to be JSON; a record is owed in any case.
                Err(_) => format!("{record}\n"),
            },
        };
        // A full disk must not keep the command from doing its work, and a failure is on standard error as well.
        match &self.to {
            Open::StandardError => io::stderr().write_all(line().as_bytes()).ok(),
            Open::File(file) => append(file, line().into_bytes()).ok(),
            Open::Service(service) => service.write(record.level, &record.msg).ok(),
        };
    }
}

/// Writes a record, and cuts the file first if it would get too large. Pipes and terminals have no length.
fn append(mut file: &File, record: Vec<u8>) -> io::Result<()> {
    let length = |file: &File| {
        let metadata = file.metadata()?;
        let length = if metadata.is_file() {
            metadata.len()
        } else {
            0
        };
        Ok::<_, io::Error>(length + record.len() as u64)
    };
    // Nobody cuts a file that is half full, so that only beyond does one have to wait for who does.
    if length(file)? <= LIMIT / 2 {
        return file.write_all(&record);
    }
    let shared = locked(file, FlockArg::LockSharedNonblock);
    if length(file)? <= LIMIT {
        return file.write_all(&record);
    }
    drop(shared);
    let alone = locked(file, FlockArg::LockExclusiveNonblock);
    // Another may have cut it meanwhile.
    if alone.is_none() || length(file)? <= LIMIT {
        return file.write_all(&record);
    }
    cut(file, record)
}

/// Waits for the lock on a log, but not for long. Without /proc, or on a file system without locks, there is none.
fn locked(file: &File, lock: FlockArg) -> Option<Flock<File>> {
    let name = format!("/proc/self/fd/{}", file.as_raw_fd());
    // Opened once more, so that whoever waits is told of the end of the lock by that of the file. (It is unlocked before it is closed.)
    let mut own = File::options().append(true).open(&name).ok()?;
    let deadline = Instant::now() + PATIENCE;
    let mut closed = None;
    loop {
        own = match Flock::lock(own, lock) {
            Ok(locked) => return Some(locked),
            Err((own, Errno::EWOULDBLOCK)) => own,
            Err(_) => return None,
        };
        if let Some(closed) = &closed {
            let left = deadline.checked_duration_since(Instant::now())?;
            wait(closed, left).ok()?;
        } else {
            let new = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok()?;
            new.add_watch(name.as_str(), AddWatchFlags::IN_CLOSE_WRITE)
                .ok()?;
            closed = Some(new);
        }
    }
}

/// Waits for an event.
fn wait(events: &Inotify, timeout: Duration) -> nix::Result<()> {
    let mut ready = [PollFd::new(events.as_fd(), PollFlags::POLLIN)];
    poll(
        &mut ready,
        PollTimeout::try_from(timeout).unwrap_or(PollTimeout::ZERO),
    )?;
    match events.read_events() {
        Err(errno) if errno != Errno::EAGAIN => Err(errno),
        _ => Ok(()),
    }
}

/// Empties the file but for its newest records, and adds one.
fn cut(mut file: &File, record: Vec<u8>) -> io::Result<()> {
    let mut kept = Vec::new();
    // It is open for writing only. Without /proc, what is old goes.
    if let Ok(old) = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())) {
        let length = file.metadata()?.len();
        let start = length.saturating_sub(KEPT);
        kept.resize((length - start) as usize, 0);
        old.read_exact_at(&mut kept, start)?;
        if start > 0 {
            // From the first record that is there as a whole.
            let end = kept.iter().position(|byte| *byte == b'\n');
            kept.drain(..end.map_or(kept.len(), |end| end + 1));
        }
    }
    file.set_len(0)?;
    kept.extend(record);
    file.write_all(&kept)
}

/// The first three keys are those of logrus, which runc writes and engines read; the others are ours.
#[derive(Serialize)]
struct Record {
    level: Level,
    msg: String,
    time: String,
    /// For programs: text is for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno: Option<i32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

impl Record {
    fn plain(level: Level, msg: String, time: SystemTime) -> Record {
        Record {
            level,
            msg,
            time: timestamp::seconds(time),
            kind: None,
            errno: None,
            warnings: Vec::new(),
        }
    }
}

impl Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "time={:?} level={} msg={:?}",
            self.time,
            self.level.name(),
            self.msg
        )
    }
}

/// The kinds of errors as our own shim reads them.
fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Usage => "usage",
        Kind::Invalid => "invalid",
        Kind::NotFound => "notFound",
        Kind::Exists => "exists",
        Kind::State => "state",
        Kind::Unsupported => "unsupported",
        Kind::System => "system",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// What a log file has in it after `work`.
    fn logged(test: &str, format: Format, level: Level, work: impl FnOnce(Log)) -> String {
        let path = std::env::temp_dir().join(format!("caisson-log-{}-{test}", std::process::id()));
        work(
            Log::open(&Settings {
                to: Destination::File(path.clone()),
                format,
                level,
            })
            .unwrap(),
        );
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        text
    }

    fn objects(text: &str) -> Vec<Value> {
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn error() -> Error {
        Error::os("mount \"proc\"", Errno::EPERM)
    }

    #[test]
    fn a_failure_is_one_object_with_the_warnings_in_it() {
        let text = logged("failure", Format::Json, Level::Warning, |log| {
            log.warn("unknown capability 'X', ignoring");
            log.debug(|| "unseen");
            log.fail(&error());
        });
        let object: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(object["level"], "error");
        assert_eq!(object["msg"], "mount \"proc\": operation not permitted");
        assert_eq!(object["kind"], "system");
        assert_eq!(object["errno"], 1);
        assert_eq!(
            object["warnings"],
            serde_json::json!(["unknown capability 'X', ignoring"])
        );
        let time = object["time"].as_str().unwrap();
        assert!(time.len() == 20 && time.ends_with('Z'), "{time}");
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn a_failure_without_warnings_has_none() {
        let text = logged("plain", Format::Json, Level::Warning, |log| {
            log.fail(&Error::invalid("no"))
        });
        let keys: Vec<_> = objects(&text)[0]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        assert_eq!(keys, ["kind", "level", "msg", "time"]);
    }

    #[test]
    fn a_success_is_one_object_for_each_warning() {
        let text = logged("success", Format::Json, Level::Warning, |log| {
            log.warn("one");
            log.warn("two");
            log.succeed();
        });
        let found: Vec<_> = objects(&text)
            .iter()
            .map(|o| (o["level"].clone(), o["msg"].clone()))
            .collect();
        assert_eq!(
            found,
            [
                ("warning".into(), "one".into()),
                ("warning".into(), "two".into())
            ]
        );
        assert_eq!(
            logged("silent", Format::Json, Level::Warning, Log::succeed),
            ""
        );
    }

    #[test]
    fn debugging_makes_it_a_stream() {
        let text = logged("debug", Format::Json, Level::Debug, |log| {
            log.debug(|| "one");
            log.warn("two");
            log.fail(&error());
        });
        let levels: Vec<_> = objects(&text).iter().map(|o| o["level"].clone()).collect();
        assert_eq!(levels, ["debug", "warning", "error"]);
    }

    #[test]
    fn errors_only_means_no_warnings() {
        for format in [Format::Text, Format::Json] {
            let text = logged(&format!("level-{format:?}"), format, Level::Error, |log| {
                log.warn("unseen");
                log.fail(&error());
            });
            assert!(!text.contains("unseen") && text.contains("mount"), "{text}");
        }
    }

    #[test]
    fn text_is_as_runc_writes_it() {
        let text = logged("text", Format::Text, Level::Warning, |log| {
            log.warn("a\nb");
            log.fail(&error());
        });
        let lines: Vec<_> = text
            .lines()
            .map(|line| line.split_once("Z\" ").unwrap())
            .collect();
        assert!(lines.iter().all(|(time, _)| time.starts_with("time=\"2")));
        assert_eq!(lines[0].1, "level=warning msg=\"a\\nb\"");
        assert_eq!(
            lines[1].1,
            "level=error msg=\"mount \\\"proc\\\": operation not permitted\""
        );
    }

    /// A log file with this text in it.
    fn old_log(test: &str, text: &str) -> (PathBuf, Settings) {
        let path = std::env::temp_dir().join(format!("caisson-log-{}-{test}", std::process::id()));
        let mut file = File::create_new(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let settings = Settings {
            to: Destination::File(path.clone()),
            format: Format::Json,
            level: Level::Warning,
        };
        (path, settings)
    }

    fn full() -> String {
        const RECORD: &str =
            "{\"level\":\"error\",\"msg\":\"old\",\"time\":\"2026-01-01T00:00:00Z\"}\n";
        RECORD.repeat(LIMIT as usize / RECORD.len())
    }

    #[test]
    fn a_full_log_is_cut_to_its_last_whole_records() {
        let (path, settings) = old_log("full", &full());
        Log::open(&settings).unwrap().fail(&error());
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            (KEPT / 2..KEPT * 2).contains(&(text.len() as u64)),
            "{}",
            text.len()
        );
        let objects = objects(&text);
        assert_eq!(objects[0]["msg"], "old");
        assert_eq!(objects.last().unwrap()["errno"], 1);
        Log::open(&settings).unwrap().fail(&error());
        let longer = std::fs::read_to_string(&path).unwrap();
        assert!(
            longer.starts_with(&text) && longer.len() > text.len(),
            "it is cut only when it is full"
        );
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn who_finds_the_log_locked_appends() {
        let (path, settings) = old_log("locked", &full());
        let other = File::options().append(true).open(&path).unwrap();
        let lock = Flock::lock(other, FlockArg::LockExclusive).unwrap();
        Log::open(&settings).unwrap().fail(&error());
        assert!(std::fs::metadata(&path).unwrap().len() > LIMIT - KEPT);
        drop(lock);
        Log::open(&settings).unwrap().fail(&error());
        assert!(std::fs::metadata(&path).unwrap().len() < KEPT * 2);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_log_of_one_endless_line_is_emptied() {
        let (path, settings) = old_log("line", &"x".repeat(LIMIT as usize));
        Log::open(&settings).unwrap().fail(&error());
        assert_eq!(objects(&std::fs::read_to_string(&path).unwrap()).len(), 1);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_log_that_cannot_be_opened_is_named() {
        let to = Destination::File("/proc/no/such/log".into());
        let error = Log::open(&Settings {
            to,
            ..Settings::default()
        })
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "open log \"/proc/no/such/log\": no such file or directory"
        );
    }
}
