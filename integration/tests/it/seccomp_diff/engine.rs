//! Turns an engine's profile into an OCI profile, as Docker and Podman do for a container on x86_64.
//!
//! Theirs has a list of architectures by host (`archMap`), and entries that count only on some hosts, kernels or with some
//! capabilities (`includes`, `excludes`).

use serde_json::{Value, json};

/// The capabilities of a container by default.
pub(super) const DOCKER: &[&str] = &[
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];
pub(super) const PODMAN: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];
/// Those that either engine's profile asks for.
pub(super) const ALL: &[&str] = &[
    "CAP_AUDIT_WRITE",
    "CAP_BPF",
    "CAP_DAC_READ_SEARCH",
    "CAP_PERFMON",
    "CAP_SYSLOG",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_CHROOT",
    "CAP_SYS_MODULE",
    "CAP_SYS_NICE",
    "CAP_SYS_PACCT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
];

pub(super) fn resolve(profile: &Value, capabilities: &[&str]) -> Value {
    let hosts = profile["archMap"].as_array().unwrap();
    let host = hosts
        .iter()
        .find(|host| host["architecture"] == "SCMP_ARCH_X86_64")
        .unwrap();
    let mut architectures = vec![host["architecture"].clone()];
    architectures.extend(strings(&host["subArchitectures"]).map(Value::from));
    let entries = profile["syscalls"].as_array().unwrap().iter();
    let rules: Vec<Value> = entries
        .filter(|entry| counts(entry, capabilities))
        .map(|entry| {
            let mut rule = json!({ "names": entry["names"], "action": entry["action"] });
            for optional in ["errnoRet", "args"] {
                if !entry[optional].is_null() {
                    rule[optional] = entry[optional].clone();
                }
            }
            rule
        })
        .collect();
    let mut resolved = json!({ "defaultAction": profile["defaultAction"], "architectures": architectures, "syscalls": rules });
    if !profile["defaultErrnoRet"].is_null() {
        resolved["defaultErrnoRet"] = profile["defaultErrnoRet"].clone();
    }
    resolved
}

/// Whether an entry is for this host and these capabilities. Kernels that are too old for one are not supported here, so
/// `minKernel` always holds.
fn counts(entry: &Value, capabilities: &[&str]) -> bool {
    let has = |capability: &str| capabilities.contains(&capability);
    let (includes, excludes) = (&entry["includes"], &entry["excludes"]);
    let mut architectures = strings(&includes["arches"]).peekable();
    (architectures.peek().is_none() || architectures.any(|arch| arch == "amd64"))
        && strings(&includes["caps"]).all(has)
        && !strings(&excludes["arches"]).any(|arch| arch == "amd64")
        && !strings(&excludes["caps"]).any(has)
        && excludes["minKernel"].is_null()
}

fn strings(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}
