//! Which file descriptors reach the container, and that no other does.

use integration::{Bundle, Seen, beyond, require};
use std::path::Path;

#[test]
fn the_container_has_its_standard_streams_and_nothing_else() {
    require!(containers);
    let seen = Bundle::new().report(&[]);
    assert_eq!(numbers(&seen), [0, 1, 2]);
}

#[test]
fn descriptors_of_the_caller_are_not_passed_on() {
    require!(containers);
    // CVE-2024-21626: a directory of the host that stays open is a way out.
    let mut bundle = Bundle::new();
    let directory = bundle.scratch.dir("open");
    bundle.runtime =
        bundle
            .runtime
            .with_files(&[&directory, Path::new("/"), Path::new("/sys/fs/cgroup")]);
    assert_eq!(numbers(&bundle.report(&[])), [0, 1, 2]);
    let container = bundle.pause();
    assert_eq!(numbers(&container.exec_report(&[], &[])), [0, 1, 2]);
}

#[test]
fn a_container_that_waits_for_its_start_keeps_no_file_of_the_host_open() {
    require!(containers);
    let what = "keeps directories of the host open, which are close-on-exec";
    beyond!(
        a_container_that_waits_for_its_start_keeps_no_file_of_the_host_open,
        [crun(what), runc_before("1.1.15", what)]
    );
    let mut bundle = Bundle::new();
    let directory = bundle.scratch.dir("open");
    bundle.runtime = bundle.runtime.with_files(&[&directory]);
    let container = bundle.create();
    let links = std::fs::read_dir(format!("/proc/{}/fd", container.pid)).unwrap();
    let targets = links.flatten().map(|link| {
        let target = std::fs::read_link(link.path()).unwrap();
        (link.file_name(), target.display().to_string())
    });
    // Beside the standard streams: the fifo it waits at, a socket, and the procfs that its last steps may need.
    let unexpected = |(name, target): &(std::ffi::OsString, String)| {
        let expected = target.ends_with("/exec.fifo")
            || target.starts_with("socket:[")
            || target.starts_with("anon_inode:[")
            // A procfs by another name, or the sealed program.
            || ["/", "/proc", "/1/task/1/fd", "/runc"].contains(&&**target);
        !["0", "1", "2"].iter().any(|stream| name == stream) && !expected
    };
    let kept: Vec<_> = targets.filter(unexpected).collect();
    assert!(kept.is_empty(), "{kept:?}");
}

#[test]
fn a_working_directory_cannot_be_a_descriptor_of_the_runtime() {
    require!(containers);
    beyond!(
        a_working_directory_cannot_be_a_descriptor_of_the_runtime,
        [crun_before("1.14.3", "CVE-2024-21626")]
    );
    // CVE-2024-21626 again, by its other half.
    let mut bundle = Bundle::new();
    bundle.runtime = bundle
        .runtime
        .with_files(&[Path::new("/"), Path::new("/sys/fs/cgroup")]);
    for fd in 3..16 {
        bundle
            .config
            .set("/process/cwd", format!("/proc/self/fd/{fd}"))
            .probe(&["report", "ls=."]);
        let finished = bundle.run();
        if finished.status.success() {
            let seen = integration::bundle::seen(&finished);
            let cwd = seen.cwd.0.clone().unwrap_or_default();
            assert!(
                cwd.starts_with("/proc"),
                "fd {fd} leads to {cwd:?} with {:?}",
                seen.lists
            );
        }
    }
}

#[test]
fn preserved_descriptors_are_passed_on() {
    require!(containers);
    let mut bundle = Bundle::new();
    let (first, second, third) = files(&bundle);
    bundle.runtime = bundle.runtime.with_files(&[&first, &second, &third]);
    let seen = bundle.report_with(&["--preserve-fds", "2"], &[]);
    assert_eq!(numbers(&seen), [0, 1, 2, 3, 4]);
    assert!(
        seen.fds[&3].ends_with("first") && seen.fds[&4].ends_with("second"),
        "{:?}",
        seen.fds
    );
    assert_eq!(
        (seen.var("LISTEN_FDS"), seen.var("LISTEN_PID")),
        (None, None)
    );
}

#[test]
fn listening_descriptors_are_passed_on_and_announced() {
    require!(containers);
    beyond!(
        listening_descriptors_are_passed_on_and_announced,
        [crun("sets LISTEN_PID but not LISTEN_FDS")]
    );
    let mut bundle = Bundle::new();
    let (first, second, third) = files(&bundle);
    bundle.runtime = bundle.runtime.with_files(&[&first, &second, &third]);
    bundle
        .runtime
        .env
        .push(("LISTEN_FDS".to_owned(), "2".to_owned()));
    let seen = bundle.report(&[]);
    assert_eq!(numbers(&seen), [0, 1, 2, 3, 4]);
    assert_eq!(
        (seen.var("LISTEN_FDS"), seen.var("LISTEN_PID")),
        (Some("2"), Some("1"))
    );
}

#[test]
fn listening_descriptors_of_another_process_stay_out() {
    require!(containers);
    beyond!(
        listening_descriptors_of_another_process_stay_out,
        [crun("does not look at LISTEN_PID")]
    );
    let mut bundle = Bundle::new();
    let (first, second, third) = files(&bundle);
    bundle.runtime = bundle.runtime.with_files(&[&first, &second, &third]);
    for (name, value) in [("LISTEN_FDS", "2"), ("LISTEN_PID", "1")] {
        let pair = (name.to_owned(), value.to_owned());
        bundle.runtime.env.push(pair);
    }
    let seen = bundle.report(&[]);
    assert_eq!(numbers(&seen), [0, 1, 2]);
    assert_eq!(
        (seen.var("LISTEN_FDS"), seen.var("LISTEN_PID")),
        (None, None)
    );
}

#[test]
fn preserved_descriptors_follow_the_listening_ones() {
    require!(containers);
    beyond!(
        preserved_descriptors_follow_the_listening_ones,
        [crun("sets LISTEN_PID but not LISTEN_FDS")]
    );
    let mut bundle = Bundle::new();
    let (first, second, third) = files(&bundle);
    bundle.runtime = bundle.runtime.with_files(&[&first, &second, &third]);
    bundle
        .runtime
        .env
        .push(("LISTEN_FDS".to_owned(), "1".to_owned()));
    let seen = bundle.report_with(&["--preserve-fds", "1"], &[]);
    assert_eq!(numbers(&seen), [0, 1, 2, 3, 4]);
    assert!(seen.fds[&4].ends_with("second"), "{:?}", seen.fds);
    assert_eq!(seen.var("LISTEN_FDS"), Some("1"));
}

#[test]
fn preserved_descriptors_that_are_not_open_are_refused() {
    require!(containers);
    beyond!(
        preserved_descriptors_that_are_not_open_are_refused,
        [
            runc("takes descriptors of its own for the caller's"),
            crun("ignores it")
        ]
    );
    let mut bundle = Bundle::new();
    bundle.config.probe(&["exit", "0"]);
    let finished = bundle.create_with(&["--preserve-fds", "3"]).unwrap_err();
    finished.says("unable to stat preserved-fd 1 (of 3)");
}

#[test]
fn preserved_descriptors_are_open_in_a_container_that_is_started_later() {
    require!(containers);
    let mut bundle = Bundle::new();
    let (first, _, _) = files(&bundle);
    bundle.runtime = bundle.runtime.with_files(&[&first]);
    bundle.config.probe(&["report"]);
    let mut container = bundle.create_with(&["--preserve-fds", "1"]).unwrap();
    container.start().success();
    let seen: Seen = serde_json::from_str(&container.stdout.line()).unwrap();
    assert_eq!(numbers(&seen), [0, 1, 2, 3]);
}

#[test]
fn exec_preserves_descriptors_too() {
    require!(containers);
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let (first, second, _) = files(&bundle);
    let runtime = container.runtime.with_files(&[&first, &second]);
    let exec = |flags: &[&str], runtime: &integration::Runtime| {
        let finished =
            runtime.call(&[&["exec"], flags, &[&container.id, "/bin/probe", "report"]].concat());
        integration::bundle::seen(&finished.success())
    };
    assert_eq!(numbers(&exec(&[], &runtime)), [0, 1, 2]);
    assert_eq!(
        numbers(&exec(&["--preserve-fds", "1"], &runtime)),
        [0, 1, 2, 3]
    );
}

fn files(bundle: &Bundle) -> (std::path::PathBuf, std::path::PathBuf, std::path::PathBuf) {
    let file = |name| bundle.scratch.file(name, name);
    (file("first"), file("second"), file("third"))
}

fn numbers(seen: &Seen) -> Vec<i32> {
    seen.fds.keys().copied().collect()
}
