//! How containers, requests and daemons end: when they are told to, soon, and all is over when that is said.

use std::cell::Cell;
use std::fs;
use std::io::{self, Read, Write as _};
use std::net::Shutdown;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use integration::runtime::{Running, finish};
use integration::store::{Header, Tar, saved_with};
use integration::supervisor::{IMAGE, Supervisor};
use integration::{Bundle, host, place, require};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use super::cut_off::until;

/// Whether a process has a file open whose name in /proc begins so.
fn has_open(pid: i32, name: &str) -> bool {
    let open = fs::read_dir(format!("/proc/{pid}/fd"));
    let mut links = open
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|fd| fs::read_link(fd.path()).ok());
    links.any(|link| link.to_string_lossy().starts_with(name))
}

/// An image with files that have no data and take very long to be read.
fn import_endless(supervisor: &Supervisor) {
    let directory = supervisor.scratch.dir("endless");
    for number in 0..16 {
        let file = fs::File::create_new(directory.join(number.to_string())).unwrap();
        file.set_len(256 << 30).unwrap();
    }
    import(supervisor, &directory, "endless", &["--sparse"]);
}

fn import(supervisor: &Supervisor, directory: &Path, name: &str, flags: &[&str]) {
    let archive = supervisor.scratch.name(&format!("{name}.tar"));
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(directory).args(flags);
    finish({
        tar.args(["-cf", &archive, "."]);
        tar
    })
    .success();
    supervisor.says(&["image", "import", &archive, name]);
}

/// A client who has the endless files compared, which the daemon has begun.
fn verifying(supervisor: &Supervisor) -> (Running, impl Fn() -> bool + use<>) {
    let layers = supervisor.scratch.name("root/layers");
    let pid = supervisor.pid();
    let client = supervisor.start(&["image", "verify", "endless"]);
    let reads = move || has_open(pid, &layers);
    until("nothing is compared", &reads);
    (client, reads)
}

#[test]
fn a_deep_tree_is_verified_and_each_of_its_files_once() {
    require!(containers, busybox);
    let supervisor = Supervisor::without_image();
    let directory = supervisor.scratch.dir("deep");
    // Two to that power are too many.
    fs::create_dir_all(directory.join("d/".repeat(60))).unwrap();
    import(&supervisor, &directory, "deep", &[]);
    supervisor.says(&["image", "verify", "deep"]);
}

/// A client who has an image verified, and the process that unpacks its layer for that, which is stopped.
fn stopped_amid_verify(supervisor: &Supervisor) -> (Running, Pid) {
    let unpacking = || {
        let children = format!("/proc/{0}/task", supervisor.pid());
        let threads = fs::read_dir(children).unwrap().flatten();
        let children =
            threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
        let children: Vec<String> = children.collect();
        let mut pids = children.iter().flat_map(|pids| pids.split_whitespace());
        pids.next()
            .and_then(|pid| pid.parse().ok())
            .map(Pid::from_raw)
    };
    let client = supervisor.start(&["image", "verify"]);
    let stopped = Cell::new(None);
    until("nothing is unpacked", || {
        stopped.set(unpacking());
        stopped
            .get()
            .is_some_and(|pid| kill(pid, Signal::SIGSTOP).is_ok())
    });
    (client, stopped.get().unwrap())
}

#[test]
fn an_image_that_is_removed_and_loaded_again_while_it_is_verified_is_not_damaged() {
    require!(containers, busybox);
    let supervisor = Supervisor::without_image();
    let directory = supervisor.scratch.dir("large");
    // So much that its process is there for a while.
    let noise: Vec<u8> = (0..64_000_000_u32).map(|number| number as u8).collect();
    supervisor.scratch.file("large/file", &noise);
    import(&supervisor, &directory, "large", &[]);
    let archive = supervisor.scratch.name("saved.tar");
    supervisor.says(&["save", "-o", &archive, "large"]);
    let (client, unpacking) = stopped_amid_verify(&supervisor);
    supervisor.says(&["image", "rm", "large"]);
    supervisor.says(&["load", "-i", &archive]);
    kill(unpacking, Signal::SIGCONT).unwrap();
    let verdict = client.wait().success();
    assert!(verdict.stdout.ends_with(" 0 damaged\n"), "{verdict}");
}

#[test]
fn what_nobody_waits_for_any_more_ends() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    import_endless(&supervisor);
    let (client, reads) = verifying(&supervisor);
    client.signal(Signal::SIGKILL);
    client.wait_for_exit();
    until("the daemon goes on", || !reads());
    let id = noisy(&supervisor, 64_000_000);
    let (client, copying) = stopped_amid_commit(&supervisor, &id);
    client.signal(Signal::SIGKILL);
    client.wait_for_exit();
    // By its answer to this one, the daemon knows that the other has left.
    supervisor.says(&["version"]);
    // It has ended already if nobody was about to read from it.
    kill(copying, Signal::SIGCONT).ok();
    until("the image is still made", || !frozen(&supervisor, &id));
    supervisor.ctl(&["image", "inspect", "made"]).failure();
    assert_eq!(supervisor.says(&["exec", &id, "echo", "here"]), "here");
}

#[test]
fn an_archive_that_nobody_waits_for_any_more_does_not_come_in() {
    require!(containers, busybox);
    let supervisor = Supervisor::without_image();
    // What is left out of an archive of images, 4 TB of it.
    let header = Header {
        size: (8 << 30) - 512,
        ..Header::new(b'0', "repositories")
    };
    let name = supervisor.scratch.name("endless.tar");
    let archive = fs::File::create_new(&name).unwrap();
    for number in 0..512 {
        let header = Tar::new().header(&header);
        archive
            .write_all_at(&header.bytes(), number * (8 << 30))
            .unwrap();
    }
    let pid = supervisor.pid();
    let reads = || has_open(pid, &name);
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let client = supervisor.start(&["load", "-i", &name]);
        until("nothing is read", reads);
        client.signal(signal);
        client.wait_for_exit();
        until("it is still read", || !reads());
    }
    let df = ["system", "df", "--format", "{{.TotalCount}}"];
    assert_eq!(supervisor.says(&df).lines().next(), Some("0"));
}

/// A container whose image is not made at once.
fn noisy(supervisor: &Supervisor, bytes: u64) -> String {
    and_noisy(supervisor, bytes, "echo ready; exec sleep 1000")
}

/// The same, with what it does then, of which it says that it is ready.
fn and_noisy(supervisor: &Supervisor, bytes: u64, then: &str) -> String {
    let noise = format!("head -c {bytes} /dev/urandom >/noise; {then}");
    let id = supervisor.detached(&[], &noise);
    let mut log = supervisor.start(&["logs", "-f", &id]);
    assert_eq!(log.stdout.line(), "ready");
    id
}

/// The client who makes an image of it, and the process that copies its files, which is stopped.
pub(super) fn stopped_amid_commit(supervisor: &Supervisor, id: &str) -> (Running, Pid) {
    let upper = supervisor.field(id, "{{.GraphDriver.Data.UpperDir}}");
    let copying = || host::processes(&upper).into_iter().next();
    let client = supervisor.start(&["commit", id, "made"]);
    let stopped = Cell::new(None);
    until("no image is made", || {
        // One that has just been begun is far from its end.
        stopped.set(copying().map(Pid::from_raw));
        stopped
            .get()
            .is_some_and(|pid| kill(pid, Signal::SIGSTOP).is_ok())
    });
    (client, stopped.get().unwrap())
}

/// Until its image is made.
fn frozen(supervisor: &Supervisor, id: &str) -> bool {
    let bundle = supervisor.state.join("bundles").join(id);
    bundle.join("frozen").exists()
}

/// What ttrpc sends at once: a header of 10 bytes, which begins with the length of the rest.
fn message(from: &mut impl Read) -> Vec<u8> {
    let mut message = vec![0; 10];
    from.read_exact(&mut message).unwrap();
    let length = u32::from_be_bytes(message[..4].try_into().unwrap());
    message.resize(10 + length as usize, 0);
    from.read_exact(&mut message[10..]).unwrap();
    message
}

/// Runs a client that is signalled as soon as the daemon has answered it so often, and before it has the last of these answers.
fn interrupted(supervisor: &Supervisor, flags: &[&str], answers: u32, signal: Signal) {
    let socket = supervisor.scratch.name("relay");
    let listener = UnixListener::bind(&socket).unwrap();
    let command = ["--address", &socket, "run", "--rm", "--name", "box"];
    let client = supervisor.start(&[&command, flags, &[IMAGE, "sleep", "1000"]].concat());
    let mut ours = listener.accept().unwrap().0;
    let mut daemon = UnixStream::connect(supervisor.state.join("caissond.sock")).unwrap();
    let (mut asked, mut asking) = (ours.try_clone().unwrap(), daemon.try_clone().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // Until the client ends; what it has not read yet makes an error of that.
            io::copy(&mut asked, &mut asking).ok();
            asking.shutdown(Shutdown::Both).ok();
        });
        for number in 1..=answers {
            let answer = message(&mut daemon);
            if number == answers {
                assert_ne!(supervisor.says(&["ps", "-aq"]), "");
                client.signal(signal);
            }
            // One that does not wait for it has ended.
            ours.write_all(&answer).ok();
        }
        io::copy(&mut daemon, &mut ours).ok();
        ours.shutdown(Shutdown::Both).ok();
    });
    assert_eq!(client.wait().status.signal(), Some(signal as i32));
    fs::remove_file(&socket).unwrap();
    assert_eq!(supervisor.says(&["ps", "-aq"]), "");
}

#[test]
fn what_was_to_go_with_its_end_goes_if_its_client_is_told_to_end_before() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    // The first answer is that it is made, the second that it has been started.
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        interrupted(&supervisor, &[], 1, signal);
        interrupted(&supervisor, &["-i"], 2, signal);
        interrupted(&supervisor, &["-d"], 1, signal);
        interrupted(&supervisor, &["-d"], 2, signal);
    }
}

#[test]
fn a_daemon_that_is_told_to_end_does_whatever_it_is_at() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    import_endless(&supervisor);
    let pid = supervisor.pid();
    let (client, _) = verifying(&supervisor);
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    assert!(host::await_end(pid));
    client.wait().failure();
    assert_eq!(supervisor.says(&["run", "--rm", IMAGE, "echo", "a"]), "a");
}

#[test]
fn a_daemon_waits_for_one_that_is_about_to_end() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    supervisor.crash();
    // Has the store, until its archive ends.
    let mut holder = Command::new(place::daemon());
    holder
        .args(["store", "--root"])
        .arg(supervisor.scratch.path().join("root"))
        .args(["import", "--name", "x", "--rootfs", "-"]);
    let mut holder = Running::start(holder);
    let stdin = holder.stdin.take().unwrap();
    let lock = supervisor.scratch.name("root/lock");
    until("the store is not taken", || has_open(holder.pid(), &lock));
    let daemon = Running::start(supervisor.daemon_command(&[]));
    let waits = || {
        ["anon_inode:[pidfd]", "pidfd:"]
            .iter()
            .any(|name| has_open(daemon.pid(), name))
    };
    until("the next one does not wait", waits);
    // Its time goes on, but the end of the other is what it sees first.
    daemon.signal(Signal::SIGSTOP);
    drop(stdin);
    holder.wait();
    daemon.signal(Signal::SIGCONT);
    let mut daemon = daemon;
    assert_eq!(daemon.stdout.line(), "ready");
    assert_eq!(supervisor.pid(), daemon.pid());
}

#[test]
fn what_is_killed_has_ended_when_that_is_said() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    supervisor.says(&["create", "--name", "box", IMAGE, "sleep", "1000"]);
    for _ in 0..10 {
        supervisor.says(&["start", "box"]);
        supervisor.says(&["kill", "box"]);
        assert_eq!(supervisor.field("box", "{{.State.Status}}"), "exited");
    }
    supervisor.says(&["start", "box"]);
    supervisor.says(&["pause", "box"]);
    supervisor.says(&["kill", "box"]);
    supervisor.says(&["rm", "box"]);
    for _ in 0..10 {
        supervisor.detached(&["--rm", "--name", "box"], "sleep 1000");
        supervisor.says(&["kill", "box"]);
    }
}

#[test]
fn a_kill_amid_a_commit_keeps_nobody_from_the_image() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    for round in 0..3 {
        let id = noisy(&supervisor, 8_000_000);
        let name = format!("made:{round}");
        let commit = supervisor.start(&["commit", &id, &name]);
        until("no image is made", || frozen(&supervisor, &id));
        supervisor.says(&["kill", &id]);
        let made = commit.wait().success().stdout;
        assert!(made.starts_with("sha256:"), "{made}");
        let said = supervisor.says(&["run", "--rm", &name, "wc", "-c", "/noise"]);
        assert_eq!(said, "8000000 /noise");
    }
}

#[test]
fn who_wants_a_process_in_a_container_waits_until_its_image_is_made() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let id = noisy(&supervisor, 64_000_000);
    let (commit, copying) = stopped_amid_commit(&supervisor, &id);
    let exec = supervisor.start(&["exec", &id, "echo", "here"]);
    kill(copying, Signal::SIGCONT).unwrap();
    commit.wait().success();
    assert_eq!(exec.wait().success().stdout, "here\n");
    // While an image is made, its end is not noted.
    let pid: i32 = supervisor.field(&id, "{{.State.Pid}}").parse().unwrap();
    let (commit, copying) = stopped_amid_commit(&supervisor, &id);
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    assert!(host::await_end(pid), "it should have ended");
    let name = supervisor.field(&id, "{{.Name}}");
    supervisor
        .ctl(&["kill", "-s", "TERM", &id])
        .failure()
        .says(&format!(
            "container {} is not running",
            name.trim_matches('/')
        ));
    kill(copying, Signal::SIGCONT).unwrap();
    commit.wait().success();
}

#[test]
fn what_is_being_started_in_a_container_is_not_frozen_in_the_midst_of_that() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let gate = supervisor.scratch.dir("gate");
    let [begun, go] = ["begun", "go"].map(|name| {
        let path = gate.join(name);
        mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
        path
    });
    let runtime = format!(
        "#!/bin/sh\ncase \" $* \" in *' exec '*) echo >{}; read line <{};; esac\nexec {} \"$@\"\n",
        begun.display(),
        go.display(),
        place::runtime().display()
    );
    let runtime = supervisor.scratch.file("runtime", runtime);
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755)).unwrap();
    let runtime = runtime.display().to_string();
    let flags = ["run", "-d", "--name", "box", "--runtime", &runtime];
    supervisor.says(&[&flags[..], &[IMAGE, "sleep", "1000"]].concat());
    let exec = supervisor.start(&["exec", "box", "echo", "here"]);
    assert_eq!(fs::read_to_string(&begun).unwrap(), "\n");
    let pause = supervisor.start(&["pause", "box"]);
    // Nothing can be seen of one that waits, as it should; one that does not is over in moments.
    for _ in 0..50 {
        assert!(!pause.has_ended());
        std::thread::park_timeout(Duration::from_millis(10));
    }
    host::set(&go, "\n");
    pause.wait().success();
    let refused = supervisor.ctl(&["exec", "box", "echo", "here"]).failure();
    refused.says("container box is paused");
    supervisor.says(&["unpause", "box"]);
    assert_eq!(exec.wait().success().stdout, "here\n");
}

#[test]
fn who_waited_for_a_container_that_goes_with_its_end_can_have_its_name() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    for _ in 0..20 {
        supervisor.detached(&["--rm", "--name", "box"], "exit 3");
        let waited = supervisor.ctl(&["wait", "box"]);
        // It may have been over before.
        assert!(
            waited.stdout.trim() == "3" || waited.stderr.contains("no such container"),
            "{waited}"
        );
    }
}

#[test]
fn an_image_that_asks_for_no_signal_there_is_can_be_stopped() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let config = serde_json::json!({"StopSignal": "SIGBOGUS"});
    let image = saved_with("odd:1", &[], &config);
    let archive = supervisor.scratch.file("odd.tar", image);
    supervisor.says(&["load", "-i", &archive.display().to_string()]);
    let bundle = Bundle::with_busybox();
    let binaries = format!("{}:/bin", bundle.rootfs().join("bin").display());
    let script = "trap 'exit 4' TERM; echo ready; while :; do sleep 0.1; done";
    let run = ["run", "-d", "-v", &binaries, "odd:1", "sh", "-c", script];
    let id = supervisor.says(&run);
    let mut log = supervisor.start(&["logs", "-f", &id]);
    assert_eq!(log.stdout.line(), "ready");
    supervisor.says(&["stop", "-t", "100", &id]);
    assert_eq!(supervisor.field(&id, "{{.State.ExitCode}}"), "4");
}

#[test]
fn what_its_policy_is_about_to_start_again_is_not_removed_without_force() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let id = supervisor.detached(&["--restart", "always"], "exit 1");
    loop {
        assert_eq!(supervisor.field(&id, "{{.State.Running}}"), "true");
        let refused = supervisor.ctl(&["rm", &id]).failure();
        if refused.stderr.contains("is restarting") {
            break;
        }
        refused.says("is running");
    }
    supervisor.says(&["rm", "-f", &id]);
    assert_eq!(supervisor.says(&["ps", "-aq"]), "");
}

#[test]
fn a_stop_finds_nothing_wrong_with_one_that_others_wake_up_or_end_before() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    for ends in [false, true] {
        let hears = "trap exit TERM; echo ready; while :; do sleep 1; done";
        let id = and_noisy(&supervisor, 64_000_000, hears);
        let pid: i32 = supervisor.field(&id, "{{.State.Pid}}").parse().unwrap();
        supervisor.says(&["pause", &id]);
        // Who makes an image of it keeps others waiting.
        let (commit, copying) = stopped_amid_commit(&supervisor, &id);
        let unpause = (!ends).then(|| supervisor.start(&["unpause", &id]));
        let stop = supervisor.start(&["stop", "-t", "1", &id]);
        let status = format!("/proc/{pid}/status");
        let told = || {
            let status = fs::read_to_string(&status).unwrap();
            !status.contains("ShdPnd:\t0000000000000000")
        };
        until("no signal is sent", told);
        if ends {
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
            assert!(host::await_end(pid), "it should have ended");
        }
        kill(copying, Signal::SIGCONT).unwrap();
        commit.wait().success();
        stop.wait().success();
        // It may have come after the stop.
        unpause.map(Running::wait);
        assert_eq!(supervisor.field(&id, "{{.State.Status}}"), "exited");
    }
}
