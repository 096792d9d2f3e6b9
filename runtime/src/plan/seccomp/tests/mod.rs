//! What the compiler promises, read off compiled programs by the [interpreter].

mod arguments;
mod interpreter;
mod numbers;
mod oracles;
mod program;

use super::{Filter, compile_for};
use crate::report::{Kind, Result};
use interpreter::{Call, run};
use oci_spec::runtime::Arch;
use serde_json::{Value, json};

const X86_64: u32 = 0xc000_003e;
const X86: u32 = 0x4000_0003;
const S390X: u32 = 0x8000_0016;
const X32_BIT: u32 = 0x4000_0000;
const KILL: u32 = 0;
const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;

fn try_compile(native: Arch, profile: &Value) -> Result<Filter> {
    compile_for(native, &serde_json::from_value(profile.clone()).unwrap())
}

fn compiled(profile: &Value) -> Filter {
    try_compile(Arch::ScmpArchX86_64, profile).unwrap()
}

/// A profile that refuses everything but what these entries say, and knows all system calls there are.
fn profile(architectures: &[&str], entries: &[Value]) -> Value {
    let newest = json!({ "names": ["file_setattr"], "action": "SCMP_ACT_ALLOW" });
    let entries: Vec<_> = entries.iter().chain([&newest]).collect();
    json!({ "defaultAction": "SCMP_ACT_ERRNO", "architectures": architectures, "syscalls": entries })
}

fn allow(name: &str, args: Value) -> Value {
    json!({ "names": [name], "action": "SCMP_ACT_ALLOW", "args": args })
}

fn trap(name: &str, args: Value) -> Value {
    json!({ "names": [name], "action": "SCMP_ACT_TRAP", "args": args })
}

fn arg(index: usize, op: &str, value: u64) -> Value {
    json!({ "index": index, "op": format!("SCMP_CMP_{op}"), "value": value })
}

fn masked(index: usize, mask: u64, value: u64) -> Value {
    json!({ "index": index, "op": "SCMP_CMP_MASKED_EQ", "value": mask, "valueTwo": value })
}

fn verdict(filter: &Filter, arch: u32, nr: u32, args: &[u64]) -> u32 {
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    run(
        &filter.program,
        &Call {
            arch,
            nr,
            args: all,
        },
        arch != S390X,
    )
    .0
}

fn error(profile: &Value) -> String {
    let error = try_compile(Arch::ScmpArchX86_64, profile).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    error.to_string()
}

/// Numbers that are always the same (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % limit
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

fn holds(op: &str, left: u64, right: u64) -> bool {
    match op {
        "EQ" => left == right,
        "NE" => left != right,
        "LT" => left < right,
        "LE" => left <= right,
        "GT" => left > right,
        "GE" => left >= right,
        _ => unreachable!(),
    }
}
