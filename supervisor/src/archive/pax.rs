//! PAX records: `LENGTH KEY=VALUE\n`, of POSIX's pax(1). Pure. What is malformed is refused, not passed over.

use anyhow::{Context, Result, bail, ensure};

use super::sparse::{self, Segment};

#[derive(Default)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Sparse,
}

/// What GNU tar says about files with holes, in its formats 0.0, 0.1 and 1.0.
#[derive(Default)]
pub(super) struct Sparse {
    pub(super) major: Option<u64>,
    pub(super) size: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) segments: Option<Vec<Segment>>,
    /// Of format 0.0: the offset whose length is yet to come.
    offset: Option<u64>,
}

impl Records {
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self> {
        let mut records = Self::default();
        while !bytes.is_empty() {
            let (key, value, rest) = record(bytes).context("a malformed PAX record")?;
            records
                .take(key, value)
                .with_context(|| format!("the PAX record '{}'", String::from_utf8_lossy(key)))?;
            bytes = rest;
        }
        Ok(records)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        // An empty value takes back what was said.
        let bytes = || (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = bytes(),
            b"linkpath" => self.link = bytes(),
            b"size" => self.size = Some(number(value)?),
            b"uid" => self.uid = Some(number(value)?),
            b"gid" => self.gid = Some(number(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            b"GNU.sparse.major" => self.sparse.major = Some(number(value)?),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.size = Some(number(value)?),
            b"GNU.sparse.name" => self.sparse.name = bytes(),
            b"GNU.sparse.map" => self.sparse.segments = Some(sparse::map(value)?),
            b"GNU.sparse.offset" => self.sparse.offset = Some(number(value)?),
            b"GNU.sparse.numbytes" => {
                let offset = self
                    .sparse
                    .offset
                    .take()
                    .context("a length without an offset")?;
                let segments = self.sparse.segments.get_or_insert_default();
                sparse::push(segments, offset, number(value)?)?;
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    ensure!(
                        !name.is_empty() && !name.contains(&0),
                        "an attribute without a name"
                    );
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// Key, value, and what follows.
fn record(bytes: &[u8]) -> Result<(&[u8], &[u8], &[u8])> {
    let space = bytes
        .iter()
        .take(20)
        .position(|byte| *byte == b' ')
        .context("without a length")?;
    let length = usize::try_from(number(&bytes[..space])?)?;
    ensure!(
        length > space + 1 && length <= bytes.len(),
        "with a wrong length"
    );
    let (record, rest) = bytes.split_at(length);
    let Some((b'\n', record)) = record[space + 1..].split_last() else {
        bail!("without an end");
    };
    let equals = record
        .iter()
        .position(|byte| *byte == b'=')
        .context("without a value")?;
    ensure!(equals > 0, "without a key");
    Ok((&record[..equals], &record[equals + 1..], rest))
}

pub(super) fn number(text: &[u8]) -> Result<u64> {
    ensure!(
        !text.is_empty() && text.iter().all(u8::is_ascii_digit),
        "'{}' is no number",
        String::from_utf8_lossy(text)
    );
    Ok(std::str::from_utf8(text)?.parse()?)
}

/// Seconds with a fraction; before 1970 they are negative.
fn time(text: &[u8]) -> Result<(i64, u32)> {
    let text = std::str::from_utf8(text)?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let (negative, digits) = match whole.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, whole),
    };
    let seconds = i64::try_from(number(digits.as_bytes())?)?;
    ensure!(
        fraction.bytes().all(|byte| byte.is_ascii_digit()),
        "'{text}' is no time"
    );
    let nanoseconds: u32 = format!("{fraction:0<9.9}").parse()?;
    Ok(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_fractions_and_may_be_negative() {
        for (text, expected) in [
            ("1", (1, 0)),
            ("1.5", (1, 500_000_000)),
            ("1.0000000019", (1, 1)),
            ("-1.25", (-2, 750_000_000)),
            ("-3", (-3, 0)),
        ] {
            assert_eq!(time(text.as_bytes()).unwrap(), expected, "{text}");
        }
        for text in ["", "-", "1.x", "1e3", "--1", "+1", "99999999999999999999"] {
            assert!(time(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn records_are_read_and_what_is_malformed_is_refused() {
        let records = Records::parse(b"9 path=a\n30 SCHILY.xattr.user.x=\0binary\n12 size=100\n");
        assert!(records.is_err(), "a wrong length is refused");
        let records =
            Records::parse(b"9 path=a\n28 SCHILY.xattr.user.x=a\nb=\n12 size=100\n").unwrap();
        assert_eq!(records.path.as_deref(), Some(&b"a"[..]));
        assert_eq!(records.size, Some(100));
        assert_eq!(records.xattrs, [(b"user.x".to_vec(), b"a\nb=".to_vec())]);
        for bytes in [
            "x",
            "9 path=a",
            "5 =a\n",
            "4 a\n",
            "99 path=a\n",
            "0 \n",
            "11 size=-1\n",
            "18446744073709551616 a=b\n",
        ] {
            assert!(Records::parse(bytes.as_bytes()).is_err(), "{bytes:?}");
        }
    }
}
