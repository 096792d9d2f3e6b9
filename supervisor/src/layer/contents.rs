//! The bytes of a file, from the archive to the disk, with holes where there are only zeros.
//!
//! Runs in the confined process.

use std::fs::File;
use std::io::{Read, Write};

use anyhow::{Context, Result};

use crate::archive::Reader;

/// Of what is looked at for zeros, and becomes a hole.
const HOLE: usize = 4096;
const ZEROS: [u8; HOLE] = [0; HOLE];

/// Copies so many bytes to an offset, and leaves holes where there are only zeros. Returns how many were written.
pub(super) fn copy<R: Read>(
    data: &mut Reader<R>,
    file: &mut File,
    offset: u64,
    length: u64,
    buffer: &mut [u8],
) -> Result<u64> {
    let (mut at, end, mut stored) = (offset, offset + length, 0);
    let mut position = if offset == 0 { Some(0) } else { None };
    while at < end {
        let most = usize::try_from(end - at).map_or(buffer.len(), |left| left.min(buffer.len()));
        data.read_exact(&mut buffer[..most])
            .context("read its bytes")?;
        for run in runs(&buffer[..most]) {
            let start = at + run.start as u64;
            if run.zero {
                continue;
            }
            if position != Some(start) {
                rustix::fs::seek(&*file, rustix::fs::SeekFrom::Start(start)).context("write it")?;
            }
            file.write_all(&buffer[run.start..run.end])
                .context("write it")?;
            position = Some(at + run.end as u64);
            stored += (run.end - run.start) as u64;
        }
        at += most as u64;
    }
    Ok(stored)
}

struct Run {
    start: usize,
    end: usize,
    zero: bool,
}

/// Whole blocks of zeros, and what is between them.
fn runs(bytes: &[u8]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::with_capacity(1);
    for (index, block) in bytes.chunks(HOLE).enumerate() {
        let start = index * HOLE;
        let zero = block == ZEROS;
        match runs.last_mut() {
            Some(last) if last.zero == zero => last.end = start + block.len(),
            _ => runs.push(Run {
                start,
                end: start + block.len(),
                zero,
            }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_zeros_are_holes() {
        let mut bytes = vec![0; HOLE * 4 + 100];
        bytes[HOLE * 2] = 1;
        let shape: Vec<_> = runs(&bytes)
            .iter()
            .map(|run| (run.start, run.end, run.zero))
            .collect();
        assert_eq!(
            shape,
            [
                (0, HOLE * 2, true),
                (HOLE * 2, HOLE * 3, false),
                (HOLE * 3, HOLE * 4, true),
                (HOLE * 4, HOLE * 4 + 100, false)
            ]
        );
    }
}
