//! What the processes of a command that does not end are waiting for, as text for people.
//!
//! Looked at from outside, by way of /proc, since those that are traced cannot be traced once more. What cannot be read is left out: a
//! process may end meanwhile, and its kernel stack is for root only.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// The lines of /proc/PID/status that say who somebody is and what reaches him.
const STATUS: [&str; 7] = [
    "State",
    "PPid",
    "TracerPid",
    "NSpid",
    "SigPnd",
    "ShdPnd",
    "SigBlk",
];

/// This process, those that it started or traces, and theirs.
pub fn describe(pid: i32) -> String {
    let mut text = String::new();
    for pid in family(pid) {
        let status = read(pid, "status");
        let who = status
            .lines()
            .filter(|line| STATUS.iter().any(|name| line.starts_with(name)));
        let who: Vec<String> = who.map(|line| line.replace('\t', " ")).collect();
        let (name, call) = (read(pid, "comm"), call(pid));
        let arguments = read(pid, "syscall");
        // Nothing can fail that is written to memory.
        write!(
            text,
            "--- {pid} {}: {}\n{}: {}\n{}",
            name.trim_end(),
            who.join(", "),
            call.as_deref().unwrap_or("in no system call"),
            arguments.trim_end(),
            read(pid, "stack")
        )
        .ok();
        text.extend(files(pid));
    }
    text
}

/// The name of the system call that a process is in, or stopped before.
pub fn call(pid: i32) -> Option<String> {
    let number = read(pid, "syscall").split(' ').next()?.parse().ok()?;
    Some(syscalls::Sysno::new(number)?.to_string())
}

fn family(first: i32) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let led_by: BTreeMap<i32, [i32; 2]> = pids
        .map(|pid| {
            let status = read(pid, "status");
            let number = |name: &str| {
                let mut lines = status.lines();
                lines.find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
            };
            let leaders = ["PPid:", "TracerPid:"].map(|name| number(name).unwrap_or(0));
            (pid, leaders)
        })
        .collect();
    let mut family = vec![first];
    let mut next = 0;
    while let Some(leader) = family.get(next).copied() {
        let led = led_by
            .iter()
            .filter(|(_, leaders)| leaders.contains(&leader));
        for (pid, _) in led {
            if !family.contains(pid) {
                family.push(*pid);
            }
        }
        next += 1;
    }
    family
}

/// A line for each open file; for one that stands for a process, with its pid.
fn files(pid: i32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"));
    let lines = entries.into_iter().flatten().flatten().map(|entry| {
        let number = entry.file_name().to_string_lossy().into_owned();
        let target = fs::read_link(entry.path()).unwrap_or_default();
        let of = match target == Path::new("anon_inode:[pidfd]") {
            true => process_of(&read(pid, &format!("fdinfo/{number}"))),
            false => String::new(),
        };
        format!("  {number} -> {}{of}\n", target.display())
    });
    lines.collect()
}

fn process_of(fdinfo: &str) -> String {
    let pid = fdinfo.lines().find_map(|line| line.strip_prefix("Pid:"));
    pid.map_or_else(String::new, |pid| format!(" of {}", pid.trim()))
}

fn read(pid: i32, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::describe;
    use std::process::{Command, Stdio};

    #[test]
    fn a_child_is_told_with_its_call_and_its_files() {
        let mut command = Command::new("cat");
        let mut cat = command.stdin(Stdio::piped()).spawn().unwrap();
        let pid = cat.id();
        let mut text = describe(std::process::id() as i32);
        // Until it has come to its first read.
        while !text.contains(&format!("--- {pid} cat")) || !text.contains("read: 0 0x0") {
            std::thread::yield_now();
            text = describe(std::process::id() as i32);
        }
        drop(cat.stdin.take());
        cat.wait().unwrap();
        assert!(text.contains("  0 -> pipe:["), "{text}");
        assert!(
            text.contains(&format!("PPid: {}", std::process::id())),
            "{text}"
        );
    }
}
