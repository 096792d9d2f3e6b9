//! Container engines on Caisson: whoever uses one must see what he sees with runc.
//!
//! Each test is a list of everyday operations with one engine (`operations`). All of it is done with the runtime under test and
//! then with runc, on the same machine, and must come out the same (`compare`). Images are made of local files. Engines
//! keep their containers where they always do, so these tests need a machine that is thrown away.

mod compare;
mod operations;

use compare::{Setting, assert_same};
use integration::place;
use integration::runtime::{self, Finished, Running};
use integration::{Bundle, require};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use operations::{BUILD, CONTAINERD, DOCKER, EVERYDAY, POD, PODMAN, UNPRIVILEGED};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

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
    assert_same(&[PODMAN, EVERYDAY], |runtime| {
        let line = line_of_readme("podman", runtime, "box");
        let engine = before(&line, " run ");
        let setting = image.setting(runtime).with("readme", &line);
        let run = format!("{engine} run --network none");
        setting.with("engine", engine).with("run", &run)
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
    // As on a machine that he has logged in to.
    let (name, id) = ("tester", 1000);
    let run = format!("/run/user/{id}");
    fs::create_dir_all(&run).unwrap();
    place::give(Path::new(&run), id, id);
    let user = format!("runuser -u {name} -- env XDG_RUNTIME_DIR={run}");
    let image = Image::new();
    image.sh(&format!("{user} podman import -q box.tar box"));
    assert_same(&[UNPRIVILEGED], |runtime| {
        let line = format!("{user} {}", line_of_readme("podman", runtime, "box"));
        let engine = before(&line, " run ");
        let setting = image.setting(runtime).with("readme", &line);
        let run = format!("{engine} run --network none");
        setting.with("engine", engine).with("run", &run)
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
        let line = line_of_readme("podman", runtime, "box");
        image
            .setting(runtime)
            .with("engine", before(&line, " run "))
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
    let image = Image::new();
    let _daemon = Daemon::start(&image, &line_of_readme("dockerd", &installed(), ""));
    image.sh("docker import box.tar box");
    assert_same(&[DOCKER, EVERYDAY], |runtime| {
        let default = *runtime == installed();
        let name = if default { "caisson" } else { "runc" };
        let mut run = "docker run --network none".to_owned();
        if !default {
            run += " --runtime runc";
        }
        let setting = image.setting(runtime).with("name", name);
        setting.with("engine", "docker").with("run", &run)
    });
}

#[test]
fn containerd_does_what_it_does_with_runc() {
    require!(
        throwaway_machine,
        busybox,
        program("containerd"),
        program("ctr"),
        program("umoci"),
        program("runc")
    );
    let image = Image::new();
    image.sh(
        "umoci init --layout layout && umoci new --image layout:latest &&
        umoci insert --image layout:latest bundle/rootfs / && tar -C layout -cf layout.tar .",
    );
    // Docker's daemon would take one at the default address for its own.
    let dir = image.bundle.scratch.path().display();
    let address = format!("{dir}/containerd.sock");
    let line = format!("containerd --address {address} --root {dir}/root --state {dir}/state");
    let _daemon = Daemon::start(&image, &line);
    image.sh(&format!(
        "ctr --address {address} image import --base-name box layout.tar"
    ));
    assert_same(&[CONTAINERD], |runtime| {
        let line = line_of_readme("ctr", runtime, "box:latest");
        let run = before(&line, " box:latest ").replace(" --rm", "");
        let setting = image.setting(runtime).with("CONTAINERD_ADDRESS", &address);
        setting.with("readme", &line).with("run", &run)
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
    let steps = "FROM localhost/box\nRUN echo built >/built && id -u\nUSER 1000\nRUN id -u; exec cat /built\n";
    image.bundle.scratch.file("Containerfile", steps);
    image.sh("podman import -q box.tar box");
    assert_same(&[BUILD], |runtime| {
        let line = line_of_readme("buildah", runtime, "");
        let setting = image.setting(runtime).with("readme", &line);
        setting.with("run", before(&line, " work "))
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

    fn setting(&self, runtime: &Path) -> Setting {
        let setting = Setting::default().with("runtime", runtime.to_str().unwrap());
        let setting = setting.with("dir", self.bundle.scratch.path().to_str().unwrap());
        setting.with("shared", &self.bundle.scratch.name("shared"))
    }
}

/// A daemon that says when it is ready, as services of systemd do. It ends with the test.
struct Daemon(Option<Running>);

impl Daemon {
    #[track_caller]
    fn start(image: &Image, line: &str) -> Daemon {
        let path = image.bundle.scratch.path().join("notify");
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

fn before<'a>(line: &'a str, end: &str) -> &'a str {
    line.split_once(end).unwrap().0
}
