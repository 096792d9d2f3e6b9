//! What there is of containers, images and volumes: lists, their conditions, and `inspect`.

use std::collections::BTreeSet;
use std::path::Path;

use integration::runtime::finish;
use integration::store::{Tar, saved_as, saved_with};
use integration::supervisor::{IMAGE, Supervisor};
use integration::{place, require};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use super::endings::stopped_amid_commit;

fn names(supervisor: &Supervisor, list: &[&str], field: &str, filters: &[&str]) -> String {
    let mut words = list.to_vec();
    let format = format!("{{{{.{field}}}}}");
    words.extend(["--format", &format]);
    for filter in filters {
        words.extend(["--filter", filter]);
    }
    let said = supervisor.says(&words);
    // What matters is what is found.
    let sorted: BTreeSet<_> = said.split_whitespace().collect();
    sorted.into_iter().collect::<Vec<_>>().join(" ")
}

/// `two` is made of `busybox` and has a layer more.
fn two_images(supervisor: &Supervisor) {
    supervisor.says(&["create", "--name", "base", IMAGE, "true"]);
    let file = supervisor.scratch.file("file", "more");
    supervisor.says(&["cp", file.to_str().unwrap(), "base:/more"]);
    supervisor.says(&["commit", "-c", "LABEL tier=front", "base", "team/two:1"]);
    supervisor.says(&["rm", "base"]);
}

#[test]
fn containers_are_filtered_by_whatever_they_have() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    two_images(&supervisor);
    let create = |name: &str, flags: &[&str], image: &str| {
        let words = [&["create", "--name", name], flags, &[image, "true"]].concat();
        supervisor.says(&words)
    };
    let id = create("web-1", &["-l", "a=1", "-l", "b", "-v", "data:/d"], IMAGE);
    create("web-2", &["-l", "a=2", "-v", "/srv:/s/"], "team/two:1");
    create("db", &["--network", "host", "-l", "a=1"], "team/two:1");
    let script = ["run", "--name", "ended", IMAGE, "sh", "-c", "exit 3"];
    assert_eq!(supervisor.ctl(&script).code(), 3);
    supervisor.detached(&["--name", "runs"], "sleep 1000");
    let ps = |filters: &[&str]| names(&supervisor, &["ps", "-a"], "Names", filters);
    for (filters, found) in [
        (&["name=web"][..], "web-1 web-2"),
        (&["name=^/web-1$"], "web-1"),
        (&["name=-1", "name=db"], "db web-1"),
        (&["name=web", "label=a=1"], "web-1"),
        (&["label=a=1", "label=b"], "web-1"),
        (&[&format!("id={}", &id[..8])], "web-1"),
        (&["status=created"], "db web-1 web-2"),
        (&["status=exited", "status=running"], "ended runs"),
        (&["exited=3"], "ended"),
        (&["exited=0"], ""),
        (&["ancestor=team/two:1"], "db web-2"),
        (&["ancestor=busybox"], "db ended runs web-1 web-2"),
        (&["ancestor=none"], ""),
        (&["volume=data"], "web-1"),
        (&["volume=/d"], "web-1"),
        (&["volume=/s"], "web-2"),
        (&["volume="], ""),
        (&["name=^web.*$"], "web-1 web-2"),
        (&["network=host"], "db"),
        (&["before=web-2"], "web-1"),
        (&["since=db"], "ended runs"),
        (&["since=web-1", "before=ended"], "db web-2"),
    ] {
        assert_eq!(ps(filters), found, "{filters:?}");
    }
    // A state that is asked for is found without -a.
    assert_eq!(
        names(&supervisor, &["ps"], "Names", &["status=exited"]),
        "ended"
    );
    // A negative number is none.
    let newest = |number| supervisor.says(&["ps", "-q", "-n", number]);
    assert_eq!(newest("2").lines().count(), 2);
    assert_eq!(newest("-1").lines().count(), 1);
    for (filter, why) in [
        ("nonsense=1", "invalid filter 'nonsense'"),
        ("status=nonsense", "invalid filter 'status=nonsense'"),
        ("exited=x", "invalid filter 'exited=x'"),
        ("before=none", "no such container"),
        ("name", "NAME=VALUE"),
        ("name=web-[12]", "regular expressions"),
    ] {
        let refused = supervisor.ctl(&["ps", "-f", filter]).failure();
        refused.says(why);
    }
}

#[test]
fn images_are_found_by_patterns_and_conditions() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    two_images(&supervisor);
    supervisor.says(&["tag", "team/two:1", "team/other:2"]);
    supervisor.says(&["create", "--name", "base", IMAGE, "true"]);
    supervisor.says(&["commit", "base"]);
    let field = "Repository}}:{{.Tag";
    let images = |filters: &[&str]| names(&supervisor, &["images"], field, filters);
    let (own, team) = ("busybox:latest", "team/other:2 team/two:1");
    let named = |name: &str| names(&supervisor, &["images", name], field, &[]);
    assert_eq!(named("busybox"), own);
    assert_eq!(named("busy*"), own);
    assert_eq!(named("*"), own);
    assert_eq!(named("team/*"), team);
    assert_eq!(named("team/*:1"), "team/two:1");
    assert_eq!(named("none"), "");
    for (filters, found) in [
        (&["reference=team/t*"][..], "team/two:1"),
        (
            &["reference=*:latest", "reference=*/*:2"],
            "busybox:latest team/other:2",
        ),
        (&["dangling=true"], "<none>:<none>"),
        (&["dangling=false"], &*format!("{own} {team}")),
        (&["label=tier"], team),
        (&["label=tier=front"], team),
        (&["label=tier=back"], ""),
        (&["since=busybox", "dangling=false"], team),
        (&["before=team/two:1"], own),
        (&["until=2000-01-01T00:00:00Z"], ""),
    ] {
        assert_eq!(images(filters), found, "{filters:?}");
    }
    for (words, why) in [
        (&["-f", "nonsense=1"][..], "invalid filter 'nonsense'"),
        (&["-f", "dangling=maybe"], "invalid filter 'dangling=maybe'"),
        (&["-f", "before=none"], "no such image"),
        (&["[a"], "no pattern"),
    ] {
        let refused = supervisor.ctl(&[&["images"], words].concat()).failure();
        refused.says(why);
    }
}

#[test]
fn volumes_are_filtered() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    supervisor.says(&["volume", "create", "--label", "a=1", "one"]);
    supervisor.says(&["volume", "create", "two"]);
    supervisor.says(&["create", "-v", "two:/d", IMAGE, "true"]);
    let list = |filters: &[&str]| names(&supervisor, &["volume", "ls"], "Name", filters);
    for (filters, found) in [
        (&["name=o"][..], "one two"),
        (&["name=^o"], "one"),
        (&["label=a"], "one"),
        (&["dangling=true"], "one"),
        (&["dangling=false"], "two"),
        (&["driver=local"], "one two"),
        (&["driver=other"], ""),
    ] {
        assert_eq!(list(filters), found, "{filters:?}");
    }
    supervisor.ctl(&["volume", "rm", "none"]).failure();
    let removed = supervisor.says(&["volume", "remove", "-f", "none", "one"]);
    assert_eq!(removed, "none\none");
}

#[test]
fn what_a_container_takes_is_counted_if_that_is_asked_for() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    supervisor.says(&["create", "--name", "box", IMAGE, "true"]);
    let own = || {
        let size = supervisor.says(&["inspect", "-s", "-f", "{{.SizeRw}} {{.SizeRootFs}}", "box"]);
        let (own, all) = size.split_once(' ').unwrap();
        (own.parse::<u64>().unwrap(), all.parse::<u64>().unwrap())
    };
    let before = own();
    assert!(before.1 > before.0);
    let file = supervisor.scratch.file("file", "x".repeat(3 << 20));
    supervisor.says(&["cp", file.to_str().unwrap(), "box:/file"]);
    let after = own();
    assert!(after.0 >= before.0 + (3 << 20), "{before:?} {after:?}");
    assert_eq!(after.1 - after.0, before.1 - before.0);
    let table = supervisor.says(&["ps", "-as"]);
    let line = table.lines().nth(1).unwrap();
    assert!(table.lines().next().unwrap().ends_with("SIZE"), "{table}");
    assert!(line.contains("MB (virtual "), "{table}");
    let size = supervisor.says(&["ps", "-a", "--format", "{{.Size}}"]);
    assert!(line.ends_with(&size), "{table}");
    // Nobody counts unasked.
    let unasked = supervisor.field("box", "{{json .}}");
    assert!(!unasked.contains("SizeRw"));
}

#[test]
fn nothing_of_the_host_is_counted_of_a_container_that_exchanges_directories_for_links() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let outside = supervisor.scratch.dir("outside");
    place::write(&outside.join("secret"), vec![b'x'; 32 << 20]);
    let script = format!(
        "mkdir /srv/x; ln -s {outside} /srv/link; echo ready
        while :; do mv /srv/x /srv/away; mv /srv/link /srv/x; mv /srv/x /srv/link; mv /srv/away /srv/x; done",
        outside = outside.display()
    );
    let id = supervisor.detached(&[], &script);
    let mut log = supervisor.start(&["logs", "-f", &id]);
    assert_eq!(log.stdout.line(), "ready");
    for _ in 0..60 {
        let size = supervisor.says(&["inspect", "-s", "-f", "{{.SizeRw}}", &id]);
        assert!(size.parse::<u64>().unwrap() < 16 << 20, "{size}");
        let changes = supervisor.says(&["diff", &id]);
        assert!(!changes.contains("secret"), "{changes}");
    }
}

#[test]
fn an_images_history_is_shown_as_it_is_asked_for() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    two_images(&supervisor);
    let history = |words: &[&str]| {
        let said = supervisor.says(&[&["history"], words, &["team/two:1"]].concat());
        said.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let id = supervisor.says(&["image", "inspect", "-f", "{{.Id}}", "team/two:1"]);
    let short = id.trim_start_matches("sha256:")[..12].to_owned();
    assert_eq!(history(&["-q"]), [&*short, "<missing>"]);
    assert_eq!(history(&["-q", "--no-trunc"]), [&*id, "<missing>"]);
    let table = history(&[]);
    assert!(table[0].starts_with("IMAGE "), "{table:?}");
    assert!(table[1].starts_with(&short), "{table:?}");
    let sizes = history(&["--human=false", "--format", "{{.Size}}"]);
    assert!(sizes.iter().all(|size| size.parse::<u64>().is_ok()));
}

#[test]
fn inspect_shows_things_of_several_kinds_and_says_which_are_not_there() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    supervisor.says(&["create", "--name", "box", "-v", "data:/d", IMAGE, "true"]);
    let all = ["inspect", "box", "data", "none", IMAGE];
    let shown = supervisor.ctl(&all);
    assert_eq!(shown.code(), 1);
    let found = shown.json();
    let found = found.as_array().unwrap();
    assert_eq!(found.len(), 3);
    assert_eq!(
        (&found[0]["Name"], &found[1]["Name"]),
        (&"/box".into(), &"data".into())
    );
    assert!(found[2]["RepoTags"].is_array());
    shown.says("no such container, image, volume: none");
    for (kind, name) in [("container", "box"), ("image", IMAGE), ("volume", "data")] {
        supervisor.says(&["inspect", "--type", kind, name]);
        supervisor.says(&[kind, "inspect", name]);
        let others = ["box", IMAGE, "data"].into_iter().filter(|it| *it != name);
        for other in others {
            let refused = ["inspect", "--type", kind, other, name];
            let refused = supervisor.ctl(&refused).failure();
            assert_eq!(refused.json().as_array().unwrap().len(), 1);
            supervisor.ctl(&[kind, "inspect", other]).failure();
        }
    }
}

#[test]
fn what_is_done_with_things_can_be_said_by_their_kind() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let run = ["container", "run", "--name", "one", IMAGE, "sh", "-c"];
    let finished = supervisor.ctl(&[&run[..], &["echo out; exit 7"]].concat());
    assert_eq!((finished.code(), &*finished.stdout), (7, "out\n"));
    let refused = ["container", "run", IMAGE, "no-such-program"];
    assert_eq!(supervisor.ctl(&refused).code(), 127);
    for list in ["ls", "list", "ps"] {
        let listed = ["container", list, "-a", "--filter", "name=one", "-q"];
        assert_eq!(supervisor.says(&listed).len(), 12);
    }
    assert_eq!(supervisor.says(&["container", "logs", "one"]), "out");
    supervisor.says(&["container", "commit", "one", "two"]);
    let archive = supervisor.scratch.name("two.tar");
    supervisor.says(&["image", "save", "-o", &archive, "two"]);
    supervisor.says(&["image", "remove", "two"]);
    supervisor.says(&["image", "load", "-i", &archive]);
    supervisor.says(&["container", "export", "-o", &archive, "one"]);
    supervisor.says(&["import", &archive, "three"]);
    let names = supervisor.says(&["image", "ls", "--format", "{{.Repository}}"]);
    assert!(names.contains("two") && names.contains("three"), "{names}");
    let id = supervisor.detached(&[], "sleep 1000");
    supervisor.says(&["container", "prune", "-f"]);
    assert_eq!(supervisor.says(&["ps", "-aq", "--no-trunc"]), id);
    supervisor.says(&["container", "remove", "-f", &id]);
    supervisor
        .ctl(&["container", "nonsense"])
        .failure()
        .says("(see 'caissonctl container --help')");
}

#[test]
fn events_are_filtered() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    for name in ["one", "two"] {
        supervisor.says(&["create", "--name", name, IMAGE, "true"]);
    }
    supervisor.says(&["volume", "create", "data"]);
    let events = |filters: &[&str]| {
        let until = ["--since", "1", "--until", "0s", "--format", "{{.Action}}"];
        let mut words = [&["events"], &until[..]].concat();
        filters
            .iter()
            .for_each(|filter| words.extend(["-f", filter]));
        supervisor.says(&words).replace('\n', " ")
    };
    assert_eq!(events(&["container=one"]), "create");
    assert_eq!(
        events(&["container=one", "container=two", "event=create"]),
        "create create"
    );
    assert_eq!(events(&["type=image", "type=volume"]), "import create");
    assert_eq!(events(&["type=image", "event=create"]), "");
    let refused = supervisor
        .ctl(&["events", "--until", "0s", "-f", "nonsense=1"])
        .failure();
    refused.says("invalid filter 'nonsense'");
}

#[test]
fn events_tell_of_execs_of_attachments_and_of_signals_with_the_containers_labels() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let label = ["--label", "of=test"];
    let run = ["run", "-d", "-i", "--name", "box"];
    supervisor.says(&[&run[..], &label, &[IMAGE, "cat"]].concat());
    let exec = supervisor.ctl(&["exec", "box", "sh", "-c", "exit 3"]);
    assert_eq!(exec.code(), 3, "{exec}");
    let format = "{{.Action}} {{.Actor.Attributes.signal}} {{.Actor.Attributes.exitCode}}";
    let labelled = [
        "events",
        "--after",
        "0",
        "-f",
        "label=of=test",
        "--format",
        format,
    ];
    let mut events = supervisor.start(&labelled);
    // It comes after the client's end.
    events.stdout.until("exec_die <no value> 3");
    let attached = supervisor.start(&["attach", "--no-stdin", "box"]);
    events.stdout.until("attach <no value> <no value>");
    supervisor.says(&["kill", "box"]);
    for expected in ["kill 9 <no value>", "die <no value> 137"] {
        events.stdout.until(expected);
    }
    assert_eq!(attached.wait().code(), 137);
    supervisor.says(&["rm", "box"]);
    events.stdout.until("destroy");
    let other = [&labelled[..4], &["label=of=other", "--until", "0s"]].concat();
    assert_eq!(supervisor.says(&other), "");
}

#[test]
fn what_is_removed_for_not_being_used_can_be_narrowed_down() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let by = |what: &[&str], filters: &[&str]| {
        let filters: Vec<String> = filters.iter().map(|it| format!("--filter={it}")).collect();
        let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
        supervisor.says(&[what, &["prune", "-f"], &filters].concat())
    };
    let names = || supervisor.says(&["ps", "-a", "--format", "{{.Names}}"]);
    for (name, label) in [("one", "tier=front"), ("two", "tier=back"), ("three", "x")] {
        supervisor.says(&["create", "--name", name, "--label", label, IMAGE, "true"]);
        supervisor.says(&["commit", "-c", &format!("LABEL {label}="), name, name]);
        supervisor.says(&["volume", "create", "--label", label, name]);
    }
    for filter in ["until=24h", "label=tier=none", "label!=tier"] {
        by(&["container"], &[filter, "label=tier"]);
        by(&["system"], &[filter, "label=tier"]);
    }
    assert_eq!(names().lines().count(), 3);
    by(
        &["container"],
        &["label=tier", "label!=tier=back", "until=0s"],
    );
    assert_eq!(names(), "three\ntwo");
    let volumes = || supervisor.says(&["volume", "ls", "-q"]);
    by(&["volume"], &["label!=x"]);
    assert_eq!(volumes(), "one\nthree\ntwo");
    by(&["volume"], &["label=nothing", "all=true"]);
    assert_eq!(volumes(), "one\nthree\ntwo");
    by(&["volume"], &["label!=x", "all=true"]);
    assert_eq!(volumes(), "three");
    let images = || {
        let names = supervisor.says(&["images", "--format", "{{.Repository}}"]);
        let of: std::collections::BTreeSet<String> = names.lines().map(str::to_owned).collect();
        ["one", "two", "three"].map(|name| of.iter().any(|it| it.ends_with(name)))
    };
    by(&["image"], &["dangling=false", "until=24h"]);
    assert_eq!(images(), [true; 3]);
    by(&["image"], &["dangling=false", "label=x"]);
    assert_eq!(images(), [true, true, false]);
    let both = ["system", "prune", "-f", "--volumes", "--filter", "until=1h"];
    supervisor.ctl(&both).failure().says("'until'");
    let unknown = ["image", "prune", "-f", "--filter", "nonsense=1"];
    supervisor.ctl(&unknown).failure().says("invalid filter");
}

#[test]
fn a_time_without_a_zone_is_that_of_the_clients_clock() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let archive = supervisor.scratch.name("summer.tar");
    let created = json!({ "created": "2026-07-01T00:00:00Z" });
    place::write(
        Path::new(&archive),
        saved_as(&created, "of:summer", &[Tar::new()]),
    );
    supervisor.says(&["load", "-i", &archive]);
    supervisor.says(&["run", "--name", "box", IMAGE, "echo", "said"]);
    let said = supervisor.says(&["logs", "-t", "box"]);
    let (time, _) = said.split_once("Z ").unwrap();
    let in_zone = |zone: &str, words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        let mut command = supervisor.command(&words);
        command.env("TZ", zone);
        finish(command).success().stdout
    };
    // The same clock shows that an hour before UTC's and an hour after it.
    let (east, west) = ("EEE-1", "WWW1");
    let events = "events -f event=start --until 0s --since";
    for (zone, options, shown) in [
        (east, format!("logs --since {time} box"), true),
        (west, format!("logs --since {time} box"), false),
        (east, format!("logs --until {time} box"), false),
        (west, format!("logs --until {time} box"), true),
        (west, format!("logs --until {time}Z box"), true),
        (east, "logs --since +1h box".into(), true),
        (east, "logs --since -1h box".into(), false),
        (east, "logs --until -1h box".into(), true),
        (east, format!("{events} {time}"), true),
        (west, format!("{events} {time}"), false),
        (west, format!("{events} -1h"), false),
    ] {
        let said = in_zone(zone, &options);
        assert_eq!(!said.is_empty(), shown, "{zone} {options}: {said}");
    }
    supervisor
        .ctl(&["logs", "--since", "-5", "box"])
        .failure()
        .says("'-5' is no time");
    // Two hours before UTC's in summer; one that it never showed is one all the same.
    let berlin = "CET-1CEST,M3.5.0,M10.5.0/3";
    let until = |time| in_zone(berlin, &format!("images -q of -f until={time}"));
    assert_eq!(until("2026-07-01T02:00"), "");
    assert_ne!(until("2026-07-01T02:00:00.000000001"), "");
    in_zone(berlin, &format!("{events} 2026-03-29T02:30"));
    let prune = format!("container prune -f --filter until={time}");
    in_zone(east, &prune);
    assert_ne!(supervisor.says(&["ps", "-aq"]), "");
    in_zone(west, &prune);
    assert_eq!(supervisor.says(&["ps", "-aq"]), "");
}

#[test]
fn a_configuration_may_say_null_for_nothing_and_one_text_for_a_command_line() {
    require!(containers, busybox);
    let supervisor = Supervisor::without_image();
    let layers = [Tar::new().file("a", b"")];
    let config = json!({
        "Labels": {"a": null, "b": "c"}, "Cmd": "/a b", "Entrypoint": null, "Env": null, "User": null,
        "ExposedPorts": {"80/tcp": null}, "Volumes": null, "StopSignal": null, "OnBuild": null, "Healthcheck": null,
    });
    let document = json!({"created": null, "author": null, "history": null, "config": config});
    let bytes = saved_as(&document, "odd:1", &layers);
    let archive = supervisor.scratch.file("odd.tar", &bytes);
    supervisor.says(&["load", "-i", archive.to_str().unwrap()]);
    // It is what it was.
    let id = supervisor.says(&["image", "inspect", "--format", "{{.Id}}", "odd:1"]);
    let digits = id.trim_start_matches("sha256:");
    let name = format!("{digits}.json");
    assert!(bytes.windows(name.len()).any(|it| it == name.as_bytes()));
    supervisor.says(&["create", "--name", "box", "odd:1"]);
    let said = supervisor.field("box", "{{json .Config.Cmd}} {{json .Config.Labels}}");
    assert_eq!(said, r#"["/a b"] {"a":"","b":"c"}"#);
    supervisor.says(&["commit", "-c", "ENV a=b", "box", "two:1"]);
    let command = [
        "image",
        "inspect",
        "--format",
        "{{json .Config.Cmd}}",
        "two:1",
    ];
    assert_eq!(supervisor.says(&command), r#"["/a b"]"#);
}

/// More than a message of the interface holds.
#[test]
fn what_is_large_is_listed_inspected_and_removed_like_all_else() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let labels = (0..50_000).map(|number| (format!("label-{number}"), json!("of many")));
    let labels: serde_json::Map<_, _> = labels.collect();
    for (name, config) in [
        (
            "long:1",
            json!({ "Labels": { "l": "x".repeat(7_000_000) } }),
        ),
        ("many:1", json!({ "Labels": labels })),
        (
            "words:1",
            json!({ "Cmd": ["echo", "x".repeat(3_000_000), "y".repeat(2_000_000)] }),
        ),
    ] {
        let layer = Tar::new().file("name", name.as_bytes());
        let archive = supervisor.scratch.name("large.tar");
        place::write(archive.as_ref(), saved_with(name, &[layer], &config));
        let loaded = supervisor.says(&["load", "-i", &archive]);
        assert!(
            loaded.ends_with(&format!("Loaded image: {name}")),
            "{loaded}"
        );
        let of_image = supervisor.says(&["inspect", name]);
        assert!(of_image.len() > 1_500_000, "{name}: {}", of_image.len());
        supervisor.says(&["history", "-q", name]);
        supervisor.says(&["create", "--name", &name.replace(':', "-"), name, "true"]);
    }
    let label = format!("l={}", "x".repeat(120_000));
    for number in 0..45 {
        let name = format!("small-{number}");
        supervisor.says(&["create", "--name", &name, "--label", &label, IMAGE, "true"]);
    }
    assert_eq!(supervisor.says(&["images", "-q"]).lines().count(), 4);
    assert_eq!(supervisor.says(&["ps", "-aq"]).lines().count(), 48);
    let one: Value = serde_json::from_str(&supervisor.says(&["inspect", "long-1"])).unwrap();
    let label = one[0]["Config"]["Labels"]["l"].as_str().unwrap();
    assert_eq!(label.len(), 7_000_000);
    supervisor.says(&["system", "df", "-v"]);
    let names = supervisor.says(&["system", "df", "-v", "--format", "{{.Name}}"]);
    assert!(!names.contains('…'), "{names}");
    supervisor.says(&["container", "prune", "-f"]);
    assert_eq!(supervisor.says(&["ps", "-aq"]), "");
    supervisor.says(&["rmi", "long:1"]);
    let pruned = supervisor.says(&["system", "prune", "-af"]);
    assert!(pruned.contains("Deleted: sha256:"), "{pruned}");
    assert_eq!(supervisor.says(&["images", "-q"]), "");
}

#[test]
fn templates_find_what_an_image_or_a_container_does_not_have() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let of_image = "{{.Config.Env}} {{.Config.WorkingDir}}{{len .Config.Labels}}";
    assert_eq!(supervisor.field(IMAGE, of_image), "[] 0");
    supervisor.says(&["create", "--name", "box", "-l", "a=1", IMAGE, "true"]);
    let of_container = "{{.NetworkSettings.IPAddress}}{{.HostConfig.Devices}}{{.Config.OnBuild}}";
    assert_eq!(supervisor.field("box", of_container), "[]<no value>");
    let of_both = "{{.Platform}} {{.Driver}} {{if .State.Health}}checked{{end}}";
    assert_eq!(supervisor.field("box", of_both), "linux overlayfs");
    let labels = r#"{{.Label "a"}}{{.Label "none"}}{{if eq .State "created"}}!{{end}}"#;
    assert_eq!(supervisor.says(&["ps", "-a", "--format", labels]), "1!");
    let json = supervisor.says(&["ps", "-a", "--format", "json"]);
    assert!(!json.contains("\"Label\""), "{json}");
    let shared = supervisor.scratch.dir("shared").display().to_string();
    let (private, shared) = (format!("{shared}:/a"), format!("{shared}:/b:rslave"));
    let mounts = ["-v", &private, "-v", &shared, "-v", "volume:/c"];
    let create = ["create", "--name", "mounts"];
    supervisor.says(&[&create[..], &mounts, &[IMAGE, "true"]].concat());
    let propagation = "{{range .Mounts}}{{.Destination}}={{.Propagation}} {{end}}";
    let said = supervisor.field("mounts", propagation);
    assert_eq!(said, "/a=rprivate /b=rslave /c=");
}

/// What Docker's lists have, by its manual and its source.
const FIELDS: [(&[&str], &str); 8] = [
    (
        &["ps", "-a"],
        "ID Names Image Command CreatedAt RunningFor Ports State Status Size Labels Mounts LocalVolumes Networks HealthStatus",
    ),
    (
        &["images"],
        "ID Repository Tag Digest CreatedSince CreatedAt Size Containers VirtualSize SharedSize UniqueSize",
    ),
    (
        &["volume", "ls"],
        "Name Driver Scope Mountpoint Labels Links Size Group Availability Status",
    ),
    (
        &["history", IMAGE],
        "ID CreatedSince CreatedAt CreatedBy Size Comment",
    ),
    (
        &["stats", "--no-stream", "box"],
        "Container Name ID CPUPerc MemUsage MemPerc NetIO BlockIO PIDs",
    ),
    (&["system", "df"], "Type TotalCount Active Size Reclaimable"),
    (
        &["version"],
        "Client.Version Client.Os Client.Arch Server.Version Server.Os Server.Arch",
    ),
    (
        &["info"],
        "Name ServerVersion Containers ContainersRunning Images Driver LoggingDriver CgroupDriver CgroupVersion KernelVersion \
         OperatingSystem OSType Architecture NCPU MemTotal DockerRootDir SecurityOptions DefaultRuntime Runtimes.caisson.path \
         LiveRestoreEnabled Swarm.LocalNodeState",
    ),
];

#[test]
fn templates_know_all_fields_that_docker_has() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let flags = [
        "--name",
        "box",
        "-l",
        "b=2",
        "-l",
        "a=1",
        "-v",
        "/mnt:/mnt",
        "-v",
        "data:/data",
    ];
    supervisor.detached(&flags, "sleep 1000");
    supervisor.says(&["volume", "create", "--label", "c=3", "other"]);
    for (command, fields) in FIELDS {
        let actions: Vec<String> = fields
            .split(' ')
            .map(|it| format!("{{{{.{it}}}}}"))
            .collect();
        let said = supervisor.says(&[command, &["--format", &actions.join("|")]].concat());
        assert!(!said.contains("<no value>"), "{command:?}: {said}");
        let line = said.lines().next().unwrap();
        assert_eq!(
            line.split('|').count(),
            actions.len(),
            "{command:?}: {said}"
        );
    }
    let table = |words: &[&str], template: &str| {
        supervisor.says(&[words, &["--format", template]].concat())
    };
    assert_eq!(
        table(&["ps"], "table {{.LocalVolumes}}\t{{.Labels}}"),
        "LOCAL VOLUMES   LABELS\n1               a=1,b=2"
    );
    let labels = r#"{{.Name}} {{.Labels}} {{.Label "c"}}"#;
    assert_eq!(table(&["volume", "ls"], labels), "data  \nother c=3 3");
    assert_eq!(
        table(&["stats", "--no-stream", "box"], "{{.Container}}"),
        "box"
    );
    let used = "{{.Type}} {{.Active}} of {{.TotalCount}}";
    let used = table(&["system", "df"], used);
    let expected = "Images 1 of 1\nContainers 1 of 1\nLocal Volumes 1 of 2\nUnfinished 0 of 0";
    assert_eq!(used, expected);
    supervisor.says(&["rm", "-f", "box"]);
    let used = table(&["system", "df"], "{{.Active}}/{{.TotalCount}}");
    assert_eq!(used, "0/1\n0/0\n0/2\n0/0");
}

#[test]
fn events_have_the_names_of_dockers_templates() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let id = supervisor.says(&["create", "--name", "box", IMAGE, "true"]);
    let of = |filter: &str, template: &str| {
        let events = [
            "events", "--until", "0s", "--filter", filter, "--format", template,
        ];
        supervisor.says(&events)
    };
    assert_eq!(
        of(
            "event=create",
            "Type={{.Type}}  Status={{.Status}}  ID={{.ID}} {{.Actor.ID}} {{.Action}} {{.Actor.Attributes.name}} {{.Scope}} {{.From}}"
        ),
        format!("Type=container  Status=create  ID={id} {id} create box local {IMAGE}")
    );
    assert_eq!(of("event=import", "<{{.From}}>"), "<>");
    let times = of("event=create", "{{.Time}} {{.TimeNano}}");
    let (seconds, nanoseconds) = times.split_once(' ').unwrap();
    assert!(nanoseconds.starts_with(seconds), "{times}");
    let json = of("event=create", "{{json .}}");
    for name in ["id", "status", "from", "time", "timeNano", "scope"] {
        assert!(json.contains(&format!(r#""{name}":"#)), "{json}");
    }
    assert_eq!(json, of("event=create", "json"));
}

#[test]
fn what_others_remove_or_start_meanwhile_is_not_for_prune() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    for name in ["removed", "started"] {
        supervisor.says(&["create", "--name", name, IMAGE, "sleep", "1000"]);
    }
    let noise = "head -c 64000000 /dev/urandom >/noise";
    let id = supervisor.says(&["run", "-d", IMAGE, "sh", "-c", noise]);
    supervisor.says(&["wait", &id]);
    let last = supervisor.says(&["create", IMAGE, "true"]);
    // The newest goes first; the next one is held by who makes an image of it.
    let (commit, copying) = stopped_amid_commit(&supervisor, &id);
    let mut prune = supervisor.start(&["container", "prune", "-f"]);
    assert_eq!(prune.stdout.line(), format!("Deleted container: {last}"));
    supervisor.says(&["rm", "removed"]);
    supervisor.says(&["start", "started"]);
    kill(copying, Signal::SIGCONT).unwrap();
    commit.wait().success();
    let pruned = prune.wait().success();
    assert!(pruned.stdout.contains(&id), "{pruned}");
    assert_eq!(pruned.stderr, "");
    assert_eq!(
        supervisor.says(&["ps", "-a", "--format", "{{.Names}}"]),
        "started"
    );
}
