//! `floor run ROOTFS NAME` and `floor exec PID CGROUP`: the least that can be done for what the default config asks for.
//!
//! The yardstick of `scripts/bench`. It makes the kernel calls that a container with the config of `runc spec` needs, each in its cheapest form
//! that is known, and nothing else. What is in: a cgroup with the device filter, six new namespaces, the container's process born into them and
//! into the cgroup, the seven mounts, the device nodes and links, the change of root, the read-only root, the masked and read-only paths, host
//! name, loopback interface, session keyring, capabilities, rlimit, no_new_privs, execve of /bin/true, waiting for it and removing the cgroup.
//!
//! What is not in, because a runtime that did without it would still start this container: reading config.json, saying what failed, state on
//! disk, signals passed on, protection against links in the image and against a container that overwrites the runtime, a search in PATH.

use integration::sys::{self, launch};
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, SFlag, makedev, mknod, umask};
use nix::sys::wait::waitpid;
use nix::unistd::{Gid, Pid};
use std::ffi::{CStr, CString};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    let done = match words[..] {
        ["run", rootfs, name] => run(Path::new(rootfs), name),
        ["exec", pid, cgroup] => exec(pid, Path::new(cgroup)),
        _ => Err(io::Error::other("usage: run ROOTFS NAME | exec PID CGROUP")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(io::stderr(), "floor: {error}").ok();
            ExitCode::FAILURE
        }
    }
}

const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWPID)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWNET);

fn run(rootfs: &Path, name: &str) -> io::Result<()> {
    let cgroup = Path::new("/sys/fs/cgroup").join(name);
    nix::unistd::mkdir(&cgroup, Mode::from_bits_truncate(0o755))?;
    let group = open(&cgroup, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    launch::filter_devices(&group, &device_filter())?;
    let Some(pid) = launch::fork_into(NAMESPACES.bits() as u64, &group)? else {
        return Err(born(rootfs).err().unwrap_or(io::ErrorKind::Other.into()));
    };
    succeeded(pid)?;
    std::fs::remove_dir(cgroup)
}

fn exec(pid: &str, cgroup: &Path) -> io::Result<()> {
    let container = sys::pidfd_open(pid.parse().map_err(io::Error::other)?)?;
    let group = open(cgroup, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    setns(&container, CloneFlags::CLONE_NEWPID)?;
    let Some(pid) = launch::fork_into(0, &group)? else {
        return Err(joined(container)
            .err()
            .unwrap_or(io::ErrorKind::Other.into()));
    };
    succeeded(pid)
}

fn succeeded(pid: i32) -> io::Result<()> {
    let status = waitpid(Pid::from_raw(pid), None)?;
    if status == nix::sys::wait::WaitStatus::Exited(Pid::from_raw(pid), 0) {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "the container's process: {status:?}"
    )))
}

/// In the container's process, from its birth to its program.
fn born(rootfs: &Path) -> io::Result<std::convert::Infallible> {
    unshare(CloneFlags::CLONE_NEWCGROUP)?;
    nix::unistd::setsid()?;
    launch::join_session_keyring(c"_ses.floor")?;
    launch::loopback_up()?;
    umask(Mode::empty());
    root(rootfs)?;
    devices()?;
    nix::unistd::pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")?;
    launch::make_mount_readonly(c"/")?;
    nix::unistd::sethostname("floor")?;
    umask(Mode::from_bits_truncate(0o022));
    readonly_paths()?;
    masked_paths()?;
    program(&[c"TERM=xterm"])
}

/// The mounts of the default config, in the root that becomes the working directory.
fn root(rootfs: &Path) -> io::Result<()> {
    let slave = MsFlags::MS_SLAVE | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, slave, None::<&str>)?;
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(rootfs), rootfs, None::<&str>, bind, None::<&str>)?;
    nix::unistd::chdir(rootfs)?;
    let (nosuid, nodev) = (MsFlags::MS_NOSUID, MsFlags::MS_NODEV);
    let noexec = MsFlags::MS_NOEXEC | nosuid;
    let strict = noexec | nodev;
    let readonly = strict | MsFlags::MS_RDONLY;
    let mounts = [
        ("proc", "proc", MsFlags::empty(), None),
        (
            "tmpfs",
            "dev",
            nosuid | MsFlags::MS_STRICTATIME,
            Some("mode=755,size=65536k"),
        ),
        (
            "devpts",
            "dev/pts",
            noexec,
            Some("newinstance,ptmxmode=0666,mode=0620,gid=5"),
        ),
        ("tmpfs", "dev/shm", strict, Some("mode=1777,size=65536k")),
        ("mqueue", "dev/mqueue", strict, None),
        ("sysfs", "sys", readonly, None),
        (
            "cgroup2",
            "sys/fs/cgroup",
            readonly | MsFlags::MS_RELATIME,
            None,
        ),
    ];
    for (kind, target, flags, data) in mounts {
        if target.starts_with("dev/") {
            nix::unistd::mkdir(target, Mode::from_bits_truncate(0o755))?;
        }
        mount(Some(kind), target, Some(kind), flags, data)?;
    }
    Ok(())
}

fn devices() -> io::Result<()> {
    let nodes = [
        ("dev/null", 1, 3),
        ("dev/zero", 1, 5),
        ("dev/full", 1, 7),
        ("dev/random", 1, 8),
        ("dev/urandom", 1, 9),
        ("dev/tty", 5, 0),
    ];
    for (path, major, minor) in nodes {
        let mode = Mode::from_bits_truncate(0o666);
        mknod(path, SFlag::S_IFCHR, mode, makedev(major, minor))?;
    }
    let links = [
        ("/proc/self/fd", "dev/fd"),
        ("/proc/self/fd/0", "dev/stdin"),
        ("/proc/self/fd/1", "dev/stdout"),
        ("/proc/self/fd/2", "dev/stderr"),
        ("pts/ptmx", "dev/ptmx"),
    ];
    for (target, path) in links {
        nix::unistd::symlinkat(target, nix::fcntl::AT_FDCWD, path)?;
    }
    Ok(())
}

fn readonly_paths() -> io::Result<()> {
    for path in [
        c"/proc/bus",
        c"/proc/fs",
        c"/proc/irq",
        c"/proc/sys",
        c"/proc/sysrq-trigger",
    ] {
        let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
        match mount(Some(path), path, None::<&str>, bind, None::<&str>) {
            Err(nix::Error::ENOENT) => continue,
            other => other?,
        }
        launch::make_mount_readonly(path)?;
    }
    Ok(())
}

/// Files are covered with the null device, directories with one empty directory.
fn masked_paths() -> io::Result<()> {
    let bind =
        |from: &str, to: &str| mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>);
    let mut empty = None;
    for path in MASKED {
        match bind("/dev/null", path) {
            Ok(()) | Err(nix::Error::ENOENT) => continue,
            Err(nix::Error::ENOTDIR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if let Some(first) = empty {
            bind(first, path)?;
            continue;
        }
        let options = Some("nr_blocks=1,nr_inodes=1");
        mount(
            Some("tmpfs"),
            path,
            Some("tmpfs"),
            MsFlags::MS_RDONLY,
            options,
        )?;
        empty = Some(path);
    }
    Ok(())
}

const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/proc/scsi",
    "/sys/devices/virtual/tpm",
];

/// In the process of `exec`, from its birth to its program.
fn joined(container: OwnedFd) -> io::Result<std::convert::Infallible> {
    let others = NAMESPACES.difference(CloneFlags::CLONE_NEWPID) | CloneFlags::CLONE_NEWCGROUP;
    setns(container.as_fd(), others)?;
    nix::unistd::setsid()?;
    launch::join_session_keyring(c"_ses.floor")?;
    umask(Mode::from_bits_truncate(0o022));
    program(&[c"TERM=xterm"])
}

/// What the default config says of the process.
fn program(rest: &[&CStr]) -> io::Result<std::convert::Infallible> {
    const CAP_KILL: u32 = 5;
    const CAP_NET_BIND_SERVICE: u32 = 10;
    const CAP_AUDIT_WRITE: u32 = 29;
    const CAP_LAST: u32 = 40;
    let kept = [CAP_KILL, CAP_NET_BIND_SERVICE, CAP_AUDIT_WRITE];
    setrlimit(Resource::RLIMIT_NOFILE, 1024, 1024)?;
    for capability in (0..=CAP_LAST).filter(|capability| !kept.contains(capability)) {
        launch::drop_from_bounding_set(capability)?;
    }
    nix::unistd::setgroups(&[] as &[Gid])?;
    launch::set_capabilities(kept.iter().fold(0, |mask, bit| mask | 1 << bit))?;
    nix::sys::prctl::set_no_new_privs()?;
    launch::close_on_exec_from(3)?;
    let path = c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let env: Vec<CString> = [path]
        .iter()
        .chain(rest)
        .map(|word| CString::from(*word))
        .collect();
    Ok(nix::unistd::execve(c"/bin/true", &[c"true"], &env)?)
}

/// The default device rules: all may be made, these may be used.
fn device_filter() -> Vec<launch::BpfInstruction> {
    const LOAD_WORD: u8 = 0x61;
    const MOVE: u8 = 0xb7;
    const MOVE_REGISTER: u8 = 0xbf;
    const AND: u8 = 0x57;
    const SHIFT_RIGHT: u8 = 0x77;
    const JUMP_IF_EQUAL: u8 = 0x15;
    const JUMP_IF_NOT_EQUAL: u8 = 0x55;
    const EXIT: u8 = 0x95;
    const MAKE: i32 = 1;
    const CHARACTER: i32 = 2;
    // Register 2 is the kind of device, 3 the access, 4 and 5 the numbers.
    let code = [
        (LOAD_WORD, 0x12, 0, 0),
        (MOVE_REGISTER, 0x23, 0, 0),
        (AND, 2, 0, 0xffff),
        (SHIFT_RIGHT, 3, 0, 16),
        (LOAD_WORD, 0x14, 4, 0),
        (LOAD_WORD, 0x15, 8, 0),
        (JUMP_IF_EQUAL, 3, 15, MAKE),
        (JUMP_IF_NOT_EQUAL, 2, 12, CHARACTER),
        (JUMP_IF_EQUAL, 4, 13, 136),
        (JUMP_IF_EQUAL, 4, 5, 1),
        (JUMP_IF_NOT_EQUAL, 4, 9, 5),
        (JUMP_IF_EQUAL, 5, 10, 0),
        (JUMP_IF_EQUAL, 5, 9, 1),
        (JUMP_IF_EQUAL, 5, 8, 2),
        (JUMP_IF_NOT_EQUAL, 2, 5, 0),
        (JUMP_IF_EQUAL, 5, 6, 3),
        (JUMP_IF_EQUAL, 5, 5, 5),
        (JUMP_IF_EQUAL, 5, 4, 7),
        (JUMP_IF_EQUAL, 5, 3, 8),
        (JUMP_IF_EQUAL, 5, 2, 9),
        (MOVE, 0, 0, 0),
        (EXIT, 0, 0, 0),
        (MOVE, 0, 0, 1),
        (EXIT, 0, 0, 0),
    ];
    let instruction = |(code, registers, offset, immediate)| launch::BpfInstruction {
        code,
        registers,
        offset,
        immediate,
    };
    code.map(instruction).to_vec()
}
