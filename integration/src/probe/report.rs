//! Fills a [`Seen`]. Every answer that needs a file of /proc, or a call that may be forbidden, can be missing.

use super::attempt;
use crate::seen::{Caps, Kind, Mount, Scheduler, Seen, Stat, Terminal, Told};
use crate::sys;
use caps::CapSet;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::SockaddrStorage;
use nix::sys::stat::{Mode, SFlag, major, minor, umask};
use nix::sys::termios::tcgetsid;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, getgroups, getpgrp, getpid, getppid, getresgid, getresuid, getsid};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::fs;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;

/// What the calling process sees, and the answers to these questions.
#[expect(
    clippy::too_many_lines,
    reason = "a flat table, one field after the other"
)]
pub(super) fn seen(questions: &[&str]) -> Seen {
    let status = file("/proc/self/status");
    let (uid, gid) = (getresuid().ok(), getresgid().ok());
    let mut seen = Seen {
        pid: getpid().as_raw(),
        ppid: getppid().as_raw(),
        session: getsid(None).map_or(-1, Pid::as_raw),
        process_group: getpgrp().as_raw(),
        uid: uid.map_or([u32::MAX; 3], |id| {
            [id.real, id.effective, id.saved].map(|id| id.as_raw())
        }),
        gid: gid.map_or([u32::MAX; 3], |id| {
            [id.real, id.effective, id.saved].map(|id| id.as_raw())
        }),
        groups: told(getgroups().map(|groups| {
            groups
                .iter()
                .map(|group| group.as_raw())
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect()
        })),
        umask: current_umask(),
        caps: capabilities(),
        no_new_privs: told(nix::sys::prctl::get_no_new_privs()),
        seccomp: status_field(&status, "Seccomp", |value| value.parse().ok()),
        signals_blocked: status_field(&status, "SigBlk", signal_mask),
        signals_ignored: status_field(&status, "SigIgn", signal_mask),
        rlimits: rlimits(),
        cwd: told(std::env::current_dir().map(|path| path.display().to_string())),
        args: std::env::args_os()
            .map(|arg| arg.to_string_lossy().into_owned())
            .collect(),
        env: std::env::vars_os()
            .map(|(name, value)| {
                (
                    name.to_string_lossy().into_owned(),
                    value.to_string_lossy().into_owned(),
                )
            })
            .collect(),
        hostname: told(
            nix::sys::utsname::uname().map(|name| name.nodename().to_string_lossy().into_owned()),
        ),
        domainname: told(
            nix::sys::utsname::uname().map(|name| name.domainname().to_string_lossy().into_owned()),
        ),
        mounts: Told(
            file("/proc/self/mountinfo")
                .0
                .and_then(|text| Mount::parse_all(&text)),
        ),
        namespaces: links("/proc/self/ns"),
        uid_map: id_map("/proc/self/uid_map"),
        gid_map: id_map("/proc/self/gid_map"),
        setgroups: Told(
            file("/proc/self/setgroups")
                .0
                .map(|text| text.trim().to_owned()),
        ),
        timens_offsets: file("/proc/self/timens_offsets"),
        cgroup: file("/proc/self/cgroup"),
        oom_score_adj: number("/proc/self/oom_score_adj"),
        personality: told(sys::personality()),
        ioprio: told(sys::ioprio_get().map(|value| (value >> 13, value & 0x1fff))),
        scheduler: told(sys::sched_getattr().map(scheduler)),
        cpus: told(sched_getaffinity(Pid::from_raw(0)).map(cpus)),
        fds: open_files(),
        terminals: terminals(),
        session_keyring: told(sys::session_keyring()),
        interfaces: interfaces(),
        addresses: addresses(),
        boottime: told(clock_gettime(ClockId::CLOCK_BOOTTIME).map(|time| time.tv_sec())),
        monotonic: told(clock_gettime(ClockId::CLOCK_MONOTONIC).map(|time| time.tv_sec())),
        sysctls: BTreeMap::new(),
        stats: BTreeMap::new(),
        lists: BTreeMap::new(),
        files: BTreeMap::new(),
        tries: BTreeMap::new(),
    };
    for question in questions {
        answer(&mut seen, question);
    }
    seen
}

fn answer(seen: &mut Seen, question: &str) {
    let (kind, argument) = question.split_once('=').unwrap_or((question, ""));
    let key = argument.to_owned();
    match kind {
        "sysctl" => {
            let path = format!("/proc/sys/{}", argument.replace('.', "/"));
            seen.sysctls.insert(
                key,
                Told(file(&path).0.map(|text| text.trim_end().to_owned())),
            );
        }
        "stat" => drop(seen.stats.insert(key, told(stat(argument)))),
        "ls" => drop(seen.lists.insert(key, told(list(argument)))),
        "cat" => drop(seen.files.insert(key, file(argument))),
        "try" => drop(seen.tries.insert(key, attempt::one(argument))),
        _ => drop(
            seen.tries
                .insert(question.to_owned(), "no such question".to_owned()),
        ),
    }
}

fn told<T, E: Display>(result: Result<T, E>) -> Told<T> {
    Told(result.map_err(|error| error.to_string()))
}

fn file(path: &str) -> Told<String> {
    Told(
        fs::read(path)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .map_err(|error| format!("{path}: {error}")),
    )
}

fn number(path: &str) -> Told<i32> {
    Told(file(path).0.and_then(|text| {
        text.trim()
            .parse()
            .map_err(|error| format!("{path}: {text:?}: {error}"))
    }))
}

fn status_field<T>(
    status: &Told<String>,
    name: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Told<T> {
    let find = |text: &String| {
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value
            .and_then(|value| parse(value.trim()))
            .ok_or_else(|| format!("no good {name} in /proc/self/status"))
    };
    Told(status.0.as_ref().map_err(String::clone).and_then(find))
}

fn signal_mask(hex: &str) -> Option<BTreeSet<u32>> {
    let mask = u64::from_str_radix(hex, 16).ok()?;
    Some(
        (1..=64)
            .filter(|signal| mask >> (signal - 1) & 1 == 1)
            .collect(),
    )
}

/// The umask can only be read by setting it.
fn current_umask() -> u32 {
    let mask = umask(Mode::empty());
    umask(mask);
    mask.bits()
}

fn capabilities() -> Caps {
    let set = |which| {
        told(caps::read(None, which).map(|set| {
            set.iter()
                .map(ToString::to_string)
                .collect::<BTreeSet<String>>()
        }))
    };
    Caps {
        bounding: set(CapSet::Bounding),
        effective: set(CapSet::Effective),
        inheritable: set(CapSet::Inheritable),
        permitted: set(CapSet::Permitted),
        ambient: set(CapSet::Ambient),
    }
}

fn rlimits() -> BTreeMap<String, Told<[u64; 2]>> {
    [
        ("RLIMIT_AS", Resource::RLIMIT_AS),
        ("RLIMIT_CORE", Resource::RLIMIT_CORE),
        ("RLIMIT_CPU", Resource::RLIMIT_CPU),
        ("RLIMIT_DATA", Resource::RLIMIT_DATA),
        ("RLIMIT_FSIZE", Resource::RLIMIT_FSIZE),
        ("RLIMIT_LOCKS", Resource::RLIMIT_LOCKS),
        ("RLIMIT_MEMLOCK", Resource::RLIMIT_MEMLOCK),
        ("RLIMIT_MSGQUEUE", Resource::RLIMIT_MSGQUEUE),
        ("RLIMIT_NICE", Resource::RLIMIT_NICE),
        ("RLIMIT_NOFILE", Resource::RLIMIT_NOFILE),
        ("RLIMIT_NPROC", Resource::RLIMIT_NPROC),
        ("RLIMIT_RSS", Resource::RLIMIT_RSS),
        ("RLIMIT_RTPRIO", Resource::RLIMIT_RTPRIO),
        ("RLIMIT_RTTIME", Resource::RLIMIT_RTTIME),
        ("RLIMIT_SIGPENDING", Resource::RLIMIT_SIGPENDING),
        ("RLIMIT_STACK", Resource::RLIMIT_STACK),
    ]
    .into_iter()
    .map(|(name, resource)| {
        (
            name.to_owned(),
            told(getrlimit(resource).map(|(soft, hard)| [soft, hard])),
        )
    })
    .collect()
}

fn links(directory: &str) -> Told<BTreeMap<String, String>> {
    let read = || {
        let mut links = BTreeMap::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            // The descriptor of this very listing is gone by the time somebody reads the report.
            if let Ok(target) = fs::read_link(entry.path()) {
                links.insert(
                    entry.file_name().to_string_lossy().into_owned(),
                    target.to_string_lossy().into_owned(),
                );
            }
        }
        Ok::<_, io::Error>(links)
    };
    Told(read().map_err(|error| format!("{directory}: {error}")))
}

fn open_files() -> Told<BTreeMap<i32, String>> {
    let own = format!("/proc/{}/fd", getpid());
    Told(links("/proc/self/fd").0.map(|links| {
        let numbered = links
            .into_iter()
            .filter_map(|(fd, target)| Some((fd.parse().ok()?, target)));
        numbered.filter(|(_, target)| *target != own).collect()
    }))
}

fn id_map(path: &str) -> Told<Vec<[u64; 3]>> {
    let row = |line: &str| {
        let numbers: Vec<u64> = line
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        <[u64; 3]>::try_from(numbers).map_err(|_| format!("{path}: bad line {line:?}"))
    };
    Told(
        file(path)
            .0
            .and_then(|text| text.lines().map(row).collect()),
    )
}

fn scheduler(attr: sys::SchedAttr) -> Scheduler {
    let sys::SchedAttr {
        policy,
        flags,
        nice,
        priority,
        runtime,
        deadline,
        period,
        ..
    } = attr;
    Scheduler {
        policy,
        flags,
        nice,
        priority,
        runtime,
        deadline,
        period,
    }
}

fn cpus(set: CpuSet) -> BTreeSet<usize> {
    (0..CpuSet::count())
        .filter(|cpu| set.is_set(*cpu).unwrap_or(false))
        .collect()
}

fn terminals() -> BTreeMap<i32, Terminal> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let standard: [(i32, BorrowedFd<'_>); 3] =
        [(0, stdin.as_fd()), (1, stdout.as_fd()), (2, stderr.as_fd())];
    let open = standard
        .into_iter()
        .filter(|(_, stream)| stream.is_terminal());
    open.map(|(fd, stream)| {
        let (rows, columns) = sys::window_size(stream).unwrap_or_default();
        let path = told(
            fs::read_link(format!("/proc/self/fd/{fd}")).map(|path| path.display().to_string()),
        );
        let controlling = tcgetsid(stream).is_ok_and(|session| getsid(None) == Ok(session));
        (
            fd,
            Terminal {
                path,
                rows,
                columns,
                controlling,
            },
        )
    })
    .collect()
}

fn interfaces() -> Told<BTreeMap<String, u32>> {
    let flags = |list: nix::ifaddrs::InterfaceAddressIterator| {
        list.map(|address| (address.interface_name, address.flags.bits() as u32))
            .collect()
    };
    told(nix::ifaddrs::getifaddrs().map(flags))
}

fn addresses() -> Told<BTreeMap<String, BTreeSet<String>>> {
    let text = |address: &SockaddrStorage, mask: &SockaddrStorage| {
        let bits = match (mask.as_sockaddr_in(), mask.as_sockaddr_in6()) {
            (Some(v4), _) => v4.ip().to_bits().count_ones(),
            (_, Some(v6)) => v6.ip().to_bits().count_ones(),
            _ => return None,
        };
        let v4 = address.as_sockaddr_in().map(|a| a.ip().to_string());
        let v6 = || address.as_sockaddr_in6().map(|a| a.ip().to_string());
        Some(format!("{}/{bits}", v4.or_else(v6)?))
    };
    told(nix::ifaddrs::getifaddrs().map(|list| {
        let mut found = BTreeMap::<String, BTreeSet<String>>::new();
        for entry in list {
            let addresses = found.entry(entry.interface_name).or_default();
            if let (Some(address), Some(mask)) = (&entry.address, &entry.netmask) {
                addresses.extend(text(address, mask));
            }
        }
        found
    }))
}

fn stat(path: &str) -> io::Result<Stat> {
    let data = fs::symlink_metadata(path)?;
    let kind = match SFlag::from_bits_truncate(data.mode() & SFlag::S_IFMT.bits()) {
        SFlag::S_IFDIR => Kind::Directory,
        SFlag::S_IFLNK => Kind::Symlink,
        SFlag::S_IFCHR => Kind::CharDevice,
        SFlag::S_IFBLK => Kind::BlockDevice,
        SFlag::S_IFIFO => Kind::Fifo,
        SFlag::S_IFSOCK => Kind::Socket,
        _ => Kind::File,
    };
    let link = (kind == Kind::Symlink)
        .then(|| fs::read_link(path))
        .transpose()?;
    Ok(Stat {
        kind,
        mode: data.mode() & 0o7777,
        uid: data.uid(),
        gid: data.gid(),
        rdev: (major(data.rdev()), minor(data.rdev())),
        size: data.size(),
        link: link.map(|target| target.to_string_lossy().into_owned()),
    })
}

fn list(path: &str) -> io::Result<Vec<String>> {
    let names = fs::read_dir(path)?
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
    names
        .collect::<io::Result<BTreeSet<_>>>()
        .map(|names| names.into_iter().collect())
}
