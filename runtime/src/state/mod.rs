//! What is known of a container between two commands: its directory below `--root` and the `state.json` in it.
//!
//! Used by the commands, in the parent only; init never sees it. The status of a container is never stored but worked out from
//! what is true now: whether its process lives, whether the start fifo is still there, whether the cgroup is frozen.
//!
//! ```text
//!   <root>/<id>/            locked (flock) by every command that changes the container
//!     state.json            State; replaced as a whole, so that readers need no lock
//!     config.json           the bundle's, as it was at create
//!     seccomp.bpf           the compiled filter, for exec
//!     exec.fifo             until start: init waits on it
//!     notify/               if NOTIFY_SOCKET was set at create: what the container finds at /run/notify
//! ```

mod directory;
mod id;

pub use directory::{Directory, Locked, Root, Salvaged};
pub use id::ContainerId;

use crate::report::{Context, Error, Kind, Result};
use crate::sys::Errno;
use oci_spec::runtime::LinuxResources;
use procfs::FromRead;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// The version of the runtime specification that we implement.
pub const OCI_VERSION: &str = "1.3.0";

/// What `state.json` holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The version of the specification that the container was created under.
    pub oci_version: String,
    /// The container's name.
    pub id: ContainerId,
    /// The bundle's directory, absolute.
    pub bundle: PathBuf,
    /// The root file system's directory, absolute.
    pub rootfs: PathBuf,
    /// When it was created, in RFC 3339 with nanoseconds.
    pub created: String,
    /// Who created it.
    pub owner: u32,
    /// The container's first process; absent until it exists.
    pub init: Option<Init>,
    /// The configuration's annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// The kernel's `CLONE_NEW*` bits of the namespaces that the container does not share with us.
    pub namespaces: u64,
    /// The pid namespace among them is another's, which outlives init.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub joined_pids: bool,
    /// Whether its processes keep the caller's session keyring.
    #[serde(default)]
    pub no_new_keyring: bool,
    /// What the cgroup module needs to find the container's cgroup again.
    #[serde(default)]
    pub cgroup: serde_json::Value,
    /// `linux.resources` since the last `update`; absent: as in the config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<LinuxResources>,
    /// What the resctrl module needs to find the container's groups again.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub resctrl: serde_json::Value,
    /// Without a mount namespace: the mount that the root directory was on before the container's root was mounted over it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below_root: Option<u64>,
}

/// A process that is told apart from a later one with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Init {
    /// Its pid, as we see it.
    pub pid: i32,
    /// When it started, in clock ticks since boot: field 22 of `/proc/PID/stat`.
    pub start_time: u64,
}

/// What a container is doing. The names are the specification's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Its process is not there yet.
    Creating,
    /// Its process waits for `start`.
    Created,
    /// Its program runs.
    Running,
    /// All its processes are frozen.
    Paused,
    /// Its process is gone.
    Stopped,
}

impl State {
    /// The pid that `state` and `list` show.
    pub fn pid(&self) -> Option<i32> {
        self.init.map(|init| init.pid)
    }

    /// Works out the status. What costs something is asked for only if it matters.
    fn status(
        &self,
        fifo_exists: impl FnOnce() -> Result<bool>,
        frozen: impl FnOnce(&State) -> Result<bool>,
    ) -> Result<Status> {
        let Some(init) = self.init else {
            return Ok(Status::Creating);
        };
        if !init.is_alive()? {
            return Ok(Status::Stopped);
        }
        if frozen(self)? {
            return Ok(Status::Paused);
        }
        Ok(if fifo_exists()? {
            Status::Created
        } else {
            Status::Running
        })
    }
}

impl Init {
    /// The process that has this pid now.
    pub fn of(pid: i32) -> Result<Init> {
        match stat(pid)? {
            Some(stat) => Ok(Init {
                pid,
                start_time: stat.starttime,
            }),
            None => {
                Err(Error::os(format!("read /proc/{pid}/stat"), Errno::ESRCH)
                    .with_kind(Kind::State))
            }
        }
    }

    /// Whether it is there and has not ended; a zombie has. To send a signal, open a pidfd first and ask then.
    pub fn is_alive(&self) -> Result<bool> {
        let stat = stat(self.pid)?;
        Ok(stat.is_some_and(|stat| {
            // A process whose first thread has ended looks like a zombie for as long as others run.
            let ended = match stat.state {
                'Z' => stat.num_threads <= 1,
                state => matches!(state, 'X' | 'x'),
            };
            stat.starttime == self.start_time && !ended
        }))
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}

/// A process' line in /proc, unless it is gone. `procfs::process::Process` would look at the kernel's version and the directory's
/// owner first.
fn stat(pid: i32) -> Result<Option<procfs::process::Stat>> {
    let path = format!("/proc/{pid}/stat");
    let line = match std::fs::read(&path) {
        // ESRCH: it went away between open and read.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => return Ok(None),
        line => line.context(|| format!("read {path}"))?,
    };
    procfs::process::Stat::from_read(line.as_slice())
        .map(Some)
        .map_err(|e| Error::new(Kind::System, format!("parse {path}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(init: Option<Init>) -> State {
        State {
            oci_version: OCI_VERSION.into(),
            id: ContainerId::new("web").unwrap(),
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: "2026-11-23T04:39:26.5Z".into(),
            owner: 0,
            init,
            annotations: BTreeMap::from([("k".into(), "v".into())]),
            namespaces: 0x2000_0000,
            joined_pids: false,
            no_new_keyring: false,
            cgroup: serde_json::json!({"path": "/x"}),
            resources: None,
            resctrl: serde_json::Value::Null,
            below_root: None,
        }
    }

    fn status(state: &State, fifo: bool, frozen: bool) -> Status {
        state.status(|| Ok(fifo), |_| Ok(frozen)).unwrap()
    }

    #[test]
    fn states_survive_their_file() {
        for state in [
            state(None),
            state(Some(Init {
                pid: 7,
                start_time: 8,
            })),
        ] {
            let text = serde_json::to_string(&state).unwrap();
            assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
        }
    }

    #[test]
    fn the_status_follows_from_what_is_true() {
        assert_eq!(status(&state(None), true, true), Status::Creating);
        let us = state(Some(Init::of(std::process::id() as i32).unwrap()));
        assert_eq!(status(&us, true, false), Status::Created);
        assert_eq!(status(&us, false, false), Status::Running);
        assert_eq!(status(&us, false, true), Status::Paused);
    }

    #[test]
    fn a_process_with_the_same_pid_is_not_the_same_process() {
        let mut init = Init::of(std::process::id() as i32).unwrap();
        assert!(init.is_alive().unwrap());
        init.start_time += 1;
        assert!(!init.is_alive().unwrap());
        assert_eq!(status(&state(Some(init)), true, true), Status::Stopped);
    }

    #[test]
    fn a_zombie_is_not_alive() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let init = Init::of(child.id() as i32).unwrap();
        assert!(init.is_alive().unwrap());
        drop(child.stdin.take());
        // Wait for its end without reaping it.
        let flags = nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT;
        nix::sys::wait::waitid(
            nix::sys::wait::Id::Pid(nix::unistd::Pid::from_raw(init.pid)),
            flags,
        )
        .unwrap();
        assert!(!init.is_alive().unwrap());
        child.wait().unwrap();
        assert!(!init.is_alive().unwrap());
        assert_eq!(Init::of(init.pid).unwrap_err().kind(), Kind::State);
    }
}
