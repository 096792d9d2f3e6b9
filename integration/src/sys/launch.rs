//! The kernel calls that start a container, for the benchmark's floor: clone3, bpf, capabilities, namespaces.

use super::checked;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// `CLONE_INTO_CGROUP`; libc's constant of this name has 32 bits and thus is 0.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// One instruction of a BPF program as the kernel encodes it: `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct BpfInstruction {
    /// Operation.
    pub code: u8,
    /// Destination register in the low half, source register in the high one.
    pub registers: u8,
    /// Jump distance, or offset of a load.
    pub offset: i16,
    /// Operand.
    pub immediate: i32,
}

/// How a process ended, and what it and all that it waited for have used.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// The raw wait status.
    pub status: i32,
    /// User and system time, in microseconds.
    pub cpu_us: i64,
    /// Page faults that needed no I/O.
    pub faults: i64,
}

/// Forks into new namespaces and into a cgroup. True in the child. The caller has one thread.
pub fn fork_into(namespaces: u64, cgroup: impl AsFd) -> io::Result<Option<i32>> {
    /// `struct clone_args` of linux/sched.h, version 2.
    #[repr(C)]
    #[derive(Default)]
    struct CloneArgs {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
        set_tid: u64,
        set_tid_size: u64,
        cgroup: u64,
    }
    let mut args = CloneArgs {
        flags: namespaces | CLONE_INTO_CGROUP,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: cgroup.as_fd().as_raw_fd() as u64,
        ..CloneArgs::default()
    };
    // SAFETY: the pointer and the size describe `args`. Without CLONE_VM the child has its own copy of this stack, and with one
    // thread no lock of this process is held for ever in it.
    let pid =
        checked(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) })?;
    Ok((pid != 0).then_some(pid as i32))
}

/// Waits until the child `pid` ends and reaps it.
pub fn reap_with_usage(pid: i32) -> io::Result<Usage> {
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: the pointers are to a writable integer and a writable rusage.
        let waited = checked(i64::from(unsafe {
            libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr())
        }));
        match waited {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        // SAFETY: rusage consists of integers, of which any pattern is valid, and the kernel has filled it.
        let usage = unsafe { usage.assume_init() };
        let microseconds = |time: libc::timeval| time.tv_sec * 1_000_000 + time.tv_usec;
        return Ok(Usage {
            status,
            cpu_us: microseconds(usage.ru_utime) + microseconds(usage.ru_stime),
            faults: usage.ru_minflt,
        });
    }
}

/// Loads a program that decides which devices a cgroup may use, and attaches it.
pub fn filter_devices(cgroup: impl AsFd, program: &[BpfInstruction]) -> io::Result<()> {
    const PROG_LOAD: i32 = 5;
    const PROG_ATTACH: i32 = 8;
    const CGROUP_DEVICE_PROGRAM: u32 = 15;
    const CGROUP_DEVICE_HOOK: u32 = 6;
    const ALLOW_MULTI: u32 = 1 << 1;
    #[repr(C)]
    struct Load {
        kind: u32,
        length: u32,
        instructions: *const BpfInstruction,
        license: *const std::ffi::c_char,
    }
    let load = Load {
        kind: CGROUP_DEVICE_PROGRAM,
        length: program.len() as u32,
        instructions: program.as_ptr(),
        license: c"Apache-2.0".as_ptr(),
    };
    // SAFETY: `Load` is the beginning of what the command reads, the rest of which is zero if left out; `program` holds `length`
    // instructions and the licence ends with NUL.
    let fd = checked(unsafe {
        libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<Load>())
    })?;
    // SAFETY: the kernel has just returned this descriptor and nobody else owns it.
    let program = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let attach = [
        cgroup.as_fd().as_raw_fd() as u32,
        program.as_raw_fd() as u32,
        CGROUP_DEVICE_HOOK,
        ALLOW_MULTI,
    ];
    // SAFETY: the four words are the beginning of what the command reads, and hold no address.
    checked(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_ATTACH,
            &raw const attach,
            size_of_val(&attach),
        )
    })
    .map(drop)
}

/// Makes the mount that `tree` is, or that the path leads to, read-only.
pub fn make_mount_readonly(path: &std::ffi::CStr) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path ends with NUL, and the pointer and the size describe `attr`.
    checked(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            0,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// Sets the flags of the loopback interface so that it is up.
pub fn loopback_up() -> io::Result<()> {
    // SAFETY: the arguments are integers and no memory is passed.
    let fd = checked(i64::from(unsafe {
        libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)
    }))?;
    // SAFETY: the kernel has just returned this descriptor and nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let mut name = [0; libc::IFNAMSIZ];
    name[..2].copy_from_slice(&[b'l' as _, b'o' as _]);
    let request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: (libc::IFF_UP | libc::IFF_RUNNING) as i16,
        },
    };
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`, to which the pointer points.
    checked(i64::from(unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request)
    }))
    .map(drop)
}

/// Takes a new session keyring of this name.
pub fn join_session_keyring(name: &std::ffi::CStr) -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: i32 = 1;
    // SAFETY: the name ends with NUL.
    checked(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) })
        .map(drop)
}

/// Removes one capability from the bounding set.
pub fn drop_from_bounding_set(capability: u32) -> io::Result<()> {
    // SAFETY: prctl with this option takes an integer and touches no memory.
    checked(i64::from(unsafe {
        libc::prctl(
            libc::PR_CAPBSET_DROP,
            libc::c_ulong::from(capability),
            0,
            0,
            0,
        )
    }))
    .map(drop)
}

/// Sets the effective and permitted capabilities, and clears the inheritable ones.
pub fn set_capabilities(mask: u64) -> io::Result<()> {
    const LINUX_CAPABILITY_VERSION_3: u32 = 0x2008_0522;
    let header = [LINUX_CAPABILITY_VERSION_3, 0];
    let (low, high) = (mask as u32, (mask >> 32) as u32);
    let sets = [low, low, 0, high, high, 0];
    // SAFETY: version 3 has a header of two words and two sets of three words each, to which the pointers point.
    checked(unsafe { libc::syscall(libc::SYS_capset, &raw const header, &raw const sets) })
        .map(drop)
}

/// Marks all descriptors from `first` on close-on-exec.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: the arguments are integers and no memory is passed.
    checked(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    })
    .map(drop)
}
