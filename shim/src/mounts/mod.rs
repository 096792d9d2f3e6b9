//! The mounts that containerd asks for in Create: what becomes the container's root file system, in the bundle.
//!
//! Runs in the serving shim and in `delete`, in the host's mount namespace, where containerd expects them. Callers do not wait in their own
//! thread (see `aside`): a disk or a server may answer late, or never.

mod id_map;
mod loop_device;
mod overlay;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2, readlink};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;

pub use self::id_map::user_namespace;
use self::overlay::Overlay;
use crate::error::{Error, Kind, Result};
use crate::protos::types::Mount;
use crate::sys;

/// Words that are flags of mount(2); `true` sets, `false` clears.
const FLAGS: &[(&str, MsFlags, bool)] = &[
    ("async", MsFlags::MS_SYNCHRONOUS, false),
    ("atime", MsFlags::MS_NOATIME, false),
    ("bind", MsFlags::MS_BIND, true),
    ("defaults", MsFlags::empty(), true),
    ("dev", MsFlags::MS_NODEV, false),
    ("diratime", MsFlags::MS_NODIRATIME, false),
    ("dirsync", MsFlags::MS_DIRSYNC, true),
    ("exec", MsFlags::MS_NOEXEC, false),
    ("mand", MsFlags::MS_MANDLOCK, true),
    ("noatime", MsFlags::MS_NOATIME, true),
    ("nodev", MsFlags::MS_NODEV, true),
    ("nodiratime", MsFlags::MS_NODIRATIME, true),
    ("noexec", MsFlags::MS_NOEXEC, true),
    ("nomand", MsFlags::MS_MANDLOCK, false),
    ("norelatime", MsFlags::MS_RELATIME, false),
    ("nostrictatime", MsFlags::MS_STRICTATIME, false),
    ("nosuid", MsFlags::MS_NOSUID, true),
    ("rbind", MsFlags::MS_BIND.union(MsFlags::MS_REC), true),
    ("relatime", MsFlags::MS_RELATIME, true),
    ("ro", MsFlags::MS_RDONLY, true),
    ("rw", MsFlags::MS_RDONLY, false),
    ("strictatime", MsFlags::MS_STRICTATIME, true),
    ("suid", MsFlags::MS_NOSUID, false),
    ("sync", MsFlags::MS_SYNCHRONOUS, true),
];

/// What a bind mount takes only in a second call.
const REMOUNTED: MsFlags = MsFlags::MS_RDONLY
    .union(MsFlags::MS_NOSUID)
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC)
    .union(MsFlags::MS_NOATIME)
    .union(MsFlags::MS_NODIRATIME)
    .union(MsFlags::MS_RELATIME);

/// Mounts all of them on the directory, in order; if one fails, none is left.
pub(crate) fn attach(mounts: &[Mount], target: &Path) -> Result<()> {
    let mut done = Vec::new();
    for mount in mounts {
        let attached = place(mount, target).and_then(|place| {
            attach_one(mount, &place)?;
            Ok(place)
        });
        match attached {
            Ok(place) => done.push(place),
            Err(error) => {
                while let Some(place) = done.pop() {
                    // The first error is the one to report.
                    detach_one(&place).ok();
                }
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Where it goes: onto the target, or onto a directory below, which a mount before has brought and which may lead nowhere else.
fn place(request: &Mount, target: &Path) -> Result<PathBuf> {
    let below = request.target.trim_start_matches('/');
    if below.is_empty() {
        return Ok(target.to_owned());
    }
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let found = || {
        let root = open(target, flags | OFlag::O_DIRECTORY, Mode::empty())?;
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let found = openat2(&root, below, OpenHow::new().flags(flags).resolve(resolve))?;
        // Its path by now, below the root: mounting by a descriptor's name would put it beneath what comes there next.
        readlink(format!("/proc/self/fd/{}", found.as_raw_fd()).as_str())
    };
    found().map(PathBuf::from).map_err(|errno: Errno| {
        let target = target.display();
        Error::os(format!("find {below} in {target}"), io::Error::from(errno))
    })
}

/// Unmounts all that is mounted on the directory, and all below.
pub(crate) fn detach(target: &Path) -> Result<()> {
    let failed = |errno: Errno| {
        Error::os(
            format!("unmount {}", target.display()),
            io::Error::from(errno),
        )
    };
    loop {
        match detach_one(target) {
            Ok(()) => {}
            // Nothing is mounted there, or there is nothing.
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(failed(errno)),
        }
    }
}

/// If something is in use, or mounted below, it goes when it is no more used; what is seen at the path goes now.
fn detach_one(target: &Path) -> nix::Result<()> {
    match umount2(target, MntFlags::UMOUNT_NOFOLLOW) {
        Err(Errno::EBUSY) => umount2(target, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH),
        other => other,
    }
}

fn attach_one(request: &Mount, target: &Path) -> Result<()> {
    let words = Words::sort(&request.options)?;
    attach_sorted(request, &words, target).map_err(|error| {
        let words = request.options.join(",");
        let (kind, source, target) = (&request.type_, &request.source, target.display());
        Error::os(
            format!("mount {kind} {source} on {target} ({words})"),
            error,
        )
    })
}

fn attach_sorted(request: &Mount, words: &Words<'_>, target: &Path) -> io::Result<()> {
    let (flags, data) = (words.flags, words.data.join(","));
    let namespace = match words.maps {
        (Some(uids), Some(gids)) => Some(id_map::user_namespace(uids, gids)?),
        (None, None) => None,
        _ => {
            return Err(io::Error::other(
                "ids of users and of groups are mapped together, or not at all",
            ));
        }
    };
    if request.type_ == "overlay" {
        let overlay = Overlay::parse(&words.data);
        if let Some(namespace) = &namespace {
            return overlay.attach_mapped(target, flags, namespace);
        }
        if Overlay::is_too_long(&data) {
            return overlay.attach(target, flags);
        }
    }
    let device = if words.is_loop {
        Some(loop_device::attach(
            &request.source,
            flags.contains(MsFlags::MS_RDONLY),
        )?)
    } else {
        None
    };
    let source = device
        .as_ref()
        .map_or(Path::new(&request.source), |(path, _)| path);
    let (kind, data) = (
        Some(request.type_.as_str()),
        (!data.is_empty()).then_some(data.as_str()),
    );
    mount(Some(source), target, kind, flags, data)?;
    let restricted = || {
        if let Some(namespace) = &namespace {
            id_map(target, namespace.as_fd())?;
        }
        if flags.contains(MsFlags::MS_BIND) && flags.intersects(REMOUNTED) {
            let again = flags & (REMOUNTED | MsFlags::MS_BIND) | MsFlags::MS_REMOUNT;
            mount(None::<&str>, target, None::<&str>, again, None::<&str>)?;
        }
        Ok(())
    };
    restricted().inspect_err(|_| {
        // The mount without its restrictions must not stay.
        detach_one(target).ok();
    })
}

/// Puts an id-mapped copy in the place of what is mounted there: only one that was never attached takes a mapping.
fn id_map(target: &Path, user_namespace: BorrowedFd<'_>) -> io::Result<()> {
    let copy = sys::mount::open_tree(target)?;
    sys::mount::id_map(copy.as_fd(), user_namespace)?;
    detach_one(target)?;
    sys::mount::move_mount(copy.as_fd(), target)
}

/// Options sorted into flags, what the file system itself understands, and what is done here.
struct Words<'a> {
    flags: MsFlags,
    data: Vec<&'a str>,
    is_loop: bool,
    /// Of users and groups.
    maps: (Option<&'a str>, Option<&'a str>),
}

impl<'a> Words<'a> {
    fn sort(options: &'a [String]) -> Result<Self> {
        let mut words = Self {
            flags: MsFlags::empty(),
            data: Vec::new(),
            is_loop: false,
            maps: (None, None),
        };
        for option in options {
            if option.starts_with("X-containerd.") {
                return Err(Error::new(
                    Kind::Unimplemented,
                    format!("a root file system with the mount option {option}"),
                ));
            }
            if option == "loop" {
                words.is_loop = true;
            } else if let Some(map) = option.strip_prefix("uidmap=") {
                words.maps.0 = Some(map);
            } else if let Some(map) = option.strip_prefix("gidmap=") {
                words.maps.1 = Some(map);
            } else {
                match FLAGS.iter().find(|(word, ..)| word == option) {
                    Some((_, flag, true)) => words.flags |= *flag,
                    Some((_, flag, false)) => words.flags &= !*flag,
                    None => words.data.push(option),
                }
            }
        }
        Ok(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_sorted_into_flags_and_data() {
        let options = ["ro", "nosuid", "rw", "lowerdir=/a:/b", "upperdir=/u"].map(String::from);
        let words = Words::sort(&options).unwrap();
        assert_eq!(words.flags, MsFlags::MS_NOSUID);
        assert_eq!(words.data, ["lowerdir=/a:/b", "upperdir=/u"]);
    }

    #[test]
    fn what_is_done_here_is_no_data() {
        let options = ["loop", "uidmap=0:1:2", "gidmap=0:3:4"].map(String::from);
        let words = Words::sort(&options).unwrap();
        assert!(words.is_loop && words.data.is_empty());
        assert_eq!(words.maps, (Some("0:1:2"), Some("0:3:4")));
    }

    #[test]
    fn options_that_would_be_lost_are_refused() {
        assert!(Words::sort(&["X-containerd.mkdir.path=/x".to_owned()]).is_err());
    }
}
