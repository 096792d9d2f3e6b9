//! The sandbox service of the shim: pods without a pause container, as containerd's sandboxer "shim" has them made.

use integration::shim::{Protocol, Shim};
use integration::{Bundle, host, place, require};
use nix::sched::{CloneFlags, setns, unshare};
use protobuf::MessageField;
use serde_json::json;
use shim::protos::pod::{
    DNSConfig, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption,
    PodSandboxConfig, UserNamespace,
};
use shim::protos::sandbox::{CreateSandboxRequest, PlatformRequest};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::Path;
use ttrpc::Code;

/// What CRI writes into the configuration of a container: the namespaces of the sandbox' process, of which the shim has said that it is 0.
fn container() -> Bundle {
    let mut bundle = Bundle::new();
    bundle.config.probe(&["pause", "7"]);
    for (kind, file) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts")] {
        bundle
            .config
            .join_namespace(kind, &format!("/proc/0/ns/{file}"));
    }
    bundle.config.remove("/hostname");
    bundle.config.remove("/linux/sysctl");
    bundle
}

/// A shim for a sandbox, whose bundle has no configuration, as CRI leaves it.
#[track_caller]
fn serving(bundle: Bundle) -> Shim {
    let mut shim = Shim::prepared(bundle);
    fs::remove_file(shim.directory(shim.id()).join("config.json")).unwrap();
    shim.launch(Protocol::Bootstrap);
    shim
}

/// A new network namespace, and a path of it.
fn network() -> (File, String) {
    let own = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        File::open("/proc/thread-self/ns/net").unwrap()
    };
    let file = std::thread::scope(|scope| scope.spawn(own).join()).unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    (file, path)
}

/// As the kubelet describes a pod.
fn config() -> PodSandboxConfig {
    config_with(NamespaceOption {
        pid: NamespaceMode::CONTAINER.into(),
        ..Default::default()
    })
}

fn config_with(options: NamespaceOption) -> PodSandboxConfig {
    PodSandboxConfig {
        hostname: "inside".into(),
        dns_config: MessageField::some(DNSConfig {
            servers: vec!["10.0.0.9".into()],
            ..Default::default()
        }),
        linux: MessageField::some(LinuxPodSandboxConfig {
            security_context: MessageField::some(LinuxSandboxSecurityContext {
                namespace_options: MessageField::some(options),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Another container of the pod, which runs.
#[track_caller]
fn join(shim: &Shim) -> (String, i32) {
    let id = shim.sibling();
    let pid = shim.create(&id).unwrap();
    shim.start_process(&id, "").unwrap();
    assert_eq!(shim.line(&id), "ready");
    (id, pid)
}

/// What a thread sees in the namespaces of a process.
fn seen_from(pid: i32, sysctl: &str) -> String {
    let look = || {
        for (file, kind) in [
            ("net", CloneFlags::CLONE_NEWNET),
            ("ipc", CloneFlags::CLONE_NEWIPC),
        ] {
            setns(File::open(format!("/proc/{pid}/ns/{file}")).unwrap(), kind).unwrap();
        }
        fs::read_to_string(format!("/proc/sys/{sysctl}")).unwrap()
    };
    std::thread::scope(|scope| scope.spawn(look).join()).unwrap()
}

#[test]
fn a_pod_lives_without_a_pause_container() {
    require!(containers);
    let shim = serving(container());
    let (_network, path) = network();
    shim.create_sandbox(&path, Some(&config())).unwrap();
    assert_eq!(shim.sandbox_status().unwrap().state, "SANDBOX_NOTREADY");
    let early = shim.create(&shim.sibling()).unwrap_err();
    assert_eq!(early.0, Code::FAILED_PRECONDITION);
    assert_eq!(shim.start_sandbox(), Ok(0), "no process");
    assert_eq!(shim.sandbox_status().unwrap().state, "SANDBOX_READY");
    assert!(shim.children().is_empty(), "{:?}", shim.children());

    let [(one, first), (two, second)] = [join(&shim), join(&shim)];
    for kind in ["net", "ipc", "uts"] {
        let its = host::namespace(first, kind);
        assert_eq!(its, host::namespace(second, kind));
        assert_ne!(its, host::namespace("self", kind));
        // Where the shim made them, it has not stayed.
        assert_eq!(
            host::namespace(shim.pid, kind),
            host::namespace("self", kind)
        );
    }
    assert_ne!(
        host::namespace(first, "pid"),
        host::namespace(second, "pid")
    );
    assert_eq!(
        fs::read_link(&path).unwrap().to_str().unwrap(),
        host::namespace(first, "net")
    );

    shim.stop_sandbox(0).unwrap();
    for id in [&one, &two] {
        assert_eq!(shim.wait(id, ""), Ok(137));
    }
    assert_eq!(shim.wait_sandbox(), Ok(0));
    let status = shim.sandbox_status().unwrap();
    assert_eq!(status.state, "SANDBOX_NOTREADY");
    assert!(status.exited_at.seconds >= status.created_at.seconds);
    let late = shim.create(&shim.sibling()).unwrap_err();
    assert_eq!(late.0, Code::FAILED_PRECONDITION);
    shim.stop_sandbox(0).unwrap();
    assert_eq!(shim.delete(&one, ""), Ok((first, 137)));
    // The other goes with it.
    shim.shutdown_sandbox().unwrap();
    assert!(shim.has_ended());
    let root = shim.bundle.scratch.path().join("runtimes");
    for id in [shim.id(), &one, &two] {
        host::assert_no_trace(id, &root);
    }
    let bundle = shim.directory(shim.id()).display().to_string();
    assert!(
        host::mounts()
            .iter()
            .all(|mount| !mount.target.starts_with(&bundle))
    );
}

#[test]
fn containers_of_a_pod_share_what_a_pause_container_would_hold() {
    require!(containers);
    let mut bundle = container();
    // The one of the pod is to take its place.
    bundle.config.mount("/dev/shm", "tmpfs", "shm", &[]);
    let shim = serving(bundle);
    let (_network, path) = network();
    let mut config = config();
    let sysctls = [("net.ipv4.ip_forward", "1"), ("kernel.shmmni", "77")];
    let linux = config.linux.as_mut().unwrap();
    linux.sysctls = sysctls
        .map(|(name, value)| (name.into(), value.into()))
        .into();
    let before = fs::read_to_string("/proc/sys/kernel/shmmni").unwrap();
    shim.create_sandbox(&path, Some(&config)).unwrap();
    shim.start_sandbox().unwrap();
    let [(_, first), (_, second)] = [join(&shim), join(&shim)];
    assert_eq!(seen_from(first, "net/ipv4/ip_forward"), "1\n");
    assert_eq!(seen_from(first, "kernel/shmmni"), "77\n");
    assert_eq!(
        fs::read_to_string("/proc/sys/kernel/shmmni").unwrap(),
        before
    );

    let inside = |pid: i32, path: &str| format!("/proc/{pid}/root{path}");
    for (path, text) in [
        ("/etc/hostname", "inside\n"),
        ("/etc/resolv.conf", "nameserver 10.0.0.9\n"),
        (
            "/etc/hosts",
            &fs::read_to_string("/etc/hosts").unwrap_or_default(),
        ),
    ] {
        assert_eq!(
            fs::read_to_string(inside(second, path)).unwrap(),
            text,
            "{path}"
        );
    }
    place::write(Path::new(&inside(first, "/dev/shm/note")), "of one");
    assert_eq!(
        fs::read(inside(second, "/dev/shm/note")).unwrap(),
        b"of one"
    );
    shim.shutdown_sandbox().unwrap();
    assert!(shim.has_ended());
}

#[test]
fn a_stop_with_time_has_containers_end_in_their_own_way() {
    require!(containers);
    let shim = serving(container());
    let (_network, path) = network();
    shim.create_sandbox(&path, None).unwrap();
    shim.start_sandbox().unwrap();
    let (id, _) = join(&shim);
    shim.stop_sandbox(100).unwrap();
    assert_eq!(shim.wait(&id, ""), Ok(7));
}

#[test]
fn a_pod_in_the_hosts_network_owns_nothing_of_it() {
    require!(containers);
    let shim = serving(container());
    let options = NamespaceOption {
        network: NamespaceMode::NODE.into(),
        ipc: NamespaceMode::NODE.into(),
        pid: NamespaceMode::CONTAINER.into(),
        ..Default::default()
    };
    shim.create_sandbox("", Some(&config_with(options)))
        .unwrap();
    shim.start_sandbox().unwrap();
    let (_, pid) = join(&shim);
    for kind in ["net", "ipc", "uts"] {
        assert_eq!(host::namespace(pid, kind), host::namespace("self", kind));
    }
    assert_eq!(
        host::mounts_of(pid)
            .iter()
            .filter(|mount| mount.target == "/dev/shm")
            .count(),
        1
    );
    shim.shutdown_sandbox().unwrap();
    assert!(shim.has_ended());
}

#[test]
fn who_is_not_kubernetes_needs_no_description_of_a_pod() {
    require!(containers);
    let mut bundle = container();
    // Such a client asks for namespaces without saying whose.
    for kind in ["network", "ipc", "uts"] {
        bundle.config.namespace(kind);
    }
    let shim = serving(bundle);
    let (_network, path) = network();
    shim.create_sandbox(&path, None).unwrap();
    shim.start_sandbox().unwrap();
    let [(_, first), (_, second)] = [join(&shim), join(&shim)];
    for kind in ["net", "ipc", "uts"] {
        assert_eq!(host::namespace(first, kind), host::namespace(second, kind));
    }
    assert_eq!(
        fs::read_link(&path).unwrap().to_str().unwrap(),
        host::namespace(first, "net")
    );
    shim.shutdown_sandbox().unwrap();
    assert!(shim.has_ended());
}

#[test]
fn what_a_pod_without_a_process_cannot_have_is_refused() {
    require!(containers);
    let mut bundle = container();
    bundle.config.join_namespace("pid", "/proc/0/ns/pid");
    let shim = serving(bundle);
    let (_network, path) = network();
    let refused = |config: &PodSandboxConfig| shim.create_sandbox(&path, Some(config)).unwrap_err();
    let users = NamespaceOption {
        userns_options: MessageField::some(UserNamespace::default()),
        ..Default::default()
    };
    assert_eq!(refused(&config_with(users)).0, Code::UNIMPLEMENTED);
    let mut hosts = config();
    hosts.linux.as_mut().unwrap().sysctls = [("vm.swappiness".into(), "1".into())].into();
    assert_eq!(refused(&hosts).0, Code::INVALID_ARGUMENT);
    assert_eq!(
        shim.create_sandbox("/proc/self/ns/ipc", None)
            .unwrap_err()
            .0,
        Code::UNKNOWN
    );
    for kind in ["net", "ipc", "uts"] {
        assert_eq!(
            host::namespace(shim.pid, kind),
            host::namespace("self", kind)
        );
    }
    assert_eq!(shim.start_sandbox().unwrap_err().0, Code::NOT_FOUND);
    assert_eq!(shim.sandbox_status().unwrap_err().0, Code::NOT_FOUND);
    assert_eq!(shim.wait_sandbox().unwrap_err().0, Code::NOT_FOUND);
    assert_eq!(shim.stop_sandbox(0).unwrap_err().0, Code::NOT_FOUND);

    shim.create_sandbox(&path, Some(&config())).unwrap();
    assert_eq!(refused(&config()).0, Code::ALREADY_EXISTS);
    shim.start_sandbox().unwrap();
    assert_eq!(
        shim.start_sandbox().unwrap_err().0,
        Code::FAILED_PRECONDITION
    );
    let id = shim.sibling();
    let (code, text) = shim.create(&id).unwrap_err();
    assert_eq!(code, Code::FAILED_PRECONDITION);
    assert!(text.contains("pid namespace"), "{text}");
    shim.shutdown_sandbox().unwrap();
    assert!(shim.has_ended());
    shim.no_more_events();
}

#[test]
fn the_service_is_complete() {
    require!(containers);
    let shim = serving(container());
    let request = CreateSandboxRequest {
        sandbox_id: shim.id().into(),
        bundle_path: shim.directory(shim.id()).display().to_string(),
        ..Default::default()
    };
    shim.ask(async |client, ctx| client.create_sandbox(ctx, &request).await)
        .unwrap();
    let platform = PlatformRequest {
        sandbox_id: shim.id().into(),
        ..Default::default()
    };
    let answer = shim.ask(async |client, ctx| client.platform(ctx, &platform).await);
    assert_eq!(answer.unwrap().platform.os, "linux");
    let ping = shim::protos::sandbox::PingRequest {
        sandbox_id: shim.id().into(),
        ..Default::default()
    };
    shim.ask(async |client, ctx| client.ping_sandbox(ctx, &ping).await)
        .unwrap();
    let metrics = shim::protos::sandbox::SandboxMetricsRequest {
        sandbox_id: shim.id().into(),
        ..Default::default()
    };
    let answer = shim.ask(async |client, ctx| client.sandbox_metrics(ctx, &metrics).await);
    assert_eq!(answer.unwrap_err().0, Code::NOT_FOUND, "no group was named");
}

#[test]
fn the_statistics_of_a_pod_are_those_of_its_group() {
    require!(containers);
    let shim = serving(container());
    let group = place::unique("pod");
    fs::create_dir(host::hierarchy().join(&group)).unwrap();
    let mut config = config();
    config.linux.as_mut().unwrap().cgroup_parent = format!("/{group}");
    let (_network, path) = network();
    shim.create_sandbox(&path, Some(&config)).unwrap();
    let request = shim::protos::sandbox::SandboxMetricsRequest {
        sandbox_id: shim.id().into(),
        ..Default::default()
    };
    let answer = shim.ask(async |client, ctx| client.sandbox_metrics(ctx, &request).await);
    let metrics = answer.unwrap().metrics.unwrap();
    assert_eq!(
        (&*metrics.id, metrics.timestamp.seconds > 0),
        (shim.id(), true)
    );
    assert_eq!(metrics.data.type_url, "io.containerd.cgroups.v2.Metrics");
    fs::remove_dir(host::hierarchy().join(&group)).unwrap();
    shim.shutdown_sandbox().unwrap();
    assert!(shim.has_ended());
}

#[test]
fn a_pod_outlives_its_containers_and_their_clients() {
    require!(containers);
    let mut shim = Shim::prepared(container());
    let waits = ("CAISSON_SHIM_ABANDONED".to_owned(), "1".to_owned());
    shim.environment.push(waits);
    shim.launch(Protocol::Bootstrap);
    let (_network, path) = network();
    shim.create_sandbox(&path, Some(&config())).unwrap();
    shim.start_sandbox().unwrap();
    let (id, _) = join(&shim);
    shim.kill(&id, "", 15).unwrap();
    assert_eq!(shim.wait(&id, ""), Ok(7));
    shim.delete(&id, "").unwrap();
    // What containerd says after each container, to a shim of version 2.
    shim.shutdown();
    shim.kill_daemon();
    std::thread::park_timeout(std::time::Duration::from_millis(2500));
    assert!(shim.restart_daemon(), "the shim has ended");
    assert_eq!(shim.sandbox_status().unwrap().state, "SANDBOX_READY");
    let (_, pid) = join(&shim);
    assert!(host::alive(pid));
    shim.shutdown_sandbox().unwrap();
    assert!(shim.has_ended());
}

#[test]
fn of_a_pod_whose_shim_was_killed_delete_leaves_nothing() {
    require!(containers);
    let shim = serving(container());
    let (_network, path) = network();
    shim.create_sandbox(&path, Some(&config())).unwrap();
    shim.start_sandbox().unwrap();
    let (id, pid) = join(&shim);
    for id in [shim.id(), &id] {
        let noted = json!({ "version": 3, "address": format!("unix://{}", shim.socket.display()), "protocol": "ttrpc" });
        place::write(
            &shim.directory(id).join("bootstrap.json"),
            noted.to_string(),
        );
    }
    shim.crash();
    assert!(host::alive(pid));
    shim.clean_up();
    assert!(host::await_end(pid));
    host::assert_no_trace(&id, &shim.bundle.scratch.path().join("runtimes"));
    let bundle = shim.directory(shim.id()).display().to_string();
    assert!(
        host::mounts()
            .iter()
            .all(|mount| !mount.target.starts_with(&bundle))
    );
    assert!(!shim.socket.exists());
}

#[test]
fn a_pod_whose_shim_is_thought_dead_while_it_lives_is_ended_by_delete() {
    require!(containers);
    let shim = serving(container());
    let (_network, path) = network();
    shim.create_sandbox(&path, Some(&config())).unwrap();
    shim.start_sandbox().unwrap();
    let (id, pid) = join(&shim);
    shim.clean_up();
    assert!(shim.has_ended());
    assert!(!host::alive(pid));
    host::assert_no_trace(&id, &shim.bundle.scratch.path().join("runtimes"));
}
