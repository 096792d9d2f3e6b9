//! Landlock rules, which the specification has no field for: our annotation `dev.caisson.landlock`.
//!
//! Pure. Its value is a JSON object, with the kernel's names (landlock(7)) in lower case and without their prefixes:
//!
//! ```json
//! {
//!   "mode": "best-effort",
//!   "handledAccessFs": ["execute", "read_file", "read_dir", "write_file"],
//!   "handledAccessNet": ["bind_tcp", "connect_tcp"],
//!   "scoped": ["abstract_unix_socket", "signal"],
//!   "paths": [{"paths": ["/bin", "/lib"], "access": ["execute", "read_file", "read_dir"]}],
//!   "ports": [{"ports": [443], "access": ["connect_tcp"]}]
//! }
//! ```
//!
//! What is handled is forbidden but for what the rules allow. Without `handledAccessFs`, all of it is handled; without the others, none. With
//! the mode `best-effort`, which is the default, rights that the kernel does not know are left out; with `strict` they are an error.
//! A kernel without Landlock is always one.

use super::mounts::c_string;
use crate::report::{Error, Result};
use crate::sys::landlock::Handled;
use serde::Deserialize;
use std::ffi::CString;

/// The annotation.
pub(crate) const ANNOTATION: &str = "dev.caisson.landlock";

/// What init applies.
#[derive(Debug)]
pub(crate) struct Ruleset {
    pub(crate) strict: bool,
    pub(crate) handled: Handled,
    /// Paths in the container, and what is allowed at and beneath them.
    pub(crate) paths: Vec<(CString, u64)>,
    pub(crate) ports: Vec<(u16, u64)>,
}

/// `LANDLOCK_ACCESS_FS_*`, by bit.
const FS: [&str; 16] = [
    "execute",
    "write_file",
    "read_file",
    "read_dir",
    "remove_dir",
    "remove_file",
    "make_char",
    "make_dir",
    "make_reg",
    "make_sock",
    "make_fifo",
    "make_block",
    "make_sym",
    "refer",
    "truncate",
    "ioctl_dev",
];

/// `LANDLOCK_ACCESS_NET_*`, by bit.
const NET: [&str; 2] = ["bind_tcp", "connect_tcp"];

/// `LANDLOCK_SCOPE_*`, by bit.
const SCOPES: [&str; 2] = ["abstract_unix_socket", "signal"];

/// LANDLOCK_ACCESS_FS_WRITE_FILE.
pub(crate) const WRITE_FILE: u64 = 1 << 1;

/// The rights that a rule for something else than a directory can have: execute, write_file, read_file, truncate, ioctl_dev.
pub(crate) const FILE_RIGHTS: u64 = 0b111 | 1 << 14 | 1 << 15;

/// What a kernel with this version of the interface knows (landlock(7), "VERSIONS").
pub(crate) fn known(abi: i64) -> Handled {
    let bits = |count: u32| (1u64 << count) - 1;
    Handled {
        fs: bits(match abi {
            ..=1 => 13,
            2 => 14,
            3..=4 => 15,
            _ => 16,
        }),
        net: bits(if abi >= 4 { 2 } else { 0 }),
        scoped: bits(if abi >= 6 { 2 } else { 0 }),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    #[serde(default)]
    mode: Mode,
    handled_access_fs: Option<Vec<String>>,
    #[serde(default)]
    handled_access_net: Vec<String>,
    #[serde(default)]
    scoped: Vec<String>,
    #[serde(default)]
    paths: Vec<PathRule>,
    #[serde(default)]
    ports: Vec<PortRule>,
}

#[derive(Default, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    #[default]
    BestEffort,
    Strict,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PathRule {
    paths: Vec<String>,
    access: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PortRule {
    ports: Vec<u16>,
    access: Vec<String>,
}

/// Reads the annotation's value; None without one.
pub(crate) fn parse(value: Option<&String>) -> Result<Option<Ruleset>> {
    let Some(value) = value else { return Ok(None) };
    let ruleset = ruleset(value).map_err(|error| error.context(format!("annotation {ANNOTATION}")));
    ruleset.map(Some)
}

fn ruleset(value: &str) -> Result<Ruleset> {
    let document: Document = serde_json::from_slice(value.as_bytes())
        .map_err(|error| Error::invalid(error.to_string()))?;
    let handled = Handled {
        fs: match &document.handled_access_fs {
            Some(names) => mask(&FS, names)?,
            None => (1 << FS.len()) - 1,
        },
        net: mask(&NET, &document.handled_access_net)?,
        scoped: mask(&SCOPES, &document.scoped)?,
    };
    if handled == Handled::default() {
        return Err(Error::invalid("it handles nothing"));
    }
    let within = |access: u64, handled: u64| {
        let text = "a rule allows what is not handled, and so is allowed anyway";
        (access & !handled == 0)
            .then_some(access)
            .ok_or_else(|| Error::invalid(text))
    };
    let mut paths = Vec::new();
    for rule in &document.paths {
        let access = within(mask(&FS, &rule.access)?, handled.fs)?;
        for path in &rule.paths {
            if !path.starts_with('/') {
                return Err(Error::invalid(format!("{path:?} is not an absolute path")));
            }
            paths.push((c_string(path)?, access));
        }
    }
    let mut ports = Vec::new();
    for rule in &document.ports {
        let access = within(mask(&NET, &rule.access)?, handled.net)?;
        ports.extend(rule.ports.iter().map(|port| (*port, access)));
    }
    Ok(Ruleset {
        strict: document.mode == Mode::Strict,
        handled,
        paths,
        ports,
    })
}

/// The bits with these names.
fn mask(all: &[&str], names: &[String]) -> Result<u64> {
    names.iter().try_fold(0, |mask, name| {
        let bit = all.iter().position(|known| known == name);
        let bit = bit.ok_or_else(|| {
            Error::invalid(format!("unknown {name:?}: not one of {}", all.join(", ")))
        })?;
        Ok(mask | 1 << bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(value: &str) -> String {
        parse(Some(&value.to_owned())).unwrap_err().to_string()
    }

    #[test]
    fn rules_become_the_kernels_bits() {
        let value = r#"{"mode":"strict","handledAccessFs":["execute","write_file","ioctl_dev"],"handledAccessNet":["connect_tcp"],
            "paths":[{"paths":["/bin","/lib"],"access":["execute"]}],"ports":[{"ports":[80,443],"access":["connect_tcp"]}]}"#;
        let ruleset = parse(Some(&value.to_owned())).unwrap().unwrap();
        assert!(ruleset.strict);
        assert_eq!(ruleset.handled.fs, 1 | 2 | 1 << 15);
        assert_eq!(ruleset.handled.net, 2);
        assert_eq!(
            ruleset.paths,
            [(c"/bin".to_owned(), 1), (c"/lib".to_owned(), 1)]
        );
        assert_eq!(ruleset.ports, [(80, 2), (443, 2)]);
    }

    #[test]
    fn without_a_list_all_of_the_file_system_is_handled() {
        let ruleset = parse(Some(&"{}".to_owned())).unwrap().unwrap();
        assert_eq!(
            ruleset.handled,
            Handled {
                fs: 0xffff,
                net: 0,
                scoped: 0
            }
        );
        assert!(!ruleset.strict);
        assert!(parse(None).unwrap().is_none());
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_annotations_name() {
        assert!(error("x").starts_with("annotation dev.caisson.landlock: "));
        assert!(error(r#"{"handeled":[]}"#).contains("handeled"));
        assert!(error(r#"{"handledAccessFs":["fly"]}"#).contains("unknown \"fly\""));
        assert!(error(r#"{"handledAccessFs":[]}"#).contains("handles nothing"));
        assert!(error(r#"{"paths":[{"paths":["bin"],"access":[]}]}"#).contains("not an absolute"));
        assert!(
            error(r#"{"ports":[{"ports":[1],"access":["bind_tcp"]}]}"#).contains("not handled")
        );
    }

    #[test]
    fn each_version_knows_what_the_manual_page_says() {
        assert_eq!(known(1).fs, 0x1fff);
        assert_eq!(known(2).fs, 0x3fff);
        assert_eq!((known(3).fs, known(3).net), (0x7fff, 0));
        assert_eq!((known(4).fs, known(4).net), (0x7fff, 3));
        assert_eq!((known(5).fs, known(5).scoped), (0xffff, 0));
        assert_eq!(known(7).scoped, 3);
    }
}
