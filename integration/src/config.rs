//! `config.json` as a value that tests edit.
//!
//! It is JSON, not a struct, so that a test can also write what the spec forbids. Paths are JSON pointers
//! (`/process/user/uid`); what is missing on the way is made.

use serde_json::{Map, Value, json};

/// A runtime configuration.
#[derive(Clone, Debug)]
pub struct Config(pub Value);

impl Default for Config {
    /// What `runc spec` gives on a cgroup v2 host: every namespace but user and time, its mounts, masked and read-only
    /// paths, three capabilities, no new privileges, a read-only root. No terminal, and the probe as the process.
    fn default() -> Self {
        Config(json!({
            "ociVersion": "1.0.2",
            "process": process(),
            "root": { "path": "rootfs", "readonly": true },
            "hostname": "caisson-it",
            "mounts": mounts(),
            "linux": {
                "resources": { "devices": [ { "allow": false, "access": "rwm" } ] },
                "namespaces": [
                    { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
                    { "type": "cgroup" }
                ],
                "maskedPaths": [
                    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                    "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"
                ],
                "readonlyPaths": [ "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger" ]
            }
        }))
    }
}

impl Config {
    /// Sets the value at a pointer; objects on the way are made. `-` at the end appends to a list.
    #[track_caller]
    pub fn set(&mut self, pointer: &str, value: impl Into<Value>) -> &mut Self {
        let (parent, last) = pointer.rsplit_once('/').unwrap_or(("", pointer));
        match (self.at(parent), last) {
            (Value::Array(list), "-") => list.push(value.into()),
            (Value::Array(list), index) => match index
                .parse()
                .ok()
                .and_then(|index: usize| list.get_mut(index))
            {
                Some(slot) => *slot = value.into(),
                None => panic!("{pointer}: no such element"),
            },
            (place, key) => drop(object(place).insert(key.to_owned(), value.into())),
        }
        self
    }

    /// Removes what is at a pointer, if it is there.
    pub fn remove(&mut self, pointer: &str) -> &mut Self {
        let (parent, last) = pointer.rsplit_once('/').unwrap_or(("", pointer));
        if let Some(Value::Object(map)) = self.0.pointer_mut(parent) {
            map.remove(last);
        }
        self
    }

    /// Appends to the list at a pointer, which is made if it is missing.
    #[track_caller]
    pub fn push(&mut self, pointer: &str, value: impl Into<Value>) -> &mut Self {
        let place = self.at(pointer);
        if place.as_object().is_some_and(Map::is_empty) {
            *place = json!([]);
        }
        match place {
            Value::Array(list) => list.push(value.into()),
            other => panic!("{pointer} is not a list but {other}"),
        }
        self
    }

    /// The process's arguments.
    pub fn args(&mut self, args: &[&str]) -> &mut Self {
        self.set("/process/args", args)
    }

    /// The process's arguments, after the probe's own name.
    pub fn probe(&mut self, args: &[&str]) -> &mut Self {
        let args: Vec<&str> = std::iter::once("/bin/probe")
            .chain(args.iter().copied())
            .collect();
        self.args(&args)
    }

    /// One more environment variable, `NAME=value`.
    pub fn env(&mut self, variable: &str) -> &mut Self {
        self.push("/process/env", variable)
    }

    /// One more mount, after those that are there.
    pub fn mount(
        &mut self,
        target: &str,
        fstype: &str,
        source: &str,
        options: &[&str],
    ) -> &mut Self {
        self.push(
            "/mounts",
            json!({ "destination": target, "type": fstype, "source": source, "options": options }),
        )
    }

    /// One more bind mount.
    pub fn bind(
        &mut self,
        source: impl AsRef<std::path::Path>,
        target: &str,
        options: &[&str],
    ) -> &mut Self {
        let options: Vec<&str> = std::iter::once("bind")
            .chain(options.iter().copied())
            .collect();
        self.mount(
            target,
            "bind",
            &source.as_ref().display().to_string(),
            &options,
        )
    }

    /// Drops the mount on a target.
    pub fn unmount(&mut self, target: &str) -> &mut Self {
        self.retain("/mounts", |mount| mount["destination"] != target)
    }

    /// A new namespace of this type, in place of any that was asked for.
    pub fn namespace(&mut self, kind: &str) -> &mut Self {
        self.no_namespace(kind)
            .push("/linux/namespaces", json!({ "type": kind }))
    }

    /// The namespace at this path, in place of any that was asked for.
    pub fn join_namespace(&mut self, kind: &str, path: &str) -> &mut Self {
        self.no_namespace(kind)
            .push("/linux/namespaces", json!({ "type": kind, "path": path }))
    }

    /// The host's namespace of this type.
    pub fn no_namespace(&mut self, kind: &str) -> &mut Self {
        self.retain("/linux/namespaces", |namespace| namespace["type"] != kind)
    }

    /// A user namespace that maps `count` ids from 0 on to those from `host` on.
    pub fn user_namespace(&mut self, host: u32, count: u32) -> &mut Self {
        let map = json!([{ "containerID": 0, "hostID": host, "size": count }]);
        self.namespace("user")
            .set("/linux/uidMappings", map.clone())
            .set("/linux/gidMappings", map)
    }

    /// The same capabilities in all the named sets, and none in the others.
    pub fn capabilities(&mut self, sets: &[&str], names: &[&str]) -> &mut Self {
        let sets: Map<String, Value> = sets
            .iter()
            .map(|set| ((*set).to_owned(), json!(names)))
            .collect();
        self.set("/process/capabilities", sets)
    }

    /// Every capability that the test process has, in the sets that make root root.
    pub fn privileged(&mut self) -> &mut Self {
        let all = caps::read(None, caps::CapSet::Permitted).unwrap_or_default();
        let names: Vec<String> = all.iter().map(ToString::to_string).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.capabilities(&["bounding", "effective", "permitted"], &names)
            .set("/process/noNewPrivileges", false)
    }

    /// A root that can be written to.
    pub fn writable(&mut self) -> &mut Self {
        self.set("/root/readonly", false)
    }

    /// Keeps the elements of the list at a pointer that fulfil a condition.
    pub fn retain(&mut self, pointer: &str, keep: impl Fn(&Value) -> bool) -> &mut Self {
        if let Some(Value::Array(list)) = self.0.pointer_mut(pointer) {
            list.retain(keep);
        }
        self
    }

    fn at(&mut self, pointer: &str) -> &mut Value {
        pointer
            .split('/')
            .skip(1)
            .fold(&mut self.0, |place, key| match place {
                Value::Array(list) => match key
                    .parse()
                    .ok()
                    .and_then(|index: usize| list.get_mut(index))
                {
                    Some(element) => element,
                    None => panic!("{pointer}: no element {key}"),
                },
                place => object(place).entry(key).or_insert_with(|| json!({})),
            })
    }
}

fn object(place: &mut Value) -> &mut Map<String, Value> {
    if !place.is_object() {
        *place = json!({});
    }
    match place {
        Value::Object(map) => map,
        _ => unreachable!("made one above"),
    }
}

fn process() -> Value {
    let three = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    json!({
        "terminal": false,
        "user": { "uid": 0, "gid": 0 },
        "args": ["/bin/probe", "report"],
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
        "cwd": "/",
        "capabilities": { "bounding": three, "effective": three, "permitted": three },
        "rlimits": [ { "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 } ],
        "noNewPrivileges": true
    })
}

fn mounts() -> Value {
    json!([
        { "destination": "/proc", "type": "proc", "source": "proc" },
        { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
        {
            "destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
        },
        {
            "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]
        },
        { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"] },
        { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] },
        {
            "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]
        }
    ])
}

#[cfg(test)]
mod tests {
    use super::Config;
    use serde_json::json;

    #[test]
    fn edits_make_what_is_missing_and_leave_the_rest() {
        let mut config = Config(json!({ "a": { "b": 1 }, "list": [1, 2] }));
        config
            .set("/a/c/d", "x")
            .set("/list/1", 3)
            .set("/list/-", 4)
            .push("/new/list", 5)
            .remove("/a/b");
        assert_eq!(
            config.0,
            json!({ "a": { "c": { "d": "x" } }, "list": [1, 3, 4], "new": { "list": [5] } })
        );
    }
}
