//! `mounts` of config.json: option words into mount attributes, propagation and file-system parameters.
//!
//! Pure. How a mount is made is in `crate::init::mount`. Words and their meaning: runtime-spec, config.md "Mounts" and mount(8).

use super::Slot;
use super::idmap::{self, MountIdMap};
use super::namespaces::Namespaces;
use crate::host::Host;
use crate::report::{Error, Result};
use crate::sys::mount::MountAttr;
use libc::{
    MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_RELATIME, MOUNT_ATTR_STRICTATIME,
};
use oci_spec::runtime::Linux;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// One mount, ready to be made by init.
#[derive(Debug)]
pub(crate) struct Mount {
    /// Its place in `mounts`.
    pub(crate) index: usize,
    /// Destination below the container's root, without `..` and not `/`.
    pub(crate) target: CString,
    pub(crate) kind: Kind,
    /// `MOUNT_ATTR_*` to set, and those that the words clear.
    pub(crate) set: u64,
    pub(crate) clear: u64,
    /// The recursive attribute words (`rro`, …).
    pub(crate) recursive: MountAttr,
    /// `MS_SHARED` and so on, each with whether it applies recursively, in the order of the words.
    pub(crate) propagation: Vec<(u64, bool)>,
    /// `ro` comes at the end, since something is still to be created inside (tmpfs, /dev).
    pub(crate) late_readonly: bool,
    /// The destination is one of the few files below /proc that a mount may cover.
    pub(crate) covers_proc_file: bool,
    /// For messages: type and options as written.
    pub(crate) words: String,
}

/// Where the mount comes from.
#[derive(Debug)]
pub(crate) enum Kind {
    Bind(Bind),
    Filesystem(Filesystem),
    /// The cgroup2 hierarchy, seen from the container's cgroup namespace. `fallback` is the host directory to bind where the kernel
    /// refuses the mount; without, an empty directory is.
    Cgroup {
        filesystem: Filesystem,
        fallback: Option<CString>,
    },
    /// An empty read-only directory.
    Empty,
}

/// A host path.
#[derive(Debug)]
pub(crate) struct Bind {
    pub(crate) source: CString,
    pub(crate) recursive: bool,
    /// Where the parent has opened it before the clone: for init if that cannot reach it, and if it is id-mapped and not from the root itself.
    pub(crate) slot: Option<Slot>,
    /// Init is in another mount namespace than the source by then: what the parent has opened is the only way to it.
    pub(crate) outside: bool,
    /// Without a slot, the parent gives it to what init has opened.
    pub(crate) id_map: Option<MountIdMap>,
    /// The number of this mount's step, by which init then asks for that.
    pub(crate) step: u32,
    /// Flags that no word clears stay. The kernel sees to that where a mount of the host comes into a user namespace, but not for
    /// one that the parent has opened.
    pub(crate) keep_flags: bool,
    pub(crate) links: Links,
}

/// crun's options for binds whose source or destination is a symbolic link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Links {
    /// `copy-symlink`: a source that is a link is made again at the destination, and nothing is mounted.
    pub(crate) copy: bool,
    /// `src-nofollow`: the source is the link itself.
    pub(crate) keep_source: bool,
    /// `dest-nofollow`: the destination is the link itself.
    pub(crate) keep_target: bool,
}

/// A new superblock (or the one of a namespace, such as proc).
#[derive(Debug)]
pub(crate) struct Filesystem {
    pub(crate) fstype: CString,
    pub(crate) source: CString,
    /// Parameters for fsconfig(2), in the order of the words.
    pub(crate) params: Vec<(CString, Option<CString>)>,
    /// For mount(2), where a parameter is longer than fsconfig takes (255 bytes), and for a remount: the `MS_*` flags and the joined parameters.
    pub(crate) legacy: Option<(u64, CString)>,
    /// tmpfs only: copy what is below the destination into the new file system.
    pub(crate) copy_up: bool,
    /// tmpfs only: take the mode of the directory below.
    pub(crate) inherit_mode: bool,
    /// The host directory to bind recursively where the kernel refuses this file system in a user namespace.
    pub(crate) fallback: Option<CString>,
}

/// What `options` of one mount say.
#[derive(Debug, Default)]
struct Words {
    bind: bool,
    recursive_bind: bool,
    set: u64,
    clear: u64,
    recursive: MountAttr,
    propagation: Vec<(u64, bool)>,
    /// Words for the superblock that every file system takes.
    superblock: Vec<&'static str>,
    ms_flags: u64,
    data: Vec<String>,
    copy_up: bool,
    remount: bool,
    id_map: Option<idmap::Word>,
    links: Links,
}

/// What the host adds to the config.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outside<'a> {
    pub(crate) bundle: &'a Path,
    /// `root.path`, absolute and without links.
    pub(crate) rootfs: &'a Path,
    pub(crate) host: &'a Host,
    /// Where the container's cgroup is: the hierarchy's mount point and the group's own directory.
    pub(crate) cgroup_root: Option<&'a Path>,
    pub(crate) cgroup_path: Option<&'a Path>,
}

/// What the rest of the config means for mounts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Surroundings<'a> {
    pub(crate) bundle: &'a Path,
    /// The root directory on the host.
    pub(crate) rootfs: &'a Path,
    pub(crate) label: Option<&'a str>,
    /// The option that the label is given with: see [`label_option`].
    pub(crate) label_option: &'a str,
    pub(crate) user_namespace: bool,
    pub(crate) network_namespace: bool,
    pub(crate) pid_namespace: bool,
    pub(crate) cgroup_namespace: bool,
    /// The host directory that is the container's view of cgroups where it cannot mount its own, if there is a hierarchy.
    pub(crate) cgroup_root: Option<&'a Path>,
    /// The container's own cgroup directory on the host.
    pub(crate) cgroup_path: Option<&'a Path>,
    pub(crate) id_maps: idmap::Container<'a>,
}

impl<'a> Surroundings<'a> {
    pub(crate) fn new(
        linux: &'a Linux,
        ns: &'a Namespaces,
        label_option: &'a str,
        outside: &Outside<'a>,
    ) -> Self {
        Surroundings {
            bundle: outside.bundle,
            rootfs: outside.rootfs,
            label: linux.mount_label().as_deref(),
            label_option,
            user_namespace: ns.has(libc::CLONE_NEWUSER),
            network_namespace: ns.has(libc::CLONE_NEWNET),
            pid_namespace: ns.has(libc::CLONE_NEWPID),
            cgroup_namespace: ns.has(libc::CLONE_NEWCGROUP),
            cgroup_root: outside.cgroup_root,
            cgroup_path: outside.cgroup_path,
            id_maps: idmap::Container {
                maps: ns.birth.id_maps.as_ref(),
                joined: ns.joined_user,
                privileged: outside.host.sys_admin,
            },
        }
    }
}

/// The mount option for SELinux labels that crun's annotation asks for (mount(8)); `context` without it.
pub(crate) fn label_option(annotations: Option<&HashMap<String, String>>) -> Result<&str> {
    const ANNOTATION: &str = "run.oci.mount_context_type";
    match annotations
        .and_then(|all| all.get(ANNOTATION))
        .map(String::as_str)
    {
        None => Ok("context"),
        Some(option @ ("context" | "fscontext" | "defcontext" | "rootcontext")) => Ok(option),
        Some(other) => Err(Error::invalid(format!(
            "annotation {ANNOTATION}: {other:?} is not context, fscontext, defcontext or rootcontext"
        ))),
    }
}

/// Turns one entry of `mounts` into a mount.
pub(crate) fn plan(entry: &oci_spec::runtime::Mount, around: &Surroundings<'_>) -> Result<Mount> {
    let target = clean_target(below(around.rootfs, entry.destination()));
    let wrong = |field: &str, what: &str| {
        Error::invalid(format!("mount {:?}: {what}", entry.destination())).in_field(field)
    };
    let describe = || format!("mount {:?}", entry.destination());
    let options = entry.options().as_deref().unwrap_or_default();
    let mut words = parse(options).map_err(|e| e.context(describe()).in_field("options"))?;
    let fstype = entry.typ().as_deref().unwrap_or_default();
    let is_bind = words.bind || fstype == "bind";
    if target == Path::new("/") {
        return Err(wrong(
            "destination",
            "the destination must not be the root itself",
        ));
    }
    if is_bind && !words.data.is_empty() {
        let text = words.data.join(",");
        let text =
            format!("bind mounts cannot have any filesystem-specific options applied: {text}");
        return Err(wrong("options", &text));
    }
    if !is_bind && fstype.is_empty() && !words.remount {
        return Err(wrong("type", "no type"));
    }
    check_proc(&target, fstype, is_bind).map_err(|e| e.in_field("destination"))?;
    let id_map = idmap::plan(words.id_map.take(), entry, is_bind, &around.id_maps)
        .map_err(|e| e.context(format!("invalid mount {:?}", entry.destination())))?;
    if !is_bind && words.links != Links::default() {
        let text = "copy-symlink, src-nofollow and dest-nofollow are for bind mounts";
        return Err(wrong("options", text));
    }
    let cgroup = !is_bind && matches!(fstype, "cgroup" | "cgroup2");
    let late_readonly = words.set & MOUNT_ATTR_RDONLY != 0
        && !is_bind
        && (fstype == "tmpfs" || target == Path::new("/dev"));
    if late_readonly {
        words.set &= !MOUNT_ATTR_RDONLY;
        words.ms_flags &= !libc::MS_RDONLY;
        words.superblock.retain(|word| *word != "ro");
    }
    if cgroup && around.cgroup_path.is_none() {
        // Not the container's own, but the one of its creator, who may own it (CVE-2023-25809).
        words.set |= MOUNT_ATTR_RDONLY;
        words.clear &= !MOUNT_ATTR_RDONLY;
    }
    if is_bind {
        words.keep_access_times();
    }
    let (set, clear) = (words.set, words.clear);
    let (recursive, propagation) = (words.recursive, std::mem::take(&mut words.propagation));
    let kind = if is_bind {
        bind(entry, &words, id_map, around)?
    } else if cgroup && !words.remount {
        cgroup_kind(entry, fstype, around)?
    } else {
        Kind::Filesystem(filesystem(entry, fstype, words, around)?)
    };
    Ok(Mount {
        index: 0,
        covers_proc_file: is_coverable_proc_file(&target),
        target: c_path(&target)?,
        kind,
        set,
        clear,
        recursive,
        propagation,
        late_readonly,
        words: [fstype, &options.join(",")].join(" "),
    })
}

/// A destination that begins with the root directory's path on the host means what is behind that: some who write configs for runc rely on it.
pub(super) fn below<'a>(rootfs: &Path, destination: &'a Path) -> &'a Path {
    match destination.strip_prefix(rootfs) {
        Ok(rest) if rootfs != Path::new("/") => rest,
        _ => destination,
    }
}

/// A destination as the kernel would walk it inside the root: absolute, without `.` and `..`.
pub(crate) fn clean_target(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}

/// A path as a C string.
pub(crate) fn c_path(path: impl AsRef<Path>) -> Result<CString> {
    c_string(path.as_ref().as_os_str().as_bytes())
}

/// Text of the config as a C string.
pub(crate) fn c_string(text: impl AsRef<[u8]>) -> Result<CString> {
    let text = text.as_ref();
    CString::new(text).map_err(|_| {
        Error::invalid(format!(
            "{:?} contains a NUL byte",
            String::from_utf8_lossy(text)
        ))
    })
}

/// Files below /proc that an engine may replace (lxcfs and the like). Everything else there would let a container subvert
/// what is written to /proc during set-up (CVE-2019-19921).
fn is_coverable_proc_file(target: &Path) -> bool {
    const FILES: [&str; 10] = [
        "/proc/cpuinfo",
        "/proc/diskstats",
        "/proc/meminfo",
        "/proc/stat",
        "/proc/swaps",
        "/proc/uptime",
        "/proc/loadavg",
        "/proc/slabinfo",
        "/proc/sys/kernel/ns_last_pid",
        "/proc/sys/crypto/fips_enabled",
    ];
    FILES.iter().any(|file| target == Path::new(file))
}

/// Refuses mounts over /proc and inside it. Whether the destination really is there is checked again when it is open. A bind of a
/// procfs over /proc is allowed, and that it is one is checked then.
fn check_proc(target: &Path, fstype: &str, is_bind: bool) -> Result<()> {
    if target == Path::new("/proc") {
        if fstype == "proc" || is_bind {
            return Ok(());
        }
        return Err(Error::invalid(format!(
            "{target:?} cannot be mounted because it is not of type proc"
        )));
    }
    if target.starts_with("/proc") && !is_coverable_proc_file(target) {
        return Err(Error::invalid(format!(
            "{target:?} cannot be mounted because it is inside /proc"
        )));
    }
    Ok(())
}

fn bind(
    entry: &oci_spec::runtime::Mount,
    words: &Words,
    id_map: Option<MountIdMap>,
    around: &Surroundings<'_>,
) -> Result<Kind> {
    let Some(source) = entry.source() else {
        let text = format!(
            "mount {:?}: a bind mount needs a source",
            entry.destination()
        );
        return Err(Error::invalid(text).in_field("source"));
    };
    let source = c_path(around.bundle.join(source))?;
    Ok(Kind::Bind(Bind {
        source,
        recursive: words.recursive_bind,
        slot: None,
        outside: false,
        step: 0,
        keep_flags: id_map.is_some() && around.user_namespace,
        id_map,
        links: words.links,
    }))
}

/// A cgroup mount. With its own cgroup namespace, the container mounts the hierarchy and sees its own part. Without, the host's mount is
/// bound: a new mount in the initial cgroup namespace would reset the hierarchy's options (nsdelegate) for the whole host. Of a container
/// without a cgroup, that is the creator's part, or nothing.
fn cgroup_kind(
    entry: &oci_spec::runtime::Mount,
    fstype: &str,
    around: &Surroundings<'_>,
) -> Result<Kind> {
    if !around.cgroup_namespace {
        // CVE-2023-25809: what an unprivileged container sees of the host's hierarchy is its own part only.
        let part = match around.user_namespace {
            true => around.cgroup_path,
            false => around.cgroup_root,
        };
        return Ok(match part {
            Some(part) => Kind::Bind(Bind {
                source: c_path(part)?,
                recursive: false,
                slot: None,
                outside: false,
                step: 0,
                id_map: None,
                keep_flags: false,
                links: Links::default(),
            }),
            None => Kind::Empty,
        });
    }
    let filesystem = Filesystem {
        fstype: c"cgroup2".into(),
        source: c_path(source(entry, fstype))?,
        params: Vec::new(),
        legacy: None,
        copy_up: false,
        inherit_mode: false,
        fallback: None,
    };
    Ok(Kind::Cgroup {
        filesystem,
        fallback: around.cgroup_path.map(c_path).transpose()?,
    })
}

fn filesystem(
    entry: &oci_spec::runtime::Mount,
    fstype: &str,
    words: Words,
    around: &Surroundings<'_>,
) -> Result<Filesystem> {
    let mut data = words.data;
    if let Some(label) = around.label.filter(|label| !label.is_empty())
        && !matches!(fstype, "proc" | "sysfs" | "cgroup" | "cgroup2" | "mqueue")
        && !words.remount
    {
        data.push(format!("{}=\"{label}\"", around.label_option));
    }
    // mount(2) with a `proc` or `sysfs` entry takes no data in runc; the words are kept, since subset=pid and hidepid are useful.
    let mut params = Vec::new();
    for word in &words.superblock {
        params.push((c_string(word)?, None));
    }
    for item in data.iter().flat_map(|item| split_data(item)) {
        params.push(match item.split_once('=') {
            Some((key, value)) => (c_string(key)?, Some(c_string(value.trim_matches('"'))?)),
            None => (c_string(item)?, None),
        });
    }
    let too_long = params
        .iter()
        .any(|(_, value)| value.as_ref().is_some_and(|v| v.as_bytes().len() > 255));
    let remount = if words.remount { libc::MS_REMOUNT } else { 0 };
    let legacy = if too_long || words.remount {
        Some((words.ms_flags | remount, c_string(data.join(","))?))
    } else {
        None
    };
    let fallback = match fstype {
        "proc" if around.user_namespace && !around.pid_namespace => Some(c"/proc".to_owned()),
        "sysfs" if around.user_namespace && !around.network_namespace => Some(c"/sys".to_owned()),
        "mqueue" if around.user_namespace => Some(c"/dev/mqueue".to_owned()),
        _ => None,
    };
    Ok(Filesystem {
        fstype: c_string(fstype)?,
        source: c_path(source(entry, fstype))?,
        inherit_mode: fstype == "tmpfs"
            && !data
                .iter()
                .any(|d| split_data(d).any(|d| d.starts_with("mode="))),
        copy_up: fstype == "tmpfs" && words.copy_up,
        params,
        legacy,
        fallback,
    })
}

/// What a mount that is no bind is said to be mounted from.
fn source<'a>(entry: &'a oci_spec::runtime::Mount, fstype: &'a str) -> &'a Path {
    entry.source().as_deref().unwrap_or(Path::new(fstype))
}

/// Splits `a=1,b="x,y"` at commas outside of quotes.
fn split_data(text: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    })
    .filter(|item| !item.is_empty())
}

/// One option word: what it does to the mount.
enum Effect {
    /// Sets (true) or clears a `MOUNT_ATTR_*` flag that also has an `MS_*` form.
    Attr(u64, u64, bool),
    /// One of the access-time modes.
    Atime(u64, u64),
    /// The opposite of an access-time mode: back to the kernel's default, if that is the mode.
    NoAtime(u64, u64),
    /// A word that the superblock takes, and its `MS_*` flag.
    Superblock(&'static str, u64),
    Nothing,
    Propagation(u64, bool),
    /// Sets and clears `MOUNT_ATTR_*` recursively.
    Recursive(u64, u64),
}

fn effect(word: &str) -> Option<Effect> {
    use Effect::{Atime, Attr, NoAtime, Nothing, Propagation, Superblock};
    Some(match word {
        "ro" => Attr(MOUNT_ATTR_RDONLY, libc::MS_RDONLY, true),
        "rw" => Attr(MOUNT_ATTR_RDONLY, libc::MS_RDONLY, false),
        "nosuid" => Attr(MOUNT_ATTR_NOSUID, libc::MS_NOSUID, true),
        "suid" => Attr(MOUNT_ATTR_NOSUID, libc::MS_NOSUID, false),
        "nodev" => Attr(MOUNT_ATTR_NODEV, libc::MS_NODEV, true),
        "dev" => Attr(MOUNT_ATTR_NODEV, libc::MS_NODEV, false),
        "noexec" => Attr(MOUNT_ATTR_NOEXEC, libc::MS_NOEXEC, true),
        "exec" => Attr(MOUNT_ATTR_NOEXEC, libc::MS_NOEXEC, false),
        "nodiratime" => Attr(MOUNT_ATTR_NODIRATIME, libc::MS_NODIRATIME, true),
        "diratime" => Attr(MOUNT_ATTR_NODIRATIME, libc::MS_NODIRATIME, false),
        "nosymfollow" => Attr(MOUNT_ATTR_NOSYMFOLLOW, MS_NOSYMFOLLOW, true),
        "symfollow" => Attr(MOUNT_ATTR_NOSYMFOLLOW, MS_NOSYMFOLLOW, false),
        "noatime" => Atime(MOUNT_ATTR_NOATIME, libc::MS_NOATIME),
        "relatime" => Atime(MOUNT_ATTR_RELATIME, libc::MS_RELATIME),
        "strictatime" => Atime(MOUNT_ATTR_STRICTATIME, libc::MS_STRICTATIME),
        "atime" => NoAtime(MOUNT_ATTR_NOATIME, libc::MS_NOATIME),
        "norelatime" => NoAtime(MOUNT_ATTR_RELATIME, libc::MS_RELATIME),
        "nostrictatime" => NoAtime(MOUNT_ATTR_STRICTATIME, libc::MS_STRICTATIME),
        "sync" => Superblock("sync", libc::MS_SYNCHRONOUS),
        "async" => Superblock("async", 0),
        "dirsync" => Superblock("dirsync", libc::MS_DIRSYNC),
        "mand" => Superblock("mand", libc::MS_MANDLOCK),
        "nomand" => Superblock("nomand", 0),
        "lazytime" => Superblock("lazytime", MS_LAZYTIME),
        "nolazytime" => Superblock("nolazytime", 0),
        "defaults" | "silent" | "loud" | "iversion" | "noiversion" | "acl" | "noacl" => Nothing,
        "shared" => Propagation(libc::MS_SHARED, false),
        "rshared" => Propagation(libc::MS_SHARED, true),
        "slave" => Propagation(libc::MS_SLAVE, false),
        "rslave" => Propagation(libc::MS_SLAVE, true),
        "private" => Propagation(libc::MS_PRIVATE, false),
        "rprivate" => Propagation(libc::MS_PRIVATE, true),
        "unbindable" => Propagation(libc::MS_UNBINDABLE, false),
        "runbindable" => Propagation(libc::MS_UNBINDABLE, true),
        _ => return recursive_effect(word),
    })
}

/// The words of mount_setattr(2) with AT_RECURSIVE.
fn recursive_effect(word: &str) -> Option<Effect> {
    let (set, clear) = match word {
        "rro" => (MOUNT_ATTR_RDONLY, 0),
        "rrw" => (0, MOUNT_ATTR_RDONLY),
        "rnosuid" => (MOUNT_ATTR_NOSUID, 0),
        "rsuid" => (0, MOUNT_ATTR_NOSUID),
        "rnodev" => (MOUNT_ATTR_NODEV, 0),
        "rdev" => (0, MOUNT_ATTR_NODEV),
        "rnoexec" => (MOUNT_ATTR_NOEXEC, 0),
        "rexec" => (0, MOUNT_ATTR_NOEXEC),
        "rnodiratime" => (MOUNT_ATTR_NODIRATIME, 0),
        "rdiratime" => (0, MOUNT_ATTR_NODIRATIME),
        "rnosymfollow" => (MOUNT_ATTR_NOSYMFOLLOW, 0),
        "rsymfollow" => (0, MOUNT_ATTR_NOSYMFOLLOW),
        // The access-time modes are one field, which is cleared whole before a mode is set.
        "rrelatime" | "rnoatime" | "rstrictatime" | "ratime" | "rnorelatime" | "rnostrictatime" => {
            let mode = match word {
                "rnoatime" => MOUNT_ATTR_NOATIME,
                "rstrictatime" => MOUNT_ATTR_STRICTATIME,
                _ => MOUNT_ATTR_RELATIME,
            };
            (mode, MOUNT_ATTR__ATIME)
        }
        _ => return None,
    };
    Some(Effect::Recursive(set, clear))
}

/// linux/mount.h; kernel 5.10.
pub(crate) const MS_NOSYMFOLLOW: u64 = 256;
const MS_LAZYTIME: u64 = 1 << 25;

/// The option words that the mounts of this runtime understand, for `features`.
pub(crate) const OPTION_WORDS: &[&str] = &[
    "acl",
    "async",
    "atime",
    "bind",
    "copy-symlink",
    "defaults",
    "dest-nofollow",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noacl",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "src-nofollow",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
];

fn parse(options: &[String]) -> Result<Words> {
    let mut words = Words::default();
    for word in options {
        match word.as_str() {
            "bind" => words.bind = true,
            "rbind" => (words.bind, words.recursive_bind) = (true, true),
            "remount" => words.remount = true,
            "tmpcopyup" => words.copy_up = true,
            "copy-symlink" => words.links.copy = true,
            "src-nofollow" => words.links.keep_source = true,
            "dest-nofollow" => words.links.keep_target = true,
            // What a caller makes of an empty list by splitting it.
            "" => {}
            _ => match (effect(word), idmap::Word::parse(word)) {
                (Some(effect), _) => words.apply(effect),
                (None, Some(id_map)) => words.id_map = Some(id_map),
                (None, None) => words.data.push(word.clone()),
            },
        }
    }
    Ok(words)
}

impl Words {
    /// A bind has its source's access times unless a word sets one of them: then it has what the words say of all, as with mount(2), which
    /// takes a remount that speaks of none to leave them alone.
    fn keep_access_times(&mut self) {
        const ALL: u64 = MOUNT_ATTR__ATIME | MOUNT_ATTR_NODIRATIME;
        let sets =
            libc::MS_NOATIME | libc::MS_NODIRATIME | libc::MS_RELATIME | libc::MS_STRICTATIME;
        if self.ms_flags & sets == 0 {
            self.clear &= !ALL;
        } else {
            self.clear |= MOUNT_ATTR__ATIME | ALL & !self.set;
        }
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Attr(attr, ms, true) => {
                self.set |= attr;
                self.clear &= !attr;
                self.ms_flags |= ms;
                if ms == libc::MS_RDONLY {
                    self.superblock.push("ro");
                }
            }
            Effect::Attr(attr, ms, false) => {
                self.set &= !attr;
                self.clear |= attr;
                self.ms_flags &= !ms;
                if ms == libc::MS_RDONLY {
                    self.superblock.retain(|word| *word != "ro");
                }
            }
            Effect::Atime(mode, ms) => {
                self.set = self.set & !MOUNT_ATTR__ATIME | mode;
                self.clear |= MOUNT_ATTR__ATIME;
                self.ms_flags |= ms;
            }
            Effect::NoAtime(mode, ms) => {
                if self.set & MOUNT_ATTR__ATIME == mode {
                    self.set &= !MOUNT_ATTR__ATIME;
                }
                self.clear |= MOUNT_ATTR__ATIME;
                self.ms_flags &= !ms;
            }
            Effect::Superblock(word, ms) => {
                self.superblock.push(word);
                self.ms_flags |= ms;
            }
            Effect::Nothing => {}
            Effect::Propagation(flag, recursive) => self.propagation.push((flag, recursive)),
            Effect::Recursive(set, clear) => {
                // A later word overrides an earlier one, as with the others.
                self.recursive.set = self.recursive.set & !clear | set;
                self.recursive.clear = self.recursive.clear & !(set & !MOUNT_ATTR__ATIME) | clear;
            }
        }
    }
}

impl Filesystem {
    /// What mount(2) takes to change the file system that is mounted there by then.
    pub(crate) fn remount(&self) -> Option<(u64, &CStr)> {
        let (flags, data) = self.legacy.as_ref()?;
        (flags & libc::MS_REMOUNT != 0).then_some((*flags, data.as_c_str()))
    }

    /// Whether nobody else has such a file system once the container has made it: those that show a namespace, or a disk, are shared.
    pub(crate) fn is_own(&self) -> bool {
        let fstype = self.fstype.to_bytes();
        matches!(fstype, b"tmpfs" | b"ramfs" | b"devpts" | b"proc") && self.remount().is_none()
    }
}

impl Mount {
    /// Whether it changes what is mounted there by then. A bind is made anew in any case.
    pub(crate) fn is_remount(&self) -> bool {
        matches!(&self.kind, Kind::Filesystem(filesystem) if filesystem.remount().is_some())
    }

    /// What is mounted where, and how.
    pub(crate) fn places(&self) -> String {
        let source = match &self.kind {
            Kind::Bind(bind) => bind.source.as_c_str(),
            Kind::Filesystem(filesystem) | Kind::Cgroup { filesystem, .. } => {
                filesystem.source.as_c_str()
            }
            Kind::Empty => c"nothing",
        };
        let words = self.words.trim();
        format!(
            "{} on {} ({words})",
            source.to_string_lossy(),
            self.target.to_string_lossy()
        )
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mount {}", self.places())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(options: &[&str]) -> Words {
        parse(&options.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_later_word_overrides_an_earlier_one() {
        let parsed = words(&["ro", "nosuid", "rw"]);
        assert_eq!(parsed.set, MOUNT_ATTR_NOSUID);
        assert_eq!(parsed.clear, MOUNT_ATTR_RDONLY);
        assert!(parsed.superblock.is_empty());
    }

    #[test]
    fn recursive_access_times_clear_the_whole_field() {
        let parsed = words(&["rnoatime"]);
        assert_eq!(parsed.recursive.clear, MOUNT_ATTR__ATIME);
        assert_eq!(parsed.recursive.set, MOUNT_ATTR_NOATIME);
        let parsed = words(&["rro", "rrw"]);
        assert_eq!(
            (parsed.recursive.set, parsed.recursive.clear),
            (0, MOUNT_ATTR_RDONLY)
        );
    }

    #[test]
    fn words_that_no_flag_has_are_file_system_data() {
        assert_eq!(
            words(&["nosuid", "mode=755", "size=64k"]).data,
            ["mode=755", "size=64k"]
        );
        assert_eq!(
            split_data("a=1,context=\"x,y\",b").collect::<Vec<_>>(),
            ["a=1", "context=\"x,y\"", "b"]
        );
    }

    #[test]
    fn the_opposite_of_another_access_time_mode_changes_nothing() {
        let mode = |options: &[&str]| words(options).set & MOUNT_ATTR__ATIME;
        assert_eq!(mode(&["noatime", "nostrictatime"]), MOUNT_ATTR_NOATIME);
        assert_eq!(mode(&["strictatime", "atime"]), MOUNT_ATTR_STRICTATIME);
        assert_eq!(mode(&["noatime", "atime"]), MOUNT_ATTR_RELATIME);
    }

    #[test]
    fn an_empty_word_is_none() {
        assert_eq!(words(&["", "nosuid", ""]).data, [""; 0]);
    }

    #[test]
    fn every_listed_option_word_is_understood() {
        for word in OPTION_WORDS {
            assert!(words(&[word]).data.is_empty(), "{word}");
        }
    }

    #[test]
    fn destinations_are_cleaned_lexically_below_the_root() {
        assert_eq!(
            below(Path::new("/b/rootfs"), Path::new("/b/rootfs/x")),
            Path::new("x")
        );
        assert_eq!(
            below(Path::new("/b/rootfs"), Path::new("/b/rootfs2")),
            Path::new("/b/rootfs2")
        );
        assert_eq!(
            clean_target(Path::new("../../etc/../proc//x/.")),
            Path::new("/proc/x")
        );
        assert!(check_proc(Path::new("/proc/sys"), "tmpfs", false).is_err());
        assert!(check_proc(Path::new("/proc/stat"), "", true).is_ok());
        assert!(check_proc(Path::new("/proc"), "tmpfs", false).is_err());
        assert!(check_proc(Path::new("/processes"), "tmpfs", false).is_ok());
    }

    #[test]
    fn a_label_goes_into_the_option_that_is_asked_for() {
        fn around(label_option: &str) -> Surroundings<'_> {
            Surroundings {
                bundle: Path::new("/b"),
                rootfs: Path::new("/b/rootfs"),
                label: Some("l"),
                label_option,
                user_namespace: false,
                network_namespace: true,
                pid_namespace: true,
                cgroup_namespace: true,
                cgroup_root: None,
                cgroup_path: None,
                id_maps: idmap::Container::default(),
            }
        }
        let entry = r#"{"destination":"/x","type":"tmpfs","source":"tmpfs"}"#;
        let entry = serde_json::from_str(entry).unwrap();
        let annotated = |value: &str| {
            HashMap::from([("run.oci.mount_context_type".to_owned(), value.to_owned())])
        };
        for option in ["context", "rootcontext"] {
            let annotations = annotated(option);
            let option = label_option(Some(&annotations)).unwrap();
            let Kind::Filesystem(made) = plan(&entry, &around(option)).unwrap().kind else {
                panic!("no new file system");
            };
            assert!(
                made.params
                    .iter()
                    .any(|(name, _)| name.to_bytes() == option.as_bytes())
            );
        }
        assert_eq!(label_option(None).unwrap(), "context");
        assert!(label_option(Some(&annotated("secontext"))).is_err());
    }
}
