//! A program that the configuration brings along, as bytes in base64: crun's annotation `run.oci.seccomp_bpf_data`.
//!
//! The kernel checks the program when it is loaded; here is only seen to it that there is one.

use super::{Filter, LONGEST, profile, text};
use crate::report::{Error, Result};
use oci_spec::runtime::LinuxSeccomp;

/// The program in this text. Flags are those of the profile, whose rules do not count.
pub(crate) fn decode(data: &str, profile: Option<&LinuxSeccomp>) -> Result<Filter> {
    let wrong = |what: &str| Error::invalid(format!("annotation {}: {what}", super::BPF_DATA));
    let bytes = base64(data).ok_or_else(|| wrong("not base64"))?;
    let program = text::instructions(&bytes)
        .filter(|program| program.len() <= LONGEST)
        .ok_or_else(|| wrong("not a program of 1 to 4096 instructions of 8 bytes"))?;
    let notify = |i: &seccompiler::sock_filter| {
        u32::from(i.code) == libc::BPF_RET
            && i.k & libc::SECCOMP_RET_ACTION_FULL == libc::SECCOMP_RET_USER_NOTIF
    };
    let mut warnings = Vec::new();
    let flags = profile::flags(
        profile.and_then(|profile| profile.flags().as_deref()),
        program.iter().any(notify),
        &mut warnings,
    );
    Ok(Filter {
        program,
        flags,
        warnings,
        unknown: Vec::new(),
    })
}

/// RFC 4648, section 4, with or without its padding; white space does not count.
fn base64(text: &str) -> Option<Vec<u8>> {
    let value = |byte: u8| {
        Some(u32::from(match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        }))
    };
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let padding = digits.iter().rev().take_while(|b| **b == b'=').count();
    let digits = &digits[..digits.len() - padding];
    if padding > 2
        || padding > 0 && !(digits.len() + padding).is_multiple_of(4)
        || digits.len() % 4 == 1
    {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    for group in digits.chunks(4) {
        let bits = group
            .iter()
            .try_fold(0, |bits, digit| Some(bits << 6 | value(*digit)?))?
            << (6 * (4 - group.len()));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (text, bytes) in [
            ("", &b""[..]),
            ("Zg==", b"f"),
            ("Zm8=", b"fo"),
            ("Zm8", b"fo"),
            ("Zm9v", b"foo"),
            ("Zm9v\nYmFy", b"foobar"),
            ("+/+/", &[0xfb, 0xff, 0xbf]),
        ] {
            assert_eq!(base64(text).as_deref(), Some(bytes), "{text}");
        }
        for text in ["Z", "Zg=", "Zg===", "Z*==", "=Zg=", "Zm9vY"] {
            assert_eq!(base64(text), None, "{text}");
        }
    }

    #[test]
    fn a_program_is_taken_whole_or_not_at_all() {
        // ret ALLOW; ret USER_NOTIF
        let allow = decode("BgAAAAAA/38=", None).unwrap();
        assert_eq!((allow.program.len(), allow.flags), (1, 4));
        let notify = decode("BgAAAAAAwH8=", None).unwrap();
        assert_eq!(notify.flags, 4 | 8);
        assert!(decode("", None).is_err());
        assert!(decode("BgAAAAAA", None).is_err());
    }
}
