//! What `create` would fail at, found without making a group: for `check`.
//!
//! Asks the same files in the same order. Where a group is not there yet, the nearest one above it that is there says what its children can have.

use super::controllers::{explain, missing, unavailable};
use super::create::{Located, locate, no_hierarchy};
use super::{Hierarchy, files};
use crate::plan::cgroup::{CgroupPlan, Driver, Place};
use crate::plan::limits::{Absent, Write};
use crate::report::Error;
use crate::sys::Errno;
use nix::unistd::{AccessFlags, faccessat};
use oci_spec::runtime::LinuxResources;
use std::os::fd::OwnedFd;

const PATH: &str = "linux.cgroupsPath";

/// The errors, with the fields of the config that they are about.
pub(crate) fn foresee(plan: &CgroupPlan, resources: Option<&LinuxResources>) -> Vec<Error> {
    if plan.driver == Driver::Disabled {
        return Vec::new();
    }
    let located = match locate(plan) {
        Ok(Some(located)) => located,
        Ok(None) if plan.may_do_without => return Vec::new(),
        Ok(None) => return vec![no_hierarchy().in_field(PATH)],
        Err(error) => return vec![error.in_field(PATH)],
    };
    let mut errors = Vec::new();
    for write in &plan.limits.writes {
        let needed = matches!(write.absent, Absent::Fail | Absent::Instead { .. });
        let Some(controller) = write.controller().filter(|_| needed) else {
            continue;
        };
        let field = field(write, resources);
        if let Err(error) = available(&located, controller) {
            errors.push(error.in_field(field));
        } else if let Some(why) = out_of_range(write) {
            let story = format!(
                "write '{}' to {}: {why}",
                write.value.trim_end(),
                write.file
            );
            errors.push(Error::invalid(story).in_field(field));
        }
    }
    if !matches!(plan.place, Place::Unit(_)) && !plan.may_do_without {
        errors.extend(makeable(&located).err());
    }
    errors
}

/// Whether a group at this place can have the controller.
fn available(located: &Located, controller: &str) -> Result<(), Error> {
    let hierarchy = &located.hierarchy;
    let all = files::read(&hierarchy.root, "cgroup.controllers").unwrap_or_default();
    if !missing(&[controller], &all).is_empty() {
        return Err(unavailable(hierarchy, controller));
    }
    // Each level must give it to its children; where it does not yet, that takes a group without processes.
    for (end, _) in located.path.match_indices('/') {
        let path = &located.path[..end];
        let Ok(group) = files::open_dir(&hierarchy.root, path) else {
            return Ok(()); // It will be made, and empty.
        };
        let enabled = files::read(&group, "cgroup.subtree_control").unwrap_or_default();
        if missing(&[controller], &enabled).is_empty() {
            continue;
        }
        let errno = if files::read(&group, "cgroup.procs").is_ok_and(|pids| !pids.is_empty()) {
            Errno::EBUSY
        } else if !writable(&group, "cgroup.subtree_control") {
            Errno::EACCES
        } else {
            continue;
        };
        return Err(explain(&group, path, controller, errno));
    }
    Ok(())
}

/// Whether this user may make the group, or what is missing of the path to it.
fn makeable(located: &Located) -> Result<(), Error> {
    let (nearest, path) = nearest(&located.hierarchy, &located.path);
    let exists = path == located.path;
    if exists || nearest.as_ref().is_none_or(|group| writable(group, ".")) {
        return Ok(());
    }
    Err(Error::os(format!("make cgroup '/{}'", located.path), Errno::EACCES).in_field(PATH))
}

/// The group, or else the nearest above it that is there.
fn nearest<'a>(hierarchy: &Hierarchy, path: &'a str) -> (Option<OwnedFd>, &'a str) {
    let mut path = path;
    loop {
        if let Ok(group) = files::open_dir(&hierarchy.root, path) {
            return (Some(group), path);
        }
        match path.rsplit_once('/') {
            Some((above, _)) => path = above,
            None => return (hierarchy.root.try_clone().ok(), ""),
        }
    }
}

fn writable(group: &OwnedFd, file: &str) -> bool {
    faccessat(
        group,
        file,
        AccessFlags::W_OK,
        nix::fcntl::AtFlags::AT_EACCESS,
    )
    .is_ok()
}

/// Values that the kernel refuses wherever they are written (cgroup-v2.rst).
fn out_of_range(write: &Write) -> Option<String> {
    let within = |least: u64, most: u64| {
        let number: u64 = write.value.trim().parse().ok()?;
        let out = !(least..=most).contains(&number);
        out.then(|| format!("it must be between {least} and {most}"))
    };
    match write.file.as_str() {
        "cpu.weight" | "io.weight" => within(1, 10_000),
        "cpu.idle" => within(0, 1),
        "cpu.max" => {
            let (quota, period) = write.value.split_once(' ')?;
            let period: u64 = period.parse().ok()?;
            if !(1000..=1_000_000).contains(&period) {
                return Some("the period must be between 1000 and 1000000".to_owned());
            }
            let quota: u64 = quota.parse().ok()?;
            (quota < 1000).then(|| "the quota must be at least 1000".to_owned())
        }
        "io.max" => {
            let device = write.value.split(' ').next()?;
            let path = format!("/sys/dev/block/{device}");
            (!std::path::Path::new(&path).exists())
                .then(|| format!("there is no block device {device}"))
        }
        "cpuset.cpus" | "cpuset.mems" => {
            let list = write.value.trim();
            let digits = |c: char| c.is_ascii_digit() || matches!(c, ',' | '-');
            (!list.chars().all(digits)).then(|| "not a list such as 0-2,5".to_owned())
        }
        file => {
            let size = file.strip_prefix("hugetlb.")?.split('.').next()?;
            let kilobytes = kilobytes(size)?;
            let path = format!("/sys/kernel/mm/hugepages/hugepages-{kilobytes}kB");
            (!std::path::Path::new(&path).exists())
                .then(|| format!("this host has no pages of {size}"))
        }
    }
}

/// `2MB` as 2048.
fn kilobytes(size: &str) -> Option<u64> {
    let digits = size.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    match &size[digits.len()..] {
        "KB" => Some(number),
        "MB" => Some(number << 10),
        "GB" => Some(number << 20),
        _ => None,
    }
}

/// The field that a file's value comes from.
fn field(write: &Write, resources: Option<&LinuxResources>) -> String {
    let file = write.file.as_str();
    let unified = resources.and_then(|resources| resources.unified().as_ref());
    if unified.is_some_and(|unified| unified.contains_key(file)) {
        return format!("linux.resources.unified[{file:?}]");
    }
    let cpu = resources.and_then(|resources| resources.cpu().as_ref());
    let has_quota = cpu.is_some_and(|cpu| cpu.quota().is_some_and(|quota| quota != 0));
    let field = match file {
        "pids.max" => "pids.limit",
        "memory.max" => "memory.limit",
        "memory.low" => "memory.reservation",
        "memory.swap.max" => "memory.swap",
        "cpu.weight" => "cpu.shares",
        "cpu.idle" => "cpu.idle",
        "cpu.max" if has_quota => "cpu.quota",
        "cpu.max" => "cpu.period",
        "cpu.max.burst" => "cpu.burst",
        "cpuset.cpus" => "cpu.cpus",
        "cpuset.mems" => "cpu.mems",
        "io.bfq.weight" | "io.weight" => "blockIO.weight",
        "io.max" => "blockIO",
        "rdma.max" => "rdma",
        _ if file.starts_with("hugetlb.") => "hugepageLimits",
        _ => return "linux.resources".to_owned(),
    };
    format!("linux.resources.{field}")
}
