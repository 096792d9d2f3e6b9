//! What containers leave behind goes, whatever they have made of it; and what cannot go keeps nothing else.

use integration::runtime::Running;
use integration::supervisor::{IMAGE, Supervisor};
use integration::{require, sys};
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::clean::names;

/// A chain of directories, one in the other, 5120 of them: five that one path can name each.
const DEEP: &str = "x=a; for i in 1 2 3 4 5 6 7 8 9 10; do x=$x/$x; done; mkdir chain; \
    for i in 1 2 3 4 5; do mkdir -p next/$x && mv chain next/$x/ && mv next chain; done";

/// A file that stays until this is dropped.
struct Immutable(File);

impl Immutable {
    fn new(path: &Path) -> Result<Self, String> {
        let file = File::create_new(path).unwrap();
        sys::set_immutable(file.as_fd(), true)
            .map_err(|error| format!("immutable files in {}: {error}", path.display()))?;
        Ok(Self(file))
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        sys::set_immutable(self.0.as_fd(), false).unwrap();
    }
}

/// A daemon with fewer descriptors than such a chain has directories.
fn daemon(supervisor: &Supervisor) -> Running {
    let words = supervisor.daemon_command(&[]);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "ulimit -n 512; exec \"$0\" \"$@\""])
        .arg(words.get_program())
        .args(words.get_args());
    let mut daemon = Running::start(shell);
    assert_eq!(daemon.stdout.line(), "ready");
    daemon
}

fn directory(supervisor: &Supervisor, name: &str) -> PathBuf {
    supervisor.scratch.path().join("root").join(name)
}

#[test]
fn a_tree_goes_however_deep_it_is() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    supervisor.crash();
    let mut running = daemon(&supervisor);
    let script = format!("cd /srv && {DEEP} && cd /data && {DEEP}");
    let id = supervisor.detached(&["-v", "deep:/data", "-v", "/more"], &script);
    assert_eq!(supervisor.says(&["wait", &id]), "0");
    supervisor.says(&["rm", "-v", &id]);
    supervisor.says(&["volume", "rm", "deep"]);
    // At a start, too.
    let id = supervisor.detached(&[], &format!("cd /srv && {DEEP}"));
    assert_eq!(supervisor.says(&["wait", &id]), "0");
    supervisor.crash();
    running.wait();
    let snapshot = names(&directory(&supervisor, "snapshots"));
    let snapshot = snapshot.first().unwrap();
    fs::rename(
        directory(&supervisor, "snapshots").join(snapshot),
        directory(&supervisor, "trash").join("99"),
    )
    .unwrap();
    running = daemon(&supervisor);
    for place in ["trash", "volumes"] {
        let left = names(&directory(&supervisor, place));
        assert!(left.is_empty(), "{place}: {left:?}");
    }
    supervisor.says(&["rm", &id]);
    supervisor.crash();
    let said = running.wait().stderr;
    assert_eq!(said, "");
}

#[test]
fn a_file_that_stays_keeps_no_container_no_volume_no_image_and_no_start() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    supervisor.crash();
    let running = supervisor.daemon(&[]);
    let id = supervisor.detached(&["-v", "kept:/data"], "mkdir /srv/a /data/a; >/srv/a/b");
    supervisor.says(&["wait", &id]);
    let snapshots = directory(&supervisor, "snapshots");
    let snapshot = names(&snapshots).first().unwrap().clone();
    let upper = snapshots.join(snapshot).join("upper/srv/stays");
    let volume = directory(&supervisor, "volumes/kept");
    let (in_upper, in_volume) = match (
        Immutable::new(&upper),
        Immutable::new(&volume.join("a/stays")),
    ) {
        (Ok(upper), Ok(volume)) => (upper, volume),
        (Err(missing), _) | (_, Err(missing)) => return require::skip(&missing),
    };
    supervisor.says(&["rm", &id]);
    supervisor
        .ctl(&["volume", "rm", "kept"])
        .failure()
        .says("stays': Operation not permitted");
    assert_eq!(supervisor.says(&["volume", "ls", "-q"]), "");
    // All but that file is gone.
    let trash = directory(&supervisor, "trash");
    let left = names(&trash).first().unwrap().clone();
    assert_eq!(names(&trash.join(&left).join("upper/srv")).len(), 1);
    supervisor.import();
    let other = supervisor.detached(&[], "true");
    supervisor.says(&["wait", &other]);
    supervisor.says(&["rm", &other]);
    supervisor.crash();
    running.wait().says("stays': Operation not permitted");
    let running = supervisor.daemon(&[]);
    assert_eq!(supervisor.says(&["run", "--rm", IMAGE, "echo", "a"]), "a");
    assert_eq!(names(&trash).len(), 1);
    drop((in_upper, in_volume));
    // The next time they go.
    supervisor.crash();
    running.wait();
    let running = supervisor.daemon(&[]);
    for place in ["trash", "volumes"] {
        let left = names(&directory(&supervisor, place));
        assert!(left.is_empty(), "{place}: {left:?}");
    }
    supervisor.crash();
    running.wait();
}
