//! Terminals: over a console socket, and in the foreground.

use integration::console::{ConsoleSocket, OnTerminal, Terminal};
use integration::{Bundle, Container, Kind, Seen, beyond, require};
use nix::sys::signal::Signal;
use serde_json::json;

#[test]
fn the_console_socket_gets_the_terminals_master() {
    require!(containers);
    let mut bundle = with_terminal();
    bundle.config.probe(&["cat"]);
    let (_container, mut terminal) = created(&bundle, true);
    terminal.write("typed\n");
    // Once as the terminal's echo, once from the process.
    terminal.output.until("typed");
    terminal.output.until("typed");
}

#[test]
fn standard_streams_are_the_controlling_terminal() {
    require!(containers);
    let bundle = with_terminal();
    let (_container, mut terminal) = created(&bundle, true);
    let seen = report(&mut terminal);
    assert_eq!(
        seen.terminals.keys().copied().collect::<Vec<_>>(),
        [0, 1, 2]
    );
    for (fd, terminal) in &seen.terminals {
        assert!(terminal.controlling, "{fd}: {terminal:?}");
        assert!(
            ["/dev/pts/0", "/dev/console"].contains(&terminal.path.as_str()),
            "{fd}: {terminal:?}"
        );
    }
    assert_eq!(seen.session, 1);
}

#[test]
fn the_terminal_has_the_configured_size() {
    require!(containers);
    let mut bundle = with_terminal();
    bundle.config.set(
        "/process/consoleSize",
        json!({ "height": 33, "width": 111 }),
    );
    let (_container, mut terminal) = created(&bundle, true);
    let seen = report(&mut terminal);
    assert_eq!(
        (seen.terminals[&0].rows, seen.terminals[&0].columns),
        (33, 111)
    );
}

#[test]
fn the_terminal_is_resized_through_its_master() {
    require!(containers);
    let mut bundle = with_terminal();
    bundle.config.probe(&["pause"]);
    let (container, mut terminal) = created(&bundle, true);
    terminal.output.until("ready");
    terminal.resize(20, 70);
    terminal.output.until("signal 28");
    drop(container);
}

#[test]
fn the_console_is_bound_to_the_terminal() {
    require!(containers);
    beyond!(
        the_console_is_bound_to_the_terminal,
        [crun_from("1.22", "makes /dev/console a link")]
    );
    let mut bundle = with_terminal();
    bundle.config.probe(&[
        "report",
        "stat=/dev/console",
        "stat=/dev/pts/0",
        "try=write:/dev/console",
    ]);
    let (_container, mut terminal) = created(&bundle, true);
    let seen = report(&mut terminal);
    let (console, pts) = (seen.stat("/dev/console"), seen.stat("/dev/pts/0"));
    assert_eq!((console.kind, console.rdev), (Kind::CharDevice, pts.rdev));
    assert_eq!(
        pts.rdev,
        (136, 0),
        "the terminal is of the container's own devpts"
    );
    assert_eq!(seen.tried("write:/dev/console"), "ok");
    assert_eq!(seen.mounted("/dev/console").fstype, "devpts");
}

#[test]
fn without_a_terminal_there_is_no_console() {
    require!(containers);
    let seen = Bundle::new().report(&["ls=/dev", "ls=/dev/pts"]);
    assert!(!seen.lists["/dev"].contains(&"console".to_owned()));
    assert!(seen.terminals.is_empty());
}

#[test]
fn the_terminal_belongs_to_the_user() {
    require!(containers);
    let mut bundle = with_terminal();
    bundle
        .config
        .set("/process/user", json!({ "uid": 1000, "gid": 1001 }));
    bundle
        .config
        .probe(&["report", "stat=/dev/pts/0", "try=write:/dev/pts/0"]);
    let (_container, mut terminal) = created(&bundle, true);
    let seen = report(&mut terminal);
    assert_eq!(seen.stat("/dev/pts/0").uid, 1000);
    assert_eq!(seen.tried("write:/dev/pts/0"), "ok");
}

#[test]
fn a_terminal_works_in_a_user_namespace() {
    require!(containers, userns);
    beyond!(
        a_terminal_works_in_a_user_namespace,
        [crun_from(
            "1.22",
            "makes /dev/console a link to nothing that the terminal is"
        )]
    );
    let mut bundle = with_terminal();
    bundle.config.user_namespace(100_000, 65536).probe(&[
        "report",
        "stat=/dev/pts/0",
        "stat=/dev/console",
    ]);
    let (_container, mut terminal) = created(&bundle, true);
    let seen = report(&mut terminal);
    assert_eq!(seen.terminals.len(), 3);
    assert_eq!(seen.stat("/dev/pts/0").uid, 0);
    assert_eq!(seen.stat("/dev/console").rdev, (136, 0));
}

#[test]
fn the_size_is_ignored_without_a_terminal() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.set(
        "/process/consoleSize",
        json!({ "height": 33, "width": 111 }),
    );
    assert!(bundle.report(&[]).terminals.is_empty());
}

#[test]
fn a_terminal_needs_a_console_socket_when_nobody_stays_in_the_foreground() {
    require!(containers);
    let bundle = with_terminal();
    bundle.create_fails().failure();
    let id = integration::place::unique("detached");
    Container::run_detached(&bundle.runtime, &bundle.path(), &[], &id)
        .unwrap_err()
        .failure();
}

#[test]
fn a_missing_or_needless_console_socket_is_explained_in_runcs_words() {
    require!(containers);
    beyond!(
        a_missing_or_needless_console_socket_is_explained_in_runcs_words,
        [crun("has words of its own")]
    );
    let mut bundle = with_terminal();
    bundle
        .create_fails()
        .failure()
        .says("cannot allocate tty if runc will detach without setting console socket");
    bundle.config.set("/process/terminal", false);
    let socket = socket(&bundle);
    let flags = ["--console-socket", socket.path.to_str().unwrap()];
    let finished = bundle.create_with(&flags).unwrap_err();
    finished.says("cannot use console socket if runc will not detach or allocate tty");
}

#[test]
fn a_console_socket_that_nobody_listens_on_fails_create() {
    require!(containers);
    let bundle = with_terminal();
    let path = bundle.scratch.name("nobody.sock");
    bundle
        .create_with(&["--console-socket", &path])
        .unwrap_err()
        .failure();
}

#[test]
fn run_detached_sends_the_terminal_too() {
    require!(containers);
    let mut bundle = with_terminal();
    bundle.config.probe(&["pause"]);
    bundle.save();
    let socket = socket(&bundle);
    let flags = ["--console-socket", socket.path.to_str().unwrap()];
    let id = integration::place::unique("detached");
    let container = Container::run_detached(&bundle.runtime, &bundle.path(), &flags, &id).unwrap();
    let (_, mut terminal) = socket.receive();
    terminal.output.until("ready");
    assert_eq!(container.status(), "running");
}

#[test]
fn a_foreground_run_passes_its_terminal_on() {
    require!(containers);
    beyond!(
        a_foreground_run_passes_its_terminal_on,
        [
            runc_race("sets the size only after the process has started"),
            crun("leaves the new terminal without a size")
        ]
    );
    let mut bundle = with_terminal();
    bundle.config.probe(&["report"]);
    let mut run = foreground(&bundle, "run");
    let seen = report(&mut run.terminal);
    assert_eq!(seen.terminals.len(), 3);
    assert_eq!(
        (seen.terminals[&0].rows, seen.terminals[&0].columns),
        (24, 80)
    );
    assert!(run.wait().success());
}

#[test]
fn a_foreground_run_passes_keys_and_the_exit_code_on() {
    require!(containers);
    let mut bundle = with_terminal();
    bundle.config.no_namespace("pid").probe(&["pause", "9"]);
    let mut run = foreground(&bundle, "run");
    run.terminal.output.until("ready");
    // Control-C is for the container's process, not for the runtime.
    run.terminal.write("\x03");
    run.terminal.output.until("signal 2");
    run.signal(Signal::SIGTERM);
    assert_eq!(run.wait().code(), Some(9));
}

#[test]
fn a_foreground_run_follows_the_size_of_its_terminal() {
    require!(containers);
    let mut bundle = with_terminal();
    bundle.config.probe(&["pause"]);
    let mut run = foreground(&bundle, "run");
    run.terminal.output.until("ready");
    run.terminal.resize(50, 132);
    // The kernel tells the terminal's foreground processes; an engine without a controlling terminal does it by hand.
    run.signal(Signal::SIGWINCH);
    run.terminal.output.until("signal 28");
    run.signal(Signal::SIGTERM);
    assert!(run.wait().success());
}

#[test]
fn exec_sends_its_terminal_to_the_console_socket() {
    require!(containers);
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let seen = exec_report(&bundle, &container);
    assert_eq!(seen.terminals.len(), 3);
    assert!(seen.terminals[&0].controlling);
    assert_eq!(*seen.terminals[&0].path, "/dev/pts/0");
}

#[test]
fn the_terminal_of_exec_has_the_configured_size() {
    require!(containers);
    beyond!(
        the_terminal_of_exec_has_the_configured_size,
        [crun(
            "ignores the configured process unless a process file is given"
        )]
    );
    let mut bundle = Bundle::new();
    bundle.config.set(
        "/process/consoleSize",
        json!({ "height": 33, "width": 111 }),
    );
    let container = bundle.pause();
    let seen = exec_report(&bundle, &container);
    assert_eq!(
        (seen.terminals[&0].rows, seen.terminals[&0].columns),
        (33, 111)
    );
}

#[test]
fn exec_of_a_process_file_with_a_terminal_runs_in_the_foreground() {
    require!(containers);
    beyond!(
        exec_of_a_process_file_with_a_terminal_runs_in_the_foreground,
        [
            runc_race("sets the size only after the process has started"),
            crun_race("sets the size only after the process has started")
        ]
    );
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let process = json!({ "terminal": true, "user": { "uid": 0, "gid": 0 }, "args": ["/bin/probe", "report"], "cwd": "/", "env": ["A=1"] });
    let file = bundle.scratch.file("process.json", process.to_string());
    let command =
        container
            .runtime
            .command(&["exec", "--process", file.to_str().unwrap(), &container.id]);
    let mut exec = OnTerminal::start(command, 30, 100);
    let seen = report(&mut exec.terminal);
    assert_eq!(
        (seen.terminals[&1].rows, seen.terminals[&1].columns),
        (30, 100)
    );
    assert!(exec.wait().success());
}

#[test]
fn exec_on_a_terminal_passes_the_exit_code_on() {
    require!(containers);
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let command =
        container
            .runtime
            .command(&["exec", "-t", &container.id, "/bin/probe", "pause", "6"]);
    let mut exec = OnTerminal::start(command, 30, 100);
    exec.terminal.output.until("ready");
    exec.terminal.write("\x1c");
    exec.terminal.output.until("signal 3");
    exec.signal(Signal::SIGTERM);
    assert_eq!(exec.wait().code(), Some(6));
}

#[test]
fn exec_has_its_terminal_whatever_the_container_makes_of_ptmx() {
    require!(containers);
    beyond!(
        exec_has_its_terminal_whatever_the_container_makes_of_ptmx,
        [
            runc_before("1.3.3", "opens /dev/ptmx"),
            crun("opens /dev/ptmx")
        ]
    );
    let mut bundle = Bundle::with_busybox();
    bundle.config.privileged();
    let container = bundle.pause();
    let script = "rm /dev/ptmx; ln -s /etc/passwd /dev/ptmx";
    container.exec(&[], &["/bin/sh", "-c", script]).success();
    let arguments = ["exec", "-t", &container.id, "/bin/probe", "pause", "6"];
    let mut exec = OnTerminal::start(container.runtime.command(&arguments), 30, 100);
    exec.terminal.output.until("ready");
    exec.signal(Signal::SIGTERM);
    assert_eq!(exec.wait().code(), Some(6));
}

#[test]
fn a_console_that_is_a_link_is_refused() {
    require!(containers);
    beyond!(
        a_console_that_is_a_link_is_refused,
        [
            runc_before("1.3.3", "follows it"),
            crun("follows or replaces it")
        ]
    );
    let mut bundle = with_terminal();
    bundle.config.unmount("/dev");
    let dev = bundle.dir("dev");
    bundle.file("victim", "mine");
    std::os::unix::fs::symlink("/victim", dev.join("console")).unwrap();
    let socket = socket(&bundle);
    let flags = ["--console-socket", socket.path.to_str().unwrap()];
    let Err(finished) = bundle.create_with(&flags) else {
        panic!("the terminal is bound somewhere else");
    };
    finished.failure().says("symbolic links");
}

fn with_terminal() -> Bundle {
    let mut bundle = Bundle::new();
    bundle.config.set("/process/terminal", true);
    bundle
}

fn socket(bundle: &Bundle) -> ConsoleSocket {
    ConsoleSocket::listen(bundle.scratch.path().join("tty.sock"))
}

fn created(bundle: &Bundle, start: bool) -> (Container, Terminal) {
    let socket = socket(bundle);
    let flags = ["--console-socket", socket.path.to_str().unwrap()];
    let container = bundle
        .create_with(&flags)
        .unwrap_or_else(|finished| panic!("{finished}"));
    let (_, terminal) = socket.receive();
    if start {
        container.start().success();
    }
    (container, terminal)
}

fn foreground(bundle: &Bundle, verb: &str) -> OnTerminal {
    bundle.save();
    let path = bundle.path();
    let id = integration::place::unique("foreground");
    let command = bundle
        .runtime
        .command(&[verb, "--bundle", path.to_str().unwrap(), &id]);
    OnTerminal::start(command, 24, 80)
}

/// What a process of exec sees whose terminal goes to a socket.
#[track_caller]
fn exec_report(bundle: &Bundle, container: &Container) -> Seen {
    let socket = socket(bundle);
    let flags = ["--tty", "--console-socket", socket.path.to_str().unwrap()];
    container.exec_detached(&flags, &["/bin/probe", "report"]);
    let (_, mut terminal) = socket.receive();
    report(&mut terminal)
}

fn report(terminal: &mut Terminal) -> Seen {
    let line = terminal.output.line();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("no report ({error}): {line:?}"))
}
