//! NOTIFY_SOCKET: a container's READY=1 reaches the supervisor that started it.

use integration::runtime::readable;
use integration::socket::message;
use integration::{Bundle, beyond, require};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

#[test]
fn start_passes_ready_on_and_returns_then() {
    require!(containers);
    beyond!(
        start_passes_ready_on_and_returns_then,
        [
            runc_before("1.2", "sends no barrier"),
            crun("sends no barrier")
        ]
    );
    let (mut bundle, supervisor) = supervised();
    bundle.config.probe(&["notify", "READY=1"]);
    let container = bundle.create();
    let start = bundle.runtime.start(&["start", &container.id]);
    assert_eq!(supervisor.told(), "READY=1");
    assert_eq!(supervisor.told(), format!("MAINPID={}", container.pid));
    let barrier = supervisor.barrier();
    assert_eq!(container.status(), "running");
    drop(barrier);
    start.wait().success();
}

#[test]
fn a_detached_run_passes_ready_on_and_returns_then() {
    require!(containers);
    beyond!(
        a_detached_run_passes_ready_on_and_returns_then,
        [
            runc("looks at the first line only"),
            crun("sends no barrier")
        ]
    );
    let (mut bundle, supervisor) = supervised();
    bundle
        .config
        .probe(&["notify", "STATUS=warming up\nREADY=1"]);
    let id = integration::place::unique("ready");
    let run = bundle.start("run", &["--detach"], &id);
    assert_eq!(supervisor.told(), "READY=1");
    let main = supervisor.told();
    let pid = main.trim().strip_prefix("MAINPID=").unwrap().to_owned();
    drop(supervisor.barrier());
    assert!(run.wait_for_exit().success());
    let state = bundle.runtime.call(&["state", &id]).success().json();
    assert_eq!(state["pid"].to_string(), pid);
    bundle.runtime.call(&["delete", "--force", &id]).success();
    bundle.assert_gone(&id);
}

#[test]
fn a_run_in_the_foreground_passes_ready_on_and_stays() {
    require!(containers);
    beyond!(
        a_run_in_the_foreground_passes_ready_on_and_stays,
        [
            runc("says that the main process is 0"),
            crun("says it to the container alone")
        ]
    );
    let (mut bundle, supervisor) = supervised();
    bundle.config.probe(&["notify", "READY=1"]);
    let id = integration::place::unique("ready");
    let run = bundle.start("run", &[], &id);
    assert_eq!(supervisor.told(), "READY=1");
    let state = bundle.runtime.call(&["state", &id]).success().json();
    assert_eq!(supervisor.told(), format!("MAINPID={}", state["pid"]));
    drop(supervisor.barrier());
    bundle.runtime.call(&["kill", &id, "TERM"]).success();
    assert_eq!(run.wait().code(), 0);
    bundle.assert_gone(&id);
}

#[test]
fn start_ends_with_a_container_that_never_gets_ready() {
    require!(containers);
    let (mut bundle, supervisor) = supervised();
    bundle.config.probe(&["exit", "3"]);
    let mut container = bundle.create();
    container.start().success();
    assert_eq!(container.wait(), 3);
    assert!(supervisor.has_not_been_told());
}

#[test]
fn what_is_said_right_before_the_end_is_passed_on() {
    require!(containers);
    beyond!(
        what_is_said_right_before_the_end_is_passed_on,
        [
            runc_race("looks whether the container lives first"),
            crun_race("looks whether the container lives first")
        ]
    );
    let (mut bundle, supervisor) = supervised();
    bundle.config.probe(&["notify-and-exit", "READY=1"]);
    let container = bundle.create();
    let start = bundle.runtime.start(&["start", &container.id]);
    assert_eq!(supervisor.told(), "READY=1");
    supervisor.told();
    drop(supervisor.barrier());
    start.wait().success();
}

#[test]
fn a_container_that_waits_to_be_ready_can_be_deleted() {
    require!(containers);
    let (mut bundle, _supervisor) = supervised();
    bundle.config.probe(&["pause"]);
    let mut container = bundle.create();
    let start = bundle.runtime.start(&["start", &container.id]);
    assert_eq!(container.stdout.line(), "ready");
    container.delete_by_force().success();
    start.wait().success();
}

#[test]
fn the_socket_is_where_the_environment_says_and_nothing_else_can_be_written_there() {
    require!(containers);
    beyond!(
        the_socket_is_where_the_environment_says_and_nothing_else_can_be_written_there,
        [
            runc("its run does not end with a container that is never ready"),
            crun("binds the socket elsewhere")
        ]
    );
    let (bundle, _supervisor) = supervised();
    let seen = bundle.report(&["stat=/run/notify/notify.sock", "try=create:/run/notify/x"]);
    let path = seen
        .env
        .iter()
        .rev()
        .find(|(name, _)| name == "NOTIFY_SOCKET");
    assert_eq!(path.unwrap().1, "/run/notify/notify.sock");
    assert_eq!(seen.stat("/run/notify/notify.sock").mode & 0o777, 0o777);
    assert_eq!(seen.tried("create:/run/notify/x"), "EROFS");
    let mount = seen
        .mounts
        .iter()
        .find(|mount| mount.target == "/run/notify");
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(mount.unwrap().options.contains(option), "{option}");
    }
}

#[test]
fn without_a_supervisor_there_is_no_socket() {
    require!(containers);
    let seen = Bundle::new().report(&["stat=/run/notify"]);
    assert!(!seen.env.iter().any(|(name, _)| name == "NOTIFY_SOCKET"));
    assert!(seen.stats["/run/notify"].reason().is_some());
}

#[test]
fn a_supervisor_that_is_gone_keeps_no_container_from_running() {
    require!(containers);
    beyond!(
        a_supervisor_that_is_gone_keeps_no_container_from_running,
        [runc("is silent"), crun("is silent")]
    );
    let (mut bundle, supervisor) = supervised();
    bundle.config.probe(&["exit", "0"]);
    std::fs::remove_file(bundle.scratch.path().join("notify.sock")).unwrap();
    drop(supervisor);
    bundle.run().success().says("NOTIFY_SOCKET");
}

/// The container runs: who would be told otherwise, might start another.
#[test]
fn a_supervisor_that_is_gone_when_the_container_is_ready_is_a_warning() {
    require!(containers);
    beyond!(
        a_supervisor_that_is_gone_when_the_container_is_ready_is_a_warning,
        [runc("is silent"), crun("fails")]
    );
    let (mut bundle, supervisor) = supervised();
    bundle.config.probe(&["notify", "READY=1"]);
    let mut container = bundle.create();
    // Connected to, but nobody reads.
    let full = UnixDatagram::unbound().unwrap();
    full.set_nonblocking(true).unwrap();
    full.connect(bundle.scratch.path().join("notify.sock"))
        .unwrap();
    while full.send(b"X=1").is_ok() {}
    let start = bundle.runtime.start(&["start", &container.id]);
    assert_eq!(container.stdout.line(), "ready");
    drop(supervisor);
    start.wait().success().says("NOTIFY_SOCKET");
    assert_eq!(container.status(), "running");
}

/// The socket that systemd would listen on.
struct Supervisor(UnixDatagram);

fn supervised() -> (Bundle, Supervisor) {
    let mut bundle = Bundle::new();
    let path = bundle.scratch.path().join("notify.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    let name = path.display().to_string();
    bundle.runtime.env.push(("NOTIFY_SOCKET".to_owned(), name));
    (bundle, Supervisor(socket))
}

impl Supervisor {
    #[track_caller]
    fn told(&self) -> String {
        let (text, fds) = self.message();
        assert!(fds.is_empty());
        text.trim_end().to_owned()
    }

    /// What it closes when it has read everything before.
    #[track_caller]
    fn barrier(&self) -> OwnedFd {
        let (text, mut fds) = self.message();
        assert_eq!((text.as_str(), fds.len()), ("BARRIER=1", 1));
        fds.remove(0)
    }

    #[track_caller]
    fn message(&self) -> (String, Vec<OwnedFd>) {
        assert!(readable(&self.0), "the supervisor was told nothing");
        let (text, fds) = message(&self.0);
        (String::from_utf8_lossy(&text).into_owned(), fds)
    }

    fn has_not_been_told(&self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        self.0.recv(&mut [0; 64]).is_err()
    }
}
