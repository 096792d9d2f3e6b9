//! Values as D-Bus carries them, and how an annotation writes them: in GVariant's text format.
//!
//! Pure. `systemd` makes and parses them for the properties of a unit, `cgroup` puts them on the wire.
//!
//! The format is that of g_variant_parse(), without maybe types, which D-Bus does not have, and with one simplification: an array's
//! first element decides the type of all. Annotations may come from an image, so the depth is limited.

/// A value with its D-Bus type.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Byte(u8),
    Bool(bool),
    Int16(i16),
    Uint16(u16),
    Int32(i32),
    Uint32(u32),
    Int64(i64),
    Uint64(u64),
    Double(f64),
    Text(String),
    ObjectPath(String),
    Signature(String),
    /// `element` is the signature of each item, which an empty array needs.
    Array {
        element: String,
        items: Vec<Value>,
    },
    Struct(Vec<Value>),
    /// One entry of a dictionary, which is an array of them.
    Entry(Box<(Value, Value)>),
    Variant(Box<Value>),
}

/// How deep values may nest; D-Bus has 32 for arrays and for structs.
const MAX_DEPTH: usize = 16;

/// D-Bus's own limit.
const MAX_SIGNATURE: usize = 255;

impl Value {
    pub(crate) fn text(text: impl Into<String>) -> Value {
        Value::Text(text.into())
    }

    /// An array of strings.
    pub(crate) fn texts(texts: impl IntoIterator<Item = String>) -> Value {
        Value::Array {
            element: "s".to_owned(),
            items: texts.into_iter().map(Value::Text).collect(),
        }
    }

    /// An array of bytes.
    pub(crate) fn bytes(bytes: impl IntoIterator<Item = u8>) -> Value {
        Value::Array {
            element: "y".to_owned(),
            items: bytes.into_iter().map(Value::Byte).collect(),
        }
    }

    /// The D-Bus signature.
    pub(crate) fn signature(&self) -> String {
        let simple = match self {
            Value::Byte(_) => "y",
            Value::Bool(_) => "b",
            Value::Int16(_) => "n",
            Value::Uint16(_) => "q",
            Value::Int32(_) => "i",
            Value::Uint32(_) => "u",
            Value::Int64(_) => "x",
            Value::Uint64(_) => "t",
            Value::Double(_) => "d",
            Value::Text(_) => "s",
            Value::ObjectPath(_) => "o",
            Value::Signature(_) => "g",
            Value::Variant(_) => "v",
            Value::Array { element, .. } => return format!("a{element}"),
            Value::Struct(items) => {
                let items: String = items.iter().map(Value::signature).collect();
                return format!("({items})");
            }
            Value::Entry(entry) => {
                return format!("{{{}{}}}", entry.0.signature(), entry.1.signature());
            }
        };
        simple.to_owned()
    }

    /// Parses the text format. The error says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Value, String> {
        let mut parser = Parser { rest: text };
        let value = parser.value(None, 0)?;
        parser.skip_space();
        match parser.rest {
            "" => Ok(value),
            rest => Err(format!("'{rest}' follows the value")),
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    /// The next value, of the `expected` type if there is one.
    fn value(&mut self, expected: Option<&str>, depth: usize) -> Result<Value, String> {
        if depth > MAX_DEPTH {
            return Err(format!("nested more than {MAX_DEPTH} times"));
        }
        self.skip_space();
        let value = match self.peek() {
            None => return Err("a value is missing".to_owned()),
            Some('@') => {
                self.take('@');
                let signature = self.word(|c| !c.is_whitespace());
                if signature.len() > MAX_SIGNATURE || one_type(signature) != Some(signature) {
                    return Err(format!("'{signature}' is not a type"));
                }
                self.value(Some(signature), depth + 1)?
            }
            Some('\'' | '"') => string(self.quoted()?, expected),
            Some('[') => self.array(expected, depth)?,
            Some('(') => self.tuple(expected, depth)?,
            Some('{') => self.dictionary(expected, depth)?,
            Some('<') => {
                self.take('<');
                let inner = self.value(None, depth + 1)?;
                self.require('>')?;
                Value::Variant(Box::new(inner))
            }
            Some('b') if self.rest[1..].starts_with(['\'', '"']) => {
                self.take('b');
                Value::bytes(self.quoted()?.into_bytes().into_iter().chain([0]))
            }
            Some(c) if c.is_ascii_digit() || matches!(c, '+' | '-' | '.') => {
                let word = self.word(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
                number(word, expected)?
            }
            Some(_) => self.keyword(expected, depth)?,
        };
        match expected {
            Some(expected) if value.signature() != expected => Err(format!(
                "a value of type '{}' where one of type '{expected}' is expected",
                value.signature()
            )),
            _ => Ok(value),
        }
    }

    fn keyword(&mut self, expected: Option<&str>, depth: usize) -> Result<Value, String> {
        let signature = match self.word(|c| c.is_ascii_alphanumeric()) {
            "true" => return Ok(Value::Bool(true)),
            "false" => return Ok(Value::Bool(false)),
            word @ ("inf" | "nan") => return number(word, Some(expected.unwrap_or("d"))),
            "boolean" => "b",
            "byte" => "y",
            "int16" => "n",
            "uint16" => "q",
            "int32" => "i",
            "uint32" => "u",
            "int64" => "x",
            "uint64" => "t",
            "double" => "d",
            "string" => "s",
            "objectpath" => "o",
            "signature" => "g",
            "" => return Err(format!("'{}' is not a value", self.rest)),
            word => return Err(format!("'{word}' is not a value")),
        };
        self.value(Some(signature), depth + 1)
    }

    fn array(&mut self, expected: Option<&str>, depth: usize) -> Result<Value, String> {
        let mut element = expected
            .and_then(|e| e.strip_prefix('a'))
            .map(str::to_owned);
        let mut items = Vec::new();
        self.take('[');
        while !self.ends(']', items.is_empty())? {
            let item = self.value(element.as_deref(), depth + 1)?;
            element.get_or_insert_with(|| item.signature());
            items.push(item);
        }
        match element {
            Some(element) => Ok(Value::Array { element, items }),
            None => Err("an empty array needs a type, as in '@as []'".to_owned()),
        }
    }

    fn tuple(&mut self, expected: Option<&str>, depth: usize) -> Result<Value, String> {
        let mut types = expected
            .and_then(|e| e.strip_prefix('(')?.strip_suffix(')'))
            .unwrap_or("");
        let mut items = Vec::new();
        self.take('(');
        while !self.ends(')', items.is_empty())? {
            let first = one_type(types);
            items.push(self.value(first, depth + 1)?);
            types = &types[first.map_or(0, str::len)..];
        }
        if items.is_empty() {
            return Err("D-Bus has no empty tuple".to_owned());
        }
        Ok(Value::Struct(items))
    }

    fn dictionary(&mut self, expected: Option<&str>, depth: usize) -> Result<Value, String> {
        let types = expected.and_then(|e| e.strip_prefix("a{")?.strip_suffix('}'));
        let mut types = types.and_then(|types| {
            let key = one_type(types)?;
            Some((key.to_owned(), types[key.len()..].to_owned()))
        });
        let mut items = Vec::new();
        self.take('{');
        while !self.ends('}', items.is_empty())? {
            let key = self.value(types.as_ref().map(|t| t.0.as_str()), depth + 1)?;
            self.require(':')?;
            let value = self.value(types.as_ref().map(|t| t.1.as_str()), depth + 1)?;
            types.get_or_insert_with(|| (key.signature(), value.signature()));
            items.push(Value::Entry(Box::new((key, value))));
        }
        match types {
            Some((key, value)) => Ok(Value::Array {
                element: format!("{{{key}{value}}}"),
                items,
            }),
            None => Err("an empty dictionary needs a type, as in '@a{sv} {}'".to_owned()),
        }
    }

    /// Whether a list ends here; if not, takes the comma before the next item. One comma may follow the last.
    fn ends(&mut self, end: char, first: bool) -> Result<bool, String> {
        if self.take(end) {
            return Ok(true);
        }
        if !first {
            self.require(',')?;
        }
        Ok(!first && self.take(end))
    }

    fn quoted(&mut self) -> Result<String, String> {
        let unclosed = || "a string has no end".to_owned();
        let mut chars = self.rest.chars();
        let quote = chars.next().ok_or_else(unclosed)?;
        let mut text = String::new();
        loop {
            match chars.next().ok_or_else(unclosed)? {
                c if c == quote => break,
                '\\' => text.push(match chars.next().ok_or_else(unclosed)? {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    'a' => '\x07',
                    'b' => '\x08',
                    'f' => '\x0c',
                    'v' => '\x0b',
                    'u' => hexadecimal(&mut chars, 4)?,
                    'U' => hexadecimal(&mut chars, 8)?,
                    other => other,
                }),
                '\0' => return Err("a string has a NUL".to_owned()),
                c => text.push(c),
            }
        }
        self.rest = chars.as_str();
        Ok(text)
    }

    fn word(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !belongs(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn take(&mut self, wanted: char) -> bool {
        self.skip_space();
        match self.rest.strip_prefix(wanted) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn require(&mut self, wanted: char) -> Result<(), String> {
        match self.take(wanted) {
            true => Ok(()),
            false => Err(format!("no '{wanted}' before '{}'", self.rest)),
        }
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }
}

fn string(text: String, expected: Option<&str>) -> Value {
    match expected {
        Some("o") => Value::ObjectPath(text),
        Some("g") => Value::Signature(text),
        _ => Value::Text(text),
    }
}

fn hexadecimal(chars: &mut std::str::Chars<'_>, count: usize) -> Result<char, String> {
    let digits: String = chars.take(count).collect();
    let number = u32::from_str_radix(&digits, 16).ok();
    let c = number.and_then(char::from_u32).filter(|c| *c != '\0');
    c.ok_or_else(|| format!("'\\u{digits}' is not a character"))
}

fn number(word: &str, expected: Option<&str>) -> Result<Value, String> {
    let wrong = || format!("'{word}' is not a number, or out of range");
    let digits = word.trim_start_matches(['+', '-']);
    let hexadecimal = digits.strip_prefix("0x");
    let looks_real = hexadecimal.is_none() && digits.contains(['.', 'e', 'E']);
    if expected == Some("d") || (expected.is_none() && looks_real) {
        return word.parse().map(Value::Double).map_err(|_| wrong());
    }
    let magnitude = match (hexadecimal, digits.strip_prefix('0')) {
        (Some(digits), _) => i128::from_str_radix(digits, 16),
        (None, Some(digits)) if !digits.is_empty() => i128::from_str_radix(digits, 8),
        _ => digits.parse(),
    };
    let magnitude = magnitude.map_err(|_| wrong())?;
    let whole = if word.starts_with('-') {
        -magnitude
    } else {
        magnitude
    };
    let value = match expected {
        None | Some("i") => whole.try_into().map(Value::Int32).ok(),
        Some("y") => whole.try_into().map(Value::Byte).ok(),
        Some("n") => whole.try_into().map(Value::Int16).ok(),
        Some("q") => whole.try_into().map(Value::Uint16).ok(),
        Some("u") => whole.try_into().map(Value::Uint32).ok(),
        Some("x") => whole.try_into().map(Value::Int64).ok(),
        Some("t") => whole.try_into().map(Value::Uint64).ok(),
        Some(other) => {
            return Err(format!(
                "a number where a value of type '{other}' is expected"
            ));
        }
    };
    value.ok_or_else(wrong)
}

/// The first complete type of a signature.
pub(crate) fn one_type(signature: &str) -> Option<&str> {
    let length = match signature.chars().next()? {
        'a' => 1 + one_type(&signature[1..])?.len(),
        open @ ('(' | '{') => {
            let mut end = 1;
            let close = if open == '(' { ')' } else { '}' };
            while !signature[end..].starts_with(close) {
                end += one_type(&signature[end..])?.len();
            }
            end + 1
        }
        'y' | 'b' | 'n' | 'q' | 'i' | 'u' | 'x' | 't' | 'd' | 's' | 'o' | 'g' | 'v' => 1,
        _ => return None,
    };
    Some(&signature[..length])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_values_have_the_types_that_gvariant_gives_them() {
        for (text, value) in [
            ("true", Value::Bool(true)),
            ("5", Value::Int32(5)),
            ("-0x10", Value::Int32(-16)),
            ("010", Value::Int32(8)),
            ("0", Value::Int32(0)),
            ("2.5", Value::Double(2.5)),
            ("uint64 123456789000", Value::Uint64(123_456_789_000)),
            ("byte 255", Value::Byte(255)),
            ("int64 -1", Value::Int64(-1)),
            ("double 3", Value::Double(3.0)),
            ("@t 7", Value::Uint64(7)),
            ("'it''", Value::Bool(false)),
            ("objectpath '/a/b'", Value::ObjectPath("/a/b".to_owned())),
            (r#" "a 'b'\t\u00e9" "#, Value::text("a 'b'\té")),
            ("b'ab'", Value::bytes(*b"ab\0")),
            ("<@y 1>", Value::Variant(Box::new(Value::Byte(1)))),
        ] {
            match text {
                "'it''" => assert!(Value::parse(text).is_err()),
                _ => assert_eq!(Value::parse(text), Ok(value), "{text}"),
            }
        }
    }

    #[test]
    fn containers_have_the_signature_of_what_is_in_them() {
        for (text, signature) in [
            ("['a.service', 'b.service']", "as"),
            ("@as []", "as"),
            ("[uint64 1, 2,]", "at"),
            ("[('/dev/null', 'rwm')]", "a(ss)"),
            ("(1, 'a', [true])", "(isab)"),
            ("{'a': <1>, 'b': <'x'>}", "a{sv}"),
            ("@a{su} {'a': 1}", "a{su}"),
            ("@(st) ('a', 1)", "(st)"),
        ] {
            let value = Value::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(value.signature(), signature, "{text}");
        }
    }

    #[test]
    fn what_is_not_a_value_is_refused() {
        for text in [
            "",
            "'",
            "[",
            "[]",
            "()",
            "{}",
            "[1, 'a']",
            "uint32 -1",
            "byte 256",
            "nonsense",
            "1 2",
            "@z 1",
            "@as [1]",
            "just 1",
            "5000000000",
            "b",
            "@",
            "@(ss ('a')",
            "uint64 'a'",
            "é",
            "0x",
            "+",
            "@ai",
        ] {
            assert!(Value::parse(text).is_err(), "{text}");
        }
        let deep = "<".repeat(100_000);
        assert!(Value::parse(&deep).unwrap_err().contains("nested"));
        let deep = format!("@{} 1", "a".repeat(100));
        assert!(Value::parse(&deep).is_err());
    }
}
