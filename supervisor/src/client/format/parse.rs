//! A template's text, and what it means. Pure.

use crate::fault::{Fault, Result};

/// Of an action: a quoted one begins with its quote, those with `(`, `)` and `|` stand for these, and what follows a `)` at once is its path.
pub(super) type Words = Vec<String>;

#[derive(Debug, PartialEq)]
pub(super) enum Part {
    Text(String),
    Show(Words),
    /// A variable, and its value.
    Let(String, Words),
    /// The names of its variables, over what, what is made of each, and what if there is none.
    Range(Vec<String>, Words, Vec<Part>, Vec<Part>),
    If(Words, Vec<Part>, Vec<Part>),
    With(Words, Vec<Part>, Vec<Part>),
}

pub(super) fn parse(text: &str) -> Result<Vec<Part>> {
    let mut tokens = tokens(text)?.into_iter();
    let (parts, end) = parts(&mut tokens)?;
    match end {
        None => Ok(parts),
        Some(words) => {
            let words = words.join(" ");
            let text = format!("the template has {{{{{words}}}}} without a begin");
            Err(Fault::new(text))
        }
    }
}

enum Token {
    Text(String),
    Action(Words),
}

type Tokens = std::vec::IntoIter<Token>;

fn tokens(text: &str) -> Result<Vec<Token>> {
    let mut tokens = vec![];
    let (mut rest, mut trim) = (text, false);
    while let Some((before, after)) = rest.split_once("{{") {
        let (action, behind) = after
            .split_once("}}")
            .ok_or_else(|| Fault::new("the template has {{ without }}"))?;
        let before = if trim { before.trim_start() } else { before };
        let (before, action) = match action.strip_prefix("- ") {
            Some(action) => (before.trim_end(), action),
            None => (before, action),
        };
        trim = action.ends_with(" -");
        let action = action.strip_suffix(" -").unwrap_or(action).trim();
        tokens.push(Token::Text(plain(before)));
        if !action.starts_with("/*") {
            tokens.push(Token::Action(words(action)));
        }
        rest = behind;
    }
    let rest = if trim { rest.trim_start() } else { rest };
    tokens.push(Token::Text(plain(rest)));
    Ok(tokens)
}

fn plain(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

fn words(action: &str) -> Words {
    let mut words = vec![String::new()];
    let mut characters = action.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' | '`' => {
                words.push(quoted(&mut characters, character));
                words.push(String::new());
            }
            ' ' => words.push(String::new()),
            '(' | '|' => words.extend([character.into(), String::new()]),
            ')' => words.push(character.into()),
            other => {
                if let Some(word) = words.last_mut() {
                    word.push(other);
                }
            }
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Up to the quote; behind a backslash, others mean something only in double ones.
fn quoted(characters: &mut impl Iterator<Item = char>, quote: char) -> String {
    let mut word = String::from('"');
    while let Some(character) = characters.next() {
        match character {
            end if end == quote => break,
            '\\' if quote == '"' => match characters.next() {
                Some('n') => word.push('\n'),
                Some('t') => word.push('\t'),
                other => word.extend(other),
            },
            other => word.push(other),
        }
    }
    word
}

/// Up to an `end` or `else`, which comes back.
fn parts(tokens: &mut Tokens) -> Result<(Vec<Part>, Option<Words>)> {
    let mut so_far = vec![];
    while let Some(token) = tokens.next() {
        let action = match token {
            Token::Text(text) => {
                so_far.push(Part::Text(text));
                continue;
            }
            Token::Action(action) => action,
        };
        so_far.push(match action.first().map(String::as_str) {
            Some("end" | "else") => return Ok((so_far, Some(action))),
            Some("range" | "if" | "with") => control(&action, tokens)?,
            Some(name) if name.starts_with('$') && action.get(1).is_some_and(|it| it == ":=") => {
                Part::Let(name.to_owned(), action[2..].to_vec())
            }
            _ => Part::Show(action),
        });
    }
    Ok((so_far, None))
}

fn control(action: &[String], tokens: &mut Tokens) -> Result<Part> {
    let (word, of) = (action[0].as_str(), action[1..].to_vec());
    let (then, otherwise) = block(tokens)?;
    Ok(match word {
        "range" => {
            let (names, over) = range(of);
            Part::Range(names, over, then, otherwise)
        }
        "if" => Part::If(of, then, otherwise),
        _ => Part::With(of, then, otherwise),
    })
}

/// What there is up to `end`, or to `else`, and what behind that.
fn block(tokens: &mut Tokens) -> Result<(Vec<Part>, Vec<Part>)> {
    let is_end = |words: &Option<Words>| words.as_ref().is_some_and(|words| words[0] == "end");
    let lacks = || Fault::new("the template lacks an {{end}}");
    let (then, end) = parts(tokens)?;
    if is_end(&end) {
        return Ok((then, vec![]));
    }
    let end = end.ok_or_else(lacks)?;
    match end[1..].first().map(String::as_str) {
        // They share the `end`.
        Some("if" | "with") => Ok((then, vec![control(&end[1..], tokens)?])),
        _ => {
            let (otherwise, end) = parts(tokens)?;
            is_end(&end).then_some((then, otherwise)).ok_or_else(lacks)
        }
    }
}

/// `$key, $value := .Map`, `$value := .List` or `.List`: the names, and what it is over.
fn range(mut words: Words) -> (Vec<String>, Words) {
    let Some(at) = words.iter().position(|word| word == ":=") else {
        return (vec![], words);
    };
    let over = words.split_off(at + 1);
    words.truncate(at);
    let names = words.concat();
    (names.split(',').map(str::to_owned).collect(), over)
}
