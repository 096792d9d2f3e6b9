//! A log that the shim writes itself: `log:///path?max-size=BYTES&max-files=COUNT`. Lines are those of Docker's json-file, an object with
//! `log`, `stream` and `time` each, and the file is rotated: `path` is the newest, then `path.1`, `path.2` and so on.
//!
//! A line is one record, as whoever ships such logs expects, and a file begins with a whole one. Of a line that is not finished a part is a
//! record without a line feed, as with Docker: of a terminal at once, otherwise if nothing follows for [`PAUSE`] or it is as long as [`LINE`].
//! What the disk did not take leaves a record behind as soon as it takes something again: without a text, and with how many bytes that was, `lost`.
//! Exact: a byte that is not UTF-8 is the lone surrogate U+DC00 plus that byte, so that a reader gets back what was written.
//!
//! A file that some of the [`readers`] are at does not go: the newest one grows meanwhile, by [`WAITED`] bytes at most.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::future::pending;
use std::io::{self, Result};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep_until};

use super::sink::put;
use crate::error::told;
use crate::lock::lock;
use crate::readers;
use crate::timestamp;

/// All of them are renamed where everybody's output waits, and their reader looks for no more.
const MOST_FILES: u32 = 1000;
/// How long the rest of a line is waited for: longer than a program that writes much takes from one write to the next, and less than anybody
/// minds who is to answer a question.
const PAUSE: Duration = Duration::from_millis(100);
/// How much of a line is kept until its rest comes; as much as Docker.
const LINE: usize = 16 << 10;
/// By how much the newest file may be too long for a reader who is late. Files are rotated faster than a process that has lost its CPU for a
/// moment can open them, and one that is stopped does not open any.
const WAITED: u64 = 256 << 20;
/// How much is written at once, if one record is not more.
const BLOCK: usize = 16 << 10;
/// Ends a line of which a part could not be written: however short it is, a line with a zero is no record, and nothing that others wrote.
const TORN: &str = "\0\n";
/// What a record may lack and still say all: the end of its line.
const CLOSING: usize = "}\n".len();

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) path: PathBuf,
    pub(super) max_size: u64,
    pub(super) max_files: u32,
}

/// Of one container, for both of its streams.
#[derive(Debug)]
pub(super) struct Log {
    target: Target,
    file: File,
    size: u64,
    /// The file ends in the middle of a line, after a write that failed or a shim that was killed.
    torn: bool,
    /// Bytes of lines that are not in the log, of which it does not tell yet.
    lost: usize,
}

impl Log {
    pub(super) fn open(target: &Target) -> Result<Self> {
        let failed = |error| told(format_args!("open {}", target.path.display()), error);
        let (file, size) = open(&target.path).map_err(failed)?;
        let mut last = [b'\n'];
        if size > 0 {
            file.read_exact_at(&mut last, size - 1).map_err(failed)?;
        }
        Ok(Self {
            target: target.clone(),
            file,
            size,
            torn: last != [b'\n'],
            lost: 0,
        })
    }

    /// How many bytes could not be written, at least not so much of their records that a reader gets them.
    fn append(&mut self, data: &[u8], stream: &str) -> usize {
        let time = timestamp::text(SystemTime::now());
        let (mut rest, mut lost) = (data, 0);
        while !rest.is_empty() {
            let (mut text, length) = self.block(rest, stream, &time);
            let is_full = self.size > 0 && self.size + text.len() as u64 > self.target.max_size;
            // Without room for another file there is none for the old one either; it goes on as it is.
            if is_full && self.rotate().unwrap_or(false) {
                continue;
            }
            let (now, later) = rest.split_at(length);
            if self.lost > 0 {
                text.insert_str(0, &hole(self.lost, stream, &time));
            }
            let lost_now = length - self.write(text, now);
            self.lost += lost_now;
            lost += lost_now;
            rest = later;
        }
        lost
    }

    /// The records of as many lines as fit into the file, or else of one; and how long these lines are.
    fn block(&self, data: &[u8], stream: &str, time: &str) -> (String, usize) {
        let (mut text, mut length) = (String::new(), 0);
        for line in data.split_inclusive(|byte| *byte == b'\n') {
            let before = text.len();
            record(&mut text, line, stream, time);
            let fits = self.size + text.len() as u64 <= self.target.max_size;
            let is_too_long = self.size > self.target.max_size;
            if (text.len() > BLOCK || !fits && !is_too_long) && length > 0 {
                text.truncate(before);
                break;
            }
            length += line.len();
        }
        (text, length)
    }

    /// How many bytes of these lines a reader gets. The text is a record for each of them, after that of a [`hole`] if there is one to tell of.
    fn write(&mut self, mut text: String, lines: &[u8]) -> usize {
        let before = usize::from(self.torn) + usize::from(self.lost > 0);
        if self.torn {
            text.insert_str(0, TORN);
        }
        let written = put(self.file.as_fd(), text.as_bytes());
        self.size = self
            .file
            .metadata()
            .map_or(self.size + text.len() as u64, |file| file.len());
        let lacking = text.len() - written;
        // It cannot be cut off: somebody may have read it already.
        self.torn = lacking > 0 && (self.torn || written > 0);
        let said = &text.as_bytes()[..text.len().min(written + CLOSING)];
        let records = said.iter().filter(|byte| **byte == b'\n').count();
        if records >= before {
            self.lost = 0;
        }
        let lines = lines.split_inclusive(|byte| *byte == b'\n');
        lines
            .take(records.saturating_sub(before))
            .map(<[u8]>::len)
            .sum()
    }

    /// Whether there is a new file.
    fn rotate(&mut self) -> Result<bool> {
        let path = &self.target.path;
        let name = |number: u32| match number {
            0 => path.clone(),
            _ => PathBuf::from(format!("{}.{number}", path.display())),
        };
        let mut oldest = self.target.max_files.clamp(1, MOST_FILES) - 1;
        if is_read(&name(oldest.max(1))) && self.size < self.target.max_size + WAITED {
            return Ok(false);
        }
        if oldest == 0 {
            if is_read(path) {
                // It is the one before until its reader has gone on to the next.
                oldest = 1;
            } else {
                fs::remove_file(path)?;
                if_there(fs::remove_file(name(1)))?;
            }
        }
        for number in (0..oldest).rev() {
            if_there(fs::rename(name(number), name(number + 1)))?;
        }
        (self.file, self.size) = open(path)?;
        self.torn = false;
        Ok(true)
    }
}

/// One stream's way into the log.
#[derive(Debug)]
pub(super) struct Lines {
    log: Arc<Mutex<Log>>,
    stream: &'static str,
    /// The beginning of a line, until when its rest is waited for.
    begun: Vec<u8>,
    until: Instant,
}

impl Lines {
    pub(super) fn new(log: Arc<Mutex<Log>>, stream: &'static str) -> Self {
        Self {
            log,
            stream,
            begun: Vec::new(),
            until: Instant::now(),
        }
    }

    /// How many bytes of this, or of what came before, are lost.
    pub(super) fn add(&mut self, data: &[u8]) -> usize {
        if self.begun.is_empty() {
            self.until = Instant::now() + PAUSE;
        }
        let end = data.iter().rposition(|byte| *byte == b'\n');
        let (ended, begun) = data.split_at(end.map_or(0, |end| end + 1));
        let mut lost = 0;
        if !ended.is_empty() {
            if self.begun.is_empty() {
                lost = lock(&self.log).append(ended, self.stream);
            } else {
                self.begun.extend_from_slice(ended);
                lost = self.flush();
            }
            self.until = Instant::now() + PAUSE;
        }
        self.begun.extend_from_slice(begun);
        if self.begun.len() >= LINE {
            lost += self.flush();
        }
        lost
    }

    /// Comes back when no more of a line that has been begun is waited for.
    pub(super) async fn overdue(&self) {
        if self.begun.is_empty() {
            pending().await
        } else {
            sleep_until(self.until).await
        }
    }

    /// Writes what is there of a line. How many bytes are lost.
    pub(super) fn flush(&mut self) -> usize {
        // Most lines end with what is read at once: nothing is kept for the next one.
        let begun = std::mem::take(&mut self.begun);
        lock(&self.log).append(&begun, self.stream)
    }
}

fn is_read(path: &Path) -> bool {
    open_to(path, OpenOptions::new().read(true)).is_ok_and(|(file, _)| readers::are_at(&file))
}

/// That there is no such file is as good.
fn if_there(done: Result<()>) -> Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn open(path: &Path) -> Result<(File, u64)> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o640);
    open_to(path, &mut options)
}

/// And how long it is.
fn open_to(path: &Path, options: &mut OpenOptions) -> Result<(File, u64)> {
    // Should it be no file, nobody waits for who reads it.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = options.custom_flags(flags).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

fn record(into: &mut String, data: &[u8], stream: &str, time: &str) {
    into.push_str("{\"log\":\"");
    for chunk in data.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' => into.push_str("\\\""),
                '\\' => into.push_str("\\\\"),
                '\n' => into.push_str("\\n"),
                '\r' => into.push_str("\\r"),
                '\t' => into.push_str("\\t"),
                // Writing to a string cannot fail.
                '\0'..='\x1f' => {
                    write!(into, "\\u{:04x}", u32::from(character)).unwrap_or_default()
                }
                _ => into.push(character),
            }
        }
        for byte in chunk.invalid() {
            write!(into, "\\udc{byte:02x}").unwrap_or_default();
        }
    }
    into.push_str("\",\"stream\":\"");
    into.push_str(stream);
    into.push_str("\",\"time\":\"");
    into.push_str(time);
    into.push_str("\"}\n");
}

/// The record of what is not there.
fn hole(bytes: usize, stream: &str, time: &str) -> String {
    format!("{{\"log\":\"\",\"stream\":\"{stream}\",\"time\":\"{time}\",\"lost\":{bytes}}}\n")
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of the test's own")]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("shim-log-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).ok();
        }
    }

    #[test]
    fn times_are_dates() {
        let at = |seconds| timestamp::text(UNIX_EPOCH + Duration::new(seconds, 5));
        // date -u -d @SECONDS +%FT%TZ
        assert_eq!(at(0), "1970-01-01T00:00:00.000000005Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000000005Z");
        assert_eq!(at(1_795_679_999), "2026-11-26T07:59:59.000000005Z");
        assert_eq!(at(4_107_542_399), "2100-02-28T23:59:59.000000005Z");
    }

    #[test]
    fn records_are_json_and_exact() {
        let mut text = String::new();
        record(&mut text, "a\"\\\t\x01ü\n".as_bytes(), "stdout", "T");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["log"], "a\"\\\t\u{1}ü\n");
        text.clear();
        record(&mut text, b"a\xff\xc3", "stderr", "T");
        assert_eq!(
            text,
            "{\"log\":\"a\\udcff\\udcc3\",\"stream\":\"stderr\",\"time\":\"T\"}\n"
        );
    }

    #[test]
    fn a_full_file_makes_room_for_the_next_and_the_oldest_goes() {
        let scratch = Scratch::new("rotate");
        let path = scratch.0.join("log");
        let target = Target {
            path: path.clone(),
            max_size: 170,
            max_files: 3,
        };
        let mut log = Log::open(&target).unwrap();
        for number in 0..8 {
            let line = format!("line {number}\n");
            assert_eq!(log.append(line.as_bytes(), "stdout"), 0);
        }
        let read = |name: &str| fs::read_to_string(scratch.0.join(name)).unwrap();
        assert!(read("log").contains("line 7"));
        assert!(read("log.1").contains("line 5") && read("log.2").contains("line 3"));
        assert!(!scratch.0.join("log.3").exists());
    }

    #[test]
    fn what_a_reader_has_not_got_to_stays_until_he_does() {
        for max_files in [1, 2] {
            let scratch = Scratch::new("reader");
            let target = Target {
                path: scratch.0.join("log"),
                max_size: 1,
                max_files,
            };
            let mut log = Log::open(&target).unwrap();
            let mut write = |lines: std::ops::Range<i32>| {
                for number in lines {
                    assert_eq!(log.append(format!("{number}\n").as_bytes(), "stdout"), 0);
                }
            };
            let files = || fs::read_dir(&scratch.0).unwrap().count();
            let lines = |name: &str| {
                let text = fs::read_to_string(scratch.0.join(name)).unwrap();
                text.lines().count()
            };
            let locked = || {
                let reader = File::open(&target.path).unwrap();
                readers::begin(&reader).unwrap();
                reader
            };
            write(0..3);
            assert_eq!((files(), lines("log")), (max_files as usize, 1));
            let first = locked();
            write(3..6);
            // The one that he is at, and what comes after it.
            assert_eq!((lines("log.1"), lines("log")), (1, 3));
            let second = locked();
            drop(first);
            write(6..9);
            assert_eq!((files(), lines("log.1"), lines("log")), (2, 3, 3));
            drop(second);
            write(9..10);
            assert_eq!((files(), lines("log")), (max_files as usize, 1));
        }
    }

    #[test]
    fn a_line_is_a_record_however_it_comes_and_no_file_begins_within_one() {
        let scratch = Scratch::new("lines");
        let target = Target {
            path: scratch.0.join("log"),
            max_size: 1000,
            max_files: 100,
        };
        let log = Arc::new(Mutex::new(Log::open(&target).unwrap()));
        let mut lines = Lines::new(log, "stdout");
        let numbers: String = (0..200).map(|number| format!("{number}\n")).collect();
        for piece in numbers.as_bytes().chunks(37) {
            assert_eq!(lines.add(piece), 0);
        }
        lines.add(b"no end");
        assert_eq!(lines.flush(), 0);
        let mut files: Vec<_> = fs::read_dir(&scratch.0).unwrap().flatten().collect();
        assert!(files.len() > 10);
        files.sort_by_key(|file| {
            let number = file.path().extension()?.to_str()?.parse::<i32>().ok();
            number.map(|number| -number)
        });
        files.rotate_left(1);
        let text: String = files
            .iter()
            .map(|file| fs::read_to_string(file.path()).unwrap())
            .collect();
        let seen = text.lines().map(|line| {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            record["log"].as_str().unwrap().to_owned()
        });
        let expected = (0..200).map(|number| format!("{number}\n"));
        assert!(seen.eq(expected.chain(["no end".into()])), "{text}");
    }

    #[test]
    fn a_line_without_end_is_written_in_parts() {
        let scratch = Scratch::new("endless");
        let target = Target {
            path: scratch.0.join("log"),
            max_size: 1 << 20,
            max_files: 2,
        };
        let log = Arc::new(Mutex::new(Log::open(&target).unwrap()));
        let mut lines = Lines::new(log, "stdout");
        for _ in 0..40 {
            assert_eq!(lines.add(&[b'x'; 1000]), 0);
        }
        assert_eq!(lines.begun.len(), 40_000 % 17_000);
        let text = fs::read_to_string(&target.path).unwrap();
        assert_eq!(text.lines().count(), 2);
    }

    #[test]
    fn more_files_than_anybody_reads_are_as_many_as_somebody_does() {
        let scratch = Scratch::new("many");
        let target = Target {
            path: scratch.0.join("log"),
            max_size: 1,
            max_files: u32::MAX,
        };
        let mut log = Log::open(&target).unwrap();
        for _ in 0..3 {
            assert_eq!(log.append(b"line\n", "stdout"), 0);
        }
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 3);
    }

    #[test]
    fn a_line_that_was_cut_off_does_not_spoil_the_next() {
        let scratch = Scratch::new("torn");
        let path = scratch.0.join("log");
        fs::write(&path, "{\"log\":\"cut").unwrap();
        let target = Target {
            path: path.clone(),
            max_size: 1 << 20,
            max_files: 2,
        };
        Log::open(&target).unwrap().append(b"whole\n", "stdout");
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "{\"log\":\"cut\0");
        assert!(
            serde_json::from_str::<serde_json::Value>(lines[1]).is_ok(),
            "{text}"
        );
    }

    #[test]
    fn what_a_full_file_system_does_not_take_is_told() {
        let target = Target {
            path: "/dev/full".into(),
            max_size: 1 << 20,
            max_files: 2,
        };
        let mut log = Log::open(&target).unwrap();
        assert_eq!(log.append(b"lost\nall\n", "stdout"), 9);
        assert_eq!(log.append(b"more\n", "stderr"), 5);
        let scratch = Scratch::new("hole");
        let path = scratch.0.join("log");
        (log.file, _) = open(&path).unwrap();
        for line in ["one\n", "two\n"] {
            assert_eq!(log.append(line.as_bytes(), "stdout"), 0);
        }
        let text = fs::read_to_string(&path).unwrap();
        let records = text.lines().map(|line| {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            (record["log"].clone(), record["lost"].as_u64())
        });
        let expected = [("", Some(14)), ("one\n", None), ("two\n", None)];
        let expected = expected.map(|(log, lost)| (log.into(), lost));
        assert!(records.eq(expected), "{text}");
    }
}
