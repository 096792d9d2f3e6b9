//! The command line: argv → [`Invocation`], with every value validated and no I/O.
//!
//! Runs in the parent, before anything else. It decides what was asked for and nothing about how it is done. The
//! syntax is that of runc, which engines are written against; the table of commands and flags is in `verbs`.

mod command;
mod complete;
mod flags;
mod help;
mod images;
mod resources;
mod values;
mod verbs;

pub(crate) use command::{
    Command, Create, DryRun, Exec, ExecProcess, MountsChange, ProcessChanges, Run, Whom,
};
pub(crate) use complete::Offer;
pub(crate) use images::{Checkpoint, Images, Restore};
pub(crate) use resources::{Resources, Update};
pub(crate) use values::{Format, Signal};

use crate::log;
use crate::report::{Error, Result};
use flags::{Matches, Order, usage};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use verbs::{GLOBAL, VERBS, Verb};

/// The program's own name.
const NAME: &str = "caisson";

/// The other name that it answers to.
const RUNC: &str = "runc";

/// What of the process' surroundings the defaults depend on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    pub(crate) euid: u32,
    /// Whether we run in a user namespace other than the initial one.
    pub(crate) in_userns: bool,
    /// `$USER`
    pub(crate) user: Option<OsString>,
    /// `$XDG_RUNTIME_DIR`
    pub(crate) xdg_runtime_dir: Option<OsString>,
}

/// A whole command line.
#[derive(Debug, PartialEq)]
pub(crate) struct Invocation {
    pub(crate) global: Global,
    pub(crate) command: Command,
}

/// What holds for every command.
#[derive(Debug, PartialEq)]
pub(crate) struct Global {
    /// It was called by runc's name.
    pub(crate) as_runc: bool,
    /// Where the state of containers is.
    pub(crate) root: PathBuf,
    /// The root is in `$XDG_RUNTIME_DIR`, where it needs the sticky bit: unmarked files may be pruned there when they are old.
    pub(crate) root_is_xdg: bool,
    pub(crate) log: log::Settings,
    /// `--trace`
    pub(crate) trace: Option<PathBuf>,
    pub(crate) cgroup_manager: CgroupManager,
    pub(crate) rootless: Rootless,
}

/// `--cgroup-manager`, or what `--systemd-cgroup` chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CgroupManager {
    Cgroupfs,
    Systemd,
    /// The container stays in the caller's cgroup.
    Disabled,
}

/// `--rootless`: whether cgroup permission errors are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rootless {
    True,
    False,
    Auto,
}

/// A command line that was not understood.
#[derive(Debug)]
pub(crate) struct Rejected {
    pub(crate) error: Error,
    /// Where to report it: engines look for usage errors in the log as well.
    pub(crate) log: log::Settings,
    pub(crate) exit_code: u8,
}

/// Understands a command line; `argv` includes the program's name.
pub(crate) fn parse(
    argv: impl IntoIterator<Item = OsString>,
    here: &Surroundings,
) -> std::result::Result<Invocation, Rejected> {
    let mut argv = argv.into_iter();
    let name = program_name(argv.next().as_deref());
    let plain = |error| Rejected {
        error,
        log: log::Settings::default(),
        exit_code: 1,
    };
    let matches = flags::scan(argv.collect(), GLOBAL, Order::FlagsFirst).map_err(plain)?;
    let mut global = global(&matches, here).map_err(plain)?;
    global.as_runc = name == RUNC;
    match command(name, matches, here) {
        Ok(command) => Ok(Invocation { global, command }),
        Err((error, exit_code)) => Err(Rejected {
            error,
            log: global.log,
            exit_code,
        }),
    }
}

/// containerd takes the version of what calls itself runc; under every other name we are ourselves.
fn program_name(argv0: Option<&OsStr>) -> &'static str {
    match argv0
        .map(Path::new)
        .and_then(Path::file_name)
        .and_then(OsStr::to_str)
    {
        Some(name) if name == RUNC || name.ends_with("-runc") => RUNC,
        _ => NAME,
    }
}

fn global(matches: &Matches, here: &Surroundings) -> Result<Global> {
    let (root, root_is_xdg) = match matches.value("root") {
        Some(root) if root.is_empty() => return Err(usage("invalid root: empty path")),
        // The state of each container would be a directory of the root file system.
        Some(root)
            if Path::new(root)
                .components()
                .all(|c| matches!(c, Component::RootDir | Component::CurDir))
                && Path::new(root).has_root() =>
        {
            return Err(usage(
                "invalid root: '/' cannot hold the state of containers",
            ));
        }
        Some(root) => (PathBuf::from(root), false),
        None => default_root(here),
    };
    let cgroup_manager = match matches.text("cgroup-manager")? {
        None if matches.on("systemd-cgroup") => CgroupManager::Systemd,
        None | Some("cgroupfs") => CgroupManager::Cgroupfs,
        Some("systemd") => CgroupManager::Systemd,
        Some("disabled") => CgroupManager::Disabled,
        Some(other) => return Err(usage(format!("invalid cgroup-manager: {other}"))),
    };
    let rootless = match matches.text("rootless")? {
        None | Some("auto") => Rootless::Auto,
        Some("true") => Rootless::True,
        Some("false") => Rootless::False,
        Some(other) => return Err(usage(format!("invalid rootless: {other}"))),
    };
    Ok(Global {
        as_runc: false,
        root,
        root_is_xdg,
        log: log_settings(matches)?,
        trace: matches
            .value("trace")
            .filter(|file| !file.is_empty())
            .map(PathBuf::from),
        cgroup_manager,
        rootless,
    })
}

fn log_settings(matches: &Matches) -> Result<log::Settings> {
    let level = match matches.text("log-level")? {
        _ if matches.on("debug") => log::Level::Debug,
        None | Some("warning") => log::Level::Warning,
        Some("error") => log::Level::Error,
        Some("debug") => log::Level::Debug,
        Some(other) => return Err(usage(format!("invalid log-level: {other}"))),
    };
    let format = match matches.text("log-format")? {
        None | Some("text") => log::Format::Text,
        Some("json") => log::Format::Json,
        Some(other) => return Err(usage(format!("invalid log-format: {other}"))),
    };
    Ok(log::Settings {
        to: matches
            .value("log")
            .map_or(log::Destination::StandardError, log_destination),
        format,
        level,
    })
}

/// crun's prefixes say what is meant; without one it is a file.
fn log_destination(text: &OsStr) -> log::Destination {
    let after = |prefix: &str| text.as_bytes().strip_prefix(prefix.as_bytes());
    let service = |protocol, name: &[u8]| {
        log::Destination::Service(protocol, String::from_utf8_lossy(name).into_owned())
    };
    match (after("file:"), after("journald:"), after("syslog:")) {
        _ if text.is_empty() => log::Destination::StandardError,
        (Some(path), ..) => log::Destination::File(OsStr::from_bytes(path).into()),
        (_, Some(name), _) => service(log::Protocol::Journal, name),
        (.., Some(name)) => service(log::Protocol::Syslog, name),
        _ => log::Destination::File(text.into()),
    }
}

/// `/run` is for the real root; everybody else, and a root that a user made for himself with a user namespace, has
/// `$XDG_RUNTIME_DIR`. `USER=root` in a user namespace means a container whose root is meant as one.
fn default_root(here: &Surroundings) -> (PathBuf, bool) {
    let is_root =
        here.euid == 0 && (!here.in_userns || here.user.as_deref() == Some(OsStr::new("root")));
    match &here.xdg_runtime_dir {
        Some(dir) if !is_root && !dir.is_empty() => (Path::new(dir).join(NAME), true),
        _ => (Path::new("/run").join(NAME), false),
    }
}

/// The command in what the global flags left over; an error comes with its exit code.
fn command(
    name: &str,
    mut global: Matches,
    here: &Surroundings,
) -> std::result::Result<Command, (Error, u8)> {
    if global.on("help") || (global.args.is_empty() && !global.on("version")) {
        return Ok(Command::Print(help::program(name)));
    }
    if global.on("version") {
        return Ok(Command::Print(help::version(name)));
    }
    let args = global.args.split_off(1);
    let word = &global.args[0];
    if word == "help" || word == "h" {
        let text = match args.first() {
            None => help::program(name),
            Some(topic) => help::command(name, verb(topic).map_err(|e| (e, 1))?),
        };
        return Ok(Command::Print(text));
    }
    let verb = verb(word).map_err(|e| (e, 1))?;
    let matches = flags::scan(args, verb.flags, verb.order).map_err(|e| (e, 1))?;
    if matches.on("help") {
        return Ok(Command::Print(help::command(name, verb)));
    }
    count(name, verb, matches.args.len()).map_err(|e| (e, 1))?;
    if verb.name == "complete" {
        return Ok(Command::Complete(complete::offer(&matches.args, here)));
    }
    // An exec that fails before its process runs must not look like a process that exited with 1.
    let exit_code = if verb.name == "exec" { 255 } else { 1 };
    command::build(verb, matches).map_err(|e| (e, exit_code))
}

fn verb(word: &OsStr) -> Result<&'static Verb> {
    VERBS
        .iter()
        .find(|verb| verb.name == word)
        .ok_or_else(|| usage(format!("No help topic for '{}'", word.display())))
}

fn count(name: &str, verb: &Verb, given: usize) -> Result<()> {
    let (least, most) = verb.count;
    let needs = match (given < least, given > most) {
        (false, false) => return Ok(()),
        _ if least == most => format!("exactly {least}"),
        (true, _) => format!("a minimum of {least}"),
        (_, true) => format!("a maximum of {most}"),
    };
    Err(usage(format!(
        "{name}: {:?} requires {needs} argument(s)",
        verb.name
    )))
}

#[cfg(test)]
mod tests;
