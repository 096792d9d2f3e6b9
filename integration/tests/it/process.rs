//! `process` of config.json: who the container's process is and what it may do.

use integration::{Bundle, beyond, require, seen::Scheduler};
use serde_json::json;
use std::collections::BTreeSet;

#[test]
fn the_process_is_number_one_and_leads_its_session() {
    require!(containers);
    let seen = Bundle::new().report(&[]);
    assert_eq!((seen.pid, seen.ppid), (1, 0));
    assert_eq!((seen.session, seen.process_group), (1, 1));
}

#[test]
fn user_and_groups_are_as_configured() {
    require!(containers);
    let mut bundle = Bundle::new();
    let user = json!({ "uid": 1000, "gid": 1001, "additionalGids": [2000, 5, 1001] });
    bundle.config.set("/process/user", user);
    let seen = bundle.report(&[]);
    assert_eq!((seen.uid, seen.gid), ([1000; 3], [1001; 3]));
    assert_eq!(*seen.groups, [5, 1001, 2000]);
}

/// To what is written in Go, null in a list or a map is the empty value of its type.
#[test]
fn null_is_an_empty_value() {
    require!(containers);
    beyond!(null_is_an_empty_value, [crun("refuses some of them")]);
    let mut bundle = Bundle::new();
    let user = json!({ "uid": 1000, "gid": null, "additionalGids": [null, 5] });
    bundle
        .config
        .set("/process/user", user)
        .set("/annotations", json!({ "org.example.empty": null }))
        .push(
            "/mounts",
            json!({ "destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": [null] }),
        )
        .push(
            "/hooks/createRuntime",
            json!({ "path": "/bin/true", "env": [null], "timeout": null }),
        );
    let seen = bundle.report(&[]);
    assert_eq!((seen.uid, seen.gid), ([1000; 3], [0; 3]));
    assert_eq!(*seen.groups, [0, 5]);
    let container = bundle.pause();
    let annotations = &container.state()["annotations"];
    assert_eq!(annotations["org.example.empty"], "");
}

#[test]
fn without_additional_groups_there_are_none() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle
        .config
        .set("/process/user", json!({ "uid": 7, "gid": 8 }));
    let seen = bundle.report(&[]);
    assert!(seen.groups.is_empty(), "{:?}", seen.groups);
}

#[test]
fn the_umask_is_022_unless_configured() {
    require!(containers);
    let mut bundle = Bundle::new();
    assert_eq!(bundle.report(&[]).umask, 0o022);
    for umask in [0o077, 0o002, 0] {
        bundle.config.set("/process/user/umask", umask);
        assert_eq!(bundle.report(&[]).umask, umask);
    }
}

#[test]
fn root_with_no_new_privileges_has_exactly_the_configured_capabilities() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.set(
        "/process/capabilities",
        json!({
            "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_NET_RAW"],
            "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
            "effective": ["CAP_CHOWN", "CAP_NET_RAW"],
            "inheritable": ["CAP_NET_RAW"],
            "ambient": ["CAP_NET_RAW"],
        }),
    );
    let caps = bundle.report(&[]).caps;
    assert_eq!(
        *caps.bounding,
        set(&["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_NET_RAW"])
    );
    assert_eq!(
        *caps.permitted,
        set(&["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"])
    );
    assert_eq!(*caps.inheritable, set(&["CAP_NET_RAW"]));
    // For root the kernel makes effective what is permitted, and clears the ambient set only for set-id programs.
    assert_eq!(
        *caps.effective,
        set(&["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"])
    );
    assert_eq!(*caps.ambient, set(&["CAP_NET_RAW"]));
}

#[test]
fn inheritable_and_ambient_sets_are_empty_unless_configured() {
    require!(containers);
    // CVE-2022-29162 and CVE-2022-27650: a non-empty inheritable set by default.
    let caps = Bundle::new().report(&[]).caps;
    assert_eq!(*caps.inheritable, set(&[]));
    assert_eq!(*caps.ambient, set(&[]));
    let three = set(&["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    assert_eq!(
        (&*caps.bounding, &*caps.effective, &*caps.permitted),
        (&three, &three, &three)
    );
}

#[test]
fn another_user_than_root_keeps_only_ambient_capabilities() {
    require!(containers);
    let mut bundle = Bundle::new();
    let sets = ["bounding", "effective", "permitted"];
    bundle
        .config
        .set("/process/user/uid", 1000)
        .capabilities(&sets, &["CAP_KILL", "CAP_NET_RAW"]);
    let caps = bundle.report(&[]).caps;
    assert_eq!(*caps.bounding, set(&["CAP_KILL", "CAP_NET_RAW"]));
    assert_eq!((&*caps.effective, &*caps.permitted), (&set(&[]), &set(&[])));

    bundle
        .config
        .set("/process/capabilities/inheritable", json!(["CAP_KILL"]));
    bundle
        .config
        .set("/process/capabilities/ambient", json!(["CAP_KILL"]));
    let caps = bundle.report(&[]).caps;
    let kill = set(&["CAP_KILL"]);
    assert_eq!((&*caps.effective, &*caps.permitted), (&kill, &kill));
    assert_eq!((&*caps.inheritable, &*caps.ambient), (&kill, &kill));
}

#[test]
fn an_ambient_capability_that_cannot_be_raised_is_warned_of() {
    require!(containers);
    beyond!(
        an_ambient_capability_that_cannot_be_raised_is_warned_of,
        [
            runc_before("1.3", "says so at debug level only"),
            crun("fails")
        ]
    );
    let mut bundle = Bundle::new();
    bundle.config.capabilities(&["ambient"], &["CAP_CHOWN"]);
    bundle
        .run()
        .success()
        .says("can't raise ambient capability CAP_CHOWN: ");
}

#[test]
fn no_capabilities_means_none() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.capabilities(&[], &[]);
    let caps = bundle.report(&[]).caps;
    for (name, held) in [
        ("bounding", caps.bounding),
        ("effective", caps.effective),
        ("permitted", caps.permitted),
        ("inheritable", caps.inheritable),
        ("ambient", caps.ambient),
    ] {
        assert!(held.is_empty(), "{name}: {held:?}");
    }
}

#[test]
fn an_unknown_capability_is_left_out() {
    require!(containers);
    let mut bundle = Bundle::new();
    let sets = ["bounding", "effective", "permitted"];
    bundle
        .config
        .capabilities(&sets, &["CAP_KILL", "CAP_OF_THE_FUTURE"]);
    assert_eq!(*bundle.report(&[]).caps.permitted, set(&["CAP_KILL"]));
}

#[test]
fn no_new_privileges_is_as_configured() {
    require!(containers);
    let mut bundle = Bundle::new();
    for wanted in [true, false] {
        bundle.config.set("/process/noNewPrivileges", wanted);
        assert_eq!(*bundle.report(&[]).no_new_privs, wanted);
    }
    bundle.config.remove("/process/noNewPrivileges");
    assert!(!*bundle.report(&[]).no_new_privs);
}

#[test]
fn resource_limits_are_as_configured_and_the_others_stay() {
    require!(containers);
    let mut bundle = Bundle::new();
    let limits = [
        ("RLIMIT_CORE", 0, 0),
        ("RLIMIT_CPU", 100, 200),
        ("RLIMIT_FSIZE", 1 << 20, 1 << 21),
        ("RLIMIT_NOFILE", 77, 88),
        ("RLIMIT_NPROC", 50, 60),
        ("RLIMIT_STACK", 1 << 20, 1 << 24),
    ];
    let list = limits.map(|(kind, soft, hard)| json!({ "type": kind, "soft": soft, "hard": hard }));
    bundle.config.set("/process/rlimits", json!(list));
    let seen = bundle.report(&[]);
    for (kind, soft, hard) in limits {
        assert_eq!(*seen.rlimits[kind], [soft, hard], "{kind}");
    }
    let own =
        nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_SIGPENDING).unwrap();
    assert_eq!(*seen.rlimits["RLIMIT_SIGPENDING"], [own.0, own.1]);
}

#[test]
fn infinite_resource_limits_are_the_largest_number() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.set(
        "/process/rlimits",
        json!([{ "type": "RLIMIT_DATA", "soft": u64::MAX, "hard": u64::MAX }]),
    );
    assert_eq!(*bundle.report(&[]).rlimits["RLIMIT_DATA"], [u64::MAX; 2]);
}

#[test]
fn resource_limits_that_are_unknown_are_refused() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.set(
        "/process/rlimits",
        json!([{ "type": "RLIMIT_WISHES", "soft": 3, "hard": 3 }]),
    );
    bundle.create_fails().failure().says("RLIMIT_WISHES");
}

#[test]
fn a_resource_limit_given_twice_is_refused() {
    require!(containers);
    beyond!(
        a_resource_limit_given_twice_is_refused,
        [
            runc("applies the last one"),
            crun_between("1.21", "1.28", "applies the last one")
        ]
    );
    let mut bundle = Bundle::new();
    let limit = |n: u32| json!({ "type": "RLIMIT_NOFILE", "soft": n, "hard": n });
    bundle
        .config
        .set("/process/rlimits", json!([limit(64), limit(65)]));
    bundle.create_fails().failure().says("RLIMIT_NOFILE");
}

#[test]
fn names_may_be_as_go_has_them() {
    require!(containers);
    beyond!(
        names_may_be_as_go_has_them,
        [crun("does not know such fields")]
    );
    let mut bundle = Bundle::new();
    bundle.config.set("/process/OOMScoreAdj", 334);
    assert_eq!(*bundle.report(&[]).oom_score_adj, 334);
}

#[test]
fn the_oom_score_adjustment_is_as_configured_or_stays() {
    require!(containers);
    let mut bundle = Bundle::new();
    let own: i32 = std::fs::read_to_string("/proc/self/oom_score_adj")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert_eq!(*bundle.report(&[]).oom_score_adj, own);
    bundle.config.set("/process/oomScoreAdj", 717);
    assert_eq!(*bundle.report(&[]).oom_score_adj, 717);
}

#[test]
fn the_io_priority_is_as_configured() {
    require!(containers);
    beyond!(
        the_io_priority_is_as_configured,
        [
            runc_before("1.2", "knows no ioPriority"),
            crun_before("1.9", "knows no ioPriority")
        ]
    );
    let mut bundle = Bundle::new();
    for (class, number, level) in [
        ("IOPRIO_CLASS_BE", 2, 4),
        ("IOPRIO_CLASS_RT", 1, 7),
        ("IOPRIO_CLASS_IDLE", 3, 0),
    ] {
        bundle.config.set(
            "/process/ioPriority",
            json!({ "class": class, "priority": level }),
        );
        assert_eq!(*bundle.report(&[]).ioprio, (number, level), "{class}");
    }
}

#[test]
fn an_io_priority_has_a_class() {
    require!(containers);
    beyond!(
        an_io_priority_has_a_class,
        [
            runc_before("1.2", "knows no ioPriority"),
            crun_before("1.9", "knows no ioPriority")
        ]
    );
    let mut bundle = Bundle::new();
    for priority in [json!({}), json!({ "priority": 3 })] {
        bundle.config.set("/process/ioPriority", priority);
        bundle.create_fails().failure();
    }
}

#[test]
fn the_scheduler_is_as_configured() {
    require!(containers, capability("CAP_SYS_NICE"));
    beyond!(
        the_scheduler_is_as_configured,
        [
            runc_before("1.2", "knows no scheduler"),
            crun_before(
                "1.28",
                "knows no scheduler, or fails to move what has a deadline to other CPUs"
            )
        ]
    );
    let mut bundle = Bundle::new();
    bundle.config.set(
        "/process/scheduler",
        json!({ "policy": "SCHED_BATCH", "nice": 5 }),
    );
    let Scheduler { policy, nice, .. } = *bundle.report(&[]).scheduler;
    assert_eq!((policy, nice), (3, 5));

    let flags =
        json!({ "policy": "SCHED_OTHER", "nice": -3, "flags": ["SCHED_FLAG_RESET_ON_FORK"] });
    bundle.config.set("/process/scheduler", flags);
    let Scheduler {
        policy,
        nice,
        flags,
        ..
    } = *bundle.report(&[]).scheduler;
    assert_eq!((policy, nice, flags & 1), (0, -3, 1));

    let deadline = json!({ "policy": "SCHED_DEADLINE", "runtime": 42_000, "deadline": 1_000_000, "period": 1_000_000 });
    bundle.config.set("/process/scheduler", deadline);
    let seen = *bundle.report(&[]).scheduler;
    assert_eq!(
        (seen.policy, seen.runtime, seen.deadline, seen.period),
        (6, 42_000, 1_000_000, 1_000_000)
    );
}

#[test]
fn a_real_time_policy_has_a_priority_and_no_other_has() {
    require!(containers, capability("CAP_SYS_NICE"));
    beyond!(
        a_real_time_policy_has_a_priority_and_no_other_has,
        [
            runc_before("1.2", "knows no scheduler"),
            crun("does not check the fields against the policy")
        ]
    );
    let mut bundle = Bundle::new();
    for bad in [
        json!({ "policy": "SCHED_OTHER", "priority": 10 }),
        json!({ "policy": "SCHED_BATCH", "runtime": 1000 }),
        json!({ "policy": "SCHED_OTHER", "nice": 20 }),
        json!({ "policy": "SCHED_NONE" }),
        json!({ "policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_MAGIC"] }),
    ] {
        bundle.config.set("/process/scheduler", bad);
        bundle.create_fails().failure().says("sched");
    }
}

#[test]
fn the_execution_domain_is_as_configured() {
    require!(containers);
    beyond!(
        the_execution_domain_is_as_configured,
        [runc_before("1.2", "knows no personality")]
    );
    let mut bundle = Bundle::new();
    assert_eq!(*bundle.report(&[]).personality, 0);
    bundle
        .config
        .set("/linux/personality", json!({ "domain": "LINUX32" }));
    assert_eq!(*bundle.report(&[]).personality, 8);
    assert_eq!(*bundle.pause().exec_report(&[], &[]).personality, 8);
    bundle
        .config
        .set("/linux/personality", json!({ "domain": "LINUX" }));
    assert_eq!(*bundle.report(&[]).personality, 0);
}

#[test]
fn flags_of_the_execution_domain_are_set() {
    require!(containers);
    beyond!(
        flags_of_the_execution_domain_are_set,
        [runc("knows no flags"), crun("knows no flags")]
    );
    let mut bundle = Bundle::new();
    bundle.config.set(
        "/linux/personality",
        json!({ "domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"] }),
    );
    assert_eq!(*bundle.report(&[]).personality, 0x4_0000);
    let container = bundle.pause();
    assert_eq!(*container.exec_report(&[], &[]).personality, 0x4_0000);
}

#[test]
fn a_flag_of_the_execution_domain_that_nobody_knows_is_named_and_ignored() {
    require!(containers);
    beyond!(
        a_flag_of_the_execution_domain_that_nobody_knows_is_named_and_ignored,
        [
            runc_before("1.2", "knows no personality"),
            crun("ignores it silently")
        ]
    );
    let mut bundle = Bundle::new();
    bundle.config.set(
        "/linux/personality",
        json!({ "domain": "LINUX", "flags": ["SHORT_TEMPER"] }),
    );
    bundle.config.probe(&["echo", "ran"]);
    let finished = bundle.run().success();
    assert_eq!(finished.stdout, "ran\n");
    finished.says("SHORT_TEMPER");
}

#[test]
fn the_container_has_a_session_keyring_of_its_own() {
    require!(containers);
    beyond!(
        the_container_has_a_session_keyring_of_its_own,
        [crun("names it by the id alone, without `_ses.`")]
    );
    let mut bundle = Bundle::new();
    bundle.config.no_namespace("pid");
    let container = bundle.pause();
    let keyring = container.exec_report(&[], &[]).session_keyring;
    let name = keyring.split(';').next_back().unwrap().to_owned();
    assert!(name.starts_with("_ses"), "{name}");
    let seen = bundle.report(&[]);
    let name = seen.session_keyring.split(';').next_back().unwrap();
    assert!(name.starts_with("_ses.report-"), "{name}");
}

#[test]
fn no_new_keyring_leaves_the_callers_session_keyring() {
    require!(containers);
    let bundle = Bundle::new();
    let own = integration::sys::session_keyring().map_err(|error| error.to_string());
    let seen = bundle.report_with(&["--no-new-keyring"], &[]);
    match own {
        Ok(own) => assert_eq!(*seen.session_keyring, own),
        // Without one of its own a process sees its user's, or none.
        Err(_) => assert!(
            seen.session_keyring.reason().is_some() || !seen.session_keyring.contains("report-")
        ),
    }
}

#[test]
fn no_signal_is_blocked_or_ignored() {
    require!(containers);
    let mut bundle = Bundle::new();
    let caller = [
        "env",
        "--ignore-signal=HUP,INT,QUIT,TSTP,RTMIN+6",
        "--block-signal=TERM,CHLD",
    ];
    bundle.runtime.wrapper = caller.map(Into::into).to_vec();
    let seen = bundle.report(&[]);
    assert_eq!(*seen.signals_blocked, BTreeSet::new());
    // The language runtime of the probe ignores SIGPIPE. Glibc's posix_spawn, by which the suite starts commands, leaves its two internal
    // signals ignored, which not every runtime looks at.
    let ours = BTreeSet::from([13, 32, 33]);
    assert!(
        seen.signals_ignored.is_subset(&ours),
        "{:?}",
        seen.signals_ignored
    );
    bundle.config.probe(&["pause"]);
    let container = bundle.pause();
    let seen = container
        .exec(&[], &["/bin/probe", "report"])
        .success()
        .json();
    assert_eq!(seen["signals_blocked"], json!({ "Ok": [] }));
    let ignored: BTreeSet<u32> =
        serde_json::from_value(seen["signals_ignored"]["Ok"].clone()).unwrap();
    assert!(ignored.is_subset(&ours), "{ignored:?}");
}

#[test]
fn the_process_may_run_on_all_the_cpus_of_its_caller() {
    require!(containers);
    let own = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).unwrap();
    let own: BTreeSet<usize> = (0..nix::sched::CpuSet::count())
        .filter(|cpu| own.is_set(*cpu).unwrap())
        .collect();
    assert_eq!(*Bundle::new().report(&[]).cpus, own);
}

#[test]
fn an_apparmor_profile_confines_the_process_and_those_of_exec() {
    require!(containers, apparmor);
    let name = integration::place::unique("caisson-suite");
    let profile = format!(
        "profile {name} flags=(attach_disconnected,mediate_deleted) {{\n file,\n capability,\n network,\n signal,\n ptrace,\n deny /forbidden r,\n}}\n"
    );
    let mut bundle = Bundle::new();
    let file = bundle.scratch.file("profile", &profile);
    let file = file.display().to_string();
    let parser = |flag: &str| {
        let mut command = std::process::Command::new("apparmor_parser");
        command.args([flag, &file]);
        integration::runtime::finish(command).success();
    };
    parser("--replace");
    integration::place::write(&bundle.rootfs().join("forbidden"), "x");
    let asked = ["try=read:/forbidden", "cat=/proc/self/attr/current"];
    let confined = |seen: &integration::Seen| {
        let label = &seen.files["/proc/self/attr/current"];
        assert_eq!(label.trim(), format!("{name} (enforce)"));
        assert_eq!(seen.tried("read:/forbidden"), "EACCES");
    };
    assert_eq!(bundle.report(&asked).tried("read:/forbidden"), "ok");
    bundle.config.set("/process/apparmorProfile", &*name);
    confined(&bundle.report(&asked));
    let container = bundle.pause();
    confined(&container.exec_report(&[], &asked));
    bundle.config.remove("/process/apparmorProfile");
    let free = bundle.pause();
    confined(&free.exec_report(&["--apparmor", &name], &asked));
    drop((container, free));
    parser("--remove");
}

#[test]
fn there_is_no_seccomp_filter_unless_configured() {
    require!(containers, no_filter);
    assert_eq!(*Bundle::new().report(&[]).seccomp, 0);
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
