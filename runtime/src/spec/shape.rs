//! Lists where the specification has objects. serde takes a struct's fields as a list, too, in their order: `"linux": []` would be a section that asks
//! for nothing, and the container would have no namespace of its own. Go's parser refuses that, so runc does.
//!
//! Pure. Of the text alone, since the types do not tell afterwards.

use super::field;
use crate::report::{Error, Result};

/// Fields of `config.json` that are objects.
const OBJECTS: &[&[u8]] = &[
    b"blockIO",
    b"boottime",
    b"capabilities",
    b"consoleSize",
    b"cpu",
    b"execCPUAffinity",
    b"hooks",
    b"intelRdt",
    b"ioPriority",
    b"linux",
    b"memory",
    b"memoryPolicy",
    b"monotonic",
    b"network",
    b"personality",
    b"pids",
    b"process",
    b"resources",
    b"root",
    b"scheduler",
    b"seccomp",
    b"user",
];

/// Lists of objects.
const LISTS: &[&[u8]] = &[
    b"args",
    b"createContainer",
    b"createRuntime",
    b"devices",
    b"gidMappings",
    b"hugepageLimits",
    b"mounts",
    b"namespaces",
    b"poststart",
    b"poststop",
    b"prestart",
    b"priorities",
    b"rlimits",
    b"startContainer",
    b"syscalls",
    b"throttleReadBpsDevice",
    b"throttleReadIOPSDevice",
    b"throttleWriteBpsDevice",
    b"throttleWriteIOPSDevice",
    b"uidMappings",
    b"weightDevice",
];

/// Objects of objects, whose names are free.
const MAPS: &[&[u8]] = &[b"netDevices", b"rdma"];

/// Whether a list of this name is one of objects, and never of anything else: a process has `args`, too.
pub(super) fn is_list(name: &str) -> bool {
    name != "args" && LISTS.contains(&name.as_bytes())
}

/// What a list is in, by its bracket and its name.
type Open<'a> = (u8, &'a [u8]);

/// Fails if there is a list in the place of an object. The text is JSON. A document that is a list is one of objects.
pub(super) fn check(text: &[u8]) -> Result<()> {
    let Some(at) = misplaced(text) else {
        return Ok(());
    };
    let field = field::path_before(text, at + 1);
    let story = format!("{field}: a list where an object belongs");
    Err(Error::invalid(story).in_field(field))
}

fn misplaced(text: &[u8]) -> Option<usize> {
    let mut open: Vec<Open<'_>> = Vec::new();
    let mut name: &[u8] = b"";
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'"' => {
                let length = field::string_length(&text[at..]);
                let word = &text[at + 1..at + length - 1];
                at += length - 1;
                if text[at + 1..].trim_ascii_start().starts_with(b":") {
                    name = word;
                }
            }
            b'{' => open.push((b'{', name)),
            b'[' => {
                let around = open.last().copied();
                if is_objects_place(around, name) {
                    return Some(at);
                }
                open.push((b'[', around.map_or(&b""[..], |_| name)));
            }
            b'}' | b']' => drop(open.pop()),
            _ => {}
        }
        at += 1;
    }
    None
}

/// `name`: of the field, where it is one of an object.
fn is_objects_place(around: Option<Open<'_>>, name: &[u8]) -> bool {
    match around {
        None => false,
        Some((b'[', list)) => list.is_empty() || LISTS.contains(&list),
        Some((_, object)) => OBJECTS.contains(&name) || MAPS.contains(&object),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_no_object() {
        let place = |text: &str| check(text.as_bytes()).err().map(|it| it.field().to_owned());
        for (text, field) in [
            (r#"{"linux": []}"#, "linux"),
            (
                r#"{"process":{"args":["a"],"user" :[0,0]}}"#,
                "process.user",
            ),
            (r#"{"mounts":[{"options":["ro"]},["/x"]]}"#, "mounts[1]"),
            (
                r#"{"linux":{"namespaces":[["pid"]]}}"#,
                "linux.namespaces[0]",
            ),
            (r#"{"rdma":{"mlx5":[1]}}"#, "rdma.mlx5"),
            (r#"[{"destination":"/x"},[]]"#, "[1]"),
        ] {
            assert_eq!(place(text).as_deref(), Some(field), "{text}");
        }
        for text in [
            r#"{"linux":{"namespaces":[],"seccomp":{"architectures":["linux"]}}}"#,
            r#"{"process":{"args":["\"linux\":[","["],"env":[]}}"#,
            r#"{"unheard":[[1,[2]]],"more":{"x":[]}}"#,
            r#"[{"destination":"/x","options":[]}]"#,
        ] {
            assert_eq!(place(text), None, "{text}");
        }
    }
}
