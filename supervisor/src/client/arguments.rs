//! The options of `run` and `create` → [`Config`]. Words are understood as Docker does.
#![expect(
    rustdoc::broken_intra_doc_links,
    reason = "what is said of options is their help, in which brackets are just that"
)]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use protobuf::{EnumOrUnknown, MessageField};

use super::filter::truth;
use crate::fault::{Fault, Result, Tried as _};
use crate::protos::containers::{
    Config, Device, LogOptions, Mount, Resources, RestartPolicy, Throttle, Ulimit, mount::Kind,
    restart_policy::Name,
};

#[derive(Debug, Args)]
pub(super) struct Options {
    /// The container's name
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(super) name: String,
    /// Write the container's id into a new file
    #[arg(long, value_name = "FILE")]
    pub(super) cidfile: Option<PathBuf>,
    /// missing or never: images come out of archives, and there is nowhere to pull them from
    #[arg(long, default_value = "missing", value_name = "WHEN")]
    pub(super) pull: String,
    /// The volumes and bind mounts of another container, too
    #[arg(long, value_name = "CONTAINER[:ro]")]
    pub(super) volumes_from: Vec<String>,
    /// Only to these streams: stdin, stdout, stderr
    #[arg(long, short, value_name = "STREAM", ignore_case = true, value_parser = ["stdin", "stdout", "stderr"])]
    pub(super) attach: Vec<String>,
    /// Keep standard input open
    #[arg(long, short)]
    pub(super) interactive: bool,
    /// With a terminal
    #[arg(long, short)]
    pub(super) tty: bool,
    /// Remove the container when it has ended
    #[arg(long)]
    pub(super) rm: bool,
    /// A variable; a name alone takes the value from here
    #[arg(long, short, value_name = "NAME=VALUE")]
    pub(super) env: Vec<String>,
    /// Variables, one a line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Instead of the image's; empty for none
    #[arg(long)]
    entrypoint: Option<String>,
    /// USER[:GROUP], by name or number
    #[arg(long, short, default_value = "", hide_default_value = true)]
    user: String,
    /// A further group of the process
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,
    /// Instead of the image's
    #[arg(
        long,
        short,
        default_value = "",
        hide_default_value = true,
        value_name = "DIRECTORY"
    )]
    workdir: String,
    /// The host name in it, if not its id
    #[arg(
        long,
        short = 'h',
        default_value = "",
        hide_default_value = true,
        value_name = "NAME"
    )]
    hostname: String,
    /// The NIS domain name in it
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "NAME"
    )]
    domainname: String,
    /// What it is found by later
    #[arg(long, short, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// Labels, one a line
    #[arg(long, value_name = "FILE")]
    label_file: Vec<PathBuf>,
    /// An annotation for the runtime
    #[arg(long, value_name = "NAME=VALUE")]
    annotation: Vec<String>,
    /// [VOLUME|PATH:]TARGET[:OPTIONS]
    #[arg(long, short)]
    volume: Vec<String>,
    /// type=bind|volume|tmpfs,source=...,target=...[,readonly][,bind-recursive=disabled|writable][,volume-subpath=DIR]
    #[arg(long)]
    mount: Vec<String>,
    /// TARGET[:OPTIONS]
    #[arg(long)]
    tmpfs: Vec<String>,
    /// none, host or container:NAME
    #[arg(long, alias = "net", default_value = "none")]
    network: String,
    /// host or container:NAME
    #[arg(long, default_value = "", hide_default_value = true)]
    pid: String,
    /// private, shareable, host or container:NAME
    #[arg(long, default_value = "", hide_default_value = true)]
    ipc: String,
    /// host; auto or auto:size=N for ids of its own on the host, which are 0 and so on inside; container:NAME
    #[arg(long, default_value = "", hide_default_value = true)]
    userns: String,
    /// host
    #[arg(long, default_value = "", hide_default_value = true)]
    uts: String,
    /// private or host
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "MODE"
    )]
    cgroupns: String,
    /// The control group that its own is in, from the root of all: /caisson if not said, a systemd slice as its path
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "PATH"
    )]
    cgroup_parent: String,
    /// A line of its /etc/hosts; in the host's network, the address host-gateway is that network's own
    #[arg(long, value_name = "NAME:ADDRESS")]
    add_host: Vec<String>,
    /// A server of its /etc/resolv.conf
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String>,
    /// A domain in which its names are looked for; . for none
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// An option of its /etc/resolv.conf: ndots:2
    #[arg(long, alias = "dns-opt", value_name = "OPTION")]
    dns_option: Vec<String>,
    #[command(flatten)]
    limits: Limits,
    /// Room in /dev/shm
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    shm_size: Option<String>,
    /// A capability beyond the default ones, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// A capability of the default ones, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    /// no-new-privileges, seccomp=unconfined|FILE, apparmor=unconfined|PROFILE, systempaths=unconfined
    #[arg(long, value_name = "OPTION")]
    security_opt: Vec<String>,
    /// All rights and devices of the host
    #[arg(long)]
    privileged: bool,
    /// The root file system
    #[arg(long)]
    read_only: bool,
    /// SOURCE[:TARGET[:rwm]]
    #[arg(long)]
    device: Vec<String>,
    /// Devices that it may use if it makes their nodes: 'c 10:* rwm'
    #[arg(long, value_name = "RULE")]
    device_cgroup_rule: Vec<String>,
    /// NAME=SOFT[:HARD]
    #[arg(long)]
    ulimit: Vec<String>,
    /// A parameter of the kernel, of its namespaces
    #[arg(long, value_name = "NAME=VALUE")]
    sysctl: Vec<String>,
    /// How soon the kernel takes its processes for want of memory: -1000 to 1000
    #[arg(
        long,
        default_value_t = 0,
        hide_default_value = true,
        value_name = "NUMBER",
        allow_hyphen_values = true
    )]
    oom_score_adj: i32,
    /// An init as process 1, which passes signals on and reaps
    #[arg(long)]
    init: bool,
    /// no, on-failure[:N], always or unless-stopped
    #[arg(long, default_value = "no", value_name = "POLICY")]
    restart: String,
    /// What stop sends, instead of the image's
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "SIGNAL"
    )]
    stop_signal: String,
    /// How long stop waits before SIGKILL
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = seconds)]
    stop_timeout: Option<u32>,
    /// json-file or none
    #[arg(long, default_value = "json-file", value_name = "DRIVER")]
    log_driver: String,
    /// max-size=BYTES (10m), max-file=COUNT (5): what is older goes
    #[arg(long, value_name = "NAME=VALUE")]
    log_opt: Vec<String>,
    /// An OCI runtime, or a shim: io.containerd.NAME.VERSION
    #[arg(long, default_value = "", hide_default_value = true)]
    runtime: String,
    /// There are none in any case
    #[arg(long, hide = true)]
    no_healthcheck: bool,
    /// Nothing is said in any case
    #[arg(long, short, hide = true)]
    quiet: bool,
}

/// What `update` changes too.
#[derive(Debug, Args)]
pub(super) struct Limits {
    /// So many processors' time: 1.5
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<String>,
    /// Which processors: 0-2,4
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "LIST"
    )]
    cpuset_cpus: String,
    /// Which nodes of memory: 0,1
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "LIST"
    )]
    cpuset_mems: String,
    /// Share of busy processors, beside 1024 of others
    #[arg(
        long,
        short = 'c',
        default_value_t = 0,
        hide_default_value = true,
        value_name = "NUMBER"
    )]
    cpu_shares: u64,
    /// What the quota is for
    #[arg(
        long,
        default_value_t = 0,
        hide_default_value = true,
        value_name = "USEC"
    )]
    cpu_period: i64,
    /// Processors' time in each period
    #[arg(
        long,
        default_value_t = 0,
        hide_default_value = true,
        value_name = "USEC",
        allow_hyphen_values = true
    )]
    cpu_quota: i64,
    /// Most memory: 512m
    #[arg(long, short, value_name = "BYTES")]
    memory: Option<String>,
    /// Memory and swap together; -1 for any amount of swap
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Memory that is taken from it last
    #[arg(long, value_name = "BYTES")]
    memory_reservation: Option<String>,
    /// Most processes and threads; -1 for any number
    #[arg(
        long,
        default_value_t = 0,
        hide_default_value = true,
        value_name = "NUMBER",
        allow_hyphen_values = true
    )]
    pids_limit: i64,
    /// Share of a busy disk
    #[arg(
        long,
        default_value_t = 0,
        hide_default_value = true,
        value_name = "10-1000"
    )]
    blkio_weight: u32,
    /// Most bytes read in a second
    #[arg(long, value_name = "DEVICE:BYTES")]
    device_read_bps: Vec<String>,
    /// Most bytes written in a second
    #[arg(long, value_name = "DEVICE:BYTES")]
    device_write_bps: Vec<String>,
    /// Most reads in a second
    #[arg(long, value_name = "DEVICE:NUMBER")]
    device_read_iops: Vec<String>,
    /// Most writes in a second
    #[arg(long, value_name = "DEVICE:NUMBER")]
    device_write_iops: Vec<String>,
}

impl Options {
    pub(super) fn config(&self, image: &str, command: &[String]) -> Result<Config> {
        self.check_pull()?;
        let mut labels = HashMap::new();
        for line in lines_of(&self.label_file)?.iter().chain(&self.label) {
            let (name, value) = line.split_once('=').unwrap_or((line, ""));
            labels.insert(name.to_owned(), value.to_owned());
        }
        Ok(Config {
            image: image.into(),
            command: command.into(),
            entrypoint: self
                .entrypoint
                .iter()
                .filter(|word| !word.is_empty())
                .cloned()
                .collect(),
            replace_entrypoint: self.entrypoint.is_some(),
            env: environment(&self.env_file, &self.env)?,
            user: self.user.clone(),
            groups: self.group_add.clone(),
            working_dir: self.workdir.clone(),
            terminal: self.tty,
            interactive: self.interactive,
            hostname: self.hostname.clone(),
            labels,
            mounts: self.mounts()?,
            network: self.network.clone(),
            resources: MessageField::some(self.limits.resources()?),
            cap_add: words(&self.cap_add),
            cap_drop: words(&self.cap_drop),
            security_opt: self
                .security_opt
                .iter()
                .map(|word| security(word))
                .collect::<Result<_>>()?,
            privileged: self.privileged,
            read_only: self.read_only,
            devices: self.device.iter().map(|word| device(word)).collect(),
            ulimits: self
                .ulimit
                .iter()
                .map(|word| ulimit(word))
                .collect::<Result<_>>()?,
            init: self.init,
            userns: self.userns.clone(),
            restart: MessageField::some(policy(&self.restart)?),
            stop_signal: self.stop_signal.clone(),
            stop_timeout: self.stop_timeout,
            runtime: self.runtime.clone(),
            auto_remove: self.rm,
            log: MessageField::some(self.log()?),
            sysctls: pairs(&self.sysctl)?,
            pid_mode: self.pid.clone(),
            ipc_mode: self.ipc.clone(),
            shm_size: u64::try_from(size(self.shm_size.as_deref())?)
                .map_err(|_| Fault::new("the size of /dev/shm cannot be negative"))?,
            extra_hosts: self.add_host.clone(),
            dns: self.dns.clone(),
            dns_search: self.dns_search.clone(),
            dns_options: self.dns_option.clone(),
            uts_mode: self.uts.clone(),
            cgroupns_mode: self.cgroupns.clone(),
            cgroup_parent: self.cgroup_parent.clone(),
            domainname: self.domainname.clone(),
            oom_score_adj: self.oom_score_adj,
            device_cgroup_rules: self.device_cgroup_rule.clone(),
            annotations: pairs(&self.annotation)?,
            ..Config::default()
        })
    }

    fn mounts(&self) -> Result<Vec<Mount>> {
        let volumes = self.volume.iter().map(|word| volume(word));
        let mounts = self.mount.iter().map(|word| mount(word));
        let tmpfs = self.tmpfs.iter().map(|word| Ok(tmpfs(word)));
        volumes.chain(mounts).chain(tmpfs).collect()
    }

    fn check_pull(&self) -> Result<()> {
        if !matches!(self.pull.as_str(), "missing" | "never") {
            return Err(Fault::new(format!(
                "--pull {}: no image can be pulled, there are no registries: leave it out, or import the image from an archive",
                self.pull
            )));
        }
        Ok(())
    }

    fn log(&self) -> Result<LogOptions> {
        let mut log = LogOptions::default();
        match self.log_driver.as_str() {
            "json-file" => {}
            "none" => log.none = true,
            other => {
                return Err(Fault::new(format!(
                    "no log driver is called '{other}': there are json-file and none"
                )));
            }
        }
        for (name, value) in pairs::<HashMap<_, _>>(&self.log_opt)? {
            match name.as_str() {
                "max-size" => log.max_size = size(Some(&value))?.cast_unsigned(),
                "max-file" => match number(&name, &value)? {
                    // What the daemon takes for as many as usual.
                    0 => return Err(Fault::new("max-file cannot be less than 1")),
                    files => log.max_files = files,
                },
                _ => {
                    return Err(Fault::new(format!(
                        "no log option is called '{name}': there are max-size and max-file"
                    )));
                }
            }
        }
        Ok(log)
    }
}

impl Limits {
    pub(super) fn resources(&self) -> Result<Resources> {
        let throttles = |words: &[String], bytes: bool| {
            words
                .iter()
                .map(|word| throttle(word, bytes))
                .collect::<Result<Vec<_>>>()
        };
        Ok(Resources {
            nano_cpus: self.cpus.as_deref().map_or(Ok(0), cpus)?,
            cpuset_cpus: self.cpuset_cpus.clone(),
            cpuset_mems: self.cpuset_mems.clone(),
            cpu_shares: self.cpu_shares,
            cpu_period: self.cpu_period,
            cpu_quota: self.cpu_quota,
            memory: size(self.memory.as_deref())?,
            memory_swap: size(self.memory_swap.as_deref())?,
            memory_reservation: size(self.memory_reservation.as_deref())?,
            pids_limit: self.pids_limit,
            blkio_weight: self.blkio_weight,
            read_bps: throttles(&self.device_read_bps, true)?,
            write_bps: throttles(&self.device_write_bps, true)?,
            read_iops: throttles(&self.device_read_iops, false)?,
            write_iops: throttles(&self.device_write_iops, false)?,
            ..Resources::default()
        })
    }
}

fn words(words: &[String]) -> Vec<String> {
    words
        .iter()
        .flat_map(|word| word.split(','))
        .map(str::to_owned)
        .collect()
}

fn pairs<M: FromIterator<(String, String)>>(words: &[String]) -> Result<M> {
    let pair = |word: &String| {
        let (name, value) = word
            .split_once('=')
            .ok_or_else(|| Fault::new(format!("'{word}' is not NAME=VALUE")))?;
        Ok((name.to_owned(), value.to_owned()))
    };
    words.iter().map(pair).collect()
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T> {
    value
        .parse()
        .map_err(|_| Fault::new(format!("{name}: '{value}' is no number")))
}

/// A name without a value gets that of our own environment; if it has none there, the container has none either.
pub(super) fn environment(files: &[PathBuf], words: &[String]) -> Result<Vec<String>> {
    let mut variables = vec![];
    for variable in lines_of(files)?.into_iter().chain(words.iter().cloned()) {
        let name = variable.split('=').next().unwrap_or_default();
        if name.is_empty() {
            return Err(Fault::new(format!(
                "'{variable}' is no variable of an environment"
            )));
        }
        if variable.contains('=') {
            variables.push(variable);
        } else if let Ok(value) = std::env::var(name) {
            variables.push(format!("{name}={value}"));
        } else {
            variables.push(variable);
        }
    }
    Ok(variables)
}

fn lines_of(files: &[PathBuf]) -> Result<Vec<String>> {
    let mut all = vec![];
    for path in files {
        let text = fs::read_to_string(path).tried(|| format!("read {}", path.display()))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let lines = text
            .lines()
            .map(str::trim_start)
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        for line in lines {
            let name = line.split('=').next().unwrap_or_default();
            if name.is_empty() || name.contains([' ', '\t']) {
                return Err(Fault::new(format!(
                    "{}: '{line}': a name is not empty, and has no blanks",
                    path.display()
                )));
            }
            all.push(line.to_owned());
        }
    }
    Ok(all)
}

/// `512m` and the like; 0 for none.
pub(super) fn size(word: Option<&str>) -> Result<i64> {
    let Some(word) = word else { return Ok(0) };
    if word == "-1" {
        return Ok(-1);
    }
    let wrong = || Fault::new(format!("'{word}' is no size: a number and b, k, m, g or t"));
    let lower = word.to_lowercase();
    let text = lower
        .strip_suffix("ib")
        .or_else(|| lower.strip_suffix('b'))
        .unwrap_or(&lower);
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'k')) => (&text[..at], 10),
        Some((at, 'm')) => (&text[..at], 20),
        Some((at, 'g')) => (&text[..at], 30),
        Some((at, 't')) => (&text[..at], 40),
        _ => (text, 0),
    };
    if let Ok(whole) = digits.parse::<i64>() {
        return whole
            .checked_mul(1 << shift)
            .filter(|size| *size >= 0)
            .ok_or_else(wrong);
    }
    let (whole, part) = digits.split_once('.').ok_or_else(wrong)?;
    let whole: i64 = whole.parse().map_err(|_| wrong())?;
    let thousandths: i64 = format!("{:0<3}", part.get(..part.len().min(3)).unwrap_or_default())
        .parse()
        .map_err(|_| wrong())?;
    Ok((whole << shift) + (thousandths << shift) / 1000)
}

/// Until SIGKILL. As Docker has it, a negative number is for ever.
pub(super) fn seconds(word: &str) -> std::result::Result<u32, std::num::ParseIntError> {
    let seconds: i32 = word.parse()?;
    Ok(u32::try_from(seconds).unwrap_or(u32::MAX))
}

/// Billionths.
fn cpus(word: &str) -> Result<i64> {
    let wrong = || Fault::new(format!("'{word}' is no number of CPUs"));
    let (whole, part) = word.split_once('.').unwrap_or((word, ""));
    let whole: i64 = if whole.is_empty() {
        0
    } else {
        whole.parse().map_err(|_| wrong())?
    };
    if part.len() > 9 || whole < 0 {
        return Err(wrong());
    }
    let part: i64 = format!("{part:0<9}").parse().map_err(|_| wrong())?;
    Ok(whole * 1_000_000_000 + part)
}

fn throttle(word: &str, bytes: bool) -> Result<Throttle> {
    let (device, rate) = word
        .rsplit_once(':')
        .ok_or_else(|| Fault::new(format!("'{word}' is not DEVICE:RATE")))?;
    let rate = if bytes {
        size(Some(rate))?.cast_unsigned()
    } else {
        number(word, rate)?
    };
    Ok(Throttle {
        device: device.into(),
        rate,
        ..Throttle::default()
    })
}

fn device(word: &str) -> Device {
    let mut parts = word.split(':');
    let source = parts.next().unwrap_or_default().to_owned();
    let (mut target, mut access) = (
        parts.next().unwrap_or_default().to_owned(),
        parts.next().unwrap_or_default().to_owned(),
    );
    if !target.is_empty() && !target.starts_with('/') {
        access = std::mem::take(&mut target);
    }
    Device {
        source,
        target,
        access,
        ..Device::default()
    }
}

fn ulimit(word: &str) -> Result<Ulimit> {
    let (name, values) = word
        .split_once('=')
        .ok_or_else(|| Fault::new(format!("ulimit '{word}' is not NAME=SOFT[:HARD]")))?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let value = |value: &str| {
        if value == "unlimited" {
            Ok(-1)
        } else {
            number(name, value)
        }
    };
    Ok(Ulimit {
        name: name.into(),
        soft: value(soft)?,
        hard: value(hard)?,
        ..Ulimit::default()
    })
}

pub(super) fn policy(word: &str) -> Result<RestartPolicy> {
    let (name, limit) = match word.split_once(':') {
        Some((name, limit)) => (name, Some(limit)),
        None => (word, None),
    };
    if limit.is_some() && name != "on-failure" {
        return Err(Fault::new(format!(
            "restart policy '{word}': only on-failure takes a number of attempts"
        )));
    }
    let name = match name {
        "no" | "" => Name::NO,
        "on-failure" => Name::ON_FAILURE,
        "always" => Name::ALWAYS,
        "unless-stopped" => Name::UNLESS_STOPPED,
        _ => {
            return Err(Fault::new(format!(
                "no restart policy is called '{word}': there are no, on-failure[:N], always and unless-stopped"
            )));
        }
    };
    Ok(RestartPolicy {
        name: name.into(),
        maximum: number("on-failure", limit.unwrap_or("0"))?,
        ..RestartPolicy::default()
    })
}

/// The file of a profile is read here: the daemon may not be where it is.
fn security(word: &str) -> Result<String> {
    match word
        .strip_prefix("seccomp=")
        .or_else(|| word.strip_prefix("seccomp:"))
    {
        Some("unconfined" | "builtin") | None => Ok(word.into()),
        Some(path) => {
            let text =
                fs::read_to_string(path).tried(|| format!("read the seccomp profile {path}"))?;
            Ok(format!("seccomp={text}"))
        }
    }
}

/// A path of the host that may be relative, for a daemon that is elsewhere.
fn source(path: &str) -> String {
    std::path::absolute(Path::new(path))
        .map_or_else(|_| path.to_owned(), |path| path.display().to_string())
}

fn volume(word: &str) -> Result<Mount> {
    let parts: Vec<&str> = word.split(':').collect();
    let (from, target, options) = match parts[..] {
        [target] => ("", target, ""),
        [from, target] => (from, target, ""),
        [from, target, options] => (from, target, options),
        _ => {
            return Err(Fault::new(format!(
                "volume '{word}' is not [SOURCE:]TARGET[:OPTIONS]"
            )));
        }
    };
    if parts.len() > 1 && parts.contains(&"") {
        return Err(Fault::new(format!(
            "volume '{word}': there is nothing between the colons, or before or behind them"
        )));
    }
    let is_path = from.starts_with(['/', '.', '~']);
    let mut mount = Mount {
        kind: EnumOrUnknown::new(if is_path { Kind::BIND } else { Kind::VOLUME }),
        source: if is_path {
            source(from)
        } else {
            from.to_owned()
        },
        target: target.into(),
        make_source: true,
        ..Mount::default()
    };
    let mut mode = None;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" | "rw" if mode.is_some() => {
                return Err(Fault::new(format!(
                    "volume '{word}': it is ro or rw, and said once"
                )));
            }
            "ro" | "rw" => {
                mode = Some(option);
                mount.read_only = option == "ro";
            }
            // What Docker has them for is not of Linux.
            "z" | "Z" | "consistent" | "cached" | "delegated" => {}
            "nocopy" => mount.no_copy = true,
            "idmap" => mount.options.push(option.into()),
            _ if PROPAGATIONS.contains(&option) => mount.options.push(option.into()),
            _ => {
                return Err(Fault::new(format!(
                    "volume '{word}': unknown option '{option}'"
                )));
            }
        }
    }
    Ok(mount)
}

/// How what is mounted later on one side comes to the other.
const PROPAGATIONS: [&str; 6] = [
    "shared", "rshared", "slave", "rslave", "private", "rprivate",
];

/// Of one line of CSV: a field between quotes may have commas, and quotes that are doubled.
fn fields(word: &str) -> Result<Vec<String>> {
    let (mut fields, mut field, mut quoted) = (vec![], String::new(), false);
    let mut rest = word.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            '"' if quoted && rest.next_if_eq(&'"').is_some() => field.push('"'),
            '"' if quoted || field.is_empty() => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            other => field.push(other),
        }
    }
    fields.push(field);
    if quoted {
        return Err(Fault::new(format!("mount '{word}': a quote has no end")));
    }
    Ok(fields)
}

fn mount(word: &str) -> Result<Mount> {
    let mut mount = Mount {
        kind: Kind::VOLUME.into(),
        ..Mount::default()
    };
    let mut recursive = String::new();
    for field in fields(word)? {
        let (name, value) = field.split_once('=').unwrap_or((&field, "true"));
        let name = &*name.to_ascii_lowercase();
        let said = || {
            truth(value).ok_or_else(|| {
                Fault::new(format!(
                    "mount '{word}': {name} is true or false, not '{value}'"
                ))
            })
        };
        match name {
            "type" => {
                mount.kind = match value {
                    "bind" => Kind::BIND,
                    "volume" => Kind::VOLUME,
                    "tmpfs" => Kind::TMPFS,
                    _ => {
                        return Err(Fault::new(format!(
                            "mount '{word}': unknown type '{value}'"
                        )));
                    }
                }
                .into();
            }
            "source" | "src" => mount.source = value.into(),
            "target" | "dst" | "destination" => mount.target = value.into(),
            "readonly" | "ro" => mount.read_only = said()?,
            "volume-nocopy" => mount.no_copy = said()?,
            "volume-subpath" => mount.subpath = value.into(),
            "idmap" => mount.options.push(name.into()),
            "bind-propagation" if PROPAGATIONS.contains(&value) => mount.options.push(value.into()),
            "bind-propagation" => {
                return Err(Fault::new(format!(
                    "mount '{word}': unknown bind-propagation '{value}'"
                )));
            }
            "consistency" => {}
            "bind-recursive" => value.clone_into(&mut recursive),
            "bind-nonrecursive" if said()? => "disabled".clone_into(&mut recursive),
            "bind-nonrecursive" => {}
            "tmpfs-size" => mount.options.push(format!("size={}", size(Some(value))?)),
            "tmpfs-mode" => mount.options.push(format!("mode={value}")),
            _ => {
                return Err(Fault::new(format!(
                    "mount '{word}': unknown field '{name}'"
                )));
            }
        }
    }
    recurse(word, &recursive, &mut mount)?;
    if mount.kind == Kind::BIND.into() {
        mount.source = source(&mount.source);
    }
    Ok(mount)
}

/// What becomes of what is mounted below the source.
fn recurse(word: &str, how: &str, mount: &mut Mount) -> Result<()> {
    let wrong = |what: &str| Err(Fault::new(format!("mount '{word}': {what}")));
    if !how.is_empty() && mount.kind != Kind::BIND.into() {
        return wrong("only a bind mount has bind-recursive");
    }
    if matches!(how, "writable" | "readonly") && !mount.read_only {
        return wrong(&format!("bind-recursive={how} is for one that is readonly"));
    }
    match how {
        "" | "enabled" => {}
        "disabled" => mount.options.push("bind".into()),
        "writable" => mount.options.push("ro".into()),
        "readonly" => mount.options.push("rro".into()),
        _ => {
            return wrong(&format!(
                "bind-recursive is enabled, disabled, writable or readonly, not '{how}'"
            ));
        }
    }
    Ok(())
}

fn tmpfs(word: &str) -> Mount {
    let (target, options) = word.split_once(':').unwrap_or((word, ""));
    Mount {
        kind: Kind::TMPFS.into(),
        target: target.into(),
        options: options
            .split(',')
            .filter(|option| !option.is_empty())
            .map(str::to_owned)
            .collect(),
        ..Mount::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let size = |word| super::size(Some(word)).unwrap();
        assert_eq!(size("512"), 512);
        assert_eq!(size("64m"), 64 << 20);
        assert_eq!(size("1.5g"), 3 << 29);
        assert_eq!(size("2KiB"), 2048);
        assert_eq!(size("-1"), -1);
        for word in ["", "m", "x", "1x", "-5", "9999999999999g"] {
            assert!(super::size(Some(word)).is_err(), "{word}");
        }
        assert_eq!(cpus("1.5").unwrap(), 1_500_000_000);
        assert_eq!(cpus(".25").unwrap(), 250_000_000);
        assert!(cpus("many").is_err());
    }

    #[test]
    fn volumes_and_mounts() {
        let made = volume("data:/var/data:ro").unwrap();
        assert_eq!(
            (made.kind, &*made.source, &*made.target, made.read_only),
            (Kind::VOLUME.into(), "data", "/var/data", true)
        );
        assert_eq!(volume("/a:/b").unwrap().kind, Kind::BIND.into());
        assert_eq!(volume("/only").unwrap().source, "");
        assert!(volume("a:b:c:d").is_err() && volume("/a:/b:nonsense").is_err());
        let made = mount("type=bind,src=/a,dst=/b,readonly").unwrap();
        assert_eq!(
            (made.kind, made.read_only, made.make_source),
            (Kind::BIND.into(), true, false)
        );
        assert_eq!(
            mount("type=tmpfs,target=/t,tmpfs-size=1m").unwrap().options,
            ["size=1048576"]
        );
        assert!(mount("type=nonsense").is_err());
        let read_only = |word: &str| mount(&format!("src=a,dst=/b,{word}")).map(|it| it.read_only);
        assert!(read_only("ro=1").unwrap() && read_only("readonly=True").unwrap());
        assert!(!read_only("ro=0").unwrap() && !read_only("readonly=f").unwrap());
        assert!(read_only("readonly=maybe").is_err() && read_only("ro=no").is_err());
        assert!(volume("a:/b:ro,rw").is_err() && volume("a:/b:rw,z").is_ok());
        let made = mount("type=bind,\"source=/a,\"\"b\",dst=/c").unwrap();
        assert_eq!((&*made.source, &*made.target), ("/a,\"b", "/c"));
        assert!(mount("\"type=bind,source=/a").is_err());
        let recursive = |words: &str| mount(&format!("type=bind,src=/a,dst=/b,{words}"));
        let options = |words: &str| recursive(words).unwrap().options;
        assert_eq!(options("ro,bind-recursive=enabled"), [""; 0]);
        assert_eq!(options("ro,bind-recursive=writable"), ["ro"]);
        assert_eq!(options("bind-recursive=disabled"), ["bind"]);
        assert_eq!(options("bind-nonrecursive"), ["bind"]);
        assert!(recursive("bind-recursive=readonly").is_err());
        assert!(recursive("ro,bind-recursive=maybe").is_err());
        assert!(mount("type=tmpfs,dst=/b,bind-recursive=enabled").is_err());
    }

    #[test]
    fn policies_devices_and_limits() {
        let made = policy("on-failure:3").unwrap();
        assert_eq!((made.name, made.maximum), (Name::ON_FAILURE.into(), 3));
        assert!(policy("sometimes").is_err() && policy("always:3").is_err());
        assert_eq!(device("/dev/a:rw").access, "rw");
        assert_eq!(device("/dev/a:/dev/b:r").target, "/dev/b");
        assert_eq!(ulimit("nofile=1:unlimited").unwrap().hard, -1);
    }
}
