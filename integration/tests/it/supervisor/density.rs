//! What many containers at once cost the daemon. `MANY=1` makes it two hundred.

use integration::supervisor::Supervisor;
use integration::{many, require};
use std::fs;
use std::time::Duration;

/// In KiB.
const RSS: u64 = 30 << 10;

/// How long it is watched doing nothing, and how often.
const IDLE: Duration = Duration::from_secs(3);
const WATCHES: usize = 4;

#[test]
fn many_containers_cost_the_daemon_little_and_nothing_while_they_do_nothing() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let count = many(20, 200);
    let ids: Vec<String> = (0..count)
        .map(|_| supervisor.detached(&[], "exec sleep 1000000"))
        .collect();
    let pid = supervisor.pid();
    let rss: u64 = of_status(&format!("/proc/{pid}/status"), &["VmRSS"]);
    assert!(rss <= RSS, "{count} containers: {rss} KiB");
    // What the last answer has left to do is over soon: a timer runs out, threads without work end.
    let seen: Vec<u64> = (0..=WATCHES)
        .map(|_| {
            std::thread::park_timeout(IDLE);
            switches(pid)
        })
        .collect();
    assert!(seen.windows(2).any(|two| two[0] == two[1]), "{seen:?}");

    supervisor.crash();
    let mut running: Vec<String> = supervisor
        .says(&["ps", "-q", "--no-trunc"])
        .lines()
        .map(str::to_owned)
        .collect();
    running.reverse();
    assert_eq!(running, ids);
    let rss = of_status(&format!("/proc/{}/status", supervisor.pid()), &["VmRSS"]);
    assert!(rss <= RSS, "{count} containers, found again: {rss} KiB");
}

#[test]
fn what_a_container_makes_of_its_accounts_costs_the_daemon_nothing() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let script = "rm /etc/passwd /etc/group; truncate -s 1G /etc/passwd;
        yes | head -c 3000000 >/etc/group; echo ready; sleep 1000";
    let id = supervisor.detached(&[], script);
    supervisor.start(&["logs", "-f", &id]).stdout.until("ready");
    let execs: Vec<_> = (0..8)
        .map(|_| supervisor.start(&["exec", "-u", "1000:1000", &id, "true"]))
        .collect();
    for exec in execs {
        exec.wait().success();
    }
    let most = of_status(&format!("/proc/{}/status", supervisor.pid()), &["VmHWM"]);
    assert!(most <= RSS, "{most} KiB");
}

/// How often its threads were switched to and away from.
fn switches(pid: i32) -> u64 {
    const NAMES: &[&str] = &["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"];
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let files = threads.map(|thread| thread.unwrap().path().join("status"));
    files
        .map(|file| of_status(file.to_str().unwrap(), NAMES))
        .sum()
}

/// The sum of these numbers of a status file of procfs.
fn of_status(path: &str, names: &[&str]) -> u64 {
    let status = fs::read_to_string(path).unwrap();
    let fields = status.lines().filter_map(|line| line.split_once(':'));
    let numbers = fields.filter(|(name, _)| names.contains(name));
    numbers
        .map(|(_, value)| {
            value
                .split_whitespace()
                .next()
                .unwrap()
                .parse::<u64>()
                .unwrap()
        })
        .sum()
}
