//! Makes configs: the default one with a few changes, drawn from a table of values and from some makers of lists.
//!
//! The same seed makes the same config. `@HOST@` stands for a directory outside of the root and `@PROBE@` for the probe there, until
//! [`Made::in_place`] puts a bundle's paths in. Values that no runtime should take are as welcome as those that all must take;
//! only what would change the machine for others, or needs a controller, is not among them.

use integration::Config;
use serde_json::{Value, json};

/// A config and how it came to be.
pub(crate) struct Made {
    config: Config,
    /// `POINTER = VALUE` for each change, in order.
    pub(crate) changes: Vec<String>,
}

/// Numbers that look random (splitmix64).
struct Dice(u64);

/// What may stand at a place; a list's name with `/-` appends to it.
type Field = (&'static str, &'static [&'static str]);

const FIELDS: &[Field] = &[
    (
        "/ociVersion",
        &[
            r#""1.0.0""#,
            r#""1.2.1""#,
            r#""1.0.2-dev""#,
            r#""0.9.0""#,
            r#""2.0.0""#,
            r#""""#,
            r#""one""#,
            "1",
        ],
    ),
    ("/root/readonly", &["true", "false", "null", r#""yes""#]),
    (
        "/root/path",
        &[
            r#""rootfs""#,
            r#""./rootfs/""#,
            r#""rootfs/../rootfs""#,
            r#""""#,
            r#""nowhere""#,
            "null",
        ],
    ),
    (
        "/hostname",
        &[
            r#""box""#,
            r#""""#,
            r#""a.b-c""#,
            r#""xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx""#,
            "null",
            "7",
        ],
    ),
    ("/domainname", &[r#""example.org""#, r#""""#, "null"]),
    (
        "/annotations",
        &["{}", "null", r#"{"a":"b"}"#, r#"{"a":1}"#, "[]"],
    ),
    ("/mounts", &["null", "[]", "{}"]),
    (
        "/hooks",
        &[
            "{}",
            "null",
            r#"{"prestart":null}"#,
            r#"{"prestart":[]}"#,
            "[]",
        ],
    ),
    ("/hooks/prestart/-", HOOKS),
    ("/hooks/createRuntime/-", HOOKS),
    ("/hooks/createContainer/-", HOOKS),
    (
        "/hooks/startContainer/-",
        &[
            r#"{"path":"/bin/probe","args":["probe","exit","0"]}"#,
            r#"{"path":"/no/such/hook"}"#,
            r#"{"path":"/bin/probe","args":["probe","exit","1"]}"#,
        ],
    ),
    ("/hooks/poststart/-", HOOKS),
    ("/hooks/poststop/-", HOOKS),
    ("/process", &["null", "{}"]),
    ("/process/terminal", &["false", "null", "1"]),
    (
        "/process/consoleSize",
        &[
            r#"{"height":20,"width":30}"#,
            "null",
            r#"{"height":-1,"width":1}"#,
        ],
    ),
    (
        "/process/user",
        &[
            "null",
            "{}",
            r#"{"uid":1000,"gid":1000}"#,
            r#"{"uid":1000}"#,
            r#"{"gid":5}"#,
            r#"{"username":"root"}"#,
            r#"{"uid":4294967295,"gid":0}"#,
            r#"{"uid":-1}"#,
            r#"{"uid":"0"}"#,
            r#"{"uid":1.5}"#,
        ],
    ),
    (
        "/process/user/additionalGids",
        &[
            "[]",
            "[5]",
            "[5,5,6]",
            "null",
            "[0,100000]",
            "[4294967295]",
            r#"["5"]"#,
        ],
    ),
    (
        "/process/user/umask",
        &["0", "18", "63", "511", "4095", "null", "-1"],
    ),
    (
        "/process/args",
        &[
            "null",
            "[]",
            r#"[""]"#,
            r#"["probe","report"]"#,
            r#"["no-such-program"]"#,
            r#"["/etc"]"#,
            r#"["./bin/probe","report"]"#,
            r#"["bin/probe","report"]"#,
            r#"["/bin/probe","exit","3"]"#,
            r#""probe""#,
        ],
    ),
    (
        "/process/env",
        &[
            "null",
            "[]",
            r#"["PATH=/bin"]"#,
            r#"["PATH="]"#,
            r#"["HOME="]"#,
            r#"["A=1","B=2","A=3"]"#,
            r#"["NOVALUE"]"#,
            r#"["=x"]"#,
            r#"[""]"#,
            r#"["A==b"]"#,
            r#"["HOME=/x","HOME=/y"]"#,
            r#"{"A":"1"}"#,
            "[1]",
        ],
    ),
    (
        "/process/cwd",
        &[
            r#""/tmp""#,
            r#""/""#,
            r#""""#,
            r#""tmp""#,
            r#""/new/dir""#,
            r#""/etc/passwd""#,
            r#""/home/../tmp""#,
            r#""/tmp/""#,
            r#""//tmp//""#,
            r#""/proc/self""#,
            "null",
            "1",
        ],
    ),
    (
        "/process/capabilities",
        &[
            "null",
            "{}",
            r#"{"bounding":null}"#,
            r#"{"bounding":["CAP_CHOWN"]}"#,
            r#"{"effective":["CAP_CHOWN"]}"#,
            r#"{"permitted":["cap_chown"]}"#,
            r#"{"bounding":["CHOWN"],"permitted":["KILL"]}"#,
            r#"{"bounding":"CAP_CHOWN"}"#,
            "[]",
            r#"{"bounding":["CAP_NOTHING",""]}"#,
        ],
    ),
    ("/process/rlimits", &["null", "[]", "{}"]),
    (
        "/process/noNewPrivileges",
        &["true", "false", "null", r#""true""#],
    ),
    ("/process/apparmorProfile", &[r#""""#, "null"]),
    ("/process/selinuxLabel", &[r#""""#, "null"]),
    (
        "/process/oomScoreAdj",
        &["0", "500", "1000", "null", "1001", "-1001", "1.5", r#""1""#],
    ),
    (
        "/process/ioPriority",
        &[
            "null",
            r#"{"class":"IOPRIO_CLASS_BE","priority":4}"#,
            r#"{"class":"IOPRIO_CLASS_IDLE","priority":0}"#,
            r#"{"class":"IOPRIO_CLASS_BE","priority":8}"#,
            r#"{"class":"BE","priority":1}"#,
            r#"{"priority":1}"#,
            r#"{"class":"IOPRIO_CLASS_BE"}"#,
            "{}",
        ],
    ),
    (
        "/process/scheduler",
        &[
            "null",
            r#"{"policy":"SCHED_OTHER","nice":5}"#,
            r#"{"policy":"SCHED_BATCH","nice":-3}"#,
            r#"{"policy":"SCHED_IDLE"}"#,
            r#"{"policy":"SCHED_OTHER","priority":1}"#,
            r#"{"policy":"SCHED_OTHER","nice":20}"#,
            r#"{"policy":"SCHED_NONE"}"#,
            "{}",
            r#"{"policy":"SCHED_BATCH","flags":["SCHED_FLAG_RESET_ON_FORK"]}"#,
            r#"{"policy":"SCHED_OTHER","flags":["WHAT"]}"#,
            r#"{"policy":"SCHED_OTHER","runtime":1}"#,
        ],
    ),
    ("/linux", &["null", "{}"]),
    (
        "/linux/maskedPaths",
        &[
            "null",
            "[]",
            r#"["/etc"]"#,
            r#"["/etc/passwd","/no/such"]"#,
            r#"["/etc","/etc/passwd"]"#,
            r#"["etc"]"#,
            r#"[""]"#,
            r#"["/etc/../root"]"#,
            r#""/etc""#,
            r#"["/dev/null"]"#,
        ],
    ),
    (
        "/linux/readonlyPaths",
        &[
            "null",
            "[]",
            r#"["/tmp"]"#,
            r#"["/tmp","/no/such","/dev/shm"]"#,
            r#"["tmp"]"#,
            r#"["/dev"]"#,
            r#"["/"]"#,
            r#"["/etc/passwd"]"#,
        ],
    ),
    ("/linux/devices", &["null", "[]", "{}"]),
    ("/linux/devices/-", DEVICES),
    (
        "/linux/rootfsPropagation",
        &[
            r#""""#,
            r#""private""#,
            r#""rprivate""#,
            r#""slave""#,
            r#""rslave""#,
            r#""shared""#,
            r#""rshared""#,
            r#""what""#,
            "null",
        ],
    ),
    ("/linux/mountLabel", &[r#""""#, "null"]),
    ("/linux/cgroupsPath", &[r#""""#, "null", "1"]),
    (
        "/linux/sysctl",
        &[
            "null",
            "{}",
            r#"{"kernel.msgmax":"4096"}"#,
            r#"{"net.ipv4.ip_forward":"1"}"#,
            r#"{"net/ipv4/ip_forward":"1"}"#,
            r#"{"kernel.shm_rmid_forced":"1","kernel.sem":"250 32000 32 128"}"#,
            r#"{"fs.mqueue.msg_max":"11"}"#,
            r#"{"kernel.domainname":"x"}"#,
            r#"{"kernel.hostname":"x"}"#,
            r#"{"vm.swappiness":"1"}"#,
            r#"{"net.no.such":"1"}"#,
            r#"{"net.ipv4.ip_forward":"x"}"#,
            r#"{"net.ipv4.ip_forward":""}"#,
            r#"{"net.ipv4.ip_forward":1}"#,
            r#"{"":"1"}"#,
            r#"{"user.max_user_namespaces":"5"}"#,
        ],
    ),
    (
        "/linux/resources",
        &[
            "null",
            "{}",
            r#"{"devices":null}"#,
            r#"{"devices":[]}"#,
            r#"{"memory":{}}"#,
            r#"{"memory":null,"cpu":{},"pids":null,"blockIO":{}}"#,
            r#"{"unified":{}}"#,
            r#"{"hugepageLimits":[]}"#,
            r#"{"cpu":{"shares":0,"quota":0,"period":0}}"#,
            r#"{"memory":{"limit":0}}"#,
            "[]",
            r#"{"memory":{"limit":"1"}}"#,
            r#"{"network":{"classID":0}}"#,
            r#"{"rdma":{}}"#,
        ],
    ),
    ("/linux/resources/devices/-", RULES),
    ("/linux/seccomp", SECCOMP),
    (
        "/linux/personality",
        &[
            "null",
            r#"{"domain":"LINUX"}"#,
            r#"{"domain":"LINUX32"}"#,
            r#"{"domain":"BSD"}"#,
            r#"{"domain":"LINUX","flags":["X"]}"#,
            r#"{"domain":"LINUX","flags":[]}"#,
            "{}",
        ],
    ),
    (
        "/linux/namespaces",
        &[
            "null",
            "[]",
            "{}",
            r#"[{"type":"mount"}]"#,
            r#"[{"type":"mount"},{"type":"pid"}]"#,
        ],
    ),
    (
        "/linux/namespaces/-",
        &[
            r#"{"type":"mount"}"#,
            r#"{"type":"what"}"#,
            r#"{"type":""}"#,
            "{}",
            r#"{"type":"network","path":"/no/such"}"#,
            r#"{"type":"time"}"#,
            r#"{"type":"user"}"#,
        ],
    ),
    (
        "/linux/timeOffsets",
        &[
            "null",
            "{}",
            r#"{"monotonic":{"secs":1000}}"#,
            r#"{"boottime":{"secs":1000,"nanosecs":5}}"#,
            r#"{"what":{"secs":1}}"#,
        ],
    ),
    ("/linux/uidMappings", MAPPINGS),
    ("/linux/gidMappings", MAPPINGS),
    ("/linux/intelRdt", &["null"]),
    ("/linux/netDevices", &["null", "{}"]),
    ("/unknown", &["1", "null", r#"{"a":[]}"#]),
    ("/linux/unknown", &["1"]),
    ("/process/unknown", &[r#""x""#]),
    ("/windows", &["null", "{}"]),
];

const HOOKS: &[&str] = &[
    r#"{"path":"@PROBE@","args":["probe","exit","0"]}"#,
    r#"{"path":"@PROBE@","args":["probe","exit","0"],"env":["A=b"],"timeout":10}"#,
    r#"{"path":"@PROBE@","args":["probe","exit","0"],"env":null,"timeout":null}"#,
    r#"{"path":"@PROBE@","args":["probe","exit","4"]}"#,
    r#"{"path":"@PROBE@","args":["probe","exit","0"],"timeout":0}"#,
    r#"{"path":"@PROBE@","args":["probe","exit","0"],"timeout":-1}"#,
    r#"{"path":"@PROBE@","args":["probe","exit","0"],"env":["NOVALUE"]}"#,
    r#"{"path":"/no/such/hook"}"#,
    r#"{"path":"relative"}"#,
    r#"{"path":""}"#,
    "{}",
    "null",
];

const DEVICES: &[&str] = &[
    r#"{"path":"/dev/fuse","type":"c","major":10,"minor":229,"fileMode":438,"uid":0,"gid":0}"#,
    r#"{"path":"/dev/other","type":"c","major":1,"minor":3}"#,
    r#"{"path":"/dev/other","type":"c","major":1,"minor":3,"fileMode":null,"uid":null}"#,
    r#"{"path":"/dev/unbuffered","type":"u","major":1,"minor":5,"fileMode":384,"uid":7,"gid":8}"#,
    r#"{"path":"/dev/pipe","type":"p","fileMode":420}"#,
    r#"{"path":"/dev/disk","type":"b","major":7,"minor":200}"#,
    r#"{"path":"/dev/null","type":"c","major":1,"minor":3,"fileMode":420}"#,
    r#"{"path":"/dev/null","type":"c","major":1,"minor":5}"#,
    r#"{"path":"/dev/deep/er/null","type":"c","major":1,"minor":3}"#,
    r#"{"path":"/dev/x","type":"x","major":1,"minor":3}"#,
    r#"{"path":"/dev/none","type":"c"}"#,
    r#"{"path":"/dev/negative","type":"c","major":-1,"minor":-1}"#,
    r#"{"path":"relative","type":"c","major":1,"minor":3}"#,
    r#"{"path":"","type":"c","major":1,"minor":3}"#,
    r#"{"type":"c","major":1,"minor":3}"#,
    r#"{"path":"/dev/sticky","type":"c","major":1,"minor":3,"fileMode":4095}"#,
    r#"{"path":"/dev/ptmx","type":"c","major":5,"minor":2}"#,
    "{}",
];

const RULES: &[&str] = &[
    r#"{"allow":true,"access":"rwm"}"#,
    r#"{"allow":true,"type":"a","access":"rwm"}"#,
    r#"{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}"#,
    r#"{"allow":false,"type":"c","major":1,"minor":3,"access":"w"}"#,
    r#"{"allow":true,"type":"c","major":-1,"minor":-1,"access":"m"}"#,
    r#"{"allow":true,"type":"b","access":"r"}"#,
    r#"{"allow":true,"type":"c","access":"rwm"}"#,
    r#"{"allow":true,"type":"c","access":"rw"}"#,
    r#"{"allow":true,"type":"c","major":1,"access":"rwm"}"#,
    r#"{"allow":true,"type":"p","access":"r"}"#,
    r#"{"allow":true,"type":"","access":"r"}"#,
    r#"{"allow":true,"access":""}"#,
    r#"{"allow":true,"access":"x"}"#,
    r#"{"access":"rwm"}"#,
    r#"{"allow":true}"#,
    "{}",
];

const SECCOMP: &[&str] = &[
    "null",
    "{}",
    r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#,
    r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["sethostname"],"action":"SCMP_ACT_ERRNO"}]}"#,
    r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86"],"syscalls":[{"names":["sethostname","no_such_call"],"action":"SCMP_ACT_ERRNO","errnoRet":38}]}"#,
    r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["sethostname"],"action":"SCMP_ACT_ERRNO","args":[{"index":1,"value":3,"op":"SCMP_CMP_GT"}]}]}"#,
    r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_LOG"],"syscalls":[]}"#,
    r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["WHAT"],"syscalls":[]}"#,
    r#"{"defaultAction":"SCMP_ACT_WHAT"}"#,
    r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_WHAT"]}"#,
    r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":[],"action":"SCMP_ACT_ERRNO"}]}"#,
    r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["sethostname"],"action":"SCMP_ACT_KILL"}]}"#,
    r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["sethostname"],"action":"SCMP_ACT_ALLOW","errnoRet":1}]}"#,
    r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["sethostname"],"action":"SCMP_ACT_ERRNO","args":[{"index":9,"value":3,"op":"SCMP_CMP_EQ"}]}]}"#,
    r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"","syscalls":null}"#,
];

const MAPPINGS: &[&str] = &[
    "null",
    "[]",
    r#"[{"containerID":0,"hostID":100000,"size":65536}]"#,
    r#"[{"containerID":0,"hostID":100000,"size":0}]"#,
];

const FLAGS: &[&str] = &[
    "ro",
    "rw",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "noexec",
    "exec",
    "sync",
    "async",
    "dirsync",
    "noatime",
    "atime",
    "nodiratime",
    "diratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "nosymfollow",
    "lazytime",
    "silent",
    "loud",
    "iversion",
    "mand",
    "nomand",
    "defaults",
    "private",
    "rprivate",
    "slave",
    "rslave",
    "shared",
    "rshared",
    "unbindable",
    "remount",
    "rro",
    "rrw",
    "rnosuid",
    "rnodev",
    "rnoexec",
    "rnoatime",
    "rrelatime",
    "",
    "what",
    "size=1m",
    "mode=700",
    "mode=1777",
    "uid=5",
    "nr_inodes=100",
    "tmpcopyup",
];

const TARGETS: &[&str] = &[
    "/data",
    "/data/deep/er",
    "/tmp",
    "/etc",
    "/data/../other",
    "data",
    "/",
    "",
    "/etc/passwd",
    "/proc/meminfo",
    "/proc/sys",
    "/proc",
    "/sys/fs",
    "/dev/shm",
    "/home/worker/",
    "//data//x",
];

const RLIMITS: &[&str] = &[
    "RLIMIT_NOFILE",
    "RLIMIT_CORE",
    "RLIMIT_CPU",
    "RLIMIT_FSIZE",
    "RLIMIT_STACK",
    "RLIMIT_MEMLOCK",
    "RLIMIT_NPROC",
    "RLIMIT_AS",
    "RLIMIT_RTPRIO",
    "RLIMIT_NICE",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_SIGPENDING",
    "RLIMIT_LOCKS",
    "RLIMIT_WHAT",
    "NOFILE",
    "rlimit_nofile",
    "",
];

const CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_KILL",
    "CAP_NET_RAW",
    "CAP_SYS_ADMIN",
    "CAP_SETUID",
    "CAP_DAC_OVERRIDE",
    "CAP_NET_BIND_SERVICE",
    "CAP_AUDIT_WRITE",
    "CAP_BPF",
    "CAP_PERFMON",
    "CAP_CHECKPOINT_RESTORE",
    "CAP_SYS_RESOURCE",
    "CAP_UNHEARD_OF",
];

/// The config with this number.
pub(crate) fn config(seed: u64, plain: &Config) -> Made {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut made = Made {
        config: plain.clone(),
        changes: Vec::new(),
    };
    for _ in 0..=dice.below(3) {
        match dice.below(20) {
            0..=3 => mount(&mut dice, &mut made),
            4 => rlimit(&mut dice, &mut made),
            5 => capabilities(&mut dice, &mut made),
            6 | 7 => namespaces(&mut dice, &mut made),
            8 => removal(&mut dice, &mut made),
            _ => {
                let (pointer, values) = dice.pick(FIELDS);
                let value = dice.pick(values);
                let value = serde_json::from_str(value);
                made.change(
                    pointer,
                    value.unwrap_or_else(|error| panic!("{pointer}: {error}")),
                );
            }
        }
    }
    made.spare_the_host();
    made
}

fn mount(dice: &mut Dice, made: &mut Made) {
    let mut options: Vec<&str> = (0..dice.below(4)).map(|_| *dice.pick(FLAGS)).collect();
    let (kind, source) = *dice.pick(&[
        ("tmpfs", "tmpfs"),
        ("tmpfs", "tmpfs"),
        ("bind", "@HOST@/directory"),
        ("bind", "@HOST@/directory"),
        ("bind", "@HOST@/file"),
        ("none", "@HOST@/directory"),
        ("bind", "@HOST@/missing"),
        ("proc", "proc"),
        ("sysfs", "sysfs"),
        ("mqueue", "mqueue"),
        ("devpts", "devpts"),
        ("cgroup", "cgroup"),
        ("cgroup2", "cgroup"),
        ("what", "what"),
        ("", "@HOST@/directory"),
    ]);
    if source.starts_with('@') && dice.below(8) > 0 {
        options.insert(0, *dice.pick(&["bind", "rbind"]));
    }
    let mut mount = json!({ "destination": dice.pick(TARGETS), "type": kind, "source": source, "options": options });
    if let (0, Some(mount)) = (dice.below(12), mount.as_object_mut()) {
        mount.remove(*dice.pick(&["destination", "type", "source", "options"]));
    }
    made.change("/mounts/-", mount);
}

fn rlimit(dice: &mut Dice, made: &mut Made) {
    let number = |dice: &mut Dice| {
        let numbers = [
            json!(0),
            json!(64),
            json!(1024),
            json!(65_536),
            json!(u64::MAX),
            json!(-1),
            json!("1"),
            json!(null),
        ];
        // Mostly those in the middle.
        if dice.below(4) > 0 {
            json!(1024)
        } else {
            dice.pick(&numbers).clone()
        }
    };
    let limit = json!({ "type": dice.pick(RLIMITS), "soft": number(dice), "hard": number(dice) });
    made.change("/process/rlimits/-", limit);
}

fn capabilities(dice: &mut Dice, made: &mut Made) {
    for set in [
        "bounding",
        "permitted",
        "effective",
        "inheritable",
        "ambient",
    ] {
        if dice.below(3) > 0 {
            let names: Vec<&str> = (0..dice.below(5))
                .map(|_| *dice.pick(CAPABILITIES))
                .collect();
            made.change(&format!("/process/capabilities/{set}"), json!(names));
        }
    }
}

fn namespaces(dice: &mut Dice, made: &mut Made) {
    let kind = *dice.pick(&["pid", "network", "ipc", "uts", "cgroup", "mount", "user"]);
    match dice.below(3) {
        0 => {
            made.config.no_namespace(kind);
            made.changes.push(format!("no {kind} namespace"));
        }
        1 => {
            made.config.user_namespace(100_000, 65_536);
            made.changes.push("a user namespace".to_owned());
        }
        _ => {
            let kind = if kind == "mount" { "ipc" } else { kind };
            made.config.no_namespace(kind);
            let file = if kind == "network" { "net" } else { kind };
            let path = format!("/proc/1/ns/{file}");
            made.change("/linux/namespaces/-", json!({ "type": kind, "path": path }));
        }
    }
    // Without a namespace and without paths to cover, mounts would be made where the tests run.
    if made
        .config
        .0
        .pointer("/linux/maskedPaths")
        .is_none_or(|list| list != &json!(["/proc/kcore"]))
    {
        made.config
            .set("/linux/maskedPaths", json!(["/proc/kcore"]));
    }
}

fn removal(dice: &mut Dice, made: &mut Made) {
    let pointer = *dice.pick(&[
        "/ociVersion",
        "/process",
        "/root",
        "/root/path",
        "/mounts",
        "/linux",
        "/linux/resources",
        "/linux/namespaces",
        "/process/user",
        "/process/user/uid",
        "/process/args",
        "/process/env",
        "/process/cwd",
        "/process/capabilities",
        "/process/rlimits",
        "/process/noNewPrivileges",
        "/hostname",
    ]);
    made.config.remove(pointer);
    made.changes.push(format!("no {pointer}"));
}

impl Made {
    fn change(&mut self, pointer: &str, value: Value) {
        self.changes.push(format!("{pointer} = {value}"));
        match pointer.strip_suffix("/-") {
            Some(list) => {
                let (above, _) = list.rsplit_once('/').unwrap_or_default();
                if self.config.0.pointer(above).is_some_and(Value::is_array) {
                    self.config.set(above, json!({}));
                }
                if !self.config.0.pointer(list).is_some_and(Value::is_array) {
                    self.make_way(list);
                    self.config.set(list, json!([]));
                }
                self.config.push(list, value);
            }
            None => {
                self.make_way(pointer);
                self.config.set(pointer, value);
            }
        }
    }

    /// Without a mount namespace, runc mounts on the host if it need not mask anything, and leaves it there.
    fn spare_the_host(&mut self) {
        let linux = &self.config.0["linux"];
        let is_empty = |list: &str| linux[list].as_array().is_none_or(Vec::is_empty);
        let kept = linux["namespaces"]
            .as_array()
            .is_some_and(|all| all.iter().any(|namespace| namespace["type"] == "mount"));
        if linux.is_object() && !kept && is_empty("maskedPaths") && is_empty("readonlyPaths") {
            self.change("/linux/namespaces/-", json!({ "type": "mount" }));
        }
    }

    /// What an earlier change made a list, though it has named parts, has these again.
    fn make_way(&mut self, pointer: &str) {
        let (parent, part) = pointer.rsplit_once('/').unwrap_or(("", pointer));
        let is_list = self.config.0.pointer(parent).is_some_and(Value::is_array);
        if is_list && part.parse::<usize>().is_err() {
            self.config.set(parent, json!({}));
        }
    }

    /// The config for a bundle with this directory outside of its root.
    pub(crate) fn in_place(&self, host: &str, probe: &str) -> Config {
        let text = self.config.0.to_string();
        let text = text.replace("@HOST@", host).replace("@PROBE@", probe);
        Config(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}")))
    }
}

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}
