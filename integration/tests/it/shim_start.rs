//! Where the shim is put when it is started, what it says of its runtime, and what it says in its log.

use integration::shim::{Protocol, Shim};
use integration::{Bundle, beyond, host, require, sys};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;

fn pausing() -> Bundle {
    let mut bundle = Bundle::new();
    bundle.config.probe(&["pause", "7"]);
    bundle
}

#[test]
fn the_shim_is_in_the_group_that_the_options_name() {
    require!(containers);
    let mut shim = Shim::prepared(pausing());
    let group = host::hierarchy().join(shim.id());
    fs::create_dir(&group).unwrap();
    shim.options.shim_cgroup = format!("/{}", shim.id());
    shim.launch(Protocol::Bootstrap);
    assert_eq!(host::cgroup_of(shim.pid), group);
    shim.shutdown();
    assert!(shim.has_ended());
    fs::remove_dir(&group).unwrap();
}

#[test]
fn the_kernel_kills_it_before_its_daemon() {
    require!(containers);
    let shim = Shim::start(pausing());
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let own: i32 = own.trim().parse().unwrap();
    let its: i32 = shim.proc("oom_score_adj").trim().parse().unwrap();
    assert_eq!(its, (own + 1).min(1000));
}

#[test]
fn the_bundle_says_where_the_socket_is() {
    require!(containers);
    let shim = Shim::start(pausing());
    let link = shim.directory(shim.id()).join("s");
    assert_eq!(fs::read_link(link).unwrap(), shim.sockets);
    assert_eq!(shim.socket.parent().unwrap(), shim.sockets);
}

#[test]
fn a_runtime_without_features_is_told_of_all_the_same() {
    require!(containers);
    let mut shim = Shim::prepared(pausing());
    shim.options.binary_name = "/bin/false".into();
    let info = shim.info();
    assert_eq!(info.name, "io.containerd.caisson.v2");
    assert!(info.features.is_none() && info.options.is_some());
}

#[test]
fn the_features_are_those_of_the_runtime() {
    require!(containers);
    beyond!(
        the_features_are_those_of_the_runtime,
        [crun_before("1.8.6", "has no command features")]
    );
    let shim = Shim::prepared(pausing());
    let info = shim.info();
    assert_eq!(info.name, "io.containerd.caisson.v2");
    assert!(!info.version.version.is_empty());
    assert_eq!(
        info.features.type_url,
        "types.containerd.io/opencontainers/runtime-spec/1/features/Features"
    );
    let features: Value = serde_json::from_slice(&info.features.value).unwrap();
    assert!(
        features["linux"]["namespaces"]
            .as_array()
            .unwrap()
            .contains(&"user".into())
    );
    assert!(info.options.type_url.ends_with("runc.v1.Options"));
}

#[test]
fn with_core_scheduling_it_has_a_cookie_of_its_own_or_is_not_started() {
    require!(containers);
    // PR_SCHED_CORE_GET, of a process.
    let cookie = |pid: i32| -> std::io::Result<u64> {
        let mut cookie = 0u64;
        let place = (&raw mut cookie).expose_provenance() as u64;
        sys::call(libc::SYS_prctl, [62, 0, pid as u64, 0, place, 0]).map(|_| cookie)
    };
    let mut shim = Shim::prepared(pausing());
    shim.environment
        .push(("SCHED_CORE".to_owned(), "1".to_owned()));
    // A kernel without it, or one CPU per core.
    if cookie(std::process::id() as i32).is_err() {
        let said = shim.launch_fails();
        assert!(said.contains("enable core scheduling"), "{said}");
        return;
    }
    shim.launch(Protocol::Bootstrap);
    assert_ne!(cookie(shim.pid).unwrap(), 0);
}

#[test]
fn a_line_of_the_log_is_as_logrus_writes_it() {
    require!(containers);
    let shim = Shim::start(pausing());
    let mut log = shim.log();
    let id = shim.id().to_owned();
    shim.create(&id).unwrap();
    shim.exec(&id, "one", &["pause"]).unwrap();
    kill(Pid::from_raw(shim.pid), Signal::SIGUSR1).unwrap();
    let mut line = |text: &str| loop {
        let line = log.line();
        if line.contains(text) {
            return line;
        }
    };
    let first = line("connections");
    // time="2026-11-26T08:00:00.000000000Z" level=info msg="..." runtime=... id=... namespace=...
    let (time, rest) = first
        .strip_prefix("time=\"")
        .unwrap()
        .split_once("\" ")
        .unwrap();
    let (date, clock) = time.split_once('T').unwrap();
    let digits = |text: &str| {
        text.chars()
            .map(|c| if c.is_ascii_digit() { '0' } else { c })
            .collect::<String>()
    };
    assert_eq!(
        (&*digits(date), &*digits(clock)),
        ("0000-00-00", "00:00:00.000000000Z")
    );
    assert!(date > "2026-01-01", "{date}");
    assert!(
        rest.starts_with("level=info msg=\"1 connections, "),
        "{rest}"
    );
    assert!(
        rest.contains(&format!(
            " runtime=io.containerd.caisson.v2 id={id} namespace="
        )),
        "{rest}"
    );
    let second = line(&format!("container {id}: CREATED as pid "));
    assert!(second.contains(", exec one CREATED as pid 0"), "{second}");
}
