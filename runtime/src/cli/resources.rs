//! The command line of `update`: limits as flags, which become the same object that a resources file holds.

use super::flags::Matches;
use super::values;
use crate::report::{Error, Result};
use crate::state::ContainerId;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};
use std::path::PathBuf;

/// `update`.
#[derive(Debug, PartialEq)]
pub(crate) struct Update {
    pub(crate) id: ContainerId,
    pub(crate) resources: Resources,
    /// What the container's class of service gets: `--l3-cache-schema` and `--mem-bw-schema`.
    pub(crate) cache: Option<String>,
    pub(crate) bandwidth: Option<String>,
    /// Set a memory limit that processes have to be killed for.
    pub(crate) force: bool,
    /// Flags that were given and that nothing comes of.
    pub(crate) ignored: Vec<&'static str>,
}

/// What `update` changes.
#[derive(Debug, PartialEq)]
pub(crate) enum Resources {
    /// What the JSON object in this file says, `-` being standard input, and nothing else.
    Document(PathBuf),
    Given(Box<LinuxResources>),
}

/// `update` with what was found.
pub(super) fn update(found: &Matches, id: ContainerId) -> Result<Update> {
    let document = found.value("resources").filter(|path| !path.is_empty());
    Ok(Update {
        id,
        resources: match document {
            Some(path) => Resources::Document(path.into()),
            None => Resources::Given(Box::new(resources(found)?)),
        },
        cache: given(found, "l3-cache-schema")?,
        bandwidth: given(found, "mem-bw-schema")?,
        force: found.on("force"),
        ignored: ["kernel-memory", "kernel-memory-tcp"]
            .into_iter()
            .filter(|flag| found.value(flag).is_some_and(|value| !value.is_empty()))
            .collect(),
    })
}

/// A value as text; an empty one is the same as none, as it is for runc.
fn given(found: &Matches, name: &str) -> Result<Option<String>> {
    let text = found.text(name)?.filter(|text| !text.is_empty());
    Ok(text.map(str::to_owned))
}

fn resources(found: &Matches) -> Result<LinuxResources> {
    let text = |name| Ok::<_, Error>(found.text(name)?.filter(|text| !text.is_empty()));
    let unsigned = |name| {
        text(name)?
            .map(|text| values::number(name, text))
            .transpose()
    };
    let signed = |name| {
        text(name)?
            .map(|text| values::number(name, text))
            .transpose()
    };
    let bytes = |name| {
        text(name)?
            .map(|text| values::bytes(name, text))
            .transpose()
    };

    let mut cpu = LinuxCpu::default();
    cpu.set_shares(unsigned("cpu-share")?)
        .set_period(unsigned("cpu-period")?)
        .set_burst(unsigned("cpu-burst")?)
        .set_realtime_period(unsigned("cpu-rt-period")?)
        .set_quota(signed("cpu-quota")?)
        .set_realtime_runtime(signed("cpu-rt-runtime")?)
        .set_idle(signed("cpu-idle")?)
        .set_cpus(text("cpuset-cpus")?.map(str::to_owned))
        .set_mems(text("cpuset-mems")?.map(str::to_owned));
    let mut memory = LinuxMemory::default();
    memory
        .set_limit(bytes("memory")?)
        .set_reservation(bytes("memory-reservation")?)
        .set_swap(bytes("memory-swap")?);
    let mut block_io = LinuxBlockIo::default();
    block_io.set_weight(
        text("blkio-weight")?
            .map(|text| values::number("blkio-weight", text))
            .transpose()?,
    );
    let pids = signed("pids-limit")?.map(|limit| {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        pids
    });

    let mut resources = LinuxResources::default();
    resources
        .set_cpu(Some(cpu))
        .set_memory(Some(memory))
        .set_block_io(Some(block_io))
        .set_pids(pids);
    Ok(resources)
}

#[cfg(test)]
mod tests {
    use super::super::{Command, Surroundings, parse};
    use super::*;
    use std::ffi::OsString;

    fn update(flags: &[&str]) -> Result<Update> {
        let line = [&["caisson", "update"], flags, &["web"]].concat();
        match parse(line.iter().map(OsString::from), &Surroundings::default()) {
            Ok(invocation) => match invocation.command {
                Command::Update(update) => Ok(update),
                other => panic!("{flags:?}: {other:?}"),
            },
            Err(rejected) => Err(rejected.error),
        }
    }

    fn given(flags: &[&str]) -> serde_json::Value {
        match update(flags).unwrap().resources {
            Resources::Given(resources) => serde_json::to_value(resources).unwrap(),
            other => panic!("{flags:?}: {other:?}"),
        }
    }

    #[test]
    fn every_flag_has_its_field() {
        assert_eq!(
            given(&[
                "--blkio-weight=100",
                "--cpu-period",
                "5",
                "--cpu-quota",
                "-1",
                "--cpu-burst",
                "7",
                "--cpu-share",
                "8",
                "--cpu-rt-period",
                "9",
                "--cpu-rt-runtime",
                "-10",
                "--cpu-idle",
                "1",
                "--cpuset-cpus",
                "0-1",
                "--cpuset-mems",
                "0",
                "--memory",
                "1k",
                "--memory-reservation",
                "2k",
                "--memory-swap",
                "-1",
                "--pids-limit",
                "0",
            ]),
            serde_json::json!({
                "blockIO": {"weight": 100},
                "cpu": {"period": 5, "quota": -1, "burst": 7, "shares": 8, "realtimePeriod": 9, "realtimeRuntime": -10,
                    "idle": 1, "cpus": "0-1", "mems": "0"},
                "memory": {"limit": 1024, "reservation": 2048, "swap": -1},
                "pids": {"limit": 0},
            })
        );
        let nothing = serde_json::json!({"blockIO": {}, "cpu": {}, "memory": {}});
        assert_eq!(given(&[]), nothing);
        assert_eq!(
            given(&["--memory=", "--cpu-share=", "--cpuset-cpus="]),
            nothing
        );
    }

    #[test]
    fn a_document_makes_the_limits_unread() {
        for flags in [&["-r", "-", "--memory", "much"][..], &["--resources=-"]] {
            let update = update(flags).unwrap();
            assert_eq!(update.resources, Resources::Document("-".into()));
            assert!(!update.force);
        }
        assert!(update(&["--force", "-r", "/file"]).unwrap().force);
    }

    #[test]
    fn schemata_are_taken_beside_a_document() {
        let update = update(&["--l3-cache-schema", "L3:0=f", "--mem-bw-schema=", "-r", "-"]);
        let update = update.unwrap();
        assert_eq!(update.cache.as_deref(), Some("L3:0=f"));
        assert_eq!(update.bandwidth, None);
    }

    #[test]
    fn what_has_no_effect_is_noted_and_what_cannot_be_is_refused() {
        let old = update(&["--kernel-memory", "x", "--kernel-memory-tcp="]).unwrap();
        assert_eq!(old.ignored, ["kernel-memory"]);
        for (flag, value) in [
            ("--memory", "1q"),
            ("--cpu-share", "-1"),
            ("--blkio-weight", "65536"),
        ] {
            let error = update(&[flag, value]).unwrap_err().to_string();
            assert!(
                error.contains(&flag[2..]) && error.contains(value),
                "{error}"
            );
        }
    }
}
