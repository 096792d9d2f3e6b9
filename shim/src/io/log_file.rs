//! A log that the shim writes itself: `log:///path?max-size=BYTES&max-files=COUNT`. Lines are those of Docker's json-file, an object with
//! `log`, `stream` and `time` each, and the file is rotated: `path` is the newest, then `path.1`, `path.2` and so on.
//!
//! What was read at once is one record, so that much output costs little, and an unfinished line goes out at once. Exact: a byte that is
//! not UTF-8 is the lone surrogate U+DC00 plus that byte, so that a reader gets back what was written.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Result};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::sink::put;
use crate::error::told;
use crate::timestamp;

/// All of them are renamed where everybody's output waits, and their reader looks for no more.
const MOST_FILES: u32 = 1000;
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
        })
    }

    /// False if it could not be written, at least not so much of it that a reader gets the data.
    pub(super) fn append(&mut self, data: &[u8], stream: &str) -> bool {
        let mut text = String::with_capacity(data.len() * 2 + 128);
        if self.torn {
            text.push_str(TORN);
        }
        let time = timestamp::text(SystemTime::now());
        record(&mut text, data, stream, &time);
        let length = text.len() as u64;
        if self.size > 0 && self.size + length > self.target.max_size {
            // Without room for another file there is none for the old one either; it goes on as it is.
            self.rotate().ok();
        }
        let written = put(self.file.as_fd(), text.as_bytes());
        self.size = self
            .file
            .metadata()
            .map_or(self.size + length, |file| file.len());
        let lacking = text.len() - written;
        // It cannot be cut off: somebody may have read it already.
        self.torn = lacking > 0 && (self.torn || written > 0);
        lacking <= CLOSING
    }

    fn rotate(&mut self) -> Result<()> {
        let path = &self.target.path;
        let name = |number: u32| match number {
            0 => path.clone(),
            _ => PathBuf::from(format!("{}.{number}", path.display())),
        };
        let oldest = self.target.max_files.clamp(1, MOST_FILES) - 1;
        if oldest == 0 {
            fs::remove_file(path)?;
        }
        for number in (0..oldest).rev() {
            match fs::rename(name(number), name(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        (self.file, self.size) = open(path)?;
        self.torn = false;
        Ok(())
    }
}

fn open(path: &Path) -> Result<(File, u64)> {
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o640)
        // Should it be none, nobody waits for who reads it.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
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

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of the test's own")]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

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
            assert!(log.append(format!("line {number}\n").as_bytes(), "stdout"));
        }
        let read = |name: &str| fs::read_to_string(scratch.0.join(name)).unwrap();
        assert!(read("log").contains("line 7"));
        assert!(read("log.1").contains("line 5") && read("log.2").contains("line 3"));
        assert!(!scratch.0.join("log.3").exists());
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
            assert!(log.append(b"line\n", "stdout"));
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
        assert!(!Log::open(&target).unwrap().append(b"lost\n", "stdout"));
    }
}
