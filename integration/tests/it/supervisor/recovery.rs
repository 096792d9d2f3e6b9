//! What a kill of the daemon, or of a shim, does: nothing that is not known and mended.

use std::collections::HashMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use integration::require;
use integration::runtime::{Running, finish, readable};
use integration::supervisor::{IMAGE, Supervisor};
use integration::{host, place};
use nix::mount::{MsFlags, mount, umount};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use super::cut_off::until;

#[test]
fn a_daemon_that_is_killed_loses_no_container_no_exit_code_and_no_line() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let gate = supervisor.scratch.dir("gate");
    let bind = format!("{}:/gate", gate.display());
    for name in ["ends", "gone"] {
        mkfifo(&gate.join(name), Mode::from_bits_truncate(0o600)).unwrap();
    }
    let lives = supervisor.detached(&["--name", "lives"], "sleep 1000");
    let ends = supervisor.detached(
        &["-v", &bind],
        "echo before; cat /gate/ends; echo after; exit 9",
    );
    let gone = supervisor.detached(&["--rm", "-v", &bind], "cat /gate/gone");
    let frozen = supervisor.detached(&[], "sleep 1000");
    supervisor.says(&["pause", &frozen]);
    let pid: i32 = supervisor.field(&ends, "{{.State.Pid}}").parse().unwrap();
    let other: i32 = supervisor.field(&gone, "{{.State.Pid}}").parse().unwrap();
    supervisor.crash();
    // They end while there is no daemon.
    for name in ["ends", "gone"] {
        // As soon as its reader is there.
        let mut gate = std::fs::OpenOptions::new()
            .write(true)
            .open(gate.join(name))
            .unwrap();
        gate.write_all(b"go\n").unwrap();
    }
    assert!(host::await_end(pid) && host::await_end(other));
    assert_eq!(supervisor.says(&["wait", &ends]), "9");
    let log = supervisor.says(&["logs", &ends]);
    assert!(log.starts_with("before") && log.ends_with("after"), "{log}");
    assert_eq!(supervisor.field("lives", "{{.State.Status}}"), "running");
    assert_eq!(supervisor.says(&["exec", &lives, "echo", "here"]), "here");
    assert_eq!(supervisor.field(&frozen, "{{.State.Status}}"), "paused");
    supervisor.ctl(&["inspect", &gone]).failure();
    let died = supervisor.says(&[
        "events",
        "--after",
        "0",
        "--until",
        "0s",
        "--filter",
        "event=die",
        "--format",
        "{{.Actor.ID}}",
    ]);
    assert_eq!(
        died.lines().filter(|id| **id == *ends).count(),
        1,
        "one end is told once"
    );
    assert_eq!(supervisor.bundles().len(), 2);
}

/// A container with little memory, and a fifo that is its /gate/begin.
fn limited(supervisor: &Supervisor, name: &str, script: &str) -> (String, PathBuf) {
    let gate = supervisor.scratch.dir(name);
    let begin = gate.join("begin");
    mkfifo(&begin, Mode::from_bits_truncate(0o600)).unwrap();
    let bind = format!("{}:/gate", gate.display());
    let flags = ["--memory", "32m", "--memory-swap", "32m", "-v", &bind];
    (supervisor.detached(&flags, script), begin)
}

#[test]
fn each_kill_for_want_of_memory_is_told_at_once_and_once() {
    require!(containers, busybox, controller("memory"));
    let supervisor = Supervisor::new();
    let script = "while read line </gate/begin; do tail /dev/zero; done; exit 3";
    let (id, begin) = limited(&supervisor, "lives", script);
    let script = "read line </gate/begin; tail /dev/zero; exit 3";
    let (gone, last) = limited(&supervisor, "ends", script);
    let pid: i32 = supervisor.field(&gone, "{{.State.Pid}}").parse().unwrap();
    let said = || supervisor.field(&id, "{{.State.OOMKilled}} {{.State.Status}}");
    let events = "events --after 0 --filter event=oom --format {{.Actor.ID}}";
    let events: Vec<&str> = events.split(' ').collect();
    assert_eq!(said(), "false running");
    let mut shown = supervisor.start(&events);
    for _ in 0..2 {
        host::set(&begin, "\n");
        assert_eq!(shown.stdout.line(), id);
        assert_eq!(said(), "true running");
    }
    supervisor.crash();
    shown.wait();
    host::set(&begin, "\n");
    host::set(&last, "\n");
    assert!(host::await_end(pid));
    let mut shown = supervisor.start(&events);
    assert_eq!([shown.stdout.line(), shown.stdout.line()], [&*id, &id]);
    let later = [shown.stdout.line(), shown.stdout.line()];
    assert!(later.contains(&id) && later.contains(&gone), "{later:?}");
    // An empty line is no end of the file, but no line is.
    host::set(&begin, "");
    for id in [&id, &gone] {
        assert_eq!(supervisor.says(&["wait", id]), "3");
        assert_eq!(supervisor.field(id, "{{.State.OOMKilled}}"), "true");
    }
    let all = supervisor.says(&[&events[..], &["--until", "0s"]].concat());
    assert_eq!(all.lines().filter(|line| **line == *id).count(), 3);
    assert_eq!(all.lines().filter(|line| **line == *gone).count(), 1);
}

#[test]
fn a_daemon_may_be_killed_at_any_moment_of_a_start() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    for round in 0..10 {
        let name = format!("box-{round}");
        supervisor.says(&["create", "--name", &name, IMAGE, "sleep", "1000"]);
        let pid = supervisor.pid();
        let starting = supervisor.start(&["start", &name]);
        // Later each time, by so many looks at a file.
        for _ in 0..round * 400 {
            std::fs::metadata(supervisor.scratch.path()).unwrap();
        }
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGKILL,
        )
        .unwrap();
        assert!(host::await_end(pid));
        starting.wait();
        // It runs, or it can be started; in either case it is the only one of its kind.
        supervisor.says(&["start", &name]);
        assert_eq!(
            supervisor.says(&["exec", &name, "echo", "here"]),
            "here",
            "{name}"
        );
        supervisor.says(&["rm", "-f", &name]);
        assert!(
            supervisor.bundles().is_empty(),
            "{:?}",
            supervisor.bundles()
        );
    }
}

#[test]
fn a_policy_starts_a_container_again_and_a_user_has_the_last_word() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let failing = supervisor.detached(&["--restart", "on-failure:2"], "echo start; exit 5");
    let until = |container: &str, template: &str, wanted: &str| {
        let mut events = supervisor.start(&["events", "--after", "0", "--format", "{{.Action}}"]);
        while supervisor.field(container, template) != wanted {
            events.stdout.line();
        }
    };
    until(&failing, "{{.State.Status}} {{.RestartCount}}", "exited 2");
    assert_eq!(supervisor.says(&["logs", &failing]), "start\nstart\nstart");
    let always = supervisor.detached(&["--restart", "always"], "sleep 1000");
    let pid = supervisor.field(&always, "{{.State.Pid}}");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid.parse().unwrap()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    until(&always, "{{.State.Status}} {{.RestartCount}}", "running 1");
    supervisor.says(&["stop", "-t", "0", &always]);
    assert_eq!(supervisor.field(&always, "{{.State.Status}}"), "exited");
    // A new daemon starts it, as Docker's does.
    supervisor.crash();
    until(&always, "{{.State.Status}}", "running");
    // Who starts it by hand begins to count again.
    supervisor.says(&["start", &failing]);
    until(&failing, "{{.State.Status}} {{.RestartCount}}", "exited 2");
    let starts = supervisor.says(&["logs", &failing]);
    assert_eq!(starts.lines().count(), 6, "{starts}");
}

#[test]
fn the_death_of_a_shim_is_the_end_of_its_container_and_leaves_nothing() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let id = supervisor.detached(&[], "sleep 1000");
    let pid: i32 = supervisor.field(&id, "{{.State.Pid}}").parse().unwrap();
    let mut exec = supervisor.start(&["exec", &id, "sh", "-c", "echo ready; sleep 1000"]);
    assert_eq!(exec.stdout.line(), "ready");
    signal(shim_of(pid), Signal::SIGKILL);
    assert_eq!(supervisor.says(&["wait", &id]), "137");
    // Its client still has the daemon.
    let said = exec.wait().failure().says("the container's shim has ended");
    assert!(!said.stderr.contains("connection"), "{said}");
    assert!(host::await_end(pid));
    assert!(supervisor.bundles().is_empty());
    supervisor.says(&["start", &id]);
    assert_eq!(supervisor.says(&["exec", &id, "echo", "again"]), "again");
}

#[test]
fn a_shim_that_does_not_answer_keeps_its_container_and_holds_up_nobody_else() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let stuck = supervisor.detached(&["--name", "stuck"], "sleep 1000");
    let other = supervisor.detached(&["--name", "other"], "sleep 1000");
    let pid: i32 = supervisor.field(&stuck, "{{.State.Pid}}").parse().unwrap();
    let shim = shim_of(pid);
    signal(shim, Signal::SIGSTOP);
    supervisor.crash();
    assert_eq!(supervisor.says(&["exec", &other, "echo", "here"]), "here");
    let running = supervisor.says(&["ps", "--format", "{{.Names}} {{.State}}"]);
    assert!(running.contains("stuck running"), "{running}");
    let waiting = supervisor.start(&["exec", "stuck", "echo", "still here"]);
    signal(shim, Signal::SIGCONT);
    assert_eq!(waiting.wait().success().stdout.trim(), "still here");
    assert_eq!(supervisor.field("stuck", "{{.State.Pid}}"), pid.to_string());
}

#[test]
fn a_container_that_was_about_to_be_frozen_for_an_image_runs_on() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let id = supervisor.detached(&[], "sleep 1000");
    supervisor.crash();
    // The mark is there before the freezing, so that nobody stays frozen.
    let bundle = supervisor.state.join("bundles").join(&id);
    std::fs::File::create_new(bundle.join("frozen")).unwrap();
    assert_eq!(supervisor.says(&["exec", &id, "echo", "here"]), "here");
    assert!(!bundle.join("frozen").exists());
}

/// The parent of a container's first process.
#[track_caller]
fn shim_of(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split(' ').nth(1).unwrap().parse().unwrap()
}

#[track_caller]
fn signal(pid: i32, signal: Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

#[test]
fn a_daemon_that_cannot_open_its_store_answers_nobody_and_says_why() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    supervisor.crash();
    // Somebody else has the store, until his archive ends.
    let mut holder = std::process::Command::new(place::daemon());
    holder
        .args(["store", "--root"])
        .arg(supervisor.scratch.path().join("root"))
        .args(["import", "--name", "x", "--rootfs", "-"]);
    let mut holder = integration::runtime::Running::start(holder);
    let mut stdin = holder.stdin.take().unwrap();
    let open = supervisor.scratch.path().join("root/ingests");
    // As soon as it has the database open, it makes an ingest.
    let held = || std::fs::read_dir(&open).is_ok_and(|mut found| found.next().is_some());
    stdin.write_all(&[b'x'; 70_000]).unwrap();
    while !held() {
        assert!(std::path::Path::new(&format!("/proc/{}", holder.pid())).exists());
    }
    // Each starts a daemon, one after the other, which waits for a while.
    let clients = [0, 1].map(|_| supervisor.start(&["ps"]));
    for client in clients {
        client.wait().failure().says("open the store");
    }
    drop(stdin);
    holder.wait();
    supervisor.says(&["ps"]);
}

#[test]
fn only_one_daemon_has_a_directory() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let mut second = std::process::Command::new(place::caissonctl().with_file_name("caissond"));
    second
        .arg("--root")
        .arg(supervisor.scratch.path().join("root"))
        .arg("--state")
        .arg(supervisor.scratch.dir("other"));
    integration::runtime::finish(second)
        .failure()
        .says("another daemon is running");
}

#[test]
fn where_a_socket_is_named_and_nobody_listens_no_daemon_is_started() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let socket = supervisor.scratch.name("other.sock");
    let error = supervisor.ctl(&["--address", &socket, "ps"]).failure();
    error.says("is not started on demand");
    assert!(!std::path::Path::new(&socket).exists());
}

#[test]
fn a_client_whose_daemon_is_killed_before_it_answers_says_so() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let socket = supervisor.scratch.name("other.sock");
    for heard in [false, true] {
        for words in [&["ps"][..], &["stop", "box"], &["events"], &["wait", "box"]] {
            // Killed when it has heard what is wanted, or before.
            let listener = UnixListener::bind(&socket).unwrap();
            let client = supervisor.start(&[&["--address", &socket], words].concat());
            assert!(readable(&listener));
            let (mut stream, _) = listener.accept().unwrap();
            if heard {
                stream.read_exact(&mut [0; 10]).unwrap();
            }
            drop((listener, stream));
            client
                .wait()
                .failure()
                .says("the connection to the daemon is lost: ")
                .says(if words[0] == "events" {
                    "there may be more events"
                } else {
                    "containers go on"
                });
            std::fs::remove_file(&socket).unwrap();
        }
    }
}

#[test]
fn a_daemon_removes_no_file_where_it_is_to_listen_but_a_socket() {
    require!(containers, busybox);
    let supervisor = Supervisor::without_image();
    let file = supervisor.scratch.file("file", "precious");
    let path = file.display().to_string();
    for flags in [["--address", &path], ["--metrics", &format!("unix:{path}")]] {
        let refused = supervisor.refused(&flags);
        refused.says(&format!("listen on {path}: there is something else"));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    }
    // A socket that nobody listens at any more is of a daemon that was killed.
    std::fs::remove_file(&file).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&file).unwrap());
    let _daemon = supervisor.daemon(&["--metrics", &format!("unix:{path}")]);
    std::os::unix::net::UnixStream::connect(&file).unwrap();
}

#[test]
fn the_group_of_a_daemon_is_one_that_there_is() {
    use std::os::unix::fs::MetadataExt as _;
    require!(containers, busybox);
    let supervisor = Supervisor::without_image();
    let refused = supervisor.refused(&["--group", "no-such-group"]);
    refused.says("find the group 'no-such-group' of --group: /etc/group has none");
    let groups = std::fs::read_to_string("/etc/group").unwrap();
    let fields = groups.lines().map(|line| line.split(':').collect());
    let mut fields = fields.filter(|fields: &Vec<&str>| fields[2] != "0");
    let group = fields.next().unwrap();
    let _daemon = supervisor.daemon(&["--group", group[0]]);
    let socket = std::fs::metadata(supervisor.state.join("caissond.sock")).unwrap();
    assert_eq!(
        (socket.gid().to_string(), socket.mode() & 0o777),
        (group[2].to_owned(), 0o660)
    );
}

#[test]
fn what_goes_with_its_end_goes_when_it_cannot_begin() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    for runtime in ["nosuch", "/no/such", "io.containerd.nosuch.v2"] {
        for verb in [&["create"][..], &["run", "--rm"], &["run", "--rm", "-d"]] {
            let refused = supervisor.ctl(&[verb, &["--runtime", runtime, IMAGE, "true"]].concat());
            refused
                .failure()
                .says(&format!("find the runtime '{runtime}'"));
        }
    }
    // One that goes after the creation.
    let runtime = supervisor.scratch.file("runtime", "");
    let path = runtime.display().to_string();
    let create = |name: &str| {
        let flags = ["create", "--rm", "--name", name, "--runtime", &path];
        supervisor.says(&[&flags[..], &[IMAGE, "true"]].concat())
    };
    create("plain");
    create("attached");
    std::fs::remove_file(&runtime).unwrap();
    supervisor.ctl(&["start", "plain"]).failure();
    supervisor.ctl(&["start", "-a", "attached"]).failure();
    assert_eq!(supervisor.says(&["ps", "-aq"]), "");
    // And one whose client has lost his daemon before it was started.
    let kept = supervisor.says(&["create", IMAGE, "true"]);
    supervisor.says(&["create", "--rm", "-v", "/data", IMAGE, "true"]);
    supervisor.crash();
    assert_eq!(supervisor.says(&["ps", "-aq", "--no-trunc"]), kept);
    assert_eq!(supervisor.says(&["volume", "ls", "-q"]), "");
}

#[test]
fn a_removal_by_force_takes_what_others_start_meanwhile() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    for round in 0..6 {
        let name = format!("box-{round}");
        supervisor.detached(&["--name", &name], "sleep 1000");
        // Until there is none any more, or it is about to go.
        let lines = ["start", "start", "start", "restart -t 0"]
            .map(|verb| supervisor.in_shell(&format!("while $ctl {verb} {name}; do :; done")));
        let mut others = lines.map(integration::runtime::Running::start);
        for other in &mut others {
            assert_eq!(other.stdout.line(), name);
        }
        supervisor.says(&["rm", "-f", &name]);
        for other in others {
            let said = other.wait().stderr;
            let known = ["no such container", "is being removed"];
            assert!(known.iter().any(|words| said.contains(words)), "{said}");
        }
        supervisor.ctl(&["inspect", &name]).failure();
    }
    assert!(supervisor.bundles().is_empty());
}

#[test]
fn a_shim_that_does_not_answer_goes_when_its_container_is_to_go() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let stuck = |name: &str| {
        supervisor.detached(&["--name", name], "sleep 1000");
        let pid: i32 = supervisor.field(name, "{{.State.Pid}}").parse().unwrap();
        let shim = shim_of(pid);
        signal(shim, Signal::SIGSTOP);
        (pid, shim)
    };
    let removed = stuck("removed");
    let removing = supervisor.start(&["rm", "-f", "removed"]);
    let stopped = stuck("stopped");
    let stopping = supervisor.start(&["stop", "-t", "1", "stopped"]);
    removing.wait().success();
    stopping.wait().success();
    let state = "{{.State.Status}} {{.State.ExitCode}}";
    assert_eq!(supervisor.field("stopped", state), "exited 137");
    supervisor.says(&["start", "stopped"]);
    assert_eq!(supervisor.says(&["exec", "stopped", "echo", "a"]), "a");
    // One that has not answered this daemon yet.
    let unknown = stuck("unknown");
    supervisor.crash();
    supervisor.says(&["rm", "-f", "unknown"]);
    for (pid, shim) in [removed, stopped, unknown] {
        assert!(host::await_end(pid) && host::await_end(shim));
    }
    assert_eq!(supervisor.bundles().len(), 1);
}

#[test]
fn runtimes_that_know_no_newer_version_of_the_configuration_take_it() {
    require!(containers, busybox, program("crun"));
    let supervisor = Supervisor::new();
    let run = ["run", "--rm", "--runtime", "crun", IMAGE, "echo", "here"];
    let said = supervisor.ctl(&run);
    // What this machine may keep it from comes later.
    assert!(
        said.stdout == "here\n" || said.stderr.contains("RLIM_MEMLOCK"),
        "{said}"
    );
}

/// Whoever notes something about a container last may have begun before it went.
#[test]
fn what_is_removed_while_it_is_stopped_and_looked_at_is_gone_for_good() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    for _ in 0..15 {
        let box_ = supervisor.detached(&[], "sleep 1000");
        let other = supervisor.says(&["create", IMAGE, "true"]);
        let (box_, other) = (&*box_, &*other);
        let all: Vec<_> = [
            vec!["stop", "-t", "0", box_],
            vec!["diff", other],
            vec!["rename", other, "other"],
            vec!["diff", other],
            vec!["rm", "-f", box_, other],
        ]
        .iter()
        .map(|command| supervisor.start(command))
        .collect();
        // Those that came too late fail.
        all.into_iter().for_each(|command| drop(command.wait()));
    }
    assert_eq!(supervisor.says(&["ps", "-aq"]), "");
    // Nothing holds the image.
    supervisor.says(&["rmi", IMAGE]);
    supervisor.crash();
    assert_eq!(supervisor.says(&["ps", "-aq"]), "");
    let events = ["events", "--after", "0", "--until", "0s", "-f"];
    let format = ["type=container", "--format", "{{.Actor.ID}} {{.Action}}"];
    let told = supervisor.says(&[&events[..], &format].concat());
    let mut last = HashMap::new();
    for line in told.lines() {
        let (id, action) = line.split_once(' ').unwrap();
        last.insert(id, action);
    }
    assert_eq!(last.len(), 30);
    assert!(last.values().all(|action| *action == "destroy"), "{told}");
}

/// Anybody may try a daemon with a root of its own and forget the other directory.
#[test]
fn a_daemon_with_another_root_leaves_containers_alone() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let id = supervisor.detached(&[], "sleep 1000");
    let pid = supervisor.field(&id, "{{.State.Pid}}");
    let (root, socket) = (
        supervisor.scratch.name("root-2"),
        supervisor.scratch.name("socket"),
    );
    let other = || {
        let mut daemon = Command::new(place::daemon());
        daemon.arg("--root").arg(&root).arg("--state");
        daemon.arg(&supervisor.state).arg("--address").arg(&socket);
        daemon
    };
    let refused = || finish(other()).failure();
    // It waits for a while.
    refused().says("is locked: another daemon is running");
    supervisor.crash();
    refused().says("it has containers of the store in");
    assert_eq!(supervisor.field(&id, "{{.State.Pid}}"), pid);
    assert_eq!(supervisor.says(&["exec", &id, "echo", "here"]), "here");
    supervisor.says(&["rm", "-f", &id]);
    supervisor.crash();
    // Nothing of that store is left there.
    let mut daemon = Running::start(other());
    assert_eq!(daemon.stdout.line(), "ready");
    daemon.signal(Signal::SIGTERM);
    daemon.wait().success();
}

#[test]
fn a_daemon_whose_database_is_lost_does_not_start_and_touches_no_container() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let script = "echo kept >/kept; echo ready; exec sleep 1000";
    let id = supervisor.detached(&["--name", "box"], script);
    let mut log = supervisor.start(&["logs", "-f", "box"]);
    assert_eq!(log.stdout.line(), "ready");
    let pid: i32 = supervisor.field("box", "{{.State.Pid}}").parse().unwrap();
    supervisor.crash();
    log.wait();
    let database = supervisor.scratch.path().join("root/caisson.redb");
    let kept = database.with_extension("kept");
    std::fs::rename(&database, &kept).unwrap();
    supervisor.refused(&[]).says("restore the database");
    place::write(&database, "");
    supervisor.refused(&[]).says("restore the database");
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    std::fs::rename(&kept, &database).unwrap();
    assert_eq!(supervisor.field("box", "{{.Id}}"), id);
    assert_eq!(supervisor.says(&["exec", "box", "cat", "/kept"]), "kept");
}

#[test]
fn a_state_directory_may_have_a_path_that_no_socket_of_a_shim_could() {
    require!(containers, busybox);
    for length in [40, 41, 90] {
        let mut supervisor = Supervisor::without_image();
        let name = format!("{:x<1$}", place::unique("sv"), length - "/run/".len());
        supervisor.state = Path::new("/run").join(name);
        assert_eq!(supervisor.state.as_os_str().len(), length);
        supervisor.import();
        let id = supervisor.detached(&["--name", "box"], "exec sleep 1000");
        let shim = fs::read_to_string(supervisor.state.join("bundles").join(&id).join("shim"));
        let (_, socket) = shim.as_deref().unwrap().split_once(" unix://").unwrap();
        assert!(Path::new(socket).exists(), "{socket}");
        let own = Path::new(socket).starts_with(&supervisor.state);
        assert_eq!(own, length == 40, "{socket}");
        supervisor.crash();
        let exec = ["exec", "-t", "box", "echo", "here"];
        assert!(supervisor.on_terminal(&exec).wait().success());
        supervisor.says(&["rm", "-f", "box"]);
        assert!(!Path::new(socket).exists());
        // That of the daemon's own is not found elsewhere.
        let long = format!("/run/{}", "x".repeat(103));
        let refused = supervisor.refused(&["--address", &long]);
        refused
            .says("108 bytes, and 107 are possible")
            .says("--address");
    }
}

/// Tries a root on another file system, whose name is to be said.
#[track_caller]
fn refused_on(supervisor: &Supervisor, file_system: &str) {
    let refused = supervisor.refused(&[]);
    assert_eq!(refused.stderr.lines().count(), 1, "{refused}");
    refused
        .says("cannot have containers")
        .says(file_system)
        .says("--root");
    let trash = supervisor.scratch.path().join("root/trash");
    assert_eq!(fs::read_dir(trash).unwrap().count(), 0);
}

#[test]
fn a_root_on_a_file_system_that_no_container_can_change_is_refused() {
    require!(containers, busybox);
    host::in_own_mounts(|| {
        let supervisor = Supervisor::without_image();
        let root = supervisor.scratch.dir("root");
        let options = ["lowerdir", "upperdir", "workdir"]
            .map(|name| format!("{name}={}", supervisor.scratch.dir(name).display()));
        let (kind, options) = (Some("overlay"), options.join(","));
        mount(kind, &root, kind, MsFlags::empty(), Some(&*options)).unwrap();
        refused_on(&supervisor, "(overlay)");
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        let none = None::<&str>;
        mount(none, &root, none, read_only, none).unwrap();
        supervisor.refused(&[]).says("Read-only file system");
        umount(&root).unwrap();
        // What it is on then is fine, and nothing is left of the question.
        let daemon = supervisor.daemon(&[]);
        assert_eq!(fs::read_dir(root.join("trash")).unwrap().count(), 0);
        drop(daemon);
    });
}

#[test]
fn a_root_that_no_container_could_have_is_refused() {
    require!(containers, busybox);
    let supervisor = Supervisor::without_image();
    for name in ["a:b", "a,b", r"a\b", "a?b", "a%20b", "a#b"] {
        let root = supervisor.scratch.name(name);
        let refused = supervisor.refused(&["--root", &root]);
        assert_eq!(refused.stderr.lines().count(), 1, "{refused}");
        refused.says("may be in its path").says("--root");
        assert!(!Path::new(&root).exists());
    }
    // Nor may it lead to one.
    let link = supervisor.scratch.name("root");
    symlink(supervisor.scratch.dir("a:b"), &link).unwrap();
    supervisor.refused(&[]).says("/a:b cannot have containers");
    fs::remove_file(&link).unwrap();
    // Started on demand, it says so, too.
    let root = supervisor.scratch.name("a,b");
    let refused = supervisor.ctl(&["--root", &root, "images"]).failure();
    refused.says("may be in its path");
}

#[test]
fn a_signal_that_is_no_reason_to_end_ends_no_daemon_and_containers_do_not_ignore_it() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let pid = supervisor.pid();
    for signal in [
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGALRM,
    ] {
        kill(Pid::from_raw(pid), signal).unwrap();
        assert_eq!(supervisor.pid(), pid, "{signal}");
    }
    let ignored = ["grep", "SigIgn", "/proc/self/status"];
    let said = supervisor.says(&[&["run", "--rm", IMAGE], &ignored[..]].concat());
    assert_eq!(said, "SigIgn:\t0000000000000000");
}

#[test]
fn what_was_told_to_stop_is_not_started_again_by_the_next_daemon() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let gate = supervisor.scratch.dir("gate");
    mkfifo(&gate.join("end"), Mode::from_bits_truncate(0o600)).unwrap();
    let script = "trap 'echo told; read line </gate/end; exit 3' TERM; echo start; while :; do sleep 1000 & wait; done";
    let bind = format!("{}:/gate", gate.display());
    let id = supervisor.detached(&["--restart", "unless-stopped", "-v", &bind], script);
    let mut log = supervisor.start(&["logs", "-f", &id]);
    assert_eq!(log.stdout.line(), "start");
    let stop = supervisor.start(&["stop", "-t", "1000", &id]);
    assert_eq!(log.stdout.line(), "told");
    supervisor.crash();
    stop.wait().failure();
    let waiting = supervisor.start(&["wait", &id]);
    assert_eq!(supervisor.field(&id, "{{.State.Status}}"), "running");
    host::set(&gate.join("end"), "\n");
    assert_eq!(waiting.wait().success().stdout, "3\n");
    let state = "{{.State.Status}} {{.RestartCount}}";
    assert_eq!(supervisor.field(&id, state), "exited 0");
}

#[test]
fn what_a_daemon_does_not_come_to_the_end_of_the_next_one_goes_on_with() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let script = "trap 'echo told' TERM; echo start; while :; do sleep 1000 & wait; done";
    let id = supervisor.detached(&["--rm"], script);
    let mut log = supervisor.start(&["logs", "-f", &id]);
    assert_eq!(log.stdout.line(), "start");
    let mut stats = supervisor.start(&["stats", &id]);
    stats.stdout.line();
    let pid = supervisor.pid();
    // Longer than a daemon takes for its end.
    let restart = supervisor.start(&["restart", "-t", "6", &id]);
    assert_eq!(log.stdout.line(), "told");
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    let cut_off = restart.wait().failure();
    cut_off.says("told to end: the next one goes on with this");
    stats
        .wait()
        .failure()
        .says("the connection to the daemon is lost");
    log.wait();
    assert!(host::await_end(pid));
    let mut events = supervisor.start(&["events", "--since", "0", "--filter", "event=restart"]);
    let event = events.stdout.line();
    assert!(event.contains(&id), "{event}");
    assert_eq!(supervisor.says(&["logs", &id]), "start\ntold\nstart");
    // What is to be gone with its end is, when nothing is to follow.
    supervisor.says(&["stop", "-t", "0", &id]);
    assert_eq!(supervisor.says(&["ps", "-aq"]), "");
}

#[test]
fn one_whose_restart_fails_has_not_ended_and_its_policy_goes_on() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    supervisor.detached(&["--name", "other"], "exec sleep 1000");
    let flags = ["--restart", "on-failure", "--network", "container:other"];
    let id = supervisor.detached(&flags, "exec sleep 1000");
    let pid = supervisor.field(&id, "{{.State.Pid}}");
    supervisor.says(&["stop", "-t", "0", "other"]);
    kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL).unwrap();
    let mut restarts = 0;
    while restarts < 4 {
        let state = supervisor.field(&id, "{{.State.Status}} {{.RestartCount}}");
        let (status, count) = state.split_once(' ').unwrap();
        // One that is about to start is called running.
        assert!(["restarting", "running"].contains(&status), "{state}");
        restarts = count.parse().unwrap();
    }
    supervisor.crash();
    supervisor.says(&["start", "other"]);
    let mut events = supervisor.start(&["events", "--after", "0", "--format", "{{.Action}}"]);
    while supervisor.field(&id, "{{.State.Running}} {{.State.Error}}") != "true" {
        events.stdout.line();
    }
}

#[test]
fn who_needs_another_for_a_restart_comes_up_when_that_has() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    supervisor.detached(&["--name", "first"], "exec sleep 1000");
    let joins = [
        "--network",
        "container:first",
        "--restart",
        "unless-stopped",
        "--name",
        "second",
    ];
    supervisor.detached(&joins, "exec sleep 1000");
    let both = supervisor.says(&["restart", "-t", "0", "first", "second"]);
    assert_eq!(both, "first\nsecond");
    supervisor.says(&["stop", "-t", "0", "first"]);
    let restart = supervisor.ctl(&["restart", "-t", "0", "second"]).failure();
    restart.says("container first, which is not running");
    let field = |of: &str| supervisor.field("second", of);
    assert_ne!(field("{{.State.Status}}"), "exited");
    supervisor.says(&["start", "first"]);
    // A pid it has only when it has been started.
    until("it does not come up", || field("{{.State.Pid}}") != "0");
}
