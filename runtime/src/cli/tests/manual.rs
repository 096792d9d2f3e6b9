//! Whether the manual page says what the tables say: no command and no flag more or less, and each with its value.

use super::super::flags::{Flag, Takes};
use super::super::verbs::{GLOBAL, VERBS};
use super::run;
use std::collections::BTreeSet;

const PAGE: &str = include_str!("../../../man/caisson.8");

/// The lines of the page below a heading, which is a macro and its first word, up to the next one of that macro or of `Sh`.
fn below(heading: &str, word: &str) -> Vec<&'static str> {
    let is = |line: &str, name: &str| line.split(' ').next() == Some(name);
    let mut lines = PAGE.lines();
    let start = format!("{heading} {word}");
    lines
        .find(|line| *line == start || line.starts_with(&format!("{start} ")))
        .unwrap_or_else(|| panic!("the page has no {start:?}"));
    lines
        // A command with two forms has two headings.
        .skip_while(|line| line.starts_with(&start))
        .take_while(|line| !is(line, heading) && !is(line, ".Sh"))
        .collect()
}

/// The flags in a line, each with what stands behind it.
fn flags(line: &str) -> Vec<(String, Vec<String>)> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    let mut words = line.split(' ').peekable();
    while let Some(word) = words.next() {
        if word.trim_start_matches('.') == "Fl" {
            words.next_if_eq(&"Fl");
            found.push((words.next().unwrap_or_default().to_owned(), Vec::new()));
        } else if let Some((_, behind)) = found.last_mut() {
            behind.push(word.to_owned());
        }
    }
    found
}

/// Whether the page shows the value that the flag takes, and every word of a fixed set.
fn has_value(flag: &Flag, behind: &[String]) -> bool {
    let behind: Vec<_> = behind
        .iter()
        .map(String::as_str)
        .filter(|w| *w != ",")
        .collect();
    match flag.takes {
        Takes::Switch => behind.is_empty(),
        Takes::OneOf(set) => {
            behind.first() == Some(&"Cm")
                && behind[1..].join(" ").split(" | ").eq(set.iter().copied())
        }
        Takes::Value | Takes::File | Takes::Directory => behind.first() == Some(&"Ar"),
    }
}

fn documents(place: &str, lines: &[&str], table: &'static [Flag]) {
    let mut seen = BTreeSet::new();
    for (name, behind) in lines
        .iter()
        .filter(|line| line.starts_with(".It "))
        .flat_map(|line| flags(line))
    {
        let flag = table.iter().find(|flag| flag.names.contains(&&*name));
        let flag = flag.unwrap_or_else(|| panic!("{place} has no flag {name}"));
        assert!(has_value(flag, &behind), "{place}: {name} {behind:?}");
        assert!(seen.insert(name.clone()), "{place}: {name} is there twice");
    }
    for name in table.iter().flat_map(|flag| flag.names) {
        assert!(seen.contains(*name), "{place}: {name} is not in the page");
    }
}

#[test]
fn the_page_has_every_command_with_every_flag_and_no_others() {
    let headings: BTreeSet<_> = PAGE
        .lines()
        .filter_map(|line| line.strip_prefix(".Ss "))
        .map(|heading| heading.split(' ').next().unwrap())
        .collect();
    let names: BTreeSet<_> = VERBS.iter().map(|verb| verb.name).collect();
    assert_eq!(headings, names);
    documents("OPTIONS", &below(".Sh", "OPTIONS"), GLOBAL);
    for verb in VERBS {
        documents(verb.name, &below(".Ss", verb.name), verb.flags);
    }
}

#[test]
fn the_page_names_no_flag_that_does_not_exist() {
    let all = || VERBS.iter().flat_map(|verb| verb.flags).chain(GLOBAL);
    for line in PAGE.lines() {
        for (name, _) in flags(line) {
            assert!(all().any(|flag| flag.names.contains(&&*name)), "{line}");
        }
    }
}

#[test]
fn the_examples_of_the_page_are_command_lines() {
    let lines: Vec<_> = below(".Sh", "EXAMPLES")
        .into_iter()
        .filter_map(|line| line.strip_prefix("# caisson "))
        .collect();
    assert!(lines.len() > 5);
    for line in lines {
        let words: Vec<_> = line.split(' ').collect();
        assert!(run(&words).is_ok(), "{line}");
    }
}
