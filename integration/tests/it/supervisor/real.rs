//! Images as people have them, made of Debian's packages by others (scripts/vm.d/real): a web service of more than thirty layers, and a database.

use std::path::Path;
use std::process::Command;

use integration::runtime::Running;
use integration::supervisor::Supervisor;
use integration::{host, place, require, runtime};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;

const WEB: &str = "localhost/web:1";
const DATABASE: &str = "localhost/database:1";

#[track_caller]
fn supervisor(image: &str) -> Supervisor {
    let supervisor = Supervisor::without_image();
    let archive = place::image(image).unwrap();
    supervisor.says(&["load", "-i", archive.to_str().unwrap()]);
    supervisor
}

#[test]
fn a_web_service_of_more_than_thirty_layers_answers_through_nginx_and_ends_by_its_signal() {
    require!(containers, image("web"));
    let supervisor = supervisor("web");
    let inspected = supervisor.ctl(&["image", "inspect", WEB]).success().json();
    let layers = inspected[0]["RootFS"]["Layers"].as_array().unwrap().len();
    let size = inspected[0]["Size"].as_u64().unwrap();
    assert!(layers >= 30 && size >= 300 << 20, "{layers} layers, {size}");
    let steps = supervisor.says(&["history", "--no-trunc", "--format", "{{.CreatedBy}}", WEB]);
    assert!(steps.contains("install-packages nginx-light"), "{steps}");
    supervisor.says(&["run", "-d", "--name", "web", "--network", "host", WEB]);
    let mut log = supervisor.start(&["logs", "-f", "web"]);
    log.stdout.until("ready\n");
    let url = "http://127.0.0.1:8080/a/path";
    let answer = supervisor.says(&["exec", "web", "curl", "-sSi", url]);
    for part in ["Server: nginx", "X-Made-By: python"] {
        assert!(answer.contains(part), "{answer}");
    }
    let text = "hello from the image, /a/path of /srv/web for 33";
    assert!(answer.ends_with(text), "{answer}");
    // The last step has removed what others made.
    let script =
        "test -e /usr/bin/git && ! test -e /var/lib/apt/lists && ! test -e /usr/sbin/policy-rc.d";
    supervisor.says(&["exec", "web", "sh", "-c", script]);
    // However long the machine takes, it is not killed.
    supervisor.says(&["stop", "-t", "100", "web"]);
    assert_eq!(supervisor.field("web", "{{.State.ExitCode}}"), "7");
    assert_eq!(log.wait().stdout, "stopped by SIGQUIT\n");
    let verdict = supervisor.says(&["image", "verify"]);
    assert!(verdict.ends_with(" 0 damaged"), "{verdict}");
    share(&supervisor, layers);
}

/// Ten more containers take no room.
#[track_caller]
fn share(supervisor: &Supervisor, layers: usize) {
    let usage = || -> Vec<Value> {
        let rows = supervisor.says(&["system", "df", "-v", "--format", "json"]);
        let rows = rows.lines().map(|line| serde_json::from_str(line).unwrap());
        rows.collect()
    };
    let of = |rows: &[Value], kind: &str| -> Vec<String> {
        let rows = rows.iter().filter(|row| row["Kind"] == kind);
        rows.map(|row| row["Size"].to_string()).collect()
    };
    let before = usage();
    for _ in 0..10 {
        supervisor.says(&["create", WEB]);
    }
    let after = usage();
    assert_eq!(of(&after, "layer").len(), layers);
    for kind in ["layer", "content"] {
        assert_eq!(of(&after, kind), of(&before, kind));
    }
    let containers = of(&after, "container");
    let empty = containers.iter().filter(|size| *size == "\"0B\"").count();
    assert_eq!((containers.len(), empty), (11, 10), "{containers:?}");
}

#[test]
fn a_database_in_a_volume_outlives_its_containers_and_their_deaths() {
    require!(containers, image("database"));
    let supervisor = supervisor("database");
    let start = || run(&supervisor);
    let rows = || {
        query(
            &supervisor,
            "SELECT string_agg(word, ' ' ORDER BY id) FROM words",
        )
    };
    start();
    query(&supervisor, "CREATE TABLE words (id serial, word text)");
    query(&supervisor, "INSERT INTO words (word) VALUES ('first')");
    supervisor.says(&["stop", "-t", "100", "database"]);
    assert_eq!(supervisor.field("database", "{{.State.ExitCode}}"), "0");
    supervisor.says(&["rm", "database"]);
    start();
    assert_eq!(rows(), "first");
    query(&supervisor, "INSERT INTO words (word) VALUES ('second')");
    let pid: i32 = supervisor
        .field("database", "{{.State.Pid}}")
        .parse()
        .unwrap();
    supervisor.crash();
    nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    assert!(host::await_end(pid));
    assert_eq!(supervisor.says(&["wait", "database"]), "137");
    supervisor.says(&["rm", "database"]);
    start();
    assert_eq!(rows(), "first second");
}

/// Returns when it serves.
#[track_caller]
fn run(supervisor: &Supervisor) {
    let volume = "data:/var/lib/postgresql/data";
    let words = ["run", "-d", "--name", "database", "-v", volume, DATABASE];
    supervisor.says(&words);
    // On its standard error.
    let mut log = Running::start(supervisor.in_shell("exec $ctl logs -f database 2>&1"));
    log.stdout
        .until("database system is ready to accept connections");
}

#[track_caller]
fn query(supervisor: &Supervisor, sql: &str) -> String {
    let psql = ["psql", "-qAtX", "-v", "ON_ERROR_STOP=1", "-c", sql];
    supervisor.says(&[&["exec", "-u", "postgres", "database"], &psql[..]].concat())
}

#[test]
fn what_podman_made_goes_through_skopeo_and_back_with_its_digests() {
    require!(containers, image("web"), program("skopeo"));
    let supervisor = supervisor("web");
    let digest = || {
        let format = "{{.Repository}}:{{.Tag}} {{.Digest}}";
        let lines = supervisor.says(&["images", "--digests", "--format", format]);
        let mut lines = lines.lines();
        lines.find_map(|line| line.strip_prefix(WEB)?.strip_prefix(' ').map(str::to_owned))
    };
    let seen = || {
        let format = "{{.Id}} {{json .RootFS.Layers}}";
        supervisor.says(&["image", "inspect", "--format", format, WEB])
    };
    let skopeo = |words: &[&str]| {
        let mut command = Command::new("skopeo");
        command.args(words).current_dir(supervisor.scratch.path());
        runtime::finish(command).success()
    };
    let manifest = |archive: &Path| {
        let of = format!("oci-archive:{}", archive.display());
        skopeo(&["inspect", &of]).json()["Digest"]
            .as_str()
            .map(str::to_owned)
    };
    let made = (manifest(&place::image("web").unwrap()), seen());
    assert_eq!(digest(), made.0, "as Podman made it");
    let ours = supervisor.scratch.path().join("ours.tar");
    supervisor.says(&["save", "-o", ours.to_str().unwrap(), WEB]);
    assert_eq!(manifest(&ours), made.0, "as it is saved");
    for form in ["oci-archive", "docker-archive"] {
        let back = supervisor.scratch.path().join(form);
        let to = format!("{form}:{}:{WEB}", back.display());
        skopeo(&["copy", "-q", "oci-archive:ours.tar", &to]);
        supervisor.says(&["rmi", WEB]);
        supervisor.says(&["load", "-i", back.to_str().unwrap()]);
        assert_eq!(seen(), made.1, "{form}");
        // The other form has no manifest, and layers that are not compressed.
        assert!(form != "oci-archive" || digest() == made.0);
    }
}
