//! Rows of JSON as a table, as lines of JSON or by a template. And numbers as people read them.

use std::fmt::Write as _;

use serde_json::Value;

use super::format::Template;
use super::harmless;
use crate::fault::Result;

/// What a list looks like: columns, each a title and the field that it shows.
pub(super) type Columns<'a> = &'a [(&'a str, &'a str)];

/// All rows, with titles unless a template says otherwise.
pub(super) fn render(rows: &[Value], columns: Columns<'_>, format: Option<&str>) -> Result<String> {
    let mut text = String::new();
    match format {
        None | Some("table") => {
            let cells: Vec<Vec<String>> = rows
                .iter()
                .map(|row| {
                    columns
                        .iter()
                        .map(|(_, field)| cell(&row[*field]))
                        .collect()
                })
                .collect();
            let titles = columns
                .iter()
                .map(|(title, _)| (*title).to_owned())
                .collect();
            align(titles, &cells, &mut text);
        }
        Some("json") => {
            for row in rows {
                // Writing to a string cannot fail.
                writeln!(text, "{row}").unwrap_or_default();
            }
        }
        Some(template) => match template.strip_prefix("table ") {
            Some(template) => {
                let parsed = Template::parse(template)?;
                let split = |text: &str| text.split('\t').map(str::to_owned).collect::<Vec<_>>();
                let cells: Result<Vec<_>> = rows
                    .iter()
                    .map(|row| parsed.apply(row).map(|text| split(&text)))
                    .collect();
                let titles = split(&template.replace("\\t", "\t"))
                    .iter()
                    .map(|word| title(word, columns))
                    .collect();
                align(titles, &cells?, &mut text);
            }
            None => {
                let template = Template::parse(template)?;
                for row in rows {
                    writeln!(text, "{}", template.apply(row)?).unwrap_or_default();
                }
            }
        },
    }
    Ok(text)
}

/// Of a column that is a template's action.
fn title(action: &str, columns: Columns<'_>) -> String {
    let name = action
        .trim()
        .trim_start_matches("{{")
        .trim_end_matches("}}")
        .trim()
        .trim_start_matches('.');
    let known = columns.iter().find(|(_, field)| *field == name);
    known.map_or_else(|| spaced(name), |(title, _)| (*title).to_owned())
}

/// LocalVolumes → LOCAL VOLUMES.
fn spaced(name: &str) -> String {
    let mut title = String::new();
    for character in name.chars() {
        let begins = character.is_ascii_uppercase();
        if begins && title.ends_with(|before: char| before.is_ascii_lowercase()) {
            title.push(' ');
        }
        title.push(character);
    }
    title.to_uppercase()
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn align(titles: Vec<String>, rows: &[Vec<String>], text: &mut String) {
    let harmless = |row: &Vec<String>| row.iter().map(|cell| harmless(cell)).collect();
    let rows = rows.iter().map(harmless);
    let all: Vec<Vec<String>> = std::iter::once(titles).chain(rows).collect();
    let width = |column: usize| {
        all.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..all[0].len()).map(width).collect();
    for row in &all {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            write!(line, "{cell:width$}   ").unwrap_or_default();
        }
        writeln!(text, "{}", line.trim_end()).unwrap_or_default();
    }
}

/// Decimal, as Docker shows what is on a disk: 1.23MB.
pub(super) fn decimal(bytes: u64) -> String {
    scaled(bytes, 1000, &["B", "kB", "MB", "GB", "TB"])
}

/// Binary, as Docker shows memory: 1.5MiB.
pub(super) fn binary(bytes: u64) -> String {
    scaled(bytes, 1024, &["B", "KiB", "MiB", "GiB", "TiB"])
}

fn scaled(bytes: u64, base: u64, units: &[&str]) -> String {
    let (mut whole, mut unit, mut rest) = (bytes, 0, 0);
    while whole >= base && unit + 1 < units.len() {
        rest = whole % base * 1000 / base;
        whole /= base;
        unit += 1;
    }
    // Three digits that count.
    let text = match (unit, whole) {
        (0, _) => whole.to_string(),
        (_, 0..=9) => format!("{whole}.{:02}", rest / 10),
        (_, 10..=99) => format!("{whole}.{}", rest / 100),
        _ => whole.to_string(),
    };
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{text}{}", units[unit])
}

/// How long ago, or how long: "5 minutes".
pub(super) fn duration(nanoseconds: i64) -> String {
    let seconds = nanoseconds.max(0) / 1_000_000_000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let plural = |count: i64, unit: &str| {
        if count == 1 {
            format!("{count} {unit}")
        } else {
            format!("{count} {unit}s")
        }
    };
    match seconds {
        0 => "Less than a second".into(),
        1 => "1 second".into(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".into(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours < 2 => "About an hour".into(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if days < 14 => format!("{days} days"),
        _ if days < 60 => plural(days / 7, "week"),
        _ if days < 730 => plural(days / 30, "month"),
        _ => plural(days / 365, "year"),
    }
}

/// Not more than so many characters.
pub(super) fn short(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let begin: String = text.chars().take(most - 1).collect();
    format!("{begin}…")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_aligned() {
        let rows = [
            json!({ "ID": "abc", "Names": "x" }),
            json!({ "ID": "a", "Names": "long" }),
        ];
        let columns = &[("ID", "ID"), ("NAMES", "Names")][..];
        assert_eq!(
            render(&rows, columns, None).unwrap(),
            "ID    NAMES\nabc   x\na     long\n"
        );
        assert_eq!(
            render(
                &[json!({ "ID": "\u{1b}[2J", "Names": "a\nb" })],
                columns,
                None
            )
            .unwrap(),
            "ID          NAMES\n\\u{1b}[2J   a\\nb\n"
        );
        assert_eq!(
            render(&rows, columns, Some("{{.Names}}")).unwrap(),
            "x\nlong\n"
        );
        assert_eq!(
            render(&rows, columns, Some("table {{.Names}}\\t{{.ID}}")).unwrap(),
            "NAMES   ID\nx       abc\nlong    a\n"
        );
        let more = [json!({ "LocalVolumes": "0" })];
        assert_eq!(
            render(&more, columns, Some("table {{.LocalVolumes}}")).unwrap(),
            "LOCAL VOLUMES\n0\n"
        );
        assert_eq!(
            render(&rows[1..], columns, Some("json")).unwrap(),
            "{\"ID\":\"a\",\"Names\":\"long\"}\n"
        );
    }

    #[test]
    fn numbers() {
        assert_eq!(
            [
                decimal(0),
                decimal(999),
                decimal(1_234_567),
                decimal(77_800_000)
            ],
            ["0B", "999B", "1.23MB", "77.8MB"]
        );
        assert_eq!([binary(1024), binary(3 << 29)], ["1KiB", "1.5GiB"]);
        let second = 1_000_000_000;
        assert_eq!(
            [
                duration(0),
                duration(5 * second),
                duration(90 * second),
                duration(7200 * second)
            ],
            [
                "Less than a second",
                "5 seconds",
                "About a minute",
                "2 hours"
            ]
        );
    }
}
