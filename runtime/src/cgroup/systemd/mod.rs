//! The systemd driver: units that systemd starts and stops for us.
//!
//! Runs in the runtime command. `start` has systemd make a unit, and with it its group, as `plan::systemd` worked it out. From then on the
//! group is used like any other: later commands need systemd only to remove the unit, to change its limits, and to move a process
//! into it across a boundary of delegation. Without this driver nothing here runs.
//!
//! ```text
//!   command                       holder                 systemd
//!   clone ──────────────────────▶ (waits to be killed)
//!   StartTransientUnit(PIDs=holder, limits) ───────────▶ makes the group, writes limits, moves holder
//!                       ◀────────────────────────────── JobRemoved(done)
//!   limits and device filter, as with cgroupfs
//!   clone init into the group, run the hooks
//!   SIGKILL ────────────────────▶ gone: only init is left in the group
//! ```

mod bus;
mod holder;
mod message;

pub(super) use holder::Holder;

use super::Cgroup;
use crate::plan::limits::Limits;
use crate::plan::systemd::{Property, RECENT, Unit, files, properties_of};
use crate::plan::variant::Value;
use crate::report::{Context as _, Error, Kind, Result};
use crate::sys::Errno;
pub(super) use bus::Bus;
use bus::{Answer, malformed, refused};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What is kept of a unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedUnit {
    name: String,
    /// Of the user's own manager.
    user: bool,
}

/// A unit that was started.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) unit: SavedUnit,
    /// None for a slice, which needs nobody.
    pub(super) holder: Option<Holder>,
}

/// The names of systemd's errors that are answers.
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
const UNKNOWN_PROPERTY: &str = "org.freedesktop.DBus.Error.PropertyReadOnly";

/// How a new job treats others for the same unit.
const MODE: &str = "replace";

impl SavedUnit {
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl From<&Unit> for SavedUnit {
    fn from(unit: &Unit) -> SavedUnit {
        SavedUnit {
            name: unit.name.clone(),
            user: unit.user,
        }
    }
}

/// Where the unit's group will be, from the root of the hierarchy, and the connection to the systemd that knows.
pub(super) fn locate(unit: &Unit) -> Result<(String, Bus)> {
    // sd_booted(3).
    if !Path::new("/run/systemd/system").is_dir() {
        let story = "systemd not running on this host, cannot use systemd cgroups manager";
        return Err(Error::new(Kind::Unsupported, story));
    }
    let mut bus = Bus::connect(unit.user)?;
    let path = match bus.control_group()?.as_str() {
        "" => unit.path.clone(),
        above => format!("{above}/{}", unit.path),
    };
    Ok((path, bus))
}

/// Starts the unit. Its limits are in force then, as far as systemd has properties for them. What fails leaves no unit behind.
pub(super) fn start(unit: &Unit, mut bus: Bus) -> Result<Started> {
    let holder = unit.is_scope().then(Holder::new).transpose()?;
    // What systemd refuses is not there, or is somebody else's by the same name in another slice.
    let job = start_job(&mut bus, unit, holder.as_ref())?;
    match finish(&mut bus, &job, || format!("start unit '{}'", unit.name)) {
        Ok(()) => Ok(Started {
            unit: unit.into(),
            holder,
        }),
        Err(error) => {
            drop(holder);
            // The failure to start is what the user must hear of.
            stop(&unit.into()).ok();
            Err(error)
        }
    }
}

/// Returns the job that systemd has made of it.
fn start_job(bus: &mut Bus, unit: &Unit, holder: Option<&Holder>) -> Result<String> {
    let mut properties = unit.properties.clone();
    properties.extend(holder.map(|holder| {
        let pids = Value::Array {
            element: "u".to_owned(),
            items: vec![Value::Uint32(holder.pid as u32)],
        };
        ("PIDs".to_owned(), pids)
    }));
    let (mut reset, mut reduced) = (false, false);
    loop {
        let arguments = [
            Value::text(&unit.name),
            Value::text(MODE),
            array(&properties),
            Value::Array {
                element: "(sa(sv))".to_owned(),
                items: Vec::new(),
            },
        ];
        match bus.manager("StartTransientUnit", &arguments)? {
            Answer::Reply(mut job) => return job.text().ok_or_else(malformed),
            // One that failed before, which systemd keeps for people to look at.
            Answer::Refusal { name, .. } if name == UNIT_EXISTS && !reset => {
                reset = true;
                reset_failed(bus, &unit.name)?;
            }
            Answer::Refusal { name, .. } if name == UNKNOWN_PROPERTY && !reduced => {
                reduced = true;
                properties.retain(|(name, _)| !RECENT.contains(&name.as_str()));
            }
            Answer::Refusal { name, text } => {
                return Err(refused(
                    &format!("to start unit '{}'", unit.name),
                    &name,
                    &text,
                ));
            }
        }
    }
}

/// Waits for the end of a job.
fn finish(bus: &mut Bus, job: &str, story: impl Fn() -> String) -> Result<()> {
    match bus
        .job_result(job)
        .map_err(|e| e.context(story()))?
        .as_str()
    {
        "done" | "skipped" => Ok(()),
        result => {
            let story = format!("{}: systemd's job ended as '{result}'", story());
            Err(Error::new(Kind::System, story))
        }
    }
}

fn array(properties: &[Property]) -> Value {
    let pair = |(name, value): &Property| {
        let value = Value::Variant(Box::new(value.clone()));
        Value::Struct(vec![Value::text(name), value])
    };
    Value::Array {
        element: "(sv)".to_owned(),
        items: properties.iter().map(pair).collect(),
    }
}

fn reset_failed(bus: &mut Bus, unit: &str) -> Result<()> {
    match bus.manager("ResetFailedUnit", &[Value::text(unit)])? {
        Answer::Refusal { name, text } if name != NO_SUCH_UNIT => {
            Err(refused(&format!("to reset unit '{unit}'"), &name, &text))
        }
        _ => Ok(()),
    }
}

/// Stops the unit and has systemd forget it. One that is gone already is no error.
pub(super) fn stop(unit: &SavedUnit) -> Result<()> {
    match stop_once(unit) {
        // systemd has executed itself again, as after an update of its own, and closed its socket meanwhile.
        Err(error) if error.errno() == Some(Errno::ECONNRESET) => stop_once(unit),
        result => result,
    }
}

fn stop_once(unit: &SavedUnit) -> Result<()> {
    let mut bus = Bus::connect(unit.user)?;
    let arguments = [Value::text(&unit.name), Value::text(MODE)];
    match bus.manager("StopUnit", &arguments)? {
        Answer::Reply(mut job) => {
            let job = job.text().ok_or_else(malformed)?;
            finish(&mut bus, &job, || format!("stop unit '{}'", unit.name))?;
        }
        Answer::Refusal { name, .. } if name == NO_SUCH_UNIT => return Ok(()),
        Answer::Refusal { name, text } => {
            return Err(refused(
                &format!("to stop unit '{}'", unit.name),
                &name,
                &text,
            ));
        }
    }
    // A unit whose processes were killed at a limit has failed, and would stay.
    reset_failed(&mut bus, &unit.name)
}

/// The same for a unit whose group, at `path`, is gone already. Another may have its name by now, in another slice: that is left alone.
pub(super) fn forget(unit: &SavedUnit, path: &str) -> Result<()> {
    let group = Bus::connect(unit.user).and_then(|mut bus| bus.unit_group(&unit.name));
    match group {
        // Without its manager, there is no unit.
        Err(error) if error.kind() == Kind::Unsupported => Ok(()),
        Err(error) => Err(error),
        // One without a group has no processes: ours, which has failed.
        Ok(Some(group)) if group.is_empty() || group == path => stop(unit),
        Ok(_) => Ok(()),
    }
}

impl Cgroup {
    /// Tells systemd of the limits in force, as far as they are named, or it would write the former ones again some day. It then writes all
    /// limits that it knows, as it knows them: rounded, or as of before a change that it was not told of. What was in force stays so.
    pub(super) fn tell_systemd(&self, named: &Limits) -> Result<()> {
        let Some(unit) = &self.unit else {
            return Ok(());
        };
        let mut in_force = Vec::new();
        for file in files() {
            in_force.extend(self.in_force(file)?.map(|text| (file, text)));
        }
        let properties = properties_of(&in_force, named);
        if properties.is_empty() {
            return Ok(());
        }
        set(unit, properties)?;
        for (file, text) in in_force {
            if self.in_force(file)?.as_ref() == Some(&text) {
                continue;
            }
            // With its end: a write of no bytes would not reach the kernel's parser. A default weight takes those of devices away.
            for line in text.split_inclusive('\n') {
                self.write(file, line)?;
            }
        }
        Ok(())
    }

    /// What a file has. None if it does not exist.
    fn in_force(&self, file: &str) -> Result<Option<String>> {
        match super::files::read(&self.dir, file) {
            Ok(text) => Ok(Some(text)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno).context(|| format!("read {file} of cgroup '/{}'", self.path)),
        }
    }
}

/// Changes properties of a unit that runs, until it ends.
fn set(unit: &SavedUnit, mut properties: Vec<Property>) -> Result<()> {
    let mut bus = Bus::connect(unit.user)?;
    let mut reduced = false;
    loop {
        let arguments = [
            Value::text(&unit.name),
            Value::Bool(true),
            array(&properties),
        ];
        match bus.manager("SetUnitProperties", &arguments)? {
            Answer::Reply(_) => return Ok(()),
            Answer::Refusal { name, .. } if name == UNKNOWN_PROPERTY && !reduced => {
                reduced = true;
                properties.retain(|(name, _)| !RECENT.contains(&name.as_str()));
            }
            Answer::Refusal { name, text } => {
                let what = format!("to set properties of unit '{}'", unit.name);
                return Err(refused(&what, &name, &text));
            }
        }
    }
}

/// Moves a process into the unit's group, or into the one at `below` (`/a/b`): with the manager's rights, where ours end at the session that we are in.
pub(super) fn attach(unit: &SavedUnit, below: &str, pid: Pid) -> Result<()> {
    let pids = Value::Array {
        element: "u".to_owned(),
        items: vec![Value::Uint32(pid.as_raw() as u32)],
    };
    let arguments = [Value::text(&unit.name), Value::text(below), pids];
    match Bus::connect(unit.user)?.manager("AttachProcessesToUnit", &arguments)? {
        Answer::Reply(_) => Ok(()),
        Answer::Refusal { name, text } => {
            let what = format!("to move process {pid} into unit '{}'", unit.name);
            Err(refused(&what, &name, &text))
        }
    }
}
