//! Which field of a JSON document a parser's error is about: serde_json says only how far it came.
//!
//! Pure. Called when parsing has failed already, so that it costs nothing otherwise.

use std::fmt::Write;

/// A container of JSON that is open where the parser stopped, and what of it was being read.
enum Open {
    Object(Option<String>),
    Array(Option<usize>),
}

/// The path of the field, as `process.rlimits[0].soft`; empty for the document itself and for what is no JSON.
pub(super) fn at(text: &[u8], error: &serde_json::Error) -> String {
    if serde_json::from_slice::<serde::de::IgnoredAny>(text).is_err() {
        return String::new();
    }
    let mut path = path_before(text, offset(text, error.line(), error.column()));
    // Of a field that is missing there is no place, only its name, which serde tells in words alone.
    let told = error.to_string();
    let missing = told.strip_prefix("missing field `");
    if let Some((name, _)) = missing.and_then(|rest| rest.split_once('`')) {
        push_key(&mut path, name);
    }
    path
}

/// How many bytes precede a place that serde_json names.
fn offset(text: &[u8], line: usize, column: usize) -> usize {
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    let before: usize = lines.take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    (before + column).min(text.len())
}

/// The path of the value that ends at `end`, or of the container that has begun there.
pub(super) fn path_before(text: &[u8], end: usize) -> String {
    let mut open: Vec<Open> = Vec::new();
    let mut at = 0;
    while at < end {
        match text[at] {
            b'}' | b']' => drop(open.pop()),
            b',' => match open.last_mut() {
                Some(Open::Object(key)) => *key = None,
                Some(Open::Array(index)) => *index = index.map(|index| index + 1),
                None => {}
            },
            byte if byte.is_ascii_whitespace() || byte == b':' => {}
            byte => {
                if let Some(Open::Array(index @ None)) = open.last_mut() {
                    *index = Some(0);
                }
                match byte {
                    b'{' => open.push(Open::Object(None)),
                    b'[' => open.push(Open::Array(None)),
                    b'"' => {
                        let length = string_length(&text[at..]);
                        if let Some(Open::Object(key @ None)) = open.last_mut() {
                            *key = serde_json::from_slice(&text[at..at + length]).ok();
                        }
                        at += length - 1;
                    }
                    _ => {}
                }
            }
        }
        at += 1;
    }
    let mut path = String::new();
    for part in &open {
        match part {
            Open::Object(Some(key)) => push_key(&mut path, key),
            // Writing to a String cannot fail.
            Open::Array(Some(index)) => write!(path, "[{index}]").unwrap_or_default(),
            _ => {}
        }
    }
    path
}

/// The length of the string at the start of `text`, with both quotes.
pub(super) fn string_length(text: &[u8]) -> usize {
    let mut escaped = false;
    let end = text.iter().skip(1).position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |end| end + 2)
}

fn push_key(path: &mut String, key: &str) {
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    match (plain, path.is_empty()) {
        (true, true) => path.push_str(key),
        (true, false) => path.extend([".", key]),
        // Writing to a String cannot fail.
        (false, _) => write!(path, "[{key:?}]").unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::Spec;

    fn field(text: &str) -> String {
        let error = serde_json::from_str::<Spec>(text).unwrap_err();
        super::at(text.as_bytes(), &error)
    }

    #[test]
    fn an_error_is_traced_to_its_field() {
        for (text, path) in [
            (r#"{"ociVersion":1}"#, "ociVersion"),
            (r#"{"mounts":[{"type":"a"}]}"#, "mounts[0].destination"),
            (
                r#"{"linux":{"namespaces":[{"type":1}]}}"#,
                "linux.namespaces[0].type",
            ),
            (
                r#"{"ociVersion":"1.0.0","process":{"user":{"uid":"0"},"cwd":"/"}}"#,
                "process.user.uid",
            ),
            (
                r#"{"ociVersion":"1.0.0","process":{"user":{},"args":["a"]}}"#,
                "process.cwd",
            ),
            (
                r#"{"ociVersion":"1.0.0","mounts":[{"destination":"/a"},{"destination":[]}]}"#,
                "mounts[1].destination",
            ),
            (r#"{"ociVersion":"1.0.0","mounts":{}}"#, "mounts"),
            (
                r#"{"ociVersion":"1.0.0","linux":{"sysctl":{"net.a\"b":1}}}"#,
                r#"linux.sysctl["net.a\"b"]"#,
            ),
            (
                "{\"ociVersion\":\"1.0.0\",\n \"process\": {\"cwd\":\"/\",\"user\":{},\n  \"env\": [\"A=b\", 1]}}",
                "process.env[1]",
            ),
            ("{", ""),
        ] {
            assert_eq!(field(text), path, "{text}");
        }
    }
}
