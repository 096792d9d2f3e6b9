//! The user's terminal: raw while a container's is attached, and as it was before in any case; its size; the keys to leave with.

use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;

use nix::sys::signal::{Signal, raise};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use crate::fault::{Fault, Result, Tried as _};
use crate::protos::containers::Size;

/// While it exists, standard input is raw.
pub(super) struct Raw(Termios);

impl Raw {
    pub(super) fn new() -> Result<Self> {
        let before = tcgetattr(io::stdin()).tried(|| "read the terminal's settings".into())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(io::stdin(), SetArg::TCSANOW, &raw).tried(|| "make the terminal raw".into())?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs no settings.
        tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.0).ok();
    }
}

/// Ends this program as the signal would have that it has caught.
pub(super) fn end_by<T>(number: i32) -> Result<T> {
    let what = || format!("end by signal {number}");
    let signal = Signal::try_from(number).tried(what)?;
    crate::sys::catch_no_more(signal).tried(what)?;
    raise(signal).tried(what)?;
    Err(Fault::unknown(format!(
        "signal {number} does not end this program"
    )))
}

pub(super) fn is_input() -> bool {
    io::stdin().is_terminal()
}

/// None without a terminal.
pub(super) fn size() -> Option<Size> {
    let size = rustix::termios::tcgetwinsize(io::stdout().as_fd())
        .or_else(|_| rustix::termios::tcgetwinsize(io::stdin().as_fd()))
        .ok()?;
    Some(Size {
        width: size.ws_col.into(),
        height: size.ws_row.into(),
        ..Size::default()
    })
}

/// The keys to leave with, looked for in what is typed.
#[derive(Clone, Debug)]
pub(super) struct DetachKeys {
    keys: Vec<u8>,
    seen: usize,
}

impl DetachKeys {
    /// `ctrl-p,ctrl-q`; a letter or `ctrl-` and one of `a`-`z`, `@`, `[`, `\`, `]`, `^`, `_`.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let key = |word: &str| match (
            word.strip_prefix("ctrl-").map(str::as_bytes),
            word.as_bytes(),
        ) {
            (Some([letter @ b'a'..=b'z']), _) => Ok(letter - b'a' + 1),
            (Some([sign @ (b'@' | b'['..=b'_')]), _) => Ok(sign - b'@'),
            (None, [one]) => Ok(*one),
            _ => Err(Fault::new(format!("'{word}' is no key to leave with"))),
        };
        let keys: Result<Vec<u8>> = text
            .split(',')
            .filter(|word| !word.is_empty())
            .map(key)
            .collect();
        Ok(Self {
            keys: keys?,
            seen: 0,
        })
    }

    /// What of it is to be passed on, and whether the keys have been pressed after that: the rest is nobody's.
    pub(super) fn pass(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len());
        for byte in typed {
            if self.keys.get(self.seen) == Some(byte) {
                self.seen += 1;
                if self.seen == self.keys.len() {
                    return (passed, true);
                }
                continue;
            }
            // They were not meant.
            passed.extend_from_slice(&self.keys[..self.seen]);
            self.seen = usize::from(self.keys.first() == Some(byte));
            if self.seen == 0 || self.keys.len() == 1 {
                passed.push(*byte);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_to_leave_with() {
        let mut keys = DetachKeys::parse("ctrl-p,ctrl-q").unwrap();
        let on = |text: &[u8]| (text.to_vec(), false);
        assert_eq!(keys.pass(b"ab"), on(b"ab"));
        assert_eq!(keys.pass(b"a\x10"), on(b"a"));
        assert_eq!(keys.pass(b"b"), on(b"\x10b"));
        assert_eq!(keys.pass(b"\x10\x10"), on(b"\x10"));
        assert_eq!(keys.pass(b"\x11"), (vec![], true));
        let mut keys = DetachKeys::parse("ctrl-p,ctrl-q").unwrap();
        assert_eq!(keys.pass(b"a\x10b\x10\x11c"), (b"a\x10b".to_vec(), true));
        assert!(DetachKeys::parse("ctrl-").is_err() && DetachKeys::parse("nonsense").is_err());
        let mut none = DetachKeys::parse("").unwrap();
        assert_eq!(none.pass(b"\x10\x11"), on(b"\x10\x11"));
    }
}
