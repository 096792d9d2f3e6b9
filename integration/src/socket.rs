//! Unix sockets that a test holds out to a runtime: what comes over them is text with file descriptors.

use crate::runtime::readable;
use crate::sys;
use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

/// A listening stream socket over which runtimes send one message with one descriptor.
#[derive(Debug)]
pub struct FdSocket {
    /// Where it is.
    pub path: PathBuf,
    pub(crate) listener: UnixListener,
}

impl FdSocket {
    /// Listens on a socket of this path, which should be short: 107 bytes is the most that the kernel takes.
    #[track_caller]
    pub fn listen(path: PathBuf) -> FdSocket {
        let listener = UnixListener::bind(&path)
            .unwrap_or_else(|error| panic!("listen on {}: {error}", path.display()));
        FdSocket { path, listener }
    }

    /// Takes one connection and what it sends: a text that is not empty, and exactly one descriptor.
    #[track_caller]
    pub fn receive(&self) -> (String, OwnedFd) {
        let name = self.path.display();
        assert!(readable(&self.listener), "nobody connected to {name}");
        let (stream, _) = self
            .listener
            .accept()
            .unwrap_or_else(|error| panic!("accept: {error}"));
        assert!(readable(&stream), "nothing came over {name}");
        let (text, mut fds) = message(&stream);
        assert_eq!(fds.len(), 1, "{name} gets exactly one descriptor");
        assert!(
            (1..4096).contains(&text.len()),
            "{name} gets a text: {} bytes",
            text.len()
        );
        (String::from_utf8_lossy(&text).into_owned(), fds.remove(0))
    }
}

/// Reads one message, and all descriptors that came with it.
#[track_caller]
pub fn message(socket: &impl AsFd) -> (Vec<u8>, Vec<OwnedFd>) {
    let mut text = vec![0u8; 16384];
    // Room for more than the one that there should be.
    let mut space = cmsg_space!([RawFd; 8]);
    let mut parts = [IoSliceMut::new(&mut text)];
    let socket = socket.as_fd().as_raw_fd();
    let received = recvmsg::<()>(
        socket,
        &mut parts,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )
    .unwrap_or_else(|errno| panic!("receive from a socket: {errno}"));
    let control = received
        .cmsgs()
        .unwrap_or_else(|errno| panic!("control messages: {errno}"));
    let fds: Vec<OwnedFd> = control
        .filter_map(|message| match message {
            ControlMessageOwned::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .map(sys::received)
        .collect();
    let length = received.bytes;
    text.truncate(length);
    (text, fds)
}
