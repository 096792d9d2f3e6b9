//! The runtime inside of a container of its own that has a user namespace.

use integration::{Bundle, Config, Finished, require};
use serde_json::json;

#[test]
fn a_container_runs_in_a_container_of_root() {
    require!(containers, userns, static_runtime);
    let mut bundle = Bundle::new();
    bundle.config.user_namespace(100_000, 65536);
    let finished = nest(bundle, inner());
    assert_eq!(finished.success().stdout, "inside\n");
}

#[test]
fn a_container_runs_in_a_container_of_a_user() {
    require!(unprivileged_user, static_runtime);
    let finished = nest(Bundle::of_user(), inner());
    assert_eq!(finished.success().stdout, "inside\n");
}

#[test]
fn an_inner_container_has_a_user_namespace_of_its_own() {
    require!(unprivileged_user, static_runtime);
    let mut config = inner();
    config.user_namespace(0, 1);
    assert_eq!(nest(Bundle::of_user(), config).success().stdout, "inside\n");
}

#[test]
fn groups_that_the_outer_container_cannot_set_are_no_trouble_inside() {
    require!(unprivileged_user, static_runtime);
    let mut config = inner();
    config.probe(&["report"]);
    let seen = integration::bundle::seen(&nest(Bundle::of_user(), config).success());
    assert_eq!(*seen.setgroups, "deny");
    assert_eq!(*seen.groups, [0, 65534]);
}

#[test]
fn a_masked_procfs_outside_is_named_as_the_reason() {
    require!(containers, userns, static_runtime);
    let mut bundle = Bundle::new();
    bundle.config.user_namespace(100_000, 65536);
    let masked = json!(["/proc/kcore", "/proc/keys", "/proc/timer_list"]);
    bundle.config.set("/linux/maskedPaths", masked);
    let mut config = inner();
    config.user_namespace(0, 1000);
    nest_in(bundle, config, false).failure().says("covered");
}

#[test]
fn a_masked_procfs_outside_serves_where_the_pid_namespace_is_shared() {
    require!(containers, userns, static_runtime);
    let mut bundle = Bundle::new();
    bundle.config.user_namespace(100_000, 65536);
    bundle.file("masked", "");
    bundle.config.set(
        "/linux/maskedPaths",
        json!(["/proc/kcore", "/proc/timer_list"]),
    );
    let mut config = inner();
    config.user_namespace(0, 1000).no_namespace("pid");
    config.probe(&["report", "ls=/proc", "cat=/proc/timer_list"]);
    let seen = integration::bundle::seen(&nest_in(bundle, config, false).success());
    assert_eq!(*seen.files["/proc/timer_list"], "");
}

/// What an inner container is: no cgroup, for it cannot have one everywhere, and nothing masked.
fn inner() -> Config {
    let mut config = Config::default();
    config
        .probe(&["echo", "inside"])
        .remove("/linux/resources")
        .no_namespace("cgroup")
        .unmount("/sys/fs/cgroup");
    config.retain("/mounts", |mount| mount["destination"] != "/dev/pts");
    config
}

fn nest(bundle: Bundle, inner: Config) -> Finished {
    nest_in(bundle, inner, true)
}

/// Runs the runtime in this container with a bundle in its root, as its root with every right in there.
fn nest_in(mut bundle: Bundle, inner: Config, open: bool) -> Finished {
    let runtime = bundle.runtime.binary.clone();
    std::fs::copy(runtime, bundle.rootfs().join("bin/runtime")).unwrap();
    for name in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        bundle.dir(&format!("bundle/rootfs/{name}"));
    }
    let probe = bundle.rootfs().join("bundle/rootfs/bin/probe");
    std::fs::copy(bundle.rootfs().join("bin/probe"), probe).unwrap();
    bundle.file("bundle/config.json", &inner.0.to_string());
    let (uid, gid) = match bundle.config.0.pointer("/linux/uidMappings/0/hostID") {
        Some(id) => (
            id.as_u64().unwrap() as u32,
            bundle.config.0["linux"]["gidMappings"][0]["hostID"]
                .as_u64()
                .unwrap() as u32,
        ),
        None => (0, 0),
    };
    integration::place::give(&bundle.rootfs(), uid, gid);
    bundle.config.privileged().writable();
    if open {
        bundle
            .config
            .set("/linux/maskedPaths", json!([]))
            .set("/linux/readonlyPaths", json!([]));
    }
    bundle.config.args(&[
        "/bin/runtime",
        "--root",
        "/run/inner",
        "run",
        "--bundle",
        "/bundle",
        "inner",
    ]);
    bundle.run()
}
