//! `--userns`: whose ids a container's are on the host, in its files, its volumes and its images.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use integration::runtime::{Finished, finish};
use integration::store::{Header, Tar, saved};
use integration::supervisor::{IMAGE, Supervisor};
use integration::{Bundle, host, place, require};
use serde_json::Value;

/// The first of the container's ids and how many there are, as `inspect` has them, the same for users and groups.
#[track_caller]
fn range(supervisor: &Supervisor, container: &str) -> (u32, u32) {
    let maps = supervisor.field(container, "{{json .HostConfig.IDMappings}}");
    let maps: Value = serde_json::from_str(&maps).unwrap();
    assert_eq!(maps["UidMap"], maps["GidMap"]);
    let line = maps["UidMap"][0].as_str().unwrap();
    let numbers: Vec<u32> = line.split(':').map(|part| part.parse().unwrap()).collect();
    assert_eq!((numbers.len(), numbers[0]), (3, 0), "{line}");
    (numbers[1], numbers[2])
}

fn upper(supervisor: &Supervisor, container: &str) -> PathBuf {
    supervisor
        .field(container, "{{.GraphDriver.Data.UpperDir}}")
        .into()
}

fn owner(path: &Path) -> (u32, u32) {
    let found = fs::symlink_metadata(path).unwrap();
    (found.uid(), found.gid())
}

fn sh(line: &str) -> Finished {
    let mut command = Command::new("sh");
    command.args(["-ec", line]);
    finish(command).success()
}

/// `run --rm` of a script with a user namespace.
#[track_caller]
fn run(supervisor: &Supervisor, flags: &[&str], script: &str) -> String {
    let begin = ["run", "--rm", "--userns", "auto"];
    supervisor.says(&[&begin[..], flags, &[IMAGE, "sh", "-c", script]].concat())
}

/// An image with files of several owners, and programs that give rights: one by its mode, one by an attribute.
fn of_many_owners(supervisor: &Supervisor) -> &'static str {
    let script = "mkdir -p /own/suid /own/cap; cp /bin/busybox /own/suid/id; cp /bin/busybox /own/cap/sh;
        chown 33:44 /own/suid/id; chmod 4755 /own/suid/id; echo x >/own/file; chown 1234:4321 /own/file; echo y >/own/last; chown 65535:65535 /own/last";
    supervisor.says(&["run", "--name", "maker", IMAGE, "sh", "-c", script]);
    let program = upper(supervisor, "maker").join("own/cap/sh");
    sh(&format!("setcap cap_net_raw+ep {}", program.display()));
    supervisor.says(&["commit", "maker", "owners:1"]);
    supervisor.says(&["rm", "maker"]);
    "owners:1"
}

#[test]
fn root_in_the_container_is_nobody_on_the_host() {
    require!(containers, busybox, id_mapped_mounts);
    let supervisor = Supervisor::new();
    let shared = supervisor.scratch.dir("shared");
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
    let mapped = supervisor.scratch.dir("mapped");
    let (shared_at, mapped_at) = (
        format!("{}:/shared", shared.display()),
        format!("{}:/mapped:idmap", mapped.display()),
    );
    let flags = [
        "--name",
        "box",
        "--userns",
        "auto",
        "-v",
        "data:/data",
        "-v",
        &shared_at,
        "-v",
        &mapped_at,
    ];
    let script = "for d in srv data shared mapped; do touch /$d/root /$d/web; done; chown 33:4 /srv/web /data/web /shared/web /mapped/web;
        chown 33:33 /srv/file; echo ready; exec sleep 1000";
    let id = supervisor.detached(&flags, script);
    let mut log = supervisor.start(&["logs", "-f", &id]);
    assert_eq!(log.stdout.line(), "ready");
    let (first, size) = range(&supervisor, "box");
    assert_eq!(size, 65536);
    assert_eq!(
        supervisor.field("box", "{{.HostConfig.UsernsMode}}"),
        "auto"
    );
    let pid = supervisor.field("box", "{{.State.Pid}}");
    assert_eq!(owner(Path::new(&format!("/proc/{pid}"))), (first, first));
    let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
    let map: Vec<_> = map.split_whitespace().collect();
    assert_eq!(map, ["0", &first.to_string(), "65536"]);
    // What it changes belongs to its ids; volumes, and binds that are mapped, keep the ids that it sees.
    let ids = |directory: &Path| {
        (
            owner(&directory.join("root")),
            owner(&directory.join("web")),
        )
    };
    let shifted = ((first, first), (first + 33, first + 4));
    assert_eq!(ids(&upper(&supervisor, "box").join("srv")), shifted);
    assert_eq!(ids(&shared), shifted);
    let plain = ((0, 0), (33, 4));
    let volume = supervisor.says(&["volume", "inspect", "--format", "{{.Mountpoint}}", "data"]);
    assert_eq!(ids(Path::new(&volume)), plain);
    assert_eq!(ids(&mapped), plain);
    // Another container, with or without a namespace, finds the volume's files as its own.
    let look = "stat -c '%u:%g' /data/web; echo more >>/data/root";
    let volume = ["-v", "data:/data"];
    assert_eq!(run(&supervisor, &volume, look), "33:4");
    let plain = [&["run", "--rm"], &volume[..], &[IMAGE, "sh", "-c", look]].concat();
    assert_eq!(supervisor.says(&plain), "33:4");
}

#[test]
fn each_has_a_range_of_its_own_and_gives_it_back() {
    require!(containers, busybox, id_mapped_mounts);
    let supervisor = Supervisor::new();
    let create = |mode: &str, name: &str| {
        supervisor.ctl(&["create", "--name", name, "--userns", mode, IMAGE, "true"])
    };
    let names: Vec<String> = (0..6).map(|number| format!("box-{number}")).collect();
    let made = names.iter().map(|name| {
        supervisor.start(&["create", "--name", name, "--userns", "auto", IMAGE, "true"])
    });
    for made in made.collect::<Vec<_>>() {
        assert!(made.wait().status.success());
    }
    let firsts: Vec<u32> = names
        .iter()
        .map(|name| range(&supervisor, name).0)
        .collect();
    let different: BTreeSet<u32> = firsts.iter().copied().collect();
    assert_eq!(different.len(), 6, "{firsts:?}");
    let sorted: Vec<u32> = different.into_iter().collect();
    assert!(
        sorted.windows(2).all(|two| two[1] - two[0] >= 65536),
        "{sorted:?}"
    );
    // The lowest that is free.
    supervisor.says(&["rm", &names[2]]);
    create("auto", "again").success();
    assert_eq!(range(&supervisor, "again"), (firsts[2], 65536));
    create("auto:size=100", "small").success();
    assert_eq!(range(&supervisor, "small").1, 100);
    let refused = |mode: &str| create(mode, "refused").failure();
    refused("auto:size=4294967295").says("no 4294967295 user ids in a row are free");
    for mode in [
        "keep-id",
        "auto:uidmapping=0:1:2",
        "auto:size=0",
        "private",
        "nomap",
    ] {
        refused(mode).says("there are host, auto, auto:size=N and container:NAME");
    }
    create("host", "plain").success();
    assert_eq!(
        supervisor.field("plain", "{{json .HostConfig.IDMappings}}"),
        "null"
    );
}

#[test]
fn a_pool_that_is_used_up_says_so() {
    require!(containers, busybox, id_mapped_mounts);
    let supervisor = Supervisor::new();
    let create = |mode: &str| supervisor.ctl(&["create", "--userns", mode, IMAGE, "true"]);
    let text = fs::read_to_string("/etc/subuid").unwrap_or_default();
    let given = text
        .lines()
        .filter_map(|line| line.strip_prefix("containers:"));
    let sizes = given.map(|range| range.split(':').nth(1).unwrap().parse::<u32>().unwrap());
    let half = sizes.max().unwrap_or(0x0ffe_0000) / 2;
    let size = &format!("auto:size={}", half + 1);
    let id = create(size).success().stdout.trim().to_owned();
    let said = format!("no {} user ids in a row are free", half + 1);
    create(size)
        .failure()
        .says(&said)
        .says("remove containers that have some");
    supervisor.says(&["rm", &id]);
    create(size).success();
}

#[test]
fn ten_containers_with_ranges_share_the_layers_of_their_image() {
    require!(containers, busybox, id_mapped_mounts);
    let supervisor = Supervisor::new();
    let layers = || -> Vec<String> {
        let rows = supervisor.says(&["system", "df", "-v", "--format", "json"]);
        let rows = rows
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let of_layers = rows.filter(|row| row["Kind"] == "layer");
        of_layers
            .map(|row| format!("{} {}", row["Name"], row["Size"]))
            .collect()
    };
    let before = layers();
    let seen: BTreeSet<String> = (0..10)
        .map(|number| {
            let name = format!("box-{number}");
            let script = "stat -c %u /srv/file /bin/busybox; cat /proc/self/uid_map";
            let begin = ["run", "--name", &name, "--userns", "auto"];
            let said = supervisor.says(&[&begin[..], &[IMAGE, "sh", "-c", script]].concat());
            assert!(said.starts_with("0\n0\n"), "{said}");
            said
        })
        .collect();
    assert_eq!(seen.len(), 10, "each has its own range");
    assert_eq!(layers(), before);
    let verdict = supervisor.says(&["image", "verify"]);
    assert!(verdict.ends_with(" 0 damaged"), "{verdict}");
    let written = (0..10).map(|number| upper(&supervisor, &format!("box-{number}")));
    for directory in written {
        assert!(
            !directory.join("srv").exists(),
            "nothing was copied to change its owner"
        );
    }
}

#[test]
fn the_owners_of_an_image_and_what_its_programs_may_do_are_as_without_a_namespace() {
    require!(containers, busybox, id_mapped_mounts, program("setcap"));
    let supervisor = Supervisor::new();
    let image = of_many_owners(&supervisor);
    let script = "stat -c '%n %u:%g %a' /own/* /own/suid/id; /own/suid/id -u; /own/cap/sh -c 'grep CapEff /proc/self/status'";
    let seen = |mode: &str| {
        let begin = ["run", "--rm", "--userns", mode, "--user", "web"];
        supervisor.says(&[&begin[..], &[image, "sh", "-c", script]].concat())
    };
    let with = seen("auto");
    assert_eq!(with, seen("host"));
    for line in [
        "/own/file 1234:4321 644",
        "/own/last 65535:65535 644",
        "\n33\n",
        "0000000000002000",
    ] {
        assert!(with.contains(line), "{line} in {with}");
    }
    // Ids beyond the range are nobody's, and nobody can be one of them.
    assert!(seen("auto:size=2000").contains("/own/last 65534:65534 644"));
    supervisor
        .ctl(&[
            "run",
            "--rm",
            "--userns",
            "auto:size=2000",
            "--user",
            "2000",
            image,
            "true",
        ])
        .failure()
        .says("has 2000 ids, and 2000 is none of them");
}

/// What a container may do to its files, at times of its choosing.
const CHANGE: &str = "mkdir -p /opt/a/b; echo one >/opt/a/one; ln /opt/a/one /opt/a/two; ln -s ../one /opt/a/b/link; mkfifo /opt/fifo;
    chown 1234:4321 /opt/a/one; chmod 4755 /opt/a/one; chown -h 7:8 /opt/a/b/link; chown 33:44 /opt/a/b; rm /own/file;
    rm -r /own/suid; mkdir /own/suid; chown 5:6 /own/suid; chown 9:9 /own/cap/sh; rm -r /srv; echo z >/srv; chown 3:3 /srv;
    touch -hd '2001-02-03 04:05:06' /opt/a/b/link /opt/a/one /opt/fifo /opt/a/b /opt/a /opt /own/suid /own/cap/sh /own/cap /own /srv /etc";

#[test]
fn what_is_committed_and_saved_is_the_same_as_without_a_namespace() {
    require!(containers, busybox, id_mapped_mounts, program("setcap"));
    let supervisor = Supervisor::new();
    let image = of_many_owners(&supervisor);
    let layers = |mode: &str| {
        let name = format!("box-{mode}");
        let begin = ["run", "--name", &name, "--userns", mode];
        supervisor.says(&[&begin[..], &[image, "sh", "-c", CHANGE]].concat());
        // What is not there any more cannot be given a time in the container.
        let gone = upper(&supervisor, &name).join("own/file");
        sh(&format!(
            "touch -hd '2001-02-03 04:05:06' {}",
            gone.display()
        ));
        // With an attribute that says whose root may use it, as the container's own setcap would leave it.
        let program = upper(&supervisor, &name).join("opt/a/two");
        let root = match mode {
            "host" => 0,
            _ => range(&supervisor, &name).0,
        };
        let whose = if root == 0 {
            String::new()
        } else {
            format!("-n {root} ")
        };
        sh(&format!("setcap {whose}cap_chown+ep {}", program.display()));
        let made = format!("made-{mode}:1");
        supervisor.says(&["commit", &name, &made]);
        let saved = supervisor.scratch.name(&format!("{mode}.tar"));
        supervisor.says(&["save", "-o", &saved, &made]);
        let inspected = supervisor
            .ctl(&["image", "inspect", &made])
            .success()
            .json();
        (
            inspected[0]["RootFS"]["Layers"].clone(),
            supervisor.says(&["diff", &name]),
        )
    };
    let (with, without) = (layers("auto"), layers("host"));
    assert_eq!(with.0.as_array().unwrap().len(), 3);
    assert_eq!(with, without);
    // And so it is used again, by both.
    let look = "stat -c '%n %u:%g %a' /opt/a/* /opt/a/b/* /own /own/* /srv";
    let seen = |mode: &str| {
        supervisor.says(&[
            "run",
            "--rm",
            "--userns",
            mode,
            "made-auto:1",
            "sh",
            "-c",
            look,
        ])
    };
    assert_eq!(seen("auto"), seen("host"));
    assert!(
        seen("auto").contains("/opt/a/b/link 7:8"),
        "{}",
        seen("auto")
    );
}

#[track_caller]
fn odd_owners_are_refused(supervisor: &Supervisor, name: &str) {
    // No file gets an id that the container does not have, nor by way of one the host's.
    for id in [65536, u32::MAX - 1] {
        let odd = supervisor.scratch.file("odd", "");
        place::give_one(&odd, id, 0);
        supervisor
            .ctl(&[
                "cp",
                "-a",
                &odd.display().to_string(),
                &format!("{name}:/srv/odd"),
            ])
            .failure()
            .says(&format!("its owner {id}:0 is none in the container"));
        fs::remove_file(odd).unwrap();
    }
}

#[track_caller]
fn what_was_copied_is_seen(supervisor: &Supervisor, file: &str) {
    // Started, it sees what it got; and what it removes can be written over while it is stopped again.
    supervisor.says(&["start", "stopped"]);
    let look = [
        "exec",
        "stopped",
        "sh",
        "-c",
        "stat -c '%u:%g %a' /srv/stopped /data/stopped; rm /srv/file",
    ];
    assert_eq!(supervisor.says(&look), "12:13 4750\n12:13 4750");
    supervisor.says(&["stop", "-t", "0", "stopped"]);
    supervisor.says(&["cp", "-a", file, "stopped:/srv/file"]);
    supervisor.says(&["start", "stopped"]);
    assert_eq!(
        supervisor.says(&["exec", "stopped", "stat", "-c", "%u:%g", "/srv/file"]),
        "12:13"
    );
}

#[test]
fn cp_has_the_containers_ids_whether_it_runs_or_not() {
    require!(containers, busybox, id_mapped_mounts, program("setcap"));
    let supervisor = Supervisor::new();
    let shared = supervisor.scratch.dir("shared");
    place::write(&shared.join("theirs"), "theirs");
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
    let bind = format!("{}:/shared", shared.display());
    let flags = ["--userns", "auto", "-v", "data:/data", "-v", &bind];
    supervisor.detached(&[&["--name", "runs"], &flags[..]].concat(), "sleep 1000");
    let create = [
        &["create", "--name", "stopped"],
        &flags[..],
        &[IMAGE, "sleep", "1000"],
    ]
    .concat();
    supervisor.says(&create);
    let file = supervisor.scratch.file("file", "file");
    place::give_one(&file, 12, 13);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4750)).unwrap();
    sh(&format!("setcap cap_net_raw+ep {}", file.display()));
    let file = file.display().to_string();
    for name in ["runs", "stopped"] {
        let (first, _) = range(&supervisor, name);
        for (place, keep) in [
            ("srv", true),
            ("data", true),
            ("shared", true),
            ("etc", false),
        ] {
            let target = format!("{name}:/{place}/{name}");
            let flags: &[&str] = if keep { &["-a"] } else { &[] };
            supervisor.says(&[&["cp"], flags, &[&file, &target]].concat());
            let back = supervisor.scratch.path().join(format!("{name}-{place}"));
            supervisor.says(&["cp", "-a", &target, &back.display().to_string()]);
            let expected = if keep { (12, 13) } else { (0, 0) };
            assert_eq!(owner(&back), expected, "{target}");
            assert_eq!(
                fs::metadata(&back).unwrap().mode() & 0o7777,
                0o4750,
                "{target}"
            );
            let capability = sh(&format!("getcap -n {}", back.display())).stdout;
            assert!(
                capability.contains("cap_net_raw=ep") && !capability.contains("rootid"),
                "{capability}"
            );
        }
        let written = upper(&supervisor, name);
        assert_eq!(
            owner(&written.join("srv").join(name)),
            (first + 12, first + 13)
        );
        assert_eq!(owner(&written.join("etc").join(name)), (first, first));
        assert_eq!(owner(&shared.join(name)), (first + 12, first + 13));
        // Files of the host's root are nobody's in there, and stay so.
        let back = supervisor.scratch.path().join(format!("{name}-theirs"));
        supervisor.says(&[
            "cp",
            "-a",
            &format!("{name}:/shared/theirs"),
            &back.display().to_string(),
        ]);
        assert_eq!(owner(&back), (65534, 65534));
        odd_owners_are_refused(&supervisor, name);
    }
    let volume = supervisor.says(&["volume", "inspect", "--format", "{{.Mountpoint}}", "data"]);
    assert_eq!(owner(&Path::new(&volume).join("runs")), (12, 13));
    what_was_copied_is_seen(&supervisor, &file);
}

#[test]
fn a_directory_that_a_layer_only_uses_has_its_owner_whether_it_runs_or_not() {
    require!(containers, busybox, id_mapped_mounts);
    let supervisor = Supervisor::without_image();
    let bundle = Bundle::with_busybox();
    let busybox = fs::read(bundle.rootfs().join("bin/busybox")).unwrap();
    let program = |path| Header {
        mode: 0o755,
        ..Header::new(b'0', path)
    };
    let base = Tar::new().entry(&program("bin/busybox"), &busybox);
    let base = base.header(&Header {
        mode: 0o1770,
        uid: 33,
        ..Header::new(b'5', "used/")
    });
    let archive = saved("used:1", &[base, Tar::new().file("used/x", b"")]);
    let file = supervisor.scratch.file("used.tar", archive);
    supervisor.says(&["load", "-i", &file.display().to_string()]);
    let create = ["create", "--name", "box", "--userns", "auto", "used:1"];
    let stat = ["/bin/busybox", "stat", "-c", "%a %u", "/used"];
    supervisor.says(&[&create[..], &stat].concat());
    let exported = supervisor.scratch.name("exported.tar");
    supervisor.says(&["export", "box", "-o", &exported]);
    let listed = sh(&format!("tar --numeric-owner -tvf {exported} used/"));
    assert!(listed.stdout.starts_with("drwxrwx--T 33/33 "), "{listed}");
    assert_eq!(supervisor.says(&["start", "-a", "box"]), "1770 33");
}

#[test]
fn a_daemon_that_is_killed_and_a_restart_keep_the_range() {
    require!(containers, busybox, id_mapped_mounts);
    let supervisor = Supervisor::new();
    let script = "touch /srv/mine; exec sleep 1000";
    let id = supervisor.detached(&["--userns", "auto", "--name", "box"], script);
    let before = range(&supervisor, &id);
    supervisor.crash();
    assert_eq!(range(&supervisor, &id), before);
    assert_eq!(supervisor.says(&["exec", &id, "id", "-u"]), "0");
    let map = |container: &str| {
        let map = supervisor.says(&["exec", container, "cat", "/proc/self/uid_map"]);
        map.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u32>()
            .unwrap()
    };
    assert_eq!(map(&id), before.0);
    // What comes later gets another one.
    let other = supervisor.detached(&["--userns", "auto"], "sleep 1000");
    assert_ne!(map(&other), before.0);
    supervisor.says(&["stop", "-t", "0", "box"]);
    supervisor.crash();
    supervisor.says(&["start", "box"]);
    assert_eq!(map("box"), before.0);
    assert_eq!(
        supervisor.says(&["exec", "box", "stat", "-c", "%u", "/srv/mine"]),
        "0"
    );
    supervisor.says(&["restart", "-t", "0", "box"]);
    assert_eq!(map("box"), before.0);
}

#[test]
fn an_exec_can_be_nobody_whom_the_container_has_not() {
    require!(containers, busybox, id_mapped_mounts);
    let supervisor = Supervisor::new();
    let id = supervisor.detached(&["--userns", "auto:size=2000"], "sleep 1000");
    let ctl = |user| supervisor.ctl(&["exec", "--user", user, &id, "true"]);
    ctl("1999:1999").success();
    for user in ["2000", "0:2000"] {
        ctl(user).failure().says("2000 is none of them");
    }
}

#[test]
fn streams_terminals_and_own_files_are_the_containers() {
    require!(containers, busybox, id_mapped_mounts);
    let supervisor = Supervisor::new();
    let script = "echo again >/dev/stdout; echo '127.0.0.2 two' >>/etc/hosts && grep -c two /etc/hosts; stat -c %u:%g /dev/shm /etc/hosts /etc/hostname /etc/resolv.conf";
    let expected = "again\n1\n0:0\n0:0\n0:0\n0:0";
    assert_eq!(run(&supervisor, &[], script), expected);
    assert_eq!(run(&supervisor, &["--ipc", "shareable"], script), expected);
    let mut echo = supervisor.start(&[
        "run",
        "--rm",
        "-i",
        "--userns",
        "auto",
        IMAGE,
        "cat",
        "/dev/stdin",
    ]);
    echo.stdin.take().unwrap().write_all(b"through\n").unwrap();
    assert_eq!(echo.wait().stdout, "through\n");
    let terminal = supervisor.on_terminal(&[
        "run",
        "--rm",
        "-t",
        "--userns",
        "auto",
        IMAGE,
        "sh",
        "-c",
        "tty && echo x >/dev/tty && test $(stat -c %u $(tty)) = 0",
    ]);
    assert!(terminal.wait().success());
    let id = supervisor.detached(
        &["--userns", "auto"],
        "echo log >/dev/stdout; exec sleep 1000",
    );
    let mut log = supervisor.start(&["logs", "-f", &id]);
    assert_eq!(log.stdout.line(), "log");
    let exec = [
        "exec",
        "--user",
        "web",
        &id,
        "sh",
        "-c",
        "id -u; id -G; grep CapEff /proc/self/status",
    ];
    assert_eq!(
        supervisor.says(&exec),
        "33\n33 4\nCapEff:\t0000000000000000"
    );
    assert_eq!(
        supervisor.says(&["exec", &id, "sh", "-c", "echo out >/dev/stdout"]),
        "out"
    );
    let whole = [
        "exec",
        "--privileged",
        &id,
        "grep",
        "CapEff",
        "/proc/self/status",
    ];
    assert_ne!(supervisor.says(&whole), "CapEff:\t00000000a80425fb");
    let (first, _) = range(&supervisor, &id);
    let top = supervisor.says(&["top", &id]);
    assert!(
        top.contains(&first.to_string()) && top.contains("sleep 1000"),
        "{top}"
    );
}

#[test]
fn namespaces_of_others_are_joined_as_far_as_the_kernel_allows() {
    require!(containers, busybox, id_mapped_mounts);
    let supervisor = Supervisor::new();
    supervisor.detached(
        &["--name", "box", "--userns", "auto", "--ipc", "shareable"],
        "sleep 1000",
    );
    let pid = supervisor.field("box", "{{.State.Pid}}");
    let joined = [
        "--network",
        "container:box",
        "--ipc",
        "container:box",
        "--pid",
        "container:box",
        "--userns",
        "container:box",
    ];
    let script = "for n in user net ipc pid; do readlink /proc/self/ns/$n; done; touch /srv/x /dev/shm/x; stat -c %u /srv/x /dev/shm/x; ls -d /dev/mqueue";
    let said = supervisor.says(
        &[
            &["run", "--name", "joins"],
            &joined[..],
            &[IMAGE, "sh", "-c", script],
        ]
        .concat(),
    );
    let namespaces = ["user", "net", "ipc", "pid"].map(|kind| host::namespace(&pid, kind));
    assert_eq!(
        said,
        format!("{}\n0\n0\n/dev/mqueue", namespaces.join("\n"))
    );
    assert_eq!(range(&supervisor, "joins"), range(&supervisor, "box"));
    let (first, _) = range(&supervisor, "box");
    assert_eq!(
        owner(&upper(&supervisor, "joins").join("srv/x")),
        (first, first)
    );
    // With ids of its own it may use them, but not change them.
    let look = "readlink /proc/self/ns/net; ls -d /sys/kernel; touch /sys/kernel/x 2>/dev/null || echo no; ip link set lo down 2>/dev/null || echo nor";
    let network = ["--network", "container:box"];
    assert_eq!(
        run(&supervisor, &network, look),
        format!("{}\n/sys/kernel\nno\nnor", namespaces[1])
    );
    assert_eq!(
        run(
            &supervisor,
            &["--ipc", "container:box"],
            "readlink /proc/self/ns/ipc; ls /dev/shm"
        ),
        format!("{}\nx", namespaces[2])
    );
    let of_host = ["net", "ipc", "pid"].map(|kind| host::namespace("self", kind));
    let hosts = ["--network", "host", "--ipc", "host", "--pid", "host"];
    let script = "for n in net ipc pid; do readlink /proc/self/ns/$n; done; test -e /proc/1/stat && test -d /sys/kernel && echo seen";
    assert_eq!(
        run(&supervisor, &hosts, script),
        format!("{}\nseen", of_host.join("\n"))
    );
}

#[test]
fn who_joins_keeps_the_range_and_needs_the_other_to_run() {
    require!(containers, busybox, id_mapped_mounts);
    let supervisor = Supervisor::new();
    let id = supervisor.detached(&["--name", "box", "--userns", "auto"], "sleep 1000");
    let join = ["create", "--name", "joins", "--userns", "container:box"];
    supervisor.says(&[&join[..], &[IMAGE, "true"]].concat());
    let (first, _) = range(&supervisor, "box");
    let refused = |flags: &[&str]| {
        supervisor
            .ctl(&[&["run", "--rm"], flags, &[IMAGE, "true"]].concat())
            .failure()
    };
    refused(&["--userns", "auto", "--pid", "container:box"])
        .says(&format!("add --userns container:{id}"));
    refused(&["--userns", "container:none"]).says("no such container");
    supervisor.says(&["stop", "-t", "0", "box"]);
    refused(&["--userns", "container:box"]).says("is not running");
    // Whose range it is counts only as long as somebody has it.
    supervisor.says(&["rm", "box"]);
    let other = supervisor.says(&["create", "--userns", "auto", IMAGE, "true"]);
    assert_ne!(
        range(&supervisor, &other).0,
        first,
        "the other has it still"
    );
    supervisor.says(&["rm", "joins"]);
    let other = supervisor.says(&["create", "--userns", "auto", IMAGE, "true"]);
    assert_eq!(range(&supervisor, &other).0, first);
}

#[test]
fn other_options_do_what_they_do_without_it() {
    require!(containers, busybox, id_mapped_mounts);
    let supervisor = Supervisor::new();
    let run = |flags: &[&str], script: &str| run(&supervisor, flags, script);
    assert_eq!(
        run(&["--init"], "tr '\\0' ' ' </proc/1/cmdline | cut -d' ' -f1"),
        "/sbin/caisson-init"
    );
    assert_eq!(
        run(
            &["--read-only", "--tmpfs", "/t:uid=33"],
            "touch /x 2>/dev/null || touch /t/x && stat -c %u /t /t/x"
        ),
        "33\n0"
    );
    assert_eq!(
        run(
            &["--user", "web"],
            "id -u; id -G; touch /srv/x 2>/dev/null || echo no"
        ),
        "33\n33 4\nno"
    );
    assert_eq!(
        run(
            &["--device", "/dev/null:/dev/other"],
            "echo x >/dev/other && stat -c %t:%T /dev/other"
        ),
        "1:3"
    );
    supervisor
        .ctl(&[
            "run",
            "--rm",
            "--userns",
            "auto",
            "--device",
            "/dev/no-such",
            IMAGE,
            "true",
        ])
        .failure();
    assert_eq!(
        run(
            &["--sysctl", "net.ipv4.ip_forward=1"],
            "cat /proc/sys/net/ipv4/ip_forward"
        ),
        "1"
    );
    // Its own mounts and groups are its to change; the host's are not.
    let script = "mount -t tmpfs none /srv && mkdir /sys/fs/cgroup/x && rmdir /sys/fs/cgroup/x && echo own; echo 1 >/proc/sys/kernel/printk || echo not";
    assert_eq!(
        run(&["--privileged"], &format!("({script}) 2>/dev/null")),
        "own\nnot"
    );
    // As strict as without.
    let script = "grep -E 'CapEff|CapBnd|Seccomp:|NoNewPrivs' /proc/self/status; grep -cE ' /(proc|sys)/' /proc/self/mountinfo;
        for f in /proc/sysrq-trigger /proc/sys/vm/swappiness /sys/fs/cgroup/cgroup.procs /sys/kernel/mm/ksm/run; do (echo x >$f) 2>/dev/null && echo open $f; done;
        cat /proc/keys /proc/timer_list | wc -c; ls /sys/firmware | wc -l; mknod /srv/m c 1 1 2>/dev/null && cat /srv/m; unshare -n true 2>/dev/null && echo unshared; ls /dev";
    let without = supervisor.says(&["run", "--rm", IMAGE, "sh", "-c", script]);
    assert_eq!(run(&[], script), without);
    assert!(
        !without.contains("open") && !without.contains("unshared"),
        "{without}"
    );
}

#[test]
fn a_part_of_a_volume_has_its_ids_too() {
    require!(containers, busybox, id_mapped_mounts);
    let supervisor = Supervisor::new();
    let make = "mkdir /d/part; touch /d/part/root; touch /d/part/web; chown 33:33 /d/part/web";
    supervisor.says(&["run", "--rm", "-v", "data:/d", IMAGE, "sh", "-c", make]);
    let part = "type=volume,src=data,dst=/p,volume-subpath=part";
    let run = ["run", "--name", "box", "--userns", "auto", "--mount", part];
    let look = ["sh", "-c", "cd /p; touch new; stat -c '%n %u:%g' *"];
    let seen = supervisor.says(&[&run[..], &[IMAGE], &look].concat());
    assert_eq!(seen, "new 0:0\nroot 0:0\nweb 33:33");
    let copy = supervisor.scratch.name("part");
    supervisor.says(&["cp", "-a", "box:/p", &copy]);
    let owner = |name: &str| fs::metadata(format!("{copy}/{name}")).unwrap().uid();
    assert_eq!((owner("new"), owner("web")), (0, 33));
}
