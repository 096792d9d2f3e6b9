//! The supervisor: containers from images, through `caissonctl`, with the shim and the runtime below.

mod clean;
mod commit;
mod copy;
mod crash;
mod cut_off;
mod defaults;
mod density;
mod endings;
mod everyday;
mod export;
mod full;
mod images;
mod last_word;
mod lists;
mod metrics;
mod options;
mod others;
mod power;
mod real;
mod recovery;
mod removal;
mod streams;
mod systemd;
mod userns;

use integration::require;
use integration::supervisor::{IMAGE, Supervisor};
use serde_json::Value;

#[test]
fn a_container_runs_with_its_streams_and_its_exit_code() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let script = "echo out; echo err >&2; exit 7";
    let finished = supervisor.ctl(&["run", "--rm", IMAGE, "sh", "-c", script]);
    assert_eq!(finished.code(), 7, "{finished}");
    assert_eq!((&*finished.stdout, &*finished.stderr), ("out\n", "err\n"));
    assert_eq!(supervisor.says(&["ps", "-aq"]), "");
    assert!(supervisor.bundles().is_empty());
}

#[test]
fn exit_codes_say_whose_fault_it_was() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let code = |args: &[&str]| supervisor.ctl(&[&["run", "--rm"], args].concat()).code();
    assert_eq!(code(&["no-such-image"]), 125);
    assert_eq!(code(&["--no-such-option", IMAGE]), 125);
    assert_eq!(code(&["--memory", "1", IMAGE, "true"]), 125);
    assert_eq!(code(&[IMAGE, "/etc/passwd"]), 126);
    assert_eq!(code(&[IMAGE, "no-such-program"]), 127);
    assert_eq!(code(&["--init", IMAGE, "sh", "-c", "kill -9 $$"]), 137);
    assert_eq!(supervisor.says(&["ps", "-aq"]), "", "none is left of them");
    supervisor
        .ctl(&["run", "no-such-image"])
        .says("no such image")
        .says("image import");
}

#[test]
fn a_container_lives_from_create_to_rm() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let id = supervisor.says(&["create", "--name", "web", IMAGE, "sleep", "1000"]);
    let status = || supervisor.field("web", "{{.State.Status}}");
    assert_eq!(status(), "created");
    assert_eq!(supervisor.says(&["start", "web"]), "web");
    assert_eq!(status(), "running");
    assert_eq!(supervisor.says(&["ps", "-q"]), id[..12]);
    // An id, its begin, or the name.
    assert_eq!(supervisor.field(&id[..5], "{{.Id}}"), id);
    assert_eq!(supervisor.says(&["pause", "web"]), "web");
    assert_eq!(status(), "paused");
    supervisor
        .ctl(&["exec", "web", "true"])
        .failure()
        .says("paused");
    supervisor.says(&["unpause", "web"]);
    supervisor.ctl(&["rm", "web"]).failure().says("is running");
    supervisor.says(&["stop", "-t", "0", "web"]);
    assert_eq!(status(), "exited");
    assert_eq!(supervisor.field("web", "{{.State.ExitCode}}"), "137");
    supervisor.says(&["rename", "web", "old"]);
    supervisor.ctl(&["inspect", "web"]).failure();
    supervisor.says(&["rm", "old"]);
    supervisor
        .ctl(&["rm", "old"])
        .failure()
        .says("no such container");
}

#[test]
fn a_name_is_had_once() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    supervisor.says(&["create", "--name", "one", IMAGE, "true"]);
    supervisor
        .ctl(&["create", "--name", "one", IMAGE, "true"])
        .failure()
        .says("is in use by container");
    supervisor.says(&["rm", "one"]);
    supervisor.says(&["create", "--name", "one", IMAGE, "true"]);
}

#[test]
fn what_is_listed_can_be_formatted() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    let id = supervisor.says(&[
        "create",
        "--name",
        "one",
        "--label",
        "tier=front",
        IMAGE,
        "sleep",
        "5",
    ]);
    let line = supervisor.says(&[
        "ps",
        "-a",
        "--format",
        "{{.ID}} {{.Names}} {{.State}} {{.Image}}",
    ]);
    assert_eq!(line, format!("{} one created {IMAGE}", &id[..12]));
    let row: Value =
        serde_json::from_str(&supervisor.says(&["ps", "-a", "--format", "json"])).unwrap();
    assert_eq!(row["Names"], "one");
    assert_eq!(row["Labels"], "tier=front");
    let filtered = |filter: &str| supervisor.says(&["ps", "-aq", "--filter", filter]);
    assert_eq!(filtered("label=tier=front"), id[..12]);
    assert_eq!(filtered("label=tier=back"), "");
    assert_eq!(filtered("status=created"), id[..12]);
    let table = supervisor.says(&["ps", "-a"]);
    assert!(
        table.starts_with("CONTAINER ID   IMAGE     COMMAND"),
        "{table}"
    );
    assert_eq!(supervisor.field("one", "{{index .Args 0}}"), "5");
    for (verb, template) in [
        (&["inspect", "one"][..], "{{index .Args 7}}"),
        (&["inspect", "one"], "{{index .Name \"x\"}}"),
        (&["image", "inspect", IMAGE], "{{index .RepoDigests 7}}"),
    ] {
        let refused = supervisor.ctl(&[verb, &["--format", template]].concat());
        assert_eq!((refused.code(), refused.stderr.lines().count()), (1, 1));
        refused.says("index");
    }
    let inspected = supervisor.ctl(&["inspect", "one"]).success().json();
    assert_eq!(
        inspected[0]["Config"]["Cmd"],
        serde_json::json!(["sleep", "5"])
    );
}

#[test]
fn ten_containers_share_their_image() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    for number in 0..10 {
        supervisor.says(&["create", "--name", &format!("box-{number}"), IMAGE, "true"]);
    }
    let rows = supervisor.says(&["system", "df", "-v", "--format", "json"]);
    let rows: Vec<Value> = rows
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let count = |kind: &str| rows.iter().filter(|row| row["Kind"] == kind).count();
    assert_eq!((count("layer"), count("container")), (1, 10));
}

#[test]
fn events_go_on_from_a_cursor() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    supervisor.says(&["run", "--name", "one", IMAGE, "true"]);
    supervisor.says(&["rm", "one"]);
    let all = |after: &str| {
        let lines = supervisor.says(&[
            "events", "--after", after, "--until", "0s", "--format", "json",
        ]);
        lines
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .collect::<Vec<_>>()
    };
    let events = all("0");
    let of_container: Vec<&str> = events
        .iter()
        .filter(|event| event["Type"] == "container")
        .map(|event| event["Action"].as_str().unwrap())
        .collect();
    assert_eq!(of_container, ["create", "start", "die", "destroy"]);
    let cursor = events[events.len() - 2]["Cursor"].to_string();
    assert_eq!(all(&cursor), events[events.len() - 1..]);
    // A new daemon has them still.
    supervisor.crash();
    assert_eq!(all("0"), events);
    let beyond = supervisor.ctl(&["events", "--after", "999999"]).failure();
    beyond.says("there is no event 999999 yet");
}

#[test]
fn a_container_that_writes_changes_its_own_directory_only() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    supervisor.says(&[
        "run",
        "--name",
        "one",
        IMAGE,
        "sh",
        "-c",
        "echo x >/new; rm /srv/file",
    ]);
    let diff = supervisor.says(&["diff", "one"]);
    for line in ["A /new", "D /srv/file", "C /srv"] {
        assert!(diff.lines().any(|other| other == line), "{line} in {diff}");
    }
    assert_eq!(
        supervisor.says(&["run", "--rm", IMAGE, "cat", "/srv/file"]),
        "from the image"
    );
}

#[test]
fn what_is_paused_can_be_killed_and_removed() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    // It may die before it could wake up, or after.
    for _ in 0..5 {
        let id = supervisor.detached(&[], "sleep 1000");
        supervisor.says(&["pause", &id]);
        supervisor.says(&["kill", &id]);
        assert_eq!(supervisor.says(&["wait", &id]), "137");
        supervisor.says(&["start", &id]);
        supervisor.says(&["pause", &id]);
        supervisor.says(&["rm", "-f", &id]);
    }
    assert_eq!(supervisor.says(&["ps", "-aq"]), "");
}
