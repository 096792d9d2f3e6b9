//! Profiles that combine all actions and operators.

use serde_json::{Value, json};

/// Calls that a container can start without. Some are multiplexed on x86, some have numbers of their own on x32.
const CALLS: [&str; 24] = [
    "acct",
    "adjtimex",
    "kcmp",
    "kexec_load",
    "mbind",
    "mq_notify",
    "msgget",
    "personality",
    "process_vm_readv",
    "process_vm_writev",
    "ptrace",
    "pwritev2",
    "quotactl",
    "recvmmsg",
    "semop",
    "sendmmsg",
    "shmat",
    "shutdown",
    "swapoff",
    "swapon",
    "syslog",
    "timer_create",
    "vhangup",
    "vmsplice",
];
const MULTIPLEXED: [&str; 6] = [
    "msgget", "recvmmsg", "semop", "sendmmsg", "shmat", "shutdown",
];
const ACTIONS: [&str; 7] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_LOG",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];
const OPERATORS: [&str; 7] = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];

/// Rules for each of the calls; `seed` chooses them.
pub(super) fn profile(seed: u64) -> Value {
    let mut choice = Choice(seed);
    let mut rules: Vec<Value> = CALLS
        .iter()
        .flat_map(|call| rules(&mut choice, call))
        .collect();
    rules.push(rule("futex_requeue", "SCMP_ACT_TRAP", &[]));
    json!({
        "defaultAction": if seed.is_multiple_of(2) { "SCMP_ACT_LOG" } else { "SCMP_ACT_ALLOW" },
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules,
    })
}

/// Several rules with one condition each, or one rule with several: libseccomp 2.5 forgets rules where several with several
/// conditions meet, so there it is no measure.
fn rules(choice: &mut Choice, call: &str) -> Vec<Value> {
    let one_rule = choice.below(2) == 0;
    let count = 1 + choice.below(3);
    let mut values = vec![1, 7, 0x2_0000, 0xffff_fffe];
    let mut conditions = Vec::new();
    for n in 0..count {
        // No value twice: rules with the same conditions and different actions are an error, also with libseccomp.
        let value: u64 = values.remove(choice.below(values.len()));
        let index = if one_rule {
            (n + 1) % 3
        } else {
            choice.below(3)
        };
        let op = format!("SCMP_CMP_{}", choice.of(&OPERATORS));
        conditions.push(json!({ "index": index, "value": value, "valueTwo": value & 7, "op": op }));
    }
    let action = choice.of(&ACTIONS);
    if one_rule {
        return vec![rule(call, action, &conditions)];
    }
    // What x86 multiplexes loses its condition on the first argument there, and would then contradict.
    let same = MULTIPLEXED.contains(&call);
    let alone = conditions.chunks(1);
    alone
        .map(|condition| {
            rule(
                call,
                if same { action } else { choice.of(&ACTIONS) },
                condition,
            )
        })
        .collect()
}

fn rule(call: &str, action: &str, args: &[Value]) -> Value {
    let errno = matches!(action, "SCMP_ACT_ERRNO" | "SCMP_ACT_TRACE").then_some(11);
    json!({ "names": [call], "action": action, "errnoRet": errno, "args": args })
}

/// A linear congruential generator (Knuth's MMIX): the same numbers on every machine.
struct Choice(u64);

impl Choice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }

    fn of(&mut self, choices: &[&'static str]) -> &'static str {
        choices[self.below(choices.len())]
    }
}
