//! Streams: attached and logged, exact, and on a terminal.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;

use integration::host;
use integration::place::Scratch;
use integration::require;
use integration::runtime::{Running, finish};
use integration::supervisor::{IMAGE, Supervisor};
use nix::mount::{MsFlags, mount, umount};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

#[test]
fn bytes_go_through_as_they_are() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    // All bytes in an order that is no text, more than any pipe holds.
    let bytes: Vec<u8> = (0..400_000_u32)
        .map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    supervisor.scratch.file("bytes", &bytes);
    let file = supervisor.scratch.name("bytes");
    let id = supervisor.detached(&[], "sleep 1000");
    let client = supervisor.command(&[]);
    let client: Vec<String> = std::iter::once(client.get_program())
        .chain(client.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    for verb in [format!("run --rm -i {IMAGE}"), format!("exec -i {id}")] {
        let script = format!("{} {verb} cat <{file} >{file}.back", client.join(" "));
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &script]);
        integration::runtime::finish(shell).success();
        let back = std::fs::read(format!("{file}.back")).unwrap();
        assert!(
            back == bytes,
            "{verb} gives back {} of {} bytes",
            back.len(),
            bytes.len()
        );
    }
}

#[test]
fn a_log_has_as_many_files_as_somebody_may_read() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    for (count, refusal) in [
        ("0", "max-file cannot be less than 1"),
        ("1001", "max-file cannot be more than 1000"),
        ("4294967295", "max-file cannot be more than 1000"),
    ] {
        let option = format!("max-file={count}");
        let refused = supervisor.ctl(&["run", "--log-opt", &option, IMAGE, "true"]);
        assert_eq!(refused.code(), 125);
        refused.says(refusal);
    }
    let many = ["--log-opt", "max-file=1000", "--log-opt", "max-size=1"];
    let id = supervisor.detached(&many, "for i in $(seq 1 30); do echo $i; done");
    supervisor.says(&["wait", &id]);
    assert_eq!(supervisor.says(&["logs", "-n", "2", &id]), "29\n30");
    assert_eq!(supervisor.says(&["logs", &id]).lines().count(), 30);
}

#[test]
fn a_follower_loses_nothing_to_rotation() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let script = "read x; i=0; while [ $i -lt 9000 ]; do echo line $i; i=$((i+1)); done";
    // None of them goes while it is read: a reader that lags by a whole log loses what nobody keeps.
    let flags = [
        "--log-opt",
        "max-size=16k",
        "--log-opt",
        "max-file=99",
        "-i",
    ];
    let id = supervisor.detached(&flags, script);
    let mut following = supervisor.start(&["logs", "-f", &id]);
    // It follows when the container has not written yet.
    let mut attached = supervisor.start(&["attach", &id]);
    attached.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    let expected: String = (0..9000).map(|number| format!("line {number}\n")).collect();
    assert_eq!(following.stdout.rest(), expected);
    attached.stdout.rest();
    attached.wait().success();
    following.wait().success();
    let directory = supervisor.scratch.path().join("root/containers").join(&id);
    let sizes: Vec<u64> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .collect();
    assert!(sizes.iter().all(|size| *size <= 32 << 10), "{sizes:?}");
    // What comes at once is one record, however many lines it has: how many files there are is a matter of time. Of text alone there are 97 KB.
    assert!((3..99).contains(&sizes.len()), "{} files", sizes.len());
    assert_eq!(
        supervisor.says(&["logs", "--tail", "2", &id]),
        "line 8998\nline 8999"
    );
    let timed = supervisor.says(&["logs", "-t", "--tail", "1", &id]);
    assert!(
        timed.starts_with("20") && timed.ends_with("Z line 8999"),
        "{timed}"
    );
    assert_eq!(supervisor.says(&["logs", "--since", "2099-01-01", &id]), "");
}

#[test]
fn of_a_log_the_newest_files_are_kept() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let script = "i=0; while [ $i -lt 9000 ]; do echo line $i; i=$((i+1)); done";
    let flags = ["--log-opt", "max-size=16k", "--log-opt", "max-file=3"];
    let id = supervisor.detached(&flags, script);
    assert_eq!(supervisor.says(&["wait", &id]), "0");
    let directory = supervisor.scratch.path().join("root/containers").join(&id);
    let sizes: Vec<u64> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .collect();
    assert_eq!(sizes.len(), 3);
    assert!(sizes.iter().all(|size| *size <= 32 << 10), "{sizes:?}");
    let kept = supervisor.says(&["logs", &id]);
    assert!(kept.ends_with("line 8999") && !kept.contains("line 0\n"));
}

#[test]
fn a_slow_reader_loses_nothing_and_holds_nobody_up() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let script = "i=0; while [ $i -lt 400 ]; do head -c 10000 /dev/zero; i=$((i+1)); done";
    // As above: each zero takes six bytes there.
    let limits = ["--log-opt", "max-size=1m", "--log-opt", "max-file=99"];
    let create = [
        &["create", "--name", "fast"],
        &limits[..],
        &[IMAGE, "sh", "-c", script],
    ];
    supervisor.says(&create.concat());
    let mut slow = supervisor.start(&["start", "-a", "fast"]);
    let mut events = supervisor.start(&["events", "--after", "0", "--format", "{{.Action}}"]);
    events.stdout.until("start");
    // Nobody reads what comes out of the client, and the container ends all the same.
    assert_eq!(supervisor.says(&["wait", "fast"]), "0");
    assert_eq!(slow.stdout.rest().len(), 4_000_000);
    slow.wait().success();
}

#[test]
fn a_daemon_that_gets_no_turn_loses_nothing_of_what_was_rotated_meanwhile() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let gate = supervisor.scratch.name("gate");
    mkfifo(&*gate, Mode::from_bits_truncate(0o600)).unwrap();
    let bind = format!("{gate}:/gate");
    let script =
        "echo ready; read line </gate; i=0; while [ $i -lt 9000 ]; do echo $i; i=$((i+1)); done";
    let flags = ["--log-opt", "max-size=16k", "--log-opt", "max-file=2"];
    let run = ["run", "--name", "box", "-v", &bind];
    let mut client = supervisor.start(&[&run[..], &flags, &[IMAGE, "sh", "-c", script]].concat());
    assert_eq!(client.stdout.line(), "ready");
    let pid = supervisor.field("box", "{{.State.Pid}}").parse().unwrap();
    let daemon = Pid::from_raw(supervisor.pid());
    kill(daemon, Signal::SIGSTOP).unwrap();
    host::set(std::path::Path::new(&gate), "\n");
    assert!(host::await_end(pid));
    kill(daemon, Signal::SIGCONT).unwrap();
    let written: String = (0..9000).map(|number| format!("{number}\n")).collect();
    assert!(client.stdout.rest() == written);
    client.wait().success();
}

#[test]
fn what_is_written_at_once_after_the_start_is_seen_however_soon_it_is_rotated() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let flags = ["--log-opt", "max-size=16k", "--log-opt", "max-file=2"];
    let run = [&["run"], &flags[..], &[IMAGE, "sh", "-c"]].concat();
    for _ in 0..5 {
        let shown = supervisor.says(&[&run[..], &["yes | head -c 20000"]].concat());
        assert_eq!(shown.lines().count(), 10_000);
    }
}

#[test]
fn who_takes_nothing_or_leaves_keeps_no_container_from_going() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    // More than a client and the daemon hold for somebody who takes nothing.
    let script = "yes | head -c 3000000; echo done; sleep 1000";
    for leaves in [false, true] {
        let run = ["run", "--rm", "--name", "chatty", IMAGE, "sh", "-c", script];
        let mut client = supervisor.start(&run);
        assert_eq!(client.stdout.line(), "y");
        let mut log = supervisor.start(&["logs", "-f", "chatty"]);
        log.stdout.until("done");
        if leaves {
            client.signal(nix::sys::signal::Signal::SIGKILL);
            client.wait_for_exit();
            supervisor.says(&["rm", "-f", "chatty"]);
        } else {
            supervisor.says(&["rm", "-f", "chatty"]);
            // What it had written is there all the same.
            assert_eq!(client.stdout.rest().len(), 3_000_000 - 2 + 5);
            assert_eq!(client.wait().code(), 137);
        }
        assert!(supervisor.bundles().is_empty());
    }
}

#[test]
fn who_wants_no_more_ends_the_client_and_what_cannot_be_written_is_told() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    supervisor.detached(&["--name", "box"], "sleep 1000");
    for verb in ["run --name endless", "exec box", "logs -f endless"] {
        let command = if verb.starts_with("logs") { "" } else { "yes" };
        let image = if verb.starts_with("run") { IMAGE } else { "" };
        let line = format!("$ctl {verb} {image} {command} | head -n 1");
        let finished = finish(supervisor.in_shell(&line)).success();
        assert_eq!(finished.stdout, "y\n", "{verb}");
    }
    assert_eq!(supervisor.field("endless", "{{.State.Status}}"), "running");
    for verb in ["ps", "images", "logs endless"] {
        let full = finish(supervisor.in_shell(&format!("$ctl {verb} >/dev/full")));
        full.failure().says("No space left on device");
    }
}

#[test]
fn a_client_whose_output_nobody_takes_still_passes_signals_on() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let script = "trap 'exit 3' TERM; yes | head -c 3000000; echo done; read x";
    let run = ["run", "-i", "--name", "full", IMAGE, "sh", "-c", script];
    let mut client = supervisor.start(&run);
    assert_eq!(client.stdout.line(), "y");
    let mut log = supervisor.start(&["logs", "-f", "full"]);
    log.stdout.until("done");
    client.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(supervisor.says(&["wait", "full"]), "3");
    client.stdout.rest();
    assert_eq!(client.wait().code(), 3);
}

#[test]
fn a_container_without_a_log_is_seen_by_who_is_attached() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let run = ["run", "--name", "quiet", "--log-driver", "none", IMAGE];
    let seen = supervisor.ctl(&[&run[..], &["sh", "-c", "echo here; exit 4"]].concat());
    assert_eq!((seen.code(), &*seen.stdout), (4, "here\n"));
    supervisor
        .ctl(&["logs", "quiet"])
        .failure()
        .says("has no log");
    // Nor is it there to be attached to any more.
    supervisor
        .ctl(&["attach", "quiet"])
        .failure()
        .says("does not run");
}

#[test]
fn all_readers_of_logs_share_one_inotify_instance() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let mut readers = Vec::new();
    for _ in 0..3 {
        let id = supervisor.detached(&[], "echo here; sleep 1000");
        for _ in 0..2 {
            readers.push(supervisor.start(&["logs", "-f", &id]));
        }
    }
    for reader in &mut readers {
        assert_eq!(reader.stdout.line(), "here");
    }
    let fds = std::fs::read_dir(format!("/proc/{}/fd", supervisor.pid())).unwrap();
    let links = fds.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
    let inotify = links.filter(|link| link.ends_with("anon_inode:inotify"));
    assert_eq!(inotify.count(), 1);
}

#[test]
fn an_exec_has_streams_and_an_exit_code_of_its_own() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let id = supervisor.detached(&["--user", "web", "-e", "A=1"], "sleep 1000");
    let finished = supervisor.ctl(&[
        "exec",
        "-e",
        "B=2",
        "-w",
        "/srv",
        &id,
        "sh",
        "-c",
        "id -un; pwd; echo $A$B >&2; exit 3",
    ]);
    assert_eq!(finished.code(), 3, "{finished}");
    assert_eq!(
        (&*finished.stdout, &*finished.stderr),
        ("web\n/srv\n", "12\n")
    );
    assert_eq!(
        supervisor.says(&["exec", "--user", "root", &id, "id", "-u"]),
        "0"
    );
    assert_eq!(
        supervisor.ctl(&["exec", &id, "no-such-program"]).code(),
        127
    );
    assert_eq!(supervisor.says(&["logs", &id]), "", "an exec is not logged");
    supervisor.says(&["exec", "-d", &id, "sh", "-c", "echo done >/tmp/done"]);
    supervisor.says(&["kill", &id]);
    assert_eq!(supervisor.says(&["wait", &id]), "137");
    supervisor
        .ctl(&["exec", &id, "true"])
        .failure()
        .says("is not running");
}

#[test]
fn a_terminal_is_raw_as_long_as_it_is_attached_and_has_the_users_size() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let script = "stty size; read line; stty size; echo got $line; exit 5";
    let mut client = supervisor.on_terminal(&["run", "--rm", "-it", IMAGE, "sh", "-c", script]);
    client.terminal.output.until("24 80");
    client.terminal.resize(33, 77);
    client.signal(nix::sys::signal::Signal::SIGWINCH);
    client.terminal.write("word\r");
    client.terminal.output.until("33 77");
    client.terminal.output.until("got word");
    assert_eq!(client.wait().code(), Some(5));
}

#[test]
fn with_an_init_too_a_terminal_is_the_programs() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let mut shell = supervisor.on_terminal(&["run", "-it", "--rm", "--init", IMAGE, "sh"]);
    shell.terminal.output.until("/ # ");
    // What is typed before cat runs, the shell would keep for itself.
    shell.terminal.write("echo $((40+2)); cat\r");
    shell.terminal.output.until("42\r\n");
    shell.terminal.write("hello\r");
    shell.terminal.output.until("hello\r\nhello");
    // The keys, too, are for who is in the foreground.
    shell.terminal.write("\x03");
    shell.terminal.output.until("^C\r\n/ # ");
    shell.terminal.write("exit 7\r");
    assert_eq!(shell.wait().code(), Some(7));
}

#[test]
fn a_signal_that_ends_the_client_leaves_the_terminal_as_it_was() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let script = "echo ready; read line";
    let run = ["run", "-it", "--name", "box", IMAGE, "sh", "-c", script];
    let exec = ["exec", "-it", "box", "sh", "-c", script];
    for (command, signal) in [(&run[..], Signal::SIGTERM), (&exec, Signal::SIGHUP)] {
        let mut client = supervisor.on_terminal(command);
        client.terminal.output.until("ready");
        assert!(client.terminal.is_raw());
        client.signal(signal);
        let (status, terminal) = client.leave();
        assert_eq!(status.signal(), Some(signal as i32));
        assert!(!terminal.is_raw());
    }
    assert_eq!(supervisor.field("box", "{{.State.Status}}"), "running");
}

#[test]
fn who_presses_the_keys_leaves_and_may_come_back() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let script = "echo ready; for i in 1 2; do read line; echo got $line; done; read line; exit 6";
    let mut client =
        supervisor.on_terminal(&["run", "-it", "--name", "box", IMAGE, "sh", "-c", script]);
    client.terminal.output.until("ready");
    client.terminal.write("\x10\x11");
    assert_eq!(client.wait().code(), Some(0));
    assert_eq!(supervisor.field("box", "{{.State.Status}}"), "running");
    let mut client = supervisor.on_terminal(&["attach", "box"]);
    client.terminal.write("one\r");
    client.terminal.output.until("got one");
    // What is typed before the keys counts, however fast they come.
    client.terminal.write("two\r\x10\x11");
    assert_eq!(client.wait().code(), Some(0));
    let mut log = supervisor.start(&["logs", "-f", "box"]);
    log.stdout.until("got two");
    let client = supervisor.on_terminal(&["attach", "box"]);
    client.terminal.write("three\r");
    assert_eq!(client.wait().code(), Some(6));
}

#[test]
fn who_has_no_terminal_ends_nothing_that_has_one() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    supervisor.detached(&["-it", "--name", "box"], "read line; exit 3");
    let attach = |flags: &[&str]| supervisor.ctl(&[&["attach"], flags, &["box"]].concat());
    attach(&[]).failure().says("is not a terminal");
    attach(&["--no-stdin", "--detach-keys", "ctrl-foo"])
        .failure()
        .says("no key to leave with");
    assert_eq!(supervisor.field("box", "{{.State.Status}}"), "running");
    // A signal is its own.
    let script = "trap 'exit 8' TERM; echo ready; while true; do sleep 0.1; done";
    let run = ["run", "-t", "--name", "other", IMAGE, "sh", "-c", script];
    let mut client = supervisor.start(&run);
    client.stdout.until("ready");
    client.signal(Signal::SIGTERM);
    let signal = Some(Signal::SIGTERM as i32);
    assert_eq!(client.wait_for_exit().signal(), signal);
    assert_eq!(supervisor.field("other", "{{.State.Status}}"), "running");
}

#[test]
fn a_signal_to_the_client_is_one_to_the_container() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let script = "trap 'echo told; exit 8' TERM; echo ready; while true; do sleep 0.1; done";
    let mut client = supervisor.start(&["run", "--rm", IMAGE, "sh", "-c", script]);
    assert_eq!(client.stdout.line(), "ready");
    client.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(client.stdout.line(), "told");
    assert_eq!(client.wait().code(), 8);
}

/// A container in which one exec can wait for another, at the fifo `/tmp/told`.
fn with_fifo(supervisor: &Supervisor) -> String {
    supervisor.detached(&[], "mkfifo /tmp/told; echo ready; sleep 1000")
}

#[test]
fn an_execs_last_output_waits_for_its_reader_but_not_for_who_else_could_write() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let id = with_fifo(&supervisor);
    let script = "/bin/probe glut; echo over >/tmp/told";
    let mut client = supervisor.start(&["exec", &id, "sh", "-c", script]);
    assert_eq!(supervisor.says(&["exec", &id, "cat", "/tmp/told"]), "over");
    // What it leaves behind holds its output for ever. This takes as long as such a one is waited for; a shim waits for no reader longer.
    let finished = supervisor.ctl(&["exec", &id, "sh", "-c", "echo out; sleep 1000 & exit 4"]);
    assert_eq!((finished.code(), &*finished.stdout), (4, "out\n"));
    let taken = client.stdout.rest();
    let finished = client.wait();
    assert_eq!(finished.code(), 0, "{finished}");
    assert_eq!(taken.len().to_string(), finished.stderr.trim());
}

#[test]
fn an_exec_goes_on_without_its_client() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let id = with_fifo(&supervisor);
    let works = [
        "head -c 3000000 /dev/zero",
        // Who reads is told that nothing more will come.
        "cat",
    ];
    for work in works {
        let script = format!("echo ready; {work}; echo over >/tmp/told");
        let mut client = supervisor.start(&["exec", "-i", &id, "sh", "-c", &script]);
        assert_eq!(client.stdout.line(), "ready");
        client.signal(nix::sys::signal::Signal::SIGKILL);
        assert_eq!(supervisor.says(&["exec", &id, "cat", "/tmp/told"]), "over");
    }
}

/// A small file system. It goes after the supervisor whose root is on it.
struct Small(Scratch);

impl Small {
    fn new(options: &str) -> Small {
        let scratch = Scratch::new();
        let none = MsFlags::empty();
        mount(
            Some("small"),
            scratch.path(),
            Some("tmpfs"),
            none,
            Some(options),
        )
        .unwrap();
        Small(scratch)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        umount(self.0.path()).ok(); // A directory that cannot be removed tells.
    }
}

#[test]
fn what_a_full_disk_does_not_take_of_the_output_is_told() {
    require!(containers, busybox);
    let small = Small::new("size=40m");
    let supervisor = Supervisor::without_image();
    symlink(small.0.path(), supervisor.scratch.path().join("root")).unwrap();
    supervisor.import();
    // What is written last comes through again; what was torn before it spoils nothing.
    let script = "echo first; read x; dd if=/dev/zero of=/fill bs=4k 2>/dev/null;
                  yes | head -c 200000; rm /fill; echo last; read x; exit $x";
    // In all places.
    let lost = |said: &str| -> usize {
        let numbers = said.lines().map(|line| {
            let number = line
                .strip_prefix("caissonctl: ")
                .and_then(|text| text.split_once(" bytes of output are lost"));
            let (number, _) = number.unwrap_or_else(|| panic!("{said}"));
            number.parse::<usize>().unwrap()
        });
        numbers.sum()
    };
    for (word, code) in [("0", 125), ("3", 3)] {
        let name = &format!("code-{word}");
        let run = ["run", "--name", name, "-i", IMAGE, "sh", "-c", script];
        let mut client = supervisor.start(&run);
        assert_eq!(client.stdout.line(), "first");
        let mut stdin = client.stdin.take().unwrap();
        writeln!(stdin).unwrap();
        let stdout = client.stdout.until("last\n");
        // Where something is missing, and while it runs.
        let line = "$ctl logs $0 2>&1 | grep -v '^y$'";
        let line = line.replace("$0", name);
        let seen = finish(supervisor.in_shell(&line)).success().stdout;
        let in_between = seen.strip_prefix("first\n").unwrap();
        let in_between = in_between.strip_suffix("last\n").unwrap();
        writeln!(stdin, "{word}").unwrap();
        let finished = client.wait();
        assert_eq!(finished.code(), code, "{}", finished.stderr);
        let missing = lost(&finished.stderr);
        assert_eq!(lost(in_between), missing);
        // A pipe may have held the rest.
        assert!(missing > 100_000, "{}", finished.stderr);
        let rest = stdout.strip_suffix("last\n").unwrap();
        assert!(rest.trim_matches(['y', '\n']).is_empty(), "{rest}");
        assert_eq!(rest.len() + missing, 200_000);
        let logs = supervisor.ctl(&["logs", name]).success();
        assert_eq!(lost(&logs.stderr), missing);
        assert_eq!(logs.stdout, format!("first\n{rest}last\n"));
        let said = std::fs::read_to_string(supervisor.state.join("caissond.log")).unwrap();
        let warning = format!("{missing} bytes of output could not be written");
        assert!(said.contains(&warning), "{said}");
    }
}

#[test]
fn the_end_of_a_clients_input_is_that_of_a_container_which_was_run_for_it_only() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let script = "while read line; do echo got $line; done; echo over";
    let id = supervisor.detached(&["-i"], script);
    for word in ["one", "two", "three"] {
        let line = format!("echo {word} | $ctl attach {id}");
        let mut attached = Running::start(supervisor.in_shell(&line));
        assert_eq!(attached.stdout.line(), format!("got {word}"));
    }
    supervisor.says(&["rm", "-f", &id]);
    let line = format!("echo four | $ctl run -i --rm {IMAGE} sh -c '{script}'");
    let ended = finish(supervisor.in_shell(&line)).success();
    assert_eq!(ended.stdout, "got four\nover\n");
    let line =
        format!("id=$($ctl create -i {IMAGE} sh -c '{script}'); echo five | $ctl start -ai $id");
    let ended = finish(supervisor.in_shell(&line)).success();
    assert_eq!(ended.stdout, "got five\nover\n");
}

#[test]
fn a_client_that_dies_is_the_end_of_the_input_that_was_his_only() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let script = "echo ready; cat; echo over";
    let run = ["run", "-i", "--name", "box", IMAGE, "sh", "-c", script];
    let mut client = supervisor.start(&run);
    assert_eq!(client.stdout.line(), "ready");
    client.signal(nix::sys::signal::Signal::SIGKILL);
    assert_eq!(supervisor.says(&["wait", "box"]), "0");
    assert_eq!(supervisor.says(&["logs", "box"]), "ready\nover");
}

#[test]
fn what_is_started_again_has_not_ended_for_who_waits_and_who_is_attached() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let policy = ["--restart", "on-failure:2"];
    let words = [
        "run",
        policy[0],
        policy[1],
        IMAGE,
        "sh",
        "-c",
        "echo a; exit 3",
    ];
    let ended = supervisor.ctl(&words);
    assert_eq!((ended.code(), &*ended.stdout), (3, "a\na\na\n"));
    let id = supervisor.detached(&policy, "exit 4");
    assert_eq!(supervisor.says(&["wait", &id]), "4");
    assert_eq!(supervisor.field(&id, "{{.RestartCount}}"), "2");
    assert_eq!(supervisor.says(&["wait", &id]), "4");
    // Nor is it over before somebody says so.
    let id = supervisor.detached(&["--restart", "always"], "exit 5");
    let waiting = supervisor.start(&["wait", &id]);
    let mut events = supervisor.start(&["events", "--since", "1", "-f", "event=start"]);
    while !events.stdout.line().contains(&id) {}
    events.stdout.until(&id);
    supervisor.says(&["stop", &id]);
    assert_eq!(waiting.wait().success().stdout, "5\n");
}

/// Many small pieces are on their way at once while whoever reads them has no time.
#[test]
fn what_comes_in_small_pieces_stays_in_its_order() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    supervisor.detached(&["--name", "box"], "sleep 1000");
    // A write each, so that the client has as many to send.
    let pieces = |command: &str| {
        let line = format!("i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done | {command}");
        let finished = finish(supervisor.in_shell(&line)).success();
        finished.stdout.trim().to_owned()
    };
    let expected = pieces("md5sum");
    for slow in ["md5sum", "sh -c 'sleep 1; md5sum'"] {
        let exec = pieces(&format!("$ctl exec -i box {slow}"));
        assert_eq!(exec, expected, "exec, {slow}");
        let run = pieces(&format!("$ctl run --rm -i {IMAGE} {slow}"));
        assert_eq!(run, expected, "run, {slow}");
    }
}

#[test]
fn what_somebody_has_put_in_a_logs_place_is_refused_and_keeps_nobody_waiting() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let id = supervisor.detached(&["--name", "box"], "sleep 1000");
    let log = PathBuf::from(supervisor.field("box", "{{.LogPath}}"));
    let link = |to: &str| symlink(to, &log).unwrap();
    let file = supervisor.scratch.file("secret", "secret\n");
    let places: [&dyn Fn(); 5] = [
        &|| link(&file.display().to_string()),
        &|| link("/dev/zero"),
        &|| link("/nonexistent"),
        &|| mkfifo(&log, Mode::S_IRUSR).unwrap(),
        &|| fs::create_dir(&log).unwrap(),
    ];
    for put in places {
        fs::remove_file(&log).unwrap();
        put();
        for command in [&["logs", "box"][..], &["attach", "--no-stdin", "box"]] {
            let refused = supervisor.ctl(command).failure();
            let refused = refused.says("container.log is not a regular file");
            assert_eq!((&*refused.stdout, refused.stderr.lines().count()), ("", 1));
        }
        assert_eq!(supervisor.says(&["ps", "-q", "--no-trunc"]), id);
    }
}
