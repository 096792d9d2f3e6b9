//! `run`: exit codes, streams, signals, detaching, keeping; and the files and flags that it shares with `create`.

use integration::place::unique;
use integration::{Bundle, Container, beyond, require};
use nix::sys::signal::Signal;
use std::fs;

#[test]
fn run_passes_the_exit_code_through() {
    require!(containers);
    let mut bundle = Bundle::new();
    for code in ["0", "1", "3", "127", "255"] {
        bundle.config.probe(&["exit", code]);
        assert_eq!(bundle.run().code().to_string(), code);
    }
}

#[test]
fn run_exits_with_128_and_the_signal_that_killed_the_container() {
    require!(containers);
    let mut bundle = Bundle::new();
    // Process 1 of a pid namespace is immune to its own signals.
    bundle
        .config
        .no_namespace("pid")
        .probe(&["signal-self", "9"]);
    assert_eq!(bundle.run().code(), 137);
    bundle.config.probe(&["signal-self", "15"]);
    assert_eq!(bundle.run().code(), 143);
    bundle.config.probe(&["signal-self", "37"]);
    assert_eq!(bundle.run().code(), 165);
    // From outside, by way of the command.
    bundle.config.probe(&["burn", "100000"]);
    let mut running = bundle.start("run", &[], &unique("signals"));
    assert_eq!(running.stdout.line(), "begin");
    running.signal_number(63);
    assert_eq!(running.wait().code(), 191);
}

#[test]
fn a_file_that_the_output_goes_to_stays_its_owners() {
    require!(containers);
    beyond!(
        a_file_that_the_output_goes_to_stays_its_owners,
        [crun("gives it to the container's user")]
    );
    let mut bundle = Bundle::new();
    let output = bundle.scratch.file("output", "");
    bundle.config.set("/process/user/uid", 1000);
    bundle.config.probe(&["echo", "to", "a", "file"]);
    bundle.save();
    let (id, path) = (unique("run"), bundle.path().display().to_string());
    let run = bundle.runtime.command(&["run", "--bundle", &path, &id]);
    let mut command = std::process::Command::new("/bin/sh");
    command
        .args(["-c", "exec \"$@\" >>\"$0\""])
        .arg(&output)
        .arg(run.get_program())
        .args(run.get_args());
    integration::runtime::finish(command).success();
    bundle.assert_gone(&id);
    assert_eq!(fs::read_to_string(&output).unwrap(), "to a file\n");
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&output).unwrap());
    assert_eq!(owner, 0);
}

#[test]
fn run_passes_standard_streams_through() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.probe(&["echo", "to", "stdout"]);
    assert_eq!(bundle.run().success().stdout, "to stdout\n");
    bundle.config.probe(&["complain", "to", "stderr"]);
    let finished = bundle.run().success();
    assert_eq!(
        (finished.stdout.as_str(), finished.stderr.as_str()),
        ("", "to stderr\n")
    );

    bundle.config.probe(&["cat"]);
    let id = unique("cat");
    let mut running = bundle.start("run", &[], &id);
    let mut stdin = running.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, b"from stdin\n").unwrap();
    drop(stdin);
    assert_eq!(running.wait().success().stdout, "from stdin\n");
}

#[test]
fn run_forwards_signals_to_the_container() {
    require!(containers);
    beyond!(
        run_forwards_signals_to_the_container,
        [runc_race(
            "forwards the SIGURG that its own scheduler sends"
        )]
    );
    let mut bundle = Bundle::new();
    bundle.config.probe(&["pause", "7"]);
    let id = unique("signals");
    let mut running = bundle.start("run", &[], &id);
    assert_eq!(running.stdout.line(), "ready");
    for (signal, number) in [
        (Signal::SIGUSR1, 10),
        (Signal::SIGHUP, 1),
        (Signal::SIGINT, 2),
        (Signal::SIGQUIT, 3),
    ] {
        running.signal(signal);
        assert_eq!(running.stdout.line(), format!("signal {number}"));
    }
    running.signal(Signal::SIGTERM);
    assert_eq!(running.wait().code(), 7);
    bundle.assert_gone(&id);
}

#[test]
fn a_command_that_waits_for_its_document_can_be_interrupted() {
    require!(containers);
    beyond!(
        a_command_that_waits_for_its_document_can_be_interrupted,
        [crun("blocks all signals before it reads")]
    );
    let mut bundle = Bundle::new();
    let paused = bundle.pause();
    let fifo = bundle.dir("waits").join("config.json");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (path, never) = (fifo.to_str().unwrap(), unique("never"));
    let of_bundle = [
        "run",
        "--bundle",
        fifo.parent().unwrap().to_str().unwrap(),
        &never,
    ];
    let of_process = ["exec", "--process", path, &paused.id];
    for args in [&of_bundle[..], &of_process] {
        let running = bundle.runtime.start(args);
        // Opened once the command has it open.
        let writer = fs::OpenOptions::new().write(true).open(&fifo).unwrap();
        running.signal(Signal::SIGTERM);
        let status = running.wait_for_exit();
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        assert_eq!(signal, Some(Signal::SIGTERM as i32), "{args:?}");
        drop(writer);
    }
    bundle.assert_gone(&never);
}

#[test]
fn run_keeps_the_container_if_asked() {
    require!(containers);
    beyond!(
        run_keeps_the_container_if_asked,
        [crun_before("1.9", "knows no --keep")]
    );
    let mut bundle = Bundle::new();
    bundle.config.probe(&["exit", "3"]);
    bundle.save();
    let id = unique("keep");
    let finished = bundle.call("run", &["--keep"], &id);
    assert_eq!(finished.code(), 3);
    let state = bundle.runtime.call(&["state", &id]).success().json();
    assert_eq!(state["status"], "stopped");
    bundle.runtime.call(&["delete", &id]).success();
    bundle.assert_gone(&id);
}

#[test]
fn run_detached_returns_while_the_container_runs() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.probe(&["pause", "9"]);
    bundle.save();
    let id = unique("detached");
    let mut container = Container::run_detached(&bundle.runtime, &bundle.path(), &[], &id).unwrap();
    assert_eq!(container.stdout.line(), "ready");
    assert_eq!(container.status(), "running");
    container.kill("TERM").success();
    assert_eq!(container.wait(), 9);
}

#[test]
fn the_pid_file_holds_the_pid_and_nothing_else() {
    require!(containers);
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    // Container::create has parsed it strictly; here it is the right process.
    let pid = container.state()["pid"].as_i64().unwrap();
    assert_eq!(pid, i64::from(container.pid));
    let left: Vec<_> = fs::read_dir(bundle.scratch.path())
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert!(
        left.iter()
            .all(|name| !name.to_string_lossy().starts_with('.')),
        "temporary files remain: {left:?}"
    );
}

#[test]
fn a_relative_pid_file_is_relative_to_where_the_command_was_given() {
    require!(containers);
    beyond!(
        a_relative_pid_file_is_relative_to_where_the_command_was_given,
        [crun(
            "takes a relative --pid-file as relative to the bundle"
        )]
    );
    let mut bundle = Bundle::new();
    bundle.config.probe(&["exit", "0"]);
    bundle.save();
    let (id, path) = (unique("relative"), bundle.path());
    let mut command = bundle.runtime.command(&[
        "run",
        "--pid-file",
        "here.pid",
        "--bundle",
        path.to_str().unwrap(),
        &id,
    ]);
    command.current_dir(bundle.scratch.path());
    integration::runtime::finish(command).success();
    let pid = fs::read_to_string(bundle.scratch.path().join("here.pid")).unwrap();
    assert!(pid.parse::<i32>().is_ok(), "{pid:?}");
}

#[test]
fn the_bundle_is_the_working_directory_if_none_is_named() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.probe(&["exit", "6"]);
    bundle.save();
    let id = unique("cwd");
    let mut command = bundle.runtime.command(&["run", &id]);
    command.current_dir(bundle.path());
    assert_eq!(integration::runtime::finish(command).code(), 6);
}

#[test]
fn a_config_of_another_name_is_taken_if_it_is_named() {
    require!(containers);
    beyond!(
        a_config_of_another_name_is_taken_if_it_is_named,
        [runc("has no such flag")]
    );
    let mut bundle = Bundle::new();
    bundle.config.probe(&["exit", "6"]);
    bundle.save();
    let other = bundle.scratch.path().join("other.json");
    fs::rename(bundle.path().join("config.json"), other).unwrap();
    let path = bundle.path().display().to_string();
    for flag in ["--config", "-f"] {
        // Relative to the caller's directory, as all paths on the command line are.
        let line = ["run", flag, "other.json", "--bundle", &path, &unique("f")];
        let mut command = bundle.runtime.command(&line);
        command.current_dir(bundle.scratch.path());
        assert_eq!(integration::runtime::finish(command).code(), 6);
    }
    let line = ["run", "-f", "no.json", "--bundle", &path, &unique("f")];
    let failed = bundle.runtime.call(&line).failure();
    failed.says("no.json");
}

#[test]
fn spec_writes_the_file_that_is_named_and_none_that_is_there() {
    require!(root);
    beyond!(
        spec_writes_the_file_that_is_named_and_none_that_is_there,
        [runc("has no such flag"), crun("has none in newer versions")]
    );
    let bundle = Bundle::new();
    let file = bundle.scratch.path().join("other.json");
    let line = ["spec", "--file", file.to_str().unwrap()];
    bundle.runtime.call(&line).success();
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("\"ociVersion\""), "{text}");
    bundle.runtime.call(&line).failure().says("other.json");
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
}

#[test]
fn orphans_of_the_container_are_adopted_unless_told_otherwise() {
    require!(containers, busybox);
    beyond!(
        orphans_of_the_container_are_adopted_unless_told_otherwise,
        [crun("adopts nobody")]
    );
    let mut bundle = Bundle::with_busybox();
    bundle.config.no_namespace("pid").args(&[
        "/bin/sh",
        "-c",
        // The orphan waits until its parent is gone, and says who its parent is then.
        "cd /dev/shm && mkfifo a b && (sh -c 'read x <a; cut -d \" \" -f 4 /proc/$$/stat; echo >b' &); echo >a; read x <b",
    ]);
    bundle.save();
    for (flags, adopts) in [(&[][..], true), (&["--no-subreaper"], false)] {
        let run = bundle.start("run", flags, &unique("orphan"));
        let command = run.pid();
        let parent: i32 = run.wait().success().stdout.trim().parse().unwrap();
        let expected = if adopts {
            command
        } else {
            std::process::id() as i32
        };
        assert_eq!(parent, expected, "{flags:?}");
    }
}

#[test]
fn the_version_is_printed_the_way_engines_parse_it() {
    let runtime = integration::Runtime::new("/nonexistent".as_ref());
    for flag in ["--version", "-v"] {
        let text = runtime.call(&[flag]).success().stdout;
        let first: Vec<&str> = text.lines().next().unwrap().split(' ').collect();
        assert_eq!(first[1], "version", "{text}");
        assert!(
            text.lines().any(|line| line.starts_with("commit: ")),
            "{text}"
        );
        assert!(
            text.lines().any(|line| line.starts_with("spec: 1.")),
            "{text}"
        );
        let named = text.lines().filter(|line| line.contains("version")).count();
        assert_eq!(
            named, 1,
            "Docker takes the last line with this word: {text}"
        );
    }
}
