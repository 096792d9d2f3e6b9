//! From `create` to `delete`: the states, the exit codes, who may do what when.

use integration::host::{self, alive};
use integration::place::unique;
use integration::{Bundle, Container, peer, require};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;

#[test]
fn run_passes_the_exit_code_through() {
    require!(containers);
    let mut bundle = Bundle::new();
    for code in ["0", "1", "3", "127", "255"] {
        bundle.config.probe(&["exit", code]);
        assert_eq!(bundle.run().code().to_string(), code);
    }
}

#[test]
fn run_exits_with_128_and_the_signal_that_killed_the_container() {
    require!(containers);
    let mut bundle = Bundle::new();
    // Process 1 of a pid namespace is immune to its own signals.
    bundle
        .config
        .no_namespace("pid")
        .probe(&["signal-self", "9"]);
    assert_eq!(bundle.run().code(), 137);
    bundle.config.probe(&["signal-self", "15"]);
    assert_eq!(bundle.run().code(), 143);
}

#[test]
fn run_passes_standard_streams_through() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.probe(&["echo", "to", "stdout"]);
    assert_eq!(bundle.run().success().stdout, "to stdout\n");
    bundle.config.probe(&["complain", "to", "stderr"]);
    let finished = bundle.run().success();
    assert_eq!(
        (finished.stdout.as_str(), finished.stderr.as_str()),
        ("", "to stderr\n")
    );

    bundle.config.probe(&["cat"]);
    let id = unique("cat");
    let mut running = bundle.start_run(&[], &id);
    let mut stdin = running.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, b"from stdin\n").unwrap();
    drop(stdin);
    assert_eq!(running.wait().success().stdout, "from stdin\n");
}

#[test]
fn run_forwards_signals_to_the_container() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.probe(&["pause", "7"]);
    let id = unique("signals");
    let mut running = bundle.start_run(&[], &id);
    assert_eq!(running.stdout.line(), "ready");
    for (signal, number) in [
        (Signal::SIGUSR1, 10),
        (Signal::SIGHUP, 1),
        (Signal::SIGINT, 2),
        (Signal::SIGQUIT, 3),
    ] {
        running.signal(signal);
        assert_eq!(running.stdout.line(), format!("signal {number}"));
    }
    running.signal(Signal::SIGTERM);
    assert_eq!(running.wait().code(), 7);
    host::assert_no_trace(&id, &bundle.runtime.root);
}

#[test]
fn a_container_goes_through_created_running_and_stopped() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle
        .config
        .probe(&["pause"])
        .set("/annotations", json!({ "org.example.key": "value" }));
    let mut container = bundle.create();

    let state = container.state();
    assert_eq!(state["status"], "created");
    assert_eq!(state["id"], container.id.as_str());
    assert_eq!(state["pid"], container.pid);
    assert_eq!(state["bundle"], bundle.path().to_str().unwrap());
    assert_eq!(state["annotations"]["org.example.key"], "value");
    assert!(
        state["ociVersion"].as_str().unwrap().starts_with("1."),
        "{state}"
    );
    assert!(alive(container.pid));

    container.start().success();
    assert_eq!(container.stdout.line(), "ready");
    assert_eq!(container.status(), "running");

    container.kill("TERM").success();
    assert_eq!(container.wait(), 0);
    let state = container.state();
    assert_eq!(
        (state["status"].as_str(), state["pid"].as_i64()),
        (Some("stopped"), Some(0))
    );
    assert_eq!(state["annotations"]["org.example.key"], "value");
    container.delete().success();
    container.call("state", &[]).failure();
}

#[test]
fn state_is_printed_as_runc_prints_it() {
    require!(containers);
    peer::beyond(
        &[peer::crun(
            "`state` lacks `rootfs` and its `created` has another form",
        )],
        || {
            let mut bundle = Bundle::new();
            let container = bundle.pause();
            let text = container.call("state", &[]).success().stdout;
            let state: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(state["rootfs"], bundle.rootfs().to_str().unwrap());
            assert_eq!(state["owner"], "");
            assert!(
                text.starts_with("{\n  \"ociVersion\": "),
                "indented by two: {text:?}"
            );
            assert!(text.ends_with('}'), "no newline at the end: {text:?}");
            let created = state["created"].as_str().unwrap();
            let form: String = created
                .chars()
                .map(|c| if c.is_ascii_digit() { '0' } else { c })
                .collect();
            assert!(
                form.starts_with("0000-00-00T00:00:00") && form.ends_with('Z'),
                "RFC 3339 in UTC: {created}"
            );
        },
    );
}

#[test]
fn the_process_starts_only_at_start() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle
        .config
        .writable()
        .probe(&["write-file", "/tmp/ran", "1"]);
    let mut container = bundle.create();
    let ran = bundle.rootfs().join("tmp/ran");
    assert!(!ran.exists(), "the process ran before start");
    container.start().success();
    assert_eq!(container.wait(), 0);
    assert!(ran.exists());
}

#[test]
fn the_exit_status_of_a_created_container_reaches_the_subreaper() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.probe(&["pause", "42"]);
    let mut container = bundle.create();
    container.start().success();
    assert_eq!(container.stdout.line(), "ready");
    container.kill("15").success();
    assert_eq!(container.wait(), 42);
}

#[test]
fn start_works_once() {
    require!(containers);
    let mut bundle = Bundle::new();
    let mut container = bundle.pause();
    container.start().failure();
    assert_eq!(container.status(), "running");
    container.kill("TERM").success();
    container.wait();
    container.start().failure();
    assert_eq!(container.status(), "stopped");
}

#[test]
fn start_of_a_running_or_stopped_container_says_why_not() {
    require!(containers);
    peer::beyond(
        &[peer::crun(
            "says only that the container is not in created state, or that a file is missing",
        )],
        || {
            let mut bundle = Bundle::new();
            let mut container = bundle.pause();
            container
                .start()
                .failure()
                .says("cannot start an already running container");
            container.kill("KILL").success();
            container.wait();
            container
                .start()
                .failure()
                .says("cannot start a container that has stopped");
        },
    );
}

#[test]
fn a_container_that_died_before_start_cannot_be_started() {
    require!(containers);
    let bundle = Bundle::new();
    let mut container = bundle.create();
    container.kill("KILL").success();
    assert_eq!(container.wait(), 137);
    assert_eq!(container.status(), "stopped");
    container.start().failure();
    container.delete().success();
}

#[test]
fn an_id_is_taken_until_its_container_is_deleted() {
    require!(containers);
    let mut bundle = Bundle::new();
    let mut container = bundle.pause();
    let (id, path) = (container.id.clone(), bundle.path());
    let again = || {
        bundle
            .runtime
            .call(&["create", "--bundle", path.to_str().unwrap(), &id])
            .failure()
            .says("exist")
    };
    again();
    assert_eq!(
        container.status(),
        "running",
        "the first container is untouched"
    );
    container.kill("KILL").success();
    container.wait();
    again();
    container.delete().success();
    let second = Container::create(&bundle.runtime, &bundle.path(), &[], &id).unwrap();
    assert_eq!(second.status(), "created");
}

#[test]
fn ids_may_hold_letters_digits_and_four_marks() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.probe(&["exit", "0"]);
    bundle.save();
    for id in [unique("Az09_+-.x"), unique("_a"), unique("+a")] {
        let path = bundle.path();
        bundle
            .runtime
            .call(&["run", "--bundle", path.to_str().unwrap(), &id])
            .success();
        host::assert_no_trace(&id, &bundle.runtime.root);
    }
}

#[test]
fn ids_may_start_with_a_dot() {
    require!(containers);
    peer::beyond(
        &[peer::crun(
            "names the session keyring by the id alone, and the kernel reserves names with a dot",
        )],
        || {
            let mut bundle = Bundle::new();
            bundle.config.probe(&["exit", "0"]);
            bundle.save();
            let (id, path) = (unique("..a"), bundle.path());
            bundle
                .runtime
                .call(&["run", "--bundle", path.to_str().unwrap(), &id])
                .success();
            host::assert_no_trace(&id, &bundle.runtime.root);
        },
    );
}

#[test]
fn ids_that_could_name_another_place_are_refused() {
    require!(containers);
    peer::beyond(
        &[peer::crun(
            "accepts any id without a slash, also `.`, `..` and shell characters",
        )],
        || {
            let mut bundle = Bundle::new();
            bundle.config.probe(&["exit", "0"]);
            bundle.save();
            let path = bundle.path();
            for id in [
                ".", "..", "", "a/b", "../a", "a b", "a:b", "ä", "a\n", "a*", "a@b",
            ] {
                bundle
                    .runtime
                    .call(&["run", "--bundle", path.to_str().unwrap(), id])
                    .failure();
            }
            let left: Vec<_> = fs::read_dir(&bundle.runtime.root)
                .into_iter()
                .flatten()
                .flatten()
                .collect();
            assert!(left.is_empty(), "{left:?}");
        },
    );
}

#[test]
fn an_id_must_be_given() {
    require!(containers);
    let bundle = Bundle::new();
    bundle.save();
    for verb in ["create", "run", "start", "state", "kill", "delete", "exec"] {
        bundle.runtime.call(&[verb]).failure();
    }
}

#[test]
fn commands_on_an_unknown_container_say_that_it_does_not_exist() {
    require!(containers);
    peer::beyond(
        &[peer::crun("names the missing state file instead")],
        || {
            let bundle = Bundle::new();
            fs::create_dir(&bundle.runtime.root).unwrap();
            for command in [
                &["start", "nobody"][..],
                &["state", "nobody"],
                &["kill", "nobody", "9"],
                &["delete", "nobody"],
                &["exec", "nobody", "true"],
            ] {
                bundle
                    .runtime
                    .call(command)
                    .failure()
                    .says("does not exist");
            }
        },
    );
}

#[test]
fn delete_by_force_of_an_unknown_container_succeeds() {
    require!(containers);
    let bundle = Bundle::new();
    bundle
        .runtime
        .call(&["delete", "--force", "nobody"])
        .success();
    bundle.runtime.call(&["delete", "-f", "nobody"]).success();
}

#[test]
fn a_running_container_is_only_deleted_by_force() {
    require!(containers);
    let mut bundle = Bundle::new();
    let mut container = bundle.pause();
    container.delete().failure();
    assert!(alive(container.pid));
    assert_eq!(container.status(), "running");
    container.delete_by_force().success();
    assert!(!alive(container.pid));
    host::assert_no_trace(&container.id, &bundle.runtime.root);
    assert_eq!(container.wait(), 137);
}

#[test]
fn refusing_to_delete_a_running_container_names_it_and_its_state() {
    require!(containers);
    peer::beyond(&[peer::crun("words it differently")], || {
        let mut bundle = Bundle::new();
        let mut container = bundle.pause();
        let expected = format!(
            "cannot delete container {} that is not stopped: running",
            container.id
        );
        container.delete().failure().says(&expected);
    });
}

#[test]
fn delete_kills_a_container_that_was_never_started() {
    require!(containers);
    let bundle = Bundle::new();
    let mut container = bundle.create();
    container.delete().success();
    assert!(!alive(container.pid));
}

#[test]
fn a_stopped_container_keeps_its_state_until_it_is_deleted() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.probe(&["exit", "0"]);
    let mut container = bundle.create();
    container.start().success();
    container.wait();
    assert_eq!(container.status(), "stopped");
    assert!(bundle.runtime.root.join(&container.id).is_dir());
    container.delete().success();
    container.delete().failure();
}

#[test]
fn kill_takes_names_with_and_without_sig_in_any_case_and_numbers() {
    require!(containers);
    peer::beyond(
        &[peer::crun("does not know lower-case signal names")],
        || {
            let mut bundle = Bundle::new();
            let mut container = bundle.pause();
            for (name, number) in [
                ("USR1", 10),
                ("SIGUSR2", 12),
                ("usr1", 10),
                ("sigusr2", 12),
                ("1", 1),
                ("34", 34),
            ] {
                container.kill(name).success();
                if number < 32 {
                    assert_eq!(container.stdout.line(), format!("signal {number}"));
                }
            }
        },
    );
}

#[test]
fn kill_sends_term_if_no_signal_is_named() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.probe(&["pause", "5"]);
    let mut container = bundle.create();
    container.start().success();
    container.stdout.line();
    container.call("kill", &[]).success();
    assert_eq!(container.wait(), 5);
}

#[test]
fn kill_refuses_an_unknown_signal() {
    require!(containers);
    peer::beyond(
        &[peer::crun_before(
            "1.9",
            "takes an unknown name as signal 0 and succeeds",
        )],
        || {
            let mut bundle = Bundle::new();
            let container = bundle.pause();
            container.kill("NOSUCH").failure().says("signal");
            assert_eq!(container.status(), "running");
        },
    );
}

#[test]
fn kill_of_a_stopped_container_says_that_it_is_not_running() {
    require!(containers);
    peer::beyond(
        &[peer::crun_before(
            "1.9",
            "says `No such process` in words that are not the expected ones",
        )],
        || {
            let mut bundle = Bundle::new();
            let mut container = bundle.pause();
            container.kill("KILL").success();
            container.wait();
            container
                .kill("TERM")
                .failure()
                .says("container not running");
            container.call("kill", &["0"]).failure();
        },
    );
}

#[test]
fn kill_all_of_a_stopped_container_is_no_error() {
    require!(containers);
    let mut bundle = Bundle::new();
    let mut container = bundle.pause();
    container.kill("KILL").success();
    container.wait();
    let id = container.id.clone();
    bundle
        .runtime
        .call(&["kill", "--all", &id, "KILL"])
        .success();
    bundle.runtime.call(&["kill", "-a", &id, "9"]).success();
}

#[test]
fn kill_of_a_created_container_ends_it() {
    require!(containers);
    let bundle = Bundle::new();
    let mut container = bundle.create();
    container.kill("9").success();
    assert_eq!(container.wait(), 137);
}

#[test]
fn killing_a_container_without_a_pid_namespace_kills_all_its_processes() {
    require!(containers);
    peer::beyond(
        &[
            peer::runc_before("1.2", "`kill KILL` needs --all for that"),
            peer::crun("`kill KILL` needs --all for that"),
        ],
        || {
            let mut bundle = Bundle::new();
            bundle.config.no_namespace("pid");
            let mut container = bundle.pause();
            let pid_file = bundle.scratch.path().join("second.pid");
            container
                .exec(
                    &["--detach", "--pid-file", pid_file.to_str().unwrap()],
                    &["/bin/probe", "pause"],
                )
                .success();
            let second: i32 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
            assert!(alive(second));
            let second = integration::sys::pidfd_open(second).unwrap();
            container.kill("KILL").success();
            assert_eq!(container.wait(), 137);
            assert!(
                integration::runtime::readable(&second),
                "the second process outlived kill"
            );
        },
    );
}

#[test]
fn delete_by_force_of_a_container_without_a_pid_namespace_kills_all_its_processes() {
    require!(containers);
    peer::beyond(
        &[peer::runc_before("1.2", "kills the first process only")],
        || {
            let mut bundle = Bundle::new();
            bundle.config.no_namespace("pid");
            let mut container = bundle.pause();
            let pid_file = bundle.scratch.path().join("second.pid");
            container
                .exec(
                    &["--detach", "--pid-file", pid_file.to_str().unwrap()],
                    &["/bin/probe", "pause"],
                )
                .success();
            let second: i32 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
            container.delete_by_force().success();
            assert!(!alive(second));
        },
    );
}

#[test]
fn run_keeps_the_container_if_asked() {
    require!(containers);
    peer::beyond(&[peer::crun_before("1.9", "knows no --keep")], || {
        let mut bundle = Bundle::new();
        bundle.config.probe(&["exit", "3"]);
        bundle.save();
        let (id, path) = (unique("keep"), bundle.path());
        let finished =
            bundle
                .runtime
                .call(&["run", "--keep", "--bundle", path.to_str().unwrap(), &id]);
        assert_eq!(finished.code(), 3);
        let state = bundle.runtime.call(&["state", &id]).success().json();
        assert_eq!(state["status"], "stopped");
        bundle.runtime.call(&["delete", &id]).success();
        host::assert_no_trace(&id, &bundle.runtime.root);
    });
}

#[test]
fn run_detached_returns_while_the_container_runs() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.probe(&["pause", "9"]);
    bundle.save();
    let id = unique("detached");
    let mut container = Container::run_detached(&bundle.runtime, &bundle.path(), &[], &id).unwrap();
    assert_eq!(container.stdout.line(), "ready");
    assert_eq!(container.status(), "running");
    container.kill("TERM").success();
    assert_eq!(container.wait(), 9);
}

#[test]
fn the_pid_file_holds_the_pid_and_nothing_else() {
    require!(containers);
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    // Container::create has parsed it strictly; here it is the right process.
    let pid = container.state()["pid"].as_i64().unwrap();
    assert_eq!(pid, i64::from(container.pid));
    let left: Vec<_> = fs::read_dir(bundle.scratch.path())
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert!(
        left.iter()
            .all(|name| !name.to_string_lossy().starts_with('.')),
        "temporary files remain: {left:?}"
    );
}

#[test]
fn a_relative_pid_file_is_relative_to_where_the_command_was_given() {
    require!(containers);
    peer::beyond(
        &[peer::crun(
            "takes a relative --pid-file as relative to the bundle",
        )],
        || {
            let mut bundle = Bundle::new();
            bundle.config.probe(&["exit", "0"]);
            bundle.save();
            let (id, path) = (unique("relative"), bundle.path());
            let mut command = bundle.runtime.command(&[
                "run",
                "--pid-file",
                "here.pid",
                "--bundle",
                path.to_str().unwrap(),
                &id,
            ]);
            command.current_dir(bundle.scratch.path());
            integration::runtime::finish(command).success();
            let pid = fs::read_to_string(bundle.scratch.path().join("here.pid")).unwrap();
            assert!(pid.parse::<i32>().is_ok(), "{pid:?}");
        },
    );
}

#[test]
fn the_bundle_is_the_working_directory_if_none_is_named() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.probe(&["exit", "6"]);
    bundle.save();
    let id = unique("cwd");
    let mut command = bundle.runtime.command(&["run", &id]);
    command.current_dir(bundle.path());
    assert_eq!(integration::runtime::finish(command).code(), 6);
}

#[test]
fn list_shows_each_container_with_its_status() {
    require!(containers);
    let mut bundle = Bundle::new();
    let running = bundle.pause();
    let created = bundle.create();
    let list = bundle
        .runtime
        .call(&["list", "--format", "json"])
        .success()
        .json();
    let find = |id: &str| {
        list.as_array()
            .unwrap()
            .iter()
            .find(|entry| entry["id"] == id)
            .unwrap()
            .clone()
    };
    assert_eq!(list.as_array().unwrap().len(), 2);
    for (container, status) in [(&running, "running"), (&created, "created")] {
        let entry = find(&container.id);
        assert_eq!(entry["status"], status);
        assert_eq!(entry["pid"], container.pid);
        assert_eq!(entry["bundle"], bundle.path().to_str().unwrap());
        assert_eq!(entry["owner"], "root");
    }
    let quiet = bundle.runtime.call(&["list", "--quiet"]).success().stdout;
    let mut ids: Vec<&str> = quiet.lines().collect();
    let mut expected = [running.id.as_str(), created.id.as_str()];
    ids.sort_unstable();
    expected.sort_unstable();
    assert_eq!(ids, expected);
}

#[test]
fn list_prints_runcs_table() {
    require!(containers);
    peer::beyond(&[peer::crun("prints another header")], || {
        let mut bundle = Bundle::new();
        let container = bundle.pause();
        let table = bundle.runtime.call(&["list"]).success().stdout;
        let mut lines = table.lines();
        let words: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
        assert_eq!(words, ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
        let row: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
        assert_eq!(
            row[..3],
            [&container.id, &container.pid.to_string(), "running"]
        );
        assert_eq!((row[3], row[5]), (bundle.path().to_str().unwrap(), "root"));
    });
}

#[test]
fn a_list_of_nothing_is_a_header_and_null() {
    require!(containers);
    peer::beyond(
        &[peer::crun(
            "prints an empty list, and fails without a state directory",
        )],
        || {
            let bundle = Bundle::new();
            assert_eq!(
                bundle
                    .runtime
                    .call(&["list"])
                    .success()
                    .stdout
                    .lines()
                    .count(),
                1
            );
            assert_eq!(
                bundle
                    .runtime
                    .call(&["list", "-f", "json"])
                    .success()
                    .stdout
                    .trim(),
                "null"
            );
            assert_eq!(bundle.runtime.call(&["list", "-q"]).success().stdout, "");
        },
    );
}

#[test]
fn of_two_creates_of_one_id_at_once_one_wins() {
    require!(containers);
    let bundle = Bundle::new();
    bundle.save();
    let (id, path) = (unique("race"), bundle.path());
    let pid_file = |n: usize| bundle.scratch.path().join(format!("race{n}"));
    let commands: Vec<_> = (0..4)
        .map(|n| {
            let (pid, path) = (pid_file(n), path.to_str().unwrap());
            bundle.runtime.start(&[
                "create",
                "--pid-file",
                pid.to_str().unwrap(),
                "--bundle",
                path,
                &id,
            ])
        })
        .collect();
    // The winner's container holds the output open: only the commands' ends are waited for.
    let outcomes: Vec<bool> = commands
        .into_iter()
        .map(|command| command.wait_for_exit().success())
        .collect();
    assert_eq!(
        outcomes.iter().filter(|won| **won).count(),
        1,
        "{outcomes:?}"
    );
    let state = bundle.runtime.call(&["state", &id]).success().json();
    assert_eq!(state["status"], "created");
    bundle.runtime.call(&["delete", "--force", &id]).success();
    host::assert_no_trace(&id, &bundle.runtime.root);
}

#[test]
fn of_two_starts_at_once_one_wins() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.probe(&["pause"]);
    let mut container = bundle.create();
    let starts: Vec<_> = (0..4)
        .map(|_| bundle.runtime.start(&["start", &container.id]))
        .collect();
    let won = starts
        .into_iter()
        .map(|start| start.wait())
        .filter(|end| end.status.success())
        .count();
    assert_eq!(won, 1);
    assert_eq!(container.stdout.line(), "ready");
}

#[test]
fn deletes_at_once_all_leave_nothing() {
    require!(containers);
    peer::beyond(
        &[peer::crun(
            "takes no lock: one `delete --force` fails when another has just removed the state",
        )],
        || {
            let mut bundle = Bundle::new();
            let mut container = bundle.pause();
            let deletes: Vec<_> = (0..4)
                .map(|_| bundle.runtime.start(&["delete", "--force", &container.id]))
                .collect();
            for delete in deletes {
                delete.wait().success();
            }
            assert_eq!(container.wait(), 137);
            host::assert_no_trace(&container.id, &bundle.runtime.root);
        },
    );
}

#[test]
fn different_containers_are_created_and_deleted_side_by_side() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.probe(&["exit", "4"]);
    bundle.save();
    let path = bundle.path();
    let ids: Vec<String> = (0..8).map(|_| unique("many")).collect();
    let runs: Vec<_> = ids
        .iter()
        .map(|id| {
            bundle
                .runtime
                .start(&["run", "--bundle", path.to_str().unwrap(), id])
        })
        .collect();
    for run in runs {
        assert_eq!(run.wait().code(), 4);
    }
    for id in ids {
        host::assert_no_trace(&id, &bundle.runtime.root);
    }
}

#[test]
fn the_state_directory_is_made_for_its_owner_only() {
    require!(containers);
    peer::beyond(
        &[peer::crun(
            "makes --root with mode 0700 but leaves the container's directory to the umask",
        )],
        || {
            let bundle = Bundle::new();
            let container = bundle.create();
            let mode = |path: &std::path::Path| {
                std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions())
                    & 0o777
            };
            assert_eq!(mode(&bundle.runtime.root), 0o700);
            assert_eq!(mode(&bundle.runtime.root.join(&container.id)), 0o711);
        },
    );
}

#[test]
fn the_version_is_printed_the_way_engines_parse_it() {
    let runtime = integration::Runtime::new("/nonexistent".as_ref());
    for flag in ["--version", "-v"] {
        let text = runtime.call(&[flag]).success().stdout;
        let first: Vec<&str> = text.lines().next().unwrap().split(' ').collect();
        assert_eq!(first[1], "version", "{text}");
        assert!(
            text.lines().any(|line| line.starts_with("commit: ")),
            "{text}"
        );
        assert!(
            text.lines().any(|line| line.starts_with("spec: 1.")),
            "{text}"
        );
        let named = text.lines().filter(|line| line.contains("version")).count();
        assert_eq!(
            named, 1,
            "Docker takes the last line with this word: {text}"
        );
    }
}
