//! Dates of the calendar, for texts as RFC 3339 has them, in UTC. Whoever writes one adds the fraction of a second that he wants.
//!
//! The C library's functions would read the host's time zone files.

use std::time::{SystemTime, UNIX_EPOCH};

/// To the nanosecond, as logs have it.
pub(crate) fn text(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs().cast_signed();
    format!("{}.{:09}Z", date_and_time(seconds), since.subsec_nanos())
}

/// `2024-02-29T23:59:59`, of seconds since the epoch.
pub fn date_and_time(seconds: i64) -> String {
    let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(day);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

/// The date of a day counted from 1970-01-01: Howard Hinnant's `civil_from_days`. Years begin in March, so that the leap day is the last.
fn civil(day: i64) -> (i64, i64, i64) {
    let day = day + 719_468;
    let (era, day) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let from_march = (5 * day + 2) / 153;
    let day = day - (153 * from_march + 2) / 5 + 1;
    let month = (from_march + 2) % 12 + 1;
    (era * 400 + year + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // date -u -d @SECONDS +%FT%T
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_400, "2000-02-29T00:00:00"),
            (1_709_251_199, "2024-02-29T23:59:59"),
            (1_709_251_200, "2024-03-01T00:00:00"),
            (1_798_761_599, "2026-12-31T23:59:59"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ] {
            assert_eq!(date_and_time(seconds), text);
            let time = UNIX_EPOCH + Duration::new(seconds.cast_unsigned(), 7);
            assert_eq!(super::text(time), format!("{text}.000000007Z"));
        }
        assert_eq!(date_and_time(-1), "1969-12-31T23:59:59");
    }
}
