//! `spec`: writes a config.json to start from, the one that runc's `spec` writes.

use crate::report::{Context, Error, Kind, Result};
use crate::state::OCI_VERSION;
use crate::sys::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Writes `file`, for the user `rootless` if it is for one. An existing file is somebody's work.
pub(crate) fn run(file: &Path, rootless: Option<User>) -> Result<()> {
    let text = to_json(&template(rootless))?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let opened = match open(file, flags, Mode::from_bits_truncate(0o666)) {
        Err(Errno::EEXIST) => {
            return Err(Error::new(
                Kind::Exists,
                format!("file {file:?} exists, remove it first"),
            ));
        }
        opened => opened.context(|| format!("make file {file:?}"))?,
    };
    File::from(opened)
        .write_all(&text)
        .context(|| format!("write {file:?}"))
}

/// Who becomes root in a rootless container.
#[derive(Clone, Copy, Debug)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// The fields of the file, in their order; what the file has not, is not here.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    oci_version: &'static str,
    process: Process,
    root: Root,
    hostname: &'static str,
    mounts: Vec<Mount>,
    linux: Linux,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    terminal: bool,
    user: User0,
    args: [&'static str; 1],
    env: [&'static str; 2],
    cwd: &'static str,
    capabilities: Capabilities,
    rlimits: [Rlimit; 1],
    no_new_privileges: bool,
}

/// The container's root.
#[derive(Serialize)]
struct User0 {
    uid: u32,
    gid: u32,
}

#[derive(Serialize)]
struct Capabilities {
    bounding: [&'static str; 3],
    effective: [&'static str; 3],
    permitted: [&'static str; 3],
}

#[derive(Serialize)]
struct Rlimit {
    r#type: &'static str,
    hard: u64,
    soft: u64,
}

#[derive(Serialize)]
struct Root {
    path: &'static str,
    readonly: bool,
}

#[derive(Serialize)]
struct Mount {
    destination: &'static str,
    r#type: &'static str,
    source: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    options: Vec<&'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    #[serde(skip_serializing_if = "Option::is_none")]
    uid_mappings: Option<[IdMapping; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gid_mappings: Option<[IdMapping; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resources: Option<Resources>,
    namespaces: Vec<Namespace>,
    masked_paths: &'static [&'static str],
    readonly_paths: &'static [&'static str],
}

#[derive(Serialize)]
struct IdMapping {
    #[serde(rename = "containerID")]
    container_id: u32,
    #[serde(rename = "hostID")]
    host_id: u32,
    size: u32,
}

#[derive(Serialize)]
struct Resources {
    devices: [DeviceRule; 1],
}

#[derive(Serialize)]
struct DeviceRule {
    allow: bool,
    access: &'static str,
}

#[derive(Serialize)]
struct Namespace {
    r#type: &'static str,
}

const MASKED_PATHS: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/proc/scsi",
    "/sys/devices/virtual/tpm",
];

const READONLY_PATHS: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

fn template(rootless: Option<User>) -> Spec {
    Spec {
        oci_version: OCI_VERSION,
        process: process(),
        root: Root {
            path: "rootfs",
            readonly: true,
        },
        hostname: "caisson",
        mounts: mounts(rootless.is_some()),
        linux: linux(rootless),
    }
}

fn process() -> Process {
    const CAPABILITIES: [&str; 3] = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    Process {
        terminal: true,
        user: User0 { uid: 0, gid: 0 },
        args: ["sh"],
        env: [
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "TERM=xterm",
        ],
        cwd: "/",
        // Neither inheritable (CVE-2022-29162) nor ambient ones.
        capabilities: Capabilities {
            bounding: CAPABILITIES,
            effective: CAPABILITIES,
            permitted: CAPABILITIES,
        },
        rlimits: [Rlimit {
            r#type: "RLIMIT_NOFILE",
            hard: 1024,
            soft: 1024,
        }],
        no_new_privileges: true,
    }
}

fn mounts(rootless: bool) -> Vec<Mount> {
    let mount = |destination, r#type, source, options: &[&'static str]| Mount {
        destination,
        r#type,
        source,
        options: options.to_vec(),
    };
    // The group of terminals has no id in a user namespace that maps one.
    let devpts = [
        "nosuid",
        "noexec",
        "newinstance",
        "ptmxmode=0666",
        "mode=0620",
        "gid=5",
    ];
    let devpts = if rootless { &devpts[..5] } else { &devpts[..] };
    // A new sysfs belongs to a network namespace, and the rootless container has none of its own.
    let sys = if rootless {
        mount(
            "/sys",
            "none",
            "/sys",
            &["rbind", "nosuid", "noexec", "nodev", "ro"],
        )
    } else {
        mount(
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "noexec", "nodev", "ro"],
        )
    };
    vec![
        mount("/proc", "proc", "proc", &[]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount("/dev/pts", "devpts", "devpts", devpts),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        mount(
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        ),
        sys,
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"],
        ),
    ]
}

fn linux(rootless: Option<User>) -> Linux {
    let namespaces: &[&str] = match rootless {
        Some(_) => &["pid", "ipc", "uts", "mount", "cgroup", "user"],
        None => &["pid", "network", "ipc", "uts", "mount", "cgroup"],
    };
    let mapping = |host_id| {
        [IdMapping {
            container_id: 0,
            host_id,
            size: 1,
        }]
    };
    Linux {
        uid_mappings: rootless.map(|user| mapping(user.uid)),
        gid_mappings: rootless.map(|user| mapping(user.gid)),
        // An unprivileged user cannot filter devices.
        resources: rootless.is_none().then_some(Resources {
            devices: [DeviceRule {
                allow: false,
                access: "rwm",
            }],
        }),
        namespaces: namespaces
            .iter()
            .map(|r#type| Namespace { r#type })
            .collect(),
        masked_paths: MASKED_PATHS,
        readonly_paths: READONLY_PATHS,
    }
}

/// With tabs and without a newline at the end, as runc's.
fn to_json(spec: &Spec) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"\t"));
    spec.serialize(&mut serializer)
        .map_err(|e| Error::new(Kind::Invalid, format!("write config.json: {e}")))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn value(rootless: Option<User>) -> Value {
        serde_json::from_slice(&to_json(&template(rootless)).unwrap()).unwrap()
    }

    #[test]
    fn the_file_is_a_spec() {
        for rootless in [
            None,
            Some(User {
                uid: 1000,
                gid: 100,
            }),
        ] {
            let text = to_json(&template(rootless)).unwrap();
            let spec: oci_spec::runtime::Spec = serde_json::from_slice(&text).unwrap();
            assert_eq!(spec.version(), OCI_VERSION);
            assert!(text.starts_with(
                b"{\n\t\"ociVersion\": \"1.3.0\",\n\t\"process\": {\n\t\t\"terminal\": true,"
            ));
            assert!(text.ends_with(b"\n\t}\n}"));
        }
    }

    #[test]
    fn a_rootless_container_needs_nothing_that_a_user_has_not() {
        let spec = value(Some(User {
            uid: 1000,
            gid: 100,
        }));
        assert_eq!(
            spec["linux"]["uidMappings"],
            serde_json::json!([{"containerID": 0, "hostID": 1000, "size": 1}])
        );
        assert_eq!(
            spec["linux"]["gidMappings"],
            serde_json::json!([{"containerID": 0, "hostID": 100, "size": 1}])
        );
        assert_eq!(spec["linux"]["resources"], Value::Null);
        let text = spec.to_string();
        assert!(
            !text.contains("gid=5")
                && !text.contains("\"sysfs\"")
                && !text.contains("{\"type\":\"network\"}")
        );
        assert!(text.contains("{\"type\":\"user\"}"));
        assert!(value(None)["linux"]["uidMappings"].is_null());
    }

    #[test]
    fn an_existing_file_is_left_alone() {
        let bundle = std::env::temp_dir().join(format!("caisson-spec-{}", std::process::id()));
        let file = bundle.join("config.json");
        let error = run(&file, None).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::ENOENT));
        std::fs::create_dir(&bundle).unwrap();
        run(&file, None).unwrap();
        let before = std::fs::read(&file).unwrap();
        let error = run(&file, Some(User { uid: 1, gid: 1 })).unwrap_err();
        let after = std::fs::read(&file).unwrap();
        std::fs::remove_dir_all(&bundle).unwrap();
        assert_eq!(error.kind(), Kind::Exists);
        assert_eq!(before, after);
    }
}
