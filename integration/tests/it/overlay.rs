//! The overlay root that the runtime assembles itself, as the annotations `dev.caisson.overlay.lower`, `.upper` and `.work` ask.
//!
//! The bundle's own root directory is only where the overlay goes; a first layer holds what it held.

use integration::place::{self, Scratch};
use integration::{Bundle, Finished, beyond, host, require};
use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Why the peers fail here.
const NONE: &str = "has no overlay of its own";

#[test]
fn one_layer_is_the_root() {
    require!(containers);
    beyond!(one_layer_is_the_root, [runc(NONE), crun(NONE)]);
    let (mut bundle, base) = layered();
    set_lower(&mut bundle, &[&base]);
    let before = tree(&base);
    let seen = bundle.report(&["ls=/", "try=create:/new", "try=create:/etc/new"]);
    assert_eq!(seen.mounted("/").fstype, "overlay");
    assert_eq!(seen.tried("create:/new"), "ok");
    assert_eq!(seen.tried("create:/etc/new"), "ok");
    assert!(seen.lists["/"].contains(&"home".to_owned()));
    assert_eq!(tree(&base), before);
}

#[test]
fn a_program_that_no_layer_has_is_foreseen() {
    require!(containers, caisson);
    let (mut bundle, base) = layered();
    // Before 6.5, a merged tree cannot be looked into.
    let can_look = kernel() >= (6, 5);
    for merged in [false, true] {
        set_lower(&mut bundle, &[&base]);
        if merged {
            let top = bundle.scratch.dir("top");
            bundle.scratch.file("top/bin/script", "");
            set_lower(&mut bundle, &[&top, &base]);
        }
        bundle.config.args(&["/bin/probe", "exit", "0"]);
        check(&bundle).success();
        bundle.config.args(&["nope"]);
        let found = check(&bundle);
        if !merged || can_look {
            let found = found.failure().stdout;
            assert!(found.contains("exec: \"nope\""), "{found}");
        }
    }
}

fn check(bundle: &Bundle) -> Finished {
    bundle.save();
    let path = bundle.path().display().to_string();
    bundle.runtime.call(&["check", "--bundle", &path])
}

#[test]
fn a_layer_given_twice_is_foreseen() {
    require!(containers, caisson);
    // As above.
    if kernel() < (6, 5) {
        return;
    }
    let (mut bundle, base) = layered();
    set_lower(&mut bundle, &[&base, &base]);
    let found = check(&bundle).failure().stdout;
    assert!(found.contains("a layer is given twice"), "{found}");
}

pub(crate) fn kernel() -> (u32, u32) {
    let name = nix::sys::utsname::uname().unwrap();
    let mut numbers = name.release().to_str().unwrap().split('.');
    let mut next = || numbers.next().unwrap().parse().unwrap();
    (next(), next())
}

#[test]
fn a_layer_hides_what_is_below_it() {
    require!(containers);
    beyond!(a_layer_hides_what_is_below_it, [runc(NONE), crun(NONE)]);
    let (mut bundle, base) = layered();
    let top = bundle.scratch.dir("top");
    bundle.scratch.file("top/etc/both", "top");
    bundle.scratch.file("top/etc/only-top", "top");
    bundle.scratch.file("base/etc/both", "base");
    bundle.scratch.file("base/etc/only-base", "base");
    set_lower(&mut bundle, &[&top, &base]);
    let seen = bundle.report(&["cat=/etc/both", "cat=/etc/only-top", "cat=/etc/only-base"]);
    assert_eq!(*seen.files["/etc/both"], "top");
    assert_eq!(*seen.files["/etc/only-top"], "top");
    assert_eq!(*seen.files["/etc/only-base"], "base");
}

#[test]
fn two_hundred_layers_are_stacked_in_order() {
    require!(containers);
    beyond!(
        two_hundred_layers_are_stacked_in_order,
        [runc(NONE), crun(NONE)]
    );
    stack(200);
}

#[test]
fn as_many_layers_as_the_kernel_takes_are_stacked_and_one_more_is_refused() {
    require!(containers);
    beyond!(
        as_many_layers_as_the_kernel_takes_are_stacked_and_one_more_is_refused,
        [runc(NONE), crun(NONE)]
    );
    stack(500);
    let (mut bundle, base) = layered();
    set_lower(&mut bundle, &vec![base.as_path(); 501]);
    bundle.create_fails().says("501 layers").says("at most 500");
}

#[test]
fn what_is_written_is_in_the_upper_directory() {
    require!(containers);
    beyond!(
        what_is_written_is_in_the_upper_directory,
        [runc(NONE), crun(NONE)]
    );
    for place in places() {
        let (mut bundle, base) = layered();
        set_lower(&mut bundle, &[&base]);
        let upper = set_upper(&mut bundle, &place.0);
        let before = tree(&base);
        bundle.config.probe(&["write-file", "/etc/written", "5000"]);
        bundle.run().success();
        let written = fs::metadata(upper.join("etc/written")).unwrap();
        assert_eq!(written.len(), 5000);
        assert_eq!(tree(&base), before, "the layer is untouched");

        let seen = bundle.report(&["stat=/etc/written"]);
        assert_eq!(seen.stat("/etc/written").size, 5000, "it is there again");
    }
}

#[test]
fn without_an_upper_directory_what_is_written_ends_with_the_container() {
    require!(containers);
    beyond!(
        without_an_upper_directory_what_is_written_ends_with_the_container,
        [runc(NONE), crun(NONE)]
    );
    let (mut bundle, base) = layered();
    set_lower(&mut bundle, &[&base]);
    let before = (tree(&base), tree(bundle.scratch.path()).len());
    bundle.config.probe(&["write-file", "/etc/written", "5000"]);
    bundle.run().success();
    let seen = bundle.report(&["stat=/etc/written"]);
    assert!(seen.stats["/etc/written"].reason().is_some());
    assert_eq!(tree(&base), before.0);
    let config_and_state = 2;
    assert!(tree(bundle.scratch.path()).len() <= before.1 + config_and_state);
}

#[test]
fn what_is_removed_is_a_whiteout_that_other_containers_obey() {
    require!(containers, busybox);
    beyond!(
        what_is_removed_is_a_whiteout_that_other_containers_obey,
        [runc(NONE), crun(NONE)]
    );
    let (mut bundle, base) = layered_with_busybox();
    bundle.scratch.file("base/var/gone", "base");
    bundle.scratch.file("base/var/replaced/old", "base");
    set_lower(&mut bundle, &[&base]);
    let upper = upper_in_scratch(&mut bundle);
    let before = tree(&base);
    bundle.config.args(&[
        "/bin/sh",
        "-ec",
        "rm /var/gone; rm -r /var/replaced; mkdir /var/replaced; echo > /var/replaced/new",
    ]);
    bundle.run().success();
    let whiteout = fs::symlink_metadata(upper.join("var/gone")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    assert_eq!(tree(&base), before);

    // The upper directory becomes a layer of another container.
    set_lower(&mut bundle, &[&upper, &base]);
    for name in ["upper", "work"] {
        bundle
            .config
            .remove(&format!("/annotations/dev.caisson.overlay.{name}"));
    }
    let seen = bundle.report(&["ls=/var", "ls=/var/replaced"]);
    assert_eq!(*seen.lists["/var"], ["replaced"]);
    assert_eq!(*seen.lists["/var/replaced"], ["new"]);
}

#[test]
fn the_mount_table_of_the_host_never_shows_it() {
    require!(containers);
    beyond!(
        the_mount_table_of_the_host_never_shows_it,
        [runc(NONE), crun(NONE)]
    );
    for with_upper in [false, true] {
        let (mut bundle, base) = layered();
        set_lower(&mut bundle, &[&base]);
        if with_upper {
            upper_in_scratch(&mut bundle);
        }
        let before = mount_table(&bundle.scratch);
        let mut container = bundle.pause();
        assert_eq!(mount_table(&bundle.scratch), before);
        let root = host::mounts_of(container.pid);
        assert!(
            root.iter()
                .any(|m| m.target == "/" && m.fstype == "overlay")
        );
        container.delete_by_force().success();
        assert_eq!(mount_table(&bundle.scratch), before);
    }
}

#[test]
fn a_container_whose_host_shares_its_mounts_gets_its_overlay_for_itself() {
    require!(containers);
    beyond!(
        a_container_whose_host_shares_its_mounts_gets_its_overlay_for_itself,
        [runc(NONE), crun(NONE)]
    );
    let (mut bundle, base) = layered();
    set_lower(&mut bundle, &[&base]);
    for propagation in ["shared", "rslave", "private"] {
        bundle.config.set("/linux/rootfsPropagation", propagation);
        let before = mount_table(&bundle.scratch);
        let container = bundle.pause();
        assert_eq!(mount_table(&bundle.scratch), before, "{propagation}");
        drop(container);
        assert_eq!(mount_table(&bundle.scratch), before, "{propagation}");
    }
}

#[test]
fn paths_may_be_longer_than_a_mount_option() {
    require!(containers);
    beyond!(
        paths_may_be_longer_than_a_mount_option,
        [runc(NONE), crun(NONE)]
    );
    let (mut bundle, base) = layered();
    let long = format!("{0}/{0}/{0}/{0}/{0}", "long".repeat(50));
    let lower = bundle.scratch.dir(&long);
    assert!(lower.as_os_str().len() > 1000);
    bundle.scratch.file(&format!("{long}/from"), "afar");
    set_lower(&mut bundle, &[&lower, &base]);
    let at = bundle.scratch.dir(&format!("up/{long}"));
    let upper = set_upper(&mut bundle, &at);
    let seen = bundle.report(&["cat=/from"]);
    assert_eq!(*seen.files["/from"], "afar");
    bundle.config.probe(&["write-file", "/written", "1"]);
    bundle.run().success();
    assert!(upper.join("written").is_file());
}

#[test]
fn paths_may_hold_what_is_special_in_a_mount_option() {
    require!(containers);
    beyond!(
        paths_may_hold_what_is_special_in_a_mount_option,
        [runc(NONE), crun(NONE)]
    );
    let (mut bundle, base) = layered();
    let name = r#"a,b c\d="e"\,f%"#;
    let lower = bundle.scratch.dir(name);
    bundle.scratch.file(&format!("{name}/from"), "special");
    set_lower(&mut bundle, &[&lower, &base]);
    // Only in the list of layers does a colon mean something.
    let at = bundle.scratch.dir(&format!("{name}:upper"));
    let upper = set_upper(&mut bundle, &at);
    let seen = bundle.report(&["cat=/from"]);
    assert_eq!(*seen.files["/from"], "special");
    bundle.config.probe(&["write-file", "/written", "1"]);
    bundle.run().success();
    assert!(upper.join("written").is_file());
}

#[test]
fn a_layer_with_a_colon_in_its_path_is_refused() {
    require!(containers);
    beyond!(
        a_layer_with_a_colon_in_its_path_is_refused,
        [runc(NONE), crun(NONE)]
    );
    let (mut bundle, base) = layered();
    let lower = bundle.scratch.dir("with:colon");
    set_lower(&mut bundle, &[&lower, &base]);
    bundle
        .create_fails()
        .says("dev.caisson.overlay.lower")
        .says("\"colon\" is not an absolute path");
}

#[test]
fn a_missing_layer_is_named_and_nothing_is_left() {
    require!(containers);
    beyond!(
        a_missing_layer_is_named_and_nothing_is_left,
        [runc(NONE), crun(NONE)]
    );
    let (mut bundle, base) = layered();
    let missing = bundle.scratch.path().join("missing");
    set_lower(&mut bundle, &[&base, &missing, &base]);
    let finished = bundle.create_fails();
    finished
        .says(&missing.display().to_string())
        .says("No such file or directory");

    let file = bundle.scratch.file("file", "");
    set_lower(&mut bundle, &[&file, &base]);
    let finished = bundle.create_fails();
    finished
        .says(&file.display().to_string())
        .says("Not a directory");
}

#[test]
fn a_missing_upper_directory_is_named() {
    require!(containers);
    beyond!(a_missing_upper_directory_is_named, [runc(NONE), crun(NONE)]);
    let (mut bundle, base) = layered();
    set_lower(&mut bundle, &[&base]);
    let upper = upper_in_scratch(&mut bundle);
    fs::remove_dir(&upper).unwrap();
    bundle.create_fails().says(&upper.display().to_string());
}

#[test]
fn upper_and_work_on_different_file_systems_are_refused() {
    require!(containers);
    beyond!(
        upper_and_work_on_different_file_systems_are_refused,
        [runc(NONE), crun(NONE)]
    );
    let (mut bundle, base) = layered();
    set_lower(&mut bundle, &[&base]);
    let [upper, work] = places();
    annotate(&mut bundle, "upper", &upper.0.display().to_string());
    annotate(&mut bundle, "work", &work.0.display().to_string());
    bundle
        .create_fails()
        .says("upper and work directory must be on the same file system");
}

#[test]
fn a_layer_given_twice_is_named_as_the_reason() {
    require!(containers);
    beyond!(
        a_layer_given_twice_is_named_as_the_reason,
        [runc(NONE), crun(NONE)]
    );
    let (mut bundle, base) = layered();
    set_lower(&mut bundle, &[&base, &base]);
    bundle
        .create_fails()
        .says("an overlay's layer is given twice");
}

#[test]
fn incomplete_annotations_are_refused() {
    require!(containers);
    beyond!(incomplete_annotations_are_refused, [runc(NONE), crun(NONE)]);
    let (mut bundle, base) = layered();
    let upper = bundle.scratch.dir("upper").display().to_string();
    annotate(&mut bundle, "upper", &upper);
    bundle.create_fails().says("dev.caisson.overlay.lower");
    set_lower(&mut bundle, &[&base]);
    bundle.create_fails().says("go together");
    annotate(&mut bundle, "work", "work");
    bundle.create_fails().says("not an absolute path");
}

#[test]
fn an_overlay_needs_a_mount_namespace() {
    require!(containers);
    beyond!(an_overlay_needs_a_mount_namespace, [runc(NONE), crun(NONE)]);
    let (mut bundle, base) = layered();
    set_lower(&mut bundle, &[&base]);
    bundle.config.no_namespace("mount");
    bundle
        .config
        .set("/mounts", serde_json::json!([]))
        .remove("/linux/maskedPaths")
        .remove("/linux/readonlyPaths");
    bundle.create_fails().says("mount namespace");
}

#[test]
fn the_root_is_read_only_if_the_config_says_so() {
    require!(containers);
    beyond!(
        the_root_is_read_only_if_the_config_says_so,
        [runc(NONE), crun(NONE)]
    );
    for with_upper in [false, true] {
        let (mut bundle, base) = layered();
        set_lower(&mut bundle, &[&base]);
        if with_upper {
            upper_in_scratch(&mut bundle);
        }
        bundle.config.set("/root/readonly", true);
        let seen = bundle.report(&["try=create:/new", "try=create:/dev/shm/new"]);
        assert_eq!(seen.tried("create:/new"), "EROFS");
        assert_eq!(seen.tried("create:/dev/shm/new"), "ok");
        assert!(seen.mounted("/").has(&["ro"]));
    }
}

#[test]
fn what_the_runtime_makes_for_mounts_is_in_the_upper_directory() {
    require!(containers);
    beyond!(
        what_the_runtime_makes_for_mounts_is_in_the_upper_directory,
        [runc(NONE), crun(NONE)]
    );
    let (mut bundle, base) = layered();
    set_lower(&mut bundle, &[&base]);
    let upper = upper_in_scratch(&mut bundle);
    let file = bundle.scratch.file("file", "bound");
    bundle
        .config
        .mount("/made/for/it", "tmpfs", "tmpfs", &[])
        .bind(&file, "/made/file", &["ro"]);
    let before = tree(&base);
    let seen = bundle.report(&["cat=/made/file"]);
    assert_eq!(seen.mounted("/made/for/it").fstype, "tmpfs");
    assert_eq!(*seen.files["/made/file"], "bound");
    assert!(upper.join("made/for/it").is_dir());
    assert_eq!(tree(&base), before);
}

#[test]
fn exec_works_in_it() {
    require!(containers);
    beyond!(exec_works_in_it, [runc(NONE), crun(NONE)]);
    let (mut bundle, base) = layered();
    set_lower(&mut bundle, &[&base]);
    let upper = upper_in_scratch(&mut bundle);
    let container = bundle.pause();
    container
        .exec(&[], &["/bin/probe", "write-file", "/etc/written", "7"])
        .success();
    let seen = container.exec_report(&[], &["stat=/etc/written"]);
    assert_eq!(seen.stat("/etc/written").size, 7);
    assert_eq!(seen.mounted("/").fstype, "overlay");
    assert!(upper.join("etc/written").is_file());
}

#[test]
fn containers_share_layers_and_nothing_else() {
    require!(containers);
    beyond!(
        containers_share_layers_and_nothing_else,
        [runc(NONE), crun(NONE)]
    );
    let (mut first, base) = layered();
    let (mut second, _) = layered();
    set_lower(&mut first, &[&base]);
    set_lower(&mut second, &[&base]);
    let (one, two) = (first.pause(), second.pause());
    one.exec(&[], &["/bin/probe", "write-file", "/etc/passwd", "7"])
        .success();
    assert_eq!(
        one.exec_report(&[], &["stat=/etc/passwd"])
            .stat("/etc/passwd")
            .size,
        7
    );
    assert_ne!(
        two.exec_report(&[], &["stat=/etc/passwd"])
            .stat("/etc/passwd")
            .size,
        7
    );
}

#[test]
fn it_works_in_a_user_namespace() {
    require!(containers, userns);
    beyond!(it_works_in_a_user_namespace, [runc(NONE), crun(NONE)]);
    for place in places().into_iter().map(Some).chain([None]) {
        let (mut bundle, base) = layered();
        bundle.config.user_namespace(100_000, 65536);
        bundle.scratch.file("base/etc/changed", "base");
        place::give(&base, 100_000, 100_000);
        set_lower(&mut bundle, &[&base]);
        let upper = place.as_ref().map(|place| {
            let upper = set_upper(&mut bundle, &place.0);
            place::give(upper.parent().unwrap(), 100_000, 100_000);
            upper
        });
        let before = tree(&base);
        bundle.config.probe(&["write-file", "/etc/changed", "5000"]);
        bundle.run().success();
        let seen = bundle.report(&["stat=/etc/changed", "stat=/etc", "try=mkdir:/srv"]);
        assert_eq!(seen.mounted("/").fstype, "overlay");
        assert_eq!(seen.stat("/etc").uid, 0);
        assert_eq!(seen.tried("mkdir:/srv"), "ok");
        if let Some(upper) = upper {
            assert_eq!(seen.stat("/etc/changed").size, 5000);
            let written = fs::metadata(upper.join("etc/changed")).unwrap();
            assert_eq!((written.len(), written.uid()), (5000, 100_000));
        }
        assert_eq!(tree(&base), before);
    }
}

#[test]
fn layers_that_only_root_can_reach_serve_a_user_namespace() {
    require!(containers, userns);
    beyond!(
        layers_that_only_root_can_reach_serve_a_user_namespace,
        [runc(NONE), crun(NONE)]
    );
    let (mut bundle, base) = layered();
    bundle.config.user_namespace(100_000, 65536);
    place::give(&base, 100_000, 100_000);
    let locked = bundle.scratch.dir("locked");
    fs::rename(&base, locked.join("base")).unwrap();
    let upper = set_upper(&mut bundle, &locked);
    place::give(upper.parent().unwrap(), 100_000, 100_000);
    set_lower(&mut bundle, &[&locked.join("base")]);
    for closed in [locked, bundle.path()] {
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    }
    bundle.config.probe(&["write-file", "/etc/written", "7"]);
    bundle.run().success();
    assert!(upper.join("etc/written").is_file());
}

/// Stacks this many layers, each with a file of its own and one that all have.
#[track_caller]
fn stack(count: usize) {
    let (mut bundle, base) = layered();
    let mut layers = Vec::new();
    for number in 1..count {
        bundle
            .scratch
            .file(&format!("layers/{number}/all/{number}"), "");
        bundle
            .scratch
            .file(&format!("layers/{number}/top"), number.to_string());
        layers.push(bundle.scratch.path().join(format!("layers/{number}")));
    }
    layers.push(base);
    let layers: Vec<&Path> = layers.iter().map(PathBuf::as_path).collect();
    set_lower(&mut bundle, &layers);
    let seen = bundle.report(&["ls=/all", "cat=/top"]);
    assert_eq!(seen.lists["/all"].len(), count - 1);
    assert_eq!(*seen.files["/top"], "1");
}

/// A bundle with an empty root directory, and a layer that holds what was in it. The root is writable.
#[track_caller]
fn layered() -> (Bundle, PathBuf) {
    layer_of(Bundle::new())
}

#[track_caller]
fn layered_with_busybox() -> (Bundle, PathBuf) {
    layer_of(Bundle::with_busybox())
}

fn layer_of(mut bundle: Bundle) -> (Bundle, PathBuf) {
    let base = bundle.scratch.path().join("base");
    fs::rename(bundle.rootfs(), &base).unwrap();
    fs::create_dir(bundle.rootfs()).unwrap();
    bundle.config.writable();
    (bundle, base)
}

fn annotate(bundle: &mut Bundle, name: &str, value: &str) {
    bundle
        .config
        .set(&format!("/annotations/dev.caisson.overlay.{name}"), value);
}

/// Sets the layers, top first.
fn set_lower(bundle: &mut Bundle, layers: &[&Path]) {
    let layers: Vec<_> = layers.iter().map(|path| path.to_str().unwrap()).collect();
    annotate(bundle, "lower", &layers.join(":"));
}

/// Makes an upper and a work directory in a new directory of this one, sets them and returns the upper one.
#[track_caller]
fn set_upper(bundle: &mut Bundle, place: &Path) -> PathBuf {
    let directory = place.join(place::unique("writable"));
    let upper = directory.join("upper");
    fs::create_dir_all(&upper).unwrap();
    fs::create_dir(directory.join("work")).unwrap();
    annotate(bundle, "upper", upper.to_str().unwrap());
    annotate(bundle, "work", directory.join("work").to_str().unwrap());
    upper
}

/// The same in the scratch directory.
#[track_caller]
fn upper_in_scratch(bundle: &mut Bundle) -> PathBuf {
    let place = bundle.scratch.path().to_owned();
    set_upper(bundle, &place)
}

/// What of a file a change would show in.
type Attributes = (u32, u32, u32, u64, i64, i64, u64);

/// Everything below a directory: kind, mode, owner, size, time of change, and content.
#[track_caller]
fn tree(top: &Path) -> BTreeMap<PathBuf, Attributes> {
    let mut found = BTreeMap::new();
    let mut left = vec![top.to_owned()];
    while let Some(path) = left.pop() {
        let data = fs::symlink_metadata(&path).unwrap();
        let mut content = DefaultHasher::new();
        if data.is_dir() {
            left.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if data.is_file() {
            fs::read(&path).unwrap().hash(&mut content);
        } else if data.is_symlink() {
            fs::read_link(&path).unwrap().hash(&mut content);
        }
        let seen = (
            data.mode(),
            data.uid(),
            data.gid(),
            data.size(),
            data.mtime(),
            data.mtime_nsec(),
            content.finish(),
        );
        found.insert(path, seen);
    }
    found
}

/// The host's mounts as the kernel lists them, without those of other tests.
#[track_caller]
fn mount_table(own: &Scratch) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let own = own.path().to_str().unwrap();
    table
        .lines()
        .filter(|line| !line.contains("caisson-it-") || line.contains(own))
        .map(str::to_owned)
        .collect()
}

/// A directory outside of the scratch directory, removed with what is in it.
struct Elsewhere(PathBuf);

impl Elsewhere {
    #[track_caller]
    fn new(parent: &str) -> Elsewhere {
        let path = Path::new(parent).join(place::unique("caisson-it"));
        fs::create_dir(&path).unwrap();
        Elsewhere(path)
    }
}

/// Where an upper directory may be: in memory and on disk.
fn places() -> [Elsewhere; 2] {
    ["/dev/shm", "/var/tmp"].map(Elsewhere::new)
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok(); // A test that failed has said what matters.
    }
}
