//! A bundle on disk: `config.json`, written from [`Config`] before each use, and a root file system of one static file.

use crate::config::Config;
use crate::container::Container;
use crate::place::{self, Scratch};
use crate::runtime::{Finished, Running, Runtime};
use crate::seen::Seen;
use crate::{host, peer};
use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

/// A bundle in a scratch directory of its own, and the runtime to use it with.
#[derive(Debug)]
pub struct Bundle {
    /// Edit this; it is written out whenever the bundle is used.
    pub config: Config,
    /// The runtime; its state directory is beside the bundle.
    pub runtime: Runtime,
    /// Holds the bundle, the runtime's state and whatever else the test puts there.
    pub scratch: Scratch,
    /// Ids that were used with it.
    ids: RefCell<Vec<String>>,
}

impl Bundle {
    /// A bundle whose root holds the probe, the usual empty directories, and a passwd and a group file.
    #[track_caller]
    pub fn new() -> Bundle {
        let scratch = Scratch::new();
        let runtime = Runtime::new(&scratch.path().join("state"));
        let bundle = Bundle {
            config: Config::default(),
            runtime,
            scratch,
            ids: RefCell::default(),
        };
        for directory in [
            "bin",
            "dev",
            "etc",
            "home/worker",
            "proc",
            "root",
            "run",
            "sys",
            "tmp",
            "var",
        ] {
            bundle.dir(directory);
        }
        let tmp = fs::set_permissions(
            bundle.rootfs().join("tmp"),
            fs::Permissions::from_mode(0o1777),
        );
        tmp.unwrap_or_else(|error| panic!("chmod /tmp of the root: {error}"));
        bundle.file(
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nworker:x:1000:1000::/home/worker:/bin/sh\n",
        );
        bundle.file(
            "etc/group",
            "root:x:0:\nworker:x:1000:\nextra:x:2000:worker\n",
        );
        let probe = bundle.rootfs().join("bin/probe");
        fs::copy(place::probe(), &probe).unwrap_or_else(|error| panic!("copy the probe: {error}"));
        bundle
    }

    /// The same with busybox and its applets in /bin. Ask `require!(busybox)` first.
    #[track_caller]
    pub fn with_busybox() -> Bundle {
        let bundle = Bundle::new();
        let busybox = place::busybox()
            .unwrap_or_else(|| panic!("no busybox; the test should have required it"));
        let bin = bundle.rootfs().join("bin");
        fs::copy(&busybox, bin.join("busybox"))
            .unwrap_or_else(|error| panic!("copy busybox: {error}"));
        let mut command = std::process::Command::new(&busybox);
        command.arg("--list");
        for applet in crate::runtime::finish(command).success().stdout.lines() {
            if applet != "busybox" {
                symlink("busybox", bin.join(applet))
                    .unwrap_or_else(|error| panic!("link {applet}: {error}"));
            }
        }
        bundle
    }

    /// The bundle's directory.
    pub fn path(&self) -> PathBuf {
        self.scratch.path().join("bundle")
    }

    /// The root file system.
    pub fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    /// Makes a directory in the root.
    #[track_caller]
    pub fn dir(&self, name: &str) -> PathBuf {
        self.scratch.dir(&format!("bundle/rootfs/{name}"))
    }

    /// Puts a file into the root.
    #[track_caller]
    pub fn file(&self, name: &str, contents: &str) -> PathBuf {
        self.scratch
            .file(&format!("bundle/rootfs/{name}"), contents)
    }

    /// Writes `config.json`.
    #[track_caller]
    pub fn save(&self) {
        place::write(
            &self.path().join("config.json"),
            peer::adapted(&self.config).0.to_string(),
        );
    }

    /// Runs the container to its end and checks that nothing is left of it.
    #[track_caller]
    pub fn run(&self) -> Finished {
        self.run_with(&[])
    }

    /// The same with these flags of `run`.
    #[track_caller]
    pub fn run_with(&self, flags: &[&str]) -> Finished {
        let id = place::unique("run");
        let finished = self.call("run", flags, &id);
        match finished.status.success() {
            true if flags.contains(&"--keep") => {}
            true => self.assert_gone(&id),
            false => host::after_failure(&id, &self.runtime.root),
        }
        finished
    }

    /// Runs `create` or `run` with these flags and this id, and checks nothing.
    #[track_caller]
    pub fn call(&self, verb: &str, flags: &[&str], id: &str) -> Finished {
        self.save();
        self.runtime.call(&self.arguments(verb, flags, id))
    }

    /// Starts `create` or `run` with these flags and this id, with pipes for its input and output, and lets it run.
    #[track_caller]
    pub fn start(&self, verb: &str, flags: &[&str], id: &str) -> Running {
        self.save();
        self.runtime.start(&self.arguments(verb, flags, id))
    }

    /// Fails the test if anything is left of the container with this id.
    #[track_caller]
    pub fn assert_gone(&self, id: &str) {
        host::assert_no_trace(id, &self.runtime.root);
    }

    /// Runs `probe report` with these questions in place of the process's arguments.
    #[track_caller]
    pub fn report(&self, questions: &[&str]) -> Seen {
        self.report_with(&[], questions)
    }

    /// The same with these flags of `run`.
    #[track_caller]
    pub fn report_with(&self, flags: &[&str], questions: &[&str]) -> Seen {
        let mut config = self.config.clone();
        config.probe(&[&["report"], questions].concat());
        let id = place::unique("report");
        place::write(
            &self.path().join("config.json"),
            peer::adapted(&config).0.to_string(),
        );
        let finished = self
            .runtime
            .call(&self.arguments("run", flags, &id))
            .success();
        host::assert_no_trace(&id, &self.runtime.root);
        seen(&finished)
    }

    /// Runs `probe try` with these actions; the answers come in the same order.
    #[track_caller]
    pub fn tries(&self, actions: &[&str]) -> Vec<String> {
        let questions: Vec<String> = actions
            .iter()
            .map(|action| format!("try={action}"))
            .collect();
        let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
        let seen = self.report(&questions);
        actions
            .iter()
            .map(|action| seen.tried(action).to_owned())
            .collect()
    }

    /// Creates the container; the test fails if that does.
    #[track_caller]
    pub fn create(&self) -> Container {
        self.create_with(&[])
            .unwrap_or_else(|finished| panic!("should have succeeded: {finished}"))
    }

    /// Creates the container with these flags of `create`, or says how that failed. Whoever looks at a failure gets it only
    /// after a check that it left nothing behind.
    #[track_caller]
    pub fn create_with(&self, flags: &[&str]) -> Result<Container, Finished> {
        self.save();
        Container::create(&self.runtime, &self.path(), flags, &place::unique("box"))
    }

    /// Creates the container and expects that to fail.
    #[track_caller]
    pub fn create_fails(&self) -> Finished {
        match self.create_with(&[]) {
            Err(finished) => finished,
            Ok(container) => panic!("create should have failed; made {}", container.id),
        }
    }

    /// Creates and starts a container that runs `probe pause`, and waits until it does.
    #[track_caller]
    pub fn pause(&mut self) -> Container {
        self.config.probe(&["pause"]);
        let mut container = self.create();
        container.start().success();
        assert_eq!(container.stdout.line(), "ready");
        container
    }

    /// The command line of `create` or `run`.
    fn arguments(&self, verb: &str, flags: &[&str], id: &str) -> Vec<String> {
        self.ids.borrow_mut().push(id.to_owned());
        let bundle = self.path().display().to_string();
        let words = [&[verb, "--bundle", &bundle], flags, &[id]].concat();
        words.into_iter().map(str::to_owned).collect()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        // Nothing of a failed test outlives it, whatever the runtime did.
        if std::thread::panicking() {
            self.ids.borrow().iter().for_each(|id| host::clear(id));
        }
    }
}

impl Default for Bundle {
    fn default() -> Self {
        Bundle::new()
    }
}

/// The report that a command printed.
#[track_caller]
pub fn seen(finished: &Finished) -> Seen {
    serde_json::from_str(finished.stdout.trim())
        .unwrap_or_else(|error| panic!("no report ({error}): {finished}"))
}
