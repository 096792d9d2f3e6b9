//! Kubernetes on Caisson's shim: what the kubelet asks of containerd, asked of it with the runtime handler that README.md describes,
//! and with runc's.

use super::shim::{Containerd, part_of_readme};
use super::systemd;
use integration::cri::{Cri, DEADLINE_EXCEEDED, Events};
use integration::host;
use integration::require;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

#[test]
fn a_pod_of_kubernetes_is_what_it_is_with_runc() {
    require!(throwaway_machine, busybox, containerd, program("runc"));
    let kubernetes = Kubernetes::start();
    let [ours, theirs] = HANDLERS.map(|handler| life(&kubernetes, handler));
    assert_eq!(ours, theirs);
    kubernetes.containerd.assert_empty();
}

#[test]
fn a_pod_of_kubernetes_has_one_shim_and_outlives_a_restart_of_containerd() {
    require!(throwaway_machine, busybox, containerd);
    let mut kubernetes = Kubernetes::start();
    let pod = kubernetes.pod("caisson", json!({}));
    let web = kubernetes.container(&pod, "web", json!({ "command": WEB }));
    assert_eq!(kubernetes.exec(&web, &["cat", "/ready"]), "0: ready\n");
    let other = kubernetes.container(&pod, "other", json!({ "command": ["sleep", "1000"] }));
    let shims = [&pod.id, &web, &other].map(|id| kubernetes.containerd.shim_of(id));
    assert_eq!(shims, [shims[0]; 3]);
    let ended = kubernetes.containerd.pid(&other);
    kubernetes.containerd.stop();
    // While containerd is away.
    host::kill_descendant(ended);
    assert!(host::await_end(ended));
    kubernetes.containerd.go_on();
    assert_eq!(kubernetes.exec(&web, &["echo", "again"]), "0: again\n");
    assert_eq!(kubernetes.state(&other), "2 137 Error");
    let stop = json!({ "container_id": web, "timeout": 100 });
    kubernetes.cri.done("StopContainer", &stop);
    assert_eq!(kubernetes.state(&web), "2 3 Error");
    assert_eq!(pod.log("web"), "started\nbye\n");
    kubernetes.remove(&pod);
    kubernetes.containerd.assert_empty();
    assert!(host::await_end(shims[0]));
}

#[test]
fn of_a_pods_shim_that_is_killed_the_kubelet_learns_and_nothing_is_left() {
    require!(throwaway_machine, busybox, containerd);
    let kubernetes = Kubernetes::start();
    let mut events = kubernetes.cri.events();
    let pod = kubernetes.pod("caisson", json!({}));
    let web = kubernetes.container(&pod, "web", json!({ "command": WEB }));
    let pids = [&pod.id, &web].map(|id| kubernetes.containerd.pid(id));
    host::kill_descendant(kubernetes.containerd.shim_of(&web));
    events.stopped(&web);
    assert!(kubernetes.state(&web).starts_with("2 "));
    for pid in pids {
        assert!(host::await_end(pid));
    }
    kubernetes.remove(&pod);
    kubernetes.containerd.assert_empty();
}

/// The state of a pod.
const NOT_READY: &str = "1";

/// Up to 1.7 this is not in containerd's configuration.
#[test]
fn a_pod_without_a_pause_container_lives_as_one_that_has_it() {
    require!(throwaway_machine, busybox, containerd);
    if containerd_is_older_than_2() {
        return;
    }
    let mut kubernetes = Kubernetes::start();
    let namespaces = json!({ "network": 0, "pid": 1, "ipc": 0 });
    let pod = kubernetes.pod("pauseless", namespaces);
    assert_ne!(pod.status(&kubernetes), NOT_READY);
    let web = kubernetes.container(&pod, "web", json!({ "command": WEB }));
    assert_eq!(kubernetes.exec(&web, &["cat", "/ready"]), "0: ready\n");
    let other = kubernetes.container(&pod, "other", json!({ "command": ["sleep", "1000"] }));
    let seen = ["sh", "-c", "hostname; cat /etc/hostname; ls /sys/class/net"];
    let seen = kubernetes.exec(&web, &seen);
    assert!(seen.starts_with("0: inside\ninside\n"), "{seen}");
    assert!(seen.contains("eth0"), "{seen}");
    kubernetes.exec(&web, &["sh", "-c", "echo of web >/dev/shm/note"]);
    let seen = kubernetes.exec(&other, &["cat", "/dev/shm/note"]);
    assert_eq!(seen, "0: of web\n");
    let [first, second] = [&web, &other].map(|id| kubernetes.containerd.pid(id));
    for kind in ["net", "ipc", "uts"] {
        assert_eq!(host::namespace(first, kind), host::namespace(second, kind));
        assert_ne!(host::namespace(first, kind), host::namespace("self", kind));
    }
    if systemd() {
        let group = fs::read_to_string(format!("/proc/{first}/cgroup")).unwrap();
        let scope = format!("/kubepods.slice/cri-containerd-{web}.scope\n");
        assert!(group.ends_with(&scope), "{group}");
    }
    let shims = [&web, &other].map(|id| kubernetes.containerd.shim_of(id));
    assert_eq!(shims[0], shims[1]);
    kubernetes.containerd.stop();
    kubernetes.containerd.go_on();
    assert_ne!(pod.status(&kubernetes), NOT_READY);
    assert_eq!(kubernetes.exec(&web, &["echo", "again"]), "0: again\n");
    let stop = json!({ "container_id": web, "timeout": 100 });
    kubernetes.cri.done("StopContainer", &stop);
    assert_eq!(kubernetes.state(&web), "2 3 Error");
    assert_eq!(pod.log("web"), "started\nbye\n");
    kubernetes.remove(&pod);
    kubernetes.containerd.assert_empty();
    assert!(host::await_end(second) && host::await_end(shims[0]));
}

fn containerd_is_older_than_2() -> bool {
    let mut command = std::process::Command::new("containerd");
    command.arg("--version");
    let said = integration::runtime::finish(command).success().stdout;
    let version = said.split(' ').nth(2).unwrap_or_default();
    version.trim_start_matches('v').starts_with("1.")
}

const HANDLERS: [&str; 2] = ["caisson", "runc"];

/// A service that says in /ready that it is ready, and ends in its own way when it is told to.
const WEB: [&str; 3] = [
    "sh",
    "-c",
    "trap 'echo bye; exit 3' TERM; echo started; echo ready >/ready; while :; do sleep 1000 & wait; done",
];

/// All of it, from the making of a pod to its removal, in words.
fn life(kubernetes: &Kubernetes, handler: &str) -> Vec<String> {
    let mut events = kubernetes.cri.events();
    let pod = kubernetes.pod(handler, json!({}));
    let mut said = vec![pod.status(kubernetes)];
    said.extend(everyday(kubernetes, &pod));
    said.extend(streams(kubernetes, &pod));
    said.extend(ends(kubernetes, &pod, handler, &mut events));
    kubernetes.remove(&pod);

    let mut ids = vec![json!({ "host_id": 200_000, "container_id": 0, "length": 65536 })];
    let users = json!({ "mode": 0, "uids": ids.clone(), "gids": std::mem::take(&mut ids) });
    let namespaces = json!({ "network": 0, "pid": 1, "ipc": 0, "userns_options": users });
    let pod = kubernetes.pod(handler, namespaces.clone());
    let options = json!({ "command": WEB, "linux": { "security_context": { "namespace_options": namespaces } } });
    let web = kubernetes.container(&pod, "web", options);
    let seen = kubernetes.exec(
        &web,
        &["sh", "-c", "cat /ready; id -u; cat /proc/self/uid_map"],
    );
    assert!(seen.contains("200000"), "{seen}");
    said.push(seen);
    kubernetes.remove(&pod);
    said
}

/// A service, and what is done with it.
fn everyday(kubernetes: &Kubernetes, pod: &Pod) -> Vec<String> {
    let (cri, mut said) = (&kubernetes.cri, Vec::new());
    let limits = json!({ "memory_limit_in_bytes": 64 << 20, "cpu_period": 100_000, "cpu_quota": 50_000, "cpu_shares": 512, "oom_score_adj": 500 });
    let options =
        json!({ "command": WEB, "linux": { "resources": limits, "security_context": {} } });
    let web = kubernetes.container(pod, "web", options);
    let ready = kubernetes.exec(&web, &["sh", "-c", "cat /ready; echo wrong >&2; exit 5"]);
    assert_eq!(ready, "5: ready\nwrong\n");
    // The pod's /dev/shm is lent with other options by a runc before 1.2.
    said.push(kubernetes.exec(
        &web,
        &["sh", "-c", "mounts | grep -v /dev/shm; hostname; cat /proc/self/oom_score_adj /proc/self/cgroup; grep -E '^(Cap|Seccomp|NoNew)' /proc/self/status; ls /sys/class/net; env | sort"],
    ));
    said.push(reason(&kubernetes.exec(&web, &["nosuch"])));
    let late = json!({ "container_id": web, "cmd": ["sleep", "1000"], "timeout": 1 });
    assert_eq!(
        cri.call("ExecSync", &late).unwrap_err().0,
        DEADLINE_EXCEEDED
    );
    let stats = cri.done("ContainerStats", &json!({ "container_id": web }));
    for value in [
        "/stats/cpu/usage_core_nano_seconds/value",
        "/stats/memory/working_set_bytes/value",
    ] {
        let value = stats.pointer(value).and_then(Value::as_u64);
        assert!(value.is_some_and(|value| value > 0), "{stats}");
    }
    let more = json!({ "container_id": web, "linux": { "memory_limit_in_bytes": 96 << 20, "cpu_period": 100_000, "cpu_quota": 25_000 } });
    cri.done("UpdateContainerResources", &more);
    let seen = kubernetes.exec(
        &web,
        &["sh", "-c", "cd /sys/fs/cgroup; cat memory.max cpu.max"],
    );
    assert!(seen.starts_with("0: 100663296\n25000 100000\n"), "{seen}");
    said.push(seen);
    said.push(kubernetes.state(&web));
    cri.done(
        "StopContainer",
        &json!({ "container_id": web, "timeout": 100 }),
    );
    assert_eq!(kubernetes.state(&web), "2 3 Error");
    assert_eq!(pod.log("web"), "started\nbye\n");
    // As often as one likes.
    cri.done(
        "StopContainer",
        &json!({ "container_id": web, "timeout": 100 }),
    );
    cri.done("RemoveContainer", &json!({ "container_id": web }));
    cri.done("RemoveContainer", &json!({ "container_id": web }));
    said
}

/// What `kubectl exec`, `attach` and `port-forward` do.
fn streams(kubernetes: &Kubernetes, pod: &Pod) -> Vec<String> {
    let (cri, mut said) = (&kubernetes.cri, Vec::new());
    let serve = "mkdir /www; echo of the pod >/www/note; httpd -p 8080 -h /www; read word; echo got $word; read word; exit 4";
    let options = json!({ "command": ["sh", "-c", serve], "stdin": true, "stdin_once": true });
    let server = kubernetes.container(pod, "server", options);

    let cmd = json!([
        "sh",
        "-c",
        "echo on error >&2; read word; echo got $word; exit 6"
    ]);
    let exec = json!({ "container_id": server, "cmd": cmd, "stdin": true, "stdout": true, "stderr": true });
    let mut stream = cri.stream("Exec", &exec);
    assert_eq!(stream.until(2, "\n"), "on error\n");
    stream.send(0, "of outside\n");
    assert_eq!(stream.until(1, "\n"), "got of outside\n");
    said.push(stream.end()["details"].to_string());

    let trap = "trap 'stty size; exit 7' WINCH; tty; while :; do sleep 1000 & wait; done";
    let exec = json!({ "container_id": server, "cmd": ["sh", "-c", trap], "tty": true, "stdin": true, "stdout": true });
    let mut stream = cri.stream("Exec", &exec);
    assert!(stream.until(1, "\n").starts_with("/dev/pts/"));
    stream.resize(99, 33);
    assert_eq!(stream.until(1, "\n"), "33 99\r\n");
    said.push(stream.end()["details"].to_string());

    let attach = json!({ "container_id": server, "stdin": true, "stdout": true, "stderr": true });
    let mut stream = cri.stream("Attach", &attach);
    stream.send(0, "of outside\n");
    assert_eq!(stream.until(1, "\n"), "got of outside\n");

    // It listens by now.
    let mut ports = cri.stream(
        "PortForward",
        &json!({ "pod_sandbox_id": pod.id, "port": [8080] }),
    );
    for _channel in ["data", "errors"] {
        let (_, port) = ports.message().unwrap();
        assert_eq!(port, 8080_u16.to_le_bytes());
    }
    ports.send(0, "GET /note HTTP/1.0\r\n\r\n");
    assert!(ports.until(0, "of the pod").contains(" 200 OK"));

    stream.send(0, "enough\n");
    while stream.message().is_some() {}
    said.push(kubernetes.state(&server));
    said
}

/// How containers end.
fn ends(kubernetes: &Kubernetes, pod: &Pod, handler: &str, events: &mut Events<'_>) -> Vec<String> {
    let (cri, mut said) = (&kubernetes.cri, Vec::new());
    let limits = json!({ "memory_limit_in_bytes": 32 << 20 });
    let options = json!({ "command": ["tail", "/dev/zero"], "linux": { "resources": limits, "security_context": {} } });
    let hog = kubernetes.container(pod, "hog", options);
    events.stopped(&hog);
    let end = kubernetes.state(&hog);
    // runc's shim reads the counters after systemd may have removed the group.
    let is_lost = handler == "runc" && end == "2 137 Error";
    assert!(end == "2 137 OOMKilled" || is_lost, "{handler}: {end}");

    let deaf = [
        "sh",
        "-c",
        "trap '' TERM; echo ready >/ready; while :; do sleep 1000 & wait; done",
    ];
    let deaf = kubernetes.container(pod, "deaf", json!({ "command": deaf }));
    assert_eq!(kubernetes.exec(&deaf, &["cat", "/ready"]), "0: ready\n");
    cri.done(
        "StopContainer",
        &json!({ "container_id": deaf, "timeout": 1 }),
    );
    assert_eq!(kubernetes.state(&deaf), "2 137 Error");

    let create = pod.create(kubernetes, "missing", json!({ "command": ["nosuch"] }));
    let start = cri.call("StartContainer", &json!({ "container_id": create }));
    let (code, text) = start.unwrap_err();
    said.push(format!("{code} {}", reason(&text)));
    said.push(kubernetes.state(&create));

    let talks = kubernetes.container(pod, "talks", json!({ "command": ["sh", "-c", "head -c 100000 /dev/zero | tr '\\0' 'x'; echo; echo end >&2"] }));
    // It may have stopped before.
    events.stopped(&talks);
    let log = pod.log("talks");
    assert_eq!((log.len(), log.contains("end\n")), (100_005, true));
    said
}

/// containerd's configuration: what README.md says, runc's handler like it, and where images and networks of pods come from.
fn configuration() -> String {
    let ours = part_of_readme("runtimes.caisson");
    let ours = if systemd() {
        ours.to_owned()
    } else {
        ours.replace("SystemdCgroup = true", "SystemdCgroup = false")
    };
    // To be compared, the runtime that is runc's has the same options.
    let table = ours
        .lines()
        .position(|line| line.ends_with("caisson.options]"));
    let options = ours.lines().skip(table.unwrap()).collect::<Vec<_>>();
    let theirs = options.join("\n").replace("caisson", "runc");
    // The same plugin, as it is called in a configuration of version 3.
    let pauseless = part_of_readme("sandboxer").replace("version = 3", "");
    let pauseless = pauseless.replace("io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri");
    format!(
        "{ours}\n{pauseless}\n{theirs}\n{}",
        r#"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "docker.io/library/box:latest"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "DIRECTORY/cni"
"#
    )
}

/// Of pods.
const NETWORK: &str = r#"{ "cniVersion": "1.0.0", "name": "pods", "plugins": [
    { "type": "bridge", "bridge": "pods0", "isGateway": true, "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.99.0.0/16" }]] } }
] }"#;

/// A containerd with CRI, configured as README.md says, and a client.
struct Kubernetes {
    containerd: Containerd,
    cri: Cri,
}

struct Pod {
    id: String,
    config: Value,
}

impl Kubernetes {
    #[track_caller]
    fn start() -> Kubernetes {
        let mut containerd = Containerd::with(&configuration());
        let image = &containerd.image;
        image.sh("umoci config --image layout:latest --config.cmd /bin/probe --config.cmd pause && tar -C layout -cf layout.tar .");
        image.bundle.scratch.file("cni/pods.conflist", NETWORK);
        containerd.go_on();
        containerd.sh("ctr -n k8s.io image import --base-name docker.io/library/box layout.tar");
        let cri = Cri::new(Path::new(&containerd.address()));
        Kubernetes { containerd, cri }
    }

    /// `namespaces` may be empty.
    #[track_caller]
    fn pod(&self, handler: &str, namespaces: Value) -> Pod {
        let logs = self.containerd.image.bundle.scratch.dir("logs");
        let name = integration::place::unique("pod");
        // As the kubelet names it to systemd.
        let parent = if systemd() {
            "kubepods.slice"
        } else {
            "/kubepods"
        };
        let config = json!({
            "metadata": { "name": name, "uid": name, "namespace": "default" },
            "hostname": "inside",
            "log_directory": logs,
            "linux": { "cgroup_parent": parent, "security_context": { "namespace_options": namespaces } },
        });
        let run = json!({ "config": config, "runtime_handler": handler });
        let made = self.cri.done("RunPodSandbox", &run);
        Pod {
            id: text(&made["pod_sandbox_id"]),
            config,
        }
    }

    /// Creates a container and starts it.
    #[track_caller]
    fn container(&self, pod: &Pod, name: &str, options: Value) -> String {
        let id = pod.create(self, name, options);
        self.cri
            .done("StartContainer", &json!({ "container_id": id }));
        id
    }

    /// Exit code and output, or the error.
    #[track_caller]
    fn exec(&self, container: &str, cmd: &[&str]) -> String {
        let exec = json!({ "container_id": container, "cmd": cmd });
        match self.cri.call("ExecSync", &exec) {
            Ok(done) => format!(
                "{}: {}{}",
                done["exit_code"].as_i64().unwrap_or(0),
                text(&done["stdout"]),
                text(&done["stderr"])
            ),
            Err((code, text)) => format!("error {code}: {text}"),
        }
    }

    /// A container's state, exit code and reason.
    #[track_caller]
    fn state(&self, container: &str) -> String {
        let status = self
            .cri
            .done("ContainerStatus", &json!({ "container_id": container }));
        let status = &status["status"];
        let number = |name: &str| status[name].as_i64().unwrap_or(0);
        format!(
            "{} {} {}",
            number("state"),
            number("exit_code"),
            text(&status["reason"])
        )
    }

    #[track_caller]
    fn remove(&self, pod: &Pod) {
        for method in [
            "StopPodSandbox",
            "StopPodSandbox",
            "RemovePodSandbox",
            "RemovePodSandbox",
        ] {
            self.cri.done(method, &json!({ "pod_sandbox_id": pod.id }));
        }
        fs::remove_dir_all(self.containerd.image.bundle.scratch.path().join("logs")).unwrap();
    }
}

impl Pod {
    #[track_caller]
    fn create(&self, kubernetes: &Kubernetes, name: &str, options: Value) -> String {
        let mut config = json!({
            "metadata": { "name": name },
            "image": { "image": "docker.io/library/box:latest" },
            "log_path": name,
            "linux": { "security_context": { "namespace_options": { "pid": 1 } } },
        });
        for (key, value) in options.as_object().unwrap() {
            config[key] = value.clone();
        }
        let create =
            json!({ "pod_sandbox_id": self.id, "config": config, "sandbox_config": self.config });
        text(&kubernetes.cri.done("CreateContainer", &create)["container_id"])
    }

    fn status(&self, kubernetes: &Kubernetes) -> String {
        let status = kubernetes
            .cri
            .done("PodSandboxStatus", &json!({ "pod_sandbox_id": self.id }));
        assert!(status["status"]["network"]["ip"].is_string(), "{status}");
        status["status"]["state"].to_string()
    }

    /// What a container wrote, by its log in the kubelet's format: `time stream P|F text`.
    #[track_caller]
    fn log(&self, name: &str) -> String {
        let path = Path::new(self.config["log_directory"].as_str().unwrap()).join(name);
        let mut said = String::new();
        for line in fs::read_to_string(path).unwrap().lines() {
            let mut words = line.splitn(4, ' ').skip(2);
            let whole = words.next() == Some("F");
            said += words.next().unwrap();
            if whole {
                said.push('\n');
            }
        }
        said
    }
}

/// An error without the words of the runtime that says it.
#[track_caller]
fn reason(error: &str) -> String {
    let (_, reason) = error
        .split_once("unable to start container process: ")
        .unwrap();
    // runc's from 1.2 on.
    let stage = "error during container init: ";
    reason.strip_prefix(stage).unwrap_or(reason).to_owned()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
