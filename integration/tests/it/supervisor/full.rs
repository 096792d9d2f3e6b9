//! A disk that is full.

use integration::supervisor::{IMAGE, Supervisor};
use integration::{host, require};
use nix::mount::{MsFlags, mount};
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

/// More than what a volume's record has otherwise: pages that the database does not have yet.
fn label() -> String {
    format!("much={}", "x".repeat(100_000))
}

/// A supervisor with an image, and its root, a file system of its own.
fn on_small_disk() -> (Supervisor, PathBuf) {
    let supervisor = Supervisor::without_image();
    let root = supervisor.scratch.dir("root");
    let size = Some("size=64m,mode=711");
    mount(Some("tmpfs"), &root, Some("tmpfs"), MsFlags::empty(), size).unwrap();
    supervisor.import();
    (supervisor, root)
}

fn fill(path: &str) {
    let mut file = File::create_new(path).unwrap();
    // As much as there is, to the last page.
    while let Ok(length) = file.write(&[0; 4096]) {
        assert!(length > 0);
    }
}

#[test]
fn a_daemon_whose_disk_was_full_works_again_as_soon_as_there_is_space() {
    require!(containers, busybox);
    host::in_own_mounts(|| {
        let (supervisor, root) = on_small_disk();
        let archive = supervisor.scratch.name("image.tar");
        let (pid, lives) = (supervisor.pid(), supervisor.detached(&[], "sleep 1000"));
        let filling = supervisor.scratch.name("root/filling");
        let label = label();
        for round in 0..3 {
            fill(&filling);
            let mut number = 0;
            let refused = loop {
                let name = format!("v{round}-{number}");
                let made = supervisor.ctl(&["volume", "create", "--label", &label, &name]);
                if !made.status.success() {
                    break made;
                }
                number += 1;
                assert!(number < 1000, "the disk is not full");
            };
            refused.says("No space left on device");
            // As long as it is full, it says so; and what is there is seen.
            let image = supervisor.ctl(&["image", "import", &archive, "other"]);
            image.failure().says("No space left on device");
            supervisor.says(&["volume", "ls"]);
            supervisor.says(&["images"]);
            std::fs::remove_file(&filling).unwrap();
            let name = format!("made-{round}");
            supervisor.says(&["volume", "create", "--label", &label, &name]);
            supervisor.says(&["image", "import", &archive, "other"]);
            assert_eq!(supervisor.says(&["run", "--rm", IMAGE, "echo", "a"]), "a");
            assert_eq!(supervisor.field(&lives, "{{.State.Status}}"), "running");
        }
        assert_eq!(supervisor.pid(), pid);
        let volumes = supervisor.says(&["volume", "ls", "-q"]);
        supervisor.crash();
        assert_eq!(supervisor.says(&["volume", "ls", "-q"]), volumes);
        assert!(volumes.contains("made-2"), "{volumes}");
        supervisor.says(&["rm", "-f", &lives]);
        supervisor.crash();
        nix::mount::umount(&root).unwrap();
    });
}

/// Makes volumes with records of this size until there is no room for one more.
fn fill_database(supervisor: &Supervisor, label: &str) {
    for number in 0.. {
        let name = format!("v{}-{number}", label.len());
        let made = supervisor.ctl(&["volume", "create", "--label", label, &name]);
        if !made.status.success() {
            made.says("No space left on device");
            return;
        }
        assert!(number < 1000, "the disk is not full");
    }
}

#[test]
fn what_is_removed_makes_room_on_a_disk_that_is_full_to_the_last_page() {
    require!(containers, busybox);
    host::in_own_mounts(|| {
        let (supervisor, root) = on_small_disk();
        supervisor.says(&["run", "--name", "box", IMAGE, "sh", "-c", "echo a >/a"]);
        let lives = supervisor.detached(&["-v", "data:/data"], "sleep 1000");
        let (filling, reserve) = (
            supervisor.scratch.name("root/filling"),
            supervisor.scratch.path().join("root/reserve"),
        );
        fill(&filling);
        for label in [&label(), "none"] {
            fill_database(&supervisor, label);
        }
        // Nothing of it is left for the next daemon either.
        supervisor.crash();
        fill_database(&supervisor, "again");
        assert!(reserve.exists());
        supervisor.says(&["rm", "-f", &lives]);
        supervisor.says(&["volume", "rm", "data"]);
        std::fs::remove_file(&filling).unwrap();
        supervisor.says(&["system", "prune", "-af"]);
        assert_eq!(supervisor.says(&["ps", "-aq"]), "");
        assert_eq!(supervisor.says(&["images", "-q"]), "");
        // For the next time.
        assert_eq!(std::fs::metadata(&reserve).unwrap().len(), 1 << 20);
        std::fs::remove_file(&reserve).unwrap();
        supervisor.crash();
        supervisor.says(&["ps"]);
        assert!(reserve.exists());
        supervisor.crash();
        nix::mount::umount(&root).unwrap();
    });
}

#[test]
fn a_commit_for_which_there_is_no_room_says_what_was_written() {
    require!(containers, busybox);
    host::in_own_mounts(|| {
        let (supervisor, root) = on_small_disk();
        let random = "head -c 8000000 /dev/urandom >/random";
        supervisor.says(&["run", "--name", "box", IMAGE, "sh", "-c", random]);
        let filling = supervisor.scratch.name("root/filling");
        fill(&filling);
        let file = File::options().write(true).open(&filling).unwrap();
        file.set_len(file.metadata().unwrap().len() - 4_000_000)
            .unwrap();
        drop(file);
        let refused = supervisor.ctl(&["commit", "box", "other"]).failure();
        let refused = refused.says("write to the store: No space left on device");
        assert!(!refused.stderr.contains("read the container"), "{refused}");
        std::fs::remove_file(&filling).unwrap();
        supervisor.says(&["commit", "box", "other"]);
        supervisor.crash();
        nix::mount::umount(&root).unwrap();
    });
}

#[test]
fn on_a_full_disk_what_can_be_done_is_done_and_what_cannot_is_not() {
    require!(containers, busybox);
    host::in_own_mounts(|| {
        let (supervisor, root) = on_small_disk();
        let lives = supervisor.detached(&["--name", "box"], "exec sleep 1000");
        let filling = supervisor.scratch.name("root/filling");
        fill(&filling);
        for label in [&label(), "none"] {
            fill_database(&supervisor, label);
        }
        let fields = || supervisor.field(&lives, "{{.Name}} {{.HostConfig.RestartPolicy.Name}}");
        let before = fields();
        for change in ["rename box other", "update --restart always box"] {
            let words: Vec<_> = change.split(' ').collect();
            let refused = supervisor.ctl(&words).failure();
            refused.says("No space left on device");
            assert_eq!(fields(), before);
        }
        assert_eq!(supervisor.says(&["exec", "box", "echo", "here"]), "here");
        let look = |verb: &[&str], status: &str| {
            supervisor.says(verb);
            assert_eq!(supervisor.field("box", "{{.State.Status}}"), status);
        };
        look(&["pause", "box"], "paused");
        look(&["unpause", "box"], "running");
        // Which process 1 does not hear.
        look(&["kill", "-s", "USR1", "box"], "running");
        look(&["stop", "-t", "0", "box"], "exited");
        supervisor.says(&["rm", "box"]);
        std::fs::remove_file(&filling).unwrap();
        supervisor.says(&["run", "--rm", IMAGE, "true"]);
        supervisor.crash();
        nix::mount::umount(&root).unwrap();
    });
}
