//! What the process starts with: its working directory, its environment, and how its program is found.

use integration::{Bundle, Kind, beyond, require};
use serde_json::json;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

#[test]
fn the_process_starts_in_its_working_directory() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.dir("srv/deep");
    bundle.config.set("/process/cwd", "/srv/deep");
    assert_eq!(*bundle.report(&[]).cwd, "/srv/deep");
}

#[test]
fn a_missing_working_directory_is_made() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle
        .config
        .writable()
        .set("/process/cwd", "/made/for/this");
    let seen = bundle.report(&["stat=/made/for/this", "stat=/made"]);
    assert_eq!(*seen.cwd, "/made/for/this");
    for path in ["/made", "/made/for/this"] {
        assert_eq!(
            (seen.stat(path).kind, seen.stat(path).mode),
            (Kind::Directory, 0o755)
        );
        assert_eq!((seen.stat(path).uid, seen.stat(path).gid), (0, 0));
    }
}

#[test]
fn a_missing_working_directory_is_made_on_the_mount_that_covers_it() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle
        .config
        .mount("/data", "tmpfs", "tmpfs", &[])
        .set("/process/cwd", "/data/inside");
    assert_eq!(*bundle.report(&[]).cwd, "/data/inside");
    assert!(!bundle.rootfs().join("data/inside").exists());
}

#[test]
fn a_relative_working_directory_is_refused() {
    require!(containers);
    beyond!(
        a_relative_working_directory_is_refused,
        [crun("takes it as relative to the root")]
    );
    let mut bundle = Bundle::new();
    for cwd in ["relative", "./x", "", "../up"] {
        bundle.config.set("/process/cwd", cwd);
        bundle.create_fails().failure();
    }
    bundle.config.remove("/process/cwd");
    bundle.create_fails().failure();
}

#[test]
fn a_working_directory_that_is_a_file_is_refused() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.set("/process/cwd", "/etc/passwd");
    bundle.create_fails().failure().says("not a directory");
}

#[test]
fn a_working_directory_may_be_a_link_inside_the_root() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.dir("target");
    symlink("/target", bundle.rootfs().join("link")).unwrap();
    bundle.config.set("/process/cwd", "/link");
    assert_eq!(*bundle.report(&[]).cwd, "/target");
}

#[test]
fn a_working_directory_that_only_root_may_enter_works_for_another_user() {
    require!(containers);
    let mut bundle = Bundle::new();
    let private = bundle.dir("private");
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
    bundle
        .config
        .set("/process/cwd", "/private")
        .set("/process/user/uid", 1000);
    assert_eq!(*bundle.report(&[]).cwd, "/private");
}

#[test]
fn a_working_directory_that_only_the_user_may_enter_works() {
    require!(containers);
    let mut bundle = Bundle::new();
    let private = bundle.dir("private");
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
    integration::place::give_one(&private, 1000, 1000);
    bundle
        .config
        .set("/process/cwd", "/private")
        .set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
    assert_eq!(*bundle.report(&[]).cwd, "/private");
}

#[test]
fn the_environment_is_the_configured_one_and_home() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle
        .runtime
        .env
        .push(("LEAK".to_owned(), "from the caller".to_owned()));
    let env = [
        "PATH=/bin",
        "A=1",
        "EMPTY=",
        "EQUALS=a=b=c",
        "LINES=1\n2",
        "SPACE= x ",
        "UMLAUT=ä",
    ];
    bundle.config.set("/process/env", json!(env));
    let mut seen: Vec<String> = bundle
        .report(&[])
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let mut expected: Vec<String> = env.iter().map(|variable| (*variable).to_owned()).collect();
    expected.push("HOME=/root".to_owned());
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected);
}

#[test]
fn home_comes_from_the_containers_passwd_unless_configured() {
    require!(containers);
    beyond!(
        home_comes_from_the_containers_passwd_unless_configured,
        [crun(
            "sets none for a user who is not in passwd, or leaves it empty"
        )]
    );
    let mut bundle = Bundle::new();
    for (uid, home) in [(0, "/root"), (1000, "/home/worker"), (4242, "/")] {
        bundle.config.set("/process/user/uid", uid);
        assert_eq!(bundle.report(&[]).var("HOME"), Some(home), "uid {uid}");
    }
    bundle.config.env("HOME=/elsewhere");
    assert_eq!(bundle.report(&[]).var("HOME"), Some("/elsewhere"));
    bundle.config.env("HOME=");
    assert_eq!(bundle.report(&[]).var("HOME"), Some("/"), "empty is none");
}

#[test]
fn home_is_the_root_directory_without_a_passwd_file() {
    require!(containers);
    let bundle = Bundle::new();
    fs::remove_file(bundle.rootfs().join("etc/passwd")).unwrap();
    assert_eq!(bundle.report(&[]).var("HOME"), Some("/"));
}

#[test]
fn of_a_variable_given_twice_the_last_value_counts() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle
        .config
        .env("TWICE=first")
        .env("OTHER=x")
        .env("TWICE=second");
    let env = bundle.report(&[]).env;
    let values: Vec<&str> = env
        .iter()
        .filter(|(name, _)| name == "TWICE")
        .map(|(_, value)| value.as_str())
        .collect();
    assert_eq!(values, ["second"]);
}

#[test]
fn a_variable_without_an_equals_sign_is_refused() {
    require!(containers);
    beyond!(
        a_variable_without_an_equals_sign_is_refused,
        [
            runc_from("1.1.15", "does not say which"),
            crun("passes it on")
        ]
    );
    let mut bundle = Bundle::new();
    bundle.config.env("NOVALUE");
    bundle.create_fails().failure().says("NOVALUE");
}

#[test]
fn a_variable_with_a_nul_byte_is_refused() {
    require!(containers);
    beyond!(
        a_variable_with_a_nul_byte_is_refused,
        [crun("cuts it off there")]
    );
    let mut bundle = Bundle::new();
    bundle.config.env("NUL=a\0b");
    bundle.create_fails().failure();
}

#[test]
fn the_program_is_looked_up_in_the_containers_path() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle
        .config
        .set("/process/env", json!(["PATH=/nowhere:/etc/passwd:/bin"]))
        .args(&["probe", "echo", "found"]);
    assert_eq!(bundle.run().success().stdout, "found\n");
}

#[test]
fn the_program_may_be_named_relative_to_the_working_directory() {
    require!(containers);
    let mut bundle = Bundle::new();
    for (cwd, program) in [
        ("/", "bin/probe"),
        ("/", "./bin/probe"),
        ("/bin", "./probe"),
        ("/etc", "../bin/probe"),
    ] {
        bundle
            .config
            .set("/process/cwd", cwd)
            .args(&[program, "echo", "found"]);
        assert_eq!(
            bundle.run().success().stdout,
            "found\n",
            "{program} in {cwd}"
        );
    }
}

#[test]
fn an_absolute_program_needs_no_path_variable() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle
        .config
        .set("/process/env", json!([]))
        .probe(&["echo", "found"]);
    assert_eq!(bundle.run().success().stdout, "found\n");
}

#[test]
fn arguments_reach_the_program_unchanged() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.probe(&[
        "echo",
        "two words",
        "",
        "'quotes\"",
        "$HOME",
        "\\",
        "ä",
        "-x",
    ]);
    assert_eq!(
        bundle.run().success().stdout,
        "two words  'quotes\" $HOME \\ ä -x\n"
    );
}

// Engines recognise the next texts and turn them into the exit codes 126 and 127.

#[test]
fn a_program_that_is_not_in_path_is_named_when_create_fails() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.args(&["no-such-program", "x"]);
    let finished = bundle
        .create_fails()
        .says("no-such-program")
        .says("executable file");
    assert!(finished.stderr.contains("not found in $PATH"), "{finished}");
    assert_eq!(finished.code(), 1);
}

#[test]
fn without_path_no_program_is_found() {
    require!(containers);
    beyond!(
        without_path_no_program_is_found,
        [crun("has a default PATH")]
    );
    let mut bundle = Bundle::new();
    bundle
        .config
        .set("/process/env", json!([]))
        .args(&["probe"]);
    bundle
        .create_fails()
        .says("\"probe\": executable file not found in $PATH");
}

#[test]
fn an_empty_element_of_path_does_not_find_programs_in_the_working_directory() {
    require!(containers);
    beyond!(
        an_empty_element_of_path_does_not_find_programs_in_the_working_directory,
        [crun_from("1.9", "finds them there")]
    );
    let mut bundle = Bundle::new();
    bundle
        .config
        .set("/process/env", json!(["PATH=:/sbin"]))
        .set("/process/cwd", "/bin")
        .args(&["probe", "exit", "0"]);
    bundle.create_fails().says("probe");
}

#[test]
fn a_missing_absolute_program_is_named_when_create_fails() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.args(&["/bin/no-such-program"]);
    bundle
        .create_fails()
        .says("/bin/no-such-program")
        .says("no such file or directory");
}

#[test]
fn a_missing_program_is_reported_in_runcs_words() {
    require!(containers);
    beyond!(
        a_missing_program_is_reported_in_runcs_words,
        [crun("has words of its own")]
    );
    let mut bundle = Bundle::new();
    bundle.config.args(&["no-such-program"]);
    bundle
        .create_fails()
        .says("exec: \"no-such-program\": executable file not found in $PATH");
    bundle.config.args(&["/bin/no-such-program"]);
    bundle.create_fails().says(
        "exec: \"/bin/no-such-program\": stat /bin/no-such-program: no such file or directory",
    );
    bundle.config.args(&["/etc/passwd"]);
    bundle
        .create_fails()
        .says("exec: \"/etc/passwd\": permission denied");
}

#[test]
fn a_program_without_execute_permission_is_reported_as_permission_denied() {
    require!(containers);
    beyond!(
        a_program_without_execute_permission_is_reported_as_permission_denied,
        [crun("does not name the program")]
    );
    let mut bundle = Bundle::new();
    bundle.config.args(&["/etc/passwd"]);
    bundle
        .create_fails()
        .says("/etc/passwd")
        .says("permission denied");
}

#[test]
fn a_program_that_a_capability_makes_executable_is_executed() {
    require!(containers);
    beyond!(
        a_program_that_a_capability_makes_executable_is_executed,
        [crun("looks for it with root's rights, and create succeeds")]
    );
    let mut bundle = Bundle::new();
    let program = bundle.rootfs().join("bin/own");
    fs::copy(bundle.rootfs().join("bin/probe"), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    bundle.config.set("/process/user/uid", 1000);
    bundle.config.args(&["/bin/own", "report"]);
    bundle.create_fails().failure().says("permission denied");
    let sets = [
        "bounding",
        "effective",
        "permitted",
        "inheritable",
        "ambient",
    ];
    bundle.config.capabilities(&sets, &["CAP_DAC_OVERRIDE"]);
    bundle.run().success();
}

#[test]
fn a_directory_is_no_program() {
    require!(containers);
    beyond!(
        a_directory_is_no_program,
        [
            runc_before("1.1.15", "says permission denied"),
            crun("fails only at start")
        ]
    );
    let mut bundle = Bundle::new();
    bundle.config.args(&["/etc"]);
    bundle.create_fails().says("exec: \"/etc\": is a directory");
}

#[test]
fn a_program_below_a_file_is_reported_as_not_a_directory() {
    require!(containers);
    beyond!(
        a_program_below_a_file_is_reported_as_not_a_directory,
        [crun_before("1.21", "does not name the program")]
    );
    let mut bundle = Bundle::new();
    bundle.config.args(&["/etc/passwd/program"]);
    bundle
        .create_fails()
        .says("/etc/passwd/program")
        .says("not a directory");
}

#[test]
fn a_program_that_the_kernel_cannot_run_fails_at_start() {
    require!(containers);
    let mut bundle = Bundle::new();
    for (name, contents, text) in [
        ("garbage", "not a program\n", "exec format error"),
        (
            "script",
            "#!/no/such/interpreter\n",
            "no such file or directory",
        ),
    ] {
        let path = bundle.file(&format!("bin/{name}"), contents);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        bundle.config.args(&[&format!("/bin/{name}")]);
        bundle.run().failure().says(text);
    }
}

#[test]
fn a_script_runs_with_its_interpreter() {
    require!(containers);
    let mut bundle = Bundle::new();
    let script = bundle.file("bin/script", "#!/bin/probe echo\n");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    bundle.config.args(&["script"]);
    assert_eq!(bundle.run().success().stdout, "/bin/script\n");
}

#[test]
fn there_must_be_arguments() {
    require!(containers);
    beyond!(
        there_must_be_arguments,
        [crun("creates a container that cannot be started")]
    );
    let mut bundle = Bundle::new();
    bundle.config.args(&[]);
    bundle.create_fails().failure();
    bundle.config.remove("/process/args");
    bundle.create_fails().failure();
    bundle.config.args(&[""]);
    bundle.create_fails().failure();
}
