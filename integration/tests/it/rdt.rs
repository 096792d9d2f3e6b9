//! `linux.intelRdt`: classes of service and monitoring groups. A directory stands for the resctrl file system, which needs hardware: what
//! is made, written and removed is seen here, and not what the kernel does with it. Groups there have no files of their own
//! accord, so the tests take away what was written before something is to be removed.

use integration::{Bundle, Container, Finished, require};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn a_container_gets_a_class_of_its_own_which_goes_with_it() {
    require!(containers, resctrl);
    let mut bundle = bundle();
    bundle.config.set(
        "/linux/intelRdt",
        json!({ "l3CacheSchema": "L3:0=f0;1=f", "memBwSchema": "MB:0=20;1=70", "schemata": ["L2:0=3"] }),
    );
    let mut container = bundle.pause();
    let class = root(&bundle).join(&container.id);
    assert_eq!(
        read(&class, "schemata"),
        "L3:0=f0;1=f\nMB:0=20;1=70\nL2:0=3\n"
    );
    assert_eq!(read(&class, "tasks"), container.pid.to_string());
    empty(&class);
    let second = container.exec_detached(&[], &["/bin/probe", "pause"]).pid;
    assert_eq!(read(&class, "tasks"), second.to_string());
    empty(&class);
    container.delete_by_force().success();
    assert!(!class.exists());
}

#[test]
fn a_class_that_is_named_must_exist_and_stays() {
    require!(containers, resctrl);
    let mut bundle = bundle();
    bundle
        .config
        .set("/linux/intelRdt", json!({ "closID": "gold" }));
    let class = root(&bundle).join("gold");
    bundle
        .create_fails()
        .failure()
        .says("clos dir")
        .says("not accessible")
        .says("gold");
    assert!(!class.exists());

    fs::create_dir_all(class.join("mon_groups")).unwrap();
    let mut container = bundle.pause();
    assert_eq!(read(&class, "tasks"), container.pid.to_string());
    assert!(!class.join("schemata").exists());
    empty(&class);
    container.delete_by_force().success();
    assert!(class.exists());
}

#[test]
fn a_monitoring_group_in_a_class_of_others_is_the_containers_own() {
    require!(containers, resctrl);
    let mut bundle = bundle();
    bundle.config.set(
        "/linux/intelRdt",
        json!({ "closID": "/", "enableMonitoring": true }),
    );
    let mut container = bundle.pause();
    let root = root(&bundle);
    assert_eq!(read(&root, "tasks"), container.pid.to_string());
    let monitor = root.join("mon_groups").join(&container.id);
    assert_eq!(read(&monitor, "tasks"), container.pid.to_string());
    fs::remove_file(monitor.join("tasks")).unwrap();
    let second = container.exec_detached(&[], &["/bin/probe", "pause"]).pid;
    assert_eq!(read(&monitor, "tasks"), second.to_string());
    empty(&monitor);
    container.delete_by_force().success();
    assert!(!monitor.exists() && root.join("mon_groups").exists());
}

#[test]
fn statistics_show_the_class_and_what_is_monitored() {
    require!(containers, resctrl);
    let mut bundle = bundle();
    bundle.config.set(
        "/linux/intelRdt",
        json!({ "closID": "gold", "enableMonitoring": true }),
    );
    let root = root(&bundle);
    let write = |path: PathBuf, text: &str| integration::place::write(&path, text);
    for (file, text) in [
        ("L3/cbm_mask", "fffff\n"),
        ("L3/min_cbm_bits", "2\n"),
        ("MB/num_closids", "8\n"),
    ] {
        write(root.join("info").join(file), text);
    }
    write(root.join("schemata"), "    MB:0=100\n    L3:0=fffff\n");
    // The kernel makes what is in a group.
    let class = root.join("gold");
    fs::create_dir_all(class.join("mon_groups")).unwrap();
    write(class.join("schemata"), "    L3:0=f\n");
    let container = bundle.pause();
    let monitor = class.join("mon_groups").join(&container.id);
    let domain = monitor.join("mon_data/mon_L3_00");
    fs::create_dir_all(&domain).unwrap();
    for (file, text) in [
        ("mbm_total_bytes", "4096\n"),
        ("mbm_local_bytes", "1024\n"),
        ("llc_occupancy", "65536\n"),
    ] {
        write(domain.join(file), text);
    }
    let line = ["events", "--stats", &container.id];
    let event = container.runtime.call(&line).success().json();
    assert_eq!(
        event["data"]["intel_rdt"],
        json!({
            "l3_cache_info": { "cbm_mask": "fffff", "min_cbm_bits": 2 },
            "l3_cache_schema_root": "L3:0=fffff",
            "l3_cache_schema": "L3:0=f",
            "mem_bw_info": { "num_closids": 8 },
            "mem_bw_schema_root": "MB:0=100",
            "mbm_stats": [{ "mbm_total_bytes": 4096, "mbm_local_bytes": 1024 }],
            "cmt_stats": [{ "llc_occupancy": 65536 }],
        })
    );
    fs::remove_dir_all(monitor.join("mon_data")).unwrap();
    empty(&monitor);
    empty(&class);
}

#[test]
fn update_changes_the_class_of_the_container() {
    require!(containers, resctrl);
    let mut bundle = bundle();
    bundle
        .config
        .set("/linux/intelRdt", json!({ "l3CacheSchema": "L3:0=f" }));
    let container = bundle.pause();
    let class = root(&bundle).join(&container.id);
    fs::remove_file(class.join("schemata")).unwrap();
    let flags = ["--l3-cache-schema=L3:0=ff", "--mem-bw-schema", "MB:0=50"];
    update(&container, &flags).success();
    assert_eq!(read(&class, "schemata"), "L3:0=ff\nMB:0=50\n");
    empty(&class);
}

#[test]
fn update_makes_a_class_for_a_container_without_one() {
    require!(containers, resctrl);
    let mut bundle = bundle();
    let mut container = bundle.pause();
    let class = root(&bundle).join(&container.id);
    assert!(!class.exists());
    let flags = ["--mem-bw-schema", "MB:0=50"];
    update(&container, &flags).success();
    assert_eq!(read(&class, "schemata"), "MB:0=50\n");
    assert_eq!(read(&class, "tasks"), container.pid.to_string());
    empty(&class);
    container.delete_by_force().success();
    assert!(!class.exists());
}

#[test]
fn update_refuses_what_the_machine_lacks() {
    require!(containers, resctrl);
    for (feature, flag, words) in [
        (
            "L3",
            "--l3-cache-schema=L3:0=f",
            "l3 cache schema is not enabled",
        ),
        (
            "MB",
            "--mem-bw-schema=MB:0=5",
            "memory bandwidth schema is not enabled",
        ),
    ] {
        let mut bundle = bundle();
        fs::remove_dir(root(&bundle).join("info").join(feature)).unwrap();
        let container = bundle.pause();
        update(&container, &[flag]).failure().says(words);
        assert!(!root(&bundle).join(&container.id).exists());
    }
}

#[test]
fn a_class_that_exists_must_have_what_is_asked_for() {
    require!(containers, resctrl);
    let mut bundle = bundle();
    let class = root(&bundle).join("gold");
    fs::create_dir(&class).unwrap();
    integration::place::write(
        &class.join("schemata"),
        "    L3:0=000ff;1=f\n    MB:0=100;1=100\n",
    );
    let ask = |bundle: &mut Bundle, schema: &str| {
        let rdt = json!({ "closID": "gold", "l3CacheSchema": schema });
        bundle.config.set("/linux/intelRdt", rdt);
    };
    ask(&mut bundle, "L3:0=ff;1=0f");
    drop(bundle.pause());
    ask(&mut bundle, "L3:0=ff;1=1f");
    bundle
        .create_fails()
        .failure()
        .says("gold")
        .says("L3:0=ff;1=1f");
    assert!(class.exists());
    assert_eq!(
        read(&class, "schemata").lines().count(),
        2,
        "it is as it was"
    );
}

#[test]
fn a_failed_create_takes_its_class_back() {
    require!(containers, resctrl);
    let mut bundle = bundle();
    bundle
        .config
        .set("/linux/intelRdt", json!({ "enableMonitoring": false }))
        .set("/linux/resources/unified", json!({ "no.such.file": "1" }));
    bundle.create_fails().failure().says("controller 'no'");
    let left: Vec<_> = fs::read_dir(root(&bundle))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name != "info" && name != "mon_groups")
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_the_machine_lacks_is_refused() {
    require!(containers, resctrl);
    for (rdt, feature, words) in [
        (
            json!({ "l3CacheSchema": "L3:0=f" }),
            "L3",
            "Intel RDT/CAT is not enabled",
        ),
        (
            json!({ "memBwSchema": "MB:0=10" }),
            "MB",
            "Intel RDT/MBA is not enabled",
        ),
        (
            json!({ "enableMonitoring": true }),
            "L3_MON",
            "Intel RDT/CMT and MBM is not enabled",
        ),
    ] {
        let mut bundle = bundle();
        fs::remove_dir(root(&bundle).join("info").join(feature)).unwrap();
        bundle.config.set("/linux/intelRdt", rdt);
        bundle.create_fails().failure().says(words);
    }
    for wrong in ["..", "a/b"] {
        let mut bundle = bundle();
        bundle
            .config
            .set("/linux/intelRdt", json!({ "closID": wrong }));
        bundle
            .create_fails()
            .failure()
            .says("invalid intelRdt.ClosID");
    }
    let mut bundle = Bundle::new();
    bundle
        .config
        .set("/linux/intelRdt", json!({ "closID": "/" }));
    if integration::host::mounts()
        .iter()
        .all(|mount| mount.fstype != "resctrl")
    {
        bundle
            .create_fails()
            .failure()
            .says("resctrl mount point not found");
    }
}

fn update(container: &Container, flags: &[&str]) -> Finished {
    let line = [&["update"], flags, &[&container.id]].concat();
    container.runtime.call(&line)
}

/// A bundle whose runtime finds a resctrl file system beside it.
fn bundle() -> Bundle {
    let mut bundle = Bundle::new();
    for directory in ["info/L3", "info/L3_MON", "info/MB", "mon_groups"] {
        bundle.scratch.dir(&format!("resctrl/{directory}"));
    }
    let root = root(&bundle).display().to_string();
    bundle.runtime.env.push(("CAISSON_RESCTRL".into(), root));
    bundle
}

fn root(bundle: &Bundle) -> PathBuf {
    bundle.scratch.path().join("resctrl")
}

#[track_caller]
fn read(directory: &Path, name: &str) -> String {
    let path = directory.join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

/// Takes the files of a group away, which the kernel does when the group is removed.
#[track_caller]
fn empty(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::remove_file(path).unwrap();
        }
    }
}
