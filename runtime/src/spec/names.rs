//! Names of fields as the specification spells them. Go takes them in any case, so that runc takes `"CPU": {"Cpus": "0"}` for a limit; left as it
//! is, it would be a field that nobody knows, and no limit. And names of capabilities that are not the kernel's, of which oci-spec takes some.
//!
//! Pure. What is looked for are names that begin with a capital, as those of Go's own fields do, none of the specification's does; and
//! `pagesize`, which runc's own tests say.

use super::field::string_length;
use super::shape;
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

/// The lists of capabilities.
const SETS: &[&[u8]] = &[
    b"ambient",
    b"bounding",
    b"effective",
    b"inheritable",
    b"permitted",
];

/// Whether the text has a name of a field in another spelling than the specification's, or a capability by another than the kernel's name:
/// oci-spec takes `kill` for CAP_KILL, and a container would have what it has not with runc. Of the text alone there is no need to parse it twice.
pub(super) fn are_others(text: &[u8]) -> bool {
    let mut name: &[u8] = b"";
    strings(text).any(|(word, is_name)| {
        if is_name {
            name = word;
            return is_other(word);
        }
        SETS.contains(&name) && !is_kernels(word)
    })
}

fn is_other(name: &[u8]) -> bool {
    name.first().is_some_and(u8::is_ascii_uppercase) || name == b"pagesize"
}

fn is_kernels(capability: &[u8]) -> bool {
    capability.starts_with(b"CAP_") && !capability.iter().any(u8::is_ascii_lowercase)
}

/// The strings of a JSON text as they are written, each with whether it is the name of a field.
fn strings(text: &[u8]) -> impl Iterator<Item = (&[u8], bool)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let begin = rest.iter().position(|byte| *byte == b'"')?;
        let length = string_length(&rest[begin..]);
        let word = rest[begin..].get(1..length - 1)?;
        rest = &rest[begin + length..];
        Some((word, rest.trim_ascii_start().starts_with(b":")))
    })
}

/// Spells the names of a document and of all below it as the specification does, and leaves out what is null. What is there under both spellings is merged, as by Go; where both
/// say something, the one in capitals wins, which somebody has added.
pub(super) fn respell(document: &mut Map<String, Value>) {
    let mut others = Vec::new();
    for (name, mut value) in std::mem::take(document) {
        // To Go, null leaves a field as it is.
        if value.is_null() {
            continue;
        }
        let known = specified(&name);
        let spelled = known.unwrap_or(&name);
        fill(spelled, &mut value);
        if !FREE.contains(&spelled) {
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

/// The specification's spelling of a name in another.
fn specified(name: &str) -> Option<&'static str> {
    let mut known = NAMES.iter().copied();
    is_other(name.as_bytes()).then(|| known.find(|known| known.eq_ignore_ascii_case(name)))?
}

/// In a list, and where names are free, null is a value to Go: the empty one of its type. An object with nothing in it is seldom one, so that in
/// most lists of objects it stays an error.
fn fill(name: &str, value: &mut Value) {
    let empty = || match name {
        "additionalGids" => Value::from(0),
        "netDevices" | "priorities" => Value::Object(Map::new()),
        _ if shape::is_list(name) => Value::Null,
        _ => Value::from(""),
    };
    let fill = |value: &mut Value| {
        if value.is_null() {
            *value = empty();
        }
    };
    match value {
        Value::Array(values) => values.iter_mut().for_each(fill),
        Value::Object(values) if FREE.contains(&name) => values.values_mut().for_each(fill),
        _ => {}
    }
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
            (r#"[{"pagesize":"2MB"}]"#, true),
            (r#"{"pageSize":"pagesize"}"#, false),
            (r#"{"Open"#, false),
            (r#"{"ambient":["CAP_KILL", "kill"]}"#, true),
            (
                r#"{"permitted":[],"env":["cap_kill"],"effective":["CAP_X"]}"#,
                false,
            ),
            (r#"{"effective":["CAP_kILL"]}"#, true),
        ] {
            assert_eq!(are_others(text.as_bytes()), found, "{text}");
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
