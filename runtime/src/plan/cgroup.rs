//! Which cgroup a container gets: its place in the hierarchy, its limits, its device filter.
//!
//! Pure: the plan is data that `cgroup` carries out. Whether the host has the controllers, and who may create a group, is found out
//! there. `limits` and `device_filter` hold the two halves of `linux.resources`.

use super::device_filter::{DeviceFilter, device_filter};
use super::limits::{self, Limits};
use super::systemd::{self, Unit};
use crate::report::{Error, Faults, Result};
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Component, Path};

/// Who makes the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Driver {
    /// The runtime makes a directory in the cgroup file system.
    Cgroupfs,
    /// systemd starts a unit.
    Systemd,
    /// Nobody: the container stays in the cgroup of its creator.
    Disabled,
}

/// What the plan is made from.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) id: &'a str,
    pub(crate) driver: Driver,
    /// `linux.cgroupsPath`
    pub(crate) cgroups_path: Option<&'a Path>,
    /// `linux.resources`
    pub(crate) resources: Option<&'a LinuxResources>,
    /// The runtime lacks privileges on the host, so a container that asks for nothing may do without a cgroup and without a device
    /// filter.
    pub(crate) rootless: bool,
    /// The runtime is itself in a user namespace, where bpf(2) is forbidden and device nodes cannot be made.
    pub(crate) in_user_namespace: bool,
    /// The user, as the host sees it, who may manage the group from inside the container. The caller decides whether it may: the spec
    /// asks for a cgroup namespace and a writable cgroup mount.
    pub(crate) owner: Option<u32>,
    /// Those of the config, which may have properties for systemd.
    pub(crate) annotations: Option<&'a HashMap<String, String>>,
}

/// Everything that creating the group takes.
#[derive(Debug, PartialEq)]
pub(crate) struct CgroupPlan {
    pub(crate) driver: Driver,
    pub(crate) place: Place,
    pub(crate) limits: Limits,
    pub(crate) devices: DeviceFilter,
    /// Run without a device filter where the kernel does not permit one.
    pub(crate) device_filter_may_fail: bool,
    pub(crate) rootless: bool,
    /// Run without a group if none can be made. Only so if nothing was asked of it: no limit, no path.
    pub(crate) may_do_without: bool,
    pub(crate) owner: Option<u32>,
    /// The group below that the container manages itself, where its init is. The limits stay on the one above.
    pub(crate) delegated: Option<String>,
}

/// crun's annotations for the groups of a container that manages some itself, as systemd does: the group below the unit's that has the
/// limits, and the one below that which is the container's own.
pub(crate) const SUBGROUP: &str = "run.oci.systemd.subgroup";
/// See [`SUBGROUP`].
pub(crate) const DELEGATED: &str = "run.oci.delegate-cgroup";

/// Where in the hierarchy the group is. The paths have neither `.` nor `..` nor empty components, and no `/` at their ends.
#[derive(Debug, PartialEq)]
pub(crate) enum Place {
    /// Below the root of the hierarchy.
    BelowRoot(String),
    /// Below the parent of the runtime's own group: its own holds processes, so it cannot give controllers to children.
    BesideOwn(String),
    /// Where systemd has the group of this unit.
    Unit(Unit),
}

/// Makes the plan. Refuses a path or resources that no host could satisfy.
pub(crate) fn plan(request: &Request<'_>) -> Result<CgroupPlan> {
    let mut faults = Faults::default();
    let plan = draft(request, &mut faults);
    faults.settle()?;
    plan.ok_or_else(|| Error::invalid("linux.cgroupsPath names no group"))
}

/// The same with all that is wrong, and with the plan without that, if there is a place for the group.
pub(crate) fn draft(request: &Request<'_>, faults: &mut Faults) -> Option<CgroupPlan> {
    const RESOURCES: &str = "linux.resources";
    let none = LinuxResources::default();
    let resources = request.resources.unwrap_or(&none);
    let mut wrong = Faults::default();
    let mut limits = limits::draft(resources, &mut wrong);
    faults.extend(RESOURCES, wrong);
    let rules = resources.devices().as_deref().unwrap_or_default();
    let devices = faults.keep_in(RESOURCES, device_filter(rules));
    let (id, path) = (request.id, request.cgroups_path);
    let place = match request.driver {
        Driver::Systemd => {
            systemd::round(&mut limits);
            let unit = systemd::unit(id, path, request.rootless, &limits, request.annotations);
            let subgroup = faults.keep_in("annotations", named(request, SUBGROUP))?;
            unit.map(|unit| Place::Unit(Unit { subgroup, ..unit }))
        }
        Driver::Cgroupfs | Driver::Disabled => place(path, id),
    };
    let place = faults.keep_in("linux.cgroupsPath", place)?;
    if request.driver == Driver::Disabled && !limits.controllers().is_empty() {
        let text = format!(
            "linux.resources has limits ({}), and cgroups are disabled",
            limits.controllers().join(", ")
        );
        faults.keep_in(RESOURCES, Err::<(), _>(Error::invalid(text)));
    }
    let path = request
        .cgroups_path
        .and_then(Path::to_str)
        .unwrap_or_default();
    if request.driver == Driver::Cgroupfs && path.split(':').count() == 3 && !path.contains('/') {
        // An engine that is set up for systemd and a runtime that is not: it works, in a place where nobody looks for it.
        limits.warnings.push(format!("linux.cgroupsPath '{path}' looks like systemd's slice:prefix:name, using it as a directory name"));
    }
    Some(CgroupPlan {
        driver: request.driver,
        place,
        may_do_without: request.rootless
            && request.driver != Driver::Systemd
            && path.is_empty()
            && limits.controllers().is_empty(),
        limits,
        devices: devices?,
        rootless: request.rootless,
        device_filter_may_fail: request.rootless || request.in_user_namespace,
        owner: request.owner,
        delegated: faults.keep_in("annotations", named(request, DELEGATED))?,
    })
}

/// The group that an annotation names. None if it names none: crun takes that for no wish.
fn named(request: &Request<'_>, annotation: &str) -> Result<Option<String>> {
    let value = request.annotations.and_then(|all| all.get(annotation));
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let path = Path::new(value);
    let climbs = path.components().any(|part| part == Component::ParentDir);
    match clean(path) {
        path if path.is_empty() || climbs || value.contains('\0') => Err(Error::invalid(format!(
            "{annotation} '{}' names no group below the container's",
            value.escape_default()
        ))),
        path => Ok(Some(path)),
    }
}

fn place(cgroups_path: Option<&Path>, id: &str) -> Result<Place> {
    let path = cgroups_path.unwrap_or(Path::new(""));
    let Some(text) = path.to_str() else {
        return Err(Error::invalid(format!(
            "linux.cgroupsPath '{}' is not UTF-8",
            path.display()
        )));
    };
    if text.is_empty() {
        return Ok(Place::BesideOwn(id.to_owned()));
    }
    let cleaned = clean(path);
    if cleaned.is_empty() {
        return Err(Error::invalid(format!(
            "linux.cgroupsPath '{text}' names no group: a container needs one of its own"
        )));
    }
    Ok(if path.is_absolute() {
        Place::BelowRoot(cleaned)
    } else {
        Place::BesideOwn(cleaned)
    })
}

/// Resolves `.` and `..` by the text alone. `..` stops at the top, so the result cannot leave the directory that it is joined to.
pub(crate) fn clean(path: &Path) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.extend(part.to_str()),
            Component::ParentDir => drop(parts.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(cgroups_path: &str) -> Request<'_> {
        Request {
            id: "web",
            driver: Driver::Cgroupfs,
            cgroups_path: Some(Path::new(cgroups_path)),
            resources: None,
            rootless: false,
            in_user_namespace: false,
            owner: None,
            annotations: None,
        }
    }

    fn place_of(cgroups_path: &str) -> Place {
        plan(&request(cgroups_path))
            .expect("the path is accepted")
            .place
    }

    #[test]
    fn an_absolute_path_is_below_the_root_and_others_are_beside_the_runtime() {
        assert_eq!(place_of("/pods/a"), Place::BelowRoot("pods/a".to_owned()));
        assert_eq!(place_of("pods/a"), Place::BesideOwn("pods/a".to_owned()));
        assert_eq!(place_of(""), Place::BesideOwn("web".to_owned()));
        let unset = Request {
            cgroups_path: None,
            ..request("")
        };
        assert_eq!(
            plan(&unset).unwrap().place,
            Place::BesideOwn("web".to_owned())
        );
    }

    #[test]
    fn dots_cannot_leave_the_hierarchy() {
        assert_eq!(
            place_of("/a/../../../b/./c//"),
            Place::BelowRoot("b/c".to_owned())
        );
        assert_eq!(place_of("../../b"), Place::BesideOwn("b".to_owned()));
        for path in ["/", ".", "..", "/a/..", "a/../..", "//"] {
            assert!(
                plan(&request(path))
                    .unwrap_err()
                    .to_string()
                    .contains("names no group"),
                "{path}"
            );
        }
    }

    #[test]
    fn a_systemd_path_is_a_name_with_a_warning() {
        let plan = plan(&request("system.slice:docker:web")).unwrap();
        assert_eq!(
            plan.place,
            Place::BesideOwn("system.slice:docker:web".to_owned())
        );
        assert_eq!(plan.limits.warnings.len(), 1);
    }

    #[test]
    fn only_a_rootless_container_that_asks_for_nothing_does_without() {
        let limited = serde_json::from_str(r#"{"pids":{"limit":5}}"#).unwrap();
        let unlimited = serde_json::from_str(
            r#"{"pids":{"limit":-1},"devices":[{"allow":false,"access":"rwm"}]}"#,
        )
        .unwrap();
        let may = |path, resources, rootless| {
            plan(&Request {
                resources: Some(resources),
                rootless,
                ..request(path)
            })
            .unwrap()
            .may_do_without
        };
        assert!(may("", &unlimited, true));
        assert!(!may("", &unlimited, false));
        assert!(!may("", &limited, true));
        assert!(!may("/web", &unlimited, true));
    }

    #[test]
    fn limits_without_a_cgroup_are_refused() {
        let limited = serde_json::from_str(r#"{"pids":{"limit":5},"memory":{"limit":5}}"#).unwrap();
        let request = Request {
            driver: Driver::Disabled,
            resources: Some(&limited),
            ..request("")
        };
        let text = plan(&request).unwrap_err().to_string();
        assert!(text.contains("pids, memory"), "{text}");
    }

    #[test]
    fn without_resources_the_default_device_filter_is_planned() {
        let plan = plan(&request("")).unwrap();
        assert!(!plan.devices.program.is_empty());
        assert_eq!(plan.limits, Limits::default());
    }
}
