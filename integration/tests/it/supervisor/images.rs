//! Images that come in, go out and take room, through the client.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use integration::runtime::{Finished, Running, finish};
use integration::store::{ARCHITECTURE, Tar, saved, saved_as, saved_packed, sha256};
use integration::supervisor::{IMAGE, Supervisor};
use integration::{place, require};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// What the client has open for writing in a directory.
pub(super) fn has_file_in(client: &Running, directory: &Path) -> bool {
    let fds = fs::read_dir(format!("/proc/{}/fd", client.pid()));
    let links = fds
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|fd| fs::read_link(fd.path()).ok());
    // The directory itself is open, too.
    links
        .into_iter()
        .any(|link| link.starts_with(directory) && link != directory)
}

/// Whether files of a directory can be without a name.
pub(super) fn has_files_without_names(directory: &Path) -> bool {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = fs::OpenOptions::new();
    options.write(true).custom_flags(libc::O_TMPFILE);
    options.open(directory).is_ok()
}

fn feed(supervisor: &Supervisor, args: &[&str], bytes: &[u8]) -> Finished {
    let mut client = supervisor.start(args);
    // One that refuses what it sees does not wait for the rest.
    client.stdin.as_mut().unwrap().write_all(bytes).ok();
    client.wait()
}

#[test]
fn what_holds_no_image_is_not_loaded_as_one() {
    require!(containers);
    let supervisor = Supervisor::without_image();
    let rootfs = Tar::new().directory("etc/").file("etc/motd", b"hello\n");
    let (empty, root) = (Tar::new().bytes(), Tar::new().directory("./").bytes());
    let nothing = [&b""[..], &empty, &root];
    for bytes in nothing {
        feed(&supervisor, &["load"], bytes)
            .failure()
            .says("there is no image in the archive: it is empty");
        feed(&supervisor, &["image", "import", "-", "none"], bytes)
            .failure()
            .says("the archive is empty");
    }
    supervisor
        .ctl(&["load", "-i", "/dev/null"])
        .failure()
        .says("no image in the archive");
    feed(&supervisor, &["load"], &rootfs.bytes())
        .failure()
        .says("`image import`");
    for (bytes, name) in [
        (&b"\xfd7zXZ\0\0\x04\xe6"[..], "xz"),
        (b"BZh91AY&SY\0", "bzip2"),
    ] {
        for args in [&["load"][..], &["image", "import", "-", "none"]] {
            feed(&supervisor, args, bytes)
                .failure()
                .says(&format!("compressed with {name}, which is not supported"));
        }
    }
    assert_eq!(supervisor.says(&["images", "-q"]), "");
    let image = saved("whole:1", &[rootfs]);
    feed(&supervisor, &["load"], &image).success();
    assert_eq!(
        supervisor.says(&["images", "--format", "{{.Repository}}"]),
        "whole"
    );
}

#[test]
fn a_file_is_the_clients_and_what_is_no_archive_is_not_told() {
    require!(containers);
    let supervisor = Supervisor::without_image();
    let secret = "root:*:20228:0:99999:7:::\n".repeat(100);
    let secret = supervisor.scratch.file("secret", secret);
    let secret = secret.display().to_string();
    for words in [&["load", "-i", &secret][..], &["import", &secret, "none"]] {
        let refused = supervisor.ctl(words).failure();
        assert!(!refused.stderr.contains("20228"), "{refused}");
    }
    supervisor
        .ctl(&["load", "-i", "/no/such"])
        .failure()
        .says("open /no/such: No such file or directory");
    // Names of what the client has open.
    let image = saved("whole:1", &[Tar::new().directory("etc/")]);
    let image = supervisor.scratch.file("image.tar", image);
    for line in [
        "$ctl load -q -i /dev/stdin <$image",
        "cat $image | $ctl load -q -i /dev/stdin",
    ] {
        let mut shell = supervisor.in_shell(line);
        shell.env("image", &image);
        assert_eq!(finish(shell).success().stdout, "Loaded image: whole:1\n");
    }
}

#[test]
fn what_an_archive_says_is_no_order_to_the_users_terminal() {
    require!(containers);
    let supervisor = Supervisor::without_image();
    let garbage = b"\x1b]0;title\x07\x1b[2J".repeat(100);
    let named = Tar::new().file("\x1b[2J", b"").file("../\x1b[2J", b"");
    for bytes in [garbage, named.bytes()] {
        let said = feed(&supervisor, &["image", "import", "-", "none"], &bytes).failure();
        assert!(!said.stderr.contains('\x1b'), "{:?}", said.stderr);
    }
    // A table's cells are others' words, too.
    supervisor.import();
    let touch = ["touch", "/\x1b[2J"];
    let run = ["run", "--name", "odd", "--label", "a=\x1b[2J", IMAGE];
    supervisor.says(&[&run[..], &touch].concat());
    for verb in ["ps -a --no-trunc", "events --until 0s", "diff odd"] {
        let words: Vec<&str> = verb.split(' ').collect();
        let table = supervisor.says(&words);
        assert!(
            table.contains("\\u{1b}[2J") && !table.contains('\x1b'),
            "{table:?}"
        );
    }
}

#[test]
fn an_image_may_say_of_itself_that_it_is_of_any_time() {
    require!(containers);
    let supervisor = Supervisor::without_image();
    let layer = [Tar::new().file("x", b"")];
    for (created, since) in [
        ("0001-01-01T00:00:00Z", "N/A"),
        ("1970-01-01T00:00:00Z", " years ago"),
        ("2999-12-31T00:00:00Z", "Less than a second ago"),
        ("2999-13-31T00:00:00Z", "N/A"),
    ] {
        let said = json!({ "created": created, "history": [{ "created": created }] });
        let archive = saved_as(&said, "of:1", &layer);
        feed(&supervisor, &["load"], &archive).success();
        let said = supervisor.says(&["image", "inspect", "-f", "{{.Created}}", "of:1"]);
        assert_eq!(said.trim_end(), created);
        let known = if since == "N/A" {
            "0001-01-01T00:00:00Z"
        } else {
            created
        };
        for list in ["images", "history"] {
            let listed = supervisor.says(&[list, "--format", "{{.CreatedAt}}", "of:1"]);
            assert_eq!(listed.trim_end(), known, "{list}");
        }
        let said = supervisor.says(&["images", "--format", "{{.CreatedSince}}", "of"]);
        assert!(said.trim_end().ends_with(since), "{created}: {said}");
        // One of tomorrow is not an hour old.
        supervisor.says(&["image", "prune", "-af", "--filter", "until=1h"]);
        let left = supervisor.says(&["images", "-q", "of"]);
        assert_eq!(left.is_empty(), !said.contains("Less"), "{created}");
        supervisor.ctl(&["rmi", "of:1"]);
    }
    for word in ["2026-13-45", "2026-02-31", "nan"] {
        let refused = supervisor.ctl(&["events", "--since", word]).failure();
        refused.says("is no time");
    }
}

#[test]
fn what_images_share_is_counted_once_and_what_is_reclaimable_can_be_reclaimed() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let shared = Tar::new().file("shared", &[b'x'; 3_000_000]);
    for name in ["one", "two"] {
        let own = Tar::new().file(name, &[b'y'; 100_000]);
        let archive = saved(&format!("{name}:1"), &[shared.clone(), own]);
        feed(&supervisor, &["load"], &archive).success();
    }
    supervisor.says(&["create", "--name", "user", IMAGE, "true"]);
    let images = || {
        let format = "{{.Type}} {{.TotalCount}} {{.Size}} {{.Reclaimable}}";
        let table = supervisor.says(&["system", "df", "--format", format]);
        let line = table.lines().find(|line| line.starts_with("Images "));
        let words = line.unwrap().split(' ').skip(1).map(str::to_owned);
        words.collect::<Vec<_>>()
    };
    let objects = supervisor.says(&["system", "df", "-v", "--format", "json"]);
    let objects = objects
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let layers = objects.filter(|object| object["Kind"] == "layer").count();
    assert_eq!(layers, 4);
    let before = images();
    assert_eq!(before[0], "3");
    // Files and blobs of both: the shared layer is there once.
    assert_eq!(before[2], "6.4MB", "{before:?}");
    let pruned = supervisor.says(&["image", "prune", "-a", "-f"]);
    let reclaimed = pruned.lines().last().unwrap();
    assert!(reclaimed.ends_with(&format!(" {}", before[2])), "{pruned}");
    let after = images();
    assert_eq!((&*after[0], &*after[2]), ("1", "0B"));
    let megabytes = |size: &str| {
        let number = size.strip_suffix("MB").expect("megabytes");
        number.parse::<f64>().unwrap()
    };
    let gone = megabytes(&before[1]) - megabytes(&after[1]);
    assert!((gone - 6.4).abs() < 0.11, "{before:?} {after:?}");
}

#[test]
fn what_is_saved_has_the_names_that_it_was_asked_for_by() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    for name in ["some:1", "some:2", "other:1"] {
        supervisor.says(&["tag", IMAGE, name]);
    }
    let archive = supervisor.scratch.name("archive");
    let id = supervisor.field(IMAGE, "{{.Id}}");
    let names = |asked: &[&str]| {
        supervisor.says(&[&["save", "-o", &*archive], asked].concat());
        let line = format!("tar -xOf {archive} manifest.json");
        let manifest = finish(supervisor.in_shell(&line)).success().json();
        manifest[0]["RepoTags"].to_string()
    };
    assert_eq!(names(&["some:2"]), r#"["some:2"]"#);
    assert_eq!(names(&["some"]), r#"["some:1","some:2"]"#);
    assert_eq!(names(&[&id]), "[]");
    assert_eq!(
        names(&[&id[7..19], "other:1", "some:1"]),
        r#"["other:1","some:1"]"#
    );
    // Nobody's name is moved by what has none.
    supervisor.says(&["save", "-o", &archive, &id]);
    let loaded = supervisor.says(&["load", "-i", &archive]);
    assert!(loaded.contains(&id), "{loaded}");
}

#[test]
fn of_an_image_of_which_a_container_runs_force_takes_one_name_at_a_time() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    supervisor.says(&["tag", IMAGE, "second:1"]);
    let id = supervisor.field(IMAGE, "{{.Id}}");
    let container = supervisor.detached(&[], "sleep 1000");
    let removed = supervisor.ctl(&["rmi", "-f", &id[7..19]]).failure();
    removed.says("cannot be forced");
    assert_eq!(supervisor.field(&id, "{{len .RepoTags}}"), "2");
    supervisor.says(&["rmi", "-f", "second:1"]);
    supervisor.says(&["rmi", "-f", IMAGE]);
    assert_eq!(supervisor.field(&id, "{{len .RepoTags}}"), "0");
    supervisor.says(&["rm", "-f", &container]);
    supervisor.says(&["rmi", &id]);
    supervisor.ctl(&["inspect", &id]).failure();
}

#[test]
fn an_archive_has_its_name_when_it_is_complete_and_nothing_is_left_of_another() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let directory = supervisor.scratch.dir("out");
    let path = directory.join("archive").display().to_string();
    let names = || -> Vec<_> {
        let entries = fs::read_dir(&directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    };
    supervisor
        .ctl(&["save", "-o", &path, "no-such"])
        .failure()
        .says("no such image");
    assert!(names().is_empty());
    // Over what is there, too, and by a name without a directory.
    let id = supervisor.field(IMAGE, "{{.Id}}");
    supervisor.says(&["save", "-o", &path, IMAGE]);
    let first = fs::read(&path).unwrap();
    // What is named twice is there once.
    supervisor.says(&["save", "-o", &path, IMAGE, &id, IMAGE]);
    assert!(fs::read(&path).unwrap() == first);
    place::write(Path::new(&path), "old");
    let mut command = supervisor.command(&["save", "-o", "archive", IMAGE]);
    command.current_dir(&directory);
    integration::runtime::finish(command).success();
    assert!(fs::read(&path).unwrap() == first);
    assert_eq!(names(), ["archive"]);
    if !has_files_without_names(&directory) {
        return;
    }
    let daemon = nix::unistd::Pid::from_raw(supervisor.pid());
    nix::sys::signal::kill(daemon, Signal::SIGSTOP).unwrap();
    let client = supervisor.start(&["save", "-o", &path, IMAGE]);
    while !has_file_in(&client, &directory) {
        assert!(!client.has_ended(), "it should wait for the daemon");
        std::thread::yield_now();
    }
    client.signal(Signal::SIGKILL);
    client.wait_for_exit();
    nix::sys::signal::kill(daemon, Signal::SIGCONT).unwrap();
    assert_eq!(names(), ["archive"]);
}

#[test]
fn an_image_that_has_a_layer_twice_runs_and_keeps_all_of_its_layers() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    // Nothing has changed, so that what is committed is the same layer each time.
    let step = |from: &str, name: &str| {
        supervisor.says(&["create", "--name", name, from, "sh", "-c", "echo q >/q"]);
        if name == "told" {
            supervisor.says(&["start", "-a", name]);
        }
        supervisor.says(&["commit", name, name]);
    };
    step(IMAGE, "empty");
    step("empty", "told");
    step("told", "again");
    supervisor.says(&["run", "--name", "user", "again", "cat", "/q"]);
    assert_eq!(supervisor.says(&["logs", "user"]), "q");
    let layers = |image: &str| {
        let layers = supervisor.says(&["image", "inspect", "-f", "{{json .RootFS.Layers}}", image]);
        serde_json::from_str::<Vec<String>>(&layers).unwrap()
    };
    let all = layers("again");
    assert_eq!((all.len(), &all[1]), (4, &all[3]));
    supervisor.says(&["export", "user", "-o", "/dev/null"]);
    supervisor.says(&["commit", "user", "more"]);
    assert_eq!(layers("more")[..4], all);
    supervisor.says(&["run", "--rm", "more", "cat", "/q"]);
}

#[test]
fn an_image_without_layers_runs_what_is_mounted_in_it() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    feed(&supervisor, &["load"], &saved("nothing:1", &[])).success();
    let binaries = supervisor.scratch.dir("bin");
    let bundle = integration::Bundle::with_busybox();
    fs::copy(
        bundle.rootfs().join("bin/busybox"),
        binaries.join("busybox"),
    )
    .unwrap();
    let volume = format!("{}:/bin", binaries.display());
    let run = [
        "run",
        "--rm",
        "-v",
        &volume,
        "nothing:1",
        "/bin/busybox",
        "echo",
        "there",
    ];
    assert_eq!(supervisor.says(&run), "there");
}

#[test]
fn an_image_with_a_damaged_blob_is_not_saved() {
    require!(containers);
    let supervisor = Supervisor::without_image();
    let layer = Tar::new().file("file", &[b'x'; 100_000]);
    feed(&supervisor, &["load"], &saved("a:1", &[layer])).success();
    let blobs = fs::read_dir(supervisor.scratch.path().join("root/blobs/sha256")).unwrap();
    let blobs = blobs.map(|entry| entry.unwrap().path());
    let largest = blobs.max_by_key(|path| fs::metadata(path).unwrap().len());
    let largest = largest.unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    bytes[50_000] ^= 1;
    place::write(&largest, bytes);
    let directory = supervisor.scratch.dir("out");
    let path = directory.join("archive").display().to_string();
    let digest = largest.file_name().unwrap().display();
    supervisor
        .ctl(&["save", "-o", &path, "a:1"])
        .failure()
        .says(&format!("blob sha256:{digest} is damaged"));
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
}

#[test]
fn what_is_loaded_is_what_is_told() {
    require!(containers);
    let supervisor = Supervisor::without_image();
    let layer = [Tar::new().file("file", b"x")];
    for name in ["one:1", "two:1"] {
        let loaded = feed(&supervisor, &["load"], &saved(name, &layer)).success();
        assert_eq!(loaded.stdout, format!("Loaded image: {name}\n"));
    }
    let id = supervisor.says(&["image", "inspect", "--format", "{{.Id}}", "one:1"]) + "\n";
    let import = ["image", "import", "-q", "-", "three:1"];
    let loaded = feed(&supervisor, &import, &saved("two:1", &layer)).success();
    assert_eq!((&loaded.stdout, &*loaded.stderr), (&id, ""));
    let import = ["import", "-", "three:1"];
    let loaded = feed(&supervisor, &import, &saved("two:1", &layer)).success();
    assert_eq!(loaded.stdout, id);
    loaded.says("Loaded image: three:1");
    let rootfs = Tar::new().file("other", b"x").bytes();
    let imported = feed(&supervisor, &["import", "-"], &rootfs)
        .success()
        .stdout;
    let nameless = supervisor.scratch.name("nameless.tar");
    supervisor.says(&["save", "-o", &nameless, imported.trim_end()]);
    assert_eq!(
        supervisor.says(&["load", "-q", "-i", &nameless]),
        format!("Loaded image ID: {}", imported.trim_end())
    );
    supervisor.says(&["rmi", imported.trim_end()]);
    let ids = supervisor.says(&["images", "-q"]);
    assert_eq!(ids.lines().count(), 1, "{ids}");
    supervisor.says(&["image", "inspect", "one:1", "two:1", "three:1"]);
}

/// An OCI layout of one name that means an image for each of these architectures.
fn for_several(name: &str, architectures: &[&str]) -> Vec<u8> {
    let mut archive = Tar::new().file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    let mut add = |kind: &str, bytes: &[u8]| {
        let digest = sha256(bytes);
        archive = std::mem::take(&mut archive).file(&format!("blobs/sha256/{digest}"), bytes);
        let media_type = format!("application/vnd.oci.image.{kind}");
        json!({ "mediaType": media_type, "size": bytes.len(), "digest": format!("sha256:{digest}") })
    };
    let index = |manifests: Vec<Value>| json!({ "schemaVersion": 2, "manifests": manifests });
    let mut manifests = vec![];
    for architecture in architectures {
        let layer = add("layer.v1.tar", &Tar::new().file(architecture, b"").bytes());
        let rootfs = json!({ "type": "layers", "diff_ids": [layer["digest"]] });
        let config =
            json!({ "architecture": architecture, "os": "linux", "config": {}, "rootfs": rootfs });
        let config = add("config.v1+json", config.to_string().as_bytes());
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
        let mut manifest = add("manifest.v1+json", manifest.to_string().as_bytes());
        manifest["platform"] = json!({ "architecture": architecture, "os": "linux" });
        manifests.push(manifest);
    }
    let mut several = add("index.v1+json", index(manifests).to_string().as_bytes());
    several["annotations"] = json!({ "io.containerd.image.name": name });
    let index = index(vec![several]).to_string();
    archive.file("index.json", index.as_bytes()).bytes()
}

#[test]
fn of_an_image_for_several_machines_this_ones_is_loaded() {
    require!(containers);
    let supervisor = Supervisor::without_image();
    let several = for_several("several:1", &["s390x", ARCHITECTURE, "riscv64"]);
    let loaded = feed(&supervisor, &["load"], &several).success();
    assert_eq!(loaded.stdout, "Loaded image: several:1\n");
    assert_eq!(
        supervisor.field("several:1", "{{.Architecture}}"),
        ARCHITECTURE
    );
    let others = for_several("others:1", &["s390x", "riscv64"]);
    let refused = feed(&supervisor, &["load"], &others).failure();
    refused.says(&format!("no image for linux/{ARCHITECTURE}"));
}

#[test]
fn who_runs_an_image_of_other_machines_is_told() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let layer = [Tar::new()
        .directory("dev/")
        .directory("proc/")
        .directory("sys/")];
    let other = saved_as(&json!({ "architecture": "s390x" }), "other:1", &layer);
    feed(&supervisor, &["load"], &other).success();
    let busybox = format!("{}:/busybox", place::busybox().unwrap().display());
    for image in ["other:1", IMAGE] {
        let run = [
            "run", "--rm", "-v", &busybox, image, "/busybox", "echo", "here",
        ];
        let run = supervisor.ctl(&run).success();
        assert_eq!(run.stdout, "here\n");
        let told = run
            .stderr
            .contains("platform (linux/s390x) does not match the detected host");
        assert_eq!(told, image == "other:1", "{run}");
    }
}

#[test]
fn what_may_yet_turn_out_to_hold_an_image_and_does_not_is_not_loaded() {
    require!(containers);
    let supervisor = Supervisor::without_image();
    let flat = Tar::new().file("layer0.tar", &[b'x'; 200_000]).bytes();
    feed(&supervisor, &["load"], &flat)
        .failure()
        .says("`image import`");
    feed(&supervisor, &["image", "import", "-", "flat"], &flat).success();
    assert_eq!(
        supervisor.says(&["images", "--format", "{{.Repository}}"]),
        "flat"
    );
}

#[test]
fn what_looks_like_a_digest_names_what_has_that_digest_and_nothing_else() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let id_of = |image: &str| supervisor.says(&["image", "inspect", "--format", "{{.Id}}", image]);
    let unpacked = |image: &str, name: &str| {
        let (directory, archive) = (supervisor.scratch.dir(name), supervisor.scratch.name("tar"));
        supervisor.says(&["save", "-o", &archive, image]);
        let mut tar = std::process::Command::new("tar");
        tar.arg("-C").arg(&directory).args(["-xf", &archive]);
        integration::runtime::finish(tar).success();
        let index = fs::read(directory.join("index.json")).unwrap();
        (directory, serde_json::from_slice::<Value>(&index).unwrap())
    };
    let id = id_of(IMAGE);
    let (_, index) = unpacked(IMAGE, "ours");
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    let named = format!("{IMAGE}@{digest}");
    assert_eq!(id_of(&named), id);
    let other = saved("other:1", &[Tar::new().file("file", b"other\n")]);
    feed(&supervisor, &["load"], &other).success();
    let zeros = format!("sha256:{:064}", 0);
    for name in [&*id, &named, &zeros, "sha256", &format!("other@{zeros}")] {
        supervisor
            .ctl(&["tag", "other:1", name])
            .failure()
            .says("cannot be given as a name");
    }
    // Somebody else's archive names its image as it likes.
    let (directory, mut index) = unpacked("other:1", "theirs");
    fs::remove_file(directory.join("manifest.json")).unwrap();
    let path = directory.display().to_string();
    for annotation in [
        "io.containerd.image.name",
        "org.opencontainers.image.ref.name",
    ] {
        for name in [&id, &named] {
            index["manifests"][0]["annotations"] = serde_json::json!({ annotation: name });
            place::write(&directory.join("index.json"), index.to_string());
            supervisor.says(&["image", "import", &path]);
            assert_eq!((id_of(&id), id_of(&named)), (id.clone(), id.clone()));
        }
    }
    let listed = supervisor.says(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
    let listed: std::collections::BTreeSet<_> = listed.lines().collect();
    assert_eq!(
        listed.into_iter().collect::<Vec<_>>(),
        ["busybox:latest", "other:1"]
    );
    for name in [&id, &named] {
        let run = ["run", "--rm", name, "cat", "/srv/file"];
        assert_eq!(supervisor.says(&run), "from the image");
    }
    let lying = saved(&id, &[Tar::new().file("file", b"lying\n")]);
    feed(&supervisor, &["load"], &lying)
        .failure()
        .says("cannot be given as a name");
}

#[test]
fn an_image_with_a_lost_configuration_is_listed_and_can_go() {
    require!(containers);
    let supervisor = Supervisor::without_image();
    for name in ["whole", "broken"] {
        let archive = saved(&format!("{name}:1"), &[Tar::new().file(name, b"x")]);
        feed(&supervisor, &["load"], &archive).success();
    }
    let inspect = ["image", "inspect", "--format", "{{.Id}}", "broken:1"];
    let id = supervisor.says(&inspect);
    let blobs = supervisor.scratch.path().join("root/blobs/sha256");
    fs::remove_file(blobs.join(&id["sha256:".len()..])).unwrap();
    let list = || supervisor.says(&["images", "--format", "{{.Repository}} {{.Size}}"]);
    let listed = list();
    assert!(
        listed.contains("broken 0B") && listed.contains("whole "),
        "{listed}"
    );
    supervisor.ctl(&inspect).failure().says("blob sha256:");
    supervisor.says(&["rmi", "broken:1"]);
    assert!(!list().contains("broken"));
}

/// What was imported is told, though it may have gone since.
#[test]
fn an_image_may_be_removed_while_it_is_imported() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let archive = supervisor.scratch.name("saved.tar");
    supervisor.says(&["save", "-o", &archive, IMAGE]);
    for _ in 0..8 {
        let loading = [(); 6].map(|()| supervisor.start(&["load", "-i", &archive]));
        let removing = [(); 6].map(|()| supervisor.start(&["image", "prune", "-af"]));
        for loaded in loading.map(|command| command.wait()) {
            let loaded = loaded.success();
            assert!(loaded.stdout.contains(IMAGE), "{loaded}");
        }
        removing
            .into_iter()
            .for_each(|command| drop(command.wait().success()));
    }
}

#[test]
fn layers_that_two_bring_in_at_once_are_unpacked_once() {
    require!(containers);
    let supervisor = Supervisor::without_image();
    let layer = |number: u8| {
        let files = (0..200).map(|file| format!("{number}-{file}"));
        files.fold(Tar::new(), |layer, file| layer.file(&file, &[number; 5000]))
    };
    let archive = saved_packed("new:1", &[layer(1), layer(2), layer(3)]);
    let archive = supervisor.scratch.file("new.tar", archive);
    let load = ["load", "-q", "-i", &archive.display().to_string()];
    supervisor.pid();
    let made = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
    let layers = supervisor.scratch.path().join("root/layers");
    made.add_watch(&layers, AddWatchFlags::IN_CREATE).unwrap();
    let both = [supervisor.start(&load), supervisor.start(&load)];
    both.into_iter()
        .for_each(|client| drop(client.wait().success()));
    assert_eq!(made.read_events().unwrap().len(), 3);
}
