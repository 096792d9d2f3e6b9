//! The commands as values, and how they are made from flags and arguments.

use super::complete::Offer;
use super::flags::{Matches, usage};
use super::images::{self, Checkpoint, Restore};
use super::resources::{self, Update};
use super::values::{self, Format, Signal, User};
use super::verbs::Verb;
use crate::report::{Error, Kind, Result};
use crate::state::ContainerId;
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// What to do.
#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    /// Print this text and succeed: help or version.
    Print(String),
    Complete(Offer),
    Checkpoint(Checkpoint),
    Create(Create),
    Restore(Restore),
    Run(Run),
    Start {
        id: ContainerId,
    },
    State {
        id: ContainerId,
    },
    List {
        format: Format,
        quiet: bool,
    },
    /// `options` are for the host's ps; empty means its default.
    Ps {
        id: ContainerId,
        format: Format,
        options: Vec<OsString>,
    },
    Kill {
        whom: Whom,
        signal: Signal,
        all: bool,
    },
    Delete {
        whom: Whom,
        force: bool,
    },
    Exec(Exec),
    Update(Update),
    Events {
        id: ContainerId,
        interval: Duration,
        /// Print them once.
        stats: bool,
    },
    Spec {
        file: PathBuf,
        rootless: bool,
    },
    Features,
    Check {
        bundle: PathBuf,
        /// As JSON and not as lines.
        json: bool,
    },
    Mounts {
        change: MountsChange,
        id: ContainerId,
        file: PathBuf,
    },
    Pause {
        id: ContainerId,
    },
    Resume {
        id: ContainerId,
    },
    SeccompDump {
        profile: PathBuf,
        raw: bool,
    },
    /// The program of an existing container.
    SeccompDumpOf {
        id: ContainerId,
        raw: bool,
    },
}

/// `mounts add` or `mounts remove`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MountsChange {
    Add,
    Remove,
}

/// The containers that a command is for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    One(ContainerId),
    /// Those in whose id this regular expression matches something.
    Matching(String),
}

/// `create`, and the part of `run` that is the same. Relative paths are relative to the caller's directory.
#[derive(Debug, PartialEq)]
pub(crate) struct Create {
    pub(crate) id: ContainerId,
    pub(crate) bundle: PathBuf,
    /// In place of the bundle's config.json.
    pub(crate) config: Option<PathBuf>,
    pub(crate) console_socket: Option<PathBuf>,
    pub(crate) pidfd_socket: Option<PathBuf>,
    pub(crate) pid_file: Option<PathBuf>,
    pub(crate) no_pivot: bool,
    pub(crate) no_new_keyring: bool,
    pub(crate) preserve_fds: u32,
    pub(crate) dry_run: Option<DryRun>,
}

/// `--dry-run`: say what would be done, in which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DryRun {
    Text,
    Json,
}

/// `run`.
#[derive(Debug, PartialEq)]
pub(crate) struct Run {
    pub(crate) create: Create,
    pub(crate) detach: bool,
    pub(crate) keep: bool,
    pub(crate) no_subreaper: bool,
}

/// `exec`.
#[derive(Debug, PartialEq)]
pub(crate) struct Exec {
    pub(crate) id: ContainerId,
    pub(crate) process: ExecProcess,
    pub(crate) detach: bool,
    pub(crate) console_socket: Option<PathBuf>,
    pub(crate) pidfd_socket: Option<PathBuf>,
    pub(crate) pid_file: Option<PathBuf>,
    pub(crate) preserve_fds: u32,
    /// A cgroup below the container's, relative to it; `/` is the container's own, without falling back to another.
    pub(crate) cgroup: Option<PathBuf>,
    pub(crate) ignore_paused: bool,
}

/// What `exec` runs.
#[derive(Debug, PartialEq)]
pub(crate) enum ExecProcess {
    /// The process object in this file, and nothing else.
    File(PathBuf),
    /// The process of the container's config.json with these changes.
    Changed(ProcessChanges),
}

/// What `exec` changes of the process in the container's config.json.
#[derive(Debug, PartialEq)]
pub(crate) struct ProcessChanges {
    /// At least one.
    pub(crate) args: Vec<String>,
    pub(crate) terminal: bool,
    pub(crate) cwd: Option<String>,
    /// To be appended.
    pub(crate) env: Vec<String>,
    pub(crate) user: Option<User>,
    /// To be appended.
    pub(crate) additional_gids: Vec<u32>,
    pub(crate) selinux_label: Option<String>,
    pub(crate) apparmor_profile: Option<String>,
    pub(crate) no_new_privileges: Option<bool>,
    /// To be added to the bounding, effective and permitted set, and to the ambient one if that is not empty.
    pub(crate) capabilities: Vec<String>,
}

/// Makes the command that `verb` and what was found after it mean.
pub(super) fn build(verb: &Verb, mut found: Matches) -> Result<Command> {
    let path = |name| found.value(name).map(PathBuf::from);
    Ok(match verb.name {
        "checkpoint" => Command::Checkpoint(images::checkpoint(&found)?),
        "create" => Command::Create(create(&found)?),
        "restore" => Command::Restore(images::restore(&found)?),
        "run" => Command::Run(Run {
            create: create(&found)?,
            detach: found.on("detach"),
            keep: found.on("keep"),
            no_subreaper: found.on("no-subreaper"),
        }),
        "start" => Command::Start { id: id(&found)? },
        "state" => Command::State { id: id(&found)? },
        "pause" => Command::Pause { id: id(&found)? },
        "resume" => Command::Resume { id: id(&found)? },
        "delete" => Command::Delete {
            whom: whom(&found)?,
            force: found.on("force"),
        },
        "kill" => Command::Kill {
            whom: whom(&found)?,
            signal: signal(&found)?,
            all: found.on("all"),
        },
        "list" => Command::List {
            format: format(&found)?,
            quiet: found.on("quiet"),
        },
        "ps" => Command::Ps {
            id: id(&found)?,
            format: format(&found)?,
            options: found.args.split_off(1),
        },
        "exec" => Command::Exec(exec(&found)?),
        "update" => Command::Update(resources::update(&found, id(&found)?)?),
        "events" => Command::Events {
            id: id(&found)?,
            interval: interval(&found)?,
            stats: found.on("stats"),
        },
        "spec" => Command::Spec {
            file: path("file").unwrap_or_else(|| {
                let bundle = path("bundle").unwrap_or_else(|| ".".into());
                bundle.join("config.json")
            }),
            rootless: found.on("rootless"),
        },
        "features" => Command::Features,
        "mounts" => mounts(verb, &found)?,
        "check" => Command::Check {
            bundle: path("bundle").unwrap_or_else(|| ".".into()),
            json: json(&found)?,
        },
        "seccomp" if found.args[0] == "dump" => {
            let raw = found.on("raw");
            match (path("profile"), found.args.get(1)) {
                (Some(profile), None) => Command::SeccompDump { profile, raw },
                (None, Some(id)) => Command::SeccompDumpOf {
                    id: ContainerId::new(argument(id)?)?,
                    raw,
                },
                _ => return Err(usage("seccomp dump needs a container or --profile")),
            }
        }
        _ => return Err(no_topic(verb, &found)),
    })
}

/// For a word behind a command that it does not know.
fn no_topic(verb: &Verb, found: &Matches) -> Error {
    let word = found.args[0].display();
    usage(format!("No help topic for '{} {word}'", verb.name))
}

fn mounts(verb: &Verb, found: &Matches) -> Result<Command> {
    let change = match found.args[0].to_str() {
        Some("add") => MountsChange::Add,
        Some("remove") => MountsChange::Remove,
        _ => return Err(no_topic(verb, found)),
    };
    Ok(Command::Mounts {
        change,
        id: ContainerId::new(argument(&found.args[1])?)?,
        file: PathBuf::from(&found.args[2]),
    })
}

pub(super) fn create(found: &Matches) -> Result<Create> {
    let path = |name| {
        found
            .value(name)
            .filter(|p| !p.is_empty())
            .map(PathBuf::from)
    };
    Ok(Create {
        id: id(found)?,
        bundle: path("bundle").unwrap_or_else(|| ".".into()),
        config: path("config"),
        console_socket: path("console-socket"),
        pidfd_socket: path("pidfd-socket"),
        pid_file: path("pid-file"),
        no_pivot: found.on("no-pivot"),
        no_new_keyring: found.on("no-new-keyring"),
        preserve_fds: preserve_fds(found)?,
        dry_run: dry_run(found)?,
    })
}

fn dry_run(found: &Matches) -> Result<Option<DryRun>> {
    let form = match json(found)? {
        true => DryRun::Json,
        false => DryRun::Text,
    };
    Ok(found.on("dry-run").then_some(form))
}

fn exec(found: &Matches) -> Result<Exec> {
    let path = |name| {
        found
            .value(name)
            .filter(|p| !p.is_empty())
            .map(PathBuf::from)
    };
    Ok(Exec {
        id: id(found)?,
        process: match path("process") {
            Some(file) => ExecProcess::File(file),
            None => ExecProcess::Changed(process_changes(found)?),
        },
        detach: found.on("detach"),
        console_socket: path("console-socket"),
        pidfd_socket: path("pidfd-socket"),
        pid_file: path("pid-file"),
        preserve_fds: preserve_fds(found)?,
        cgroup: cgroup(found)?,
        ignore_paused: found.on("ignore-paused"),
    })
}

fn process_changes(found: &Matches) -> Result<ProcessChanges> {
    // An empty value is none, as with runc: scripts pass variables that may be empty.
    let given = |name| Ok::<_, Error>(found.text(name)?.filter(|text| !text.is_empty()));
    let owned = |name| Ok::<_, Error>(given(name)?.map(str::to_owned));
    let args: Vec<_> = found.args[1..]
        .iter()
        .map(|arg| argument(arg).map(str::to_owned))
        .collect::<Result<_>>()?;
    if args.is_empty() {
        return Err(usage("process args cannot be empty"));
    }
    Ok(ProcessChanges {
        args,
        terminal: found.on("tty"),
        cwd: owned("cwd")?,
        env: found.texts("env")?.into_iter().map(str::to_owned).collect(),
        user: given("user")?.map(str::parse).transpose()?,
        additional_gids: found
            .texts("additional-gids")?
            .into_iter()
            .map(values::gid)
            .collect::<Result<_>>()?,
        selinux_label: owned("process-label")?,
        apparmor_profile: owned("apparmor")?,
        no_new_privileges: found.switch("no-new-privs"),
        capabilities: found.texts("cap")?.into_iter().map(str::to_owned).collect(),
    })
}

fn interval(found: &Matches) -> Result<Duration> {
    const DEFAULT: Duration = Duration::from_secs(5);
    found
        .text("interval")?
        .map_or(Ok(DEFAULT), values::interval)
}

/// Version 2 has one hierarchy, so there is one path and no controller in front of it.
fn cgroup(found: &Matches) -> Result<Option<PathBuf>> {
    let (path, rest) = match found.texts("cgroup")?.as_slice() {
        [] => return Ok(None),
        [path, rest @ ..] => (path.to_string(), rest.len()),
    };
    if rest > 0 || path.contains(':') {
        return Err(usage(format!(
            "invalid --cgroup argument: {path}: with cgroup v2 there is one path for all controllers"
        )));
    }
    if path.is_empty() {
        return Ok(None);
    }
    if Path::new(&path)
        .components()
        .any(|c| c == Component::ParentDir)
    {
        return Err(usage(format!(
            "invalid --cgroup argument: {path} is not a sub cgroup path"
        )));
    }
    Ok(Some(path.into()))
}

pub(super) fn id(found: &Matches) -> Result<ContainerId> {
    ContainerId::new(argument(&found.args[0])?)
}

fn whom(found: &Matches) -> Result<Whom> {
    match found.on("regex") {
        true => Ok(Whom::Matching(argument(&found.args[0])?.to_owned())),
        false => id(found).map(Whom::One),
    }
}

fn signal(found: &Matches) -> Result<Signal> {
    match found.args.get(1) {
        None => Ok(Signal::TERM),
        Some(text) => argument(text)?.parse(),
    }
}

fn format(found: &Matches) -> Result<Format> {
    found.text("format")?.map_or(Ok(Format::Table), str::parse)
}

/// Whether `--format` says json: of the commands whose default is text.
fn json(found: &Matches) -> Result<bool> {
    match found.text("format")? {
        None | Some("text") => Ok(false),
        Some("json") => Ok(true),
        Some(_) => Err(usage("invalid format option")),
    }
}

fn preserve_fds(found: &Matches) -> Result<u32> {
    let Some(text) = found.text("preserve-fds")? else {
        return Ok(0);
    };
    let number = values::decimal(text).and_then(|n| u32::try_from(n).ok());
    number.ok_or_else(|| {
        usage(format!(
            "invalid value {text:?} for flag -preserve-fds: parse error"
        ))
    })
}

fn argument(arg: &OsStr) -> Result<&str> {
    arg.to_str()
        .ok_or_else(|| Error::new(Kind::Usage, format!("invalid argument {arg:?}: not UTF-8")))
}
