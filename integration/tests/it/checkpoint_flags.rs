//! The flags of `checkpoint` and `restore`, and CRIU's own configuration: each shows where it can be seen, with the real CRIU.

use crate::checkpoint::{counter, counts, images, restore, restore_with, running, saved};
use integration::console::{OnTerminal, Terminal};
use integration::runtime::{Running, finish, readable};
use integration::{Container, beyond, place, require};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

#[test]
fn what_crius_configuration_says_to_leave_is_left() {
    require!(criu);
    let mut bundle = counter();
    let file = bundle.scratch.path().join("criu.conf");
    bundle
        .config
        .set("/annotations/org.criu.config", file.to_str().unwrap());
    let mut container = running(&mut bundle);
    let images = images(&bundle, "images");
    for (number, word) in (1..).zip(["leave-running", "leave-stopped"]) {
        place::write(&file, format!("{word}\n"));
        let saved = container.checkpoint(&["--image-path", &images]).success();
        saved.says("unable to destroy container: container still running");
        assert_eq!(container.status(), "running");
        container.kill("CONT").success();
        counts(&mut container, number..=number);
    }
    place::write(&file, "");
    let id = container.id.clone();
    container.checkpoint_away(&["--image-path", &images]);
    counts(&mut restore(&bundle, &images, &id), 3..=3);
}

#[test]
fn logs_are_in_the_work_path_and_images_in_theirs() {
    require!(criu);
    let mut bundle = counter();
    let container = running(&mut bundle);
    let (images, work) = (images(&bundle, "images"), images(&bundle, "work"));
    let paths = ["--image-path", &images, "--work-path", &work];
    let flags = [&paths[..], &["--empty-ns", "network"]].concat();
    let id = container.id.clone();
    container.checkpoint_away(&flags);
    let mut restored = restore_with(&bundle, &flags, &id);
    counts(&mut restored, 1..=1);
    let has = |directory: &str, name: &str| Path::new(directory).join(name).exists();
    for name in ["dump.log", "restore.log"] {
        assert!(has(&work, name) && !has(&images, name), "{name}");
    }
    assert!(has(&images, "inventory.img") && !has(&work, "inventory.img"));
}

#[test]
fn a_terminal_of_the_callers_is_replaced_by_that_of_restore() {
    require!(criu);
    beyond!(
        a_terminal_of_the_callers_is_replaced_by_that_of_restore,
        [runc("wants to send a new one to a console socket")]
    );
    let bundle = counter();
    bundle.save();
    let (path, id) = (bundle.path().display().to_string(), place::unique("box"));
    let on_terminal = |verb: &[&str]| {
        let words = [verb, &["--detach", "--bundle", &path, &id]].concat();
        let command = OnTerminal::start(bundle.runtime.command(&words), 24, 80);
        let (status, mut terminal) = command.leave();
        assert!(status.success(), "{}", terminal.output.rest());
        terminal
    };
    let counts = |terminal: &mut Terminal, number: u32| {
        bundle.runtime.call(&["kill", &id, "USR1"]).success();
        assert_eq!(terminal.output.line(), format!("count {number}"));
    };
    let mut terminal = on_terminal(&["run"]);
    assert_eq!(terminal.output.line(), "ready");
    counts(&mut terminal, 1);
    let images = images(&bundle, "images");
    let save = |flags: &[&str]| {
        let words = [&["checkpoint", "--image-path", &images], flags, &[&id]].concat();
        bundle.runtime.call(&words)
    };
    save(&[]).failure().says("criu failed");
    save(&["--shell-job"]).success();

    let flags = ["--shell-job", "--image-path", &images];
    let mut terminal = on_terminal(&[&["restore"], &flags[..]].concat());
    counts(&mut terminal, 2);
    bundle.runtime.call(&["delete", "--force", &id]).success();
    bundle.assert_gone(&id);
}

#[test]
fn a_socket_of_the_hosts_is_connected_again() {
    require!(criu);
    let mut bundle = counter();
    let directory = bundle.scratch.dir("sockets");
    let path = directory.join("log");
    let socket = UnixDatagram::bind(&path).unwrap();
    let directory = directory.to_str().unwrap();
    bundle
        .config
        .bind(directory, directory, &[])
        .no_namespace("network")
        .probe(&["count", "to-socket", path.to_str().unwrap()]);
    let mut container = running(&mut bundle);
    counts(&mut container, 1..=1);
    let images = images(&bundle, "images");
    let flags = ["--image-path", &images];
    container.checkpoint(&flags).failure().says("criu failed");
    let flags = ["--ext-unix-sk", "--image-path", &images];
    let id = container.id.clone();
    container.checkpoint_away(&flags);
    counts(&mut restore_with(&bundle, &flags, &id), 2..=2);
    for number in 1..=2 {
        assert!(readable(&socket));
        let mut text = [0; 16];
        let length = socket.recv(&mut text).unwrap();
        assert_eq!(text[..length], *format!("count {number}").as_bytes());
    }
}

#[test]
fn connections_are_closed_by_restore_if_it_is_to() {
    require!(criu);
    beyond!(
        connections_are_closed_by_restore_if_it_is_to,
        [runc("has no --tcp-close and no --network-lock")]
    );
    let mut bundle = counter();
    bundle.config.set("/root/readonly", false);
    bundle.config.probe(&["count", "by-network", "/lock"]);
    let mut container = running(&mut bundle);
    counts(&mut container, 1..=1);
    let images = images(&bundle, "images");
    let save = ["--tcp-established", "--network-lock", "skip"];
    let flags = ["--file-locks", "--image-path", &images];
    let id = container.id.clone();
    container.checkpoint_away(&[&save[..], &flags].concat());
    let mut restored = restore_with(&bundle, &[&["--tcp-close"], &flags[..]].concat(), &id);
    kill(Pid::from_raw(restored.pid), Signal::SIGUSR1).unwrap();
    // What the probe returns that could not write.
    assert_eq!(restored.wait(), 99);
}

#[test]
fn connections_that_are_not_accepted_are_left_out_if_asked_for() {
    require!(criu);
    let mut bundle = counter();
    bundle.config.probe(&["count", "unless-connected"]);
    let container = running(&mut bundle);
    let images = images(&bundle, "images");
    let flags = ["--image-path", &images];
    container.checkpoint(&flags).failure().says("criu failed");
    let id = container.id.clone();
    container.checkpoint_away(&["--tcp-skip-in-flight", "--image-path", &images]);
    counts(&mut restore(&bundle, &images, &id), 1..=1);
}

#[test]
fn a_file_whose_name_is_gone_is_found_by_a_link() {
    require!(criu);
    let mut bundle = counter();
    bundle.config.set("/root/readonly", false);
    let way = ["count", "by-unlinked-file", "/gone", "/there"];
    bundle.config.probe(&way);
    let mut container = running(&mut bundle);
    counts(&mut container, 1..=1);
    let images = images(&bundle, "images");
    let flags = ["--image-path", &images];
    container.checkpoint(&flags).failure().says("criu failed");
    let id = container.id.clone();
    container.checkpoint_away(&["--link-remap", "--image-path", &images]);
    counts(&mut restore(&bundle, &images, &id), 2..=2);
    let there = fs::read_to_string(bundle.rootfs().join("there"));
    assert_eq!(there.unwrap(), "count 2");
    assert!(!bundle.rootfs().join("gone").exists());
}

#[test]
fn restored_pages_are_punched_out_of_their_image_if_asked_for() {
    require!(criu);
    let mut bundle = counter();
    let container = running(&mut bundle);
    let (images, id) = saved(&bundle, container);
    let blocks = || {
        fs::metadata(format!("{images}/pages-1.img"))
            .unwrap()
            .blocks()
    };
    let before = blocks();
    let flags = ["--auto-dedup", "--image-path", &images];
    counts(&mut restore_with(&bundle, &flags, &id), 1..=1);
    assert!(blocks() < before, "{} of {before}", blocks());
}

#[test]
fn pages_go_to_the_server_that_is_named() {
    require!(criu);
    let mut bundle = counter();
    let mut container = running(&mut bundle);
    counts(&mut container, 1..=1);
    let images = images(&bundle, "images");
    let served = bundle.scratch.name("served");
    fs::create_dir(&served).unwrap();
    let port = unused_port();
    let at = ["--address", "127.0.0.1", "--port", &port];
    let server = [&["page-server"], &at[..], &["--images-dir", &served]].concat();
    in_background(&server);
    let id = container.id.clone();
    let server = format!("127.0.0.1:{port}");
    container.checkpoint_away(&["--page-server", &server, "--image-path", &images]);
    assert!(!Path::new(&images).join("pagemap-1.img").exists());
    for entry in fs::read_dir(&served).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), Path::new(&images).join(entry.file_name())).unwrap();
    }
    counts(&mut restore(&bundle, &images, &id), 2..=2);
}

#[test]
fn the_status_descriptor_is_told_when_pages_are_served() {
    require!(criu_feature("uffd"));
    let mut bundle = counter();
    let mut container = running(&mut bundle);
    let images = images(&bundle, "images");
    let status = bundle.scratch.path().join("status");
    mkfifo(&status, Mode::S_IRWXU).unwrap();
    let mut reader = Command::new(place::probe());
    reader.arg("cat").arg(&status);
    let mut told = Running::start(reader);
    let mut runtime = container.runtime.clone();
    let shell = "exec \"$@\" 3>\"$0\"";
    let shell = ["/bin/sh", "-c", shell, status.to_str().unwrap()];
    runtime.wrapper.splice(0..0, shell.map(Into::into));
    let port = unused_port();
    let server = format!("127.0.0.1:{port}");
    let flags = ["--lazy-pages", "--status-fd", "3", "--page-server", &server];
    let rest = ["--image-path", &images, &container.id];
    let saving = runtime.start(&[&["checkpoint"], &flags[..], &rest].concat());
    told.stdout.until("\0");
    assert!(!saving.has_ended());
    // Nothing is asked of it; what it makes of that is CRIU's business, of which some versions cannot serve at all.
    drop(TcpStream::connect(server).unwrap());
    saving.wait();
    container.delete_by_force().success();
}

#[test]
fn pages_are_restored_when_they_are_used() {
    require!(criu_feature("uffd"));
    let mut bundle = counter();
    let mut container = running(&mut bundle);
    counts(&mut container, 1..=1);
    let (images, id) = saved(&bundle, container);
    let flags = ["--lazy-pages", "--image-path", &images];
    let alone = Container::restore(&bundle.runtime, &bundle.path(), &flags, &id);
    alone.unwrap_err().says("lazy-pages.socket");
    in_background(&["lazy-pages", "--images-dir", &images]);
    counts(&mut restore_with(&bundle, &flags, &id), 2..=2);
}

#[test]
fn crius_word_on_a_security_profile_is_final() {
    require!(criu);
    let mut bundle = counter();
    let container = running(&mut bundle);
    let (images, id) = saved(&bundle, container);
    let flags = |profile| ["--lsm-profile", profile, "--image-path", images.as_str()];
    let flags_of_unknown = flags("unknown:name");
    let unknown = Container::restore(&bundle.runtime, &bundle.path(), &flags_of_unknown, &id);
    unknown.unwrap_err().says("unknown lsm unknown");
    let context = ["--lsm-mount-context", "a context"];
    let flags = [&flags("none:name")[..], &context].concat();
    counts(&mut restore_with(&bundle, &flags, &id), 1..=1);
}

/// A CRIU that serves, and ends when it has.
#[track_caller]
fn in_background(words: &[&str]) {
    let mut command = Command::new(place::criu().unwrap().join("criu"));
    command.args(words).arg("--daemon");
    finish(command).success();
}

/// A port that was free a moment ago.
fn unused_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port().to_string()
}
