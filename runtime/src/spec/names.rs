//! Names of fields as the specification spells them. Go takes them in any case, so that runc takes `"CPU": {"Cpus": "0"}` for a limit; left as it
//! is, it would be a field that nobody knows, and no limit.
//!
//! Pure. What is looked for are names that begin with a capital, as those of Go's own fields do: none of the specification's does.

use serde_json::{Map, Value};

/// Of the parts of `config.json` that are for Linux.
const NAMES: &[&str] = &[
    "access",
    "action",
    "additionalGids",
    "allow",
    "ambient",
    "annotations",
    "apparmorProfile",
    "architectures",
    "args",
    "blockIO",
    "bounding",
    "burst",
    "capabilities",
    "cgroupsPath",
    "checkBeforeUpdate",
    "class",
    "classID",
    "closID",
    "consoleSize",
    "containerID",
    "cpu",
    "cpus",
    "createContainer",
    "createRuntime",
    "cwd",
    "deadline",
    "defaultAction",
    "defaultErrnoRet",
    "destination",
    "devices",
    "disableOOMKiller",
    "domainname",
    "effective",
    "enableCMT",
    "enableMBM",
    "enableMonitoring",
    "env",
    "errnoRet",
    "execCPUAffinity",
    "fileMode",
    "final",
    "flags",
    "gid",
    "gidMappings",
    "hard",
    "hcaHandles",
    "hcaObjects",
    "height",
    "hooks",
    "hostID",
    "hostname",
    "hugepageLimits",
    "idle",
    "index",
    "inheritable",
    "initial",
    "intelRdt",
    "ioPriority",
    "kernel",
    "kernelTCP",
    "l3CacheSchema",
    "leafWeight",
    "limit",
    "linux",
    "listenerMetadata",
    "listenerPath",
    "major",
    "maskedPaths",
    "memBwSchema",
    "memory",
    "memoryPolicy",
    "mems",
    "minor",
    "mode",
    "monotonic",
    "boottime",
    "mountLabel",
    "mounts",
    "name",
    "names",
    "namespaces",
    "nanosecs",
    "netDevices",
    "network",
    "nice",
    "noNewPrivileges",
    "nodes",
    "ociVersion",
    "oomScoreAdj",
    "op",
    "options",
    "pageSize",
    "path",
    "period",
    "permitted",
    "personality",
    "pids",
    "policy",
    "poststart",
    "poststop",
    "prestart",
    "priorities",
    "priority",
    "process",
    "quota",
    "rate",
    "rdma",
    "readonly",
    "readonlyPaths",
    "realtimePeriod",
    "realtimeRuntime",
    "reservation",
    "resources",
    "rlimits",
    "root",
    "rootfsPropagation",
    "runtime",
    "scheduler",
    "schemata",
    "seccomp",
    "secs",
    "selinuxLabel",
    "shares",
    "size",
    "soft",
    "source",
    "startContainer",
    "swap",
    "swappiness",
    "syscalls",
    "sysctl",
    "terminal",
    "throttleReadBpsDevice",
    "throttleReadIOPSDevice",
    "throttleWriteBpsDevice",
    "throttleWriteIOPSDevice",
    "timeOffsets",
    "timeout",
    "type",
    "uid",
    "uidMappings",
    "umask",
    "unified",
    "useHierarchy",
    "user",
    "value",
    "valueTwo",
    "weight",
    "weightDevice",
    "width",
];

/// Whose names are not the specification's.
const FREE: &[&str] = &["annotations", "netDevices", "sysctl", "unified"];

/// Whether the text has a name that begins with a capital.
pub(super) fn begin_with_capitals(text: &[u8]) -> bool {
    let mut rest = text.iter().copied().enumerate();
    while let Some((_, byte)) = rest.next() {
        if byte != b'"' {
            continue;
        }
        let Some((first, initial)) = rest.next().filter(|(_, byte)| *byte != b'"') else {
            continue;
        };
        let mut last = initial;
        let mut escaped = initial == b'\\';
        let mut end = first;
        for (at, byte) in rest.by_ref() {
            (end, last) = (at, byte);
            if byte == b'"' && !escaped {
                break;
            }
            escaped = byte == b'\\' && !escaped;
        }
        let behind = text[end..].get(1..).unwrap_or_default();
        let is_name = last == b'"' && behind.trim_ascii_start().starts_with(b":");
        if is_name && initial.is_ascii_uppercase() {
            return true;
        }
    }
    false
}

/// Spells the names of a document and of all below it as the specification does. What is there under both spellings is merged, as by Go; where both
/// say something, the one in capitals wins, which somebody has added.
pub(super) fn respell(document: &mut Map<String, Value>) {
    let mut others = Vec::new();
    for (name, mut value) in std::mem::take(document) {
        let known = specified(&name);
        if !FREE.contains(&known.unwrap_or(&name)) {
            respell_below(&mut value);
        }
        match known {
            Some(known) => others.push((known, value)),
            None => drop(document.insert(name, value)),
        }
    }
    for (known, value) in others {
        merge(document.entry(known).or_insert(Value::Null), value);
    }
}

/// The specification's spelling of a name that begins with a capital.
fn specified(name: &str) -> Option<&'static str> {
    let mut known = NAMES.iter().copied();
    name.starts_with(|c: char| c.is_ascii_uppercase())
        .then(|| known.find(|known| known.eq_ignore_ascii_case(name)))?
}

fn merge(into: &mut Value, value: Value) {
    match (into, value) {
        (Value::Object(fields), Value::Object(others)) => {
            for (name, value) in others {
                merge(fields.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, value) => *into = value,
    }
}

fn respell_below(value: &mut Value) {
    match value {
        Value::Object(fields) => respell(fields),
        Value::Array(values) => values.iter_mut().for_each(respell_below),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_values() {
        for (text, found) in [
            (
                r#"{"bounding":["CAP_KILL"],"args":["A\":","B"],"":"X"}"#,
                false,
            ),
            (r#"{"env":["A=\\"],"linux" : {"CPU" : {}}}"#, true),
            (r#"{"a":"\"","Cpus":1}"#, true),
            (r#""Open"#, false),
        ] {
            assert_eq!(begin_with_capitals(text.as_bytes()), found, "{text}");
        }
    }

    #[test]
    fn they_are_spelled_as_specified_but_where_they_are_free() {
        let mut document = serde_json::json!({
            "Linux": { "resources": { "cpu": { "mems": "1" }, "CPU": { "Cpus": "0" }, "Unified": { "Memory.Max": "1" } } },
            "Annotations": { "Name": "x" },
            "mounts": [{ "Source": "/a", "Unheard": 1 }]
        });
        respell(document.as_object_mut().unwrap());
        assert_eq!(
            document,
            serde_json::json!({
                "linux": { "resources": { "cpu": { "cpus": "0", "mems": "1" }, "unified": { "Memory.Max": "1" } } },
                "annotations": { "Name": "x" },
                "mounts": [{ "source": "/a", "Unheard": 1 }]
            })
        );
    }
}
