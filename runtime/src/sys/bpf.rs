//! bpf(2), as far as device programs of cgroups need it.
//!
//! `libc` has the call's number and nothing else, so the constants of linux/bpf.h that are used are here. The kernel takes a shorter
//! `union bpf_attr` than its own and reads the rest as zeros, so each command has a struct that ends with its last field.

use super::{Errno, Result};
use std::ffi::c_long;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

const PROG_LOAD: u32 = 5;
const PROG_ATTACH: u32 = 8;
const PROG_DETACH: u32 = 9;
const PROG_GET_FD_BY_ID: u32 = 13;
const PROG_QUERY: u32 = 16;

const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;

const F_ALLOW_MULTI: u32 = 1 << 1;
const F_REPLACE: u32 = 1 << 2;

#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

#[repr(C)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

#[repr(C)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

#[repr(C)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// # Safety
/// `A` is the part of `union bpf_attr` that `command` uses, and every address in it is that of memory which the kernel may read, or
/// write, for the length stated beside it.
unsafe fn bpf<A>(command: u32, attr: &mut A) -> Result<c_long> {
    // SAFETY: the pointer and the size describe `attr`; the caller answers for what it holds.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<A>(),
        )
    })
}

/// BPF_PROG_LOAD of a BPF_PROG_TYPE_CGROUP_DEVICE program. `log` receives the verifier's reasons, unless it is empty. The descriptor
/// is close-on-exec.
pub(crate) fn load_device_program(program: &[u64], log: &mut [u8]) -> Result<OwnedFd> {
    let mut attr = Load {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: u32::from(!log.is_empty()),
        log_size: log.len() as u32,
        log_buf: if log.is_empty() {
            0
        } else {
            log.as_mut_ptr() as u64
        },
        kern_version: 0,
        prog_flags: 0,
        prog_name: *b"caisson_devices\0",
    };
    loop {
        // SAFETY: `Load` is what the command uses; `program` holds `insn_cnt` instructions of 8 bytes, the licence is NUL-terminated,
        // and `log` may be written for `log_size` bytes.
        match unsafe { bpf(PROG_LOAD, &mut attr) } {
            // The verifier gives up with EAGAIN when a signal is pending.
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Err(errno),
            // SAFETY: the call returned a new descriptor that nobody else owns.
            Ok(fd) => return Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
        }
    }
}

/// BPF_PROG_ATTACH with BPF_F_ALLOW_MULTI, in place of `replaced` if given (BPF_F_REPLACE, kernel 5.6).
pub(crate) fn attach_device_program(
    cgroup: impl AsFd,
    program: impl AsFd,
    replaced: Option<&OwnedFd>,
) -> Result<()> {
    let mut attr = Attach {
        target_fd: cgroup.as_fd().as_raw_fd() as u32,
        attach_bpf_fd: program.as_fd().as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: F_ALLOW_MULTI | if replaced.is_some() { F_REPLACE } else { 0 },
        replace_bpf_fd: replaced.map_or(0, |fd| fd.as_raw_fd() as u32),
    };
    // SAFETY: `Attach` is what the command uses, and it holds no addresses.
    unsafe { bpf(PROG_ATTACH, &mut attr) }.map(drop)
}

/// BPF_PROG_DETACH.
pub(crate) fn detach_device_program(cgroup: impl AsFd, program: impl AsFd) -> Result<()> {
    let mut attr = Attach {
        target_fd: cgroup.as_fd().as_raw_fd() as u32,
        attach_bpf_fd: program.as_fd().as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: 0,
        replace_bpf_fd: 0,
    };
    // SAFETY: `Attach` is what the command uses, and it holds no addresses.
    unsafe { bpf(PROG_DETACH, &mut attr) }.map(drop)
}

/// BPF_PROG_QUERY: fills `ids` with the device programs attached to the group itself and returns their number. ENOSPC if there are
/// more.
pub(crate) fn device_programs(cgroup: impl AsFd, ids: &mut [u32]) -> Result<usize> {
    let mut attr = Query {
        target_fd: cgroup.as_fd().as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: ids.len() as u32,
        padding: 0,
    };
    // SAFETY: `Query` is what the command uses; `ids` may be written for `prog_cnt` numbers.
    unsafe { bpf(PROG_QUERY, &mut attr) }?;
    Ok(attr.prog_cnt as usize)
}

/// BPF_PROG_GET_FD_BY_ID. The descriptor is close-on-exec.
pub(crate) fn program_by_id(id: u32) -> Result<OwnedFd> {
    let mut attr = ById {
        id,
        next_id: 0,
        open_flags: 0,
    };
    // SAFETY: `ById` is what the command uses, and it holds no addresses.
    let fd = unsafe { bpf(PROG_GET_FD_BY_ID, &mut attr) }?;
    // SAFETY: the call returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
