//! Protocol buffers between JSON and the wire, by a description in their own language. Of that, as much as `protos/cri.proto` has: messages that
//! are not nested, repeated fields, and methods.

use serde_json::{Map, Value};
use std::collections::HashMap;

/// What a description says.
#[derive(Debug, Default)]
pub(crate) struct Schema {
    messages: HashMap<String, Vec<Field>>,
    /// What methods take and give.
    methods: HashMap<String, (String, String)>,
}

#[derive(Debug)]
struct Field {
    name: String,
    number: u64,
    kind: String,
    repeated: bool,
}

impl Schema {
    #[track_caller]
    pub(crate) fn parse(text: &str) -> Schema {
        let mut schema = Schema::default();
        let mut message = String::new();
        for line in text.lines() {
            let words: Vec<&str> = line.trim().trim_end_matches(';').split(' ').collect();
            match words[..] {
                ["message", name, "{"] => {
                    message = name.to_owned();
                    schema.messages.insert(message.clone(), Vec::new());
                }
                ["rpc", method, "returns", ..] => {
                    let (method, takes) = method.split_once('(').expect("rpc NAME(TYPE)");
                    let gives = words[words.len() - 1].trim_matches(['(', ')']);
                    let types = (takes.trim_end_matches(')').to_owned(), gives.to_owned());
                    schema.methods.insert(method.to_owned(), types);
                }
                ["repeated", kind, name, "=", number] => {
                    schema.add(&message, name, number, kind, true)
                }
                [kind, name, "=", number] if kind != "option" => {
                    schema.add(&message, name, number, kind, false);
                }
                _ => {}
            }
        }
        schema
    }

    #[track_caller]
    fn add(&mut self, message: &str, name: &str, number: &str, kind: &str, repeated: bool) {
        let field = Field {
            name: name.to_owned(),
            number: number.parse().expect("a field's number"),
            kind: kind.to_owned(),
            repeated,
        };
        self.messages
            .get_mut(message)
            .expect("a field of a message")
            .push(field);
    }

    /// The types that a method takes and gives.
    #[track_caller]
    pub(crate) fn method(&self, name: &str) -> (&str, &str) {
        let types = self.methods.get(name);
        let (takes, gives) = types.unwrap_or_else(|| panic!("no method {name}"));
        (takes, gives)
    }

    #[track_caller]
    fn fields(&self, message: &str) -> &[Field] {
        let fields = self.messages.get(message);
        fields.unwrap_or_else(|| panic!("no message {message}"))
    }

    #[track_caller]
    pub(crate) fn encode(&self, message: &str, value: &Value) -> Vec<u8> {
        let mut bytes = Vec::new();
        let Value::Object(object) = value else {
            panic!("no {message}: {value}");
        };
        for (name, value) in object {
            let field = self
                .fields(message)
                .iter()
                .find(|field| field.name == *name);
            let field = field.unwrap_or_else(|| panic!("{message} has no {name}"));
            match value {
                Value::Array(values) if field.repeated => {
                    for value in values {
                        self.encode_field(field, value, &mut bytes);
                    }
                }
                value => self.encode_field(field, value, &mut bytes),
            }
        }
        bytes
    }

    #[track_caller]
    fn encode_field(&self, field: &Field, value: &Value, bytes: &mut Vec<u8>) {
        let number = match value {
            Value::Bool(on) => u64::from(*on),
            Value::Number(number) => {
                let signed = number.as_i64().map(i64::cast_unsigned);
                signed.or(number.as_u64()).expect("a whole number")
            }
            other => {
                let content = match other {
                    Value::String(text) => text.clone().into_bytes(),
                    message => self.encode(&field.kind, message),
                };
                varint(field.number << 3 | 2, bytes);
                varint(content.len() as u64, bytes);
                bytes.extend_from_slice(&content);
                return;
            }
        };
        varint(field.number << 3, bytes);
        varint(number, bytes);
    }

    /// What the description does not know is left out.
    #[track_caller]
    pub(crate) fn decode(&self, message: &str, mut bytes: &[u8]) -> Value {
        let fields = self.fields(message);
        let mut object = Map::new();
        while !bytes.is_empty() {
            let key = take_varint(&mut bytes);
            let field = fields.iter().find(|field| field.number == key >> 3);
            let value = match key & 7 {
                0 => {
                    let number = take_varint(&mut bytes);
                    match field.map(|field| &*field.kind) {
                        Some("bool") => Value::Bool(number != 0),
                        Some("uint64") => number.into(),
                        _ => number.cast_signed().into(),
                    }
                }
                2 => {
                    let length = take_varint(&mut bytes) as usize;
                    let content = take(&mut bytes, length);
                    match field {
                        Some(field) if self.messages.contains_key(&field.kind) => {
                            self.decode(&field.kind, content)
                        }
                        _ => String::from_utf8_lossy(content).into(),
                    }
                }
                other => panic!("{message}: wire type {other}"),
            };
            match field {
                Some(field) if field.repeated => {
                    let list = object
                        .entry(&field.name)
                        .or_insert_with(|| Value::Array(Vec::new()));
                    list.as_array_mut().expect("made as a list").push(value);
                }
                Some(field) => {
                    object.insert(field.name.clone(), value);
                }
                None => {}
            }
        }
        Value::Object(object)
    }
}

fn varint(mut number: u64, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

#[track_caller]
fn take_varint(bytes: &mut &[u8]) -> u64 {
    let (mut number, mut shift) = (0, 0);
    loop {
        let byte = take(bytes, 1)[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return number;
        }
        shift += 7;
    }
}

#[track_caller]
fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at_checked(count).expect("a whole message");
    *bytes = rest;
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const DESCRIPTION: &str = "message Pair {\n  string name = 1;\n  int64 size = 2;\n}\n\n// More.\nmessage All {\n  bool on = 1;\n  repeated Pair pairs = 16;\n}\n\nservice Some {\n  rpc Do(All) returns (stream Pair);\n}\n";

    #[test]
    fn what_is_written_is_what_protocol_buffers_say_and_can_be_read_again() {
        let schema = Schema::parse(DESCRIPTION);
        let value = json!({ "on": true, "pairs": [{ "name": "x", "size": 300 }, { "size": -1 }] });
        let bytes = schema.encode("All", &value);
        let pair = [0x82, 1, 6, 0x0a, 1, b'x', 0x10, 0xac, 2];
        assert_eq!(bytes[..11], [&[0x08, 1][..], &pair].concat());
        assert_eq!(schema.decode("All", &bytes), value);
    }

    #[test]
    fn fields_that_are_not_described_are_left_out() {
        let schema = Schema::parse(DESCRIPTION);
        let bytes = [0x1a, 1, b'?', 0x08, 1, 0x20, 7];
        assert_eq!(schema.decode("All", &bytes), json!({ "on": true }));
    }

    #[test]
    fn methods_have_types() {
        assert_eq!(Schema::parse(DESCRIPTION).method("Do"), ("All", "Pair"));
    }
}
