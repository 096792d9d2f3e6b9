//! `hooks`: which run when, where, with what, and what their failure does.

use integration::place::{probe, unique};
use integration::{Bundle, Container, Seen, beyond, host, require};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// In the order of a container's life.
const KINDS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

/// What a hook noted.
struct Note {
    label: String,
    state: Value,
    seen: Seen,
}

#[test]
fn hooks_run_in_order_each_at_its_time() {
    require!(containers);
    beyond!(
        hooks_run_in_order_each_at_its_time,
        [
            runc("runs poststart hooks at create"),
            crun_race("does not wait for startContainer hooks before it runs poststart hooks")
        ]
    );
    let mut bundle = with_notes();
    for kind in KINDS {
        hook(&mut bundle, kind, &[]);
    }
    let labels = |bundle: &Bundle| {
        notes(bundle)
            .into_iter()
            .map(|note| note.label)
            .collect::<Vec<_>>()
    };
    bundle.config.probe(&["pause"]);
    let mut container = bundle.create();
    assert_eq!(labels(&bundle), KINDS[..3]);
    container.start().success();
    container.stdout.line();
    assert_eq!(labels(&bundle), KINDS[..5]);
    container.kill("KILL").success();
    container.wait();
    assert_eq!(labels(&bundle), KINDS[..5]);
    container.delete().success();
    assert_eq!(labels(&bundle), KINDS);
}

#[test]
fn hooks_of_one_kind_run_in_the_order_given() {
    require!(containers);
    let mut bundle = with_notes();
    for label in ["first", "second", "third"] {
        labelled(&mut bundle, "createRuntime", label, &[]);
    }
    bundle.create();
    let labels: Vec<String> = notes(&bundle).into_iter().map(|note| note.label).collect();
    assert_eq!(labels, ["first", "second", "third"]);
}

#[test]
fn hooks_get_the_state_on_standard_input() {
    require!(containers);
    beyond!(
        hooks_get_the_state_on_standard_input,
        [
            crun_before("1.21", "says that the bundle is / to startContainer hooks"),
            crun_from("1.28", "says that the bundle is / to startContainer hooks")
        ]
    );
    let mut bundle = with_notes();
    bundle
        .config
        .set("/annotations", json!({ "org.example.key": "value" }));
    for kind in KINDS {
        hook(&mut bundle, kind, &[]);
    }
    bundle.config.probe(&["pause"]);
    let mut container = bundle.create();
    container.start().success();
    container.kill("KILL").success();
    container.wait();
    container.delete().success();
    for note in notes(&bundle) {
        let Note { label, state, .. } = note;
        assert_eq!(state["id"], container.id.as_str(), "{label}");
        assert_eq!(state["bundle"], bundle.path().to_str().unwrap(), "{label}");
        assert_eq!(state["annotations"]["org.example.key"], "value", "{label}");
        assert!(
            state["ociVersion"].as_str().unwrap().starts_with("1."),
            "{label}: {state}"
        );
        if ["prestart", "createRuntime", "poststart"].contains(&label.as_str()) {
            assert_eq!(state["pid"], container.pid, "{label}");
        }
    }
}

#[test]
fn a_poststop_hook_that_hangs_keeps_nothing_of_the_container() {
    require!(containers);
    beyond!(
        a_poststop_hook_that_hangs_keeps_nothing_of_the_container,
        [
            runc_race("fails while another command removes the container"),
            crun("keeps the state until its hooks have run")
        ]
    );
    let mut bundle = Bundle::new();
    let announced = hanging(&mut bundle, "poststop");
    let container = bundle.create();
    for _ in 0..2 {
        let delete = bundle.runtime.start(&["delete", "--force", &container.id]);
        let hook = announced.pid();
        assert_ne!(container.call("state", &[]).code(), 0);
        // Nobody would run it again: it goes on without the command.
        delete.signal(Signal::SIGKILL);
        delete.wait_for_exit();
        assert!(host::alive(hook));
        bundle
            .runtime
            .call(&["delete", "--force", &container.id])
            .success();
        bundle.call("create", &[], &container.id).success();
        kill(Pid::from_raw(hook), Signal::SIGKILL).unwrap();
    }
    let delete = bundle.runtime.start(&["delete", "--force", &container.id]);
    kill(Pid::from_raw(announced.pid()), Signal::SIGKILL).unwrap();
    delete.wait().success();
}

#[test]
fn hooks_of_the_creation_end_with_the_command() {
    require!(containers);
    beyond!(
        hooks_of_the_creation_end_with_the_command,
        [runc("lets them go on"), crun("lets them go on")]
    );
    let mut bundle = Bundle::new();
    let announced = hanging(&mut bundle, "createRuntime");
    bundle.save();
    let id = unique("killed");
    let create = bundle.start("create", &[], &id);
    let hook = Kept(announced.pid());
    create.signal(Signal::SIGKILL);
    create.wait_for_exit();
    let ended = host::await_end(hook.0);
    bundle.runtime.call(&["delete", "--force", &id]).success();
    assert!(ended);
}

#[test]
fn a_hook_of_the_creation_ends_with_the_containers_process() {
    require!(containers);
    // Others wait for the hook, and so would we.
    if !integration::peer::is("caisson") {
        return;
    }
    let mut bundle = Bundle::new();
    let announced = hanging(&mut bundle, "createRuntime");
    bundle.save();
    let id = unique("killed");
    let create = bundle.start("create", &[], &id);
    let hook = announced.pid();
    bundle.runtime.call(&["kill", &id, "KILL"]).success();
    create
        .wait()
        .failure()
        .says("error running createRuntime hook #0: the container's process has ended");
    assert!(!host::alive(hook));
    bundle.assert_gone(&id);
}

#[test]
fn poststop_hooks_are_told_no_pid() {
    require!(containers);
    beyond!(poststop_hooks_are_told_no_pid, [crun("says that it is 0")]);
    let mut bundle = with_notes();
    hook(&mut bundle, "poststop", &[]);
    bundle.config.probe(&["exit", "0"]);
    bundle.run().success();
    let [note] = &notes(&bundle)[..] else {
        panic!("the hook ran not once");
    };
    assert_eq!(note.state.get("pid"), None, "{}", note.state);
}

#[test]
fn the_state_that_hooks_get_has_the_status_of_the_moment() {
    require!(containers);
    beyond!(
        the_state_that_hooks_get_has_the_status_of_the_moment,
        [
            runc("runs poststart hooks at create"),
            crun("says created where the specification says creating")
        ]
    );
    let mut bundle = with_notes();
    for kind in KINDS {
        hook(&mut bundle, kind, &[]);
    }
    bundle.config.probe(&["exit", "0"]);
    let mut container = bundle.create();
    container.start().success();
    container.wait();
    container.delete().success();
    let statuses: Vec<String> = notes(&bundle)
        .iter()
        .map(|note| format!("{} {}", note.label, note.state["status"].as_str().unwrap()))
        .collect();
    assert_eq!(
        statuses[..3],
        [
            "prestart creating",
            "createRuntime creating",
            "createContainer creating"
        ]
    );
    assert_eq!(
        (statuses[3].as_str(), statuses[5].as_str()),
        ("startContainer created", "poststop stopped")
    );
    // The process may have ended by the time its poststart hooks run.
    assert!(
        ["poststart running", "poststart stopped"].contains(&statuses[4].as_str()),
        "{}",
        statuses[4]
    );
}

#[test]
fn hooks_run_in_their_namespaces() {
    require!(containers);
    let mut bundle = with_notes();
    for kind in KINDS {
        hook(&mut bundle, kind, &[]);
    }
    bundle.config.probe(&["pause"]);
    let mut container = bundle.create();
    let inside = host::namespace(container.pid, "mnt");
    container.start().success();
    container.delete_by_force().success();
    for note in notes(&bundle) {
        let expected = match note.label.as_str() {
            "createContainer" | "startContainer" => inside.clone(),
            _ => host::namespace("self", "mnt"),
        };
        assert_eq!(note.seen.namespaces["mnt"], expected, "{}", note.label);
    }
}

#[test]
fn hooks_of_the_host_run_in_the_bundle() {
    require!(containers);
    beyond!(
        hooks_of_the_host_run_in_the_bundle,
        [runc("runs poststop hooks where it was called")]
    );
    let mut bundle = with_notes();
    let kinds = ["prestart", "createRuntime", "poststart", "poststop"];
    for kind in kinds {
        hook(&mut bundle, kind, &[]);
    }
    bundle.config.probe(&["pause"]);
    let mut container = bundle.create();
    container.start().success();
    container.delete_by_force().success();
    let place = bundle.path().display().to_string();
    let seen: Vec<_> = notes(&bundle)
        .into_iter()
        .map(|note| (note.label, (*note.seen.cwd).clone()))
        .collect();
    assert_eq!(seen, kinds.map(|kind| (kind.to_owned(), place.clone())));
}

#[test]
fn poststop_hooks_run_even_without_their_bundle() {
    require!(containers);
    beyond!(
        poststop_hooks_run_even_without_their_bundle,
        [
            runc("runs them where it was called"),
            crun("runs none then")
        ]
    );
    let mut bundle = with_notes();
    hook(&mut bundle, "poststop", &[]);
    let mut container = bundle.create();
    fs::remove_file(bundle.path().join("config.json")).unwrap();
    fs::rename(bundle.path(), bundle.scratch.path().join("elsewhere")).unwrap();
    container.delete_by_force().success();
    assert_eq!(*notes(&bundle)[0].seen.cwd, "/");
}

#[test]
fn create_container_hooks_run_before_the_root_changes() {
    require!(containers);
    let mut bundle = with_notes();
    // The note is written to a path of the host, and the program is one of the host.
    hook(&mut bundle, "createContainer", &[]);
    bundle.create();
    let note = notes(&bundle).remove(0);
    let rootfs = bundle.rootfs();
    let mounted = note
        .seen
        .mounts
        .iter()
        .any(|mount| mount.target == rootfs.join("proc").to_str().unwrap());
    assert!(mounted, "the container's mounts are made by then");
}

#[test]
fn hooks_have_the_callers_umask() {
    require!(containers);
    beyond!(
        hooks_have_the_callers_umask,
        [crun_from("1.21", "gives some kinds none")]
    );
    let mut bundle = with_notes();
    let wrapper = ["sh", "-c", "umask 027 && exec \"$@\"", "sh"];
    bundle.runtime.wrapper.splice(0..0, wrapper.map(Into::into));
    let kinds = KINDS.iter().filter(|kind| **kind != "startContainer");
    for kind in kinds.clone() {
        hook(&mut bundle, kind, &[]);
    }
    bundle.config.probe(&["pause"]);
    let mut container = bundle.create();
    container.start().success();
    container.delete_by_force().success();
    let seen = notes(&bundle);
    assert_eq!(seen.len(), kinds.count());
    for note in seen {
        assert_eq!(note.seen.umask, 0o027, "{}", note.label);
    }
}

#[test]
fn hooks_have_their_own_environment_and_arguments() {
    require!(containers);
    beyond!(
        hooks_have_their_own_environment_and_arguments,
        [
            runc("gives its own environment to a hook without one"),
            crun("adds its own environment")
        ]
    );
    let mut bundle = with_notes();
    bundle
        .runtime
        .env
        .push(("LEAK".to_owned(), "from the caller".to_owned()));
    for kind in ["createRuntime", "createContainer", "poststart"] {
        hook(&mut bundle, kind, &["A=1", "B=2=3"]);
        labelled(&mut bundle, kind, "bare", &[]);
    }
    bundle.config.probe(&["pause"]);
    let container = bundle.create();
    container.start().success();
    let all = notes(&bundle);
    assert_eq!(all.len(), 6);
    for note in all {
        let env: Vec<String> = note
            .seen
            .env
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let expected: &[&str] = if note.label == "bare" {
            &[]
        } else {
            &["A=1", "B=2=3"]
        };
        assert_eq!(env, expected, "{}", note.label);
        assert_eq!(note.seen.args[0], "named-by-test", "{}", note.label);
    }
}

#[test]
fn a_failing_hook_fails_create_and_leaves_nothing() {
    require!(containers);
    beyond!(
        a_failing_hook_fails_create_and_leaves_nothing,
        [crun_race(
            "tells of a broken pipe instead if the hook does not read its input"
        )]
    );
    for kind in &KINDS[..3] {
        let mut bundle = with_notes();
        failing(&mut bundle, kind);
        labelled(&mut bundle, kind, "after", &[]);
        let finished = bundle.create_fails().failure();
        finished.says("hook");
        assert!(
            notes(&bundle).is_empty(),
            "{kind}: hooks go on after one that failed"
        );
    }
}

#[test]
fn the_failure_of_a_hook_names_it_and_shows_what_it_wrote() {
    require!(containers);
    beyond!(
        the_failure_of_a_hook_names_it_and_shows_what_it_wrote,
        [
            runc_before("1.2", "does not say of which kind the hook is"),
            crun("says only that a hook failed")
        ]
    );
    for (kind, name) in [
        ("prestart", "prestart"),
        ("createRuntime", "createRuntime"),
        ("createContainer", "createContainer"),
    ] {
        let mut bundle = with_notes();
        failing(&mut bundle, kind);
        let finished = bundle.create_fails().failure();
        finished
            .says(name)
            .says("#0")
            .says("exit status 99")
            .says("no-such-verb");
    }
}

#[test]
fn a_failing_start_container_hook_fails_start() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle
        .config
        .writable()
        .probe(&["write-file", "/tmp/ran", "1"]);
    bundle.config.push(
        "/hooks/startContainer",
        json!({ "path": "/bin/probe", "args": ["probe", "exit", "4"] }),
    );
    let finished = bundle.run();
    assert!(!finished.status.success(), "{finished}");
    assert!(
        !bundle.rootfs().join("tmp/ran").exists(),
        "the process ran though its hook failed"
    );
}

#[test]
fn a_poststart_hook_may_be_a_command_for_its_container() {
    require!(containers);
    beyond!(
        a_poststart_hook_may_be_a_command_for_its_container,
        [runc("runs poststart hooks at create")]
    );
    let mut bundle = Bundle::new();
    poststart_command(&mut bundle, "pause \"$id\"");
    let mut container = bundle.create();
    container.start().success();
    paused_by_a_hook(&mut container);
}

#[test]
fn a_poststart_hook_of_run_may_be_a_command_for_its_container() {
    require!(containers);
    beyond!(
        a_poststart_hook_of_run_may_be_a_command_for_its_container,
        [runc("runs poststart hooks at create")]
    );
    let mut bundle = Bundle::new();
    poststart_command(&mut bundle, "pause \"$id\"");
    bundle.save();
    let container = Container::run_detached(&bundle.runtime, &bundle.path(), &[], &unique("long"));
    paused_by_a_hook(&mut container.unwrap());
    poststart_command(&mut bundle, "delete --force \"$id\"");
    let id = unique("short");
    assert_eq!(bundle.call("run", &[], &id).code(), 137);
    bundle.assert_gone(&id);
}

/// The hook is a command of the runtime for `$id`, its container.
fn poststart_command(bundle: &mut Bundle, command: &str) {
    let runtime = &bundle.runtime;
    let script = format!(
        "id=$(grep -o '\"id\": *\"[^\"]*\"' | cut -d'\"' -f4); exec {} --root {} {command}",
        runtime.binary.display(),
        runtime.root.display()
    );
    let hook = json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 60 }]);
    bundle
        .config
        .set("/hooks/poststart", hook)
        .probe(&["pause"]);
}

#[track_caller]
fn paused_by_a_hook(container: &mut Container) {
    assert_eq!(container.status(), "paused");
    container.call("resume", &[]).success();
    container.delete_by_force().success();
}

#[test]
fn a_failing_poststart_hook_fails_start_and_kills_the_container() {
    require!(containers);
    beyond!(
        a_failing_poststart_hook_fails_start_and_kills_the_container,
        [runc("runs poststart hooks at create"), crun("ignores it")]
    );
    let mut bundle = Bundle::new();
    failing(&mut bundle, "poststart");
    bundle.config.probe(&["pause"]);
    let mut container = bundle.create();
    container.start().failure().says("poststart");
    assert_eq!(container.wait(), 137);
}

#[test]
fn a_failing_poststop_hook_does_not_keep_the_container() {
    require!(containers);
    beyond!(
        a_failing_poststop_hook_does_not_keep_the_container,
        [crun_race("keeps the state")]
    );
    let mut bundle = with_notes();
    failing(&mut bundle, "poststop");
    labelled(&mut bundle, "poststop", "after", &[]);
    bundle.config.probe(&["exit", "0"]);
    let mut container = bundle.create();
    container.start().success();
    container.wait();
    container.delete();
    bundle.assert_gone(&container.id);
}

#[test]
fn all_poststop_hooks_run_even_after_one_failed() {
    require!(containers);
    beyond!(
        all_poststop_hooks_run_even_after_one_failed,
        [runc("stops at the first failure")]
    );
    let mut bundle = with_notes();
    failing(&mut bundle, "poststop");
    labelled(&mut bundle, "poststop", "after", &[]);
    bundle.create().delete_by_force();
    let labels: Vec<String> = notes(&bundle).into_iter().map(|note| note.label).collect();
    assert_eq!(labels, ["after"]);
}

#[test]
fn a_hook_is_killed_after_its_timeout() {
    require!(containers);
    let mut bundle = Bundle::new();
    let pause = json!({ "path": probe(), "args": ["probe", "pause"], "timeout": 1 });
    bundle.config.push("/hooks/createRuntime", pause);
    bundle.create_fails().failure();
}

#[test]
fn a_hook_in_time_is_no_failure() {
    require!(containers);
    let mut bundle = with_notes();
    hook(&mut bundle, "createRuntime", &[]);
    bundle.config.set("/hooks/createRuntime/0/timeout", 60);
    bundle.create();
    assert_eq!(notes(&bundle).len(), 1);
}

#[test]
fn a_hook_that_does_not_exist_fails_create() {
    require!(containers);
    for kind in &KINDS[..3] {
        let mut bundle = Bundle::new();
        bundle.config.push(
            &format!("/hooks/{kind}"),
            json!({ "path": "/no/such/hook" }),
        );
        bundle.create_fails().failure().says("hook");
    }
}

#[test]
fn a_hook_with_a_relative_path_is_refused() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle
        .config
        .push("/hooks/createRuntime", json!({ "path": "bin/true" }));
    bundle.create_fails().failure();
}

#[test]
fn the_failure_is_told_in_the_words_that_engines_know() {
    require!(containers);
    beyond!(
        the_failure_is_told_in_the_words_that_engines_know,
        [
            runc("does not say of which kind the hook is, or names the signal otherwise"),
            crun("says only that a hook failed")
        ]
    );
    for kind in ["createRuntime", "createContainer"] {
        let mut bundle = Bundle::new();
        failing(&mut bundle, kind);
        let text = "probe no-such-verb: no such verb";
        bundle.create_fails().failure().says(&format!(
            "error running {kind} hook #0: exit status 99, stdout: , stderr: {text}"
        ));
        let mut bundle = Bundle::new();
        let echo = json!({ "path": probe(), "args": ["probe", "echo", "hello"] });
        let wrong = json!({ "path": probe(), "args": ["probe", "signal-self", "9"] });
        bundle
            .config
            .set(&format!("/hooks/{kind}"), json!([echo, wrong]));
        bundle.create_fails().failure().says(&format!(
            "error running {kind} hook #1: signal: killed, stdout: , stderr: "
        ));
    }
    let mut bundle = Bundle::new();
    bundle.config.push(
        "/hooks/startContainer",
        json!({ "path": "/bin/probe", "args": ["probe", "no-such-verb"] }),
    );
    let container = bundle.create();
    container
        .start()
        .failure()
        .says("error running startContainer hook #0: exit status 99, stdout: , stderr: probe")
        .says("path: /bin/probe");
}

/// What led to a failure is at the end, and more than a line of it.
#[test]
fn the_end_of_a_hooks_outputs_is_told_and_what_is_missing() {
    require!(containers, busybox);
    beyond!(
        the_end_of_a_hooks_outputs_is_told_and_what_is_missing,
        [
            runc("tells all of it, whatever it takes"),
            crun("says only that a hook failed")
        ]
    );
    let program = integration::place::busybox().unwrap();
    for kind in ["createRuntime", "createContainer"] {
        for (count, first) in [(12, "line 1 of what went wrong"), (4000, "bytes before]")] {
            let mut bundle = Bundle::new();
            let script = format!("seq {count} | sed 's/.*/line & of what went wrong/' >&2; exit 1");
            let hook = json!({ "path": program, "args": ["busybox", "sh", "-c", script] });
            bundle.config.push(&format!("/hooks/{kind}"), hook);
            let failed = bundle.create_fails().failure();
            failed
                .says(&format!("line {count} of what went wrong, path: "))
                .says("stdout: , stderr: ")
                .says(first);
        }
    }
}

#[test]
fn output_of_all_hooks_goes_to_the_files_of_cruns_annotations() {
    require!(containers);
    beyond!(
        output_of_all_hooks_goes_to_the_files_of_cruns_annotations,
        [
            runc("does not know them"),
            crun_race("does not wait for startContainer hooks before it runs poststart hooks")
        ]
    );
    let mut bundle = Bundle::new();
    let [stdout, stderr] = ["stdout", "stderr"].map(|name| bundle.scratch.path().join(name));
    bundle.config.set(
        "/annotations",
        json!({ "run.oci.hooks.stdout": stdout, "run.oci.hooks.stderr": stderr }),
    );
    for kind in KINDS {
        let program = if kind == "startContainer" {
            "/bin/probe".into()
        } else {
            probe()
        };
        for verb in ["echo", "complain"] {
            let hook = json!({ "path": program, "args": ["probe", verb, kind] });
            bundle.config.push(&format!("/hooks/{kind}"), hook);
        }
    }
    bundle.config.probe(&["exit", "0"]);
    bundle.run().success();
    for file in [stdout, stderr] {
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text, KINDS.map(|kind| format!("{kind}\n")).concat());
    }
}

#[test]
fn a_hook_that_takes_long_is_warned_of() {
    require!(containers);
    beyond!(
        a_hook_that_takes_long_is_warned_of,
        [runc("warns of nothing"), crun("warns of nothing")]
    );
    let mut bundle = Bundle::new();
    bundle
        .config
        .set(
            "/annotations",
            json!({ "dev.caisson.hook-warn-after": "1" }),
        )
        .probe(&["exit", "0"]);
    let linger = |program: String| json!({ "path": program, "args": ["probe", "linger", "1300"] });
    let host = probe().display().to_string();
    for kind in &KINDS[1..3] {
        bundle
            .config
            .push(&format!("/hooks/{kind}"), linger(host.clone()));
    }
    bundle
        .config
        .push("/hooks/startContainer", linger("/bin/probe".to_owned()));
    let container = bundle.create();
    for kind in &KINDS[1..3] {
        let warning = format!("{kind} hook #0 ({host}) is still running and has no timeout");
        assert_eq!(container.stderr().matches(&warning).count(), 1, "{kind}");
    }
    let started = container.start().success();
    started.says("startContainer hook #0 (/bin/probe) is still running and has no timeout");
    // Who reads the log as it comes does not wait for the end either.
    failing(&mut bundle, "createRuntime");
    let runtime = bundle.runtime.clone();
    bundle.runtime = runtime.with(&["--log-format", "json"]);
    let failed = bundle.create_fails().failure();
    let first = failed.stderr.lines().next().unwrap();
    assert!(first.contains(r#""level":"warning""#), "{failed}");
    bundle.runtime = runtime;
    bundle
        .config
        .set("/annotations/dev.caisson.hook-warn-after", "soon");
    bundle.create_fails().failure().says("hook-warn-after");
}

#[test]
fn a_start_that_was_killed_is_not_missed_by_a_hook_that_takes_long() {
    require!(containers);
    beyond!(
        a_start_that_was_killed_is_not_missed_by_a_hook_that_takes_long,
        [
            runc_race("does not wait for these hooks"),
            crun_race("does not wait for these hooks")
        ]
    );
    let mut bundle = with_notes();
    let fifo = bundle.scratch.path().join("notes/fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    bundle
        .config
        .set(
            "/annotations",
            json!({ "dev.caisson.hook-warn-after": "1" }),
        )
        // A namespace's first process survives more than others.
        .no_namespace("pid")
        .probe(&["echo", "alive"]);
    for args in [
        json!(["probe", "cat", fifo]),
        json!(["probe", "linger", "1300"]),
    ] {
        let hook = json!({ "path": "/bin/probe", "args": args });
        bundle.config.push("/hooks/startContainer", hook);
    }
    let mut container = bundle.create();
    let start = bundle.runtime.start(&["start", &container.id]);
    let first_hook = fs::OpenOptions::new().write(true).open(&fifo).unwrap();
    start.signal(nix::sys::signal::Signal::SIGKILL);
    start.wait_for_exit();
    drop(first_hook);
    // The second one would have been warned of by now.
    assert_eq!(container.stdout.line(), "alive");
    assert_eq!(container.wait(), 0);
}

/// A bundle with a directory of the host where hooks of every kind can write the same file: /notes is also bound at the
/// same path inside.
fn with_notes() -> Bundle {
    let mut bundle = Bundle::new();
    let directory = bundle.scratch.dir("notes");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
    let inside = directory.display().to_string();
    bundle.config.bind(&directory, &inside, &[]);
    bundle
}

fn hook(bundle: &mut Bundle, kind: &str, env: &[&str]) {
    labelled(bundle, kind, kind, env);
}

fn labelled(bundle: &mut Bundle, kind: &str, label: &str, env: &[&str]) {
    let program = if kind == "startContainer" {
        "/bin/probe".into()
    } else {
        probe()
    };
    let file = bundle.scratch.path().join("notes/log");
    let mut hook = json!({ "path": program, "args": ["named-by-test", "note", file, label] });
    if !env.is_empty() {
        hook["env"] = json!(env);
    }
    bundle.config.push(&format!("/hooks/{kind}"), hook);
}

/// The probe complains about its verb and exits with 99.
fn failing(bundle: &mut Bundle, kind: &str) {
    bundle.config.push(
        &format!("/hooks/{kind}"),
        json!({ "path": probe(), "args": ["probe", "no-such-verb"] }),
    );
}

fn notes(bundle: &Bundle) -> Vec<Note> {
    let text = fs::read_to_string(bundle.scratch.path().join("notes/log")).unwrap_or_default();
    let parse = |line: &str| {
        let note: Value = serde_json::from_str(line).unwrap();
        let state = note["stdin"].as_str().unwrap();
        Note {
            label: note["label"].as_str().unwrap().to_owned(),
            state: serde_json::from_str(state)
                .unwrap_or_else(|error| panic!("state on stdin: {error}: {state:?}")),
            seen: serde_json::from_value(note["seen"].clone()).unwrap(),
        }
    };
    text.lines().map(parse).collect()
}

/// Where hooks that hang say who they are.
struct Announced(PathBuf);

impl Announced {
    /// Waits for the next.
    #[track_caller]
    fn pid(&self) -> i32 {
        let line = fs::read_to_string(&self.0).unwrap();
        line.trim().parse().unwrap()
    }
}

/// A hook that says its pid, and hangs.
fn hanging(bundle: &mut Bundle, kind: &str) -> Announced {
    let fifo = bundle.scratch.path().join("announced");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let script = "echo $$ >\"$0\"; exec sleep 1000";
    let hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", script, fifo], "env": ["PATH=/usr/bin:/bin"] });
    bundle.config.push(&format!("/hooks/{kind}"), hook);
    Announced(fifo)
}

/// A process that has ended after the test.
struct Kept(i32);

impl Drop for Kept {
    fn drop(&mut self) {
        kill(Pid::from_raw(self.0), Signal::SIGKILL).ok(); // It should have.
    }
}
