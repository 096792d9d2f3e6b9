//! Who the process is to be: id maps, groups and capabilities.

use super::{Findings, Subject};
use crate::host;
use crate::plan::Step;
use crate::plan::namespaces::{IdMap, IdMaps, map_text, maps_only};
use crate::report::Error;
use crate::sys::cred::CapSets;
use crate::sys::{Errno, cred};
use std::fs::read_to_string;

/// Looks at the maps of a new user namespace, and at what the process gets.
pub(super) fn look(subject: &Subject<'_>, findings: &mut Findings) {
    let birth = &subject.plan.birth;
    if let Some(maps) = &birth.id_maps {
        let host = subject.host;
        for (side, maps, own) in [
            ("uid", &maps.uids, host.euid),
            ("gid", &maps.gids, host.egid),
        ] {
            let outcome = writable(maps).and_then(|()| match host.sys_admin {
                true => mapped_here(side, maps),
                false if maps_only(maps, own) => Ok(()),
                false => by_helper(side, maps, own, host.euid),
            });
            if let Err(error) = outcome {
                findings.error(error.in_field(format!("linux.{side}Mappings")));
            }
        }
    }
    let joins = birth.stage.as_ref().is_some_and(|stage| stage.become_root);
    let (mut bounding, mut root) = (u64::MAX, true);
    for step in &subject.plan.steps {
        match step {
            Step::Groups(groups) => supplementary(groups, subject, findings),
            Step::BoundingSet(keep) => bounding = *keep,
            Step::Ids { uid, .. } => root = *uid == 0,
            // In a user namespace of its own, init has all capabilities, and none that is inheritable.
            Step::Caps(sets) if birth.id_maps.is_some() || joins => {
                let all = CapSets {
                    permitted: u64::MAX,
                    effective: u64::MAX,
                    inheritable: 0,
                };
                capabilities(sets, &all, bounding, root, findings);
            }
            Step::Caps(sets) => {
                if let Ok(own) = cred::caps() {
                    capabilities(sets, &own, bounding, root, findings);
                }
            }
            _ => {}
        }
    }
}

/// What is wrong with the id map of a mount, whose user namespace is made by this command.
pub(super) fn of_mount(maps: &IdMaps) -> Result<(), Error> {
    for (side, maps) in [("uid", &maps.uids), ("gid", &maps.gids)] {
        let outcome = writable(maps).and_then(|()| mapped_here(side, maps));
        outcome.map_err(|error| error.in_field(format!("{side}Mappings")))?;
    }
    Ok(())
}

/// user_namespaces(7): the ranges of a map must not overlap, on either side, and there cannot be more than the kernel reads at once.
fn writable(maps: &[IdMap]) -> Result<(), Error> {
    const RANGES: usize = 340;
    const BYTES: usize = 4096;
    if maps.len() > RANGES || map_text(maps).len() >= BYTES {
        let text = format!(
            "{} ranges, and the kernel takes no more than {RANGES}, in less than {BYTES} bytes",
            maps.len()
        );
        return Err(Error::os(text, Errno::EINVAL));
    }
    let overlap = |a: u32, a_size: u32, b: u32, b_size: u32| {
        u64::from(a) < u64::from(b) + u64::from(b_size)
            && u64::from(b) < u64::from(a) + u64::from(a_size)
    };
    for (at, map) in maps.iter().enumerate() {
        let other = maps[..at].iter().position(|other| {
            overlap(map.container, map.size, other.container, other.size)
                || overlap(map.host, map.size, other.host, other.size)
        });
        if let Some(other) = other {
            let text = format!("it has ids of range {other}, too");
            return Err(Error::os(text, Errno::EINVAL).in_field(format!("[{at}]")));
        }
    }
    Ok(())
}

/// user_namespaces(7): each id must be one of the user namespace that the maps are written in.
fn mapped_here(side: &str, maps: &[IdMap]) -> Result<(), Error> {
    let Ok(own) = read_to_string(format!("/proc/self/{side}_map")) else {
        return Ok(());
    };
    let own: Vec<(u32, u32)> = own
        .lines()
        .filter_map(|line| range(line.split_whitespace()))
        .collect();
    for (at, map) in maps.iter().enumerate() {
        let within = |(first, size): &(u32, u32)| within(map, *first, *size);
        if !own.iter().any(within) {
            let text = format!(
                "host ids from {} on are not all mapped where this command runs",
                map.host
            );
            return Err(Error::os(text, Errno::EPERM).in_field(format!("[{at}]")));
        }
    }
    Ok(())
}

/// Whether newuidmap or newgidmap is there and may map these (subuid(5)).
fn by_helper(side: &str, maps: &[IdMap], own: u32, user: u32) -> Result<(), Error> {
    host::map_helper(&format!("new{side}map"))?;
    let file = format!("/etc/sub{side}");
    let Ok(text) = read_to_string(&file) else {
        return Ok(());
    };
    let name = name_of(user);
    let granted: Vec<(u32, u32)> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(who, _)| Some(*who) == name.as_deref() || who.parse() == Ok(user))
        .filter_map(|(_, rest)| {
            let (first, size) = rest.split_once(':')?;
            Some((first.parse().ok()?, size.trim().parse().ok()?))
        })
        .collect();
    for (at, map) in maps.iter().enumerate() {
        let alone = map.size == 1 && map.host == own;
        if !alone
            && !granted
                .iter()
                .any(|(first, size)| within(map, *first, *size))
        {
            let text = format!(
                "{file} does not give host ids {} to {} to user {}",
                map.host,
                map.host.saturating_add(map.size - 1),
                name.unwrap_or(user.to_string())
            );
            return Err(Error::invalid(text).in_field(format!("[{at}]")));
        }
    }
    Ok(())
}

fn name_of(user: u32) -> Option<String> {
    let passwd = read_to_string("/etc/passwd").unwrap_or_default();
    let mut lines = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>());
    let line = lines.find(|fields| fields.get(2).is_some_and(|id| id.parse() == Ok(user)))?;
    Some(line[0].to_owned())
}

/// The container's side and the size of a line of uid_map: those that are ids here.
fn range<'a>(mut numbers: impl Iterator<Item = &'a str>) -> Option<(u32, u32)> {
    let first = numbers.next()?.parse().ok()?;
    Some((first, numbers.nth(1)?.parse().ok()?))
}

fn within(map: &IdMap, first: u32, size: u32) -> bool {
    map.host >= first
        && u64::from(map.host) + u64::from(map.size) <= u64::from(first) + u64::from(size)
}

/// setgroups(2) is denied where a user maps his own group alone.
fn supplementary(groups: &[u32], subject: &Subject<'_>, findings: &mut Findings) {
    let Some(maps) = &subject.plan.birth.id_maps else {
        return;
    };
    if !groups.is_empty() && !subject.host.sys_admin && maps_only(&maps.gids, subject.host.egid) {
        let text =
            "setgroups(2) is denied in the user namespace of who maps but one group, his own";
        findings.wrong("process.user.additionalGids", text);
    }
}

/// capset(2), as init calls it: when the bounding set is what it is to be, and with another id than root's without effective capabilities.
fn capabilities(
    wanted: &CapSets,
    own: &CapSets,
    bounding: u64,
    root: bool,
    findings: &mut Findings,
) {
    const CAP_SETPCAP: u64 = 1 << 8;
    let free = root && own.effective & CAP_SETPCAP != 0;
    let may_inherit = match free {
        true => own.inheritable | bounding,
        false => (own.inheritable | own.permitted) & (own.inheritable | bounding),
    };
    let sets = [
        ("permitted", wanted.permitted & !own.permitted),
        ("effective", wanted.effective & !wanted.permitted),
        ("inheritable", wanted.inheritable & !may_inherit),
    ];
    for (set, missing) in sets.iter().filter(|(_, missing)| *missing != 0) {
        let names: Vec<String> = caps::all()
            .into_iter()
            .filter(|cap| cap.bitmask() & missing != 0)
            .map(|cap| cap.to_string())
            .collect();
        let names = names.join(", ");
        let text = match *set {
            "effective" => format!("{names} cannot be effective without being permitted"),
            "inheritable" => {
                format!("{names} cannot be inheritable without being in the bounding set")
            }
            _ => format!("{names}: this command does not have them to give"),
        };
        findings
            .error(Error::os(text, Errno::EPERM).in_field(format!("process.capabilities.{set}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_the_kernel_does_not_take_are_known() {
        assert!(
            writable(&[
                IdMap::of(0, 1000, 10),
                IdMap::of(10, 2000, 10),
                IdMap::of(20, 1010, 5)
            ])
            .is_ok()
        );
        for overlapping in [
            IdMap::of(9, 2000, 1),
            IdMap::of(10, 1009, 1),
            IdMap::of(0, 999, 2),
        ] {
            let error = writable(&[IdMap::of(0, 1000, 10), overlapping]).unwrap_err();
            assert_eq!(error.field(), "[1]");
        }
        let many = |count| -> Vec<IdMap> { (0..count).map(|id| IdMap::of(id, id, 1)).collect() };
        assert!(writable(&many(340)).is_ok());
        assert!(writable(&many(341)).is_err());
        // 300 lines of 16 bytes are more than a page.
        let long: Vec<IdMap> = (0..300)
            .map(|at| IdMap::of(10_000 + at, 100_000 + at, 1))
            .collect();
        assert!(writable(&long[..200]).is_ok());
        assert!(writable(&long).is_err());
    }
}
