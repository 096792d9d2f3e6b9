//! Maps of files with holes. Pure, but for the one that is read from the data.

use std::io::Read;

use anyhow::{Context, Result, ensure};

use super::pax::number;

/// Of maps: GNU tar writes one segment for every run of data.
const LIMIT: usize = 1 << 20;

/// Bytes of a sparse file, stored one segment behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

pub(super) fn push(segments: &mut Vec<Segment>, offset: u64, length: u64) -> Result<()> {
    ensure!(
        segments.len() < LIMIT,
        "a sparse file of more than {LIMIT} segments"
    );
    segments.push(Segment { offset, length });
    Ok(())
}

/// `OFFSET,LENGTH,OFFSET,LENGTH...`
pub(super) fn map(text: &[u8]) -> Result<Vec<Segment>> {
    let mut segments = Vec::new();
    let mut numbers = text.split(|byte| *byte == b',');
    while let Some(offset) = numbers.next() {
        let length = numbers.next().context("a sparse map ends in a segment")?;
        push(&mut segments, number(offset)?, number(length)?)?;
    }
    Ok(segments)
}

/// The map of format 1.0: numbers of one line each before the file's bytes, padded to a block.
pub(super) fn map_in_data(data: &mut impl Read) -> Result<Vec<Segment>> {
    let mut lines = Lines {
        data,
        block: [0; 512],
        at: 512,
    };
    let count = usize::try_from(lines.number()?)?;
    ensure!(
        count <= LIMIT,
        "a sparse file of more than {LIMIT} segments"
    );
    let mut segments = Vec::new();
    for _ in 0..count {
        let (offset, length) = (lines.number()?, lines.number()?);
        push(&mut segments, offset, length)?;
    }
    Ok(segments)
}

/// Numbers out of whole blocks; the rest of the last one is padding.
struct Lines<'a, R> {
    data: &'a mut R,
    block: [u8; 512],
    at: usize,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self) -> Result<u64> {
        let mut line = Vec::new();
        loop {
            if self.at == self.block.len() {
                self.data
                    .read_exact(&mut self.block)
                    .context("read a sparse map")?;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            if byte == b'\n' {
                return number(&line);
            }
            ensure!(line.len() < 20, "a malformed sparse map");
            line.push(byte);
        }
    }
}

/// Segments must come in order, within the file, and be as many bytes as there are.
pub(super) fn check(segments: &[Segment], size: u64, stored: u64) -> Result<()> {
    let (mut end, mut bytes) = (0_u64, 0_u64);
    for segment in segments {
        ensure!(
            segment.offset >= end,
            "the segments of a sparse file overlap"
        );
        end = segment
            .offset
            .checked_add(segment.length)
            .context("a sparse file without end")?;
        bytes += segment.length;
    }
    ensure!(end <= size, "a sparse file has segments behind its end");
    ensure!(
        bytes == stored,
        "a sparse file has {stored} bytes for segments of {bytes}"
    );
    Ok(())
}
