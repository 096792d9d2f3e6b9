//! `--format`: the part of Go's templates that people use. `{{.Field.Inner}}`, `{{json .Field}}`, `{{.Field | json}}`, `{{index .Labels "name"}}`,
//! `{{range $key, $value := .Map}}...{{end}}`, `{{if eq .Field "x"}}...{{else if .Other}}...{{end}}`, `{{with .Field}}...{{end}}`,
//! `{{(index .List 0).Field}}`, `{{$name := .Field}}`, some other functions (see [`functions::call`]), and text between them, with `\t` and
//! `\n`. Pure.

mod functions;
mod parse;
#[cfg(test)]
mod tests;

use serde_json::Value;

use crate::fault::{Fault, Result};
use functions::{call, item, shown, truth};
use parse::Part;

#[derive(Debug)]
pub(super) struct Template(Vec<Part>);

impl Template {
    pub(super) fn parse(text: &str) -> Result<Self> {
        parse::parse(text).map(Self)
    }

    pub(super) fn apply(&self, to: &Value) -> Result<String> {
        let mut text = String::new();
        let scope = Scope {
            root: to,
            here: to,
            variables: vec![],
        };
        apply(&self.0, &scope, &mut text)?;
        Ok(text)
    }
}

/// What words may mean.
#[derive(Clone)]
struct Scope<'a> {
    root: &'a Value,
    here: &'a Value,
    variables: Vec<(&'a str, Value)>,
}

fn apply(parts: &[Part], scope: &Scope<'_>, text: &mut String) -> Result<()> {
    let mut scope = scope.clone();
    for part in parts {
        match part {
            Part::Text(words) => text.push_str(words),
            Part::Show(words) => text.push_str(&shown(&evaluate(words, &scope)?)),
            Part::Let(name, words) => {
                let value = evaluate(words, &scope)?;
                scope.variables.push((name, value));
            }
            Part::Range(names, words, each, otherwise) => {
                let items = items(evaluate(words, &scope)?);
                if items.is_empty() {
                    apply(otherwise, &scope, text)?;
                }
                for item in &items {
                    apply(each, &of_range(&scope, names, item), text)?;
                }
            }
            Part::If(words, then, otherwise) => {
                let is_so = truth(&evaluate(words, &scope)?);
                apply(if is_so { then } else { otherwise }, &scope, text)?;
            }
            Part::With(words, then, otherwise) => {
                let value = evaluate(words, &scope)?;
                if truth(&value) {
                    let here = &value;
                    apply(
                        then,
                        &Scope {
                            here,
                            ..scope.clone()
                        },
                        text,
                    )?;
                } else {
                    apply(otherwise, &scope, text)?;
                }
            }
        }
    }
    Ok(())
}

/// Each with its key or its number.
fn items(of: Value) -> Vec<(Value, Value)> {
    match of {
        Value::Array(items) => {
            let counted = items.into_iter().enumerate();
            counted.map(|(at, item)| (at.into(), item)).collect()
        }
        Value::Object(items) => {
            let named = items.into_iter();
            named.map(|(name, item)| (name.into(), item)).collect()
        }
        _ => vec![],
    }
}

fn of_range<'a>(
    scope: &Scope<'a>,
    names: &'a [String],
    (key, item): &'a (Value, Value),
) -> Scope<'a> {
    let values = match names.len() {
        1 => vec![item],
        _ => vec![key, item],
    };
    let named = names.iter().map(String::as_str);
    let mut inside = Scope {
        here: item,
        ..scope.clone()
    };
    inside
        .variables
        .extend(named.zip(values.into_iter().cloned()));
    inside
}

/// A word, or what is between parentheses, with the path behind them.
enum Term<'a> {
    Word(&'a str),
    Group(&'a [String], &'a str),
}

/// Commands with `|` between them: what one makes is the last that the next one is given.
fn evaluate(words: &[String], scope: &Scope<'_>) -> Result<Value> {
    let terms = terms(words)?;
    let mut passed = None;
    for command in terms.split(|term| matches!(term, Term::Word("|"))) {
        passed = Some(carry_out(command, passed, scope)?);
    }
    Ok(passed.unwrap_or_default())
}

/// A function or a field, and what it is given.
fn carry_out(command: &[Term<'_>], passed: Option<Value>, scope: &Scope<'_>) -> Result<Value> {
    let Some((first, rest)) = command.split_first() else {
        return match passed {
            Some(_) => Err(Fault::new("the template has a | with nothing behind it")),
            None => Ok(Value::Null),
        };
    };
    let of = |term: &Term<'_>| match term {
        Term::Word(word) => value(word, scope),
        Term::Group(words, path) => field(&evaluate(words, scope)?, path),
    };
    let mut given: Vec<Value> = rest.iter().map(of).collect::<Result<_>>()?;
    given.extend(passed);
    match first {
        Term::Word(word)
            if word.starts_with(|it: char| it.is_ascii_lowercase())
                && !matches!(*word, "true" | "false") =>
        {
            call(word, &given)
        }
        _ if given.is_empty() => of(first),
        // Nothing else is called so but `.Label "name"`, which is empty if there is none.
        Term::Word(word) if word.starts_with(['.', '$']) => {
            match item(&value(word, scope)?, &given[0])? {
                Value::Null => Ok(String::new().into()),
                found => Ok(found),
            }
        }
        _ => Err(Fault::new(
            "the template has a value in the place of a function",
        )),
    }
}

fn terms(words: &[String]) -> Result<Vec<Term<'_>>> {
    let (mut terms, mut begin, mut depth) = (vec![], 0, 0);
    for (at, word) in words.iter().enumerate() {
        if word == "(" {
            depth += 1;
            if depth == 1 {
                begin = at + 1;
            }
        } else if let Some(path) = word.strip_prefix(')') {
            depth -= 1;
            if depth == 0 {
                terms.push(Term::Group(&words[begin..at], path));
            }
        } else if depth == 0 {
            terms.push(Term::Word(word));
        }
        if depth < 0 {
            break;
        }
    }
    match depth {
        0 => Ok(terms),
        _ => Err(Fault::new(
            "the template has a ( without a ), or a ) without a (",
        )),
    }
}

fn value(word: &str, scope: &Scope<'_>) -> Result<Value> {
    let unknown = || {
        Fault::new(format!(
            "the template has '{word}', which is not understood"
        ))
    };
    if let Some(text) = word.strip_prefix('"') {
        return Ok(text.into());
    }
    if let Some(path) = word.strip_prefix('.') {
        return field(scope.here, path);
    }
    if word.starts_with('$') {
        let (name, path) = word.split_once('.').unwrap_or((word, ""));
        let mut variables = scope.variables.iter().rev();
        let of = match name {
            "$" => scope.root,
            _ => variables
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value)
                .ok_or_else(unknown)?,
        };
        return field(of, path);
    }
    match word {
        "true" => Ok(true.into()),
        "false" => Ok(false.into()),
        _ => word.parse::<i64>().map(Value::from).map_err(|_| unknown()),
    }
}

/// What is keyed by names that are not ours: a key that is not there is no mistake of the template's.
const MAPS: [&str; 2] = ["Attributes", "Labels"];

/// The value itself if the path is empty.
fn field(of: &Value, path: &str) -> Result<Value> {
    let (mut value, mut parent) = (of, "");
    for name in path.split('.').filter(|name| !name.is_empty()) {
        value = match value {
            Value::Object(fields) if MAPS.contains(&parent) => {
                fields.get(name).unwrap_or(&Value::Null)
            }
            Value::Object(fields) => named(fields, name).ok_or_else(|| {
                let known: Vec<&str> = fields.keys().map(String::as_str).collect();
                Fault::new(format!(
                    "the template has the field {name}, which is not there; there are: {}",
                    known.join(", ")
                ))
            })?,
            _ => return Ok(Value::Null),
        };
        parent = name;
    }
    Ok(value.clone())
}

/// By its name in JSON, or by the one of Docker's source, which its manual has: they differ in case only (`.ID` is `Id` or `id`, `.TimeNano` is
/// `timeNano`).
fn named<'a>(fields: &'a serde_json::Map<String, Value>, name: &str) -> Option<&'a Value> {
    let is_it =
        |(known, value): (&'a String, &'a Value)| known.eq_ignore_ascii_case(name).then_some(value);
    fields.get(name).or_else(|| fields.iter().find_map(is_it))
}
