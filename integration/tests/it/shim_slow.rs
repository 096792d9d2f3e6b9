//! What takes long, or for ever, around a shim: commands of the runtime, containerd, mounts, clients that do not read. Nobody else waits for
//! it, and a container that has ended is told of and deleted within seconds.

use integration::shim::{Protocol, Shim};
use integration::{Bundle, host, place, require};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use serde_json::json;
use shim::protos::task::{
    CheckpointTaskRequest, CloseIORequest, DeleteRequest, ExecProcessRequest, KillRequest,
    PauseRequest, ResumeRequest, ShutdownRequest, StartRequest, WaitRequest,
};
use shim::protos::types::Mount;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};
use ttrpc::Code;
use ttrpc::context::with_timeout;

/// More than anything takes that is bounded in seconds, and less than a command's deadline.
const SOON: Duration = Duration::from_secs(20);

const HANG: &str = "exec /bin/busybox sleep 1000";

fn pausing() -> Bundle {
    let mut bundle = Bundle::new();
    bundle.config.probe(&["pause", "7"]);
    bundle
}

/// A shim whose runtime does what it is to do at this command, and hangs then.
fn lingering(verb: &str, deadline: Option<&str>) -> Shim {
    let mut shim = Shim::prepared(pausing());
    let does = format!("$RUNTIME \"$@\"; {HANG}");
    shim.have_runtime(&format!("*\" {verb} \"*"), &does);
    let deadline = deadline.map(|seconds| ("CAISSON_SHIM_DEADLINE".to_owned(), seconds.to_owned()));
    shim.environment.extend(deadline);
    shim.launch(Protocol::Bootstrap);
    shim
}

fn run(shim: &Shim) -> (String, i32) {
    let id = shim.id().to_owned();
    let pid = run_one(shim, &id);
    shim.events(2);
    (id, pid)
}

fn run_one(shim: &Shim, id: &str) -> i32 {
    let pid = shim.create(id).unwrap();
    shim.start_process(id, "").unwrap();
    assert_eq!(shim.line(id), "ready");
    pid
}

/// For what no event tells.
#[track_caller]
fn await_(is_so: impl Fn() -> bool) {
    let before = Instant::now();
    while !is_so() {
        assert!(before.elapsed() < Duration::from_secs(60));
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// The configuration of a container of a pod.
fn in_pod() -> Bundle {
    let mut bundle = pausing();
    bundle.config.set(
        "/annotations",
        json!({ "io.kubernetes.cri.sandbox-id": place::unique("pod") }),
    );
    bundle
}

#[test]
fn a_start_that_hangs_does_not_hold_back_the_end_of_init() {
    require!(containers, busybox);
    let shim = lingering("start", None);
    let id = shim.id().to_owned();
    let pid = shim.create(&id).unwrap();
    let request = StartRequest {
        id: id.clone(),
        ..Default::default()
    };
    let call =
        shim.begin(|client| async move { client.start(with_timeout(0), &request).await.is_ok() });
    assert_eq!(shim.line(&id), "ready");
    let command = shim.hung();
    let before = Instant::now();
    // It is none that has ended.
    let (code, _) = shim.delete(&id, "").unwrap_err();
    assert_eq!(code, Code::FAILED_PRECONDITION);
    shim.kill(&id, "", 9).unwrap();
    // One that is told that it has ended need not wait for its end.
    assert_eq!(shim.kill(&id, "", 9).unwrap_err().0, Code::NOT_FOUND);
    assert_eq!(shim.state(&id, "").unwrap().status.value(), 3, "stopped");
    assert_eq!(shim.wait(&id, ""), Ok(137));
    assert_eq!(shim.delete(&id, ""), Ok((pid, 137)));
    assert!(before.elapsed() < SOON, "{:?}", before.elapsed());
    assert!(shim.wait_for(call), "it was started");
    assert!(!host::alive(command));
    for event in [
        format!("create {id}"),
        format!("start {id}"),
        format!("exit {id} 137"),
        format!("delete {id} 137"),
    ] {
        assert_eq!(shim.event(), event);
    }
    assert_eq!(shim.held(), Default::default());
}

#[test]
fn whatever_hangs_a_container_that_has_ended_is_told_of_and_deleted() {
    require!(containers, busybox);
    for verb in ["pause", "checkpoint", "kill"] {
        let mut shim = Shim::prepared(pausing());
        shim.have_runtime(&format!("*\" {verb} \"*"), HANG);
        shim.launch(Protocol::Bootstrap);
        let (id, pid) = run(&shim);
        let name = id.clone();
        let call = shim.begin(async move |client| match verb {
            "pause" => {
                let request = PauseRequest {
                    id: name,
                    ..Default::default()
                };
                client.pause(with_timeout(0), &request).await.is_ok()
            }
            "checkpoint" => {
                let request = CheckpointTaskRequest {
                    id: name,
                    path: "/nowhere".into(),
                    ..Default::default()
                };
                client.checkpoint(with_timeout(0), &request).await.is_ok()
            }
            _ => {
                let request = KillRequest {
                    id: name,
                    signal: 15,
                    ..Default::default()
                };
                client.kill(with_timeout(0), &request).await.is_ok()
            }
        });
        shim.hung();
        let before = Instant::now();
        shim.kill_process(pid);
        assert_eq!(shim.wait(&id, ""), Ok(137), "{verb}");
        shim.delete(&id, "").unwrap();
        assert!(before.elapsed() < SOON, "{verb}: {:?}", before.elapsed());
        assert!(!shim.wait_for(call), "{verb}");
        assert_eq!(shim.held(), Default::default());
    }
}

#[test]
fn a_poststop_hook_of_a_container_that_was_never_started_ends_by_itself_and_once() {
    require!(containers, busybox);
    let mut bundle = pausing();
    let noted = bundle.scratch.path().join("noted");
    // Longer than other commands go on when their container has ended.
    let script = format!(
        "echo begun >>{0}; sleep 4; echo done >>{0}",
        noted.display()
    );
    let hook = json!([{ "path": "/bin/busybox", "args": ["sh", "-c", script] }]);
    bundle.config.set("/hooks", json!({ "poststop": hook }));
    let shim = Shim::start(bundle);
    let id = shim.id().to_owned();
    let pid = shim.create(&id).unwrap();
    assert_eq!(shim.event(), format!("create {id}"));
    let request = DeleteRequest {
        id: id.clone(),
        ..Default::default()
    };
    let again = request.clone();
    let delete = |request: DeleteRequest| {
        shim.begin(|client| async move { client.delete(with_timeout(0), &request).await.is_ok() })
    };
    let (first, second) = (delete(request), delete(again));
    assert_eq!(shim.event(), format!("exit {id} 137"));
    assert!(!first.is_finished() && !second.is_finished());
    assert!(shim.wait_for(first) && shim.wait_for(second));
    assert_eq!(fs::read_to_string(noted).unwrap(), "begun\ndone\n");
    assert_eq!(shim.delete(&id, ""), Ok((pid, 137)));
    assert_eq!(shim.event(), format!("delete {id} 137"));
    shim.no_more_events();
}

#[test]
fn one_container_of_a_dead_pod_that_cannot_be_cleaned_up_spares_no_other() {
    require!(containers, busybox);
    for does in ["echo broken >&2; exit 1", HANG] {
        let mut shim = Shim::prepared(in_pod());
        let ids = [
            shim.id().to_owned(),
            shim.sibling(),
            shim.sibling(),
            shim.sibling(),
        ];
        let bad = &ids[1];
        shim.have_runtime(&format!("*\" delete \"*\" {bad} \"*"), does);
        shim.launch(Protocol::Bootstrap);
        let pids = ids.each_ref().map(|id| run_one(&shim, id));
        for id in &ids {
            let noted = json!({ "version": 3, "address": format!("unix://{}", shim.socket.display()), "protocol": "ttrpc" });
            place::write(
                &shim.directory(id).join("bootstrap.json"),
                noted.to_string(),
            );
        }
        shim.crash();
        let ended = shim.clean_up();
        assert_eq!((ended.pid as i32, ended.exit_status), (pids[0], 137));
        let runtimes = shim.bundle.scratch.path().join("runtimes");
        for id in [&ids[0], &ids[2], &ids[3]] {
            host::assert_no_trace(id, &runtimes);
        }
        shim.kill_process(pids[1]);
    }
}

#[test]
fn a_shim_that_is_stopped_costs_its_clean_up_less_than_containerd_allows() {
    require!(containers);
    let shim = Shim::start(pausing());
    run(&shim);
    kill(Pid::from_raw(shim.pid), Signal::SIGSTOP).unwrap();
    let before = Instant::now();
    assert_eq!(shim.clean_up().exit_status, 137);
    let lasted = before.elapsed();
    kill(Pid::from_raw(shim.pid), Signal::SIGCONT).unwrap();
    assert!(lasted < Duration::from_millis(4300), "{lasted:?}");
}

#[test]
fn a_create_that_hangs_does_not_hold_back_the_stop_of_its_pod() {
    require!(containers, busybox);
    let mut shim = Shim::prepared(pausing());
    let (one, hangs) = (shim.sibling(), shim.sibling());
    fs::remove_file(shim.directory(shim.id()).join("config.json")).unwrap();
    shim.have_runtime(&format!("*\" create \"*\" {hangs} \"*"), HANG);
    shim.launch(Protocol::Bootstrap);
    shim.create_sandbox("", None).unwrap();
    shim.start_sandbox().unwrap();
    run_one(&shim, &one);
    let request = shim.request(&hangs);
    let call =
        shim.begin(|client| async move { client.create(with_timeout(0), &request).await.is_ok() });
    let command = shim.hung();
    let before = Instant::now();
    shim.stop_sandbox(0).unwrap();
    assert_eq!(shim.wait(&one, ""), Ok(137));
    assert!(!shim.wait_for(call));
    assert!(before.elapsed() < SOON, "{:?}", before.elapsed());
    assert!(!host::alive(command));
    shim.shutdown_sandbox().unwrap();
    assert!(shim.has_ended());
}

#[test]
fn a_pause_or_resume_that_was_cut_short_can_be_undone() {
    require!(containers, busybox);
    let pause = |shim: &Shim, id: &str| {
        let request = PauseRequest {
            id: id.into(),
            ..Default::default()
        };
        shim.call(async |client, ctx| client.pause(ctx, &request).await)
    };
    let resume = |shim: &Shim, id: &str| {
        let request = ResumeRequest {
            id: id.into(),
            ..Default::default()
        };
        shim.call(async |client, ctx| client.resume(ctx, &request).await)
    };
    let shim = lingering("pause", Some("3"));
    let (id, _) = run(&shim);
    assert_eq!(pause(&shim, &id).unwrap_err().0, Code::DEADLINE_EXCEEDED);
    assert_eq!(shim.state(&id, "").unwrap().status.value(), 4, "paused");
    resume(&shim, &id).unwrap();
    assert_eq!(shim.state(&id, "").unwrap().status.value(), 2, "running");
    assert_eq!(
        shim.events(2),
        [format!("paused {id}"), format!("resumed {id}")]
    );

    let shim = lingering("resume", Some("3"));
    let (id, _) = run(&shim);
    pause(&shim, &id).unwrap();
    assert_eq!(resume(&shim, &id).unwrap_err().0, Code::DEADLINE_EXCEEDED);
    assert_eq!(shim.state(&id, "").unwrap().status.value(), 2, "running");
    pause(&shim, &id).unwrap();
    assert_eq!(
        shim.events(3),
        [
            format!("paused {id}"),
            format!("resumed {id}"),
            format!("paused {id}")
        ]
    );
}

#[test]
fn a_containerd_that_is_slow_is_told_everything_once() {
    require!(containers);
    let shim = Shim::start(pausing());
    let (id, pid) = run(&shim);
    // Longer than any event of a containerd that lives was once waited for.
    shim.take_events_slowly(Duration::from_secs(6));
    shim.kill_process(pid);
    assert_eq!(shim.wait(&id, ""), Ok(137));
    shim.delete(&id, "").unwrap();
    shim.shutdown();
    assert!(!shim.socket.exists(), "it can be started anew");
    assert_eq!(
        shim.events(2),
        [format!("exit {id} 137"), format!("delete {id} 137")]
    );
    assert!(shim.has_ended());
    shim.no_more_events();
}

#[test]
fn shutdown_is_answered_when_the_socket_is_gone() {
    require!(containers);
    let shim = Shim::start(pausing());
    let directory = File::open(&shim.sockets).unwrap();
    let lock = nix::fcntl::Flock::lock(directory, nix::fcntl::FlockArg::LockExclusive);
    let lock = lock.map_err(|(_, errno)| errno).unwrap();
    let request = ShutdownRequest {
        id: shim.id().to_owned(),
        ..Default::default()
    };
    let call = shim.begin(|client| async move {
        // It may be gone before it has answered.
        client.shutdown(with_timeout(0), &request).await.ok();
        true
    });
    std::thread::park_timeout(Duration::from_millis(500));
    assert!(!call.is_finished(), "the socket is still there");
    drop(lock);
    assert!(shim.wait_for(call));
    assert!(!shim.socket.exists());
    assert!(shim.has_ended());
}

/// A file system whose server never answers.
struct Unanswered {
    device: Option<File>,
    place: std::path::PathBuf,
}

impl Unanswered {
    fn new(place: std::path::PathBuf) -> Self {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .unwrap();
        fs::create_dir(&place).unwrap();
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0",
            device.as_raw_fd()
        );
        let flags = MsFlags::empty();
        mount(
            Some("none"),
            &place,
            Some("fuse"),
            flags,
            Some(options.as_str()),
        )
        .unwrap();
        Self {
            device: Some(device),
            place,
        }
    }

    /// Its server is gone: whoever waits is told so.
    fn end(&mut self) {
        self.device = None;
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.end();
        umount2(&self.place, MntFlags::MNT_DETACH).ok();
    }
}

#[test]
fn a_mount_that_waits_keeps_nobody_of_the_pod_waiting() {
    require!(containers, path("/dev/fuse"));
    let shim = Shim::start(in_pod());
    let other = shim.sibling();
    run_one(&shim, &other);
    let mut waits = Unanswered::new(shim.bundle.scratch.path().join("unanswered"));
    let mut request = shim.request(shim.id());
    request.rootfs.push(Mount {
        type_: "bind".into(),
        source: waits.place.join("root").display().to_string(),
        options: vec!["rbind".into()],
        ..Default::default()
    });
    let call =
        shim.begin(|client| async move { client.create(with_timeout(0), &request).await.is_ok() });
    // On the same connection, so that Create has been begun when it is answered.
    assert_eq!(shim.state(&other, "").unwrap().status.value(), 2, "running");
    shim.kill(&other, "", 9).unwrap();
    assert_eq!(shim.wait(&other, ""), Ok(137));
    shim.delete(&other, "").unwrap();
    assert!(!call.is_finished(), "the mount waits");
    assert_eq!(shim.status("Threads"), 2);
    waits.end();
    assert!(!shim.wait_for(call));
    await_(|| shim.status("Threads") == 1);
    shim.shutdown();
    assert!(shim.has_ended());
}

#[test]
fn a_file_for_output_that_is_a_fifo_keeps_nobody_waiting() {
    require!(containers);
    let mut bundle = in_pod();
    bundle.config.probe(&["cat", "/dev/zero"]);
    let shim = Shim::start(bundle);
    let (one, other) = (shim.id().to_owned(), shim.sibling());
    let fifo = shim.bundle.scratch.path().join("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    // Nobody reads, and more is written than it holds.
    let mut request = shim.request(&one);
    request.stdout = format!("file://{}", fifo.display());
    shim.call(async |client, ctx| client.create(ctx, &request).await)
        .unwrap();
    shim.start_process(&one, "").unwrap();
    shim.create(&other).unwrap();
    assert_eq!(shim.state(&one, "").unwrap().status.value(), 2, "running");
    let mut reader = File::open(&fifo).unwrap();
    reader.read_exact(&mut vec![0; 1 << 20]).unwrap();
    for id in [&one, &other] {
        shim.kill(id, "", 9).unwrap();
        assert_eq!(shim.wait(id, ""), Ok(137));
        shim.delete(id, "").unwrap();
    }
}

/// An exec with these streams.
fn exec(shim: &Shim, id: &str, terminal: bool, args: &[&str], stdin: &str, stdout: &str) {
    let mut process = shim.bundle.config.0["process"].clone();
    process["args"] = json!([&["/bin/probe"], args].concat());
    let request = ExecProcessRequest {
        id: id.into(),
        exec_id: "one".into(),
        terminal,
        stdin: stdin.into(),
        stdout: stdout.into(),
        spec: MessageField::some(Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
            value: process.to_string().into_bytes(),
            ..Default::default()
        }),
        ..Default::default()
    };
    shim.call(async |client, ctx| client.exec(ctx, &request).await)
        .unwrap();
}

/// A fifo, open for reading and writing.
fn fifo(shim: &Shim, name: &str) -> (String, File) {
    let path = shim.bundle.scratch.name(name);
    mkfifo(path.as_str(), Mode::S_IRWXU).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path);
    (path, file.unwrap())
}

#[test]
fn what_is_written_just_before_the_end_reaches_who_reads_after_it() {
    require!(containers);
    let mut bundle = Bundle::new();
    // As much as a pipe and the fifo behind it hold, not quite.
    let all = "0123456789".repeat(12_000);
    bundle.file("all", &all);
    bundle.config.probe(&["cat", "/all"]);
    let shim = Shim::start(bundle);
    let (stdout, held) = fifo(&shim, "out");
    let mut request = shim.request(shim.id());
    request.stdout.clone_from(&stdout);
    let created = shim.call(async |client, ctx| client.create(ctx, &request).await);
    let pid = i32::try_from(created.unwrap().pid).unwrap();
    let mut reader = File::open(&stdout).unwrap();
    drop(held);
    shim.start_process(shim.id(), "").unwrap();
    assert!(host::await_end(pid));
    let mut read = String::new();
    reader.read_to_string(&mut read).unwrap();
    assert!(read == all, "{} bytes", read.len());
    assert_eq!(shim.wait(shim.id(), ""), Ok(0));
    shim.delete(shim.id(), "").unwrap();
}

#[test]
fn the_end_of_a_terminals_input_hangs_it_up() {
    require!(containers);
    let shim = Shim::start(pausing());
    let (id, _) = run(&shim);
    let ((stdin, writer), (stdout, _reader)) = (fifo(&shim, "in"), fifo(&shim, "out"));
    exec(&shim, &id, true, &["linger", "60000"], &stdin, &stdout);
    shim.start_process(&id, "one").unwrap();
    let request = CloseIORequest {
        id: id.clone(),
        exec_id: "one".into(),
        stdin: true,
        ..Default::default()
    };
    shim.call(async |client, ctx| client.close_io(ctx, &request).await)
        .unwrap();
    assert_eq!(
        shim.state(&id, "one").unwrap().status.value(),
        2,
        "its client still has it open"
    );
    drop(writer);
    assert_eq!(shim.wait(&id, "one"), Ok(129), "SIGHUP");
    shim.delete(&id, "one").unwrap();
}

#[test]
fn an_exec_whose_output_is_held_by_another_is_deleted_within_seconds() {
    require!(containers);
    let shim = Shim::start(pausing());
    let (id, _) = run(&shim);
    let (stdout, _reader) = fifo(&shim, "out");
    exec(&shim, &id, false, &["pause"], "", &stdout);
    let pid = shim.start_process(&id, "one").unwrap();
    shim.lines(&stdout).until("ready");
    // As a process has it that the exec has left in the background.
    let held = OpenOptions::new()
        .write(true)
        .open(format!("/proc/{pid}/fd/1"))
        .unwrap();
    shim.kill(&id, "one", 9).unwrap();
    assert_eq!(shim.wait(&id, "one"), Ok(137));
    let before = Instant::now();
    shim.delete(&id, "one").unwrap();
    assert!(
        before.elapsed() < Duration::from_secs(8),
        "{:?}",
        before.elapsed()
    );
    drop(held);
}

#[test]
fn who_waits_for_an_exec_that_never_runs_is_told() {
    require!(containers);
    let shim = Shim::start(pausing());
    let (id, pid) = run(&shim);
    let [one, two] = ["one", "two"].map(|exec| {
        shim.exec(&id, exec, &["pause"]).unwrap();
        let request = WaitRequest {
            id: id.clone(),
            exec_id: exec.into(),
            ..Default::default()
        };
        shim.begin(|client| async move { client.wait(with_timeout(0), &request).await.is_ok() })
    });
    // Both are under way when this is answered on the same connection.
    shim.state(&id, "two").unwrap();
    assert_eq!(shim.delete(&id, "one"), Ok((0, 0)));
    assert!(shim.wait_for(one));
    shim.kill_process(pid);
    assert_eq!(shim.wait(&id, ""), Ok(137));
    assert!(shim.wait_for(two));
    let (code, _) = shim.start_process(&id, "two").unwrap_err();
    assert_eq!(code, Code::FAILED_PRECONDITION);
    assert_eq!(shim.wait(&id, "two"), Ok(255));
    shim.delete(&id, "").unwrap();
}

#[test]
fn an_exec_called_init_is_not_mistaken_for_it() {
    require!(containers);
    let shim = Shim::start(pausing());
    let (id, pid) = run(&shim);
    let noted = || fs::read_to_string(shim.directory(&id).join("init.pid")).unwrap();
    shim.exec(&id, "init", &["exit", "3"]).unwrap();
    shim.start_process(&id, "init").unwrap();
    assert_eq!(shim.wait(&id, "init"), Ok(3));
    assert_eq!(noted().trim(), pid.to_string());
    shim.delete(&id, "init").unwrap();
    assert_eq!(noted().trim(), pid.to_string());
}

#[test]
fn orphans_are_reaped_while_a_command_hangs() {
    require!(containers, busybox);
    let mut bundle = Bundle::with_busybox();
    let orphans = "echo ready; while true; do (true &); sleep 0.05; done";
    bundle
        .config
        .set("/process/args", json!(["/bin/sh", "-c", orphans]))
        .no_namespace("pid");
    let mut shim = Shim::prepared(bundle);
    shim.have_runtime("*\" exec \"*", HANG);
    shim.launch(Protocol::Bootstrap);
    let (id, pid) = run(&shim);
    shim.exec(&id, "one", &["pause"]).unwrap();
    let request = StartRequest {
        id: id.clone(),
        exec_id: "one".into(),
        ..Default::default()
    };
    let call =
        shim.begin(|client| async move { client.start(with_timeout(0), &request).await.is_ok() });
    let command = shim.hung();
    let zombies = || {
        let children = shim.children().into_iter().map(|(child, _)| child);
        let others = children.filter(|child| ![pid, command].contains(child));
        others.collect::<Vec<_>>()
    };
    await_(|| !zombies().is_empty());
    let first = zombies()[0];
    await_(|| !zombies().contains(&first));
    assert!(host::alive(command), "nobody has ended it");
    shim.kill(&id, "", 9).unwrap();
    assert_eq!(shim.wait(&id, ""), Ok(137));
    assert!(!shim.wait_for(call));
    shim.delete(&id, "").unwrap();
}
