//! The commands: one short module for each verb. Each finds the container, checks its status, does one thing and saves.
//!
//! Runs in the runtime command's process. A command that changes a container holds the lock on its directory while it does; those that
//! only look (`state`, `list`, `ps`) or that act through a pidfd (`kill`, `exec`) take none, so that hooks may call them.

mod check;
mod checkpoint;
mod complete;
mod create;
mod criu;
mod delete;
mod events;
mod exec;
mod features;
mod freeze;
mod kill;
mod list;
mod mounts;
mod pid_file;
mod pidfd_socket;
mod ps;
mod restore;
mod run;
mod seccomp;
mod spec;
mod start;
mod state;
mod update;

use crate::cgroup::{Cgroup, Saved};
use crate::cli::{Command, Global, Whom};
use crate::host::Host;
use crate::inherited::Inherited;
use crate::log::Log;
use crate::notify_socket::{self, NotifySocket};
use crate::output::print;
use crate::report::{Context as _, Error, Kind, Result};
use crate::spawn::Child;
use crate::state::{ContainerId, Directory, Root, State, Status};
use crate::trace::Trace;
use oci_spec::runtime::Spec;
use regex::Regex;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

/// What every command works with.
#[derive(Debug)]
struct Context<'a> {
    global: &'a Global,
    log: &'a Log,
    trace: &'a Trace,
    inherited: Inherited,
    root: Root,
}

/// Carries a command out and returns the exit code.
pub(crate) fn execute(
    global: &Global,
    command: Command,
    inherited: Inherited,
    log: &Log,
    trace: &Trace,
) -> Result<u8> {
    let context = Context {
        global,
        log,
        trace,
        inherited,
        root: Root::open(&global.root, global.root_is_xdg)?,
    };
    match command {
        Command::Print(text) => print(&text)?,
        Command::Complete(offer) => print(&complete::run(&offer))?,
        Command::Checkpoint(request) => checkpoint::run(&context, &request)?,
        Command::Create(request) => create::run(&context, &request)?,
        Command::Restore(request) => return restore::run(&context, &request),
        Command::Run(request) => return run::run(&context, &request),
        Command::Start { id } => start::run(&context, &id)?,
        Command::State { id } => print(&state::run(&context.root, &id, |state| {
            context.frozen(state)
        })?)?,
        Command::List { format, quiet } => {
            print(&list::run(&context.root, format, quiet, log, |state| {
                context.frozen(state)
            })?)?;
        }
        Command::Ps {
            id,
            format,
            options,
        } => print(&ps::run(&context.pids(&id)?, format, &options)?)?,
        Command::Kill { whom, signal, all } => {
            context.each(&whom, |id| kill::run(&context, id, signal, all))?;
        }
        Command::Delete { whom, force } => {
            context.each(&whom, |id| delete::run(&context, id, force))?;
        }
        Command::Exec(request) => return exec::run(&context, &request),
        Command::Update(request) => update::run(&context, &request)?,
        Command::Events {
            id,
            interval,
            stats,
        } => events::run(&context, &id, interval, stats)?,
        Command::Spec { file, rootless } => {
            let host = context.host()?;
            spec::run(
                &file,
                rootless.then_some(spec::User {
                    uid: host.euid,
                    gid: host.egid,
                }),
            )?;
        }
        Command::Check { bundle, json } => return check::run(&context, &bundle, json),
        Command::Features => print(&features::run()?)?,
        Command::Mounts { change, id, file } => mounts::run(&context, &id, &file, change)?,
        Command::Pause { id } => freeze::pause(&context, &id)?,
        Command::Resume { id } => freeze::resume(&context, &id)?,
        Command::SeccompDump { profile, raw } => seccomp::dump_profile(&profile, raw)?,
        Command::SeccompDumpOf { id, raw } => seccomp::dump_container(&context, &id, raw)?,
    }
    Ok(0)
}

impl Context<'_> {
    /// Does it to one container, or to all whose ids match. Of these, what fails is told and keeps it from none of the others, as with crun.
    fn each(&self, whom: &Whom, act: impl Fn(&ContainerId) -> Result<()>) -> Result<()> {
        let pattern = match whom {
            Whom::One(id) => return act(id),
            Whom::Matching(pattern) => pattern,
        };
        let matcher = Regex::new(pattern).map_err(|error| {
            let text = format!("invalid regular expression {pattern:?}: {error}");
            Error::new(Kind::Usage, text)
        })?;
        for id in self.root.ids()? {
            if matcher.is_match(id.as_str())
                && let Err(error) = act(&id)
            {
                self.log.warn(format_args!("{error}, ignoring"));
            }
        }
        Ok(())
    }

    /// How the error of a command begins. By runc's name it does as runc's, whose words people search for.
    fn failed(&self, verb: &str, what: &str, id: &str) -> String {
        match self.global.as_runc {
            true => format!("runc {verb} failed"),
            false => format!("{what} container '{id}'"),
        }
    }

    fn host(&self) -> Result<Host> {
        Host::probe()
    }

    /// The container's cgroup; None if it has none or if it is gone.
    fn cgroup(&self, state: &State) -> Result<Option<Cgroup>> {
        match saved_cgroup(state)? {
            Some(saved) => Cgroup::open(&saved),
            None => Ok(None),
        }
    }

    fn status(&self, directory: &Directory, state: &State) -> Result<Status> {
        directory.status(state, |state| self.frozen(state))
    }

    /// Refuses to change a container that is not there yet, or no more.
    fn living(&self, directory: &Directory, state: &State) -> Result<()> {
        match self.status(directory, state)? {
            Status::Stopped => Err(not_running()),
            Status::Creating => {
                let text = "the container is still being created";
                Err(Error::new(Kind::State, text))
            }
            Status::Created | Status::Running | Status::Paused => Ok(()),
        }
    }

    /// Writes what is known by now, before something that may take long.
    fn write_trace(&self) {
        if let Err(error) = self.trace.write() {
            self.log.warn(format!("{error}, ignoring"));
        }
    }

    /// At debug level, what init is going to do.
    fn log_plan(&self, plan: &crate::plan::Plan) {
        for (number, step) in plan.steps.iter().enumerate() {
            self.log.debug(|| format!("step {number}: {step}"));
        }
        if let Some(cpus) = &plan.birth.cpus {
            let mask = crate::plan::hex(cpus);
            self.log
                .debug(|| format!("nsexec container setup: affinity: {mask}"));
        }
        self.log.debug(|| {
            let new = crate::plan::names(plan.birth.flags);
            format!("nsexec container setup: cloning init, new namespaces: {new}")
        });
    }

    /// At debug level, that init is there, and as a warning, what it has not been given. The phases are called what they are in runc's log, for those who look for them.
    fn log_birth(&self, child: &Child) {
        let pid = child.pid;
        self.log
            .debug(|| format!("child process in init(): pid {pid} carries out the steps"));
        if let Some(what) = &child.not_given {
            self.log.warn(format!("{what}, ignoring"));
        }
    }

    /// The notify socket of a container that is about to be started, if it was created with one and the caller wants to be notified.
    fn notify_socket(&self, directory: &Directory) -> Result<Option<NotifySocket>> {
        let Some(supervisor) = notify_socket::supervisor() else {
            return Ok(None);
        };
        let Some(directory) = directory.notify()? else {
            return Ok(None);
        };
        // A variable that was inherited may well name a socket that has gone: as with runc, the container runs all the same.
        match NotifySocket::open(&directory, &supervisor) {
            Ok(socket) => Ok(Some(socket)),
            Err(error) => {
                self.log.warn(format!("{error}, ignoring"));
                Ok(None)
            }
        }
    }

    /// Waits for a started container to be ready. That a supervisor cannot be told changes nothing about the container, which runs.
    fn await_ready(&self, socket: Option<NotifySocket>, pid: i32, pidfd: &OwnedFd) {
        match socket.map(|socket| socket.wait(pid, pidfd)) {
            None | Some(Ok(true)) => {}
            Some(Ok(false)) => self
                .log
                .warn("the supervisor at NOTIFY_SOCKET does not close the barrier, ignoring"),
            Some(Err(error)) => self.log.warn(format!("{error}, ignoring")),
        }
    }

    fn frozen(&self, state: &State) -> Result<bool> {
        match self.cgroup(state)? {
            Some(cgroup) => cgroup.is_frozen(),
            None => Ok(false),
        }
    }

    /// The processes of a container; those of a container without a cgroup are not known, but for its init.
    fn pids(&self, id: &ContainerId) -> Result<Vec<i32>> {
        let state = self.root.load(id)?;
        match self.cgroup(&state)? {
            Some(cgroup) => Ok(cgroup
                .processes()?
                .into_iter()
                .map(nix::unistd::Pid::as_raw)
                .collect()),
            None => Ok(state
                .init
                .filter(|init| init.is_alive().unwrap_or(false))
                .map(|init| init.pid)
                .into_iter()
                .collect()),
        }
    }
}

/// The text of a file; that of `-` is standard input.
fn read_or_stdin(path: &Path) -> Result<Vec<u8>> {
    let text = if path == Path::new("-") {
        let mut text = Vec::new();
        std::io::stdin().read_to_end(&mut text).map(|_| text)
    } else {
        std::fs::read(path)
    };
    text.context(|| format!("read {}", path.display()))
}

/// Engines look for these words.
fn not_running() -> Error {
    Error::new(Kind::State, "container not running")
}

fn saved_cgroup(state: &State) -> Result<Option<Saved>> {
    serde_json::from_value(state.cgroup.clone()).map_err(|e| {
        Error::new(
            Kind::System,
            format!(
                "parse the cgroup in state.json of container '{}': {e}",
                state.id
            ),
        )
    })
}

/// The state as hooks read it on their standard input, with this status and pid, if there still is a process (runtime-spec, runtime.md "State").
fn hook_state(state: &State, status: Status, pid: Option<&str>) -> Result<Vec<u8>> {
    #[derive(serde::Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Hooked<'a> {
        oci_version: &'a str,
        id: &'a str,
        status: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        pid: Option<Box<serde_json::value::RawValue>>,
        bundle: &'a std::path::Path,
        #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
        annotations: &'a std::collections::BTreeMap<String, String>,
    }
    let wrong =
        |e: serde_json::Error| Error::new(Kind::System, format!("write the state for hooks: {e}"));
    let pid = pid.map(|pid| serde_json::value::RawValue::from_string(pid.to_owned()));
    let hooked = Hooked {
        oci_version: &state.oci_version,
        id: state.id.as_str(),
        status: status.to_string(),
        pid: pid.transpose().map_err(wrong)?,
        bundle: &state.bundle,
        annotations: &state.annotations,
    };
    serde_json::to_vec(&hooked).map_err(wrong)
}

/// The same in front of and behind the pid, where that is not known yet.
fn state_around_pid(state: &State, status: Status) -> Result<[Vec<u8>; 2]> {
    const MARK: &str = "-7777777";
    let text = hook_state(state, status, Some(MARK))?;
    let mark = format!("\"pid\":{MARK}");
    let at = text.windows(mark.len()).position(|w| w == mark.as_bytes());
    let at = at.ok_or_else(|| Error::new(Kind::System, "no pid in the state for hooks"))?
        + "\"pid\":".len();
    Ok([text[..at].to_vec(), text[at + MARK.len()..].to_vec()])
}

/// Our annotation: after how many seconds a hook without a timeout is warned of.
const HOOK_WARN_AFTER: &str = "dev.caisson.hook-warn-after";

/// crun's annotations: files that hooks' output is appended to.
const HOOK_OUTPUTS: [&str; 2] = ["run.oci.hooks.stdout", "run.oci.hooks.stderr"];

/// How the container's hooks are run: in the bundle, whoever runs them, and as the container's annotations say.
fn hook_manner<'a>(
    annotations: &BTreeMap<String, String>,
    bundle: &'a Path,
    warn: &'a dyn Fn(String),
) -> Result<crate::hooks::Manner<'a>> {
    let [stdout, stderr] = HOOK_OUTPUTS.map(|name| {
        let path = annotations.get(name).map(Path::new);
        path.map(crate::hooks::HookOutput::open).transpose()
    });
    Ok(crate::hooks::Manner {
        // The bundle may be gone by now, and what the hooks have set up must be taken down nonetheless.
        dir: if bundle.is_dir() {
            bundle
        } else {
            Path::new("/")
        },
        outputs: [stdout?, stderr?],
        warn_after: hook_warn_after(annotations.get(HOOK_WARN_AFTER))?,
        warn,
        creates: None,
    })
}

fn hook_warn_after(seconds: Option<&String>) -> Result<Option<Duration>> {
    let Some(text) = seconds else { return Ok(None) };
    let seconds = text.parse::<u32>().ok().filter(|seconds| *seconds > 0);
    let seconds = seconds.ok_or_else(|| {
        Error::invalid(format!(
            "annotation {HOOK_WARN_AFTER}: {text:?} is not a number of seconds"
        ))
    })?;
    Ok(Some(Duration::from_secs(seconds.into())))
}

/// The same as init takes it.
fn hook_warn_ms(seconds: Option<&String>) -> Result<Option<i32>> {
    let after = hook_warn_after(seconds)?;
    Ok(after.map(|after| i32::try_from(after.as_millis()).unwrap_or(i32::MAX)))
}

/// The hooks of one kind in a config.
fn hooks(spec: &Spec, kind: crate::hooks::Kind) -> &[oci_spec::runtime::Hook] {
    use crate::hooks::Kind as K;
    let list = spec.hooks().as_ref().and_then(|hooks| match kind {
        K::Prestart => hooks.prestart().as_deref(),
        K::CreateRuntime => hooks.create_runtime().as_deref(),
        K::StartContainer => hooks.start_container().as_deref(),
        K::Poststart => hooks.poststart().as_deref(),
        K::Poststop => hooks.poststop().as_deref(),
    });
    list.unwrap_or_default()
}
