//! `cp`: where files go, what they keep, and that nothing of a container's leads out of it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use integration::runtime::{Running, finish};
use integration::store::{Header, Tar};
use integration::supervisor::{IMAGE, Supervisor};
use integration::{host, place, require};
use nix::sys::signal::Signal;

use super::images::{has_file_in, has_files_without_names};

/// A container that runs, and one that never did.
fn two(supervisor: &Supervisor) -> [&'static str; 2] {
    supervisor.detached(&["--name", "runs"], "sleep 1000");
    supervisor.says(&["create", "--name", "stopped", IMAGE, "sleep", "1000"]);
    ["runs", "stopped"]
}

/// What a file of a container's holds.
#[track_caller]
fn read(supervisor: &Supervisor, path: &str) -> String {
    let to = supervisor.scratch.name(&place::unique("read"));
    supervisor.says(&["cp", "-L", path, &to]);
    fs::read_to_string(&to).unwrap()
}

#[test]
fn files_go_where_dockers_rules_have_them() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let here = supervisor.scratch.dir("here");
    place::write(&here.join("file"), "file");
    fs::create_dir(here.join("dir")).unwrap();
    place::write(&here.join("dir/inner"), "inner");
    let (file, dir) = (here.join("file"), here.join("dir"));
    let (file, dir) = (file.to_str().unwrap(), dir.to_str().unwrap());
    for name in two(&supervisor) {
        let at = |path: &str| format!("{name}:{path}");
        let cp = |source: &str, target: &str| supervisor.ctl(&["cp", source, &at(target)]);
        // A file becomes what is named, or goes into the directory that is named.
        cp(file, "/srv").success();
        cp(file, "/srv/other").success();
        cp(dir, "srv").success();
        cp(dir, "/srv/new").success();
        cp(&format!("{dir}/."), "/srv/dir/more").success();
        cp(&format!("{dir}/."), "/srv").success();
        // Over what is there.
        place::write(&here.join("file"), "second");
        cp(file, "/srv/other").success();
        place::write(&here.join("file"), "file");
        for (path, expected) in [
            ("/srv/file", "file"),
            ("/srv/other", "second"),
            ("/srv/dir/inner", "inner"),
            ("/srv/new/inner", "inner"),
            ("/srv/dir/more/inner", "inner"),
            ("/srv/inner", "inner"),
        ] {
            assert_eq!(read(&supervisor, &at(path)), expected, "{name} {path}");
        }
        cp(file, "/no/such").failure().says("No such file");
        cp(file, "/srv/no/").failure().says("no such directory");
        cp(file, "/srv/file/").failure().says("no directory");
        cp(dir, "/srv/file").failure().says("over a file");
        cp(&here.join("none").display().to_string(), "/srv")
            .failure()
            .says("no such file");
        place::write(&here.join("new"), "a file");
        cp(&here.join("new").display().to_string(), "/srv")
            .failure()
            .says("a directory is there");
        // And back.
        let back = supervisor.scratch.dir(&format!("back-{name}"));
        let to = |source: &str, target: &str| {
            supervisor.ctl(&["cp", &at(source), &back.join(target).display().to_string()])
        };
        to("/srv/file", "").success();
        to("/srv/file", "renamed").success();
        to("/srv/dir", "").success();
        to("/srv/dir", "renamed-dir").success();
        to("/srv/dir/.", "contents").success();
        to("/srv/dir/more/.", "").success();
        for path in [
            "dir/inner",
            "dir/more/inner",
            "renamed-dir/more/inner",
            "contents/inner",
            "inner",
        ] {
            assert_eq!(fs::read_to_string(back.join(path)).unwrap(), "inner");
        }
        assert_eq!(fs::read_to_string(back.join("file")).unwrap(), "file");
        assert_eq!(fs::read_to_string(back.join("renamed")).unwrap(), "file");
        to("/srv/none", "").failure().says("there is no");
        to("/srv/file/", "x").failure().says("is no directory");
        to("/srv/dir", "file").failure().says("over a file");
        to("/srv/file", "no/").failure().says("no such directory");
    }
}

#[test]
fn one_side_is_a_containers_and_the_other_is_not() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    two(&supervisor);
    let file = &supervisor
        .scratch
        .file("file", "file")
        .display()
        .to_string();
    let dir = &supervisor.scratch.dir("dir").display().to_string();
    let cp = |source: &str, target: &str| supervisor.ctl(&["cp", source, target]);
    cp("runs:/srv", "stopped:/srv").failure().says("between");
    cp(file, "none:/srv").failure().says("no such container");
    cp(file, dir).failure().says("CONTAINER:PATH");
    // As of a variable that is not set.
    cp("", "runs:/srv")
        .failure()
        .says("source can not be empty");
    let none = cp("runs:/srv", "").failure();
    none.says("destination can not be empty");
    cp("runs:", dir).failure().says("no path is given");
    cp(file, "runs:").failure().says("no path is given");
}

#[test]
fn links_are_copied_as_links_unless_they_are_to_be_followed() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let here = supervisor.scratch.dir("here");
    place::write(&here.join("file"), "file");
    symlink("file", here.join("link")).unwrap();
    let link = here.join("link").display().to_string();
    for name in two(&supervisor) {
        supervisor.says(&["cp", &link, &format!("{name}:/srv/link")]);
        supervisor.says(&["cp", "-L", &link, &format!("{name}:/srv/followed")]);
        let out = supervisor.scratch.dir(&format!("out-{name}"));
        let to = out.display().to_string();
        supervisor.says(&["cp", &format!("{name}:/srv/link"), &to]);
        assert_eq!(fs::read_link(out.join("link")).unwrap(), Path::new("file"));
        supervisor.says(&["cp", "-L", &format!("{name}:/srv/link"), &format!("{to}/f")]);
        assert_eq!(
            fs::read_to_string(out.join("f")).unwrap(),
            "from the image\n"
        );
        assert_eq!(read(&supervisor, &format!("{name}:/srv/followed")), "file");
    }
}

/// More than there is on any disk of a test, and less than a file of a layer may have.
const SPARSE: u64 = 200 << 30;

/// Files of all kinds, with all that a file can have.
fn make_peculiar(tree: &Path, long: &str) {
    fs::create_dir(tree).unwrap();
    place::write(&tree.join("one"), "linked");
    fs::hard_link(tree.join("one"), tree.join("two")).unwrap();
    fs::set_permissions(tree.join("one"), fs::Permissions::from_mode(0o4751)).unwrap();
    place::give(&tree.join("one"), 12345, 3_000_000);
    fs::set_permissions(tree.join("one"), fs::Permissions::from_mode(0o4751)).unwrap();
    symlink("../nowhere", tree.join("dangling")).unwrap();
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o604);
    nix::unistd::mkfifo(&tree.join("fifo"), mode).unwrap();
    place::node(&tree.join("device"), 1, 7);
    place::write(&tree.join(long), "long");
    let sparse = fs::File::create_new(tree.join("sparse")).unwrap();
    sparse.set_len(SPARSE).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"far", SPARSE / 2).unwrap();
    let mut attribute = Command::new("setfattr");
    attribute
        .args(["-n", "user.note", "-v", "kept"])
        .arg(tree.join("one"));
    finish(attribute).success();
    let mut capability = Command::new("setcap");
    capability.arg("cap_net_raw+ep").arg(tree.join(long));
    finish(capability).success();
}

/// What was copied of a tree that [`make_peculiar`] made.
#[track_caller]
fn assert_peculiar(found: &Path, tree: &Path, long: &str) {
    let time = fs::metadata(tree.join("one")).unwrap();
    let one = fs::metadata(found.join("one")).unwrap();
    assert_eq!((one.uid(), one.gid()), (12345, 3_000_000));
    assert_eq!(one.mode() & 0o7777, 0o4751);
    assert_eq!(
        (one.mtime(), one.mtime_nsec()),
        (time.mtime(), time.mtime_nsec())
    );
    assert_eq!(one.ino(), fs::metadata(found.join("two")).unwrap().ino());
    let fifo = fs::symlink_metadata(found.join("fifo")).unwrap();
    assert!(fifo.file_type().is_fifo() && fifo.mode() & 0o777 == 0o604);
    let device = fs::symlink_metadata(found.join("device")).unwrap();
    assert!(device.file_type().is_char_device());
    assert_eq!(device.rdev(), nix::sys::stat::makedev(1, 7));
    let sparse = fs::metadata(found.join("sparse")).unwrap();
    assert_eq!(sparse.len(), SPARSE);
    assert!(sparse.blocks() < 1000, "{} blocks", sparse.blocks());
    let mut far = [0; 3];
    let file = fs::File::open(found.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut far, SPARSE / 2).unwrap();
    assert_eq!(&far, b"far");
    let mut attributes = Command::new("getfattr");
    attributes.args(["-d", "-m", "user"]).arg(found.join("one"));
    assert!(
        finish(attributes)
            .success()
            .stdout
            .contains("user.note=\"kept\"")
    );
    let mut capability = Command::new("getcap");
    capability.arg(found.join(long));
    assert!(
        finish(capability)
            .success()
            .stdout
            .contains("cap_net_raw=ep")
    );
}

#[test]
fn a_new_volume_has_all_that_the_image_has_of_its_files() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let tree = supervisor.scratch.dir("here").join("tree");
    let long = "n".repeat(200);
    make_peculiar(&tree, &long);
    supervisor.says(&["create", "--name", "box", IMAGE, "true"]);
    supervisor.says(&["cp", "-a", &tree.display().to_string(), "box:/srv"]);
    supervisor.says(&["commit", "box", "made:1"]);
    supervisor.says(&["run", "--rm", "-v", "data:/srv", "made:1", "true"]);
    let volume = supervisor.scratch.path().join("root/volumes/data");
    assert_peculiar(&volume.join("tree"), &tree, &long);
}

#[test]
fn what_is_copied_keeps_modes_times_links_holes_and_attributes() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let tree = supervisor.scratch.dir("here").join("tree");
    let long = "n".repeat(200);
    make_peculiar(&tree, &long);
    let source = tree.display().to_string();
    for name in two(&supervisor) {
        let out = supervisor.scratch.dir(&format!("out-{name}"));
        supervisor.says(&["cp", "-a", &source, &format!("{name}:/srv")]);
        supervisor.says(&[
            "cp",
            "-a",
            &format!("{name}:/srv/tree"),
            &out.display().to_string(),
        ]);
        assert_peculiar(&out.join("tree"), &tree, &long);
        // Without -a they are root's there, and ours here.
        supervisor.says(&["cp", &source, &format!("{name}:/srv/roots")]);
        let kept = format!("{}/roots", out.display());
        supervisor.says(&["cp", "-a", &format!("{name}:/srv/roots"), &kept]);
        assert_eq!(fs::metadata(format!("{kept}/one")).unwrap().uid(), 0);
        let ours = format!("{}/ours", out.display());
        supervisor.says(&["cp", &format!("{name}:/srv/tree"), &ours]);
        let one = fs::metadata(format!("{ours}/one")).unwrap();
        assert_eq!((one.uid(), one.mode() & 0o7777), (0, 0o4751));
    }
}

#[test]
fn a_containers_links_lead_to_what_is_in_the_container() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let secret = supervisor.scratch.file("secret", "of the host");
    let outside = supervisor.scratch.dir("outside");
    let up = "../../../../../../../../../..";
    let script = format!(
        "ln -s {secret} /srv/absolute; ln -s {up}{secret} /srv/up; ln -s {outside} /srv/dir;
         ln -s {up}{outside} /srv/updir; ln -s /proc/1/root{secret} /srv/magic; echo ready; sleep 1000",
        secret = secret.display(),
        outside = outside.display()
    );
    let one = supervisor.scratch.file("one", "from here");
    let one = one.display().to_string();
    let runs = supervisor.detached(&["--name", "runs"], &script);
    let stopped = supervisor.detached(&["--name", "stopped"], &script);
    for id in [&runs, &stopped] {
        let mut log = supervisor.start(&["logs", "-f", id]);
        assert_eq!(log.stdout.line(), "ready");
    }
    supervisor.says(&["stop", "-t", "0", "stopped"]);
    for name in ["runs", "stopped"] {
        let to = supervisor.scratch.name(&format!("got-{name}"));
        for link in ["absolute", "up", "magic"] {
            let path = format!("{name}:/srv/{link}");
            let got = supervisor.ctl(&["cp", "-L", &path, &to]);
            assert!(!Path::new(&to).exists(), "{got}");
            got.failure();
            // What is written through it stays inside, or is refused.
            supervisor.ctl(&["cp", &one, &path]);
            assert_eq!(fs::read_to_string(&secret).unwrap(), "of the host");
        }
        for link in ["dir", "updir"] {
            supervisor.ctl(&["cp", &one, &format!("{name}:/srv/{link}/one")]);
            supervisor.ctl(&["cp", &one, &format!("{name}:/srv/{link}")]);
            supervisor.ctl(&["cp", &one, &format!("{name}:/srv/{link}/../one")]);
            supervisor.ctl(&["cp", &one, &format!("{name}:{up}/srv/{link}/{up}/one")]);
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        assert!(!Path::new("/one").exists());
        let got = supervisor.ctl(&["cp", &format!("{name}:{up}{one}"), &to]);
        assert!(!Path::new(&to).exists(), "{got}");
    }
}

#[test]
fn a_container_that_exchanges_directories_for_links_all_the_time_reaches_nothing_of_the_host() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let outside = supervisor.scratch.dir("outside");
    place::write(&outside.join("secret"), "of the host");
    // CVE-2018-15664: the path is a directory when it is looked at, and a link when it is used.
    let script = format!(
        "mkdir -p /srv/x/y /srv/real/y /srv{outside}; echo mine >/srv/real/y/secret; ln -s {outside} /srv/link; echo ready
         while :; do mv /srv/x /srv/away; mv /srv/link /srv/x; mv /srv/x /srv/link; mv /srv/real /srv/x; mv /srv/x /srv/real;
         mv /srv/away /srv/x; done",
        outside = outside.display()
    );
    let id = supervisor.detached(&[], &script);
    let mut log = supervisor.start(&["logs", "-f", &id]);
    assert_eq!(log.stdout.line(), "ready");
    let one = supervisor.scratch.file("one", "from here");
    let one = one.display().to_string();
    for round in 0..60 {
        let to = supervisor.scratch.dir(&format!("to-{round}"));
        let target = to.display().to_string();
        supervisor.ctl(&["cp", &one, &format!("{id}:/srv/x/one")]);
        supervisor.ctl(&["cp", &one, &format!("{id}:/srv/x/secret")]);
        supervisor.ctl(&["cp", "-L", &format!("{id}:/srv/x/secret"), &target]);
        supervisor.ctl(&["cp", &format!("{id}:/srv/."), &target]);
        let mut search = Command::new("grep");
        search.args(["-r", "of the host"]).arg(&to);
        finish(search).failure();
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    let secret = fs::read_to_string(outside.join("secret")).unwrap();
    assert_eq!(secret, "of the host");
}

#[test]
fn devices_and_fifos_of_a_container_are_copied_and_never_opened() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    // A read of the fifo would wait for ever, and one of the device never end.
    let script = "mkfifo /srv/fifo; mknod /srv/zero c 1 5; echo ready; sleep 1000";
    let id = supervisor.detached(&[], script);
    let mut log = supervisor.start(&["logs", "-f", &id]);
    assert_eq!(log.stdout.line(), "ready");
    let to = supervisor.scratch.dir("to");
    supervisor.says(&["cp", &format!("{id}:/srv"), &to.display().to_string()]);
    let kind = |name: &str| {
        let metadata = fs::symlink_metadata(to.join("srv").join(name));
        metadata.unwrap().file_type()
    };
    assert!(kind("fifo").is_fifo() && kind("zero").is_char_device());
    // The kernel's own file systems are not a container's files.
    let tree = supervisor.scratch.dir("tree");
    supervisor.says(&["cp", &format!("{id}:/."), &tree.display().to_string()]);
    assert!(tree.join("bin/busybox").is_file());
    assert_eq!(fs::read_dir(tree.join("proc")).unwrap().count(), 0);
}

#[test]
fn a_file_of_the_kernels_is_copied_as_it_reads() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let id = supervisor.detached(&[], "sleep 1000");
    // The one is said to have a page, the other nothing.
    let number = read(&supervisor, &format!("{id}:/sys/kernel/uevent_seqnum"));
    assert!(number.trim_end().parse::<u64>().is_ok(), "{number:?}");
    let status = read(&supervisor, &format!("{id}:/proc/1/status"));
    assert!(status.starts_with("Name:\tsleep\n"), "{status:?}");
    supervisor.says(&["cp", "/proc/self/status", &format!("{id}:/srv/status")]);
    let status = read(&supervisor, &format!("{id}:/srv/status"));
    assert!(status.starts_with("Name:\tcaissonctl\n"), "{status:?}");
}

#[test]
fn archives_go_through_standard_streams() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let header = Header {
        uid: 42,
        ..Header::new(b'0', "a/file")
    };
    let archive = Tar::new().directory("a/").entry(&header, b"streamed");
    for name in two(&supervisor) {
        let mut copy = supervisor.start(&["cp", "-", &format!("{name}:/srv")]);
        let mut stdin = copy.stdin.take().unwrap();
        stdin.write_all(&archive.bytes()).unwrap();
        drop(stdin);
        copy.wait().success();
        assert_eq!(
            read(&supervisor, &format!("{name}:/srv/a/file")),
            "streamed"
        );
        let packed = supervisor
            .scratch
            .file("packed.tar", Tar::new().file("packed", b"text").bytes());
        let mut shell = supervisor.in_shell(&format!(
            "gzip -c {} | $ctl cp - {name}:/srv/a",
            packed.display()
        ));
        shell.stdin(Stdio::null());
        finish(shell).success();
        assert_eq!(read(&supervisor, &format!("{name}:/srv/a/packed")), "text");
        let copied = supervisor
            .ctl(&["cp", &format!("{name}:/srv/a"), "-"])
            .success();
        let file = supervisor
            .scratch
            .file(&format!("{name}.tar"), &copied.stdout);
        let mut list = Command::new("tar");
        list.arg("--numeric-owner").arg("-tvf").arg(file);
        let listed = finish(list).success().stdout;
        for part in [
            " a/
", "42/42", " a/file
",
        ] {
            assert!(listed.contains(part), "{listed}");
        }
        let mut copy = supervisor.start(&["cp", "-", &format!("{name}:/srv/file")]);
        drop(copy.stdin.take());
        copy.wait().failure().says("only be copied to a directory");
    }
}

#[test]
fn a_hostile_archive_writes_in_its_directory_only() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let outside = supervisor.scratch.dir("outside");
    let target = outside.display().to_string();
    let archives = [
        Tar::new().file("../../../../escaped", b"x"),
        Tar::new().symlink("out", &target).file("out/escaped", b"x"),
        Tar::new()
            .symlink("up", "../../../../../../../..")
            .file(&format!("up{target}/escaped"), b"x"),
        Tar::new().hard_link("hard", &format!("{target}/../secret")),
        Tar::new().header(&Header {
            device: (0, 0),
            ..Header::new(b'3', ".wh.srv")
        }),
    ];
    supervisor.scratch.file("secret", "of the host");
    for name in two(&supervisor) {
        for archive in &archives {
            let mut copy = supervisor.start(&["cp", "-", &format!("{name}:/srv")]);
            let mut stdin = copy.stdin.take().unwrap();
            stdin.write_all(&archive.bytes()).ok();
            drop(stdin);
            copy.wait();
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        }
        // No whiteout: the name is a name.
        assert_eq!(
            read(&supervisor, &format!("{name}:/srv/file")),
            "from the image\n"
        );
        supervisor.ctl(&["cp", &format!("{name}:/escaped"), &target]);
        assert!(!Path::new("/escaped").exists());
    }
}

#[test]
fn much_is_copied_and_nothing_is_lost() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let tree = supervisor.scratch.dir("tree");
    for directory in 0..40 {
        let directory = tree.join(format!("directory-{directory}/inner"));
        fs::create_dir_all(&directory).unwrap();
        for file in 0..50 {
            place::write(&directory.join(format!("file-{file}")), format!("{file}"));
        }
    }
    let mut big = Command::new("dd");
    big.args(["if=/dev/urandom", "bs=1M", "count=64", "status=none"])
        .arg(format!("of={}/big", tree.display()));
    finish(big).success();
    for name in two(&supervisor) {
        let out = supervisor.scratch.name(&format!("out-{name}"));
        let source = tree.display().to_string();
        supervisor.says(&["cp", &source, &format!("{name}:/srv")]);
        supervisor.says(&["cp", &format!("{name}:/srv/tree"), &out]);
        let mut compare = Command::new("diff");
        compare.arg("-r").arg(&tree).arg(&out);
        finish(compare).success();
    }
}

#[test]
fn volumes_are_seen_and_what_is_read_only_stays_as_it_is() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let bound = supervisor.scratch.dir("bound");
    place::write(&bound.join("there"), "bound");
    let one = supervisor.scratch.file("one", "from here");
    let one = one.display().to_string();
    let bind = format!("{}:/bound/deep:ro", bound.display());
    let flags = ["-v", "data:/data", "-v", &bind];
    supervisor.detached(&[&["--name", "runs"], &flags[..]].concat(), "sleep 1000");
    let create = [
        &["create", "--name", "stopped"],
        &flags[..],
        &[IMAGE, "true"],
    ];
    supervisor.says(&create.concat());
    let sealed = ["create", "--name", "sealed", "--read-only", IMAGE, "true"];
    supervisor.says(&sealed);
    for name in ["runs", "stopped"] {
        let target = format!("{name}:/data/{name}");
        supervisor.says(&["cp", &one, &target]);
        let there = format!("{name}:/bound/deep/there");
        assert_eq!(read(&supervisor, &there), "bound");
        supervisor
            .ctl(&["cp", &one, &there])
            .failure()
            .says("Read-only file system");
    }
    assert_eq!(read(&supervisor, "runs:/data/stopped"), "from here");
    assert_eq!(read(&supervisor, "stopped:/data/runs"), "from here");
    assert_eq!(read(&supervisor, "sealed:/srv/file"), "from the image\n");
    supervisor
        .ctl(&["cp", &one, "sealed:/srv"])
        .failure()
        .says("Read-only file system");
    // It starts as if nobody had looked.
    supervisor.says(&["start", "stopped"]);
    assert_eq!(supervisor.says(&["wait", "stopped"]), "0");
}

#[test]
fn one_that_is_copied_does_not_start() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    two(&supervisor);
    // Nothing comes, so it goes on.
    let copy = supervisor.start(&["cp", "-", "stopped:/srv"]);
    await_workers(&supervisor, &[&copy]);
    let started = supervisor.start(&["start", "stopped"]);
    assert_eq!(supervisor.field("stopped", "{{.State.Status}}"), "created");
    // Its archive ends, with nothing in it.
    copy.wait().success();
    started.wait().success();
    assert_eq!(supervisor.field("stopped", "{{.State.Status}}"), "running");
    assert_eq!(workers(&supervisor), 0, "no process is left of the copy");
}

#[test]
fn what_ends_and_stays_down_is_copied_to_the_end() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let script = "head -c 30000000 /dev/zero >/srv/big; echo ready; sleep 1000";
    let id = supervisor.detached(&["-v", "data:/data"], script);
    let mut log = supervisor.start(&["logs", "-f", &id]);
    assert_eq!(log.stdout.line(), "ready");
    let here = supervisor.scratch.dir("here");
    place::write(&here.join("file"), "sent later");
    // Nobody takes what comes out, nor sends what goes in, until they are told to.
    let copies = [
        format!("exec 3<&0; $ctl export {id} | {{ read go <&3; tar -xO srv/big | wc -c; }}"),
        format!(
            "{{ read go; tar -c -C {} file; }} | $ctl cp - {id}:/data",
            here.display()
        ),
    ];
    let [mut out, mut into] = copies.map(|line| Running::start(supervisor.in_shell(&line)));
    await_workers(&supervisor, &[&out, &into]);
    supervisor.says(&["kill", &id]);
    assert_eq!(supervisor.says(&["wait", &id]), "137");
    for copy in [&mut out, &mut into] {
        let told = copy.stdin.as_mut().unwrap().write_all(b"go\n");
        told.unwrap();
    }
    assert_eq!(out.wait().success().stdout, "30000000\n");
    into.wait().success();
    assert_eq!(workers(&supervisor), 0, "no process is left of the copies");
    let see = [
        "run",
        "--rm",
        "-v",
        "data:/data",
        IMAGE,
        "cat",
        "/data/file",
    ];
    assert_eq!(supervisor.says(&see), "sent later");
    // Nothing is in its way any more.
    supervisor.says(&["start", &id]);
}

#[test]
fn one_that_ends_just_then_is_copied_as_well() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    supervisor.says(&["create", "--name", "short", IMAGE, "true"]);
    let line = "$ctl start short >/dev/null & $ctl cp short:/srv/file - | tar -xO; wait";
    for _ in 0..30 {
        let copied = finish(supervisor.in_shell(line)).success();
        assert_eq!(copied.stdout, "from the image\n", "{}", copied.stderr);
    }
}

#[test]
fn who_removes_by_force_waits_for_nobody_who_copies() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    two(&supervisor);
    supervisor.detached(&["--name", "ended"], "sleep 1000");
    // Nothing comes, so they go on.
    let copies = ["runs", "stopped", "ended"].map(|name| {
        (
            name,
            supervisor.start(&["cp", "-", &format!("{name}:/srv")]),
        )
    });
    await_workers(&supervisor, &copies.each_ref().map(|(_, copy)| copy));
    supervisor.says(&["kill", "ended"]);
    supervisor.says(&["wait", "ended"]);
    for (name, copy) in copies {
        assert!(!copy.has_ended());
        supervisor.says(&["rm", "-f", name]);
        let pid = copy.pid();
        assert!(host::await_end(pid));
        copy.wait().failure().says("was removed by force");
    }
    assert_eq!(supervisor.says(&["ps", "-aq"]), "");
    assert_eq!(workers(&supervisor), 0, "no process is left of the copies");
}

#[test]
fn what_ends_and_comes_back_or_goes_ends_a_copy() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    for (option, end) in [
        ("--restart=always", &["restart", "-t", "0"][..]),
        ("--rm", &["kill"]),
    ] {
        let id = supervisor.detached(&[option], "sleep 1000");
        // Nothing comes, so it goes on.
        let copy = supervisor.start(&["cp", "-", &format!("{id}:/srv")]);
        let pid = copy.pid();
        await_workers(&supervisor, &[&copy]);
        supervisor.says(&[end, &[&id]].concat());
        assert!(host::await_end(pid));
        copy.wait().failure().says("has ended while it was copied");
        assert_eq!(workers(&supervisor), 0, "no process is left of the copy");
    }
}

#[test]
fn a_client_that_leaves_ends_a_copy() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    // Once: it is started again, and may be stopped at once.
    let script = "test -e /srv/big || dd if=/dev/zero bs=1M count=40 2>/dev/null | tr '\\0' x >/srv/big; echo ready; sleep 1000";
    let id = supervisor.detached(&["--name", "ended"], script);
    let mut log = supervisor.start(&["logs", "-f", &id]);
    assert_eq!(log.stdout.line(), "ready");
    supervisor.says(&["stop", "-t", "0", "ended"]);
    // One waits for input, and one for somebody who takes its output.
    for args in [["cp", "-", "ended:/srv"], ["cp", "ended:/srv", "-"]] {
        let copy = supervisor.start(&args);
        await_workers(&supervisor, &[&copy]);
        copy.signal(nix::sys::signal::Signal::SIGKILL);
        copy.wait_for_exit();
        // It does not wait for the copy.
        supervisor.says(&["start", "ended"]);
        assert_eq!(workers(&supervisor), 0);
        supervisor.says(&["stop", "-t", "0", "ended"]);
    }
}

/// What a tree of a container's has that a copy which was cut off left.
fn parts(root: &Path) -> Vec<String> {
    let names = fs::read_dir(root.join("srv")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.contains("caisson")).collect()
}

/// A copy into /srv of a container that stays in the middle of a file, by a process that has begun with it.
fn unfinished(supervisor: &Supervisor, name: &str) -> Running {
    let mut copy = supervisor.start(&["cp", "-", &format!("{name}:/srv")]);
    // More than all that is on the way can hold.
    let begin = Tar::new().header(&Header {
        size: 100 << 20,
        ..Header::new(b'0', "file")
    });
    let mut stdin = copy.stdin.take().unwrap();
    stdin.write_all(&begin.bytes()[..512]).unwrap();
    stdin.write_all(&vec![b'x'; 16 << 20]).unwrap();
    copy.stdin = Some(stdin);
    copy
}

#[test]
fn nothing_is_left_of_a_file_whose_copy_was_cut_off() {
    require!(containers, busybox);
    cut_off("host");
}

#[test]
fn nor_in_a_user_namespace() {
    require!(containers, busybox, id_mapped_mounts);
    cut_off("auto");
}

#[track_caller]
fn cut_off(users: &str) {
    let supervisor = Supervisor::new();
    let flags = ["--userns", users, "--name"];
    supervisor.detached(&[&flags[..], &["runs"]].concat(), "sleep 1000");
    let command = ["stopped", IMAGE, "sleep", "1000"];
    supervisor.says(&[&["create"], &flags[..], &command].concat());
    let roots = ["runs", "stopped"].map(|name| match name {
        "runs" => format!("/proc/{}/root", supervisor.field(name, "{{.State.Pid}}")),
        _ => supervisor.field(name, "{{.GraphDriver.Data.UpperDir}}"),
    });
    let roots = roots.map(std::path::PathBuf::from);
    // Made by a copy that is complete.
    supervisor.says(&["cp", "/proc/self/status", "stopped:/srv/status"]);
    for name in ["runs", "stopped"] {
        let copy = unfinished(&supervisor, name);
        copy.signal(Signal::SIGKILL);
        copy.wait_for_exit();
    }
    // It waits for the copy; of the other one, the process is waited for.
    supervisor.says(&["start", "stopped"]);
    supervisor.says(&["stop", "-t", "0", "stopped"]);
    while workers(&supervisor) > 0 {
        supervisor.says(&["ps", "-q"]);
    }
    for root in &roots {
        assert_eq!(parts(root), [""; 0]);
    }
    // The daemon's end gives nobody time to clean up.
    let copies = ["runs", "stopped"].map(|name| unfinished(&supervisor, name));
    let daemon = supervisor.pid();
    let children = fs::read_to_string(format!("/proc/{daemon}/task/{daemon}/children")).unwrap();
    supervisor.crash();
    for child in children.split_whitespace() {
        host::await_end(child.parse().unwrap());
    }
    for copy in copies {
        copy.wait().failure().says("not all has been copied");
    }
    // In a tree whose ids are ours.
    let plain = supervisor.detached(&[], "sleep 1000");
    let plain = format!(
        "/proc/{}/root/srv",
        supervisor.field(&plain, "{{.State.Pid}}")
    );
    let without_names = has_files_without_names(Path::new(&plain));
    for (name, root) in ["runs", "stopped"].iter().zip(&roots) {
        if without_names {
            assert_eq!(parts(root), [""; 0], "{name}");
        }
        assert_eq!(
            read(&supervisor, &format!("{name}:/srv/file")),
            "from the image\n"
        );
    }
}

#[test]
fn nothing_is_left_here_of_a_file_whose_copy_was_cut_off() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let script = "head -c 100000000 /dev/zero | tr '\\0' x >/srv/big; echo ready; sleep 1000";
    let id = supervisor.detached(&[], script);
    let mut log = supervisor.start(&["logs", "-f", &id]);
    assert_eq!(log.stdout.line(), "ready");
    let here = supervisor.scratch.dir("here");
    if !has_files_without_names(&here) {
        return;
    }
    let to = here.display().to_string();
    loop {
        let copy = supervisor.start(&["cp", &format!("{id}:/srv/big"), &to]);
        let begun = loop {
            if has_file_in(&copy, &here) {
                break true;
            }
            if copy.has_ended() {
                break false;
            }
            std::thread::yield_now();
        };
        copy.signal(Signal::SIGKILL);
        copy.wait_for_exit();
        let left: Vec<_> = fs::read_dir(&here)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        if begun && left.is_empty() {
            break;
        }
        // It was faster than we.
        assert!(left.iter().all(|path| path.ends_with("big")), "{left:?}");
        fs::remove_file(here.join("big")).unwrap();
    }
}

/// How many processes of its own the daemon has.
#[track_caller]
fn workers(supervisor: &Supervisor) -> usize {
    let daemon = supervisor.pid();
    let children = fs::read_to_string(format!("/proc/{daemon}/task/{daemon}/children")).unwrap();
    children.split_whitespace().count()
}

/// Waits until each of these copies, which go on for as long as they are let, has its process.
#[track_caller]
fn await_workers(supervisor: &Supervisor, copies: &[&Running]) {
    while workers(supervisor) < copies.len() {
        assert!(
            !copies.iter().any(|copy| copy.has_ended()),
            "a copy has ended"
        );
        // As long as the daemon has not got so far, it is asked.
        supervisor.says(&["ps", "-q"]);
    }
}
