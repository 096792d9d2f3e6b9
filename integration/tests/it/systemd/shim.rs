//! The shim above groups of systemd.

use super::{slice, systemctl};
use crate::shim_memory::hog;
use integration::place::unique;
use integration::shim::{Protocol, Shim};
use integration::{Bundle, host, require};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// systemd removes a scope's group as soon as it is empty, and the shim may be later.
#[test]
fn a_kill_for_want_of_memory_is_known_when_the_group_has_been_removed() {
    require!(systemd, busybox, controller("memory"));
    let (bundle, fifo) = hog();
    // Of its own: the shim cannot know which of a slice's groups was short of memory when they are gone.
    let slice = format!("{}.slice", slice());
    let (shim, id, pid) = running(bundle, &slice);
    behind_its_back(&shim, pid, || host::set(&fifo, "\n"));
    assert_eq!(shim.wait(&id, ""), Ok(137));
    assert_eq!(shim.event(), format!("oom {id}"));
    assert_eq!(shim.event(), format!("exit {id} 137"));
    shim.delete(&id, "").unwrap();
    shim.shutdown();
    systemctl(&["stop", &slice]).success();
}

#[test]
fn who_is_killed_otherwise_was_not_short_of_memory() {
    require!(systemd, busybox, controller("memory"));
    let (bundle, _) = hog();
    let slice = format!("{}.slice", slice());
    let (shim, id, pid) = running(bundle, &slice);
    behind_its_back(&shim, pid, || {
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    });
    assert_eq!(shim.wait(&id, ""), Ok(137));
    assert_eq!(shim.event(), format!("exit {id} 137"));
    shim.delete(&id, "").unwrap();
    shim.shutdown();
    systemctl(&["stop", &slice]).success();
}

/// A container in a scope of this slice, with its events taken.
fn running(mut bundle: Bundle, slice: &str) -> (Shim, String, i32) {
    let group = format!("{slice}:it:{}", unique("hog"));
    bundle.config.set("/linux/cgroupsPath", group);
    let mut shim = Shim::prepared(bundle);
    shim.options.systemd_cgroup = true;
    shim.launch(Protocol::Bootstrap);
    let id = shim.id().to_owned();
    let pid = shim.create(&id).unwrap();
    shim.start_process(&id, "").unwrap();
    shim.events(2);
    (shim, id, pid)
}

/// Has the container end, and its group removed, before the shim can look.
fn behind_its_back(shim: &Shim, pid: i32, end: impl FnOnce()) {
    let group = host::cgroup_of(pid);
    let shim = Pid::from_raw(shim.pid);
    kill(shim, Signal::SIGSTOP).unwrap();
    end();
    host::await_removal(&group);
    kill(shim, Signal::SIGCONT).unwrap();
}
