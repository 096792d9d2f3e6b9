//! Bundles beside those of `differential`: roots of all kinds, ids of all kinds, and in each of them things that must be made or looked for.

use integration::{Bundle, Config, place};
use serde_json::json;
use std::fmt;
use std::path::Path;

const ROOTS: [&str; 5] = [
    "a directory",
    "one layer",
    "two layers",
    "an upper directory",
    "a directory with its own /dev",
];

const IDENTITIES: [&str; 4] = [
    "the host's ids",
    "a user namespace",
    "a user namespace, and the host's cgroup namespace",
    "a user namespace that the root is not of",
];

/// The name, and what it does to a config; `host` is a directory outside of the root.
type Addition = (&'static str, fn(&mut Config, &Path));

const ADDITIONS: &[Addition] = &[
    ("nothing", |_, _| {}),
    ("a bind on a file that is not there", |config, host| {
        config.bind(host.join("file"), "/etc/resolv.conf", &["ro"]);
    }),
    ("a tmpfs in a directory that is not there", |config, _| {
        config.mount("/run/new/x", "tmpfs", "tmpfs", &["nosuid"]);
    }),
    ("a file bound over a directory", |config, host| {
        config.bind(host.join("file"), "/etc", &[]);
    }),
    ("a working directory that is not there", |config, _| {
        config.set("/process/cwd", "/work/dir");
    }),
    ("a working directory beside one that is not", |config, _| {
        config.set("/process/cwd", "/work/../tmp");
    }),
    ("a masked working directory", |config, _| {
        config.set("/process/cwd", "/work/dir");
        config.push("/linux/maskedPaths", "/work");
    }),
    ("a device outside of /dev", |config, _| {
        let null = json!({ "path": "/devices/null", "type": "c", "major": 1, "minor": 3 });
        config.push("/linux/devices", null);
        config.set("/linux/devices/0/path", "/devices/null");
    }),
    ("a read-only root", |config, _| {
        config.set("/root/readonly", true);
        config.bind("/dev/null", "/new/null", &[]);
    }),
    ("a masked program", |config, _| {
        config.push("/linux/maskedPaths", "/bin/probe");
    }),
    ("a masked directory with the program", |config, _| {
        config.push("/linux/maskedPaths", "/bin");
    }),
    (
        "the program below a mask that is mounted over",
        |config, host| {
            config.push("/linux/maskedPaths", "/other");
            config.bind(host.join("directory"), "/other", &[]);
        },
    ),
    ("a mount over a mount with the program", |config, host| {
        config.bind(host.join("programs"), "/opt/bin", &[]);
        config.bind(host.join("directory"), "/opt", &[]);
        config.args(&["/opt/bin/probe", "exit", "0"]);
    }),
    ("a cgroup mount on a file", |config, _| {
        config.mount("/etc/passwd", "cgroup", "cgroup", &["ro"]);
    }),
    ("no /dev of its own", |config, _| {
        config.unmount("/dev").unmount("/dev/pts");
        config.unmount("/dev/shm").unmount("/dev/mqueue");
    }),
    ("the host's IPC namespace", |config, _| {
        config.no_namespace("ipc");
    }),
    ("the host's UTS namespace by its path", |config, _| {
        config.join_namespace("uts", "/proc/self/ns/uts");
    }),
    ("a flag of the source cleared", |config, _| {
        config.bind("/proc/self/mountinfo", "/flags", &["suid"]);
    }),
    ("a flag of the source set", |config, _| {
        config.bind("/proc/self/mountinfo", "/flags", &["noexec"]);
    }),
    ("a Landlock rule for what is not there", |config, _| {
        landlock(config, &["/", "/nope"]);
    }),
    ("a Landlock rule for the program", |config, _| {
        landlock(config, &["/usr", "/bin/probe"]);
    }),
    ("a Landlock rule for another program", |config, _| {
        landlock(config, &["/etc"]);
    }),
    ("more groups than there can be", |config, _| {
        config.set("/process/user/additionalGids", vec![0; 65_537]);
    }),
    ("as many groups as there can be", |config, _| {
        config.set("/process/user/additionalGids", vec![0; 65_536]);
    }),
];

fn landlock(config: &mut Config, paths: &[&str]) {
    let rules = json!({
        "handledAccessFs": ["execute"],
        "paths": [{ "paths": paths, "access": ["execute"] }],
    });
    config.set("/annotations/dev.caisson.landlock", rules.to_string());
}

/// One of each kind.
pub(super) struct Made {
    root: usize,
    identity: usize,
    addition: &'static Addition,
}

/// All of them.
pub(super) fn all() -> impl Iterator<Item = Made> {
    ADDITIONS.iter().flat_map(|addition| {
        (0..ROOTS.len() * IDENTITIES.len()).map(move |number| Made {
            root: number / IDENTITIES.len(),
            identity: number % IDENTITIES.len(),
            addition,
        })
    })
}

impl Made {
    /// The bundle of it.
    pub(super) fn bundle(&self) -> Bundle {
        let mut bundle = Bundle::new();
        bundle.scratch.file("host/file", "of the host\n");
        bundle.scratch.dir("host/directory");
        let host = bundle.scratch.path().join("host");
        let programs = bundle.scratch.dir("host/programs");
        std::fs::copy(place::probe(), programs.join("probe")).unwrap();
        bundle.config.writable().probe(&["exit", "0"]);
        self.root(&mut bundle);
        self.identity(&mut bundle);
        let (_, add) = self.addition;
        add(&mut bundle.config, &host);
        bundle
    }

    fn root(&self, bundle: &mut Bundle) {
        let base = bundle.rootfs();
        let [top, upper, work] =
            ["top", "upper", "work"].map(|name| bundle.scratch.dir(&format!("layers/{name}")));
        let text = |path: &Path| path.display().to_string();
        let lower = match ROOTS[self.root] {
            "one layer" | "an upper directory" => text(&base),
            "two layers" => format!("{}:{}", text(&top), text(&base)),
            "a directory with its own /dev" => {
                bundle.config.unmount("/dev").unmount("/dev/pts");
                return;
            }
            _ => return,
        };
        let annotations = "/annotations/dev.caisson.overlay";
        bundle.config.set(&format!("{annotations}.lower"), lower);
        if ROOTS[self.root] == "an upper directory" {
            bundle
                .config
                .set(&format!("{annotations}.upper"), text(&upper))
                .set(&format!("{annotations}.work"), text(&work));
        }
    }

    fn identity(&self, bundle: &mut Bundle) {
        let identity = IDENTITIES[self.identity];
        if identity == "the host's ids" {
            return;
        }
        bundle.config.user_namespace(100_000, 65_536);
        if identity.ends_with("is not of") {
            return;
        }
        place::give(&bundle.rootfs(), 100_000, 100_000);
        place::give(&bundle.scratch.path().join("layers"), 100_000, 100_000);
        if identity.ends_with("cgroup namespace") {
            bundle
                .config
                .no_namespace("cgroup")
                .unmount("/sys/fs/cgroup")
                .mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro", "nosuid"]);
        }
    }
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (addition, _) = self.addition;
        write!(
            f,
            "{}, {}, {addition}",
            ROOTS[self.root], IDENTITIES[self.identity]
        )
    }
}
