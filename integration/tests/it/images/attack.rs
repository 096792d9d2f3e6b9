//! Archives that want out of their layer, or more than there is.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use integration::runtime::Running;
use integration::store::{Header, Store, Tar};
use integration::{place, require};

/// One MiB of zeros, as zstd packs them.
const ZEROS: [u8; 50] = [
    0x28, 0xb5, 0x2f, 0xfd, 0x04, 0x68, 0x4c, 0x00, 0x00, 0x08, 0x00, 0x01, 0x00, 0xfc, 0xff, 0x39,
    0x10, 0x02, 0x02, 0x00, 0x10, 0x00, 0x02, 0x00, 0x10, 0x00, 0x02, 0x00, 0x10, 0x00, 0x02, 0x00,
    0x10, 0x00, 0x02, 0x00, 0x10, 0x00, 0x02, 0x00, 0x10, 0x00, 0x03, 0x00, 0x10, 0x00, 0xf1, 0x3e,
    0x16, 0xe1,
];

/// Names, times and contents of everything that an attack may want to change.
fn outside(store: &Store) -> Vec<String> {
    let mut seen = Vec::new();
    for directory in ["", "canary", "store"] {
        let directory = store.scratch.path().join(directory);
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let stat = fs::symlink_metadata(&path).unwrap();
            // Archives are put there, and the store's own directories live.
            if path.extension().is_none_or(|extension| extension != "tar") {
                let contents = if path.ends_with("canary/file") {
                    fs::read(&path).unwrap()
                } else {
                    Vec::new()
                };
                seen.push(format!(
                    "{} {:o} {} {} {contents:?}",
                    path.display(),
                    stat.mode(),
                    stat.uid(),
                    stat.nlink()
                ));
            }
        }
    }
    seen.sort();
    seen.retain(|line| !line.contains("/store/"));
    seen
}

/// Each of these is imported, and succeeds or says why not; and nothing outside of its layer has changed.
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn nothing_of_an_archive_gets_out_of_its_layer() {
    require!(root);
    let store = Store::new();
    store.scratch.file("canary/file", "canary");
    store.import("good", &Tar::new().file("a", b"")).success();
    let canary = store.scratch.name("canary");
    let up = format!("{}{}", "../".repeat(20), &canary[1..]);
    let file = |directory: &str| format!("{directory}/file");
    let (absolute, relative) = (file(&canary), file(&up));
    let before = outside(&store);
    let attacks: Vec<(&str, Tar, Result<(), &str>)> = vec![
        (
            "path with ..",
            Tar::new()
                .pax(&[("path", relative.as_bytes())])
                .file("x", b"bad"),
            Err("leads upwards"),
        ),
        (
            ".. in the middle",
            Tar::new().file("a/../../../b", b"bad"),
            Err("leads upwards"),
        ),
        (
            "absolute path",
            Tar::new()
                .pax(&[("path", absolute.as_bytes())])
                .file("x", b"bad"),
            Ok(()),
        ),
        (
            "absolute link, then through it",
            Tar::new()
                .pax(&[("linkpath", canary.as_bytes())])
                .symlink("l", "x")
                .file("l/file", b"bad"),
            Ok(()),
        ),
        (
            "relative link, then through it",
            Tar::new()
                .pax(&[("linkpath", up.as_bytes())])
                .symlink("l", "x")
                .file("l/file", b"bad"),
            Ok(()),
        ),
        (
            "link, then a file of its name",
            Tar::new()
                .pax(&[("linkpath", absolute.as_bytes())])
                .symlink("l", "x")
                .file("l", b"bad"),
            Ok(()),
        ),
        (
            "link, then a directory of its name",
            Tar::new()
                .pax(&[("linkpath", canary.as_bytes())])
                .symlink("l", "x")
                .header(&Header {
                    mode: 0o777,
                    ..Header::new(b'5', "l/")
                }),
            Ok(()),
        ),
        (
            "links in a circle",
            Tar::new()
                .symlink("a", "b")
                .symlink("b", "a")
                .file("a/x", b""),
            Err("Too many levels of symbolic links"),
        ),
        (
            "hard link out",
            Tar::new()
                .pax(&[("linkpath", absolute.as_bytes())])
                .hard_link("h", "x"),
            Err("is not in the layer"),
        ),
        (
            "hard link up",
            Tar::new()
                .pax(&[("linkpath", relative.as_bytes())])
                .hard_link("h", "x"),
            Err("leads upwards"),
        ),
        (
            "hard link through a link",
            Tar::new()
                .pax(&[("linkpath", canary.as_bytes())])
                .symlink("l", "x")
                .hard_link("h", "l/file"),
            Err("is not in the layer"),
        ),
        (
            "hard link to a link, then written",
            Tar::new()
                .pax(&[("linkpath", absolute.as_bytes())])
                .symlink("l", "x")
                .hard_link("h", "l")
                .file("h", b"bad"),
            Ok(()),
        ),
        (
            "hard link to a directory",
            Tar::new().directory("d/").hard_link("h", "d"),
            Err("which is a directory"),
        ),
        (
            "hard link to the root",
            Tar::new().hard_link("h", "/"),
            Err("to the root"),
        ),
        (
            "hard link to itself",
            Tar::new().file("h", b"").hard_link("h", "h"),
            Ok(()),
        ),
        (
            "whiteout of nothing",
            Tar::new().file(".wh.", b""),
            Err("whiteout of nothing"),
        ),
        (
            "whiteout of .",
            Tar::new().file("d/.wh..", b""),
            Err("whiteout of nothing"),
        ),
        (
            "whiteout of ..",
            Tar::new().file(".wh...", b""),
            Err("whiteout of nothing"),
        ),
        (
            "whiteout through a link",
            Tar::new()
                .pax(&[("linkpath", canary.as_bytes())])
                .symlink("l", "x")
                .file("l/.wh.file", b""),
            Ok(()),
        ),
        (
            "opaque through a link",
            Tar::new()
                .pax(&[("linkpath", canary.as_bytes())])
                .symlink("l", "x")
                .file("l/.wh..wh..opq", b""),
            Ok(()),
        ),
        ("the root replaced", Tar::new().symlink("./", "/"), Ok(())),
        (
            "file where a directory should be",
            Tar::new().file("f", b"").file("f/x", b""),
            Err("make its directory 'f': Not a directory"),
        ),
        (
            "a long component",
            Tar::new().pax(&[("path", &[b'a'; 300])]).file("x", b""),
            Err("File name too long"),
        ),
        (
            "a long path",
            Tar::new()
                .pax(&[("path", "a/".repeat(3000).as_bytes())])
                .file("x", b""),
            Err("a path of more than 4096 bytes"),
        ),
        (
            "NUL in a path",
            Tar::new().pax(&[("path", b"a\0b")]).file("x", b""),
            Err("NUL"),
        ),
        (
            "an unknown type",
            Tar::new().header(&Header::new(b'Z', "z")),
            Err("unknown type, 0x5a"),
        ),
        (
            "a huge name",
            Tar::new().header(&Header {
                size: 1 << 33,
                ..Header::new(b'L', "x")
            }),
            Err("a name of 8589934592 bytes"),
        ),
        (
            "a wrong checksum",
            Tar::new().data(&[1; 512]),
            Err("tar archive"),
        ),
    ];
    for (what, archive, expected) in attacks {
        let layers = store.layers().len();
        let ended = store.import("evil", &archive);
        match expected {
            Ok(()) => drop(ended.success()),
            Err(text) => {
                ended.failure().says(text);
                assert_eq!(store.layers().len(), layers, "{what} left a layer");
            }
        }
        assert_eq!(outside(&store), before, "{what}");
    }
    store.call(&["verify", "good"]).success();
    store.call(&["remove", "evil"]).success();
    // Those whose name the next one took.
    store.call(&["prune"]).success();
    assert_eq!(store.layers().len(), 1);
}

#[test]
fn what_becomes_too_large_is_refused_and_leaves_nothing() {
    require!(root);
    let store = Store::new();
    let huge = Tar::new().header(&Header {
        size: 4 << 30,
        ..Header::new(b'0', "zeros")
    });
    // A frame with the header as it is (RFC 8878, 3.1.1): one segment, its size less 256, one raw block.
    let header = &huge.bytes()[..512];
    let mut bomb = vec![0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x00, 0x01, 0x01, 0x10, 0x00];
    bomb.extend_from_slice(header);
    bomb.extend(ZEROS.repeat(4096));
    let file = store.scratch.file("bomb.tar.zst", bomb);
    store
        .call(&["import".as_ref(), "--rootfs".as_ref(), file.as_os_str()])
        .failure()
        .says("more than what is compressed can be meant to");
    // Nothing but a hole.
    let size = (1_u64 << 62).to_string();
    let sparse = Tar::new()
        .pax(&[
            ("GNU.sparse.size", size.as_bytes()),
            ("GNU.sparse.map", format!("{size},0").as_bytes()),
        ])
        .file("hole", b"");
    store
        .import("a", &sparse)
        .failure()
        .says(&format!("unpack 'hole': it has {size} bytes"));
    assert_eq!((store.layers().len(), store.blobs().len()), (0, 0));
}

#[test]
fn who_unpacks_a_layer_is_shut_in() {
    require!(root);
    let store = Store::new();
    let directory = store.scratch.dir("layer");
    let mut command = Command::new("sh");
    command
        .args(["-c", "exec \"$0\" \"$@\" 2>&1"])
        .arg(place::daemon());
    command
        .args(["unpack-layer", &std::process::id().to_string()])
        .arg(&directory);
    let mut child = Running::start(command);
    let pid = child.pid();
    // It reports when it has read so much, and then waits for more.
    let archive = Tar::new()
        .file("a", &vec![7; 8 << 20])
        .file("b", &[7; 1 << 20])
        .bytes();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&archive[..archive.len() - 4096]).unwrap();
    let said = child.stdout.line();
    assert!(said.parse::<u64>().is_ok(), "{said}");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {status}"))
            .trim()
            .to_owned()
    };
    assert_eq!(
        (field("Seccomp:"), field("NoNewPrivs:")),
        ("2".into(), "1".into())
    );
    assert_eq!(field("CapBnd:"), "0000000000000000");
    let capabilities = u64::from_str_radix(&field("CapEff:"), 16).unwrap();
    // CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, SYS_ADMIN, MKNOD, SETFCAP.
    assert_eq!(
        capabilities,
        1 | 2 | 4 | 8 | 16 | 1 << 21 | 1 << 27 | 1 << 31
    );
    let own = |name: &str| fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
    for name in ["net", "mnt", "ipc", "uts"] {
        assert_ne!(
            fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap(),
            own(name)
        );
    }
    let root = fs::metadata(format!("/proc/{pid}/root")).unwrap();
    assert_eq!(
        root.ino(),
        fs::metadata(&directory).unwrap().ino(),
        "its root is the layer"
    );
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    drop(stdin);
    let ended = child.wait().failure();
    assert!(ended.stdout.contains("the archive ends"), "{ended}");
}
