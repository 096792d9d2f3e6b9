//! Engines on Caisson's shim: whoever uses them must see what he sees with runc's, and what dies must take nothing with it.

use super::compare::{assert_same, every};
use super::operations::{CONTAINERD, DOCKED, DOCKER, EVERYDAY, SHIM};
use super::{Daemon, Image, apart, before, containerd, docker, installed, systemd};
use integration::host;
use integration::place;
use integration::require;
use integration::runtime::{Finished, Running};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

#[test]
fn containerd_does_with_this_shim_what_it_does_with_runcs() {
    require!(throwaway_machine, busybox, containerd, program("runc"));
    let containerd = Containerd::start();
    let mut lists = vec![SHIM];
    if every() {
        lists.push(CONTAINERD);
    }
    assert_same(&lists, |runtime| {
        let line = containerd.readme(shim_of(runtime));
        let run = before(&line, " box:latest ").replace(" --rm", "");
        let setting = containerd.image.setting(runtime);
        let setting = setting.with("CONTAINERD_ADDRESS", &containerd.address());
        setting
            .with("readme", &line)
            .with("run", &run)
            .with("web", &run)
    });
}

#[test]
fn containers_and_their_output_and_end_outlive_a_restart_of_containerd() {
    require!(throwaway_machine, busybox, containerd);
    let mut containerd = Containerd::start();
    let shared = containerd.image.bundle.scratch.name("shared");
    let waits = "sh -c 'echo before; read word </shared/go-$0; echo $word; exit 7'";
    for name in ["during", "after"] {
        containerd.sh(&format!(
            "mkfifo shared/go-{name}
            $run -d --log-uri file://{shared}/log-{name} --mount type=bind,src={shared},dst=/shared,options=rbind:rw \
                box:latest {name} {waits} {name}"
        ));
    }
    // Its streams are those of whoever attaches.
    containerd.sh("$run -d box:latest attached sh -c 'read word; echo $word; exit 7'");
    containerd.sh("ctr task exec -d --exec-id one after sleep 1000");
    let (during, after) = (containerd.pid("during"), containerd.pid("after"));
    containerd.stop();
    containerd.sh("echo told >shared/go-during");
    // Its shim has seen its end then.
    assert!(host::await_end(during));
    containerd.go_on();
    let listed = containerd.sh("ctr task ls | awk '{ print $1, $3 }'").stdout;
    assert!(listed.contains("during STOPPED"), "{listed}");
    assert!(listed.contains("after RUNNING"), "{listed}");
    assert_eq!(containerd.sh("ctr task ps after | wc -l").stdout, "3\n");
    containerd.sh("ctr task kill --exec-id one -s KILL after");
    containerd.sh("echo told >shared/go-after");
    let mut attached = containerd.running("ctr task attach attached");
    let input = attached.stdin.as_mut().unwrap();
    input.write_all(b"told\n").unwrap();
    let attached = attached.wait();
    assert_eq!((attached.code(), &*attached.stdout), (7, "told\n"));
    assert!(host::await_end(after));
    containerd.sh("ctr task rm during || [ $? = 7 ]; ctr task rm after || [ $? = 7 ]");
    for name in ["during", "after"] {
        let log = containerd.sh(&format!("cat shared/log-{name}"));
        assert_eq!(log.stdout, "before\ntold\n", "{name}");
    }
    containerd.sh("ctr container rm during after attached");
    containerd.assert_empty();
}

#[test]
fn what_is_done_with_containers_outlives_a_restart_of_containerd() {
    require!(throwaway_machine, busybox, containerd);
    let mut containerd = Containerd::start();
    containerd.sh("mkfifo shared/go");
    let shared = containerd.image.bundle.scratch.name("shared");
    // Its client is cut off, and its output goes to who attaches.
    let mut client = containerd.running(&format!(
        "$run --mount type=bind,src={shared},dst=/shared,options=rbind:rw box:latest client \
            sh -c 'echo ready; read word </shared/go; exit 7'"
    ));
    assert_eq!(client.stdout.line(), "ready");
    containerd.sh("script -qec \"$run -d -t box:latest terminal sleep 1000\" /dev/null </dev/null");
    containerd.sh("$run -d box:latest paused sleep 1000");
    let exec = "ctr task exec --exec-id two terminal sh -c 'echo ready; sleep 1000'";
    let mut exec = containerd.running(exec);
    assert_eq!(exec.stdout.line(), "ready");
    containerd.sh("ctr task pause paused");
    let used = "ctr task metrics terminal | awk '$1 == \"memory.usage\" { print ($2 > 0) }'";
    assert_eq!(containerd.sh(used).stdout, "1\n");
    let pids = ["client", "terminal", "paused"].map(|name| containerd.pid(name));
    containerd.stop();
    assert_ne!(client.wait().code(), 0);
    assert_ne!(exec.wait().code(), 0);
    containerd.go_on();
    let listed = containerd
        .sh("ctr task ls | awk '{ print $1, $2, $3 }'")
        .stdout;
    for ((name, state), pid) in [
        ("client", "RUNNING"),
        ("terminal", "RUNNING"),
        ("paused", "PAUSED"),
    ]
    .into_iter()
    .zip(pids)
    {
        assert!(
            listed.contains(&format!("{name} {pid} {state}")),
            "{listed}"
        );
    }
    assert_eq!(containerd.sh(used).stdout, "1\n");
    containerd.sh("ctr task resume paused && ctr task kill -s KILL paused");
    containerd.sh("ctr task kill --exec-id two -s KILL terminal");
    containerd.sh("echo told >shared/go; ctr task kill -s KILL terminal");
    for pid in pids {
        assert!(host::await_end(pid));
    }
    for (name, code) in [("client", 7), ("terminal", 137), ("paused", 137)] {
        containerd.sh(&format!("ctr task rm {name} || [ $? = {code} ]"));
    }
    containerd.sh("ctr container rm client terminal paused");
    containerd.assert_empty();
}

#[test]
fn of_a_shim_that_is_killed_containerd_learns_and_nothing_is_left() {
    require!(throwaway_machine, busybox, containerd);
    let mut containerd = Containerd::start();
    let mut client = containerd.running("$run box:latest killed sh -c 'echo ready; sleep 1000'");
    assert_eq!(client.stdout.line(), "ready");
    let container = containerd.pid("killed");
    host::kill_descendant(containerd.shim_of("killed"));
    assert_ne!(client.wait().code(), 0);
    assert!(host::await_end(container));
    containerd.sh("ctr task rm killed || true; ctr container rm killed");
    containerd.assert_empty();

    // While containerd is away.
    containerd.sh("$run -d box:latest killed sleep 1000");
    let (container, shim) = (containerd.pid("killed"), containerd.shim_of("killed"));
    containerd.stop();
    host::kill_descendant(shim);
    containerd.go_on();
    assert!(host::await_end(container));
    containerd.sh("ctr task rm killed || true; ctr container rm killed");
    containerd.assert_empty();
}

#[test]
fn docker_does_with_this_shim_what_it_does_with_runcs() {
    require!(
        throwaway_machine,
        busybox,
        program("dockerd"),
        program("docker"),
        program("runc")
    );
    let (image, _docker) = (Image::new(), docker());
    let (_containerd, address) = containerd(&image);
    let _daemon = Daemon::start(&image, &dockerd(&image, &address));
    image.sh("docker import box.tar box");
    let mut lists = vec![DOCKED];
    if every() {
        lists.extend([DOCKER, EVERYDAY]);
    }
    assert_same(&lists, |runtime| {
        let default = *runtime == installed();
        let name = if default { "caisson" } else { "runc" };
        let setting = image.setting(runtime).with("name", name);
        let setting = setting.with("engine", "docker");
        setting.with(
            "run",
            &format!("docker run --runtime {name} --network none"),
        )
    });
}

#[test]
fn containers_of_docker_outlive_a_restart_of_it() {
    require!(
        throwaway_machine,
        busybox,
        program("dockerd"),
        program("docker")
    );
    let (image, _docker) = (Image::new(), docker());
    let (below, address) = containerd(&image);
    let line = format!("{} --live-restore", dockerd(&image, &address));
    let daemon = Daemon::start(&image, &line);
    image.sh("docker import box.tar box");
    let shared = image.bundle.scratch.name("shared");
    let pids = ["during", "after"].map(|name| {
        let script = format!("echo before; read word </shared/go-{name}; echo $word; exit 7");
        image.sh(&format!(
            "mkfifo shared/go-{name}
            docker run -d --runtime caisson --network none --name {name} -v {shared}:/shared box sh -c '{script}'"
        ));
        let pid = image.sh(&format!("docker inspect -f '{{{{.State.Pid}}}}' {name}"));
        pid.stdout.trim().parse().unwrap()
    });
    if systemd() {
        let group = fs::read_to_string(format!("/proc/{}/cgroup", pids[1])).unwrap();
        let name = image.sh("docker inspect -f '{{.Id}}' after").stdout;
        let scope = format!("/system.slice/docker-{}.scope\n", name.trim());
        assert!(group.ends_with(&scope), "{group}");
    }
    drop(daemon);
    drop(below);
    image.sh("echo >shared/go-during");
    // Its shim has seen its end then.
    assert!(host::await_end(pids[0]));
    let (_below, _) = containerd(&image);
    let _daemon = Daemon::start(&image, &line);
    let state = "docker inspect -f '{{.State.Status}} {{.State.ExitCode}}'";
    let states = image.sh(&format!("{state} during after")).stdout;
    assert_eq!(states, "exited 7\nrunning 0\n");
    assert_eq!(image.sh("docker exec after echo again").stdout, "again\n");
    image.sh("echo told >shared/go-after; [ $(docker wait after) = 7 ]");
    // Of one that wrote and ended while nobody was there, what it wrote then is gone, as with runc's shim.
    let logs = image.sh("docker logs after; docker rm during after");
    assert_eq!(logs.stdout, "before\ntold\nduring\nafter\n");
}

/// A containerd, which can be stopped and go on, and an image `box` in it.
pub(super) struct Containerd {
    /// Dropped before its files are: from 2.0 on it ends by itself when the directory of networks goes.
    daemon: Option<Daemon>,
    pub(super) image: Image,
}

impl Containerd {
    #[track_caller]
    fn start() -> Containerd {
        let mut containerd = Containerd::with("");
        containerd.go_on();
        containerd.sh("ctr image import --base-name box layout.tar");
        containerd
    }

    /// Not running yet, with this configuration, in which DIRECTORY is a directory of the test's own.
    #[track_caller]
    pub(super) fn with(configuration: &str) -> Containerd {
        install_shim();
        let image = Image::new();
        image.layout();
        let text =
            configuration.replace("DIRECTORY", &image.bundle.scratch.path().to_string_lossy());
        image.bundle.scratch.file("config.toml", apart(&text));
        Containerd {
            image,
            daemon: None,
        }
    }

    /// Docker's daemon would take one at the default address for its own.
    pub(super) fn address(&self) -> String {
        self.image.bundle.scratch.name("containerd.sock")
    }

    pub(super) fn stop(&mut self) {
        self.daemon = None;
    }

    #[track_caller]
    pub(super) fn go_on(&mut self) {
        let dir = self.image.bundle.scratch.path().display();
        let line = format!(
            "containerd --config {dir}/config.toml --address {} --root {dir}/root --state {dir}/state",
            self.address()
        );
        self.daemon = Some(Daemon::start(&self.image, &line));
    }

    /// The line of README.md that runs a container with a shim.
    #[track_caller]
    fn readme(&self, shim: &str) -> String {
        let readme = include_str!("../../../../README.md");
        let mut lines = readme.lines().filter(|line| line.starts_with("ctr "));
        let line = lines.rfind(|line| line.contains(SHIM_NAME)).unwrap();
        line.replace(SHIM_NAME, shim)
            .replace("IMAGE", "box:latest")
            .replace("NAME", "readme")
            .replace("COMMAND", "echo as written")
    }

    /// A script for its client, in which `$run` makes a container.
    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-ec", script])
            .current_dir(self.image.bundle.scratch.path());
        command.env("CONTAINERD_ADDRESS", self.address());
        command.env("run", format!("ctr run --runtime {SHIM_NAME}"));
        command
    }

    #[track_caller]
    pub(super) fn sh(&self, script: &str) -> Finished {
        integration::runtime::finish(self.command(script)).success()
    }

    #[track_caller]
    fn running(&self, script: &str) -> Running {
        Running::start(self.command(script))
    }

    /// The bundles of all containers.
    fn bundles(&self) -> Vec<PathBuf> {
        let state = self.image.bundle.scratch.path().join("state");
        let entries = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
        let namespaces = entries(&state.join("io.containerd.runtime.v2.task"));
        let bundles = namespaces.flat_map(|namespace| entries(&namespace.path()));
        bundles.map(|bundle| bundle.path()).collect()
    }

    /// The first process of a container.
    #[track_caller]
    pub(super) fn pid(&self, name: &str) -> i32 {
        let mut bundles = self.bundles().into_iter();
        let bundle = bundles.find(|bundle| bundle.ends_with(name)).unwrap();
        let pid = fs::read_to_string(bundle.join("init.pid")).unwrap();
        pid.parse().unwrap()
    }

    /// The process of a container's shim: its parent.
    #[track_caller]
    pub(super) fn shim_of(&self, name: &str) -> i32 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid(name))).unwrap();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        parent.unwrap().trim().parse().unwrap()
    }

    /// That nothing of any container is left.
    #[track_caller]
    pub(super) fn assert_empty(&self) {
        assert_eq!(self.bundles(), Vec::<PathBuf>::new());
        let dir = self.image.bundle.scratch.name("");
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(&dir), "mounts: {mounts}");
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let lines =
            entries.filter_map(|entry| fs::read_to_string(entry.path().join("cmdline")).ok());
        let address = self.address();
        let shims: Vec<_> = lines
            .filter(|line| line.contains("shim") && line.contains(&address))
            .collect();
        assert!(shims.is_empty(), "shims: {shims:?}");
    }
}

pub(super) const SHIM_NAME: &str = "io.containerd.caisson.v2";

/// The name by which containerd finds the shim under test, or runc's.
fn shim_of(runtime: &Path) -> &'static str {
    if *runtime == installed() {
        SHIM_NAME
    } else {
        "io.containerd.runc.v2"
    }
}

/// The shim under test and the runtime, where containerd looks for them.
pub(super) fn install_shim() {
    static COPIED: OnceLock<u64> = OnceLock::new();
    installed();
    let to = "/usr/local/bin/containerd-shim-caisson-v2";
    COPIED.get_or_init(|| fs::copy(place::shim(), to).unwrap());
}

/// The text of README.md between fences, the part in which this stands.
#[track_caller]
pub(super) fn part_of_readme(what: &str) -> &'static str {
    let readme = include_str!("../../../../README.md");
    let mut parts = readme.split("\n```").skip(1).step_by(2);
    let part = parts.find(|part| part.contains(what)).unwrap();
    part.split_once('\n').unwrap().1
}

/// Docker's daemon, configured as README.md says. Others of the suite find nothing in /etc.
#[track_caller]
fn dockerd(image: &Image, containerd: &str) -> String {
    install_shim();
    let part = part_of_readme("runtimeType");
    let file = image.bundle.scratch.file("daemon.json", part);
    let driver = if systemd() { "systemd" } else { "cgroupfs" };
    format!(
        "dockerd --config-file {} --containerd {containerd} --exec-opt native.cgroupdriver={driver}",
        file.display()
    )
}
