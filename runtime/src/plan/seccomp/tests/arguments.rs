//! Rules with conditions, and which of several rules wins.

use super::{ALLOW, EPERM, S390X, X32_BIT, X86, X86_64};
use super::{allow, arg, compiled, error, holds, masked, profile, trap, try_compile, verdict};
use oci_spec::runtime::Arch;
use serde_json::json;

const INTERESTING: [u64; 12] = [
    0,
    1,
    5,
    6,
    7,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x5_0000_0005,
    0x5_0000_0006,
    0x6_0000_0000,
    u64::MAX,
];

#[test]
fn operators_compare_64_bits_and_32_where_arguments_have_no_more() {
    for op in ["EQ", "NE", "LT", "LE", "GT", "GE"] {
        for value in INTERESTING {
            let rules = [allow("dup", json!([arg(1, op, value)]))];
            let filter = compiled(&profile(&["SCMP_ARCH_X86", "SCMP_ARCH_X32"], &rules));
            let big_endian = try_compile(Arch::ScmpArchS390x, &profile(&[], &rules)).unwrap();
            for given in INTERESTING {
                let args = [!given, given];
                let wide = if holds(op, given, value) {
                    ALLOW
                } else {
                    EPERM
                };
                assert_eq!(
                    verdict(&filter, X86_64, 32, &args),
                    wide,
                    "{given:#x} {op} {value:#x}"
                );
                assert_eq!(
                    verdict(&big_endian, S390X, 41, &args),
                    wide,
                    "{given:#x} {op} {value:#x}"
                );
                let low = |v: u64| v & 0xffff_ffff;
                let narrow = if holds(op, low(given), low(value)) {
                    ALLOW
                } else {
                    EPERM
                };
                assert_eq!(
                    verdict(&filter, X86, 41, &args),
                    narrow,
                    "{given:#x} {op} {value:#x}"
                );
                assert_eq!(
                    verdict(&filter, X86_64, X32_BIT | 32, &args),
                    narrow,
                    "{given:#x} {op} {value:#x}"
                );
            }
        }
    }
}

#[test]
fn masks_apply_to_both_sides() {
    for mask in INTERESTING {
        for value in INTERESTING {
            let rule = allow("dup", json!([masked(2, mask, value)]));
            let filter = compiled(&profile(&["SCMP_ARCH_X86"], &[rule]));
            for given in INTERESTING {
                let wide = if given & mask == value & mask {
                    ALLOW
                } else {
                    EPERM
                };
                assert_eq!(
                    verdict(&filter, X86_64, 32, &[0, 0, given]),
                    wide,
                    "{given:#x} & {mask:#x} == {value:#x}"
                );
                let low = mask & 0xffff_ffff;
                let narrow = if given & low == value & low {
                    ALLOW
                } else {
                    EPERM
                };
                assert_eq!(
                    verdict(&filter, X86, 41, &[0, 0, given]),
                    narrow,
                    "{given:#x} & {mask:#x} == {value:#x}"
                );
            }
        }
    }
}

#[test]
fn conditions_on_different_arguments_all_hold_and_on_the_same_one_any() {
    let both = compiled(&profile(
        &[],
        &[allow("dup", json!([arg(0, "EQ", 1), arg(3, "EQ", 2)]))],
    ));
    let either = compiled(&profile(
        &[],
        &[allow(
            "dup",
            json!([arg(0, "EQ", 1), arg(0, "EQ", 2), arg(3, "EQ", 9)]),
        )],
    ));
    for (first, fourth, in_both, in_either) in [
        (1, 2, ALLOW, ALLOW),
        (1, 0, EPERM, ALLOW),
        (0, 2, EPERM, EPERM),
        (2, 0, EPERM, ALLOW),
        (0, 9, EPERM, ALLOW),
    ] {
        assert_eq!(
            verdict(&both, X86_64, 32, &[first, 0, 0, fourth]),
            in_both,
            "{first} {fourth}"
        );
        assert_eq!(
            verdict(&either, X86_64, 32, &[first, 0, 0, fourth]),
            in_either,
            "{first} {fourth}"
        );
    }
}

#[test]
fn the_first_rule_without_conditions_wins() {
    let filter = compiled(&profile(
        &[],
        &[
            trap("dup", json!([arg(0, "EQ", 1)])),
            allow("dup", json!([])),
            trap("dup", json!([])),
            trap("dup", json!([arg(0, "EQ", 2)])),
            // Always true, so no condition.
            trap("read", json!([masked(0, 0, 5)])),
            allow("read", json!([])),
        ],
    ));
    for value in 0..4 {
        assert_eq!(verdict(&filter, X86_64, 32, &[value]), ALLOW);
        assert_eq!(verdict(&filter, X86_64, 0, &[value]), 0x0003_0000);
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a flat table of cases")]
fn of_rules_that_all_hold_the_order_of_libseccomp_chooses() {
    let trapped = 0x0003_0000;
    for (rules, args, expected) in [
        // The higher argument.
        (
            [
                allow("dup", json!([arg(0, "EQ", 1)])),
                trap("dup", json!([arg(1, "EQ", 1)])),
            ],
            [1, 1],
            trapped,
        ),
        (
            [
                trap("dup", json!([arg(1, "EQ", 1)])),
                allow("dup", json!([arg(0, "EQ", 1)])),
            ],
            [1, 1],
            trapped,
        ),
        // Equality before order, and "less" before "greater".
        (
            [
                allow("dup", json!([arg(0, "GE", 1)])),
                trap("dup", json!([arg(0, "EQ", 5)])),
            ],
            [5, 0],
            trapped,
        ),
        (
            [
                allow("dup", json!([arg(0, "GT", 1)])),
                trap("dup", json!([arg(0, "LE", 5)])),
            ],
            [5, 0],
            trapped,
        ),
        // The greater value, but for "less" the smaller one.
        (
            [
                allow("dup", json!([arg(0, "GE", 3)])),
                trap("dup", json!([arg(0, "GE", 5)])),
            ],
            [6, 0],
            trapped,
        ),
        (
            [
                allow("dup", json!([arg(0, "LT", 5)])),
                trap("dup", json!([arg(0, "LT", 3)])),
            ],
            [2, 0],
            trapped,
        ),
        (
            [
                allow("dup", json!([arg(0, "NE", 7)])),
                trap("dup", json!([arg(0, "EQ", 5)])),
            ],
            [5, 0],
            ALLOW,
        ),
        // What was written first.
        (
            [
                allow("dup", json!([masked(0, 1, 1)])),
                trap("dup", json!([masked(0, 3, 1)])),
            ],
            [1, 0],
            ALLOW,
        ),
        // The shorter rule, if it comes first.
        (
            [
                allow("dup", json!([arg(0, "EQ", 1)])),
                trap("dup", json!([arg(0, "EQ", 1), arg(1, "EQ", 1)])),
            ],
            [1, 1],
            ALLOW,
        ),
    ] {
        let filter = compiled(&profile(&["SCMP_ARCH_X86"], &rules));
        assert_eq!(verdict(&filter, X86_64, 32, &args), expected, "{rules:?}");
        assert_eq!(verdict(&filter, X86, 41, &args), expected, "{rules:?}");
    }
}

#[test]
fn rules_that_contradict_each_other_are_refused() {
    for rules in [
        [
            allow("dup", json!([arg(0, "EQ", 1)])),
            trap("dup", json!([arg(0, "EQ", 1)])),
        ],
        [
            allow("dup", json!([arg(0, "GE", 1)])),
            trap("dup", json!([arg(0, "GE", 1)])),
        ],
        [
            allow("dup", json!([arg(0, "EQ", 1), arg(1, "EQ", 1)])),
            trap("dup", json!([arg(0, "EQ", 1)])),
        ],
    ] {
        let text = error(&profile(&[], &rules));
        assert_eq!(
            text,
            "seccomp: the rules for 'dup' on SCMP_ARCH_X86_64 contradict each other"
        );
    }
}

#[test]
fn rules_for_multiplexed_calls_reach_the_multiplexer() {
    let rules = [
        allow("connect", json!([])),
        allow("recv", json!([])),
        allow("socket", json!([arg(0, "EQ", 1), arg(2, "EQ", 0)])),
        allow("shmat", json!([])),
    ];
    let filter = compiled(&profile(&["SCMP_ARCH_X86"], &rules));
    for (nr, args, expected) in [
        (362, [0, 0, 0], ALLOW),
        (359, [1, 0, 0], ALLOW),
        (359, [2, 0, 0], EPERM),
        (102, [3, 0, 9], ALLOW),
        (102, [10, 0, 0], ALLOW),
        (102, [1, 7, 0], ALLOW),
        (102, [1, 7, 5], EPERM),
        (102, [2, 0, 0], EPERM),
        (117, [21, 0, 0], ALLOW),
        (117, [22, 0, 0], EPERM),
    ] {
        assert_eq!(verdict(&filter, X86, nr, &args), expected, "{nr} {args:?}");
    }
    // x86_64 never had them.
    assert_eq!(verdict(&filter, X86_64, 102, &[3]), EPERM);
    let big_endian = try_compile(Arch::ScmpArchS390x, &profile(&[], &rules)).unwrap();
    assert_eq!(verdict(&big_endian, S390X, 102, &[3]), ALLOW);
    assert_eq!(verdict(&big_endian, S390X, 102, &[4]), EPERM);
}

#[test]
fn a_multiplexer_that_is_allowed_as_a_whole_is_allowed() {
    let rules = [
        trap("socket", json!([arg(2, "EQ", 9)])),
        allow("socketcall", json!([])),
        allow("socket", json!([arg(2, "NE", 9)])),
    ];
    let filter = compiled(&profile(&["SCMP_ARCH_X86"], &rules));
    assert_eq!(verdict(&filter, X86, 102, &[1, 0, 9]), ALLOW);
    assert_eq!(verdict(&filter, X86, 359, &[1, 0, 9]), 0x0003_0000);
}
