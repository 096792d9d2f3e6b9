//! The default seccomp profile: what is not named here fails with EPERM. As strict as Docker's, and by the same rule: a call that a
//! capability guards is allowed with that capability only. Pure.

use serde_json::{Value, json};

/// Allowed to everybody. Not here, among others: io_uring (it goes past the filter), keyctl and its kin (the keyring is not in a namespace),
/// userfaultfd, and what changes the kernel or its time.
const ALLOWED: &str = "accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 clock_adjtime \
clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect \
copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd \
eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 \
fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 \
fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat getcpu getcwd getdents getdents64 getegid \
getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom \
getresgid getresgid32 getresuid getresuid32 getrlimit get_robust_list getrusage getsid getsockname getsockopt get_thread_area gettid gettimeofday \
getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy io_getevents \
io_pgetevents io_pgetevents_time64 ioprio_get ioprio_set io_setup io_submit ipc kill landlock_add_rule landlock_create_ruleset \
landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr \
lstat lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 \
mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl \
msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open openat openat2 pause pidfd_open \
pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease \
pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg \
remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask \
rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam \
sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr \
sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg \
sendmsg sendto setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 \
setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit set_robust_list setsid setsockopt set_thread_area set_tid_address setuid \
setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice \
stat stat64 statfs statfs64 statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete \
timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime \
timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork \
vmsplice wait4 waitid waitpid write writev \
process_vm_readv process_vm_writev ptrace";

/// With one of these capabilities, these too.
const BY_CAPABILITY: [(&str, &str); 13] = [
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount \
         mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    (
        "CAP_SYS_TIME",
        "settimeofday stime clock_settime clock_settime64",
    ),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    (
        "CAP_SYS_NICE",
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
];

/// What a processor's own calls are, by the name that Rust has for it, with its architectures in libseccomp's words.
const BY_PROCESSOR: [(&str, &[&str], &str); 6] = [
    (
        "x86_64",
        &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "arch_prctl modify_ldt",
    ),
    (
        "aarch64",
        &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
    ),
    (
        "arm",
        &["SCMP_ARCH_ARM"],
        "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
    ),
    (
        "powerpc64",
        &["SCMP_ARCH_PPC64LE"],
        "sync_file_range2 swapcontext",
    ),
    (
        "s390x",
        &["SCMP_ARCH_S390X", "SCMP_ARCH_S390"],
        "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr",
    ),
    (
        "riscv64",
        &["SCMP_ARCH_RISCV64"],
        "riscv_flush_icache riscv_hwprobe",
    ),
];

/// Flags of clone(2) that make namespaces.
const NAMESPACES: u64 = 0x7e02_0000;
/// AF_VSOCK: sockets to the hypervisor, which no network namespace holds back.
const VSOCK: u64 = 40;
const ENOSYS: u32 = 38;

/// The profile for a process whose bounding set has these capabilities.
pub(crate) fn profile(capabilities: &[String]) -> Value {
    let has = |name: &str| capabilities.iter().any(|capability| capability == name);
    let mut rules = vec![allow(ALLOWED)];
    // Which system the process says that it is for; nothing else of personality(2) is harmless.
    for persona in [0_u64, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        rules.push(rule("personality", argument(persona, "SCMP_CMP_EQ", 0)));
    }
    rules.push(rule("socket", argument(VSOCK, "SCMP_CMP_NE", 0)));
    for (_, calls) in BY_CAPABILITY.iter().filter(|(name, _)| has(name)) {
        rules.push(allow(calls));
    }
    if has("CAP_PERFMON") {
        rules.push(allow("perf_event_open"));
    }
    if !has("CAP_SYS_ADMIN") {
        // On s390 the flags are the second argument.
        let index = usize::from(cfg!(target_arch = "s390x"));
        let mut clone = argument(NAMESPACES, "SCMP_CMP_MASKED_EQ", 0);
        clone["index"] = json!(index);
        rules.push(rule("clone", clone));
        // Its flags are in memory, where no filter sees them: programs take clone instead.
        rules.push(json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS }));
    }
    let here = BY_PROCESSOR
        .iter()
        .find(|(name, ..)| *name == std::env::consts::ARCH);
    let architectures = here.map_or(&[][..], |(_, architectures, _)| architectures);
    if let Some((.., calls)) = here {
        rules.push(allow(calls));
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": architectures,
        "syscalls": rules,
    })
}

fn allow(calls: &str) -> Value {
    let names: Vec<&str> = calls.split_whitespace().collect();
    json!({ "names": names, "action": "SCMP_ACT_ALLOW" })
}

fn rule(call: &str, argument: Value) -> Value {
    json!({ "names": [call], "action": "SCMP_ACT_ALLOW", "args": [argument] })
}

fn argument(value: u64, operator: &str, second: u64) -> Value {
    json!({ "index": 0, "value": value, "valueTwo": second, "op": operator })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(profile: &Value, action: &str, with_arguments: bool) -> Vec<String> {
        let rules = profile["syscalls"].as_array().unwrap();
        let matching = rules.iter().filter(|rule| {
            rule["action"] == action && rule.get("args").is_some() == with_arguments
        });
        matching
            .flat_map(|rule| rule["names"].as_array().unwrap())
            .map(|name| name.as_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn without_capabilities_nothing_makes_namespaces_mounts_or_loads_programs() {
        let allowed = names(&profile(&[]), "SCMP_ACT_ALLOW", false);
        for call in [
            "unshare",
            "setns",
            "mount",
            "fsopen",
            "bpf",
            "clone",
            "clone3",
            "keyctl",
            "io_uring_setup",
            "userfaultfd",
            "open_by_handle_at",
            "reboot",
            "chroot",
            "kexec_load",
            "perf_event_open",
            "settimeofday",
            "swapon",
        ] {
            assert!(!allowed.contains(&call.to_owned()), "{call}");
        }
        assert_eq!(names(&profile(&[]), "SCMP_ACT_ERRNO", false), ["clone3"]);
        assert!(names(&profile(&[]), "SCMP_ACT_ALLOW", true).contains(&"clone".to_owned()));
    }

    #[test]
    fn a_capability_brings_its_calls() {
        let allowed = names(
            &profile(&["CAP_SYS_ADMIN".into(), "CAP_SYS_CHROOT".into()]),
            "SCMP_ACT_ALLOW",
            false,
        );
        for call in ["unshare", "mount", "clone", "clone3", "chroot"] {
            assert!(allowed.contains(&call.to_owned()), "{call}");
        }
        assert!(!allowed.contains(&"reboot".to_owned()));
    }

    #[test]
    fn no_call_is_named_twice() {
        let mut words: Vec<&str> = ALLOWED.split_whitespace().collect();
        let count = words.len();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), count);
    }
}
