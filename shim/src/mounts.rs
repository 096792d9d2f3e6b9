//! The mounts that containerd asks for in Create: what becomes the container's root file system, in the bundle.
//!
//! Runs in the serving shim and in `delete`, in the host's mount namespace, where containerd expects them.

use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::error::{Error, Kind, Result};
use crate::protos::types::Mount;

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
    for (done, mount) in mounts.iter().enumerate() {
        if let Err(error) = attach_one(mount, target) {
            for _ in 0..done {
                // The first error is the one to report.
                detach_one(target).ok();
            }
            return Err(error);
        }
    }
    Ok(())
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
    if !request.target.is_empty() {
        return Err(Error::new(
            Kind::Unimplemented,
            format!("a root file system with a mount on {}", request.target),
        ));
    }
    let Words { flags, data } = Words::sort(&request.options)?;
    let failed = |errno: Errno| {
        let words = request.options.join(",");
        Error::os(
            format!(
                "mount {} {} on {} ({words})",
                request.type_,
                request.source,
                target.display()
            ),
            io::Error::from(errno),
        )
    };
    let (kind, data) = (
        Some(request.type_.as_str()),
        (!data.is_empty()).then_some(data.as_str()),
    );
    mount(Some(request.source.as_str()), target, kind, flags, data).map_err(failed)?;
    if flags.contains(MsFlags::MS_BIND) && flags.intersects(REMOUNTED) {
        let again = flags & (REMOUNTED | MsFlags::MS_BIND) | MsFlags::MS_REMOUNT;
        mount(None::<&str>, target, None::<&str>, again, None::<&str>).map_err(|errno| {
            // The mount without its restrictions must not stay.
            detach_one(target).ok();
            failed(errno)
        })?;
    }
    Ok(())
}

/// Options sorted into flags and what the file system itself understands.
struct Words {
    flags: MsFlags,
    data: String,
}

impl Words {
    fn sort(options: &[String]) -> Result<Self> {
        let mut words = Self {
            flags: MsFlags::empty(),
            data: String::new(),
        };
        for option in options {
            if option == "loop"
                || option.starts_with("X-containerd.")
                || option.starts_with("uidmap=")
                || option.starts_with("gidmap=")
            {
                return Err(Error::new(
                    Kind::Unimplemented,
                    format!("a root file system with the mount option {option}"),
                ));
            }
            match FLAGS.iter().find(|(word, ..)| word == option) {
                Some((_, flag, true)) => words.flags |= *flag,
                Some((_, flag, false)) => words.flags &= !*flag,
                None if words.data.is_empty() => words.data.clone_from(option),
                None => words.data = format!("{},{option}", words.data),
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
        assert_eq!(words.data, "lowerdir=/a:/b,upperdir=/u");
    }

    #[test]
    fn options_that_would_be_lost_are_refused() {
        for option in [
            "loop",
            "uidmap=0:100000:65536",
            "X-containerd.mkdir.path=/x",
        ] {
            assert!(Words::sort(&[option.to_owned()]).is_err(), "{option}");
        }
    }
}
