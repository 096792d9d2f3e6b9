//! What becomes of a layer's entries, as the files are on the disk and as overlayfs shows them.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use integration::require;
use integration::runtime::finish;
use integration::store::{ARCHITECTURE, Header, Store, TIME, Tar, saved, sha256};
use nix::mount::{MsFlags, mount, umount};
use serde_json::json;

/// Imports layers, bottom first, and mounts them.
struct Mounted {
    store: Store,
    root: PathBuf,
}

impl Mounted {
    fn new(layers: &[Tar]) -> Mounted {
        let store = Store::new();
        import(&store, "a:1", layers);
        Self::of(store)
    }

    /// What the image `a:1` is.
    fn of(store: Store) -> Mounted {
        store.call(&["verify"]).success();
        let snapshot = store.values(&["snapshot", "c", "a:1"]).remove(0);
        let lower: Vec<_> = snapshot["lower"]
            .as_array()
            .unwrap()
            .iter()
            .map(|path| path.as_str().unwrap())
            .collect();
        let root = store.scratch.dir("root");
        let text = |name: &str| snapshot[name].as_str().unwrap().to_owned();
        let options = format!(
            "lowerdir={},upperdir={},workdir={},index=off",
            lower.join(":"),
            text("upper"),
            text("work")
        );
        mount(
            Some("overlay"),
            &root,
            Some("overlay"),
            MsFlags::empty(),
            Some(&options[..]),
        )
        .unwrap();
        Mounted { store, root }
    }

    fn names(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root.join(directory)).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        umount(&self.root)
            .unwrap_or_else(|errno| panic!("umount {}: {errno}", self.root.display()));
    }
}

fn import(store: &Store, name: &str, layers: &[Tar]) {
    let file = store.scratch.file("saved.tar", saved(name, layers));
    store.call(&["import".as_ref(), file.as_os_str()]).success();
}

#[test]
fn whiteouts_hide_what_is_below_and_nothing_of_their_own_layer() {
    require!(root);
    let bottom = Tar::new()
        .directory("kept/")
        .file("kept/below", b"")
        .file("kept/gone", b"")
        .directory("emptied/")
        .file("emptied/below", b"")
        .directory("again/")
        .file("again/below", b"")
        .directory("first/")
        .file("first/below", b"")
        .file("was-file", b"")
        .directory("was-directory/")
        .file("was-directory/below", b"")
        .file("gone", b"");
    let top = Tar::new()
        .file(".wh.gone", b"")
        .file("kept/.wh.gone", b"")
        .file("kept/above", b"")
        .directory("emptied/")
        .file("emptied/above", b"")
        .file("emptied/.wh..wh..opq", b"")
        // Gone and made again, in both orders.
        .file(".wh.again", b"")
        .directory("again/")
        .file("again/above", b"")
        .directory("first/")
        .file("first/above", b"")
        .file(".wh.first", b"")
        .file(".wh.was-file", b"")
        .directory("was-file/")
        .file("was-file/above", b"")
        .file("was-directory", b"now a file")
        // What aufs kept for itself.
        .file(".wh..wh.plnk", b"")
        .file(".wh..wh.aufs/x", b"");
    let mounted = Mounted::new(&[bottom, top]);
    assert_eq!(
        mounted.names(""),
        [
            "again",
            "emptied",
            "first",
            "kept",
            "was-directory",
            "was-file"
        ]
    );
    assert_eq!(mounted.names("kept"), ["above", "below"]);
    for directory in ["emptied", "again", "first", "was-file"] {
        assert_eq!(mounted.names(directory), ["above"], "{directory}");
    }
    assert_eq!(
        fs::read(mounted.root.join("was-directory")).unwrap(),
        b"now a file"
    );
    fs::write(mounted.root.join("gone"), b"new").unwrap();
    // And the container's own, for what the upper one only uses.
    assert_eq!(mounted.store.layers().len(), 3);
}

#[test]
fn a_layer_with_an_opaque_root_hides_all_below_it() {
    require!(root);
    let layers = [
        Tar::new().file("lowest", b""),
        Tar::new().file(".wh..wh..opq", b"").file("middle", b""),
        Tar::new().file("top", b""),
    ];
    assert_eq!(Mounted::new(&layers).names(""), ["middle", "top"]);
}

#[test]
fn a_directory_that_a_layer_only_uses_is_as_below() {
    require!(root);
    let bottom = Tar::new()
        .header(&Header {
            mode: 0o1777,
            uid: 5,
            ..Header::new(b'5', "tmp/")
        })
        .header(&Header {
            mode: 0o700,
            ..Header::new(b'5', "hidden/")
        });
    let top = Tar::new()
        .file("tmp/x", b"")
        .file("new/x", b"")
        .file(".wh.hidden", b"")
        .file("hidden/x", b"");
    let mounted = Mounted::new(&[bottom, Tar::new().file("tmp/between", b""), top]);
    let stat = |name: &str| fs::metadata(mounted.root.join(name)).unwrap();
    assert_eq!(
        (
            stat("tmp").mode() & 0o7777,
            stat("tmp").uid(),
            stat("tmp").mtime()
        ),
        (0o1777, 5, TIME)
    );
    assert_eq!(mounted.names("tmp"), ["between", "x"]);
    for name in ["new", "hidden"] {
        assert_eq!(
            (stat(name).mode() & 0o7777, stat(name).uid()),
            (0o755, 0),
            "{name}"
        );
    }
    mounted.store.call(&["verify"]).success();
}

#[test]
fn an_opaque_marker_hides_what_is_in_a_directory_and_not_what_it_is() {
    require!(root);
    let odd = |path| Header {
        mode: 0o1777,
        uid: 5,
        ..Header::new(b'5', path)
    };
    let mut bottom = Tar::new();
    let names = ["tmp", "in/tmp", "gone", "gone-late"];
    for path in ["in/", "tmp/", "in/tmp/", "gone/", "gone-late/"] {
        bottom = bottom.header(&odd(path));
    }
    for name in names {
        bottom = bottom.file(&format!("{name}/below"), b"");
    }
    let top = Tar::new()
        .file("tmp/.wh..wh..opq", b"")
        .file("in/tmp/.wh..wh..opq", b"")
        .file("in/tmp/x", b"")
        // These are other directories than the ones below.
        .file(".wh.gone", b"")
        .file("gone/.wh..wh..opq", b"")
        .file("gone-late/.wh..wh..opq", b"")
        .file(".wh.gone-late", b"");
    let mounted = Mounted::new(&[bottom, top]);
    let is = |name: &str| {
        let stat = fs::metadata(mounted.root.join(name)).unwrap();
        (stat.mode() & 0o7777, stat.uid(), stat.mtime())
    };
    for name in ["tmp", "in", "in/tmp"] {
        assert_eq!(is(name), (0o1777, 5, TIME), "{name}");
    }
    for name in ["gone", "gone-late"] {
        assert_eq!(is(name), (0o755, 0, 0), "{name}");
    }
    let seen = names.map(|name| mounted.names(name).concat());
    assert_eq!(seen, ["", "x", "", ""]);
    mounted.store.call(&["verify"]).success();
}

#[test]
fn what_a_directory_is_that_a_layer_only_uses_is_for_each_image_to_say() {
    require!(root);
    let base = |mode, uid| {
        let directory = |path| Header {
            mode,
            uid,
            ..Header::new(b'5', path)
        };
        let base = Tar::new().header(&directory("usr/"));
        base.header(&directory("usr/local/"))
    };
    let shared = Tar::new().file("usr/local/app", b"").file("own/x", b"");
    let store = Store::new();
    import(&store, "poison:1", &[base(0o777, 1000), shared.clone()]);
    import(&store, "a:1", &[base(0o750, 7), shared.clone()]);
    assert_eq!(store.layers().len(), 3, "what is shared is there once");
    let mounted = Mounted::of(store);
    let store = &mounted.store;
    let is = |name: &str| {
        let stat = fs::metadata(mounted.root.join(name)).unwrap();
        (stat.mode() & 0o7777, stat.uid(), stat.mtime())
    };
    for name in ["usr", "usr/local"] {
        assert_eq!(is(name), (0o750, 7, TIME), "{name}");
    }
    assert_eq!(is("own"), (0o755, 0, 0));
    assert_eq!(mounted.names("usr/local"), ["app"]);
    // The directory that says so is the container's, and goes with it.
    assert_eq!(store.layers().len(), 4);
    store.call(&["remove", "poison:1"]).success();
    let again = store.values(&["snapshot", "c", "a:1"]).remove(0);
    assert_eq!(again["lower"].as_array().unwrap().len(), 3);
    store.call(&["verify"]).success();
    store.call(&["remove-snapshot", "c"]).success();
    assert_eq!(store.layers().len(), 2);
}

#[test]
fn a_directory_that_a_layer_only_uses_is_as_what_is_seen_of_those_below() {
    require!(root);
    let odd = |path| Header {
        mode: 0o700,
        uid: 9,
        ..Header::new(b'5', path)
    };
    let bottom = Tar::new()
        .header(&odd("a/"))
        .header(&odd("a/b/"))
        .header(&odd("file/"))
        .header(&odd("link/"))
        .header(&odd("gone/"));
    // All of `a` is new.
    let middle = Tar::new()
        .directory("a/")
        .file("a/.wh..wh..opq", b"")
        .file("a/b/x", b"")
        .file("file/x", b"")
        .file("link/x", b"")
        .file("gone/x", b"");
    let top = Tar::new()
        .file("file", b"")
        .symlink("link", "a")
        .file(".wh.gone", b"");
    let mounted = Mounted::new(&[bottom, middle, top]);
    assert_eq!(mounted.names(""), ["a", "file", "link"]);
    let stat = fs::metadata(mounted.root.join("a/b")).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.uid()), (0o755, 0));
    assert_eq!(mounted.names("a/b"), ["x"]);
    assert!(fs::metadata(mounted.root.join("file")).unwrap().is_file());
}

#[test]
fn an_image_may_have_a_layer_twice() {
    require!(root);
    let twice = Tar::new()
        .directory("d/")
        .file("d/twice", b"")
        .file("d/.wh.below", b"")
        .file("used/twice", b"");
    let below = Tar::new().directory("d/").file("d/below", b"");
    let between = Tar::new()
        .file(".wh.d", b"")
        .directory("d/")
        .file("d/between", b"")
        .header(&Header {
            mode: 0o700,
            ..Header::new(b'5', "used/")
        });
    let (empty, again) = (Tar::new(), twice.clone());
    let layers = [below, empty.clone(), twice, between, empty, again];
    let mounted = Mounted::new(&layers);
    assert_eq!(mounted.names(""), ["d", "used"]);
    assert_eq!(mounted.names("d"), ["between", "twice"]);
    assert_eq!(mounted.names("used"), ["twice"]);
    let used = fs::metadata(mounted.root.join("used")).unwrap();
    assert_eq!(used.mode() & 0o7777, 0o700);
    let image = &mounted.store.values(&["inspect", "a:1"])[0];
    assert_eq!(image["layers"].as_array().unwrap().len(), 6);
}

#[test]
fn an_image_without_layers_is_an_empty_tree() {
    require!(root);
    let mounted = Mounted::new(&[]);
    assert!(mounted.names("").is_empty());
    fs::write(mounted.root.join("new"), b"").unwrap();
    mounted.store.call(&["remove-snapshot", "c"]).success();
    assert!(mounted.store.layers().is_empty());
}

#[test]
#[expect(clippy::too_many_lines, reason = "one archive and what became of it")]
fn files_have_owner_mode_times_attributes_and_capabilities() {
    require!(root, program("getfattr"));
    // VFS_CAP_REVISION_2, effective, CAP_NET_BIND_SERVICE permitted: capabilities(7).
    let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let owned = Header {
        mode: 0o4755,
        uid: 1000,
        ..Header::new(b'0', "setuid")
    };
    let archive = Tar::new()
        .symlink("symlink-before", "nowhere")
        .directory("d/")
        .entry(&owned, b"x")
        .hard_link("d/link", "setuid")
        .hard_link("d/of-symlink", "symlink-before")
        .pax(&[
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.user.note", b"some\0thing"),
            ("mtime", b"1000000000.25"),
        ])
        .entry(
            &Header {
                uid: 1,
                mode: 0o755,
                ..Header::new(b'0', "capable")
            },
            b"x",
        )
        .pax(&[
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ])
        .file("believed", b"");
    let store = Store::new();
    store.import("a", &archive).success();
    let layer = store.layer();
    let stat = |name: &str| fs::symlink_metadata(layer.join(name)).unwrap();
    let setuid = stat("setuid");
    assert_eq!(
        (
            setuid.mode() & 0o7777,
            setuid.uid(),
            setuid.gid(),
            setuid.nlink()
        ),
        (0o4755, 1000, 1000, 2)
    );
    assert_eq!(setuid.ino(), stat("d/link").ino());
    assert_eq!(setuid.mtime(), TIME);
    assert_eq!(
        stat("d").mtime(),
        TIME,
        "though something was made in it later"
    );
    assert_eq!(stat("symlink-before").ino(), stat("d/of-symlink").ino());
    assert_eq!(stat("symlink-before").mtime(), TIME);
    assert_eq!(
        (stat("capable").mtime(), stat("capable").mtime_nsec()),
        (TIME, 250_000_000)
    );
    let attributes = attributes(&layer.join("capable"));
    assert!(
        attributes.contains("security.capability=0x0100000200040000000000000000000000000000"),
        "{attributes}"
    );
    assert!(
        attributes.contains("user.note=0x736f6d65007468696e67"),
        "{attributes}"
    );
    assert_eq!(
        self::attributes(&layer.join("believed")),
        "",
        "overlayfs would believe an image"
    );
}

/// As `getfattr --dump` has them.
fn attributes(path: &Path) -> String {
    let mut command = Command::new("getfattr");
    command
        .args(["--dump", "--match=-", "--encoding=hex", "--absolute-names"])
        .arg(path);
    finish(command).success().stdout
}

#[test]
fn files_that_are_no_files_are_made() {
    require!(root);
    let archive = Tar::new()
        .header(&Header {
            device: (1, 3),
            mode: 0o666,
            ..Header::new(b'3', "dev/null")
        })
        .header(&Header {
            device: (8, 1),
            mode: 0o660,
            uid: 6,
            ..Header::new(b'4', "dev/sda1")
        })
        .header(&Header {
            mode: 0o600,
            ..Header::new(b'6', "fifo")
        })
        .symlink("absolute", "/etc/passwd");
    let store = Store::new();
    store.import("a", &archive).success();
    store.call(&["verify"]).success();
    let stat = |name: &str| fs::symlink_metadata(store.layer().join(name)).unwrap();
    let null = stat("dev/null");
    assert!(null.file_type().is_char_device());
    assert_eq!((null.rdev(), null.mode() & 0o7777), (0x103, 0o666));
    let disk = stat("dev/sda1");
    assert!(disk.file_type().is_block_device());
    assert_eq!((disk.rdev(), disk.uid()), (0x801, 6));
    assert!(stat("fifo").file_type().is_fifo());
    assert_eq!(
        fs::read_link(store.layer().join("absolute")).unwrap(),
        Path::new("/etc/passwd")
    );
}

#[test]
fn holes_stay_holes() {
    require!(root);
    let size = 64_u64 << 20;
    let map = format!("1048576,4,{size},0");
    let mut zeros = vec![0; 1 << 20];
    zeros[500_000] = 7;
    let archive = Tar::new()
        .pax(&[
            ("GNU.sparse.size", size.to_string().as_bytes()),
            ("GNU.sparse.map", map.as_bytes()),
        ])
        .file("sparse", b"data")
        .file("zeros", &zeros);
    let store = Store::new();
    store.import("a", &archive).success();
    let path = store.layer().join("sparse");
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes.len() as u64, size);
    assert_eq!(bytes[1_048_576..1_048_580], *b"data");
    assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), 4);
    assert!(fs::metadata(&path).unwrap().blocks() <= 64);
    let path = store.layer().join("zeros");
    assert!(fs::read(&path).unwrap() == zeros);
    assert!(fs::metadata(&path).unwrap().blocks() <= 64);
}

#[test]
fn of_entries_with_one_name_the_last_counts() {
    require!(root);
    let archive = Tar::new()
        .file("twice", b"first")
        .file("twice", b"second")
        .directory("tree/")
        .file("tree/a", b"")
        .symlink("tree", "elsewhere")
        .file("then-tree", b"")
        .directory("then-tree/")
        .file("then-tree/a", b"in it")
        .directory("merged/")
        .file("merged/a", b"")
        .header(&Header {
            mode: 0o700,
            ..Header::new(b'5', "merged/")
        });
    let store = Store::new();
    store.import("a", &archive).success();
    let layer = store.layer();
    assert_eq!(fs::read(layer.join("twice")).unwrap(), b"second");
    assert_eq!(
        fs::read_link(layer.join("tree")).unwrap(),
        Path::new("elsewhere")
    );
    assert_eq!(fs::read(layer.join("then-tree/a")).unwrap(), b"in it");
    assert!(layer.join("merged/a").exists());
    assert_eq!(
        fs::metadata(layer.join("merged")).unwrap().mode() & 0o7777,
        0o700
    );
}

#[test]
fn what_is_wrong_with_a_layer_is_said_of_that_layer() {
    require!(root, program("gzip"));
    let store = Store::new();
    let (good, bad) = (Tar::new().file("a", b""), Tar::new().file("b", b""));
    let diff_ids = [&good, &bad].map(|layer| format!("sha256:{}", sha256(&layer.bytes())));
    let plain = store.scratch.file("layer.tar", bad.bytes());
    let mut gzip = Command::new("sh");
    gzip.args(["-c", "gzip -n \"$0\" && mv \"$0.gz\" \"$0\""]);
    finish({
        gzip.arg(&plain);
        gzip
    })
    .success();
    // Behind the end, something else.
    let packed = [&fs::read(&plain).unwrap()[..], b"\x1f\x8bno gzip at all"].concat();
    let config = json!({
        "architecture": ARCHITECTURE, "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let manifest = json!([{"Config": "c.json", "RepoTags": ["a:1"], "Layers": ["0/layer.tar", "1/layer.tar"]}]);
    let archive = Tar::new()
        .file("manifest.json", manifest.to_string().as_bytes())
        .file("c.json", config.to_string().as_bytes())
        .file("0/layer.tar", &good.bytes())
        .file("1/layer.tar", &packed);
    let file = store.scratch.file("saved.tar", archive.bytes());
    let refused = store.call(&["import".as_ref(), file.as_os_str()]).failure();
    refused.says(&format!("layer {}: read behind the archive", diff_ids[1]));
}

#[test]
fn layers_may_be_compressed_with_gzip_or_zstd() {
    require!(root, program("gzip"), program("zstd"));
    let store = Store::new();
    let archive = Tar::new().file("a", &b"text ".repeat(100_000));
    let plain = store.scratch.file("plain.tar", archive.bytes());
    let mut layers = Vec::new();
    for program in ["cat", "gzip", "zstd"] {
        let packed = store.scratch.name(program);
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("{program} <\"$0\" >\"$1\"")])
            .arg(&plain)
            .arg(&packed);
        finish(command).success();
        layers.push(
            store.values(&["import", "--name", program, "--rootfs", &packed])[0]["layers"].clone(),
        );
    }
    assert!(layers.iter().all(|other| *other == layers[0]), "{layers:?}");
    assert_eq!(store.layers().len(), 1, "it is one layer, however it came");
}

#[test]
fn what_is_in_a_directory_with_setgid_is_whose_it_says() {
    require!(root);
    let directory = Header {
        mode: 0o2775,
        uid: 8,
        ..Header::new(b'5', "mail/")
    };
    let suid = Header {
        mode: 0o6755,
        ..Header::new(b'0', "mail/suid")
    };
    let archive = Tar::new()
        .header(&directory)
        .entry(&suid, b"x")
        .symlink("mail/link", "suid")
        .directory("mail/inner/");
    let store = Store::new();
    store.import("a", &archive).success();
    let stat = |name: &str| fs::symlink_metadata(store.layer().join(name)).unwrap();
    assert_eq!(
        (stat("mail").mode() & 0o7777, stat("mail").gid()),
        (0o2775, 8)
    );
    for name in ["mail/suid", "mail/link", "mail/inner"] {
        assert_eq!((stat(name).uid(), stat(name).gid()), (0, 0), "{name}");
    }
    assert_eq!(stat("mail/suid").mode() & 0o7777, 0o6755);
}
