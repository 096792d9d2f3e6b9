//! The power is cut while the supervisor works: from a random moment on, nothing reaches the disk of its root ([`Disk`]), everything that
//! knows it is killed, its state directory is emptied as a reboot does it, and what the disk had at that moment is mounted again. What was
//! reported done before is there then and verifies, containers are known as ended, and when all is removed nothing is left.
//!
//! `CUTS=50` is how often, and `SWEEP=NUMBER` repeats the moments of a run. The file system is ext4: as it usually is, without the care that it
//! takes of files that are renamed over others, which other file systems do not take, and with metadata that is on the disk before the data.

use super::clean::Clean;
use integration::disk::Disk;
use integration::place::Scratch;
use integration::require;
use integration::runtime::announce;
use integration::store::{Tar, saved};
use integration::supervisor::{IMAGE, Supervisor};
use integration::{host, place};
use std::fs;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Mounted with these in turn.
const OPTIONS: [&str; 3] = [
    "data=ordered",
    "data=ordered,noauto_da_alloc,commit=1",
    "data=writeback,noauto_da_alloc,commit=1",
];

/// What a command that succeeds has made true, or untrue.
#[derive(Clone, Debug)]
struct Fact {
    /// image, container, volume, file.
    kind: &'static str,
    name: String,
    is: bool,
    begun: Instant,
    /// When it was reported; until then it may be so or not.
    at: Option<Instant>,
}

struct Machine {
    // In the order in which they go.
    supervisor: Supervisor,
    place: Mount,
    clean: Clean,
}

/// Where the disk is mounted.
struct Mount {
    disk: Disk,
    scratch: Scratch,
}

impl Drop for Mount {
    fn drop(&mut self) {
        nix::mount::umount(self.scratch.path()).ok(); // A directory that cannot be removed tells.
    }
}

#[test]
fn what_was_reported_done_survives_a_power_cut_at_any_moment() {
    require!(
        containers,
        busybox,
        throwaway_machine,
        path("/dev/scratch"),
        program("mkfs.ext4")
    );
    let cuts = std::env::var("CUTS").map_or(3, |cuts| cuts.parse().unwrap());
    let seed: u64 = std::env::var("SWEEP").map_or_else(
        |_| RandomState::new().build_hasher().finish() % 1000,
        |seed| seed.parse().unwrap(),
    );
    announce(&format!("SWEEP={seed}"));
    let mut machine = Machine::new();
    let facts = Mutex::new(vec![]);
    machine.work(&facts, &AtomicBool::new(false), 0);
    let undisturbed = facts.into_inner().unwrap();
    assert!(undisturbed.iter().all(|fact| fact.at.is_some()));
    machine.check(&undisturbed, false);
    machine.clean.up(&machine.supervisor);
    let mut counts = [0; 2];
    for cut in 1..=cuts {
        let mut hasher = DefaultHasher::new();
        (seed, cut).hash(&mut hasher);
        let chance = hasher.finish();
        // Somewhere in any of the works.
        let during = &undisturbed[chance as usize % undisturbed.len()];
        let lasts = during.at.unwrap() - during.begun;
        let moment = (
            chance as usize % undisturbed.len(),
            lasts.mul_f64((chance >> 32) as f64 / f64::from(u32::MAX)),
        );
        let (facts, options) = machine.cut(moment, cut);
        let done = facts.iter().filter(|fact| fact.at.is_some()).count();
        let _told = Told(format!(
            "cut {cut} of SWEEP={seed}, {moment:?}, {options}, {done} facts of {facts:?}"
        ));
        machine.check(&facts, true);
        machine.clean.up(&machine.supervisor);
        counts[0] += done;
        counts[1] += facts.len() - done;
    }
    announce(&format!(
        "{cuts} cuts: all of {} facts that were reported hold, {} were in the making",
        counts[0], counts[1]
    ));
}

/// Says in which round a test failed.
struct Told(String);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            announce(&self.0);
        }
    }
}

impl Machine {
    #[track_caller]
    fn new() -> Machine {
        for module in ["dm-mod", "dm-flakey"] {
            let mut command = Command::new("modprobe");
            command.arg(module);
            integration::runtime::finish(command).success();
        }
        let place = Mount {
            disk: Disk::new(Path::new("/dev/scratch")),
            scratch: Scratch::new(),
        };
        place.disk.format("ext4");
        place.disk.mount("ext4", OPTIONS[0], place.scratch.path());
        let supervisor = Supervisor::without_image();
        symlink(place.scratch.path(), supervisor.scratch.path().join("root")).unwrap();
        supervisor.import();
        supervisor.says(&["volume", "create", "kept"]);
        Machine {
            clean: Clean::new(&supervisor),
            supervisor,
            place,
        }
    }

    /// Does all kinds of things one after the other, and says what each has made true.
    fn work(&self, facts: &Mutex<Vec<Fact>>, stop: &AtomicBool, round: u64) {
        let first = saved("one:1", &[layer(round, 1), layer(round, 2)]);
        let first = self.supervisor.scratch.file("one.tar", first);
        let second = saved("two:1", &[layer(round, 1), layer(round, 3)]);
        let second = self.supervisor.scratch.file("two.tar", second);
        let (first, second) = (first.to_str().unwrap(), second.to_str().unwrap());
        let archive = self.supervisor.scratch.name("root/saved");
        let busy = "i=0; while :; do echo line $i; i=$((i+1)); done";
        let some = "for i in 0 1 2 3 4 5 6 7 8 9; do echo line $i; done; echo kept >/kept";
        let endless = ["run", "-d", "--cpus", "0.2", IMAGE, "sh", "-c", busy];
        let endless = |name| [&endless[..4], &["--name", name], &endless[4..]].concat();
        let filled = [
            "run",
            "--name",
            "box",
            "-v",
            "filled:/bin",
            IMAGE,
            "sh",
            "-c",
            some,
        ];
        let save = ["save", "-o", &archive, "two:1"];
        let load = |archive| vec!["load", "-q", "-i", archive];
        let words = |line: &'static str| line.split(' ').collect();
        let works: [(&'static str, &str, bool, Vec<&str>); 15] = [
            ("container", "busy", true, endless("busy")),
            ("image", "one:1", true, load(first)),
            ("container", "box", true, filled.to_vec()),
            // Of what is there already, and of what has a part that is.
            ("image", "one:1", true, load(first)),
            ("image", "two:1", true, load(second)),
            ("image", "made:1", true, words("commit box made:1")),
            ("volume", "vol", true, words("volume create vol")),
            ("image", "tagged:1", true, words("tag two:1 tagged:1")),
            ("file", "saved", true, save.to_vec()),
            (
                "container",
                "gone",
                true,
                vec!["create", "--name", "gone", IMAGE, "true"],
            ),
            ("container", "gone", false, words("rm gone")),
            ("image", "two:1", false, words("rmi two:1")),
            ("volume", "vol", false, words("volume rm vol")),
            ("container", "busy", false, words("rm -f busy")),
            ("container", "last", true, endless("last")),
        ];
        for (kind, name, is, words) in works {
            if stop.load(Ordering::SeqCst) {
                return;
            }
            let fact = Fact {
                kind,
                name: name.to_owned(),
                is,
                begun: Instant::now(),
                at: None,
            };
            lock(facts).push(fact);
            let finished = self.supervisor.ctl(&words);
            if finished.status.success() {
                lock(facts).last_mut().unwrap().at = Some(Instant::now());
            } else if !stop.load(Ordering::SeqCst) {
                announce(&format!("{finished}"));
            }
        }
    }

    /// Works, and is without power so long after the beginning of one of the works; comes back with what was reported until then.
    fn cut(&mut self, moment: (usize, Duration), round: u64) -> (Vec<Fact>, &'static str) {
        let (facts, stop) = (Mutex::new(vec![]), AtomicBool::new(false));
        let options = OPTIONS[usize::try_from(round).unwrap() % OPTIONS.len()];
        let moment = std::thread::scope(|scope| {
            let worker = scope.spawn(|| self.work(&facts, &stop, round));
            while lock(&facts).len() <= moment.0 && !worker.is_finished() {
                std::thread::park_timeout(Duration::from_millis(1));
            }
            std::thread::park_timeout(moment.1);
            stop.store(true, Ordering::SeqCst);
            let moment = Instant::now();
            self.place.disk.cut();
            while !worker.is_finished() || self.kill_all() {
                std::thread::yield_now();
            }
            moment
        });
        self.reboot(options);
        let mut facts = facts.into_inner().unwrap();
        for fact in &mut facts {
            fact.at = fact.at.filter(|at| *at < moment);
        }
        (facts, options)
    }

    /// Whoever knows the supervisor's directories or is in the group of one of its containers. False if there is nobody.
    fn kill_all(&self) -> bool {
        let names = [
            &self.supervisor.state,
            self.place.scratch.path(),
            self.supervisor.scratch.path(),
        ]
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned());
        let names = names.into_iter().chain(self.supervisor.bundles());
        let pids: Vec<i32> = names.flat_map(|name| host::processes(&name)).collect();
        pids.iter().for_each(|pid| host::kill_descendant(*pid));
        for pid in &pids {
            host::await_end(*pid);
        }
        !pids.is_empty()
    }

    #[track_caller]
    fn reboot(&mut self, options: &str) {
        let state = &self.supervisor.state;
        for id in self.supervisor.bundles() {
            fs::remove_dir(host::hierarchy().join("caisson").join(id)).ok(); // It may not have come to have one.
        }
        for mount in host::mounts().iter().rev() {
            if Path::new(&mount.target).starts_with(state) {
                nix::mount::umount2(Path::new(&mount.target), nix::mount::MntFlags::MNT_DETACH)
                    .unwrap();
            }
        }
        fs::remove_dir_all(state).ok(); // There is none if the daemon was not started yet.
        let place = self.place.scratch.path();
        self.place.disk.unmount(place);
        self.place.disk.mend();
        self.place.disk.mount("ext4", options, place);
    }

    /// What was reported of each thing is so.
    #[track_caller]
    fn check(&self, facts: &[Fact], after_cut: bool) {
        let supervisor = &self.supervisor;
        supervisor.ctl(&["image", "verify"]).success();
        for (index, fact) in facts.iter().enumerate() {
            // Somebody may have been about to undo it.
            let undone = facts[index + 1..].iter().any(|other| {
                (other.kind, &other.name) == (fact.kind, &fact.name) && other.is != fact.is
            });
            if fact.at.is_none() || undone {
                continue;
            }
            let is = match fact.kind {
                "image" => self.there(&["image", "inspect", &fact.name]),
                "volume" => self.there(&["volume", "inspect", &fact.name]),
                "container" => self.there(&["inspect", &fact.name]),
                _ => self.saved().exists(),
            };
            assert_eq!(is, fact.is, "{fact:?}");
        }
        for name in supervisor
            .says(&["ps", "-a", "--format", "{{.Names}}"])
            .lines()
        {
            self.container(name, after_cut);
        }
        if self.there(&["image", "inspect", "made:1"]) {
            assert_eq!(
                supervisor.says(&["run", "--rm", "made:1", "cat", "/kept"]),
                "kept"
            );
        }
        if self.saved().exists() {
            let archive = supervisor.scratch.name("root/saved");
            supervisor.says(&["load", "-q", "-i", &archive]);
        }
        for entry in fs::read_dir(self.place.scratch.path()).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name().to_string_lossy().starts_with("saved") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
    }

    fn saved(&self) -> std::path::PathBuf {
        self.place.scratch.path().join("saved")
    }

    fn there(&self, words: &[&str]) -> bool {
        self.supervisor.ctl(words).status.success()
    }

    /// It has ended with the machine, its log has whole lines of what it wrote, and it can be started.
    #[track_caller]
    fn container(&self, name: &str, after_cut: bool) {
        let status = self
            .supervisor
            .field(name, "{{.State.Status}} {{.State.Pid}}");
        let ended = ["exited 0", "created 0"].contains(&&*status);
        assert!(ended || !after_cut, "{name} is {status}");
        // The last of it is lost, and where data may come after what tells of it, something in between; but what is there is whole.
        let log = self.supervisor.says(&["logs", name]);
        let numbers = log.lines().map(|line| {
            let number = line
                .strip_prefix("line ")
                .and_then(|number| number.parse().ok());
            number.unwrap_or_else(|| panic!("the log of {name}: {line:?}"))
        });
        let numbers: Vec<u64> = numbers.collect();
        assert!(
            numbers.is_sorted_by(|one, next| one < next),
            "the log of {name}"
        );
        if name == "box" && status.starts_with("exited") {
            self.supervisor.says(&["start", "-a", name]);
            let filled = self.place.scratch.path().join("volumes/filled");
            let busybox = fs::metadata(place::busybox().unwrap()).unwrap().len();
            assert_eq!(fs::metadata(filled.join("busybox")).unwrap().len(), busybox);
            let applets = self.supervisor.says(&["run", "--rm", IMAGE, "ls", "/bin"]);
            assert_eq!(
                fs::read_dir(filled).unwrap().count(),
                applets.lines().count()
            );
        }
    }
}

/// Content that no other layer has.
fn layer(round: u64, number: u64) -> Tar {
    let mut layer = Tar::new().directory("d/");
    for file in 0..20_u64 {
        let bytes = [
            round.to_ne_bytes(),
            number.to_ne_bytes(),
            file.to_ne_bytes(),
        ]
        .concat();
        layer = layer.file(&format!("d/{number}-{file}"), &bytes.repeat(500));
    }
    layer
}

fn lock(facts: &Mutex<Vec<Fact>>) -> std::sync::MutexGuard<'_, Vec<Fact>> {
    facts.lock().unwrap()
}
