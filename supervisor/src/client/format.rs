//! `--format`: the part of Go's templates that people use. `{{.Field.Inner}}`, `{{json .Field}}`, `{{index .Labels "name"}}`,
//! `{{range .List}}...{{end}}`, `{{if .Field}}...{{else}}...{{end}}`, `{{len .List}}`, `{{upper .X}}`, `{{lower .X}}`, and text between them, with
//! `\t` and `\n`. Pure.

use serde_json::Value;

use crate::fault::{Fault, Result};

#[derive(Debug, PartialEq)]
enum Part {
    Text(String),
    Show(Vec<String>),
    Range(Vec<String>, Vec<Part>),
    If(Vec<String>, Vec<Part>, Vec<Part>),
}

#[derive(Debug)]
pub(super) struct Template(Vec<Part>);

impl Template {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut tokens = tokens(text)?.into_iter();
        let (parts, end) = parts(&mut tokens)?;
        match end {
            None => Ok(Self(parts)),
            Some(word) => Err(Fault::new(format!(
                "the template has {{{{{word}}}}} without a begin"
            ))),
        }
    }

    pub(super) fn apply(&self, to: &Value) -> Result<String> {
        let mut text = String::new();
        apply(&self.0, to, to, &mut text)?;
        Ok(text)
    }
}

enum Token {
    Text(String),
    Action(Vec<String>),
}

fn tokens(text: &str) -> Result<Vec<Token>> {
    let mut tokens = vec![];
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        tokens.push(Token::Text(
            before.replace("\\t", "\t").replace("\\n", "\n"),
        ));
        let (action, behind) = after
            .split_once("}}")
            .ok_or_else(|| Fault::new("the template has {{ without }}"))?;
        let action = action.trim().trim_matches('-').trim();
        tokens.push(Token::Action(words(action)));
        rest = behind;
    }
    tokens.push(Token::Text(rest.replace("\\t", "\t").replace("\\n", "\n")));
    Ok(tokens)
}

/// Separated by spaces, outside of quotes; a quoted one keeps its opening quote.
fn words(action: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for character in action.chars() {
        match character {
            '"' | '`' => {
                if !quoted {
                    words.push("\"".into());
                } else {
                    words.push(String::new());
                }
                quoted = !quoted;
            }
            ' ' | '(' | ')' if !quoted => words.push(String::new()),
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

/// Up to an `end` or `else`, which comes back.
fn parts(tokens: &mut std::vec::IntoIter<Token>) -> Result<(Vec<Part>, Option<String>)> {
    let mut parts_so_far = vec![];
    while let Some(token) = tokens.next() {
        let action = match token {
            Token::Text(text) => {
                parts_so_far.push(Part::Text(text));
                continue;
            }
            Token::Action(action) => action,
        };
        match action.first().map(String::as_str) {
            Some("end" | "else") => return Ok((parts_so_far, action.into_iter().next())),
            Some("range") => {
                let (inner, end) = parts(tokens)?;
                ended(end.as_deref())?;
                parts_so_far.push(Part::Range(action[1..].to_vec(), inner));
            }
            Some("if") => {
                let (then, end) = parts(tokens)?;
                let mut otherwise = vec![];
                if end.as_deref() == Some("else") {
                    let (inner, end) = parts(tokens)?;
                    ended(end.as_deref())?;
                    otherwise = inner;
                } else {
                    ended(end.as_deref())?;
                }
                parts_so_far.push(Part::If(action[1..].to_vec(), then, otherwise));
            }
            _ => parts_so_far.push(Part::Show(action)),
        }
    }
    Ok((parts_so_far, None))
}

fn ended(end: Option<&str>) -> Result<()> {
    (end == Some("end"))
        .then_some(())
        .ok_or_else(|| Fault::new("the template lacks an {{end}}"))
}

fn apply(parts: &[Part], root: &Value, here: &Value, text: &mut String) -> Result<()> {
    for part in parts {
        match part {
            Part::Text(words) => text.push_str(words),
            Part::Show(words) => text.push_str(&shown(&evaluate(words, root, here)?)),
            Part::Range(words, inner) => match evaluate(words, root, here)? {
                Value::Array(items) => items
                    .iter()
                    .try_for_each(|item| apply(inner, root, item, text))?,
                Value::Object(items) => items
                    .values()
                    .try_for_each(|item| apply(inner, root, item, text))?,
                _ => {}
            },
            Part::If(words, then, otherwise) => {
                let parts = if truth(&evaluate(words, root, here)?) {
                    then
                } else {
                    otherwise
                };
                apply(parts, root, here, text)?;
            }
        }
    }
    Ok(())
}

fn evaluate(words: &[String], root: &Value, here: &Value) -> Result<Value> {
    let [first, rest @ ..] = words else {
        return Ok(Value::Null);
    };
    let argument = || evaluate(rest, root, here);
    match first.as_str() {
        "json" => Ok(Value::String(argument()?.to_string())),
        "len" => Ok(match argument()? {
            Value::Array(items) => items.len().into(),
            Value::Object(items) => items.len().into(),
            Value::String(text) => text.len().into(),
            _ => 0.into(),
        }),
        "upper" => Ok(Value::String(shown(&argument()?).to_uppercase())),
        "lower" => Ok(Value::String(shown(&argument()?).to_lowercase())),
        "not" => Ok(Value::Bool(!truth(&argument()?))),
        "index" => {
            let mut value = evaluate(rest.get(..1).unwrap_or_default(), root, here)?;
            for key in rest.iter().skip(1) {
                value = item(&value, key)?;
            }
            Ok(value)
        }
        "." => Ok(here.clone()),
        path => match (path.strip_prefix('.'), path.strip_prefix("$.")) {
            (Some(path), _) => field(here, path),
            (_, Some(path)) => field(root, path),
            _ => match path.strip_prefix('"') {
                Some(text) => Ok(Value::String(text.to_owned())),
                None => Err(Fault::new(format!(
                    "the template has '{path}', which is not understood"
                ))),
            },
        },
    }
}

/// As Go has it, a map that lacks a key has nothing there, and a list that is too short is an error.
fn item(of: &Value, key: &str) -> Result<Value> {
    let found = match (of, key.strip_prefix('"')) {
        (Value::Object(fields), Some(name)) => fields.get(name).or(Some(&Value::Null)),
        (Value::Null, Some(_)) => Some(&Value::Null),
        (Value::Array(items), None) => key.parse().ok().and_then(|index: usize| items.get(index)),
        _ => None,
    };
    found.cloned().ok_or_else(|| {
        let key = key.trim_start_matches('"');
        let text = format!("the template has the index {key}, which is not there: {of}");
        Fault::new(text)
    })
}

fn field(of: &Value, path: &str) -> Result<Value> {
    let mut value = of;
    for name in path.split('.') {
        value = match value {
            Value::Object(fields) => fields.get(name).ok_or_else(|| {
                let known: Vec<&str> = fields.keys().map(String::as_str).collect();
                Fault::new(format!(
                    "the template has the field {name}, which is not there; there are: {}",
                    known.join(", ")
                ))
            })?,
            _ => return Ok(Value::Null),
        };
    }
    Ok(value.clone())
}

fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(items) => !items.is_empty(),
    }
}

/// As Go prints values.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!(
            "[{}]",
            items.iter().map(shown).collect::<Vec<_>>().join(" ")
        ),
        Value::Object(items) => {
            let items: Vec<String> = items
                .iter()
                .map(|(name, value)| format!("{name}:{}", shown(value)))
                .collect();
            format!("map[{}]", items.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn apply(template: &str) -> String {
        let value = json!({ "ID": "abc", "State": { "Pid": 7, "Running": true }, "Env": ["A=1", "B=2"], "Labels": { "x.y": "z" } });
        Template::parse(template)
            .and_then(|template| template.apply(&value))
            .unwrap_or_else(|fault| format!("! {fault}"))
    }

    #[test]
    fn what_people_write() {
        assert_eq!(apply("{{.ID}}\\t{{.State.Pid}}"), "abc\t7");
        assert_eq!(apply("{{json .Env}}"), r#"["A=1","B=2"]"#);
        assert_eq!(apply("{{ .Env }}"), "[A=1 B=2]");
        assert_eq!(apply("{{range .Env}}{{.}};{{end}}"), "A=1;B=2;");
        assert_eq!(apply(r#"{{index .Labels "x.y"}}{{index .Env 1}}"#), "zB=2");
        assert_eq!(apply(r#"{{index .Labels "none"}}"#), "<no value>");
        assert_eq!(apply("{{if .State.Running}}yes{{else}}no{{end}}"), "yes");
        assert_eq!(apply("{{if not .State.Running}}yes{{else}}no{{end}}"), "no");
        assert_eq!(apply("{{len .Env}}{{upper .ID}}"), "2ABC");
        assert_eq!(apply("{{range .Env}}{{$.ID}}{{end}}"), "abcabc");
    }

    #[test]
    fn what_is_wrong_is_told() {
        for template in [
            "{{.Nonsense}}",
            "{{.ID",
            "{{range .Env}}",
            "{{end}}",
            "{{nonsense}}",
            "{{index .Env 2}}",
            "{{index .Env \"a\"}}",
            "{{index .ID 0}}",
            "{{index .ID \"a\"}}",
            "{{index .Labels 0}}",
        ] {
            assert!(apply(template).starts_with("! "), "{template}");
        }
    }
}
