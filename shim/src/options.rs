//! What the client says about the runtime, in three forms: runc's options, a table of TOML (CRI and Docker, for runtimes whose name
//! they do not know), or nothing.
//!
//! The TOML is what programs write: one `Key = value` a line, with strings, booleans and numbers. Other values of options that we know are
//! errors, as is one of them in a table, since an option that is overlooked makes another container than was asked for. What we do not know
//! is overlooked, whatever its value: tables, and arrays over several lines.

use std::fs;

use protobuf::Message;
use protobuf::well_known_types::any::Any;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::log;
use crate::protos::{runc_options, runtime_options};

/// By the names that runc's shim uses in options.json.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Options {
    pub(crate) no_pivot_root: bool,
    pub(crate) no_new_keyring: bool,
    pub(crate) shim_cgroup: String,
    pub(crate) io_uid: u32,
    pub(crate) io_gid: u32,
    /// Empty for `caisson`.
    pub(crate) binary_name: String,
    /// Empty for /run/containerd/runc.
    pub(crate) root: String,
    pub(crate) systemd_cgroup: bool,
    pub(crate) criu_image_path: String,
    pub(crate) criu_work_path: String,
}

/// By the names of runc's options in TOML.
const KNOWN: [&str; 10] = [
    "NoPivotRoot",
    "NoNewKeyring",
    "ShimCgroup",
    "IoUid",
    "IoGid",
    "BinaryName",
    "Root",
    "SystemdCgroup",
    "CriuImagePath",
    "CriuWorkPath",
];

impl Options {
    pub(crate) fn from_any(any: Option<&Any>) -> Result<Self> {
        let Some(any) = any.filter(|any| !any.type_url.is_empty()) else {
            return Ok(Self::default());
        };
        // A host may precede the name, as in the type URLs of others than containerd.
        match any.type_url.rsplit('/').next().unwrap_or_default() {
            "containerd.runc.v1.Options" => Ok(Self::from_runc(decode(&any.value)?)),
            "runtimeoptions.v1.Options" => {
                let options: runtime_options::Options = decode(&any.value)?;
                let body = if options.config_body.is_empty() && !options.config_path.is_empty() {
                    fs::read(&options.config_path).map_err(|error| {
                        Error::os(
                            format!("read the options in {}", options.config_path),
                            error,
                        )
                    })?
                } else {
                    options.config_body
                };
                let text = String::from_utf8(body)
                    .map_err(|_| Error::invalid("the runtime's options are not UTF-8"))?;
                Self::from_toml(&text)
            }
            other => {
                log::warn(&format!("options of an unknown type, {other}, ignoring"));
                Ok(Self::default())
            }
        }
    }

    fn from_runc(options: runc_options::Options) -> Self {
        Self {
            no_pivot_root: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
            shim_cgroup: options.shim_cgroup,
            io_uid: options.io_uid,
            io_gid: options.io_gid,
            binary_name: options.binary_name,
            root: options.root,
            systemd_cgroup: options.systemd_cgroup,
            criu_image_path: options.criu_image_path,
            criu_work_path: options.criu_work_path,
        }
    }

    fn from_toml(text: &str) -> Result<Self> {
        let mut options = Self::default();
        let mut lines = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let mut in_table = false;
        while let Some(line) = lines.next() {
            if line.starts_with('[') {
                log::warn(&format!(
                    "unknown table {line} of the runtime's options, ignoring"
                ));
                in_table = true;
                continue;
            }
            let refused = || Error::invalid(format!("the runtime's options: cannot read '{line}'"));
            let (key, text) = line.split_once('=').ok_or_else(refused)?;
            let (key, text) = (key.trim().trim_matches('"'), text.trim());
            if !KNOWN.contains(&key) {
                log::warn(&format!("unknown option {key} of the runtime, ignoring"));
                let mut open = brackets(text);
                while open > 0 {
                    open += brackets(lines.next().ok_or_else(refused)?);
                }
                continue;
            }
            if in_table {
                return Err(refused());
            }
            let value = Value::parse(text).ok_or_else(refused)?;
            match (key, value) {
                ("NoPivotRoot", Value::Bool(on)) => options.no_pivot_root = on,
                ("NoNewKeyring", Value::Bool(on)) => options.no_new_keyring = on,
                ("ShimCgroup", Value::Text(path)) => options.shim_cgroup = path,
                ("IoUid", Value::Number(id)) => options.io_uid = id,
                ("IoGid", Value::Number(id)) => options.io_gid = id,
                ("BinaryName", Value::Text(name)) => options.binary_name = name,
                ("Root", Value::Text(path)) => options.root = path,
                ("SystemdCgroup", Value::Bool(on)) => options.systemd_cgroup = on,
                ("CriuImagePath", Value::Text(path)) => options.criu_image_path = path,
                ("CriuWorkPath", Value::Text(path)) => options.criu_work_path = path,
                _ => return Err(refused()),
            }
        }
        Ok(options)
    }
}

fn decode<M: Message>(bytes: &[u8]) -> Result<M> {
    M::parse_from_bytes(bytes)
        .map_err(|error| Error::invalid(format!("the runtime's options: {error}")))
}

enum Value {
    Bool(bool),
    Number(u32),
    Text(String),
}

impl Value {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "true" => return Some(Self::Bool(true)),
            "false" => return Some(Self::Bool(false)),
            _ => {}
        }
        if let Some(rest) = text.strip_prefix('\'') {
            let (literal, rest) = rest.split_once('\'')?;
            return nothing_more(rest).then(|| Self::Text(literal.to_owned()));
        }
        if text.starts_with('"') {
            // A basic string of one line is a JSON string, but for escapes that no program writes into a path.
            let mut strings = serde_json::Deserializer::from_str(text).into_iter::<String>();
            let string = strings.next()?.ok()?;
            return nothing_more(&text[strings.byte_offset()..]).then_some(Self::Text(string));
        }
        let number = text.split('#').next().unwrap_or_default().trim();
        number.parse().ok().map(Self::Number)
    }
}

/// How many arrays and inline tables a line opens, less those that it closes.
fn brackets(line: &str) -> isize {
    let (mut open, mut quote, mut escaped) = (0, None, false);
    for character in line.chars() {
        match (quote, character) {
            (Some('"'), '\\') if !escaped => {
                escaped = true;
                continue;
            }
            (Some(end), _) if character == end && !escaped => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(character),
            (None, '[' | '{') => open += 1,
            (None, ']' | '}') => open -= 1,
            (None, '#') => break,
            (None, _) => {}
        }
        escaped = false;
    }
    open
}

/// Whether this is at most a comment.
fn nothing_more(rest: &str) -> bool {
    let rest = rest.trim();
    rest.is_empty() || rest.starts_with('#')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protos::pack;

    #[test]
    fn no_options_are_the_default() {
        assert_eq!(Options::from_any(None).unwrap(), Options::default());
        assert_eq!(
            Options::from_any(Some(&Any::default())).unwrap(),
            Options::default()
        );
    }

    #[test]
    fn runc_options_are_taken_over() {
        let runc = runc_options::Options {
            binary_name: "crun".into(),
            systemd_cgroup: true,
            io_uid: 7,
            ..Default::default()
        };
        let any = pack("containerd.runc.v1.Options", &runc).unwrap();
        let options = Options::from_any(Some(&any)).unwrap();
        assert_eq!(
            options,
            Options {
                binary_name: "crun".into(),
                systemd_cgroup: true,
                io_uid: 7,
                ..Default::default()
            }
        );
    }

    #[test]
    fn toml_of_programs_is_read() {
        let text = "# of CRI\nBinaryName = \"/usr/bin/caisson\"\n  Root='/run/x' # where\n\nSystemdCgroup = true\nIoUid = 1000\nNewThing = \"?\"\n";
        let options = Options::from_toml(text).unwrap();
        let expected = Options {
            binary_name: "/usr/bin/caisson".into(),
            root: "/run/x".into(),
            systemd_cgroup: true,
            io_uid: 1000,
            ..Default::default()
        };
        assert_eq!(options, expected);
    }

    #[test]
    fn what_is_unknown_is_overlooked_whatever_it_is() {
        let text = "A = [\"]\", '[', [1]] # [\nB = [ # of these\n  \"\\\"[\",\n]\nC = { d = 1.5 }\nE = -7\nRoot = '/r'\n[table]\nF = 1979-05-27\n";
        assert_eq!(Options::from_toml(text).unwrap().root, "/r");
        assert!(Options::from_toml("A = [\n").is_err());
    }

    #[test]
    fn toml_that_is_not_understood_is_refused() {
        for text in [
            "[table]\nRoot = 'a'",
            "Root = [\"a\"]",
            "Root = 'a",
            "SystemdCgroup = \"true\"",
            "IoUid = -1",
            "Root",
        ] {
            assert!(Options::from_toml(text).is_err(), "{text}");
        }
    }
}
