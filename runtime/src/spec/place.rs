//! Where in a document a parser stopped: the path to the field, which serde_json's line and column do not name.
//!
//! Pure, and asked only for a document that was refused. Up to the place the text is valid JSON, or what is wrong with it is the text itself.

/// One level of nesting.
enum Level {
    Object(String),
    Array(usize),
}

/// The path to what ends at this place, like `process.user.uid` or `mounts[2].options`; empty at the top.
pub(super) fn path(text: &[u8], line: usize, column: usize) -> String {
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    let before: usize = lines.take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    let text = &text[..text.len().min(before + column)];
    let mut levels = Vec::new();
    let mut expects_key = false;
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        at += 1;
        match byte {
            b'{' => {
                levels.push(Level::Object(String::new()));
                expects_key = true;
            }
            b'[' => levels.push(Level::Array(0)),
            b'}' | b']' => drop(levels.pop()),
            b':' => expects_key = false,
            b',' => match levels.last_mut() {
                Some(Level::Array(index)) => *index += 1,
                Some(Level::Object(_)) => expects_key = true,
                None => {}
            },
            b'"' => {
                let end = at + string_length(&text[at..]);
                if let Some(Level::Object(key)) = levels.last_mut()
                    && expects_key
                {
                    *key = String::from_utf8_lossy(&text[at..end]).into_owned();
                }
                at = end + 1;
            }
            _ => {}
        }
    }
    let mut path = String::new();
    for level in levels {
        match level {
            Level::Array(index) => path.push_str(&format!("[{index}]")),
            Level::Object(key) if key.is_empty() || path.is_empty() => path.push_str(&key),
            Level::Object(key) => path.push_str(&format!(".{key}")),
        }
    }
    path
}

/// Up to the closing quote.
fn string_length(text: &[u8]) -> usize {
    let mut escaped = false;
    let is_end = |byte: &u8| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    };
    text.iter().position(is_end).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_that_of_the_value_that_ends_there() {
        let text = "{\"a\": {\"b\": [1, {\"c\\\"}\": \"x,]\"}, 7]},\n \"d\": \"}\"}";
        let at = |needle: &str| {
            let end = text.find(needle).unwrap() + needle.len();
            let line = text[..end].matches('\n').count() + 1;
            let begin = text[..end].rfind('\n').map_or(0, |at| at + 1);
            path(text.as_bytes(), line, end - begin)
        };
        assert_eq!(at("{"), "");
        assert_eq!(at("[1"), "a.b[0]");
        assert_eq!(at("x,]\""), "a.b[1].c\\\"}");
        assert_eq!(at("7"), "a.b[2]");
        assert_eq!(at("]}"), "a");
        assert_eq!(at("\"d\": \"}\""), "d");
        assert_eq!(path(b"", 1, 5), "");
        assert_eq!(path(b"{\"open", 9, 5), "open");
    }
}
