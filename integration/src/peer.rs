//! Which runtime the suite is aimed at, and what the others are known to do wrong.
//!
//! The suite is written from the specification and for Caisson. Where runc or crun fail a test, the test says so here, by
//! name and with the fault: under that runtime the body must then fail, so that a mark that is no longer true is noticed.

use crate::config::Config;
use crate::{place, require, runtime};
use serde_json::json;
use std::cell::Cell;
use std::panic::catch_unwind;
use std::process::Command;
use std::sync::OnceLock;

thread_local! {
    static TO_FAIL: Cell<bool> = const { Cell::new(false) };
}

/// A fault that a test shows in another runtime.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    runtime: &'static str,
    came_with: Option<&'static str>,
    fixed_in: Option<&'static str>,
    what: &'static str,
    /// Shown on some runs only, because it is a race: the test may then pass as well.
    race: bool,
}

impl Fault {
    const fn new(runtime: &'static str, what: &'static str) -> Fault {
        Fault {
            runtime,
            came_with: None,
            fixed_in: None,
            what,
            race: false,
        }
    }

    const fn before(self, version: &'static str) -> Fault {
        Fault {
            fixed_in: Some(version),
            ..self
        }
    }

    const fn from(self, version: &'static str) -> Fault {
        Fault {
            came_with: Some(version),
            ..self
        }
    }

    const fn race(self) -> Fault {
        Fault { race: true, ..self }
    }

    fn is_of(&self, name: &str, version: &str) -> bool {
        let version = numbers(version);
        self.runtime == name
            && self.fixed_in.is_none_or(|fixed| version < numbers(fixed))
            && self.came_with.is_none_or(|came| version >= numbers(came))
    }
}

/// A fault of every runc known.
pub const fn runc(what: &'static str) -> Fault {
    Fault::new("runc", what)
}

/// A fault of runc before this version.
pub const fn runc_before(version: &'static str, what: &'static str) -> Fault {
    runc(what).before(version)
}

/// A fault of runc from this version on.
pub const fn runc_from(version: &'static str, what: &'static str) -> Fault {
    runc(what).from(version)
}

/// A fault of every crun known.
pub const fn crun(what: &'static str) -> Fault {
    Fault::new("crun", what)
}

/// A fault of crun before this version.
pub const fn crun_before(version: &'static str, what: &'static str) -> Fault {
    crun(what).before(version)
}

/// A fault of crun from this version on.
pub const fn crun_from(version: &'static str, what: &'static str) -> Fault {
    crun(what).from(version)
}

/// A fault of crun from the first of these versions on, and before the second.
pub const fn crun_between(version: &'static str, fixed: &'static str, what: &'static str) -> Fault {
    crun_from(version, what).before(fixed)
}

/// A race in crun, which does not show on every run.
pub const fn crun_race(what: &'static str) -> Fault {
    crun(what).race()
}

/// A race in runc, which does not show on every run.
pub const fn runc_race(what: &'static str) -> Fault {
    runc(what).race()
}

/// A race in runc before this version.
pub const fn runc_race_before(version: &'static str, what: &'static str) -> Fault {
    runc_before(version, what).race()
}

/// Marks the test of this name as one that these peers fail: `beyond!(test_name, [crun("why"), runc_before("1.2", "why")]);`
/// after `require!`. Under such a peer the rest of the test must fail.
#[macro_export]
macro_rules! beyond {
    ($test:path, [$($fault:ident($($argument:expr),+ $(,)?)),+ $(,)?] $(,)?) => {
        if $crate::peer::fails($test, &[$($crate::peer::$fault($($argument),+)),+]) {
            return;
        }
    };
}

/// If the runtime under test has one of these faults: runs the test, checks that it fails, and says true. The test itself
/// gets here a second time and is told false, so that it goes on to its body.
#[track_caller]
pub fn fails(test: fn(), faults: &[Fault]) -> bool {
    let (name, version) = under_test();
    let fault = faults.iter().find(|fault| fault.is_of(name, version));
    let Some(fault) = fault.filter(|_| !is_to_fail()) else {
        return false;
    };
    TO_FAIL.set(true);
    let failed = catch_unwind(test).is_err();
    TO_FAIL.set(false);
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("?");
    assert!(
        failed || fault.race,
        "{test} passes with {name} {version}, though marked: {}",
        fault.what
    );
    runtime::announce(&format!("beyond {name} {version}: {} [{test}]", fault.what));
    true
}

/// Whether the running test is in a body that is expected to fail.
pub(crate) fn is_to_fail() -> bool {
    TO_FAIL.get()
}

/// Whether the suite is aimed at the runtime of this name.
pub fn is(name: &str) -> bool {
    under_test().0 == name
}

/// The name and the version of the runtime under test: first and third word of `--version`.
#[track_caller]
pub fn under_test() -> (&'static str, &'static str) {
    static KNOWN: OnceLock<(String, String)> = OnceLock::new();
    let (name, version) = KNOWN.get_or_init(|| {
        let mut command = Command::new(place::runtime());
        command.arg("--version");
        let finished = runtime::finish(command).success();
        let mut words = finished.stdout.split_whitespace().map(str::to_owned);
        (
            words.next().unwrap_or_default(),
            words.nth(1).unwrap_or_default(),
        )
    });
    (name, version)
}

/// The configuration as this peer can take it on this machine. Only what no test of the configuration is about may change
/// here: the device list of `runc spec`, which crun cannot load without CAP_SYS_RESOURCE. Tests of devices' limits ask
/// `require!(device_filter)`.
pub(crate) fn adapted(config: &Config) -> Config {
    let mut config = config.clone();
    let default = json!([{ "allow": false, "access": "rwm" }]);
    if require::device_filter().is_err()
        && config.0.pointer("/linux/resources/devices") == Some(&default)
    {
        config.remove("/linux/resources/devices");
    }
    config
}

/// The numbers at the start of a version: `1.1.5+ds1` is 1, 1, 5.
fn numbers(version: &str) -> Vec<u32> {
    let start = version
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(version.len());
    version[..start]
        .split('.')
        .filter_map(|number| number.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(numbers("1.1.5+ds1") < numbers("1.2"));
        assert!(numbers("1.28") > numbers("1.8.1"));
        assert!(numbers("1.2.0-rc.1") >= numbers("1.2"));
    }
}
