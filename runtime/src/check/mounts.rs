//! The root and what is mounted in it: sources, targets, file systems, devices, the working directory.

use super::filesystems::Filesystems;
use super::program::{EXECUTE, User, WRITE};
use super::tree::{Entry, Found, Place, Tree, is_readonly};
use super::{Findings, Subject, identity};
use crate::cgroup::locate;
use crate::plan::idmap::UserNamespace;
use crate::plan::mounts::{Bind, Kind, Mount};
use crate::plan::rootfs::{Device, Overlay, Source};
use crate::plan::{Op, Step};
use crate::report::Error;
use crate::sys::mount::{
    fs_magic, fsconfig_create, fsconfig_flag, fsconfig_string, fsmount, fsopen, mount_id,
};
use crate::sys::{Errno, Result, fs};
use std::ffi::{CStr, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const LOWER: &str = "annotations[\"dev.caisson.overlay.lower\"]";

/// Looks at each mount in its order and returns the tree that they make.
pub(super) fn look(subject: &Subject<'_>, findings: &mut Findings) -> Tree {
    let mut tree = Tree::new(root(subject, findings));
    let filesystems = Filesystems::read(subject.host, subject.plan);
    let root = User::root(subject);
    for step in &subject.plan.steps {
        match step {
            Step::OpenLayer(path) => layer(path, findings),
            Step::Mount(mount) if mount.is_remount() => {
                if let Err(error) = remount(mount, &tree, &filesystems) {
                    findings.error(error.in_field(format!("mounts[{}]", mount.index)));
                }
            }
            Step::Mount(mount) => {
                let field = format!("mounts[{}]", mount.index);
                if let Some(content) = content(mount, subject, &tree, &filesystems, findings) {
                    attach(mount, content, &mut tree, &root, &field, findings);
                }
            }
            Step::Device(device) => node(device, subject, &mut tree, &root, findings),
            Step::Symlink { path, .. } => {
                if let Err(errno) = make(path, Place::New, &mut tree, &root) {
                    findings.error(standard(errno));
                }
            }
            Step::MakeDirectory(path) => working_directory(path, &mut tree, &root, findings),
            Step::MaskedPath(path) => mask(path, &mut tree, findings),
            Step::Chdir { path, last: false } => {
                let found = tree.find(path, true);
                if let Err(errno) = found.and_then(|found| found.place.ok_or(Errno::ENOENT)) {
                    findings.error(Error::os(step.to_string(), errno).in_field("process.cwd"));
                }
            }
            _ => {}
        }
    }
    tree
}

/// The root directory, unless an overlay hides it.
fn root(subject: &Subject<'_>, findings: &mut Findings) -> Place {
    let planned = subject.plan.steps.iter().find_map(|step| match step {
        Step::Root(root) => Some(root),
        _ => None,
    });
    let Some(planned) = planned.filter(|_| subject.rootfs.is_some()) else {
        return Place::New;
    };
    if let Source::Overlay(overlay) = &planned.source {
        let merged = merged(overlay).and_then(|file| Place::of(file, false, Some(false)));
        if let Err(errno @ Errno::ELOOP) = merged {
            let text =
                "mount the root file system (a layer is given twice, or is below another one)";
            findings.error(Error::os(text, errno).in_field(LOWER));
        }
        // Who may not mount, or has a kernel that takes no single layers, cannot look into it.
        let mut merged = merged.unwrap_or(Place::New);
        if overlay.upper.is_none() {
            // The root directory itself is the one of the temporary upper directory.
            merged.belong_to(User::root(subject).owner());
        }
        return merged;
    }
    let opened = fs::open_follow(fs::CWD, &planned.path, libc::O_PATH | libc::O_DIRECTORY);
    match opened.and_then(|file| Place::of(file, false, None)) {
        Ok(place) => place,
        Err(errno) => {
            let text = format!("open {}", planned.path.to_string_lossy());
            findings.error(Error::os(text, errno).in_field("root.path"));
            Place::New
        }
    }
}

/// What an overlay root will show, mounted nowhere, and read-only as the container's is not: its upper directory is one more layer, to which nothing is done.
fn merged(overlay: &Overlay) -> Result<OwnedFd> {
    let upper = overlay.upper.iter().map(|[upper, _]| upper);
    let mut layers = upper.chain(&overlay.lower);
    if let (Some(only), None) = (layers.clone().next(), layers.clone().nth(1)) {
        return fs::open_follow(fs::CWD, only, libc::O_PATH | libc::O_DIRECTORY);
    }
    let context = fsopen(c"overlay")?;
    fsconfig_string(&context, c"source", c"overlay")?;
    // KERNEL(6.5): it has no such option before.
    layers.try_for_each(|layer| fsconfig_string(&context, c"lowerdir+", layer))?;
    if overlay.userxattr {
        fsconfig_flag(&context, c"userxattr")?;
    }
    fsconfig_create(&context)?;
    fsmount(&context, libc::MOUNT_ATTR_RDONLY)
}

fn layer(path: &CStr, findings: &mut Findings) {
    if let Err(errno) = fs::open_follow(fs::CWD, path, libc::O_PATH | libc::O_DIRECTORY) {
        let text = format!("open overlay directory {}", path.to_string_lossy());
        findings.error(Error::os(text, errno).in_field(LOWER));
    }
}

/// What a mount puts into the tree.
struct Content {
    place: Place,
    /// None: nobody knows.
    directory: Option<bool>,
}

/// What a mount puts into the tree. None: nothing is mounted, or it fails already.
fn content(
    mount: &Mount,
    subject: &Subject<'_>,
    tree: &Tree,
    filesystems: &Filesystems,
    findings: &mut Findings,
) -> Option<Content> {
    let field = format!("mounts[{}]", mount.index);
    let new = |directory| {
        Some(Content {
            place: Place::New,
            directory,
        })
    };
    let bind = match &mount.kind {
        Kind::Bind(bind) => bind,
        Kind::Filesystem(filesystem) => {
            return match filesystems.try_out(filesystem) {
                Ok(()) => new(Some(true)),
                Err(error) => {
                    findings.error(error.in_field(field));
                    None
                }
            };
        }
        Kind::Cgroup { .. } | Kind::Empty => return new(Some(true)),
    };
    match source(bind, subject, tree) {
        Ok(Place::There(entry)) if bind.links.copy && entry.kind() == libc::S_IFLNK => None,
        Ok(Place::There(entry)) => {
            let directory = Some(entry.kind() == libc::S_IFDIR);
            if let Err(error) = changeable(bind, mount, &entry, subject) {
                findings.error(error.in_field(&field));
            }
            // Who may execute what is seen through other ids is another question.
            if bind.id_map.is_some() {
                return new(directory);
            }
            let noexec = mount.set & libc::MOUNT_ATTR_NOEXEC != 0;
            let again = entry.file.try_clone().ok()?;
            let readonly = (mount.set | mount.recursive.set) & libc::MOUNT_ATTR_RDONLY != 0;
            let readonly = readonly.then_some(true).or(entry.readonly);
            let place = Place::of(again, noexec, readonly).ok()?;
            Some(Content { place, directory })
        }
        Ok(_) => new(None),
        // It will be there by then, where the container sees its own group without a cgroup namespace.
        Err(Errno::ENOENT) if is_own_group(&bind.source, subject) => new(Some(true)),
        Err(errno) => {
            let text = format!("open mount source {}", bind.source.to_string_lossy());
            findings.error(Error::os(text, errno).in_field(format!("{field}.source")));
            None
        }
    }
}

/// Whether a bind can be made what it shall be: seen through other ids, or without a flag of its source.
fn changeable(
    bind: &Bind,
    mount: &Mount,
    entry: &Entry,
    subject: &Subject<'_>,
) -> std::result::Result<(), Error> {
    if let Some(id_map) = &bind.id_map {
        if let UserNamespace::Maps(maps) = &id_map.through {
            identity::of_mount(maps)?;
        }
        let never = [
            libc::PROC_SUPER_MAGIC,
            libc::SYSFS_MAGIC,
            libc::CGROUP2_SUPER_MAGIC,
        ];
        return match fs_magic(&entry.file) {
            Ok(magic) if never.contains(&magic) => {
                let text = "the kernel maps no ids of this file system";
                Err(Error::os(text, Errno::EINVAL).in_field("source"))
            }
            _ => Ok(()),
        };
    }
    let clear = mount.clear | mount.recursive.clear;
    // mount_namespaces(7): the flags of mounts that come into a less privileged mount namespace are locked.
    if clear == 0 || subject.plan.birth.id_maps.is_none() {
        return Ok(());
    }
    let flags = [
        (libc::MOUNT_ATTR_RDONLY, "ro"),
        (libc::MOUNT_ATTR_NOSUID, "nosuid"),
        (libc::MOUNT_ATTR_NODEV, "nodev"),
        (libc::MOUNT_ATTR_NOEXEC, "noexec"),
    ];
    let options = options_of(&bind.source).unwrap_or_default();
    let set = |flag: &str| options.split(',').any(|word| word == flag);
    let locked = |(attribute, flag): &&(u64, &str)| clear & attribute != 0 && set(flag);
    match flags.iter().find(locked) {
        Some((_, flag)) => {
            let text = format!("a user namespace cannot take {flag} from a mount of the host");
            Err(Error::os(text, Errno::EPERM).in_field("options"))
        }
        None => Ok(()),
    }
}

/// The options of the mount of the host that a path is on. Those that statfs(2) tells are the file system's as well.
fn options_of(path: &CStr) -> Option<String> {
    let id = mount_id(Path::new(OsStr::from_bytes(path.to_bytes()))).ok()?;
    let all = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mut lines = all.lines().map(|line| line.split(' '));
    let mut line = lines.find(|line| line.clone().next() == Some(id.to_string().as_str()))?;
    line.nth(5).map(str::to_owned)
}

/// Whether this is the directory of the container's group.
fn is_own_group(path: &CStr, subject: &Subject<'_>) -> bool {
    let located = subject.cgroup.and_then(|plan| locate(plan).ok()).flatten();
    let group = located.map(|located| located.host_path());
    group.is_some_and(|group| group.as_os_str().as_bytes() == path.to_bytes())
}

/// The source of a bind: on the host, or in the container's own tree, where a mount made before may be meant.
fn source(bind: &Bind, subject: &Subject<'_>, tree: &Tree) -> Result<Place> {
    let path = Path::new(OsStr::from_bytes(bind.source.as_bytes()));
    let follow = !bind.links.keep_source && !bind.links.copy;
    let below = subject
        .rootfs
        .and_then(|rootfs| path.strip_prefix(rootfs).ok());
    let opened_by_init = bind.slot.is_none();
    if let Some(below) = below.filter(|_| opened_by_init) {
        let below = crate::plan::mounts::c_path(below).map_err(|_| Errno::EINVAL)?;
        return tree.find(&below, follow)?.place.ok_or(Errno::ENOENT);
    }
    let flags = libc::O_PATH | if follow { 0 } else { libc::O_NOFOLLOW };
    Place::of(fs::open_follow(fs::CWD, &bind.source, flags)?, false, None)
}

fn is_own(mount: &Mount) -> bool {
    matches!(&mount.kind, Kind::Filesystem(filesystem) if filesystem.is_own())
}

/// A remount, of what is mounted by then: each place, and whether the file system there is the container's alone.
fn remount(mount: &Mount, tree: &Tree, filesystems: &Filesystems) -> crate::report::Result<()> {
    let Kind::Filesystem(filesystem) = &mount.kind else {
        return Ok(());
    };
    let what = || format!("remount {}", mount.target.to_string_lossy());
    let found = tree.find(&mount.target, true);
    let found = found.map_err(|errno| Error::os(what(), errno).in_field("destination"))?;
    let has_data = filesystem
        .remount()
        .is_some_and(|(_, data)| !data.is_empty());
    match tree.is_own(&found) {
        // The kernel goes by what is mounted, and takes any other type as well.
        Some(true) if filesystem.fstype.as_c_str() == c"tmpfs" => filesystems.try_out(filesystem),
        Some(own) if own || !has_data => Ok(()),
        Some(_) => {
            let text = format!("{}: {}", what(), Op::NotOwn.text().unwrap_or_default());
            Err(Error::os(text, Errno::EINVAL).in_field("options"))
        }
        None => {
            let text = format!("{}: this config mounts nothing there", what());
            Err(Error::os(text, Errno::EINVAL).in_field("destination"))
        }
    }
}

/// Finds the target of a mount, which is made where it is missing, and puts the mount there.
fn attach(
    mount: &Mount,
    content: Content,
    tree: &mut Tree,
    root: &User<'_>,
    field: &str,
    findings: &mut Findings,
) {
    // A file system over a link would leave what the link is in place: those of /proc and /sys are not followed.
    let strict = |kind: &Kind| match kind {
        Kind::Filesystem(fs) => matches!(fs.fstype.to_bytes(), b"proc" | b"sysfs"),
        Kind::Bind(bind) => bind.links.keep_target,
        _ => false,
    };
    let Content { place, directory } = content;
    let wrong = |errno| {
        let text = format!("mount over {}", mount.target.to_string_lossy());
        Error::os(text, errno).in_field(format!("{field}.destination"))
    };
    let found = match tree.find(&mount.target, !strict(&mount.kind)) {
        Ok(found) => found,
        Err(errno) => {
            return findings.error(wrong(errno));
        }
    };
    // The files below /proc that a mount may cover are files.
    if mount.covers_proc_file && directory == Some(true) {
        return findings.error(wrong(Errno::ENOTDIR));
    }
    if mount.target.as_c_str() == c"/proc"
        && matches!(&mount.kind, Kind::Bind(_))
        && matches!(&place, Place::There(entry) if !is_proc(entry))
    {
        let text = "what is bound over /proc is not a proc file system";
        return findings.wrong(format!("{field}.source"), text);
    }
    let refused = match &found.place {
        Some(Place::There(there)) => {
            let is = there.kind() == libc::S_IFDIR;
            (directory.unwrap_or(is) != is).then_some(Errno::ENOTDIR)
        }
        None => unmakeable(&found, root),
        _ => None,
    };
    if let Some(errno) = refused {
        return findings.error(wrong(errno));
    }
    tree.mount(found, place, is_own(mount));
}

fn is_proc(entry: &Entry) -> bool {
    fs_magic(&entry.file) == Ok(libc::PROC_SUPER_MAGIC)
}

/// Why root of the container cannot make a missing file where a walk has ended.
fn unmakeable(found: &Found, root: &User<'_>) -> Option<Errno> {
    match found.passed.last() {
        Some(Place::There(parent)) if is_readonly(parent) => Some(Errno::EROFS),
        Some(Place::There(parent)) if !root.may(WRITE | EXECUTE, parent) => Some(Errno::EACCES),
        _ => None,
    }
}

/// Puts what init makes at a path where nothing is into the tree.
fn make(path: &CStr, place: Place, tree: &mut Tree, root: &User<'_>) -> Result<()> {
    let found = tree.find(path, false)?;
    if found.place.is_none() {
        unmakeable(&found, root).map_or(Ok(()), Err)?;
        tree.make(found, place);
    }
    Ok(())
}

/// What is wrong with one of the files that every container's /dev has: said once of all of them.
fn standard(errno: Errno) -> Error {
    Error::os("make the standard devices and links of /dev", errno).in_field("linux.devices")
}

/// A masked path shows nothing: as a directory, an empty one; else, the null device.
fn mask(path: &CStr, tree: &mut Tree, findings: &mut Findings) {
    let found = match tree.find(path, true) {
        Err(Errno::ENOTDIR) => return,
        Err(errno) => {
            let text = format!("mask {}", path.to_string_lossy());
            return findings.error(Error::os(text, errno).in_field("linux.maskedPaths"));
        }
        Ok(found) => found,
    };
    let shown = match &found.place {
        Some(Place::There(entry)) if entry.kind() != libc::S_IFDIR => {
            let null = fs::open_follow(fs::CWD, c"/dev/null", libc::O_PATH);
            null.and_then(|null| Place::of(null, false, None)).ok()
        }
        Some(Place::There(_) | Place::Empty) => Some(Place::Empty),
        Some(Place::New) | None => None,
    };
    if let Some(place) = shown {
        tree.mount(found, place, false);
    }
}

/// A device that is bound from the host, as a user namespace needs it.
fn node(
    device: &Device,
    subject: &Subject<'_>,
    tree: &mut Tree,
    root: &User<'_>,
    findings: &mut Findings,
) {
    let listed = subject
        .spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.devices().as_ref());
    let listed = listed.into_iter().flatten().position(|listed| {
        let path = crate::plan::mounts::clean_target(listed.path());
        path.as_os_str().as_bytes() == device.path.to_bytes()
    });
    let field = listed.map_or("linux.devices".to_owned(), |at| {
        format!("linux.devices[{at}]")
    });
    let wrong = |errno| {
        let text = format!("create device {}", device.path.to_string_lossy());
        Error::os(text, errno).in_field(&field)
    };
    if device.path.as_c_str() == c"/" {
        return findings.error(wrong(Errno::EINVAL));
    }
    // Nothing else may stand there for the standard streams that are the host's: see `init::devices`.
    let null = libc::makedev(1, 3);
    let is_null = |number| fs::stat_fd(number).is_ok_and(|stat| stat.st_rdev == null);
    if device.path.as_c_str() == c"/dev/null" && libc::makedev(device.major, device.minor) != null {
        let text = "standard input, output or error that is /dev/null cannot become what is there";
        match (0..=2).any(is_null) {
            true => findings.wrong(&field, text),
            false => findings.warn(&field, text),
        }
    }
    let bound = device.bind.then(|| fs::stat_at(fs::CWD, &device.path, 0));
    match bound {
        Some(Err(errno)) => return findings.error(wrong(errno)),
        Some(Ok(stat)) => {
            let number = libc::makedev(device.major, device.minor);
            if stat.st_mode & libc::S_IFMT != device.mode & libc::S_IFMT || stat.st_rdev != number {
                return findings.error(wrong(Errno::ENODEV));
            }
        }
        None => {}
    }
    match make(&device.path, Place::New, tree, root) {
        Err(errno) if listed.is_some() => findings.error(wrong(errno)),
        Err(errno) => findings.error(standard(errno)),
        Ok(()) => {}
    }
}

fn working_directory(path: &CStr, tree: &mut Tree, root: &User<'_>, findings: &mut Findings) {
    let errno = match tree.find(path, true) {
        Err(errno) => Some(errno),
        Ok(found) => match &found.place {
            Some(Place::There(there)) if there.kind() != libc::S_IFDIR => Some(Errno::ENOTDIR),
            Some(_) => None,
            None => {
                let refused = unmakeable(&found, root);
                tree.make(found, Place::Empty);
                refused
            }
        },
    };
    if let Some(errno) = errno {
        let text = format!("make the working directory {}", path.to_string_lossy());
        findings.error(Error::os(text, errno).in_field("process.cwd"));
    }
}
