//! An import that is killed: what was reported done is there, the rest is collected when the store is opened again.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use integration::place;
use integration::require;
use integration::runtime::{Finished, Running, deadline, finish};
use integration::store::{Store, Tar, saved};
use integration::waiting;

/// What there is on the disk of the store, but for its database and what comes and goes with each command.
fn files(store: &Store) -> (usize, usize) {
    for directory in ["ingests", "trash", "snapshots"] {
        let left = fs::read_dir(store.root().join(directory)).unwrap().count();
        assert_eq!(left, 0, "{directory}");
    }
    (store.layers().len(), store.blobs().len())
}

/// `victim` at its so-manyth system call.
fn killed(store: &Store, victim: &str, call: u64, args: &[&str]) -> Finished {
    let inner = store.command(args);
    let mut command = Command::new(place::crash());
    command
        .args([victim, victim, &call.to_string(), "--"])
        .arg(inner.get_program())
        .args(inner.get_args());
    finish(command)
}

/// So many calls between two kills; each in turn with SWEEP=every.
fn stride(usual: usize) -> usize {
    if std::env::var_os("SWEEP").is_some_and(|sweep| sweep == "every") {
        1
    } else {
        usual
    }
}

fn sweep(victim: &str, stride: usize) {
    let store = Store::new();
    store
        .import("done", &Tar::new().file("a", b"done"))
        .success();
    let before = files(&store);
    let layers = [
        Tar::new().directory("d/").file("d/a", &[1; 9000]),
        Tar::new().file("d/b", &[2; 9000]).symlink("l", "d"),
    ];
    let archive = store.scratch.file("saved.tar", saved("new:1", &layers));
    let archive = archive.to_str().unwrap();
    let (mut interrupted, mut complete) = (0, 0);
    for call in (1..).step_by(stride) {
        let ended = killed(&store, victim, call, &["import", archive]);
        let names = store.values(&["images"]).len();
        if ended.status.success() || ended.code() == 100 {
            assert_eq!(names, 2, "{ended}");
        }
        match names {
            1 => interrupted += 1,
            _ => complete += 1,
        }
        // What is said to be there verifies; if it is not, nothing of it is.
        store.call(&["verify"]).success();
        if names == 2 {
            assert_eq!(files(&store), (before.0 + 2, before.1 + 4), "{ended}");
            store.call(&["remove", "new:1"]).success();
        }
        assert_eq!(files(&store), before, "killed at call {call}: {ended}");
        if ended.code() == 100 {
            break;
        }
    }
    assert!(
        interrupted > 3 && complete > 0,
        "{interrupted} were interrupted, {complete} were not"
    );
    store.call(&["verify", "done"]).success();
}

#[test]
fn an_importer_killed_at_any_system_call_loses_nothing_and_leaves_nothing() {
    require!(root);
    sweep("command", stride(29));
}

#[test]
fn who_unpacks_killed_at_any_system_call_fails_the_import_and_leaves_nothing() {
    require!(root);
    sweep("child", stride(37));
}

#[test]
fn what_was_left_of_a_directory_is_gone_on_with() {
    require!(root, program("umoci"));
    let store = Store::new();
    let (layout, bundle) = (store.scratch.name("layout"), store.scratch.name("bundle"));
    let mut command = Command::new("sh");
    command.args(["-ec", &format!(
        "umoci init --layout {layout}; umoci new --image {layout}:tag; umoci unpack --image {layout}:tag {bundle};
        head -c 40000000 /dev/urandom >{bundle}/rootfs/random; umoci repack --image {layout}:tag {bundle}"
    )]);
    finish(command).success();
    let ingests = store.root().join("ingests");
    let left = || {
        let entries = fs::read_dir(&ingests)
            .unwrap()
            .map(|entry| entry.unwrap().path().join("data"));
        entries
            .filter_map(|data| fs::metadata(data).ok())
            .map(|data| data.len())
            .max()
            .unwrap_or(0)
    };
    for call in (50..).step_by(60) {
        let ended = killed(&store, "command", call, &["import", "--name", "a", &layout]);
        assert!(
            !ended.status.success() && ended.code() != 100,
            "never killed while it wrote: {ended}"
        );
        if left() > 1_000_000 {
            break;
        }
    }
    // Opening does not take it away, and the next import needs it no more.
    store.call(&["images"]).success();
    assert!(left() > 1_000_000);
    store.call(&["import", "--name", "a", &layout]).success();
    assert_eq!(fs::read_dir(&ingests).unwrap().count(), 0);
    store.call(&["verify"]).success();
}

#[test]
fn who_comes_next_waits_for_what_the_killed_was_about_to_start() {
    require!(root);
    let store = Store::new();
    store.call(&["images"]).success();
    let database = fs::File::open(store.root().join("caisson.redb")).unwrap();
    // As a child has it between fork and exec.
    database.lock().unwrap();
    let next = Running::start(store.command(&["images"]));
    let end = Instant::now() + deadline();
    while waiting::call(next.pid()).as_deref() != Some("flock") {
        assert!(Instant::now() < end, "it does not wait for the database");
        std::thread::park_timeout(Duration::from_millis(1));
    }
    store
        .call(&["images"])
        .failure()
        .says(&format!("another daemon is running (pid {})", next.pid()));
    database.unlock().unwrap();
    next.wait_for_errors().success();
}

#[test]
fn an_importer_killed_in_a_new_store_leaves_one_that_can_be_used() {
    require!(root);
    for call in (1..).step_by(stride(7)) {
        let store = Store::new();
        let archive = saved("new:1", &[Tar::new().file("a", &[1; 9000])]);
        let archive = store.scratch.file("saved.tar", archive);
        let archive = archive.to_str().unwrap();
        let ended = killed(&store, "command", call, &["import", archive]);
        store.call(&["verify"]).success();
        store.call(&["import", archive]).success();
        if ended.code() == 100 {
            break;
        }
    }
}
