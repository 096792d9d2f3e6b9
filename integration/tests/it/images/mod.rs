//! The daemon's store of images, by `caissond store`: what comes in, what of it is on the disk, what goes out, what goes.

#![allow(
    clippy::disallowed_methods,
    reason = "files of the tests' own scratch directories"
)]

mod attack;
mod crash;
mod layers;
mod others;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use integration::require;
use integration::runtime::{Finished, finish};
use integration::store::{ARCHITECTURE, Store, Tar, saved, sha256};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};

fn small() -> Tar {
    Tar::new().directory("etc/").file("etc/motd", b"hello\n")
}

/// The kinds and names of what the store says is on the disk.
fn usage(store: &Store, kind: &str) -> Vec<Value> {
    let objects = store.values(&["usage"]).into_iter();
    objects.filter(|object| object["kind"] == kind).collect()
}

#[test]
fn an_image_is_found_by_its_names_its_id_and_the_beginning_of_it() {
    require!(root);
    let store = Store::new();
    store.import("host:5000/a/b", &small()).success();
    store.call(&["tag", "host:5000/a/b", "other:1"]).success();
    let image = &store.values(&["inspect", "other:1"])[0];
    let id = image["id"].as_str().unwrap();
    assert_eq!(
        image["names"],
        serde_json::json!(["docker.io/library/other:1", "host:5000/a/b:latest"])
    );
    for name in [
        id,
        &id["sha256:".len()..],
        &id["sha256:".len()..][..12],
        "docker.io/library/other:1",
    ] {
        assert_eq!(store.values(&["inspect", name])[0]["id"], *id, "{name}");
    }
    store
        .call(&["inspect", "other:2"])
        .failure()
        .says("no such image: other:2");
}

#[test]
fn ten_snapshots_of_an_image_share_its_layers_and_go_alone() {
    require!(root);
    let store = Store::new();
    store.import("a", &small()).success();
    let layer = store.layer();
    let mut uppers = Vec::new();
    for number in 0..10 {
        let snapshot = &store.values(&["snapshot", &format!("c{number}"), "a"])[0];
        assert_eq!(snapshot["lower"], serde_json::json!([layer]));
        let upper = snapshot["upper"].as_str().unwrap().to_owned();
        fs::write(format!("{upper}/own"), number.to_string()).unwrap();
        let again = &store.values(&["snapshot", &format!("c{number}"), "a"])[0];
        assert_eq!(snapshot, again, "the second time it is the same");
        uppers.push(upper);
    }
    assert_eq!(store.layers().len(), 1);
    let layers = usage(&store, "layer");
    assert_eq!(layers.len(), 1);
    assert_eq!(
        layers[0]["reasons"].as_array().unwrap().len(),
        11,
        "the image and ten containers: {}",
        layers[0]
    );
    assert_eq!(layers[0]["reclaimable"], 0);
    store.call(&["remove-snapshot", "c3"]).success();
    assert!(!fs::exists(&uppers[3]).unwrap());
    assert_eq!(
        fs::read_to_string(format!("{}/own", uppers[4])).unwrap(),
        "4"
    );
    assert_eq!(fs::read(layer.join("etc/motd")).unwrap(), b"hello\n");
    store.call(&["verify"]).success();
    store.call(&["remove-snapshot", "c3"]).success();
}

#[test]
fn an_image_that_a_container_uses_stays() {
    require!(root);
    let store = Store::new();
    store.import("a", &small()).success();
    store.call(&["snapshot", "c", "a"]).success();
    store
        .call(&["remove", "a"])
        .failure()
        .says("is used by container c");
    assert_eq!(
        store.values(&["prune", "--all"])[0]["deleted"],
        serde_json::json!([])
    );
    let removed = &store.values(&["remove", "--force", "a"])[0];
    assert_eq!(
        removed["deleted"],
        serde_json::json!([]),
        "only its name goes"
    );
    assert!(store.layer().join("etc/motd").exists());
    store.call(&["remove-snapshot", "c"]).success();
    assert_eq!(
        store.values(&["prune"])[0]["deleted"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!((store.layers().len(), store.blobs().len()), (0, 0));
}

#[test]
fn a_layer_of_two_images_is_there_once_and_goes_with_the_last() {
    require!(root);
    let store = Store::new();
    let top = |text: &[u8]| Tar::new().file("top", text);
    for (name, text) in [("a:1", b"one"), ("b:1", b"two")] {
        let file = store
            .scratch
            .file("saved.tar", saved(name, &[small(), top(text)]));
        store.call(&["import".as_ref(), file.as_os_str()]).success();
    }
    assert_eq!(store.layers().len(), 3);
    let removed = &store.values(&["remove", "a:1"])[0];
    assert_eq!(
        removed["untagged"],
        serde_json::json!(["docker.io/library/a:1"])
    );
    assert_eq!(store.layers().len(), 2);
    store.call(&["verify", "b:1"]).success();
    store.call(&["remove", "b:1"]).success();
    assert_eq!((store.layers().len(), store.blobs().len()), (0, 0));
}

#[test]
fn what_goes_out_comes_in_again_with_the_same_digests() {
    require!(root);
    let (store, other) = (Store::new(), Store::new());
    let file = store.scratch.file(
        "saved.tar",
        saved("a:1", &[small(), Tar::new().file("top", b"x")]),
    );
    let image = store.values(&["import".as_ref(), file.as_os_str()]);
    let out = [
        store.scratch.name("out.tar"),
        store.scratch.name("out2.tar"),
        store.scratch.name("out3.tar"),
    ];
    store.call(&["export", &out[0], "a:1"]).success();
    store.call(&["export", &out[1], "a:1"]).success();
    assert!(
        fs::read(&out[0]).unwrap() == fs::read(&out[1]).unwrap(),
        "the same bytes each time"
    );
    assert_eq!(other.values(&["import", &out[0]]), image);
    other.call(&["export", &out[2], "a:1"]).success();
    assert!(
        fs::read(&out[0]).unwrap() == fs::read(&out[2]).unwrap(),
        "from the other store too"
    );
}

#[test]
fn damage_is_found_and_repaired_from_the_blob() {
    require!(root);
    let store = Store::new();
    store.import("a", &small()).success();
    store.call(&["snapshot", "c", "a"]).success();
    let motd = store.layer().join("etc/motd");
    // As a power cut leaves a file that was never written: its size and times are right.
    let time = fs::metadata(&motd).unwrap().modified().unwrap();
    fs::write(&motd, b"\0\0\0\0\0\0").unwrap();
    fs::File::options()
        .write(true)
        .open(&motd)
        .unwrap()
        .set_modified(time)
        .unwrap();
    let found = store.call(&["verify"]).failure().says("1 of 4 are damaged");
    assert!(
        found.stdout.contains("/etc/motd has other contents"),
        "{found}"
    );
    let found = store.call(&["verify", "--repair"]).success();
    assert!(found.stdout.contains("\"repaired\":true"), "{found}");
    store.call(&["verify"]).success();
    let snapshot = &store.values(&["snapshot", "c", "a"])[0];
    let lower = snapshot["lower"][0].as_str().unwrap();
    assert_eq!(fs::read(format!("{lower}/etc/motd")).unwrap(), b"hello\n");
    fs::set_permissions(
        format!("{lower}/etc/motd"),
        fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    assert!(
        store
            .call(&["verify"])
            .failure()
            .stdout
            .contains("/etc/motd has another mode")
    );
}

#[test]
fn a_layer_with_very_many_directories_in_each_other_is_verified_to_the_bottom() {
    require!(root);
    let store = Store::new();
    let file = format!("{}file", "d/".repeat(1000));
    let tar = Tar::new().pax(&[("path", file.as_bytes())]);
    let tar = tar.file("f", b"hello\n");
    store.import("a", &tar).success();
    store.call(&["verify"]).success();
    // And again when there is nothing to be repaired.
    let found = store.call(&["verify", "--repair"]).success();
    assert!(!found.stdout.contains("repaired"), "{found}");
    fs::write(store.layer().join(&file), b"other\n").unwrap();
    let found = store.call(&["verify"]).failure().says("1 of 4 are damaged");
    assert!(found.stdout.contains("d/file has another time"), "{found}");
    let found = store.call(&["verify", "--repair"]).success();
    assert!(found.stdout.contains("\"repaired\":true"), "{found}");
    store.call(&["verify"]).success();
    assert_eq!(fs::read(store.layer().join(&file)).unwrap(), b"hello\n");
    let snapshot = &store.values(&["snapshot", "c", "a"])[0];
    let topmost = Path::new(snapshot["lower"][0].as_str().unwrap());
    assert!(topmost.join(file).parent().unwrap().is_dir());
}

#[test]
fn a_damaged_blob_is_found_and_not_called_repaired() {
    require!(root);
    let store = Store::new();
    store.import("a", &small()).success();
    let layer = usage(&store, "content")
        .into_iter()
        .max_by_key(|blob| blob["size"].as_u64())
        .unwrap();
    let digest = layer["name"].as_str().unwrap();
    let path = store
        .root()
        .join("blobs/sha256")
        .join(&digest["sha256:".len()..]);
    let mut bytes = fs::read(&path).unwrap();
    bytes[600] ^= 1;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, bytes).unwrap();
    let found = store.call(&["verify", "--repair"]).failure();
    assert!(found.stdout.contains("its bytes are those of"), "{found}");
    assert!(!found.stdout.contains("\"repaired\":true"), "{found}");
    store.import("a", &small()).success();
    store.call(&["verify"]).success();
}

#[test]
fn a_fifo_in_a_blobs_place_is_damage_and_keeps_nobody_waiting() {
    require!(root);
    let store = Store::new();
    store.import("a", &small()).success();
    for blob in fs::read_dir(store.root().join("blobs/sha256")).unwrap() {
        let path = blob.unwrap().path();
        let before = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
        let found = store.call(&["verify"]).failure();
        assert!(found.stdout.contains("no regular file"), "{found}");
        fs::remove_file(&path).unwrap();
        fs::write(&path, before).unwrap();
    }
    store.call(&["verify"]).success();
}

#[test]
fn an_archive_that_lies_about_its_content_is_refused_and_leaves_nothing() {
    require!(root);
    let store = Store::new();
    let wrong = Tar::new()
        .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
        .file(
            &format!("blobs/sha256/{:064x}", 7),
            b"not what it is called",
        );
    let layer = saved("a:1", &[small()]);
    // A byte of the layer, behind the headers of `0000.../`, `VERSION` with its data, and the layer's own two entries.
    let mut other = layer.clone();
    let place = other
        .windows(6)
        .position(|bytes| bytes == b"hello\n")
        .unwrap();
    other[place] = b'H';
    for (bytes, says) in [
        (wrong.bytes(), "and should be sha256:"),
        (other, "and the image says sha256:"),
        (layer[..layer.len() / 2].to_vec(), "the archive"),
        (
            Tar::new().file("blobs/x", b"").bytes(),
            "neither an OCI layout nor a manifest.json",
        ),
    ] {
        let file = store.scratch.file("lie.tar", bytes);
        store
            .call(&["import".as_ref(), file.as_os_str()])
            .failure()
            .says(says);
        assert_eq!(
            (store.layers().len(), store.blobs().len()),
            (0, 0),
            "{says}"
        );
    }
}

/// An OCI layout of an image of one layer, of which its manifest says this.
fn layout(layer: &Tar, media_type: &str, size: usize) -> Vec<u8> {
    let layer = layer.bytes();
    let config = json!({
        "architecture": ARCHITECTURE, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer))]},
    });
    let config = config.to_string().into_bytes();
    let part = |kind: &str, size: usize, bytes: &[u8]| {
        let media_type = format!("application/vnd.oci.image.{kind}");
        json!({"mediaType": media_type, "size": size, "digest": format!("sha256:{}", sha256(bytes))})
    };
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": part("config.v1+json", config.len(), &config), "layers": [part(media_type, size, &layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    let index = json!({"schemaVersion": 2, "manifests": [part("manifest.v1+json", manifest.len(), &manifest)]});
    let mut archive = Tar::new()
        .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
        .file("index.json", index.to_string().as_bytes());
    for blob in [&layer, &config, &manifest] {
        archive = archive.file(&format!("blobs/sha256/{}", sha256(blob)), blob);
    }
    archive.bytes()
}

#[test]
fn a_manifest_must_be_right_about_its_layers() {
    require!(root);
    let store = Store::new();
    let size = small().bytes().len();
    let right = "layer.v1.tar";
    for (media_type, size, says) in [
        (
            "layer.v1.text",
            size,
            "'application/vnd.oci.image.layer.v1.text'",
        ),
        (right, size + 1, "and should have"),
        (right, 5, "and should have 5"),
    ] {
        let archive = layout(&small(), media_type, size);
        let file = store.scratch.file("layout.tar", archive);
        let call = store.call(&["import".as_ref(), file.as_os_str()]);
        call.failure().says(says);
        assert!(store.blobs().is_empty(), "{says}");
    }
    let file = store
        .scratch
        .file("layout.tar", layout(&small(), right, size));
    store.call(&["import".as_ref(), file.as_os_str()]).success();
    store.call(&["verify"]).success();
}

/// As `saved`, with names that Docker does not give: those of layers come first.
fn freely_named(layers: &[(&str, Tar)], config_name: &str) -> Vec<u8> {
    let mut archive = Tar::new();
    let mut diff_ids = Vec::new();
    for (name, layer) in layers {
        let bytes = layer.bytes();
        diff_ids.push(format!("sha256:{}", sha256(&bytes)));
        archive = archive.file(name, &bytes);
    }
    let config = json!({
        "architecture": ARCHITECTURE, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let names: Vec<_> = layers.iter().map(|(name, _)| name).collect();
    let manifest = json!([{"Config": "config.json", "RepoTags": ["free:1"], "Layers": names}]);
    archive
        .file(config_name, config.to_string().as_bytes())
        .file("manifest.json", manifest.to_string().as_bytes())
        .bytes()
}

#[test]
fn an_archive_of_images_is_known_by_its_manifest_wherever_that_is() {
    require!(root);
    // More than is looked at when it begins.
    let large = Tar::new().file("large", &[b'x'; 200_000]);
    for layers in [
        [("layer0.tar", small()), ("layer1.tar", large.clone())],
        [("l/layer.tar", small()), ("m/layer.tar", large.clone())],
    ] {
        let store = Store::new();
        let archive = freely_named(&layers, "config.json");
        let file = store.scratch.file("free.tar", archive);
        let image = &store.values(&["import".as_ref(), file.as_os_str()])[0];
        assert_eq!(image["names"], json!(["docker.io/library/free:1"]));
        assert_eq!(image["layers"].as_array().unwrap().len(), 2);
        assert_eq!((store.layers().len(), store.blobs().len()), (2, 4));
        store.call(&["verify"]).success();
        let archive = freely_named(&layers, "other.json");
        let file = store.scratch.file("free.tar", archive);
        store
            .call(&["import".as_ref(), file.as_os_str()])
            .failure()
            .says("the archive has no file 'config.json'");
        assert_eq!(store.blobs().len(), 4);
    }
    // Files that are as flat, with a manifest of somebody else's.
    let store = Store::new();
    let flat = Tar::new()
        .file("large", &[b'x'; 200_000])
        .file("manifest.json", br#"{"name": "an application"}"#);
    let file = store.scratch.file("flat.tar", flat.bytes());
    store.call(&["import".as_ref(), file.as_os_str()]).success();
    assert!(store.layer().join("manifest.json").exists());
    assert_eq!((store.layers().len(), store.blobs().len()), (1, 3));
}

/// An archive as of `docker save`, of images of a name, a configuration and a layer each, whether these belong together or not.
fn together(images: &[(&str, &Value, &[u8])]) -> Vec<u8> {
    let (mut archive, mut manifest) = (Tar::new(), Vec::new());
    for (index, (name, config, layer)) in images.iter().enumerate() {
        let (config_path, layer_path) = (format!("{index}.json"), format!("{index}.tar"));
        archive = archive
            .file(&config_path, config.to_string().as_bytes())
            .file(&layer_path, layer);
        manifest.push(json!({"Config": config_path, "RepoTags": [name], "Layers": [layer_path]}));
    }
    archive
        .file("manifest.json", json!(manifest).to_string().as_bytes())
        .bytes()
}

/// The least that a configuration says.
fn config_of(layer: &Tar) -> Value {
    let diff_id = format!("sha256:{}", sha256(&layer.bytes()));
    json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [diff_id]}})
}

#[track_caller]
fn import(store: &Store, archive: Vec<u8>) -> Finished {
    let file = store.scratch.file("archive.tar", archive);
    store.call(&["import".as_ref(), file.as_os_str()])
}

/// Says otherwise of a blob, which stays as long as it is.
fn damage_blob(store: &Store, bytes: &[u8]) {
    let path = store.root().join("blobs/sha256").join(sha256(bytes));
    let mut damaged = bytes.to_vec();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, damaged).unwrap();
}

#[test]
fn a_blob_is_no_layer_because_an_image_says_so() {
    require!(root, program("gzip"));
    let (config, right) = (config_of(&small()), small().bytes());
    let wrong = Tar::new().file("other", b"other").bytes();
    let both = [("a:1", &config, &right[..]), ("b:1", &config, &wrong)];
    let store = Store::new();
    import(&store, together(&both))
        .failure()
        .says("and the image says sha256:");
    assert_eq!((store.layers().len(), store.blobs().len()), (0, 0));
    import(&store, together(&both[..1])).success();
    let before = store.blobs();
    import(&store, together(&both[1..]))
        .failure()
        .says("and the image says sha256:");
    assert_eq!((store.layers().len(), store.blobs()), (1, before));
    store.call(&["verify"]).success();
    // The same layer in other bytes.
    let packed = gzip(&store, &right);
    for _ in 0..2 {
        import(&store, together(&[("c:1", &config, &packed)])).success();
        assert_eq!(store.layers().len(), 1);
    }
    store.call(&["verify"]).success();
}

fn gzip(store: &Store, bytes: &[u8]) -> Vec<u8> {
    let plain = store.scratch.file("plain", bytes);
    let mut command = Command::new("gzip");
    command.arg("-kf").arg(&plain);
    finish(command).success();
    fs::read(plain.with_extension("gz")).unwrap()
}

#[test]
fn a_layer_is_repaired_from_any_blob_that_is_right() {
    require!(root, program("gzip"));
    let (config, right) = (config_of(&small()), small().bytes());
    let store = Store::new();
    let packed = gzip(&store, &right);
    let images = [("a:1", &config, &right[..]), ("c:1", &config, &packed)];
    import(&store, together(&images)).success();
    damage_blob(&store, &right);
    let found = store.call(&["verify"]).failure().says("1 of ");
    let object = format!("\"object\":\"sha256:{}\"", sha256(&right));
    assert!(found.stdout.contains(&object), "{found}");
    let motd = store.layer().join("etc/motd");
    fs::write(&motd, b"HELLO\n").unwrap();
    let found = store.call(&["verify", "--repair", "a:1"]).failure();
    assert!(found.stdout.contains("\"repaired\":true"), "{found}");
    assert_eq!(
        fs::read(store.layer().join("etc/motd")).unwrap(),
        b"hello\n"
    );
    store.call(&["verify", "c:1"]).success();
}

#[test]
fn an_image_need_not_say_for_which_machines_it_is() {
    require!(root);
    let store = Store::new();
    let layer = small().bytes();
    let mut config = json!({"rootfs": config_of(&small())["rootfs"]});
    for (name, os) in [("none:1", None), ("null:1", Some(Value::Null))] {
        if let Some(os) = os {
            config["os"] = os;
        }
        import(&store, together(&[(name, &config, &layer)])).success();
        let id = format!("sha256:{}", sha256(config.to_string().as_bytes()));
        assert_eq!(store.values(&["inspect", name])[0]["id"], json!(id));
    }
    let nothing = json!({"os": "linux"});
    import(&store, together(&[("bad:1", &nothing, &layer)]))
        .failure()
        .says("configuration '0.json' of image 'bad:1': missing field `rootfs`");
}

#[test]
fn a_lost_database_is_no_reason_to_remove_what_only_it_knew() {
    require!(root);
    let store = Store::new();
    store.import("a", &small()).success();
    let (database, kept) = (
        store.root().join("caisson.redb"),
        store.scratch.name("kept"),
    );
    fs::copy(&database, &kept).unwrap();
    let before = (store.layers(), store.blobs());
    let empty: fn(&Path) = |path| fs::write(path, "").unwrap();
    let ways: [fn(&Path); 3] = [
        |path| fs::remove_file(path).unwrap(),
        empty,
        // And once more with what the refused one has made.
        |_| {},
    ];
    for lose in ways {
        lose(&database);
        let said = store.call(&["images"]).failure();
        let root = store.root();
        said.says(&format!("{} is not: ", root.join("blobs/sha256").display()))
            .says(&format!(
                "restore the database, or move {} away",
                root.display()
            ));
        assert_eq!((store.layers(), store.blobs()), before);
    }
    fs::copy(&kept, &database).unwrap();
    store.call(&["verify", "a"]).success();
    fs::rename(store.root(), store.scratch.name("away")).unwrap();
    store.import("a", &small()).success();
}

#[test]
fn what_is_left_of_a_first_start_is_begun_again() {
    require!(root);
    // Before the database has a size, before it has its first bytes, and before it says anything.
    for bytes in [0, 1 << 20] {
        let store = Store::new();
        fs::create_dir_all(store.root().join("blobs/sha256")).unwrap();
        fs::create_dir_all(store.root().join("containers")).unwrap();
        fs::write(store.root().join("caisson.redb"), vec![0; bytes]).unwrap();
        store.import("a", &small()).success();
        store.call(&["verify", "a"]).success();
    }
}

#[test]
fn a_damaged_database_is_called_so() {
    require!(root);
    let store = Store::new();
    for name in ["a", "b", "c"] {
        store.import(name, &small().file(name, b"x")).success();
    }
    let database = store.root().join("caisson.redb");
    let whole = fs::read(&database).unwrap();
    let before = (store.layers(), store.blobs());
    let mut refused = 0;
    for page in 0..whole.len() / 4096 {
        let mut bytes = whole.clone();
        let mut random = 0x9e37_79b9_7f4a_7c15_u64.wrapping_add(page as u64);
        for byte in bytes[page * 4096..].iter_mut().take(3 * 4096) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            *byte = random as u8;
        }
        fs::write(&database, bytes).unwrap();
        let said = store.call(&["images"]);
        // There are pages that nothing is on.
        if !said.status.success() {
            let away = format!("restore the file, or move {} away", store.root().display());
            said.says("the database is damaged").says(&away);
            refused += 1;
        }
        assert_eq!((store.layers(), store.blobs()), before, "page {page}");
    }
    assert!(refused > 3, "{refused}");
    fs::write(&database, whole).unwrap();
    store.call(&["verify"]).success();
}
