//! Archives of images whose client or daemon goes in the middle.

use integration::runtime::{Running, deadline, finish};
use integration::supervisor::{IMAGE, Supervisor};
use integration::{host, require};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use super::clean::names;

#[track_caller]
pub(super) fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + deadline();
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Of the archive: before the header of its second file.
const HALF: usize = 512 + 4_000_000_usize.next_multiple_of(512);

/// A root file system of two files, large ones.
fn archive(supervisor: &Supervisor) -> Vec<u8> {
    let directory = supervisor.scratch.dir("files");
    // As much as no window of a stream holds, and nothing to compress.
    let noise: Vec<u8> = (0..4_000_000_u32)
        .map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    for name in ["a", "b"] {
        supervisor.scratch.file(&format!("files/{name}"), &noise);
    }
    let path = supervisor.scratch.name("files.tar");
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(&directory).args(["-cf", &path, "a", "b"]);
    finish(tar).success();
    fs::read(path).unwrap()
}

/// One that has taken in a whole entry of an archive, and waits for more.
fn importing(supervisor: &Supervisor, archive: &[u8]) -> Running {
    let mut client = supervisor.start(&["image", "import", "-", IMAGE]);
    client
        .stdin
        .as_mut()
        .unwrap()
        .write_all(&archive[..HALF])
        .unwrap();
    let ingests = supervisor.scratch.path().join("root/ingests");
    until("it does not come in", || {
        let data = names(&ingests).into_iter().next();
        let data = data.and_then(|name| fs::metadata(ingests.join(name).join("data")).ok());
        data.is_some_and(|data| data.len() == HALF as u64)
    });
    client
}

#[test]
fn an_archive_without_its_end_does_not_come_in() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let archive = archive(&supervisor);
    let ingests = supervisor.scratch.path().join("root/ingests");
    let images = || supervisor.says(&["images", "--format", "{{.Repository}} {{.ID}}"]);
    let (before, pid) = (images(), supervisor.pid());
    let client = importing(&supervisor, &archive);
    client.signal(Signal::SIGKILL);
    client.wait();
    until("what came in stays", || names(&ingests).is_empty());
    assert_eq!((images(), supervisor.pid()), (before.clone(), pid));
    let client = importing(&supervisor, &archive);
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    assert!(host::await_end(pid));
    client.wait().failure();
    assert_eq!(images(), before);
    // The same with its end does.
    let mut client = supervisor.start(&["image", "import", "-", IMAGE]);
    client.stdin.take().unwrap().write_all(&archive).unwrap();
    client.wait().success();
    assert_ne!(images(), before);
}

#[test]
fn what_a_daemon_is_at_when_it_is_told_to_end_is_finished() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let archive = archive(&supervisor);
    let socket = supervisor.state.join("caissond.sock");
    let id = supervisor.detached(&[], "echo here; exec sleep 1000");
    let mut log = supervisor.start(&["logs", "-f", &id]);
    assert_eq!(log.stdout.line(), "here");
    let pid = supervisor.pid();
    let mut client = importing(&supervisor, &archive);
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    until("it goes on as before", || !socket.exists());
    let next = supervisor.start(&["version", "--format", "{{.Server.Pid}}"]);
    let mut rest = client.stdin.take().unwrap();
    rest.write_all(&archive[HALF..]).unwrap();
    drop(rest);
    let image = client.wait().success().stdout;
    // Who may wait for ever is not waited for.
    log.wait().failure().says("told to end: containers go on");
    assert!(host::await_end(pid));
    assert_ne!(next.wait().success().stdout.trim(), pid.to_string());
    let found = ["image", "inspect", "--format", "{{.Id}}", IMAGE];
    assert_eq!(supervisor.says(&found), image.trim());
    assert_eq!(supervisor.says(&["exec", &id, "echo", "here"]), "here");
}

#[test]
fn who_wants_an_image_and_leaves_keeps_no_file_open() {
    require!(containers, busybox);
    let supervisor = Supervisor::without_image();
    archive(&supervisor);
    let file = supervisor.scratch.name("files.tar");
    supervisor.says(&["image", "import", &file, "large"]);
    let descriptors = format!("/proc/{}/fd", supervisor.pid());
    let blobs = supervisor.scratch.path().join("root/blobs");
    let reads = || {
        let open = names(descriptors.as_ref()).into_iter();
        open.filter_map(|fd| fs::read_link(format!("{descriptors}/{fd}")).ok())
            .any(|file| file.starts_with(&blobs))
    };
    // Nobody reads its output, and so it takes no more.
    let client = supervisor.start(&["save", "large"]);
    until("no archive goes out", reads);
    client.signal(Signal::SIGKILL);
    client.wait_for_exit();
    until("the daemon keeps the file", || !reads());
}
