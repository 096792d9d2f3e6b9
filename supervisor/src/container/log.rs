//! A container's log, as a reader of it: the files that its shim writes and rotates, from a position on, and as they grow.
//!
//! The log is also what who attaches gets: exact, and without any part in the shim's writing. A reader keeps the files open that he has not
//! read yet ([`Follower::keep_up`]), so that a slow one loses nothing to rotation, and nobody waits for him. Who is to miss nothing even if he
//! cannot open them in time says what he has got to ([`readers`]): our shim keeps what comes after that.

use std::collections::VecDeque;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ::shim::readers;
use nix::sys::statvfs::fstatvfs;
use tokio::sync::watch;

use super::log_record::{Record, parse};
use super::log_watch::{Watch, Watches};

/// The newest file of a log, in the container's directory.
pub(crate) const NAME: &str = "container.log";
/// How much is read at once.
const CHUNK: usize = 64 << 10;
/// As many as the shim writes at most.
pub(super) const MOST_FILES: u32 = 1000;
/// Lines of our shim's are shorter: what it reads at once, escaped. A longer one of another's is taken in pieces.
const LINE: usize = 1 << 20;
/// How often files are looked for that are renamed each time.
const ATTEMPTS: u32 = 1000;

/// What of a disk stays free of files that have been rotated away and are there only for a reader: a tenth. So many bytes he may have anyway.
const FREE: u64 = 10;
const HELD: u64 = 64 << 20;

#[derive(Debug)]
pub(crate) struct Follower {
    path: PathBuf,
    watch: Watch,
    /// Being read, and what comes after it.
    files: VecDeque<File>,
    /// All that have been opened, of as many as there can be: none is read twice, whatever somebody else moves or removes.
    seen: VecDeque<Identity>,
    /// The begin of a line whose end is not written yet.
    partial: Vec<u8>,
    ready: VecDeque<Record>,
    /// The newest file that was open has been rotated away: others may have been meanwhile.
    overtaken: bool,
    /// The shim waits for this one, to a degree.
    waited_for: bool,
}

/// A file's inode, whose number may be that of another later, and when it was made, where that is known.
type Identity = (u64, Option<SystemTime>);

/// Where to begin.
#[derive(Clone, Copy, Debug)]
pub(crate) enum From {
    Begin,
    End,
}

impl Follower {
    pub(crate) fn open(watches: &Watches, directory: &Path, from: From) -> io::Result<Self> {
        Self::opened(watches, directory, from, false)
    }

    /// One that is to miss nothing, and opens what comes while its reader is busy.
    pub(super) fn waited_for(watches: &Watches, directory: &Path, from: From) -> io::Result<Self> {
        Self::opened(watches, directory, from, true)
    }

    fn opened(
        watches: &Watches,
        directory: &Path,
        from: From,
        waited_for: bool,
    ) -> io::Result<Self> {
        let mut follower = Self {
            path: directory.join(NAME),
            watch: watches.watch(directory)?,
            files: VecDeque::new(),
            seen: VecDeque::new(),
            partial: vec![],
            ready: VecDeque::new(),
            overtaken: false,
            waited_for,
        };
        if waited_for {
            // Before the first file is there, nothing could be said.
            make(&follower.path)?;
        }
        follower.catch_up()?;
        match from {
            From::Begin => {}
            From::End => {
                follower.skip(0)?;
                follower.overtaken = false;
            }
        }
        Ok(follower)
    }

    /// From so many lines before the end, of one that is at the begin.
    pub(crate) async fn last(mut self, lines: u64) -> io::Result<Self> {
        // They may be gigabytes away.
        let skipped = move || self.skip(lines).map(|()| self);
        let skipped = tokio::task::spawn_blocking(skipped).await;
        skipped.map_err(io::Error::other)?
    }

    /// The next record; none when `over` is true and all has been read.
    pub(crate) async fn next(
        &mut self,
        over: &mut watch::Receiver<bool>,
    ) -> io::Result<Option<Record>> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                return Ok(Some(record));
            }
            // Before reading: what is written until then will be read.
            let last_time = *over.borrow_and_update();
            let read = self.read()?;
            // However long the reading takes, what comes next is open by then.
            self.catch_up()?;
            if read {
                // Whoever wants none of these records does not hold up all others.
                tokio::task::yield_now().await;
                continue;
            }
            if self.files.len() > 1 {
                // It may have grown just before it was renamed.
                if !self.read()? {
                    self.files.pop_front();
                    self.end_of_line();
                }
                continue;
            }
            if last_time {
                self.end_of_line();
                return Ok(self.ready.pop_front());
            }
            tokio::select! {
                () = self.watch.changed() => {}
                // Without a sender there is nobody left to write.
                _ = over.changed() => {}
            }
        }
    }

    /// Opens the files that come after those that are open. Comes back when `over` is true, and all that will ever be there is open.
    pub(crate) async fn keep_up(&mut self, over: &mut watch::Receiver<bool>) -> io::Result<()> {
        loop {
            let last_time = *over.borrow_and_update();
            self.catch_up()?;
            if last_time {
                return Ok(());
            }
            tokio::select! {
                () = self.watch.changed() => {}
                // Without a sender there is nobody left to write.
                _ = over.changed() => {}
            }
        }
    }

    /// Whether lines may be missing before those that come next; told once.
    pub(crate) fn was_overtaken(&mut self) -> bool {
        std::mem::take(&mut self.overtaken)
    }

    /// Whether there was something to read.
    fn read(&mut self) -> io::Result<bool> {
        let Some(file) = self.files.front_mut() else {
            return Ok(false);
        };
        let mut buffer = vec![0; CHUNK];
        let length = file.read(&mut buffer)?;
        let begin = self.partial.len();
        self.partial.extend_from_slice(&buffer[..length]);
        if let Some(end) = buffer[..length].iter().rposition(|byte| *byte == b'\n') {
            let rest = self.partial.split_off(begin + end + 1);
            let whole = std::mem::replace(&mut self.partial, rest);
            let lines = whole.split_inclusive(|byte| *byte == b'\n');
            for record in lines.filter_map(parse) {
                self.add(record);
            }
        }
        if self.partial.len() >= LINE {
            self.end_of_line();
        }
        Ok(length > 0)
    }

    /// What was written at once is one record, however many lines that was: a message for each of them would cost a hundred times as much.
    fn add(&mut self, record: Record) {
        match self.ready.back_mut() {
            Some(last) if last.goes_on_with(&record) && last.data.len() < CHUNK => {
                last.data.extend(record.data);
            }
            _ => self.ready.push_back(record),
        }
    }

    /// What a shim that was killed did not finish will not be finished.
    fn end_of_line(&mut self) {
        let partial = std::mem::take(&mut self.partial);
        self.ready.extend(parse(&partial));
    }

    /// Opens what comes after the last open file.
    fn catch_up(&mut self) -> io::Result<()> {
        while let Some(file) = self.successor()? {
            if self.seen.len() == MOST_FILES as usize {
                self.seen.pop_front();
            }
            self.seen.push_back(identity(&file.metadata()?));
            if self.waited_for {
                // Before the one that was the newest is given up.
                readers::begin(&file)?;
                if let Some(last) = self.files.back() {
                    readers::end(last)?;
                }
            }
            self.files.push_back(file);
            self.bounded()?;
        }
        Ok(())
    }

    /// What is open stays on the disk.
    fn bounded(&self) -> io::Result<()> {
        let mut held = 0;
        for file in &self.files {
            let metadata = file.metadata()?;
            held += if metadata.nlink() == 0 {
                metadata.len()
            } else {
                0
            };
        }
        if held <= HELD {
            return Ok(());
        }
        let Some(file) = self.files.back() else {
            return Ok(());
        };
        let disk = fstatvfs(file)?;
        if disk.blocks_available() < disk.blocks() / FREE {
            return Err(io::Error::other(format!(
                "the disk is nearly full, and {} MB of it are what a reader has not taken",
                held >> 20
            )));
        }
        Ok(())
    }

    /// The oldest that comes after all that have been opened.
    fn successor(&mut self) -> io::Result<Option<File>> {
        // Each time, somebody has renamed them meanwhile.
        for _ in 0..ATTEMPTS {
            let is_new = |file: &Identity| !self.seen.contains(file);
            if !named(&self.path)?.as_ref().is_some_and(is_new) {
                return Ok(None);
            }
            let (mut at, mut below, mut hole) = (None, 0, false);
            for number in 1..MOST_FILES {
                let found = named(&self.numbered(number))?;
                if found.is_some_and(|file| !is_new(&file)) {
                    at = Some((number, found));
                    break;
                }
                // While names move up, one of them is nobody's; for longer if that was cut off.
                if found.is_none() && hole {
                    break;
                }
                hole = found.is_none();
                if !hole {
                    below = number;
                }
            }
            // One that is gone was the oldest; what came right after it may be gone too.
            let file = match open(&self.numbered(below)) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                other => other?,
            };
            // Unless they have been renamed meanwhile.
            let still = match at {
                Some((number, found)) => {
                    let hole = number - below > 1 && named(&self.numbered(number - 1))?.is_some();
                    named(&self.numbered(number))? == found && !hole
                }
                None => named(&self.numbered(below))? == Some(identity(&file.metadata()?)),
            };
            if still {
                self.overtaken |= !self.seen.is_empty() && at.is_none();
                return Ok(Some(file));
            }
        }
        let text = format!("the files of {} do not stay", self.path.display());
        Err(io::Error::other(text))
    }

    fn numbered(&self, number: u32) -> PathBuf {
        match number {
            0 => self.path.clone(),
            _ => PathBuf::from(format!("{}.{number}", self.path.display())),
        }
    }

    /// To so many lines before the end.
    fn skip(&mut self, lines: u64) -> io::Result<()> {
        let (mut left, mut newest) = (lines, true);
        for index in (0..self.files.len()).rev() {
            let file = &mut self.files[index];
            let size = file.metadata()?.len();
            let found = back(file, size, &mut left, newest)?;
            // Of one that has just been begun, the one before is the newest with anything in it.
            newest &= size == 0;
            if let Some((position, first)) = found {
                file.seek(SeekFrom::Start(position))?;
                self.ready.extend(first);
                self.files.drain(..index);
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Where the records of the last `left` lines of a file begin, after a part of one that comes first. If it has fewer lines, `left` is how many
/// it lacks; if it has just as many, the first of them may begin in the file before.
fn back(
    file: &File,
    size: u64,
    left: &mut u64,
    newest: bool,
) -> io::Result<Option<(u64, Option<Record>)>> {
    if *left == 0 && newest {
        return Ok(Some((size, None)));
    }
    let mut end = size;
    while end > 0 {
        let start = begin_of_line(file, end)?;
        let mut line = vec![0; usize::try_from(end - start).unwrap_or_default()];
        file.read_exact_at(&mut line, start)?;
        if let Some(mut record) = parse(&line) {
            // What has no end is the begin of a line whose end was counted already, or the last line.
            let lines = record.data.iter().filter(|byte| **byte == b'\n').count() as u64;
            let is_part = record.lost == 0 && !record.data.ends_with(b"\n");
            let unfinished = u64::from(newest && end == size && is_part);
            if lines + unfinished > *left {
                let mut skipped = lines + unfinished - *left;
                let after = |byte: &u8| {
                    skipped -= u64::from(*byte == b'\n');
                    skipped == 0
                };
                let at = record.data.iter().position(after).map_or(0, |at| at + 1);
                record.data.drain(..at);
                // It may have been the end of a line only.
                let first = (!record.data.is_empty()).then_some(record);
                return Ok(Some((end, first)));
            }
            *left -= lines + unfinished;
        }
        end = start;
    }
    Ok(None)
}

/// Of the line that ends there, or of its last piece.
fn begin_of_line(file: &File, end: u64) -> io::Result<u64> {
    let mut to = end - 1;
    let least = end.saturating_sub(LINE as u64);
    let mut buffer = vec![0; CHUNK];
    while to > least {
        let start = to.saturating_sub(CHUNK as u64).max(least);
        let part = &mut buffer[..usize::try_from(to - start).unwrap_or(CHUNK)];
        file.read_exact_at(part, start)?;
        if let Some(at) = part.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        to = start;
    }
    Ok(least)
}

/// What a shim has written, and nothing else that somebody has put in its place: it may be endless, keep the reader waiting, or never be the
/// file that its name says.
fn open(path: &Path) -> io::Result<File> {
    let other = || {
        let text = format!("{} is not a regular file: remove it", path.display());
        io::Error::new(ErrorKind::InvalidData, text)
    };
    let mut options = File::options();
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    match options.read(true).open(path) {
        Ok(file) if file.metadata()?.is_file() => Ok(file),
        Ok(_) => Err(other()),
        // A link, or a socket.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENXIO)) => {
            Err(other())
        }
        Err(error) => Err(error),
    }
}

/// The first file, as our shim would, if there is none.
fn make(path: &Path) -> io::Result<()> {
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o640);
    match options.open(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn identity(metadata: &Metadata) -> Identity {
    (metadata.ino(), metadata.created().ok())
}

/// Who has that name.
fn named(path: &Path) -> io::Result<Option<Identity>> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(identity(&metadata))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("caisson-log-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn line(&self, text: &str) {
            self.write(
                format!(
                    "{{\"log\":\"{text}\\n\",\"stream\":\"stdout\",\"time\":\"2026-11-26T08:00:00Z\"}}\n"
                )
                .as_bytes(),
            );
        }

        fn write(&self, text: &[u8]) {
            use std::io::Write as _;
            let mut options = fs::OpenOptions::new();
            let file = options.append(true).create(true).open(self.0.join(NAME));
            file.unwrap().write_all(text).unwrap();
        }

        /// As the shim does, with three files.
        fn rotate(&self) {
            let name = |number| self.0.join(format!("{NAME}.{number}"));
            fs::rename(name(1), name(2)).ok();
            fs::rename(self.0.join(NAME), name(1)).unwrap();
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).ok();
        }
    }

    fn inside() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    fn all(inside: &tokio::runtime::Runtime, follower: &mut Follower) -> Vec<String> {
        let (_sender, mut over) = watch::channel(true);
        let mut text = String::new();
        while let Some(record) = inside.block_on(follower.next(&mut over)).unwrap() {
            text.push_str(std::str::from_utf8(&record.data).unwrap());
        }
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn files_are_read_in_their_order_from_the_begin_and_from_the_end() {
        let scratch = Scratch::new("order");
        for part in [["1", "2"], ["3", "4"], ["5", "6"]] {
            if part != ["1", "2"] {
                scratch.rotate();
            }
            part.iter().for_each(|text| scratch.line(text));
        }
        let inside = inside();
        let _inside = inside.enter();
        let open = |from| Follower::open(&Watches::default(), &scratch.0, from).unwrap();
        let last = |lines| {
            let follower = inside.block_on(open(From::Begin).last(lines));
            all(&inside, &mut follower.unwrap())
        };
        let whole = ["1", "2", "3", "4", "5", "6"];
        assert_eq!(all(&inside, &mut open(From::Begin)), whole);
        assert_eq!(last(3), ["4", "5", "6"]);
        assert_eq!(last(2), ["5", "6"]);
        assert_eq!(last(99), whole);
        assert!(last(0).is_empty());
        assert!(all(&inside, &mut open(From::End)).is_empty());
    }

    #[test]
    fn a_line_that_was_written_in_parts_is_one_whatever_file_they_are_in() {
        let scratch = Scratch::new("parts");
        let part = |text: &str| {
            let line = format!(
                "{{\"log\":\"{text}\",\"stream\":\"stdout\",\"time\":\"2026-11-26T08:00:00Z\"}}\n"
            );
            scratch.write(line.as_bytes());
        };
        scratch.line("1");
        part("2a");
        scratch.rotate();
        part("2b");
        part("2c\\n");
        scratch.line("3");
        part("4");
        let inside = inside();
        let _inside = inside.enter();
        let last = |lines| {
            let open = Follower::open(&Watches::default(), &scratch.0, From::Begin).unwrap();
            let follower = inside.block_on(open.last(lines));
            all(&inside, &mut follower.unwrap()).join(" ")
        };
        assert_eq!(last(0), "");
        assert_eq!(last(1), "4");
        assert_eq!(last(2), "3 4");
        assert_eq!(last(3), "2a2b2c 3 4");
        assert_eq!(last(4), "1 2a2b2c 3 4");
        assert_eq!(last(5), "1 2a2b2c 3 4");
        // Nothing has been written since.
        scratch.rotate();
        scratch.write(b"");
        assert_eq!((last(0), last(1)), (String::new(), "4".into()));
    }

    /// As shims of others do, who write what they get.
    #[test]
    fn a_line_of_any_length_takes_little_memory_and_loses_nothing() {
        let scratch = Scratch::new("long");
        let mut text = b"first\n".to_vec();
        text.resize(5 * LINE / 2, b'x');
        text.extend_from_slice(b"\nlast\n");
        scratch.write(&text);
        let inside = inside();
        let _inside = inside.enter();
        let read = |mut follower: Follower| {
            let (_sender, mut over) = watch::channel(true);
            let mut read = vec![];
            while let Some(record) = inside.block_on(follower.next(&mut over)).unwrap() {
                assert!(record.data.len() <= LINE + CHUNK);
                assert!(follower.partial.len() < LINE);
                read.extend(record.data);
            }
            read
        };
        let open = || Follower::open(&Watches::default(), &scratch.0, From::Begin).unwrap();
        assert!(read(open()) == text);
        let last = |lines| read(inside.block_on(open().last(lines)).unwrap());
        assert_eq!(last(1), b"last\n");
        assert!(last(2) == text[6..]);
        assert!(last(3) == text);
    }

    #[test]
    fn others_get_their_turn_while_much_is_read_that_nobody_wants() {
        let scratch = Scratch::new("turns");
        let text = "x".repeat(CHUNK / 2);
        for _ in 0..50 {
            scratch.line(&text);
        }
        let inside = inside();
        let _inside = inside.enter();
        let mut follower = Follower::open(&Watches::default(), &scratch.0, From::Begin).unwrap();
        let (_sender, mut over) = watch::channel(true);
        let reading = async { while follower.next(&mut over).await.unwrap().is_some() {} };
        let mut turns = 0;
        let others = async {
            loop {
                turns += 1;
                tokio::task::yield_now().await;
            }
        };
        inside.block_on(async {
            tokio::select! {
                biased;
                () = reading => {}
                () = others => {}
            }
        });
        assert!(turns > 20, "{turns}");
    }

    #[test]
    fn what_is_open_is_not_lost_to_rotation() {
        let scratch = Scratch::new("kept");
        let inside = inside();
        let _inside = inside.enter();
        scratch.line("1");
        let mut follower = Follower::open(&Watches::default(), &scratch.0, From::Begin).unwrap();
        for text in ["2", "3", "4", "5"] {
            scratch.rotate();
            scratch.line(text);
            follower.catch_up().unwrap();
        }
        assert_eq!(all(&inside, &mut follower), ["1", "2", "3", "4", "5"]);
        assert!(!follower.was_overtaken());
        for text in ["6", "7", "8", "9"] {
            scratch.rotate();
            scratch.line(text);
        }
        assert_eq!(all(&inside, &mut follower), ["7", "8", "9"]);
        assert!(follower.was_overtaken());
    }

    #[test]
    fn nothing_is_read_again_when_somebody_else_takes_the_newest_file_away() {
        let scratch = Scratch::new("taken");
        let inside = inside();
        let _inside = inside.enter();
        for text in ["1", "2"] {
            scratch.line(text);
            scratch.rotate();
        }
        scratch.line("3");
        let mut follower = Follower::open(&Watches::default(), &scratch.0, From::Begin).unwrap();
        assert_eq!(all(&inside, &mut follower), ["1", "2", "3"]);
        fs::remove_file(scratch.0.join(NAME)).unwrap();
        scratch.line("4");
        assert_eq!(all(&inside, &mut follower), ["4"]);
        fs::rename(scratch.0.join(NAME), scratch.0.join("elsewhere")).unwrap();
        scratch.line("5");
        scratch.rotate();
        scratch.line("6");
        assert_eq!(all(&inside, &mut follower), ["5", "6"]);
        assert!(!follower.was_overtaken());
    }

    #[test]
    fn names_that_are_being_moved_lead_to_what_comes_next() {
        let scratch = Scratch::new("moving");
        let inside = inside();
        let _inside = inside.enter();
        scratch.line("1");
        let mut follower = Follower::open(&Watches::default(), &scratch.0, From::Begin).unwrap();
        for text in ["2", "3"] {
            scratch.rotate();
            scratch.line(text);
        }
        // Of four files, as far as the second one's name.
        let name = |number| scratch.0.join(format!("{NAME}.{number}"));
        for number in [2, 1] {
            fs::rename(name(number), name(number + 1)).unwrap();
        }
        assert_eq!(all(&inside, &mut follower), ["1", "2", "3"]);
        assert!(!follower.was_overtaken());
    }
}
