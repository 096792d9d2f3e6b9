//! The terminal of the process.
//!
//! Runs in init, with the container's root as the root. The pty comes from the container's own devpts, where its /dev/ptmx leads somewhere else too;
//! its slave is taken from the master (TIOCGPTPEER), never by path (CVE-2025-52565).

use super::root::{Missing, Root};
use super::{At, Done, Files};
use crate::plan::{Console, Op};
use crate::sync::{self, Message};
use crate::sys::mount::{attach, clone_tree, fs_magic};
use crate::sys::{Errno, fs, socket, tty};
use std::os::fd::{AsFd, OwnedFd};

/// What the terminal is bound to. A link of the image could have it cover any file, before paths are masked and made read-only.
fn console_of(root: &Root) -> Done<OwnedFd> {
    let target = match root.open_last(c"/dev/console") {
        Err(Errno::ENOENT) => root.make(c"/dev/console", Missing::File)?,
        found => found.at(Op::Resolve)?,
    };
    if fs::stat(&target).at(Op::Resolve)?.st_mode & libc::S_IFMT == libc::S_IFLNK {
        return Err(Errno::ELOOP).at(Op::Resolve);
    }
    // Its directory may be a link.
    if fs_magic(&target).at(Op::Verify)? == libc::PROC_SUPER_MAGIC {
        return Err(Errno::EINVAL).at(Op::Forbidden);
    }
    Ok(target)
}

/// Opens a pty, sends its master away, and makes its slave the controlling terminal and the standard streams.
pub(crate) fn set_up(root: &Root, console: &Console, files: &Files) -> Done {
    let open = |path| root.open_device(path, libc::makedev(5, 2), files);
    let master = open(c"/dev/pts/ptmx")
        .or_else(|_| open(c"/dev/ptmx"))
        .at(Op::OpenPty)?;
    tty::unlock(&master).at(Op::OpenPty)?;
    let slave = tty::peer(&master).at(Op::OpenPty)?;
    if console.rows != 0 || console.columns != 0 {
        let size = tty::WindowSize {
            ws_row: console.rows,
            ws_col: console.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tty::set_size(&master, &size).at(Op::OpenPty)?;
    }
    if console.bind {
        let tree = clone_tree(&slave, c"", false).at(Op::CloneSource)?;
        attach(tree, console_of(root)?).at(Op::Attach)?;
    }
    match &files.console_socket {
        Some(to) => socket::send_master(to, master.as_fd(), c"/dev/ptmx").at(Op::SendPty)?,
        // The program may look at the size at once: the parent sets it first.
        None => sync::hand_over(&files.sync, &Message::Terminal, master.as_fd())
            .and_then(|()| sync::await_go(&files.sync))
            .at(Op::SendPty)?,
    }
    tty::set_controlling(&slave).at(Op::TakePty)?;
    for number in 0..=2 {
        fs::dup_onto(&slave, number).at(Op::TakePty)?;
    }
    Ok(())
}
