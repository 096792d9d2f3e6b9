//! Id-mapped mounts: whose maps, which mounts, and what is refused.

use integration::{Bundle, beyond, place, require};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Ids of files are shown as the mount's mappings say: what is 0 on disk is 100000 for the kernel, which the container's user namespace
/// shows as 0 again.
#[test]
fn a_mount_with_mappings_shows_the_files_of_root_as_the_containers_own() {
    require!(id_mapped_mounts, userns);
    beyond!(
        a_mount_with_mappings_shows_the_files_of_root_as_the_containers_own,
        [runc_before("1.2", "refuses it or ignores it")]
    );
    let mut bundle = bundle(&[("file", 0, 0)]);
    bundle.config.user_namespace(100_000, 65536);
    map(&mut bundle, &["bind"], Some([[0, 100_000, 65536]; 2]));
    let seen = bundle.report(&["stat=/data/file", "try=create:/data/new"]);
    assert_eq!(owner(&seen, "/data/file"), (0, 0));
    assert_eq!(seen.tried("create:/data/new"), "ok");
    assert!(seen.mounted("/data").has(&["idmapped"]));
}

#[test]
fn what_the_container_writes_belongs_to_root_on_disk() {
    require!(id_mapped_mounts, userns);
    beyond!(
        what_the_container_writes_belongs_to_root_on_disk,
        [runc_before("1.2", "refuses it or ignores it")]
    );
    let mut bundle = bundle(&[]);
    bundle
        .config
        .user_namespace(100_000, 65536)
        .probe(&["write-file", "/data/new", "3"]);
    map(&mut bundle, &["bind"], Some([[0, 100_000, 65536]; 2]));
    bundle.run().success();
    let data = std::fs::metadata(bundle.scratch.path().join("data/new")).unwrap();
    assert_eq!(
        std::os::unix::fs::MetadataExt::uid(&data),
        0,
        "as an id-mapped mount writes it"
    );
}

#[test]
fn without_a_user_namespace_the_mappings_are_to_ids_of_the_host() {
    require!(id_mapped_mounts);
    beyond!(
        without_a_user_namespace_the_mappings_are_to_ids_of_the_host,
        [runc_before("1.2", "ignores it")]
    );
    let mut bundle = bundle(&[("one", 100, 211), ("two", 102, 233), ("other", 5, 5)]);
    map(
        &mut bundle,
        &["bind"],
        Some([[100, 101_100, 3], [200, 101_900, 50]]),
    );
    let seen = bundle.report(&[
        "stat=/data/one",
        "stat=/data/two",
        "stat=/data/other",
        "try=create:/data/new",
    ]);
    assert_eq!(owner(&seen, "/data/one"), (101_100, 101_911));
    assert_eq!(owner(&seen, "/data/two"), (101_102, 101_933));
    assert_eq!(owner(&seen, "/data/other"), (65534, 65534));
    // The writer, root, has no id on this mount.
    assert_eq!(seen.tried("create:/data/new"), "EOVERFLOW");
}

#[test]
fn several_ranges_and_other_gids_than_uids() {
    require!(id_mapped_mounts, userns);
    beyond!(
        several_ranges_and_other_gids_than_uids,
        [runc_before("1.2", "refuses it or ignores it")]
    );
    let mut bundle = bundle(&[("one", 100, 211), ("two", 101, 222)]);
    bundle.config.user_namespace(100_000, 65536);
    map(&mut bundle, &["bind"], None);
    let last = bundle.config.0["mounts"].as_array().unwrap().len() - 1;
    bundle.config.set(
        &format!("/mounts/{last}/uidMappings"),
        json!([range([100, 101_000, 1]), range([101, 102_000, 1])]),
    );
    bundle.config.set(
        &format!("/mounts/{last}/gidMappings"),
        json!([range([210, 101_100, 10]), range([220, 102_200, 10])]),
    );
    let seen = bundle.report(&["stat=/data/one", "stat=/data/two"]);
    assert_eq!(owner(&seen, "/data/one"), (1000, 1101));
    assert_eq!(owner(&seen, "/data/two"), (2000, 2202));
}

#[test]
fn one_source_is_mounted_with_two_maps_and_with_none() {
    require!(id_mapped_mounts, userns);
    beyond!(
        one_source_is_mounted_with_two_maps_and_with_none,
        [runc_before("1.2", "refuses it or ignores it")]
    );
    let mut bundle = bundle(&[("file", 100, 211)]);
    bundle.config.user_namespace(100_000, 65536);
    let source = bundle.scratch.path().join("data");
    for (target, maps) in [
        ("/first", Some([[100, 100_000, 100], [200, 100_000, 100]])),
        ("/plain", None),
        ("/second", Some([[100, 101_000, 100], [200, 102_000, 100]])),
        (
            "/first-again",
            Some([[100, 100_000, 100], [200, 100_000, 100]]),
        ),
    ] {
        push(&mut bundle, &source, target, &["bind"], maps);
    }
    let seen = bundle.report(&[
        "stat=/first/file",
        "stat=/plain/file",
        "stat=/second/file",
        "stat=/first-again/file",
    ]);
    assert_eq!(owner(&seen, "/first/file"), (0, 11));
    assert_eq!(owner(&seen, "/second/file"), (1000, 2011));
    assert_eq!(owner(&seen, "/plain/file"), (65534, 65534));
    assert_eq!(owner(&seen, "/first-again/file"), (0, 11));
}

#[test]
fn the_option_without_mappings_means_those_of_the_container() {
    require!(id_mapped_mounts, userns);
    beyond!(
        the_option_without_mappings_means_those_of_the_container,
        [runc_before("1.2", "does not know the option")]
    );
    let mut bundle = bundle(&[("file", 7, 8)]);
    bundle.config.user_namespace(100_000, 65536);
    map(&mut bundle, &["bind", "idmap"], None);
    let seen = bundle.report(&["stat=/data/file"]);
    assert_eq!(owner(&seen, "/data/file"), (7, 8));
}

#[test]
fn a_user_namespace_that_is_joined_gives_its_maps() {
    require!(id_mapped_mounts, userns);
    beyond!(
        a_user_namespace_that_is_joined_gives_its_maps,
        [runc_before("1.2", "does not know the option")]
    );
    let mut first = Bundle::new();
    first.config.user_namespace(300_000, 65536);
    let holder = first.pause();
    let mut bundle = bundle(&[("file", 7, 8)]);
    bundle
        .config
        .join_namespace("user", &format!("/proc/{}/ns/user", holder.pid));
    map(&mut bundle, &["bind", "idmap"], None);
    let seen = bundle.report(&["stat=/data/file"]);
    assert_eq!(owner(&seen, "/data/file"), (7, 8));
}

#[test]
fn idmap_maps_one_mount_and_ridmap_those_below() {
    require!(id_mapped_mounts);
    beyond!(
        idmap_maps_one_mount_and_ridmap_those_below,
        [
            runc_before("1.2", "does not know the options"),
            crun_before("1.21", "does not know ridmap")
        ]
    );
    let mut bundle = bundle(&[("file", 0, 0)]);
    let data = bundle.scratch.path().join("data");
    let below = Below::new(data.join("below"), &bundle.scratch.dir("inner"));
    place::write(&below.0.join("inside"), "");
    let maps = Some([[0, 5_000, 10]; 2]);
    push(&mut bundle, &data, "/one", &["rbind", "idmap"], maps);
    push(&mut bundle, &data, "/all", &["rbind", "ridmap"], maps);
    push(&mut bundle, &data, "/implied", &["rbind"], maps);
    let seen = bundle.report(&[
        "stat=/one/file",
        "stat=/one/below/inside",
        "stat=/all/file",
        "stat=/all/below/inside",
        "stat=/implied/below/inside",
    ]);
    assert_eq!(owner(&seen, "/one/file"), (5_000, 5_000));
    assert_eq!(owner(&seen, "/one/below/inside"), (0, 0));
    assert_eq!(owner(&seen, "/all/file"), (5_000, 5_000));
    assert_eq!(owner(&seen, "/all/below/inside"), (5_000, 5_000));
    assert_eq!(owner(&seen, "/implied/below/inside"), (0, 0));
}

#[test]
fn a_single_file_is_id_mapped() {
    require!(id_mapped_mounts, userns);
    beyond!(
        a_single_file_is_id_mapped,
        [runc_before("1.2", "does not know the option")]
    );
    let mut bundle = bundle(&[("file", 3, 4)]);
    bundle.config.user_namespace(100_000, 65536);
    let file = bundle.scratch.path().join("data/file");
    push(
        &mut bundle,
        &file,
        "/etc/one-file",
        &["bind", "idmap"],
        None,
    );
    let seen = bundle.report(&["stat=/etc/one-file"]);
    assert_eq!(owner(&seen, "/etc/one-file"), (3, 4));
}

#[test]
fn a_source_within_the_root_may_be_on_a_mount_made_before() {
    require!(id_mapped_mounts, userns);
    beyond!(
        a_source_within_the_root_may_be_on_a_mount_made_before,
        [
            runc_before("1.2", "refuses it or ignores it"),
            crun("opens sources before it mounts")
        ]
    );
    for userns in [false, true] {
        let mut bundle = bundle(&[("file", 0, 0)]);
        if userns {
            bundle.config.user_namespace(100_000, 65536);
        }
        bundle.dir("first");
        let data = bundle.scratch.path().join("data").display().to_string();
        bundle.config.mount("/first", "bind", &data, &["bind"]);
        let within = bundle.rootfs().join("first");
        let maps = Some([[0, 100_000, 65536]; 2]);
        push(&mut bundle, &within, "/data", &["bind"], maps);
        let seen = bundle.report(&["stat=/data/file"]);
        let (id, which) = match userns {
            true => (0, "with"),
            false => (100_000, "without"),
        };
        assert_eq!(
            owner(&seen, "/data/file"),
            (id, id),
            "{which} a user namespace"
        );
        assert!(seen.mounted("/data").has(&["idmapped"]));
    }
}

#[test]
fn crun_takes_mappings_in_the_option() {
    require!(id_mapped_mounts, userns);
    beyond!(
        crun_takes_mappings_in_the_option,
        [runc("does not know this form")]
    );
    let mut bundle = bundle(&[("file", 0, 10), ("other", 12, 0)]);
    bundle.config.user_namespace(100_000, 65536);
    let source = bundle.scratch.path().join("data");
    let absolute = "idmap=uids=0-100001-10#10-100100-10;gids=0-100000-65536";
    push(&mut bundle, &source, "/absolute", &["bind", absolute], None);
    let relative = "idmap=uids=@0-5-100;gids=@0-6-100";
    push(&mut bundle, &source, "/relative", &["bind", relative], None);
    let seen = bundle.report(&[
        "stat=/absolute/file",
        "stat=/absolute/other",
        "stat=/relative/file",
    ]);
    assert_eq!(owner(&seen, "/absolute/file"), (1, 10));
    assert_eq!(owner(&seen, "/absolute/other"), (102, 0));
    assert_eq!(owner(&seen, "/relative/file"), (5, 16));
}

#[test]
fn flags_and_propagation_go_with_it() {
    require!(id_mapped_mounts, userns);
    beyond!(
        flags_and_propagation_go_with_it,
        [
            runc_before("1.2", "does not know the option"),
            crun("does not make it shared")
        ]
    );
    let mut bundle = bundle(&[]);
    bundle.config.user_namespace(100_000, 65536);
    map(
        &mut bundle,
        &["bind", "idmap", "ro", "nosuid", "shared"],
        None,
    );
    let mount = bundle.report(&[]).mounted("/data").clone();
    assert!(
        mount.has(&["ro", "nosuid", "idmapped"]),
        "{:?}",
        mount.options
    );
    assert!(
        mount.propagation.iter().any(|p| p.starts_with("shared:")),
        "{:?}",
        mount.propagation
    );
}

/// The kernel locks flags of the host's mounts for a user namespace, but not in what the runtime opened for it outside.
#[test]
fn flags_that_the_host_set_stay_for_a_user_namespace() {
    require!(id_mapped_mounts, userns);
    beyond!(
        flags_that_the_host_set_stay_for_a_user_namespace,
        [
            runc_before("1.2", "does not know the option"),
            crun_before("1.28", "clears them")
        ]
    );
    let mut bundle = bundle(&[]);
    bundle.config.user_namespace(100_000, 65536);
    let source = Below::new(
        bundle.scratch.dir("bound"),
        &bundle.scratch.path().join("data"),
    );
    source.remount(MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC);
    push(
        &mut bundle,
        &source.0,
        "/data",
        &["bind", "idmap", "ro"],
        None,
    );
    let mount = bundle.report(&[]).mounted("/data").clone();
    assert!(
        mount.has(&["ro", "nosuid", "nodev", "noexec", "idmapped"]),
        "{:?}",
        mount.options
    );
}

/// Nor does a container with rights over its mounts clear them itself, or look below what covers something.
#[test]
fn flags_that_the_host_set_are_locked_in_an_id_mapped_mount() {
    require!(id_mapped_mounts, userns);
    beyond!(
        flags_that_the_host_set_are_locked_in_an_id_mapped_mount,
        [
            runc_before("1.2", "does not know the option"),
            crun("clears them, and does not know ridmap")
        ]
    );
    let mut first = Bundle::new();
    first.config.user_namespace(300_000, 65536);
    let holder = first.pause();
    for joined in [false, true] {
        let mut bundle = bundle(&[("file", 0, 0)]);
        match joined {
            true => bundle
                .config
                .join_namespace("user", &format!("/proc/{}/ns/user", holder.pid)),
            false => bundle.config.user_namespace(100_000, 65536),
        };
        bundle.config.privileged();
        let data = bundle.scratch.path().join("data");
        let source = Below::new(bundle.scratch.dir("bound"), &data);
        let below = Below::new(data.join("below"), &bundle.scratch.dir("inner"));
        for mount in [&source, &below] {
            mount.remount(MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC);
        }
        push(&mut bundle, &source.0, "/plain", &["bind", "idmap"], None);
        push(
            &mut bundle,
            &source.0,
            "/more",
            &["bind", "idmap", "ro"],
            None,
        );
        push(&mut bundle, &below.0, "/all", &["rbind", "ridmap"], None);
        let places = ["/plain", "/more", "/all"];
        let questions = places.map(|place| format!("try=remount:{place}"));
        let mut questions: Vec<&str> = questions.iter().map(String::as_str).collect();
        questions.push("stat=/plain/file");
        let seen = bundle.report(&questions);
        for place in places {
            let mount = seen.mounted(place);
            let kept = mount.has(&["nosuid", "nodev", "noexec", "idmapped"]);
            assert!(kept, "{place}: {:?}", mount.options);
            assert_eq!(seen.tried(&format!("remount:{place}")), "EPERM", "{place}");
        }
        assert_eq!(owner(&seen, "/plain/file"), (0, 0));
    }
}

#[test]
fn what_cannot_be_id_mapped_is_refused_with_the_reason() {
    require!(id_mapped_mounts, userns);
    beyond!(
        what_cannot_be_id_mapped_is_refused_with_the_reason,
        [
            runc_before("1.2", "has other rules"),
            crun("has other rules")
        ]
    );
    for (fstype, options, maps, reason) in [
        (
            "tmpfs",
            &["idmap"][..],
            None,
            "id-mapped mounts are only supported for bind-mounts",
        ),
        (
            "bind",
            &["bind", "idmap"],
            None,
            "id-mapped mounts must have both uid and gid mappings specified",
        ),
    ] {
        let mut bundle = bundle(&[]);
        let source = bundle.scratch.path().join("data");
        push(&mut bundle, &source, "/data", options, maps);
        let last = bundle.config.0["mounts"].as_array().unwrap().len() - 1;
        bundle.config.set(&format!("/mounts/{last}/type"), fstype);
        bundle.create_fails().failure().says(reason);
    }
    let mut bundle = bundle(&[]);
    bundle
        .config
        .bind(bundle.scratch.path().join("data"), "/data", &[]);
    let last = bundle.config.0["mounts"].as_array().unwrap().len() - 1;
    bundle.config.set(
        &format!("/mounts/{last}/uidMappings"),
        json!([range([0, 0, 1])]),
    );
    bundle
        .create_fails()
        .failure()
        .says("id-mapped mounts must have both uid and gid mappings specified");
}

#[test]
fn a_file_system_that_cannot_be_id_mapped_is_named() {
    require!(id_mapped_mounts);
    beyond!(
        a_file_system_that_cannot_be_id_mapped_is_named,
        [
            runc("ignores it or words it otherwise"),
            crun("words it otherwise")
        ]
    );
    let mut bundle = bundle(&[]);
    push(
        &mut bundle,
        Path::new("/proc/self/fdinfo"),
        "/data",
        &["bind"],
        Some([[0, 1000, 1]; 2]),
    );
    bundle
        .create_fails()
        .failure()
        .says("/proc/self/fdinfo")
        .says("id-map");
}

#[test]
fn a_user_without_privileges_is_told_that_he_cannot() {
    require!(id_mapped_mounts, unprivileged_user);
    beyond!(
        a_user_without_privileges_is_told_that_he_cannot,
        [
            runc("words it otherwise, or refuses the config for something else"),
            crun("words it otherwise")
        ]
    );
    const USER: u32 = 1000;
    let mut bundle = bundle(&[]);
    bundle
        .config
        .user_namespace(USER, 1)
        .unmount("/sys/fs/cgroup");
    map(&mut bundle, &["bind", "idmap"], None);
    bundle.runtime.user = Some((USER, USER));
    place::give(bundle.scratch.path(), USER, USER);
    bundle
        .create_fails()
        .failure()
        .says("id-mapped mounts are not supported for rootless containers");
}

/// A bundle with a directory `data` beside it, in which these files have these owners.
fn bundle(files: &[(&str, u32, u32)]) -> Bundle {
    let bundle = Bundle::new();
    let data = bundle.scratch.dir("data");
    std::fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    for (name, uid, gid) in files {
        let file = bundle.scratch.file(&format!("data/{name}"), "");
        place::give_one(&file, *uid, *gid);
    }
    bundle
}

/// Binds `data` on /data.
fn map(bundle: &mut Bundle, options: &[&str], maps: Option<[[u32; 3]; 2]>) {
    let source = bundle.scratch.path().join("data");
    push(bundle, &source, "/data", options, maps);
}

/// Adds a mount with mappings of user and group ids.
fn push(
    bundle: &mut Bundle,
    source: &Path,
    target: &str,
    options: &[&str],
    maps: Option<[[u32; 3]; 2]>,
) {
    // A container's root cannot make its mount points in a root that belongs to the host's.
    match source.is_file() {
        true => bundle.file(target.trim_start_matches('/'), ""),
        false => bundle.dir(target.trim_start_matches('/')),
    };
    bundle
        .config
        .mount(target, "bind", &source.display().to_string(), options);
    let last = bundle.config.0["mounts"].as_array().unwrap().len() - 1;
    if let Some([uids, gids]) = maps {
        bundle
            .config
            .set(&format!("/mounts/{last}/uidMappings"), json!([range(uids)]))
            .set(&format!("/mounts/{last}/gidMappings"), json!([range(gids)]));
    }
}

fn range([container, host, size]: [u32; 3]) -> Value {
    json!({ "containerID": container, "hostID": host, "size": size })
}

fn owner(seen: &integration::Seen, path: &str) -> (u32, u32) {
    let stat = seen.stat(path);
    (stat.uid, stat.gid)
}

/// A bind mount in the test's own mount namespace, taken away when dropped.
struct Below(PathBuf);

impl Below {
    #[track_caller]
    fn new(target: PathBuf, source: &Path) -> Below {
        std::fs::create_dir_all(&target).unwrap();
        mount(
            Some(source),
            &target,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .unwrap();
        let none = None::<&str>;
        mount(none, &target, none, MsFlags::MS_PRIVATE, none).unwrap();
        Below(target)
    }

    #[track_caller]
    fn remount(&self, flags: MsFlags) {
        let none = None::<&str>;
        let flags = flags | MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
        mount(none, &self.0, none, flags, none).unwrap();
    }
}

impl Drop for Below {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).ok(); // The scratch directory's removal would show what remained.
    }
}
