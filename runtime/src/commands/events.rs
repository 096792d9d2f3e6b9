//! `events`: what a container uses, once or at intervals, and that its processes were killed for want of memory.
//!
//! One JSON object a line on standard output, as runc prints them. Waits in poll(2) for the timer and for the kernel's word about the
//! cgroup, and ends with the cgroup's last process.

use super::{Context, start};
use crate::cgroup::{Cgroup, Stats};
use crate::output::print;
use crate::report::{Context as _, Error, Kind, Result};
use crate::resctrl::{self, Group};
use crate::state::{ContainerId, State, Status};
use crate::sys::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use serde::Serialize;
use std::os::fd::AsFd;
use std::time::Duration;

/// A line.
#[derive(Serialize)]
struct Event<'a> {
    r#type: &'static str,
    id: &'a ContainerId,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data>,
}

/// runc's names, which these two parts do not follow by themselves.
#[derive(Serialize)]
struct Data {
    #[serde(flatten)]
    cgroup: Stats,
    intel_rdt: resctrl::Stats,
    network_interfaces: Option<Vec<Interface>>,
}

#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Interface {
    name: String,
    rx_bytes: u64,
    rx_packets: u64,
    rx_errors: u64,
    rx_dropped: u64,
    tx_bytes: u64,
    tx_packets: u64,
    tx_errors: u64,
    tx_dropped: u64,
}

/// The `events` command.
pub(super) fn run(
    context: &Context<'_>,
    id: &ContainerId,
    interval: Duration,
    once: bool,
) -> Result<()> {
    let directory = context.root.directory(id)?;
    let state = directory.load()?;
    if matches!(
        context.status(&directory, &state)?,
        Status::Stopped | Status::Creating
    ) {
        let text = format!("container with id {id} is not running");
        return Err(Error::new(Kind::State, text));
    }
    let story = || format!("show events of container '{id}'");
    let Some(cgroup) = context.cgroup(&state)? else {
        let text = "the container has no cgroup, whose counters these are";
        return Err(Error::new(Kind::Unsupported, text)).context(story);
    };
    if once {
        return stats(&cgroup, &state).context(story);
    }
    stream(&cgroup, &state, interval).context(story)
}

fn stream(cgroup: &Cgroup, state: &State, interval: Duration) -> Result<()> {
    let timer = timer(interval).context(|| "start a timer")?;
    let init = state.init.as_ref().map(start::open_init).transpose()?;
    let mut watch = cgroup.watch(init.flatten())?;
    loop {
        let news = watch.wait(timer.as_fd())?;
        if news.oom {
            let (r#type, id, data) = ("oom", &state.id, None);
            line(&Event { r#type, id, data })?;
        }
        if news.ended {
            return Ok(());
        }
        if news.timer {
            timer.wait().context(|| "read the timer")?;
            match stats(cgroup, state) {
                // It ended just now, and its group is gone.
                Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::ENODEV)) => {
                    return Ok(());
                }
                printed => printed?,
            }
        }
    }
}

fn timer(interval: Duration) -> std::result::Result<TimerFd, Errno> {
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)?;
    timer.set(
        Expiration::Interval(TimeSpec::from_duration(interval)),
        TimerSetTimeFlags::empty(),
    )?;
    Ok(timer)
}

fn stats(cgroup: &Cgroup, state: &State) -> Result<()> {
    let data = Data {
        cgroup: cgroup.stats()?,
        intel_rdt: Group::saved(&state.resctrl)?
            .map(|group| group.stats())
            .unwrap_or_default(),
        network_interfaces: interfaces(state)?,
    };
    line(&Event {
        r#type: "stats",
        id: &state.id,
        data: Some(data),
    })
}

fn line(event: &Event<'_>) -> Result<()> {
    let text = serde_json::to_string(event)
        .map_err(|e| Error::new(Kind::System, format!("write an event: {e}")))?;
    print(&(text + "\n"))
}

/// The interfaces of the container's own network namespace. None if there is but the loopback, as runc has it, or if the namespace is
/// another's.
fn interfaces(state: &State) -> Result<Option<Vec<Interface>>> {
    let Some(init) = state
        .init
        .filter(|_| state.namespaces & libc::CLONE_NEWNET as u64 != 0)
    else {
        return Ok(None);
    };
    let text = std::fs::read_to_string(format!("/proc/{}/net/dev", init.pid));
    // Asked afterwards, so that it was not a stranger's.
    let Ok(text) = text.map_err(drop).and_then(|text| match init.is_alive() {
        Ok(true) => Ok(text),
        _ => Err(()),
    }) else {
        return Ok(None);
    };
    let interfaces: Vec<_> = text.lines().filter_map(Interface::parse).collect();
    Ok((!interfaces.is_empty()).then_some(interfaces))
}

impl Interface {
    /// `name: ` and sixteen numbers, eight of them about what was received; the first two lines are a heading.
    fn parse(line: &str) -> Option<Interface> {
        let (name, numbers) = line.split_once(':')?;
        let name = name.trim();
        let numbers: Vec<u64> = numbers
            .split_whitespace()
            .map_while(|number| number.parse().ok())
            .collect();
        let [
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            _,
            _,
            _,
            _,
            tx @ ..,
        ] = numbers.as_slice()
        else {
            return None;
        };
        let [tx_bytes, tx_packets, tx_errors, tx_dropped, ..] = tx else {
            return None;
        };
        (name != "lo").then(|| Interface {
            name: name.to_owned(),
            rx_bytes: *rx_bytes,
            rx_packets: *rx_packets,
            rx_errors: *rx_errors,
            rx_dropped: *rx_dropped,
            tx_bytes: *tx_bytes,
            tx_packets: *tx_packets,
            tx_errors: *tx_errors,
            tx_dropped: *tx_dropped,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read_from_the_table_of_the_kernel() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
             face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
             lo:      10       1    0    0    0     0          0         0       10       1    0    0    0     0       0          0\n  \
             eth0:     11      12   13   14   15    16         17        18       21      22   23   24   25    26      27         28\n";
        let interfaces: Vec<_> = text.lines().filter_map(Interface::parse).collect();
        assert_eq!(
            serde_json::to_value(interfaces).unwrap(),
            serde_json::json!([{"Name":"eth0","RxBytes":11,"RxPackets":12,"RxErrors":13,"RxDropped":14,
                "TxBytes":21,"TxPackets":22,"TxErrors":23,"TxDropped":24}])
        );
    }
}
