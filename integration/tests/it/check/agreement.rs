//! Over generated configs: `check` says an error if, and only if, a container of it cannot be created or started.
//!
//! The configs are those of `differential`; `CONFIGS=N` and `SEED=N` mean the same. Where the two may differ is in [`reason`].

use super::{check, fields};
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
    let (mut wrong, mut refused, mut excused) = (String::new(), 0, 0);
    for seed in first..first + count {
        let made = generator::config(seed, &crate::differential::plain());
        let mut bundle = Bundle::new();
        bundle.scratch.file("host/directory/file", "");
        bundle.scratch.file("host/file", "of the host\n");
        let probe = place::probe().display().to_string();
        bundle.config = made.in_place(&bundle.scratch.name("host"), &probe);
        let (found, code) = check(&bundle);
        let errors = fields(&found);
        assert_eq!(code, i32::from(!errors.is_empty()), "{seed}");
        for finding in &found {
            let named = finding["field"]
                .as_str()
                .is_some_and(|field| !field.is_empty());
            assert!(named, "{seed}: no field: {finding}; {:?}", made.changes);
        }
        let id = unique("check");
        let finished = bundle.call("run", &[], &id);
        bundle.assert_gone(&id);
        host::clear(&id);
        let failed = !ran(&finished);
        refused += u32::from(failed);
        if failed != errors.is_empty() {
            continue;
        }
        let said = finished.stderr.lines().last().unwrap_or_default();
        match reason(&bundle.config.0, said, &found) {
            Some(_) => excused += 1,
            None => writeln!(
                wrong,
                "{seed}: run says {said:?}, check {found:?}; {:?}",
                made.changes
            )
            .unwrap(),
        }
    }
    integration::runtime::announce(&format!(
        "{count} configs, of which {refused} are refused; {excused} where check cannot know"
    ));
    assert!(wrong.is_empty(), "check and run differ:\n{wrong}");
    assert!(count < 10 || refused > 0, "all of them run");
}

/// Whether all went well: the programs of these configs exit with 0 or 3.
fn ran(finished: &Finished) -> bool {
    matches!(finished.code(), 0 | 3)
}

/// Why `check` and `run` may differ about a config: by what `run` said, or `check` found.
fn reason(config: &Value, said: &str, _found: &[Value]) -> Option<&'static str> {
    let config = config.to_string();
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
    ];
    known.iter().find(|(is, _)| *is).map(|(_, why)| *why)
}
