//! The plan: everything that init will do, decided before the clone.
//!
//! [`create`](create::create) and [`exec`](exec::exec) turn a parsed spec and the host's facts into a [`Plan`], a list of [`Step`]s that init
//! (see [`crate::init`]) interprets in order. Building a plan is pure: no system call, no file read, so the order of steps is
//! data that unit tests check without root. Parent and child hold the same plan, so a step number and an errno are
//! enough for the parent to tell what failed: [`Step`]'s `Display` is the error text.

pub(crate) mod cgroup;
pub(crate) mod create;
pub(crate) mod criu;
pub(crate) mod device_filter;
pub(crate) mod exec;
pub(crate) mod idmap;
pub(crate) mod landlock;
pub(crate) mod late_mounts;
pub(crate) mod limits;
pub(crate) mod mounts;
pub(crate) mod namespaces;
pub(crate) mod net_devices;
pub(crate) mod outline;
pub(crate) mod personality;
pub(crate) mod process;
pub(crate) mod resctrl;
pub(crate) mod rootfs;
pub(crate) mod seccomp;
pub(crate) mod systemd;
mod text;
pub(crate) mod update;
pub(crate) mod validate;
pub(crate) mod variant;

use crate::report::{Error, Result};
use crate::sys::cred::CapSets;
use crate::sys::process::{CStringArray, SchedAttr};
use mounts::Mount;
use std::ffi::CString;
pub(crate) use text::names;

/// Everything that the parent prepares and init does.
#[derive(Debug)]
pub(crate) struct Plan {
    /// How the process comes to be.
    pub(crate) birth: Birth,
    /// What the parent opens before the clone; steps name these by [`Slot`].
    pub(crate) opens: Vec<Open>,
    pub(crate) steps: Vec<Step>,
    pub(crate) exec: Exec,
    /// What [`Request::Rlimits`] asks for.
    pub(crate) rlimits: Vec<Rlimit>,
    /// What [`Request::NetDevices`] asks for.
    pub(crate) net_devices: Vec<net_devices::NetDevice>,
}

/// How the container process is cloned.
#[derive(Debug, Default)]
pub(crate) struct Birth {
    /// `CLONE_NEW*` of the clone3 that makes init.
    pub(crate) flags: u64,
    /// A pid namespace that the parent enters for its children before the clone (and leaves after it).
    pub(crate) pid_namespace: Option<Slot>,
    /// Work for an intermediate process, which then clones init as the parent's child: joining a user namespace that shall own
    /// the new namespaces, or offsets of a time namespace, which must be written before any process is in it.
    pub(crate) stage: Option<Stage>,
    /// What the parent writes to uid_map and gid_map, if the container has a new user namespace.
    pub(crate) id_maps: Option<namespaces::IdMaps>,
    /// Written by the parent to `/proc/PID/oom_score_adj` before init does anything.
    pub(crate) oom_score_adj: Option<i32>,
    /// The CPUs on which the parent goes on, and on which the process is born, as a bit mask.
    pub(crate) cpus: Option<Vec<u64>>,
}

/// What the intermediate process does before it clones init.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    /// Namespaces to join, in this order.
    pub(crate) join: Vec<Join>,
    /// A new user namespace: the parent maps ids for it, then it becomes root there.
    pub(crate) new_user: bool,
    /// It has root's ids to take in a user namespace it joined.
    pub(crate) become_root: bool,
    /// For a user namespace without a root.
    pub(crate) otherwise: Ids,
    /// The text for `/proc/self/timens_offsets`, with a new time namespace; empty for no offsets.
    pub(crate) time_offsets: Option<CString>,
}

/// An index into the files that the parent opened for the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(pub(crate) usize);

/// A host file that the parent opens before the clone.
#[derive(Debug)]
pub(crate) enum Open {
    /// A namespace file.
    Namespace(CString),
    Tree(Tree),
    /// The process whose namespaces are joined: its pidfd, supplied by the caller.
    Process,
    /// A directory.
    Directory(CString),
}

/// A detached copy of a tree: for containers with a user namespace that could not reach the source themselves, and for id-mapped mounts,
/// which want privilege over the source's file system.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) path: CString,
    /// Takes a link at the path for itself.
    pub(crate) keep_link: bool,
    pub(crate) recursive: bool,
    /// What the container's own mounts have (`MS_*`), as if it had been bound inside.
    pub(crate) propagation: u64,
    pub(crate) id_map: Option<idmap::MountIdMap>,
}

/// One namespace to join.
#[derive(Debug)]
pub(crate) struct Join {
    pub(crate) slot: Slot,
    /// `CLONE_NEW*` of one namespace, or of several for a pidfd.
    pub(crate) flags: u64,
    /// For messages: the namespace's path.
    pub(crate) path: String,
}

/// A user and a group, as numbers of the container's user namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ids {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// What init asks of the parent, which answers when it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Write uid_map and gid_map of the new user namespace.
    IdMaps,
    /// Move network devices into the container's namespace, where init is by now.
    NetDevices,
    /// Move init into the group below its own that the container manages, now that its cgroup namespace ends above that.
    Delegate,
    /// Run the `prestart` and `createRuntime` hooks.
    Hooks,
    /// Set the resource limits of init, for which it has no privilege itself.
    Rlimits,
    /// Watch the next seccomp(2), take the listener that it returns and give it to the agent.
    Listener,
    /// The container is set up; go on when told to start it.
    Start,
}

/// One thing that init does.
#[derive(Debug)]
pub(crate) enum Step {
    /// Asks the parent and waits for its answer.
    Ask(Request),
    Join(Join),
    Unshare(u64),
    /// Takes id 0 in the user namespace, or these ids where 0 is not mapped: the rights over the namespace are the same.
    BecomeRoot {
        otherwise: Ids,
    },
    /// Hides this process's /proc entries: CVE-2016-9962, CVE-2019-5736.
    NotDumpable,
    /// Takes these CPUs as the only ones to run on, or all that its cgroup has.
    Cpus(Option<Vec<u64>>),
    NewSession,
    Keyring(CString),
    LoopbackUp,
    /// Takes the `/` of the mount namespace that was joined as the root; nothing is assembled.
    UseRoot,
    /// Makes every mount of the new mount namespace shared, slave, private or unbindable (`MS_*`), so that nothing propagates back.
    Propagation(u64),
    /// Makes the mount that holds the root directory private, which pivot_root(2) wants where mounts are shared.
    RootParentPrivate(CString),
    /// Opens a layer of an overlay root, or its upper or work directory, for [`Step::Root`].
    OpenLayer(CString),
    Root(rootfs::Root),
    /// Unmounts the root at this path, with all that was mounted in it.
    LeaveRoot(CString),
    Mount(Box<Mount>),
    /// Takes the mount at this path away, with all that is mounted in it.
    Unmount(CString),
    Device(rootfs::Device),
    /// Makes a link in /dev; an existing file stays.
    Symlink {
        target: CString,
        path: CString,
    },
    /// Opens the sources of masks while the host's tree is still there.
    MaskSources,
    /// Takes the root as working directory while it is not yet `/`: createContainer hooks start there, as with runc.
    EnterRoot,
    Hook(HookCall),
    PivotRoot,
    MoveRoot,
    Chroot,
    /// Takes an open directory as the root.
    ChrootInto(Slot),
    RootPropagation(u64),
    /// Where standard input, output or error is the host's /dev/null, opens the container's.
    ReopenNull,
    MakeDirectory(CString),
    /// Opens a pty in the container's devpts, sends its master away and takes the slave as standard input, output and error.
    Console(Console),
    /// Makes the mounts read-only whose `ro` had to wait.
    LateReadonly,
    RootReadonly,
    Umask(u32),
    Hostname(CString),
    Domainname(CString),
    Apparmor(CString),
    Selinux(CString),
    Sysctl {
        name: String,
        path: CString,
        value: CString,
    },
    ReadonlyPath(CString),
    MaskedPath(CString),
    NoNewPrivileges,
    Scheduler(SchedAttr),
    IoPriority(i32),
    Personality(u64),
    MemoryPolicy {
        mode: i32,
        nodes: Vec<u64>,
    },
    Rlimit(Rlimit),
    Landlock(landlock::Ruleset),
    Seccomp(seccomp::Filter),
    /// Enters the working directory; as root first, where a user that may not enter it is not yet an error.
    Chdir {
        path: CString,
        last: bool,
    },
    /// Keeps only these capabilities in the bounding set.
    BoundingSet(u64),
    /// Gives standard input, output and error to the user, unless they are /dev/null.
    ChownStdio {
        uid: u32,
        /// Files, too.
        files: bool,
    },
    Groups(Vec<u32>),
    /// Sets group and user id, keeping the permitted capabilities for the next step.
    Ids {
        uid: u32,
        gid: u32,
    },
    Caps(CapSets),
    /// Raises each of these ambient capabilities that it can.
    Ambient(u64),
    /// Finds HOME in /etc/passwd.
    Home {
        uid: u32,
    },
    /// Looks the program up, so that a missing one is an error of `create`.
    LookUp,
    /// Closes the container's root, which nothing needs any more.
    CloseRoot,
    /// Has signals that ask for an end be obeyed until the program runs.
    EndAtSignals,
    /// Opens the start fifo for writing, which blocks until `start` opens it.
    AwaitStart,
    /// Sets attributes (`MOUNT_ATTR_*`) of the mount at a path; where nothing is, none.
    Restrict {
        path: CString,
        attributes: u64,
    },
    /// Makes the mask of a path read-only; masks what has none.
    MaskedAgain(CString),
    /// Has the program keep this descriptor of the parent's.
    Pass(i32),
    /// Opens a directory in the mount namespace that this process is in, in place of a descriptor of the parent's, and has the program keep it.
    Reopen {
        path: CString,
        number: i32,
    },
    /// Makes a pair of sockets of its own, sends one to the parent over this socket, and has the program keep the other in its place.
    Converse(i32),
    /// Closes every descriptor from this one on. `last`: but for the socket, as no step after it needs files.
    CloseFrom {
        first: u32,
        last: bool,
    },
    /// Signal mask and dispositions as the caller had them; the parent's death is no signal any more.
    ResetSignals,
    Exec,
}

/// The program to execute.
#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) argv: CStringArray,
    pub(crate) envp: CStringArray,
    /// Where the program may be, in the order of PATH.
    pub(crate) candidates: Vec<CString>,
}

impl Exec {
    /// Of a process that ends with its last step.
    fn nothing() -> Self {
        Exec {
            argv: CStringArray::new(Vec::new()),
            envp: CStringArray::new(Vec::new()),
            candidates: Vec::new(),
        }
    }
}

/// One resource limit (prlimit(2)).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rlimit {
    pub(crate) resource: u32,
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

/// The terminal of the process.
#[derive(Debug)]
pub(crate) struct Console {
    /// Rows and columns; 0 × 0 leaves the kernel's default.
    pub(crate) rows: u16,
    pub(crate) columns: u16,
    /// Whether the slave also appears as /dev/console (not for exec).
    pub(crate) bind: bool,
}

/// A hook that init runs itself, since it belongs into the container's namespaces.
#[derive(Debug)]
pub(crate) struct HookCall {
    /// `createContainer` or `startContainer`.
    pub(crate) kind: &'static str,
    pub(crate) index: usize,
    pub(crate) path: CString,
    pub(crate) argv: CStringArray,
    /// None: that of the container's process, with the HOME that was found for it.
    pub(crate) envp: Option<CStringArray>,
    pub(crate) timeout_ms: Option<i32>,
    /// When to tell that it takes long, if it has no timeout.
    pub(crate) warn_after_ms: Option<i32>,
    /// The container's state as JSON, in front of and behind the pid, which is the one in init's pid namespace.
    pub(crate) state: [Vec<u8>; 2],
}

/// The part of a step that failed, where a step is more than one system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Op {
    Whole = 0,
    OpenSource,
    CloneSource,
    Resolve,
    Create,
    OpenFilesystem,
    Configure,
    CreateSuperblock,
    MakeMount,
    SetAttributes,
    SetPropagation,
    Attach,
    CopyUp,
    Forbidden,
    OpenProc,
    Write,
    OpenPty,
    SendPty,
    TakePty,
    Spawn,
    HookExit,
    HookSignal,
    HookTimeout,
    Verify,
    Unreachable,
    Clone,
    Protocol,
    UpperAndWork,
    TooRevealing,
    SetgroupsDenied,
    LockedBelow,
    LandlockMissing,
    LandlockAbi,
    LandlockRule,
    NotOwn,
    /// Of a stage; with the `CLONE_NEW*` flag as its detail.
    Join,
}

/// crun's annotation for a process that keeps the groups of its caller (Podman's `--group-add keep-groups`).
pub(crate) const KEEP_GROUPS: &str = "run.oci.keep_original_groups";

/// Whether an annotation of crun's that is a switch is on: as with crun, by any value but `0`.
pub(crate) fn is_on(value: Option<&String>) -> bool {
    value.is_some_and(|value| value != "0")
}

/// What `linux` says of every process of the container: personality and memory policy.
fn of_every_process(linux: &oci_spec::runtime::Linux, steps: &mut Vec<Step>) -> Result<()> {
    steps.extend(personality::step(linux.personality().as_ref()));
    if let Some(policy) = linux.memory_policy() {
        steps.push(memory_policy(policy)?);
    }
    Ok(())
}

/// `linux.memoryPolicy`: see set_mempolicy(2).
fn memory_policy(policy: &oci_spec::runtime::LinuxMemoryPolicy) -> Result<Step> {
    use oci_spec::runtime::{MemoryPolicyFlagType as Flag, MemoryPolicyModeType as Mode};
    let mode = match policy.mode() {
        Mode::MpolDefault => 0,
        Mode::MpolPreferred => 1,
        Mode::MpolBind => 2,
        Mode::MpolInterleave => 3,
        Mode::MpolLocal => 4,
        Mode::MpolPreferredMany => 5,
        Mode::MpolWeightedInterleave => 6,
    };
    let flags = policy.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                Flag::MpolFNumaBalancing => 1 << 13,
                Flag::MpolFRelativeNodes => 1 << 14,
                Flag::MpolFStaticNodes => 1 << 15,
            }
    });
    let list = policy.nodes().as_deref().unwrap_or_default();
    let nodes = bit_mask(list).ok_or_else(|| {
        let text = format!("linux.memoryPolicy.nodes: invalid memory policy node in {list:?}");
        Error::invalid(text).in_field("linux.memoryPolicy.nodes")
    })?;
    Ok(Step::MemoryPolicy {
        mode: mode | flags,
        nodes,
    })
}

/// A list such as `0-3,7` as a bit mask, least significant word first; None if it is not one.
fn bit_mask(list: &str) -> Option<Vec<u64>> {
    /// What a cpu_set_t and runc's masks hold.
    const MAX: usize = 1023;
    let number = |text: &str| text.trim().parse().ok().filter(|n: &usize| *n <= MAX);
    let mut mask = Vec::new();
    for part in list.split(',').filter(|part| !part.trim().is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return None;
        }
        if mask.len() <= last / 64 {
            mask.resize(last / 64 + 1, 0);
        }
        (first..=last).for_each(|bit| mask[bit / 64] |= 1u64 << (bit % 64));
    }
    Some(mask)
}

/// A bit mask as one number.
pub(crate) fn hex(mask: &[u64]) -> String {
    let digits: String = mask
        .iter()
        .rev()
        .map(|word| format!("{word:016x}"))
        .collect();
    let digits = digits.trim_start_matches('0');
    format!("0x{}", if digits.is_empty() { "0" } else { digits })
}

#[cfg(test)]
mod tests {
    use super::{bit_mask, hex, is_on};

    #[test]
    fn a_switch_is_on_by_any_value_but_0() {
        let is_on = |value: &str| is_on(Some(&value.to_owned()));
        assert!(["1", "true", "", "00"].map(is_on).iter().all(|on| *on));
        assert!(!is_on("0") && !super::is_on(None));
    }

    #[test]
    fn lists_of_numbers_become_masks() {
        assert_eq!(bit_mask("0-3, 7,"), Some(vec![0x8f]));
        assert_eq!(bit_mask("64"), Some(vec![0, 1]));
        assert_eq!(bit_mask(""), Some(vec![]));
        for wrong in ["1024", "3-1", "a", "-1", "0-9876543210"] {
            assert_eq!(bit_mask(wrong), None, "{wrong}");
        }
        assert_eq!(hex(&[0x2f, 0]), "0x2f");
        assert_eq!(hex(&[5, 1]), "0x10000000000000005");
        assert_eq!(hex(&[]), "0x0");
    }
}
