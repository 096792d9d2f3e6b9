//! A supervisor under test: a daemon of its own, with its own directories and socket, used through `caissonctl` as people use it. The shim and
//! the runtime below it are real.
//!
//! When a [`Supervisor`] is dropped, its containers are removed and its daemon is ended; the drop fails the test if a bundle, a mount, a cgroup or
//! a shim is left.

use crate::console::OnTerminal;
use crate::place::{self, Scratch};
use crate::runtime::{Finished, Running, finish};
use crate::{Bundle, host};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The image that [`Supervisor::new`] has imported: busybox and its applets, and a user `web`.
pub const IMAGE: &str = "busybox";

/// A daemon, started on demand by the first command.
#[derive(Debug)]
pub struct Supervisor {
    /// Its root is in it.
    pub scratch: Scratch,
    /// Short: sockets are in it, and their paths have 107 bytes at most.
    pub state: PathBuf,
}

impl Supervisor {
    /// With [`IMAGE`]. Ask `require!(containers, busybox)` first.
    #[track_caller]
    pub fn new() -> Supervisor {
        let supervisor = Supervisor::without_image();
        supervisor.import();
        supervisor
    }

    /// Without any.
    #[track_caller]
    pub fn without_image() -> Supervisor {
        Supervisor {
            scratch: Scratch::new(),
            state: PathBuf::from("/run").join(place::unique("sv")),
        }
    }

    /// Imports [`IMAGE`].
    #[track_caller]
    pub fn import(&self) {
        let bundle = Bundle::with_busybox();
        let rootfs = bundle.rootfs();
        place::write(
            &rootfs.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/srv:/bin/sh\n",
        );
        place::write(
            &rootfs.join("etc/group"),
            "root:x:0:\nweb:x:33:\nlog:x:4:web\n",
        );
        place::write(&rootfs.join("srv/file"), "from the image\n");
        let archive = self.scratch.name("image.tar");
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&rootfs).args(["-cf", &archive, "."]);
        finish(tar).success();
        self.ctl(&["image", "import", &archive, IMAGE]).success();
    }

    /// A command of the client's.
    pub fn command(&self, args: &[&str]) -> Command {
        self.in_its_places(Command::new(place::caissonctl()), args)
    }

    fn in_its_places(&self, mut command: Command, args: &[&str]) -> Command {
        command
            .arg("--root")
            .arg(self.scratch.path().join("root"))
            .arg("--state")
            .arg(&self.state)
            .args(args)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    /// The same in a shell's line, as `$ctl`.
    pub fn in_shell(&self, line: &str) -> Command {
        let ctl = self.command(&[]);
        let words = ctl.get_args().map(|word| word.to_string_lossy());
        let words: Vec<_> = words.collect();
        let mut shell = Command::new("sh");
        shell
            .args(["-c", line])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env(
                "ctl",
                format!("{} {}", ctl.get_program().display(), words.join(" ")),
            );
        shell
    }

    /// Runs one to its end.
    #[track_caller]
    pub fn ctl(&self, args: &[&str]) -> Finished {
        finish(self.command(args))
    }

    /// What one that succeeds says.
    #[track_caller]
    pub fn says(&self, args: &[&str]) -> String {
        self.ctl(args).success().stdout.trim().to_owned()
    }

    /// Starts one, with pipes.
    #[track_caller]
    pub fn start(&self, args: &[&str]) -> Running {
        Running::start(self.command(args))
    }

    /// Starts one on a terminal.
    #[track_caller]
    pub fn on_terminal(&self, args: &[&str]) -> OnTerminal {
        OnTerminal::start(self.command(args), 24, 80)
    }

    /// `run -d` of a shell script: the container's id.
    #[track_caller]
    pub fn detached(&self, flags: &[&str], script: &str) -> String {
        self.says(&[&["run", "-d"], flags, &[IMAGE, "sh", "-c", script]].concat())
    }

    /// The same of another image.
    #[track_caller]
    pub fn detached_of(&self, image: &str, script: &str) -> String {
        self.says(&["run", "-d", image, "sh", "-c", script])
    }

    /// A field of `inspect`.
    #[track_caller]
    pub fn field(&self, container: &str, template: &str) -> String {
        self.says(&["inspect", "--format", template, container])
    }

    /// The daemon's pid.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        let pid = self.says(&["version", "--format", "{{.Server.Pid}}"]);
        pid.parse()
            .unwrap_or_else(|_| panic!("'{pid}' is no pid of a daemon"))
    }

    /// A command line of the daemon's, for the places that [`Supervisor::command`] tells the client.
    pub fn daemon_command(&self, args: &[&str]) -> Command {
        self.in_its_places(Command::new(place::daemon()), args)
    }

    /// Starts a daemon, and waits until it serves. There must be none.
    #[track_caller]
    pub fn daemon(&self, args: &[&str]) -> Running {
        let mut daemon = Running::start(self.daemon_command(args));
        assert_eq!(daemon.stdout.line(), "ready");
        daemon
    }

    /// What a daemon says that does not start with such arguments.
    #[track_caller]
    pub fn refused(&self, args: &[&str]) -> Finished {
        finish(self.daemon_command(args)).failure()
    }

    /// Kills the daemon, and waits for its end. The next command starts another.
    #[track_caller]
    pub fn crash(&self) {
        let pid = self.pid();
        host::kill_descendant(pid);
        assert!(host::await_end(pid), "the daemon should have ended");
    }

    /// The directory of the bundles: none is left of a container that does not run.
    pub fn bundles(&self) -> Vec<String> {
        let entries = fs::read_dir(self.state.join("bundles"));
        let names = entries.into_iter().flatten().flatten();
        names
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }
}

impl Default for Supervisor {
    fn default() -> Self {
        Supervisor::new()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let ids = finish(self.command(&["ps", "-aq", "--no-trunc"])).stdout;
        let ids: Vec<&str> = ids.lines().collect();
        if !ids.is_empty() {
            finish(self.command(&[&["rm", "-f", "-v"], &ids[..]].concat()));
        }
        let pid = finish(self.command(&["version", "--format", "{{.Server.Pid}}"])).stdout;
        if let Ok(pid) = pid.trim().parse() {
            host::kill_descendant(pid);
            host::await_end(pid);
        }
        let mut left = self.bundles();
        let mounts = host::mounts().into_iter().map(|mount| mount.target);
        // By whole names: another's directory may begin as ours does.
        left.extend(mounts.filter(|target| Path::new(target).starts_with(&self.state)));
        let sockets = fs::read_dir(self.state.join("s"));
        let sockets = sockets.into_iter().flatten().flatten();
        left.extend(sockets.map(|entry| entry.path().display().to_string()));
        for id in ids {
            if host::hierarchy().join("caisson").join(id).exists() {
                left.push(format!("the cgroup of {id}"));
            }
        }
        // What could not be removed shows in `left`.
        fs::remove_dir_all(&self.state).ok();
        if !std::thread::panicking() {
            assert!(left.is_empty(), "left behind: {left:?}");
        }
    }
}
