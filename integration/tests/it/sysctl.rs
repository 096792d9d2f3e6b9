//! `linux.sysctl`: only what the container's own namespaces hold may be set.

use integration::{Bundle, beyond, require};
use serde_json::json;

#[test]
fn sysctls_of_the_containers_namespaces_are_set() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.set(
        "/linux/sysctl",
        json!({
            "kernel.msgmax": "65537",
            "kernel.shm_rmid_forced": "1",
            "fs.mqueue.msg_max": "17",
            "net.ipv4.ip_forward": "1",
            "net.ipv4.ping_group_range": "0 2147483647",
        }),
    );
    let seen = bundle.report(&[
        "sysctl=kernel.msgmax",
        "sysctl=kernel.shm_rmid_forced",
        "sysctl=fs.mqueue.msg_max",
        "sysctl=net.ipv4.ip_forward",
        "sysctl=net.ipv4.ping_group_range",
        "try=write:/proc/sys/kernel/msgmax",
    ]);
    for (name, value) in [
        ("kernel.msgmax", "65537"),
        ("kernel.shm_rmid_forced", "1"),
        ("fs.mqueue.msg_max", "17"),
        ("net.ipv4.ip_forward", "1"),
        ("net.ipv4.ping_group_range", "0\t2147483647"),
    ] {
        assert_eq!(*seen.sysctls[name], value, "{name}");
    }
    assert_eq!(seen.tried("write:/proc/sys/kernel/msgmax"), "EROFS");
}

#[test]
fn sysctls_may_be_written_with_slashes() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle
        .config
        .set("/linux/sysctl", json!({ "net/ipv4/ip_forward": "1" }));
    assert_eq!(
        *bundle.report(&["sysctl=net.ipv4.ip_forward"]).sysctls["net.ipv4.ip_forward"],
        "1"
    );
}

#[test]
fn the_domain_name_may_be_set_by_sysctl() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle
        .config
        .set("/linux/sysctl", json!({ "kernel.domainname": "by.sysctl" }));
    assert_eq!(*bundle.report(&[]).domainname, "by.sysctl");
}

#[test]
fn sysctls_of_the_whole_host_are_refused() {
    require!(containers);
    for name in [
        "kernel.panic",
        "kernel.core_pattern",
        "vm.swappiness",
        "fs.file-max",
        "kernel.sysrq",
        "user.max_user_namespaces",
    ] {
        let mut bundle = Bundle::new();
        bundle.config.set("/linux/sysctl", json!({ name: "1" }));
        bundle.create_fails().failure().says(name);
    }
}

#[test]
fn the_host_name_is_not_set_by_sysctl() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle
        .config
        .set("/linux/sysctl", json!({ "kernel.hostname": "by.sysctl" }));
    bundle.create_fails().failure().says("kernel.hostname");
}

#[test]
fn sysctls_of_a_namespace_that_is_the_hosts_are_refused() {
    require!(containers);
    for (kind, name) in [
        ("ipc", "kernel.msgmax"),
        ("ipc", "fs.mqueue.msg_max"),
        ("network", "net.ipv4.ip_forward"),
        ("uts", "kernel.domainname"),
    ] {
        let mut bundle = Bundle::new();
        bundle
            .config
            .no_namespace(kind)
            .set("/linux/sysctl", json!({ name: "1" }));
        if kind == "uts" {
            bundle.config.remove("/hostname");
        }
        bundle.create_fails().failure().says(name);
    }
}

#[test]
fn sysctls_of_the_network_need_a_network_namespace_other_than_the_hosts() {
    require!(containers);
    beyond!(
        sysctls_of_the_network_need_a_network_namespace_other_than_the_hosts,
        [crun(
            "does not look whether a joined namespace is the host's"
        )]
    );
    let mut bundle = Bundle::new();
    let path = format!("/proc/{}/ns/net", std::process::id());
    bundle
        .config
        .join_namespace("network", &path)
        .set("/linux/sysctl", json!({ "net.ipv4.ip_forward": "1" }));
    bundle.create_fails().failure().says("net.ipv4.ip_forward");
}

#[test]
fn a_sysctl_that_does_not_exist_is_named() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle
        .config
        .set("/linux/sysctl", json!({ "net.ipv4.no_such_thing": "1" }));
    bundle.create_fails().failure().says("no_such_thing");
}

#[test]
fn a_sysctl_name_cannot_leave_its_directory() {
    require!(containers);
    let mut bundle = Bundle::new();
    for name in [
        "net/../kernel/panic",
        "net.../kernel/panic",
        "fs.mqueue/../../kernel/panic",
    ] {
        bundle.config.set("/linux/sysctl", json!({ name: "7" }));
        bundle.create_fails().failure();
    }
}
