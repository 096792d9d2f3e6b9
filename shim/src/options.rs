//! What the client says about the runtime, in three forms: runc's options, a table of TOML (CRI and Docker, for runtimes whose name
//! they do not know), or nothing.
//!
//! The TOML is what programs write: one `Key = value` a line, with strings, booleans and numbers. Anything else is an error, since an
//! option that is overlooked makes another container than was asked for.

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
        for line in text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            let refused = || Error::invalid(format!("the runtime's options: cannot read '{line}'"));
            let (key, value) = line.split_once('=').ok_or_else(refused)?;
            let key = key.trim().trim_matches('"');
            let value = Value::parse(value.trim()).ok_or_else(refused)?;
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
                (
                    "NoPivotRoot" | "NoNewKeyring" | "ShimCgroup" | "IoUid" | "IoGid"
                    | "BinaryName" | "Root",
                    _,
                ) => return Err(refused()),
                ("SystemdCgroup" | "CriuImagePath" | "CriuWorkPath", _) => return Err(refused()),
                _ => log::warn(&format!("unknown option {key} of the runtime, ignoring")),
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
    fn toml_that_is_not_understood_is_refused() {
        for text in [
            "[table]",
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
