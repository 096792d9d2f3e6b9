//! Becomes a user without privileges, whom this machine need not know: what newuidmap reads of /etc is replaced, for this process only.

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

pub(super) fn become_user(uid: u32, groups: &str, etc: &str, cgroup: &str) -> io::Result<()> {
    if cgroup != "-" {
        let procs = Path::new(cgroup).join("cgroup.procs");
        OpenOptions::new()
            .write(true)
            .open(procs)?
            .write_all(b"0")?;
    }
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(none, "/", none, slave, none)?;
    for name in ["passwd", "group", "subuid", "subgid"] {
        let (own, of_host) = (Path::new(etc).join(name), Path::new("/etc").join(name));
        mount(Some(&own), &of_host, none, MsFlags::MS_BIND, none)?;
    }
    let groups: Vec<Gid> = groups
        .split(',')
        .map(|group| group.parse().map(Gid::from_raw).map_err(io::Error::other))
        .collect::<io::Result<_>>()?;
    let (uid, gid) = (Uid::from_raw(uid), groups[0]);
    setgroups(&groups)?;
    setresgid(gid, gid, gid)?;
    Ok(setresuid(uid, uid, uid)?)
}
