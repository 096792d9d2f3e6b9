//! Namespaces to make and to join, and what is set in them: sysctls, network devices.

use super::{Findings, Subject};
use crate::plan::namespaces::CLONE_NEWTIME;
use crate::plan::{Join, Open, Plan, Slot, Step, names};
use crate::report::Error;
use crate::sys::process::{namespace_owner, namespace_type};
use crate::sys::{Errno, Result, fs};
use nix::time::{ClockId, clock_gettime};
use std::ffi::CStr;
use std::fs::read_to_string;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Looks at each namespace, and at what goes into them.
pub(super) fn look(subject: &Subject<'_>, findings: &mut Findings) {
    join(subject, findings);
    make(subject, findings);
    for step in &subject.plan.steps {
        if let Step::Sysctl { name, path, value } = step
            && let Err(error) = sysctl(&path.to_string_lossy(), &value.to_string_lossy())
        {
            findings.error(error.in_field(format!("linux.sysctl[{name:?}]")));
        }
    }
    names_of_others(subject, findings);
    if let Some(stage) = &subject.plan.birth.stage {
        time_offsets(stage.time_offsets.as_deref(), findings);
    }
    network_devices(subject, findings);
}

/// Devices to move, which must be there, and find no other of their name.
fn network_devices(subject: &Subject<'_>, findings: &mut Findings) {
    let devices = read_to_string("/proc/self/net/dev").unwrap_or_default();
    for device in &subject.plan.net_devices {
        let field = || format!("linux.netDevices[{:?}]", device.name);
        let there = |line: &str| {
            line.split_once(':')
                .is_some_and(|(name, _)| name.trim() == device.name)
        };
        if !devices.lines().any(there) {
            let text = format!("there is no network device {}", device.name);
            findings.wrong(field(), text);
        } else if device.name == "lo" {
            findings.wrong(field(), "a loopback device stays where it is");
        } else if device.new_name == "lo" {
            let text = "network device lo in the container";
            findings.error(Error::os(text, Errno::EEXIST).in_field(field()));
        }
    }
}

/// A UTS namespace that was there before the container's user namespace is not one to name.
fn names_of_others(subject: &Subject<'_>, findings: &mut Findings) {
    let uts = libc::CLONE_NEWUTS as u64;
    if subject.plan.birth.id_maps.is_none() || !joins(subject).any(|join| join.flags == uts) {
        return;
    }
    for step in &subject.plan.steps {
        let field = match step {
            Step::Hostname(_) => "hostname",
            Step::Domainname(_) => "domainname",
            _ => continue,
        };
        let text = format!("{step} in a UTS namespace of another user namespace");
        findings.error(Error::os(text, Errno::EPERM).in_field(field));
    }
}

/// time_namespaces(7): a clock shows neither less than 0 nor more than about 146 years.
fn time_offsets(text: Option<&CStr>, findings: &mut Findings) {
    /// KTIME_SEC_MAX / 2 of the kernel.
    const MOST: i64 = i64::MAX / 1_000_000_000 / 2;
    let text = text.unwrap_or_default().to_string_lossy();
    for line in text.lines() {
        let mut words = line.split(' ');
        let (Some(clock), Some(offset)) = (words.next(), words.next()) else {
            continue;
        };
        let id = match clock {
            "boottime" => ClockId::CLOCK_BOOTTIME,
            _ => ClockId::CLOCK_MONOTONIC,
        };
        let (Ok(offset), Ok(now)) = (offset.parse::<i64>(), clock_gettime(id)) else {
            continue;
        };
        if !(0..=MOST).contains(&now.tv_sec().saturating_add(offset)) {
            let text = format!("the clock would not show between 0 and {MOST} seconds");
            let field = format!("linux.timeOffsets.{clock}");
            findings.error(Error::os(text, Errno::ERANGE).in_field(field));
        }
    }
}

/// Namespaces that must be there.
fn join(subject: &Subject<'_>, findings: &mut Findings) {
    for (at, open) in subject.plan.opens.iter().enumerate() {
        let Open::Namespace(path) = open else {
            continue;
        };
        let outcome = fs::open_follow(fs::CWD, path, libc::O_RDONLY);
        let outcome = outcome.and_then(|file| joinable(&file, wanted(subject, Slot(at))));
        if let Err(errno) = outcome {
            let text = format!("join namespace {}", path.to_string_lossy());
            let listed = subject
                .spec
                .linux()
                .as_ref()
                .and_then(|linux| linux.namespaces().as_ref());
            let paths = listed
                .into_iter()
                .flatten()
                .map(|listed| listed.path().as_deref());
            let mut bytes = paths.map(|path| path.map(|path| path.as_os_str().as_bytes()));
            let at = bytes.position(|listed| listed == Some(path.to_bytes()));
            let field = format!("linux.namespaces[{}].path", at.unwrap_or_default());
            findings.error(Error::os(text, errno).in_field(field));
        }
    }
}

/// The kind of namespace that a file is opened for.
fn wanted(subject: &Subject<'_>, slot: Slot) -> u64 {
    let mut joins = joins(subject).filter(|join| join.slot == slot);
    joins
        .next()
        .map_or(libc::CLONE_NEWPID as u64, |join| join.flags)
}

/// The namespaces that are joined, but for one of pids.
fn joins<'a>(subject: &Subject<'a>) -> impl Iterator<Item = &'a Join> {
    let stage = subject.plan.birth.stage.iter();
    let steps = subject.plan.steps.iter().filter_map(|step| match step {
        Step::Join(join) => Some(join),
        _ => None,
    });
    stage.flat_map(|stage| &stage.join).chain(steps)
}

/// setns(2): why the kernel would refuse.
fn joinable(file: &OwnedFd, wanted: u64) -> Result<()> {
    let kind = match namespace_type(file) {
        Err(Errno::ENOTTY) => return Err(Errno::EINVAL),
        kind => kind?,
    };
    if kind != wanted {
        return Err(Errno::EINVAL);
    }
    if kind == libc::CLONE_NEWUSER as u64 {
        let own = fs::open_follow(fs::CWD, c"/proc/self/ns/user", libc::O_RDONLY)?;
        let (own, other) = (fs::stat(own)?, fs::stat(file)?);
        return match own.st_ino == other.st_ino {
            // Nobody joins the user namespace that he is in.
            true => Err(Errno::EINVAL),
            false => Ok(()),
        };
    }
    namespace_owner(file).map(drop)
}

/// `CLONE_NEW*` of the namespaces that are made for the container.
pub(super) fn new(plan: &Plan) -> u64 {
    let unshared = plan.steps.iter().fold(0, |flags, step| match step {
        Step::Unshare(more) => flags | more,
        _ => flags,
    });
    let stage = plan.birth.stage.as_ref().map_or(0, |stage| {
        let given = |is: bool, flag: i32| if is { flag as u64 } else { 0 };
        given(stage.new_user, libc::CLONE_NEWUSER)
            | given(stage.time_offsets.is_some(), CLONE_NEWTIME)
    });
    plan.birth.flags | unshared | stage
}

/// Namespaces of the container's own.
fn make(subject: &Subject<'_>, findings: &mut Findings) {
    const FILES: [(i32, &str); 8] = [
        (libc::CLONE_NEWUSER, "user"),
        (libc::CLONE_NEWNS, "mnt"),
        (libc::CLONE_NEWPID, "pid"),
        (libc::CLONE_NEWNET, "net"),
        (libc::CLONE_NEWIPC, "ipc"),
        (libc::CLONE_NEWUTS, "uts"),
        (libc::CLONE_NEWCGROUP, "cgroup"),
        (CLONE_NEWTIME, "time"),
    ];
    let new = new(subject.plan);
    for (flag, name) in FILES {
        if new & flag as u64 == 0 {
            continue;
        }
        let kind = names(flag as u64);
        if !Path::new(&format!("/proc/self/ns/{name}")).exists() {
            findings.wrong(
                "linux.namespaces",
                format!("this kernel has no {kind} namespaces"),
            );
        }
        let knob = format!("/proc/sys/user/max_{name}_namespaces");
        if read_to_string(&knob).is_ok_and(|most| most.trim() == "0") {
            findings.wrong(
                "linux.namespaces",
                format!("{knob} is 0: no {kind} namespace can be made"),
            );
        }
    }
    if new & libc::CLONE_NEWUSER as u64 != 0 && !subject.host.sys_admin {
        let says =
            |knob: &str, value: &str| read_to_string(knob).is_ok_and(|text| text.trim() == value);
        if says("/proc/sys/kernel/unprivileged_userns_clone", "0") {
            let text = "kernel.unprivileged_userns_clone is 0: only root may make user namespaces";
            findings.wrong("linux.namespaces", text);
        }
        if says(
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
        ) {
            let text = "kernel.apparmor_restrict_unprivileged_userns is 1: user namespaces of unprivileged users may have no rights";
            findings.warn("linux.namespaces", text);
        }
    }
}

/// A sysctl as this process's namespaces show it: the container's own have the same ones, but for devices.
fn sysctl(path: &str, value: &str) -> std::result::Result<(), Error> {
    let of_device = |family: &str| {
        let rest = path.strip_prefix(&format!("sys/net/{family}/"));
        let rest = rest.and_then(|rest| rest.split_once('/'));
        let name = rest.and_then(|(_, rest)| rest.split('/').next());
        let kind = rest.is_some_and(|(kind, _)| matches!(kind, "conf" | "neigh"));
        name.filter(|name| kind && !matches!(*name, "all" | "default" | "lo"))
    };
    if of_device("ipv4").or(of_device("ipv6")).is_some() {
        return Ok(()); // The device may come with netDevices.
    }
    let file = format!("/proc/{path}");
    let wrong = |errno| Error::os(format!("write {value:?} to {file}"), errno);
    let mode = std::fs::metadata(&file)
        .map_err(|error| wrong(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)))?;
    if mode.is_dir() {
        return Err(wrong(Errno::EISDIR));
    }
    if std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o222 == 0 {
        return Err(wrong(Errno::EACCES));
    }
    let numbers = |text: &str| text.split_whitespace().all(is_number);
    match read_to_string(&file) {
        Ok(now) if !now.trim().is_empty() && numbers(&now) && !numbers(value) => {
            Err(wrong(Errno::EINVAL))
        }
        _ => Ok(()),
    }
}

/// What the kernel takes for a number: decimal, or octal or hexadecimal with their prefixes.
fn is_number(word: &str) -> bool {
    let digits = word.strip_prefix('-').unwrap_or(word);
    match digits.strip_prefix("0x") {
        Some(hex) => !hex.is_empty() && hex.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()),
    }
}
