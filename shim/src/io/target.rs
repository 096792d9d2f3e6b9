//! What a client may name as a stream: a path, or a URI. Pure.

use std::ffi::OsString;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::log_file;

/// A log's size and number of files if its URI does not say: as much as fits on a small disk, and is worth reading.
const MAX_SIZE: u64 = 10 << 20;
const MAX_FILES: u32 = 5;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A path, or `fifo://` and one.
    Fifo(PathBuf),
    /// `file://`: made if missing, and added to.
    File(PathBuf),
    /// `log://`: a log that we write and rotate; not one of containerd's.
    Log(log_file::Target),
    /// `binary://` and `binary-v2://`: a program that reads the output.
    Logger(Logger),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Logger {
    pub(super) program: PathBuf,
    /// The query, in its order: key, value, key, value.
    pub(super) args: Vec<OsString>,
    /// `binary-v2`: it says that it is ready, so that its end before that can be told from it.
    pub(super) says_ready: bool,
}

impl Target {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let Some((scheme, rest)) = text.split_once("://").filter(|_| !text.starts_with('/')) else {
            return Ok(Self::Fifo(absolute(text, text.as_bytes().to_vec())?));
        };
        let rest = rest
            .split_once('#')
            .map_or(rest, |(before, _fragment)| before);
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        // A host before the path means nothing here; containerd overlooks it too.
        let path = path.find('/').map_or("", |start| &path[start..]);
        let path = absolute(text, decoded(path, false))?;
        match scheme {
            "fifo" => Ok(Self::Fifo(path)),
            "file" => Ok(Self::File(path)),
            "log" => Ok(Self::Log(log_file::Target {
                path,
                max_size: number(text, query, "max-size", MAX_SIZE)?,
                max_files: number(text, query, "max-files", MAX_FILES)?,
            })),
            "binary" | "binary-v2" => Ok(Self::Logger(Logger {
                program: path,
                args: arguments(query),
                says_ready: scheme == "binary-v2",
            })),
            _ => Err(invalid(format!(
                "stream '{text}': unknown scheme '{scheme}'"
            ))),
        }
    }
}

fn absolute(text: &str, path: Vec<u8>) -> Result<PathBuf> {
    if path.first() != Some(&b'/') || path.contains(&0) {
        return Err(invalid(format!("stream '{text}': not an absolute path")));
    }
    Ok(PathBuf::from(OsString::from_vec(path)))
}

/// The query's value of that name.
fn number<T: std::str::FromStr>(text: &str, query: &str, name: &str, default: T) -> Result<T> {
    let mut values = query.split('&').filter_map(|pair| pair.split_once('='));
    let Some((_, value)) = values.rfind(|(key, _)| *key == name) else {
        return Ok(default);
    };
    value
        .parse()
        .map_err(|_| invalid(format!("stream '{text}': {name} is no number")))
}

fn arguments(query: &str) -> Vec<OsString> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .flat_map(|pair| <[&str; 2]>::from(pair.split_once('=').unwrap_or((pair, ""))))
        .map(|word| OsString::from_vec(decoded(word, true)))
        .collect()
}

/// Without its percent signs (RFC 3986, 2.1); in a query `+` is a space. What is no code stays as it is.
fn decoded(text: &str, query: bool) -> Vec<u8> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let mut rest = text.as_bytes();
    let mut bytes = Vec::with_capacity(rest.len());
    while let Some((&first, after)) = rest.split_first() {
        let code = match after {
            &[high, low, ..] if first == b'%' => digit(high).zip(digit(low)),
            _ => None,
        };
        bytes.push(match code {
            Some((high, low)) => high << 4 | low,
            None if query && first == b'+' => b' ',
            None => first,
        });
        rest = if code.is_some() { &after[2..] } else { after };
    }
    bytes
}

fn invalid(text: String) -> Error {
    Error::new(ErrorKind::InvalidInput, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_path_is_a_fifo_as_it_stands() {
        let parse = |text| Target::parse(text).unwrap();
        assert_eq!(parse("/run/a%20b?c"), Target::Fifo("/run/a%20b?c".into()));
        assert_eq!(parse("/run/x://y"), Target::Fifo("/run/x://y".into()));
        assert_eq!(parse("fifo:///run/a%20b"), Target::Fifo("/run/a b".into()));
        assert_eq!(
            parse("file:///var/log/x.log#f"),
            Target::File("/var/log/x.log".into())
        );
    }

    #[test]
    fn a_log_has_limits() {
        let log = |max_size, max_files| {
            let path = "/l".into();
            Target::Log(log_file::Target {
                path,
                max_size,
                max_files,
            })
        };
        assert_eq!(Target::parse("log:///l").unwrap(), log(MAX_SIZE, MAX_FILES));
        assert_eq!(
            Target::parse("log:///l?max-size=7&max-files=2").unwrap(),
            log(7, 2)
        );
        assert!(Target::parse("log:///l?max-size=many").is_err());
    }

    #[test]
    fn a_logger_gets_the_query_as_arguments_in_its_order() {
        let parsed = Target::parse("binary:///bin/log%2Fger?id=a+b&empty&z=%2f%zz%4").unwrap();
        let args = ["id", "a b", "empty", "", "z", "/%zz%4"]
            .map(OsString::from)
            .to_vec();
        assert_eq!(
            parsed,
            Target::Logger(Logger {
                program: "/bin/log/ger".into(),
                args,
                says_ready: false
            })
        );
        let parsed = Target::parse("binary-v2:///l").unwrap();
        assert_eq!(
            parsed,
            Target::Logger(Logger {
                program: "/l".into(),
                args: vec![],
                says_ready: true
            })
        );
    }

    #[test]
    fn what_is_neither_is_refused() {
        for text in [
            "relative",
            "",
            "http://example/x",
            "file://",
            "file://host",
            "binary://?a=b",
            "/nul\0",
        ] {
            assert_eq!(
                Target::parse(text).unwrap_err().kind(),
                ErrorKind::InvalidInput,
                "{text}"
            );
        }
    }
}
