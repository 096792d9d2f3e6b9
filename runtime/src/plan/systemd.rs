//! `linux.cgroupsPath` as systemd's users write it, `slice:prefix:name` → a unit, the slices above it, and its properties.
//!
//! Pure: `cgroup::systemd` has systemd start the unit. Names, and how limits become properties, are runc's. The properties are made from
//! the files of the group that [`Limits`] lists: systemd then writes the same values as we do, also when it writes them again later
//! (`systemctl daemon-reload`), and what was asked for in the kernel's own words (`unified`) is translated like the rest.
//!
//! Devices have no property. systemd's DeviceAllow= names nodes of this machine's /dev, so it knows no device that has none there
//! (the GPUs that containers lost after a daemon-reload), and its own filter would be in force beside ours. Without one, it neither
//! makes a filter nor touches another's: the one that `cgroup` attaches stays for as long as the group.

use super::limits::{Limits, Write};
use super::variant::Value;
use crate::report::{Error, Result};
use std::collections::HashMap;
use std::path::Path;

/// A unit that systemd is to start.
#[derive(Debug, PartialEq)]
pub(crate) struct Unit {
    pub(crate) name: String,
    /// Its group, below that of the service manager.
    pub(crate) path: String,
    /// The container's group below that, if it has one of its own there.
    pub(crate) subgroup: Option<String>,
    /// It is the user's own service manager that starts it, not the system's.
    pub(crate) user: bool,
    /// In this order; of two with the same name, systemd takes the last, or both if it is a list.
    pub(crate) properties: Vec<Property>,
}

/// The name of a property and its value.
pub(crate) type Property = (String, Value);

/// What only newer versions of systemd know. Without them the files say the same, until systemd writes its own values again.
pub(crate) const RECENT: [&str; 4] = [
    "CPUQuotaPeriodUSec",
    "AllowedCPUs",
    "AllowedMemoryNodes",
    "OOMPolicy",
];

/// What can be chosen only while a unit starts.
const AT_START: &str = "OOMPolicy";

const SLICE: &str = ".slice";

impl Unit {
    /// Whether it is a scope, which lives only as long as it has processes. A slice stays until it is stopped.
    pub(crate) fn is_scope(&self) -> bool {
        !self.name.ends_with(SLICE)
    }
}

/// Plans the unit.
pub(super) fn unit(
    id: &str,
    cgroups_path: Option<&Path>,
    user: bool,
    limits: &Limits,
    annotations: Option<&HashMap<String, String>>,
) -> Result<Unit> {
    let text = cgroups_path.map_or("", |path| path.to_str().unwrap_or("\u{fffd}"));
    let (slice, prefix, name) = match *text.split(':').collect::<Vec<_>>() {
        [""] => ("", "caisson", id),
        [slice, prefix, name] if !name.is_empty() && !text.contains(['/', '\0']) => {
            (slice, prefix, name)
        }
        _ => {
            let story = format!(
                "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {text:?} instead"
            );
            return Err(Error::invalid(story));
        }
    };
    let slice = match (slice, user) {
        ("", false) => "system.slice",
        ("", true) => "user.slice",
        (slice, _) => slice,
    };
    let above = slice_path(slice)?;
    let (unit_name, path) = if name.ends_with(SLICE) {
        (name.to_owned(), slice_path(name)?)
    } else {
        let unit = match prefix {
            "" => format!("{name}.scope"),
            prefix => format!("{prefix}-{name}.scope"),
        };
        let path = [above.as_str(), &unit].join("/");
        (unit, path.trim_start_matches('/').to_owned())
    };
    let mut unit = Unit {
        name: unit_name,
        path,
        subgroup: None,
        user,
        properties: Vec::new(),
    };
    unit.properties = basics(&unit, slice, name);
    unit.properties.extend(properties(limits));
    unit.properties.extend(annotated(annotations)?);
    Ok(unit)
}

/// The group of a slice: the dashes of its name say in which slices it is. `-.slice` is the root.
fn slice_path(slice: &str) -> Result<String> {
    let invalid = || Error::invalid(format!("linux.cgroupsPath: invalid slice name: {slice}"));
    let stem = slice.strip_suffix(SLICE).ok_or_else(invalid)?;
    if stem == "-" {
        return Ok(String::new());
    }
    if stem.split('-').any(str::is_empty) || stem.contains('/') {
        return Err(invalid());
    }
    let ends = stem
        .match_indices('-')
        .map(|(end, _)| end)
        .chain([stem.len()]);
    let parts: Vec<_> = ends.map(|end| format!("{}{SLICE}", &stem[..end])).collect();
    Ok(parts.join("/"))
}

/// What every unit of ours has, whatever its limits.
fn basics(unit: &Unit, slice: &str, name: &str) -> Vec<Property> {
    let mut properties = vec![property(
        "Description",
        Value::text(format!("caisson container {name}")),
    )];
    if unit.is_scope() {
        properties.push(property("Slice", Value::text(slice)));
        properties.push(property("Delegate", Value::Bool(true)));
    } else {
        // The parent of a slice follows from its name.
        properties.push(property("Wants", Value::texts([slice.to_owned()])));
    }
    for accounting in [
        "MemoryAccounting",
        "CPUAccounting",
        "IOAccounting",
        "TasksAccounting",
    ] {
        properties.push(property(accounting, Value::Bool(true)));
    }
    // Else systemd would stop it first of all at shutdown, and before what its engine asks for by an annotation.
    properties.push(property("DefaultDependencies", Value::Bool(false)));
    properties
}

fn property(name: &str, value: Value) -> Property {
    (name.to_owned(), value)
}

/// The files that systemd writes when it is told of any property of a unit: all it has ever been told of, as it has it. Those of one list
/// say one thing together, the first that says anything.
const FILES: [&[&str]; 11] = [
    &["cpu.idle", "cpu.weight"],
    &["cpu.max"],
    &["cpuset.cpus"],
    &["cpuset.mems"],
    &["io.bfq.weight", "io.weight"],
    &["memory.min"],
    &["memory.low"],
    &["memory.high"],
    &["memory.max"],
    &["memory.swap.max"],
    &["pids.max"],
];

/// In an order in which they can be written: an idle group takes no weight.
pub(crate) fn files() -> impl Iterator<Item = &'static str> {
    FILES.into_iter().flatten().copied()
}

/// What a group's files say of the limits that were named, for a unit that is there. Not from the limits themselves: which file has taken a
/// weight of IO, and what is in force after a failure, the files know.
pub(crate) fn properties_of(files: &[(&str, String)], named: &Limits) -> Vec<Property> {
    let is_named = |list: &&&[&str]| {
        let mut writes = named.writes.iter();
        writes.any(|write| list.contains(&write.file.as_str()))
    };
    let said = |file: &&str| {
        let (file, text) = files.iter().find(|(name, _)| name == file)?;
        // After the default weight come those of devices.
        Some(translate(file, text.lines().next()?)).filter(|found| !found.is_empty())
    };
    let lists = FILES.iter().filter(is_named);
    let found = lists
        .filter_map(|list| list.iter().find_map(said))
        .flatten();
    found.map(|(name, value)| property(name, value)).collect()
}

/// The properties that systemd writes to the same files with the same values, each once, for a unit that is to be. A weight for BFQ is not among
/// them: whether there is BFQ is known when the group is there.
pub(crate) fn properties(limits: &Limits) -> Vec<Property> {
    let mut properties: Vec<Property> = Vec::new();
    let writes = limits.writes.iter().filter(|write| !is_for_bfq(write));
    for (name, value) in writes.flat_map(|write| translate(&write.file, &write.value)) {
        properties.retain(|(other, _)| other != name);
        properties.push(property(name, value));
    }
    properties
}

pub(crate) fn is_for_bfq(write: &Write) -> bool {
    write.file == "io.bfq.weight"
}

/// Nothing for files that systemd has no property for, and for what it would refuse: the kernel is the one to judge a value.
fn translate(file: &str, value: &str) -> Vec<(&'static str, Value)> {
    let value = value.trim();
    let default = value.strip_prefix("default ").unwrap_or(value);
    let number = |name, number: Option<u64>| number.map(|n| (name, Value::Uint64(n)));
    let one = match file {
        "memory.max" => number("MemoryMax", amount(value)),
        "memory.high" => number("MemoryHigh", amount(value)),
        "memory.low" => number("MemoryLow", amount(value)),
        "memory.min" => number("MemoryMin", amount(value)),
        "memory.swap.max" => number("MemorySwapMax", amount(value)),
        "memory.oom.group" => {
            let policy = if value == "1" { "kill" } else { "continue" };
            Some((AT_START, Value::text(policy)))
        }
        "pids.max" => number("TasksMax", amount(value).filter(|n| *n > 0)),
        "cpu.weight" => number("CPUWeight", weight(value)),
        // systemd's word for it since 252. One that is not idle has its weight.
        "cpu.idle" => number("CPUWeight", (value == "1").then_some(0)),
        "cpu.max" => return bandwidth(value),
        "cpuset.cpus" => bit_mask(value).map(|mask| ("AllowedCPUs", mask)),
        "cpuset.mems" => bit_mask(value).map(|mask| ("AllowedMemoryNodes", mask)),
        "io.weight" => number("IOWeight", weight(default)),
        "io.bfq.weight" => number("IOWeight", weight(default).map(io_weight_for_bfq)),
        _ => None,
    };
    one.into_iter().collect()
}

/// An amount as the kernel takes it, with a suffix of a power of 1024.
fn amount(text: &str) -> Option<u64> {
    if text == "max" {
        return Some(u64::MAX);
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        "t" | "T" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn weight(text: &str) -> Option<u64> {
    text.parse().ok().filter(|n| (1..=10_000).contains(n))
}

/// systemd squeezes its weights (1 to 10000) into those of BFQ (1 to 1000): the weight that becomes this one.
fn io_weight_for_bfq(weight: u64) -> u64 {
    match weight {
        0..=100 => weight,
        weight => 100 + (weight - 100) * 11,
    }
}

/// Rounds the quota as systemd does, which would write it so at its next look: it knows whole percents of a CPU.
pub(crate) fn round(limits: &mut Limits) {
    for write in limits.writes.iter_mut().filter(|w| w.file == "cpu.max") {
        if let [
            ("CPUQuotaPeriodUSec", Value::Uint64(period)),
            (_, Value::Uint64(per_second)),
        ] = bandwidth(&write.value)[..]
            && per_second != u64::MAX
            && write.value.contains(' ')
        {
            let quota = u128::from(per_second) * u128::from(period) / 1_000_000;
            write.value = format!("{quota} {period}");
        }
    }
}

/// `quota period`, in microseconds.
fn bandwidth(value: &str) -> Vec<(&'static str, Value)> {
    const SECOND: u64 = 1_000_000;
    // systemd rounds down to a whole percent of a CPU, so what is given is rounded up to one: groups below may then have all of it.
    const PERCENT: u64 = SECOND / 100;
    let (quota, period) = value.split_once(' ').unwrap_or((value, "100000"));
    let Some(period) = period.parse::<u64>().ok().filter(|p| *p > 0) else {
        return Vec::new();
    };
    let per_second = match quota {
        "max" => Some(u64::MAX),
        quota => quota
            .parse::<u64>()
            .ok()
            .and_then(|quota| quota.checked_mul(SECOND))
            .and_then(|product| (product / period).checked_next_multiple_of(PERCENT))
            .filter(|per_second| *per_second > 0),
    };
    per_second.map_or(Vec::new(), |per_second| {
        vec![
            ("CPUQuotaPeriodUSec", Value::Uint64(period)),
            ("CPUQuotaPerSecUSec", Value::Uint64(per_second)),
        ]
    })
}

/// A list such as `0-3,7` as bytes, bit 0 of the first for 0.
fn bit_mask(list: &str) -> Option<Value> {
    const MOST: usize = 8192;
    let mut mask: Vec<u8> = Vec::new();
    for part in list.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.trim().parse().ok()?;
        let last: usize = last.trim().parse().ok().filter(|last| *last < MOST)?;
        for number in first..=last {
            if mask.len() <= number / 8 {
                mask.resize(number / 8 + 1, 0);
            }
            mask[number / 8] |= 1 << (number % 8);
        }
    }
    Some(Value::bytes(mask))
}

/// Annotations `org.systemd.property.NAME`, in the order of their names.
fn annotated(annotations: Option<&HashMap<String, String>>) -> Result<Vec<Property>> {
    const PREFIX: &str = "org.systemd.property.";
    let mut properties = Vec::new();
    for (key, text) in annotations.into_iter().flatten() {
        let Some(name) = key.strip_prefix(PREFIX) else {
            continue;
        };
        // PIDs would take any process of the host into the scope, and kill it with the container.
        if name.len() < 3 || !name.bytes().all(|b| b.is_ascii_alphabetic()) || name == "PIDs" {
            let story = format!("annotation {key} name incorrect: not the name of a property");
            return Err(Error::invalid(story));
        }
        let wrong =
            |why| Error::invalid(format!("annotation {key}={text} value parse error: {why}"));
        let value = Value::parse(text).map_err(wrong)?;
        // On the bus, all times are in microseconds and named so. In unit files they are not.
        properties.push(match name.strip_suffix("Sec") {
            Some(stem) if !stem.ends_with('U') => {
                (format!("{stem}USec"), microseconds(&value).map_err(wrong)?)
            }
            _ => property(name, value),
        });
    }
    properties.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(properties)
}

fn microseconds(seconds: &Value) -> std::result::Result<Value, String> {
    const SECOND: u64 = 1_000_000;
    let whole = match *seconds {
        Value::Byte(n) => Some(n.into()),
        Value::Uint16(n) => Some(n.into()),
        Value::Uint32(n) => Some(n.into()),
        Value::Uint64(n) => Some(n),
        Value::Int16(n) => n.try_into().ok(),
        Value::Int32(n) => n.try_into().ok(),
        Value::Int64(n) => n.try_into().ok(),
        Value::Double(n) if n >= 0.0 => return Ok(Value::Uint64((n * SECOND as f64) as u64)),
        _ => None,
    };
    let microseconds = whole.and_then(|seconds| seconds.checked_mul(SECOND));
    microseconds
        .map(Value::Uint64)
        .ok_or_else(|| "not a number of seconds".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::limits::limits;

    fn planned(path: &str, user: bool) -> Result<Unit> {
        unit("web", Some(Path::new(path)), user, &Limits::default(), None)
    }

    #[test]
    fn names_and_slices_are_as_runc_has_them() {
        for (path, user, name, group) in [
            (
                "",
                false,
                "caisson-web.scope",
                "system.slice/caisson-web.scope",
            ),
            (
                "",
                true,
                "caisson-web.scope",
                "user.slice/caisson-web.scope",
            ),
            (
                "system.slice:docker:1f",
                false,
                "docker-1f.scope",
                "system.slice/docker-1f.scope",
            ),
            (
                ":crio:1f",
                true,
                "crio-1f.scope",
                "user.slice/crio-1f.scope",
            ),
            ("a.slice::1f", false, "1f.scope", "a.slice/1f.scope"),
            ("-.slice:x:y", false, "x-y.scope", "x-y.scope"),
            (
                "kube-pods-pod_1.slice:cri:1f",
                false,
                "cri-1f.scope",
                "kube.slice/kube-pods.slice/kube-pods-pod_1.slice/cri-1f.scope",
            ),
            (
                "system.slice:x:a-b.slice",
                false,
                "a-b.slice",
                "a.slice/a-b.slice",
            ),
        ] {
            let unit = planned(path, user).unwrap();
            assert_eq!(
                (unit.name.as_str(), unit.path.as_str()),
                (name, group),
                "{path}"
            );
        }
    }

    #[test]
    fn other_paths_are_refused_with_runcs_words() {
        for path in [
            "/a",
            "a",
            "a.slice:b",
            "a.slice:b:c:d",
            "a.slice:b:",
            "a.slice:../b:c",
            "a.slice:b:c/d",
        ] {
            let text = planned(path, false).unwrap_err().to_string();
            assert!(text.contains("format \"slice:prefix:name\""), "{text}");
        }
        for path in [
            "a:b:c",
            "a--b.slice:b:c",
            ".slice:b:c",
            "-a.slice:b:c",
            "a-.slice:b:c",
            "a.slice:b:-x.slice",
        ] {
            let text = planned(path, false).unwrap_err().to_string();
            assert!(text.contains("invalid slice name"), "{path}: {text}");
        }
    }

    #[test]
    fn a_scope_is_delegated_and_a_slice_wants_its_parent() {
        let has = |unit: &Unit, name: &str| unit.properties.iter().any(|(n, _)| n == name);
        let scope = planned("a.slice:b:c", false).unwrap();
        assert!(
            scope.is_scope()
                && has(&scope, "Delegate")
                && has(&scope, "Slice")
                && !has(&scope, "Wants")
        );
        let slice = planned("a.slice:b:c.slice", false).unwrap();
        assert!(
            !slice.is_scope()
                && has(&slice, "Wants")
                && !has(&slice, "Slice")
                && !has(&slice, "Delegate")
        );
    }

    fn from(resources: &str) -> Vec<Property> {
        let resources = serde_json::from_str(resources).unwrap();
        let mut properties = properties(&limits(&resources).unwrap());
        properties.sort_by(|(a, _), (b, _)| a.cmp(b));
        properties
    }

    fn numbers(list: &[(&str, u64)]) -> Vec<Property> {
        list.iter()
            .map(|(name, n)| property(name, Value::Uint64(*n)))
            .collect()
    }

    #[test]
    fn limits_become_properties() {
        assert_eq!(
            from(
                r#"{"memory":{"limit":1048576,"swap":1048576,"reservation":4096},"pids":{"limit":0},"cpu":{"shares":1024}}"#
            ),
            numbers(&[
                ("CPUWeight", 100),
                ("MemoryLow", 4096),
                ("MemoryMax", 1_048_576),
                ("MemorySwapMax", 0),
                ("TasksMax", 1)
            ])
        );
        let max = u64::MAX;
        assert_eq!(
            from(
                r#"{"memory":{"limit":-1},"pids":{"limit":-1},"cpu":{"quota":-1,"period":50000}}"#
            ),
            numbers(&[
                ("CPUQuotaPerSecUSec", max),
                ("CPUQuotaPeriodUSec", 50_000),
                ("MemoryMax", max),
                ("MemorySwapMax", max),
                ("TasksMax", max)
            ])
        );
        assert_eq!(
            from(r#"{"cpu":{"idle":1,"shares":500}}"#),
            numbers(&[("CPUWeight", 0)])
        );
        assert_eq!(
            from(r#"{"cpu":{"idle":0,"shares":1024}}"#),
            numbers(&[("CPUWeight", 100)])
        );
        assert_eq!(
            from(r#"{"unified":{"io.weight":"default 200"}}"#),
            numbers(&[("IOWeight", 200)])
        );
        // It depends on the kernel which file takes it.
        assert_eq!(from(r#"{"blockIO":{"weight":500}}"#), []);
        assert_eq!(from("{}"), []);
    }

    #[test]
    fn a_unit_that_is_there_has_what_its_files_say_of_what_was_named() {
        let named = |json| limits(&serde_json::from_str(json).unwrap()).unwrap();
        let weight = named(r#"{"blockIO":{"weight":500}}"#);
        let say = |files: &[(&str, &str)], named: &Limits| {
            let files: Vec<_> = files
                .iter()
                .map(|(file, value)| (*file, (*value).to_owned()))
                .collect();
            properties_of(&files, named)
        };
        let io = ("io.weight", "default 4950\n");
        assert_eq!(say(&[io], &weight), numbers(&[("IOWeight", 4950)]));
        let bfq = ("io.bfq.weight", "default 500\n");
        assert_eq!(say(&[bfq, io], &weight), numbers(&[("IOWeight", 4500)]));
        let cpu = named(r#"{"cpu":{"idle":0}}"#);
        let idle = [("cpu.idle", "1"), ("cpu.weight", "0")];
        assert_eq!(say(&idle, &cpu), numbers(&[("CPUWeight", 0)]));
        let busy = [("cpu.idle", "0"), ("cpu.weight", "59"), ("pids.max", "7")];
        assert_eq!(say(&busy, &cpu), numbers(&[("CPUWeight", 59)]));
    }

    #[test]
    fn a_share_of_a_cpu_is_rounded_up_to_a_whole_percent() {
        for (quota, period, per_second) in [
            (50_000, 100_000, 500_000),
            (1000, 100_000, 10_000),
            (33_333, 100_000, 340_000),
            (400_000, 200_000, 2_000_000),
        ] {
            assert_eq!(
                from(&format!(
                    r#"{{"cpu":{{"quota":{quota},"period":{period}}}}}"#
                )),
                numbers(&[
                    ("CPUQuotaPerSecUSec", per_second),
                    ("CPUQuotaPeriodUSec", period)
                ])
            );
        }
    }

    #[test]
    fn a_quota_is_written_as_systemd_rounds_it() {
        for (given, rounded) in [
            ("500000 900000", "504000 900000"),
            ("30000 50000", "30000 50000"),
            ("max 50000", "max 50000"),
            ("500000", "500000"),
        ] {
            let json = format!(r#"{{"unified":{{"cpu.max":"{given}"}}}}"#);
            let mut limits = limits(&serde_json::from_str(&json).unwrap()).unwrap();
            round(&mut limits);
            assert_eq!(limits.writes[0].value, rounded);
        }
    }

    #[test]
    fn cpus_become_bits_from_the_lowest_byte_on() {
        assert_eq!(
            from(r#"{"cpu":{"cpus":"0-3,7,9","mems":"0"}}"#),
            [
                property("AllowedCPUs", Value::bytes([0b1000_1111, 0b10])),
                property("AllowedMemoryNodes", Value::bytes([1]))
            ]
        );
        assert_eq!(from(r#"{"cpu":{"cpus":"0-100000"}}"#), []);
    }

    #[test]
    fn the_kernels_own_words_are_translated_and_win() {
        let unified = r#"{"memory":{"limit":1048576},"unified":{"memory.max":"2M","memory.high":"max","memory.min":"1000","cpu.max":"20000 100000",
            "cpu.weight":"42","pids.max":"7","cpuset.cpus":"1","io.weight":"default 300","memory.oom.group":"1","hugetlb.2MB.max":"0"}}"#;
        let mut expected = numbers(&[
            ("CPUQuotaPerSecUSec", 200_000),
            ("CPUQuotaPeriodUSec", 100_000),
            ("CPUWeight", 42),
            ("IOWeight", 300),
            ("MemoryHigh", u64::MAX),
            ("MemoryMax", 2 << 20),
            ("MemoryMin", 1000),
            ("TasksMax", 7),
        ]);
        expected.insert(0, property("AllowedCPUs", Value::bytes([2])));
        expected.insert(8, property("OOMPolicy", Value::text("kill")));
        assert_eq!(from(unified), expected);
    }

    #[test]
    fn annotations_are_properties_and_seconds_are_microseconds_on_the_bus() {
        let annotations = [
            ("org.systemd.property.After", "['a.service', 'b.service']"),
            ("org.systemd.property.TimeoutStopSec", "uint64 3"),
            ("org.systemd.property.RuntimeMaxSec", "1.5"),
            ("org.systemd.property.RuntimeMaxUSec", "uint64 5"),
            ("org.other", "'"),
        ];
        let map = annotations
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        let after = Value::texts(["a.service".to_owned(), "b.service".to_owned()]);
        let mut expected = vec![property("After", after)];
        expected.extend(numbers(&[
            ("RuntimeMaxUSec", 1_500_000),
            ("RuntimeMaxUSec", 5),
            ("TimeoutStopUSec", 3_000_000),
        ]));
        let mut found = annotated(Some(&map)).unwrap();
        found.sort_by_key(|(name, value)| (name.clone(), *value == Value::Uint64(5)));
        assert_eq!(found, expected);
        for (key, value) in [
            ("x", "1"),
            ("Bad1", "1"),
            ("After", "[a"),
            ("StopSec", "'x'"),
            ("StopSec", "-1"),
        ] {
            let map = HashMap::from([(format!("org.systemd.property.{key}"), value.to_owned())]);
            assert!(annotated(Some(&map)).is_err(), "{key}={value}");
        }
    }
}
