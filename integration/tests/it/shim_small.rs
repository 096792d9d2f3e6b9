//! What the shim promises to need: one thread, little memory, no time without work, and no more of anything after many containers or execs.
//!
//! `MANY=1` has the leak tests go on for longer.

use integration::shim::Shim;
use integration::{Bundle, many, place, require};
use serde_json::json;
use std::time::Duration;

/// In KiB.
const RSS: u64 = 2048;

/// How long it is watched doing nothing.
const IDLE: Duration = Duration::from_secs(3);

/// A pod of so many containers that run; their shim.
#[track_caller]
fn pod(count: usize) -> (Shim, Vec<String>) {
    let mut bundle = Bundle::new();
    bundle.config.probe(&["pause"]).set(
        "/annotations",
        json!({ "io.kubernetes.cri.sandbox-id": place::unique("pod") }),
    );
    let shim = Shim::start(bundle);
    let mut ids = vec![shim.id().to_owned()];
    ids.extend((1..count).map(|_| shim.sibling()));
    for id in &ids {
        shim.start_again(id);
        shim.create(id).unwrap();
        shim.start_process(id, "").unwrap();
        assert_eq!(shim.line(id), "ready");
    }
    shim.events(2 * count);
    (shim, ids)
}

#[test]
fn a_shim_has_one_thread_and_at_most_two_megabytes() {
    require!(containers, released_shim);
    for count in [1, 10] {
        let (shim, ids) = pod(count);
        for id in &ids {
            shim.exec(id, "one", &["exit", "0"]).unwrap();
            shim.start_process(id, "one").unwrap();
            shim.wait(id, "one").unwrap();
            shim.delete(id, "one").unwrap();
        }
        assert_eq!(shim.status("Threads"), 1);
        let rss = shim.status("VmRSS");
        assert!(rss <= RSS, "{count} containers: {rss} KiB");
    }
}

#[test]
fn a_shim_without_work_is_never_switched_to() {
    require!(containers);
    for count in [1, 10] {
        let (shim, _) = pod(count);
        // What the last answer has left to do is over soon.
        std::thread::park_timeout(Duration::from_millis(500));
        let before = shim.switches();
        std::thread::park_timeout(IDLE);
        assert_eq!(shim.switches() - before, 0, "with {count} containers");
    }
}

#[test]
fn a_pod_without_a_pause_container_costs_its_shim_no_more() {
    require!(containers, released_shim);
    let mut bundle = Bundle::new();
    bundle.config.probe(&["pause"]);
    let shim = Shim::start(bundle);
    let config = shim::protos::pod::PodSandboxConfig {
        hostname: "inside".into(),
        ..Default::default()
    };
    shim.create_sandbox("", Some(&config)).unwrap();
    shim.start_sandbox().unwrap();
    for _ in 0..10 {
        let id = shim.sibling();
        shim.create(&id).unwrap();
        shim.start_process(&id, "").unwrap();
        assert_eq!(shim.line(&id), "ready");
    }
    shim.events(20);
    assert_eq!(shim.status("Threads"), 1);
    let rss = shim.status("VmRSS");
    assert!(rss <= RSS, "{rss} KiB");
    std::thread::park_timeout(Duration::from_millis(500));
    let before = shim.switches();
    std::thread::park_timeout(IDLE);
    assert_eq!(shim.switches() - before, 0);
}

/// What of a shim must not grow: threads, all descriptors, those for containers and commands, and children.
#[track_caller]
fn size(shim: &Shim) -> [usize; 4] {
    // The last descriptors are closed, and children reaped, a moment after the answer.
    for _ in 0..40 {
        if shim.held().is_empty() && shim.children().is_empty() {
            break;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let threads = shim.status("Threads") as usize;
    let descriptors = shim.descriptors().len();
    [
        threads,
        descriptors,
        shim.held().len(),
        shim.children().len(),
    ]
}

/// What could be kept for nothing. How much of its program and others' is there as well, the kernel decides.
const OWN: &str = "RssAnon";
/// The allocator keeps some of what it once had.
const SLACK: u64 = 96;

#[test]
fn containers_one_after_another_leave_nothing_in_their_shim() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.probe(&["exit", "3"]).set(
        "/annotations",
        json!({ "io.kubernetes.cri.sandbox-id": place::unique("pod") }),
    );
    let shim = Shim::start(bundle);
    let live = || {
        let id = shim.sibling();
        shim.create(&id).unwrap();
        shim.start_process(&id, "").unwrap();
        assert_eq!(shim.wait(&id, ""), Ok(3));
        shim.delete(&id, "").unwrap();
        shim.events(4);
    };
    // As many as it remembers of those that are gone.
    (0..70).for_each(|_| live());
    let (before, own) = (size(&shim), shim.status(OWN));
    (0..many(40, 500)).for_each(|_| live());
    assert_eq!(size(&shim), before);
    let grown = shim.status(OWN).saturating_sub(own);
    assert!(grown <= SLACK, "{grown} KiB more");
}

#[test]
fn execs_one_after_another_leave_nothing_in_their_shim() {
    require!(containers);
    let (shim, ids) = pod(1);
    let id = &ids[0];
    let mut number = 0;
    let mut live = || {
        number += 1;
        let exec = format!("exec-{number}");
        shim.exec(id, &exec, &["exit", "3"]).unwrap();
        shim.start_process(id, &exec).unwrap();
        assert_eq!(shim.wait(id, &exec), Ok(3));
        shim.delete(id, &exec).unwrap();
        shim.events(3);
    };
    (0..70).for_each(|_| live());
    let (before, own) = (size(&shim), shim.status(OWN));
    (0..many(50, 1000)).for_each(|_| live());
    assert_eq!(size(&shim), before);
    let grown = shim.status(OWN).saturating_sub(own);
    assert!(grown <= SLACK, "{grown} KiB more");
}

#[test]
fn what_many_or_large_execs_needed_is_given_back() {
    require!(containers);
    let (shim, ids) = pod(1);
    let id = &ids[0];
    let live = |names: &[String], args: &[&str]| {
        for name in names {
            shim.exec(id, name, args).unwrap();
            shim.start_process(id, name).unwrap();
        }
        for name in names {
            shim.kill(id, name, 9).ok();
            shim.wait(id, name).unwrap();
            shim.delete(id, name).unwrap();
        }
        shim.events(3 * names.len());
    };
    let some: Vec<String> = (0..80).map(|number| format!("exec-{number}")).collect();
    // Its end is remembered, and that of as many others.
    some.iter()
        .for_each(|name| live(std::slice::from_ref(name), &["exit", "0"]));
    let before = shim.status(OWN);
    let word = "x".repeat(100_000);
    let large: Vec<&str> = std::iter::once("echo").chain([&*word; 15]).collect();
    live(&some[..1], &large);
    let grown = shim.status(OWN).saturating_sub(before);
    assert!(grown <= SLACK, "{grown} KiB more after a large one");
    live(&some, &["pause"]);
    let grown = shim.status(OWN).saturating_sub(before);
    assert!(grown <= SLACK, "{grown} KiB more after many");
}
