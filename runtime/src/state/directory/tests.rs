use super::super::{Init, OCI_VERSION};
use super::*;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};

/// A directory of a test's own, gone when it ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(test: &str) -> Scratch {
        let path =
            std::env::temp_dir().join(format!("caisson-state-{}-{test}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Scratch(path)
    }

    fn root(&self) -> Root {
        Root::open(&self.0.join("root"), false).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn cid(id: &str) -> ContainerId {
    ContainerId::new(id).unwrap()
}

fn state(id: &str) -> State {
    State {
        oci_version: OCI_VERSION.into(),
        id: cid(id),
        bundle: "/b".into(),
        rootfs: "/b/rootfs".into(),
        created: "2026-11-23T04:39:26Z".into(),
        owner: 0,
        init: None,
        annotations: Default::default(),
        namespaces: 0,
        joined_pids: false,
        no_new_keyring: false,
        cgroup: serde_json::Value::Null,
        resources: None,
        resctrl: serde_json::Value::Null,
        below_root: None,
    }
}

fn file(path: &Path, content: &str) {
    File::create_new(path)
        .unwrap()
        .write_all(content.as_bytes())
        .unwrap();
}

#[test]
fn without_a_root_there_are_no_containers_and_none_is_made() {
    let scratch = Scratch::new("no-root");
    let root = scratch.root();
    assert_eq!(root.ids().unwrap(), []);
    let error = root.load(&cid("x")).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (Kind::NotFound, "container does not exist: 'x'")
    );
    assert_eq!(root.lock(&cid("x")).unwrap_err().kind(), Kind::NotFound);
    assert!(!scratch.0.join("root").exists());
}

#[test]
fn a_container_is_made_loaded_and_removed() {
    let scratch = Scratch::new("life");
    let locked = scratch.root().create(&cid("x")).unwrap();
    locked.save(&state("x")).unwrap();
    locked.save_config(b"{}").unwrap();
    assert_eq!(locked.seccomp().unwrap(), None);
    locked.save_seccomp(b"\x06\0\0\0").unwrap();
    let mode = |path: &str| std::fs::metadata(scratch.0.join(path)).unwrap().mode() & 0o7777;
    assert_eq!(mode("root"), 0o700);
    assert_eq!(mode("root/x"), 0o711);
    assert_eq!(mode("root/x/state.json"), 0o600);

    let root = scratch.root();
    // Reading needs no lock.
    assert_eq!(root.load(&cid("x")).unwrap(), state("x"));
    assert_eq!(root.ids().unwrap(), [cid("x")]);
    drop(locked);
    let locked = root.lock(&cid("x")).unwrap();
    assert_eq!(locked.config().unwrap(), b"{}");
    assert_eq!(locked.seccomp().unwrap().unwrap(), b"\x06\0\0\0");
    locked.remove().unwrap();
    assert_eq!(root.load(&cid("x")).unwrap_err().kind(), Kind::NotFound);
    assert!(!scratch.0.join("root/x").exists());
}

#[test]
fn a_second_container_of_the_same_name_is_refused() {
    let scratch = Scratch::new("twice");
    let root = scratch.root();
    let locked = root.create(&cid("x")).unwrap();
    // While it is being made, and afterwards.
    assert_eq!(root.create(&cid("x")).unwrap_err().kind(), Kind::Exists);
    locked.save(&state("x")).unwrap();
    drop(locked);
    let error = root.create(&cid("x")).unwrap_err();
    assert_eq!(error.kind(), Kind::Exists);
    assert_eq!(
        error.to_string(),
        "container with given ID already exists: 'x'"
    );
}

#[test]
fn what_a_killed_create_left_behind_blocks_nobody() {
    let scratch = Scratch::new("half-made");
    let root = scratch.root();
    let locked = root.create(&cid("x")).unwrap();
    locked.save_config(b"old").unwrap();
    locked.make_fifo(Uid::current(), Gid::current()).unwrap();
    std::fs::create_dir(scratch.0.join("root/x/notify")).unwrap();
    file(&scratch.0.join("root/x/notify/file"), "");
    drop(locked);

    assert_eq!(root.load(&cid("x")).unwrap_err().kind(), Kind::NotFound);
    // Another create takes it over, empty.
    drop(root.create(&cid("x")).unwrap());
    assert_eq!(
        std::fs::read_dir(scratch.0.join("root/x")).unwrap().count(),
        0
    );
    // A delete removes it.
    let locked = root.lock(&cid("x")).unwrap();
    assert_eq!(locked.load().unwrap_err().kind(), Kind::NotFound);
    locked.remove().unwrap();
    assert_eq!(root.ids().unwrap(), []);
}

#[test]
fn states_are_replaced_as_a_whole() {
    let scratch = Scratch::new("replace");
    let locked = scratch.root().create(&cid("x")).unwrap();
    locked.save(&state("x")).unwrap();
    // A write that was interrupted.
    file(&scratch.0.join("root/x").join(UNFINISHED), "{");
    let before = std::fs::metadata(scratch.0.join("root/x/state.json"))
        .unwrap()
        .ino();
    let with_init = State {
        init: Some(Init {
            pid: 1,
            start_time: 2,
        }),
        ..state("x")
    };
    locked.save(&with_init).unwrap();
    assert_eq!(locked.load().unwrap(), with_init);
    assert_ne!(
        std::fs::metadata(scratch.0.join("root/x/state.json"))
            .unwrap()
            .ino(),
        before
    );
}

#[test]
fn a_broken_state_is_named() {
    let scratch = Scratch::new("broken");
    let root = scratch.root();
    drop(root.create(&cid("x")).unwrap());
    file(&scratch.0.join("root/x/state.json"), "{");
    let error = scratch.root().load(&cid("x")).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("root/x/state.json"), "{error}");
}

#[test]
fn symbolic_links_are_not_followed() {
    let scratch = Scratch::new("links");
    let root = scratch.root();
    let locked = root.create(&cid("x")).unwrap();
    file(&scratch.0.join("victim"), "untouched");
    let links = scratch.0.join("root/x");
    symlink(scratch.0.join("victim"), links.join(UNFINISHED)).unwrap();
    symlink(scratch.0.join("victim"), links.join(CONFIG)).unwrap();
    assert_eq!(locked.config().unwrap_err().errno(), Some(Errno::ELOOP));
    locked.save_config(b"new").unwrap();
    assert_eq!(locked.config().unwrap(), b"new");
    assert_eq!(
        std::fs::read_to_string(scratch.0.join("victim")).unwrap(),
        "untouched"
    );

    symlink(&links, scratch.0.join("root/y")).unwrap();
    let errno = scratch.root().load(&cid("y")).unwrap_err().errno();
    assert!(
        matches!(errno, Some(Errno::ELOOP | Errno::ENOTDIR)),
        "{errno:?}"
    );
    locked.remove().unwrap();
    assert!(scratch.0.join("victim").exists());
}

#[test]
fn the_fifo_says_whether_the_container_was_started() {
    let scratch = Scratch::new("fifo");
    let locked = scratch.root().create(&cid("x")).unwrap();
    let mut state = state("x");
    state.init = Some(Init::of(std::process::id() as i32).unwrap());
    assert!(
        locked
            .open_fifo(OFlag::O_RDONLY | OFlag::O_NONBLOCK)
            .unwrap()
            .is_none()
    );
    locked.make_fifo(Uid::current(), Gid::current()).unwrap();
    let fifo = std::fs::metadata(scratch.0.join("root/x/exec.fifo")).unwrap();
    assert!(fifo.file_type().is_fifo());
    assert_eq!(fifo.mode() & 0o7777, 0o622);
    assert_eq!(
        locked.status(&state, |_| Ok(false)).unwrap(),
        Status::Created
    );
    assert!(
        locked
            .open_fifo(OFlag::O_RDONLY | OFlag::O_NONBLOCK)
            .unwrap()
            .is_some()
    );
    assert!(locked.take_fifo().unwrap().is_some());
    assert!(locked.take_fifo().unwrap().is_none());
    assert_eq!(
        locked.status(&state, |_| Ok(false)).unwrap(),
        Status::Running
    );
    assert_eq!(locked.status(&state, |_| Ok(true)).unwrap(), Status::Paused);
}

#[test]
fn a_directory_that_was_removed_or_made_again_is_not_the_one_that_was_opened() {
    let scratch = Scratch::new("again");
    let root = scratch.root();
    let first = root.create(&cid("x")).unwrap();
    let opened = root.directory(&cid("x")).unwrap();
    let dir = root.dir.get().unwrap();
    assert!(is_linked(dir, &opened).unwrap());
    first.remove().unwrap();
    assert!(!is_linked(dir, &opened).unwrap());
    let _second = root.create(&cid("x")).unwrap();
    assert!(!is_linked(dir, &opened).unwrap());
}

#[test]
fn who_waits_for_a_container_that_is_removed_learns_it() {
    let scratch = Scratch::new("wait");
    let locked = scratch.root().create(&cid("x")).unwrap();
    locked.save(&state("x")).unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| scratch.root().lock(&cid("x")).map(|_| ()));
        locked.remove().unwrap();
        assert_eq!(waiter.join().unwrap().unwrap_err().kind(), Kind::NotFound);
    });
}

#[test]
fn the_lock_keeps_others_out_until_it_is_dropped() {
    let scratch = Scratch::new("exclusive");
    let root = scratch.root();
    let locked = root.create(&cid("x")).unwrap();
    let other = root.directory(&cid("x")).unwrap();
    assert!(
        lock(&other, FlockArg::LockExclusiveNonblock)
            .unwrap()
            .is_none()
    );
    drop(locked);
    assert!(
        lock(&other, FlockArg::LockExclusiveNonblock)
            .unwrap()
            .is_some()
    );
}

#[test]
fn foreign_files_in_the_root_are_no_containers() {
    let scratch = Scratch::new("foreign");
    let root = scratch.root();
    drop(root.create(&cid("b")).unwrap());
    drop(root.create(&cid("a")).unwrap());
    std::fs::create_dir(scratch.0.join("root/not an id")).unwrap();
    assert_eq!(root.ids().unwrap(), [cid("a"), cid("b")]);
}
