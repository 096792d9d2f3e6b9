//! SCMP_ACT_NOTIFY: who is told what, which calls reach the agent, and what happens without one.

use integration::agent::{Agent, Answer};
use integration::{Bundle, beyond, require};
use serde_json::{Value, json};

/// What every process calls on its way to its program and at its end.
const OWN_CALLS: [&str; 16] = [
    "read",
    "write",
    "close",
    "openat",
    "openat2",
    "fcntl",
    "execve",
    "sendmsg",
    "recvmsg",
    "dup3",
    "prctl",
    "capset",
    "setresuid",
    "setresgid",
    "setgroups",
    "exit_group",
];

#[test]
fn the_agent_is_told_of_the_container_and_answers_for_it() {
    require!(containers);
    beyond!(
        the_agent_is_told_of_the_container_and_answers_for_it,
        [crun("does not say what the state is, or of which version")]
    );
    let mut bundle = Bundle::new();
    let agent = agent(&bundle, &[("mkdir", Answer::Errno(libc::ENOMEDIUM))]);
    notify(&mut bundle, &agent, &["mkdir"]);
    bundle
        .config
        .set("/linux/seccomp/listenerMetadata", "of this test")
        .set("/annotations", json!({ "org.example.key": "value" }))
        .probe(&["try", "mkdir:/tmp/x"]);
    let mut container = bundle.create();
    assert_eq!(agent.served().calls, []);
    container.start().success();
    assert_eq!(container.stdout.line(), r#"{"mkdir:/tmp/x":"ENOMEDIUM"}"#);
    container.wait();
    let served = agent.end();
    assert_eq!(served.count("mkdir"), 1);
    assert_eq!(served.calls[0].1, container.pid as u32);
    let [told] = &served.states[..] else {
        panic!("told {} times", served.states.len());
    };
    assert_eq!(told["fds"], json!(["seccompFd"]));
    assert_eq!(told["pid"], container.pid);
    assert_eq!(told["metadata"], "of this test");
    assert!(told["ociVersion"].as_str().unwrap().starts_with("1."));
    let state = &told["state"];
    assert_eq!(state["id"], container.id.as_str());
    assert_eq!(state["pid"], container.pid);
    assert_eq!(state["status"], "creating");
    assert_eq!(state["bundle"], bundle.path().to_str().unwrap());
    assert_eq!(state["annotations"]["org.example.key"], "value");
}

#[test]
fn every_call_of_a_process_may_notify() {
    require!(containers);
    beyond!(
        every_call_of_a_process_may_notify,
        [runc("refuses write, and its own calls hang")]
    );
    for no_new_privileges in [true, false] {
        let mut bundle = Bundle::new();
        let agent = agent(&bundle, &[]);
        notify(&mut bundle, &agent, &OWN_CALLS);
        bundle
            .config
            .set("/process/noNewPrivileges", no_new_privileges)
            .probe(&["echo", "hello"]);
        let finished = bundle.run().success();
        assert_eq!(finished.stdout, "hello\n");
        let mut container = bundle.create();
        container.start().success();
        assert_eq!(container.stdout.line(), "hello");
        assert_eq!(container.wait(), 0);
        let served = agent.end();
        assert_eq!(served.states.len(), 2);
        assert_eq!(
            served.count("execve"),
            2,
            "no_new_privs {no_new_privileges}"
        );
        assert!(served.count("write") >= 2);
        assert_eq!(served.count("exit_group"), 2);
        let privileged = if no_new_privileges { 0 } else { 2 };
        assert_eq!(
            served.count("capset"),
            privileged,
            "before or after the filter"
        );
    }
}

#[test]
fn all_calls_may_notify_by_default() {
    require!(containers);
    beyond!(all_calls_may_notify_by_default, [runc("refuses it")]);
    let mut bundle = Bundle::new();
    let agent = agent(&bundle, &[]);
    bundle.config.set(
        "/linux/seccomp",
        json!({ "defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": agent.path }),
    );
    bundle.config.probe(&["echo", "hello"]);
    assert_eq!(bundle.run().success().stdout, "hello\n");
    assert!(agent.end().calls.len() > 10);
}

#[test]
fn a_process_of_exec_has_a_listener_of_its_own() {
    require!(containers);
    beyond!(
        a_process_of_exec_has_a_listener_of_its_own,
        [
            runc("refuses write, and its own calls hang"),
            crun("tells nobody of processes of exec")
        ]
    );
    for no_new_privileges in [true, false] {
        let mut bundle = Bundle::new();
        let agent = agent(&bundle, &[("mkdir", Answer::Errno(libc::ENOMEDIUM))]);
        notify(&mut bundle, &agent, &["mkdir", "execve", "write", "close"]);
        bundle
            .config
            .set("/process/noNewPrivileges", no_new_privileges)
            .set("/linux/seccomp/listenerMetadata", "of this test");
        let container = bundle.pause();
        let finished = container
            .exec(&[], &["/bin/probe", "try", "mkdir:/tmp/x"])
            .success();
        assert_eq!(finished.json(), json!({ "mkdir:/tmp/x": "ENOMEDIUM" }));
        let process = container.exec_detached(&[], &["/bin/probe", "pause", "7"]);
        let served = agent.served();
        let [_, first, second] = &served.states[..] else {
            panic!("told {} times", served.states.len());
        };
        for told in [first, second] {
            assert_eq!(told["metadata"], "of this test");
            assert_eq!(told["state"]["pid"], container.pid);
            assert_eq!(told["state"]["status"], "running");
            assert_ne!(told["pid"], container.pid);
        }
        assert_eq!(second["pid"], process.pid);
        assert_eq!(served.count("execve"), 3);
    }
}

#[test]
fn the_agent_is_told_the_status_that_the_container_has() {
    require!(containers);
    beyond!(
        the_agent_is_told_the_status_that_the_container_has,
        [
            runc("says running"),
            crun("tells nobody of processes of exec")
        ]
    );
    let mut bundle = Bundle::new();
    let agent = agent(&bundle, &[]);
    notify(&mut bundle, &agent, &["execve"]);
    bundle.config.probe(&["pause"]);
    let container = bundle.create();
    container.exec_detached(&[], &["/bin/probe", "pause", "7"]);
    container.start().success();
    container.exec_detached(&[], &["/bin/probe", "pause", "7"]);
    let served = agent.served();
    let statuses = served.states.iter().map(|told| &told["state"]["status"]);
    let statuses: Vec<_> = statuses.map(|status| status.as_str().unwrap()).collect();
    assert_eq!(statuses, ["creating", "created", "running"]);
}

#[test]
fn a_user_namespace_makes_no_difference() {
    require!(containers, userns);
    let mut bundle = Bundle::new();
    let agent = agent(&bundle, &[("mkdir", Answer::Errno(libc::ENOMEDIUM))]);
    notify(&mut bundle, &agent, &["mkdir"]);
    bundle
        .config
        .user_namespace(100_000, 65_536)
        .probe(&["try", "mkdir:/tmp/x"]);
    integration::place::give(&bundle.rootfs(), 100_000, 100_000);
    let finished = bundle.run().success();
    assert_eq!(finished.json(), json!({ "mkdir:/tmp/x": "ENOMEDIUM" }));
}

#[test]
fn no_process_of_the_container_holds_the_listener() {
    require!(containers);
    beyond!(
        no_process_of_the_container_holds_the_listener,
        [crun("its init holds it until it starts the program")]
    );
    let mut bundle = Bundle::new();
    let agent = agent(&bundle, &[]);
    notify(&mut bundle, &agent, &["mkdir"]);
    let container = bundle.create();
    let of_init = |container: &integration::Container| {
        std::fs::read_dir(format!("/proc/{}/fd", container.pid))
            .unwrap()
            .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
            .any(|link| link.to_string_lossy().contains("seccomp"))
    };
    assert!(!of_init(&container), "the parked init still holds it");
    let seen = bundle.report(&[]);
    assert!(!seen.fds.values().any(|what| what.contains("seccomp")));
}

#[test]
fn an_agent_that_is_not_there_is_told_in_runcs_words() {
    require!(containers);
    beyond!(
        an_agent_that_is_not_there_is_told_in_runcs_words,
        [crun("has other words")]
    );
    let mut bundle = Bundle::new();
    let agent = agent(&bundle, &[]);
    notify(&mut bundle, &agent, &["mkdir"]);
    std::fs::remove_file(&agent.path).unwrap();
    bundle
        .create_fails()
        .failure()
        .says("failed to connect with seccomp agent")
        .says("no such file or directory");
}

#[test]
fn a_call_fails_when_the_agent_is_gone() {
    require!(containers);
    if integration::peer::is("crun") {
        // It holds the listener itself, so the call waits for ever, and no deadline of this test ends its commands.
        return;
    }
    let mut bundle = Bundle::new();
    let agent = agent(&bundle, &[]);
    notify(&mut bundle, &agent, &["mkdir"]);
    bundle.config.probe(&["try", "mkdir:/tmp/x"]);
    let mut container = bundle.create();
    drop(agent);
    container.start().success();
    assert_eq!(container.stdout.line(), r#"{"mkdir:/tmp/x":"ENOSYS"}"#);
    container.wait();
}

#[test]
fn an_agent_that_dies_over_a_call_of_the_runtime_is_an_error() {
    require!(containers);
    beyond!(
        an_agent_that_dies_over_a_call_of_the_runtime_is_an_error,
        [
            runc("refuses write, and its own calls hang"),
            crun("its own calls hang")
        ]
    );
    for (call, text) in [
        ("write", "during its set-up"),
        ("execve", "exec /bin/probe: function not implemented"),
        ("capset", "set the capabilities: function not implemented"),
    ] {
        let mut bundle = Bundle::new();
        let agent = agent(&bundle, &[(call, Answer::Die)]);
        notify(&mut bundle, &agent, &[call]);
        bundle
            .config
            .set("/process/noNewPrivileges", false)
            .probe(&["echo", "hello"]);
        bundle.run().failure().says(text);
        drop(agent);
    }
}

#[test]
fn without_an_agent_create_fails_and_names_the_socket() {
    require!(containers);
    let mut bundle = Bundle::new();
    let path = bundle.scratch.path().join("agent.sock");
    bundle
        .config
        .set("/linux/seccomp", profile(json!(path), &["mkdir"]));
    let finished = bundle.create_fails().failure();
    finished.says(path.to_str().unwrap()).says("no such file");
}

#[test]
fn without_a_listener_path_notify_is_refused() {
    require!(containers);
    beyond!(
        without_a_listener_path_notify_is_refused,
        [crun("runs the container without a listener")]
    );
    let mut bundle = Bundle::new();
    for path in [Value::Null, json!("")] {
        bundle
            .config
            .set("/linux/seccomp", profile(path, &["mkdir"]));
        let finished = bundle.create_fails().failure();
        finished.says("listenerPath is not set");
    }
}

#[test]
fn a_listener_path_without_notify_is_not_looked_at() {
    require!(containers);
    beyond!(
        a_listener_path_without_notify_is_not_looked_at,
        [crun("connects all the same")]
    );
    let mut bundle = Bundle::new();
    bundle
        .config
        .set("/linux/seccomp", profile(json!("/no/such/socket"), &[]))
        .probe(&["exit", "0"]);
    bundle.run().success();
}

#[test]
fn the_receiver_of_cruns_annotation_is_an_agent() {
    require!(containers);
    beyond!(
        the_receiver_of_cruns_annotation_is_an_agent,
        [runc("does not know it")]
    );
    let mut bundle = Bundle::new();
    let agent = agent(&bundle, &[("mkdir", Answer::Errno(libc::ENOMEDIUM))]);
    bundle
        .config
        .set("/linux/seccomp", profile(Value::Null, &["mkdir"]))
        .set(
            "/annotations",
            json!({ "run.oci.seccomp.receiver": agent.path }),
        )
        .probe(&["try", "mkdir:/tmp/x"]);
    let finished = bundle.run().success();
    assert_eq!(finished.json(), json!({ "mkdir:/tmp/x": "ENOMEDIUM" }));
}

#[test]
fn waiting_killably_is_a_flag_of_the_filter() {
    require!(containers);
    beyond!(
        waiting_killably_is_a_flag_of_the_filter,
        [runc("does not know the flag")]
    );
    let mut bundle = Bundle::new();
    let agent = agent(&bundle, &[("mkdir", Answer::Errno(libc::ENOMEDIUM))]);
    notify(&mut bundle, &agent, &["mkdir"]);
    bundle
        .config
        .push(
            "/linux/seccomp/flags",
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
        )
        .probe(&["try", "mkdir:/tmp/x"]);
    let finished = bundle.run().success();
    assert_eq!(finished.json(), json!({ "mkdir:/tmp/x": "ENOMEDIUM" }));
}

#[track_caller]
fn agent(bundle: &Bundle, answers: &[(&str, Answer)]) -> Agent {
    Agent::serve(&bundle.scratch.path().join("agent.sock"), answers)
}

/// Lets everything happen but these calls, which notify the agent.
fn notify(bundle: &mut Bundle, agent: &Agent, calls: &[&str]) {
    bundle
        .config
        .set("/linux/seccomp", profile(json!(agent.path), calls));
}

fn profile(listener: Value, calls: &[&str]) -> Value {
    let mut profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [] });
    if !calls.is_empty() {
        profile["syscalls"] = json!([{ "names": calls, "action": "SCMP_ACT_NOTIFY" }]);
    }
    if !listener.is_null() {
        profile["listenerPath"] = listener;
    }
    profile
}
