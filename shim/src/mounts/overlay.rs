//! Overlays that mount(2) does not take as they come: with more layers than the names of fit into one page, or with id-mapped ones.

use std::ffi::CString;
use std::fs;
use std::io::{Error, Result};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, fchdir, read};

use crate::sys::mount as sys;

/// What mount(2) takes: a page, with room for its own words.
const MOST: usize = 4096 - 512;

/// An overlay's options: its layers, top first, and the others as they came.
pub(super) struct Overlay<'a> {
    layers: Vec<PathBuf>,
    others: Vec<&'a str>,
}

impl<'a> Overlay<'a> {
    /// `data` is what of the options is no flag.
    pub(super) fn parse(data: &[&'a str]) -> Self {
        let is_layers = |option: &&&str| option.starts_with("lowerdir=");
        let (layers, others): (Vec<&&str>, Vec<&&str>) = data.iter().partition(is_layers);
        let layers = layers
            .iter()
            .filter_map(|option| option.strip_prefix("lowerdir="));
        Self {
            layers: layers.flat_map(split).collect(),
            others: others.into_iter().copied().collect(),
        }
    }

    pub(super) fn is_too_long(data: &str) -> bool {
        data.len() > MOST
    }

    /// Mounts it on the directory.
    pub(super) fn attach(&self, target: &Path, flags: MsFlags) -> Result<()> {
        match self.by_name(target, flags) {
            // KERNEL(6.5): `lowerdir+`. Before, layers come in one string, in which numbers of descriptors are short enough.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                // Where that does not help, the kernel's first word is the clearer one.
                self.by_number(target, flags).map_err(|_| error)
            }
            other => other,
        }
    }

    /// The same with each layer id-mapped: seen through mounts on a tmpfs, which covers the target only until the overlay is there.
    pub(super) fn attach_mapped(
        &self,
        target: &Path,
        flags: MsFlags,
        user_namespace: &OwnedFd,
    ) -> Result<()> {
        mount(
            Some("tmpfs"),
            target,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("mode=700"),
        )?;
        let mapped = || {
            let overlay = self.mapped(target, user_namespace)?;
            match overlay.detached(flags) {
                // KERNEL(6.5): as in `attach`.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    let detached = overlay.detached_by_number(&target.join("overlay"), flags);
                    detached.map_err(|_| error)
                }
                other => other,
            }
        };
        let overlay = mapped();
        // The overlay has its own hold on the layers.
        umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
        sys::move_mount(overlay?.as_fd(), target)
    }

    /// Of id-mapped layers, which are mounted in this directory.
    fn mapped(&self, directory: &Path, user_namespace: &OwnedFd) -> Result<Self> {
        let nothing = None::<&str>;
        let mut layers = Vec::new();
        for (number, layer) in self.layers.iter().enumerate() {
            let place = directory.join(number.to_string());
            fs::create_dir(&place)?;
            mount(Some(layer), &place, nothing, MsFlags::MS_BIND, nothing)?;
            super::id_map(&place, user_namespace.as_fd())?;
            layers.push(place);
        }
        let others = self.others.clone();
        Ok(Self { layers, others })
    }

    fn by_name(&self, target: &Path, flags: MsFlags) -> Result<()> {
        sys::move_mount(self.detached(flags)?.as_fd(), target)
    }

    fn detached(&self, flags: MsFlags) -> Result<OwnedFd> {
        let context = sys::fsopen(c"overlay")?;
        let set = |key: &str, value: Option<&str>| {
            let value = value.map(CString::new).transpose()?;
            sys::fsconfig(context.as_fd(), &CString::new(key)?, value.as_deref())
        };
        set("source", Some("overlay"))?;
        for layer in &self.layers {
            set("lowerdir+", layer.to_str())?;
        }
        for option in &self.others {
            match option.split_once('=') {
                Some((key, value)) => set(key, Some(value))?,
                None => set(option, None)?,
            }
        }
        if flags.contains(MsFlags::MS_RDONLY) {
            set("ro", None)?;
        }
        sys::fscreate(context.as_fd()).map_err(|error| explained(&context, error))?;
        // Their numbers are those of mount(2), but for one.
        sys::fsmount(context.as_fd(), attributes(flags))
    }

    /// By way of this place.
    fn detached_by_number(&self, place: &Path, flags: MsFlags) -> Result<OwnedFd> {
        fs::create_dir(place)?;
        self.by_number(place, flags)?;
        sys::open_tree(place)
    }

    /// `lowerdir=10:11:...`, with the directory of our descriptors as the working directory. Nothing else runs meanwhile.
    fn by_number(&self, target: &Path, flags: MsFlags) -> Result<()> {
        let path = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = |path_of: &Path| open(path_of, path, Mode::empty()).map_err(Error::from);
        let layers = self.layers.iter().map(|layer| directory(layer));
        let layers = layers.collect::<Result<Vec<OwnedFd>>>()?;
        let numbers: Vec<String> = layers.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
        let mut data = format!("lowerdir={}", numbers.join(":"));
        for option in &self.others {
            data.push(',');
            data.push_str(option);
        }
        let here = directory(Path::new("."))?;
        chdir("/proc/self/fd")?;
        let mounted = mount(
            Some("overlay"),
            target,
            Some("overlay"),
            flags,
            Some(data.as_str()),
        );
        fchdir(here)?;
        Ok(mounted?)
    }
}

fn attributes(flags: MsFlags) -> u64 {
    let known = [
        (MsFlags::MS_RDONLY, libc::MOUNT_ATTR_RDONLY),
        (MsFlags::MS_NOSUID, libc::MOUNT_ATTR_NOSUID),
        (MsFlags::MS_NODEV, libc::MOUNT_ATTR_NODEV),
        (MsFlags::MS_NOEXEC, libc::MOUNT_ATTR_NOEXEC),
        (MsFlags::MS_NOATIME, libc::MOUNT_ATTR_NOATIME),
        (MsFlags::MS_STRICTATIME, libc::MOUNT_ATTR_STRICTATIME),
        (MsFlags::MS_NODIRATIME, libc::MOUNT_ATTR_NODIRATIME),
    ];
    let set = known.iter().filter(|(flag, _)| flags.contains(*flag));
    set.fold(0, |all, (_, attribute)| all | attribute)
}

/// What the kernel has said about it, which is more than an errno.
fn explained(context: &OwnedFd, error: Error) -> Error {
    let mut said = [0; 256];
    match read(context, &mut said) {
        Ok(length) if error.raw_os_error() != Some(Errno::EINVAL as i32) => {
            let said = String::from_utf8_lossy(&said[..length]);
            crate::error::told(said.trim_end(), error)
        }
        // It is looked at.
        _ => error,
    }
}

/// At colons; a backslash takes the meaning from what follows it.
fn split(layers: &str) -> Vec<PathBuf> {
    let mut paths = vec![String::new()];
    let mut characters = layers.chars();
    while let Some(character) = characters.next() {
        match (character, paths.last_mut()) {
            (':', _) => paths.push(String::new()),
            ('\\', Some(path)) => path.extend(characters.next()),
            (character, Some(path)) => path.push(character),
            (_, None) => {}
        }
    }
    paths.into_iter().map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    /// In a mount namespace, and with it a working directory, of this thread's only, with a tmpfs on the directory.
    #[expect(clippy::print_stderr, reason = "says what is missing")]
    fn apart(directory: &Path, test: impl FnOnce() + Send) {
        if !nix::unistd::geteuid().is_root() {
            assert_ne!(std::env::var("MUST_WORK").as_deref(), Ok("1"), "not root");
            eprintln!("skipped: not root");
            return;
        }
        let test = || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let nothing = None::<&str>;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(nothing, "/", nothing, private, nothing).unwrap();
            let (tmpfs, flags) = (Some("tmpfs"), MsFlags::empty());
            mount(tmpfs, directory, tmpfs, flags, nothing).unwrap();
            test();
        };
        std::thread::scope(|scope| scope.spawn(test).join()).unwrap();
    }

    /// What kernels without `lowerdir+` get; newer ones take it, too.
    #[test]
    fn many_layers_can_be_named_by_number() {
        let here = Path::new("/tmp");
        apart(here, || {
            let layer = |number| here.join(format!("a-rather-long-name-of-a-layer/{number}"));
            let layers: Vec<PathBuf> = (0..300).map(layer).collect();
            for layer in &layers {
                fs::create_dir_all(layer.join(layer.file_name().unwrap())).unwrap();
            }
            let target = here.join("target");
            fs::create_dir(&target).unwrap();
            let others = vec!["index=off"];
            let overlay = Overlay { layers, others };
            overlay.by_number(&target, MsFlags::MS_RDONLY).unwrap();
            assert_eq!(fs::read_dir(&target).unwrap().count(), 300);
        });
    }

    #[test]
    fn so_can_those_that_are_id_mapped() {
        use std::os::unix::fs::MetadataExt as _;
        // Not a tmpfs: those take it from 6.3 on only.
        let scratch = std::env::temp_dir().join(format!("caisson-mapped-{}", std::process::id()));
        let layers: Vec<PathBuf> = (0..3)
            .map(|number| scratch.join(format!("{number}")))
            .collect();
        for layer in &layers {
            fs::create_dir_all(layer.join(layer.file_name().unwrap())).unwrap();
        }
        let here = scratch.join("here");
        fs::create_dir(&here).unwrap();
        apart(&here, || {
            let users = super::super::id_map::user_namespace("0:1000:10", "0:2000:10").unwrap();
            let others = vec!["index=off"];
            let overlay = Overlay { layers, others };
            let mapped = overlay.mapped(&here, &users).unwrap();
            let flags = MsFlags::MS_RDONLY;
            let detached = mapped.detached_by_number(&here.join("overlay"), flags);
            let target = here.join("target");
            fs::create_dir(&target).unwrap();
            sys::move_mount(detached.unwrap().as_fd(), &target).unwrap();
            for number in 0..3 {
                let found = fs::metadata(target.join(number.to_string())).unwrap();
                assert_eq!((found.uid(), found.gid()), (1000, 2000));
            }
        });
        fs::remove_dir_all(scratch).unwrap();
    }

    #[test]
    fn layers_are_told_from_the_other_options() {
        let overlay = Overlay::parse(&["index=off", r"lowerdir=/a:/b\:c:/d\\e", "upperdir=/u"]);
        assert_eq!(overlay.layers, ["/a", "/b:c", r"/d\e"].map(PathBuf::from));
        assert_eq!(overlay.others, ["index=off", "upperdir=/u"]);
    }
}
