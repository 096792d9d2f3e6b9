//! The same config to runc and to Caisson: what runc accepts, Caisson must accept, and the program in it must see the same.
//!
//! The configs are generated from numbers. `CONFIGS=N` says how many, `SEED=N` from which on; a difference is reported with its
//! number, so that `CONFIGS=1 SEED=N` shows it again. `PEER` names the runc to compare with; without it, that of PATH. What may
//! differ is in [`known`], with the reason; any other difference fails the test.

pub(crate) mod generator;
mod known;

use integration::host;
use integration::place::{self, unique};
use integration::{Bundle, Config, Finished, peer, require};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// What one runtime made of a config.
enum Outcome {
    /// What the program saw, by JSON pointer.
    Ran(BTreeMap<String, String>),
    /// The end of what the runtime said.
    Refused(String),
}

/// Where the two differ: `refused` or a pointer into the report, and what each said.
struct Difference {
    at: String,
    theirs: String,
    ours: String,
}

#[test]
fn what_runc_accepts_runs_the_same_here() {
    // The filter would be seen in the container.
    require!(containers, peer, no_filter);
    if !peer::is("caisson") {
        return; // It would be compared with itself.
    }
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    // Emulated, one takes ten times as long.
    let usual = if require::throwaway_machine().is_ok() {
        15
    } else {
        150
    };
    let (count, first) = (
        number("CONFIGS").unwrap_or(usual),
        number("SEED").unwrap_or(0),
    );
    let (mut new, mut accepted, mut more) = (String::new(), 0, 0);
    for seed in first..first + count {
        let made = generator::config(seed, &plain());
        let theirs = outcome(&made, place::peer().as_deref());
        let ours = outcome(&made, None);
        accepted += u32::from(matches!(theirs, Outcome::Ran(_)));
        more += u32::from(matches!(
            (&theirs, &ours),
            (Outcome::Refused(_), Outcome::Ran(_))
        ));
        let config = made.in_place("", "").0;
        let found = differences(&theirs, &ours);
        for found in found
            .iter()
            .filter(|found| known::reason(found, &config).is_none())
        {
            let Difference { at, theirs, ours } = found;
            writeln!(
                new,
                "{seed}: {at}: runc {theirs:?}, caisson {ours:?}; {:?}",
                made.changes
            )
            .unwrap();
        }
    }
    integration::runtime::announce(&format!(
        "{count} configs, of which runc takes {accepted}; {more} that it refuses run here"
    ));
    assert!(new.is_empty(), "differences that are not known:\n{new}");
    assert!(count < 10 || accepted > 0, "runc takes none of them");
}

/// The config that is changed: the default one, with a report that asks for what the changes are about.
pub(crate) fn plain() -> Config {
    let mut config = Config::default();
    let stats = [
        "/dev/null",
        "/dev/zero",
        "/dev/tty",
        "/dev/ptmx",
        "/dev/fd",
        "/dev/stdin",
        "/dev/core",
        "/dev/console",
        "/dev/fuse",
        "/dev/other",
        "/dev/unbuffered",
        "/dev/pipe",
        "/dev/disk",
        "/dev/sticky",
        "/dev/deep/er/null",
        "/data",
        "/new/dir",
        "/etc",
        "/etc/passwd",
        "/tmp",
    ];
    let mut questions: Vec<String> = stats.iter().map(|path| format!("stat={path}")).collect();
    for question in [
        "ls=/dev",
        "ls=/data",
        "ls=/etc",
        "ls=/",
        "sysctl=net.ipv4.ip_forward",
        "sysctl=kernel.msgmax",
        "sysctl=kernel.sem",
        "sysctl=fs.mqueue.msg_max",
        "try=write:/dev/null",
        "try=write:/dev/fuse",
        "try=mkdir:/tmp/new",
        "try=mkdir:/data/new",
    ] {
        questions.push(question.to_owned());
    }
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    config.probe(&[&["report"], questions.as_slice()].concat());
    config
}

/// Runs a config in a bundle of its own, with this runtime or else the one under test.
fn outcome(made: &generator::Made, runtime: Option<&Path>) -> Outcome {
    let mut bundle = Bundle::new();
    if let Some(runtime) = runtime {
        bundle.runtime.binary = runtime.to_owned();
        bundle.runtime.wrapper.clear();
    }
    bundle.scratch.file("host/directory/file", "");
    bundle.scratch.file("host/file", "of the host\n");
    let probe = place::probe().display().to_string();
    bundle.config = made.in_place(&bundle.scratch.name("host"), &probe);
    let id = unique("differential");
    let finished = bundle.call("run", &[], &id);
    if runtime.is_some() {
        bundle.runtime.call(&["delete", "--force", &id]);
        host::clear(&id);
    } else {
        bundle.assert_gone(&id);
    }
    judge(&finished, &bundle, &id)
}

fn judge(finished: &Finished, bundle: &Bundle, id: &str) -> Outcome {
    let plain = |text: &str| {
        let scratch = bundle.scratch.path().display().to_string();
        text.replace(&scratch, "SCRATCH").replace(id, "ID")
    };
    if let Ok(report) = serde_json::from_str::<Value>(plain(&finished.stdout).trim()) {
        let mut flat = BTreeMap::new();
        flatten("", &normal(report), &mut flat);
        return Outcome::Ran(flat);
    }
    let stderr = plain(&finished.stderr);
    match finished.code() {
        // A program of its own, which says nothing.
        0 | 3 => Outcome::Ran(BTreeMap::from([(
            "/exit".to_owned(),
            finished.code().to_string(),
        )])),
        _ => Outcome::Refused(stderr.lines().last().unwrap_or_default().to_owned()),
    }
}

/// A report without what differs from run to run.
fn normal(report: Value) -> Value {
    let mut report = told(report);
    for changing in ["boottime", "monotonic"] {
        report[changing].take();
    }
    if report["pid"] != 1 {
        for number in ["pid", "ppid", "session", "process_group"] {
            report[number].take();
        }
    }
    let mut mounts = Map::new();
    for mount in report["mounts"].take().as_array().into_iter().flatten() {
        let target = mount["target"].as_str().unwrap_or_default();
        let key = (0..)
            .map(|n| format!("{}#{n}", target.replace('/', "|")))
            .find(|key| !mounts.contains_key(key));
        let kinds = mount["propagation"].as_array().into_iter().flatten();
        let kinds: Vec<&str> = kinds
            .filter_map(|kind| kind.as_str()?.split(':').next())
            .collect();
        let kept = json!({
            "root": mount["root"], "options": mount["options"], "propagation": kinds, "fstype": mount["fstype"],
            "source": mount["source"], "super": mount["super_options"],
        });
        mounts.extend(key.map(|key| (key, kept)));
    }
    report["mounts"] = mounts.into();
    for (kind, link) in report["namespaces"].as_object_mut().into_iter().flatten() {
        let own = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap_or_default();
        *link = json!(if link.as_str().map(Path::new) == Some(&own) {
            "the host's"
        } else {
            "its own"
        });
    }
    for (_, target) in report["fds"].as_object_mut().into_iter().flatten() {
        let text = target.as_str().unwrap_or_default();
        *target = json!(text.split_once(":[").map_or(text, |(kind, _)| kind));
    }
    for (_, stat) in report["stats"].as_object_mut().into_iter().flatten() {
        if let Some(stat) = stat.as_object_mut() {
            stat.remove("size");
        }
    }
    report
}

/// Answers without the wrapping that says whether there is one.
fn told(value: Value) -> Value {
    match value {
        Value::Object(mut map) if map.len() == 1 && map.contains_key("Ok") => {
            told(map.remove("Ok").unwrap_or_default())
        }
        Value::Object(map) => map
            .into_iter()
            .map(|(key, value)| (key, told(value)))
            .collect(),
        other => other,
    }
}

fn flatten(at: &str, value: &Value, flat: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                flatten(&format!("{at}/{key}"), value, flat);
            }
        }
        other => drop(flat.insert(at.to_owned(), other.to_string())),
    }
}

/// What runc refuses is not compared: to be more lenient is no fault.
fn differences(theirs: &Outcome, ours: &Outcome) -> Vec<Difference> {
    let (theirs, ours) = match (theirs, ours) {
        (Outcome::Refused(_), _) => return Vec::new(),
        (Outcome::Ran(_), Outcome::Refused(error)) => {
            let refused = Difference {
                at: "refused".to_owned(),
                theirs: String::new(),
                ours: error.clone(),
            };
            return vec![refused];
        }
        (Outcome::Ran(theirs), Outcome::Ran(ours)) => (theirs, ours),
    };
    let mut keys: Vec<&String> = theirs.keys().chain(ours.keys()).collect();
    keys.sort();
    keys.dedup();
    let said = |side: &BTreeMap<String, String>, key| side.get(key).cloned().unwrap_or_default();
    let differing = keys
        .into_iter()
        .filter(|key| theirs.get(*key) != ours.get(*key));
    differing
        .map(|at| Difference {
            at: at.clone(),
            theirs: said(theirs, at),
            ours: said(ours, at),
        })
        .collect()
}
