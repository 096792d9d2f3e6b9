//! Images that come in, go out and take room, through the client.

use std::fs;
use std::path::Path;

use integration::runtime::Running;
use integration::supervisor::{IMAGE, Supervisor};
use integration::{place, require};
use nix::sys::signal::Signal;

/// What the client has open for writing in a directory.
pub(super) fn has_file_in(client: &Running, directory: &Path) -> bool {
    let fds = fs::read_dir(format!("/proc/{}/fd", client.pid()));
    let links = fds
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|fd| fs::read_link(fd.path()).ok());
    // The directory itself is open, too.
    links
        .into_iter()
        .any(|link| link.starts_with(directory) && link != directory)
}

/// Whether files of a directory can be without a name.
pub(super) fn has_files_without_names(directory: &Path) -> bool {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = fs::OpenOptions::new();
    options.write(true).custom_flags(libc::O_TMPFILE);
    options.open(directory).is_ok()
}

#[test]
fn an_archive_has_its_name_when_it_is_complete_and_nothing_is_left_of_another() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let directory = supervisor.scratch.dir("out");
    let path = directory.join("archive").display().to_string();
    let names = || -> Vec<_> {
        let entries = fs::read_dir(&directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    };
    supervisor
        .ctl(&["save", "-o", &path, "no-such"])
        .failure()
        .says("no such image");
    assert!(names().is_empty());
    // Over what is there, too, and by a name without a directory.
    supervisor.says(&["save", "-o", &path, IMAGE]);
    let first = fs::read(&path).unwrap();
    place::write(Path::new(&path), "old");
    let mut command = supervisor.command(&["save", "-o", "archive", IMAGE]);
    command.current_dir(&directory);
    integration::runtime::finish(command).success();
    assert!(fs::read(&path).unwrap() == first);
    assert_eq!(names(), ["archive"]);
    if !has_files_without_names(&directory) {
        return;
    }
    let daemon = nix::unistd::Pid::from_raw(supervisor.pid());
    nix::sys::signal::kill(daemon, Signal::SIGSTOP).unwrap();
    let client = supervisor.start(&["save", "-o", &path, IMAGE]);
    while !has_file_in(&client, &directory) {
        assert!(!client.has_ended(), "it should wait for the daemon");
        std::thread::yield_now();
    }
    client.signal(Signal::SIGKILL);
    client.wait_for_exit();
    nix::sys::signal::kill(daemon, Signal::SIGCONT).unwrap();
    assert_eq!(names(), ["archive"]);
}
