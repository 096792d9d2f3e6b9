//! The seccomp compiler against libseccomp, the one that all engines' profiles have been tried with.
//!
//! The same profile goes to the runtime under test and to runc, which has libseccomp make the program and puts its own answer for
//! new system calls in front; strace shows what runc loads. Then both programs are evaluated for every system call of x86_64,
//! x86 and x32, with arguments around every constant of the profile, and must agree.
//!
//! The profiles are Docker's and Podman's defaults, turned into OCI profiles as the engines do it, and two that combine all
//! actions and operators. The defaults come with Debian's packages golang-github-docker-docker-dev and
//! golang-github-containers-common; unpacked anywhere, `SECCOMP_PROFILES` names the directory.

mod bpf;
mod engine;
mod mixture;

use bpf::{Call, Instruction};
use integration::place::{Scratch, unique};
use integration::{Bundle, beyond, peer, require};
use serde_json::Value;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

const X86_64: u32 = 0xc000_003e;
const X86: u32 = 0x4000_0003;
const X32_BIT: u32 = 0x4000_0000;

/// Names newer than the libseccomp of Debian 12 and 13. Only these may be unknown to it; a profile that has them goes to the
/// runtime under test without them, so that what is compared is what both know.
const NEWER_THAN_LIBSECCOMP: [&str; 14] = [
    "statmount",
    "listmount",
    "lsm_get_self_attr",
    "lsm_set_self_attr",
    "lsm_list_modules",
    "mseal",
    "setxattrat",
    "getxattrat",
    "listxattrat",
    "removexattrat",
    "open_tree_attr",
    "file_getattr",
    "file_setattr",
    "uretprobe",
];

#[test]
fn docker_s_default_profile_gives_libseccomp_s_verdicts() {
    require!(containers, path("/usr/bin/strace"), path("/usr/sbin/runc"));
    beyond!(
        docker_s_default_profile_gives_libseccomp_s_verdicts,
        [crun("refuses new system calls with EPERM, not ENOSYS")]
    );
    engine_s_profile("usr/share/gocode/src/github.com/docker/docker/profiles/seccomp/default.json");
}

#[test]
fn podman_s_default_profile_gives_libseccomp_s_verdicts() {
    require!(containers, path("/usr/bin/strace"), path("/usr/sbin/runc"));
    engine_s_profile("usr/share/containers/seccomp.json");
}

#[test]
fn every_action_and_operator_gives_libseccomp_s_verdicts() {
    require!(containers, path("/usr/bin/strace"), path("/usr/sbin/runc"));
    compare(&mixture::profile(1));
    compare(&mixture::profile(2));
}

#[test]
fn the_program_that_is_loaded_is_the_one_that_is_dumped() {
    require!(containers, path("/usr/bin/strace"));
    beyond!(
        the_program_that_is_loaded_is_the_one_that_is_dumped,
        [
            runc("cannot dump the program"),
            crun("cannot dump the program")
        ]
    );
    let profile = mixture::profile(3);
    let (loaded, _) = loaded_by(&integration::place::runtime(), &profile);
    assert!(loaded == dumped(&profile), "the programs differ");
}

/// Compares the profile in this file of a package, as an engine gives it to a container with its default capabilities, with
/// those of the other engine, and with all.
#[track_caller]
fn engine_s_profile(file: &str) {
    let root = std::env::var_os("SECCOMP_PROFILES").unwrap_or_else(|| "/".into());
    let path = Path::new(&root).join(file);
    require!(path(&path.display().to_string()));
    let text = std::fs::read_to_string(&path).unwrap();
    let profile: Value = serde_json::from_str(&text).unwrap();
    for capabilities in [engine::DOCKER, engine::PODMAN, engine::ALL] {
        compare(&engine::resolve(&profile, capabilities));
    }
}

/// Checks that the runtime under test and runc agree on this OCI profile.
#[track_caller]
fn compare(profile: &Value) {
    let (theirs, unknown) = loaded_by(Path::new("/usr/sbin/runc"), profile);
    for name in &unknown {
        assert!(
            NEWER_THAN_LIBSECCOMP.contains(&name.as_str()),
            "libseccomp does not know {name}"
        );
    }
    let profile = without(profile, &unknown);
    let ours = if peer::is("caisson") {
        dumped(&profile)
    } else {
        loaded_by(&integration::place::runtime(), &profile).0
    };
    let mut compared = 0;
    let mut different = Vec::new();
    let values = interesting_values(&profile);
    for (arch, nr) in calls() {
        for call in argument_grid(&ours, &theirs, arch, nr, &values) {
            let (ours, theirs) = (bpf::verdict(&ours, &call), bpf::verdict(&theirs, &call));
            compared += 1;
            if ours != theirs {
                different.push(format!("{call:x?}: {ours:#x}, not {theirs:#x}"));
            }
        }
    }
    let count = different.len();
    different.truncate(20);
    assert!(
        different.is_empty(),
        "{count} of {compared} differ: {different:#?}"
    );
}

/// Every system call there is on the three interfaces and many more; numbers at the edges; and an architecture no profile has.
fn calls() -> impl Iterator<Item = (u32, u32)> {
    let edges = [
        X32_BIT - 1,
        0x7fff_ffff,
        0x8000_0000,
        u32::MAX - 1,
        u32::MAX,
    ];
    let numbers: Vec<u32> = (0..1024)
        .chain(X32_BIT..X32_BIT + 1024)
        .chain(edges)
        .collect();
    [X86_64, X86, 0xc000_00b7]
        .into_iter()
        .flat_map(move |arch| numbers.clone().into_iter().map(move |nr| (arch, nr)))
}

/// The calls of one number to compare. If neither program looks at an argument, arguments make no difference; else every
/// combination of the interesting values.
fn argument_grid(
    ours: &[Instruction],
    theirs: &[Instruction],
    arch: u32,
    nr: u32,
    values: &[BTreeSet<u64>; 6],
) -> Vec<Call> {
    let plain = Call {
        arch,
        nr,
        args: [0; 6],
    };
    if !bpf::looks_at_arguments(ours, &plain) && !bpf::looks_at_arguments(theirs, &plain) {
        return vec![plain];
    }
    // socketcall and ipc have the number of the call that goes through them in the first argument.
    let multiplexed: BTreeSet<u64> = (0..=25).collect();
    let multiplexer = arch == X86 && [102, 117].contains(&nr);
    let mut calls = vec![plain];
    for (index, values) in values.iter().enumerate() {
        let values = if multiplexer && index == 0 {
            &multiplexed
        } else {
            values
        };
        if !values.is_empty() {
            calls = calls
                .iter()
                .flat_map(|call| values.iter().map(move |value| call.with(index, *value)))
                .collect();
        }
    }
    calls
}

/// For each argument the values around the constants that the profile compares it with, in the low and in the high half.
fn interesting_values(profile: &Value) -> [BTreeSet<u64>; 6] {
    let mut values: [BTreeSet<u64>; 6] = Default::default();
    let rules = profile["syscalls"].as_array().into_iter().flatten();
    for arg in rules.flat_map(|rule| rule["args"].as_array().into_iter().flatten()) {
        let index = arg["index"].as_u64().unwrap() as usize;
        for constant in [&arg["value"], &arg["valueTwo"]] {
            let constant = constant.as_u64().unwrap_or(0);
            let near = [constant.wrapping_sub(1), constant, constant.wrapping_add(1)];
            values[index].extend(near);
            values[index].extend([constant | 1 << 32, constant << 32, !constant]);
        }
    }
    values[0].extend([0, u64::MAX]);
    values
}

/// The profile without these names.
fn without(profile: &Value, unknown: &BTreeSet<String>) -> Value {
    let mut profile = profile.clone();
    for rule in profile["syscalls"].as_array_mut().into_iter().flatten() {
        let names = rule["names"].as_array_mut().unwrap();
        names.retain(|name| !unknown.contains(name.as_str().unwrap()));
    }
    profile
}

/// The program that the runtime under test says it makes of a profile.
#[track_caller]
fn dumped(profile: &Value) -> Vec<Instruction> {
    let scratch = Scratch::new();
    let file = scratch.file("profile.json", profile.to_string());
    let program = scratch.path().join("program");
    // The harness captures text; the program is bytes.
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", r#""$0" seccomp dump --raw --profile "$1" >"$2""#])
        .args([
            integration::place::runtime().as_path(),
            file.as_path(),
            program.as_path(),
        ]);
    integration::runtime::finish(command).success();
    bpf::from_bytes(&std::fs::read(program).unwrap())
}

/// The program that a runtime loads for a profile, and the names in the profile that it says it does not know.
#[track_caller]
fn loaded_by(binary: &Path, profile: &Value) -> (Vec<Instruction>, BTreeSet<String>) {
    let mut bundle = Bundle::new();
    let trace: PathBuf = bundle.scratch.path().join("trace");
    let log = bundle.scratch.name("log");
    let strace = [
        "strace",
        "--follow-forks",
        "--no-abbrev",
        "--const-print-style=raw",
        "--trace=prctl,seccomp",
        "--output",
    ];
    bundle.runtime.binary = binary.to_owned();
    bundle.runtime.wrapper = strace.into_iter().map(OsString::from).collect();
    bundle.runtime.wrapper.push(trace.clone().into());
    bundle.runtime.globals = ["--debug", "--log", &log].map(str::to_owned).to_vec();
    bundle.config.set("/linux/seccomp", profile.clone());
    bundle.config.probe(&["exit", "0"]);
    let id = unique("seccomp");
    let finished = bundle.call("run", &[], &id).success();
    bundle.assert_gone(&id);

    let trace = std::fs::read_to_string(&trace).unwrap();
    let programs: Vec<_> = trace.lines().filter_map(bpf::from_strace).collect();
    let [program] = &programs[..] else {
        panic!("{} programs loaded: {finished}", programs.len());
    };
    let log = std::fs::read_to_string(&log).unwrap_or_default();
    let unknown = log.lines().filter_map(|line| {
        let (_, rest) = line.split_once("unknown seccomp syscall \\\"")?;
        Some(rest.split_once('\\')?.0.to_owned())
    });
    (program.clone(), unknown.collect())
}
