//! Messages of D-Bus as bytes: calls that are sent, and what comes back.
//!
//! Of the wire format (D-Bus specification, "Message Protocol") this writes method calls with any arguments, and reads headers and
//! those few types that systemd's manager answers with. Both sides are on this machine, so the byte order is its own.

use crate::plan::variant::{Value, one_type};

const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

const ORDER: u8 = if cfg!(target_endian = "little") {
    b'l'
} else {
    b'B'
};

/// The header before the array of fields, with the length of that array: enough to know how long the message is.
pub(super) const START: usize = 16;

/// systemd's answers have some hundred bytes; D-Bus allows 128 MiB.
const MOST: usize = 1 << 24;

/// A method call.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
    pub(super) arguments: &'a [Value],
}

/// What came.
#[derive(Debug)]
pub(super) struct Message {
    kind: u8,
    reply_serial: u32,
    interface: String,
    member: String,
    error_name: String,
    body: Reader,
}

/// What a message is for us.
#[derive(Debug)]
pub(super) enum Meaning {
    /// The answer to the call with this number.
    Reply { serial: u32, body: Reader },
    /// The refusal of the call with this number.
    Refusal {
        serial: u32,
        name: String,
        text: String,
    },
    Signal {
        interface: String,
        member: String,
        body: Reader,
    },
    /// Calls of methods that we do not have.
    Other,
}

impl Call<'_> {
    pub(super) fn encode(&self, serial: u32) -> Vec<u8> {
        let mut body = Writer::default();
        self.arguments.iter().for_each(|value| body.value(value));
        let signature: String = self.arguments.iter().map(Value::signature).collect();

        let field =
            |code, value| Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))]);
        let mut fields = vec![
            field(1, Value::ObjectPath(self.path.to_owned())),
            field(2, Value::text(self.interface)),
            field(3, Value::text(self.member)),
            field(6, Value::text(self.destination)),
        ];
        if !signature.is_empty() {
            fields.push(field(8, Value::Signature(signature)));
        }
        let mut message = Writer {
            bytes: vec![ORDER, 1, 0, 1],
        };
        message.u32(body.bytes.len() as u32);
        message.u32(serial);
        message.value(&Value::Array {
            element: "(yv)".to_owned(),
            items: fields,
        });
        message.align(8);
        message.bytes.extend(body.bytes);
        message.bytes
    }
}

#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Positions count from the start of the message; a body starts at a multiple of 8.
    fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    fn fixed<const N: usize>(&mut self, bytes: [u8; N]) {
        self.align(N);
        self.bytes.extend(bytes);
    }

    fn u32(&mut self, number: u32) {
        self.fixed(number.to_ne_bytes());
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Byte(n) => self.bytes.push(*n),
            Value::Bool(b) => self.u32(u32::from(*b)),
            Value::Int16(n) => self.fixed(n.to_ne_bytes()),
            Value::Uint16(n) => self.fixed(n.to_ne_bytes()),
            Value::Int32(n) => self.fixed(n.to_ne_bytes()),
            Value::Uint32(n) => self.u32(*n),
            Value::Int64(n) => self.fixed(n.to_ne_bytes()),
            Value::Uint64(n) => self.fixed(n.to_ne_bytes()),
            Value::Double(n) => self.fixed(n.to_ne_bytes()),
            Value::Text(text) | Value::ObjectPath(text) => {
                self.u32(text.len() as u32);
                self.bytes.extend(text.bytes().chain([0]));
            }
            Value::Signature(text) => self.signature(text),
            Value::Variant(inner) => {
                self.signature(&inner.signature());
                self.value(inner);
            }
            Value::Struct(items) => {
                self.align(8);
                items.iter().for_each(|item| self.value(item));
            }
            Value::Entry(entry) => {
                self.align(8);
                self.value(&entry.0);
                self.value(&entry.1);
            }
            Value::Array { element, items } => {
                self.u32(0);
                let length_at = self.bytes.len() - 4;
                // Also where there are no items, and not part of the length.
                self.align(alignment(element));
                let start = self.bytes.len();
                items.iter().for_each(|item| self.value(item));
                let length = (self.bytes.len() - start) as u32;
                self.bytes[length_at..length_at + 4].copy_from_slice(&length.to_ne_bytes());
            }
        }
    }

    fn signature(&mut self, text: &str) {
        self.bytes.push(text.len() as u8);
        self.bytes.extend(text.bytes().chain([0]));
    }
}

fn alignment(signature: &str) -> usize {
    match signature.as_bytes().first() {
        Some(b'n' | b'q') => 2,
        Some(b'b' | b'i' | b'u' | b's' | b'o' | b'a') => 4,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => 8,
        _ => 1,
    }
}

/// How long the message is that starts like this. None: it is not one that we can read.
pub(super) fn length(start: &[u8; START]) -> Option<usize> {
    let word =
        |at: usize| Some(u32::from_ne_bytes(start.get(at..at + 4)?.try_into().ok()?) as usize);
    let (body, fields) = (word(4)?, word(12)?);
    let whole = (START + fields).next_multiple_of(8).checked_add(body)?;
    (start[0] == ORDER && start[3] == 1 && whole <= MOST).then_some(whole)
}

impl Message {
    /// Reads a whole message. None: it is malformed.
    pub(super) fn decode(bytes: Vec<u8>) -> Option<Message> {
        let mut header = Reader { bytes, at: 12 };
        let kind = *header.bytes.get(1)?;
        let end = START + header.u32()? as usize;
        let mut message = Message {
            kind,
            reply_serial: 0,
            interface: String::new(),
            member: String::new(),
            error_name: String::new(),
            body: Reader::default(),
        };
        while header.at < end {
            header.align(8);
            let code = header.byte()?;
            let signature = header.signature()?;
            match (code, signature.as_str()) {
                (2, "s") => message.interface = header.text()?,
                (3, "s") => message.member = header.text()?,
                (4, "s") => message.error_name = header.text()?,
                (5, "u") => message.reply_serial = header.u32()?,
                (_, "s" | "o") => drop(header.text()?),
                (_, "u") => drop(header.u32()?),
                (_, "g") => drop(header.signature()?),
                _ => return None,
            }
        }
        header.align(8);
        message.body = Reader {
            bytes: header.bytes.get(header.at..)?.to_vec(),
            at: 0,
        };
        Some(message)
    }

    pub(super) fn meaning(mut self) -> Meaning {
        match self.kind {
            METHOD_RETURN => Meaning::Reply {
                serial: self.reply_serial,
                body: self.body,
            },
            ERROR => Meaning::Refusal {
                serial: self.reply_serial,
                name: self.error_name,
                // By convention the first argument, but nothing has to be there.
                text: self.body.text().unwrap_or_default(),
            },
            SIGNAL => Meaning::Signal {
                interface: self.interface,
                member: self.member,
                body: self.body,
            },
            _ => Meaning::Other,
        }
    }
}

/// Arguments, to be taken one by one. None where there is nothing of that type.
#[derive(Debug, Default)]
pub(super) struct Reader {
    bytes: Vec<u8>,
    at: usize,
}

impl Reader {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.align(4);
        Some(u32::from_ne_bytes(self.take(4)?.try_into().ok()?))
    }

    /// A string or an object path.
    pub(super) fn text(&mut self) -> Option<String> {
        let length = self.u32()? as usize;
        self.nul_terminated(length)
    }

    /// A variant that holds a string.
    pub(super) fn text_variant(&mut self) -> Option<String> {
        (self.signature()? == "s").then(|| self.text())?
    }

    fn signature(&mut self) -> Option<String> {
        let length = self.byte()?.into();
        let text = self.nul_terminated(length)?;
        (one_type(&text).is_some() || text.is_empty()).then_some(text)
    }

    fn nul_terminated(&mut self, length: usize) -> Option<String> {
        let bytes = self.take(length.checked_add(1)?)?;
        String::from_utf8(bytes.strip_suffix(&[0])?.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(arguments: &[Value]) -> Vec<u8> {
        Call {
            destination: "org.d",
            path: "/p",
            interface: "org.i",
            member: "Member",
            arguments,
        }
        .encode(7)
    }

    #[test]
    fn a_call_is_laid_out_as_the_specification_says() {
        let bytes = call(&[Value::text("ab"), Value::Uint64(5)]);
        assert_eq!(bytes.len() % 8, 0);
        let start: &[u8; START] = bytes.first_chunk().unwrap();
        assert_eq!(length(start), Some(bytes.len()));
        let body = &bytes[bytes.len() - 16..];
        assert_eq!(&body[4..8], b"ab\0\0");
        assert_eq!(body[..4], 2u32.to_ne_bytes());
        assert_eq!(body[8..], 5u64.to_ne_bytes());
        assert_eq!(bytes[4..8], 16u32.to_ne_bytes());
        assert_eq!(bytes[8..12], 7u32.to_ne_bytes());
    }

    #[test]
    fn an_arrays_length_does_not_count_what_aligns_its_first_item() {
        let mut writer = Writer::default();
        writer.value(&Value::Array {
            element: "t".to_owned(),
            items: vec![Value::Uint64(1)],
        });
        assert_eq!(writer.bytes.len(), 16);
        assert_eq!(writer.bytes[..4], 8u32.to_ne_bytes());
        let mut writer = Writer::default();
        writer.value(&Value::Array {
            element: "(sv)".to_owned(),
            items: Vec::new(),
        });
        assert_eq!(writer.bytes, [0; 8]);
    }

    #[test]
    fn what_was_written_is_read_again() {
        // Calls and signals differ by one byte only.
        let mut bytes = call(&[
            Value::Uint32(9),
            Value::ObjectPath("/job/9".to_owned()),
            Value::text("a.scope"),
            Value::Variant(Box::new(Value::text("done"))),
        ]);
        bytes[1] = SIGNAL;
        let Meaning::Signal {
            interface,
            member,
            mut body,
        } = Message::decode(bytes).unwrap().meaning()
        else {
            panic!("no signal")
        };
        assert_eq!((interface.as_str(), member.as_str()), ("org.i", "Member"));
        assert_eq!(body.u32(), Some(9));
        assert_eq!(body.text().as_deref(), Some("/job/9"));
        assert_eq!(body.text().as_deref(), Some("a.scope"));
        assert_eq!(body.text_variant().as_deref(), Some("done"));
        assert_eq!(body.text(), None);
    }

    #[test]
    fn damaged_messages_are_refused() {
        let good = call(&[Value::text("ab")]);
        for cut in START..good.len() - 8 {
            if let Some(message) = Message::decode(good[..cut].to_vec()) {
                assert!(message.body.bytes.len() < 8, "{cut}");
            }
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0xff;
            // Whatever it is taken for, reading it does not panic.
            if let Some(message) = Message::decode(bad) {
                drop(message.meaning());
            }
        }
        let mut foreign: [u8; START] = *good.first_chunk().unwrap();
        foreign[0] = b'?';
        assert_eq!(length(&foreign), None);
        let mut long: [u8; START] = *good.first_chunk().unwrap();
        long[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(length(&long), None);
    }
}
