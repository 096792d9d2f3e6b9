//! `--filter NAME=VALUE` of lists, as Docker has it: of conditions with one name one has to hold, but for labels, which all have to; those of
//! different names hold at once. Pure.

use std::collections::HashMap;

use crate::fault::{Fault, Result};

#[derive(Debug, Default)]
pub(super) struct Filters(Vec<(String, String)>);

impl Filters {
    pub(super) fn parse(words: &[String], known: &[&str]) -> Result<Self> {
        let mut filters = vec![];
        for word in words {
            let (name, value) = word
                .split_once('=')
                .ok_or_else(|| Fault::new(format!("filter '{word}' is not NAME=VALUE")))?;
            if !known.contains(&name) {
                return Err(Fault::new(format!(
                    "invalid filter '{name}': there are {}",
                    known.join(", ")
                )));
            }
            filters.push((name.to_owned(), value.to_owned()));
        }
        Ok(Self(filters))
    }

    pub(super) fn add(&mut self, name: &str, value: String) {
        self.0.push((name.to_owned(), value));
    }

    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        let of = self.0.iter().filter(move |(other, _)| other == name);
        of.map(|(_, value)| value.as_str())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.values(name).next().is_some()
    }

    /// One of those with this name holds, or there is none.
    pub(super) fn any(&self, name: &str, holds: impl Fn(&str) -> bool) -> bool {
        !self.has(name) || self.values(name).any(holds)
    }

    pub(super) fn labels(&self, labels: &HashMap<String, String>) -> bool {
        self.values("label")
            .all(|wanted| match wanted.split_once('=') {
                Some((name, value)) => labels.get(name).is_some_and(|label| label == value),
                None => labels.contains_key(wanted),
            })
    }

    /// What is true or false, if it is said.
    pub(super) fn truth(&self, name: &str) -> Result<Option<bool>> {
        let mut truth = None;
        for value in self.values(name) {
            truth = Some(match value {
                "true" | "1" => true,
                "false" | "0" => false,
                _ => {
                    return Err(Fault::new(format!(
                        "invalid filter '{name}={value}': it is true or false"
                    )));
                }
            });
        }
        Ok(truth)
    }
}

/// A part of a text; after `^` its begin, and before `$` its end. Docker takes regular expressions, of which these are what is used.
pub(super) fn part(wanted: &str, text: &str) -> bool {
    let (begin, wanted) = match wanted.strip_prefix('^') {
        Some(rest) => (true, rest),
        None => (false, wanted),
    };
    match (begin, wanted.strip_suffix('$')) {
        (true, Some(whole)) => text == whole,
        (true, None) => text.starts_with(wanted),
        (false, Some(end)) => text.ends_with(end),
        (false, None) => text.contains(wanted),
    }
}

/// A pattern of a shell's for a whole text: `*` and `?` are anything but `/`, `[a-c]` and `[^a-c]` some characters.
pub(super) fn pattern(pattern: &str, text: &str) -> Result<bool> {
    let characters: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    matches(&characters, &text).ok_or_else(|| Fault::new(format!("'{pattern}' is no pattern")))
}

/// None for what is no pattern.
fn matches(pattern: &[char], text: &[char]) -> Option<bool> {
    let Some((first, rest)) = pattern.split_first() else {
        return Some(text.is_empty());
    };
    match first {
        '*' => {
            let most = text.iter().position(|it| *it == '/').unwrap_or(text.len());
            for taken in 0..=most {
                if matches(rest, &text[taken..])? {
                    return Some(true);
                }
            }
            Some(false)
        }
        '[' => {
            let (holds, rest) = class(rest, text.first())?;
            Some(matches(rest, text.get(1..).unwrap_or_default())? && holds)
        }
        _ => {
            let (wanted, rest) = match first {
                '\\' => rest.split_first()?,
                other => (other, rest),
            };
            let Some((found, text)) = text.split_first() else {
                return Some(false);
            };
            let same = wanted == found || *first == '?' && *found != '/';
            Some(same && matches(rest, text)?)
        }
    }
}

/// Whether a character is one of a class, and what follows that.
fn class<'a>(pattern: &'a [char], found: Option<&char>) -> Option<(bool, &'a [char])> {
    let end = 1 + pattern.iter().skip(1).position(|it| *it == ']')?;
    let (mut class, negated) = match pattern[..end].split_first()? {
        ('^', class) => (class, true),
        _ => (&pattern[..end], false),
    };
    let mut holds = false;
    while let Some((first, rest)) = class.split_first() {
        let (last, rest) = match rest {
            ['-', last, rest @ ..] => (last, rest),
            _ => (first, rest),
        };
        holds |= found.is_some_and(|found| (first..=last).contains(&found));
        class = rest;
    }
    let some = found.is_some_and(|found| *found != '/');
    Some((some && holds != negated, &pattern[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_a_shells() {
        let matches = |one: &str, text: &str| pattern(one, text).unwrap();
        for (one, text) in [
            ("busybox", "busybox"),
            ("b*", "busybox"),
            ("*", ""),
            ("*/*", "a/b"),
            ("b?s[x-z]b[^x]x:*", "busybox:1"),
            ("\\*", "*"),
            ("[]a]", "]"),
        ] {
            assert!(matches(one, text), "{one} {text}");
        }
        for (one, text) in [
            ("b*", "a/b"),
            ("b*", "b/c"),
            ("b?", "b"),
            ("b?", "b/"),
            ("[^b]", "b"),
            ("[^b]", "/"),
            ("\\*", "x"),
            ("", "x"),
        ] {
            assert!(!matches(one, text), "{one} {text}");
        }
        for one in ["[", "[a", "\\", "x[", "[]"] {
            assert!(pattern(one, "x").is_err(), "{one}");
        }
    }

    #[test]
    fn conditions_of_one_name_are_alternatives() {
        let words = |words: &[&str]| words.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        let parse = |some: &[&str]| Filters::parse(&words(some), &["name", "label", "dangling"]);
        let filters = parse(&["name=^a", "name=b$", "label=x", "label=y=1"]).unwrap();
        let named = |text: &str| filters.any("name", |wanted| part(wanted, text));
        assert!(named("abc") && named("cab") && !named("cabc"));
        let labels = |some: &[(&str, &str)]| {
            let pairs = some.iter().map(|(a, b)| ((*a).into(), (*b).into()));
            filters.labels(&pairs.collect())
        };
        assert!(labels(&[("x", ""), ("y", "1")]) && !labels(&[("x", "")]));
        assert!(parse(&["other=1"]).is_err() && parse(&["name"]).is_err());
        assert!(
            parse(&["dangling=maybe"])
                .unwrap()
                .truth("dangling")
                .is_err()
        );
        assert_eq!(
            parse(&["dangling=1"]).unwrap().truth("dangling").unwrap(),
            Some(true)
        );
    }
}
