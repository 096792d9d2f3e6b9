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

/// Spells the names of a document and of all below it as the specification does.
pub(super) fn respell(document: &mut Map<String, Value>) {
    let spelled = |(name, value): (String, Value)| {
        let capital = name.starts_with(|c: char| c.is_ascii_uppercase());
        let known = NAMES.iter().filter(|_| capital);
        match known
            .into_iter()
            .find(|known| known.eq_ignore_ascii_case(&name))
        {
            Some(known) => ((*known).to_owned(), value),
            None => (name, value),
        }
    };
    *document = std::mem::take(document).into_iter().map(spelled).collect();
    for (name, value) in document {
        if !FREE.contains(&name.as_str()) {
            respell_below(value);
        }
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
            "Linux": { "resources": { "CPU": { "Cpus": "0" }, "Unified": { "Memory.Max": "1" } } },
            "annotations": { "Name": "x" },
            "mounts": [{ "Source": "/a", "Unheard": 1 }]
        });
        respell(document.as_object_mut().unwrap());
        assert_eq!(
            document,
            serde_json::json!({
                "linux": { "resources": { "cpu": { "cpus": "0" }, "unified": { "Memory.Max": "1" } } },
                "annotations": { "Name": "x" },
                "mounts": [{ "source": "/a", "Unheard": 1 }]
            })
        );
    }
}
