//! A user without privileges who runs the runtime: an own id that nothing else on the machine has, subordinate ids, a runtime directory.

use crate::bundle::Bundle;
use crate::{host, place};
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// His user id and the id of his group.
pub const UID: u32 = 4321;
/// The group of his own.
pub const GID: u32 = 4322;
/// A group that he is in as well.
pub const EXTRA_GROUP: u32 = 4323;
/// The first of his subordinate ids, of users and of groups.
pub const SUBORDINATE: u32 = 500_000;
/// How many of these he has.
pub const SUBORDINATES: u32 = 65536;

/// A cgroup that was given to the user. Removed with those below it when dropped.
#[derive(Debug)]
pub struct Delegated(pub PathBuf);

impl Bundle {
    /// A bundle of the user's, with what `spec --rootless` writes: a user namespace in which he is root and nobody else is anybody, the
    /// host's network. The runtime runs as him.
    #[track_caller]
    pub fn of_user() -> Bundle {
        Bundle::new().given_to_user()
    }

    /// Makes the bundle the user's.
    #[track_caller]
    #[must_use]
    pub fn given_to_user(mut self) -> Bundle {
        let groups = format!("root:x:0:\nrootless:x:{GID}:\nextra:x:{EXTRA_GROUP}:rootless\n");
        self.scratch.file("etc/group", groups);
        let passwd = format!("root:x:0:0::/:/bin/sh\nrootless:x:{UID}:{GID}::/:/bin/sh\n");
        self.scratch.file("etc/passwd", passwd);
        for name in ["etc/subuid", "etc/subgid"] {
            let line = format!("rootless:{SUBORDINATE}:{SUBORDINATES}\n");
            self.scratch.file(name, line);
        }
        let run = self.scratch.dir("run");
        place::give(self.scratch.path(), UID, GID);
        fs::set_permissions(&run, fs::Permissions::from_mode(0o700))
            .unwrap_or_else(|error| panic!("chmod {}: {error}", run.display()));
        self.runtime
            .env
            .push(("XDG_RUNTIME_DIR".into(), run.display().to_string()));
        let wrapper = as_user(&self.scratch.path().join("etc"), None);
        self.runtime.wrapper.extend(wrapper);
        // Where it is, the user may not get to it.
        let name = self.runtime.binary.file_name().unwrap_or_default();
        let binary = self.scratch.path().join("bin").join(name);
        self.scratch.dir("bin");
        // By a process of its own: a command that another test starts meanwhile would hold our file open for writing, and nobody could
        // execute it (ETXTBSY).
        let mut copy = std::process::Command::new("cp");
        copy.arg(&self.runtime.binary).arg(&binary);
        crate::runtime::finish(copy).success();
        self.runtime.binary = binary;
        let own = |id: u32| json!([{ "containerID": 0, "hostID": id, "size": 1 }]);
        self.config
            .namespace("user")
            .no_namespace("network")
            .set("/linux/uidMappings", own(UID))
            .set("/linux/gidMappings", own(GID))
            .remove("/linux/resources")
            .unmount("/sys");
        self.config
            .retain("/mounts", |mount| mount["destination"] != "/dev/pts");
        let options = [
            "nosuid",
            "noexec",
            "newinstance",
            "ptmxmode=0666",
            "mode=0620",
        ];
        let terminals = json!({ "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": options });
        let options = ["rbind", "nosuid", "noexec", "nodev", "ro"];
        let sys =
            json!({ "destination": "/sys", "type": "none", "source": "/sys", "options": options });
        // Where the others expect them: below /dev, and below what is mounted on /sys.
        if let Some(mounts) = self.config.0["mounts"].as_array_mut() {
            mounts.insert(2, terminals);
            mounts.insert(mounts.len() - 1, sys);
        }
        self
    }

    /// Maps root to the user, and the ids after it to his subordinate ones.
    pub fn map_subordinates(&mut self) -> &mut Self {
        let maps = |own: u32| {
            json!([
                { "containerID": 0, "hostID": own, "size": 1 },
                { "containerID": 1, "hostID": SUBORDINATE, "size": SUBORDINATES }
            ])
        };
        self.config
            .set("/linux/uidMappings", maps(UID))
            .set("/linux/gidMappings", maps(GID));
        self
    }

    /// Runs the runtime in a cgroup of the user's: below a new one that is his, beside which his containers get theirs.
    #[track_caller]
    pub fn delegate(&mut self, controllers: &[&str]) -> Delegated {
        let group = host::hierarchy().join(place::unique("delegated"));
        let own = group.join("own");
        fs::create_dir_all(&own)
            .unwrap_or_else(|error| panic!("create {}: {error}", own.display()));
        for controller in controllers {
            let control = host::hierarchy().join("cgroup.subtree_control");
            host::set(&control, &format!("+{controller}"));
        }
        for directory in [&group, &own] {
            for name in [
                "",
                "cgroup.procs",
                "cgroup.threads",
                "cgroup.subtree_control",
            ] {
                place::give_one(&directory.join(name), UID, GID);
            }
        }
        let before = self.runtime.wrapper.len() - as_user(Path::new(""), None).len();
        self.runtime.wrapper.truncate(before);
        let wrapper = as_user(&self.scratch.path().join("etc"), Some(&own));
        self.runtime.wrapper.extend(wrapper);
        Delegated(group)
    }
}

/// The words in front of a command that run it as the user.
fn as_user(etc: &Path, cgroup: Option<&Path>) -> [std::ffi::OsString; 7] {
    [
        place::probe().into(),
        "as-user".into(),
        UID.to_string().into(),
        format!("{GID},{EXTRA_GROUP}").into(),
        etc.into(),
        cgroup.unwrap_or(Path::new("-")).into(),
        "--".into(),
    ]
}

impl Drop for Delegated {
    fn drop(&mut self) {
        fs::remove_dir(self.0.join("own")).ok(); // What remains shows in the next line.
        let removed = fs::remove_dir(&self.0);
        if !std::thread::panicking() {
            removed.unwrap_or_else(|error| panic!("remove {}: {error}", self.0.display()));
        }
    }
}
