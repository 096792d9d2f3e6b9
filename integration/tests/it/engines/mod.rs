//! Container engines on Caisson: whoever uses one must see what he sees with runc.
//!
//! Each test is a list of everyday operations with one engine (`operations`). All of it is done with the runtime under test and
//! then with runc, on the same machine, and must come out the same (`compare`). Images are made of local files. Engines
//! keep their containers where they always do, so these tests need a machine that is thrown away.

mod compare;
mod cri;
mod operations;
mod round_trip;
mod shim;

use compare::{Setting, assert_same, every};
use integration::place;
use integration::runtime::{self, Finished, Running};
use integration::{Bundle, require};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use operations::{
    BUILDAH, CONTAINERD, CONTAINERFILES, DELEGATED, DOCKER, EVERYDAY, LIMITED, POD, PODMAN,
    UNPRIVILEGED,
};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

#[test]
fn podman_does_what_it_does_with_runc() {
    require!(
        throwaway_machine,
        busybox,
        program("podman"),
        program("runc")
    );
    let image = Image::new();
    image.sh("podman import -q box.tar box");
    assert_same(&[PODMAN, EVERYDAY, LIMITED], |runtime| {
        let line = line_of_readme("podman", runtime, "box");
        image.podman(runtime, &line).with("readme", &line)
    });
}

#[test]
fn podman_without_privileges_does_what_it_does_with_runc() {
    require!(
        throwaway_machine,
        busybox,
        program("podman"),
        program("runc"),
        unprivileged_user
    );
    let (name, id) = ("tester", 1000);
    let run = format!("/run/user/{id}");
    let user = format!("runuser -u {name} -- env XDG_RUNTIME_DIR={run}");
    let image = Image::new();
    // As on a machine that he has logged in to.
    let mut lists = vec![UNPRIVILEGED];
    if systemd() {
        image.sh(&format!(
            "loginctl enable-linger {name} && systemctl start user@{id}"
        ));
        lists.extend([DELEGATED, LIMITED]);
    } else {
        // Nobody has delegated a cgroup to him.
        fs::create_dir_all(&run).unwrap();
        place::give(Path::new(&run), id, id);
    }
    // What Podman does for root as well takes minutes more.
    if every() {
        lists.push(EVERYDAY);
    }
    image.sh(&format!("{user} podman import -q box.tar box"));
    assert_same(&lists, |runtime| {
        let line = format!("{user} {}", line_of_readme("podman", runtime, "box"));
        let setting = image.podman(runtime, &line);
        if systemd() {
            setting.with("show", &format!("{user} systemctl --user show"))
        } else {
            setting.with("limits", "")
        }
    });
}

#[test]
fn a_pod_of_podman_is_what_it_is_with_runc() {
    require!(
        throwaway_machine,
        busybox,
        program("podman"),
        program("runc")
    );
    let image = Image::new();
    image.sh("podman import -q box.tar box");
    assert_same(&[POD], |runtime| {
        image.podman(runtime, &line_of_readme("podman", runtime, "box"))
    });
}

#[test]
fn docker_does_what_it_does_with_runc() {
    require!(
        throwaway_machine,
        busybox,
        program("dockerd"),
        program("docker"),
        program("runc")
    );
    let (image, _docker) = (Image::new(), docker());
    // Its daemon waits seconds for a containerd of its own, and an emulated machine may need more.
    let (_containerd, address) = containerd(&image);
    let line = by_default(&line_of_readme("dockerd", &installed(), ""));
    let _daemon = Daemon::start(&image, &format!("{line} --containerd {address}"));
    image.sh("docker import box.tar box");
    assert_same(&[DOCKER, EVERYDAY, LIMITED], |runtime| {
        let default = *runtime == installed();
        let name = if default { "caisson" } else { "runc" };
        let other = if default { "" } else { "--runtime runc " };
        let setting = image.setting(runtime).with("name", name);
        let setting = setting.with("engine", "docker");
        setting.with("run", &format!("docker run {other}--network none"))
    });
}

#[test]
fn containerd_does_what_it_does_with_runc() {
    require!(throwaway_machine, busybox, containerd, program("runc"));
    let image = Image::new();
    image.layout();
    let (_daemon, address) = containerd(&image);
    image.sh(&format!(
        "ctr --address {address} image import --base-name box layout.tar"
    ));
    assert_same(&[CONTAINERD], |runtime| {
        let line = line_of_readme("ctr", runtime, "box:latest");
        let run = before(&line, " box:latest ").replace(" --rm", "");
        // In a unit, as the shim is told by CRI and by Docker.
        let named = |name: &str| match systemd() {
            true => format!("{run} --runc-systemd-cgroup --cgroup system.slice:ctr:{name}"),
            false => run.clone(),
        };
        let setting = image.setting(runtime).with("CONTAINERD_ADDRESS", &address);
        let setting = setting.with("readme", &line);
        setting
            .with("run", &named("other"))
            .with("web", &named("web"))
    });
}

#[test]
fn buildah_does_what_it_does_with_runc() {
    require!(
        throwaway_machine,
        busybox,
        program("buildah"),
        program("podman"),
        program("runc")
    );
    let image = Image::new();
    for (name, text) in CONTAINERFILES {
        image.bundle.scratch.file(&format!("files/{name}"), text);
    }
    image.sh("podman import -q box.tar box");
    assert_same(&[BUILDAH], |runtime| {
        let line = line_of_readme("buildah", runtime, "");
        let run = before(&line, " work ");
        let setting = image.setting(runtime).with("readme", &line);
        let setting = setting.with("files", &image.bundle.scratch.name("files"));
        setting
            .with("run", run)
            .with("build", &run.replacen(" run ", " build ", 1))
    });
}

/// A root file system to make an engine's image of: busybox, a program `mounts`, and a pipe by which a container says that it is
/// ready.
struct Image {
    bundle: Bundle,
}

/// Lists mounts in alphabetical order, since engines ask for theirs in any order. What hides a path of /proc or /sys is the runtime's
/// own affair.
const MOUNTS: &str = r#"#!/bin/sh
awk '$2 != "/" { print $2, $2 ~ "^/(proc|sys)/" && $3 ~ "tmpfs" ? "hidden" : $3 " " $4 }' /proc/mounts | sort
"#;

impl Image {
    fn new() -> Image {
        let bundle = Bundle::with_busybox();
        let mounts = bundle.file("bin/mounts", MOUNTS);
        fs::set_permissions(&mounts, fs::Permissions::from_mode(0o755)).unwrap();
        let ready = bundle.rootfs().join("ready");
        nix::unistd::mkfifo(&ready, Mode::from_bits_truncate(0o666)).unwrap();
        let image = Image { bundle };
        image.sh("tar -C bundle/rootfs -cf box.tar .");
        image.sh("umask 0; mkdir -p shared/in shared/out; echo of the host >shared/in/note");
        image
    }

    /// Runs a shell script in its scratch directory.
    #[track_caller]
    fn sh(&self, script: &str) -> Finished {
        let mut command = Command::new("sh");
        let dir = self.bundle.scratch.path();
        command.args(["-ec", script]).current_dir(dir);
        runtime::finish(command).success()
    }

    /// As an image of OCI, `layout.tar`.
    #[track_caller]
    fn layout(&self) {
        self.sh(
            "umoci init --layout layout && umoci new --image layout:latest &&
            umoci insert --image layout:latest bundle/rootfs / && tar -C layout -cf layout.tar .",
        );
    }

    fn setting(&self, runtime: &Path) -> Setting {
        let setting = Setting::default().with("runtime", runtime.to_str().unwrap());
        let setting = setting.with("shared", &self.bundle.scratch.name("shared"));
        let limits = "-m 64m --memory-swap 64m --cpus 0.5 --cpu-shares 262144 --pids-limit 50";
        let show = if systemd() { "systemctl show" } else { "true" };
        setting.with("limits", limits).with("show", show)
    }

    /// For the Podman of a line of README.md.
    fn podman(&self, runtime: &Path, line: &str) -> Setting {
        let line = by_default(line);
        let engine = before(&line, " run ");
        let setting = self.setting(runtime).with("engine", engine);
        setting.with("run", &format!("{engine} run --network none"))
    }
}

/// A daemon that says when it is ready, as services of systemd do. It ends with the test.
struct Daemon(Option<Running>);

impl Daemon {
    #[track_caller]
    fn start(image: &Image, line: &str) -> Daemon {
        let path = image.bundle.scratch.path().join("notify");
        fs::remove_file(&path).ok(); // There is one if it was stopped and goes on.
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().unwrap());
        command.args(words).env("NOTIFY_SOCKET", &path);
        let daemon = Running::start(command);
        if !runtime::readable(&socket) {
            panic!("not ready: {}", daemon.wait());
        }
        Daemon(Some(daemon))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // While a failed test unwinds, its own message is the one to read; the daemon is killed.
        if let Some(daemon) = self.0.take().filter(|_| !std::thread::panicking()) {
            daemon.signal(Signal::SIGTERM);
            daemon.wait_for_exit();
        }
    }
}

/// A containerd of the test's own, and its address.
#[track_caller]
fn containerd(image: &Image) -> (Daemon, String) {
    let dir = image.bundle.scratch.path().display();
    let address = format!("{dir}/containerd.sock");
    image.bundle.scratch.file("config.toml", apart(""));
    let line = format!(
        "containerd --config {dir}/config.toml --address {address} --root {dir}/root --state {dir}/state"
    );
    (Daemon::start(image, &line), address)
}

/// A configuration of containerd, of version 2, with which several run side by side: from 2.0 on each has a socket for plugins (NRI), by
/// default the same, and without it does not start.
fn apart(configuration: &str) -> String {
    let rest = configuration.replace("version = 2", "");
    format!("version = 2\n{rest}\n[plugins.\"io.containerd.nri.v1.nri\"]\ndisable = true\n")
}

/// Held while there is a daemon of Docker's, of which there can be one.
fn docker() -> MutexGuard<'static, ()> {
    static DOCKER: Mutex<()> = Mutex::new(());
    // Whoever failed with it has ended his.
    DOCKER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where README.md has the runtime.
const PLACE: &str = "/usr/local/bin/caisson";

/// The runtime under test, in that place.
fn installed() -> PathBuf {
    static COPIED: OnceLock<u64> = OnceLock::new();
    COPIED.get_or_init(|| fs::copy(place::runtime(), PLACE).unwrap());
    PathBuf::from(PLACE)
}

/// The command line of README.md for a program, with this runtime and image, and with something to do.
#[track_caller]
fn line_of_readme(program: &str, runtime: &Path, image: &str) -> String {
    let readme = include_str!("../../../../README.md");
    let is_it = |line: &&str| line.starts_with(&format!("{program} ")) && line.contains(PLACE);
    let line = readme.lines().find(is_it).unwrap();
    line.replace(PLACE, runtime.to_str().unwrap())
        .replace("IMAGE", image)
        .replace("CONTAINER", "work")
        .replace("NAME", "readme")
        .replace("COMMAND", "echo as written")
}

/// As README.md says: where systemd is PID 1, the options that name cgroupfs are not needed.
fn by_default(line: &str) -> String {
    if !systemd() {
        return line.to_owned();
    }
    line.replace(" --cgroup-manager cgroupfs", "")
        .replace(" --exec-opt native.cgroupdriver=cgroupfs", "")
}

/// Whether engines have systemd make their containers' cgroups.
fn systemd() -> bool {
    integration::require::systemd().is_ok()
}

fn before<'a>(line: &'a str, end: &str) -> &'a str {
    line.split_once(end).unwrap().0
}
