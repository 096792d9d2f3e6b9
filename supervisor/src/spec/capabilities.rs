//! Which capabilities a container has. Pure.

use super::{Fault, Result};

/// Linux's, in the order of their numbers.
const ALL: &str = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE \
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE \
SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND \
AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE";

/// Docker's default.
const DEFAULT: &str = "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE";

/// The bounding set, with the prefix. `ours` is what the daemon itself can give, with the prefix; nothing else can be had.
pub(crate) fn bounding(
    add: &[String],
    drop: &[String],
    privileged: bool,
    ours: &[String],
) -> Result<Vec<String>> {
    let add = words(add)?;
    let drop = words(drop)?;
    let known = ALL.split_whitespace().filter(|name| {
        ours.iter()
            .any(|held| held.strip_prefix("CAP_") == Some(name))
    });
    let base = if privileged || add.iter().any(|name| name == "ALL") {
        ALL
    } else if drop.iter().any(|name| name == "ALL") {
        ""
    } else {
        DEFAULT
    };
    let has = |list: &str, name: &str| list.split_whitespace().any(|word| word == name);
    let dropped = |name: &str| drop.iter().any(|word| word == name);
    Ok(known
        .filter(|name| {
            (has(base, name) && (privileged || !dropped(name)))
                || add.iter().any(|word| word == name)
        })
        .map(|name| format!("CAP_{name}"))
        .collect())
}

/// All that Linux has, with the prefix.
pub(crate) fn all() -> Vec<String> {
    ALL.split_whitespace()
        .map(|name| format!("CAP_{name}"))
        .collect()
}

/// In capitals, without the prefix; each is one that Linux has.
fn words(names: &[String]) -> Result<Vec<String>> {
    let one = |name: &String| {
        let word = name.to_uppercase();
        let word = word.strip_prefix("CAP_").unwrap_or(&word).to_owned();
        let known = word == "ALL" || ALL.split_whitespace().any(|known| known == word);
        known
            .then_some(word)
            .ok_or_else(|| Fault::new(format!("no capability is called '{name}'")))
    };
    names.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(add: &[&str], drop: &[&str], privileged: bool) -> Vec<String> {
        let owned = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        bounding(&owned(add), &owned(drop), privileged, &all()).unwrap()
    }

    #[test]
    fn the_default_is_dockers() {
        assert_eq!(set(&[], &[], false).len(), 14);
        assert!(!set(&[], &[], false).contains(&"CAP_SYS_ADMIN".to_owned()));
    }

    #[test]
    fn adding_and_dropping() {
        assert!(set(&["sys_admin"], &[], false).contains(&"CAP_SYS_ADMIN".to_owned()));
        assert!(!set(&[], &["CAP_KILL"], false).contains(&"CAP_KILL".to_owned()));
        assert_eq!(set(&["net_admin"], &["all"], false), ["CAP_NET_ADMIN"]);
        assert_eq!(set(&["ALL"], &[], false).len(), 41);
        assert!(!set(&["ALL"], &["mknod"], false).contains(&"CAP_MKNOD".to_owned()));
        assert_eq!(set(&[], &[], true).len(), 41);
        let ours = ["CAP_KILL".to_owned()];
        assert_eq!(bounding(&["ALL".into()], &[], false, &ours).unwrap(), ours);
        assert!(bounding(&["NONSENSE".into()], &[], false, &all()).is_err());
    }
}
