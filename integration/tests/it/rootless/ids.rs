//! Which ids a user's container has, and which groups.

use integration::{Bundle, beyond, place, require, user};
use serde_json::json;
use std::os::unix::fs::MetadataExt;

#[test]
fn one_id_is_mapped_without_a_helper() {
    require!(unprivileged_user);
    let bundle = Bundle::of_user();
    // PATH and places apart: an empty /etc/subuid gives the helpers nothing to do.
    for name in ["subuid", "subgid"] {
        place::write(&bundle.scratch.path().join("etc").join(name), "");
    }
    let seen = bundle.report(&[]);
    assert_eq!(*seen.uid_map, [[0, u64::from(user::UID), 1]]);
    assert_eq!(*seen.setgroups, "deny");
}

#[test]
fn the_user_may_be_himself_in_the_container() {
    require!(unprivileged_user);
    beyond!(
        the_user_may_be_himself_in_the_container,
        [runc("wants root to be mapped")]
    );
    let mut bundle = himself();
    let seen = bundle.report(&[
        "stat=/etc/passwd",
        "try=create:/tmp/x",
        "try=read:/dev/null",
        "stat=/proc/self",
    ]);
    assert_eq!((seen.uid, seen.gid), ([1000; 3], [1001; 3]));
    assert_eq!(*seen.uid_map, [[1000, u64::from(user::UID), 1]]);
    assert_eq!(seen.stat("/etc/passwd").uid, 1000);
    assert_eq!(seen.tried("read:/dev/null"), "ok");
    assert!(seen.caps.effective.is_empty());
    let container = bundle.pause();
    let seen = container.exec_report(&["--user", "1000:1001"], &[]);
    assert_eq!((seen.uid, seen.gid), ([1000; 3], [1001; 3]));
}

#[test]
fn root_need_not_be_mapped_for_a_terminal() {
    require!(unprivileged_user);
    beyond!(
        root_need_not_be_mapped_for_a_terminal,
        [runc("wants root to be mapped")]
    );
    let mut bundle = himself();
    bundle
        .config
        .set("/process/terminal", true)
        .probe(&["report", "stat=/dev/pts/0"]);
    let socket = super::console_socket(&bundle);
    let flags = ["--console-socket", socket.path.to_str().unwrap()];
    let container = bundle
        .create_with(&flags)
        .unwrap_or_else(|finished| panic!("{finished}"));
    let (_, mut terminal) = socket.receive();
    container.start().success();
    let seen: integration::Seen = serde_json::from_str(&terminal.output.line()).unwrap();
    assert_eq!(seen.terminals.len(), 3);
    assert_eq!(seen.stat("/dev/pts/0").uid, 1000);
}

#[test]
fn more_ids_are_mapped_with_newuidmap_and_newgidmap() {
    require!(unprivileged_user, subordinate_ids);
    beyond!(
        more_ids_are_mapped_with_newuidmap_and_newgidmap,
        [crun_before("1.21", "runs as root what exec adds")]
    );
    let mut bundle = Bundle::of_user();
    bundle.map_subordinates();
    bundle
        .config
        .set("/process/user", json!({ "uid": 1000, "gid": 1001 }));
    let mut container = bundle.pause();
    let status = std::fs::read_to_string(format!("/proc/{}/status", container.pid)).unwrap();
    let (uid, gid) = (user::SUBORDINATE + 999, user::SUBORDINATE + 1000);
    assert!(
        status.contains(&format!("\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")),
        "{status}"
    );
    assert!(
        status.contains(&format!("\nGid:\t{gid}\t{gid}\t{gid}\t{gid}\n")),
        "{status}"
    );
    let seen = container.exec_report(&[], &[]);
    let maps = |own: u32| {
        [
            [0, u64::from(own), 1],
            [
                1,
                u64::from(user::SUBORDINATE),
                u64::from(user::SUBORDINATES),
            ],
        ]
    };
    assert_eq!(*seen.uid_map, maps(user::UID));
    assert_eq!(*seen.gid_map, maps(user::GID));
    assert_eq!((seen.uid, seen.gid), ([1000; 3], [1001; 3]));
    container.kill("KILL").success();
    assert_eq!(container.wait(), 137);
}

#[test]
fn root_may_be_a_subordinate_id() {
    require!(unprivileged_user, subordinate_ids);
    beyond!(
        root_may_be_a_subordinate_id,
        [runc("cannot give its fifo away")]
    );
    let mut bundle = Bundle::of_user();
    let maps = json!([{ "containerID": 0, "hostID": user::SUBORDINATE, "size": 1000 }]);
    bundle
        .config
        .set("/linux/uidMappings", maps.clone())
        .set("/linux/gidMappings", maps);
    let container = bundle.pause();
    let owner = std::fs::metadata(format!("/proc/{}/cwd", container.pid));
    assert!(owner.is_ok());
    let seen = container.exec_report(&[], &[]);
    assert_eq!(*seen.uid_map, [[0, u64::from(user::SUBORDINATE), 1000]]);
    assert_eq!(seen.uid, [0; 3]);
}

#[test]
fn ids_of_others_are_refused_by_name() {
    require!(unprivileged_user, subordinate_ids);
    beyond!(
        ids_of_others_are_refused_by_name,
        [runc("says nothing of the helper")]
    );
    let mut bundle = Bundle::of_user();
    let maps = json!([{ "containerID": 0, "hostID": 10, "size": 1000 }]);
    bundle
        .config
        .set("/linux/uidMappings", maps.clone())
        .set("/linux/gidMappings", maps);
    bundle.create_fails().failure().says("newgidmap");
}

#[test]
fn groups_that_are_mapped_are_set() {
    require!(unprivileged_user, subordinate_ids);
    beyond!(
        groups_that_are_mapped_are_set,
        [
            runc("sets no groups for a user"),
            crun_before("1.21", "gives none to what exec adds")
        ]
    );
    let mut bundle = Bundle::of_user();
    bundle.map_subordinates();
    bundle.config.set(
        "/process/user",
        json!({ "uid": 0, "gid": 0, "additionalGids": [5, 10] }),
    );
    let seen = bundle.report(&[]);
    assert_eq!(*seen.groups, [5, 10]);
    let container = bundle.pause();
    assert_eq!(*container.exec_report(&[], &[]).groups, [5, 10]);
}

#[test]
fn the_users_groups_are_dropped_where_groups_can_be_set() {
    require!(unprivileged_user, subordinate_ids);
    beyond!(
        the_users_groups_are_dropped_where_groups_can_be_set,
        [runc("sets no groups for a user")]
    );
    let mut bundle = Bundle::of_user();
    bundle.map_subordinates();
    assert!(bundle.report(&[]).groups.is_empty());
}

#[test]
fn groups_are_refused_where_they_cannot_be_set() {
    require!(unprivileged_user);
    beyond!(
        groups_are_refused_where_they_cannot_be_set,
        [crun("leaves them out silently")]
    );
    let mut bundle = Bundle::of_user();
    bundle.config.set(
        "/process/user",
        json!({ "uid": 0, "gid": 0, "additionalGids": [0] }),
    );
    bundle.create_fails().failure().says("group");
    bundle.config.remove("/process/user/additionalGids");
    // With one group mapped, setgroups(2) is denied: the user's groups stay, which nobody in there has a name for.
    assert_eq!(*bundle.report(&[]).groups, [0, 65534]);
}

#[test]
fn the_users_groups_stay_if_the_annotation_says_so() {
    require!(unprivileged_user, subordinate_ids);
    let mut bundle = Bundle::of_user();
    bundle.map_subordinates();
    // As crun has it: any value but "0".
    bundle.config.set(
        "/annotations",
        json!({ "run.oci.keep_original_groups": "true" }),
    );
    let shared = bundle.dir("shared");
    place::give_one(&shared, 0, user::EXTRA_GROUP);
    std::fs::set_permissions(&shared, std::os::unix::fs::PermissionsExt::from_mode(0o770)).unwrap();
    bundle.config.writable();
    bundle.config.capabilities(&[], &[]);
    let seen = bundle.report(&["try=create:/shared/x"]);
    assert!(seen.groups.contains(&65534), "{:?}", *seen.groups);
    assert_eq!(seen.tried("create:/shared/x"), "ok");
    let container = bundle.pause();
    let seen = container.exec_report(&[], &["try=create:/shared/x"]);
    assert_eq!(seen.tried("create:/shared/x"), "ok");
}

#[test]
fn what_the_container_writes_is_the_users() {
    require!(unprivileged_user);
    let mut bundle = Bundle::of_user();
    let volume = bundle.scratch.dir("volume");
    place::give(&volume, user::UID, user::GID);
    bundle.dir("volume");
    bundle
        .config
        .bind(&volume, "/volume", &["rw"])
        .probe(&["write-file", "/volume/file", "7"]);
    bundle.run().success();
    let data = std::fs::metadata(volume.join("file")).unwrap();
    assert_eq!(
        (data.uid(), data.gid(), data.len()),
        (user::UID, user::GID, 7)
    );
}

/// The user as another than root, who is not mapped.
fn himself() -> Bundle {
    let mut bundle = Bundle::of_user();
    let map = |inside: u32, own: u32| json!([{ "containerID": inside, "hostID": own, "size": 1 }]);
    bundle
        .config
        .set("/linux/uidMappings", map(1000, user::UID))
        .set("/linux/gidMappings", map(1001, user::GID))
        .set("/process/user", json!({ "uid": 1000, "gid": 1001 }));
    bundle
}
