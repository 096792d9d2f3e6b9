//! Points in time as RFC 3339 text in UTC, the form that logs and the state of a container have.
//!
//! The C library's functions would read the host's time zone files, of which a static program in a foreign root wants nothing.

use std::time::{SystemTime, UNIX_EPOCH};

/// To the second, as in log records.
pub(crate) fn seconds(time: SystemTime) -> String {
    let (seconds, _) = since_epoch(time);
    format!("{}Z", date_and_time(seconds))
}

/// To the nanosecond, without trailing zeros: Go's `RFC3339Nano`.
pub(crate) fn nanoseconds(time: SystemTime) -> String {
    let (seconds, nanos) = since_epoch(time);
    if nanos == 0 {
        return format!("{}Z", date_and_time(seconds));
    }
    let fraction = format!("{nanos:09}");
    format!(
        "{}.{}Z",
        date_and_time(seconds),
        fraction.trim_end_matches('0')
    )
}

/// Clocks that were never set may be before the epoch; nothing depends on how far.
fn since_epoch(time: SystemTime) -> (u64, u32) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs(), since.subsec_nanos())
}

fn date_and_time(seconds: u64) -> String {
    let (day, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(day);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

/// The date of a day counted from 1970-01-01, in the Gregorian calendar. Years are counted from March here, so that the leap
/// day is the last of its year and a month's first day is a linear formula.
fn civil(day: u64) -> (u64, u64, u64) {
    // From 0000-03-01, in eras of 400 years, which all have the same number of days.
    let day = day + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 {
        (year, month + 3)
    } else {
        (year + 1, month - 9)
    };
    (era * 400 + year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn known_times() {
        for (time, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (1_795_408_766, "2026-11-23T04:39:26Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(seconds(UNIX_EPOCH + Duration::from_secs(time)), text);
        }
    }

    #[test]
    fn days_follow_one_another_for_a_thousand_years() {
        let mut expected = (1970, 1, 1);
        for day in 0..366_000 {
            assert_eq!(civil(day), expected, "day {day}");
            let (year, month, day) = expected;
            let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
            let length = match month {
                2 if leap => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            expected = match (month, day) {
                (12, 31) => (year + 1, 1, 1),
                (_, d) if d == length => (year, month + 1, 1),
                _ => (year, month, day + 1),
            };
        }
    }

    #[test]
    fn nanoseconds_have_no_trailing_zeros() {
        let at = |nanos| nanoseconds(UNIX_EPOCH + Duration::from_nanos(nanos));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(1), "1970-01-01T00:00:00.000000001Z");
        assert_eq!(at(1_500_000_000), "1970-01-01T00:00:01.5Z");
        assert_eq!(at(120_034_000), "1970-01-01T00:00:00.120034Z");
    }
}
