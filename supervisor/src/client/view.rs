//! What the daemon says of containers → JSON with the names that Docker has for its parts, for lists and for `inspect`. Pure.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::table::{decimal, duration, short};
use crate::container::{log_size, text_of};
use crate::protos::containers::{
    Config, Container, ContainerSize, Device, Effective, LogOptions, Mount, State, Ulimit,
    mount::Kind, restart_policy::Name, state::Status,
};
use crate::spec::is_propagation;

/// What `info` says of all, and `inspect` of each.
pub(super) const RUNTIME: &str = "caisson";
pub(super) const DRIVER: &str = "overlayfs";
pub(super) const LOG: &str = "json-file";

pub(super) fn status_word(state: &State) -> &'static str {
    match state.status.enum_value_or_default() {
        Status::CREATED => "created",
        Status::RUNNING | Status::STARTING => "running",
        Status::PAUSED => "paused",
        Status::EXITED => "exited",
        Status::RESTARTING => "restarting",
        Status::REMOVING => "removing",
    }
}

/// "Up 5 minutes", "Exited (0) 2 hours ago".
pub(super) fn status(state: &State, now: i64) -> String {
    let since = |time: i64| duration(now - time);
    match state.status.enum_value_or_default() {
        Status::CREATED => "Created".into(),
        Status::RUNNING | Status::STARTING => format!("Up {}", since(state.started_at)),
        Status::PAUSED => format!("Up {} (Paused)", since(state.started_at)),
        Status::EXITED => format!(
            "Exited ({}) {} ago",
            state.exit_code,
            since(state.finished_at)
        ),
        Status::RESTARTING => format!(
            "Restarting ({}) {} ago",
            state.exit_code,
            since(state.finished_at)
        ),
        Status::REMOVING => "Removal In Progress".into(),
    }
}

/// "2MB (virtual 80MB)": of its own, and with its image.
pub(super) fn size(size: &ContainerSize) -> String {
    let whole = decimal(size.written + size.image);
    format!("{} (virtual {whole})", decimal(size.written))
}

/// A line of `ps`.
pub(super) fn row(container: &Container, now: i64, whole: bool) -> Value {
    let id = if whole {
        &container.id
    } else {
        &container.id[..container.id.len().min(12)]
    };
    let command = format!("\"{}\"", container.args.join(" "));
    let mounts = &container.config.mounts;
    let volumes = mounts.iter().filter(|it| it.kind == Kind::VOLUME.into());
    let volumes = volumes.count().to_string();
    let mounts: Vec<&str> = mounts
        .iter()
        .map(|mount| {
            if mount.source.is_empty() {
                &*mount.target
            } else {
                &*mount.source
            }
        })
        .collect();
    json!({
        "ID": id,
        "Image": container.config.image,
        "Command": if whole { command } else { short(&command, 20) },
        "CreatedAt": text_of(container.created_at),
        "RunningFor": format!("{} ago", duration(now - container.created_at)),
        "State": status_word(&container.state),
        "Status": status(&container.state, now),
        "Names": container.name,
        "Labels": labels(&container.labels),
        "Mounts": mounts.join(","),
        "LocalVolumes": volumes,
        "Networks": network(&container.config),
        "Ports": "",
        // Nobody checks it.
        "HealthStatus": "",
    })
}

/// In a list's line.
pub(super) fn labels(labels: &HashMap<String, String>) -> String {
    let labels = labels.iter().map(|(name, value)| format!("{name}={value}"));
    let mut labels: Vec<String> = labels.collect();
    labels.sort();
    labels.join(",")
}

/// For a template only, which asks for one of them: `.Label "name"`.
pub(super) fn label(row: &mut Value, labels: &HashMap<String, String>, format: Option<&str>) {
    if format.is_some_and(|format| format.contains(".Label ")) {
        row["Label"] = json!(labels);
    }
}

pub(super) fn network(config: &Config) -> &str {
    if config.network.is_empty() {
        "none"
    } else {
        &config.network
    }
}

/// What the daemon says of other things that a container has.
#[derive(Debug, Default)]
pub(super) struct Context {
    pub(super) effective: Effective,
    /// Where volumes are, by name.
    pub(super) volumes: HashMap<String, String>,
}

/// As `docker inspect` has it, where there is something to say.
pub(super) fn inspect(container: &Container, context: &Context) -> Value {
    let (config, state) = (
        container.config.get_or_default(),
        container.state.get_or_default(),
    );
    json!({
        "Id": container.id,
        "Created": text_of(container.created_at),
        "Path": container.args.first(),
        "Args": container.args.get(1..).unwrap_or_default(),
        "State": {
            "Status": status_word(state),
            "Running": matches!(state.status.enum_value_or_default(), Status::RUNNING | Status::PAUSED | Status::STARTING | Status::RESTARTING),
            "Paused": state.status == Status::PAUSED.into(),
            "Restarting": state.status == Status::RESTARTING.into(),
            "OOMKilled": state.oom_killed,
            "Dead": false,
            "Pid": state.pid,
            "ExitCode": state.exit_code,
            "Error": state.error,
            "StartedAt": text_of(state.started_at),
            "FinishedAt": text_of(state.finished_at),
            // Nobody checks it; scripts ask whether somebody does.
            "Health": null,
        },
        "Image": container.image_id,
        "LogPath": container.log_path,
        "Name": format!("/{}", container.name),
        "RestartCount": state.restarts,
        "Driver": DRIVER,
        "Platform": "linux",
        "Mounts": config.mounts.iter().map(|one| mount(one, context)).collect::<Vec<_>>(),
        "GraphDriver": { "Name": DRIVER, "Data": { "UpperDir": container.upper } },
        "HostConfig": host_config(container),
        "Config": effective(container, &context.effective),
        // None of them is ours to give.
        "NetworkSettings": {
            "IPAddress": "", "IPPrefixLen": 0, "Gateway": "", "MacAddress": "", "Ports": {},
            "Networks": { network(config): { "IPAddress": "", "Gateway": "", "MacAddress": "" } },
        },
    })
}

fn effective(container: &Container, effective: &Effective) -> Value {
    let config = container.config.get_or_default();
    // As Docker has what nothing was said about.
    let words = |words: &[String]| match words {
        [] => Value::Null,
        words => json!(words),
    };
    let set = |names: &[String]| {
        let empty = names.iter().map(|name| (name.clone(), json!({})));
        let set: Map<String, Value> = empty.collect();
        if set.is_empty() {
            Value::Null
        } else {
            json!(set)
        }
    };
    json!({
        "Hostname": effective.hostname,
        "Domainname": config.domainname,
        "User": effective.user,
        "Tty": config.terminal,
        "OpenStdin": config.interactive,
        "StdinOnce": config.interactive && !config.keep_stdin,
        "Env": effective.env,
        "Cmd": words(&effective.command),
        "Entrypoint": words(&effective.entrypoint),
        "Image": config.image,
        "WorkingDir": effective.working_dir,
        "ExposedPorts": set(&effective.exposed_ports),
        "Volumes": set(&effective.volumes),
        "Labels": container.labels,
        "OnBuild": null,
        "StopSignal": effective.stop_signal,
        // As it was said: for ever.
        "StopTimeout": config.stop_timeout.map(|seconds| if seconds == u32::MAX { -1 } else { i64::from(seconds) }),
    })
}

fn mount(mount: &Mount, context: &Context) -> Value {
    let kind = match mount.kind.enum_value_or_default() {
        Kind::BIND => "bind",
        Kind::VOLUME => "volume",
        Kind::TMPFS => "tmpfs",
    };
    let mut options = mount.options.iter();
    let propagation = match options.find(|option| is_propagation(option)) {
        Some(said) => said,
        None if kind == "bind" => "rprivate",
        None => "",
    };
    let mut shown = json!({
        "Type": kind, "Source": mount.source, "Destination": mount.target, "Mode": mount.options.join(","), "RW": !mount.read_only,
        "Propagation": propagation,
    });
    if kind == "volume" {
        shown["Name"] = json!(mount.source);
        shown["Driver"] = json!("local");
        shown["Source"] = json!(context.volumes.get(&mount.source));
    }
    shown
}

/// As Podman has them.
fn id_maps(container: &Container) -> Value {
    let map = |first: u32| json!([format!("0:{first}:{}", container.ids.size)]);
    match container.ids.as_ref() {
        Some(ids) => json!({ "UidMap": map(ids.first_uid), "GidMap": map(ids.first_gid) }),
        None => Value::Null,
    }
}

fn binds(config: &Config) -> Vec<String> {
    let mounts = config.mounts.iter();
    let binds = mounts.filter(|mount| mount.kind != Kind::TMPFS.into());
    let word = |mount: &Mount| {
        let mode = if mount.read_only { ":ro" } else { "" };
        format!("{}:{}{mode}", mount.source, mount.target)
    };
    binds.map(word).collect()
}

fn tmpfs(config: &Config) -> Map<String, Value> {
    let mounts = config.mounts.iter();
    let tmpfs = mounts.filter(|mount| mount.kind == Kind::TMPFS.into());
    tmpfs
        .map(|mount| (mount.target.clone(), json!(mount.options.join(","))))
        .collect()
}

fn devices(config: &Config) -> Vec<Value> {
    let device = |device: &Device| {
        json!({
            "PathOnHost": device.source,
            "PathInContainer": if device.target.is_empty() { &device.source } else { &device.target },
            "CgroupPermissions": if device.access.is_empty() { "rwm" } else { &*device.access },
        })
    };
    config.devices.iter().map(device).collect()
}

fn ulimits(config: &Config) -> Vec<Value> {
    let limit =
        |limit: &Ulimit| json!({ "Name": limit.name, "Soft": limit.soft, "Hard": limit.hard });
    config.ulimits.iter().map(limit).collect()
}

fn log(options: &LogOptions) -> Value {
    if options.none {
        return json!({ "Type": "none", "Config": {} });
    }
    let (size, files) = log_size(options);
    json!({ "Type": LOG, "Config": { "max-size": size.to_string(), "max-file": files.to_string() } })
}

fn host_config(container: &Container) -> Value {
    let config = container.config.get_or_default();
    let limits = config.resources.get_or_default();
    let policy = config.restart.get_or_default();
    let name = match policy.name.enum_value_or_default() {
        Name::NO => "no",
        Name::ON_FAILURE => "on-failure",
        Name::ALWAYS => "always",
        Name::UNLESS_STOPPED => "unless-stopped",
    };
    let mut shown = json!({
        "Binds": binds(config),
        "Tmpfs": tmpfs(config),
        "NetworkMode": network(config),
        "PidMode": config.pid_mode,
        "IpcMode": if config.ipc_mode.is_empty() { "private" } else { &*config.ipc_mode },
        "UsernsMode": config.userns,
        "UTSMode": config.uts_mode,
        "CgroupnsMode": if config.cgroupns_mode.is_empty() { "private" } else { &*config.cgroupns_mode },
        "OomScoreAdj": config.oom_score_adj,
        "DeviceCgroupRules": config.device_cgroup_rules,
        "IDMappings": id_maps(container),
        "RestartPolicy": { "Name": name, "MaximumRetryCount": policy.maximum },
        "AutoRemove": config.auto_remove,
        "CapAdd": config.cap_add,
        "CapDrop": config.cap_drop,
        "SecurityOpt": config.security_opt,
        "Privileged": config.privileged,
        "ReadonlyRootfs": config.read_only,
        "Init": config.init,
        "Runtime": if config.runtime.is_empty() { RUNTIME } else { &*config.runtime },
        "LogConfig": log(&config.log),
        "Memory": limits.memory,
        "MemorySwap": limits.memory_swap,
        "MemoryReservation": limits.memory_reservation,
        "NanoCpus": limits.nano_cpus,
        "CpuShares": limits.cpu_shares,
        "CpuPeriod": limits.cpu_period,
        "CpuQuota": limits.cpu_quota,
        "CpusetCpus": limits.cpuset_cpus,
        "CpusetMems": limits.cpuset_mems,
        "PidsLimit": limits.pids_limit,
        "BlkioWeight": limits.blkio_weight,
        "ShmSize": if config.shm_size == 0 { 64 << 20 } else { config.shm_size },
        "Sysctls": config.sysctls,
        "ExtraHosts": config.extra_hosts,
        "Dns": config.dns,
        "DnsSearch": config.dns_search,
        "DnsOptions": config.dns_options,
    });
    if let (Some(shown), Value::Object(more)) = (shown.as_object_mut(), lists(config)) {
        shown.extend(more);
    }
    shown
}

/// And what nothing here is ever said about.
fn lists(config: &Config) -> Value {
    json!({
        "VolumesFrom": null,
        "Links": null,
        "PortBindings": {},
        "CgroupParent": config.cgroup_parent,
        "GroupAdd": config.groups,
        "Devices": devices(config),
        "Ulimits": ulimits(config),
        "Annotations": config.annotations,
    })
}
