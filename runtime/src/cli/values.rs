//! The values of flags and arguments that are more than text: signals, users, formats, amounts, durations.

use super::flags::usage;
use crate::report::{Error, Result};
use nix::sys::signal;
use std::str::FromStr;
use std::time::Duration;

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
        // As with runc, which takes an argument that is empty for none.
        if text.is_empty() {
            return Ok(Signal::TERM);
        }
        // runc reads numbers as Go does.
        if let Some(number) = decimal(text.strip_prefix('+').unwrap_or(text)) {
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

/// A number of the type that the flag's field has.
pub(super) fn number<T: FromStr>(flag: &str, text: &str) -> Result<T> {
    // Rust's and Go's numbers have the same form but for this.
    let number = text.strip_prefix('+').unwrap_or(text);
    number.parse().map_err(|_| {
        usage(format!(
            "invalid value for {flag}: {text:?} is not a number it can have"
        ))
    })
}

/// An amount of memory as Docker writes it: `512m`, `1.5GiB`, `100 kb`, bytes without a unit; `-1` is no limit.
pub(super) fn bytes(flag: &str, text: &str) -> Result<i64> {
    if text == "-1" {
        return Ok(-1);
    }
    let wrong = || usage(format!("invalid value for {flag}: invalid size: '{text}'"));
    let end = text
        .rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')
        .map_or(0, |last| last + 1);
    let (amount, unit) = text.split_at(end);
    let amount = amount.strip_suffix(' ').unwrap_or(amount);
    if amount.is_empty() || !amount.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(wrong());
    }
    let unit = unit.to_ascii_lowercase();
    let prefix = unit
        .strip_suffix("ib")
        .or_else(|| unit.strip_suffix('b'))
        .unwrap_or(&unit);
    let shift = match prefix {
        "" if unit != "ib" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(wrong()),
    };
    let factor = 1i64 << shift;
    let bytes = match amount.parse::<i64>() {
        Ok(amount) => amount.checked_mul(factor),
        // A fraction, then; what is left of a byte is cut off.
        Err(_) => amount
            .parse::<f64>()
            .ok()
            .map(|amount| amount * factor as f64)
            .filter(|bytes| *bytes < i64::MAX as f64)
            .map(|bytes| bytes as i64),
    };
    bytes.ok_or_else(wrong)
}

/// How often, in the form of Go's durations: `100ms`, `1m30s`, `1.5h`.
pub(super) fn interval(text: &str) -> Result<Duration> {
    let nanoseconds = duration(text).ok_or_else(|| {
        usage(format!(
            "invalid value {text:?} for flag -interval: parse error"
        ))
    })?;
    if text.starts_with('-') || nanoseconds == 0 {
        return Err(usage("duration interval must be greater than 0"));
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// The nanoseconds of a duration without its sign. Go has no longer ones than 2⁶³-1.
fn duration(text: &str) -> Option<u64> {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0u128;
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (amount, after) = rest.split_at(digits);
        let unit = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let unit: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = amount.split_once('.').unwrap_or((amount, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        // More than 18 digits are below a nanosecond in any unit.
        let fraction = &fraction[..fraction.len().min(18)];
        let number = |digits: &str| match digits {
            "" => Some(0u128),
            digits => digits.parse().ok(),
        };
        let parts = number(fraction)? * unit / 10u128.pow(fraction.len() as u32);
        total = total
            .checked_add(number(whole)?.checked_mul(unit)?)?
            .checked_add(parts)?;
        if after.is_empty() {
            return u64::try_from(total).ok().filter(|n| *n <= i64::MAX as u64);
        }
        rest = after;
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
            ("+9", 9),
            ("rtmin", 34),
            ("RTMAX", 64),
            ("SIGRTMAX-1", 63),
        ] {
            assert_eq!(text.parse::<Signal>().unwrap().number(), number, "{text}");
        }
        assert_eq!(Signal::TERM.number(), 15);
        assert_eq!(Signal::KILL.number(), 9);
        assert_eq!("".parse::<Signal>().unwrap(), Signal::TERM);
    }

    #[test]
    fn what_is_no_signal_is_named() {
        for text in [
            "FOO",
            "SIG",
            "65",
            "-9",
            "+",
            "++9",
            "+-9",
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
    fn amounts_of_memory_have_units() {
        for (text, number) in [
            ("-1", -1),
            ("0", 0),
            ("32", 32),
            ("32b", 32),
            ("32B", 32),
            ("32k", 32 << 10),
            ("32 kB", 32 << 10),
            ("32 KiB", 32 << 10),
            ("512m", 512 << 20),
            ("1.5G", 3 << 29),
            (".5k", 512),
            ("2TiB", 2 << 40),
            ("1p", 1 << 50),
            ("9223372036854775807", i64::MAX),
        ] {
            assert_eq!(bytes("memory", text).unwrap(), number, "{text}");
        }
        for text in [
            "",
            "m",
            "x",
            "-2",
            "-1m",
            "+1",
            "1x",
            "1kk",
            "1kib b",
            "ib",
            "1ib",
            "1e3",
            "1..5",
            "32  k",
            "8589934592g",
            "9223372036854775808",
            "1mx",
            " 1",
        ] {
            let error = bytes("memory", text).unwrap_err().to_string();
            assert!(
                error.starts_with("invalid value for memory"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn intervals_are_durations_of_go() {
        for (text, nanoseconds) in [
            ("1ns", 1),
            ("100ms", 100_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("+2s", 2_000_000_000),
            ("5µs", 5_000),
            ("5μs", 5_000),
            ("1h1m1s1ms1us1ns", 3_661_001_001_001),
            ("0.0000000000000000000000001h1s", 1_000_000_000),
        ] {
            assert_eq!(
                interval(text).unwrap(),
                Duration::from_nanos(nanoseconds),
                "{text}"
            );
        }
        for text in ["0", "0s", "-5s", "-1h"] {
            let error = interval(text).unwrap_err().to_string();
            assert_eq!(error, "duration interval must be greater than 0", "{text}");
        }
        for text in [
            "",
            "5",
            "s",
            "5 s",
            "5d",
            "1.2.3s",
            ".s",
            "1s5",
            "-",
            "9999999999h",
            "99999999999999999999999999999999999999999s",
        ] {
            let error = interval(text).unwrap_err().to_string();
            assert!(error.ends_with("parse error"), "{text}: {error}");
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
