//! What the probe saw from inside a container: one value per question, or the reason why it could not tell.
//!
//! The probe fills and prints it, the tests read it. Neither side decides here what is right.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Deref;

/// An answer, or why there is none. Tests use it as if it were the answer; a missing one fails the test with its reason.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Told<T>(pub Result<T, String>);

impl<T> Told<T> {
    /// The reason why there is no answer, if there is none.
    pub fn reason(&self) -> Option<&str> {
        self.0.as_ref().err().map(String::as_str)
    }
}

impl<T> Deref for Told<T> {
    type Target = T;
    #[track_caller]
    fn deref(&self) -> &T {
        match &self.0 {
            Ok(answer) => answer,
            Err(reason) => panic!("the probe could not tell: {reason}"),
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Told<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Ok(answer) => answer.fmt(f),
            Err(reason) => write!(f, "(unknown: {reason})"),
        }
    }
}

impl<T: PartialEq> PartialEq<T> for Told<T> {
    fn eq(&self, other: &T) -> bool {
        self.0.as_ref().is_ok_and(|answer| answer == other)
    }
}

/// The report of `probe report`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// Its own pid, parent, session and process group, as its own pid namespace counts them.
    pub pid: i32,
    pub ppid: i32,
    pub session: i32,
    pub process_group: i32,
    /// Real, effective and saved.
    pub uid: [u32; 3],
    pub gid: [u32; 3],
    /// Supplementary groups, sorted.
    pub groups: Told<Vec<u32>>,
    pub umask: u32,
    pub caps: Caps,
    pub no_new_privs: Told<bool>,
    /// 0 none, 1 strict, 2 filter.
    pub seccomp: Told<u32>,
    /// Signals that are blocked, and that are ignored, by number.
    pub signals_blocked: Told<BTreeSet<u32>>,
    pub signals_ignored: Told<BTreeSet<u32>>,
    /// By name; soft and hard, `u64::MAX` for infinity.
    pub rlimits: BTreeMap<String, Told<[u64; 2]>>,
    pub cwd: Told<String>,
    pub args: Vec<String>,
    /// `environ` as it is: in order, duplicates included.
    pub env: Vec<(String, String)>,
    pub hostname: Told<String>,
    pub domainname: Told<String>,
    pub mounts: Told<Vec<Mount>>,
    /// `pid` to `pid:[4026531836]`, and so on, as in /proc/self/ns.
    pub namespaces: Told<BTreeMap<String, String>>,
    /// Rows of three numbers: inside, outside, count.
    pub uid_map: Told<Vec<[u64; 3]>>,
    pub gid_map: Told<Vec<[u64; 3]>>,
    pub setgroups: Told<String>,
    pub timens_offsets: Told<String>,
    /// The text of /proc/self/cgroup.
    pub cgroup: Told<String>,
    pub oom_score_adj: Told<i32>,
    pub personality: Told<u32>,
    /// Class and level.
    pub ioprio: Told<(u32, u32)>,
    pub scheduler: Told<Scheduler>,
    /// The CPUs it may run on.
    pub cpus: Told<BTreeSet<usize>>,
    /// Open descriptors and what they are.
    pub fds: Told<BTreeMap<i32, String>>,
    /// Standard input, output and error, where they are terminals.
    pub terminals: BTreeMap<i32, Terminal>,
    /// `type;uid;gid;permissions;name`.
    pub session_keyring: Told<String>,
    /// Network interfaces by name, with their `IFF_*` flags.
    pub interfaces: Told<BTreeMap<String, u32>>,
    /// Their IPv4 and IPv6 addresses with the lengths of the prefixes, `10.0.0.1/8`, sorted.
    pub addresses: Told<BTreeMap<String, BTreeSet<String>>>,
    /// Seconds since boot, as CLOCK_BOOTTIME and CLOCK_MONOTONIC say.
    pub boottime: Told<i64>,
    pub monotonic: Told<i64>,
    /// Asked for with `sysctl=NAME`.
    #[serde(default)]
    pub sysctls: BTreeMap<String, Told<String>>,
    /// Asked for with `stat=PATH`; symbolic links are not followed.
    #[serde(default)]
    pub stats: BTreeMap<String, Told<Stat>>,
    /// Asked for with `ls=PATH`: names, sorted.
    #[serde(default)]
    pub lists: BTreeMap<String, Told<Vec<String>>>,
    /// Asked for with `cat=PATH`.
    #[serde(default)]
    pub files: BTreeMap<String, Told<String>>,
    /// Asked for with `try=ACTION:ARGUMENT`, see the probe: `ok` or the name of the errno.
    #[serde(default)]
    pub tries: BTreeMap<String, String>,
}

/// The five capability sets, by name (`CAP_KILL`).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Caps {
    pub bounding: Told<BTreeSet<String>>,
    pub effective: Told<BTreeSet<String>>,
    pub inheritable: Told<BTreeSet<String>>,
    pub permitted: Told<BTreeSet<String>>,
    pub ambient: Told<BTreeSet<String>>,
}

/// One line of mountinfo.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub id: u32,
    pub parent: u32,
    pub device: String,
    pub root: String,
    pub target: String,
    /// Options of this mount.
    pub options: BTreeSet<String>,
    /// `shared:N`, `master:N`, `propagate_from:N`, `unbindable`.
    pub propagation: Vec<String>,
    pub fstype: String,
    pub source: String,
    /// Options of the file system.
    pub super_options: BTreeSet<String>,
}

/// `sched_getattr(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduler {
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

/// What an open terminal is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Terminal {
    pub path: Told<String>,
    pub rows: u16,
    pub columns: u16,
    /// Whether it is the session's controlling terminal.
    pub controlling: bool,
}

/// A file, by `lstat(2)`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    pub kind: Kind,
    /// Permission bits with set-id and sticky bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Major and minor, of a device node.
    pub rdev: (u64, u64),
    pub size: u64,
    /// The target of a symbolic link.
    pub link: Option<String>,
}

/// What kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    CharDevice,
    BlockDevice,
    Fifo,
    Socket,
}

impl Seen {
    /// The value of an environment variable, if it is there; the last one of several.
    pub fn var(&self, name: &str) -> Option<&str> {
        self.env
            .iter()
            .rev()
            .find(|(k, _)| k == name)
            .map(|(_, v)| v.as_str())
    }

    /// The mount that is visible at `target`: the last one there.
    pub fn mount(&self, target: &str) -> Option<&Mount> {
        self.mounts
            .iter()
            .rev()
            .find(|mount| mount.target == target)
    }

    /// Like [`Seen::mount`], for one that must be there.
    #[track_caller]
    pub fn mounted(&self, target: &str) -> &Mount {
        let Some(mount) = self.mount(target) else {
            panic!(
                "nothing is mounted on {target}; mounts: {:#?}",
                self.mounts.iter().map(|m| &m.target).collect::<Vec<_>>()
            )
        };
        mount
    }

    /// What `stat=PATH` said.
    #[track_caller]
    pub fn stat(&self, path: &str) -> &Stat {
        match self.stats.get(path) {
            Some(stat) => stat,
            None => panic!("the report was not asked for stat={path}"),
        }
    }

    /// What `try=ACTION` said.
    #[track_caller]
    pub fn tried(&self, action: &str) -> &str {
        match self.tries.get(action) {
            Some(outcome) => outcome,
            None => panic!("the report was not asked for try={action}"),
        }
    }
}

impl Mount {
    /// Parses a mountinfo file; lines that do not look like one are an error that names them.
    pub fn parse_all(mountinfo: &str) -> Result<Vec<Mount>, String> {
        mountinfo
            .lines()
            .map(|line| Mount::parse(line).ok_or_else(|| format!("bad mountinfo line {line:?}")))
            .collect()
    }

    /// Whether all of these options are set on the mount.
    pub fn has(&self, options: &[&str]) -> bool {
        options.iter().all(|option| self.options.contains(*option))
    }

    fn parse(line: &str) -> Option<Mount> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ');
        let mut right = right.splitn(3, ' ');
        let words = |text: &str| text.split(',').map(str::to_owned).collect();
        Some(Mount {
            id: left.next()?.parse().ok()?,
            parent: left.next()?.parse().ok()?,
            device: left.next()?.to_owned(),
            root: unescape(left.next()?),
            target: unescape(left.next()?),
            options: words(left.next()?),
            propagation: left.map(str::to_owned).collect(),
            fstype: right.next()?.to_owned(),
            source: unescape(right.next()?),
            super_options: words(right.next()?),
        })
    }
}

/// The kernel writes space, tab, newline and backslash as octal escapes.
fn unescape(text: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (escape, plain)| {
        text.replace(escape, plain)
    })
}

#[cfg(test)]
mod tests {
    use super::Mount;

    #[test]
    fn a_mountinfo_line_is_taken_apart() {
        let line = "36 35 98:0 /mnt1 /a\\040b rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue";
        let mount = Mount::parse_all(line).unwrap().remove(0);
        assert_eq!(
            (
                mount.target.as_str(),
                mount.fstype.as_str(),
                mount.source.as_str()
            ),
            ("/a b", "ext3", "/dev/root")
        );
        assert_eq!(mount.propagation, ["master:1", "shared:2"]);
        assert!(mount.has(&["rw", "noatime"]) && !mount.has(&["ro"]));
        assert!(mount.super_options.contains("errors=continue"));
    }
}
