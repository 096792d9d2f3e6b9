//! Unix sockets that carry one message with at most one file descriptor: the parent–init protocol, and the master of a pseudo-terminal.
//!
//! Runs in the runtime's own process and in init, where nothing may be allocated: messages lie on the stack or with the caller.

use super::{Errno, Result};
use std::ffi::{CStr, c_int, c_void};
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A pair of connected SOCK_SEQPACKET sockets: messages keep their boundaries, and the death of one end is EOF at the other.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd)> {
    let mut fds: [c_int; 2] = [-1; 2];
    // SAFETY: the kernel stores two integers in `fds`.
    let ret = unsafe {
        libc::socketpair(
            libc::AF_UNIX,
            libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC,
            0,
            fds.as_mut_ptr(),
        )
    };
    Errno::result(ret)?;
    // SAFETY: a new descriptor, which nobody else owns.
    let first = unsafe { OwnedFd::from_raw_fd(fds[0]) };
    // SAFETY: a new descriptor, which nobody else owns.
    let second = unsafe { OwnedFd::from_raw_fd(fds[1]) };
    Ok((first, second))
}

/// A control message of type SCM_RIGHTS with room for exactly one descriptor, laid out as `CMSG_DATA` has it.
#[repr(C)]
struct OneFd {
    header: libc::cmsghdr,
    fd: c_int,
}

impl OneFd {
    /// CMSG_LEN(4). With CMSG_SPACE(4), which is padded, the kernel would deliver a second descriptor, and it would leak.
    const LEN: usize = offset_of!(OneFd, fd) + size_of::<c_int>();

    fn new(fd: c_int) -> Self {
        let header = libc::cmsghdr {
            cmsg_len: Self::LEN,
            cmsg_level: libc::SOL_SOCKET,
            cmsg_type: libc::SCM_RIGHTS,
        };
        OneFd { header, fd }
    }
}

/// sendmsg(2) of one message, with one descriptor if given. A peer that is gone is EPIPE, never SIGPIPE.
/// An empty message cannot be told from EOF: send at least one byte.
pub(crate) fn send_with_fd(
    socket: impl AsFd,
    data: &[u8],
    fd: Option<BorrowedFd<'_>>,
) -> Result<()> {
    let mut control = OneFd::new(fd.map_or(-1, |fd| fd.as_raw_fd()));
    let mut iov = libc::iovec {
        iov_base: data.as_ptr().cast_mut().cast(),
        iov_len: data.len(),
    };
    let message = message(&mut iov, fd.is_some().then_some(&mut control));
    loop {
        // SAFETY: `message` points to `iov`, which describes `data`, and to `control` with its length; the kernel only reads them.
        let ret = unsafe {
            libc::sendmsg(
                socket.as_fd().as_raw_fd(),
                &raw const message,
                libc::MSG_NOSIGNAL,
            )
        };
        match Errno::result(ret) {
            Err(Errno::EINTR) => (),
            // Only a stream socket takes a part of a message.
            Ok(sent) if sent as usize != data.len() => return Err(Errno::EMSGSIZE),
            other => return other.map(drop),
        }
    }
}

/// recvmsg(2) of one message and the descriptor it may carry (close-on-exec). A length of 0 is EOF.
/// EMSGSIZE if the message is longer than `data` or carries more than one descriptor.
pub(crate) fn recv_with_fd(socket: impl AsFd, data: &mut [u8]) -> Result<(usize, Option<OwnedFd>)> {
    let mut control = OneFd::new(-1);
    let mut iov = libc::iovec {
        iov_base: data.as_mut_ptr().cast(),
        iov_len: data.len(),
    };
    let mut message = message(&mut iov, Some(&mut control));
    let received = loop {
        // SAFETY: `message` points to `iov`, which describes `data`, and to `control` with its length; both live across the call.
        let ret = unsafe {
            libc::recvmsg(
                socket.as_fd().as_raw_fd(),
                &raw mut message,
                libc::MSG_CMSG_CLOEXEC,
            )
        };
        match Errno::result(ret) {
            Err(Errno::EINTR) => (),
            other => break other? as usize,
        }
    };
    let truncated = message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
    let is_fd = message.msg_controllen >= OneFd::LEN
        && control.header.cmsg_level == libc::SOL_SOCKET
        && control.header.cmsg_type == libc::SCM_RIGHTS;
    // SAFETY: the kernel has just installed this descriptor for us; nobody else owns it. A truncated message may hold one too.
    let fd = is_fd.then(|| unsafe { OwnedFd::from_raw_fd(control.fd) });
    if truncated {
        Err(Errno::EMSGSIZE)
    } else {
        Ok((received, fd))
    }
}

/// A message header over one buffer and, if given, one control message.
fn message(iov: &mut libc::iovec, control: Option<&mut OneFd>) -> libc::msghdr {
    libc::msghdr {
        msg_name: std::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: iov,
        msg_iovlen: 1,
        msg_controllen: if control.is_some() { OneFd::LEN } else { 0 },
        msg_control: control.map_or(std::ptr::null_mut(), |control| {
            std::ptr::from_mut(control).cast::<c_void>()
        }),
        msg_flags: 0,
    }
}

/// Sends the master of a pseudo-terminal over a console socket, as receivers of runc's expect it: one message whose text is
/// `name` (any, but not empty), with one descriptor.
pub(crate) fn send_master(socket: impl AsFd, master: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    send_with_fd(socket, name.to_bytes(), Some(master))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_message_arrives_whole_with_its_descriptor_and_close_on_exec() {
        let (a, b) = pair().unwrap();
        let (mut reader, writer) = UnixStream::pair().unwrap();
        send_with_fd(&a, b"first", Some(writer.as_fd())).unwrap();
        send_with_fd(&a, b"second", None).unwrap();
        drop(writer);

        let mut data = [0; 16];
        let (length, fd) = recv_with_fd(&b, &mut data).unwrap();
        assert_eq!(&data[..length], b"first");
        let fd = fd.unwrap();
        let flags = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags, libc::FD_CLOEXEC);
        nix::unistd::write(&fd, b"x").unwrap();
        drop(fd);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(
            text, "x",
            "the only other copy of the write end is the one that was sent and closed"
        );

        let (length, fd) = recv_with_fd(&b, &mut data).unwrap();
        assert_eq!(&data[..length], b"second");
        assert!(fd.is_none());
    }

    #[test]
    fn a_closed_peer_is_eof_to_a_reader_and_epipe_to_a_writer() {
        let (a, b) = pair().unwrap();
        drop(a);
        assert_eq!(recv_with_fd(&b, &mut [0; 4]).unwrap().0, 0);
        assert_eq!(send_with_fd(&b, b"x", None), Err(Errno::EPIPE));
    }

    #[test]
    fn a_message_longer_than_the_buffer_is_refused() {
        let (a, b) = pair().unwrap();
        send_with_fd(&a, b"too long", None).unwrap();
        assert_eq!(recv_with_fd(&b, &mut [0; 4]).unwrap_err(), Errno::EMSGSIZE);
    }

    #[test]
    fn a_second_descriptor_is_refused_and_none_of_them_stays_open() {
        use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
        let (a, b) = pair().unwrap();
        let (mut reader, writer) = UnixStream::pair().unwrap();
        let raw = [writer.as_raw_fd(), writer.as_raw_fd()];
        let iov = [std::io::IoSlice::new(b"x")];
        let cmsg = [ControlMessage::ScmRights(&raw)];
        sendmsg::<()>(a.as_raw_fd(), &iov, &cmsg, MsgFlags::empty(), None).unwrap();
        drop(writer);
        assert_eq!(recv_with_fd(&b, &mut [0; 4]).unwrap_err(), Errno::EMSGSIZE);
        assert_eq!(
            reader.read(&mut [0; 1]).unwrap(),
            0,
            "EOF: no copy of the write end is left"
        );
    }

    #[test]
    fn the_console_message_is_one_descriptor_with_a_name_over_a_stream() {
        let (a, b) = UnixStream::pair().unwrap();
        let (_reader, writer) = UnixStream::pair().unwrap();
        send_master(&a, writer.as_fd(), c"/dev/ptmx").unwrap();
        let mut data = [0; 4096];
        let (length, fd) = recv_with_fd(&b, &mut data).unwrap();
        assert_eq!(&data[..length], b"/dev/ptmx");
        assert!(fd.is_some());
    }
}
