//! Changes the resources of a group that has processes. What fails half-way is put back.

use super::{Cgroup, files};
use crate::plan::limits::{Absent, Limits, Write};
use crate::plan::update::{Shrink, Update};
use crate::report::{Context, Error, Kind, Result};
use crate::sys::Errno;

/// A change that is in force. It can be taken back until the state that goes with it is saved.
#[derive(Debug)]
pub(crate) struct Updated<'a> {
    cgroup: &'a Cgroup,
    update: &'a Update,
    former: Vec<Former>,
    /// What was ignored.
    pub(crate) warnings: Vec<String>,
}

/// A file of a group, and what to write to it to have what was there before.
#[derive(Debug, PartialEq, Eq)]
struct Former {
    file: String,
    value: String,
}

impl Cgroup {
    /// Carries an update out: the files in their order, then the device filter. The one place for every driver.
    pub(crate) fn update<'a>(&'a self, update: &'a Update) -> Result<Updated<'a>> {
        let mut former = Vec::new();
        let applied = self
            .apply_each(&update.limits, |write| {
                former.extend(self.former(write)?);
                self.prepare(write, update.shrink)
            })
            .and_then(|mut warnings| {
                // After the files: memory has room then.
                self.tell_systemd(&update.limits)?;
                if let Some(change) = &update.devices {
                    self.filter_devices(&change.new, false, false)?;
                    warnings.extend_from_slice(&change.new.warnings);
                }
                Ok(warnings)
            });
        match applied {
            Ok(warnings) => Ok(Updated {
                cgroup: self,
                update,
                former,
                warnings,
            }),
            Err(error) => Err(self.put_back(&former, error)),
        }
    }

    fn prepare(&self, write: &Write, shrink: Shrink) -> Result<()> {
        match write.value.parse() {
            Ok(limit) if write.file == "memory.max" && shrink == Shrink::Reclaim => {
                self.make_room(limit)
            }
            _ => Ok(()),
        }
    }

    /// What undoes a write that has not been done yet. None if the file does not exist.
    fn former(&self, write: &Write) -> Result<Option<Former>> {
        let file = match files::read(&self.dir, &write.file) {
            Err(Errno::ENOENT) => match write.absent {
                Absent::Instead { file, .. } => file,
                _ => return Ok(None),
            },
            // Some files can only be written (memory.reclaim).
            Err(Errno::EACCES | Errno::EINVAL) => return Ok(None),
            text => {
                let text =
                    text.context(|| format!("read {} of cgroup '/{}'", write.file, self.path))?;
                return Ok(Some(Former::of(&write.file, &write.value, &text)));
            }
        };
        let text = self.read(file)?;
        Ok(Some(Former::of(file, "", &text)))
    }

    /// Writes the former values, the last one first. What fails is told with the error that made it necessary.
    fn put_back(&self, former: &[Former], error: Error) -> Error {
        let writes = former.iter().map(Former::write).collect();
        let limits = Limits {
            writes,
            ..Limits::default()
        };
        let restore = |former: &Former| self.write(&former.file, &former.value).err();
        let mut failed: Vec<_> = former.iter().rev().filter_map(restore).collect();
        failed.extend(self.tell_systemd(&limits).err());
        let failed: Vec<_> = failed.iter().map(Error::to_string).collect();
        if failed.is_empty() {
            return error;
        }
        let story = format!("{error}; put the former values back: {}", failed.join(", "));
        Error::new(error.kind(), story)
    }

    /// Gets the group's memory below a limit before that is set: the kernel would reclaim too, but kill processes for what it cannot
    /// reclaim. memory.high stays as it is: lowered for the moment, it would slow the container down for good if this command is killed.
    fn make_room(&self, limit: u64) -> Result<()> {
        let Some(in_use) = self.memory_in_use()?.filter(|in_use| *in_use > limit) else {
            return Ok(());
        };
        match self.reclaim(limit, in_use) {
            Err(error) if error.errno() == Some(Errno::ENOENT) => self.squeeze(limit),
            Ok(in_use) => self.check_room(limit, in_use),
            Err(error) => Err(error),
        }
    }

    fn check_room(&self, limit: u64, in_use: u64) -> Result<()> {
        if in_use <= limit {
            return Ok(());
        }
        let story = format!(
            "rejecting memory limit {limit} <= usage {in_use} of cgroup '/{}', of which no more can be reclaimed: \
             processes would be killed (--force sets it nevertheless)",
            self.path
        );
        Err(Error::new(Kind::State, story))
    }

    /// Reclaims for as long as it helps, and returns what is in use then, but for what processes took while as much as asked for was
    /// reclaimed: that can be reclaimed likewise, and is as soon as the limit is in force.
    fn reclaim(&self, limit: u64, mut in_use: u64) -> Result<u64> {
        while in_use > limit {
            let written = files::write(&self.dir, "memory.reclaim", &(in_use - limit).to_string());
            let after = self.memory_in_use()?.unwrap_or_default();
            match written {
                Ok(()) if after >= in_use => return Ok(limit),
                // Less was reclaimed than asked for.
                Err(Errno::EAGAIN) if after >= in_use => return Ok(after),
                Ok(()) | Err(Errno::EAGAIN) => in_use = after,
                Err(errno) => return Err(self.write_error("memory.reclaim", "", errno)),
            }
        }
        Ok(in_use)
    }

    /// KERNEL(5.19): drop this. Has memory.high reclaim, and sets the limit while it still keeps the processes from taking what was freed. Whoever kills
    /// this command meanwhile leaves it lowered.
    fn squeeze(&self, limit: u64) -> Result<()> {
        let high = self.read("memory.high")?;
        // One that is lower already is not to be loosened.
        let lower = high.trim_end().parse().is_ok_and(|high: u64| high < limit);
        if !lower {
            self.write("memory.high", &limit.to_string())?;
        }
        let squeezed = self
            .memory_in_use()
            .and_then(|in_use| self.check_room(limit, in_use.unwrap_or_default()))
            .and_then(|()| self.write("memory.max", &limit.to_string()));
        let restored = match lower {
            true => Ok(()),
            false => self.write("memory.high", high.trim_end()),
        };
        squeezed.and(restored)
    }
}

impl Updated<'_> {
    /// Puts everything back, since `error` keeps the change from being recorded.
    pub(crate) fn take_back(self, error: Error) -> Error {
        let error = self.cgroup.put_back(&self.former, error);
        let Some(change) = &self.update.devices else {
            return error;
        };
        match self.cgroup.filter_devices(&change.old, false, false) {
            Ok(()) => error,
            Err(second) => Error::new(error.kind(), format!("{error}; {second}")),
        }
    }
}

impl Former {
    fn write(&self) -> Write {
        Write {
            file: self.file.clone(),
            value: self.value.clone(),
            absent: Absent::Ignore,
            retry: false,
        }
    }

    /// From the file's text and the value that is about to be written. Files with a line for each device take one line a write, and
    /// show no line for a device that has the defaults.
    fn of(file: &str, value: &str, text: &str) -> Former {
        let device = value.split(' ').next().filter(|word| word.contains(':'));
        let value = match device {
            Some(device) => {
                let mut lines = text.lines();
                let line = lines.find(|line| line.split(' ').next() == Some(device));
                line.map_or_else(
                    || match file {
                        "io.max" => format!("{device} rbps=max wbps=max riops=max wiops=max"),
                        _ => format!("{device} default"),
                    },
                    str::to_owned,
                )
            }
            None => {
                let key = value.split(' ').next().unwrap_or_default();
                let keyed = text
                    .lines()
                    .find(|line| value.contains(' ') && line.split(' ').next() == Some(key));
                let line = keyed.or(text.lines().next()).unwrap_or_default();
                // A write of no bytes would not reach the kernel's parser.
                if line.is_empty() {
                    "\n".to_owned()
                } else {
                    line.to_owned()
                }
            }
        };
        Former {
            file: file.to_owned(),
            value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn former(file: &str, value: &str, text: &str) -> String {
        Former::of(file, value, text).value
    }

    #[test]
    fn the_former_value_is_what_the_file_said() {
        assert_eq!(former("memory.max", "5", "max\n"), "max");
        assert_eq!(former("cpu.max", "5 10", "max 100000\n"), "max 100000");
        assert_eq!(former("cpuset.cpus", "0-1", "\n"), "\n");
        assert_eq!(
            former("io.weight", "5", "default 100\n8:0 200\n"),
            "default 100"
        );
    }

    #[test]
    fn files_of_devices_are_put_back_line_by_line() {
        let text =
            "8:0 rbps=5 wbps=max riops=max wiops=max\n8:16 rbps=max wbps=7 riops=max wiops=max\n";
        assert_eq!(
            former("io.max", "8:16 wbps=1", text),
            "8:16 rbps=max wbps=7 riops=max wiops=max"
        );
        assert_eq!(
            former("io.max", "8:1 wbps=1", text),
            "8:1 rbps=max wbps=max riops=max wiops=max"
        );
        assert_eq!(
            former("io.bfq.weight", "8:1 20", "default 100\n"),
            "8:1 default"
        );
        assert_eq!(
            former(
                "rdma.max",
                "b hca_handle=1",
                "a hca_handle=max hca_object=max\nb hca_handle=2 hca_object=3\n"
            ),
            "b hca_handle=2 hca_object=3"
        );
        assert_eq!(
            former("misc.max", "res_b 1", "res_a max\nres_b 10\n"),
            "res_b 10"
        );
    }
}
