//! The shim, driven as containerd drives it: both protocols of `start`, the task service, the order of events, and what is
//! left when something dies.

use integration::shim::{Protocol, Shim};
use integration::{Bundle, host, place, require};
use nix::sys::stat::Mode;
use serde_json::json;
use std::fs;
use std::io::Write;
use std::os::unix::net::UnixListener;
use ttrpc::Code;

/// A container that waits for SIGTERM and exits with this code then.
fn waiting(code: &str) -> Bundle {
    let mut bundle = Bundle::new();
    bundle.config.probe(&["pause", code]);
    bundle
}

/// One that is created and started, with its events taken.
#[track_caller]
fn running(code: &str) -> (Shim, String, i32) {
    let shim = Shim::start(waiting(code));
    let id = shim.id().to_owned();
    let pid = shim.create(&id).unwrap();
    assert_eq!(shim.start_process(&id, "").unwrap(), pid);
    shim.events(2);
    (shim, id, pid)
}

#[track_caller]
fn code<T: std::fmt::Debug>(answer: Result<T, (Code, String)>) -> Code {
    answer.unwrap_err().0
}

/// Has it end by itself. Before it is ready, a signal that it does not handle yet would be lost, as process 1 of a pid namespace.
#[track_caller]
fn end(shim: &Shim, id: &str) {
    assert_eq!(shim.line(id), "ready");
    shim.kill(id, "", 15).unwrap();
    shim.wait(id, "").unwrap();
}

#[test]
fn a_container_lives_from_create_to_delete() {
    require!(containers);
    let shim = Shim::start(waiting("7"));
    let id = shim.id().to_owned();
    let pid = shim.create(&id).unwrap();
    assert!(host::alive(pid));
    assert_eq!(shim.state(&id, "").unwrap().status.value(), 1, "created");
    assert_eq!(shim.start_process(&id, ""), Ok(pid));
    assert_eq!(shim.state(&id, "").unwrap().status.value(), 2, "running");
    assert_eq!(shim.line(&id), "ready");
    shim.kill(&id, "", 15).unwrap();
    assert_eq!(shim.wait(&id, ""), Ok(7));
    let state = shim.state(&id, "").unwrap();
    assert_eq!((state.status.value(), state.exit_status), (3, 7), "stopped");
    assert_eq!(shim.delete(&id, ""), Ok((pid, 7)));
    let expected = [
        format!("create {id}"),
        format!("start {id}"),
        format!("exit {id} 7"),
        format!("delete {id} 7"),
    ];
    assert_eq!(shim.events(4), expected);
    shim.shutdown();
    assert!(shim.has_ended());
    assert!(!shim.socket.exists());
    shim.no_more_events();
    host::assert_no_trace(&id, &shim.bundle.scratch.path().join("runtimes"));
}

#[test]
fn containerd_up_to_2_2_is_answered_in_json() {
    require!(containers);
    let shim = Shim::start_by(Protocol::Json, waiting("0"));
    let id = shim.id().to_owned();
    assert!(
        shim.socket.starts_with("/run/containerd/s"),
        "{}",
        shim.socket.display()
    );
    // By which a containerd that was restarted finds the shim.
    let noted = fs::read_to_string(shim.directory(&id).join("address")).unwrap();
    assert_eq!(noted, format!("unix://{}", shim.socket.display()));
    shim.create(&id).unwrap();
    shim.start_process(&id, "").unwrap();
    end(&shim, &id);
    shim.delete(&id, "").unwrap();
    shim.shutdown();
    assert!(shim.has_ended());
    // They are the machine's if there is something in them.
    fs::remove_dir("/run/containerd/s")
        .and_then(|()| fs::remove_dir("/run/containerd"))
        .ok();
}

#[test]
fn an_exec_is_registered_then_started_and_ends_with_its_own_code() {
    require!(containers);
    let (shim, id, _) = running("0");
    shim.exec(&id, "one", &["exit", "3"]).unwrap();
    assert_eq!(
        code(shim.exec(&id, "one", &["exit", "4"])),
        Code::ALREADY_EXISTS
    );
    assert_eq!(shim.state(&id, "one").unwrap().status.value(), 1, "created");
    assert_eq!(code(shim.kill(&id, "one", 9)), Code::FAILED_PRECONDITION);
    let pid = shim.start_process(&id, "one").unwrap();
    assert_eq!(shim.wait(&id, "one"), Ok(3));
    assert_eq!(code(shim.kill(&id, "one", 9)), Code::NOT_FOUND);
    assert_eq!(shim.delete(&id, "one"), Ok((pid, 3)));
    assert_eq!(shim.delete(&id, "one"), Ok((pid, 3)), "again");
    assert_eq!(
        shim.events(3),
        ["exec-added one", "exec-started one", "exit one 3"]
    );
    // The name is free again.
    shim.exec(&id, "one", &["signal-self", "9"]).unwrap();
    shim.start_process(&id, "one").unwrap();
    assert_eq!(shim.wait(&id, "one"), Ok(137));
}

#[test]
fn real_time_signals_end_processes_like_others() {
    require!(containers, busybox);
    let mut bundle = Bundle::with_busybox();
    // Orphans that come to the shim: one that is killed so, and one behind it.
    let script = "(sh -c 'kill -37 $$' & echo $!); (sh -c : & echo $!); exec sleep 1000";
    bundle
        .config
        .no_namespace("pid")
        .args(&["/bin/sh", "-c", script]);
    let shim = Shim::start(bundle);
    let id = shim.id().to_owned();
    let init = shim.create(&id).unwrap();
    shim.start_process(&id, "").unwrap();
    for _ in 0..2 {
        let orphan: i32 = shim.line(&id).parse().unwrap();
        assert!(host::await_end(orphan));
    }
    shim.exec(&id, "one", &["signal-self", "37"]).unwrap();
    shim.start_process(&id, "one").unwrap();
    assert_eq!(shim.wait(&id, "one"), Ok(165));
    // When it was reaped, so was what had ended before.
    let children: Vec<i32> = shim.children().iter().map(|(pid, _)| *pid).collect();
    assert_eq!(children, [init], "{:?}", shim.children());
    shim.kill(&id, "", 64).unwrap();
    assert_eq!(shim.wait(&id, ""), Ok(192));
    assert_eq!(shim.delete(&id, ""), Ok((init, 192)));
}

#[test]
fn an_exec_that_was_never_started_can_be_deleted() {
    require!(containers);
    let (shim, id, _) = running("0");
    shim.exec(&id, "one", &["exit", "3"]).unwrap();
    assert_eq!(shim.delete(&id, "one"), Ok((0, 0)));
}

#[test]
fn an_exec_that_cannot_run_says_why_and_ends() {
    require!(containers);
    let (shim, id, _) = running("0");
    shim.exec(&id, "one", &["exit", "3"]).unwrap();
    shim.call(async |client, ctx| {
        let mut request = shim::protos::task::ExecProcessRequest {
            id: id.clone(),
            exec_id: "two".into(),
            ..Default::default()
        };
        let process =
            json!({ "args": ["/no/such/program"], "cwd": "/", "user": { "uid": 0, "gid": 0 } });
        let spec = protobuf::well_known_types::any::Any {
            value: process.to_string().into_bytes(),
            ..Default::default()
        };
        request.spec = protobuf::MessageField::some(spec);
        client.exec(ctx, &request).await
    })
    .unwrap();
    let (code, text) = shim.start_process(&id, "two").unwrap_err();
    assert_eq!(code, Code::UNKNOWN);
    assert!(text.starts_with("OCI runtime exec failed: "), "{text}");
    assert!(text.contains("/no/such/program"), "{text}");
    shim.wait(&id, "two").unwrap();
    shim.delete(&id, "two").unwrap();
    assert_eq!(shim.events(2), ["exec-added one", "exec-added two"]);
    shim.no_more_events();
}

#[test]
fn the_ends_of_execs_are_told_before_that_of_init() {
    require!(containers);
    let (shim, id, _) = running("0");
    for exec in ["one", "two"] {
        shim.exec(&id, exec, &["pause"]).unwrap();
        shim.start_process(&id, exec).unwrap();
    }
    shim.events(4);
    shim.kill(&id, "", 9).unwrap();
    let mut ends = shim.events(3);
    assert_eq!(ends.pop().unwrap(), format!("exit {id} 137"));
    ends.sort();
    assert_eq!(ends, ["exit one 137", "exit two 137"]);
    assert_eq!(
        code(shim.exec(&id, "three", &["pause"])),
        Code::FAILED_PRECONDITION
    );
}

#[test]
fn without_a_pid_namespace_nothing_survives_init() {
    require!(containers);
    let mut bundle = waiting("0");
    bundle.config.no_namespace("pid");
    let shim = Shim::start(bundle);
    let id = shim.id().to_owned();
    shim.create(&id).unwrap();
    shim.start_process(&id, "").unwrap();
    shim.exec(&id, "one", &["pause"]).unwrap();
    let pid = shim.start_process(&id, "one").unwrap();
    shim.events(4);
    shim.kill(&id, "", 9).unwrap();
    assert_eq!(
        shim.events(2),
        ["exit one 137".to_owned(), format!("exit {id} 137")]
    );
    assert!(!host::alive(pid));
    shim.delete(&id, "").unwrap();
}

#[test]
fn what_clients_branch_on_has_its_code() {
    require!(containers);
    let (shim, id, pid) = running("5");
    assert_eq!(code(shim.state("other", "")), Code::NOT_FOUND);
    assert_eq!(code(shim.state(&id, "other")), Code::NOT_FOUND);
    assert_eq!(code(shim.wait("other", "")), Code::NOT_FOUND);
    assert_eq!(code(shim.kill("other", "", 9)), Code::NOT_FOUND);
    assert_eq!(code(shim.delete("other", "")), Code::NOT_FOUND);
    assert_eq!(code(shim.create(&id)), Code::ALREADY_EXISTS);
    assert_eq!(
        shim.start_process(&id, "").unwrap_err(),
        (Code::UNKNOWN, "cannot start a running process".to_owned())
    );
    assert_eq!(code(shim.delete(&id, "")), Code::FAILED_PRECONDITION);
    assert!(host::alive(pid), "delete has not killed it");
    assert_eq!(code(shim.exec(&id, "../x", &[])), Code::INVALID_ARGUMENT);
    end(&shim, &id);
    assert_eq!(code(shim.kill(&id, "", 9)), Code::NOT_FOUND);
    assert_eq!(
        code(shim.exec(&id, "one", &["pause"])),
        Code::FAILED_PRECONDITION
    );
    assert_eq!(
        shim.start_process(&id, "").unwrap_err().1,
        "cannot start a stopped process"
    );
}

#[test]
fn delete_may_be_asked_for_again() {
    require!(containers);
    let (shim, id, pid) = running("5");
    end(&shim, &id);
    for _ in 0..2 {
        assert_eq!(shim.delete(&id, ""), Ok((pid, 5)));
    }
    assert_eq!(shim.wait(&id, ""), Ok(5));
    assert_eq!(code(shim.kill(&id, "", 9)), Code::NOT_FOUND);
    assert_eq!(
        shim.events(2),
        [format!("exit {id} 5"), format!("delete {id} 5")]
    );
    // The name is free again.
    assert!(shim.create(&id).unwrap() != pid);
    assert_eq!(shim.event(), format!("create {id}"));
}

#[test]
fn a_container_that_was_never_started_can_be_deleted() {
    require!(containers);
    let shim = Shim::start(waiting("0"));
    let id = shim.id().to_owned();
    let pid = shim.create(&id).unwrap();
    assert_eq!(shim.delete(&id, ""), Ok((pid, 137)));
    assert_eq!(
        shim.events(3),
        [
            format!("create {id}"),
            format!("exit {id} 137"),
            format!("delete {id} 137")
        ]
    );
}

#[test]
fn a_create_that_fails_says_why_and_leaves_nothing() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.args(&["/no/such/program"]);
    let source = bundle.scratch.dir("source");
    let shim = Shim::start(bundle);
    let id = shim.id().to_owned();
    let bind = |request: &mut shim::protos::task::CreateTaskRequest| {
        request.rootfs = vec![shim::protos::types::Mount {
            type_: "bind".into(),
            source: source.display().to_string(),
            options: vec!["rbind".into(), "ro".into()],
            ..Default::default()
        }];
    };
    let (code, text) = shim.create_with(&id, bind).unwrap_err();
    assert_eq!(code, Code::UNKNOWN);
    assert!(text.starts_with("OCI runtime create failed: "), "{text}");
    assert!(text.contains("/no/such/program"), "{text}");
    let rootfs = shim.directory(&id).join("rootfs").display().to_string();
    assert!(host::mounts().iter().all(|mount| mount.target != rootfs));
    assert_eq!(shim.state(&id, "").unwrap_err().0, Code::NOT_FOUND);
    shim.shutdown();
    assert!(shim.has_ended());
    shim.no_more_events();
    host::assert_no_trace(&id, &shim.bundle.scratch.path().join("runtimes"));
}

#[test]
fn the_root_file_system_is_mounted_by_create_and_gone_after_delete() {
    require!(containers);
    let mut bundle = waiting("0");
    let lower = bundle.rootfs();
    let (upper, work) = (bundle.scratch.dir("upper"), bundle.scratch.dir("work"));
    // Not the harness' own root, but what is mounted in the bundle.
    bundle
        .config
        .set("/root/path", "./rootfs")
        .set("/root/readonly", false);
    let shim = Shim::start(bundle);
    let id = shim.id().to_owned();
    let overlay = |request: &mut shim::protos::task::CreateTaskRequest| {
        let option = |name: &str, path: &std::path::Path| format!("{name}={}", path.display());
        request.rootfs = vec![shim::protos::types::Mount {
            type_: "overlay".into(),
            source: "overlay".into(),
            options: vec![
                option("lowerdir", &lower),
                option("upperdir", &upper),
                option("workdir", &work),
                "nosuid".into(),
            ],
            ..Default::default()
        }];
    };
    shim.create_with(&id, overlay).unwrap();
    let rootfs = shim.directory(&id).join("rootfs").display().to_string();
    let mounted = host::mounts()
        .into_iter()
        .find(|mount| mount.target == rootfs)
        .unwrap();
    assert!(mounted.has(&["nosuid"]));
    shim.start_process(&id, "").unwrap();
    end(&shim, &id);
    shim.delete(&id, "").unwrap();
    assert!(host::mounts().iter().all(|mount| mount.target != rootfs));
}

#[test]
fn pause_and_resume_are_told() {
    require!(containers);
    let (shim, id, _) = running("0");
    let pause = shim::protos::task::PauseRequest {
        id: id.clone(),
        ..Default::default()
    };
    let resume = shim::protos::task::ResumeRequest {
        id: id.clone(),
        ..Default::default()
    };
    assert_eq!(
        code(shim.call(async |client, ctx| client.resume(ctx, &resume).await)),
        Code::UNKNOWN
    );
    shim.call(async |client, ctx| client.pause(ctx, &pause).await)
        .unwrap();
    assert_eq!(shim.state(&id, "").unwrap().status.value(), 4, "paused");
    shim.call(async |client, ctx| client.resume(ctx, &resume).await)
        .unwrap();
    assert_eq!(shim.state(&id, "").unwrap().status.value(), 2, "running");
    assert_eq!(
        shim.events(2),
        [format!("paused {id}"), format!("resumed {id}")]
    );
}

#[test]
fn all_processes_are_listed_with_the_names_of_execs() {
    require!(containers);
    let (shim, id, pid) = running("0");
    shim.exec(&id, "one", &["pause"]).unwrap();
    let exec = shim.start_process(&id, "one").unwrap();
    let request = shim::protos::task::PidsRequest {
        id: id.clone(),
        ..Default::default()
    };
    let listed = shim
        .call(async |client, ctx| client.pids(ctx, &request).await)
        .unwrap();
    let mut listed: Vec<(i32, String)> = listed
        .processes
        .into_iter()
        .map(|process| (process.pid as i32, process.info.type_url.clone()))
        .collect();
    listed.sort();
    let mut expected = vec![
        (pid, String::new()),
        (exec, "containerd.runc.v1.ProcessDetails".to_owned()),
    ];
    expected.sort();
    assert_eq!(listed, expected);
    end(&shim, &id);
    // An empty list, or an error, would have containerd throw the exit status away when it is restarted.
    let listed = shim
        .call(async |client, ctx| client.pids(ctx, &request).await)
        .unwrap();
    let pids = listed.processes.iter().map(|process| process.pid as i32);
    assert_eq!(pids.collect::<Vec<_>>(), [pid]);
}

#[test]
fn after_the_death_of_the_shim_delete_cleans_up() {
    require!(containers);
    let (shim, id, pid) = running("5");
    // What it writes after that has no reader, and would end it.
    assert_eq!(shim.line(&id), "ready");
    shim.crash();
    assert!(host::alive(pid), "the container does not die with its shim");
    let ended = shim.clean_up();
    assert_eq!((ended.pid as i32, ended.exit_status), (pid, 137));
    assert!(host::await_end(pid));
    host::assert_no_trace(&id, &shim.bundle.scratch.path().join("runtimes"));
}

#[test]
fn after_the_death_of_the_shim_an_exit_code_is_still_known() {
    require!(containers);
    let (shim, id, pid) = running("5");
    end(&shim, &id);
    shim.crash();
    let ended = shim.clean_up();
    assert_eq!((ended.pid as i32, ended.exit_status), (pid, 5));
    host::assert_no_trace(&id, &shim.bundle.scratch.path().join("runtimes"));
}

/// Whether delete has left the socket of a shim that died.
fn leaves_socket() -> bool {
    let (shim, id, _) = running("5");
    shim.crash();
    let socket = &shim.socket;
    fs::remove_file(socket).unwrap();
    // As what the shim was about to start has it, until it executes its program.
    let copy = UnixListener::bind(socket).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let asked = copy.accept();
            let told = copy.accept();
            drop((copy, asked, told));
        });
        assert_eq!(shim.clean_up().exit_status, 137);
    });
    host::assert_no_trace(&id, &shim.bundle.scratch.path().join("runtimes"));
    socket.exists()
}

#[test]
fn a_socket_that_outlives_its_shim_for_a_moment_is_not_left() {
    require!(containers);
    // What another test is about to start has a copy as well, and for longer; not each time.
    assert!((0..5).any(|_| !leaves_socket()), "it is left each time");
}

/// A pod: a sandbox's container and another, in one shim.
fn pod() -> (Shim, String, String) {
    let mut bundle = waiting("0");
    let group = place::unique("pod");
    bundle.config.set(
        "/annotations",
        json!({ "io.kubernetes.cri.sandbox-id": group }),
    );
    let shim = Shim::start(bundle);
    let (first, second) = (shim.id().to_owned(), shim.sibling());
    assert_eq!(shim.start_again(&second), shim.socket);
    for id in [&first, &second] {
        shim.create(id).unwrap();
        shim.start_process(id, "").unwrap();
    }
    (shim, first, second)
}

#[test]
fn containers_of_a_group_share_a_shim_which_stays_until_the_last_is_gone() {
    require!(containers);
    let (shim, first, second) = pod();
    end(&shim, &first);
    shim.delete(&first, "").unwrap();
    shim.shutdown();
    assert_eq!(
        shim.state(&second, "").unwrap().status.value(),
        2,
        "running"
    );
    end(&shim, &second);
    shim.delete(&second, "").unwrap();
    shim.shutdown();
    assert!(shim.has_ended());
}

#[test]
fn after_the_death_of_a_pods_shim_delete_of_the_sandbox_cleans_up_all_of_the_pod() {
    require!(containers);
    let (shim, first, second) = pod();
    for id in [&first, &second] {
        let noted = json!({ "version": 3, "address": format!("unix://{}", shim.socket.display()), "protocol": "ttrpc" });
        place::write(
            &shim.directory(id).join("bootstrap.json"),
            noted.to_string(),
        );
    }
    shim.crash();
    shim.clean_up();
    for id in [&first, &second] {
        host::assert_no_trace(id, &shim.bundle.scratch.path().join("runtimes"));
    }
}

#[test]
fn a_socket_that_a_dead_shim_left_is_made_anew() {
    require!(containers);
    let mut shim = Shim::start(waiting("0"));
    shim.crash();
    assert!(shim.socket.exists());
    assert_eq!(shim.start_again(shim.id()), shim.socket);
    shim.adopt();
}

/// A container whose creation has a hook that waits: it opens the fifo for reading, and goes on at its end.
fn held() -> (Shim, std::path::PathBuf) {
    let mut bundle = waiting("0");
    let fifo = bundle.scratch.path().join("gate");
    nix::unistd::mkfifo(&fifo, Mode::from_bits_truncate(0o600)).unwrap();
    let probe = place::probe().display().to_string();
    let hook = json!([{ "path": probe, "args": ["probe", "cat", fifo.display().to_string()] }]);
    bundle
        .config
        .set("/hooks", json!({ "createRuntime": hook }));
    (Shim::start(bundle), fifo)
}

#[test]
fn a_client_that_leaves_does_not_cut_a_create_in_half() {
    require!(containers);
    let (shim, gate) = held();
    let id = shim.id().to_owned();
    let mut hold = None;
    // Opening comes back when the hook has opened the other end.
    shim.create_and_leave(&id, || {
        hold = Some(fs::OpenOptions::new().write(true).open(&gate).unwrap())
    });
    assert_eq!(code(shim.state(&id, "")), Code::NOT_FOUND);
    hold.take().unwrap().write_all(b"go on").unwrap();
    assert_eq!(shim.event(), format!("create {id}"));
    assert_eq!(shim.state(&id, "").unwrap().status.value(), 1, "created");
    shim.start_process(&id, "").unwrap();
    shim.kill(&id, "", 9).unwrap();
    assert_eq!(shim.wait(&id, ""), Ok(137));
    shim.delete(&id, "").unwrap();
}

#[test]
fn the_older_name_of_the_service_is_served_too() {
    require!(containers);
    let (shim, id, pid) = running("0");
    let state = shim.state_by_version_2(&id);
    assert_eq!(state.pid as i32, pid);
}

#[test]
fn the_shim_has_one_thread() {
    require!(containers);
    let (shim, id, _) = running("0");
    shim.exec(&id, "one", &["exit", "0"]).unwrap();
    shim.start_process(&id, "one").unwrap();
    shim.wait(&id, "one").unwrap();
    assert_eq!(
        fs::read_dir(format!("/proc/{}/task", shim.pid))
            .unwrap()
            .count(),
        1
    );
}
