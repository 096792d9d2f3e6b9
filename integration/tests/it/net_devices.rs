//! `linux.netDevices`: network devices that are moved into the container. Each test is in a network namespace of its own.

use integration::{Bundle, beyond, require, runtime};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;
use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::process::Command;

#[test]
fn a_device_comes_with_its_addresses_and_is_up() {
    require!(virtual_ethernet);
    beyond!(
        a_device_comes_with_its_addresses_and_is_up,
        [
            runc_before("1.4", "ignores devices"),
            crun_before("1.24", "ignores devices")
        ]
    );
    in_own_network(|| {
        let mut bundle = Bundle::new();
        ip("address add 169.254.169.13/32 dev inner");
        ip("address add 10.7.0.2/24 broadcast 10.7.0.255 dev inner");
        ip("address add fd00:7::2/64 dev inner nodad");
        ip("link set up dev inner");
        bundle
            .config
            .set("/linux/netDevices", json!({ "inner": {} }));
        let seen = bundle.report(&[]);
        const UP: u32 = 1;
        assert_eq!(seen.interfaces["inner"] & UP, UP);
        let addresses = addresses(&seen, "inner");
        for expected in ["169.254.169.13/32", "10.7.0.2/24", "fd00:7::2/64"] {
            assert!(addresses.contains(expected), "{addresses:?}");
        }
        assert!(seen.interfaces.contains_key("lo"));
        assert!(!links().contains("inner"), "it went with the container");
    });
}

#[test]
fn a_device_gets_another_name() {
    require!(virtual_ethernet);
    beyond!(
        a_device_gets_another_name,
        [
            runc_before("1.4", "ignores devices"),
            crun("loses the addresses, or ignores devices")
        ]
    );
    in_own_network(|| {
        let mut bundle = Bundle::new();
        ip("address add 10.7.0.2/24 dev inner");
        bundle
            .config
            .set("/linux/netDevices", json!({ "inner": { "name": "eth0" } }));
        let container = bundle.pause();
        assert!(!links().contains("inner"), "{:?}", links());
        let seen = container.exec_report(&[], &[]);
        assert!(addresses(&seen, "eth0").contains("10.7.0.2/24"));
        assert!(!seen.interfaces.contains_key("inner"));
    });
}

#[test]
fn sysctls_and_hooks_find_the_device() {
    require!(virtual_ethernet);
    beyond!(
        sysctls_and_hooks_find_the_device,
        [
            runc_before("1.4", "ignores devices"),
            crun_before("1.24", "ignores devices")
        ]
    );
    in_own_network(|| {
        let mut bundle = Bundle::new();
        bundle
            .config
            .set("/linux/netDevices", json!({ "inner": { "name": "eth0" } }))
            .set(
                "/linux/sysctl",
                json!({ "net.ipv4.conf.eth0.forwarding": "1" }),
            );
        let seen = bundle.report(&["sysctl=net.ipv4.conf.eth0.forwarding"]);
        assert_eq!(*seen.sysctls["net.ipv4.conf.eth0.forwarding"], "1");
    });
}

#[test]
fn a_namespace_that_is_joined_gets_the_device_and_keeps_it() {
    require!(virtual_ethernet);
    beyond!(
        a_namespace_that_is_joined_gets_the_device_and_keeps_it,
        [
            runc_before("1.4", "ignores devices"),
            crun_before("1.24", "ignores devices")
        ]
    );
    in_own_network(|| {
        let mut first = Bundle::new();
        let holder = first.pause();
        let mut bundle = Bundle::new();
        bundle
            .config
            .join_namespace("network", &format!("/proc/{}/ns/net", holder.pid))
            .set("/linux/netDevices", json!({ "inner": {} }));
        assert!(bundle.report(&[]).interfaces.contains_key("inner"));
        let left = holder.exec_report(&[], &[]).interfaces;
        assert!(left.contains_key("inner"));
    });
}

#[test]
fn a_user_namespace_gets_the_device_as_well() {
    require!(virtual_ethernet, userns);
    beyond!(
        a_user_namespace_gets_the_device_as_well,
        [
            runc_before("1.4", "ignores devices"),
            crun_before("1.24", "ignores devices")
        ]
    );
    in_own_network(|| {
        let mut bundle = Bundle::new();
        ip("address add 10.7.0.2/24 dev inner");
        bundle
            .config
            .user_namespace(100_000, 65536)
            .set("/linux/netDevices", json!({ "inner": {} }));
        assert!(addresses(&bundle.report(&[]), "inner").contains("10.7.0.2/24"));
    });
}

#[test]
fn a_device_that_is_missing_is_named() {
    require!(virtual_ethernet);
    beyond!(
        a_device_that_is_missing_is_named,
        [
            runc_before("1.4", "ignores devices"),
            crun("words it otherwise")
        ]
    );
    in_own_network(|| {
        let mut bundle = Bundle::new();
        let devices = json!({ "inner": {}, "missing0": {} });
        bundle.config.set("/linux/netDevices", devices);
        bundle
            .create_fails()
            .failure()
            .says("link not found for interface missing0 on runtime namespace");
        assert!(links().contains("inner"), "what was moved is back");
    });
}

#[test]
fn a_name_that_is_taken_in_the_container_is_refused_and_the_device_stays() {
    require!(virtual_ethernet);
    beyond!(
        a_name_that_is_taken_in_the_container_is_refused_and_the_device_stays,
        [
            runc_before("1.4", "ignores devices"),
            crun("words it otherwise")
        ]
    );
    in_own_network(|| {
        let mut bundle = Bundle::new();
        ip("address add 10.7.0.2/24 dev inner");
        bundle
            .config
            .set("/linux/netDevices", json!({ "inner": { "name": "lo" } }));
        bundle
            .create_fails()
            .failure()
            .says("lo")
            .says("file exists");
        assert!(links().contains("inner"));
        assert!(ip("address show dev inner").contains("10.7.0.2/24"));
    });
}

#[test]
fn a_create_that_fails_later_gives_the_devices_back() {
    require!(virtual_ethernet);
    beyond!(
        a_create_that_fails_later_gives_the_devices_back,
        [crun_from("1.24", "loses them")]
    );
    in_own_network(|| {
        let mut bundle = Bundle::new();
        ip("address add 10.7.0.2/24 dev inner");
        bundle
            .config
            .set("/linux/netDevices", json!({ "inner": { "name": "eth0" } }))
            .args(&["/no/such/program"]);
        bundle.create_fails().failure().says("/no/such/program");
        assert!(ip("address show dev inner").contains("10.7.0.2/24"));
    });
}

#[test]
fn without_a_network_namespace_of_its_own_there_is_nowhere_to_move_to() {
    require!(virtual_ethernet);
    beyond!(
        without_a_network_namespace_of_its_own_there_is_nowhere_to_move_to,
        [
            runc_before("1.4", "ignores devices"),
            crun("words it otherwise")
        ]
    );
    in_own_network(|| {
        let mut bundle = Bundle::new();
        bundle
            .config
            .set("/linux/netDevices", json!({ "inner": {} }));
        bundle.config.no_namespace("network");
        bundle
            .create_fails()
            .failure()
            .says("unable to move network devices without a NET namespace");
        // The thread's own, which is the command's.
        let own = format!("/proc/{}/ns/net", nix::unistd::gettid());
        bundle.config.join_namespace("network", &own);
        bundle
            .create_fails()
            .failure()
            .says("unable to move network devices without a private NET namespace");
        assert!(links().contains("inner"));
    });
}

#[test]
fn names_that_no_device_has_are_refused() {
    require!(virtual_ethernet);
    beyond!(
        names_that_no_device_has_are_refused,
        [
            runc_before("1.4", "ignores devices"),
            crun("words it otherwise")
        ]
    );
    for name in ["a/b", "..", "0123456789abcdef", "a b", "a:b"] {
        let mut bundle = Bundle::new();
        bundle
            .config
            .set("/linux/netDevices", json!({ "inner": { "name": name } }));
        bundle
            .create_fails()
            .failure()
            .says("invalid network device name");
    }
}

/// Runs a test in a network namespace of its own, in which there is a pair of devices, `inner` and `outer`.
#[track_caller]
fn in_own_network(test: impl FnOnce() + Send) {
    let run = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip("link add inner type veth peer name outer");
        ip("link set up dev outer");
        test();
    };
    // A thread's network namespace is its own, and what it starts inherits it.
    let ended = std::thread::scope(|scope| scope.spawn(run).join());
    if let Err(panic) = ended {
        resume_unwind(panic);
    }
}

/// Runs `ip` with these words.
#[track_caller]
fn ip(words: &str) -> String {
    let mut command = Command::new("ip");
    command.args(words.split(' '));
    runtime::finish(command).success().stdout
}

/// The names of the devices in the test's network namespace.
#[track_caller]
fn links() -> BTreeSet<String> {
    let text = ip("-brief link show");
    let name = |line: &str| {
        let name = line.split([' ', '@']).next().unwrap_or_default();
        name.to_owned()
    };
    text.lines().map(name).collect()
}

#[track_caller]
fn addresses(seen: &integration::Seen, device: &str) -> BTreeSet<String> {
    seen.addresses[device].clone()
}
