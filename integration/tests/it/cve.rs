//! Published faults of runc, crun and their kin, each attacked here as its report says, as far as an image, a config or a second
//! container that shares a volume can.
//!
//! Where an attack races with the runtime, the test counts on many tries, not on a lucky one: with the protection taken out,
//! each of them fails within its tries. What an attack reaches for on the host is a file or directory of the test's own.

use integration::bundle::seen;
use integration::place::{probe, write};
use integration::{Bundle, Kind, Seen, beyond, host, require};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{Pid, mkfifo};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// The mounts of /dev in the default config.
const DEV: [&str; 4] = ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"];

mod cve_2019_5736_the_runtimes_own_file {
    use super::*;

    /// A copy to be attacked, in place of the runtime under test.
    fn expose(bundle: &mut Bundle) -> Vec<u8> {
        let contents = fs::read(&bundle.runtime.binary).unwrap();
        let copy = bundle.scratch.file("runtime", &contents);
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        bundle.runtime.binary = copy;
        contents
    }

    fn assert_untouched(bundle: &Bundle, contents: &[u8]) {
        let changed = fs::read(&bundle.runtime.binary).unwrap() != contents;
        if changed {
            // What cleans up after this test needs it.
            write(&bundle.runtime.binary, contents);
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(&bundle.runtime.binary, mode).unwrap();
        }
        assert!(!changed, "the runtime's file was changed");
    }

    #[test]
    fn cannot_be_written_to_by_who_caught_it_running() {
        require!(containers);
        beyond!(
            cannot_be_written_to_by_who_caught_it_running,
            [
                runc_race(
                    "is no program of a root without its libraries if it is linked with some"
                ),
                crun_race(
                    "is no program of a root without its libraries, so that nothing can be caught"
                )
            ]
        );
        let mut bundle = Bundle::new();
        let contents = expose(&mut bundle);
        mkfifo(&bundle.rootfs().join("fifo"), Mode::S_IRWXU).unwrap();
        bundle.config.writable().privileged().probe(&["spy"]);
        let mut container = bundle.create();
        container.start().success();
        assert_eq!(container.stdout.line(), "ready");
        // The attacker makes the runtime's own file a program of the container, which stays until somebody reads the fifo.
        let victim = container.exec_detached(&[], &["/proc/self/exe", "--log", "/fifo", "list"]);
        let mut seen = container.stdout.until("write E");
        // While it runs, the kernel itself refuses. So the attacker opens it and waits for its end.
        kill(Pid::from_raw(victim.pid), Signal::SIGKILL).unwrap();
        victim.wait();
        seen += &container.stdout.until("gave up");
        assert_untouched(&bundle, &contents);
        assert!(seen.contains("exe ok"), "{seen}");
        for outcome in ["write ok", "unlock ok"] {
            assert!(!seen.contains(outcome), "{seen}");
        }
    }

    #[test]
    fn is_read_only_in_every_command_that_enters_a_container() {
        require!(containers);
        // Others have no such commands, and would leave us waiting for them.
        if !integration::peer::is("caisson") {
            return;
        }
        let mut bundle = Bundle::new();
        let container = bundle.pause();
        let fifo = bundle.scratch.path().join("fifo");
        let config = bundle.path().join("config.json");
        for path in [&fifo, &config] {
            fs::remove_file(path).ok();
            mkfifo(path, Mode::S_IRWXU).unwrap();
        }
        let [file, place] = [&fifo, &bundle.path()].map(|path| path.display().to_string());
        let images = bundle.scratch.dir("images").display().to_string();
        let commands: [(&[&str], &Path); 6] = [
            (&["create", "--bundle", &place, "unborn"], &config),
            (&["run", "--bundle", &place, "unborn"], &config),
            (
                &[
                    "restore",
                    "--bundle",
                    &place,
                    "--image-path",
                    &images,
                    "unborn",
                ],
                &config,
            ),
            (&["exec", "--process", &file, &container.id], &fifo),
            (&["mounts", "add", &container.id, &file], &fifo),
            (&["mounts", "remove", &container.id, &file], &fifo),
        ];
        for (words, waits_for) in commands {
            let running = bundle.runtime.start(words);
            // Until it opens it too.
            let writer = fs::File::options().write(true).open(waits_for).unwrap();
            let exe = format!("/proc/{}/exe", running.pid());
            let flags = statvfs(Path::new(&exe)).unwrap().flags();
            let in_memory = fs::read_link(&exe).unwrap().starts_with("/memfd:");
            drop(writer);
            running.wait().failure();
            assert!(flags.contains(FsFlags::ST_RDONLY) || in_memory, "{words:?}");
        }
    }

    #[test]
    fn does_no_harm_as_the_containers_program_or_its_interpreter() {
        require!(containers);
        let mut bundle = Bundle::new();
        let contents = expose(&mut bundle);
        bundle.config.writable().privileged();
        let script = bundle.file("bin/script", "#!/proc/self/exe\n");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        symlink("/proc/self/exe", bundle.rootfs().join("bin/link")).unwrap();
        for program in ["/bin/script", "/bin/link", "/proc/self/exe"] {
            bundle.config.args(&[program, "--no-such-flag"]);
            // It runs in the container, as one of its programs, and knows no such flag.
            let finished = bundle.run();
            assert_untouched(&bundle, &contents);
            finished.failure();
        }
        // The loader of a program is the attacker's too; nothing of the runtime is to be loaded by it.
        bundle.config.probe(&["spy"]);
        let mut container = bundle.create();
        container.start().success();
        container.stdout.until("ready");
        for program in ["/bin/script", "/bin/link", "/proc/self/exe"] {
            let finished = container.exec(&[], &[program, "--no-such-flag"]);
            assert_untouched(&bundle, &contents);
            finished.failure();
        }
        // Whether the attacker has caught one of them in time or not.
        container.kill("KILL").success();
        let seen = container.stdout.rest();
        for outcome in ["write ok", "unlock ok"] {
            assert!(!seen.contains(outcome), "{seen}");
        }
        assert_untouched(&bundle, &contents);
    }

    #[test]
    fn and_its_processes_are_closed_to_the_container_they_enter() {
        require!(containers);
        beyond!(
            and_its_processes_are_closed_to_the_container_they_enter,
            [
                runc_race("waits for ever for a process that is looked at"),
                crun_race("is dumpable for a moment")
            ]
        );
        let mut bundle = Bundle::new();
        bundle.config.probe(&["spy"]);
        spy_on_execs(&bundle);
    }

    #[test]
    fn and_its_processes_are_closed_to_the_root_of_a_user_namespace() {
        require!(containers, userns);
        // In its own user namespace this root may trace whom it likes (CAP_SYS_PTRACE); the runtime is from outside.
        let mut bundle = Bundle::new();
        bundle
            .config
            .user_namespace(100_000, 65536)
            .privileged()
            .probe(&["spy"]);
        spy_on_execs(&bundle);
    }

    /// Until the attacker has seen the runtime's process, which shows that it looked in time; then some more.
    fn spy_on_execs(bundle: &Bundle) {
        let mut container = bundle.create();
        container.start().success();
        assert_eq!(container.stdout.line(), "ready");
        for _ in 0..40 {
            container.exec(&[], &["/bin/probe", "exit", "0"]).success();
        }
        container.kill("KILL").success();
        let seen = container.stdout.rest();
        assert!(seen.contains("exe E"), "no process was caught: {seen}");
        for line in seen.lines() {
            let (_, outcome) = line.split_once(' ').unwrap_or_default();
            assert!(matches!(outcome, "EACCES" | "EPERM"), "{seen}");
        }
    }
}

mod cve_2021_30465_destinations_that_change {
    use super::*;

    /// A volume that another container writes to: in it `target`, a directory one moment and a link to the host the next.
    fn volume(bundle: &Bundle) -> (PathBuf, PathBuf) {
        let (volume, outside) = (bundle.scratch.dir("volume"), bundle.scratch.dir("outside"));
        bundle.scratch.dir("volume/target");
        symlink(&outside, volume.join("link")).unwrap();
        (volume, outside)
    }

    /// Where a mount with this source was seen by a hook that runs before the root is changed, when the host's tree is still there.
    fn places(notes: &Path, source: &str) -> Vec<String> {
        let text = fs::read_to_string(notes).unwrap_or_default();
        text.lines()
            .flat_map(|line| {
                let note: Value = serde_json::from_str(line).unwrap();
                let seen: Seen = serde_json::from_value(note["seen"].clone()).unwrap();
                seen.mounts.to_vec()
            })
            .filter(|mount| mount.source == source)
            .map(|mount| mount.target)
            .collect()
    }

    #[test]
    fn get_no_mount_outside_the_root() {
        require!(containers);
        let mut bundle = Bundle::new();
        let (volume, outside) = volume(&bundle);
        let notes = bundle.scratch.path().join("notes");
        let note = json!({
            "path": probe(), "args": ["probe", "note", notes.to_str().unwrap(), "note"]
        });
        bundle
            .config
            .writable()
            .bind(&volume, "/data", &["rw"])
            .mount("/data/target", "tmpfs", "astray", &[])
            .push("/hooks/createContainer", note)
            .probe(&["exit", "0"]);
        swapping(&volume.join("target"), &volume.join("link"), || {
            for _ in 0..25 {
                // The destination may change under its hands: to fail is right, to mount elsewhere is not.
                bundle.run();
            }
        });
        let places = places(&notes, "astray");
        assert!(!places.is_empty(), "not one mount was made");
        let root = bundle.rootfs().display().to_string();
        assert!(
            places
                .iter()
                .all(|place| place.starts_with(&format!("{root}/"))),
            "{places:?}"
        );
        assert!(!host::mounts().iter().any(|mount| mount.source == "astray"));
        assert_eq!(fs::read_dir(outside).unwrap().count(), 0);
    }

    /// CVE-2024-45310: the directories and files that mounts need are made, and only inside.
    #[test]
    fn are_not_made_outside_the_root() {
        require!(containers);
        beyond!(
            are_not_made_outside_the_root,
            [runc_race_before(
                "1.1.14",
                "CVE-2024-45310: makes them where a link leads"
            )]
        );
        let mut bundle = Bundle::new();
        let (volume, outside) = volume(&bundle);
        bundle
            .config
            .writable()
            .bind(&volume, "/data", &["rw"])
            .probe(&["exit", "0"]);
        let file = bundle.scratch.file("file", "");
        let plain = bundle.config.clone();
        swapping(&volume.join("target"), &volume.join("link"), || {
            for round in 0..20 {
                bundle.config = plain.clone();
                bundle
                    .config
                    .mount(&format!("/data/target/{round}/a/b"), "tmpfs", "tmpfs", &[])
                    .bind(&file, &format!("/data/target/{round}/c/file"), &[])
                    .set("/process/cwd", format!("/data/target/{round}/cwd"));
                bundle.run();
            }
        });
        let made: Vec<_> = fs::read_dir(outside).unwrap().collect();
        assert!(made.is_empty(), "{made:?}");
        assert!(
            fs::read_dir(volume.join("target")).is_ok_and(|entries| entries.count() > 0)
                || fs::read_dir(volume.join("link")).is_ok_and(|entries| entries.count() > 0)
        );
    }

    #[test]
    fn that_are_links_lead_to_places_in_the_root() {
        require!(containers);
        beyond!(
            that_are_links_lead_to_places_in_the_root,
            [crun("does not make what a link points to")]
        );
        let mut bundle = Bundle::new();
        let (_, outside) = volume(&bundle);
        symlink(&outside, bundle.rootfs().join("absolute")).unwrap();
        let upwards = format!("{}{}", "../".repeat(30), outside.display());
        symlink(upwards, bundle.rootfs().join("upwards")).unwrap();
        for name in ["absolute", "upwards"] {
            let mut bundle_config = bundle.config.clone();
            bundle_config
                .writable()
                .mount(&format!("/{name}/x"), "tmpfs", "tmpfs", &[]);
            let kept = std::mem::replace(&mut bundle.config, bundle_config);
            let seen = bundle.report(&[]);
            seen.mounted(&format!("{}/x", outside.display()));
            bundle.config = kept;
        }
        assert_eq!(fs::read_dir(outside).unwrap().count(), 0);
    }
}

mod cve_2024_21626_descriptors_of_the_host {
    use super::*;

    #[test]
    fn are_no_working_directories() {
        require!(containers);
        let mut bundle = Bundle::new();
        for number in 3..=40 {
            bundle
                .config
                .set("/process/cwd", format!("/proc/self/fd/{number}"));
            bundle.run().failure();
        }
        symlink("/proc/self/fd/7/../../..", bundle.rootfs().join("work")).unwrap();
        for cwd in [
            "/work",
            "/proc/1/cwd",
            "/proc/self/root/proc/self/fd/5",
            "/dev/fd/6",
        ] {
            bundle.config.set("/process/cwd", cwd);
            if bundle.call("run", &[], "unused").status.success() {
                let seen = bundle.report(&["ls=."]);
                assert!(seen.cwd.starts_with('/'), "{cwd}: {:?}", seen.cwd);
            }
        }
    }

    #[test]
    fn are_no_working_directories_of_exec() {
        require!(containers);
        let mut bundle = Bundle::new();
        let container = bundle.pause();
        for number in 3..=40 {
            let cwd = format!("/proc/self/fd/{number}");
            container
                .exec(
                    &["--cwd", &cwd],
                    &["/bin/probe", "cat", "../../../etc/passwd"],
                )
                .failure();
        }
    }

    /// Programs of the container's that lead to one of the host's through what the runtime might have open: by their paths, as links, as scripts.
    fn ways_out(bundle: &Bundle) -> [Vec<String>; 3] {
        let outside = bundle.scratch.path().join("outside");
        fs::copy(probe(), &outside).unwrap();
        let up = "../".repeat(30);
        let way = |number| format!("/proc/self/fd/{number}/{up}{}", outside.display());
        let ways: Vec<_> = (3..24).map(way).collect();
        let (mut links, mut scripts) = (Vec::new(), Vec::new());
        for (at, way) in ways.iter().enumerate() {
            let [link, script] = ["link", "script"].map(|kind| format!("/bin/{kind}{at}"));
            symlink(way, bundle.rootfs().join(&link[1..])).unwrap();
            let file = bundle.rootfs().join(&script[1..]);
            write(&file, format!("#!{way}\n"));
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
            links.push(link);
            scripts.push(script);
        }
        [ways, links, scripts]
    }

    #[test]
    fn are_no_way_to_a_program() {
        require!(containers);
        let mut bundle = Bundle::new();
        for program in ways_out(&bundle).concat() {
            bundle
                .config
                .probe(&["exit", "0"])
                .set("/process/args/0", &*program);
            bundle.run().failure();
        }
    }

    #[test]
    fn are_no_way_to_a_program_of_exec() {
        require!(containers);
        let mut bundle = Bundle::new();
        let container = bundle.pause();
        for program in ways_out(&bundle).concat() {
            container.exec(&[], &[&program, "exit", "0"]).failure();
        }
    }

    #[test]
    fn are_no_way_to_a_program_that_is_started_later() {
        require!(containers);
        beyond!(
            are_no_way_to_a_program_that_is_started_later,
            [
                runc("start does not say that execve failed"),
                crun("start does not say that execve failed")
            ]
        );
        let mut bundle = Bundle::new();
        let [_, _, scripts] = ways_out(&bundle);
        // The hook, too, is found in the container.
        let hook = json!([{ "path": "/bin/probe", "args": ["probe", "exit", "0"] }]);
        bundle.config.set("/hooks/startContainer", hook);
        for script in scripts {
            bundle
                .config
                .probe(&["exit", "0"])
                .set("/process/args/0", &*script);
            let container = bundle.create();
            container.start().failure();
        }
    }

    #[test]
    fn are_no_way_to_a_hook() {
        require!(containers);
        let mut bundle = Bundle::new();
        bundle.config.probe(&["exit", "0"]);
        let [_, _, scripts] = ways_out(&bundle);
        for script in scripts {
            let hook = json!([{ "path": script, "args": ["probe", "exit", "0"] }]);
            bundle.config.set("/hooks/startContainer", hook);
            bundle.run().failure();
        }
    }

    #[test]
    fn do_not_reach_the_container() {
        require!(containers);
        let mut bundle = Bundle::new();
        let open = |seen: &Seen| seen.fds.keys().copied().collect::<Vec<i32>>();
        // What the caller left open by mistake belongs to that.
        let directory = Path::new("/");
        bundle.runtime = bundle
            .runtime
            .with_files(&[directory, directory, directory]);
        for flags in [&[][..], &["--no-pivot"], &["--no-new-keyring"]] {
            assert_eq!(
                open(&bundle.report_with(flags, &[])),
                [0, 1, 2],
                "{flags:?}"
            );
        }
        let reports = bundle.config.clone();
        let container = bundle.pause();
        assert_eq!(open(&container.exec_report(&[], &[])), [0, 1, 2]);
        drop(container);
        bundle.config = reports;
        let mut container = bundle.create();
        container.start().success();
        let seen: Seen = serde_json::from_str(&container.stdout.line()).unwrap();
        assert_eq!(open(&seen), [0, 1, 2]);
    }
}

mod cve_2025_31133_masks {
    use super::*;

    #[test]
    fn are_not_taken_from_the_containers_dev() {
        require!(containers);
        beyond!(
            are_not_taken_from_the_containers_dev,
            [runc_race_before(
                "1.2.8",
                "CVE-2025-31133: masks with whatever is there"
            )]
        );
        let mut bundle = Bundle::new();
        bundle.file("plain", "hidden\n");
        let secret = bundle.scratch.file("secret", "of the host\n");
        let volume = bundle.scratch.dir("volume");
        for (name, minor) in [("null", 3), ("zero", 5)] {
            let mode = Mode::from_bits_truncate(0o666);
            mknod(&volume.join(name), SFlag::S_IFCHR, mode, makedev(1, minor)).unwrap();
        }
        symlink(&secret, volume.join("link")).unwrap();
        symlink("/proc/sys/kernel/core_pattern", volume.join("other")).unwrap();
        for mount in DEV {
            bundle.config.unmount(mount);
        }
        bundle
            .config
            .writable()
            .bind(&volume, "/dev", &["rw"])
            .set("/linux/maskedPaths", json!(["/plain", "/proc/kcore"]))
            .probe(&["report", "cat=/plain", "stat=/plain", "try=write:/plain"]);
        let mut ran = 0;
        for other in ["link", "other", "zero"] {
            swapping(&volume.join("null"), &volume.join(other), || {
                for _ in 0..8 {
                    let finished = bundle.run();
                    if !finished.status.success() {
                        continue;
                    }
                    ran += 1;
                    let seen = seen(&finished);
                    assert_eq!(*seen.files["/plain"], "");
                    let stat = seen.stat("/plain");
                    assert_eq!((stat.kind, stat.rdev), (Kind::CharDevice, (1, 3)));
                }
            });
        }
        assert!(ran > 0, "no container ran");
        assert_eq!(fs::read_to_string(secret).unwrap(), "of the host\n");
    }

    #[test]
    fn are_there_even_if_the_container_has_no_null_device() {
        require!(containers);
        beyond!(
            are_there_even_if_the_container_has_no_null_device,
            [
                runc("masks with the container's /dev/null, and fails without"),
                crun("fails without the container's /dev/null")
            ]
        );
        let mut bundle = Bundle::new();
        bundle.file("plain", "hidden\n");
        bundle.dir("secret/inside");
        for mount in DEV {
            bundle.config.unmount(mount);
        }
        let empty = bundle.scratch.dir("empty");
        bundle
            .config
            .bind(&empty, "/dev", &["ro"])
            .set("/linux/maskedPaths", json!(["/plain", "/secret"]));
        let seen = bundle.report(&["cat=/plain", "ls=/secret"]);
        assert_eq!(*seen.files["/plain"], "");
        assert!(seen.lists["/secret"].is_empty());
    }
}

mod cve_2025_52565_the_console {
    use super::*;

    /// A bundle with a terminal, and with the image's own /dev.
    fn with_terminal() -> Bundle {
        let mut bundle = Bundle::new();
        for mount in DEV.iter().filter(|mount| **mount != "/dev/pts") {
            bundle.config.unmount(mount);
        }
        bundle.dir("dev/pts");
        bundle.config.writable().set("/process/terminal", true);
        bundle
    }

    #[test]
    fn is_not_mounted_where_a_link_leads_outside() {
        require!(containers);
        let mut bundle = with_terminal();
        let outside = bundle.scratch.file("outside", "of the host\n");
        let link = bundle.rootfs().join("dev/console");
        for target in [
            outside.display().to_string(),
            format!("{}{}", "../".repeat(30), outside.display()),
        ] {
            fs::remove_file(&link).ok(); // Absent the first time.
            symlink(&target, &link).unwrap();
            bundle.config.probe(&["complain", "written"]);
            let finished = bundle.run();
            assert!(
                !host::mounts()
                    .iter()
                    .any(|mount| mount.target.ends_with("/outside"))
            );
            assert_eq!(
                fs::read_to_string(&outside).unwrap(),
                "of the host\n",
                "{finished}"
            );
        }
    }

    #[test]
    fn does_not_open_what_is_read_only_or_masked() {
        require!(containers);
        let mut bundle = with_terminal();
        let link = bundle.rootfs().join("dev/console");
        for file in [
            "/proc/sys/kernel/core_pattern",
            "/proc/sysrq-trigger",
            "/proc/keys",
        ] {
            fs::remove_file(&link).ok(); // Absent the first time.
            symlink(file, &link).unwrap();
            let before = fs::read("/proc/sys/kernel/core_pattern").unwrap();
            bundle.config.privileged().probe(&[
                "report",
                &format!("try=write:{file}"),
                "try=write:/proc/sys/kernel/core_pattern",
            ]);
            let finished = bundle.run();
            if finished.status.success() {
                let seen = seen(&finished);
                assert_eq!(seen.tried("write:/proc/sys/kernel/core_pattern"), "EROFS");
                // A mask can be written to; it is the null device.
                if file != "/proc/keys" {
                    assert_eq!(seen.tried(&format!("write:{file}")), "EROFS", "{file}");
                }
            }
            assert_eq!(fs::read("/proc/sys/kernel/core_pattern").unwrap(), before);
        }
    }

    #[test]
    fn comes_from_the_containers_own_devpts_only() {
        require!(containers);
        let mut bundle = with_terminal();
        let outside = bundle.scratch.file("outside", "of the host\n");
        bundle.config.unmount("/dev/pts").probe(&["exit", "0"]);
        let (ptmx, slave) = (
            bundle.rootfs().join("dev/pts/ptmx"),
            bundle.rootfs().join("dev/pts/0"),
        );
        symlink(&outside, &slave).unwrap();
        for target in [
            "/proc/sysrq-trigger",
            "/proc/self/fd/3",
            outside.to_str().unwrap(),
        ] {
            fs::remove_file(&ptmx).ok(); // Absent the first time.
            symlink(target, &ptmx).unwrap();
            bundle.run().failure();
        }
        fs::remove_file(&ptmx).unwrap();
        mkfifo(&ptmx, Mode::S_IRWXU).unwrap();
        bundle.run().failure();
        assert_eq!(fs::read_to_string(outside).unwrap(), "of the host\n");
    }
}

mod cve_2025_52881_a_proc_that_is_none {
    use super::*;

    const SYSCTL: &str = "net.ipv4.ip_forward";

    /// A directory in the root that looks like /proc to who does not look twice.
    fn fake(bundle: &Bundle, directory: &str) -> Vec<PathBuf> {
        [
            "sys/net/ipv4/ip_forward",
            "self/attr/exec",
            "self/attr/apparmor/exec",
            "self/oom_score_adj",
            "sysrq-trigger",
        ]
        .iter()
        .map(|name| bundle.file(&format!("{directory}/{name}"), "untouched"))
        .collect()
    }

    fn assert_untouched(files: &[PathBuf]) {
        for file in files {
            assert_eq!(
                fs::read_to_string(file).unwrap(),
                "untouched",
                "{}",
                file.display()
            );
        }
    }

    #[test]
    fn gets_no_write_that_is_meant_for_the_kernel() {
        require!(containers);
        beyond!(
            gets_no_write_that_is_meant_for_the_kernel,
            [
                runc("writes sysctls through the container's /proc"),
                crun_race("writes sysctls through the container's /proc")
            ]
        );
        let mut bundle = Bundle::new();
        let files = fake(&bundle, "fake");
        fs::remove_dir(bundle.rootfs().join("proc")).unwrap();
        symlink("fake", bundle.rootfs().join("proc")).unwrap();
        bundle
            .config
            .unmount("/proc")
            .set("/linux/maskedPaths", json!([]))
            .set("/linux/readonlyPaths", json!([]))
            .writable()
            .mount("/real", "proc", "proc", &[])
            .set("/process/oomScoreAdj", 123)
            .set("/linux/sysctl", json!({ SYSCTL: "1" }));
        let seen = bundle.report(&[
            "cat=/real/sys/net/ipv4/ip_forward",
            "cat=/real/self/oom_score_adj",
        ]);
        assert_eq!(*seen.files["/real/sys/net/ipv4/ip_forward"], "1\n");
        assert_eq!(*seen.files["/real/self/oom_score_adj"], "123\n");
        assert_untouched(&files);
    }

    #[test]
    fn is_not_put_in_place_by_a_mount() {
        require!(containers);
        beyond!(
            is_not_put_in_place_by_a_mount,
            [crun("mounts over /proc and below it")]
        );
        let mut bundle = Bundle::new();
        let files = fake(&bundle, "fake");
        symlink("/", bundle.rootfs().join("loop")).unwrap();
        symlink("/proc", bundle.rootfs().join("way")).unwrap();
        let fake = bundle.rootfs().join("fake");
        let before = fs::read("/proc/sys/net/ipv4/ip_forward").unwrap();
        bundle.config.set("/linux/sysctl", json!({ SYSCTL: "1" }));
        let plain = bundle.config.clone();
        for target in [
            "/loop/proc",
            "/way",
            "/way/self",
            "/loop/proc/sys",
            "/loop/loop/proc/sys/net",
        ] {
            for bind in [true, false] {
                bundle.config = plain.clone();
                match bind {
                    true => bundle.config.bind(&fake, target, &[]),
                    false => bundle.config.mount(target, "tmpfs", "tmpfs", &[]),
                };
                bundle.create_fails().failure();
                assert_untouched(&files);
            }
        }
        assert_eq!(fs::read("/proc/sys/net/ipv4/ip_forward").unwrap(), before);
    }

    /// CVE-2019-16884: an image's volume on /proc becomes such a mount.
    #[test]
    fn is_not_put_in_place_by_a_volume() {
        require!(containers);
        beyond!(is_not_put_in_place_by_a_volume, [crun("mounts over /proc")]);
        let mut bundle = Bundle::new();
        let directory = bundle.scratch.dir("volume");
        for target in ["/proc", "/proc/", "/x/../proc", "//proc/."] {
            let plain = bundle.config.clone();
            bundle.config.bind(&directory, target, &[]);
            bundle.create_fails().failure();
            bundle.config = plain.clone();
            bundle.config.mount(target, "tmpfs", "tmpfs", &[]);
            bundle.create_fails().failure();
            bundle.config = plain;
        }
    }

    /// CVE-2019-19921, CVE-2023-27561, CVE-2023-28642.
    #[test]
    fn is_not_put_in_place_by_a_link_of_the_image() {
        require!(containers);
        for name in ["proc", "sys"] {
            let mut bundle = Bundle::new();
            let files = fake(&bundle, "fake");
            let path = bundle.rootfs().join(name);
            fs::remove_dir(&path).unwrap();
            let outside = bundle.scratch.dir("outside");
            for target in [Path::new("fake"), Path::new("/fake"), &outside] {
                symlink(target, &path).unwrap();
                bundle.create_fails().failure();
                fs::remove_file(&path).unwrap();
            }
            bundle.file(name, "");
            bundle.create_fails().failure();
            fs::remove_file(&path).unwrap();
            bundle.dir(name);
            assert_untouched(&files);
            bundle.config.probe(&["exit", "0"]);
            bundle.run().success();
        }
    }

    #[test]
    fn does_not_mislead_exec() {
        require!(containers);
        beyond!(
            does_not_mislead_exec,
            [
                runc("reads the container's /proc, whatever it is"),
                crun_before("1.21", "writes to the container's /proc, whatever it is")
            ]
        );
        let mut bundle = Bundle::new();
        bundle.config.privileged().writable().probe(&["pause"]);
        let container = bundle.pause();
        // The container's root covers /proc, and what is read there.
        let tries = ["/bin/probe", "try", "mount:/proc"];
        let finished = container.exec(&[], &tries).success();
        assert_eq!(finished.json()["mount:/proc"], "ok");
        let finished = container.exec(&["--cwd", "/tmp"], &["/bin/probe", "echo", "here"]);
        assert_eq!(finished.success().stdout, "here\n");
    }
}

mod cve_2026_41579_a_dev_that_is_a_link {
    use super::*;

    #[test]
    fn brings_nothing_onto_the_host() {
        require!(containers);
        beyond!(
            brings_nothing_onto_the_host,
            [
                runc_before("1.3.6", "makes devices and links where it leads"),
                crun_before("1.28", "makes devices and links where it leads")
            ]
        );
        let mut bundle = Bundle::new();
        let outside = bundle.scratch.dir("outside");
        for mount in DEV {
            bundle.config.unmount(mount);
        }
        bundle
            .config
            .writable()
            .set("/linux/devices", json!([
                { "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438, "uid": 7, "gid": 7 }
            ]))
            .probe(&["exit", "0"]);
        let dev = bundle.rootfs().join("dev");
        fs::remove_dir(&dev).unwrap();
        for target in [
            outside.display().to_string(),
            format!("{}{}", "../".repeat(30), outside.display()),
            "/proc/self/fd/5".to_owned(),
            "/proc/1/root".to_owned(),
        ] {
            symlink(&target, &dev).unwrap();
            // Inside the root there may or may not be such a place.
            bundle.run();
            let made: Vec<_> = fs::read_dir(&outside).unwrap().collect();
            assert!(made.is_empty(), "{target}: {made:?}");
            fs::remove_file(&dev).unwrap();
        }
    }

    #[test]
    fn brings_nothing_onto_the_host_with_mounts_below_it() {
        require!(containers);
        let mut bundle = Bundle::new();
        let outside = bundle.scratch.dir("outside");
        let dev = bundle.rootfs().join("dev");
        fs::remove_dir(&dev).unwrap();
        symlink(&outside, &dev).unwrap();
        bundle
            .config
            .set("/process/terminal", true)
            .probe(&["exit", "0"]);
        bundle.run();
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        assert!(
            !host::mounts()
                .iter()
                .any(|mount| Path::new(&mount.target).starts_with(&outside))
        );
    }
}

/// CVE-2022-29162, CVE-2022-27650: a program with inheritable file capabilities got them from exec.
#[test]
fn cve_2022_29162_exec_has_no_inheritable_capabilities() {
    require!(containers);
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    for flags in [&[][..], &["--cap", "CAP_SYS_PTRACE"], &["--user", "1000"]] {
        let seen = container.exec_report(flags, &[]);
        assert!(
            seen.caps.inheritable.is_empty(),
            "{flags:?}: {:?}",
            seen.caps
        );
        assert!(seen.caps.ambient.is_empty(), "{flags:?}: {:?}", seen.caps);
    }
}

/// CVE-2023-25809: without a cgroup namespace, an unprivileged container could write to its user's whole cgroup.
#[test]
fn cve_2023_25809_an_unprivileged_container_sees_no_cgroup_but_its_own() {
    require!(containers, userns);
    beyond!(
        cve_2023_25809_an_unprivileged_container_sees_no_cgroup_but_its_own,
        [
            runc("protects only containers of unprivileged users"),
            crun("shows the whole hierarchy")
        ]
    );
    let mut bundle = Bundle::new();
    bundle
        .config
        .user_namespace(100_000, 65536)
        .no_namespace("cgroup")
        .unmount("/sys/fs/cgroup")
        .mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev"],
        )
        .privileged();
    let seen = bundle.report(&["ls=/sys/fs/cgroup", "try=mkdir:/sys/fs/cgroup/escape"]);
    let own = seen
        .cgroup
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap()
        .to_owned();
    assert_eq!(seen.mounted("/sys/fs/cgroup").root, own);
    assert_eq!(seen.tried("mkdir:/sys/fs/cgroup/escape"), "EACCES");
}

/// CVE-2026-30892: what only resembles a number made another user.
#[test]
fn cve_2026_30892_exec_takes_no_user_that_only_resembles_one() {
    require!(containers);
    beyond!(
        cve_2026_30892_exec_takes_no_user_that_only_resembles_one,
        [
            runc("takes 4294967296 as root"),
            crun("takes a number with a space before it")
        ]
    );
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    for user in [
        ":",
        "1000:",
        ":1000",
        "1000:x",
        "x",
        "root",
        "1000x",
        "0x3e8",
        "1000 ",
        " 1000",
        "1000:1000:1000",
        "-1",
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "1e3",
        "1000,0",
        "1000;0",
        "٣",
    ] {
        let flag = format!("--user={user}");
        container
            .exec(&[&flag], &["/bin/probe", "exit", "0"])
            .failure();
    }
    assert_eq!(
        container.exec_report(&["--user", "1000:100"], &[]).uid,
        [1000; 3]
    );
}

/// Exchanges two names for as long as `during` takes, without pause, as a process in another container would.
fn swapping(one: &Path, other: &Path, during: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE).unwrap();
            }
        });
        // Also if it panics, or the scope would wait for ever.
        let _stop = OnDrop(|| stop.store(true, Ordering::Relaxed));
        during();
    });
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        self.0();
    }
}
