//! `linux.intelRdt`: which class of service a container is in, and what is written there.
//!
//! Pure. The groups are made by `crate::resctrl`. See the kernel's Documentation/filesystems/resctrl.rst.

use crate::report::{Error, Result};
use oci_spec::runtime::LinuxIntelRdt;
use std::collections::BTreeMap;

/// The groups of a container in the resctrl file system.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ResctrlPlan {
    /// The directory of its class below the root; empty for the default class, which is the root.
    pub(crate) class: String,
    /// The class was named: others may be in it, too.
    pub(crate) named: bool,
    /// A class that is named and not described was made by somebody else.
    pub(crate) must_exist: bool,
    /// Lines for `schemata`.
    pub(crate) schemata: Vec<String>,
    /// Whether the fields for cache and for memory bandwidth are set: the machine must have these then.
    pub(crate) cache: bool,
    pub(crate) bandwidth: bool,
    /// The container's own monitoring group.
    pub(crate) monitor: Option<String>,
}

/// Plans the groups of the container with this id.
pub(crate) fn plan(config: &LinuxIntelRdt, id: &str) -> Result<ResctrlPlan> {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let class = text(config.clos_id());
    let is_path = class.len() > 1 && class.contains('/');
    if matches!(class.as_str(), "." | "..") || is_path || class.contains('\0') {
        return Err(Error::invalid(format!("invalid intelRdt.ClosID {class:?}")));
    }
    let (cache, bandwidth) = (text(config.l3_cache_schema()), text(config.mem_bw_schema()));
    let schemata = lines(
        &cache,
        &bandwidth,
        config.schemata().as_deref().unwrap_or_default(),
    );
    let named = !class.is_empty();
    Ok(ResctrlPlan {
        must_exist: named && schemata.is_empty(),
        class: match class.as_str() {
            "" => id.to_owned(),
            "/" => String::new(),
            _ => class,
        },
        named,
        cache: !cache.is_empty(),
        bandwidth: !bandwidth.is_empty(),
        schemata,
        monitor: config
            .enable_monitoring()
            .unwrap_or(false)
            .then(|| id.to_owned()),
    })
}

/// The lines for `schemata`. Those about bandwidth among the ones for the cache give way to the field of their own (runtime-spec).
pub(crate) fn lines(cache: &str, bandwidth: &str, more: &[String]) -> Vec<String> {
    let cache = cache
        .lines()
        .filter(|line| bandwidth.is_empty() || !line.trim_start().starts_with("MB:"));
    let all = cache
        .chain(bandwidth.lines())
        .chain(more.iter().flat_map(|text| text.lines()));
    all.map(str::trim)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The first of these lines that a class does not have, whose `schemata` is given.
pub(crate) fn mismatch<'a>(lines: &'a [String], schemata: &str) -> Option<&'a String> {
    let there: Vec<_> = schemata.lines().filter_map(parse).collect();
    lines
        .iter()
        .find(|line| parse(line).is_none_or(|line| !there.contains(&line)))
}

/// A line, `L3:0=7f0;1=1f`, with numbers as the kernel means them: masks are hexadecimal, bandwidths are not.
fn parse(line: &str) -> Option<(&str, BTreeMap<&str, u64>)> {
    let (resource, domains) = line.trim().split_once(':')?;
    let radix = if resource == "MB" { 10 } else { 16 };
    let mut map = BTreeMap::new();
    for domain in domains.split(';').filter(|text| !text.trim().is_empty()) {
        let (id, value) = domain.split_once('=')?;
        map.insert(id.trim(), u64::from_str_radix(value.trim(), radix).ok()?);
    }
    Some((resource.trim(), map))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(json: &str) -> Result<ResctrlPlan> {
        plan(&serde_json::from_str(json).unwrap(), "box")
    }

    #[test]
    fn a_class_is_the_containers_own_unless_it_is_named() {
        let own = planned(r#"{"l3CacheSchema":"L3:0=f"}"#).unwrap();
        assert_eq!(
            (own.class.as_str(), own.named, own.must_exist),
            ("box", false, false)
        );
        let named = planned(r#"{"closID":"gold"}"#).unwrap();
        assert_eq!(
            (named.class.as_str(), named.named, named.must_exist),
            ("gold", true, true)
        );
        let root = planned(r#"{"closID":"/","enableMonitoring":true}"#).unwrap();
        assert_eq!(
            (root.class.as_str(), root.monitor.as_deref()),
            ("", Some("box"))
        );
        for wrong in [".", "..", "a/b", "/a"] {
            assert!(
                planned(&format!("{{\"closID\":\"{wrong}\"}}")).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn lines_come_from_all_three_fields() {
        let plan = planned(
            r#"{"l3CacheSchema":"L3:0=f0\nMB:0=9","memBwSchema":"MB:0=20","schemata":["L2:0=3"]}"#,
        );
        assert_eq!(plan.unwrap().schemata, ["L3:0=f0", "MB:0=20", "L2:0=3"]);
        assert_eq!(lines("L3:0=f\nMB:0=9", "", &[]), ["L3:0=f", "MB:0=9"]);
    }

    #[test]
    fn lines_match_by_what_they_mean() {
        let there = "    L3:0=00ff;1=f\n    MB:0=100;1= 20\n";
        let line = |text: &str| vec![text.to_owned()];
        for same in ["L3:1=0f;0=ff", "MB:0=100;1=20;"] {
            assert_eq!(mismatch(&line(same), there), None, "{same}");
        }
        for other in [
            "L3:0=ff",
            "L3:0=ff;1=1f",
            "MB:0=64;1=20",
            "L2:0=1",
            "nonsense",
        ] {
            assert!(mismatch(&line(other), there).is_some(), "{other}");
        }
    }
}
