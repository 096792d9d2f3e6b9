//! The test harness: bundles, runtimes and containers as values, and the probe that runs inside.
//!
//! A test builds a [`Bundle`], edits its `config.json`, runs it with the runtime under test and looks at what the probe
//! saw ([`Seen`]), at what the command printed ([`Finished`]) or at what the host sees ([`host`]):
//!
//! ```no_run
//! let mut bundle = integration::Bundle::new();
//! bundle.config.set("/process/user/uid", 1000);
//! assert_eq!(bundle.report(&[]).uid, [1000; 3]);
//! ```
//!
//! * A foreground run is [`Bundle::run`] (or [`Bundle::report`], which parses what `probe report` printed).
//! * `create`, `start`, `exec`, `kill` and `delete` go through a [`Container`]; it is deleted by force when it is dropped, and
//!   the drop fails the test if the runtime leaves its state, its cgroup or a mount behind.
//! * What a test needs of the machine it asks of [`mod@require`]; without it the test prints `skipped: ...` and returns, or
//!   fails if `MUST_WORK=1` is set.
//! * A test that a peer is known to fail says so with [`beyond!`], which names the peer's fault.
//! * Nothing sleeps. Every wait is for an event and has a deadline ([`runtime::deadline`]) after which the test fails.
//!
//! The environment: `RUNTIME` (a path, or a name to look up in PATH; default: the `caisson` beside this program), `PROBE`,
//! `ENOSYS`, `CRASH`, `SHIM`, `CAISSOND`, `CAISSONCTL`, `BUSYBOX` (paths of those programs, by default beside this program, and /bin/busybox), `CGROUP` (where cgroup v2
//! is, on a hybrid host; default: /sys/fs/cgroup), `MUST_WORK`, `WITHOUT` (system calls that the runtime is to find missing),
//! `DEADLINE` (in seconds), `SWEEP` (at which system calls the crash tests kill). The test binary uses no path of the machine that
//! built it.

pub mod agent;
pub mod bundle;
pub mod children;
pub mod config;
pub mod console;
pub mod container;
pub mod cri;
pub mod disk;
pub mod host;
pub mod peer;
pub mod place;
pub mod probe;
pub mod require;
pub mod runtime;
pub mod seen;
pub mod shim;
pub mod socket;
pub mod store;
pub mod supervisor;
#[allow(unsafe_code, reason = "the one module for raw system calls")]
pub mod sys;
pub mod user;
pub mod waiting;
mod wire;

pub use bundle::Bundle;
pub use config::Config;
pub use container::Container;
pub use runtime::{Finished, Runtime};
pub use seen::{Kind, Seen};

/// How many of something a test has: many if the environment says `MANY`, or else few, which cost little time.
pub fn many(few: usize, many: usize) -> usize {
    match std::env::var_os("MANY") {
        Some(_) => many,
        None => few,
    }
}
