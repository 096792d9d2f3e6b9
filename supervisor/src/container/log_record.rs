//! One line of a log → what was written, exactly. Pure.

use ::shim::timestamp::date_and_time;

/// What a container wrote at once, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) stderr: bool,
    pub(crate) data: Vec<u8>,
    /// Nanoseconds since the epoch; 0 if it is not known.
    pub(crate) time: i64,
    /// So many bytes are missing here: the disk did not take them. There is no data then.
    pub(crate) lost: u64,
}

impl Record {
    /// Whether the other one, which comes next, was written at the same time.
    pub(crate) fn goes_on_with(&self, next: &Self) -> bool {
        (self.stderr, self.time, self.lost) == (next.stderr, next.time, next.lost) && self.lost == 0
    }
}

/// How a line of our shim's begins.
const BEGIN: &[u8] = b"{\"log\":\"";

/// None for an empty line, and for one of which a part was never written.
pub(crate) fn parse(line: &[u8]) -> Option<Record> {
    if line.iter().all(u8::is_ascii_whitespace) || is_torn(line) {
        return None;
    }
    let Some(rest) = line.strip_prefix(BEGIN) else {
        // Of a shim that writes what it gets.
        return Some(Record {
            stderr: false,
            data: line.to_vec(),
            time: 0,
            lost: 0,
        });
    };
    let (data, rest) = unescape(rest)?;
    let rest = std::str::from_utf8(rest).ok()?;
    let rest = rest.strip_prefix(",\"stream\":\"")?;
    let (stream, rest) = rest.split_once("\",\"time\":\"")?;
    let (time, rest) = rest.split_once('"')?;
    let lost = rest.strip_prefix(",\"lost\":").unwrap_or_default();
    let end = lost.find(|byte: char| !byte.is_ascii_digit());
    Some(Record {
        stderr: stream == "stderr",
        data,
        time: time_of(time)?,
        lost: lost[..end.unwrap_or(lost.len())]
            .parse()
            .unwrap_or_default(),
    })
}

/// After a power cut, a file may have zeros where something was written that never reached the disk: of a line of our shim's, which has none
/// itself, its end, its begin, or all. What a full disk did not take all of, our shim ends with a zero, if it gets to it.
fn is_torn(line: &[u8]) -> bool {
    let Some(zero) = line.iter().position(|byte| *byte == 0) else {
        // The last one, which has no end.
        return BEGIN.starts_with(line);
    };
    let rest = line[zero..].trim_ascii_end();
    let end_lacks = BEGIN.starts_with(&line[..zero]) && rest.iter().all(|byte| *byte == 0);
    end_lacks || zero == 0 && rest.ends_with(b"\"}")
}

/// The string up to its closing quote, and what comes after that.
fn unescape(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut data = Vec::with_capacity(text.len());
    let mut rest = text;
    loop {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        match byte {
            b'"' => return Some((data, rest)),
            b'\\' => {
                let (&code, after) = rest.split_first()?;
                rest = after;
                match code {
                    b'n' => data.push(b'\n'),
                    b'r' => data.push(b'\r'),
                    b't' => data.push(b'\t'),
                    b'u' => {
                        let digits = std::str::from_utf8(rest.get(..4)?).ok()?;
                        let number = u32::from_str_radix(digits, 16).ok()?;
                        rest = rest.get(4..)?;
                        match number {
                            // A byte that was not UTF-8.
                            0xdc80..=0xdcff => data.push(u8::try_from(number & 0xff).ok()?),
                            _ => data.extend_from_slice(
                                char::from_u32(number)?.encode_utf8(&mut [0; 4]).as_bytes(),
                            ),
                        }
                    }
                    other => data.push(other),
                }
            }
            other => data.push(other),
        }
    }
}

/// As Go has durations, and days; in nanoseconds.
pub(crate) fn span(word: &str) -> Option<i64> {
    let numeric = |character: char| character.is_ascii_digit() || character == '.';
    let (mut rest, mut span) = (word, 0.0);
    while !rest.is_empty() {
        let (number, more) = rest.split_at(rest.find(|it| !numeric(it))?);
        let (unit, more) = more.split_at(more.find(numeric).unwrap_or(more.len()));
        let unit = match unit {
            "ns" => 1.0,
            // A micro sign and a mu.
            "us" | "\u{b5}s" | "\u{3bc}s" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            "d" => 86400e9,
            _ => return None,
        };
        span += number.parse::<f64>().ok()? * unit;
        rest = more;
    }
    #[expect(clippy::cast_possible_truncation, reason = "less than a nanosecond")]
    (!word.is_empty()).then_some(span as i64)
}

/// Nanoseconds since the epoch, of a time as RFC 3339 has it, in UTC (`Z`) or with an offset; a date alone is its midnight. What lies
/// beyond the years that can be counted so, 1677 to 2262, is the first or the last of it; Go's year 1, which means none, is 0.
pub(crate) fn time_of(text: &str) -> Option<i64> {
    time_in(text, |seconds| seconds)
}

/// The same, with what the seconds of a clock without a zone are in UTC.
pub(crate) fn time_in(text: &str, zone: impl FnOnce(i64) -> i64) -> Option<i64> {
    if text.starts_with("0001-01-01") {
        return Some(0);
    }
    let (date, time) = text.split_at_checked("YYYY-MM-DD".len())?;
    let days = match *date.as_bytes() {
        [ref year @ .., b'-', m, n, b'-', d, e] => {
            let (month, day) = (digits(&[m, n])?, digits(&[d, e])?);
            date_in_days(digits(year)?, month, day)?
        }
        _ => return None,
    };
    let (clock, offset) = time.split_at(time.find(['Z', 'z', '+', '-']).unwrap_or(time.len()));
    let (seconds, nanoseconds) = match clock.strip_prefix(['T', 't', ' ']) {
        Some(clock) => of_day(clock)?,
        None if clock.is_empty() => (0, 0),
        None => return None,
    };
    let seconds = days * 86400 + seconds;
    let seconds = match offset {
        "" => zone(seconds),
        offset => seconds - east(offset)?,
    };
    let time = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    let furthest = if time < 0 { i64::MIN } else { i64::MAX };
    Some(i64::try_from(time).unwrap_or(furthest))
}

/// `HH`, with minutes and seconds or not, of which there may be parts: seconds since midnight, and nanoseconds.
fn of_day(text: &str) -> Option<(i64, i64)> {
    let (clock, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let mut clock = clock.split(':').map(str::as_bytes).map(two_digits);
    let mut next = || clock.next().unwrap_or(Some(0));
    // RFC 3339 knows leap seconds.
    let (hour, minute, second) = (next()?, next()?, next()?);
    if clock.next().is_some() || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let parts = fraction.as_bytes();
    // What is finer is cut off.
    let mut nanoseconds = digits(&parts[..parts.len().min(9)])?;
    digits(parts)?;
    (parts.len()..9).for_each(|_| nanoseconds *= 10);
    Some((hour * 3600 + minute * 60 + second, nanoseconds))
}

/// Seconds east of UTC.
fn east(offset: &str) -> Option<i64> {
    match *offset.as_bytes() {
        [b'Z' | b'z'] => Some(0),
        [sign, h, i, b':', m, n] => {
            let east = digits(&[h, i])? * 3600 + digits(&[m, n])? * 60;
            Some(if sign == b'-' { -east } else { east })
        }
        _ => None,
    }
}

fn two_digits(text: &[u8]) -> Option<i64> {
    digits(text).filter(|_| text.len() == 2)
}

/// Nothing but digits; what is too large for a number is no matter.
fn digits(text: &[u8]) -> Option<i64> {
    let add = |sum: i64, digit: &u8| {
        let digit = digit.is_ascii_digit().then(|| digit - b'0')?;
        Some(sum.wrapping_mul(10).wrapping_add(i64::from(digit)))
    };
    text.iter().try_fold(0, add).filter(|_| !text.is_empty())
}

/// None if there is no such day.
fn date_in_days(year: i64, month: i64, day: i64) -> Option<i64> {
    let number = days(year, month, day);
    let next = if month == 12 {
        (year + 1, 1)
    } else {
        (year, month + 1)
    };
    let is_there = (1..=12).contains(&month) && day >= 1 && number < days(next.0, next.1, 1);
    is_there.then_some(number)
}

/// Howard Hinnant's date to days: years begin in March.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let month = (month + 9) % 12;
    let day = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day - 719_468
}

/// The other way round, in UTC with nanoseconds; what is 0 is Docker's year 1.
pub(crate) fn text_of(time: i64) -> String {
    if time == 0 {
        return "0001-01-01T00:00:00Z".into();
    }
    let (seconds, nanoseconds) = (
        time.div_euclid(1_000_000_000),
        time.rem_euclid(1_000_000_000),
    );
    format!("{}.{nanoseconds:09}Z", date_and_time(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_what_was_written() {
        let line = br#"{"log":"a\"\\\n\u0001\udcff\u00fc\/","stream":"stderr","time":"1970-01-01T00:00:01.5Z"}"#;
        let record = parse(line).unwrap();
        assert_eq!(record.data, b"a\"\\\n\x01\xff\xc3\xbc/");
        assert!(record.stderr);
        assert_eq!(record.time, 1_500_000_000);
    }

    #[test]
    fn what_is_no_record() {
        assert_eq!(parse(b"\n"), None);
        assert_eq!(parse(br#"{"log":"cut"#), None);
        assert_eq!(parse(b"raw\n").unwrap().data, b"raw\n");
    }

    #[test]
    fn what_a_power_cut_leaves_is_no_record() {
        for line in [
            &b"\0\0\0\n"[..],
            b"\0",
            b"{\"l",
            b"{",
            b"{\"l\0\n",
            b"{\"log\":\"line 1\\n\",\"stream\":\"std\0\n",
            b"{\"l\0\0",
            b"{\"log\":\"line 1\\n\0\0",
            b"\0\0 1\\n\",\"stream\":\"stdout\",\"time\":\"1970-01-01T00:00:01.5Z\"}\n",
        ] {
            assert_eq!(parse(line), None, "{line:?}");
        }
        // Of a shim that writes what it gets.
        assert_eq!(parse(b"\0binary\n").unwrap().data, b"\0binary\n");
        assert_eq!(parse(b"{\n").unwrap().data, b"{\n");
    }

    #[test]
    fn times_both_ways() {
        // date -u -d @951782400; date -u -d @4107542399
        assert_eq!(
            time_of("2000-02-29T00:00:00Z"),
            Some(951_782_400_000_000_000)
        );
        assert_eq!(time_of("2000-02-29"), Some(951_782_400_000_000_000));
        assert_eq!(
            time_of("2000-02-29T02:00:00+02:00"),
            Some(951_782_400_000_000_000)
        );
        for time in [951_782_400_000_000_000, 4_107_542_399_000_000_001, 1] {
            assert_eq!(time_of(&text_of(time)), Some(time));
        }
        assert_eq!(
            time_of("2000-02-29 01:02:03.5-00:30"),
            Some(951_787_923_500_000_000)
        );
        for word in [
            "2000-02-29T00:00Z",
            "2000-02-29T00Z",
            "2000-02-29T00",
            "2000-02-29Z",
            "2000-02-29T02+02:00",
            "2000-02-29T01:30+01:30",
        ] {
            assert_eq!(time_of(word), Some(951_782_400_000_000_000), "{word}");
        }
        assert_eq!(time_of("2000-02-29-01:00"), time_of("2000-02-29T01Z"));
        for word in [
            "yesterday",
            "2026-13-45",
            "2026-02-31",
            "2100-02-29",
            "2026-00-10",
            "2026-11-27T25:00:00Z",
            "2026-11-27T23:60:00Z",
            "2026-11-27T23:00:61Z",
            "2026-11-27T23:00:00.Z",
            "2026-11-27T23:00:00ZZ",
            "2026-11-27T",
            "2026-11-27TZ",
            "2026-11-27T2:00:00Z",
            "2026-11-27+02",
            "2026-11-27x",
            "2026-+1-27",
            "2026-11-27T10:00:00+1:00",
        ] {
            assert_eq!(time_of(word), None, "{word}");
        }
    }

    #[test]
    fn a_time_without_a_zone_is_that_of_the_zone_that_is_asked() {
        let hour_west = |seconds| seconds + 3600;
        for (word, same) in [
            ("2000-02-29", "2000-02-29T01Z"),
            ("2000-02-29T23", "2000-03-01Z"),
            ("2000-02-29T23:01", "2000-03-01T00:01Z"),
            ("2000-02-29T00:00:01.5", "2000-02-29T01:00:01.5Z"),
        ] {
            assert_eq!(time_in(word, hour_west), time_of(same), "{word}");
            assert_eq!(time_in(same, hour_west), time_of(same), "{same}");
        }
    }

    #[test]
    fn times_beyond_what_can_be_counted() {
        assert_eq!(time_of("0001-01-01T00:00:00Z"), Some(0));
        assert_eq!(time_of(&text_of(0)), Some(0));
        assert_eq!(time_of("2999-01-01"), Some(i64::MAX));
        assert_eq!(time_of("1066-10-14T09:00:00Z"), Some(i64::MIN));
    }
}
