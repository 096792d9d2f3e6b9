//! `list`.

use integration::{Bundle, beyond, require};

#[test]
fn list_shows_each_container_with_its_status() {
    require!(containers);
    let mut bundle = Bundle::new();
    let running = bundle.pause();
    let created = bundle.create();
    let list = bundle
        .runtime
        .call(&["list", "--format", "json"])
        .success()
        .json();
    let find = |id: &str| {
        list.as_array()
            .unwrap()
            .iter()
            .find(|entry| entry["id"] == id)
            .unwrap()
            .clone()
    };
    assert_eq!(list.as_array().unwrap().len(), 2);
    for (container, status) in [(&running, "running"), (&created, "created")] {
        let entry = find(&container.id);
        assert_eq!(entry["status"], status);
        assert_eq!(entry["pid"], container.pid);
        assert_eq!(entry["bundle"], bundle.path().to_str().unwrap());
        assert_eq!(entry["owner"], "root");
    }
    let quiet = bundle.runtime.call(&["list", "--quiet"]).success().stdout;
    let mut ids: Vec<&str> = quiet.lines().collect();
    let mut expected = [running.id.as_str(), created.id.as_str()];
    ids.sort_unstable();
    expected.sort_unstable();
    assert_eq!(ids, expected);
}

#[test]
fn list_prints_runcs_table() {
    require!(containers);
    beyond!(list_prints_runcs_table, [crun("prints another header")]);
    let mut bundle = Bundle::new();
    let container = bundle.pause();
    let table = bundle.runtime.call(&["list"]).success().stdout;
    let mut lines = table.lines();
    let words: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(words, ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    let row: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(
        row[..3],
        [&container.id, &container.pid.to_string(), "running"]
    );
    assert_eq!((row[3], row[5]), (bundle.path().to_str().unwrap(), "root"));
}

#[test]
fn a_list_of_nothing_is_a_header_and_null() {
    require!(containers);
    beyond!(
        a_list_of_nothing_is_a_header_and_null,
        [
            runc_from("1.2", "fails without a state directory"),
            crun("prints an empty list, and fails without a state directory")
        ]
    );
    let bundle = Bundle::new();
    assert_eq!(
        bundle
            .runtime
            .call(&["list"])
            .success()
            .stdout
            .lines()
            .count(),
        1
    );
    assert_eq!(
        bundle
            .runtime
            .call(&["list", "-f", "json"])
            .success()
            .stdout
            .trim(),
        "null"
    );
    assert_eq!(bundle.runtime.call(&["list", "-q"]).success().stdout, "");
}

#[test]
fn containers_are_offered_where_a_shell_completes_an_id() {
    require!(containers);
    beyond!(
        containers_are_offered_where_a_shell_completes_an_id,
        [
            runc("leaves completion to scripts of its own"),
            crun("has no completion")
        ]
    );
    let bundle = Bundle::new();
    let created = bundle.create();
    let root = bundle.runtime.root.to_str().unwrap();
    let offered = |words: &[&str]| {
        let line = [&["complete", "--"], words].concat();
        bundle.runtime.call(&line).success().stdout
    };
    let first = created.id.split_at(1).0;
    let expected = format!("{}\n", created.id);
    assert_eq!(offered(&["--root", root, "kill", first]), expected);
    assert_eq!(offered(&["--root", root, "kill", "other"]), "");
}
