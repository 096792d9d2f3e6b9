//! Images that other programs have made, and other programs that take ours.

use std::process::Command;

use integration::require;
use integration::runtime::{Finished, finish};
use integration::store::{Store, Tar};
use serde_json::Value;

#[track_caller]
fn run(line: &str) -> Finished {
    let mut command = Command::new("sh");
    command.args(["-ec", line]);
    finish(command).success()
}

/// An OCI layout of two layers that umoci has made, and its image as the store has it.
fn made_by_umoci(store: &Store) -> (String, Value) {
    let layout = store.scratch.name("layout");
    let bundle = store.scratch.name("bundle");
    run(&format!(
        "umoci init --layout {layout}; umoci new --image {layout}:tag; umoci unpack --image {layout}:tag {bundle};
        mkdir {bundle}/rootfs/etc; echo one >{bundle}/rootfs/etc/one; echo two >{bundle}/rootfs/etc/two; umoci repack --refresh-bundle --image {layout}:tag {bundle};
        rm {bundle}/rootfs/etc/one; umoci repack --image {layout}:tag {bundle}; umoci config --image {layout}:tag --config.cmd /bin/true"
    ));
    let image = store
        .values(&["import", "--name", "made/by:umoci", &layout])
        .remove(0);
    (layout, image)
}

#[test]
fn what_umoci_has_made_comes_in_as_a_directory_and_as_an_archive() {
    require!(root, program("umoci"));
    let store = Store::new();
    let (layout, image) = made_by_umoci(&store);
    let raw = run(&format!("cat {layout}/index.json")).json();
    assert_eq!(image["manifest"], raw["manifests"][0]["digest"]);
    assert_eq!(image["layers"].as_array().unwrap().len(), 2);
    let archive = store.scratch.name("layout.tar");
    run(&format!("tar -C {layout} -cf {archive} ."));
    let again = store
        .values(&["import", "--name", "made/by:umoci", &archive])
        .remove(0);
    assert_eq!(again, image);
    store.call(&["verify"]).success();
}

#[test]
fn skopeo_takes_what_goes_out_and_brings_it_back_with_the_same_digests() {
    require!(root, program("umoci"), program("skopeo"));
    let store = Store::new();
    let (_, image) = made_by_umoci(&store);
    let out = store.scratch.name("out.tar");
    store.call(&["export", &out, "made/by:umoci"]).success();
    let as_oci = run(&format!("skopeo inspect oci-archive:{out}")).json();
    assert_eq!(as_oci["Digest"], image["manifest"]);
    let raw = run(&format!(
        "skopeo inspect --config --raw docker-archive:{out}:docker.io/made/by:umoci"
    ))
    .stdout;
    assert_eq!(
        format!("sha256:{}", integration::store::sha256(raw.as_bytes())),
        image["id"]
    );
    // Through both forms, into another store.
    let (layout, saved) = (
        store.scratch.name("again"),
        store.scratch.name("docker.tar"),
    );
    run(&format!(
        "skopeo copy -q oci-archive:{out} oci:{layout}:x; skopeo copy -q oci-archive:{out} docker-archive:{saved}:some/name:1"
    ));
    let other = Store::new();
    let back = other
        .values(&["import", "--name", "made/by:umoci", &layout])
        .remove(0);
    assert_eq!(back["manifest"], image["manifest"]);
    let back = other.values(&["import", &saved]).remove(0);
    assert_eq!(
        (&back["id"], &back["layers"]),
        (&image["id"], &image["layers"])
    );
    assert_eq!(back["names"][0], "docker.io/some/name:1");
    other.call(&["verify"]).success();
}

/// As GNU tar and bsdtar write them: long names, holes, attributes; what they say, the layer has.
#[test]
fn what_gnu_tar_packs_is_unpacked_as_it_was() {
    require!(root, program("tar"));
    for format in ["gnu", "pax", "ustar"] {
        let store = Store::new();
        let tree = store.scratch.name("tree");
        let archive = store.scratch.name("tree.tar");
        let long = "d".repeat(90);
        let deep = if format == "ustar" {
            long.clone()
        } else {
            format!("{long}/{long}/{long}")
        };
        run(&format!(
            "mkdir -p {tree}/{deep}; cd {tree}; echo text >{deep}/file; ln {deep}/file link; ln -s {deep} symlink; chmod 6755 {deep}/file;
            truncate -s 10M hole; printf data | dd of=hole bs=1 seek=3M conv=notrunc status=none; mkfifo fifo; chown 7:8 fifo; touch -d 2001-02-03T04:05:06.5 hole;
            tar --format={format} --sparse --xattrs -cf {archive} ."
        ));
        store.values(&["import", "--rootfs", "--name", "tree", &archive]);
        let layer = store.layer();
        let list = "find . -mindepth 1 -printf '%P %y %m %U:%G %n %l %s ' -exec stat -c %Y {} ';' | sort -k1,1 | sed -E '/ d [0-9]+ /s/ [0-9]+ ([0-9]+)$/ \\1/'; cksum hole";
        let (expected, seen) = (
            run(&format!("cd {tree}; {list}")),
            run(&format!("cd {}; {list}", layer.display())),
        );
        assert_eq!(seen.stdout, expected.stdout, "{format}");
    }
}

#[test]
fn a_whole_archive_may_be_compressed() {
    require!(root, program("gzip"));
    let store = Store::new();
    let file = store.scratch.file(
        "saved.tar",
        integration::store::saved("a:1", &[Tar::new().file("a", b"x")]),
    );
    run(&format!("gzip {}", file.display()));
    let image = store
        .values(&["import", &format!("{}.gz", file.display())])
        .remove(0);
    assert_eq!(image["names"][0], "docker.io/library/a:1");
    store.call(&["verify"]).success();
}
