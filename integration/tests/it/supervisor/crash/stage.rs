//! Where the rounds are played: one supervisor with an image and a volume whose content is known, and what is looked for in it.

use super::super::clean::{Clean, names};
use super::super::cut_off::until;
use super::{KILLED, Victim};
use integration::host;
use integration::place;
use integration::runtime::finish;
use integration::store::{Tar, saved};
use integration::supervisor::{IMAGE, Supervisor};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

pub(super) struct Stage {
    pub(super) supervisor: Supervisor,
    /// Of an image `new:1`.
    pub(super) archive: String,
    /// To be copied into a container.
    pub(super) file: String,
    /// Where something is copied to.
    pub(super) copied: String,
    /// Where an image is saved to.
    pub(super) saved: String,
    clean: Clean,
}

/// What a container ends with when somebody is killed that it needs, or needed to start.
const CUT_OFF: [i32; 3] = [KILLED, 255, 128];

/// How the command of a phase came to its end.
pub(super) struct Ended {
    /// It said that it had done what it should.
    pub(super) done: bool,
    /// Who was killed.
    pub(super) victim: Option<Victim>,
}

impl Ended {
    /// The container may have ended with who was killed.
    fn is_of_container(&self) -> bool {
        matches!(self.victim, Some(Victim::Shim | Victim::Init))
    }
}

/// Kills what the test has started.
pub(super) fn kill(pid: i32) {
    host::kill_descendant(pid);
    host::await_end(pid);
}

impl Stage {
    pub(super) fn new() -> Self {
        let supervisor = Supervisor::new();
        let layer = |number: u8| {
            let mut layer = Tar::new().directory("d/");
            for file in 0..50 {
                layer = layer.file(&format!("d/{number}-{file}"), &[number; 20_000]);
            }
            layer
        };
        let archive = saved("new:1", &[layer(1), layer(2), layer(3)]);
        let archive = supervisor.scratch.file("new.tar", archive);
        let bytes: Vec<u8> = (0..4_000_000_u32)
            .map(|number| (number % 251) as u8)
            .collect();
        let file = supervisor.scratch.file("file", bytes);
        supervisor.says(&["volume", "create", "kept"]);
        let data = supervisor.scratch.path().join("root/volumes/kept/file");
        place::write(&data, "precious");
        Self {
            archive: archive.display().to_string(),
            file: file.display().to_string(),
            copied: supervisor.scratch.name("copied"),
            saved: supervisor.scratch.name("saved.tar"),
            clean: Clean::new(&supervisor),
            supervisor,
        }
    }

    fn root(&self) -> PathBuf {
        self.supervisor.scratch.path().join("root")
    }

    fn entries(&self, directory: &str) -> BTreeSet<String> {
        names(&self.root().join(directory))
    }

    #[track_caller]
    pub(super) fn import(&self) {
        self.supervisor.says(&["load", "-q", "-i", &self.archive]);
    }

    #[track_caller]
    pub(super) fn create(&self, flags: &[&str], script: &str) {
        let name = ["create", "--name", "box"];
        let words = [&name[..], flags, &[IMAGE, "sh", "-c", script]].concat();
        self.supervisor.says(&words);
    }

    /// Until the container can be asked to end.
    #[track_caller]
    pub(super) fn await_ready(&self) {
        let mut log = self.supervisor.start(&["logs", "-f", "box"]);
        assert_eq!(log.stdout.line(), "ready");
    }

    /// Directories of containers' logs have their ids.
    fn id(&self) -> Option<String> {
        let bundles = self.supervisor.bundles();
        bundles.into_iter().next()
    }

    /// The container's first process, by the group that bears its id.
    pub(super) fn init(&self) -> Option<i32> {
        let id = self.id()?;
        let group = host::hierarchy().join("caisson").join(id);
        let pids = fs::read_to_string(group.join("cgroup.procs")).ok()?;
        pids.lines().next()?.parse().ok()
    }

    pub(super) fn shim(&self) -> Option<i32> {
        let id = self.id()?;
        let is_shim = |pid: &i32| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).into_owned();
            command.contains("containerd-shim") && !command.contains("\0start")
        };
        host::processes(&id).into_iter().find(is_shim)
    }

    /// A child of the daemon that unpacks or copies.
    pub(super) fn worker(&self, daemon: i32) -> Option<i32> {
        let tasks = fs::read_dir(format!("/proc/{daemon}/task")).ok()?.flatten();
        let children =
            tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        let children: Vec<i32> = children
            .flat_map(|pids| {
                pids.split_whitespace()
                    .filter_map(|pid| pid.parse().ok())
                    .collect::<Vec<_>>()
            })
            .collect();
        children.into_iter().find(|pid| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.starts_with(b"caissond:[")
        })
    }

    #[track_caller]
    pub(super) fn everything_verifies(&self) {
        self.supervisor.ctl(&["image", "verify"]).success();
        let data = self.root().join("volumes/kept/file");
        assert_eq!(fs::read_to_string(data).unwrap(), "precious");
    }

    pub(super) fn has_image(&self, name: &str) -> bool {
        self.supervisor
            .ctl(&["image", "inspect", name])
            .status
            .success()
    }

    /// Whether it is there, if that is certain.
    #[track_caller]
    pub(super) fn image(&self, name: &str, certain: Option<bool>) {
        let is = self.has_image(name);
        assert_eq!(is, certain.unwrap_or(is), "{name}");
    }

    #[track_caller]
    pub(super) fn volume(&self, name: &str, certain: Option<bool>) {
        let is = self
            .supervisor
            .ctl(&["volume", "inspect", name])
            .status
            .success();
        assert_eq!(is, certain.unwrap_or(is), "{name}");
        assert_eq!(
            is,
            self.entries("volumes").contains(name),
            "{name}: its directory"
        );
    }

    /// What the daemon says of it, and whether that is so.
    #[track_caller]
    fn status(&self) -> Option<(String, i32)> {
        let said = self.supervisor.ctl(&[
            "inspect",
            "--format",
            "{{.State.Status}} {{.State.ExitCode}} {{.State.Pid}}",
            "box",
        ]);
        if !said.status.success() {
            let text = format!("{said}");
            assert!(text.to_lowercase().contains("no such"), "{text}");
            return None;
        }
        let words: Vec<_> = said.stdout.split_whitespace().collect();
        let [status, code, pid] = words[..] else {
            panic!("{said}");
        };
        let pid: i32 = pid.parse().unwrap();
        if status == "running" && pid == 0 {
            // It is being started, for a client that has gone; who starts it too waits for that.
            self.supervisor.says(&["start", "box"]);
            return self.status();
        }
        assert_eq!(status == "running", pid != 0 && host::alive(pid), "{said}");
        Some((status.to_owned(), code.parse().unwrap()))
    }

    /// After a create or a start: it has one of these states, depending on what was said, and can go on from there.
    #[track_caller]
    pub(super) fn container(&self, ended: &Ended, done: &[&str], else_: &[&str]) {
        let Some((status, code)) = self.status() else {
            assert!(!ended.done, "it was reported done");
            return;
        };
        let died = ended.is_of_container() && status == "exited";
        let expected = if ended.done { done } else { else_ };
        assert!(expected.contains(&&*status) || died, "{status}");
        if status == "exited" {
            assert!(CUT_OFF.contains(&code), "{code}");
        }
        self.supervisor.says(&["start", "box"]);
        assert_eq!(
            self.supervisor.says(&["exec", "box", "echo", "here"]),
            "here"
        );
    }

    /// It runs as before, unless it was killed; then it can run again.
    #[track_caller]
    pub(super) fn stays(&self, ended: &Ended) {
        let (status, code) = self.status().expect("it is there");
        match ended.victim {
            // Nobody was killed: what goes on was asked to end.
            None => {}
            Some(_) if ended.is_of_container() => {
                assert_eq!((&*status, code), ("exited", KILLED));
            }
            Some(_) => assert_eq!(status, "running"),
        }
        if status != "running" {
            self.supervisor.says(&["start", "box"]);
        }
        assert_eq!(
            self.supervisor.says(&["exec", "box", "cat", "/data/file"]),
            "precious"
        );
    }

    /// All lines up to the last that was written, unless those were lost that nobody had read when its reader died.
    #[track_caller]
    pub(super) fn log_is_whole(&self, ended: &Ended) {
        self.supervisor.ctl(&["kill", "box"]);
        self.supervisor.says(&["wait", "box"]);
        let written = fs::read_to_string(self.root().join("volumes/kept/written")).unwrap();
        let log = self.supervisor.says(&["logs", "box"]);
        let mut next = 0;
        let mut highest = 0;
        for line in log.lines() {
            let number = line
                .strip_prefix("line ")
                .and_then(|number| number.parse().ok());
            let number: u64 = number.unwrap_or_else(|| panic!("{line:?} after {next}"));
            // It was started again, or a line was cut off by its reader's death.
            assert!(
                number == next || number == 0 || self.is_cut(ended, line, next),
                "{line:?} instead of {next}"
            );
            next = number + 1;
            highest = highest.max(number);
        }
        if ended.victim != Some(Victim::Shim)
            && let Ok(written) = written.trim().parse::<u64>()
        {
            assert!(
                next > written,
                "{written} lines were written, the log ends before {next}"
            );
        }
    }

    fn is_cut(&self, ended: &Ended, line: &str, next: u64) -> bool {
        ended.victim == Some(Victim::Shim) && format!("line {next}").starts_with(line)
    }

    #[track_caller]
    pub(super) fn copies(&self, out: bool, into: bool) {
        let there = Path::new(&self.copied);
        if out || there.exists() {
            let busybox = place::busybox().unwrap();
            assert_eq!(
                fs::read(there).unwrap().len(),
                fs::read(busybox).unwrap().len(),
                "copied out"
            );
        }
        let sum = |words: &[&str]| {
            let said = self.supervisor.ctl(words);
            said.status
                .success()
                .then(|| said.stdout.split(' ').next().unwrap_or_default().to_owned())
        };
        let found = sum(&["exec", "box", "sha256sum", "/copied"]);
        if into || found.is_some() {
            let mut command = std::process::Command::new("sha256sum");
            command.arg(&self.file);
            let expected = finish(command).success().stdout;
            assert_eq!(found.as_deref(), expected.split(' ').next(), "copied in");
        }
    }

    #[track_caller]
    pub(super) fn committed(&self, done: bool) {
        self.image("made:1", done.then_some(true));
        if self.has_image("made:1") {
            let said = self
                .supervisor
                .says(&["run", "--rm", "made:1", "cat", "/kept"]);
            assert_eq!(said, "kept");
        }
    }

    #[track_caller]
    pub(super) fn stopped(&self, ended: &Ended, code: i32) {
        let (status, found) = self.status().expect("it is there");
        if ended.done || ended.is_of_container() || status == "exited" {
            let died = ended.is_of_container() && found == KILLED;
            assert_eq!(status, "exited");
            assert!(found == code || died, "{found}");
        } else {
            assert_eq!(status, "running");
        }
        self.supervisor.says(&["start", "box"]);
        assert_eq!(
            self.supervisor.says(&["exec", "box", "cat", "/kept"]),
            "kept"
        );
    }

    /// Whoever was killed, it is up in the end, unless it died with him.
    #[track_caller]
    pub(super) fn restarted(&self, ended: &Ended) {
        let answers = || {
            let words = ["exec", "box", "cat", "/kept"];
            self.supervisor.ctl(&words).status.success()
        };
        let (status, code) = self.status().expect("it is there");
        if ended.is_of_container() && status == "exited" {
            assert!(CUT_OFF.contains(&code), "{code}");
        } else if ended.done {
            assert!(answers());
        } else {
            // By a daemon that may have been started just now.
            until("it has not come up again", answers);
        }
    }

    /// Of a container that had this status.
    #[track_caller]
    pub(super) fn removed(&self, ended: &Ended, before: &str) {
        let Some((status, code)) = self.status() else {
            return;
        };
        assert!(!ended.done, "it was reported gone");
        assert!(status == before || status == "exited", "{status}");
        assert!([0, KILLED].contains(&code), "{code}");
        assert!(
            self.supervisor.says(&["logs", "box"]).starts_with("ready"),
            "its log is gone"
        );
        let changed = self.supervisor.says(&["diff", "box"]);
        assert!(
            changed.contains("/kept"),
            "what it has changed is gone: {changed}"
        );
    }

    #[track_caller]
    pub(super) fn archive_is_whole(&self, done: bool) {
        if done || Path::new(&self.saved).exists() {
            self.supervisor.says(&["load", "-q", "-i", &self.saved]);
        }
        assert!(!done || self.parts().is_empty(), "{:?}", self.parts());
    }

    /// Files that are not complete: where those without names can be, one that was about to be renamed.
    fn parts(&self) -> Vec<PathBuf> {
        let scratch = self.supervisor.scratch.path();
        let is_part = |name: &String| name.starts_with(".caisson-");
        let parts = names(scratch).into_iter().filter(is_part);
        parts.map(|name| scratch.join(name)).collect()
    }

    #[track_caller]
    pub(super) fn pruned(&self, done: bool) {
        self.image("new:1", done.then_some(false));
        let container = self.status().is_some();
        assert!(!container || !done, "the container is there");
        let anonymous = self.entries("volumes").len() > 1;
        assert!(anonymous == container || !done, "its volume");
        assert!(self.has_image(IMAGE) || done || !container);
    }

    /// The image's files are all there, or none is and they come when it is started.
    #[track_caller]
    pub(super) fn volume_is_filled(&self) {
        let count = |path: PathBuf| names(&path).len();
        let busybox = self.root().join("volumes/filled/busybox");
        assert_eq!(
            fs::metadata(busybox).unwrap().len(),
            fs::metadata(place::busybox().unwrap()).unwrap().len()
        );
        let image = self.supervisor.says(&["run", "--rm", IMAGE, "ls", "/bin"]);
        assert_eq!(
            count(self.root().join("volumes/filled")),
            image.lines().count()
        );
    }

    /// Back to what is there at the beginning of a round.
    #[track_caller]
    pub(super) fn clear(&mut self) {
        for path in [&self.copied, &self.saved] {
            fs::remove_file(path).ok(); // Most phases make neither.
        }
        // Of a client that was killed.
        for part in self.parts() {
            fs::remove_file(part).unwrap();
        }
        self.clean.up(&self.supervisor);
    }
}
