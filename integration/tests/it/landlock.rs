//! Landlock, by our annotation: what is handled is forbidden but for what the rules allow.

use integration::{Bundle, require};
use serde_json::{Value, json};

const ANNOTATION: &str = "dev.caisson.landlock";

#[test]
fn rules_allow_what_they_say_and_nothing_else() {
    require!(containers, system_call("landlock_create_ruleset"), caisson);
    for no_new_privileges in [true, false] {
        let mut bundle = Bundle::new();
        bundle
            .config
            .set("/process/noNewPrivileges", no_new_privileges)
            .set("/root/readonly", false);
        bundle.file("etc/secret", "x");
        rules(
            &mut bundle,
            &json!({
                "handledAccessFs": ["execute", "read_file", "write_file", "make_reg", "remove_file", "make_dir"],
                "paths": [
                    { "paths": ["/bin", "/proc", "/dev", "/etc/passwd"], "access": ["execute", "read_file"] },
                    { "paths": ["/dev"], "access": ["write_file"] },
                    { "paths": ["/tmp"], "access": ["make_reg", "remove_file", "read_file", "write_file"] },
                ],
            }),
        );
        let tried = bundle.tries(&[
            "read:/etc/passwd",
            "read:/etc/secret",
            "write:/etc/passwd",
            "create:/tmp/x",
            "create:/root/x",
            "mkdir:/tmp/d",
            "mount:/tmp",
        ]);
        assert_eq!(
            tried,
            ["ok", "EACCES", "EACCES", "ok", "EACCES", "EACCES", "EPERM"],
            "no_new_privs {no_new_privileges}"
        );
    }
}

#[test]
fn a_created_container_starts_under_rules_that_allow_no_writing() {
    require!(containers, system_call("landlock_create_ruleset"), caisson);
    let mut bundle = Bundle::new();
    rules(
        &mut bundle,
        &json!({ "paths": [{ "paths": ["/"], "access": ["execute", "read_file", "read_dir"] }] }),
    );
    bundle.config.probe(&["try", "write:/dev/null"]);
    let mut container = bundle.create();
    container.start().success();
    assert_eq!(container.stdout.line(), r#"{"write:/dev/null":"EACCES"}"#);
    assert_eq!(container.wait(), 0);
}

#[test]
fn processes_of_exec_are_under_the_same_rules() {
    require!(containers, system_call("landlock_create_ruleset"), caisson);
    let mut bundle = Bundle::new();
    bundle.file("etc/secret", "x");
    rules(
        &mut bundle,
        &json!({
            "handledAccessFs": ["read_file"],
            "paths": [{ "paths": ["/bin", "/proc", "/dev"], "access": ["read_file"] }],
        }),
    );
    let container = bundle.pause();
    let finished = container
        .exec(&[], &["/bin/probe", "try", "read:/etc/secret"])
        .success();
    assert_eq!(finished.json(), json!({ "read:/etc/secret": "EACCES" }));
}

#[test]
fn a_program_that_may_not_be_executed_is_an_error() {
    require!(containers, system_call("landlock_create_ruleset"), caisson);
    let mut bundle = Bundle::new();
    rules(&mut bundle, &json!({}));
    bundle.run().failure().says("permission denied");
}

#[test]
fn ports_and_scopes_are_handled_where_the_kernel_can() {
    require!(containers, system_call("landlock_create_ruleset"), caisson);
    let mut bundle = Bundle::new();
    rules(
        &mut bundle,
        &json!({
            "handledAccessFs": [],
            "handledAccessNet": ["bind_tcp"],
            "scoped": ["signal"],
            "ports": [{ "ports": [8080], "access": ["bind_tcp"] }],
        }),
    );
    let tried = bundle.tries(&["bind:8080", "bind:8081"]);
    let abi = integration::sys::landlock_abi().unwrap();
    let refused = if abi >= 4 { "EACCES" } else { "ok" };
    assert_eq!(tried, ["ok", refused], "version {abi} of Landlock");
}

#[test]
fn a_rule_for_a_path_that_is_not_there_is_an_error_that_names_it() {
    require!(containers, system_call("landlock_create_ruleset"), caisson);
    let mut bundle = Bundle::new();
    rules(
        &mut bundle,
        &json!({ "paths": [{ "paths": ["/no/such"], "access": ["execute"] }] }),
    );
    let finished = bundle.create_fails().failure();
    finished
        .says("Landlock")
        .says("/no/such")
        .says("no such file");
}

#[test]
fn a_rule_follows_links_inside_the_root_only() {
    require!(containers, system_call("landlock_create_ruleset"), caisson);
    let mut bundle = Bundle::new();
    // On the host this is somewhere else.
    std::os::unix::fs::symlink("/../../etc", bundle.rootfs().join("link")).unwrap();
    bundle.file("etc/inside", "x");
    rules(
        &mut bundle,
        &json!({
            "handledAccessFs": ["read_file"],
            "paths": [{ "paths": ["/bin", "/proc", "/dev", "/link"], "access": ["read_file"] }],
        }),
    );
    assert_eq!(bundle.tries(&["read:/etc/inside"]), ["ok"]);
}

#[test]
fn wrong_rules_are_refused_before_anything_is_made() {
    require!(containers, caisson);
    for value in ["{", r#"{"handledAccessFs":["fly"]}"#, r#"{"rules":[]}"#] {
        let mut bundle = Bundle::new();
        bundle
            .config
            .set("/annotations", json!({ ANNOTATION: value }));
        bundle.create_fails().failure().says(ANNOTATION);
    }
}

#[test]
fn a_kernel_without_landlock_is_an_error() {
    require!(containers, caisson);
    let mut bundle = Bundle::new();
    let wrapper = [
        integration::place::enosys().into(),
        "landlock_create_ruleset".into(),
        "--".into(),
    ];
    bundle.runtime.wrapper.splice(0..0, wrapper);
    rules(&mut bundle, &json!({ "mode": "best-effort" }));
    let finished = bundle.create_fails().failure();
    finished.says("the kernel has no Landlock");
}

fn rules(bundle: &mut Bundle, value: &Value) {
    let annotation = json!({ ANNOTATION: value.to_string() });
    bundle.config.set("/annotations", annotation);
}
