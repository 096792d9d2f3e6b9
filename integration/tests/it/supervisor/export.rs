//! `export`: a container's root file system as an archive, while the container lives on.

use std::fs;
use std::path::Path;
use std::process::Command;

use integration::runtime::finish;
use integration::supervisor::{IMAGE, Supervisor};
use integration::{place, require};

/// Of a file or directory in an archive, a line of tar's; none if it is not there.
fn listed(archive: &str, path: &str) -> Option<String> {
    let mut tar = Command::new("tar");
    tar.args(["--numeric-owner", "-tvf", archive]);
    let list = finish(tar).success().stdout;
    let named = |line: &&str| {
        let name = line.split(" -> ").next().unwrap_or_default();
        let name = name.split(" link to ").next().unwrap_or_default();
        name.trim_end_matches('/').ends_with(&format!(" {path}"))
    };
    list.lines().find(named).map(str::to_owned)
}

/// What it says of attributes follows in a line of its own.
fn attributes(archive: &str) -> String {
    let mut tar = Command::new("tar");
    tar.args(["--xattrs", "--xattrs-include=*", "-tvvf", archive]);
    finish(tar).success().stdout
}

#[test]
fn what_is_exported_is_the_tree_that_the_container_sees_without_its_mounts() {
    require!(containers, busybox, program("setfattr"));
    exported(&[]);
}

#[test]
fn in_a_user_namespace_it_has_the_containers_ids() {
    require!(containers, busybox, id_mapped_mounts, program("setfattr"));
    exported(&["--userns", "auto"]);
}

fn exported(users: &[&str]) {
    let supervisor = Supervisor::new();
    let flags = ["--name", "box", "-v", "data:/data", "--tmpfs", "/scratch"];
    let script = "rm /srv/file; mkdir -m 750 /new; echo new >/new/file; chown 33:4 /new/file; ln /new/file /new/other
        ln -s /etc/passwd /new/link; echo volume >/data/file; touch /scratch/file; echo ready; exec sleep 1000";
    supervisor.detached(&[&flags[..], users].concat(), script);
    let mut log = supervisor.start(&["logs", "-f", "box"]);
    assert_eq!(log.stdout.line(), "ready");
    let pid = supervisor.field("box", "{{.State.Pid}}");
    let mut attribute = Command::new("setfattr");
    let file = format!("/proc/{pid}/root/new/file");
    attribute.args(["-n", "user.note", "-v", "kept", &file]);
    finish(attribute).success();
    let archive = supervisor.scratch.name("box.tar");
    for runs in [true, false] {
        if !runs {
            supervisor.says(&["kill", "box"]);
            supervisor.says(&["wait", "box"]);
        }
        supervisor.says(&["export", "-o", &archive, "box"]);
        let line = |path: &str| listed(&archive, path);
        let has = |path: &str, begin: &str| {
            let line = line(path).unwrap_or_else(|| panic!("there is no {path}, running {runs}"));
            assert!(line.starts_with(begin), "{line}");
        };
        has("new", "drwxr-x--- 0/0");
        has("new/file", "-rw-r--r--");
        assert!(line("new/file").unwrap().contains(" 33/4 "));
        has("new/other", "hrw-r--r--");
        has("new/link", "lrwxrwxrwx");
        has("bin/busybox", "-rwxr-xr-x");
        has("data", "d");
        has("proc", "d");
        for path in [
            "srv/file",
            "data/file",
            "scratch/file",
            "proc/1",
            "dev/null",
        ] {
            assert_eq!(line(path), None, "running {runs}");
        }
        assert!(attributes(&archive).contains("user.note"), "running {runs}");
    }
    // What was exported is an image's root file system.
    supervisor.says(&["image", "import", &archive, "again"]);
    let script = "cat /new/link /new/other; stat -c %u:%g /new/file; ls /srv";
    let seen = supervisor.says(&["run", "--rm", "again", "sh", "-c", script]);
    assert!(seen.ends_with("/srv:/bin/sh\nnew\n33:4"), "{seen}");
    // A single file can be picked by its name, from standard output.
    let pick = "$ctl export box | tar -xOf - new/file";
    let picked = finish(supervisor.in_shell(pick)).success();
    assert_eq!(picked.stdout, "new\n");
}

#[test]
fn a_container_that_changes_everything_all_the_time_is_exported_all_the_same() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let outside = supervisor.scratch.dir("outside");
    place::write(&outside.join("secret"), "of the host");
    let script = format!(
        "mkdir -p /srv/x/y {outside}; ln -s {outside} /srv/link; echo ready
        while :; do mkdir -p /srv/a/b/c; ln -s /etc /srv/a/l; echo >/srv/a/b/f; mv /srv/x /srv/away; mv /srv/link /srv/x
        mv /srv/x /srv/link; mv /srv/away /srv/x; rm /srv/a/l; mkdir /srv/a/l; rm -r /srv/a; done",
        outside = outside.display()
    );
    let id = supervisor.detached(&["-v", &format!("{0}:{0}", outside.display())], &script);
    let mut log = supervisor.start(&["logs", "-f", &id]);
    assert_eq!(log.stdout.line(), "ready");
    let archive = supervisor.scratch.name("box.tar");
    for _ in 0..30 {
        supervisor.says(&["export", "--output", &archive, &id]);
        let bytes = fs::read(&archive).unwrap();
        let secret = b"of the host";
        assert!(!bytes.windows(secret.len()).any(|part| part == secret));
    }
}

#[test]
fn what_an_archive_does_not_say_of_a_root_file_system_can_be_said() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    supervisor.says(&["create", "--name", "box", IMAGE, "true"]);
    let (archive, image) = (
        supervisor.scratch.name("box.tar"),
        supervisor.scratch.name("image.tar"),
    );
    supervisor.says(&["export", "-o", &archive, "box"]);
    let said = [
        "-c",
        "CMD [\"sh\", \"-c\", \"id -u; echo $A\"]",
        "-c",
        "ENV A=1",
    ];
    let more = [
        "--change", "USER web", "-m", "of a box", &archive, "again:1",
    ];
    supervisor.says(&[&["import"], &said[..], &more].concat());
    assert_eq!(supervisor.says(&["run", "--rm", "again:1"]), "33\n1");
    let history = ["history", "--format", "{{.Comment}}", "again:1"];
    assert_eq!(supervisor.says(&history), "of a box");
    supervisor.says(&["save", "-o", &image, "again:1"]);
    for (words, why) in [
        (["-c", "NONSENSE x", &archive, "odd"], "NONSENSE"),
        (["-c", "USER web", &image, "odd"], "holds images"),
    ] {
        let refused = supervisor.ctl(&[&["image", "import"], &words[..]].concat());
        refused.failure().says(why);
    }
    assert_eq!(supervisor.says(&["images", "-q", "odd"]), "");
}

#[test]
fn an_export_that_cannot_be_leaves_no_file() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let archive = supervisor.scratch.name("none.tar");
    supervisor
        .ctl(&["export", "-o", &archive, "none"])
        .failure()
        .says("no such container");
    assert!(!Path::new(&archive).exists());
    supervisor.says(&["create", "--name", "box", IMAGE, "true"]);
    let terminal = supervisor.on_terminal(&["export", "box"]);
    assert!(!terminal.wait().success());
}
