//! `--pidfd-socket`, and crun's annotation for the same: a pidfd of the process, over a socket.

use integration::socket::FdSocket;
use integration::{Bundle, beyond, peer, require, runtime};
use serde_json::json;
use std::os::fd::{AsRawFd, OwnedFd};

#[test]
fn create_sends_the_pidfd_of_init() {
    require!(containers);
    beyond!(
        create_sends_the_pidfd_of_init,
        [
            runc_before("1.3", "does not have the flag"),
            crun("does not have the flag")
        ]
    );
    let bundle = Bundle::new();
    let (socket, path) = socket(&bundle);
    let mut container = bundle.create_with(&["--pidfd-socket", &path]).unwrap();
    let (text, pidfd) = socket.receive();
    assert_eq!(text, "standard");
    assert_eq!(pid(&pidfd), container.pid);
    container.delete_by_force().success();
    assert!(runtime::readable(&pidfd), "it ended");
}

#[test]
fn run_sends_the_pidfd_of_init() {
    require!(containers);
    beyond!(
        run_sends_the_pidfd_of_init,
        [
            runc_before("1.3", "does not have the flag"),
            crun("does not have the flag")
        ]
    );
    let mut bundle = Bundle::new();
    bundle.config.probe(&["exit", "3"]);
    let (socket, path) = socket(&bundle);
    assert_eq!(bundle.run_with(&["--pidfd-socket", &path]).code(), 3);
    let (text, pidfd) = socket.receive();
    assert_eq!(text, "standard");
    assert!(runtime::readable(&pidfd), "it ended");
}

#[test]
fn exec_sends_the_pidfd_of_its_process() {
    require!(containers);
    beyond!(
        exec_sends_the_pidfd_of_its_process,
        [
            runc_before("1.3", "does not have the flag"),
            crun("does not have the flag")
        ]
    );
    let mut bundle = Bundle::new();
    let (socket, path) = socket(&bundle);
    let container = bundle.pause();
    let process = container.exec_detached(&["--pidfd-socket", &path], &["/bin/probe", "pause"]);
    let (text, pidfd) = socket.receive();
    assert_eq!(text, "setns");
    assert_eq!(pid(&pidfd), process.pid);
}

#[test]
fn the_receiver_of_cruns_annotation_gets_the_pidfd() {
    require!(containers);
    beyond!(
        the_receiver_of_cruns_annotation_gets_the_pidfd,
        [runc("does not know it")]
    );
    let mut bundle = Bundle::new();
    let (socket, path) = socket(&bundle);
    bundle
        .config
        .set("/annotations", json!({ "run.oci.pidfd_receiver": path }));
    let container = bundle.create();
    let (_, pidfd) = socket.receive();
    assert_eq!(pid(&pidfd), container.pid);
}

#[test]
fn a_socket_that_nobody_listens_on_fails_create_before_anything_is_made() {
    require!(containers);
    beyond!(
        a_socket_that_nobody_listens_on_fails_create_before_anything_is_made,
        [runc_from("1.2", "leaves the directory of the state")]
    );
    let bundle = Bundle::new();
    let path = bundle.scratch.name("nobody.sock");
    let finished = bundle.create_with(&["--pidfd-socket", &path]).unwrap_err();
    if !peer::is("runc") && !peer::is("crun") {
        finished.failure().says("pidfd socket").says(&path);
    }
}

fn socket(bundle: &Bundle) -> (FdSocket, String) {
    let path = bundle.scratch.path().join("pidfd.sock");
    (FdSocket::listen(path.clone()), path.display().to_string())
}

/// The pid behind a pidfd, as this pid namespace counts.
#[track_caller]
fn pid(pidfd: &OwnedFd) -> i32 {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(path).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Pid:"));
    line.unwrap_or_else(|| panic!("no pidfd: {text}"))
        .trim()
        .parse()
        .unwrap()
}
