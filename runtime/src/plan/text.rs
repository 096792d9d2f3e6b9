//! What a step is called when it fails.

use super::{HookCall, Op, Request, Step};
use std::fmt;

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Ask(Request::IdMaps) => write!(f, "map user and group ids"),
            Step::Ask(Request::NetDevices) => write!(f, "move network devices"),
            Step::Ask(Request::Delegate) => write!(f, "enter the delegated cgroup"),
            Step::Ask(Request::Hooks) => write!(f, "run the hooks of the runtime namespace"),
            Step::Ask(Request::Rlimits) => write!(f, "set the resource limits"),
            Step::Ask(Request::Listener) => write!(f, "hand the seccomp listener over"),
            Step::Ask(Request::Start) => write!(f, "wait to be started"),
            Step::Join(join) => write!(f, "join the {} namespace {}", names(join.flags), join.path),
            Step::Unshare(flags) => write!(f, "create the {} namespace", names(*flags)),
            Step::BecomeRoot { .. } => write!(f, "become root in the user namespace"),
            Step::NotDumpable => write!(f, "clear the dumpable flag"),
            Step::Cpus(_) => write!(f, "set the CPU affinity"),
            Step::NewSession => write!(f, "create a session"),
            Step::Keyring(name) => write!(f, "join the session keyring {name:?}"),
            Step::LoopbackUp => write!(f, "bring the loopback interface up"),
            Step::UseRoot => write!(f, "open the container's root"),
            Step::Propagation(_) => write!(f, "set the propagation of the mount namespace"),
            Step::RootParentPrivate(path) => {
                write!(f, "make the mount below {} private", path.to_string_lossy())
            }
            Step::OpenLayer(path) => {
                write!(f, "open layer {} of the root", path.to_string_lossy())
            }
            Step::Root(root) => write!(
                f,
                "mount the root file system {}",
                root.path.to_string_lossy()
            ),
            Step::LeaveRoot(path) => {
                write!(f, "unmount the root file system {}", path.to_string_lossy())
            }
            Step::Mount(mount) => write!(f, "{mount}"),
            Step::Unmount(path) => write!(f, "unmount {}", path.to_string_lossy()),
            Step::Device(device) => write!(f, "create device {}", device.path.to_string_lossy()),
            Step::Symlink { target, path } => write!(
                f,
                "link {} to {}",
                path.to_string_lossy(),
                target.to_string_lossy()
            ),
            Step::MaskSources => write!(f, "prepare the masks of maskedPaths"),
            Step::EnterRoot => write!(f, "enter the root directory"),
            Step::Hook(HookCall { kind, index, .. }) => {
                write!(f, "error running {kind} hook #{index}")
            }
            Step::PivotRoot => write!(f, "pivot_root into the root file system"),
            Step::MoveRoot => write!(f, "move the root file system to /"),
            Step::ChrootInto(_) => write!(f, "chroot into the container's root"),
            Step::Chroot => write!(f, "chroot into the root file system"),
            Step::RootPropagation(_) => write!(f, "set rootfsPropagation"),
            Step::ReopenNull => write!(f, "open the container's /dev/null"),
            Step::MakeDirectory(path) => write!(f, "create directory {}", path.to_string_lossy()),
            Step::Console(_) => write!(f, "set the terminal up"),
            Step::LateReadonly => write!(f, "make the read-only mounts read-only"),
            Step::RootReadonly => write!(f, "make the root file system read-only"),
            Step::Umask(mask) => write!(f, "set umask {mask:#o}"),
            _ => self.fmt_process(f),
        }
    }
}

impl Step {
    /// The steps that concern the process rather than its file system.
    fn fmt_process(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Hostname(name) => write!(f, "set the hostname {name:?}"),
            Step::Domainname(name) => write!(f, "set the domainname {name:?}"),
            Step::Apparmor(profile) => write!(f, "apply AppArmor profile {profile:?}"),
            Step::Selinux(label) => write!(f, "apply SELinux label {label:?}"),
            Step::Sysctl { name, value, .. } => write!(f, "set sysctl {name} to {value:?}"),
            Step::ReadonlyPath(path) => write!(f, "make {} read-only", path.to_string_lossy()),
            Step::MaskedPath(path) | Step::MaskedAgain(path) => {
                write!(f, "mask {}", path.to_string_lossy())
            }
            Step::NoNewPrivileges => write!(f, "set no_new_privs"),
            Step::Scheduler(attr) => write!(f, "set the scheduler (policy {})", attr.policy),
            Step::IoPriority(value) => write!(f, "set the io priority {value:#x}"),
            Step::Personality(value) => write!(f, "set the personality {value:#x}"),
            Step::MemoryPolicy { mode, .. } => {
                write!(f, "set the memory policy {mode:#x} (set_mempolicy)")
            }
            Step::Rlimit(limit) => write!(
                f,
                "set rlimit {} to {}:{}",
                super::process::rlimit_name(limit.resource),
                limit.soft,
                limit.hard
            ),
            Step::Landlock(_) => write!(f, "apply Landlock"),
            Step::Seccomp(_) => write!(f, "load the seccomp filter"),
            Step::Chdir { path, .. } => {
                write!(
                    f,
                    "chdir to cwd ({:?}) set in config.json failed",
                    path.to_string_lossy()
                )
            }
            Step::BoundingSet(_) => write!(f, "drop capabilities from the bounding set"),
            Step::ChownStdio { uid, .. } => write!(f, "give the standard streams to user {uid}"),
            Step::Groups(groups) if groups.len() > 32 => {
                write!(f, "set {} groups", groups.len())
            }
            Step::Groups(groups) => write!(f, "set the groups {groups:?}"),
            Step::Ids { uid, gid } => write!(f, "become user {uid} and group {gid}"),
            Step::Caps(_) => write!(f, "set the capabilities"),
            Step::Ambient(_) => write!(f, "set the ambient capabilities"),
            Step::Home { uid } => write!(f, "find the home directory of user {uid}"),
            Step::LookUp => write!(f, "look the program up"),
            Step::CloseRoot => write!(f, "close the container's root"),
            Step::EndAtSignals => write!(f, "obey signals that ask for an end"),
            Step::AwaitStart => write!(f, "wait for the start command"),
            Step::Restrict { path, .. } => {
                write!(f, "set attributes of mount {}", path.to_string_lossy())
            }
            Step::Pass(number) => write!(f, "pass file descriptor {number} on"),
            Step::Reopen { path, .. } => write!(f, "open directory {}", path.to_string_lossy()),
            Step::Converse(_) => write!(f, "make a pair of sockets"),
            Step::CloseFrom { .. } => write!(f, "close the files of the host"),
            Step::ResetSignals => write!(f, "ignore and block no signals"),
            Step::Exec => write!(f, "execute the program"),
            _ => write!(f, "set the container up"),
        }
    }
}

/// The namespaces of a `CLONE_NEW*` mask, as config.json calls them.
pub(crate) fn names(flags: u64) -> String {
    let of = |flag: i32| flags & flag as u64 != 0;
    let all = [
        (libc::CLONE_NEWUSER, "user"),
        (libc::CLONE_NEWNS, "mount"),
        (libc::CLONE_NEWPID, "pid"),
        (libc::CLONE_NEWNET, "network"),
        (libc::CLONE_NEWIPC, "ipc"),
        (libc::CLONE_NEWUTS, "uts"),
        (libc::CLONE_NEWCGROUP, "cgroup"),
        (super::namespaces::CLONE_NEWTIME, "time"),
    ];
    let names: Vec<&str> = all
        .iter()
        .filter(|(flag, _)| of(*flag))
        .map(|(_, name)| *name)
        .collect();
    names.join(", ")
}

impl Op {
    /// The operation with this number, as init reported it.
    pub(crate) fn from_number(number: u32) -> Op {
        const ALL: [Op; 36] = [
            Op::Whole,
            Op::OpenSource,
            Op::CloneSource,
            Op::Resolve,
            Op::Create,
            Op::OpenFilesystem,
            Op::Configure,
            Op::CreateSuperblock,
            Op::MakeMount,
            Op::SetAttributes,
            Op::SetPropagation,
            Op::Attach,
            Op::CopyUp,
            Op::Forbidden,
            Op::OpenProc,
            Op::Write,
            Op::OpenPty,
            Op::SendPty,
            Op::TakePty,
            Op::Spawn,
            Op::HookExit,
            Op::HookSignal,
            Op::HookTimeout,
            Op::Verify,
            Op::Unreachable,
            Op::Clone,
            Op::Protocol,
            Op::UpperAndWork,
            Op::TooRevealing,
            Op::SetgroupsDenied,
            Op::LockedBelow,
            Op::LandlockMissing,
            Op::LandlockAbi,
            Op::LandlockRule,
            Op::NotOwn,
            Op::Join,
        ];
        ALL.get(number as usize).copied().unwrap_or(Op::Whole)
    }

    /// What failed within the step; nothing where the step says it all.
    pub(crate) fn text(self) -> Option<&'static str> {
        Some(match self {
            Op::Whole | Op::HookExit | Op::HookSignal | Op::HookTimeout => return None,
            Op::OpenSource => "open the source",
            Op::CloneSource => "clone the source",
            Op::Resolve => "resolve the destination",
            Op::Create => "create the destination",
            Op::OpenFilesystem => "open the file system type",
            Op::Configure => "set a mount option",
            Op::CreateSuperblock => "create the file system",
            Op::MakeMount => "create the mount",
            Op::SetAttributes => "set the mount's attributes",
            Op::SetPropagation => "set the mount's propagation",
            Op::Attach => "attach the mount",
            Op::CopyUp => "copy the directory's content",
            Op::Forbidden => {
                "it must be mounted on ordinary directory, and nothing but known files inside /proc"
            }
            Op::OpenProc => "open the file in /proc",
            Op::Write => "write the value",
            Op::OpenPty => "open a pty",
            Op::SendPty => "send the pty",
            Op::TakePty => "take the pty as controlling terminal",
            Op::Spawn => "execute the hook",
            Op::Verify => "verify the file",
            Op::Unreachable => {
                "current working directory is outside of container mount namespace root -- possible container breakout detected"
            }
            Op::Clone => "clone",
            Op::Join => "join a namespace",
            Op::Protocol => "talk to the runtime command",
            Op::TooRevealing => {
                "the kernel gives a user namespace no more than its creator sees, whose own is covered in part (by masked paths, for example)"
            }
            Op::SetgroupsDenied => {
                "setgroups is denied in this user namespace, as where an unprivileged user maps but one group"
            }
            Op::LockedBelow => {
                "open the source (a user namespace may not uncover what mounts below it cover: rbind takes them along)"
            }
            Op::UpperAndWork => "upper and work directory must be on the same file system",
            Op::LandlockMissing => "the kernel has no Landlock, or it is not enabled (lsm=)",
            Op::LandlockAbi => "the kernel's Landlock lacks something that the annotation handles",
            Op::LandlockRule => "add the rule",
            Op::NotOwn => {
                "remount what is there (of a file system that is not the container's alone, only the mount's flags are changed)"
            }
        })
    }
}
