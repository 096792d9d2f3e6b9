//! The command line: argv → [`Invocation`]. No I/O.
//!
//! The syntax is that of Go's package `flag`: `-name value`, `-name=value`, two dashes as well, flags before the action, and a boolean
//! takes a value only behind `=`.

use std::ffi::OsString;

use anyhow::{Context, Result, bail};

/// What the program is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Make a serving shim, or find the one of the group, and say where it listens.
    Start,
    /// Clean up after a shim that has died.
    Delete,
    /// Be the serving shim.
    Serve,
    /// Say what the runtime can do.
    Info,
    Version,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Invocation {
    pub(crate) action: Action,
    pub(crate) namespace: String,
    pub(crate) id: String,
    /// containerd's address for clients; part of what the socket's name is made of.
    pub(crate) address: String,
    /// Empty except for `delete`.
    pub(crate) bundle: String,
    pub(crate) debug: bool,
}

pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation> {
    let mut parsed = Invocation {
        action: Action::Serve,
        namespace: String::new(),
        id: String::new(),
        address: String::new(),
        bundle: String::new(),
        debug: false,
    };
    let mut arguments = arguments.into_iter().skip(1);
    let (mut said, mut unused) = (None, String::new());
    while let Some(argument) = arguments.next() {
        let argument = argument
            .into_string()
            .ok()
            .context("an argument is not UTF-8")?;
        let Some(flag) = flag(&argument) else {
            parsed.action = match argument.as_str() {
                "start" => Action::Start,
                "delete" => Action::Delete,
                other => bail!("unknown action '{other}'"),
            };
            break;
        };
        let (name, value) = flag
            .split_once('=')
            .map_or((flag, None), |(name, value)| (name, Some(value)));
        if let Some(on) = boolean(name, value)? {
            match name {
                "debug" => parsed.debug = on,
                "info" if on => said = said.or(Some(Action::Info)),
                _ if on => said = Some(Action::Version),
                _ => {}
            }
            continue;
        }
        let place = match name {
            "namespace" => &mut parsed.namespace,
            "id" => &mut parsed.id,
            "address" => &mut parsed.address,
            "bundle" => &mut parsed.bundle,
            // containerd's own program, to publish events with, which we do ourselves; and sockets, whose names we make ourselves.
            "publish-binary" | "socket" | "debug-socket" => &mut unused,
            _ => bail!("flag provided but not defined: -{name}"),
        };
        *place = match value {
            Some(value) => value.to_owned(),
            None => arguments
                .next()
                .and_then(|value| value.into_string().ok())
                .with_context(|| format!("flag needs an argument: -{name}"))?,
        };
    }
    if let Some(action) = said {
        parsed.action = action;
    } else if parsed.namespace.is_empty() {
        bail!("shim namespace cannot be empty");
    } else {
        identifier("id", &parsed.id)?;
        identifier("namespace", &parsed.namespace)?;
    }
    Ok(parsed)
}

/// A flag without its dashes.
fn flag(argument: &str) -> Option<&str> {
    let flag = argument.strip_prefix('-')?;
    Some(flag.strip_prefix('-').unwrap_or(flag))
}

/// The value of a boolean flag, if it is one.
fn boolean(name: &str, value: Option<&str>) -> Result<Option<bool>> {
    if !matches!(name, "debug" | "info" | "v" | "version") {
        return Ok(None);
    }
    match value {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Some(false)),
        Some(other) => bail!("invalid boolean value '{other}' for -{name}"),
    }
}

/// Ids become names of files and directories.
pub(crate) fn identifier(what: &str, id: &str) -> Result<()> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'+');
    if id.is_empty() || id.len() > 255 || id == "." || id == ".." || !id.bytes().all(good) {
        bail!("invalid {what} '{id}'");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &str) -> Result<Invocation> {
        parse(
            std::iter::once("shim")
                .chain(words.split_whitespace())
                .map(OsString::from),
        )
    }

    #[test]
    fn flags_are_those_of_go() {
        let invocation = parsed("-namespace k8s.io --id=a -address /run/c.sock -publish-binary /bin/containerd -debug -bundle /b delete").unwrap();
        let expected = Invocation {
            action: Action::Delete,
            namespace: "k8s.io".into(),
            id: "a".into(),
            address: "/run/c.sock".into(),
            bundle: "/b".into(),
            debug: true,
        };
        assert_eq!(invocation, expected);
    }

    #[test]
    fn a_boolean_takes_a_value_only_behind_an_equals_sign() {
        assert!(
            !parsed("-debug=false -namespace n -id a start")
                .unwrap()
                .debug
        );
        assert!(parsed("-debug false -namespace n -id a start").is_err());
    }

    #[test]
    fn info_and_version_need_nothing_else() {
        assert_eq!(parsed("-info").unwrap().action, Action::Info);
        assert_eq!(parsed("-v").unwrap().action, Action::Version);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (words, message) in [
            ("start", "shim namespace cannot be empty"),
            ("-namespace n start", "invalid id ''"),
            ("-namespace n -id ../x start", "invalid id '../x'"),
            ("-namespace", "flag needs an argument: -namespace"),
            ("-frobnicate", "flag provided but not defined: -frobnicate"),
            ("-namespace n -id a stop", "unknown action 'stop'"),
        ] {
            let error = match parsed(words) {
                Ok(other) => panic!("{words}: {other:?}"),
                Err(error) => error.to_string(),
            };
            assert!(error.starts_with(message), "{words}: {error}");
        }
    }
}
