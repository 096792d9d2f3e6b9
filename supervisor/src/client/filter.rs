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
            let value = match name {
                "name" | "id" => simple(value)?,
                _ => value,
            };
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
        let has = |wanted: &str| match wanted.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|label| label == value),
            None => labels.contains_key(wanted),
        };
        self.values("label").all(has) && !self.values("label!").any(has)
    }

    /// What is true or false, if it is said.
    pub(super) fn truth(&self, name: &str) -> Result<Option<bool>> {
        let mut truth = None;
        for value in self.values(name) {
            let wrong = || {
                Fault::new(format!(
                    "invalid filter '{name}={value}': it is true or false"
                ))
            };
            truth = Some(self::truth(value).ok_or_else(wrong)?);
        }
        Ok(truth)
    }
}

/// As Go reads it.
pub(super) fn truth(word: &str) -> Option<bool> {
    match word {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Of Docker's regular expressions, what `part` takes: what would match nothing here is refused. That anything may come before and after goes
/// without saying.
fn simple(word: &str) -> Result<&str> {
    let rest = word.strip_suffix('$').unwrap_or(word).strip_suffix(".*");
    let rest = rest.unwrap_or(word);
    let rest = rest
        .strip_prefix('^')
        .unwrap_or(rest)
        .strip_prefix(".*")
        .unwrap_or(rest);
    if rest.contains(['*', '+', '?', '(', ')', '[', ']', '{', '}', '|', '\\']) {
        return Err(Fault::new(format!(
            "invalid filter '{word}': it is a part of a name, after ^ its begin and before $ its end; other regular expressions are not known"
        )));
    }
    Ok(rest)
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
    let mut rest = pattern;
    while !rest.is_empty() {
        rest = one(rest, None)?.1;
    }
    let (mut pattern, mut text) = (pattern, text);
    // What follows the last `*`, and what that may take more of. What others before it took need not be tried again.
    let mut last: Option<(&[char], &[char])> = None;
    loop {
        if let Some(('*', rest)) = pattern.split_first() {
            pattern = rest;
            last = Some((rest, text));
            continue;
        }
        if pattern.is_empty() && text.is_empty() {
            return Some(true);
        }
        if let Some((found, more)) = text.split_first()
            && let (true, rest) = one(pattern, Some(found)).unwrap_or((false, pattern))
        {
            (pattern, text) = (rest, more);
            continue;
        }
        let Some((rest, [_, more @ ..])) = last.filter(|(_, from)| from.first() != Some(&'/'))
        else {
            return Some(false);
        };
        (pattern, text) = (rest, more);
        last = Some((rest, more));
    }
}

/// Whether a character is what a pattern begins with, and what follows that. None for what is no pattern.
fn one<'a>(pattern: &'a [char], found: Option<&char>) -> Option<(bool, &'a [char])> {
    let (first, rest) = pattern.split_first()?;
    match first {
        '[' => class(rest, found),
        '?' => Some((found.is_some_and(|found| *found != '/'), rest)),
        '\\' => {
            let (wanted, rest) = rest.split_first()?;
            Some((found == Some(wanted), rest))
        }
        wanted => Some((found == Some(wanted), rest)),
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
            ("*a*/*b*c", "xaa/bbcbc"),
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
            ("*a*b", "aa/ab"),
            (&"*a".repeat(40), &"a".repeat(39)),
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
        for (word, simple) in [("^web.*$", "^web"), (".*web.*", "web"), ("a.b$", "a.b$")] {
            let filters = parse(&[&format!("name={word}")]).unwrap();
            assert_eq!(filters.values("name").next(), Some(simple), "{word}");
        }
        for word in ["web-[0-9]", "a|b", "(a)", "a+", "a.*b", "a\\.b"] {
            assert!(parse(&[&format!("name={word}")]).is_err(), "{word}");
        }
        assert_eq!(
            parse(&["dangling=1"]).unwrap().truth("dangling").unwrap(),
            Some(true)
        );
    }
}
