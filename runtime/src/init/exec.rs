//! The end of init: working directory, home directory, the program itself.
//!
//! Runs in init, in the container's root, at the end as the container's user. Here alone paths are walked from `/`: with no more rights
//! than the program will have.

use super::{At, Digits, Done, Fail, Init};
use crate::plan::{Exec, Op};
use crate::sync::{self, Message};
use crate::sys::mount::fs_magic;
use crate::sys::process::{self, MAX_HOME};
use crate::sys::{Errno, fs, signal, socket};
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

impl Init {
    /// Enters the working directory. The first time before the identity changes, when a directory that only root may enter is opened; the second
    /// time after, when it must be one that the user may enter (runc allows either).
    pub(crate) fn change_directory(&mut self, path: &CStr, last: bool) -> Done {
        if !last {
            match self.root()?.open(path, libc::O_PATH | libc::O_DIRECTORY) {
                // Perhaps the user may: a network file system without access for root.
                Err(Errno::EACCES) => return Ok(()),
                other => self.cwd = Some(other.at(Op::Whole)?),
            }
            if let Some(cwd) = &self.cwd {
                fs::chdir(cwd)?;
            }
            return Ok(());
        }
        if self.cwd.is_none() {
            self.cwd = Some(self.root()?.open(path, libc::O_PATH | libc::O_DIRECTORY)?);
            if let Some(cwd) = &self.cwd {
                fs::chdir(cwd)?;
            }
        }
        // A directory of the host that leaked in would be unreachable from here (CVE-2024-21626).
        if !fs::cwd_is_reachable()? {
            return Err(Errno::EPERM).at(Op::Unreachable);
        }
        Ok(())
    }

    /// Sets HOME from the container's /etc/passwd; `/` if the user has no entry.
    pub(crate) fn find_home(&self, uid: u32, exec: &mut Exec) -> Done {
        const PASSWD_MAX: usize = 4 << 20;
        exec.envp.set_home(b"/");
        // A fifo or device in its place must not block or be read.
        let Ok(file) = self.root()?.open(
            c"/etc/passwd",
            libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY,
        ) else {
            return Ok(());
        };
        // Nor is a link to a file of /proc followed up: that is of this process (its environment is the host's), or not to be read lightly.
        if fs::stat(&file)?.st_mode & libc::S_IFMT != libc::S_IFREG
            || fs_magic(&file)? == libc::PROC_SUPER_MAGIC
        {
            return Ok(());
        }
        let mut lines = [0; 8192];
        let (mut filled, mut total) = (0, 0);
        loop {
            let read = fs::read(&file, &mut lines[filled..])?;
            filled += read;
            total += read;
            let end = match lines[..filled].iter().rposition(|b| *b == b'\n') {
                Some(at) => at + 1,
                None => filled,
            };
            if let Some(home) = lines[..end]
                .split(|b| *b == b'\n')
                .find_map(|line| home_of(line, uid))
            {
                exec.envp.set_home(home);
                return Ok(());
            }
            if read == 0 || total > PASSWD_MAX {
                return Ok(());
            }
            lines.copy_within(end..filled, 0);
            filled -= end;
        }
    }

    /// Finds the program, with execvp's rules as Go has them: in PATH, what cannot be executed is passed over.
    pub(crate) fn look_up(&mut self, exec: &Exec) -> Done {
        let mut failure = Errno::ENOENT;
        for (at, candidate) in exec.candidates.iter().enumerate() {
            match executable(candidate) {
                Ok(()) => {
                    self.program = at;
                    return Ok(());
                }
                Err(errno) if exec.candidates.len() == 1 => failure = errno,
                Err(_) => {}
            }
        }
        let by_path = exec
            .argv
            .strings()
            .first()
            .is_some_and(|name| !name.to_bytes().contains(&b'/'));
        Err(if by_path { Errno::ENOENT } else { failure }).at(Op::Resolve)
    }

    /// Opens the start fifo for writing: it blocks until `start` opens it for reading. From then on, failures go there.
    pub(crate) fn await_start(&mut self) -> Done {
        let fifo = self.files.fifo.as_ref().ok_or(Errno::EBADF)?;
        let path = Digits::fd_path(fifo.as_fd());
        self.fifo = Some(fs::open_follow(
            &self.files.proc,
            path.as_c_str(),
            libc::O_WRONLY,
        )?);
        Ok(())
    }

    /// Closes everything from `first` on but what later steps need, and lets the program have what the caller passes on. Close-on-exec would not
    /// do: execve walks the paths of the program and of its interpreter before it closes anything, and a directory of the host is a way there for
    /// whoever wrote that path, as `/proc/self/fd/N/..` (CVE-2024-21626).
    pub(crate) fn close_from(&mut self, first: u32, last: bool) -> Done {
        for number in 3..first.cast_signed() {
            process::clear_cloexec(number)?;
        }
        let files = &mut self.files;
        // Closed by their numbers.
        std::mem::forget(std::mem::take(&mut files.slots));
        std::mem::forget(std::mem::take(&mut files.kept));
        std::mem::forget(std::mem::take(&mut files.layers));
        std::mem::forget(std::mem::take(&mut self.masks));
        std::mem::forget((files.console_socket.take(), self.cwd.take()));
        std::mem::forget((files.cgroup.take(), files.lending.take()));
        self.has_files = !last;
        if last {
            std::mem::forget(self.root.take());
            return Ok(close_but(&files.proc, first, &[files.sync.as_fd()])?);
        }
        let [out, err] = &files.hook_outputs;
        let kept = [&files.fifo, out, err].map(|file| file.as_ref().map(AsFd::as_fd));
        let root = self.root.as_ref().map(AsFd::as_fd);
        let sync = files.sync.as_fd();
        let [fifo, out, err] = kept.map(|file| file.unwrap_or(sync));
        let keep = [
            sync,
            files.proc.as_fd(),
            fifo,
            out,
            err,
            root.unwrap_or(sync),
        ];
        Ok(close_but(&files.proc, first, &keep)?)
    }

    /// Closes what was needed until now. That a filter does not let it is no reason to leave anything open.
    fn close_files(&self) -> Done {
        let [out, err] = &self.files.hook_outputs;
        let files = [
            Some(&self.files.proc),
            self.files.fifo.as_ref(),
            out.as_ref(),
            err.as_ref(),
        ];
        for file in files.into_iter().flatten() {
            process::close(file.as_raw_fd())?;
        }
        Ok(())
    }

    /// No signal ignored and none blocked, whatever the caller of this command did with his: as with runc and crun. From here on, the
    /// parent's death shows as the end of the socket only, until the program runs.
    pub(crate) fn reset_signals() -> Done {
        process::set_parent_death_signal(0)?;
        Ok(signal::reset()?)
    }

    /// Executes the program.
    pub(crate) fn execute(&self, exec: &Exec) -> Done {
        if self.has_files {
            self.close_files()?;
        }
        if self.fifo.is_none() {
            sync::tell(&self.files.sync, &Message::Executing).at(Op::Protocol)?;
        }
        let program = exec.candidates.get(self.program).ok_or(Errno::ENOENT)?;
        // Not before: whom startContainer hooks or this step write to may be gone, which is no reason to die of.
        signal::set_default(libc::SIGPIPE)?;
        let errno = process::execve(program, &exec.argv, &exec.envp);
        signal::ignore(libc::SIGPIPE)?;
        Err(Fail::from(errno))
    }
}

/// Opens a directory as this number.
pub(super) fn reopen(path: &CStr, number: i32) -> Done {
    let directory = fs::open_follow(fs::CWD, path, libc::O_RDONLY | libc::O_DIRECTORY)?;
    Ok(fs::dup_onto(&directory, number)?)
}

/// Sends one of a new pair of sockets over the one of this number, whose place the other takes. To the program that keeps it, its peer is itself
/// then (SO_PEERCRED of unix(7)).
pub(super) fn converse(number: i32) -> Done {
    let (theirs, ours) = socket::pair()?;
    let parent = fs::duplicate(number)?;
    socket::send_with_fd(&parent, b"socket", Some(theirs.as_fd()))?;
    Ok(fs::dup_onto(&ours, number)?)
}

/// Closes every descriptor from `first` on but these. `proc` is a procfs, and may be among those that go.
pub(super) fn close_but(proc: &OwnedFd, first: u32, keep: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let kept = |from: u32| {
        let numbers = keep.iter().map(|fd| fd.as_raw_fd().cast_unsigned());
        numbers.filter(|number| *number >= from).min()
    };
    let mut from = first;
    loop {
        let next = kept(from);
        let last = next.map_or(u32::MAX, |number| number - 1);
        if from <= last {
            match process::close_range(from, last) {
                // KERNEL(5.9): drop this, but for profiles that do not know the call.
                Err(Errno::ENOSYS | Errno::EPERM) => return close_listed(proc, first, keep),
                other => other?,
            }
        }
        match next {
            Some(number) => from = number + 1,
            None => return Ok(()),
        }
    }
}

fn close_listed(proc: &OwnedFd, first: u32, keep: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let directory = fs::open(proc, c"self/fd", libc::O_RDONLY | libc::O_DIRECTORY)?;
    fs::for_each_descriptor(&directory, |number| {
        let kept = keep.iter().any(|fd| fd.as_raw_fd() == number);
        match number < first.cast_signed() || kept {
            true => Ok(()),
            false => process::close(number),
        }
    })
}

/// Whether execve would take this file, as far as one can know before.
fn executable(path: &CStr) -> Result<(), Errno> {
    let stat = fs::stat_at(fs::CWD, path, 0)?;
    if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
        return Err(Errno::EISDIR);
    }
    fs::access(path, libc::X_OK)
}

/// The home directory in a line of passwd(5), if the line is the user's.
fn home_of(line: &[u8], uid: u32) -> Option<&[u8]> {
    let mut fields = line.split(|b| *b == b':');
    let id = fields.nth(2)?;
    let home = fields.nth(2)?;
    let id: u32 = std::str::from_utf8(id).ok()?.parse().ok()?;
    (id == uid && !home.is_empty() && home.len() <= MAX_HOME).then_some(home)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwd_lines_are_matched_by_id() {
        assert_eq!(
            home_of(b"web:x:33:33:web:/var/www:/bin/sh", 33),
            Some(&b"/var/www"[..])
        );
        assert_eq!(home_of(b"web:x:33:33:web:/var/www:/bin/sh", 3), None);
        assert_eq!(home_of(b"web:x:+33", 33), None);
        assert_eq!(home_of(b"", 0), None);
        assert_eq!(home_of(b"a:x:99999999999:0::/:", 0), None);
    }
}
