//! The one test binary: a module per topic, a sentence per test.
//!
//! Natively, on a host whose cgroup v2 hierarchy is not at /sys/fs/cgroup or that should stay untouched, run it as root in a
//! mount namespace of its own:
//!
//! ```sh
//! unshare --mount --propagation private sh -c 'mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$0" "$@"' .../deps/it-...
//! ```
//!
//! In a virtual machine with a pure cgroup v2 hierarchy it runs as it is. It is static and finds the programs it needs beside
//! itself or through the environment; see the crate documentation of the harness.

// What a test unwraps it expects to be there; the panic is the failure. Outside of #[test] functions clippy needs to be told.
#![allow(clippy::unwrap_used)]

mod affinity;
mod attack;
mod attack_engine;
mod binds;
mod cgroup;
mod check;
mod checkpoint;
mod checkpoint_flags;
mod concurrency;
mod console;
mod crash;
mod cve;
mod devices;
mod differential;
mod engines;
mod errors;
mod events;
mod exec;
mod failing;
mod fds;
mod groups;
mod hooks;
mod hybrid;
mod idmap;
mod ids;
mod images;
mod kill;
mod landlock;
mod late_mounts;
mod lifecycle;
mod limits;
mod list;
mod log;
mod mounts;
mod namespaces;
mod nested;
mod net_devices;
mod notify_socket;
mod overlay;
mod paths;
mod pidfd_socket;
mod process;
mod rdt;
mod rootless;
mod run;
mod seccomp_annotations;
#[cfg(target_arch = "x86_64")]
mod seccomp_diff;
mod seccomp_notify;
mod shim;
mod shim_checkpoint;
mod shim_crash;
mod shim_end;
mod shim_log;
mod shim_memory;
mod shim_mounts;
mod shim_options;
mod shim_sandbox;
mod shim_slow;
mod shim_small;
mod shim_start;
mod shim_trouble;
mod start_up;
mod supervisor;
mod sysctl;
mod systemd;
mod trace;
mod update;
mod user_namespace;
