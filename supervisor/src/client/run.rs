//! `run`, `create`, `start`, `attach` and `exec`: processes, and what is attached to them.

use std::io::Write as _;
use std::pin::pin;

use tokio::sync::mpsc;
use ttrpc::r#async::{CSReceiver, CSSender};

use super::arguments::{Options, environment};
use super::cli::{Attach, Attached, Create, Exec, Run, Start};
use super::connection::{Daemon, patient};
use super::lists::inspected;
use super::process::{self, Caught, DEADLY, Ends, Over};
use super::{print, terminal};
use crate::fault::{Fault, Kind, Result, Tried as _};
use crate::protos::containers::{
    AttachRequest, AttachResponse, Config, CreateContainerRequest, ExecRequest,
    KillContainerRequest, Mount, RemoveContainerRequest, StartContainerRequest, attach_request,
    attach_response, exec_request, mount,
};

/// The program was started, and the user left.
const LEFT: u8 = 0;
/// As of a program that writes into a pipe without a reader.
const UNWANTED: u8 = 128 + libc::SIGPIPE as u8;

pub(super) async fn run(daemon: &Daemon, arguments: Run) -> Result<u8> {
    let mut config = arguments
        .create
        .options
        .config(&arguments.create.image, &arguments.create.command)?;
    if config.terminal && config.interactive && !arguments.detach {
        needs_terminal("leave out -t")?;
    }
    let attach = &arguments.create.options.attach;
    if arguments.detach && !attach.is_empty() {
        return Err(Fault::new(
            "conflicting options: cannot specify both --attach and --detach",
        ));
    }
    let mut streams = Streams::of(attach);
    streams.stdin &= config.interactive;
    config.keep_stdin = arguments.detach || !streams.stdin;
    let goes = config.auto_remove;
    let mut caught = Caught::default();
    if goes {
        caught.add(&DEADLY)?;
    }
    let making = made(daemon, &arguments.create.options, config);
    let id = made_or_gone(daemon, making, &mut caught).await?;
    let starting = async {
        if !arguments.detach && !streams.stdout && !streams.stderr {
            print(&format!("{id}\n"))?;
        }
        if arguments.detach {
            start_one(daemon, &id).await?;
            return Ok(None);
        }
        begin(daemon, to_start(&id), streams).await.map(Some)
    };
    let begun = tokio::select! {
        biased;
        number = caught.next() => {
            remove(daemon, &id, true, &mut caught).await?;
            return terminal::end_by(number);
        }
        begun = starting => begun,
    };
    if begun.is_err() && goes {
        // The daemon has done so already if it was the start that failed, which is the fault to report.
        remove(daemon, &id, false, &mut caught).await.ok();
    }
    match begun? {
        Some(begun) => follow(daemon, begun, &arguments.attached, caught).await,
        None => {
            print(&format!("{id}\n"))?;
            Ok(0)
        }
    }
}

/// What goes with its end is not to stay because its user has left before its begin.
async fn made_or_gone(
    daemon: &Daemon,
    making: impl Future<Output = Result<String>>,
    caught: &mut Caught,
) -> Result<String> {
    let mut making = pin!(making);
    let number = tokio::select! {
        id = &mut making => return id,
        number = caught.next() => number,
    };
    // The daemon's answer says what there is to remove. Who does not want to wait for that says so again.
    let id = tokio::select! {
        id = making => id?,
        number = caught.next() => return terminal::end_by(number),
    };
    remove(daemon, &id, true, caught).await?;
    terminal::end_by(number)
}

/// As far as it is there, and the user waits for it.
async fn remove(daemon: &Daemon, id: &str, force: bool, caught: &mut Caught) -> Result<()> {
    let request = RemoveContainerRequest {
        container: id.into(),
        force,
        volumes: true,
        ..Default::default()
    };
    let removed = tokio::select! {
        removed = daemon.containers.remove(patient(), &request) => removed.map_err(Fault::from),
        _ = caught.next() => return Ok(()),
    };
    match removed {
        Err(fault) if fault.kind != Kind::NotFound => {
            Err(fault.during(format_args!("remove container {id}")))
        }
        _ => Ok(()),
    }
}

/// What a container is attached to as it starts.
fn to_start(id: &str) -> attach_request::To {
    attach_request::To {
        container: id.into(),
        start: true,
        size: terminal::size().into(),
        ..Default::default()
    }
}

/// For input that a container takes from a terminal of its own.
fn needs_terminal(hint: &str) -> Result<()> {
    let fault = || Fault::new(format!("the input device is not a terminal: {hint}"));
    terminal::is_input().then_some(()).ok_or_else(fault)
}

/// What is attached of a container's.
#[derive(Clone, Copy)]
struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
}

impl Streams {
    /// As `--attach` has them; without it, all.
    fn of(words: &[String]) -> Self {
        let has = |name: &str| {
            words.is_empty() || words.iter().any(|word| word.eq_ignore_ascii_case(name))
        };
        Self {
            stdin: has("stdin"),
            stdout: has("stdout"),
            stderr: has("stderr"),
        }
    }

    /// All, or all but input.
    fn all(stdin: bool) -> Self {
        Self {
            stdin,
            ..Self::of(&[])
        }
    }
}

pub(super) async fn create(daemon: &Daemon, arguments: Create) -> Result<u8> {
    let config = arguments
        .create
        .options
        .config(&arguments.create.image, &arguments.create.command)?;
    let id = made(daemon, &arguments.create.options, config).await?;
    print(&format!("{id}\n"))?;
    Ok(0)
}

/// Makes it, and writes its id down if that is wanted: into a file that was not there.
async fn made(daemon: &Daemon, options: &Options, mut config: Config) -> Result<String> {
    add_mounts_of(daemon, &options.volumes_from, &mut config).await?;
    let name = options.name.clone();
    let Some(path) = &options.cidfile else {
        return create_one(daemon, name, config).await;
    };
    let mut file = std::fs::File::create_new(path).tried(|| format!("make {}", path.display()))?;
    match create_one(daemon, name, config).await {
        Ok(id) => {
            file.write_all(id.as_bytes())
                .tried(|| format!("write {}", path.display()))?;
            Ok(id)
        }
        Err(fault) => {
            // What could not be made is to be reported; an empty file would be in the way of the next attempt.
            std::fs::remove_file(path).ok();
            Err(fault)
        }
    }
}

/// What the container says itself of a place counts.
async fn add_mounts_of(daemon: &Daemon, others: &[String], config: &mut Config) -> Result<()> {
    for word in others {
        let (name, mode) = word.split_once(':').unwrap_or((word, "rw"));
        if !matches!(mode, "ro" | "rw") {
            return Err(Fault::new(format!(
                "volumes from '{word}': it is CONTAINER, CONTAINER:ro or CONTAINER:rw"
            )));
        }
        let other = inspected(daemon, name, false).await?;
        for mount in &other.container.config.mounts {
            let there = |one: &Mount| one.target == mount.target;
            if mount.kind == mount::Kind::TMPFS.into() || config.mounts.iter().any(there) {
                continue;
            }
            let mut mount = mount.clone();
            mount.read_only |= mode == "ro";
            config.mounts.push(mount);
        }
    }
    Ok(())
}

async fn create_one(daemon: &Daemon, name: String, config: Config) -> Result<String> {
    let image = config.image.clone();
    let request = CreateContainerRequest {
        name,
        config: Some(config).into(),
        ..Default::default()
    };
    match daemon
        .containers
        .create(patient(), &request)
        .await
        .map_err(Fault::from)
    {
        Ok(response) => {
            for warning in &response.warnings {
                super::say(&Fault::unknown(format!("warning: {warning}")));
            }
            Ok(response.id)
        }
        Err(fault) if fault.kind == Kind::NotFound && fault.text.contains(&image) => {
            Err(Fault::of(
                fault.kind,
                format!(
                    "{fault} (see caissonctl images; caissonctl image import FILE takes one out of an archive)"
                ),
            ))
        }
        Err(fault) => Err(fault),
    }
}

async fn start_one(daemon: &Daemon, container: &str) -> Result<()> {
    let request = StartContainerRequest {
        container: container.into(),
        ..Default::default()
    };
    daemon.containers.start(patient(), &request).await?;
    Ok(())
}

pub(super) async fn start(daemon: &Daemon, arguments: Start) -> Result<u8> {
    if arguments.attach || arguments.interactive {
        let [container] = &arguments.containers[..] else {
            return Err(Fault::new("only one container can be attached to at once"));
        };
        let streams = Streams::all(arguments.interactive);
        let begun = begin(daemon, to_start(container), streams).await?;
        return follow(daemon, begun, &arguments.attached, Caught::default()).await;
    }
    super::containers::each(&arguments.containers, async |name| {
        start_one(daemon, name).await
    })
    .await
}

pub(super) async fn attach(daemon: &Daemon, arguments: Attach) -> Result<u8> {
    let container = inspected(daemon, &arguments.container, false).await?;
    let container = container.container.unwrap_or_default();
    let to = attach_request::To {
        container: container.id.clone(),
        size: terminal::size().into(),
        ..Default::default()
    };
    let streams = Streams::all(container.config.interactive && !arguments.no_stdin);
    if streams.stdin && container.config.terminal {
        // The end of another input would be that of a shell.
        needs_terminal("use --no-stdin")?;
    }
    let begun = begin(daemon, to, streams).await?;
    follow(daemon, begun, &arguments.attached, Caught::default()).await
}

/// Attached to a container, which runs.
struct Begun {
    container: String,
    streams: Streams,
    terminal: bool,
    sender: CSSender<AttachRequest>,
    receiver: CSReceiver<AttachResponse>,
}

async fn begin(daemon: &Daemon, mut to: attach_request::To, streams: Streams) -> Result<Begun> {
    to.stdin = streams.stdin;
    let container = to.container.clone();
    let (sender, mut receiver) = daemon.containers.attach(patient()).await?.split();
    sender
        .send(&AttachRequest {
            of: Some(attach_request::Of::To(to)),
            ..Default::default()
        })
        .await?;
    let first = first(&mut receiver).await?;
    Ok(Begun {
        container,
        streams,
        terminal: first.terminal,
        sender,
        receiver,
    })
}

/// Until it ends, with its exit code, or until the user leaves.
async fn follow(daemon: &Daemon, begun: Begun, attached: &Attached, caught: Caught) -> Result<u8> {
    let Begun {
        container,
        streams,
        terminal,
        sender,
        mut receiver,
    } = begun;
    let (signals, mut passed) = mpsc::unbounded_channel();
    let ends = Ends {
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
        detach_keys: &attached.detach_keys,
        signals: attached.sig_proxy.then_some(&signals),
    };
    let passing = async {
        while let Some(number) = passed.recv().await {
            let request = KillContainerRequest {
                container: container.clone(),
                signal: number.to_string(),
                ..Default::default()
            };
            // One that has just ended needs none.
            daemon.containers.kill(patient(), &request).await.ok();
        }
        std::future::pending::<Result<Over>>().await
    };
    let over = tokio::select! {
        over = process::attached(&sender, &mut receiver, terminal, &ends, caught) => over?,
        over = passing => over?,
    };
    Ok(code(over))
}

/// What it is that is attached.
async fn first(receiver: &mut CSReceiver<AttachResponse>) -> Result<attach_response::Attached> {
    loop {
        match receiver.recv().await.map_err(process::unknown)?.of {
            Some(attach_response::Of::Attached(first)) => return Ok(first),
            // It only looks whether we are still there.
            None => {}
            _ => return Err(Fault::unknown("the daemon does not say what is attached")),
        }
    }
}

pub(super) async fn exec(daemon: &Daemon, arguments: Exec) -> Result<u8> {
    if arguments.tty && arguments.interactive && !arguments.detach {
        needs_terminal("leave out -t")?;
    }
    let asked = exec_request::Process {
        container: arguments.container,
        args: arguments.command,
        env: environment(&arguments.env_file, &arguments.env)?,
        user: arguments.user,
        working_dir: arguments.workdir,
        terminal: arguments.tty,
        stdin: arguments.interactive,
        privileged: arguments.privileged,
        detach: arguments.detach,
        size: terminal::size().into(),
        ..Default::default()
    };
    let (sender, mut receiver) = daemon.containers.exec(patient()).await?.split();
    sender
        .send(&ExecRequest {
            of: Some(exec_request::Of::Process(asked)),
            ..Default::default()
        })
        .await?;
    let first = first(&mut receiver).await?;
    if arguments.detach {
        return Ok(0);
    }
    let ends = Ends {
        stdin: arguments.interactive,
        stdout: true,
        stderr: true,
        detach_keys: &arguments.detach_keys,
        signals: None,
    };
    let caught = Caught::default();
    let over = process::attached(&sender, &mut receiver, first.terminal, &ends, caught).await?;
    Ok(code(over))
}

fn code(over: Over) -> u8 {
    match over {
        Over::Ended(code) => u8::try_from(code & 0xff).unwrap_or(u8::MAX),
        Over::Detached => LEFT,
        Over::Unwanted => UNWANTED,
    }
}
