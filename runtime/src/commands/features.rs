//! `features`: what this runtime supports, as the document of the specification's features.md.
//!
//! Engines believe it and refuse or change containers accordingly, so it claims what works and nothing else. What a field of the
//! configuration may say is listed by the module that reads it where that has a list, and here otherwise.

use crate::plan::mounts::OPTION_WORDS;
use crate::report::{Error, Kind, Result};
use crate::state::OCI_VERSION;
use serde::Serialize;
use serde_json::json;
use serde_json::ser::{PrettyFormatter, Serializer};

const HOOKS: &[&str] = &[
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

const NAMESPACES: &[&str] = &[
    "cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts",
];

const SECCOMP_ACTIONS: &[&str] = &[
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];

const SECCOMP_OPERATORS: &[&str] = &[
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];

/// Those with this machine's byte order whose system calls the compiler has a table of.
#[cfg(target_endian = "little")]
const SECCOMP_ARCHS: &[&str] = &[
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];
#[cfg(target_endian = "big")]
const SECCOMP_ARCHS: &[&str] = &[
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_S390X",
];

const SECCOMP_KNOWN_FLAGS: &[&str] = &[
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

/// The last one needs Linux 5.19, and a rule that notifies: without one it has no effect.
const SECCOMP_SUPPORTED_FLAGS: &[&str] = SECCOMP_KNOWN_FLAGS;

const MEMORY_POLICY_MODES: &[&str] = &[
    "MPOL_BIND",
    "MPOL_DEFAULT",
    "MPOL_INTERLEAVE",
    "MPOL_LOCAL",
    "MPOL_PREFERRED",
    "MPOL_PREFERRED_MANY",
    "MPOL_WEIGHTED_INTERLEAVE",
];

const MEMORY_POLICY_FLAGS: &[&str] = &[
    "MPOL_F_NUMA_BALANCING",
    "MPOL_F_RELATIVE_NODES",
    "MPOL_F_STATIC_NODES",
];

/// Annotations that give a container more than its configuration shows: directories of the host as its root, groups of the
/// caller, files and sockets of the host that the runtime writes to, another seccomp filter, programs that CRIU runs on the host. One
/// that ends in a dot stands for all that begin with it.
const UNSAFE_ANNOTATIONS: &[&str] = &[
    "dev.caisson.overlay.",
    "org.criu.config",
    "org.systemd.property.",
    "run.oci.delegate-cgroup",
    "run.oci.hooks.",
    "run.oci.keep_original_groups",
    "run.oci.pidfd_receiver",
    "run.oci.seccomp.receiver",
    "run.oci.seccomp_bpf_data",
    "run.oci.systemd.subgroup",
];

/// Makes the document, indented by four as runc's.
pub(crate) fn run() -> Result<String> {
    let features = json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": HOOKS,
        "mountOptions": OPTION_WORDS,
        "linux": {
            "namespaces": NAMESPACES,
            "capabilities": capabilities(),
            "cgroup": {"v1": false, "v2": true, "systemd": true, "systemdUser": true, "rdma": true},
            "seccomp": {
                "enabled": true,
                "actions": SECCOMP_ACTIONS,
                "operators": SECCOMP_OPERATORS,
                "archs": SECCOMP_ARCHS,
                "knownFlags": SECCOMP_KNOWN_FLAGS,
                "supportedFlags": SECCOMP_SUPPORTED_FLAGS,
            },
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "intelRdt": {"enabled": true, "schemata": true, "monitoring": true},
            "memoryPolicy": {"modes": MEMORY_POLICY_MODES, "flags": MEMORY_POLICY_FLAGS},
            "mountExtensions": {"idmap": {"enabled": true}},
            "netDevices": {"enabled": true},
        },
        "annotations": {
            "dev.caisson.commit": env!("COMMIT"),
            "dev.caisson.version": env!("CARGO_PKG_VERSION"),
            // Whatever the host has, as runc says it: this document is about the runtime.
            "org.opencontainers.runc.checkpoint.enabled": "true",
        },
        "potentiallyUnsafeConfigAnnotations": UNSAFE_ANNOTATIONS,
    });
    let mut text = Vec::new();
    let mut serializer =
        Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"    "));
    features
        .serialize(&mut serializer)
        .map_err(|e| Error::new(Kind::Invalid, format!("show features: {e}")))?;
    text.push(b'\n');
    String::from_utf8(text).map_err(|e| Error::new(Kind::Invalid, format!("show features: {e}")))
}

/// By number.
fn capabilities() -> Vec<String> {
    let mut all: Vec<_> = caps::all().into_iter().collect();
    all.sort_unstable_by_key(|capability| capability.index());
    all.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::seccomp;
    use oci_spec::runtime::{Features, LinuxSeccomp};
    use serde_json::Value;

    fn compile(profile: &Value) -> seccomp::Filter {
        let parsed: LinuxSeccomp = serde_json::from_value(profile.clone()).unwrap();
        seccomp::compile(&parsed).unwrap_or_else(|e| panic!("{profile}: {e}"))
    }

    #[test]
    fn the_document_is_one_that_engines_read() {
        let text = run().unwrap();
        let features: Features = serde_json::from_str(&text).unwrap();
        assert!(
            features
                .mount_options()
                .as_ref()
                .unwrap()
                .iter()
                .any(|option| option == "rro")
        );
        let namespaces = features
            .linux()
            .as_ref()
            .unwrap()
            .namespaces()
            .as_ref()
            .unwrap();
        assert_eq!(namespaces.len(), 8);
        let annotations = features.annotations().as_ref().unwrap();
        let checkpoint = &annotations["org.opencontainers.runc.checkpoint.enabled"];
        assert_eq!(checkpoint, "true");
        assert!(text.starts_with("{\n    \"annotations\": {\n") && text.ends_with("}\n"));
    }

    #[test]
    fn the_compiler_takes_what_is_claimed() {
        for action in SECCOMP_ACTIONS {
            for operator in SECCOMP_OPERATORS {
                let rule = json!({"names": ["read"], "action": action, "args": [{"index": 0, "value": 1, "op": operator}]});
                let filter =
                    compile(&json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}));
                assert_eq!(filter.warnings, Vec::<String>::new(), "{action} {operator}");
            }
        }
        for arch in SECCOMP_ARCHS {
            let filter =
                compile(&json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": [arch]}));
            assert_eq!(filter.warnings, Vec::<String>::new(), "{arch}");
        }
        for flag in SECCOMP_SUPPORTED_FLAGS {
            let notify = json!([{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]);
            let filter = compile(
                &json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": [flag], "syscalls": notify}),
            );
            assert_eq!(filter.warnings, Vec::<String>::new(), "{flag}");
        }
    }

    #[test]
    fn namespaces_memory_policies_and_hooks_are_the_specifications() {
        for namespace in NAMESPACES {
            serde_json::from_value::<oci_spec::runtime::LinuxNamespaceType>(json!(namespace))
                .unwrap();
        }
        for mode in MEMORY_POLICY_MODES {
            serde_json::from_value::<oci_spec::runtime::MemoryPolicyModeType>(json!(mode)).unwrap();
        }
        for flag in MEMORY_POLICY_FLAGS {
            serde_json::from_value::<oci_spec::runtime::MemoryPolicyFlagType>(json!(flag)).unwrap();
        }
        let each = HOOKS.iter().map(|hook| ((*hook).to_owned(), json!([])));
        let all = Value::Object(each.collect());
        let parsed: oci_spec::runtime::Hooks = serde_json::from_value(all.clone()).unwrap();
        assert_eq!(serde_json::to_value(parsed).unwrap(), all);
    }

    #[test]
    fn capabilities_are_in_the_kernels_order() {
        let all = capabilities();
        assert_eq!(all[0], "CAP_CHOWN");
        assert_eq!(all.last().unwrap(), "CAP_CHECKPOINT_RESTORE");
        assert_eq!(all.len(), 41);
    }
}
