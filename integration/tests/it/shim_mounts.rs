//! The mounts that containerd's snapshotters ask a shim for: overlays of many layers, id-mapped ones, loop devices, targets below the root.

use integration::shim::Shim;
use integration::{Bundle, host, require, runtime};
use shim::protos::types::Mount;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A shim whose container's root is what is mounted in the bundle.
fn shim() -> Shim {
    let mut bundle = Bundle::new();
    bundle
        .config
        .probe(&["pause"])
        .set("/root/path", "./rootfs")
        .set("/root/readonly", false);
    Shim::start(bundle)
}

fn mount(kind: &str, source: &Path, target: &str, options: &[String]) -> Mount {
    Mount {
        type_: kind.into(),
        source: source.display().to_string(),
        target: target.into(),
        options: options.to_vec(),
        ..Default::default()
    }
}

fn lower(layers: &[PathBuf]) -> String {
    let layers: Vec<String> = layers
        .iter()
        .map(|layer| layer.display().to_string())
        .collect();
    format!("lowerdir={}", layers.join(":"))
}

/// Has the container created and started, looks at its root, and has it go.
#[track_caller]
fn seen(shim: &Shim, mounts: Vec<Mount>, look: impl FnOnce(&Path)) {
    let id = shim.id().to_owned();
    shim.create_with(&id, |request| request.rootfs = mounts)
        .unwrap();
    shim.start_process(&id, "").unwrap();
    assert_eq!(shim.line(&id), "ready");
    let rootfs = shim.directory(&id).join("rootfs");
    look(&rootfs);
    shim.kill(&id, "", 9).unwrap();
    shim.wait(&id, "").unwrap();
    shim.delete(&id, "").unwrap();
    assert_unmounted(&rootfs);
}

#[track_caller]
fn assert_unmounted(rootfs: &Path) {
    let mounts = host::mounts();
    let left: Vec<_> = mounts
        .iter()
        .filter(|mount| Path::new(&mount.target).starts_with(rootfs))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(fs::read_dir(rootfs).unwrap().count(), 0);
}

#[test]
fn an_overlay_may_have_as_many_layers_as_the_kernel_takes() {
    require!(containers);
    let shim = shim();
    let scratch = &shim.bundle.scratch;
    let mut layers: Vec<PathBuf> = (0..300)
        .map(|number| {
            let name = format!("snapshots-with-a-long-path-as-snapshotters-have-them/{number}/fs");
            scratch.file(&format!("{name}/file-{number}"), "");
            scratch.path().join(name)
        })
        .collect();
    layers.push(shim.bundle.rootfs());
    let options = [
        lower(&layers),
        format!("upperdir={}", scratch.dir("upper").display()),
        format!("workdir={}", scratch.dir("work").display()),
        "nosuid".to_owned(),
    ];
    seen(
        &shim,
        vec![mount("overlay", Path::new("overlay"), "", &options)],
        |rootfs| {
            for number in [0, 150, 299] {
                assert!(rootfs.join(format!("file-{number}")).exists());
            }
            assert!(rootfs.join("bin/probe").exists());
            place_in(rootfs, "written");
            let mounted = host::mounts()
                .into_iter()
                .find(|mount| Path::new(&mount.target) == rootfs)
                .unwrap();
            assert!(mounted.has(&["nosuid"]));
        },
    );
    assert!(shim.bundle.scratch.path().join("upper/written").exists());
}

fn place_in(rootfs: &Path, name: &str) {
    fs::File::create_new(rootfs.join(name)).unwrap();
}

#[test]
fn an_overlay_may_be_id_mapped() {
    require!(containers, id_mapped_mounts);
    let shim = shim();
    let scratch = &shim.bundle.scratch;
    scratch.file("layer/file", "");
    let options = [
        lower(&[scratch.path().join("layer"), shim.bundle.rootfs()]),
        format!("upperdir={}", scratch.dir("upper").display()),
        format!("workdir={}", scratch.dir("work").display()),
        "uidmap=0:100000:1000".to_owned(),
        "gidmap=0:200000:1000".to_owned(),
    ];
    seen(
        &shim,
        vec![mount("overlay", Path::new("overlay"), "", &options)],
        |rootfs| {
            for name in ["file", "bin/probe"] {
                let file = fs::metadata(rootfs.join(name)).unwrap();
                assert_eq!((file.uid(), file.gid()), (100_000, 200_000), "{name}");
            }
            let mounts = host::mounts();
            let here = mounts
                .iter()
                .filter(|mount| Path::new(&mount.target).starts_with(rootfs));
            assert_eq!(here.count(), 1, "the layers' own mounts are gone");
        },
    );
}

#[test]
fn a_bind_mount_may_be_id_mapped() {
    require!(containers, id_mapped_mounts);
    let shim = shim();
    let options = [
        "rbind",
        "ro",
        "uidmap=0:100000:1000",
        "gidmap=0:200000:1000",
    ]
    .map(String::from);
    let source = shim.bundle.rootfs();
    seen(
        &shim,
        vec![mount("bind", &source, "", &options)],
        |rootfs| {
            let file = fs::metadata(rootfs.join("bin/probe")).unwrap();
            assert_eq!((file.uid(), file.gid()), (100_000, 200_000));
            let refused = fs::File::create_new(rootfs.join("new")).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
        },
    );
}

#[test]
fn maps_come_in_pairs_and_are_read() {
    require!(containers);
    let shim = shim();
    let id = shim.id().to_owned();
    for options in [
        &["rbind", "uidmap=0:1:1"][..],
        &["rbind", "uidmap=x", "gidmap=0:1:1"],
    ] {
        let options: Vec<String> = options.iter().map(|word| (*word).to_owned()).collect();
        let source = shim.bundle.rootfs();
        let refused = shim.create_with(&id, |request| {
            request.rootfs = vec![mount("bind", &source, "", &options)]
        });
        assert!(refused.unwrap_err().1.contains("ids"));
        assert_unmounted(&shim.directory(&id).join("rootfs"));
    }
}

#[test]
fn a_file_is_mounted_by_way_of_a_loop_device() {
    require!(containers, program("mke2fs"), path("/dev/loop-control"));
    let shim = shim();
    let image = shim.bundle.scratch.path().join("image");
    let mut make = Command::new("mke2fs");
    make.args(["-q", "-t", "ext4", "-d"])
        .arg(shim.bundle.rootfs())
        .arg(&image)
        .arg("64M");
    runtime::finish(make).success();
    let attached = || {
        let devices = fs::read_dir("/sys/block").unwrap().flatten();
        let files = devices
            .filter_map(|device| fs::read_to_string(device.path().join("loop/backing_file")).ok());
        files.filter(|file| Path::new(file.trim()) == image).count()
    };
    seen(
        &shim,
        vec![mount("ext4", &image, "", &["loop".to_owned()])],
        |rootfs| {
            assert!(rootfs.join("bin/probe").exists());
            assert_eq!(attached(), 1);
        },
    );
    // The last to let go of it is the container's own mount namespace.
    for _ in 0..200 {
        if attached() == 0 {
            return;
        }
        std::thread::park_timeout(std::time::Duration::from_millis(10));
    }
    panic!("the device stays");
}

#[test]
fn a_mount_may_go_below_the_root_and_nowhere_else() {
    require!(containers);
    let shim = shim();
    let root = shim.bundle.rootfs();
    symlink("/", root.join("up")).unwrap();
    let bind = mount("bind", &root, "", &["rbind".to_owned()]);
    let tmpfs = |target: &str| {
        mount(
            "tmpfs",
            Path::new("tmpfs"),
            target,
            &["size=64k".to_owned()],
        )
    };
    seen(
        &shim,
        vec![bind.clone(), tmpfs("/var"), tmpfs("up/../up/../../tmp")],
        |rootfs| {
            let mounts = host::mounts();
            let here = mounts
                .iter()
                .filter(|mount| Path::new(&mount.target).starts_with(rootfs));
            assert_eq!(here.count(), 3);
            for target in ["var", "tmp"] {
                assert!(
                    mounts
                        .iter()
                        .any(|mount| Path::new(&mount.target) == rootfs.join(target)),
                    "{target}"
                );
            }
        },
    );
    let id = shim.id().to_owned();
    let missing = shim.create_with(&id, |request| {
        request.rootfs = vec![bind, tmpfs("/var"), tmpfs("/nothing")]
    });
    assert!(missing.unwrap_err().1.contains("find nothing in "));
    assert_unmounted(&shim.directory(&id).join("rootfs"));
}
