//! Processes with a terminal.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::{Scratch, available, lines, nonblocking, owner, settle};
use crate::io::{Stdio, Streams};
use crate::sys;

/// What a runtime command does: makes a terminal and sends its master.
fn send_terminal(socket: &Path) -> nix::pty::OpenptyResult {
    let terminal = nix::pty::openpty(None, None).unwrap();
    let peer = UnixStream::connect(socket).unwrap();
    let fds = [terminal.master.as_raw_fd()];
    let data = [std::io::IoSlice::new(b"/dev/ptmx")];
    sendmsg::<()>(
        peer.as_raw_fd(),
        &data,
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::empty(),
        None,
    )
    .unwrap();
    terminal
}

fn raw(terminal: BorrowedFd<'_>) {
    let mut settings = nix::sys::termios::tcgetattr(terminal).unwrap();
    nix::sys::termios::cfmakeraw(&mut settings);
    nix::sys::termios::tcsetattr(terminal, nix::sys::termios::SetArg::TCSANOW, &settings).unwrap();
}

#[tokio::test]
async fn a_terminal_is_received_sized_and_copied() {
    let scratch = Scratch::new();
    let mut out = scratch.reader("out");
    let stdio = Stdio::open(
        &Streams {
            terminal: true,
            stderr: String::new(),
            ..scratch.streams()
        },
        &owner(),
    )
    .await
    .unwrap();
    let socket = stdio.console_socket().unwrap().to_owned();
    stdio.resize(101, 37).unwrap();
    drop(stdio.take_inner().unwrap());
    let terminal = send_terminal(&socket);
    drop(terminal.master);
    let mut slave = File::from(terminal.slave);
    raw(slave.as_fd());
    stdio.start().await.unwrap();
    assert!(!socket.exists(), "the socket is left");
    assert_eq!(sys::tty::size(slave.as_fd()).unwrap(), (101, 37));
    stdio.resize(80, 24).unwrap();
    assert_eq!(sys::tty::size(slave.as_fd()).unwrap(), (80, 24));
    let mut client = scratch.writer();
    client.write_all(b"typed").unwrap();
    settle().await;
    let mut typed = [0; 64];
    assert_eq!(slave.read(&mut typed).unwrap(), 5);
    // More than the fifo and the terminal hold, to a client that reads.
    let all = lines(20_000);
    let mut got = Vec::new();
    let mut rest = &all[..];
    nonblocking(&slave);
    while got.len() < all.len() {
        let length = slave.write(rest).unwrap_or(0);
        rest = &rest[length..];
        settle().await;
        got.extend(available(&mut out));
    }
    assert!(got == all, "changed on the way");
    assert!(!stdio.drained(Duration::from_millis(20)).await);
    drop(slave);
    assert!(stdio.drained(Duration::from_secs(5)).await);
    assert_eq!(stdio.dropped(), 0);
}

#[tokio::test]
async fn a_paste_larger_than_the_terminal_arrives_whole() {
    let scratch = Scratch::new();
    let stdio = Stdio::open(
        &Streams {
            terminal: true,
            ..scratch.streams()
        },
        &owner(),
    )
    .await
    .unwrap();
    let terminal = send_terminal(stdio.console_socket().unwrap());
    drop(terminal.master);
    let mut slave = File::from(terminal.slave);
    raw(slave.as_fd());
    nonblocking(&slave);
    stdio.start().await.unwrap();
    let paste = lines(4_000);
    let mut client = scratch.writer();
    client.write_all(&paste[..]).unwrap();
    let mut got = Vec::new();
    while got.len() < paste.len() {
        settle().await;
        got.extend(available(&mut slave));
    }
    assert!(got == paste, "changed on the way");
}

#[tokio::test]
async fn a_runtime_that_sends_no_terminal_is_told_so() {
    let stdio = Stdio::open(
        &Streams {
            terminal: true,
            ..Streams::default()
        },
        &owner(),
    )
    .await
    .unwrap();
    assert_eq!(
        stdio.start().await.unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    let directory = stdio.console_socket().unwrap().parent().unwrap().to_owned();
    assert!(directory.exists());
    drop(stdio);
    assert!(!directory.exists());
}
