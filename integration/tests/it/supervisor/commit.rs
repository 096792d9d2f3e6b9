//! `commit`: the image has what the container had, its digests are right, and a kill in the midst of it leaves nothing.

use std::process::Command;

use integration::runtime::{Finished, finish};
use integration::supervisor::{IMAGE, Supervisor};
use integration::{host, require};

/// Everything about all files of a tree but the time at which directories were changed last.
const LOOK: &str =
    "cd /; for d in srv etc opt; do find $d 2>/dev/null; done | grep -vE '^etc/(hosts|hostname|resolv.conf|mtab)$' | sort | while read -r f; do
    stat -c '%n %a %u %g %h %F %t,%T' $f; [ -L $f ] && readlink $f; [ -d $f ] || stat -c '%s %y' $f;
    [ -f $f ] && [ ! -L $f ] && md5sum <$f; done; true";

/// What a container can do to its files.
const CHANGE: &str = "rm /srv/file; mkdir -p /opt/a/b; echo one >/opt/a/one; ln /opt/a/one /opt/a/two; ln -s ../one /opt/a/b/link;
    mkfifo /opt/fifo; mknod /opt/zero c 1 5; chown 1234:4321 /opt/a/one; chmod 4755 /opt/a/one; chmod 1777 /opt/a/b;
    rm -r /etc/old; mkdir /etc/old; echo new >/etc/old/new; rm -r /etc/gone; echo file >/etc/gone; rm /etc/plain; mkdir /etc/plain;
    ln -s /nowhere /opt/dangling; touch -d '2001-02-03 04:05:06' /opt/a/one; echo ready; exec sleep 1000";

/// An image whose directories can be replaced, by name.
fn with_directories(supervisor: &Supervisor) -> String {
    let script = "mkdir -p /etc/old/deep /etc/gone/deep; echo old >/etc/old/deep/file; echo x >/etc/gone/file; echo p >/etc/plain";
    let name = "with-directories:1".to_owned();
    let run = ["run", "--name", "first", IMAGE, "sh", "-c", script];
    supervisor.says(&run);
    supervisor.says(&["commit", "first", &name]);
    supervisor.says(&["rm", "first"]);
    name
}

fn sh(line: &str) -> Finished {
    let mut command = Command::new("sh");
    command.args(["-ec", line]);
    finish(command).success()
}

#[test]
fn a_container_of_the_new_image_sees_the_same_tree() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let base = with_directories(&supervisor);
    let run = ["run", "-d", "--name", "box", "-v", "data:/data", "--init"];
    let id = supervisor.says(&[&run[..], &[&base, "sh", "-c", CHANGE]].concat());
    let mut log = supervisor.start(&["logs", "-f", &id]);
    assert_eq!(log.stdout.line(), "ready");
    let pid = supervisor.field("box", "{{.State.Pid}}");
    sh(&format!(
        "setcap cap_net_raw+ep /proc/{pid}/root/etc/old/new; setfattr -n user.note -v kept /proc/{pid}/root/opt/a/b"
    ));
    let before = supervisor.says(&["exec", "box", "sh", "-c", LOOK]);
    assert!(
        before.contains("/opt/zero") || before.contains("opt/zero"),
        "{before}"
    );
    let image = supervisor.says(&["commit", "box", "made:1"]);
    assert_eq!(supervisor.field("box", "{{.State.Status}}"), "running");
    let image_id = supervisor.says(&["image", "inspect", "--format", "{{.Id}}", "made:1"]);
    assert_eq!(image_id, image);
    let after = supervisor.says(&["run", "--rm", "made:1", "sh", "-c", LOOK]);
    assert_eq!(after, before);
    let again = supervisor.detached_of("made:1", "sleep 1000");
    let pid = supervisor.field(&again, "{{.State.Pid}}");
    let capability = sh(&format!("getcap /proc/{pid}/root/etc/old/new"));
    assert!(capability.stdout.contains("cap_net_raw=ep"), "{capability}");
    let note = sh(&format!("getfattr -d /proc/{pid}/root/opt/a/b"));
    assert!(note.stdout.contains("user.note=\"kept\""), "{note}");
    // Places of mounts are not the image's.
    assert_eq!(supervisor.says(&["diff", &again]), "");
    let there = supervisor.says(&["run", "--rm", "made:1", "ls", "/", "/sbin"]);
    assert!(
        !there.contains("data") && !there.contains("caisson-init"),
        "{there}"
    );
    let verdict = supervisor.says(&["image", "verify"]);
    assert!(verdict.ends_with(" 0 damaged"), "{verdict}");
    // And once more, on top of it.
    supervisor.says(&["exec", &again, "rm", "/opt/a/one"]);
    supervisor.says(&["commit", &again, "made:2"]);
    let left = supervisor.says(&["run", "--rm", "made:2", "ls", "/opt/a"]);
    assert_eq!(
        left,
        "b
two"
    );
}

#[test]
fn a_container_with_very_many_directories_in_each_other_is_looked_through_and_committed() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let deep = |last: &str| {
        let way = "n=0; while [ $n -lt 1000 ]; do mkdir -p d; cd d; n=$((n + 1)); done";
        format!("mkdir -p /deep; cd /deep; {way}; {last}")
    };
    let file = format!("/deep{}/file", "/d".repeat(1000));
    let run = |name: &str, image: &str, last: &str| {
        supervisor.says(&["run", "--name", name, image, "sh", "-c", &deep(last)]);
    };
    run("first", IMAGE, "echo old >file");
    let changes = supervisor.says(&["diff", "first"]);
    let added = changes.lines().filter(|line| line.starts_with("A /deep"));
    assert_eq!(added.count(), 1002);
    supervisor.says(&["commit", "-c", "VOLUME /deep", "first", "made:1"]);
    let read = ["run", "--rm", "made:1", "sh", "-c"];
    let found = supervisor.says(&[&read[..], &[&deep("cat file")]].concat());
    assert_eq!(found, "old", "in a volume that is filled with it");
    supervisor.says(&["commit", "first", "made:2"]);
    run("second", "made:2", "echo new >file");
    let changes = supervisor.says(&["diff", "second"]);
    assert!(changes.contains(&format!("C {file}")), "{changes}");
    supervisor.says(&["commit", "second", "made:3"]);
    let copy = supervisor.scratch.name("copy");
    supervisor.says(&["cp", "second:/deep", &copy]);
    assert_eq!(
        sh(&format!("cat {copy}{}/file", "/d".repeat(1000))).stdout,
        "new\n"
    );
    supervisor.says(&["cp", &copy, "first:/copied"]);
    let verdict = supervisor.says(&["image", "verify"]);
    assert!(verdict.ends_with(" 0 damaged"), "{verdict}");
}

#[test]
fn the_new_image_says_what_the_container_was_and_what_is_asked_for() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let flags = ["--name", "box", "-e", "A=1", "-e", "B=2", "-w", "/srv"];
    supervisor.detached(&[&flags[..], &["--label", "l=m"]].concat(), "sleep 1000");
    supervisor.says(&["commit", "box", "as-it-was"]);
    let config =
        |name: &str, field: &str| supervisor.says(&["image", "inspect", "--format", field, name]);
    let inspected = supervisor
        .ctl(&["image", "inspect", "as-it-was"])
        .success()
        .json();
    let found = &inspected[0]["Config"];
    assert_eq!(found["Cmd"], serde_json::json!(["sh", "-c", "sleep 1000"]));
    assert_eq!(found["Env"], serde_json::json!(["A=1", "B=2"]));
    assert_eq!(found["WorkingDir"], "/srv");
    assert_eq!(found["Labels"]["l"], "m");
    let asked = [
        "commit",
        "-a",
        "somebody",
        "-m",
        "why",
        "-c",
        "CMD [\"id\", \"-u\"]",
        "--change",
        "USER web",
        "-c",
        "ENV A=3 C=\"x y\"",
        "-c",
        "EXPOSE 80",
        "-c",
        "VOLUME /data",
        "-c",
        "WORKDIR sub",
        "--pause=false",
        "box",
        "registry.example/changed:2",
    ];
    supervisor.says(&asked);
    let name = "registry.example/changed:2";
    assert_eq!(supervisor.says(&["run", "--rm", name]), "33");
    assert_eq!(config(name, "{{.Author}}"), "somebody");
    let inspected = supervisor.ctl(&["image", "inspect", name]).success().json();
    let found = &inspected[0]["Config"];
    assert_eq!(found["Env"], serde_json::json!(["A=3", "B=2", "C=x y"]));
    assert_eq!(found["WorkingDir"], "/srv/sub");
    assert!(found["ExposedPorts"]["80/tcp"].is_object());
    assert!(found["Volumes"]["/data"].is_object());
    let history = supervisor.says(&["history", "--format", "{{.CreatedBy}}|{{.Comment}}", name]);
    let newest = history.lines().next().unwrap();
    assert_eq!(newest, "sh -c sleep 1000|why");
    assert_eq!(history.lines().count(), 2);
    let events = [
        "events",
        "--after",
        "0",
        "--until",
        "0s",
        "--filter",
        "event=commit",
    ];
    let told = supervisor.says(&[&events[..], &["--format", "{{.Action}}"]].concat());
    assert_eq!(told, "commit\ncommit");
}

#[test]
fn a_health_check_and_what_is_for_builds_is_written_and_kept_and_in_nobodys_way() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    supervisor.says(&["create", "--name", "box", IMAGE, "sh", "-c", "echo runs"]);
    let check = "HEALTHCHECK --interval=5s --retries=2 CMD exit 1";
    let changes = ["-c", check, "-c", "ONBUILD RUN make"];
    let id = supervisor.says(&[&["commit"], &changes[..], &["box", "checked:1"]].concat());
    let archive = supervisor.scratch.name("checked.tar");
    supervisor.says(&["save", "-o", &archive, "checked:1"]);
    supervisor.says(&["rmi", "checked:1"]);
    let loaded = supervisor.says(&["load", "-q", "-i", &archive]);
    assert_eq!(loaded, "Loaded image: checked:1");
    let config = |image: &str| {
        let format = "{{.Id}} {{json .Config.Healthcheck}} {{json .Config.OnBuild}}";
        supervisor.says(&["image", "inspect", "--format", format, image])
    };
    let health = r#"{"Interval":5000000000,"Retries":2,"Test":["CMD-SHELL","exit 1"]}"#;
    assert_eq!(
        config("checked:1"),
        format!(r#"{id} {health} ["RUN make"]"#)
    );
    let run = ["run", "--name", "other", "--no-healthcheck", "checked:1"];
    assert_eq!(supervisor.says(&run), "runs");
    // A trigger is for the next image, not for the one after that.
    let next = supervisor.says(&["commit", "other"]);
    assert_eq!(config(&next), format!("{next} {health} null"));
    for flag in ["--health-cmd=true", "--health-interval=5s"] {
        let refused = supervisor.ctl(&["run", "--rm", flag, IMAGE, "true"]);
        assert_eq!(refused.code(), 125, "{refused}");
        assert_eq!(refused.stderr.lines().count(), 1, "{refused}");
        let option = flag.split('=').next().unwrap();
        refused.says(&format!("unexpected argument '{option}' found (see"));
    }
}

#[test]
fn what_makes_no_sense_is_refused_and_an_image_needs_no_name() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    supervisor.detached(&["--name", "box"], "sleep 1000");
    for change in ["RUN x", "EXPOSE http", "ENV", "USER", "STOPSIGNAL nope"] {
        supervisor
            .ctl(&["commit", "-c", change, "box"])
            .failure()
            .says(change);
    }
    supervisor
        .ctl(&["commit", "none"])
        .failure()
        .says("no such container");
    supervisor
        .ctl(&["commit", "box", "Not/Valid"])
        .failure()
        .says("Not/Valid");
    assert_eq!(supervisor.field("box", "{{.State.Status}}"), "running");
    // Without a name, it has none, and a container that ended is as good.
    supervisor.says(&["stop", "-t", "0", "box"]);
    let id = supervisor.says(&["commit", "box"]);
    let unnamed = supervisor.says(&["image", "inspect", "--format", "{{.RepoTags}}", &id]);
    assert_eq!(unnamed, "[]");
}

#[test]
fn skopeo_finds_the_digests_of_a_new_image_right() {
    require!(containers, busybox, program("skopeo"));
    let supervisor = Supervisor::new();
    supervisor.says(&[
        "run",
        "--name",
        "box",
        IMAGE,
        "sh",
        "-c",
        "echo x >/opt; rm /srv/file",
    ]);
    let id = supervisor.says(&["commit", "box", "made:1"]);
    let out = supervisor.scratch.name("out.tar");
    supervisor.says(&["save", "-o", &out, "made:1"]);
    let digest = [
        "image",
        "inspect",
        "--format",
        "{{.Descriptor.digest}}",
        "made:1",
    ];
    let digest = supervisor.says(&digest);
    let found = sh(&format!("skopeo inspect oci-archive:{out}")).json();
    assert_eq!(found["Digest"], digest);
    // skopeo compares each blob with its digest, and with docker-archive each layer with its diff id.
    let (layout, docker) = (
        supervisor.scratch.name("layout"),
        supervisor.scratch.name("docker.tar"),
    );
    sh(&format!(
        "skopeo copy -q --preserve-digests oci-archive:{out} oci:{layout}:x; skopeo copy -q oci:{layout}:x docker-archive:{docker}:made:1"
    ));
    let again = sh(&format!("skopeo inspect oci:{layout}:x")).json();
    assert_eq!(again["Digest"], digest);
    let raw = sh(&format!(
        "skopeo inspect --config --raw docker-archive:{docker}:made:1"
    ))
    .stdout;
    assert_eq!(
        format!("sha256:{}", integration::store::sha256(raw.as_bytes())),
        id
    );
    // A layer's diff id is that of what is in the blob.
    let config: serde_json::Value = serde_json::from_str(&raw).unwrap();
    let diff_id = config["rootfs"]["diff_ids"][1].as_str().unwrap();
    let blob = found["Layers"][1].as_str().unwrap().replace(':', "/");
    let unpacked = sh(&format!("zcat {layout}/blobs/{blob} | sha256sum")).stdout;
    assert_eq!(diff_id, format!("sha256:{}", &unpacked[..64]));
    let listed = sh(&format!("zcat {layout}/blobs/{blob} | tar -tf -")).stdout;
    assert_eq!(listed, "etc/\nopt\nsrv/\nsrv/.wh.file\n");
}

#[test]
fn a_daemon_that_is_killed_amid_a_commit_leaves_a_whole_store_and_a_container_that_runs() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let script = "dd if=/dev/urandom of=/opt bs=1M count=12 2>/dev/null; echo ready; while :; do sleep 1; done";
    let id = supervisor.detached(&[], script);
    let mut log = supervisor.start(&["logs", "-f", &id]);
    assert_eq!(log.stdout.line(), "ready");
    let mut cut = 0;
    for round in 0..12 {
        let name = format!("made:{round}");
        let pid = supervisor.pid();
        let committing = supervisor.start(&["commit", &id, &name]);
        // Later each time, by so many looks at a file.
        for _ in 0..round * round * 4000 {
            std::fs::metadata(supervisor.scratch.path()).unwrap();
        }
        host::kill_descendant(pid);
        assert!(host::await_end(pid));
        let committed = committing.wait();
        let complete = committed.status.success();
        assert!(
            !committed.stderr.contains("may have been done"),
            "{committed}"
        );
        assert_eq!(supervisor.field(&id, "{{.State.Status}}"), "running");
        assert_eq!(supervisor.says(&["exec", &id, "echo", "here"]), "here");
        let there = !supervisor.says(&["images", "-q", &name]).is_empty();
        assert!(there || !complete, "what was reported done is there");
        cut += u32::from(!there);
        let verdict = supervisor.says(&["image", "verify"]);
        assert!(verdict.ends_with(" 0 damaged"), "{verdict}");
        let objects = supervisor.says(&["system", "df", "-v", "--format", "{{.Kind}}"]);
        for kind in ["ingest", "lease"] {
            assert!(!objects.lines().any(|line| line == kind), "{objects}");
        }
    }
    assert!(cut > 0, "no commit was cut off");
    supervisor.says(&["commit", &id, "whole"]);
}

#[test]
fn what_is_mounted_is_where_programs_look_for_it_and_in_no_image_that_did_not_have_it() {
    require!(containers, busybox, id_mapped_mounts);
    let supervisor = Supervisor::new();
    let look = "readlink /etc/mtab; grep -c ' / overlay' /etc/mtab; stat -c '%a %u:%g' /etc; stat -c %u:%g /etc/mtab";
    let run = |flags: &[&str], image: &str, script: &str| {
        supervisor.says(&[&["run"], flags, &[image, "sh", "-c", script]].concat())
    };
    run(
        &["--name", "first"],
        IMAGE,
        "chmod 751 /etc; chown 7:8 /etc",
    );
    supervisor.says(&["commit", "first", "other:1"]);
    for mode in ["host", "auto"] {
        let flags = ["--rm", "--read-only", "--userns", mode];
        assert_eq!(
            run(&flags, "other:1", look),
            "/proc/mounts\n1\n751 7:8\n0:0",
            "{mode}"
        );
    }
    // Nobody's change, unless somebody makes it his.
    let left = run(&["--name", "second"], "other:1", "true");
    assert_eq!(left + &supervisor.says(&["diff", "second"]), "");
    let mode = ["--name", "again", "--userns", "auto", "--init"];
    assert_eq!(run(&mode, "other:1", "chmod 755 /etc"), "");
    assert_eq!(supervisor.says(&["diff", "again"]), "C /etc");
    supervisor.says(&["commit", "second", "other:2"]);
    supervisor.says(&[
        "save",
        "-o",
        &supervisor.scratch.name("other.tar"),
        "other:2",
    ]);
    run(
        &["--name", "third"],
        "other:2",
        "rm /etc/mtab; echo own >/etc/mtab",
    );
    assert_eq!(supervisor.says(&["diff", "third"]), "C /etc\nA /etc/mtab");
    supervisor.says(&["commit", "third", "other:3"]);
    assert_eq!(run(&["--rm"], "other:3", "cat /etc/mtab"), "own");
}
