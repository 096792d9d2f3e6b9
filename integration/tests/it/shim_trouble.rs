//! What goes wrong around a shim: commands of the runtime that hang, clients that go away or want what there is not, no descriptors, and
//! a shim that is thought dead while it lives.

use integration::runtime::finish;
use integration::shim::{Protocol, Shim};
use integration::{Bundle, host, place, require, sys};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};
use ttrpc::Code;
use ttrpc::context::with_timeout;

fn pausing() -> Bundle {
    let mut bundle = Bundle::new();
    bundle.config.probe(&["pause", "7"]);
    bundle
}

/// A shim whose runtime hangs at this command.
fn hanging(verb: &str, deadline: Option<&str>) -> Shim {
    let mut shim = Shim::prepared(pausing());
    shim.have_runtime(&format!("*\" {verb} \"*"), "exec /bin/busybox sleep 1000");
    let deadline = deadline.map(|seconds| ("CAISSON_SHIM_DEADLINE".to_owned(), seconds.to_owned()));
    shim.environment.extend(deadline);
    shim.launch(Protocol::Bootstrap);
    shim
}

fn run(shim: &Shim) -> (String, i32) {
    let id = shim.id().to_owned();
    let pid = shim.create(&id).unwrap();
    shim.start_process(&id, "").unwrap();
    assert_eq!(shim.line(&id), "ready");
    shim.events(2);
    (id, pid)
}

#[test]
fn a_command_that_hangs_is_killed_at_its_deadline_and_keeps_nobody_waiting() {
    require!(containers, busybox);
    let shim = hanging("kill", Some("2"));
    let (id, pid) = run(&shim);
    let request = shim::protos::task::KillRequest {
        id: id.clone(),
        signal: 15,
        ..Default::default()
    };
    let call =
        shim.begin(|client| async move { client.kill(with_timeout(0), &request).await.is_ok() });
    let command = shim.hung();
    let before = Instant::now();
    assert_eq!(shim.state(&id, "").unwrap().status.value(), 2, "running");
    assert!(
        before.elapsed() < Duration::from_secs(1),
        "{:?}",
        before.elapsed()
    );
    assert!(!call.is_finished() && host::alive(command));
    assert!(!shim.wait_for(call));
    assert!(!host::alive(command));
    let (code, text) = shim.kill(&id, "", 15).unwrap_err();
    assert_eq!(code, Code::DEADLINE_EXCEEDED);
    assert_eq!(
        text,
        "OCI runtime kill did not end within 2 seconds and was killed"
    );
    shim.kill_process(pid);
    assert_eq!(shim.wait(&id, ""), Ok(137));
    shim.delete(&id, "").unwrap();
}

#[test]
fn a_create_that_hangs_ends_at_its_deadline_and_leaves_nothing() {
    require!(containers, busybox);
    let shim = hanging("create", Some("1"));
    let id = shim.id().to_owned();
    assert_eq!(shim.create(&id).unwrap_err().0, Code::DEADLINE_EXCEEDED);
    assert_eq!(shim.state(&id, "").unwrap_err().0, Code::NOT_FOUND);
    assert_eq!(shim.held(), Default::default());
    shim.shutdown();
    assert!(shim.has_ended());
    shim.no_more_events();
    host::assert_no_trace(&id, &shim.bundle.scratch.path().join("runtimes"));
}

#[test]
fn an_exec_that_hangs_does_not_hold_back_the_end_of_init() {
    require!(containers, busybox);
    let shim = hanging("exec", None);
    let (id, pid) = run(&shim);
    shim.exec(&id, "one", &["pause"]).unwrap();
    assert_eq!(shim.event(), "exec-added one");
    let request = shim::protos::task::StartRequest {
        id: id.clone(),
        exec_id: "one".into(),
        ..Default::default()
    };
    let call =
        shim.begin(|client| async move { client.start(with_timeout(0), &request).await.is_ok() });
    let command = shim.hung();
    let before = Instant::now();
    shim.kill_process(pid);
    assert_eq!(shim.wait(&id, ""), Ok(137));
    assert!(
        before.elapsed() < Duration::from_secs(10),
        "{:?}",
        before.elapsed()
    );
    assert_eq!(shim.event(), format!("exit {id} 137"));
    assert!(!shim.wait_for(call));
    assert!(!host::alive(command));
    shim.delete(&id, "").unwrap();
    assert_eq!(shim.held(), Default::default());
}

#[test]
fn a_shim_that_nobody_needs_ends() {
    require!(containers);
    let waits = ("CAISSON_SHIM_ABANDONED".to_owned(), "1".to_owned());
    let launched = |bundle: Bundle| {
        let mut shim = Shim::prepared(bundle);
        shim.environment.push(waits.clone());
        shim.launch(Protocol::Bootstrap);
        shim
    };
    // Started in vain.
    let mut shim = launched(pausing());
    shim.kill_daemon();
    assert!(shim.has_ended());
    assert!(!shim.socket.exists());
    // With a container that runs it stays; when that has ended, until nobody can ask for it any more.
    let mut shim = launched(pausing());
    let (id, pid) = run(&shim);
    shim.kill_daemon();
    std::thread::park_timeout(Duration::from_millis(2500));
    assert!(host::alive(shim.pid), "with a container");
    shim.kill_process(pid);
    std::thread::park_timeout(Duration::from_millis(2500));
    assert!(host::alive(shim.pid), "with a bundle");
    fs::rename(shim.directory(&id), shim.bundle.scratch.path().join("gone")).unwrap();
    assert!(shim.has_ended());
}

#[test]
fn a_shutdown_that_came_too_early_is_remembered() {
    require!(containers);
    let mut shim = Shim::start(pausing());
    let (id, _) = run(&shim);
    // A containerd that gave up on the container's deletion asks for this next, and goes.
    shim.shutdown();
    shim.kill(&id, "", 9).unwrap();
    shim.wait(&id, "").unwrap();
    shim.delete(&id, "").unwrap();
    assert!(host::alive(shim.pid), "as long as there is a connection");
    shim.kill_daemon();
    assert!(shim.has_ended());
}

#[test]
fn a_delete_during_a_create_has_the_last_word() {
    require!(containers, busybox);
    let mut bundle = pausing();
    let fifo = bundle.scratch.path().join("gate");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let hook = json!([{ "path": place::probe(), "args": ["probe", "cat", fifo] }]);
    bundle
        .config
        .set("/hooks", json!({ "createRuntime": hook }));
    let shim = Shim::start(bundle);
    let id = shim.id().to_owned();
    let mut gate = None;
    shim.create_and_leave(&id, || {
        gate = Some(fs::OpenOptions::new().write(true).open(&fifo).unwrap());
    });
    let request = shim::protos::task::DeleteRequest {
        id: id.clone(),
        ..Default::default()
    };
    let call =
        shim.begin(|client| async move { client.delete(with_timeout(0), &request).await.is_ok() });
    // It is under way when this has been answered on the same connection.
    assert_eq!(shim.state(&id, "").unwrap_err().0, Code::NOT_FOUND);
    drop(gate);
    assert!(shim.wait_for(call));
    shim.shutdown();
    assert!(shim.has_ended());
    host::assert_no_trace(&id, &shim.bundle.scratch.path().join("runtimes"));
}

#[test]
fn what_there_is_not_is_unimplemented() {
    require!(containers);
    let shim = Shim::start(pausing());
    for (service, method) in [
        ("containerd.task.v4.Task", "State"),
        ("containerd.task.v3.Task", "Frobnicate"),
        ("a.b", "C"),
    ] {
        let (code, text) = shim.request_raw(service, method).unwrap_err();
        assert_eq!(code, Code::UNIMPLEMENTED, "{service}/{method}: {text}");
    }
}

#[test]
fn another_user_is_refused() {
    require!(containers, capability("CAP_SETUID"));
    let shim = Shim::start(pausing());
    let mut log = shim.log();
    for path in [&shim.sockets, &shim.socket] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let connect = || {
        let mut stream = UnixStream::connect(&shim.socket).unwrap();
        let read = stream.read(&mut [0]);
        // The end, or ECONNRESET.
        assert!(read.is_err() || read.is_ok_and(|length| length == 0));
    };
    std::thread::scope(|scope| {
        let other = std::thread::Builder::new().spawn_scoped(scope, || {
            // Of this thread only: libc's own would be of all.
            sys::call(libc::SYS_setresuid, [1000, 1000, 1000, 0, 0, 0]).unwrap();
            connect();
        });
        other.unwrap().join().unwrap();
    });
    log.until("refused a connection of uid 1000");
    assert!(
        shim.state("other", "")
            .is_err_and(|(code, _)| code == Code::NOT_FOUND)
    );
}

#[test]
fn without_descriptors_it_waits_for_some() {
    require!(containers, program("prlimit"));
    let shim = Shim::start(pausing());
    let mut log = shim.log();
    let limit = |number: usize| {
        let mut command = Command::new("prlimit");
        command
            .arg(format!("--pid={}", shim.pid))
            .arg(format!("--nofile={number}:4096"));
        finish(command).success();
    };
    limit(shim.descriptors().len() + 2);
    let many: Vec<UnixStream> = (0..5)
        .map(|_| UnixStream::connect(&shim.socket).unwrap())
        .collect();
    log.until("accept a connection");
    let before = shim.switches();
    std::thread::park_timeout(Duration::from_secs(1));
    let switches = shim.switches() - before;
    assert!(switches < 60, "tried {switches} times a second");
    // Those who are connected are served, and the others later.
    assert!(
        shim.state("other", "")
            .is_err_and(|(code, _)| code == Code::NOT_FOUND)
    );
    limit(1024);
    drop(many);
    assert_eq!(
        shim.request_raw("a.b", "C").unwrap_err().0,
        Code::UNIMPLEMENTED
    );
}

/// The limits of open files, soft and hard, of a process.
fn limits(pid: i32) -> [String; 2] {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let mut lines = limits.lines();
    let line = lines.find(|line| line.starts_with("Max open files"));
    let mut words = line.unwrap().split_whitespace().skip(3);
    [(); 2].map(|()| words.next().unwrap().to_owned())
}

#[test]
fn a_low_limit_of_descriptors_is_for_others_and_not_for_the_shim() {
    require!(containers, busybox, program("prlimit"));
    let mut bundle = pausing();
    bundle.config.remove("/process/rlimits");
    let noted = bundle.scratch.name("noted");
    let script = format!(
        "#!/bin/busybox sh\nulimit -n >{noted}\nexec 5>&-\nexec /bin/busybox cat <&3 >/dev/null\n"
    );
    let logger = bundle.scratch.file("logger", &script);
    fs::set_permissions(&logger, fs::Permissions::from_mode(0o755)).unwrap();
    let mut shim = Shim::prepared(bundle);
    shim.wrapper = ["prlimit", "--nofile=40:"].map(String::from).to_vec();
    shim.launch(Protocol::Bootstrap);
    let id = shim.id().to_owned();
    let mut request = shim.request(&id);
    request.stdout = format!("binary://{}", logger.display());
    let made = shim.call(async |client, ctx| client.create(ctx, &request).await);
    let pid = made.unwrap().pid as i32;
    shim.start_process(&id, "").unwrap();
    for number in 0..40 {
        let exec = format!("exec-{number}");
        shim.exec(&id, &exec, &["pause"]).unwrap();
        shim.start_process(&id, &exec).unwrap();
    }
    let [soft, hard] = limits(shim.pid);
    assert_eq!(soft, hard);
    assert_eq!(limits(pid), ["40".to_owned(), hard]);
    assert_eq!(fs::read_to_string(noted).unwrap(), "40\n");
    shim.kill(&id, "", 9).unwrap();
    assert_eq!(shim.wait(&id, ""), Ok(137));
    shim.delete(&id, "").unwrap();
}

#[test]
fn a_shim_that_lives_is_told_by_delete() {
    require!(containers);
    let shim = Shim::start(pausing());
    let (id, pid) = run(&shim);
    let ended = shim.clean_up();
    assert_eq!((ended.pid as i32, ended.exit_status), (pid, 137));
    assert!(shim.has_ended());
    assert!(!shim.socket.exists());
    host::assert_no_trace(&id, &shim.bundle.scratch.path().join("runtimes"));
    // It knows better how a container ended.
    let shim = Shim::start(pausing());
    let (id, pid) = run(&shim);
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    shim.wait(&id, "").unwrap();
    fs::remove_file(shim.directory(&id).join("exit.json")).unwrap();
    assert_eq!(shim.clean_up().exit_status, 7);
    assert!(shim.has_ended());
}

#[test]
fn the_socket_of_a_shim_that_was_killed_goes_with_delete() {
    require!(containers);
    let shim = Shim::start(pausing());
    run(&shim);
    shim.crash();
    assert!(shim.socket.exists());
    shim.clean_up();
    assert!(!shim.socket.exists());
}
