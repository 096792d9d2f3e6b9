//! What the host sees of the serving shim's process.

use super::Shim;
use std::collections::BTreeMap;
use std::fs;

impl Shim {
    /// A file of its own in /proc.
    #[track_caller]
    pub fn proc(&self, name: &str) -> String {
        let path = format!("/proc/{}/{name}", self.pid);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {path}: {error}"))
    }

    /// A number of its /proc/PID/status.
    #[track_caller]
    pub fn status(&self, name: &str) -> u64 {
        let status = self.proc("status");
        let mut lines = status.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = value.and_then(|value| value.split_whitespace().next()?.parse().ok());
        number.unwrap_or_else(|| panic!("no {name} in {status}"))
    }

    /// How often it was switched to and away from.
    #[track_caller]
    pub fn switches(&self) -> u64 {
        self.status("voluntary_ctxt_switches") + self.status("nonvoluntary_ctxt_switches")
    }

    /// What it has open, by the numbers.
    #[track_caller]
    pub fn descriptors(&self) -> BTreeMap<i32, String> {
        let directory = format!("/proc/{}/fd", self.pid);
        let entries = fs::read_dir(&directory);
        let entries = entries.unwrap_or_else(|error| panic!("read {directory}: {error}"));
        let seen = entries.flatten().filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            // One that it has just closed.
            let link = fs::read_link(entry.path()).ok()?;
            Some((number, link.display().to_string()))
        });
        seen.collect()
    }

    /// Those of its descriptors that only a container, or a command for one, can be the reason for.
    #[track_caller]
    pub fn held(&self) -> BTreeMap<i32, String> {
        let lasting = |what: &str| {
            what.starts_with("socket:")
                || what.ends_with("[eventpoll]")
                || what.ends_with("[eventfd]")
                || what == "/dev/null"
                || what.ends_with("/log")
        };
        let mut open = self.descriptors();
        open.retain(|number, what| !lasting(what) && self.inherited.get(number) != Some(what));
        open
    }

    /// Its children, zombies too: pid and command line.
    pub fn children(&self) -> Vec<(i32, String)> {
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let child = |pid: i32| {
            // A process may end while it is looked at.
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let parent: i32 = stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok()?;
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            (parent == self.pid).then_some((pid, command))
        };
        pids.filter_map(child).collect()
    }
}
