//! A program that libFuzzer is linked to, which calls it with one input after another. `scripts/fuzz` builds and runs it.
//!
//! What it checks is the supervisor's (`supervisor::fuzz`). Without the feature `libfuzzer` it does nothing, and is there to be compiled with all else.

#![cfg_attr(feature = "libfuzzer", no_main)]

#[cfg(feature = "libfuzzer")]
libfuzzer_sys::fuzz_target!(init: supervisor::fuzz::begin(), |input: &[u8]| supervisor::fuzz::check(input));

#[cfg(not(feature = "libfuzzer"))]
fn main() {}
