//! The program as a whole: its length, its shape and its text; flags, warnings and refusals.

use super::interpreter::{Call, run};
use super::{ALLOW, EPERM, KILL, X86_64};
use super::{allow, arg, compiled, error, masked, profile, verdict};
use crate::plan::seccomp::abi;
use oci_spec::runtime::Arch;
use serde_json::{Value, json};

#[test]
fn flags_are_those_of_runc() {
    let flags = |flags: Value| {
        compiled(&json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": flags })).flags
    };
    assert_eq!(flags(Value::Null), 4);
    assert_eq!(flags(json!([])), 0);
    assert_eq!(
        flags(json!([
            "SECCOMP_FILTER_FLAG_TSYNC",
            "SECCOMP_FILTER_FLAG_LOG"
        ])),
        2
    );
    let notify = json!({ "names": ["mount"], "action": "SCMP_ACT_NOTIFY" });
    let filter = |syscalls: Value| {
        let flags = ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"];
        compiled(
            &json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": flags, "syscalls": syscalls }),
        )
    };
    assert_eq!(filter(json!([notify])).flags, 8 | 32);
    let by_default = compiled(&json!({ "defaultAction": "SCMP_ACT_NOTIFY" }));
    assert_eq!(by_default.flags, 4 | 8);
    let without = filter(json!([]));
    assert_eq!(without.flags, 0);
    assert_eq!(without.warnings.len(), 1);
}

#[test]
fn what_has_no_effect_is_warned_of() {
    let filter = compiled(&json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_MIPSEL64N32"],
        "syscalls": [
            { "names": ["read", "openat3", "set_tls", "abracadabra"], "action": "SCMP_ACT_ALLOW", "errnoRet": 5 },
        ],
    }));
    assert_eq!(
        filter.warnings,
        [
            "seccomp: SCMP_ACT_ALLOW returns no error 5, ignoring",
            "seccomp: the system calls of SCMP_ARCH_MIPSEL64N32 are not known, ignoring: its processes are killed",
            "seccomp: unknown system calls abracadabra, openat3, ignoring",
        ]
    );
    assert_eq!(verdict(&filter, 0xe000_0008, 6000, &[]), KILL);
}

#[test]
fn what_cannot_be_done_is_refused() {
    for (profile, text) in [
        (
            profile(&["SCMP_ARCH_SH"], &[]),
            "seccomp: architecture SCMP_ARCH_SH is not supported",
        ),
        (
            profile(&["SCMP_ARCH_MIPS"], &[]),
            "seccomp: architecture SCMP_ARCH_MIPS has another byte order than this machine",
        ),
        (
            profile(&[], &[allow("", json!([]))]),
            "seccomp: a system call's name is empty",
        ),
        (
            profile(&[], &[allow("dup", json!([arg(6, "EQ", 1)]))]),
            "seccomp: rule for dup: there is no argument 6, only 0 to 5",
        ),
    ] {
        assert_eq!(error(&profile), text);
    }
}

/// One rule for each system call, each with other constants.
fn rule_for_each(conditions: usize) -> Vec<Value> {
    let rule = |(nr, name): (u32, &str)| {
        let args: Vec<_> = (0..conditions)
            .map(|index| arg(index, "EQ", u64::from(nr) << 20 | index as u64))
            .collect();
        allow(name, args.into())
    };
    abi::table(Arch::ScmpArchX86_64)
        .unwrap()
        .calls()
        .map(rule)
        .collect()
}

#[test]
fn jumps_reach_across_long_programs() {
    let filter = compiled(&profile(&["SCMP_ARCH_X32"], &rule_for_each(1)[..360]));
    assert!(filter.program.len() > 2000, "{}", filter.program.len());
    for (nr, name) in abi::table(Arch::ScmpArchX86_64).unwrap().calls().take(360) {
        assert_eq!(
            verdict(&filter, X86_64, nr, &[u64::from(nr) << 20]),
            ALLOW,
            "{name}"
        );
        assert_eq!(
            verdict(&filter, X86_64, nr, &[u64::from(nr + 1) << 20]),
            EPERM,
            "{name}"
        );
    }
}

#[test]
fn a_program_longer_than_the_kernel_takes_is_refused_with_its_length() {
    let text = error(&profile(&[], &rule_for_each(6)));
    let length: usize = text
        .split_whitespace()
        .find_map(|word| word.parse().ok())
        .unwrap();
    assert_eq!(
        text,
        format!("seccomp: the profile compiles to {length} instructions, the kernel takes 4096")
    );
    assert!(length > 4096);
}

#[test]
fn the_search_is_logarithmic_and_looks_at_no_argument() {
    // Every second call: as many ranges as there are calls.
    let calls = abi::table(Arch::ScmpArchX86_64)
        .unwrap()
        .calls()
        .map(|(_, name)| name);
    let every_second: Vec<_> = calls
        .step_by(2)
        .map(|name| allow(name, json!([])))
        .collect();
    let filter = compiled(&profile(&[], &every_second));
    for nr in 0..470 {
        let call = Call {
            arch: X86_64,
            nr,
            args: [0; 6],
        };
        let (_, steps) = run(&filter.program, &call, true);
        // Load and test of the architecture, load of the number, nine tests for at most 512 ranges, a long jump, the return.
        assert!(steps <= 14, "{nr}: {steps}");
    }
    assert!(filter.program.iter().all(|i| i.code != 0x20 || i.k < 16));
}

#[test]
fn programs_are_printed_and_written() {
    let rules = json!([allow("dup", json!([masked(0, 0xff_0000_0010, 0x10)]))]);
    let filter = compiled(&json!({ "defaultAction": "SCMP_ACT_LOG", "syscalls": rules }));
    let text = "   0: ld arch
   1: jeq 0xc000003e, 2, 7
   2: ld nr
   3: jge 0x21, 5, 4
   4: jge 0x20, 8, 13
   5: jge 0x40000000, 6, 13
   6: jge 0xffffffff, 13, 7
   7: ret KILL_THREAD
   8: ld args[0].high
   9: jset 0xff, 13, 10
  10: ld args[0].low
  11: and 0x10
  12: jeq 0x10, 14, 13
  13: ret LOG
  14: ret ALLOW
";
    assert_eq!(filter.disassemble(), text);
    let bytes = filter.to_bytes();
    assert_eq!(bytes.len(), filter.program.len() * 8);
    assert_eq!(bytes[..8], [0x20, 0, 0, 0, 4, 0, 0, 0]);
}
