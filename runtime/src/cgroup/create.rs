//! Makes a container's group, with its limits and its device filter in force and no process in it.
//!
//! What fails half-way is taken back: no group remains that was not there before.

use super::events::Events;
use super::{Cgroup, Held, Hierarchy, Saved, files, systemd};
use crate::plan::cgroup::{CgroupPlan, Driver, Place, clean};
use crate::plan::systemd::{Unit, is_for_bfq};
use crate::report::{Context, Error, Kind, Result};
use crate::sys::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{Pid, Uid, UnlinkatFlags, fchown, fchownat, unlinkat};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The outcome of `create`.
#[derive(Debug)]
pub(crate) struct Created {
    /// None if the plan is to have none, or if it can do without and none can be made.
    pub(crate) cgroup: Option<Cgroup>,
    /// What was asked for and ignored.
    pub(crate) warnings: Vec<String>,
}

/// Where `create` makes the group.
#[derive(Debug)]
pub(crate) struct Located {
    pub(super) hierarchy: Hierarchy,
    pub(super) path: String,
    /// To the systemd that is to make it.
    bus: Option<systemd::Bus>,
    /// The trail, to be laid before anything is made.
    pub(crate) saved: Saved,
}

impl Located {
    /// Where the hierarchy is mounted on this host.
    pub(crate) fn mountpoint(&self) -> &Path {
        &self.hierarchy.mountpoint
    }

    /// What will be the group's directory, as a path of this host.
    pub(crate) fn host_path(&self) -> PathBuf {
        self.hierarchy.mountpoint.join(&self.path)
    }
}

/// Finds the place. None where no group is to be made, or can be. A group that is others' is refused already here: who follows the trail
/// kills what is in the group.
pub(crate) fn locate(plan: &CgroupPlan) -> Result<Option<Located>> {
    let located = find(plan)?;
    if let Some(located) = &located
        && let Some(cgroup) = Cgroup::open(&located.saved)?
    {
        cgroup.refuse_unless_idle()?;
    }
    Ok(located)
}

/// The group that `create` made after this plan, for a container whose state does not say any more. None if the plan does not tell either:
/// then its place depended on who created it. If there are processes where it would be if that was who asks now, they may be the
/// container's or another's: an error of the kind [`Kind::State`].
pub(crate) fn made_after(plan: &CgroupPlan) -> Result<Option<Saved>> {
    let Some(located) = find(plan)? else {
        return Ok(None);
    };
    match plan.place {
        Place::BelowRoot(_) | Place::Unit(_) => Ok(Some(located.saved)),
        Place::BesideOwn(_) => {
            if let Some(cgroup) = Cgroup::open(&located.saved)? {
                let doubt = || "what is known of it does not tell if these are its own";
                cgroup.refuse_unless_idle().context(doubt)?;
            }
            Ok(None)
        }
    }
}

fn find(plan: &CgroupPlan) -> Result<Option<Located>> {
    if plan.driver == Driver::Disabled {
        return Ok(None);
    }
    let Some(hierarchy) = Hierarchy::find()? else {
        return Ok(None);
    };
    let (path, bus, unit) = match &plan.place {
        Place::BelowRoot(path) => (path.clone(), None, None),
        Place::BesideOwn(path) => (beside_own(path)?, None, None),
        Place::Unit(unit) => {
            let (mut path, bus) = systemd::locate(unit)?;
            if let Some(name) = &unit.subgroup {
                path = format!("{path}/{name}");
            }
            (path, Some(bus), Some(unit.into()))
        }
    };
    let saved = Saved {
        driver: plan.driver,
        mountpoint: hierarchy.mountpoint.clone(),
        path: path.clone(),
        unit,
    };
    Ok(Some(Located {
        hierarchy,
        path,
        bus,
        saved,
    }))
}

/// A group is wanted, and there is no place for one.
pub(super) fn no_hierarchy() -> Error {
    let story = "no cgroup v2 hierarchy is mounted at /sys/fs/cgroup or at /sys/fs/cgroup/unified";
    Error::new(Kind::Unsupported, story)
}

/// Carries out the plan at the place that `locate` found.
pub(crate) fn create(plan: &CgroupPlan, located: Option<Located>) -> Result<Created> {
    let without = || Created {
        cgroup: None,
        warnings: plan.limits.warnings.clone(),
    };
    let Some(located) = located else {
        return if plan.may_do_without || plan.driver == Driver::Disabled {
            Ok(without())
        } else {
            Err(no_hierarchy())
        };
    };
    if let (Place::Unit(unit), Some(bus)) = (&plan.place, located.bus) {
        return create_unit(plan, unit, bus, located.hierarchy, located.path);
    }
    let (hierarchy, path) = (located.hierarchy, located.path);
    let mut made = Vec::new();
    let opened = make(&hierarchy, &path, &mut made).and_then(|()| {
        files::open_dir(&hierarchy.root, path.as_str()).context(|| format!("open cgroup '/{path}'"))
    });
    let dir = match opened {
        Ok(dir) => dir,
        Err(error) => {
            remove_made(&hierarchy, &made);
            let denied = matches!(
                error.errno(),
                Some(Errno::EPERM | Errno::EACCES | Errno::EROFS)
            );
            return match denied && plan.rootless {
                true if plan.may_do_without => Ok(without()),
                true => Err(error.context("rootless needs no limits + no cgrouppath when no permission is granted for cgroups")),
                false => Err(error),
            };
        }
    };
    let cgroup = Cgroup {
        hierarchy,
        path,
        dir,
        made,
        unit: None,
        held: None,
    };
    match cgroup.set_up(plan) {
        Ok(warnings) => Ok(Created {
            cgroup: Some(cgroup),
            warnings,
        }),
        Err(error) => {
            remove_made(&cgroup.hierarchy, &cgroup.made);
            Err(error)
        }
    }
}

/// Has systemd make the group, and does the rest as for any other.
fn create_unit(
    plan: &CgroupPlan,
    unit: &Unit,
    bus: systemd::Bus,
    hierarchy: Hierarchy,
    path: String,
) -> Result<Created> {
    let started = systemd::start(unit, bus)?;
    let opened = open_unit(unit, &hierarchy, &path);
    let (dir, above) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            drop(started.holder);
            systemd::stop(&started.unit).ok(); // It is not where it should be; that is what counts.
            return Err(error);
        }
    };
    let mut cgroup = Cgroup {
        hierarchy,
        path,
        dir,
        made: Vec::new(),
        unit: Some(started.unit),
        held: started.holder.map(|holder| Held {
            holder,
            pids_max: None,
            unit: above,
        }),
    };
    match cgroup.set_up_unit(plan, unit) {
        Ok(warnings) => Ok(Created {
            cgroup: Some(cgroup),
            warnings,
        }),
        Err(error) => {
            cgroup.discard().ok(); // The other failure came first.
            Err(error)
        }
    }
}

/// The container's group of a unit that has just been started, and the unit's own if that is another.
fn open_unit(unit: &Unit, hierarchy: &Hierarchy, path: &str) -> Result<(OwnedFd, Option<OwnedFd>)> {
    let open = |path: &str| {
        files::open_dir(&hierarchy.root, path)
            .context(|| format!("open cgroup '/{path}' of unit '{}'", unit.name))
    };
    match above(unit, path) {
        None => Ok((open(path)?, None)),
        Some(above) => {
            let above = open(above)?;
            // It goes with the unit.
            make(hierarchy, path, &mut Vec::new())?;
            Ok((open(path)?, Some(above)))
        }
    }
}

/// The path of the unit's group, if the container's is one below it.
fn above<'a>(unit: &Unit, path: &'a str) -> Option<&'a str> {
    let subgroup = unit.subgroup.as_ref()?;
    path.strip_suffix(subgroup)?.strip_suffix('/')
}

impl Cgroup {
    /// Takes `create` back: removes the group, if `create` made it, and the ancestors that were made for it, unless others use them by
    /// now. The processes must have been killed.
    pub(crate) fn discard(mut self) -> Result<()> {
        drop(self.held.take());
        if self.is_fresh() || self.unit.is_some() {
            self.remove()?;
        }
        remove_made(&self.hierarchy, &self.made);
        Ok(())
    }

    fn is_fresh(&self) -> bool {
        self.made.contains(&self.path)
    }

    /// Moves init into the group below this one that the container manages, and gives that all controllers. Not before: the group that
    /// init leaves is the root of its cgroup namespace, and has no processes of its own any more, which the kernel asks of one with children.
    pub(crate) fn hand_below(&mut self, plan: &CgroupPlan, init: i32) -> Result<()> {
        let Some(name) = &plan.delegated else {
            return Ok(());
        };
        let path = format!("{}/{name}", self.path);
        make(&self.hierarchy, &path, &mut self.made)?;
        let below = self.below(Path::new(name))?;
        below.add(Pid::from_raw(init))?;
        self.release()?;
        below.enable_from(&self.path)?;
        match plan.owner {
            Some(owner) => below.delegate(Uid::from_raw(owner)),
            None => Ok(()),
        }
    }

    fn set_up(&self, plan: &CgroupPlan) -> Result<Vec<String>> {
        if self.is_fresh() {
            self.enable_all()?;
        } else {
            self.refuse_unless_idle()?;
        }
        self.restrict(plan, self.is_fresh())
    }

    fn restrict(&self, plan: &CgroupPlan, fresh: bool) -> Result<Vec<String>> {
        let mut warnings = self.apply(&plan.limits)?;
        self.filter_devices(&plan.devices, fresh, plan.device_filter_may_fail)?;
        warnings.extend_from_slice(&plan.devices.warnings);
        if let Some(owner) = plan.owner {
            self.delegate(Uid::from_raw(owner))?;
        }
        Ok(warnings)
    }

    /// The same for a group that systemd has just made. A device filter that is there is systemd's own, by an annotation, and stays.
    fn set_up_unit(&mut self, plan: &CgroupPlan, unit: &Unit) -> Result<Vec<String>> {
        if let Some(above) = above(unit, &self.path) {
            // A group with processes gives its children no controllers.
            if let Some(held) = &self.held {
                self.add(Pid::from_raw(held.holder.pid))?;
            }
            self.enable_from(above)?;
        }
        let warnings = self.restrict(plan, true)?;
        if plan.limits.writes.iter().any(is_for_bfq) {
            self.tell_systemd(&plan.limits)?;
        }
        let pids_max = plan.limits.writes.iter().rfind(|w| w.file == "pids.max");
        let pids_max = pids_max.and_then(|write| write.value.parse::<u64>().ok());
        if let Some(held) = &mut self.held {
            held.pids_max = pids_max;
        }
        if let (Some(held), Some(limit)) = (&self.held, pids_max) {
            self.limit_pids(limit.saturating_add(1), held.unit.as_ref())?;
        }
        Ok(warnings)
    }

    /// The container has a process of its own: what has held the group for it until then goes.
    pub(crate) fn release(&mut self) -> Result<()> {
        let Some(held) = self.held.take() else {
            return Ok(());
        };
        drop(held.holder);
        match held.pids_max {
            Some(limit) => self.limit_pids(limit, held.unit.as_ref()),
            None => Ok(()),
        }
    }

    /// In the unit's group too, if that is another.
    fn limit_pids(&self, limit: u64, above: Option<&OwnedFd>) -> Result<()> {
        let limit = limit.to_string();
        if let Some(above) = above {
            files::write(above, "pids.max", &limit)
                .context(|| format!("write '{limit}' to pids.max above cgroup '/{}'", self.path))?;
        }
        self.write("pids.max", &limit)
    }

    /// A group that was there before may be used if nobody else uses it: with strangers in it, `kill` and `pause` would hit them, and
    /// in a frozen group the container would never start.
    fn refuse_unless_idle(&self) -> Result<()> {
        let state = Events::open(self)?.state()?;
        // Processes of other pid namespaces are listed as 0, and count.
        let count = if state.populated {
            self.members()?.len()
        } else {
            0
        };
        if count > 0 {
            let story = format!(
                "container's cgroup is not empty: {count} process(es) found in cgroup '/{}'",
                self.path
            );
            return Err(Error::new(Kind::State, story));
        }
        if self.is_frozen()? {
            return Err(Error::new(
                Kind::State,
                format!(
                    "container's cgroup unexpectedly frozen: cgroup '/{}'",
                    self.path
                ),
            ));
        }
        Ok(())
    }

    /// Hands the group over to a user: its directory and the files that the kernel lists as safe to delegate.
    fn delegate(&self, owner: Uid) -> Result<()> {
        const WITHOUT_A_LIST: &str = "cgroup.procs\ncgroup.threads\ncgroup.subtree_control\n";
        let list = match files::read(AT_FDCWD, "/sys/kernel/cgroup/delegate") {
            Err(Errno::ENOENT) => WITHOUT_A_LIST.to_owned(),
            read => read.context(|| "read /sys/kernel/cgroup/delegate")?,
        };
        fchown(&self.dir, Some(owner), None)
            .context(|| format!("give cgroup '/{}' to uid {owner}", self.path))?;
        for file in list.lines() {
            // The list also has mount options, and files of controllers that are not enabled here.
            match fchownat(
                &self.dir,
                file,
                Some(owner),
                None,
                AtFlags::AT_SYMLINK_NOFOLLOW,
            ) {
                Err(Errno::ENOENT) => {}
                chowned => chowned
                    .context(|| format!("give {file} of cgroup '/{}' to uid {owner}", self.path))?,
            }
        }
        Ok(())
    }
}

/// Makes the directory and those above it, and notes in `made` which were not there.
fn make(hierarchy: &Hierarchy, path: &str, made: &mut Vec<String>) -> Result<()> {
    let mut mkdir =
        |path: &str| match mkdirat(&hierarchy.root, path, Mode::from_bits_truncate(0o755)) {
            Ok(()) => {
                made.push(path.to_owned());
                Ok(())
            }
            Err(Errno::EEXIST) => Ok(()),
            Err(errno) => Err(errno),
        };
    // The parents are nearly always there.
    let first = mkdir(path);
    let result = match first {
        Err(Errno::ENOENT) => {
            let mut ends = path
                .match_indices('/')
                .map(|(end, _)| end)
                .chain([path.len()]);
            ends.try_for_each(|end| mkdir(&path[..end]))
        }
        result => result,
    };
    result.context(|| match result {
        Err(Errno::EAGAIN) => format!("make cgroup '/{path}' (cgroup.max.descendants or cgroup.max.depth of an ancestor is reached)"),
        _ => format!("make cgroup '/{path}'"),
    })
}

/// Removes what `make` made. Failure is not reported: a group that cannot be removed has been put to use by somebody else.
fn remove_made(hierarchy: &Hierarchy, made: &[String]) {
    for path in made.iter().rev() {
        unlinkat(&hierarchy.root, path.as_str(), UnlinkatFlags::RemoveDir).ok();
    }
}

fn beside_own(path: &str) -> Result<String> {
    let memberships =
        std::fs::read_to_string("/proc/self/cgroup").context(|| "read /proc/self/cgroup")?;
    beside(&memberships, path)
}

/// `path` below the parent of the group that /proc/self/cgroup names for the v2 hierarchy.
fn beside(memberships: &str, path: &str) -> Result<String> {
    let Some(own) = memberships
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
    else {
        return Err(Error::new(
            Kind::Unsupported,
            "/proc/self/cgroup names no group of the cgroup v2 hierarchy",
        ));
    };
    if own == "/.." || own.starts_with("/../") {
        // Seen from a cgroup namespace that this process is not below. The path would lead somewhere else.
        let story = format!(
            "own cgroup '{own}' is outside of the cgroup namespace: linux.cgroupsPath must be absolute"
        );
        return Err(Error::new(Kind::Unsupported, story));
    }
    let own = clean(Path::new(own));
    Ok(match own.rsplit_once('/') {
        Some((parent, _)) => format!("{parent}/{path}"),
        None => path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_beside_the_own_one_shares_its_parent() {
        let beside =
            |own: &str| super::beside(&format!("4:memory:/other\n0::{own}\n"), "web").unwrap();
        assert_eq!(
            beside("/user.slice/user-1000.slice/session-1.scope"),
            "user.slice/user-1000.slice/web"
        );
        assert_eq!(beside("/init.scope"), "web");
        assert_eq!(beside("/"), "web");
    }

    #[test]
    fn an_own_group_that_cannot_be_reached_is_refused() {
        for own in ["/..", "/../other"] {
            let error = beside(&format!("0::{own}\n"), "web").unwrap_err();
            assert!(error.to_string().contains("must be absolute"), "{error}");
        }
        assert_eq!(
            beside("4:memory:/a\n", "web").unwrap_err().kind(),
            Kind::Unsupported
        );
    }
}
