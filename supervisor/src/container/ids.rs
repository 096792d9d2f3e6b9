//! Which ids of the host a container's user namespace has: a range of its own out of a pool, which is kept in its record and free again when
//! that is gone, or those of the container that it joins.
//!
//! Two small files are read for each container that asks, as others may change them at any time.

use std::fs;

use super::Supervisor;
use super::create::Reserved;
use crate::fault::{Fault, Result, Tried as _};
use crate::layer::Snapshot;
use crate::lock::lock;
use crate::protos::containers::{Config, Container as Record, Ids};

/// How many a container gets that does not say: those that images use, `nobody` included.
const SIZE: u32 = 1 << 16;

/// Whose subordinate ids containers get, as with Podman.
const OWNER: &str = "containers";

/// Where there is no such user: what systemd's table of ids, which counts those of others too, has nobody for. Below 2^31, as programs that
/// take ids for signed numbers are many; room for 4094 containers.
const UNUSED: Range = Range {
    first: 0x7000_0000,
    size: 0x0ffe_0000,
};

/// The words of `--userns`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mode<'a> {
    Host,
    Auto(u32),
    Container(&'a str),
}

impl<'a> Mode<'a> {
    pub(super) fn parse(words: &'a str) -> Result<Self> {
        let refused = || {
            Fault::new(format!(
                "no user namespace mode is called '{words}': there are host, auto, auto:size=N and container:NAME"
            ))
        };
        match words {
            "" | "host" => return Ok(Self::Host),
            "auto" => return Ok(Self::Auto(SIZE)),
            _ => {}
        }
        if let Some(name) = words.strip_prefix("container:") {
            return Ok(Self::Container(name));
        }
        let size = words.strip_prefix("auto:size=");
        let size = size.and_then(|size| size.parse().ok());
        size.filter(|size| *size > 0)
            .map(Self::Auto)
            .ok_or_else(refused)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: u32,
    size: u32,
}

impl Range {
    fn end(self) -> u64 {
        u64::from(self.first) + u64::from(self.size)
    }

    fn meets(self, other: Self) -> bool {
        u64::from(self.first) < other.end() && u64::from(other.first) < self.end()
    }

    /// A file as subuid(5) has it: those of that user.
    fn read(text: &str, user: &str) -> Vec<Self> {
        let of_line = |line: &str| {
            let mut fields = line.trim().split(':');
            let named = fields.next() == Some(user);
            let (first, size) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            named.then_some(Self { first, size })
        };
        text.lines().filter_map(of_line).collect()
    }

    /// The lowest of that size in the pool that meets none of these.
    fn free(pool: &[Self], used: &[Self], size: u32) -> Option<u32> {
        let begins = pool.iter().map(|range| u64::from(range.first));
        let begins = begins.chain(used.iter().map(|range| range.end()));
        let fits = |first: &u32| {
            let new = Self {
                first: *first,
                size,
            };
            // The last number is no id.
            let within = |range: &Self| {
                range.first <= new.first && new.end() <= range.end().min(u32::MAX.into())
            };
            pool.iter().any(within) && !used.iter().any(|other| other.meets(new))
        };
        begins
            .filter_map(|begin| u32::try_from(begin).ok())
            .filter(fits)
            .min()
    }
}

/// Of users and groups.
struct Pool {
    uids: Vec<Range>,
    gids: Vec<Range>,
}

impl Pool {
    fn new(subuid: &str, subgid: &str) -> Self {
        let (uids, gids) = (Range::read(subuid, OWNER), Range::read(subgid, OWNER));
        if uids.is_empty() && gids.is_empty() {
            return Self {
                uids: vec![UNUSED],
                gids: vec![UNUSED],
            };
        }
        Self { uids, gids }
    }

    fn take(&self, used: &[Ids], size: u32) -> Result<Ids> {
        let free = |pool: &[Range], first: fn(&Ids) -> u32, what: &str| {
            let used: Vec<_> = used
                .iter()
                .map(|ids| Range {
                    first: first(ids),
                    size: ids.size,
                })
                .collect();
            Range::free(pool, &used, size).ok_or_else(|| {
                let all: u64 = pool.iter().map(|range| u64::from(range.size)).sum();
                Fault::precondition(format!(
                    "no {size} {what} ids in a row are free for a user namespace, of {all} that there are: remove containers that have some, \
                     or give user {OWNER} more in /etc/subuid and /etc/subgid"
                ))
            })
        };
        Ok(Ids {
            first_uid: free(&self.uids, |ids| ids.first_uid, "user")?,
            first_gid: free(&self.gids, |ids| ids.first_gid, "group")?,
            size,
            ..Ids::default()
        })
    }
}

impl Supervisor {
    /// For a container that is about to be made. `others` that the configuration names are ids of containers by now.
    pub(super) fn take_ids(
        &self,
        config: &Config,
        reserved: &mut Reserved<'_>,
    ) -> Result<Option<Ids>> {
        let ids = match Mode::parse(&config.userns)? {
            Mode::Host => return Ok(None),
            Mode::Container(id) => self.find(id)?.record().ids.into_option(),
            Mode::Auto(size) => {
                let pool = Pool::new(&read("/etc/subuid")?, &read("/etc/subgid")?);
                let mut taken = lock(&self.taken);
                let all = self.list();
                let used = all.iter().filter_map(|other| other.record().ids.0);
                let used: Vec<Ids> = used.map(|ids| *ids).chain(taken.iter().cloned()).collect();
                let ids = pool.take(&used, size)?;
                taken.push(ids.clone());
                reserved.ids = Some(ids.clone());
                Some(ids)
            }
        };
        if ids.is_some()
            && config.pid_mode.starts_with("container:")
            && config.pid_mode != config.userns
        {
            return Err(Fault::new(format!(
                "the kernel mounts no /proc of a PID namespace that another user namespace has: add --userns {}",
                config.pid_mode
            )));
        }
        Ok(ids)
    }
}

/// The directory that takes a container's changes is its root's, from the first start on; what it makes of it later stays.
pub(super) fn own(snapshot: &Snapshot, record: &Record) -> Result<()> {
    use std::os::unix::fs::{MetadataExt as _, lchown};
    let Some(ids) = record.ids.as_ref() else {
        return Ok(());
    };
    for directory in [&snapshot.upper, &snapshot.work] {
        let what = || format!("give {} to the container's root", directory.display());
        // The host's root is nobody in the container: only a new directory is his.
        if fs::symlink_metadata(directory).tried(what)?.uid() == 0 {
            lchown(directory, Some(ids.first_uid), Some(ids.first_gid)).tried(what)?;
        }
    }
    Ok(())
}

/// Whose a file is, in the directory that takes a container's changes, that is the image's like this one; `ids` are none for one without a
/// namespace of its own.
pub(super) fn on_disk(of: &rustix::fs::Stat, ids: &Ids) -> (u32, u32) {
    let uid = of.st_uid.saturating_add(ids.first_uid);
    (uid, of.st_gid.saturating_add(ids.first_gid))
}

/// An id that a process in the container is to have.
pub(super) fn has(record: &Record, id: u32) -> Result<()> {
    match record.ids.as_ref() {
        Some(ids) if id >= ids.size => Err(Fault::new(format!(
            "the container's user namespace has {} ids, and {id} is none of them: make it with --userns auto:size=N",
            ids.size
        ))),
        _ => Ok(()),
    }
}

/// One that is not there has nothing.
fn read(path: &str) -> Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        read => read.tried(|| format!("read {path}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(first: u32, size: u32) -> Ids {
        Ids {
            first_uid: first,
            first_gid: first,
            size,
            ..Ids::default()
        }
    }

    #[test]
    fn modes() {
        let parse = |words| Mode::parse(words).unwrap();
        assert_eq!((parse(""), parse("host")), (Mode::Host, Mode::Host));
        assert_eq!(parse("auto"), Mode::Auto(65536));
        assert_eq!(parse("auto:size=7"), Mode::Auto(7));
        assert_eq!(parse("container:web"), Mode::Container("web"));
        for words in [
            "keep-id",
            "auto:",
            "auto:size=0",
            "auto:uidmapping=0:1:2",
            "host:1",
            "private",
        ] {
            let fault = Mode::parse(words).unwrap_err();
            assert!(fault.text.contains("auto:size=N"), "{}", fault.text);
        }
    }

    #[test]
    fn the_pool_is_that_of_user_containers_or_our_own() {
        let text = "root:100000:65536\ncontainers:200000:10\n containers:300000:20 \ncontainers:x:1\nbroken\n";
        let pool = Pool::new(text, "containers:400000:30\n");
        let range = |first, size| Range { first, size };
        assert_eq!(pool.uids, [range(200_000, 10), range(300_000, 20)]);
        assert_eq!(pool.gids, [range(400_000, 30)]);
        let pool = Pool::new("root:100000:65536\n", "");
        assert_eq!((&pool.uids, &pool.gids), (&vec![UNUSED], &vec![UNUSED]));
        assert!(Pool::new(text, "").take(&[], 1).is_err());
    }

    #[test]
    fn ranges_never_meet_and_come_back() {
        let pool = Pool::new(
            "containers:1000:100\ncontainers:5000:10",
            "containers:1000:110",
        );
        let mut used = vec![];
        for first in [1000, 1040] {
            used.push(pool.take(&used, 40).unwrap());
            assert_eq!(used.last().unwrap(), &ids(first, 40));
        }
        let fault = pool.take(&used, 40).unwrap_err();
        assert!(fault.text.contains("no 40 user ids"), "{}", fault.text);
        let small = pool.take(&used, 20).unwrap();
        assert_eq!(small, ids(1080, 20));
        used.push(small);
        // Of users only the second range is left.
        let next = pool.take(&used, 10).unwrap();
        assert_eq!((next.first_uid, next.first_gid), (5000, 1100));
        used.remove(0);
        assert_eq!(pool.take(&used, 40).unwrap(), ids(1000, 40));
    }

    #[test]
    fn the_last_number_is_no_id() {
        let last = Range {
            first: u32::MAX - 9,
            size: 10,
        };
        assert_eq!(Range::free(&[last], &[], 9), Some(last.first));
        assert_eq!(Range::free(&[last], &[], 10), None);
    }
}
