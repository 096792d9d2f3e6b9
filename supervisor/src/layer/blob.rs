//! A blob's bytes, decompressed: gzip, zstd (of several frames too, and with skippable ones), or neither, by the bytes it begins with.
//!
//! Runs in the confined process, and in the daemon for archives that are compressed as a whole.

use std::io::{self, BufReader, Read};

/// What is allowed whatever the ratio: a small layer of zeros is no attack.
const FREE: u64 = 1 << 30;
/// Real layers are below 20; gzip reaches 1000, zstd far more.
const RATIO: u64 = 200;
/// Of one layer, or one archive.
pub(crate) const TOTAL: u64 = 256 << 30;
const BUFFER: usize = 128 << 10;

/// So much is looked at to find out what it is.
const AHEAD: usize = 10;
type Is = fn(&[u8]) -> bool;
/// What may be meant and cannot be read, by its first bytes.
const UNSUPPORTED: [(&str, Is); 2] = [
    ("xz", |start| start.starts_with(b"\xfd7zXZ\0")),
    // With its first block: a file may be called so.
    ("bzip2", |start| {
        start.starts_with(b"BZh") && start.ends_with(b"1AY&SY")
    }),
];

/// Reads what comes out, as long as it is in proportion to what went in.
pub(crate) struct Decompressed<R: Read> {
    decoder: Decoder<R>,
    produced: u64,
}

enum Decoder<R: Read> {
    Plain(Counted<R>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<BufReader<Counted<R>>>>),
    Zstd(Box<zstd::Decoder<'static, BufReader<Counted<R>>>>),
}

/// A reader that gives back what was read ahead, and counts.
struct Counted<R> {
    ahead: io::Cursor<Vec<u8>>,
    inner: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut count = self.ahead.read(buffer)?;
        if count == 0 {
            count = self.inner.read(buffer)?;
        }
        self.count += count as u64;
        Ok(count)
    }
}

impl<R: Read> Decompressed<R> {
    pub(crate) fn new(mut inner: R) -> io::Result<Self> {
        let mut ahead = Vec::with_capacity(AHEAD);
        (&mut inner).take(AHEAD as u64).read_to_end(&mut ahead)?;
        if let Some((name, _)) = UNSUPPORTED.iter().find(|(_, is)| is(&ahead)) {
            let message = format!("it is compressed with {name}, which is not supported");
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
        let kind = Compression::of(&ahead);
        let counted = Counted {
            ahead: io::Cursor::new(ahead),
            inner,
            count: 0,
        };
        let buffered = |counted| BufReader::with_capacity(BUFFER, counted);
        let decoder = match kind {
            Compression::None => Decoder::Plain(counted),
            Compression::Gzip => Decoder::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(
                buffered(counted),
            ))),
            Compression::Zstd => {
                Decoder::Zstd(Box::new(zstd::Decoder::with_buffer(buffered(counted))?))
            }
        };
        Ok(Self {
            decoder,
            produced: 0,
        })
    }

    /// How many bytes of the blob were used.
    pub(crate) fn consumed(&self) -> u64 {
        match &self.decoder {
            Decoder::Plain(counted) => counted.count,
            Decoder::Gzip(decoder) => decoder.get_ref().get_ref().count,
            Decoder::Zstd(decoder) => decoder.get_ref().get_ref().count,
        }
    }
}

impl<R: Read> Read for Decompressed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &mut self.decoder {
            Decoder::Plain(counted) => counted.read(buffer)?,
            Decoder::Gzip(decoder) => decoder.read(buffer)?,
            Decoder::Zstd(decoder) => decoder.read(buffer)?,
        };
        self.produced += count as u64;
        let most = FREE + self.consumed().saturating_mul(RATIO);
        if self.produced > most.min(TOTAL) {
            let message = format!(
                "{} bytes become more than {}: more than what is compressed can be meant to",
                self.consumed(),
                self.produced
            );
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        Ok(count)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// By the first four bytes, as a blob's media type may lie.
    pub(crate) fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame, or one that is skipped (zstd:chunked has them).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Decompressed::new(bytes)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn what_is_compressed_is_found_out_by_its_bytes() {
        let text = b"some text, some text, some text".repeat(100);
        let zstd = zstd::encode_all(&text[..], 3).unwrap();
        let skippable = [
            &[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3],
            &zstd[..],
            &zstd[..],
        ]
        .concat();
        assert_eq!(read(&text).unwrap(), text);
        assert_eq!(read(&gzip(&text)).unwrap(), text);
        assert_eq!(
            read(&[gzip(&text), gzip(&text)].concat()).unwrap(),
            text.repeat(2)
        );
        assert_eq!(read(&zstd).unwrap(), text);
        assert_eq!(read(&skippable).unwrap(), text.repeat(2));
        assert_eq!(read(b"").unwrap(), b"");
        for (bytes, name) in [(&b"\xfd7zXZ\0\0\x04"[..], "xz"), (b"BZh91AY&SY", "bzip2")] {
            let error = read(bytes).unwrap_err().to_string();
            assert!(error.contains(&format!("with {name}")), "{error}");
        }
        assert_eq!(read(b"BZh").unwrap(), b"BZh");
    }

    #[test]
    fn what_is_cut_or_damaged_is_refused() {
        let text = b"some text, some text, some text".repeat(100);
        let zstd = zstd::encode_all(&text[..], 3).unwrap();
        for bytes in [gzip(&text), zstd] {
            assert!(read(&bytes[..bytes.len() - 5]).is_err());
        }
        let mut damaged = gzip(&text);
        let middle = damaged.len() - 6;
        damaged[middle] ^= 1;
        assert!(read(&damaged).is_err());
    }

    #[test]
    fn a_bomb_is_refused() {
        // Zeros of 2 GiB, in a few thousand frames that are all the same.
        let frame = zstd::encode_all(&vec![0; 1 << 20][..], 19).unwrap();
        let bomb = frame.repeat(2048);
        let mut reader = Decompressed::new(&bomb[..]).unwrap();
        let error = io::copy(&mut reader, &mut io::sink()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
