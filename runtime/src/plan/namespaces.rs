//! `linux.namespaces`, id mappings and time offsets: what is created, what is joined, and by which process.
//!
//! Pure. See namespaces(7), user_namespaces(7), time_namespaces(7) and clone(2).

use super::{Birth, Ids, Join, Open, Slot, Stage};
use crate::host::Host;
use crate::report::{Error, Faults, Result};
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespace, LinuxNamespaceType};
use std::ffi::CString;
use std::fmt::Write;
use std::path::Path;

/// linux/sched.h; kernel 5.6.
pub(crate) const CLONE_NEWTIME: i32 = 0x80;

/// The namespaces of a container.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    /// `CLONE_NEW*` of those that are made for it.
    pub(crate) new: u64,
    /// Those that it joins.
    pub(crate) joined: u64,
    pub(crate) birth: Birth,
    /// `CLONE_NEW*` of those of the new ones that init makes for itself, after it has joined others and become root.
    pub(crate) unshared: u64,
    /// Joined by init itself, in this order.
    pub(crate) joins: Vec<Join>,
    pub(crate) opens: Vec<Open>,
    /// The user namespace that it joins.
    pub(crate) joined_user: Option<Slot>,
}

impl Namespaces {
    /// Whether the container has its own (new or joined) namespace of this `CLONE_NEW*` kind.
    pub(crate) fn has(&self, flag: i32) -> bool {
        (self.new | self.joined) & flag as u64 != 0
    }
}

/// One side of the mappings of a user namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct IdMaps {
    pub(crate) uids: Vec<IdMap>,
    pub(crate) gids: Vec<IdMap>,
}

/// One line of uid_map or gid_map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IdMap {
    pub(crate) container: u32,
    pub(crate) host: u32,
    pub(crate) size: u32,
}

#[cfg(test)]
impl IdMap {
    pub(crate) fn of(container: u32, host: u32, size: u32) -> IdMap {
        IdMap {
            container,
            host,
            size,
        }
    }
}

/// The text that uid_map and gid_map take.
pub(crate) fn map_text(maps: &[IdMap]) -> String {
    maps.iter().fold(String::new(), |mut text, map| {
        // Writing to a String cannot fail.
        writeln!(text, "{} {} {}", map.container, map.host, map.size).ok();
        text
    })
}

/// The host's id for one of the container's; None if it is not mapped.
pub(crate) fn host_id(maps: &[IdMap], id: u32) -> Option<u32> {
    let map = maps
        .iter()
        .find(|map| id >= map.container && id - map.container < map.size)?;
    map.host.checked_add(id - map.container)
}

/// Whether the maps have this one id of the host and no other: what an unprivileged user may write himself.
pub(crate) fn maps_only(maps: &[IdMap], id: u32) -> bool {
    matches!(maps, [map] if map.size == 1 && map.host == id)
}

pub(super) fn id_maps(mappings: Option<&Vec<LinuxIdMapping>>) -> Vec<IdMap> {
    let map = |m: &LinuxIdMapping| IdMap {
        container: m.container_id(),
        host: m.host_id(),
        size: m.size(),
    };
    mappings.into_iter().flatten().map(map).collect()
}

/// Works out how init comes into its namespaces.
pub(crate) fn plan(linux: &Linux, host: &Host, faults: &mut Faults) -> Namespaces {
    let mut ns = Namespaces::default();
    let mut paths = Vec::new();
    for (at, entry) in linux.namespaces().iter().flatten().enumerate() {
        let flag = entry.typ() as u64;
        let path = faults.keep_in(format!("linux.namespaces[{at}]"), path_of(entry, &ns));
        match path {
            Some(Some(path)) => {
                ns.joined |= flag;
                paths.push((flag, path, at));
            }
            _ => ns.new |= flag,
        }
    }
    faults.keep(map_ids(linux, &mut ns));
    let offsets = faults
        .keep_in("linux.timeOffsets", time_offsets(linux, &ns))
        .flatten();
    // Joined in the order in which each may need what the one before gives: a privileged caller joins the user namespace last, since
    // it may lose its rights over the others with it; an unprivileged one first, since it has no rights before.
    let user_rank = if host.sys_admin { 8 } else { 0 };
    paths.sort_unstable_by_key(|&(flag, _, at)| {
        let is_user = flag == LinuxNamespaceType::User as u64;
        (if is_user { user_rank } else { 4 }, at)
    });
    for (flag, path, at) in paths {
        let file = super::mounts::c_path(path);
        let Some(file) = faults.keep_in(format!("linux.namespaces[{at}].path"), file) else {
            continue;
        };
        let slot = Slot(ns.opens.len());
        if flag == LinuxNamespaceType::User as u64 {
            ns.joined_user = Some(slot);
        }
        ns.opens.push(Open::Namespace(file));
        ns.joins.push(Join {
            slot,
            flags: flag,
            path: path.display().to_string(),
        });
    }
    settle(&mut ns, offsets, host);
    ns
}

/// The path of a namespace to join, if it is one, and the first of its kind.
fn path_of<'a>(entry: &'a LinuxNamespace, others: &Namespaces) -> Result<Option<&'a Path>> {
    if others.has(entry.typ() as i32) {
        return Err(Error::invalid(format!(
            "malformed spec file: duplicated ns {:?}",
            entry.typ().to_string()
        )));
    }
    let path = entry.path().as_deref();
    match path.filter(|path| !path.as_os_str().is_empty()) {
        Some(path) if !path.is_absolute() => {
            let text = format!("namespace path {} is not absolute", path.display());
            Err(Error::invalid(text).in_field("path"))
        }
        path => Ok(path),
    }
}

/// Decides which process creates and joins what.
fn settle(ns: &mut Namespaces, offsets: Option<CString>, host: &Host) {
    let user = libc::CLONE_NEWUSER as u64;
    let pid = libc::CLONE_NEWPID as u64;
    let joins_user = ns.joined & user != 0;
    let makes_user = ns.new & user != 0;
    // The root of a new cgroup namespace is its creator's cgroup, in which init is by then. The mqueue file system of a new IPC namespace
    // belongs to its creator, who is root of the container only when ids are mapped: /dev/mqueue would be nobody's.
    let ipc = if makes_user { libc::CLONE_NEWIPC } else { 0 };
    ns.unshared = ns.new & (libc::CLONE_NEWCGROUP | ipc) as u64;
    ns.birth.flags = ns.new & !ns.unshared;
    if host.may_return_to_pid_namespace() && !joins_user {
        // The parent can enter the pid namespace for its children.
        if let Some(at) = ns.joins.iter().position(|join| join.flags == pid) {
            ns.birth.pid_namespace = Some(ns.joins.remove(at).slot);
        }
    }
    let late_joins = makes_user && !ns.joins.is_empty();
    if !joins_user
        && offsets.is_none()
        && !late_joins
        && (ns.joined & pid == 0 || ns.birth.pid_namespace.is_some())
    {
        return;
    }
    let join = std::mem::take(&mut ns.joins);
    // With offsets, the user namespace must exist before the time namespace that it shall own, thus before init.
    let new_user = makes_user && offsets.is_some();
    if new_user {
        ns.birth.flags &= !user;
    }
    if offsets.is_some() {
        ns.birth.flags &= !(CLONE_NEWTIME as u64);
    }
    ns.birth.stage = Some(Stage {
        join,
        new_user,
        become_root: joins_user,
        otherwise: Ids::default(),
        time_offsets: offsets,
    });
}

fn map_ids(linux: &Linux, ns: &mut Namespaces) -> Result<()> {
    let maps = IdMaps {
        uids: id_maps(linux.uid_mappings().as_ref()),
        gids: id_maps(linux.gid_mappings().as_ref()),
    };
    if ns.new & libc::CLONE_NEWUSER as u64 == 0 {
        // Engines leave mappings in configs without a user namespace; runc ignores them too.
        return Ok(());
    }
    if maps.uids.is_empty() || maps.gids.is_empty() {
        let missing = match maps.uids.is_empty() {
            true => "linux.uidMappings",
            false => "linux.gidMappings",
        };
        let text = "user namespaces enabled, but no uidMappings and gidMappings: both are needed in config.json";
        return Err(Error::invalid(text).in_field(missing));
    }
    check_ranges(&maps).map_err(|error| error.in_field("linux"))?;
    ns.birth.id_maps = Some(maps);
    Ok(())
}

/// Whether every range has ids, and 32-bit ones only.
pub(super) fn check_ranges(maps: &IdMaps) -> Result<()> {
    let sides = [("uidMappings", &maps.uids), ("gidMappings", &maps.gids)];
    for (side, maps) in sides {
        for (at, map) in maps.iter().enumerate() {
            if map.size == 0
                || map.container.checked_add(map.size - 1).is_none()
                || map.host.checked_add(map.size - 1).is_none()
            {
                let text = format!(
                    "invalid id mapping {} {} {}",
                    map.container, map.host, map.size
                );
                return Err(Error::invalid(text).in_field(format!("{side}[{at}]")));
            }
        }
    }
    Ok(())
}

/// The text for timens_offsets; None where the time namespace starts with the host's clocks.
fn time_offsets(linux: &Linux, ns: &Namespaces) -> Result<Option<CString>> {
    let Some(offsets) = linux
        .time_offsets()
        .as_ref()
        .filter(|offsets| !offsets.is_empty())
    else {
        return Ok(None);
    };
    if ns.new & CLONE_NEWTIME as u64 == 0 {
        return Err(Error::invalid(
            "time namespace offsets specified, but a new time namespace isn't in the config",
        ));
    }
    let mut text = String::new();
    for (clock, offset) in offsets {
        if clock != "monotonic" && clock != "boottime" {
            return Err(Error::invalid(format!(
                "unknown clock {clock:?} in timeOffsets"
            )));
        }
        let (secs, nanosecs) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
        if nanosecs >= 1_000_000_000 {
            let text = format!("{nanosecs} nanoseconds are a second or more");
            return Err(Error::invalid(text).in_field(format!("{clock}.nanosecs")));
        }
        // Writing to a String cannot fail.
        writeln!(text, "{clock} {secs} {nanosecs}").ok();
    }
    super::mounts::c_string(text).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        Host {
            euid: 0,
            egid: 0,
            sys_admin: true,
            initial_user_namespace: true,
            kcore: true,
        }
    }

    fn planned(json: &str) -> Result<Namespaces> {
        planned_on(json, &host())
    }

    fn planned_on(json: &str, host: &Host) -> Result<Namespaces> {
        let mut faults = Faults::default();
        let ns = plan(&serde_json::from_str(json).unwrap(), host, &mut faults);
        faults.settle().map(|()| ns)
    }

    #[test]
    fn the_cgroup_namespace_is_left_to_init() {
        let ns = planned(r#"{"namespaces":[{"type":"pid"},{"type":"cgroup"},{"type":"mount"}]}"#)
            .unwrap();
        assert_eq!(
            ns.birth.flags,
            (libc::CLONE_NEWPID | libc::CLONE_NEWNS) as u64
        );
        assert!(ns.birth.stage.is_none());
    }

    #[test]
    fn a_joined_pid_namespace_needs_no_intermediate_process() {
        let ns = planned(r#"{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"},{"type":"network","path":"/n"}]}"#).unwrap();
        assert_eq!(ns.birth.pid_namespace, Some(Slot(0)));
        assert!(ns.birth.stage.is_none());
        assert_eq!(ns.joins.len(), 1);
    }

    #[test]
    fn from_within_a_user_namespace_a_pid_namespace_is_joined_by_a_process_in_between() {
        let host = Host {
            initial_user_namespace: false,
            ..host()
        };
        let json = r#"{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}"#;
        let ns = planned_on(json, &host).unwrap();
        assert_eq!(ns.birth.pid_namespace, None);
        assert_eq!(ns.birth.stage.unwrap().join.len(), 1);
    }

    #[test]
    fn a_joined_user_namespace_owns_the_new_ones() {
        let ns = planned(r#"{"namespaces":[{"type":"user","path":"/u"},{"type":"network","path":"/n"},{"type":"mount"}]}"#).unwrap();
        let stage = ns.birth.stage.unwrap();
        assert_eq!(
            stage
                .join
                .iter()
                .map(|j| j.path.as_str())
                .collect::<Vec<_>>(),
            ["/n", "/u"]
        );
        assert!(stage.become_root);
    }

    #[test]
    fn duplicates_and_missing_mappings_are_refused() {
        assert!(planned(r#"{"namespaces":[{"type":"pid"},{"type":"pid"}]}"#).is_err());
        assert!(planned(r#"{"namespaces":[{"type":"user"}]}"#).is_err());
        assert!(planned(r#"{"timeOffsets":{"monotonic":{"secs":1}}}"#).is_err());
    }

    #[test]
    fn ids_map_within_their_ranges_only() {
        let maps = [IdMap::of(0, 1000, 1), IdMap::of(1, 100_000, 10)];
        assert_eq!(host_id(&maps, 0), Some(1000));
        assert_eq!(host_id(&maps, 10), Some(100_009));
        assert_eq!(host_id(&maps, 11), None);
    }
}
