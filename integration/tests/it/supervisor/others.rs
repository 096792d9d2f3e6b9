//! What other users of the machine, who may not use the daemon, get of it: nothing.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use integration::runtime::finish;
use integration::supervisor::{IMAGE, Supervisor};
use integration::{require, user};

fn bundle(supervisor: &Supervisor, id: &str) -> PathBuf {
    supervisor.state.join("bundles").join(id)
}

/// Whether such a user may look at it: the path must be there.
#[track_caller]
fn is_open(path: &Path) -> bool {
    fs::symlink_metadata(path).unwrap();
    let mut look = Command::new("stat");
    look.arg(path).uid(user::UID).gid(user::GID);
    finish(look).status.success()
}

#[test]
fn no_user_of_the_machine_reaches_the_files_of_a_container() {
    require!(containers, busybox, id_mapped_mounts);
    let supervisor = Supervisor::new();
    let script = "cp /bin/busybox /srv/gift; chmod 4755 /srv/gift; echo ready; exec sleep 1000";
    let ids = ["host", "auto"].map(|mode| {
        let flags = ["--userns", mode, "-v", "data:/data", "--ipc", "shareable"];
        let id = supervisor.detached(&flags, script);
        assert_eq!(
            supervisor.start(&["logs", "-f", &id]).stdout.line(),
            "ready"
        );
        id
    });
    let root = supervisor.scratch.path().join("root");
    // The way there is open, or this would show nothing.
    assert!(is_open(supervisor.scratch.path()) && is_open(&supervisor.state.join("bundles")));
    for id in &ids {
        let bundle = bundle(&supervisor, id);
        for name in ["rootfs", "rootfs/srv/gift", "config.json", "hosts", "shm"] {
            assert!(!is_open(&bundle.join(name)), "{name}");
        }
        let upper = supervisor.field(id, "{{.GraphDriver.Data.UpperDir}}");
        assert!(!is_open(Path::new(&upper)));
        assert!(!is_open(&root.join("containers").join(id)));
    }
    assert!(!is_open(&root.join("volumes/data")));
    // Only the mapped root may go through.
    let found = fs::metadata(bundle(&supervisor, &ids[1])).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o777), (0, 0o710));
    let pid = supervisor.field(&ids[1], "{{.State.Pid}}");
    assert_eq!(
        fs::metadata(format!("/proc/{pid}")).unwrap().gid(),
        found.gid()
    );
    let joined = format!("container:{}", ids[1]);
    let flags = [
        "run",
        "--rm",
        "--userns",
        &joined,
        IMAGE,
        "cat",
        "/srv/file",
    ];
    assert_eq!(supervisor.says(&flags), "from the image");
}

#[test]
fn a_bundle_that_an_earlier_daemon_left_open_is_closed() {
    require!(containers, busybox, id_mapped_mounts);
    let supervisor = Supervisor::new();
    let ids = ["host", "auto"].map(|mode| supervisor.detached(&["--userns", mode], "sleep 1000"));
    for id in &ids {
        let open = fs::Permissions::from_mode(0o711);
        fs::set_permissions(bundle(&supervisor, id), open).unwrap();
        assert!(is_open(&bundle(&supervisor, id).join("rootfs/srv/file")));
    }
    supervisor.crash();
    supervisor.says(&["ps"]);
    for id in &ids {
        assert!(!is_open(&bundle(&supervisor, id).join("rootfs/srv/file")));
        assert_eq!(supervisor.says(&["exec", id, "echo", "here"]), "here");
        supervisor.says(&["restart", "-t", "0", id]);
        assert_eq!(supervisor.says(&["exec", id, "echo", "here"]), "here");
    }
}
