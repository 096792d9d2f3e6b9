//! `state`: what the specification calls the state of a container, as JSON in runc's form.
//!
//! Takes no lock: engines ask often, and while another command is at work.

use crate::report::{Error, Kind, Result};
use crate::state::{ContainerId, Root, State, Status};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Makes the answer; `frozen` tells whether a container's cgroup is frozen.
pub(crate) fn run(
    root: &Root,
    id: &ContainerId,
    frozen: impl FnOnce(&State) -> Result<bool>,
) -> Result<String> {
    let directory = root.directory(id)?;
    let state = directory.load()?;
    let status = directory.status(&state, frozen)?;
    // runc's `state` has no owner's name, and its JSON no newline.
    to_json(&Shown::new(&state, status, String::new()))
}

/// A container as `state` and `list` show it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Shown<'a> {
    oci_version: &'a str,
    pub(super) id: &'a str,
    /// 0 if there is no process.
    pub(super) pid: i32,
    pub(super) status: String,
    pub(super) bundle: &'a Path,
    rootfs: &'a Path,
    pub(super) created: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
    pub(super) owner: String,
}

impl<'a> Shown<'a> {
    pub(super) fn new(state: &'a State, status: Status, owner: String) -> Self {
        let pid = if status == Status::Stopped {
            0
        } else {
            state.pid().unwrap_or(0)
        };
        Shown {
            oci_version: &state.oci_version,
            id: state.id.as_str(),
            pid,
            status: status.to_string(),
            bundle: &state.bundle,
            rootfs: &state.rootfs,
            created: &state.created,
            annotations: &state.annotations,
            owner,
        }
    }
}

fn to_json(shown: &Shown) -> Result<String> {
    serde_json::to_string_pretty(shown)
        .map_err(|e| Error::new(Kind::Invalid, format!("show container {:?}: {e}", shown.id)))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::state::Init;

    pub(in crate::commands) fn example(id: &str) -> State {
        State {
            oci_version: "1.3.0".into(),
            id: ContainerId::new(id).unwrap(),
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: "2026-11-23T05:05:21.750780664Z".into(),
            owner: 0,
            init: Some(Init {
                pid: 42,
                start_time: 1,
            }),
            annotations: BTreeMap::new(),
            namespaces: 0,
            joined_pids: false,
            no_new_keyring: false,
            cgroup: serde_json::Value::Null,
            resources: None,
            resctrl: serde_json::Value::Null,
            below_root: None,
        }
    }

    #[test]
    fn the_json_has_runcs_keys_in_runcs_order_and_form() {
        let mut state = example("c1");
        state.annotations = BTreeMap::from([("b".into(), "2".into()), ("a".into(), "1".into())]);
        let expected = r#"{
  "ociVersion": "1.3.0",
  "id": "c1",
  "pid": 42,
  "status": "created",
  "bundle": "/b",
  "rootfs": "/b/rootfs",
  "created": "2026-11-23T05:05:21.750780664Z",
  "annotations": {
    "a": "1",
    "b": "2"
  },
  "owner": ""
}"#;
        assert_eq!(
            to_json(&Shown::new(&state, Status::Created, String::new())).unwrap(),
            expected
        );
    }

    #[test]
    fn a_stopped_container_has_no_pid_and_none_has_empty_annotations() {
        let state = example("c1");
        let text = to_json(&Shown::new(&state, Status::Stopped, String::new())).unwrap();
        assert!(
            text.contains("\"pid\": 0,\n  \"status\": \"stopped\""),
            "{text}"
        );
        assert!(!text.contains("annotations"));
        let creating = State {
            init: None,
            ..state
        };
        assert_eq!(
            Shown::new(&creating, Status::Creating, String::new()).pid,
            0
        );
    }
}
