//! Over generated configs: `check` says an error if, and only if, a container of it cannot be created or started.
//!
//! The configs are those of `differential`; `CONFIGS=N` and `SEED=N` mean the same. Where the two may differ is in [`reason`].

use super::{additions, check, fields};
use crate::differential::generator;
use integration::place::unique;
use integration::{Bundle, Finished, host, place, require};
use serde_json::Value;
use std::fmt::Write;

#[test]
fn check_says_an_error_where_create_or_start_fails_and_nowhere_else() {
    // It does not look for the calls that a filter takes away: recursive attributes are refused without mount_setattr.
    require!(containers, caisson, no_filter);
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let usual = if require::throwaway_machine().is_ok() {
        20
    } else {
        300
    };
    let (count, first) = (
        number("CONFIGS").unwrap_or(usual),
        number("SEED").unwrap_or(0),
    );
    let mut comparison = Comparison::default();
    for seed in first..first + count {
        let made = generator::config(seed, &crate::differential::plain());
        let mut bundle = Bundle::new();
        bundle.scratch.file("host/directory/file", "");
        bundle.scratch.file("host/file", "of the host\n");
        let probe = place::probe().display().to_string();
        bundle.config = made.in_place(&bundle.scratch.name("host"), &probe);
        comparison.add(&bundle, &format!("{seed}: {:?}", made.changes));
    }
    comparison.settle();
}

/// Each addition to a config with some of the roots and identities; `ALL=1` means all of them.
#[test]
fn check_says_an_error_for_what_fails_in_any_kind_of_root_and_nowhere_else() {
    require!(containers, caisson, userns, no_filter);
    // No divisor of how many roots or identities there are, so that each comes with other ones.
    let step = match std::env::var_os("ALL") {
        Some(_) => 1,
        None if require::throwaway_machine().is_ok() => 23,
        None => 3,
    };
    let mut comparison = Comparison::default();
    for made in additions::all().step_by(step) {
        comparison.add(&made.bundle(), &made.to_string());
    }
    comparison.settle();
}

/// What came of the comparisons.
#[derive(Default)]
struct Comparison {
    wrong: String,
    count: u32,
    refused: u32,
    excused: u32,
}

impl Comparison {
    /// Has a bundle checked, and run.
    fn add(&mut self, bundle: &Bundle, what: &str) {
        let (found, code) = check(bundle);
        let errors = fields(&found);
        assert_eq!(code, i32::from(!errors.is_empty()), "{what}");
        for finding in &found {
            let named = finding["field"]
                .as_str()
                .is_some_and(|field| !field.is_empty());
            assert!(named, "{what}: no field: {finding}");
        }
        let id = unique("check");
        let finished = bundle.call("run", &[], &id);
        bundle.assert_gone(&id);
        host::clear(&id);
        let failed = !ran(&finished);
        self.count += 1;
        self.refused += u32::from(failed);
        if failed != errors.is_empty() {
            return;
        }
        let said = finished.stderr.lines().last().unwrap_or_default();
        match reason(&bundle.config.0, said).filter(|_| failed) {
            Some(_) => self.excused += 1,
            None => {
                writeln!(self.wrong, "{what}: run says {said:?}, check {found:?}").unwrap();
            }
        }
    }

    fn settle(self) {
        let Comparison {
            wrong,
            count,
            refused,
            excused,
        } = self;
        integration::runtime::announce(&format!(
            "{count} configs, of which {refused} are refused; {excused} where check cannot know"
        ));
        assert!(wrong.is_empty(), "check and run differ:\n{wrong}");
        assert!(count < 10 || refused > 0, "all of them run");
    }
}

/// Whether all went well: the programs of these configs exit with 0 or 3.
fn ran(finished: &Finished) -> bool {
    matches!(finished.code(), 0 | 3)
}

/// Why `run` may fail, with these words, where `check` found nothing. There is no reason for the contrary.
fn reason(config: &Value, said: &str) -> Option<&'static str> {
    let config = config.to_string();
    let layered = config.contains("dev.caisson.overlay.lower");
    let fails = ["4", "1"].map(|code| config.contains(&format!("\"exit\",\"{code}\"")));
    let known = [
        (
            said.contains("hook #") && fails.contains(&true),
            "what a hook does is seen when it runs",
        ),
        (
            said.is_empty() && config.contains("RLIMIT_"),
            "the program runs, and cannot go on within its limits",
        ),
        (
            said.contains("File too large") && config.contains("RLIMIT_FSIZE"),
            "what may be written depends on what is",
        ),
        (
            layered && !said.is_empty() && crate::overlay::kernel() < (6, 5),
            "what several layers show cannot be looked into before Linux 6.5",
        ),
    ];
    known.iter().find(|(is, _)| *is).map(|(_, why)| *why)
}
