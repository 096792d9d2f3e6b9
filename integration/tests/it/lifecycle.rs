//! From `create` to `delete`: the states, and who may do what when.

use integration::host::alive;
use integration::{Bundle, beyond, place, require};
use serde_json::{Value, json};
use std::fs;

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
    beyond!(
        state_is_printed_as_runc_prints_it,
        [crun(
            "`state` lacks `rootfs` and its `created` has another form"
        )]
    );
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
    beyond!(
        start_of_a_running_or_stopped_container_says_why_not,
        [crun(
            "says only that the container is not in created state, or that a file is missing"
        )]
    );
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
}

#[test]
fn a_paused_container_is_not_started() {
    require!(containers);
    beyond!(
        a_paused_container_is_not_started,
        [crun("has it start once it is resumed")]
    );
    let bundle = Bundle::new();
    let container = bundle.create();
    container.call("pause", &[]).success();
    container
        .start()
        .failure()
        .says("cannot start a container in the paused state");
    container.call("resume", &[]).success();
    container.start().success();
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
fn commands_on_an_unknown_container_say_that_it_does_not_exist() {
    require!(containers);
    beyond!(
        commands_on_an_unknown_container_say_that_it_does_not_exist,
        [crun("names the missing state file instead")]
    );
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
    bundle.assert_gone(&container.id);
    assert_eq!(container.wait(), 137);
}

#[test]
fn refusing_to_delete_a_running_container_names_it_and_its_state() {
    require!(containers);
    beyond!(
        refusing_to_delete_a_running_container_names_it_and_its_state,
        [crun("words it differently")]
    );
    let mut bundle = Bundle::new();
    let mut container = bundle.pause();
    let expected = format!(
        "cannot delete container {} that is not stopped: running",
        container.id
    );
    container.delete().failure().says(&expected);
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
fn delete_by_force_of_a_container_without_a_pid_namespace_kills_all_its_processes() {
    require!(containers);
    beyond!(
        delete_by_force_of_a_container_without_a_pid_namespace_kills_all_its_processes,
        [runc_race(
            "before 1.2 kills the first process only, and the others die when the cgroup is removed or not at all"
        )]
    );
    let mut bundle = Bundle::new();
    bundle.config.no_namespace("pid");
    let mut container = bundle.pause();
    let second = container.exec_detached(&[], &["/bin/probe", "pause"]);
    container.delete_by_force().success();
    assert!(!alive(second.pid));
}

#[test]
fn a_container_whose_state_is_damaged_is_deleted_by_force() {
    require!(containers);
    beyond!(
        a_container_whose_state_is_damaged_is_deleted_by_force,
        [
            runc("refuses for ever"),
            crun("keeps its state in another file")
        ]
    );
    // Nothing of it can be read; nothing of the cgroup; what is read cannot be used.
    let damages: [fn(&str) -> String; 3] = [
        |_| String::new(),
        |text| text[..text.len() / 2].to_owned(),
        |text| text.replace("\"bundle\":", "\"bundel\":"),
    ];
    for damage in damages {
        let mut bundle = Bundle::new();
        let path = format!("/{}", place::unique("damaged"));
        bundle.config.set("/linux/cgroupsPath", path);
        let mut container = bundle.pause();
        let group = container.cgroup();
        let file = bundle.runtime.root.join(&container.id).join("state.json");
        let text = fs::read_to_string(&file).unwrap();
        place::write(&file, damage(&text));
        container.delete().failure().says("state.json");
        assert!(alive(container.pid));
        container.delete_by_force().success().says("state.json");
        assert!(!alive(container.pid));
        assert!(!group.exists());
        bundle.assert_gone(&container.id);
    }
}

#[test]
fn a_damaged_container_that_may_live_is_not_forgotten() {
    require!(containers);
    beyond!(
        a_damaged_container_that_may_live_is_not_forgotten,
        [crun("keeps its state in another file")]
    );
    let mut bundle = Bundle::new();
    bundle.config.remove("/linux/cgroupsPath");
    let mut container = bundle.pause();
    let group = container.cgroup();
    let directory = bundle.runtime.root.join(&container.id);
    let file = directory.join("state.json");
    let text = fs::read_to_string(&file).unwrap();
    place::write(&file, "");
    container.delete_by_force().failure();
    assert!(alive(container.pid) && directory.exists());
    place::write(&file, text);
    container.delete_by_force().success();
    assert!(!alive(container.pid) && !group.exists());
    bundle.assert_gone(&container.id);
}

#[test]
fn a_container_whose_config_is_damaged_is_deleted_by_force() {
    require!(containers);
    beyond!(
        a_container_whose_config_is_damaged_is_deleted_by_force,
        [
            runc("keeps no copy of the config"),
            crun("ignores the damage")
        ]
    );
    let mut bundle = Bundle::new();
    let mut container = bundle.pause();
    let file = bundle.runtime.root.join(&container.id).join("config.json");
    place::write(&file, "{");
    container.kill("KILL").success();
    container.wait();
    container.delete().failure().says("config.json");
    container.delete_by_force().success().says("poststop");
    bundle.assert_gone(&container.id);
}

#[test]
fn a_run_that_fails_and_cannot_be_removed_says_both() {
    require!(containers);
    beyond!(
        a_run_that_fails_and_cannot_be_removed_says_both,
        [
            runc_before("1.2", "does not say of which kind the hook is"),
            crun("says one of the two")
        ]
    );
    let mut bundle = Bundle::new();
    bundle.config.probe(&["pause"]);
    let id = place::unique("stays");
    let busy = bundle.runtime.root.join(&id).join("busy");
    let script = format!(
        "mkdir {0} && mount -t tmpfs none {0} && exit 3",
        busy.display()
    );
    bundle.config.push(
        "/hooks/poststart",
        serde_json::json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"] }),
    );
    let run = bundle.call("run", &[], &id);
    nix::mount::umount(&busy).unwrap();
    bundle.runtime.call(&["delete", "--force", &id]).success();
    run.failure()
        .says("poststart hook #0: exit status 3")
        .says("busy");
    bundle.assert_gone(&id);
}

#[test]
fn a_seccomp_profile_that_says_nothing_is_none() {
    // It would be inherited and counted.
    require!(containers, no_filter);
    beyond!(
        a_seccomp_profile_that_says_nothing_is_none,
        [crun("wants a default action")]
    );
    let mut bundle = Bundle::new();
    bundle.config.set("/linux/seccomp", json!({}));
    assert_eq!(*bundle.report(&[]).seccomp, 0);
}

#[test]
fn a_value_of_the_wrong_type_is_named_by_its_field() {
    require!(containers);
    beyond!(
        a_value_of_the_wrong_type_is_named_by_its_field,
        [crun("ignores a field of the wrong type")]
    );
    let mut bundle = Bundle::new();
    bundle.config.set("/process/user/uid", "root");
    bundle.create_fails().failure().says("uid");
}

#[test]
fn the_state_directory_is_made_for_its_owner_only() {
    require!(containers);
    beyond!(
        the_state_directory_is_made_for_its_owner_only,
        [crun(
            "makes --root with mode 0700 but leaves the container's directory to the umask"
        )]
    );
    let bundle = Bundle::new();
    let container = bundle.create();
    let mode = |path: &std::path::Path| {
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions()) & 0o777
    };
    assert_eq!(mode(&bundle.runtime.root), 0o700);
    assert_eq!(mode(&bundle.runtime.root.join(&container.id)), 0o711);
}

#[test]
fn a_container_is_stopped_when_its_init_is_though_others_of_its_session_live() {
    require!(containers, busybox);
    beyond!(
        a_container_is_stopped_when_its_init_is_though_others_of_its_session_live,
        [runc_race_before(
            "1.2",
            "does not wait for the end of what it kills"
        )]
    );
    let mut bundle = Bundle::with_busybox();
    // Without job control, what a shell starts is in its process group.
    bundle
        .config
        .no_namespace("pid")
        .args(&["/bin/sh", "-c", "sleep 10 >/dev/null 2>&1 & exit 3"]);
    let mut container = bundle.create();
    container.start().success();
    assert_eq!(container.wait(), 3);
    assert_eq!(container.status(), "stopped");
    container.start().failure();
    container.exec(&[], &["/bin/true"]).failure();
    container.kill("TERM").failure();
    container.delete().success();
    assert_eq!(bundle.run().code(), 3);
}
