//! Inputs that are nearly right, for the parsers of what strangers send (`fuzz` says what these are): in unit tests only.
//!
//! `MUTANTS=COUNT` makes more than the usual count of each kind, `SEED=NUMBER` others; a failure names the seed of its input.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// The ends of ranges, and bytes that formats give a meaning.
const BYTES: &[u8] = b"\0\xff\x7f\x80 0179./:@=,\n{}[]\"-";

/// Numbers that look random (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end.max(1)).unwrap()).unwrap()
    }
}

/// Calls `check` with so many mutants of the seeds, each of them made of one to four changes.
#[expect(clippy::print_stdout, reason = "a test's output")]
pub(crate) fn of(seeds: &[Vec<u8>], count: u64, mut check: impl FnMut(&[u8])) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().unwrap());
    let first = number("SEED").unwrap_or(0);
    for seed in first..first + number("MUTANTS").unwrap_or(count) {
        let mut random = Random(seed);
        let mut bytes = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(4) {
            change(&mut bytes, &mut random, seeds);
        }
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(&bytes))) {
            println!(
                "SEED={seed} MUTANTS=1 is {:?}",
                String::from_utf8_lossy(&bytes)
            );
            resume_unwind(panic);
        }
    }
}

fn change(bytes: &mut Vec<u8>, random: &mut Random, seeds: &[Vec<u8>]) {
    let at = random.below(bytes.len());
    let length = random.below(64.min(bytes.len() - at + 1));
    match random.below(7) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        1 if at < bytes.len() => bytes[at] = BYTES[random.below(BYTES.len())],
        2 => bytes.insert(at, BYTES[random.below(BYTES.len())]),
        3 => drop(bytes.drain(at..at + length)),
        4 => bytes.truncate(at),
        5 => {
            let again = bytes[at..at + length].to_vec();
            bytes.splice(at..at, again);
        }
        // The rest of this one behind the beginning of another.
        _ => {
            let other = &seeds[random.below(seeds.len())];
            let end = random.below(other.len());
            bytes.splice(..at, other[..end].iter().copied());
        }
    }
}
