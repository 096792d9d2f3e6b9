//! Parsing on after what is wrong: a value that cannot be read is reported, taken out, and the rest is read again.
//!
//! Pure. Which values can be read is `spec`'s to say; here it is only asked again and again.

use super::Findings;
use crate::report::Error;
use crate::spec::{self, Parsed};
use oci_spec::runtime::Spec;
use serde_json::Value;
use std::collections::HashMap;

/// What had to be taken out of a document.
#[derive(Debug, Default)]
pub(crate) struct Document {
    /// Entries of lists, in the order in which they went: the list's path and the number that the entry had then.
    removed: Vec<(String, usize)>,
}

/// The config without what cannot be read of it; None if there is no end to that.
pub(crate) fn read(text: &[u8], findings: &mut Findings) -> (Option<Parsed<Spec>>, Document) {
    /// More than any config has fields that are wrong, and an end to what cannot be mended.
    const TRIES: usize = 500;
    let mut document = Document::default();
    let mut value: Value = match serde_json::from_slice(text) {
        Ok(value) => value,
        Err(error) => {
            findings.error(Error::invalid(error.to_string()));
            return (None, document);
        }
    };
    let mut text = text.to_vec();
    let mut met: HashMap<String, usize> = HashMap::new();
    for _ in 0..TRIES {
        let error = match spec::parse(&text) {
            Ok(parsed) => {
                findings.as_written = findings.list.len();
                return (Some(parsed), document);
            }
            Err(error) => error,
        };
        let field = document.numbered_as_written(error.field());
        let times = met.entry(field.clone()).or_default();
        if *times == 0 {
            // The place is in the field; a line and a column would be those of a text that nobody has seen.
            let whole = error.to_string();
            findings.wrong(&field, whole.split(" at line ").next().unwrap_or(&whole));
        }
        *times += 1;
        let error = error.field().to_owned();
        if !document.mend(&mut value, &error, *times) {
            break;
        }
        text = serde_json::to_vec(&value).unwrap_or_default();
    }
    (None, document)
}

/// One step of a path.
#[derive(Debug, PartialEq)]
enum Part {
    Key(String),
    Index(usize),
}

impl Document {
    /// A field's path with the numbers that its list entries had at first.
    pub(super) fn numbered_as_written(&self, field: &str) -> String {
        let mut field = field.to_owned();
        for (list, removed) in self.removed.iter().rev() {
            let Some(rest) = field
                .strip_prefix(list.as_str())
                .and_then(|r| r.strip_prefix('['))
            else {
                continue;
            };
            let Some((number, rest)) = rest.split_once(']') else {
                continue;
            };
            if let Some(number) = number
                .parse()
                .ok()
                .filter(|number: &usize| number >= removed)
            {
                field = format!("{list}[{}]{rest}", number + 1);
            }
        }
        field
    }

    /// Changes what an error was about so that the next attempt comes further: takes it out; where it must be something, puts something there;
    /// else takes out what it is part of. False if nothing is left to try.
    fn mend(&mut self, value: &mut Value, field: &str, times: usize) -> bool {
        let stand_ins = [
            "/".into(),
            0.into(),
            Value::Array(Vec::new()),
            Value::Object(<_>::default()),
        ];
        let parts = parse(field);
        let Some((last, above)) = parts.split_last() else {
            return false;
        };
        let Some(holder) = find(value, above) else {
            return false;
        };
        match (last, holder) {
            (Part::Key(key), Value::Object(map)) => match stand_ins.get(times.wrapping_sub(2)) {
                _ if times == 1 && map.remove(key).is_some() => true,
                None if times > stand_ins.len() + 1 => {
                    let around = &field[..field.len() - key_length(field)];
                    self.mend(value, around, 1)
                }
                stand_in => {
                    map.insert(key.clone(), stand_in.unwrap_or(&stand_ins[0]).clone());
                    true
                }
            },
            (Part::Index(index), Value::Array(list)) if *index < list.len() => {
                list.remove(*index);
                let end = field.rfind('[').unwrap_or(0);
                self.removed.push((field[..end].to_owned(), *index));
                true
            }
            _ => false,
        }
    }
}

/// How much of the end of a path is its last key.
fn key_length(field: &str) -> usize {
    let dot = field.rfind('.').unwrap_or(0);
    field.len() - dot
}

fn find<'a>(mut value: &'a mut Value, parts: &[Part]) -> Option<&'a mut Value> {
    for part in parts {
        value = match part {
            Part::Key(key) => value.get_mut(key)?,
            Part::Index(index) => value.get_mut(index)?,
        };
    }
    Some(value)
}

/// The parts of `a.b[3]["c.d"]`.
fn parse(field: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = field;
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix("[\"") {
            let end = quoted.rfind("\"]").unwrap_or(quoted.len());
            let key = serde_json::from_slice(&rest.as_bytes()[1..end + 3]).unwrap_or_default();
            parts.push(Part::Key(key));
            rest = quoted.get(end + 2..).unwrap_or_default();
        } else if let Some(numbered) = rest.strip_prefix('[') {
            let (number, more) = numbered.split_once(']').unwrap_or((numbered, ""));
            parts.push(Part::Index(number.parse().unwrap_or(usize::MAX)));
            rest = more;
        } else {
            let plain = rest.strip_prefix('.').unwrap_or(rest);
            let end = plain.find(['.', '[']).unwrap_or(plain.len());
            parts.push(Part::Key(plain[..end].to_owned()));
            rest = &plain[end..];
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> (Vec<String>, bool) {
        let mut findings = Findings::default();
        let (parsed, document) = read(text.as_bytes(), &mut findings);
        let found = findings.in_order(&document);
        (
            found.into_iter().map(|finding| finding.field).collect(),
            parsed.is_some(),
        )
    }

    #[test]
    fn paths_come_apart() {
        let key = |key: &str| Part::Key(key.to_owned());
        assert_eq!(
            parse("mounts[2].options[0]"),
            [
                key("mounts"),
                Part::Index(2),
                key("options"),
                Part::Index(0)
            ]
        );
        assert_eq!(
            parse(r#"linux.sysctl["a.b\"c"]"#),
            [key("linux"), key("sysctl"), key("a.b\"c")]
        );
        assert_eq!(parse(""), []);
    }

    #[test]
    fn all_that_cannot_be_read_is_found_at_once_under_its_own_number() {
        let text = r#"{"ociVersion":1,"hostname":7,"process":{"user":{"uid":"0"},"env":[1,"A=b",2],"args":"x"},
            "mounts":[{"destination":1},{"destination":"/a","options":"ro"},{"type":"tmpfs"},{"destination":"/b","type":3}]}"#;
        let (mut found, read) = fields(text);
        assert!(read);
        found.sort();
        assert_eq!(
            found,
            [
                "hostname",
                "mounts[0].destination",
                "mounts[1].options",
                "mounts[2].destination",
                "mounts[3].type",
                "ociVersion",
                "process.args",
                "process.cwd",
                "process.env[0]",
                "process.env[2]",
                "process.user.uid",
            ]
        );
    }

    #[test]
    fn what_is_no_json_is_one_finding() {
        assert_eq!(fields("{"), (vec![String::new()], false));
    }
}
