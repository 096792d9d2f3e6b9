//! The process: arguments, environment, identity and rights, of a container and of an exec. Pure.

use serde_json::{Value, json};

use super::{Defaults, Fault, Found, Result, Security, User, capabilities};
use crate::image::changes::joined;
use crate::protos::containers::{Config, Effective, Ulimit};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where the init program is in a container that asks for one.
pub(super) const INIT: &str = "/sbin/caisson-init";

/// What the options and the image say together, by Docker's rules: a command replaces the image's; an entrypoint replaces the image's and drops
/// its command.
pub(crate) fn effective(config: &Config, image: &Defaults) -> Effective {
    let (entrypoint, default) = if config.replace_entrypoint {
        (&config.entrypoint, &vec![])
    } else {
        (&image.entrypoint, &image.command)
    };
    let or = |own: &str, of_image: &str| if own.is_empty() { of_image } else { own }.to_owned();
    Effective {
        entrypoint: entrypoint.clone(),
        command: if config.command.is_empty() {
            default.clone()
        } else {
            config.command.clone()
        },
        env: variables(vec![], config, image),
        user: or(&config.user, &image.user),
        working_dir: cleaned(or(&config.working_dir, &image.working_dir)),
        stop_signal: or(&config.stop_signal, &image.stop_signal),
        hostname: config.hostname.clone(),
        exposed_ports: image.ports.clone(),
        volumes: image.volumes.clone(),
        ..Effective::default()
    }
}

/// The image's variables and the options', after these.
fn variables(mut env: Vec<String>, config: &Config, image: &Defaults) -> Vec<String> {
    for variable in image.env.iter().chain(&config.env) {
        set(&mut env, variable);
    }
    env
}

/// Entrypoint and command.
pub(crate) fn pid_one(config: &Config, image: &Defaults) -> Result<Vec<String>> {
    let Effective {
        entrypoint,
        command,
        ..
    } = effective(config, image);
    let args = [entrypoint, command].concat();
    if args.is_empty() {
        return Err(Fault::new(
            "no command specified, and the image has none either",
        ));
    }
    Ok(args)
}

pub(super) fn process(
    config: &Config,
    image: &Defaults,
    found: &Found,
    capabilities: &[String],
    security: &Security,
) -> Result<Value> {
    let mut args = found.args.clone();
    if found.init.is_some() {
        args.splice(0..0, [INIT.to_owned(), "--".to_owned()]);
    }
    let mut env = vec![PATH.to_owned()];
    if !found.hostname.is_empty() {
        set(&mut env, &format!("HOSTNAME={}", found.hostname));
    }
    if config.terminal {
        set(&mut env, "TERM=xterm");
    }
    let mut env = variables(env, config, image);
    home(&mut env, &found.user);
    let mut cwd = effective(config, image).working_dir;
    if cwd.is_empty() {
        "/".clone_into(&mut cwd);
    }
    if !cwd.starts_with('/') {
        return Err(Fault::new(format!(
            "the working directory '{cwd}' is invalid, it needs to be an absolute path"
        )));
    }
    if !(-1000..=1000).contains(&config.oom_score_adj) {
        return Err(Fault::new(format!(
            "invalid value {}, range for OOM score adj is [-1000, 1000]",
            config.oom_score_adj
        )));
    }
    let rlimits: Result<Vec<Value>> = config.ulimits.iter().map(rlimit).collect();
    let mut process = json!({
        "terminal": config.terminal,
        "args": args,
        "env": env,
        "cwd": cwd,
        "user": identity(&found.user),
        "capabilities": sets(found.user.uid == 0, capabilities),
        "noNewPrivileges": security.no_new_privileges,
        "oomScoreAdj": config.oom_score_adj,
        "rlimits": rlimits?,
    });
    if let Some(profile) = &found.profile {
        process["apparmorProfile"] = json!(profile);
    }
    Ok(process)
}

/// Another process in a container.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exec {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    /// None: as who the container's own process is.
    pub(crate) user: Option<User>,
    pub(crate) working_dir: String,
    pub(crate) terminal: bool,
    pub(crate) privileged: bool,
}

/// The process of an exec: what the container's own has (`of`, from its config.json), but for what was asked for.
pub(crate) fn exec(of: &Value, exec: &Exec, ours: &[String]) -> Result<Value> {
    let mut process = of.clone();
    let env = of["env"].as_array().into_iter().flatten();
    let mut env: Vec<String> = env
        .filter_map(|variable| variable.as_str().map(str::to_owned))
        .filter(|variable| !variable.starts_with("TERM="))
        .filter(|variable| exec.user.is_none() || !variable.starts_with("HOME="))
        .collect();
    if exec.terminal {
        set(&mut env, "TERM=xterm");
    }
    for variable in &exec.env {
        set(&mut env, variable);
    }
    if let Some(user) = &exec.user {
        home(&mut env, user);
        process["user"] = identity(user);
    }
    let bounding: Vec<String> = if exec.privileged {
        capabilities::bounding(&[], &[], true, ours)?
    } else {
        let names = of["capabilities"]["bounding"].as_array();
        let names = names.into_iter().flatten();
        names
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect()
    };
    process["args"] = json!(exec.args);
    process["env"] = json!(env);
    process["terminal"] = json!(exec.terminal);
    let is_root = process["user"]["uid"] == 0;
    process["capabilities"] = sets(is_root, &bounding);
    if !exec.working_dir.is_empty() {
        if !exec.working_dir.starts_with('/') {
            return Err(Fault::new(format!(
                "the working directory '{}' is invalid, it needs to be an absolute path",
                exec.working_dir
            )));
        }
        process["cwd"] = json!(exec.working_dir);
    }
    Ok(process)
}

/// What is no absolute path stays as it is, and is refused later.
fn cleaned(path: String) -> String {
    match path.starts_with('/') {
        true => joined("", &path),
        false => path,
    }
}

fn identity(user: &User) -> Value {
    json!({ "uid": user.uid, "gid": user.gid, "additionalGids": user.groups })
}

/// Nobody but root has any from the start; a program's file may give them.
fn sets(is_root: bool, bounding: &[String]) -> Value {
    let held: &[String] = if is_root { bounding } else { &[] };
    json!({ "bounding": bounding, "effective": held, "permitted": held })
}

/// `NAME=value` takes the place of what is there; a name alone takes it away.
fn set(env: &mut Vec<String>, variable: &str) {
    let name = variable.split('=').next().unwrap_or_default();
    let same = |other: &String| other.split('=').next() == Some(name);
    let at = env.iter().position(same);
    match (at, variable.contains('=')) {
        (Some(at), true) => variable.clone_into(&mut env[at]),
        (Some(at), false) => drop(env.remove(at)),
        (None, true) => env.push(variable.to_owned()),
        (None, false) => {}
    }
}

fn home(env: &mut Vec<String>, user: &User) {
    if !env.iter().any(|variable| variable.starts_with("HOME=")) {
        let home = if user.home.is_empty() {
            "/"
        } else {
            &user.home
        };
        env.push(format!("HOME={home}"));
    }
}

fn rlimit(limit: &Ulimit) -> Result<Value> {
    const NAMES: [&str; 16] = [
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    if !NAMES.contains(&limit.name.as_str()) {
        return Err(Fault::new(format!("no ulimit is called '{}'", limit.name)));
    }
    // -1 is RLIM_INFINITY.
    let (soft, hard) = (limit.soft.cast_unsigned(), limit.hard.cast_unsigned());
    if soft > hard {
        return Err(Fault::new(format!(
            "ulimit {}: the soft limit is above the hard one",
            limit.name
        )));
    }
    Ok(
        json!({ "type": format!("RLIMIT_{}", limit.name.to_uppercase()), "soft": soft, "hard": hard }),
    )
}
