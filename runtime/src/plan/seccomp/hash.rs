//! A hash for the compiler's tables: their keys are a dozen bytes, and hashing them is a good part of the compile time.
//!
//! FNV-1a, which needs no random start and thus no system call. It does not withstand keys that were chosen to collide; the
//! profile comes from whoever may start containers, who could also just make it long.

use std::hash::{BuildHasherDefault, Hasher};

pub(super) type ShortKeys = BuildHasherDefault<Fnv>;

pub(super) struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn mix(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x0100_0000_01b3);
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.mix(byte.into()));
    }

    fn write_u32(&mut self, value: u32) {
        self.mix(value.into());
    }

    fn write_usize(&mut self, value: usize) {
        self.mix(value as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
