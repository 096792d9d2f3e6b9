//! A supervisor that has one image and one volume, `kept`, again, and nothing else: neither in its store nor anywhere on the host.

use integration::host;
use integration::supervisor::{IMAGE, Supervisor};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long after a death everything must be gone.
const GONE: Duration = Duration::from_secs(10);

pub(super) struct Clean {
    /// Layers and blobs of the image.
    base: (usize, usize),
    /// The last event that was looked at.
    cursor: String,
}

impl Clean {
    /// As it is now.
    pub(super) fn new(supervisor: &Supervisor) -> Self {
        Self {
            base: content(supervisor),
            cursor: "0".into(),
        }
    }

    /// Removes all but what is there at the beginning of a round, and looks whether something is left.
    #[track_caller]
    pub(super) fn up(&mut self, supervisor: &Supervisor) {
        let lines = |words: &[&str]| -> Vec<String> {
            supervisor.says(words).lines().map(str::to_owned).collect()
        };
        let created = lines(&[
            "events",
            "--after",
            &self.cursor,
            "--until",
            "0s",
            "--format",
            "{{.Cursor}} {{.Type}} {{.Actor.ID}}",
        ]);
        for id in lines(&["ps", "-aq"]) {
            supervisor.says(&["rm", "-f", "-v", &id]);
        }
        for name in lines(&["images", "--format", "{{.Repository}}:{{.Tag}}"]) {
            if name != format!("{IMAGE}:latest") {
                supervisor.says(&["rmi", &name]);
            }
        }
        supervisor.says(&["image", "prune", "-f"]);
        for name in lines(&["volume", "ls", "-q"]) {
            if name != "kept" {
                supervisor.says(&["volume", "rm", &name]);
            }
        }
        if !supervisor
            .ctl(&["image", "inspect", IMAGE])
            .status
            .success()
        {
            supervisor.says(&[
                "image",
                "import",
                &supervisor.scratch.name("image.tar"),
                IMAGE,
            ]);
        }
        self.nothing_is_left(supervisor, &created);
        if let Some(last) = created.last() {
            self.cursor = last.split(' ').next().unwrap_or("0").to_owned();
        }
    }

    #[track_caller]
    fn nothing_is_left(&self, supervisor: &Supervisor, events: &[String]) {
        let left = || {
            let mut left = vec![];
            for directory in ["ingests", "snapshots", "trash", "containers"] {
                left.extend(
                    entries(supervisor, directory)
                        .iter()
                        .map(|name| format!("{directory}/{name}")),
                );
            }
            let found = content(supervisor);
            if found != self.base {
                left.push(format!(
                    "layers and blobs: {found:?} instead of {:?}",
                    self.base
                ));
            }
            let volumes = entries(supervisor, "volumes");
            left.extend(
                volumes
                    .iter()
                    .filter(|name| *name != "kept")
                    .map(|name| format!("volume {name}")),
            );
            left.extend(supervisor.bundles().iter().map(|id| format!("bundle {id}")));
            for directory in ["s", "runtimes/caisson"] {
                let found = names(&supervisor.state.join(directory));
                left.extend(found.iter().map(|name| format!("{directory}/{name}")));
            }
            for event in events {
                let id = event.rsplit(' ').next().unwrap_or_default();
                if event.contains(" container ")
                    && host::hierarchy().join("caisson").join(id).exists()
                {
                    left.push(format!("the cgroup of {id}"));
                }
            }
            let mounts = host::mounts().into_iter().map(|mount| mount.target);
            left.extend(mounts.filter(|target| Path::new(target).starts_with(&supervisor.state)));
            left.extend(strangers(supervisor));
            left
        };
        let end = Instant::now() + GONE;
        while !left().is_empty() && Instant::now() < end {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        assert_eq!(left(), Vec::<String>::new(), "left behind");
    }
}

/// Processes that know its directories, but for the daemon.
fn strangers(supervisor: &Supervisor) -> Vec<String> {
    let name = supervisor.state.file_name().unwrap_or_default();
    let commands = host::processes(&name.to_string_lossy())
        .into_iter()
        .map(|pid| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            format!(
                "process {pid} {}",
                String::from_utf8_lossy(&command).replace('\0', " ")
            )
        });
    commands
        .filter(|command| command.contains("shim") || command.contains('['))
        .collect()
}

fn content(supervisor: &Supervisor) -> (usize, usize) {
    let count = |directory| entries(supervisor, directory).len();
    (count("layers"), count("blobs/sha256"))
}

fn entries(supervisor: &Supervisor, directory: &str) -> BTreeSet<String> {
    names(&supervisor.scratch.path().join("root").join(directory))
}

pub(super) fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}
