//! The plans of `mounts add` and `mounts remove`: one mount that comes into a container which is there already, or goes.
//!
//! A process joins the container for that. Sources are those of the host: the command opens them, or, if the container has a user namespace,
//! the stage lends them, so that the container cannot take flags of the host's mounts away (see `crate::init::lend`).

use super::mounts::{self, Kind, Surroundings};
use super::{Birth, Exec, Ids, Join, Open, Plan, Slot, Stage, Step, create, idmap, rootfs};
use crate::host::Host;
use crate::report::{Error, Result};
use oci_spec::runtime::{Linux, Mount};
use std::path::Path;

const MOUNT: u64 = libc::CLONE_NEWNS as u64;
const USER: u64 = libc::CLONE_NEWUSER as u64;
const PID: u64 = libc::CLONE_NEWPID as u64;
/// What sysfs, mqueue and cgroup2 show is that of the namespaces of who mounts them.
const SHOWN: u64 = (libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWCGROUP) as u64;

/// The container that the mount is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Container<'a> {
    pub(crate) id: &'a str,
    pub(crate) host: &'a Host,
    /// `CLONE_NEW*` of the namespaces that are its own; that of mounts is.
    pub(crate) namespaces: u64,
    /// The pid of its init here.
    pub(crate) init: i32,
    pub(crate) bundle: &'a Path,
    /// Its root directory on the host.
    pub(crate) rootfs: &'a Path,
    pub(crate) linux: &'a Linux,
    /// See [`mounts::label_option`].
    pub(crate) label_option: &'a str,
    /// Where its hierarchy of cgroups is mounted on the host, and its own group's directory there.
    pub(crate) cgroup: Option<(&'a Path, &'a Path)>,
}

/// Plans one mount more.
pub(crate) fn add(entry: &Mount, container: &Container<'_>) -> Result<Plan> {
    let mut opens = vec![Open::Process];
    let joined = match container.has(USER) {
        true => {
            let path = format!("/proc/{}/ns/user", container.init);
            opens.push(Open::Namespace(mounts::c_string(path)?));
            Some(Slot(1))
        }
        false => None,
    };
    let mut mount = mounts::plan(entry, &container.surroundings(joined))?;
    if mount.is_remount() {
        let text = "remount is for mounts that a container is created with";
        return Err(Error::invalid(text).in_field("options"));
    }
    match &mut mount.kind {
        Kind::Bind(bind) if bind.links.copy => {
            let text = "copy-symlink is for mounts that a container is created with";
            return Err(Error::invalid(text).in_field("options"));
        }
        Kind::Bind(bind) => {
            let propagation = rootfs::propagation(container.linux.rootfs_propagation().as_deref());
            let propagation = rootfs::source_propagation(propagation?);
            bind.outside = true;
            bind.slot = Some(Slot(opens.len()));
            opens.push(Open::Tree(create::source_tree(bind, propagation)));
        }
        // They are paths of the host.
        Kind::Cgroup { fallback, .. } => *fallback = None,
        Kind::Filesystem(filesystem) => filesystem.fallback = None,
        Kind::Empty => {}
    }
    let proc = matches!(&mount.kind, Kind::Filesystem(new) if new.fstype.as_c_str() == c"proc");
    let (birth, mut steps) = enter(container, SHOWN | if proc { PID } else { 0 });
    let late = mount.late_readonly;
    steps.push(Step::Mount(Box::new(mount)));
    steps.extend(late.then_some(Step::LateReadonly));
    Ok(plan(birth, opens, steps))
}

/// Plans the end of the mount at a destination.
pub(crate) fn remove(destination: &Path, container: &Container<'_>) -> Result<Plan> {
    let target = mounts::clean_target(mounts::below(container.rootfs, destination));
    if target == Path::new("/") {
        let text = format!("mount {destination:?}: the root itself is not unmounted");
        return Err(Error::invalid(text).in_field("destination"));
    }
    let (birth, mut steps) = enter(container, 0);
    steps.push(Step::Unmount(mounts::c_path(target)?));
    Ok(plan(birth, vec![Open::Process], steps))
}

fn plan(birth: Birth, opens: Vec<Open>, steps: Vec<Step>) -> Plan {
    Plan {
        birth,
        opens,
        steps,
        exec: Exec::nothing(),
        rlimits: Vec::new(),
        net_devices: Vec::new(),
    }
}

/// Into the container's mount namespace, and those of `others` that are its own. Not into the others: the fewer of its processes see this one,
/// the better.
fn enter(container: &Container<'_>, others: u64) -> (Birth, Vec<Step>) {
    let join = |flags| Join {
        slot: Slot(0),
        flags,
        path: format!("of container {:?}", container.id),
    };
    let userns = container.has(USER);
    let wanted = container.namespaces & (MOUNT | USER | others);
    let mut birth = Birth::default();
    let mut steps = vec![Step::NotDumpable];
    let first = wanted & (USER | PID);
    if first != 0 {
        let otherwise = Ids::default();
        birth.stage = Some(Stage {
            join: vec![join(first)],
            become_root: userns,
            otherwise,
            ..Stage::default()
        });
        if userns {
            // A copy of the stage's, for what it lends.
            birth.flags = MOUNT;
            steps.push(Step::BecomeRoot { otherwise });
        }
    }
    steps.push(Step::Join(join(wanted & !first)));
    steps.push(Step::UseRoot);
    (birth, steps)
}

impl<'a> Container<'a> {
    fn has(&self, namespace: u64) -> bool {
        self.namespaces & namespace != 0
    }

    fn surroundings(&self, joined: Option<Slot>) -> Surroundings<'a> {
        Surroundings {
            bundle: self.bundle,
            rootfs: self.rootfs,
            label: self.linux.mount_label().as_deref(),
            label_option: self.label_option,
            user_namespace: self.has(USER),
            network_namespace: self.has(libc::CLONE_NEWNET as u64),
            pid_namespace: self.has(PID),
            cgroup_namespace: self.has(libc::CLONE_NEWCGROUP as u64),
            cgroup_root: self.cgroup.map(|(root, _)| root),
            cgroup_path: self.cgroup.map(|(_, path)| path),
            id_maps: idmap::Container {
                maps: None,
                joined,
                privileged: self.host.sys_admin,
            },
        }
    }
}
