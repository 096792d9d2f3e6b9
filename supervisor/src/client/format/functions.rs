//! The functions of templates, and values as Go has them. Pure.

use std::cmp::Ordering;

use serde_json::Value;

use crate::fault::{Fault, Result};

/// What a function makes of what it is given.
pub(super) fn call(name: &str, given: &[Value]) -> Result<Value> {
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
        ("println", values) => (print(values) + "\n").into(),
        ("print", values) => print(values).into(),
        ("truncate", [value, Value::Number(most)]) => {
            let most = most.as_u64().and_then(|most| usize::try_from(most).ok());
            let text = shown(value);
            text.chars()
                .take(most.unwrap_or(usize::MAX))
                .collect::<String>()
                .into()
        }
        ("and", values) if !values.is_empty() => first(values, |value| !truth(value)),
        ("or", values) if !values.is_empty() => first(values, truth),
        ("lt", [one, other]) => Value::Bool(order(one, other)?.is_lt()),
        ("le", [one, other]) => Value::Bool(order(one, other)?.is_le()),
        ("gt", [one, other]) => Value::Bool(order(one, other)?.is_gt()),
        ("ge", [one, other]) => Value::Bool(order(one, other)?.is_ge()),
        ("not", [value]) => Value::Bool(!truth(value)),
        ("eq", [value, others @ ..]) if !others.is_empty() => Value::Bool(others.contains(value)),
        ("ne", [one, other]) => Value::Bool(one != other),
        ("index", [value, keys @ ..]) => {
            let mut value = value.clone();
            for key in keys {
                value = match item(&value, key)? {
                    // Of a map of texts, as labels are: the text that Go has for nothing.
                    Value::Null if value.as_object().is_some_and(is_of_texts) => "".into(),
                    item => item,
                };
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

fn print(values: &[Value]) -> String {
    let words: Vec<String> = values.iter().map(shown).collect();
    words.join(" ")
}

/// The first that is so, or the last.
fn first(values: &[Value], is_so: impl Fn(&Value) -> bool) -> Value {
    let found = values.iter().find(|value| is_so(value));
    found.or(values.last()).cloned().unwrap_or_default()
}

fn order(one: &Value, other: &Value) -> Result<Ordering> {
    let order = match (one, other) {
        (Value::Number(one), Value::Number(other)) => one
            .as_f64()
            .and_then(|one| one.partial_cmp(&other.as_f64()?)),
        (Value::String(one), Value::String(other)) => Some(one.cmp(other)),
        _ => None,
    };
    order.ok_or_else(|| {
        Fault::new(format!(
            "the template compares what has no order: {one}, {other}"
        ))
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

/// As Go has it, a map that lacks a key has nothing there, and a list that is too short is an error.
fn is_of_texts(map: &serde_json::Map<String, Value>) -> bool {
    map.values().all(Value::is_string)
}

pub(super) fn item(of: &Value, key: &Value) -> Result<Value> {
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

pub(super) fn truth(value: &Value) -> bool {
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
pub(super) fn shown(value: &Value) -> String {
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
