//! The system call interfaces a filter can cover: how the kernel marks them, their word size and byte order, and their numbers.
//!
//! The numbers come from the `syscalls` crate. What is written down here is only what that crate does not have: how x32's
//! numbers differ from x86_64's, Arm's private calls, and the calls that some interfaces multiplex over `socketcall` and `ipc`.

use oci_spec::runtime::Arch;
use std::ops::RangeInclusive;
use syscalls::x86_64::Sysno;

/// Set in the number of every x32 system call; the kernel reports x32 as x86_64 otherwise (`asm/unistd.h`).
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// The first of the numbers that x32 has for itself, in the order of [`X32_OWN`].
const X32_OWN_FIRST: u32 = 512;

/// The calls whose x86_64 entry point reads pointers or structures that are laid out differently on x32: the kernel gives them
/// numbers 512 to 547 there and refuses the x86_64 number (`arch/x86/entry/syscalls/syscall_64.tbl`, the `x32` lines).
const X32_OWN: [Sysno; 36] = [
    Sysno::rt_sigaction,
    Sysno::rt_sigreturn,
    Sysno::ioctl,
    Sysno::readv,
    Sysno::writev,
    Sysno::recvfrom,
    Sysno::sendmsg,
    Sysno::recvmsg,
    Sysno::execve,
    Sysno::ptrace,
    Sysno::rt_sigpending,
    Sysno::rt_sigtimedwait,
    Sysno::rt_sigqueueinfo,
    Sysno::sigaltstack,
    Sysno::timer_create,
    Sysno::mq_notify,
    Sysno::kexec_load,
    Sysno::waitid,
    Sysno::set_robust_list,
    Sysno::get_robust_list,
    Sysno::vmsplice,
    Sysno::move_pages,
    Sysno::preadv,
    Sysno::pwritev,
    Sysno::rt_tgsigqueueinfo,
    Sysno::recvmmsg,
    Sysno::sendmmsg,
    Sysno::process_vm_readv,
    Sysno::process_vm_writev,
    Sysno::setsockopt,
    Sysno::getsockopt,
    Sysno::io_setup,
    Sysno::io_submit,
    Sysno::execveat,
    Sysno::preadv2,
    Sysno::pwritev2,
];

/// The calls x32 does not have at all (the `64` lines of the same table that no `x32` line replaces).
const X32_ABSENT: [Sysno; 14] = [
    Sysno::uselib,
    Sysno::_sysctl,
    Sysno::create_module,
    Sysno::get_kernel_syms,
    Sysno::query_module,
    Sysno::nfsservctl,
    Sysno::set_thread_area,
    Sysno::get_thread_area,
    Sysno::epoll_ctl_old,
    Sysno::epoll_wait_old,
    Sysno::vserver,
    Sysno::uretprobe,
    Sysno::uprobe,
    Sysno::map_shadow_stack,
];

/// Arm's private calls, which glibc needs to start a thread (`arch/arm/include/uapi/asm/unistd.h`).
const ARM_PRIVATE: [(&str, u32); 6] = [
    ("breakpoint", 0xf0001),
    ("cacheflush", 0xf0002),
    ("usr26", 0xf0003),
    ("usr32", 0xf0004),
    ("set_tls", 0xf0005),
    ("get_tls", 0xf0006),
];

/// These numbers exist only where `time_t` used to have 32 bits; the crate lists them for every architecture of the generic table.
const TIME64: RangeInclusive<u32> = 403..=423;

/// What `socketcall` multiplexes: name and first argument (`linux/net.h`).
const SOCKETCALL: [(&str, u32); 20] = [
    ("socket", 1),
    ("bind", 2),
    ("connect", 3),
    ("listen", 4),
    ("accept", 5),
    ("getsockname", 6),
    ("getpeername", 7),
    ("socketpair", 8),
    ("send", 9),
    ("recv", 10),
    ("sendto", 11),
    ("recvfrom", 12),
    ("shutdown", 13),
    ("setsockopt", 14),
    ("getsockopt", 15),
    ("sendmsg", 16),
    ("recvmsg", 17),
    ("accept4", 18),
    ("recvmmsg", 19),
    ("sendmmsg", 20),
];

/// What `ipc` multiplexes: name and first argument (`linux/ipc.h`).
const IPC: [(&str, u32); 12] = [
    ("semop", 1),
    ("semget", 2),
    ("semctl", 3),
    ("semtimedop", 4),
    ("msgsnd", 11),
    ("msgrcv", 12),
    ("msgget", 13),
    ("msgctl", 14),
    ("shmat", 21),
    ("shmdt", 22),
    ("shmget", 23),
    ("shmctl", 24),
];

/// A call that other calls go through on some interfaces.
pub(super) struct Multiplexer {
    pub(super) name: &'static str,
    /// The calls that go through it, with the value of its first argument for each.
    pub(super) calls: &'static [(&'static str, u32)],
}

const MULTIPLEXERS: [Multiplexer; 2] = [
    Multiplexer {
        name: "socketcall",
        calls: &SOCKETCALL,
    },
    Multiplexer {
        name: "ipc",
        calls: &IPC,
    },
];

/// The interface of the machine this program was built for.
pub(super) const NATIVE: Arch = native();

const fn native() -> Arch {
    if cfg!(target_arch = "x86_64") {
        Arch::ScmpArchX86_64
    } else if cfg!(target_arch = "aarch64") {
        Arch::ScmpArchAarch64
    } else if cfg!(target_arch = "riscv64") {
        Arch::ScmpArchRiscv64
    } else if cfg!(target_arch = "loongarch64") {
        Arch::ScmpArchLoongarch64
    } else if cfg!(target_arch = "s390x") {
        Arch::ScmpArchS390x
    } else if cfg!(all(target_arch = "powerpc64", target_endian = "little")) {
        Arch::ScmpArchPpc64le
    } else if cfg!(target_arch = "x86") {
        Arch::ScmpArchX86
    } else if cfg!(target_arch = "arm") {
        Arch::ScmpArchArm
    } else {
        panic!("the seccomp compiler does not know this architecture")
    }
}

/// What the kernel puts in `seccomp_data.arch` for calls of this interface (`linux/audit.h`). libseccomp's tokens, which the OCI
/// type carries, are the same values but for x32.
pub(super) fn audit(abi: Arch) -> u32 {
    match abi {
        Arch::ScmpArchX32 => Arch::ScmpArchX86_64 as u32,
        other => other as u32,
    }
}

/// Whether arguments are compared with all 64 bits. libseccomp compares only the low half on interfaces with 32-bit pointers, x32
/// and n32 among them.
pub(super) fn is_wide(abi: Arch) -> bool {
    let n32 = matches!(abi, Arch::ScmpArchMips64n32 | Arch::ScmpArchMipsel64n32);
    abi as u32 & 0x8000_0000 != 0 && !n32
}

/// Whether the low half of an argument comes first in `seccomp_data`.
pub(super) fn is_little_endian(abi: Arch) -> bool {
    abi as u32 & 0x4000_0000 != 0
}

/// The calls that multiplex others on this interface. s390x and 64-bit PowerPC have `socketcall` too; x86_64, Arm and the
/// architectures of the generic table never did.
pub(super) fn multiplexers(abi: Arch) -> &'static [Multiplexer] {
    match abi {
        Arch::ScmpArchX86
        | Arch::ScmpArchMips
        | Arch::ScmpArchMipsel
        | Arch::ScmpArchPpc
        | Arch::ScmpArchPpc64
        | Arch::ScmpArchPpc64le
        | Arch::ScmpArchS390x => &MULTIPLEXERS,
        _ => &[],
    }
}

/// The numbers and names of one interface.
#[derive(Clone, Copy)]
pub(super) struct Table {
    abi: Arch,
    first: u32,
    last: u32,
    name: fn(u32) -> Option<&'static str>,
}

macro_rules! table {
    ($abi:expr, $module:ident) => {{
        use syscalls::$module::Sysno;
        Table {
            abi: $abi,
            first: Sysno::first().id().unsigned_abs(),
            last: Sysno::last().id().unsigned_abs(),
            name: |nr| Sysno::new(nr as usize).map(|sysno| sysno.name()),
        }
    }};
}

/// The numbers of an interface, if there is a table of them: the crate has none for 31-bit s390 and for MIPS n32.
pub(super) fn table(abi: Arch) -> Option<Table> {
    Some(match abi {
        Arch::ScmpArchX86 => table!(abi, x86),
        Arch::ScmpArchX86_64 | Arch::ScmpArchX32 => table!(abi, x86_64),
        Arch::ScmpArchArm => table!(abi, arm),
        Arch::ScmpArchAarch64 => table!(abi, aarch64),
        Arch::ScmpArchMips | Arch::ScmpArchMipsel => table!(abi, mips),
        Arch::ScmpArchMips64 | Arch::ScmpArchMipsel64 => table!(abi, mips64),
        Arch::ScmpArchPpc => table!(abi, powerpc),
        Arch::ScmpArchPpc64 | Arch::ScmpArchPpc64le => table!(abi, powerpc64),
        Arch::ScmpArchS390x => table!(abi, s390x),
        Arch::ScmpArchRiscv64 => table!(abi, riscv64),
        Arch::ScmpArchLoongarch64 => table!(abi, loongarch64),
        _ => return None,
    })
}

/// Leaves the names that no interface has. What an x86 or Arm machine lacks is mostly PowerPC's or MIPS's, so these come first.
pub(super) fn retain_unknown(names: &mut Vec<&str>) {
    let distinct = [
        Arch::ScmpArchPpc,
        Arch::ScmpArchMips,
        Arch::ScmpArchArm,
        Arch::ScmpArchX86,
        Arch::ScmpArchS390x,
        Arch::ScmpArchX86_64,
        Arch::ScmpArchAarch64,
        Arch::ScmpArchMips64,
        Arch::ScmpArchPpc64,
        Arch::ScmpArchRiscv64,
        Arch::ScmpArchLoongarch64,
    ];
    for table in distinct.into_iter().filter_map(table) {
        if names.is_empty() {
            return;
        }
        table
            .calls()
            .for_each(|(_, known)| names.retain(|name| *name != known));
    }
}

impl Table {
    /// Every number of the interface with its name. The crate's own iterator leaves the last one out.
    pub(super) fn calls(self) -> impl Iterator<Item = (u32, &'static str)> {
        let private: &[(&str, u32)] = if self.abi == Arch::ScmpArchArm {
            &ARM_PRIVATE
        } else {
            &[]
        };
        let listed = (self.first..=self.last).filter_map(move |nr| {
            let name = (self.name)(nr)?;
            // The crate's names are Rust identifiers, and one of them is a keyword.
            self.correct(nr, name.strip_prefix("r#").unwrap_or(name))
        });
        listed.chain(private.iter().map(|&(name, nr)| (nr, name)))
    }

    /// What this interface has for an entry of the crate's table.
    fn correct(self, nr: u32, name: &'static str) -> Option<(u32, &'static str)> {
        match self.abi {
            Arch::ScmpArchX32 => Some((x32_number(nr)?, name)),
            Arch::ScmpArchAarch64 | Arch::ScmpArchLoongarch64 => match name {
                _ if TIME64.contains(&nr) => None,
                "fstatat" => Some((nr, "newfstatat")),
                _ => Some((nr, name)),
            },
            _ => Some((nr, name)),
        }
    }
}

/// x32's number for a system call of x86_64.
fn x32_number(x86_64: u32) -> Option<u32> {
    let is = |sysno: &Sysno| sysno.id().unsigned_abs() == x86_64;
    if X32_ABSENT.iter().any(is) {
        return None;
    }
    let own = (X32_OWN_FIRST..).zip(&X32_OWN).find(|(_, sysno)| is(sysno));
    Some(X32_BIT | own.map_or(x86_64, |(nr, _)| nr))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(abi: Arch, name: &str) -> Option<u32> {
        table(abi)
            .unwrap()
            .calls()
            .find(|(_, n)| *n == name)
            .map(|(nr, _)| nr)
    }

    #[test]
    fn numbers_are_those_of_the_kernel() {
        use Arch::*;
        for (abi, name, nr) in [
            (ScmpArchX86_64, "read", Some(0)),
            (ScmpArchX86_64, "file_setattr", Some(469)),
            (ScmpArchX86, "break", Some(17)),
            (ScmpArchX86, "socketcall", Some(102)),
            (ScmpArchX86, "send", None),
            (ScmpArchArm, "set_tls", Some(0xf0005)),
            (ScmpArchAarch64, "newfstatat", Some(79)),
            (ScmpArchAarch64, "fstatat", None),
            (ScmpArchAarch64, "futex_time64", None),
            (ScmpArchArm, "futex_time64", Some(422)),
            (ScmpArchMips, "read", Some(4003)),
            (ScmpArchMipsel64, "read", Some(5000)),
            (ScmpArchX32, "read", Some(X32_BIT)),
            (ScmpArchX32, "rt_sigaction", Some(X32_BIT | 512)),
            (ScmpArchX32, "execve", Some(X32_BIT | 520)),
            (ScmpArchX32, "recvmmsg", Some(X32_BIT | 537)),
            (ScmpArchX32, "getsockopt", Some(X32_BIT | 542)),
            (ScmpArchX32, "pwritev2", Some(X32_BIT | 547)),
            (ScmpArchX32, "uselib", None),
        ] {
            assert_eq!(number(abi, name), nr, "{name} on {abi}");
        }
    }

    #[test]
    fn numbers_ascend() {
        for abi in [
            Arch::ScmpArchX86_64,
            Arch::ScmpArchX86,
            Arch::ScmpArchArm,
            Arch::ScmpArchMips64,
        ] {
            assert!(table(abi).unwrap().calls().map(|(nr, _)| nr).is_sorted());
        }
    }

    #[test]
    fn interfaces_are_described_as_the_kernel_marks_them() {
        use Arch::*;
        assert_eq!(audit(ScmpArchX86), 0x4000_0003);
        assert_eq!(audit(ScmpArchX32), 0xc000_003e);
        assert_eq!(audit(ScmpArchS390x), 0x8000_0016);
        for (abi, wide, little) in [
            (ScmpArchX86_64, true, true),
            (ScmpArchX32, false, true),
            (ScmpArchX86, false, true),
            (ScmpArchS390x, true, false),
            (ScmpArchPpc, false, false),
            (ScmpArchPpc64le, true, true),
            (ScmpArchMips64n32, false, false),
            (ScmpArchMipsel64n32, false, true),
            (ScmpArchLoongarch64, true, true),
        ] {
            assert_eq!(
                (is_wide(abi), is_little_endian(abi)),
                (wide, little),
                "{abi}"
            );
        }
    }

    #[test]
    fn names_of_any_architecture_are_known() {
        let mut names = vec![
            "read",
            "set_tls",
            "break",
            "openat3",
            "s390_runtime_instr",
            "riscv_hwprobe",
            "arm_fadvise64_64",
        ];
        retain_unknown(&mut names);
        assert_eq!(names, ["openat3"]);
    }
}
