//! Which numbers of which architecture get which verdict.

use super::{ALLOW, ENOSYS, EPERM, KILL, S390X, X32_BIT, X86, X86_64};
use super::{allow, compiled, profile, trap, try_compile, verdict};
use oci_spec::runtime::Arch;
use serde_json::json;

#[test]
fn listed_calls_are_allowed_and_others_get_the_default() {
    let filter = compiled(&profile(
        &["SCMP_ARCH_X86_64"],
        &[allow("write", json!([])), allow("close", json!([]))],
    ));
    for (nr, expected) in [
        (0, EPERM),
        (1, ALLOW),
        (2, EPERM),
        (3, ALLOW),
        (4, EPERM),
        (468, EPERM),
        (469, ALLOW),
    ] {
        assert_eq!(verdict(&filter, X86_64, nr, &[]), expected, "{nr}");
    }
}

#[test]
fn the_native_architecture_is_covered_without_being_listed_and_unlisted_ones_are_killed() {
    for architectures in [
        &[][..],
        &["SCMP_ARCH_NATIVE"],
        &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86_64"],
    ] {
        let filter = compiled(&profile(architectures, &[allow("read", json!([]))]));
        assert_eq!(verdict(&filter, X86_64, 0, &[]), ALLOW);
        assert_eq!(verdict(&filter, X86, 3, &[]), KILL);
        assert_eq!(verdict(&filter, X86_64, X32_BIT, &[]), KILL);
        assert_eq!(verdict(&filter, 0xc000_00b7, 63, &[]), KILL);
        // A tracer skips a call by making it -1.
        assert_eq!(verdict(&filter, X86_64, u32::MAX, &[]), EPERM);
    }
}

#[test]
fn each_interface_has_its_own_numbers() {
    let all = ["SCMP_ARCH_X86", "SCMP_ARCH_X32"];
    let filter = compiled(&profile(
        &all,
        &[allow("ioctl", json!([])), allow("getpid", json!([]))],
    ));
    for (arch, nr, expected) in [
        (X86_64, 16, ALLOW),
        (X86_64, 39, ALLOW),
        (X86_64, 514, ENOSYS),
        (X86, 54, ALLOW),
        (X86, 20, ALLOW),
        (X86, 16, EPERM),
        (X86_64, X32_BIT | 514, ALLOW),
        (X86_64, X32_BIT | 39, ALLOW),
        (X86_64, X32_BIT | 16, EPERM),
        (X86_64, X32_BIT | 512, EPERM),
    ] {
        assert_eq!(
            verdict(&filter, arch, nr, &[]),
            expected,
            "{arch:#x} {nr:#x}"
        );
    }
}

#[test]
fn numbers_above_the_greatest_one_named_are_not_implemented() {
    let entries = json!([
        { "names": ["getpid", "openat"], "action": "SCMP_ACT_ALLOW" },
        // Named, though the rule says nothing new.
        { "names": ["clone3"], "action": "SCMP_ACT_ERRNO" },
    ]);
    let all = ["SCMP_ARCH_X86", "SCMP_ARCH_X32"];
    let profile =
        json!({ "defaultAction": "SCMP_ACT_ERRNO", "architectures": all, "syscalls": entries });
    let filter = compiled(&profile);
    for (arch, nr, expected) in [
        (X86_64, 257, ALLOW),
        (X86_64, 435, EPERM),
        (X86_64, 436, ENOSYS),
        (X86_64, X32_BIT - 1, ENOSYS),
        (X86, 435, EPERM),
        (X86, 436, ENOSYS),
        (X86, u32::MAX, ENOSYS),
        (X86_64, X32_BIT | 435, EPERM),
        (X86_64, X32_BIT | 436, ENOSYS),
        (X86_64, u32::MAX, ENOSYS),
    ] {
        assert_eq!(
            verdict(&filter, arch, nr, &[]),
            expected,
            "{arch:#x} {nr:#x}"
        );
    }
}

#[test]
fn a_permissive_default_lets_new_calls_through() {
    for (action, value) in [
        ("SCMP_ACT_ALLOW", ALLOW),
        ("SCMP_ACT_LOG", 0x7ffc_0000),
        ("SCMP_ACT_TRACE", 0x7ff0_0001),
    ] {
        let filter =
            compiled(&json!({ "defaultAction": action, "syscalls": [trap("getpid", json!([]))] }));
        assert_eq!(verdict(&filter, X86_64, 39, &[]), 0x0003_0000);
        assert_eq!(verdict(&filter, X86_64, 500, &[]), value);
    }
}

#[test]
fn a_profile_that_names_nothing_has_only_its_default() {
    let filter = compiled(&json!({ "defaultAction": "SCMP_ACT_KILL_PROCESS" }));
    for nr in [0, 1, 500, X32_BIT - 1, u32::MAX] {
        assert_eq!(verdict(&filter, X86_64, nr, &[]), 0x8000_0000);
    }
    let filter = compiled(&json!({ "defaultAction": "SCMP_ACT_KILL" }));
    assert_eq!(filter.disassemble(), "   0: ret KILL_THREAD\n");
}

#[test]
fn actions_are_the_kernel_s() {
    for (action, errno, value) in [
        ("SCMP_ACT_KILL", None, 0),
        ("SCMP_ACT_KILL_THREAD", None, 0),
        ("SCMP_ACT_KILL_PROCESS", None, 0x8000_0000),
        ("SCMP_ACT_TRAP", None, 0x0003_0000),
        ("SCMP_ACT_ERRNO", Some(38), ENOSYS),
        ("SCMP_ACT_ERRNO", Some(0x1_0026), ENOSYS),
        ("SCMP_ACT_TRACE", None, 0x7ff0_0001),
        ("SCMP_ACT_TRACE", Some(7), 0x7ff0_0007),
        ("SCMP_ACT_LOG", None, 0x7ffc_0000),
        ("SCMP_ACT_NOTIFY", None, 0x7fc0_0000),
    ] {
        let rule = json!({ "names": ["getpid"], "action": action, "errnoRet": errno });
        assert_eq!(
            verdict(&compiled(&profile(&[], &[rule])), X86_64, 39, &[]),
            value,
            "{action}"
        );
    }
}

#[test]
fn s390_reports_calls_it_does_not_know_as_number_0() {
    let filter = try_compile(
        Arch::ScmpArchS390x,
        &profile(&[], &[allow("restart_syscall", json!([]))]),
    )
    .unwrap();
    assert_eq!(verdict(&filter, S390X, 0, &[]), ENOSYS);
    assert_eq!(verdict(&filter, S390X, 1, &[]), EPERM);
}

#[test]
fn every_architecture_compiles() {
    for (native, others, audit, read) in [
        (Arch::ScmpArchAarch64, vec!["SCMP_ARCH_ARM"], 0x4000_0028, 3),
        (Arch::ScmpArchRiscv64, vec![], 0xc000_00f3, 63),
        (Arch::ScmpArchLoongarch64, vec![], 0xc000_0102, 63),
        (Arch::ScmpArchPpc64le, vec![], 0xc000_0015, 3),
        (
            Arch::ScmpArchMipsel64,
            vec!["SCMP_ARCH_MIPSEL"],
            0x4000_0008,
            4003,
        ),
        (
            Arch::ScmpArchMipsel64,
            vec!["SCMP_ARCH_MIPSEL"],
            0xc000_0008,
            5000,
        ),
        (Arch::ScmpArchArm, vec![], 0x4000_0028, 3),
    ] {
        let filter = try_compile(native, &profile(&others, &[allow("read", json!([]))])).unwrap();
        assert_eq!(verdict(&filter, audit, read, &[]), ALLOW, "{native}");
        assert_eq!(verdict(&filter, audit, read + 1, &[]), EPERM, "{native}");
    }
}
