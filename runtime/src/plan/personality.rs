//! `linux.personality`: the execution domain and its flags.
//!
//! Pure. The specification names the domains and leaves the flags open; those of personality(2) are taken by their names there. runc ignores
//! all flags and says so; here, it is only what nobody knows that is ignored.

use super::Step;
use oci_spec::runtime::{Linux, LinuxPersonality, LinuxPersonalityDomain};

/// linux/personality.h
const FLAGS: [(&str, u64); 11] = [
    ("UNAME26", 0x0002_0000),
    ("ADDR_NO_RANDOMIZE", 0x0004_0000),
    ("FDPIC_FUNCPTRS", 0x0008_0000),
    ("MMAP_PAGE_ZERO", 0x0010_0000),
    ("ADDR_COMPAT_LAYOUT", 0x0020_0000),
    ("READ_IMPLIES_EXEC", 0x0040_0000),
    ("ADDR_LIMIT_32BIT", 0x0080_0000),
    ("SHORT_INODE", 0x0100_0000),
    ("WHOLE_SECONDS", 0x0200_0000),
    ("STICKY_TIMEOUTS", 0x0400_0000),
    ("ADDR_LIMIT_3GB", 0x0800_0000),
];

/// The step that every process of the container takes.
pub(crate) fn step(personality: Option<&LinuxPersonality>) -> Option<Step> {
    const PER_LINUX32: u64 = 8;
    let personality = personality?;
    let domain = match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
    };
    let flags = personality.flags().iter().flatten();
    let flags = flags
        .filter_map(|name| flag(name))
        .fold(0, |all, flag| all | flag);
    Some(Step::Personality(domain | flags))
}

/// A warning for each flag that is none.
pub(crate) fn warnings(linux: &Linux) -> impl Iterator<Item = String> {
    let flags = linux
        .personality()
        .iter()
        .flat_map(|personality| personality.flags());
    let unknown = flags.flatten().filter(|name| flag(name).is_none());
    unknown.map(|name| format!("unknown flag {name:?} in linux.personality.flags, ignoring"))
}

fn flag(name: &str) -> Option<u64> {
    let known = FLAGS.iter().find(|(known, _)| *known == name)?;
    Some(known.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_known_by_name_and_others_are_named() {
        let linux: Linux = serde_json::from_str(
            r#"{"personality":{"domain":"LINUX32","flags":["ADDR_NO_RANDOMIZE","SHORT_TEMPER"]}}"#,
        )
        .unwrap();
        assert!(matches!(
            step(linux.personality().as_ref()),
            Some(Step::Personality(0x4_0008))
        ));
        let warnings: Vec<_> = warnings(&linux).collect();
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("SHORT_TEMPER"), "{warnings:?}");
        assert!(step(None).is_none());
    }
}
