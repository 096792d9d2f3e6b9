//! The plan of a CRIU that takes a container's processes apart, or that makes them again: a process like a container's, which executes `criu`.
//!
//! Pure. To restore, CRIU wants the root to be where a mount begins, with everything there that the config's mounts are put on, as
//! `create` makes it. All of that happens in a mount namespace that ends with CRIU: the host sees none of it, and nothing is left behind.

use super::mounts::{self, Kind, Mount, Outside, Surroundings, c_path, c_string, clean_target};
use super::rootfs::{self, Root, Source};
use super::{Birth, Exec, Join, Open, Plan, Slot, Step, landlock, namespaces, validate};
use crate::report::{Error, Faults, Kind as ErrorKind, Result};
use crate::sys::process::CStringArray;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The program, found already.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    pub(crate) path: &'a Path,
    pub(crate) environment: Vec<CString>,
    /// Where the parent gets the socket from by which to talk to it.
    pub(crate) socket: i32,
    /// Descriptors that it is told of by number.
    pub(crate) passed: &'a [i32],
    /// Such ones of directories, with their paths: CRIU mounts in them, thus they have to be of its own mount namespace.
    pub(crate) directories: &'a [(i32, PathBuf)],
}

/// What comes into the container from outside: CRIU saves its name only.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct External {
    /// Where it is in the container, as the config has it.
    pub(crate) target: PathBuf,
    pub(crate) source: PathBuf,
    /// `MOUNT_ATTR_*` that it has.
    attributes: u64,
}

/// The attributes that restrict.
const KEPT: u64 = libc::MOUNT_ATTR_RDONLY
    | libc::MOUNT_ATTR_NOSUID
    | libc::MOUNT_ATTR_NODEV
    | libc::MOUNT_ATTR_NOEXEC
    | libc::MOUNT_ATTR_NOSYMFOLLOW;

/// Plans a process that restricts mounts of a restored container, which does not run yet. Of several mounts of one file CRIU gives its attributes
/// to one only: the others would be writable. And it masks what was there when it saved: a file system or a kernel may have more by now. None: there
/// is nothing to restrict.
pub(crate) fn restrict(spec: &Spec, options: &Outside<'_>) -> Result<Option<Plan>> {
    let join = Join {
        slot: Slot(0),
        flags: libc::CLONE_NEWNS as u64,
        path: "of the restored container".to_owned(),
    };
    // The first of them while the host's /dev is there.
    let mut steps = vec![Step::MaskSources, Step::Join(join), Step::UseRoot];
    let before = steps.len();
    for external in externals(spec, options)? {
        if external.attributes != 0 {
            steps.push(Step::Restrict {
                path: c_path(&external.target)?,
                attributes: external.attributes,
            });
        }
    }
    for masked in masked(spec) {
        steps.push(Step::MaskedAgain(c_path(&masked)?));
    }
    if steps.len() == before {
        return Ok(None);
    }
    Ok(Some(Plan {
        birth: Birth::default(),
        opens: vec![Open::Process],
        steps,
        exec: Exec::nothing(),
        rlimits: Vec::new(),
        net_devices: Vec::new(),
    }))
}

/// Plans the process that saves a container.
pub(crate) fn dump(program: Program<'_>) -> Result<Plan> {
    plan(program, Birth::default(), Vec::new())
}

/// Plans the process that restores one.
pub(crate) fn restore(spec: &Spec, options: &Outside<'_>, program: Program<'_>) -> Result<Plan> {
    let path = c_path(options.rootfs)?;
    // Those of its creator, which CRIU's process has, are not the container's.
    let mut steps = vec![
        Step::Cpus(None),
        Step::Propagation(libc::MS_SLAVE | libc::MS_REC),
    ];
    mount_root(spec, &path, &mut steps)?;
    let mounted = steps.len();
    targets(spec, options, &mut steps)?;
    if steps.len() > mounted {
        // Without what the targets were made in.
        steps.push(Step::LeaveRoot(path.clone()));
        mount_root(spec, &path, &mut steps)?;
    }
    let birth = Birth {
        flags: libc::CLONE_NEWNS as u64,
        ..Birth::default()
    };
    plan(program, birth, steps)
}

fn plan(program: Program<'_>, birth: Birth, mut steps: Vec<Step>) -> Result<Plan> {
    steps.push(Step::Umask(0o022));
    steps.extend(program.passed.iter().map(|number| Step::Pass(*number)));
    for (number, path) in program.directories {
        steps.push(Step::Reopen {
            path: c_path(path)?,
            number: *number,
        });
    }
    // CRIU looks descriptors up in the process that has made its socket: which is it itself then.
    steps.push(Step::Converse(program.socket));
    steps.extend([Step::ResetSignals, Step::Exec]);
    let argv = ["criu", "swrk", &program.socket.to_string()];
    let argv = argv.iter().map(c_string).collect::<Result<_>>()?;
    Ok(Plan {
        birth,
        opens: Vec::new(),
        steps,
        exec: Exec {
            argv: CStringArray::new(argv),
            envp: CStringArray::new(program.environment),
            candidates: vec![c_path(program.path)?],
        },
        rlimits: Vec::new(),
        net_devices: Vec::new(),
    })
}

fn mount_root(spec: &Spec, path: &CString, steps: &mut Vec<Step>) -> Result<()> {
    let userns = has(spec, LinuxNamespaceType::User);
    let source = match rootfs::overlay(spec.annotations().as_ref(), userns)? {
        Some(overlay) => {
            steps.extend(overlay.open());
            Source::Overlay(overlay)
        }
        None => Source::Directory { slot: None },
    };
    steps.push(Step::Root(Root {
        path: path.clone(),
        source,
    }));
    Ok(())
}

/// What the mounts are put on. Binds are made, since others may be put on what is in them; of other file systems CRIU brings the content.
fn targets(spec: &Spec, options: &Outside<'_>, steps: &mut Vec<Step>) -> Result<()> {
    let mounts = planned(spec, options)?;
    let is_bind = |mount: &Mount| matches!(mount.kind, Kind::Bind(_));
    let path = |mount: &Mount| PathBuf::from(OsStr::from_bytes(mount.target.as_bytes()));
    let filesystems = mounts.iter().filter(|mount| !is_bind(mount));
    let filesystems: Vec<PathBuf> = filesystems.map(path).collect();
    for mount in mounts {
        let target = path(&mount);
        let within = |above: &PathBuf| target != *above && target.starts_with(above);
        if filesystems.iter().any(within) {
            continue;
        }
        steps.push(match is_bind(&mount) {
            true => Step::Mount(Box::new(mount)),
            false => Step::MakeDirectory(mount.target),
        });
    }
    Ok(())
}

/// The config's binds, and the nodes of /dev that are such in a user namespace.
pub(crate) fn externals(spec: &Spec, options: &Outside<'_>) -> Result<Vec<External>> {
    let path = |text: &CString| PathBuf::from(OsStr::from_bytes(text.as_bytes()));
    let mut externals = Vec::new();
    for mount in planned(spec, options)? {
        if let Kind::Bind(bind) = &mount.kind {
            externals.push(External {
                target: path(&mount.target),
                source: path(&bind.source),
                attributes: mount.set & KEPT,
            });
        }
    }
    let userns = has(spec, LinuxNamespaceType::User);
    let mut faults = Faults::default();
    let devices = rootfs::devices(spec, userns, options.host.kcore, &mut faults);
    faults.settle()?;
    for step in devices {
        if let Step::Device(device) = step
            && device.bind
        {
            let node = path(&device.path);
            externals.push(External {
                target: node.clone(),
                source: node,
                attributes: 0,
            });
        }
    }
    Ok(externals)
}

fn planned(spec: &Spec, options: &Outside<'_>) -> Result<Vec<Mount>> {
    let Some(linux) = spec.linux() else {
        return Err(Error::invalid("config.json has no linux section"));
    };
    let mut faults = Faults::default();
    let ns = namespaces::plan(linux, options.host, &mut faults);
    validate::check(spec, &ns, options.host, &mut faults);
    faults.settle()?;
    let label_option = mounts::label_option(spec.annotations().as_ref())?;
    let around = Surroundings::new(linux, &ns, label_option, options);
    let entries = spec.mounts().iter().flatten();
    entries.map(|entry| mounts::plan(entry, &around)).collect()
}

/// Refuses what would come back as something else: with less protection than the config asks for, or without what was written.
pub(crate) fn check(spec: &Spec, options: &Outside<'_>) -> Result<()> {
    let refuse = |what: &str| {
        let text = format!("{what}, so that the container cannot be restored as it was");
        Err(Error::new(ErrorKind::Unsupported, text))
    };
    let annotations = spec.annotations().as_ref();
    if annotations.is_some_and(|all| all.contains_key(landlock::ANNOTATION)) {
        return refuse("CRIU does not save Landlock rules");
    }
    let userns = has(spec, LinuxNamespaceType::User);
    if rootfs::overlay(annotations, userns)?.is_some_and(|overlay| overlay.upper.is_none()) {
        return refuse(
            "what the container has written to its overlay root is on a tmpfs that CRIU does not save (annotations dev.caisson.overlay.upper and dev.caisson.overlay.work name directories for it)",
        );
    }
    let id_mapped =
        |mount: &Mount| matches!(&mount.kind, Kind::Bind(bind) if bind.id_map.is_some());
    match planned(spec, options)?
        .iter()
        .find(|mount| id_mapped(mount))
    {
        Some(mount) => refuse(&format!(
            "CRIU does not save the id mapping of mount {}",
            mount.target.to_string_lossy()
        )),
        None => Ok(()),
    }
}

/// `linux.maskedPaths` as paths in the root.
pub(crate) fn masked(spec: &Spec) -> impl Iterator<Item = PathBuf> {
    let linux = spec.linux().as_ref();
    let paths = linux.and_then(|linux| linux.masked_paths().as_ref());
    let paths = paths.into_iter().flatten();
    paths.map(|path| clean_target(Path::new(path)))
}

fn has(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    let linux = spec.linux().as_ref();
    let list = linux.and_then(|linux| linux.namespaces().as_ref());
    list.into_iter().flatten().any(|ns| ns.typ() == kind)
}

/// A namespace that the container has not for itself, as CRIU wants to hear of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Foreign<'a> {
    /// CRIU leaves it out, and takes the one that is handed to it under this key.
    External {
        kind: &'static str,
        key: &'static str,
        path: &'a Path,
    },
    /// CRIU joins it by its path.
    Joined { kind: &'static str, path: &'a Path },
}

/// Those that the config names by a path.
pub(crate) fn foreign(spec: &Spec) -> Result<Vec<Foreign<'_>>> {
    use LinuxNamespaceType as Type;
    let linux = spec.linux().as_ref();
    let list = linux.and_then(|linux| linux.namespaces().as_ref());
    let mut foreign = Vec::new();
    for entry in list.into_iter().flatten() {
        let Some(path) = entry
            .path()
            .as_deref()
            .filter(|path| !path.as_os_str().is_empty())
        else {
            continue;
        };
        let joined = |kind| Foreign::Joined { kind, path };
        foreign.push(match entry.typ() {
            Type::Network => Foreign::External {
                kind: "net",
                key: "extRootNetNS",
                path,
            },
            Type::Pid => Foreign::External {
                kind: "pid",
                key: "extRootPidNS",
                path,
            },
            Type::Mount => joined("mnt"),
            Type::Ipc => joined("ipc"),
            Type::Uts => joined("uts"),
            Type::User => joined("user"),
            Type::Time => joined("time"),
            Type::Cgroup => {
                let text = "Do not know how to handle namespace cgroup";
                return Err(Error::new(ErrorKind::Unsupported, text));
            }
        });
    }
    Ok(foreign)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Host;

    const HOST: Host = Host {
        euid: 0,
        egid: 0,
        sys_admin: true,
        initial_user_namespace: true,
        kcore: true,
    };

    fn options() -> Outside<'static> {
        Outside {
            bundle: Path::new("/b"),
            rootfs: Path::new("/b/rootfs"),
            host: &HOST,
            cgroup_root: Some(Path::new("/sys/fs/cgroup")),
            cgroup_path: Some(Path::new("/sys/fs/cgroup/c")),
        }
    }

    fn spec(rest: &str) -> Spec {
        let text = format!(
            r#"{{"ociVersion":"1.0.2","process":{{"cwd":"/","args":["x"],"user":{{"uid":0,"gid":0}}}},"root":{{"path":"rootfs"}},{rest}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn names(spec: &Spec) -> Vec<String> {
        let program = Program {
            path: Path::new("/usr/sbin/criu"),
            environment: Vec::new(),
            socket: 9,
            passed: &[11],
            directories: &[(12, "/i".into())],
        };
        let plan = restore(spec, &options(), program).unwrap();
        let name = |step: &Step| format!("{step:?}");
        let word = |text: String| {
            text.split([' ', '(', '{'])
                .next()
                .unwrap_or_default()
                .to_owned()
        };
        plan.steps.iter().map(|step| word(name(step))).collect()
    }

    const MOUNTS: &str = r#""mounts":[{"destination":"/proc","type":"proc"},{"destination":"/dev","type":"tmpfs"},
        {"destination":"/dev/shm","type":"tmpfs"},{"destination":"/a","type":"bind","source":"x","options":["bind"]},
        {"destination":"/a/b","type":"bind","source":"/y","options":["bind"]},{"destination":"/dev/z","type":"bind","source":"/z","options":["bind"]},
        {"destination":"/sys/fs/cgroup","type":"cgroup"}]"#;

    #[test]
    fn targets_are_made_in_a_root_that_is_left_again() {
        let spec = spec(&format!(
            r#""linux":{{"namespaces":[{{"type":"mount"}},{{"type":"cgroup"}}]}},{MOUNTS}"#
        ));
        assert_eq!(
            names(&spec).join(" "),
            "Cpus Propagation Root MakeDirectory MakeDirectory Mount Mount MakeDirectory LeaveRoot Root Umask Pass Reopen Converse ResetSignals Exec"
        );
    }

    #[test]
    fn binds_are_external_and_so_is_the_hosts_hierarchy() {
        let spec = spec(&format!(
            r#""linux":{{"namespaces":[{{"type":"mount"}}]}},{MOUNTS}"#
        ));
        let found = externals(&spec, &options()).unwrap();
        let found: Vec<String> = found
            .iter()
            .map(|e| format!("{} {}", e.target.display(), e.source.display()))
            .collect();
        let expected = [
            "/a /b/x",
            "/a/b /y",
            "/dev/z /z",
            "/sys/fs/cgroup /sys/fs/cgroup",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn namespaces_with_a_path_are_external_or_joined() {
        let spec = spec(
            r#""linux":{"namespaces":[{"type":"network","path":"/n"},{"type":"uts","path":"/u"},{"type":"ipc"}]}"#,
        );
        let expected = [
            Foreign::External {
                kind: "net",
                key: "extRootNetNS",
                path: Path::new("/n"),
            },
            Foreign::Joined {
                kind: "uts",
                path: Path::new("/u"),
            },
        ];
        assert_eq!(foreign(&spec).unwrap(), expected);
    }

    #[test]
    fn what_would_come_back_as_something_else_is_refused() {
        let check = |rest: &str| check(&spec(rest), &options());
        let linux = r#""linux":{"namespaces":[{"type":"mount"}]}"#;
        assert!(check(linux).is_ok());
        for annotations in [
            r#""dev.caisson.landlock":"{}""#,
            r#""dev.caisson.overlay.lower":"/l""#,
        ] {
            let error = check(&format!(r#"{linux},"annotations":{{{annotations}}}"#)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        }
    }
}
