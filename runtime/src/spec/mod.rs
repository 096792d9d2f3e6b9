//! `config.json`, `process.json` and the resources of `update` into oci-spec's types. Parses only: [`crate::plan::validate`] judges.
//!
//! What runc accepts, we accept: where oci-spec's types are narrower than runc's (a capability that this version does not know, a process
//! without `user`, a `null` in a list), the document is amended and a warning says so. Amending costs a second parse, so it happens only when
//! the first one fails.

mod field;
mod names;
mod shape;

use crate::report::{Context, Error, Result};
use oci_spec::runtime::{
    Capability, LinuxResources, MemoryPolicyFlagType, MemoryPolicyModeType, Mount, Process, Spec,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::Path;

/// A parsed document, and what had to be left out of it.
#[derive(Debug)]
pub(crate) struct Parsed<T> {
    pub(crate) value: T,
    pub(crate) warnings: Vec<String>,
}

/// Reads a `config.json`. Returns the text too, since the container's directory keeps a copy.
pub(crate) fn load(path: &Path) -> Result<(Parsed<Spec>, Vec<u8>)> {
    let text = read(path)?;
    let parsed = parse(&text).context(|| format!("parse {}", path.display()))?;
    Ok((parsed, text))
}

/// The text of a `config.json`.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let shown = path.display();
    match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let text = format!("JSON specification file {shown} not found");
            Err(Error::invalid(text))
        }
        text => text.context(|| format!("read {shown}")),
    }
}

/// Parses the text of a `config.json`.
pub(crate) fn parse(text: &[u8]) -> Result<Parsed<Spec>> {
    let mut parsed: Parsed<Spec> = parse_amended(text, |document, warnings| {
        if let Some(linux) = document.get_mut("linux").and_then(Value::as_object_mut) {
            amend_memory_policy(linux)?;
            if let Some(resources) = linux.get_mut("resources").and_then(Value::as_object_mut) {
                amend_resources(resources);
            }
            amend_seccomp(linux);
        }
        match document.get_mut("process").and_then(Value::as_object_mut) {
            Some(process) => amend_process(process, warnings),
            None => Ok(()),
        }
    })?;
    if parsed.value.linux().is_none() {
        // Without the section, nothing of it is asked for. Not its default, which is an example.
        parsed.value.set_linux(serde_json::from_str("{}").ok());
    }
    if let Some(process) = parsed.value.process() {
        require_priority_class(process, text, "/process/ioPriority")?;
    }
    let linux = parsed.value.linux_mut().as_mut();
    if let Some(resources) = linux.and_then(|linux| linux.resources_mut().as_mut()) {
        drop_unsaid_pids_limit(resources, text, "/linux/resources/pids/limit");
    }
    Ok(parsed)
}

/// Parses the text of a process document, as `exec --process` takes it.
pub(crate) fn parse_process(text: &[u8]) -> Result<Parsed<Process>> {
    let parsed = parse_amended(text, amend_process)?;
    require_priority_class(&parsed.value, text, "/ioPriority")?;
    Ok(parsed)
}

/// Parses the text of a `linux.resources` object, as `update --resources` takes it.
pub(crate) fn parse_resources(text: &[u8]) -> Result<LinuxResources> {
    let parsed: Parsed<LinuxResources> = parse_amended(text, |resources, _| {
        amend_resources(resources);
        Ok(())
    })?;
    let mut resources = parsed.value;
    drop_unsaid_pids_limit(&mut resources, text, "/pids/limit");
    Ok(resources)
}

/// Parses the text of a list of mounts, as crun has it, or of an object with `mounts`.
pub(crate) fn parse_mounts(text: &[u8]) -> Result<Vec<Mount>> {
    #[derive(serde::Deserialize)]
    struct Document {
        mounts: Vec<Mount>,
    }
    let mounts = if text.trim_ascii_start().starts_with(b"[") {
        serde_json::from_slice(text).map_err(|e| wrong(text, &e))?
    } else {
        let parsed = serde_json::from_slice(text);
        let document: Document = parsed.map_err(|e| wrong(text, &e))?;
        document.mounts
    };
    shape::check(text)?;
    Ok(mounts)
}

/// Without a class, oci-spec 0.10 has one of its own.
fn require_priority_class(process: &Process, text: &[u8], pointer: &str) -> Result<()> {
    if process.io_priority().is_some() {
        let mut document: Value = serde_json::from_slice(text).unwrap_or_default();
        document.as_object_mut().map(names::respell);
        let class = document
            .pointer(pointer)
            .and_then(|priority| priority.get("class"));
        if class.is_none() {
            let error = Error::invalid("invalid ioPriority.class \"\"");
            return Err(error.in_field("process.ioPriority.class"));
        }
    }
    Ok(())
}

/// A `pids` without `limit` leaves it alone; oci-spec 0.10 reads 0 then, which is a limit.
fn drop_unsaid_pids_limit(resources: &mut LinuxResources, text: &[u8], pointer: &str) {
    if resources.pids().is_some_and(|pids| pids.limit() == 0) {
        let document: Value = serde_json::from_slice(text).unwrap_or_default();
        if document.pointer(pointer).is_none_or(Value::is_null) {
            resources.set_pids(None);
        }
    }
}

fn parse_amended<T: DeserializeOwned>(
    text: &[u8],
    amend: impl FnOnce(&mut Map<String, Value>, &mut Vec<String>) -> Result<()>,
) -> Result<Parsed<T>> {
    let mut warnings = Vec::new();
    let first = match serde_json::from_slice(text) {
        Ok(value) if !names::are_others(text) && is_object(text) => {
            shape::check(text)?;
            return Ok(Parsed { value, warnings });
        }
        Ok(_) => None,
        Err(error) => Some(wrong(text, &error)),
    };
    let mut document = match serde_json::from_slice(text) {
        Ok(Value::Object(document)) => document,
        // To Go, it is a document that says nothing.
        Ok(Value::Null) => Map::new(),
        _ => return Err(first.unwrap_or_else(|| Error::invalid("expected an object"))),
    };
    names::respell(&mut document);
    amend(&mut document, &mut warnings)?;
    // As text again: to read these types from a `Value` too would add a quarter of a megabyte of code for a rare case.
    let amended = serde_json::to_vec(&document).unwrap_or_default();
    match serde_json::from_slice(&amended) {
        Ok(value) => {
            shape::check(&amended)?;
            Ok(Parsed { value, warnings })
        }
        // What was amended may have been the first to be found, and is not what is wrong.
        Err(error) => Err(match (wrong(&amended, &error), first) {
            (again, Some(first)) if again.field() == first.field() => first,
            (again, _) => again,
        }),
    }
}

fn is_object(text: &[u8]) -> bool {
    text.trim_ascii_start().starts_with(b"{")
}

/// Names the field, which the parser does not.
fn wrong(text: &[u8], error: &serde_json::Error) -> Error {
    let field = field::at(text, error);
    let story = match field.as_str() {
        "" => error.to_string(),
        field => format!("{field}: {error}"),
    };
    Error::invalid(story).in_field(field)
}

/// An empty policy is none; what is wrong in another is named as runc names it.
fn amend_memory_policy(linux: &mut Map<String, Value>) -> Result<()> {
    let Some(policy) = linux.get("memoryPolicy").and_then(Value::as_object) else {
        return Ok(());
    };
    if policy.is_empty() {
        linux.remove("memoryPolicy");
        return Ok(());
    }
    let mode = policy.get("mode").cloned().unwrap_or_default();
    if serde_json::from_value::<MemoryPolicyModeType>(mode.clone()).is_err() {
        return Err(Error::invalid(format!("invalid memory policy mode {mode}")));
    }
    let flags = policy.get("flags").and_then(Value::as_array);
    let known =
        |flag: &&Value| serde_json::from_value::<MemoryPolicyFlagType>((*flag).clone()).is_ok();
    match flags.into_iter().flatten().find(|flag| !known(flag)) {
        Some(flag) => Err(Error::invalid(format!("invalid memory policy flag {flag}"))),
        None => Ok(()),
    }
}

/// A device rule of an empty type is one of none. Limits of huge pages are u64 in the specification and i64 in oci-spec 0.10; either is more than
/// there is.
fn amend_resources(resources: &mut Map<String, Value>) {
    for rule in objects(resources, "devices") {
        if rule.get("type").is_some_and(|kind| kind == "") {
            rule.remove("type");
        }
    }
    for limit in objects(resources, "hugepageLimits") {
        if let Some(bytes) = limit.get_mut("limit")
            && bytes.is_u64()
            && !bytes.is_i64()
        {
            *bytes = i64::MAX.into();
        }
    }
}

/// The objects of a list.
fn objects<'a>(
    of: &'a mut Map<String, Value>,
    list: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    let list = of.get_mut(list).and_then(Value::as_array_mut);
    list.into_iter().flatten().filter_map(Value::as_object_mut)
}

/// A profile without a default action and without rules is none, as in runc.
fn amend_seccomp(linux: &mut Map<String, Value>) {
    let Some(profile) = linux.get("seccomp").and_then(Value::as_object) else {
        return;
    };
    let is_empty = |field: &str| match profile.get(field) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => false,
    };
    if is_empty("defaultAction") && is_empty("syscalls") {
        linux.remove("seccomp");
    }
}

fn amend_process(process: &mut Map<String, Value>, warnings: &mut Vec<String>) -> Result<()> {
    if process.get("user").is_none_or(Value::is_null) {
        process.insert("user".to_owned(), Value::Object(Map::new()));
    }
    if let Some(flags) = process
        .get_mut("scheduler")
        .and_then(|s| s.get_mut("flags"))
        .and_then(Value::as_array_mut)
    {
        // oci-spec 0.10 spells these otherwise than the specification.
        for flag in flags.iter_mut() {
            match flag.as_str() {
                Some("SCHED_FLAG_DL_OVERRUN") => *flag = "SCHED_FLAG_D_L_OVERRUN".into(),
                Some("SCHED_FLAG_RESET_ON_FORK") => *flag = "SCHED_RESET_ON_FORK".into(),
                _ => {}
            }
        }
    }
    if let Some(affinity) = process
        .get_mut("execCPUAffinity")
        .and_then(Value::as_object_mut)
    {
        // Spaces and empty elements are nothing to runc, and an empty list is none.
        affinity.retain(|_, list| list.as_str() != Some(""));
        for list in affinity.values_mut() {
            let parts = list.as_str().unwrap_or_default().split(',');
            let parts: Vec<&str> = parts.map(str::trim).filter(|p| !p.is_empty()).collect();
            if !parts.is_empty() {
                *list = parts.join(",").into();
            }
        }
    }
    let Some(sets) = process
        .get_mut("capabilities")
        .and_then(Value::as_object_mut)
    else {
        return Ok(());
    };
    for (set, names) in sets {
        let Some(names) = names.as_array_mut() else {
            continue;
        };
        names.retain(|name| {
            // Letter by letter, as in runc; oci-spec takes `kill` for CAP_KILL, and a container would have what it has not with runc.
            let parsed = serde_json::from_value::<Capability>(name.clone());
            let known = parsed.is_ok_and(|cap| name.as_str() == Some(&format!("CAP_{cap}")));
            if !known {
                warnings.push(format!("unknown capability {name} in {set}, ignoring"));
            }
            known || !name.is_string()
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_the_kernels_names() {
        let parse = |names: &str| {
            let text = format!(
                r#"{{"ociVersion":"1.0.2","process":{{"cwd":"/","capabilities":{{"effective" : [{names}]}}}}}}"#
            );
            let parsed = parse(text.as_bytes()).unwrap();
            let process = parsed.value.process().clone().unwrap();
            let effective = process.capabilities().clone().unwrap().effective().clone();
            (effective.unwrap_or_default().len(), parsed.warnings.len())
        };
        assert_eq!(parse(r#""CAP_CHOWN", "CAP_KILL""#), (2, 0));
        for other in ["KILL", "cap_kill", "CAP_kill"] {
            assert_eq!(
                parse(&format!(r#""CAP_CHOWN","{other}""#)),
                (1, 1),
                "{other}"
            );
        }
    }

    #[test]
    fn unknown_capabilities_are_left_out_with_a_warning() {
        let text = br#"{"ociVersion":"1.0.2","process":{"cwd":"/","capabilities":{"bounding":["CAP_CHOWN","CAP_TIME_TRAVEL","KILL","cap_sys_admin"]}}}"#;
        let parsed = parse(text).unwrap();
        let process = parsed.value.process().as_ref().unwrap();
        let bounding = process
            .capabilities()
            .as_ref()
            .unwrap()
            .bounding()
            .as_ref()
            .unwrap();
        assert_eq!(bounding.len(), 1);
        assert_eq!(
            parsed.warnings,
            ["CAP_TIME_TRAVEL", "KILL", "cap_sys_admin"]
                .map(|name| format!("unknown capability {name:?} in bounding, ignoring"))
        );
        assert_eq!(process.user().uid(), 0);
    }

    #[test]
    fn a_device_rule_of_an_empty_type_is_one_of_none() {
        let text = br#"{"ociVersion":"1.0.2","linux":{"resources":{"devices":[{"allow":true,"type":"","access":"r"}]}}}"#;
        let spec = parse(text).unwrap().value;
        let resources = spec.linux().as_ref().unwrap().resources().clone().unwrap();
        assert_eq!(resources.devices().as_ref().unwrap()[0].typ(), None);
    }

    #[test]
    fn pids_without_a_limit_are_none() {
        let limit = |text: &str| {
            let config = format!(r#"{{"ociVersion":"1.0.2","linux":{{"resources":{text}}}}}"#);
            let spec = parse(config.as_bytes()).unwrap().value;
            let created = spec
                .linux()
                .as_ref()
                .unwrap()
                .resources()
                .as_ref()
                .unwrap()
                .pids()
                .map(|pids| pids.limit());
            let resources = parse_resources(text.as_bytes()).unwrap();
            assert_eq!(created, resources.pids().map(|pids| pids.limit()), "{text}");
            created
        };
        assert_eq!(limit(r#"{"pids":{}}"#), None);
        assert_eq!(limit(r#"{"pids":null}"#), None);
        assert_eq!(limit("{}"), None);
        assert_eq!(limit(r#"{"pids":{"limit":0}}"#), Some(0));
        assert_eq!(limit(r#"{"pids":{"limit":-1}}"#), Some(-1));
    }

    #[test]
    fn page_sizes_are_found_by_a_name_in_any_case() {
        let sizes = |resources: &LinuxResources| {
            let limits = resources.hugepage_limits().iter().flatten();
            limits
                .map(|limit| limit.page_size().clone())
                .collect::<Vec<_>>()
        };
        let text =
            r#"{"hugepageLimits":[{"pagesize":"1GB","limit":1},{"limit":2},{"pageSize":"2MB"}]}"#;
        let resources = parse_resources(text.as_bytes()).unwrap();
        assert_eq!(sizes(&resources), ["1GB", "", "2MB"]);
        let config = format!(r#"{{"ociVersion":"1.0.2","linux":{{"resources":{text}}}}}"#);
        let spec = parse(config.as_bytes()).unwrap().value;
        let linux = spec.linux().as_ref().unwrap();
        assert_eq!(
            sizes(linux.resources().as_ref().unwrap()),
            ["1GB", "", "2MB"]
        );
    }

    #[test]
    fn null_is_what_go_takes_it_for() {
        let text = br#"{"ociVersion":"1.0.2","hostname":null,"annotations":{"a":null},
            "process":{"cwd":"/","env":["A=b",null],"user":{"additionalGids":[null,5]}},
            "mounts":[{"destination":"/x","options":[null]}],
            "hooks":{"poststop":[{"path":"/x","env":[null],"timeout":null}]},
            "linux":{"sysctl":{"a":null},"netDevices":{"eth0":null},
                "resources":{"unified":{"a":null},"network":{"priorities":[null,{"name":"lo","priority":null}]}}}}"#;
        let spec = parse(text).unwrap().value;
        let spec = serde_json::to_value(&spec).unwrap();
        for (pointer, value) in [
            ("/annotations/a", serde_json::json!("")),
            ("/process/env/1", serde_json::json!("")),
            ("/process/user/additionalGids", serde_json::json!([0, 5])),
            ("/mounts/0/options/0", serde_json::json!("")),
            ("/hooks/poststop/0/env/0", serde_json::json!("")),
            ("/linux/sysctl/a", serde_json::json!("")),
            ("/linux/netDevices/eth0", serde_json::json!({"name":null})),
            ("/linux/resources/unified/a", serde_json::json!("")),
            (
                "/linux/resources/network/priorities",
                serde_json::json!([{"name":"","priority":0},{"name":"lo","priority":0}]),
            ),
        ] {
            assert_eq!(spec.pointer(pointer), Some(&value), "{pointer}");
        }
        let none = parse_resources(b"null").unwrap();
        assert_eq!(none, parse_resources(b"{}").unwrap());
    }

    #[test]
    fn resources_that_are_none_are_refused() {
        for text in [
            "",
            "7",
            r#"{"pids":{"limit":"5"}}"#,
            r#"{"cpu":{"shares":-1}}"#,
        ] {
            assert!(parse_resources(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_wrong_document_is_refused_with_its_place() {
        let error = parse(br#"{"ociVersion":"1.0.2","process":{"cwd":7}}"#)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("process.cwd: ") && error.contains("line 1"),
            "{error}"
        );
        let error = parse(br#"{"ociVersion":"1.0.2","mounts":[{},{"destination":"/x"},{"destination":"/y","options":[7]}]}"#);
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with("mounts[0]"), "{error}");
        let error = parse_resources(br#"{"cpu":{"shares":-1}}"#).unwrap_err();
        assert!(error.to_string().starts_with("cpu.shares: "), "{error}");
    }

    #[test]
    fn an_empty_seccomp_profile_is_none_and_a_missing_section_asks_for_nothing() {
        let seccomp = |profile: &str| {
            let text = format!(r#"{{"ociVersion":"1.0.2","linux":{{"seccomp":{profile}}}}}"#);
            let parsed = parse(text.as_bytes());
            parsed.map(|parsed| parsed.value.linux().as_ref().unwrap().seccomp().is_some())
        };
        assert!(!seccomp("{}").unwrap());
        assert!(!seccomp(r#"{"defaultAction":"","syscalls":[]}"#).unwrap());
        assert!(seccomp(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#).unwrap());
        assert!(
            seccomp(r#"{"syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO"}]}"#).is_err()
        );
        let linux = parse(br#"{"ociVersion":"1.0.2"}"#).unwrap().value;
        let linux = linux.linux().as_ref().unwrap().clone();
        assert!(linux.namespaces().is_none() && linux.masked_paths().is_none());
    }
}
