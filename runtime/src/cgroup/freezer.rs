//! Freezing and thawing a group with everything below it.

use super::events::{Events, State};
use super::{Cgroup, files};
use crate::report::{Error, Kind, Result};
use crate::sys::Errno;
use std::time::Duration;

/// A process in an uninterruptible wait (a hung network file system) does not freeze until the wait ends, which may be never.
const PATIENCE: Duration = Duration::from_secs(10);

impl Cgroup {
    /// Returns when every process is frozen. If that takes too long, thaws the group again and fails.
    pub(crate) fn freeze(&self) -> Result<()> {
        let events = Events::open(self)?;
        self.write("cgroup.freeze", "1")?;
        let failure = match events.wait(PATIENCE, |state| state.frozen) {
            Ok(true) => return Ok(()),
            Ok(false) => {
                let story = format!(
                    "freeze cgroup '/{}': not frozen after {} s: {}",
                    self.path,
                    PATIENCE.as_secs(),
                    self.member_names()
                );
                Error::new(Kind::System, story)
            }
            Err(error) => error,
        };
        // The failure to freeze is what the user must hear of, whatever comes of this.
        self.write("cgroup.freeze", "0").ok();
        Err(failure)
    }

    /// Returns when the group is thawed, or is held only by a group above it that is frozen as well.
    pub(crate) fn thaw(&self) -> Result<()> {
        let events = Events::open(self)?;
        self.write("cgroup.freeze", "0")?;
        if events.wait(PATIENCE, |state| !state.frozen || self.parent_is_frozen())? {
            return Ok(());
        }
        Err(Error::new(
            Kind::System,
            format!(
                "thaw cgroup '/{}': still frozen after {} s",
                self.path,
                PATIENCE.as_secs()
            ),
        ))
    }

    /// Whether the group was frozen by itself. A group above it may be frozen nevertheless; one that another command has just removed is not.
    pub(crate) fn is_frozen(&self) -> Result<bool> {
        match self.read("cgroup.freeze") {
            Ok(text) => Ok(text.trim_end() == "1"),
            Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::ENODEV)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The root has no such file, and cannot be frozen.
    fn parent_is_frozen(&self) -> bool {
        files::read(&self.dir, "../cgroup.events").is_ok_and(|text| State::parse(&text).frozen)
    }
}
