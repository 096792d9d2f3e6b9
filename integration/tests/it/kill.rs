//! `kill`: which signal reaches whom.

use integration::host::alive;
use integration::{Bundle, beyond, require};

#[test]
fn kill_takes_names_with_and_without_sig_in_any_case_and_numbers() {
    require!(containers);
    beyond!(
        kill_takes_names_with_and_without_sig_in_any_case_and_numbers,
        [crun("does not know lower-case signal names")]
    );
    let mut bundle = Bundle::new();
    let mut container = bundle.pause();
    for (name, number) in [
        ("USR1", 10),
        ("SIGUSR2", 12),
        ("usr1", 10),
        ("sigusr2", 12),
        ("1", 1),
        ("+10", 10),
        ("34", 34),
    ] {
        container.kill(name).success();
        if number < 32 {
            assert_eq!(container.stdout.line(), format!("signal {number}"));
        }
    }
}

#[test]
fn real_time_signals_have_names() {
    require!(containers);
    beyond!(real_time_signals_have_names, [runc("knows none of them")]);
    let mut bundle = Bundle::new();
    // Process 1 of a pid namespace would not be ended by them.
    bundle
        .config
        .no_namespace("pid")
        .probe(&["linger", "60000"]);
    for (name, number) in [("SIGRTMIN+3", 37), ("RTMAX-1", 63)] {
        let mut container = bundle.create();
        container.start().success();
        container.kill(name).success();
        assert_eq!(container.wait(), 128 + number, "{name}");
    }
}

#[test]
fn a_regular_expression_stands_for_the_containers_whose_ids_it_matches() {
    require!(containers);
    beyond!(
        a_regular_expression_stands_for_the_containers_whose_ids_it_matches,
        [runc("has no such flag")]
    );
    let mut bundle = Bundle::new();
    bundle.config.probe(&["pause", "5"]);
    let runtime = bundle.runtime.clone();
    let mut containers = [(); 3].map(|()| bundle.create());
    let [first, second, other] = &mut containers;
    for container in [&mut *first, &mut *second, &mut *other] {
        container.start().success();
        container.stdout.line();
    }
    let ends = format!("({}|{})$", &first.id[3..], &second.id[3..]);
    runtime.call(&["kill", "--regex", &ends]).success();
    assert_eq!((first.wait(), second.wait()), (5, 5));
    assert_eq!(other.state()["status"], "running");
    runtime.call(&["delete", "-r", "^no-such-"]).success();
    // The one that runs is told, and keeps nothing.
    let all = format!("^({}|{}|{})$", other.id, first.id, second.id);
    runtime
        .call(&["delete", "-r", &all])
        .success()
        .says(&other.id);
    for gone in [&first.id, &second.id] {
        runtime.call(&["state", gone]).failure();
    }
    runtime.call(&["delete", "--force", "-r", &all]).success();
    runtime.call(&["state", &other.id]).failure();
}

#[test]
fn what_is_no_regular_expression_is_refused() {
    require!(containers);
    beyond!(
        what_is_no_regular_expression_is_refused,
        [runc("has no such flag"), crun("succeeds")]
    );
    let bundle = Bundle::new();
    for verb in ["kill", "delete"] {
        bundle
            .runtime
            .call(&[verb, "--regex", "("])
            .failure()
            .says("\"(\"");
    }
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
fn term_ends_a_container_that_was_not_started() {
    require!(containers);
    beyond!(
        term_ends_a_container_that_was_not_started,
        [crun(
            "its init is spared, as the first process of its namespace"
        )]
    );
    let bundle = Bundle::new();
    let mut container = bundle.create();
    container.call("kill", &[]).success();
    container.wait();
    assert_eq!(container.status(), "stopped");
    container.start().failure();
    container.call("delete", &[]).success();
}

#[test]
fn kill_refuses_an_unknown_signal() {
    require!(containers);
    beyond!(
        kill_refuses_an_unknown_signal,
        [crun_before(
            "1.9",
            "takes an unknown name as signal 0 and succeeds"
        )]
    );
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    container.kill("NOSUCH").failure().says("signal");
    assert_eq!(container.status(), "running");
}

#[test]
fn kill_of_a_stopped_container_says_that_it_is_not_running() {
    require!(containers);
    beyond!(
        kill_of_a_stopped_container_says_that_it_is_not_running,
        [
            crun_before(
                "1.9",
                "says `No such process` in words that are not the expected ones"
            ),
            crun_from("1.22", "says so in words that engines do not know")
        ]
    );
    let mut bundle = Bundle::new();
    let mut container = bundle.pause();
    container.kill("KILL").success();
    container.wait();
    container
        .kill("TERM")
        .failure()
        .says("container not running");
    container.call("kill", &["0"]).failure();
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
fn what_asks_a_created_container_to_end_is_obeyed_from_the_moment_that_there_is_one() {
    require!(containers);
    beyond!(
        what_asks_a_created_container_to_end_is_obeyed_from_the_moment_that_there_is_one,
        [crun("spares the first process of a pid namespace")]
    );
    let bundle = Bundle::new();
    // It was not, for a moment after create.
    for signal in ["TERM", "INT", "QUIT", "HUP"].repeat(5) {
        let mut container = bundle.create();
        container.kill(signal).success();
        container.wait();
        assert_eq!(container.status(), "stopped", "{signal}");
    }
}

#[test]
fn what_outlives_the_init_of_a_container_without_a_pid_namespace_can_be_killed() {
    require!(containers);
    beyond!(
        what_outlives_the_init_of_a_container_without_a_pid_namespace_can_be_killed,
        [
            runc_before("1.2", "`kill KILL` needs --all for that"),
            crun("`kill KILL` needs --all for that")
        ]
    );
    let mut bundle = Bundle::new();
    bundle.config.no_namespace("pid");
    let mut container = bundle.pause();
    let second = container.exec_detached(&[], &["/bin/probe", "pause"]);
    let init = nix::unistd::Pid::from_raw(container.pid);
    nix::sys::signal::kill(init, nix::sys::signal::Signal::SIGKILL).unwrap();
    assert_eq!(container.wait(), 137);
    assert_eq!(container.status(), "stopped");
    assert!(alive(second.pid));
    container.kill("KILL").success();
    assert_eq!(second.wait(), 137);
}

#[test]
fn killing_a_container_without_a_pid_namespace_kills_all_its_processes() {
    require!(containers);
    beyond!(
        killing_a_container_without_a_pid_namespace_kills_all_its_processes,
        [
            runc_before("1.2", "`kill KILL` needs --all for that"),
            crun("`kill KILL` needs --all for that")
        ]
    );
    let mut other = Bundle::new();
    let pod = other.pause();
    for join in [false, true] {
        let mut bundle = Bundle::new();
        match join {
            false => bundle.config.no_namespace("pid"),
            // As the containers of a pod do.
            true => bundle
                .config
                .join_namespace("pid", &format!("/proc/{}/ns/pid", pod.pid)),
        };
        let mut container = bundle.pause();
        let second = container.exec_detached(&[], &["/bin/probe", "pause"]);
        assert!(alive(second.pid));
        container.kill("KILL").success();
        assert_eq!(container.wait(), 137);
        assert_eq!(second.wait(), 137);
    }
}
