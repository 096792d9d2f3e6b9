//! What people type every day, in Docker's words.

use std::io::Write as _;

use integration::runtime::{Finished, finish};
use integration::store::{Tar, saved_with};
use integration::supervisor::{IMAGE, Supervisor};
use integration::{place, require};
use serde_json::json;

fn feed(supervisor: &Supervisor, args: &[&str], bytes: &[u8]) -> Finished {
    let mut client = supervisor.start(args);
    client.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    client.wait()
}

fn host_namespace(kind: &str) -> String {
    let link = std::fs::read_link(format!("/proc/self/ns/{kind}"));
    link.unwrap().display().to_string()
}

#[test]
fn only_the_streams_that_are_asked_for_are_attached() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let run = |stream: &str| {
        let script = "echo out; echo err >&2; exit 3";
        let run = ["run", "--rm", "-a", stream, IMAGE, "sh", "-c", script];
        let finished = supervisor.ctl(&run);
        assert_eq!(finished.code(), 3);
        (finished.stdout, finished.stderr)
    };
    assert_eq!(run("stdout"), ("out\n".into(), String::new()));
    assert_eq!(run("STDERR"), (String::new(), "err\n".into()));
    // One who only brings something does not stay.
    let input = vec![b'x'; 300_000];
    let script = "cat >/got; echo done; exec sleep 1000";
    let run = [
        "run", "-i", "-a", "stdin", "--name", "box", IMAGE, "sh", "-c", script,
    ];
    let finished = feed(&supervisor, &run, &input).success();
    let id = supervisor.field("box", "{{.Id}}");
    assert_eq!(finished.stdout.trim(), id);
    let mut log = supervisor.start(&["logs", "-f", "box"]);
    assert_eq!(log.stdout.line(), "done");
    let count = supervisor.says(&["exec", "box", "wc", "-c", "/got"]);
    assert_eq!(count, "300000 /got");
    // What is not asked for is left to others.
    let input = supervisor.scratch.file("input", "for somebody else");
    let line = format!(
        "{{ $ctl run -i -a stdout {IMAGE} echo out; cat; }} <{}",
        input.display()
    );
    let finished = finish(supervisor.in_shell(&line)).success();
    assert_eq!(finished.stdout, "out\nfor somebody else");
    supervisor
        .ctl(&["run", "-d", "-a", "stdout", IMAGE, "true"])
        .failure()
        .says("conflicting options");
    supervisor
        .ctl(&["run", "-a", "nonsense", IMAGE, "true"])
        .failure()
        .says("nonsense");
}

#[test]
fn names_and_namespaces_of_the_host_are_shared_if_asked_for() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let run = |flags: &[&str], script: &str| {
        supervisor.says(&[&["run", "--rm"], flags, &[IMAGE, "sh", "-c", script]].concat())
    };
    for (flag, kind) in [("--uts", "uts"), ("--cgroupns", "cgroup")] {
        let look = format!("readlink /proc/self/ns/{kind}");
        assert_eq!(run(&[flag, "host"], &look), host_namespace(kind));
        assert_ne!(run(&[], &look), host_namespace(kind));
        let refused = ["run", "--rm", flag, "odd", IMAGE, "true"];
        supervisor.ctl(&refused).failure().says("'odd'");
    }
    let own = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(run(&["--uts", "host"], "hostname"), own.trim());
    supervisor
        .ctl(&["create", "--uts", "host", "-h", "x", IMAGE, "true"])
        .failure()
        .says("conflicting options");
    // The whole path, where a group of its own would be the root.
    let group = run(&["--cgroupns", "host"], "cat /proc/self/cgroup");
    assert!(group.contains("/caisson/"), "{group}");
    let domain = "cat /proc/sys/kernel/domainname";
    assert_eq!(run(&["--domainname", "example.org"], domain), "example.org");
    let flags = ["-h", "web", "--domainname", "example.org"];
    let hosts = run(&flags, "cat /etc/hosts");
    assert!(hosts.contains("\tweb.example.org web"), "{hosts}");
    supervisor
        .ctl(&["create", "--domainname", "a b", IMAGE, "true"])
        .failure()
        .says("the domain name 'a b'");
}

#[test]
fn who_is_killed_first_and_which_devices_may_be_used_is_said() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let score = "cat /proc/self/oom_score_adj";
    let id = supervisor.detached(&["--oom-score-adj=500"], "sleep 1000");
    for process in ["/proc/1", "/proc/self"] {
        let path = format!("{process}/oom_score_adj");
        assert_eq!(supervisor.says(&["exec", &id, "cat", &path]), "500");
    }
    let run = ["run", "--rm", "--oom-score-adj", "7"];
    let run = [&run[..], &[IMAGE, "sh", "-c", score]].concat();
    assert_eq!(supervisor.says(&run), "7");
    for value in ["1001", "-1001"] {
        supervisor
            .ctl(&["create", "--oom-score-adj", value, IMAGE, "true"])
            .failure()
            .says("[-1000, 1000]");
    }
    // Of a number that no driver has, the kernel says something else than of a device that is forbidden.
    let open = |flags: &[&str]| {
        let script = "mknod /node c 511 7; cat /node";
        let run = [&["run", "--rm"], flags, &[IMAGE, "sh", "-c", script]].concat();
        supervisor.ctl(&run).failure().stderr
    };
    assert!(open(&[]).contains("Operation not permitted"));
    for rule in ["c 511:7 r", "c 511:* rwm", "a *:* rwm"] {
        let said = open(&["--device-cgroup-rule", rule]);
        assert!(said.contains("No such device or address"), "{rule}: {said}");
    }
    for rule in [
        "c 511:7", "d 1:1 r", "c 1:x r", "c 1:1 rx", "c 1 r", "c +1:3 r",
    ] {
        supervisor
            .ctl(&["create", "--device-cgroup-rule", rule, IMAGE, "true"])
            .failure()
            .says("invalid device cgroup format");
    }
}

#[test]
fn names_are_found_as_was_asked_for() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let run = |flags: &[&str], file: &str| {
        supervisor.says(&[&["run", "--rm"], flags, &[IMAGE, "cat", file]].concat())
    };
    let flags = [
        "--dns=192.0.2.1",
        "--dns=2001:db8::1",
        "--dns-search=example.org",
        "--dns-option=ndots:2",
        "--dns-opt=rotate",
    ];
    let all =
        "nameserver 192.0.2.1\nnameserver 2001:db8::1\nsearch example.org\noptions ndots:2 rotate";
    let conf = run(&flags, "/etc/resolv.conf");
    assert!(conf.ends_with(all), "{conf}");
    // The servers stay the host's.
    let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = |text: &str| {
        let lines = text.lines().filter(|line| line.starts_with("nameserver"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let conf = run(&["--dns-search", "."], "/etc/resolv.conf");
    assert_eq!(servers(&conf), servers(&host));
    assert!(!conf.contains("search"), "{conf}");
    let hosts = run(&["--add-host", "other:192.0.2.7"], "/etc/hosts");
    assert!(hosts.ends_with("192.0.2.7\tother"), "{hosts}");
    let gateway = ["--network", "host", "--add-host", "gate:host-gateway"];
    let hosts = run(&gateway, "/etc/hosts");
    assert!(hosts.ends_with("127.0.0.1\tgate"), "{hosts}");
    let refused = supervisor.ctl(&["create", gateway[2], gateway[3], IMAGE, "true"]);
    refused.failure().says("there is one with --network host");
    for flag in ["--dns=ns.example.org", "--add-host=other:nowhere"] {
        supervisor
            .ctl(&["create", flag, IMAGE, "true"])
            .failure()
            .says(flag.rsplit(['=', ':']).next().unwrap());
    }
}

#[test]
fn lines_of_a_log_are_counted_as_they_were_meant() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let script = "echo first; printf one; read go; echo two; echo last";
    let mut client = supervisor.start(&["run", "-i", "--name", "box", IMAGE, "sh", "-c", script]);
    // What comes after this is another write of the same line.
    assert_eq!(client.stdout.until("one"), "first\none");
    client.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    client.wait().success();
    let tail = |lines: &str| supervisor.says(&["logs", "--tail", lines, "box"]);
    assert_eq!(tail("1"), "last");
    assert_eq!(tail("2"), "onetwo\nlast");
    assert_eq!(tail("3"), "first\nonetwo\nlast");
    assert_eq!(tail("0"), "");
    for all in ["all", "-1", "-5", "9"] {
        assert_eq!(tail(all), tail("3"));
    }
    supervisor
        .ctl(&["logs", "-n", "some", "box"])
        .failure()
        .says("'some' is no number of lines");
}

#[test]
fn a_container_whose_image_is_damaged_is_seen_and_stopped_all_the_same() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let script = "trap 'exit 7' TERM; echo ready; while :; do sleep 1000 & wait; done";
    supervisor.detached(&["--name", "box"], script);
    let mut log = supervisor.start(&["logs", "-f", "box"]);
    assert_eq!(log.stdout.line(), "ready");
    let image = supervisor.says(&["image", "inspect", "-f", "{{.Id}}", IMAGE]);
    let blobs = supervisor.scratch.path().join("root/blobs/sha256");
    std::fs::remove_file(blobs.join(image.trim_start_matches("sha256:"))).unwrap();
    assert_eq!(supervisor.field("box", "{{.Name}}"), "/box");
    let listed = supervisor.says(&["ps", "-s", "--format", "{{.Names}}"]);
    assert_eq!(listed, "box");
    supervisor.says(&["ps", "-s"]);
    supervisor.says(&["stop", "-t", "1000", "box"]);
    assert_eq!(supervisor.field("box", "{{.State.ExitCode}}"), "7");
}

#[test]
fn an_update_that_changes_nothing_is_one_all_the_same() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    supervisor.says(&["create", "--name", "box", "--memory", "64m", IMAGE, "true"]);
    let memory = || supervisor.field("box", "{{.HostConfig.Memory}}");
    for flags in [["--memory", "0"], ["--pids-limit", "0"]] {
        supervisor.says(&[&["update"], &flags[..], &["box"]].concat());
        assert_eq!(memory(), "67108864");
    }
    let refused = supervisor.ctl(&["update", "box"]).failure();
    refused.says("nothing is said");
}

#[test]
fn an_update_that_makes_no_sense_changes_nothing() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let flags = ["--name", "box", "--restart", "on-failure:2"];
    supervisor.detached(&flags, "sleep 1000");
    supervisor.detached(&["--name", "short", "--rm"], "sleep 1000");
    for (flags, container, why) in [
        (&["--restart", "always:3"][..], "box", "only on-failure"),
        (&["--restart", "unless-stopped:1"], "box", "only on-failure"),
        (&["--restart", "on-failure:x"], "box", "no number"),
        (&["--restart", "on-failure:-1"], "box", "no number"),
        (&["--restart", "sometimes"], "box", "'sometimes'"),
        (&["--restart", "always"], "short", "removed at its end"),
        (&["--memory", "much"], "box", "'much' is no size"),
        (&["--memory", "1"], "box", "memory"),
        (&["--cpus", "many"], "box", "'many'"),
        (&["--cpus", "-1"], "box", ""),
        (
            &["--pids-limit", "x"],
            "box",
            "(see 'caissonctl update --help')",
        ),
        (&[], "box", "nothing is said"),
        (&["--restart", "always"], "none", "no such container"),
    ] {
        let refused = supervisor.ctl(&[&["update"], flags, &[container]].concat());
        let refused = refused.failure();
        assert_eq!(refused.stderr.lines().count(), 1, "{refused}");
        refused.says(why);
    }
    let policy = |name: &str| {
        let template =
            "{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.RestartPolicy.MaximumRetryCount}}";
        supervisor.field(name, template)
    };
    assert_eq!(
        (policy("box"), policy("short")),
        ("on-failure 2".into(), "no 0".into())
    );
    supervisor.says(&["update", "--restart", "always", "box"]);
    assert_eq!(policy("box"), "always 0");
}

#[test]
fn of_several_that_are_waited_for_one_that_is_not_there_is_told_and_no_more() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    for code in ["3", "4"] {
        let name = format!("exits-{code}");
        let script = format!("exit {code}");
        supervisor.detached(&["--name", &name], &script);
    }
    let waited = supervisor.ctl(&["wait", "exits-3", "no-such", "exits-4"]);
    assert_eq!((waited.code(), &*waited.stdout), (1, "3\n4\n"));
    waited.says("no such container: no-such");
}

#[test]
fn words_of_dockers_are_read_as_docker_reads_them() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let here = supervisor.scratch.dir("here").display().to_string();
    let bind = format!("{here}:/here:delegated");
    let mount = format!("TYPE=bind,Source={here},target=/there,consistency=cached");
    let flags = [
        "-v",
        &bind,
        "--mount",
        &mount,
        "-w",
        "/a/../srv/./deep",
        "--label",
        "a=b",
    ];
    let run = [&["run", "--name", "box"], &flags[..], &[IMAGE, "pwd"]].concat();
    assert_eq!(supervisor.says(&run), "/srv/deep");
    for (label, value) in [("a", "b"), ("none", "")] {
        let template = format!("{{{{index .Config.Labels \"{label}\"}}}}");
        assert_eq!(supervisor.field("box", &template), value);
    }
    let mount = mount.replace("consistency=cached", "bind-propagation=odd");
    let refused = supervisor.ctl(&["create", "--mount", &mount, IMAGE]);
    refused.failure().says("unknown bind-propagation 'odd'");
}

#[test]
fn what_is_to_go_by_force_may_be_gone() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    supervisor.says(&["create", "--name", "box", IMAGE, "true"]);
    let removed = supervisor.ctl(&["rm", "-f", "no-such", "box"]).success();
    assert_eq!(removed.stdout, "box\n");
    removed.says("no such container: no-such");
    let removed = supervisor.ctl(&["rmi", "-f", "no-such"]).success();
    removed.says("no such image: no-such");
    supervisor.says(&["volume", "rm", "-f", "no-such"]);
    for kind in ["container", "image", "volume"] {
        supervisor.ctl(&[kind, "rm", "no-such"]).failure();
    }
}

#[test]
fn a_name_may_have_the_slash_that_inspect_shows() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    supervisor.detached(&["--name", "/box"], "sleep 1000");
    assert_eq!(supervisor.field("/box", "{{.Name}}"), "/box");
    let run = ["run", "--rm", "--network", "container:/box", IMAGE, "true"];
    supervisor.says(&run);
    supervisor.says(&["exec", "/box", "true"]);
    supervisor.says(&["rename", "/box", "/other"]);
    assert_eq!(supervisor.field("other", "{{.Name}}"), "/other");
    assert_eq!(supervisor.says(&["kill", "/other"]), "/other");
    assert_eq!(supervisor.says(&["wait", "/other"]), "137");
    assert_eq!(supervisor.says(&["rm", "/other"]), "/other");
    supervisor
        .ctl(&["create", "--name", "//box", IMAGE, "true"])
        .failure()
        .says("is invalid");
}

#[test]
fn who_is_asked_may_answer_through_a_pipe() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    supervisor.says(&["volume", "create", "-d", "local", "one"]);
    let prune = ["volume", "prune", "-a"];
    assert!(
        feed(&supervisor, &prune, b"n\n")
            .success()
            .stdout
            .ends_with("[y/N] ")
    );
    // No answer is none.
    feed(&supervisor, &prune, b"").failure().says("--force");
    let pruned = feed(&supervisor, &prune, b"y\n").success();
    let expected = "Deleted Volumes:\none\n\nTotal reclaimed space: ";
    assert!(pruned.stdout.contains(expected), "{pruned}");
    // The sum of all.
    let write = [
        "run",
        IMAGE,
        "sh",
        "-c",
        "head -c 2500000 /dev/zero >/srv/big",
    ];
    supervisor.says(&write);
    let pruned = supervisor.says(&["container", "prune", "-f"]);
    assert!(pruned.contains("\nTotal reclaimed space: 2.5"), "{pruned}");
    supervisor.says(&write);
    let pruned = supervisor.says(&["system", "prune", "-f", "--volumes"]);
    assert!(pruned.contains("\nTotal reclaimed space: 2.5"), "{pruned}");
    let opt = ["volume", "create", "-o", "type=nfs", "two"];
    supervisor.ctl(&opt).failure().says("no options");
}

#[test]
fn what_docker_refuses_or_takes_is_refused_or_taken() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let file = |text: &str| supervisor.scratch.file("env", text).display().to_string();
    let run = |flags: &[&str]| supervisor.ctl(&[&["run", "--rm"], flags, &[IMAGE, "env"]].concat());
    let path = file("\u{feff}FIRST=1\n  SECOND=2 3\n");
    let said = run(&["--env-file", &path]).success().stdout;
    assert!(said.contains("\nFIRST=1\nSECOND=2 3\n"), "{said}");
    for text in ["A B=1\n", "=1\n"] {
        run(&["--env-file", &file(text)])
            .failure()
            .says("has no blanks");
    }
    run(&["--cpus", "100000"]).failure().says("are available");
    let reserved = ["-m", "64m", "--memory-reservation", "65m"];
    run(&reserved).failure().says("is below what is reserved");
    let id = supervisor.detached(&["--name", "box"], "echo said; sleep 1000");
    supervisor
        .ctl(&["update", "--cpus", "100000", &id])
        .failure();
    let mut log = supervisor.start(&["logs", "-f", &id]);
    assert_eq!(log.stdout.line(), "said");
    for since in ["1.5h", "3600000ms", "1h30m0.5s"] {
        assert_eq!(supervisor.says(&["logs", "--since", since, &id]), "said");
    }
    assert_eq!(supervisor.says(&["port", "box"]), "");
    supervisor
        .ctl(&["port", "box", "80"])
        .failure()
        .says("no public port '80'");
    supervisor.ctl(&["port", "no-such"]).failure();
    let shown = supervisor.field(&id, "{{json .HostConfig.LogConfig.Config}}");
    assert_eq!(shown, r#"{"max-file":"5","max-size":"10485760"}"#);
    supervisor.says(&["restart", "-t", "0", &id]);
    let events = [
        "events",
        "--since",
        "1",
        "--until",
        "0s",
        "--format",
        "{{.status}} {{.time}} {{.id}}",
    ];
    let events = supervisor.says(&events);
    assert!(
        events
            .lines()
            .any(|line| line.starts_with("restart 1") && line.ends_with(&id)),
        "{events}"
    );
}

#[test]
fn directories_that_an_image_says_without_a_slash_are_below_the_root() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let layer = Tar::new().directory("data/");
    let config = json!({ "WorkingDir": "data", "Volumes": { "kept/deep": {} } });
    let archive = supervisor.scratch.name("relative.tar");
    place::write(
        archive.as_ref(),
        saved_with("relative:1", &[layer], &config),
    );
    supervisor.says(&["load", "-i", &archive]);
    let busybox = format!("{}:/busybox", place::busybox().unwrap().display());
    let script = "pwd; while read a b c d where e; do echo $where; done </proc/self/mountinfo";
    let run = [
        "run",
        "--rm",
        "-v",
        &busybox,
        "relative:1",
        "/busybox",
        "sh",
        "-c",
        script,
    ];
    let said = supervisor.says(&run);
    assert!(
        said.starts_with("/data\n") && said.contains("\n/kept/deep"),
        "{said}"
    );
}
