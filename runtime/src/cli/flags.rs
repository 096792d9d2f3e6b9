//! Scans arguments the way Go's flag package and runc's command-line library do, because engines write for those.
//!
//! One dash or two mean the same (`-no-subreaper`: contract of go-runc), a value follows `=` or is the next argument,
//! a switch takes a value only after `=`. What flags exist is data ([`Flag`]); what their values mean is decided in `cli`.

use crate::report::{Error, Kind, Result};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// A flag that a command line may have.
#[derive(Debug)]
pub(super) struct Flag {
    /// All its names without dashes; the first is the one that [`Matches`] and the documentation use.
    pub(super) names: &'static [&'static str],
    /// What it takes.
    pub(super) takes: Takes,
    /// One line for the help text; hidden if empty.
    pub(super) help: &'static str,
}

/// What follows a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    /// Nothing, or `=true` and `=false`.
    Switch,
    /// One value; the last one given counts, or all of them for a flag that may be repeated.
    Value,
    /// A value that is the path of a file.
    File,
    /// A value that is the path of a directory.
    Directory,
    /// A value that is one of these words. `cli` refuses all others, each in the words of its flag.
    OneOf(&'static [&'static str]),
}

/// Where flags may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Everything after the first argument that is no flag belongs to somebody else: a command, a container's program, `ps`.
    FlagsFirst,
    /// The command's own flags may follow its arguments, as in `kill ID KILL --all`. What looks like a flag but is none of
    /// the command's is an argument there, as it is for runc.
    Anywhere,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Matches {
    flags: Vec<(&'static str, OsString)>,
    /// The arguments that are no flags.
    pub(super) args: Vec<OsString>,
}

/// Splits `args` into flags and the rest.
pub(super) fn scan(args: Vec<OsString>, known: &'static [Flag], order: Order) -> Result<Matches> {
    let mut found = Matches::default();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        if arg == "--" {
            found.args.extend(args);
            break;
        }
        let Some((name, attached)) = split(&arg)? else {
            found.args.push(arg);
            if order == Order::FlagsFirst {
                found.args.extend(args);
                break;
            }
            continue;
        };
        let flag = known
            .iter()
            .find(|flag| flag.names.iter().any(|n| OsStr::new(n) == name));
        let Some(flag) = flag else {
            if found.args.is_empty() {
                return Err(usage(format!(
                    "flag provided but not defined: -{}",
                    name.display()
                )));
            }
            found.args.push(arg);
            continue;
        };
        let value = match (flag.takes, attached) {
            (Takes::Switch, None) => OsString::from("true"),
            (Takes::Switch, Some(value)) => switch(name, value)?,
            (_, Some(value)) => value.to_owned(),
            (_, None) => args
                .next()
                .ok_or_else(|| usage(format!("flag needs an argument: -{}", name.display())))?,
        };
        found.flags.push((flag.names[0], value));
    }
    Ok(found)
}

impl Matches {
    /// Whether a switch is on; the last one given counts.
    pub(super) fn on(&self, name: &str) -> bool {
        self.switch(name).unwrap_or(false)
    }

    /// A switch that makes a difference between being off and not being there.
    pub(super) fn switch(&self, name: &str) -> Option<bool> {
        self.value(name).map(|value| value == "true")
    }

    /// The value of a flag.
    pub(super) fn value(&self, name: &str) -> Option<&OsStr> {
        self.flags
            .iter()
            .rev()
            .find(|(n, _)| *n == name)
            .map(|(_, value)| value.as_os_str())
    }

    /// The value of a flag as text.
    pub(super) fn text(&self, name: &str) -> Result<Option<&str>> {
        self.value(name).map(|value| text(name, value)).transpose()
    }

    /// The values of a flag that may be repeated, as texts, in order.
    pub(super) fn texts(&self, name: &str) -> Result<Vec<&str>> {
        self.flags
            .iter()
            .filter(|(n, _)| *n == name)
            .map(|(_, value)| text(name, value))
            .collect()
    }
}

/// An error of the person or program that wrote the command line.
pub(super) fn usage(story: impl Into<String>) -> Error {
    Error::new(Kind::Usage, story)
}

/// The name of a flag without its dashes, and the value attached to it; `None` for what is no flag.
fn split(arg: &OsStr) -> Result<Option<(&OsStr, Option<&OsStr>)>> {
    let bytes = arg.as_bytes();
    let Some(rest) = bytes.strip_prefix(b"-") else {
        return Ok(None);
    };
    if rest.is_empty() {
        return Ok(None);
    }
    let rest = rest.strip_prefix(b"-").unwrap_or(rest);
    let (name, value) = match rest.iter().position(|b| *b == b'=') {
        Some(at) => (&rest[..at], Some(OsStr::from_bytes(&rest[at + 1..]))),
        None => (rest, None),
    };
    if name.is_empty() || name[0] == b'-' {
        return Err(usage(format!("bad flag syntax: {}", arg.display())));
    }
    Ok(Some((OsStr::from_bytes(name), value)))
}

/// The spellings of a truth value that Go accepts, as `true` or `false`.
fn switch(name: &OsStr, value: &OsStr) -> Result<OsString> {
    match value.as_bytes() {
        b"1" | b"t" | b"T" | b"true" | b"TRUE" | b"True" => Ok("true".into()),
        b"0" | b"f" | b"F" | b"false" | b"FALSE" | b"False" => Ok("false".into()),
        _ => Err(usage(format!(
            "invalid boolean value {value:?} for -{}: parse error",
            name.display()
        ))),
    }
}

fn text<'a>(name: &str, value: &'a OsStr) -> Result<&'a str> {
    value.to_str().ok_or_else(|| {
        usage(format!(
            "invalid value {value:?} for flag -{name}: not UTF-8"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    static FLAGS: &[Flag] = &[
        Flag {
            names: &["bundle", "b"],
            takes: Takes::Value,
            help: "x",
        },
        Flag {
            names: &["all", "a"],
            takes: Takes::Switch,
            help: "x",
        },
    ];

    fn run(args: &[&str], order: Order) -> Result<Matches> {
        scan(args.iter().map(OsString::from).collect(), FLAGS, order)
    }

    fn args(found: &Matches) -> Vec<&str> {
        found.args.iter().map(|a| a.to_str().unwrap()).collect()
    }

    #[test]
    fn one_dash_two_dashes_and_both_ways_to_attach_a_value_are_the_same() {
        for line in [
            ["-bundle", "x"],
            ["--bundle", "x"],
            ["-b", "x"],
            ["--b", "x"],
        ] {
            assert_eq!(
                run(&line, Order::Anywhere)
                    .unwrap()
                    .value("bundle")
                    .unwrap(),
                "x",
                "{line:?}"
            );
        }
        for line in ["-bundle=x", "--bundle=x", "-b=x"] {
            assert_eq!(
                run(&[line], Order::Anywhere)
                    .unwrap()
                    .value("bundle")
                    .unwrap(),
                "x",
                "{line}"
            );
        }
        assert_eq!(
            run(&["--bundle=a=b"], Order::Anywhere)
                .unwrap()
                .value("bundle")
                .unwrap(),
            "a=b"
        );
        assert_eq!(
            run(&["--bundle="], Order::Anywhere)
                .unwrap()
                .value("bundle")
                .unwrap(),
            ""
        );
    }

    #[test]
    fn a_value_may_look_like_a_flag() {
        assert_eq!(
            run(&["-b", "--all"], Order::Anywhere)
                .unwrap()
                .value("bundle")
                .unwrap(),
            "--all"
        );
    }

    #[test]
    fn a_switch_never_takes_the_next_argument() {
        let found = run(&["--all", "false"], Order::Anywhere).unwrap();
        assert!(found.on("all"));
        assert_eq!(args(&found), ["false"]);
        assert_eq!(
            run(&["--all=false"], Order::Anywhere)
                .unwrap()
                .switch("all"),
            Some(false)
        );
        assert_eq!(run(&[], Order::Anywhere).unwrap().switch("all"), None);
    }

    #[test]
    fn the_last_one_counts() {
        let found = run(&["-b", "1", "--all", "--bundle=2", "-a=F"], Order::Anywhere).unwrap();
        assert_eq!(found.value("bundle").unwrap(), "2");
        assert!(!found.on("all"));
        assert_eq!(found.texts("bundle").unwrap(), ["1", "2"]);
    }

    #[test]
    fn own_flags_may_follow_arguments_only_where_that_is_allowed() {
        let line = ["x", "TERM", "--all", "-9"];
        let found = run(&line, Order::Anywhere).unwrap();
        assert!(found.on("all"));
        assert_eq!(args(&found), ["x", "TERM", "-9"]);
        let found = run(&line, Order::FlagsFirst).unwrap();
        assert!(!found.on("all"));
        assert_eq!(args(&found), line);
    }

    #[test]
    fn two_dashes_end_the_flags() {
        let found = run(&["--all", "--", "-b", "--"], Order::FlagsFirst).unwrap();
        assert_eq!(args(&found), ["-b", "--"]);
        assert_eq!(args(&run(&["-"], Order::Anywhere).unwrap()), ["-"]);
    }

    #[test]
    fn errors_have_the_texts_that_engines_look_for() {
        for (line, text) in [
            (["--nosuch"], "flag provided but not defined: -nosuch"),
            (["-9"], "flag provided but not defined: -9"),
            (["--bundle"], "flag needs an argument: -bundle"),
            (["-b"], "flag needs an argument: -b"),
            (
                ["--all=maybe"],
                "invalid boolean value \"maybe\" for -all: parse error",
            ),
            (["---all"], "bad flag syntax: ---all"),
            (["--=x"], "bad flag syntax: --=x"),
        ] {
            let error = run(&line, Order::Anywhere).unwrap_err();
            assert_eq!(error.to_string(), text);
            assert_eq!(error.kind(), Kind::Usage);
        }
    }
}
