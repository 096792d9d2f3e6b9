use super::*;
use crate::protos::containers::{Mount, Resources, Ulimit, mount::Kind};

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn found() -> Found {
    Found {
        id: "abc".into(),
        args: strings(&["sh"]),
        hostname: "abc".into(),
        capabilities: capabilities::all(),
        ..Found::default()
    }
}

fn spec(config: &Config, found: &Found) -> Value {
    build(config, &Defaults::default(), found).unwrap()
}

#[test]
fn entrypoint_and_command() {
    let image = Defaults {
        entrypoint: strings(&["/e"]),
        command: strings(&["c"]),
        ..Defaults::default()
    };
    let args = |command: &[&str], entrypoint: Option<&[&str]>| {
        let config = Config {
            command: strings(command),
            entrypoint: strings(entrypoint.unwrap_or_default()),
            replace_entrypoint: entrypoint.is_some(),
            ..Config::default()
        };
        pid_one(&config, &image)
    };
    assert_eq!(args(&[], None).unwrap(), ["/e", "c"]);
    assert_eq!(args(&["x", "y"], None).unwrap(), ["/e", "x", "y"]);
    assert_eq!(args(&[], Some(&["/f"])).unwrap(), ["/f"]);
    assert_eq!(args(&["x"], Some(&["/f"])).unwrap(), ["/f", "x"]);
    assert_eq!(args(&["x"], Some(&[])).unwrap(), ["x"]);
    assert!(args(&[], Some(&[])).is_err());
}

#[test]
fn the_environment_is_the_images_and_then_the_users() {
    let image = Defaults {
        env: strings(&["A=1", "B=2", "PATH=/x"]),
        ..Defaults::default()
    };
    let config = Config {
        env: strings(&["B=3", "A", "C=4"]),
        terminal: true,
        ..Config::default()
    };
    let spec = build(&config, &image, &found()).unwrap();
    assert_eq!(
        spec["process"]["env"],
        json!([
            "PATH=/x",
            "HOSTNAME=abc",
            "TERM=xterm",
            "B=3",
            "C=4",
            "HOME=/"
        ])
    );
}

#[test]
fn only_root_holds_capabilities_from_the_start() {
    let sets = |uid| {
        let user = User {
            uid,
            ..User::default()
        };
        let spec = spec(&Config::default(), &Found { user, ..found() });
        let set = |name: &str| {
            spec["process"]["capabilities"][name]
                .as_array()
                .unwrap()
                .len()
        };
        (set("bounding"), set("effective"), set("permitted"))
    };
    assert_eq!(sets(0), (14, 14, 14));
    assert_eq!(sets(1), (14, 0, 0));
}

#[test]
fn a_privileged_container_has_no_filter_and_sees_everything() {
    let config = Config {
        privileged: true,
        ..Config::default()
    };
    let linux = &spec(&config, &found())["linux"];
    assert!(linux.get("seccomp").is_none());
    assert_eq!(linux["maskedPaths"], json!([]));
    assert_eq!(
        linux["resources"]["devices"],
        json!([{ "allow": true, "access": "rwm" }])
    );
    let usual = &spec(&Config::default(), &found())["linux"];
    assert_eq!(usual["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
    assert_eq!(usual["resources"]["devices"][0]["allow"], false);
}

#[test]
fn mounts_below_others_come_after_them_and_replace_defaults() {
    let bind = |target: &str| Bind {
        source: "/s".into(),
        target: target.into(),
        read_only: true,
        options: vec![],
        mapped: false,
        within: String::new(),
    };
    let found = Found {
        binds: vec![bind("/data/deep"), bind("/data"), bind("/dev/shm")],
        recursive: true,
        ..found()
    };
    let tmpfs = Mount {
        kind: Kind::TMPFS.into(),
        target: "/tmp".into(),
        options: strings(&["exec", "size=1m"]),
        ..Mount::default()
    };
    let spec = spec(
        &Config {
            mounts: vec![tmpfs],
            ..Config::default()
        },
        &found,
    );
    let mounts = spec["mounts"].as_array().unwrap();
    let position = |target: &str| {
        mounts
            .iter()
            .position(|mount| mount["destination"] == target)
            .unwrap()
    };
    assert!(position("/data") < position("/data/deep"));
    assert_eq!(
        mounts
            .iter()
            .filter(|mount| mount["destination"] == "/dev/shm")
            .count(),
        1
    );
    assert_eq!(
        mounts[position("/data")]["options"],
        json!(["rbind", "ro", "rro", "rprivate"])
    );
    assert_eq!(
        mounts[position("/tmp")]["options"],
        json!(["nosuid", "nodev", "exec", "size=1m"])
    );
}

fn with_ids() -> Found {
    Found {
        ids: Some(Ids {
            first_uid: 1000,
            first_gid: 2000,
            size: 10,
            ..Ids::default()
        }),
        ..found()
    }
}

fn mount_at<'a>(spec: &'a Value, target: &str) -> Option<&'a Value> {
    let mut mounts = spec["mounts"].as_array().unwrap().iter();
    mounts.find(|mount| mount["destination"] == target)
}

#[test]
fn a_user_namespace_maps_volumes_and_makes_no_nodes() {
    let bind = |target: &str, mapped| Bind {
        source: "/s".into(),
        target: target.into(),
        read_only: false,
        options: vec![],
        mapped,
        within: String::new(),
    };
    let node = Node {
        path: "/dev/other".into(),
        source: "/dev/null".into(),
        block: false,
        major: 1,
        minor: 3,
        mode: 0o666,
        uid: 0,
        gid: 0,
        access: "rwm".into(),
    };
    let found = |found| Found {
        binds: vec![bind("/volume", true), bind("/bind", false)],
        devices: vec![node.clone()],
        ..found
    };
    let mapped = spec(&Config::default(), &found(with_ids()));
    let map = |first: u32| json!([{ "containerID": 0, "hostID": first, "size": 10 }]);
    assert_eq!(mapped["linux"]["uidMappings"], map(1000));
    assert_eq!(mapped["linux"]["gidMappings"], map(2000));
    let namespaces = mapped["linux"]["namespaces"].as_array().unwrap();
    assert!(namespaces.contains(&json!({ "type": "user" })));
    let volume = mount_at(&mapped, "/volume").unwrap();
    assert_eq!(
        (&volume["uidMappings"], &volume["gidMappings"]),
        (&map(1000), &map(2000))
    );
    assert!(mount_at(&mapped, "/bind").unwrap()["uidMappings"].is_null());
    assert_eq!(mapped["linux"]["devices"], json!([]));
    assert_eq!(
        mount_at(&mapped, "/dev/other").unwrap()["source"],
        "/dev/null"
    );
    // Without one, nothing of this.
    let plain = spec(&Config::default(), &found(self::found()));
    assert!(plain["linux"]["uidMappings"].is_null());
    assert!(mount_at(&plain, "/volume").unwrap()["uidMappings"].is_null());
    assert!(mount_at(&plain, "/dev/other").is_none());
    assert_eq!(plain["linux"]["devices"][0]["path"], "/dev/other");
}

#[test]
fn what_belongs_to_namespaces_of_others_is_not_mounted_anew() {
    let config = |userns: &str, other: &str| Config {
        userns: userns.into(),
        network: other.into(),
        ipc_mode: other.into(),
        ..Config::default()
    };
    let kinds = |config: &Config, found: &Found| {
        let spec = spec(config, found);
        let sys = mount_at(&spec, "/sys").unwrap()["type"].clone();
        (sys, mount_at(&spec, "/dev/mqueue").is_some())
    };
    let (new, bound) = ((json!("sysfs"), true), (json!("bind"), false));
    assert_eq!(kinds(&config("auto", ""), &with_ids()), new);
    assert_eq!(kinds(&config("auto", "host"), &with_ids()), bound);
    assert_eq!(kinds(&config("auto", "container:a"), &with_ids()), bound);
    assert_eq!(
        kinds(&config("container:a", "container:a"), &with_ids()),
        new
    );
    assert_eq!(kinds(&config("", "container:a"), &found()), new);
    let joined = Found {
        joined: Joined {
            user: Some("/proc/7/ns/user".into()),
            ..Joined::default()
        },
        ..with_ids()
    };
    let spec = spec(&config("container:a", ""), &joined);
    assert!(spec["linux"]["uidMappings"].is_null());
    let namespaces = spec["linux"]["namespaces"].as_array().unwrap();
    assert!(namespaces.contains(&json!({ "type": "user", "path": "/proc/7/ns/user" })));
}

#[test]
fn limits() {
    let asked = Resources {
        nano_cpus: 1_500_000_000,
        memory: 64 << 20,
        pids_limit: 10,
        ..Resources::default()
    };
    let made = resources(&protobuf::MessageField::some(asked), &Rates::default()).unwrap();
    assert_eq!(
        made,
        json!({
            "cpu": { "period": 100_000, "quota": 150_000 },
            "memory": { "limit": 64 << 20, "swap": 128 << 20 },
            "pids": { "limit": 10 },
        })
    );
    let refused =
        |asked| resources(&protobuf::MessageField::some(asked), &Rates::default()).is_err();
    assert!(refused(Resources {
        memory: 1000,
        ..Resources::default()
    }));
    assert!(refused(Resources {
        memory: 2 << 20,
        memory_swap: 1 << 20,
        ..Resources::default()
    }));
    assert!(refused(Resources {
        memory_swap: 1 << 20,
        ..Resources::default()
    }));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let refused = |config: Config| build(&config, &Defaults::default(), &found()).is_err();
    let ulimit = |name: &str, soft, hard| Ulimit {
        name: name.into(),
        soft,
        hard,
        ..Ulimit::default()
    };
    assert!(refused(Config {
        working_dir: "relative".into(),
        ..Config::default()
    }));
    assert!(refused(Config {
        security_opt: strings(&["nonsense"]),
        ..Config::default()
    }));
    assert!(refused(Config {
        ulimits: vec![ulimit("nofile", 2, 1)],
        ..Config::default()
    }));
    assert!(refused(Config {
        ulimits: vec![ulimit("nonsense", 1, 1)],
        ..Config::default()
    }));
    assert!(!refused(Config {
        ulimits: vec![ulimit("nofile", 1, -1)],
        ..Config::default()
    }));
    assert!(refused(Config {
        cap_add: strings(&["nonsense"]),
        ..Config::default()
    }));
}
