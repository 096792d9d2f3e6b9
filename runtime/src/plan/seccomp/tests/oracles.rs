//! Random rules against their plain meaning, and against seccompiler's own compiler.

use super::interpreter::{Call, run};
use super::{ALLOW, EPERM, X86_64};
use super::{Numbers, allow, arg, compiled, holds, masked, profile, verdict};
use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition};
use seccompiler::{SeccompFilter, SeccompRule, TargetArch};
use serde_json::{Value, json};

/// A rule: index, operator, value and mask of each condition.
type Rule = Vec<(usize, &'static str, u64, u64)>;

fn random_rules(numbers: &mut Numbers, values: &[u64]) -> Vec<Rule> {
    let count = 1 + numbers.below(4);
    let rule = |numbers: &mut Numbers| {
        let first = numbers.below(3);
        let conditions = 1 + numbers.below(3);
        let indices = (0..conditions).map(|i| (first + i) % 3);
        indices
            .map(|index| {
                let op = numbers.of(&["EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ"]);
                let mask = if op == "MASKED_EQ" {
                    numbers.of(values)
                } else {
                    u64::MAX
                };
                (index, op, numbers.of(values) & mask, mask)
            })
            .collect()
    };
    (0..count).map(|_| rule(numbers)).collect()
}

fn applies(rule: &Rule, args: &[u64]) -> bool {
    rule.iter().all(|&(index, op, value, mask)| match op {
        "MASKED_EQ" => args[index] & mask == value,
        op => holds(op, args[index], value),
    })
}

fn to_json(rule: &Rule) -> Value {
    let condition = |&(index, op, value, mask): &(usize, &str, u64, u64)| match op {
        "MASKED_EQ" => masked(index, mask, value),
        op => arg(index, op, value),
    };
    rule.iter().map(condition).collect()
}

#[test]
fn a_call_is_allowed_iff_some_rule_applies() {
    let values = [0, 1, 2, 0x1_0000_0000, 0x1_0000_0001, 0x2_0000_0001];
    let mut numbers = Numbers(1);
    for _ in 0..400 {
        let rules = random_rules(&mut numbers, &values);
        let entries: Vec<_> = rules
            .iter()
            .map(|rule| allow("dup", to_json(rule)))
            .collect();
        let filter = compiled(&profile(&[], &entries));
        for a in values {
            for b in values {
                for c in [values[0], values[1], values[3], values[5]] {
                    let expected = if rules.iter().any(|rule| applies(rule, &[a, b, c])) {
                        ALLOW
                    } else {
                        EPERM
                    };
                    assert_eq!(
                        verdict(&filter, X86_64, 32, &[a, b, c]),
                        expected,
                        "{rules:?} ({a:#x}, {b:#x}, {c:#x})"
                    );
                }
            }
        }
    }
}

/// The same rules by seccompiler, which knows one action and one architecture.
fn by_seccompiler(calls: &[(i64, Vec<Rule>)]) -> BpfProgram {
    let condition = |&(index, op, value, mask): &(usize, &str, u64, u64)| {
        let op = match op {
            "EQ" => SeccompCmpOp::Eq,
            "NE" => SeccompCmpOp::Ne,
            "LT" => SeccompCmpOp::Lt,
            "LE" => SeccompCmpOp::Le,
            "GT" => SeccompCmpOp::Gt,
            "GE" => SeccompCmpOp::Ge,
            _ => SeccompCmpOp::MaskedEq(mask),
        };
        SeccompCondition::new(index as u8, SeccompCmpArgLen::Qword, op, value).unwrap()
    };
    let rule = |rule: &Rule| SeccompRule::new(rule.iter().map(condition).collect()).unwrap();
    let rules = calls
        .iter()
        .map(|(nr, rules)| (*nr, rules.iter().map(rule).collect()))
        .collect();
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Errno(1),
        SeccompAction::Allow,
        TargetArch::x86_64,
    )
    .unwrap();
    filter.try_into().unwrap()
}

#[test]
fn seccompiler_comes_to_the_same_verdicts() {
    let names = [
        ("read", 0),
        ("dup", 32),
        ("personality", 135),
        ("openat", 257),
        ("clone3", 435),
        ("file_setattr", 469),
    ];
    let values = [0, 1, 5, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0005, u64::MAX];
    let mut numbers = Numbers(2);
    for _ in 0..60 {
        let calls: Vec<_> = names
            .iter()
            .map(|&(_, nr)| {
                (
                    nr,
                    if numbers.below(2) == 0 {
                        vec![]
                    } else {
                        random_rules(&mut numbers, &values)
                    },
                )
            })
            .collect();
        let mut entries = Vec::new();
        for ((name, _), (_, rules)) in names.iter().zip(&calls) {
            match rules.as_slice() {
                [] => entries.push(allow(name, json!([]))),
                rules => entries.extend(rules.iter().map(|rule| allow(name, to_json(rule)))),
            }
        }
        let entries = json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": entries });
        let (ours, theirs) = (compiled(&entries), by_seccompiler(&calls));
        for nr in (0..470)
            .filter(|nr| nr % 50 == 1 || names.iter().any(|&(_, listed)| listed == i64::from(*nr)))
        {
            for _ in 0..100 {
                let args = std::array::from_fn(|_| numbers.of(&values));
                let call = Call {
                    arch: X86_64,
                    nr,
                    args,
                };
                let (ours, theirs) = (run(&ours.program, &call, true), run(&theirs, &call, true));
                assert_eq!(ours.0, theirs.0, "{call:?} {calls:?}");
            }
        }
    }
}
