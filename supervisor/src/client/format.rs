//! `--format`: the part of Go's templates that people use. `{{.Field.Inner}}`, `{{json .Field}}`, `{{index .Labels "name"}}`,
//! `{{range $key, $value := .Map}}...{{end}}`, `{{if eq .Field "x"}}...{{else}}...{{end}}`, some other functions (see [`call`]), and text between
//! them, with `\t` and `\n`. Pure.

use serde_json::Value;

use crate::fault::{Fault, Result};

#[derive(Debug, PartialEq)]
enum Part {
    Text(String),
    Show(Vec<String>),
    /// Over what, with the names of its variables.
    Range(Vec<String>, Vec<String>, Vec<Part>),
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
        let scope = Scope {
            root: to,
            here: to,
            variables: vec![],
        };
        apply(&self.0, &scope, &mut text)?;
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

/// Separated by spaces, outside of quotes; a quoted one keeps its opening quote, and parentheses are words.
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
            ' ' if !quoted => words.push(String::new()),
            '(' | ')' if !quoted => words.extend([character.into(), String::new()]),
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
                let (names, over) = range(&action[1..]);
                parts_so_far.push(Part::Range(over, names, inner));
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

/// `$key, $value := .Map`, `$value := .List` or `.List`: the names, and what it is over.
fn range(words: &[String]) -> (Vec<String>, Vec<String>) {
    let Some(at) = words.iter().position(|word| word == ":=") else {
        return (vec![], words.to_vec());
    };
    let names = words[..at].concat();
    let names = names.split(',').map(str::to_owned);
    (names.collect(), words[at + 1..].to_vec())
}

fn ended(end: Option<&str>) -> Result<()> {
    (end == Some("end"))
        .then_some(())
        .ok_or_else(|| Fault::new("the template lacks an {{end}}"))
}

/// What words may mean.
struct Scope<'a> {
    root: &'a Value,
    here: &'a Value,
    variables: Vec<(&'a str, Value)>,
}

fn apply(parts: &[Part], scope: &Scope<'_>, text: &mut String) -> Result<()> {
    for part in parts {
        match part {
            Part::Text(words) => text.push_str(words),
            Part::Show(words) => text.push_str(&shown(&evaluate(words, scope)?)),
            Part::Range(words, names, inner) => {
                let items: Vec<(Value, Value)> = match evaluate(words, scope)? {
                    Value::Array(items) => {
                        let counted = items.into_iter().enumerate();
                        counted.map(|(at, item)| (at.into(), item)).collect()
                    }
                    Value::Object(items) => items
                        .into_iter()
                        .map(|(name, item)| (name.into(), item))
                        .collect(),
                    _ => vec![],
                };
                for (key, item) in &items {
                    let values = match names.len() {
                        1 => vec![item],
                        _ => vec![key, item],
                    };
                    let named = names.iter().map(String::as_str);
                    let named = named.zip(values.into_iter().cloned());
                    let inside = Scope {
                        root: scope.root,
                        here: item,
                        variables: scope.variables.iter().cloned().chain(named).collect(),
                    };
                    apply(inner, &inside, text)?;
                }
            }
            Part::If(words, then, otherwise) => {
                let parts = if truth(&evaluate(words, scope)?) {
                    then
                } else {
                    otherwise
                };
                apply(parts, scope, text)?;
            }
        }
    }
    Ok(())
}

/// A function or a field, and what it is given.
fn evaluate(words: &[String], scope: &Scope<'_>) -> Result<Value> {
    let terms = terms(words)?;
    let Some((first, rest)) = terms.split_first() else {
        return Ok(Value::Null);
    };
    let one = |term: &&[String]| match term {
        [word] => value(word, scope),
        words => evaluate(words, scope),
    };
    if rest.is_empty() {
        return one(first);
    }
    let given: Vec<Value> = rest.iter().map(one).collect::<Result<_>>()?;
    match first {
        [word] if word.starts_with(['.', '$']) => {
            // Nothing else is called so but `.Label "name"`, which is empty if there is none.
            match item(&value(word, scope)?, &given[0])? {
                Value::Null => Ok(String::new().into()),
                found => Ok(found),
            }
        }
        [word] => call(word, &given),
        _ => Err(Fault::new(
            "the template has ( ) in the place of a function",
        )),
    }
}

/// Words, or what is between parentheses.
fn terms(words: &[String]) -> Result<Vec<&[String]>> {
    let (mut terms, mut begin, mut depth) = (vec![], 0, 0);
    for (at, word) in words.iter().enumerate() {
        match word.as_str() {
            "(" => {
                depth += 1;
                if depth == 1 {
                    begin = at + 1;
                }
            }
            ")" => {
                depth -= 1;
                if depth == 0 {
                    terms.push(&words[begin..at]);
                }
            }
            _ if depth == 0 => terms.push(&words[at..=at]),
            _ => {}
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

fn call(name: &str, given: &[Value]) -> Result<Value> {
    Ok(match (name, given) {
        ("json", [value]) => Value::String(value.to_string()),
        ("len", [value]) => match value {
            Value::Array(items) => items.len().into(),
            Value::Object(items) => items.len().into(),
            Value::String(text) => text.len().into(),
            _ => 0.into(),
        },
        ("upper", [value]) => shown(value).to_uppercase().into(),
        ("lower", [value]) => shown(value).to_lowercase().into(),
        ("not", [value]) => Value::Bool(!truth(value)),
        ("eq", [value, others @ ..]) if !others.is_empty() => Value::Bool(others.contains(value)),
        ("ne", [one, other]) => Value::Bool(one != other),
        ("index", [value, keys @ ..]) => {
            let mut value = value.clone();
            for key in keys {
                value = item(&value, key)?;
            }
            value
        }
        ("slice", [value, bounds @ ..]) if bounds.len() < 3 => slice(value, bounds)?,
        ("split", [Value::String(text), Value::String(by)]) => text.split(by).collect(),
        ("join", [Value::Array(items), Value::String(by)]) => {
            let words: Vec<String> = items.iter().map(shown).collect();
            words.join(by).into()
        }
        ("printf", [Value::String(format), values @ ..]) => printf(format, values)?.into(),
        _ => {
            return Err(Fault::new(format!(
                "the template has '{name}', which is not understood, or not with what it is given"
            )));
        }
    })
}

/// From the first bound to the second.
fn slice(value: &Value, bounds: &[Value]) -> Result<Value> {
    let bound = |at: usize, usual| match bounds.get(at) {
        Some(bound) => bound.as_u64().and_then(|bound| usize::try_from(bound).ok()),
        None => Some(usual),
    };
    let part = match value {
        Value::String(text) => bound(0, 0)
            .zip(bound(1, text.len()))
            .and_then(|(from, to)| text.get(from..to))
            .map(Value::from),
        Value::Array(items) => bound(0, 0)
            .zip(bound(1, items.len()))
            .and_then(|(from, to)| items.get(from..to))
            .map(|items| items.to_vec().into()),
        _ => None,
    };
    part.ok_or_else(|| {
        Fault::new(format!(
            "the template has a slice that is not there: {value}"
        ))
    })
}

/// `%s`, `%v`, `%d`, `%q` and `%t`, with a width.
fn printf(format: &str, values: &[Value]) -> Result<String> {
    let wrong = || {
        Fault::new(format!(
            "the template has the format '{format}', which is not understood, or lacks a value"
        ))
    };
    let (mut text, mut values) = (String::new(), values.iter());
    let mut rest = format.chars().peekable();
    while let Some(character) = rest.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        if rest.next_if_eq(&'%').is_some() {
            text.push('%');
            continue;
        }
        let left = rest.next_if_eq(&'-').is_some();
        let mut width = 0_usize;
        while let Some(digit) = rest.peek().and_then(|it| it.to_digit(10)) {
            rest.next();
            width = (width * 10 + digit as usize).min(1000);
        }
        let value = values.next().ok_or_else(wrong)?;
        let word = match rest.next() {
            Some('s' | 'v' | 'd' | 't') => shown(value),
            Some('q') => Value::String(shown(value)).to_string(),
            _ => return Err(wrong()),
        };
        text += &match left {
            true => format!("{word:<width$}"),
            false => format!("{word:>width$}"),
        };
    }
    Ok(text)
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

/// As Go has it, a map that lacks a key has nothing there, and a list that is too short is an error.
fn item(of: &Value, key: &Value) -> Result<Value> {
    let found = match (of, key) {
        (Value::Object(fields), Value::String(name)) => fields.get(name).or(Some(&Value::Null)),
        (Value::Null, Value::String(_)) => Some(&Value::Null),
        (Value::Array(items), Value::Number(at)) => at
            .as_u64()
            .and_then(|index| items.get(usize::try_from(index).ok()?)),
        _ => None,
    };
    found.cloned().ok_or_else(|| {
        let text = format!("the template has the index {key}, which is not there: {of}");
        Fault::new(text)
    })
}

/// The value itself if the path is empty.
fn field(of: &Value, path: &str) -> Result<Value> {
    let mut value = of;
    for name in path.split('.').filter(|name| !name.is_empty()) {
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
        assert_eq!(
            apply("{{range $k, $v := .Labels}}{{$k}}={{$v}}{{end}}"),
            "x.y=z"
        );
        assert_eq!(
            apply("{{range $at, $word := .Env}}{{$at}}{{$word}};{{end}}"),
            "0A=1;1B=2;"
        );
        assert_eq!(
            apply("{{range $word := .Env}}{{$word}};{{end}}"),
            "A=1;B=2;"
        );
        assert_eq!(apply(r#"{{if eq .ID "x" "abc"}}yes{{end}}"#), "yes");
        assert_eq!(
            apply("{{eq (len .Env) 2}} {{ne .State.Pid 7}}"),
            "true false"
        );
        assert_eq!(apply(r#"{{index (split (index .Env 0) "=") 1}}"#), "1");
        assert_eq!(apply(r#"{{json (index .Labels "x.y")}}"#), r#""z""#);
        assert_eq!(apply("{{slice .ID 1 2}}{{slice .Env 1}}"), "b[B=2]");
        assert_eq!(
            apply(r#"{{printf "%-5s|%3d|%q|%%" .ID .State.Pid .ID}}"#),
            "abc  |  7|\"abc\"|%"
        );
        assert_eq!(apply(r#"{{join .Env ","}}"#), "A=1,B=2");
        assert_eq!(apply(r#"{{.Labels "x.y"}}{{.Labels "none"}}"#), "z");
    }

    #[test]
    fn what_is_wrong_is_told() {
        for template in [
            "{{.Nonsense}}",
            "{{.ID",
            "{{range .Env}}",
            "{{end}}",
            "{{nonsense}}",
            "{{eq .ID}}",
            "{{$nothing}}",
            "{{json (.ID}}",
            "{{slice .ID 2 9}}",
            "{{printf \"%s %s\" .ID}}",
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
