//! The values of flags and arguments that are more than text: signals, users, formats.

use super::flags::usage;
use crate::report::{Error, Result};
use nix::sys::signal;
use std::str::FromStr;

/// The first real-time signal as programs count them: the C library keeps the kernel's 32 and 33 for itself.
const RTMIN: i32 = 34;
/// The last signal.
const RTMAX: i32 = 64;

/// The number of a signal, 0 to 64. Real-time signals have numbers too, which is why this is not an enum of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signal(i32);

impl Signal {
    /// What `kill` sends when it is told nothing.
    pub(crate) const TERM: Signal = Signal(signal::Signal::SIGTERM as i32);
    /// The signal that nothing survives.
    pub(crate) const KILL: Signal = Signal(signal::Signal::SIGKILL as i32);

    /// The number for the kernel.
    pub(crate) fn number(self) -> i32 {
        self.0
    }
}

impl FromStr for Signal {
    type Err = Error;

    /// Takes a number, or a name in any case, with or without `SIG`; systemd's images ask for `SIGRTMIN+3`.
    fn from_str(text: &str) -> Result<Signal> {
        let unknown = || Error::invalid(format!("unknown signal {text:?}"));
        if let Some(number) = decimal(text) {
            return i32::try_from(number)
                .ok()
                .filter(|n| *n <= RTMAX)
                .map(Signal)
                .ok_or_else(unknown);
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some(signal) = realtime(name) {
            return Ok(signal);
        }
        let name = match name {
            "CLD" => "CHLD",
            "IOT" => "ABRT",
            "POLL" => "IO",
            name => name,
        };
        signal::Signal::from_str(&format!("SIG{name}"))
            .map(|s| Signal(s as i32))
            .map_err(|_| unknown())
    }
}

/// `RTMIN`, `RTMIN+n`, `RTMAX-n`, `RTMAX`.
fn realtime(name: &str) -> Option<Signal> {
    let offset = |rest: &str, sign: char| match rest.strip_prefix(sign) {
        Some(number) => decimal(number).and_then(|n| i32::try_from(n).ok()),
        None => rest.is_empty().then_some(0),
    };
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        RTMIN.checked_add(offset(rest, '+')?)?
    } else {
        RTMAX.checked_sub(offset(name.strip_prefix("RTMAX")?, '-')?)?
    };
    (RTMIN..=RTMAX).contains(&number).then_some(Signal(number))
}

/// Who a process is to be: `-u uid[:gid]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    /// Absent: the group of the container's own process.
    pub(crate) gid: Option<u32>,
}

impl FromStr for User {
    type Err = Error;

    /// Numbers only, nothing around them: a lenient parse ran processes as the wrong user (CVE-2026-30892).
    fn from_str(text: &str) -> Result<User> {
        let (uid, gid) = match text.split_once(':') {
            Some((uid, gid)) => (uid, Some(gid)),
            None => (text, None),
        };
        Ok(User {
            uid: id("uid", uid, text)?,
            gid: gid.map(|gid| id("gid", gid, text)).transpose()?,
        })
    }
}

/// A group given with `-g`.
pub(super) fn gid(text: &str) -> Result<u32> {
    id("gid", text, text)
}

/// 2³²-1 is how the kernel says "no id"; everything above would wrap.
fn id(what: &str, number: &str, text: &str) -> Result<u32> {
    decimal(number)
        .and_then(|n| u32::try_from(n).ok())
        .filter(|n| *n != u32::MAX)
        .ok_or_else(|| {
            usage(format!(
                "invalid {what} {number:?} in {text:?}: not a number from 0 to {}",
                u32::MAX - 1
            ))
        })
}

/// Decimal digits and nothing else: `from_str` alone would take a plus sign.
pub(super) fn decimal(text: &str) -> Option<u64> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        text.parse().ok()
    } else {
        None
    }
}

/// How `list` and `ps` print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Table,
    Json,
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Format> {
        match text {
            "table" => Ok(Format::Table),
            "json" => Ok(Format::Json),
            _ => Err(usage(format!(
                "invalid format option {text:?}: expected 'table' or 'json'"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Kind;

    #[test]
    fn signals_have_numbers_and_names() {
        for (text, number) in [
            ("9", 9),
            ("0", 0),
            ("64", 64),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("sigkill", 9),
            ("Term", 15),
            ("SIGIOT", 6),
            ("cld", 17),
            ("POLL", 29),
            ("SIGWINCH", 28),
            ("SIGRTMIN+3", 37),
            ("rtmin", 34),
            ("RTMAX", 64),
            ("SIGRTMAX-1", 63),
        ] {
            assert_eq!(text.parse::<Signal>().unwrap().number(), number, "{text}");
        }
        assert_eq!(Signal::TERM.number(), 15);
        assert_eq!(Signal::KILL.number(), 9);
    }

    #[test]
    fn what_is_no_signal_is_named() {
        for text in [
            "",
            "FOO",
            "SIG",
            "65",
            "-9",
            "+9",
            "9x",
            "RTMIN+31",
            "RTMIN-1",
            "RTMIN+",
            "RTMAX-31",
            "SIGSIGKILL",
        ] {
            let error = text.parse::<Signal>().unwrap_err();
            assert_eq!(error.to_string(), format!("unknown signal {text:?}"));
            assert_eq!(error.kind(), Kind::Invalid);
        }
    }

    #[test]
    fn users_are_numbers() {
        assert_eq!("0".parse::<User>().unwrap(), User { uid: 0, gid: None });
        assert_eq!(
            "1000:100".parse::<User>().unwrap(),
            User {
                uid: 1000,
                gid: Some(100)
            }
        );
        assert_eq!("4294967294".parse::<User>().unwrap().uid, u32::MAX - 1);
    }

    #[test]
    fn what_only_resembles_a_user_is_refused() {
        for text in [
            "",
            ":",
            "1:",
            ":1",
            "root",
            "1000x",
            " 1",
            "1 ",
            "+1",
            "-1",
            "0x10",
            "1:2:3",
            "4294967295",
            "4294967296",
            "1:4294967295",
        ] {
            assert!(text.parse::<User>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn formats_are_two() {
        assert_eq!("json".parse::<Format>().unwrap(), Format::Json);
        assert_eq!("table".parse::<Format>().unwrap(), Format::Table);
        assert!(
            "JSON"
                .parse::<Format>()
                .unwrap_err()
                .to_string()
                .starts_with("invalid format option")
        );
    }
}
