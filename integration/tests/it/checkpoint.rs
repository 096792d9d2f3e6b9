//! `checkpoint` and `restore`, with the real CRIU: what a container's processes were, they are again.
//!
//! The container's program counts, in its memory, the signals that it gets, and tells each number to its standard output: a pipe, in whose
//! place the restored one has another.

use integration::console::ConsoleSocket;
use integration::{Bundle, Container, beyond, host, place, require};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::PathBuf;

#[test]
fn a_counter_goes_on_where_it_was() {
    require!(criu);
    let mut bundle = counter();
    let mut container = running(&mut bundle);
    counts(&mut container, 1..=3);
    let (images, id) = saved(&bundle, container);

    let mut restored = restore(&bundle, &images, &id);
    counts(&mut restored, 4..=5);
    let state = restored.state();
    assert_eq!(
        (state["status"].as_str(), state["pid"].as_i64()),
        (Some("running"), Some(restored.pid.into()))
    );
    let seen = restored.exec_report(&[], &["cat=/proc/1/comm"]);
    assert_eq!(seen.files["/proc/1/comm"].trim(), "probe");
    assert_eq!(*seen.hostname, "caisson-it");
    restored.kill("TERM").success();
    assert_eq!(restored.wait(), 0);
}

#[test]
fn a_container_may_be_saved_and_restored_again_and_again() {
    require!(criu);
    let mut bundle = counter();
    let mut container = running(&mut bundle);
    let id = container.id.clone();
    for round in 1..=3 {
        counts(&mut container, round..=round);
        let images = images(&bundle, &format!("round-{round}"));
        container.checkpoint_away(&["--image-path", &images]);
        container = restore(&bundle, &images, &id);
    }
    counts(&mut container, 4..=4);
}

#[test]
fn a_container_that_is_left_running_goes_on_and_can_be_restored_as_it_was() {
    require!(criu);
    let mut bundle = counter();
    let mut container = running(&mut bundle);
    counts(&mut container, 1..=2);
    let images = images(&bundle, "images");
    let flags = ["--leave-running", "--image-path", &images];
    container.checkpoint(&flags).success();
    assert_eq!(container.status(), "running");
    counts(&mut container, 3..=6);
    container.delete_by_force().success();
    let id = container.id.clone();
    drop(container);

    let mut restored = restore(&bundle, &images, &id);
    counts(&mut restored, 3..=3);
}

#[test]
fn what_a_pre_dump_has_saved_is_not_saved_again() {
    require!(criu_feature("mem_dirty_track"));
    let mut bundle = counter();
    let mut container = running(&mut bundle);
    counts(&mut container, 1..=1);
    let (before, images) = (images(&bundle, "before"), images(&bundle, "images"));
    let flags = ["--pre-dump", "--image-path", &before];
    container.checkpoint(&flags).success();
    assert_eq!(container.status(), "running");
    counts(&mut container, 2..=2);
    let id = container.id.clone();
    container.checkpoint_away(&["--parent-path", "../before", "--image-path", &images]);
    assert!(fs::metadata(format!("{images}/parent")).unwrap().is_dir());

    let mut restored = restore(&bundle, &images, &id);
    counts(&mut restored, 3..=3);
}

#[test]
fn a_parent_path_is_relative_and_a_directory() {
    require!(criu);
    let mut bundle = counter();
    let mut container = running(&mut bundle);
    let images = images(&bundle, "images");
    let parent = |path: &str| {
        let flags = ["--parent-path", path, "--image-path", &images];
        container.checkpoint(&flags).failure()
    };
    parent("/images").says("--parent-path must be relative");
    parent("../nothing").says("invalid --parent-path");
    counts(&mut container, 1..=1);
}

#[test]
fn limits_are_in_force_again() {
    require!(criu, controller("pids"), controller("memory"));
    let mut bundle = counter();
    bundle
        .config
        .set("/linux/resources/pids/limit", 77)
        .set("/linux/resources/memory/limit", 96 << 20);
    let container = running(&mut bundle);
    let (images, id) = saved(&bundle, container);

    let mut restored = restore(&bundle, &images, &id);
    let cgroup = restored.cgroup();
    assert_eq!(host::cgroup_file(&cgroup, "pids.max").trim(), "77");
    let memory = host::cgroup_file(&cgroup, "memory.max");
    assert_eq!(memory.trim(), (96 << 20).to_string());
    counts(&mut restored, 1..=1);
}

#[test]
fn the_restored_container_is_in_the_cgroup_that_the_config_names() {
    require!(criu);
    beyond!(
        the_restored_container_is_in_the_cgroup_that_the_config_names,
        [runc_before("1.2", "does not know the mode")]
    );
    let mut bundle = counter();
    let container = running(&mut bundle);
    let former = container.cgroup();
    let images = images(&bundle, "images");
    let id = container.id.clone();
    let ignore = "--manage-cgroups-mode=ignore";
    container.checkpoint_away(&[ignore, "--image-path", &images]);
    assert!(!former.exists(), "{former:?}");

    let other = format!("{id}-other");
    bundle.config.set("/linux/cgroupsPath", format!("/{other}"));
    let mut restored = restore_with(&bundle, &[ignore, "--image-path", &images], &id);
    assert!(restored.cgroup().ends_with(&other));
    assert!(!former.exists(), "{former:?}");
    counts(&mut restored, 1..=1);
}

#[test]
fn a_paused_container_can_be_saved() {
    require!(criu);
    let mut bundle = counter();
    let mut container = running(&mut bundle);
    counts(&mut container, 1..=1);
    container.call("pause", &[]).success();
    let (images, id) = saved(&bundle, container);
    let mut restored = restore(&bundle, &images, &id);
    counts(&mut restored, 2..=2);
}

#[test]
fn a_restored_terminal_is_handed_to_the_console_socket() {
    require!(criu);
    let mut bundle = counter();
    bundle.config.set("/process/terminal", true).probe(&["cat"]);
    bundle.save();
    let socket = ConsoleSocket::listen(bundle.scratch.path().join("tty.sock"));
    let path = socket.path.display().to_string();
    let id = place::unique("box");
    let flags = ["--console-socket", &path];
    let container = Container::run_detached(&bundle.runtime, &bundle.path(), &flags, &id).unwrap();
    let (_, terminal) = socket.receive();
    terminal.write("before\n");
    let images = images(&bundle, "images");
    container.checkpoint_away(&["--image-path", &images]);

    let flags = ["--console-socket", &path, "--image-path", &images];
    let _restored = Container::restore(&bundle.runtime, &bundle.path(), &flags, &id).unwrap();
    let (name, mut terminal) = socket.receive();
    assert!(!name.is_empty());
    terminal.write("after\n");
    // The line as the terminal echoes it, and as the program gives it back.
    let mut lines = Vec::new();
    while lines.iter().filter(|line| *line == "after").count() < 2 {
        lines.push(terminal.output.line());
    }
}

#[test]
fn a_restore_that_fails_leaves_nothing() {
    require!(criu);
    let mut bundle = counter();
    let container = running(&mut bundle);
    let (images, id) = saved(&bundle, container);
    let runtime = &bundle.runtime;
    let fails = |images: &str| {
        // It looks for traces itself.
        let flags = ["--image-path", images];
        Container::restore(runtime, &bundle.path(), &flags, &id).unwrap_err()
    };
    fails(&format!("{images}/nowhere")).says("no such file or directory");
    let pages = PathBuf::from(&images).join("core-1.img");
    let whole = fs::read(&pages).unwrap();
    place::write(&pages, &whole[..whole.len() / 2]);
    fails(&images).says("criu failed: type");
    place::write(&pages, whole);
    // Nothing is in the way of another attempt.
    counts(&mut restore(&bundle, &images, &id), 1..=1);
}

#[test]
fn a_dump_that_fails_lets_the_container_go_on() {
    require!(criu);
    let mut bundle = counter();
    // A file of the host that the container holds open, which CRIU cannot name.
    let outside = bundle.scratch.file("outside", "");
    bundle.runtime = bundle.runtime.with_files(&[&outside]);
    bundle.config.probe(&["count"]);
    bundle.save();
    let id = place::unique("box");
    let flags = ["--preserve-fds", "1"];
    let made = Container::run_detached(&bundle.runtime, &bundle.path(), &flags, &id);
    let mut container = made.unwrap();
    assert_eq!(container.stdout.line(), "ready");
    let images = images(&bundle, "images");
    let failed = container.checkpoint(&["--image-path", &images]).failure();
    failed.says("criu failed: type");
    assert_eq!(container.status(), "running");
    counts(&mut container, 1..=1);
}

#[test]
fn without_criu_both_commands_say_so() {
    require!(containers);
    beyond!(
        without_criu_both_commands_say_so,
        [crun("asks for a library")]
    );
    let mut bundle = Bundle::new();
    let nowhere = bundle.scratch.dir("no-programs").display().to_string();
    bundle.runtime.env.push(("PATH".to_owned(), nowhere));
    let missing = "exec: \"criu\": executable file not found in $PATH";
    let container = bundle.pause();
    let images = images(&bundle, "images");
    let flags = ["--image-path", images.as_str()];
    container.checkpoint(&flags).failure().says(missing);
    assert_eq!(container.status(), "running");
    let id = place::unique("none");
    let failed = Container::restore(&bundle.runtime, &bundle.path(), &flags, &id).unwrap_err();
    failed.says(missing);
}

#[test]
fn only_what_runs_can_be_saved() {
    require!(containers);
    beyond!(only_what_runs_can_be_saved, [crun("has words of its own")]);
    let mut bundle = Bundle::new();
    bundle.config.probe(&["pause"]);
    let mut container = bundle.create();
    let refused = |container: &Container, status: &str| {
        let text = format!("Container cannot be checkpointed in {status} state");
        container.checkpoint(&[]).failure().says(&text);
    };
    refused(&container, "created");
    container.start().success();
    container.kill("KILL").success();
    container.wait();
    refused(&container, "stopped");
}

#[test]
fn a_restore_in_the_foreground_stays_until_the_end() {
    require!(criu);
    let mut bundle = counter();
    let mut container = running(&mut bundle);
    counts(&mut container, 1..=1);
    container.call("pause", &[]).success();
    // It is taken by the restored process, which says so as soon as it runs.
    kill(Pid::from_raw(container.pid), Signal::SIGUSR1).unwrap();
    let (images, id) = saved(&bundle, container);
    let mut running = bundle.start("restore", &["--image-path", &images], &id);
    assert_eq!(running.stdout.line(), "count 2");
    bundle.runtime.call(&["kill", &id, "KILL"]).success();
    assert_eq!(running.wait().code(), 137);
    bundle.assert_gone(&id);
}

#[test]
fn binds_are_there_again_even_where_their_targets_are_gone() {
    require!(criu);
    let mut bundle = counter();
    let (outer, inner) = (bundle.scratch.dir("outer"), bundle.scratch.dir("inner"));
    bundle.scratch.file("inner/file", "inside");
    bundle.dir("real/place");
    std::os::unix::fs::symlink("/real/place", bundle.rootfs().join("link")).unwrap();
    bundle
        .config
        .bind(outer.to_str().unwrap(), "/link", &[])
        .bind(inner.to_str().unwrap(), "/link/a/b", &["ro"]);
    let container = running(&mut bundle);
    let (images, id) = saved(&bundle, container);
    fs::remove_dir_all(outer.join("a")).unwrap();

    let mut restored = restore(&bundle, &images, &id);
    let questions = [
        "cat=/real/place/a/b/file",
        "try=create:/real/place/x",
        "try=create:/real/place/a/b/x",
    ];
    let seen = restored.exec_report(&[], &questions);
    assert_eq!(*seen.files["/real/place/a/b/file"], "inside");
    assert_eq!(seen.tried("create:/real/place/x"), "ok");
    assert_eq!(seen.tried("create:/real/place/a/b/x"), "EROFS");
    counts(&mut restored, 1..=1);
}

#[test]
fn what_was_read_only_is_so_again() {
    require!(criu);
    beyond!(
        what_was_read_only_is_so_again,
        [runc(
            "leaves it to CRIU, which restricts only one of several mounts of a file"
        )]
    );
    let mut bundle = counter();
    let shared = bundle.scratch.dir("shared");
    let words = ["ro", "nosuid", "nodev", "noexec"];
    bundle
        .config
        .bind(&shared, "/one", &words)
        .bind(&shared, "/two", &words);
    let container = running(&mut bundle);
    let restricted = |container: &Container| -> Vec<(String, String)> {
        let mounts = host::mounts_of(container.pid).into_iter();
        let ours = [
            "/one",
            "/two",
            "/proc/keys",
            "/proc/timer_list",
            "/sys/firmware",
        ];
        let mounts = mounts.filter(|mount| ours.iter().any(|path| mount.target == *path));
        let words = |mount: &integration::seen::Mount| {
            let options = mount.options.iter().map(String::as_str);
            let ours: Vec<_> = options.filter(|word| words.contains(word)).collect();
            ours.join(",")
        };
        let mut all: Vec<_> = mounts
            .map(|mount| (mount.target.clone(), words(&mount)))
            .collect();
        all.sort();
        all
    };
    let before = restricted(&container);
    assert!(before.len() >= 2 && before.iter().all(|(_, words)| words.contains("ro")));
    let (images, id) = saved(&bundle, container);
    assert_eq!(restricted(&restore(&bundle, &images, &id)), before);
}

#[test]
fn hooks_of_the_runtime_run_at_a_restore_too() {
    require!(criu);
    let mut bundle = counter();
    let notes = bundle.scratch.path().join("notes");
    let program = place::probe().display().to_string();
    let hook = serde_json::json!([{ "path": program, "args": ["hook", "note", notes, "ran"] }]);
    let container = running(&mut bundle);
    let (images, id) = saved(&bundle, container);
    bundle.config.set("/hooks/createRuntime", hook);
    let mut restored = restore(&bundle, &images, &id);
    let note: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(notes).unwrap()).unwrap();
    let state: serde_json::Value = serde_json::from_str(note["stdin"].as_str().unwrap()).unwrap();
    assert_eq!(state["id"], id.as_str());
    assert_eq!(state["pid"], restored.pid);
    counts(&mut restored, 1..=1);
}

#[test]
fn poststop_hooks_run_once_the_container_is_saved_and_gone() {
    require!(criu);
    let mut bundle = counter();
    let notes = bundle.scratch.path().join("notes");
    let program = place::probe().display().to_string();
    let hook = serde_json::json!([{ "path": program, "args": ["hook", "note", notes, "ran"] }]);
    bundle.config.set("/hooks/poststop", hook);
    let container = running(&mut bundle);
    let images = images(&bundle, "images");
    let left = ["--image-path", images.as_str(), "--leave-running"];
    container.checkpoint(&left).success();
    assert!(!notes.exists(), "it goes on");
    let id = container.id.clone();
    container.checkpoint_away(&["--image-path", &images]);
    let note: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(notes).unwrap()).unwrap();
    let state: serde_json::Value = serde_json::from_str(note["stdin"].as_str().unwrap()).unwrap();
    assert_eq!(state["id"], id.as_str());
    assert_eq!(state["status"], "stopped");
}

#[test]
fn what_is_to_be_masked_and_came_after_the_dump_is_masked_too() {
    require!(criu);
    beyond!(
        what_is_to_be_masked_and_came_after_the_dump_is_masked_too,
        [runc("has CRIU mount what was there, and nothing else")]
    );
    let mut bundle = counter();
    bundle.file("old", "hidden\n");
    let paths = serde_json::json!(["/old", "/new", "/newer", "/directory", "/none"]);
    bundle.config.set("/linux/maskedPaths", paths);
    let container = running(&mut bundle);
    let (images, id) = saved(&bundle, container);
    bundle.file("new", "hidden\n");
    bundle.file("newer", "hidden\n");
    bundle.file("directory/file", "hidden\n");
    let mut restored = restore(&bundle, &images, &id);
    counts(&mut restored, 1..=1);
    let questions = ["cat=/old", "cat=/new", "cat=/newer", "ls=/directory"];
    let seen = restored.exec_report(&[], &questions);
    for file in ["/old", "/new", "/newer"] {
        assert!(seen.files[file].is_empty(), "{file}");
    }
    assert!(seen.lists["/directory"].is_empty());
}

#[test]
fn an_overlay_root_is_assembled_again() {
    require!(criu);
    beyond!(
        an_overlay_root_is_assembled_again,
        [runc("has no overlay of its own")]
    );
    let mut bundle = counter();
    let base = bundle.scratch.path().join("base");
    fs::rename(bundle.rootfs(), &base).unwrap();
    fs::create_dir(bundle.rootfs()).unwrap();
    let annotate = |bundle: &mut Bundle, name: &str, value: &str| {
        let pointer = format!("/annotations/dev.caisson.overlay.{name}");
        bundle.config.set(&pointer, value);
    };
    bundle.config.writable();
    annotate(&mut bundle, "lower", base.to_str().unwrap());
    let temporary = running(&mut bundle);
    let images = images(&bundle, "images");
    let flags = ["--image-path", images.as_str()];
    temporary
        .checkpoint(&flags)
        .failure()
        .says("a tmpfs that CRIU does not save");
    drop(temporary);

    for name in ["upper", "work"] {
        let directory = bundle.scratch.dir(&format!("changes/{name}"));
        annotate(&mut bundle, name, directory.to_str().unwrap());
    }
    let mut container = running(&mut bundle);
    counts(&mut container, 1..=1);
    let written = ["/bin/probe", "write-file", "/new", "5"];
    container.exec(&[], &written).success();
    let id = container.id.clone();
    container.checkpoint_away(&flags);

    let mut restored = restore(&bundle, &images, &id);
    let seen = restored.exec_report(&[], &["ls=/"]);
    assert_eq!(seen.mounted("/").fstype, "overlay");
    assert!(seen.lists["/"].contains(&"new".to_owned()));
    let of_host = host::mounts();
    let root = bundle.rootfs();
    assert!(of_host.iter().all(|mount| !root.ends_with(&mount.target)));
    counts(&mut restored, 2..=2);
}

#[test]
fn landlock_rules_keep_a_container_from_being_saved() {
    require!(criu, system_call("landlock_create_ruleset"));
    beyond!(
        landlock_rules_keep_a_container_from_being_saved,
        [runc("knows no Landlock")]
    );
    let mut bundle = counter();
    let rules = r#"{"handledAccessFs":["make_sock"]}"#;
    bundle
        .config
        .set("/annotations/dev.caisson.landlock", rules);
    let mut container = running(&mut bundle);
    let images = images(&bundle, "images");
    let refused = container.checkpoint(&["--image-path", &images]).failure();
    refused.says("CRIU does not save Landlock rules");
    counts(&mut container, 1..=1);
}

#[test]
fn what_is_connected_and_locked_is_so_again() {
    require!(criu);
    beyond!(
        what_is_connected_and_locked_is_so_again,
        [
            runc("leaves the loopback of a restored container down, and has no --network-lock"),
            crun("takes --network-lock without a value")
        ]
    );
    let mut bundle = counter();
    bundle.config.set("/root/readonly", false);
    bundle.config.probe(&["count", "by-network", "/lock"]);
    let mut container = running(&mut bundle);
    counts(&mut container, 1..=2);
    let images = images(&bundle, "images");
    let id = container.id.clone();
    let mut flags = vec!["--image-path", &images, "--network-lock", "skip"];
    // Each of these is refused unless it is asked for.
    for flag in ["--tcp-established", "--file-locks"] {
        container.checkpoint(&flags).failure().says("criu failed");
        flags.push(flag);
    }
    container.checkpoint_away(&flags);

    let mut restored = restore_with(&bundle, &flags, &id);
    counts(&mut restored, 3..=4);
    let lock = fs::File::open(bundle.rootfs().join("lock")).unwrap();
    assert!(matches!(lock.try_lock(), Err(fs::TryLockError::WouldBlock)));
}

pub(crate) fn counter() -> Bundle {
    let mut bundle = Bundle::new();
    bundle.runtime = bundle.runtime.with_criu();
    bundle.config.probe(&["count"]);
    bundle
}

#[track_caller]
pub(crate) fn running(bundle: &mut Bundle) -> Container {
    let mut container = bundle.create();
    container.start().success();
    assert_eq!(container.stdout.line(), "ready");
    container
}

#[track_caller]
pub(crate) fn restore(bundle: &Bundle, images: &str, id: &str) -> Container {
    restore_with(bundle, &["--image-path", images], id)
}

#[track_caller]
pub(crate) fn restore_with(bundle: &Bundle, flags: &[&str], id: &str) -> Container {
    bundle.save();
    Container::restore(&bundle.runtime, &bundle.path(), flags, id)
        .unwrap_or_else(|finished| panic!("should have succeeded: {finished}"))
}

/// Saves the container and has it end: where its images are, and its id.
#[track_caller]
pub(crate) fn saved(bundle: &Bundle, container: Container) -> (String, String) {
    let (images, id) = (images(bundle, "images"), container.id.clone());
    container.checkpoint_away(&["--image-path", &images]);
    (images, id)
}

pub(crate) fn images(bundle: &Bundle, name: &str) -> String {
    bundle.scratch.name(name)
}

/// Has it count, which says that its memory is what it was.
#[track_caller]
pub(crate) fn counts(container: &mut Container, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        kill(Pid::from_raw(container.pid), Signal::SIGUSR1).unwrap();
        assert_eq!(container.stdout.line(), format!("count {number}"));
    }
}
