//! The command line: argv → [`Command`]. No I/O but reading files that options name.
#![expect(
    rustdoc::broken_intra_doc_links,
    reason = "what is said of options is their help, in which brackets are just that"
)]

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, CommandFactory as _, Parser, Subcommand};

use super::arguments::Options;
use super::connection::{Daemon, Place};
use super::terminal::DetachKeys;
use super::{complete, containers, copy, images, lists, prune, run, system};
use crate::fault::Result;
use crate::host::STATE;
use crate::store::ROOT;

#[derive(Debug, Parser)]
#[command(
    name = "caissonctl",
    version,
    about = "Run containers, through caissond, which is started if it does not run",
    max_term_width = 120,
    args_override_self = true
)]
pub(super) struct Cli {
    /// The daemon's socket [caissond.sock in the state directory]
    #[arg(
        long,
        short = 'H',
        global = true,
        value_name = "SOCKET",
        env = "CAISSON_ADDRESS",
        hide_env = true
    )]
    address: Option<String>,
    /// Where a daemon that is started keeps what survives a reboot
    #[arg(long, global = true, default_value = ROOT, hide_default_value = true, hide = true)]
    root: PathBuf,
    /// Where a daemon that is started keeps what does not
    #[arg(long, global = true, default_value = STATE, hide_default_value = true, hide = true)]
    state: PathBuf,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    #[command(flatten)]
    Verb(Box<Verb>),
    /// List images
    Images(Images),
    /// Remove images
    Rmi(Rmi),
    /// Give an image another name
    Tag { image: String, name: String },
    /// Take images out of an archive
    Load(Load),
    /// Put images into an archive
    Save(Save),
    /// Show how an image was made
    History(History),
    /// Take a root file system out of an archive, as an image
    Import(Import),
    /// Show all about containers, images or volumes, as JSON
    Inspect(InspectAny),
    /// Containers
    #[command(subcommand)]
    Container(ContainerCommand),
    /// Images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Volumes
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// The daemon and its disk
    #[command(subcommand)]
    System(SystemCommand),
    /// Show what happens
    Events(Events),
    /// Show what the daemon has
    Info(Formatted),
    /// Show the versions of client and daemon
    Version(Formatted),
    /// What may stand in the place of the last word, for shells
    #[command(hide = true)]
    Complete {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

// What is said of it would become that of all commands.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Make a container and start it
    Run(Run),
    /// Make a container, not running yet
    Create(Create),
    /// Start containers
    Start(Start),
    /// Stop containers: the stop signal, and SIGKILL after a timeout
    Stop(Stop),
    /// Stop containers and start them again
    Restart(Stop),
    /// Send a signal to containers
    Kill(Kill),
    /// Remove containers
    #[command(alias = "remove")]
    Rm(Rm),
    /// Wait until containers have ended, and print their exit codes
    Wait(Names),
    /// Freeze all processes of containers
    Pause(Names),
    /// Wake them up again
    Unpause(Names),
    /// Give a container another name
    Rename { container: String, name: String },
    /// Change limits and the restart policy of containers
    Update(Update),
    /// List containers
    Ps(Ps),
    /// Show what a container wrote
    Logs(Logs),
    /// Attach to a running container
    Attach(Attach),
    /// Run another process in a container
    Exec(Exec),
    /// List the processes of a container
    Top {
        container: String,
        /// For ps, which has to show pids
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Show which ports of the host lead to a container's: none
    Port {
        container: String,
        /// PORT[/PROTOCOL]
        port: Option<String>,
    },
    /// Show what containers use
    Stats(Stats),
    /// List what a container has changed of its image's files
    Diff { container: String },
    /// Copy files between a container and here
    Cp(Cp),
    /// Write a container's root file system into an archive
    Export(Export),
    /// Make an image of a container: its image, and what it has changed
    Commit(Commit),
}

#[derive(Debug, Subcommand)]
pub(super) enum ContainerCommand {
    #[command(flatten)]
    Verb(Box<Verb>),
    /// List containers
    #[command(alias = "list")]
    Ls(Ps),
    /// Show all about containers, as JSON
    Inspect(InspectContainers),
    /// Remove all containers that have ended
    Prune(Prune),
}

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(super) struct Run {
    /// Do not wait for its end: print its id
    #[arg(long, short)]
    pub(super) detach: bool,
    #[command(flatten)]
    pub(super) attached: Attached,
    #[command(flatten)]
    pub(super) create: CreateArguments,
}

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(super) struct Create {
    #[command(flatten)]
    pub(super) create: CreateArguments,
}

#[derive(Debug, Args)]
pub(super) struct CreateArguments {
    #[arg(long, action = ArgAction::Help, help = "Print help")]
    help: Option<bool>,
    #[command(flatten)]
    pub(super) options: Options,
    pub(super) image: String,
    /// Instead of the image's command
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) command: Vec<String>,
}

/// How a terminal or standard streams are attached.
#[derive(Debug, Args)]
pub(super) struct Attached {
    /// Keys to leave with
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q", value_parser = DetachKeys::parse)]
    pub(super) detach_keys: DetachKeys,
    /// Pass signals on to the process, unless it has a terminal
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(super) sig_proxy: bool,
}

#[derive(Debug, Args)]
pub(super) struct Start {
    /// Attach to it
    #[arg(long, short)]
    pub(super) attach: bool,
    /// Attach standard input too
    #[arg(long, short)]
    pub(super) interactive: bool,
    #[command(flatten)]
    pub(super) attached: Attached,
    #[arg(required = true)]
    pub(super) containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Stop {
    /// Seconds before SIGKILL
    #[arg(long, short = 't', alias = "time", value_name = "SECONDS", allow_negative_numbers = true, value_parser = super::arguments::seconds)]
    pub(super) timeout: Option<u32>,
    /// Instead of the container's stop signal
    #[arg(long, short, default_value = "", hide_default_value = true)]
    pub(super) signal: String,
    #[arg(required = true)]
    pub(super) containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Kill {
    /// By name or number
    #[arg(long, short, default_value = "KILL")]
    pub(super) signal: String,
    #[arg(required = true)]
    pub(super) containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Rm {
    /// Kill those that run
    #[arg(long, short)]
    pub(super) force: bool,
    /// Their volumes without a name too
    #[arg(long, short)]
    pub(super) volumes: bool,
    #[arg(required = true)]
    pub(super) containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Names {
    #[arg(required = true)]
    pub(super) containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Update {
    #[command(flatten)]
    pub(super) limits: Option<super::arguments::Limits>,
    /// no, on-failure[:N], always or unless-stopped
    #[arg(long, value_name = "POLICY")]
    pub(super) restart: Option<String>,
    #[arg(required = true)]
    pub(super) containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Ps {
    /// Those that do not run too
    #[arg(long, short)]
    pub(super) all: bool,
    /// Only ids
    #[arg(long, short)]
    pub(super) quiet: bool,
    /// Whole ids and commands
    #[arg(long)]
    pub(super) no_trunc: bool,
    /// The newest one, in any state
    #[arg(long, short)]
    pub(super) latest: bool,
    /// So many of the newest ones, in any state
    #[arg(
        long,
        short = 'n',
        value_name = "NUMBER",
        allow_negative_numbers = true
    )]
    pub(super) last: Option<i64>,
    /// With what they take of the disk
    #[arg(long, short)]
    pub(super) size: bool,
    /// name=, id=, status=, label=, ancestor=, exited=, volume=, network=, before=, since=
    #[arg(long, short, value_name = "FILTER")]
    pub(super) filter: Vec<String>,
    /// json, or a template: '{{.ID}} {{.Names}}'
    #[arg(long, value_name = "FORMAT")]
    pub(super) format: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// json, or a template: '{{.State.Pid}}'
    #[arg(long, short, value_name = "FORMAT")]
    pub(super) format: Option<String>,
    #[arg(required = true)]
    pub(super) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct InspectContainers {
    /// With what they take of the disk
    #[arg(long, short)]
    pub(super) size: bool,
    #[command(flatten)]
    pub(super) inspect: Inspect,
}

#[derive(Debug, Args)]
pub(super) struct InspectAny {
    /// container, image or volume: only such are looked for
    #[arg(long = "type", value_name = "KIND", value_parser = ["container", "image", "volume"])]
    pub(super) kind: Option<String>,
    #[command(flatten)]
    pub(super) containers: InspectContainers,
}

#[derive(Debug, Args)]
pub(super) struct Logs {
    /// Go on as it writes more
    #[arg(long, short)]
    pub(super) follow: bool,
    /// So many lines from the end, or all
    #[arg(long, short = 'n', default_value = "all", allow_hyphen_values = true)]
    pub(super) tail: String,
    /// What was written since a time (2026-11-26T08:00:00Z; without a zone, of yours), or so long ago (10m)
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(super) since: Option<String>,
    /// What was written until a time
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(super) until: Option<String>,
    /// With the times
    #[arg(long, short)]
    pub(super) timestamps: bool,
    /// Nothing is added: no log driver keeps more
    #[arg(long, hide = true)]
    details: bool,
    pub(super) container: String,
}

#[derive(Debug, Args)]
pub(super) struct Attach {
    /// Do not attach standard input
    #[arg(long)]
    pub(super) no_stdin: bool,
    #[command(flatten)]
    pub(super) attached: Attached,
    pub(super) container: String,
}

#[derive(Debug, Args)]
pub(super) struct Exec {
    /// Do not wait for its end
    #[arg(long, short)]
    pub(super) detach: bool,
    /// With standard input
    #[arg(long, short)]
    pub(super) interactive: bool,
    /// With a terminal
    #[arg(long, short)]
    pub(super) tty: bool,
    /// A variable; a name alone takes the value from here
    #[arg(long, short, value_name = "NAME=VALUE")]
    pub(super) env: Vec<String>,
    /// Variables, one a line
    #[arg(long, value_name = "FILE")]
    pub(super) env_file: Vec<PathBuf>,
    /// USER[:GROUP], instead of the container's
    #[arg(long, short, default_value = "", hide_default_value = true)]
    pub(super) user: String,
    /// Instead of the container's
    #[arg(long, short, default_value = "", hide_default_value = true)]
    pub(super) workdir: String,
    /// With all capabilities
    #[arg(long)]
    pub(super) privileged: bool,
    /// Keys to leave with
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q", value_parser = DetachKeys::parse)]
    pub(super) detach_keys: DetachKeys,
    pub(super) container: String,
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) command: Vec<String>,
}

/// Into a container that is there, running or not, and out of it, by the rules of docker cp. A container's paths are seen from its root. Files
/// become root's there, and yours here, unless --archive keeps the ids of their owners.
#[derive(Debug, Args)]
pub(super) struct Cp {
    /// Keep the ids of owners
    #[arg(long, short)]
    pub(super) archive: bool,
    /// Follow a link at the end of the source's path
    #[arg(long, short = 'L')]
    pub(super) follow_link: bool,
    /// Nothing is said in any case
    #[arg(long, short, hide = true)]
    quiet: bool,
    /// CONTAINER:PATH, a path, or - for a tar archive on standard input
    pub(super) source: OsString,
    /// CONTAINER:PATH, a path, or - for a tar archive on standard output
    pub(super) target: OsString,
}

/// As it is at that moment, running or not. Volumes and other mounts are not in it. image import takes it.
#[derive(Debug, Args)]
pub(super) struct Export {
    /// A file; otherwise, standard output
    #[arg(long, short)]
    pub(super) output: Option<PathBuf>,
    pub(super) container: String,
}

/// Volumes and other mounts are not in it.
#[derive(Debug, Args)]
pub(super) struct Commit {
    /// Who made the change
    #[arg(long, short, default_value = "", hide_default_value = true)]
    pub(super) author: String,
    /// What the image's history says of it
    #[arg(long, short, default_value = "", hide_default_value = true)]
    pub(super) message: String,
    /// An instruction of a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR
    #[arg(long, short, value_name = "INSTRUCTION")]
    pub(super) change: Vec<String>,
    /// Freeze it while its files are read
    #[arg(long, short, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(super) pause: bool,
    pub(super) container: String,
    /// REPOSITORY[:TAG]
    pub(super) name: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Stats {
    /// Those that do not run too
    #[arg(long, short)]
    pub(super) all: bool,
    /// Once
    #[arg(long)]
    pub(super) no_stream: bool,
    /// json, or a template
    #[arg(long, value_name = "FORMAT")]
    pub(super) format: Option<String>,
    pub(super) containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Formatted {
    /// json, or a template
    #[arg(long, short, value_name = "FORMAT")]
    pub(super) format: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Images {
    /// All are shown in any case
    #[arg(long, short, hide = true)]
    all: bool,
    /// Only ids
    #[arg(long, short)]
    pub(super) quiet: bool,
    /// Whole ids
    #[arg(long)]
    pub(super) no_trunc: bool,
    /// With the manifests' digests
    #[arg(long)]
    pub(super) digests: bool,
    /// json, or a template
    #[arg(long, value_name = "FORMAT")]
    pub(super) format: Option<String>,
    /// reference=PATTERN, dangling=, label=, before=IMAGE, since=IMAGE, until=TIME
    #[arg(long, short, value_name = "FILTER")]
    pub(super) filter: Vec<String>,
    /// Only those of this name, which may be a pattern
    pub(super) name: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Rmi {
    /// All its names, although a container uses it; not by its id while one runs
    #[arg(long, short)]
    pub(super) force: bool,
    #[arg(required = true)]
    pub(super) images: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Load {
    /// An archive or a directory; otherwise, standard input
    #[arg(long, short)]
    pub(super) input: Option<PathBuf>,
    /// No progress
    #[arg(long, short)]
    pub(super) quiet: bool,
}

#[derive(Debug, Args)]
pub(super) struct Import {
    /// An archive, a directory, or - for standard input
    pub(super) file: PathBuf,
    /// The image's name, instead of that in the archive
    pub(super) name: Option<String>,
    /// An instruction of a Dockerfile, for a root file system: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR
    #[arg(long, short, value_name = "INSTRUCTION")]
    pub(super) change: Vec<String>,
    /// What the image's history says of it, for a root file system
    #[arg(long, short, default_value = "", hide_default_value = true)]
    pub(super) message: String,
    /// Only ids
    #[arg(long, short)]
    pub(super) quiet: bool,
}

#[derive(Debug, Args)]
pub(super) struct Save {
    /// A file; otherwise, standard output
    #[arg(long, short)]
    pub(super) output: Option<PathBuf>,
    /// A name without a tag stands for all of its tags, and an id for the image without names
    #[arg(required = true)]
    pub(super) images: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct History {
    /// Only ids
    #[arg(long, short)]
    pub(super) quiet: bool,
    /// Sizes and times as people read them
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(super) human: bool,
    /// Whole ids and commands
    #[arg(long)]
    pub(super) no_trunc: bool,
    /// json, or a template
    #[arg(long, value_name = "FORMAT")]
    pub(super) format: Option<String>,
    pub(super) image: String,
}

#[derive(Debug, Subcommand)]
pub(super) enum ImageCommand {
    /// Take images out of an archive: an OCI layout, what docker save writes, or a root file system
    Import(Import),
    /// Put images into an archive, an OCI layout that docker load takes too
    Export(Save),
    /// List images
    #[command(alias = "list")]
    Ls(Images),
    /// Take images out of an archive
    Load(Load),
    /// Put images into an archive
    Save(Save),
    /// Remove images
    #[command(alias = "remove")]
    Rm(Rmi),
    /// Show all about images, as JSON
    Inspect(Inspect),
    /// Give an image another name
    Tag { image: String, name: String },
    /// Show how an image was made
    History(History),
    /// Remove images without a name, or all that no container uses
    Prune(PruneAll),
    /// Compare what is stored with its digests
    Verify(Verify),
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// Unpack damaged layers again
    #[arg(long)]
    pub(super) repair: bool,
    pub(super) images: Vec<String>,
}

#[derive(Debug, Args)]
// A command of the same name has it flattened.
#[group(skip)]
pub(super) struct Prune {
    /// Do not ask
    #[arg(long, short)]
    pub(super) force: bool,
    /// Only those: label=NAME[=VALUE], label!=NAME[=VALUE], until=TIME
    #[arg(long, value_name = "NAME=VALUE")]
    pub(super) filter: Vec<String>,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct PruneAll {
    /// All that is not used, not only what has no name
    #[arg(long, short)]
    pub(super) all: bool,
    #[command(flatten)]
    pub(super) prune: Prune,
}

#[derive(Debug, Subcommand)]
pub(super) enum VolumeCommand {
    /// Make a volume
    Create {
        /// What it is found by later
        #[arg(long, value_name = "NAME=VALUE")]
        label: Vec<String>,
        /// local
        #[arg(long, short, default_value = "local", value_name = "DRIVER")]
        driver: String,
        /// There are none
        #[arg(long, short, hide = true)]
        opt: Vec<String>,
        /// As Docker used to have it
        #[arg(long = "name", hide = true, conflicts_with = "name")]
        name_option: Option<String>,
        name: Option<String>,
    },
    /// List volumes
    #[command(alias = "list")]
    Ls {
        /// Only names
        #[arg(long, short)]
        quiet: bool,
        /// name=, label=, dangling=, driver=
        #[arg(long, short, value_name = "FILTER")]
        filter: Vec<String>,
        /// json, or a template
        #[arg(long, value_name = "FORMAT")]
        format: Option<String>,
    },
    /// Show all about volumes, as JSON
    Inspect(Inspect),
    /// Remove volumes
    #[command(alias = "remove")]
    Rm {
        /// Those that are not there are no error
        #[arg(long, short)]
        force: bool,
        #[arg(required = true)]
        volumes: Vec<String>,
    },
    /// Remove volumes that no container uses: those without a name, or all
    Prune(PruneAll),
}

#[derive(Debug, Subcommand)]
pub(super) enum SystemCommand {
    /// Show what is on the disk
    Df {
        /// Each thing, and why it is kept
        #[arg(long, short)]
        verbose: bool,
        /// json, or a template
        #[arg(long, value_name = "FORMAT")]
        format: Option<String>,
    },
    /// Remove what is not used: ended containers, images without a name (or all unused ones), and volumes if asked to
    Prune {
        #[command(flatten)]
        prune: PruneAll,
        /// Volumes without a name too
        #[arg(long)]
        volumes: bool,
    },
    /// Show what happens
    Events(Events),
    /// Show what the daemon has
    Info(Formatted),
}

#[derive(Debug, Args)]
pub(super) struct Events {
    /// Those after this cursor first
    #[arg(long, value_name = "CURSOR")]
    pub(super) after: Option<u64>,
    /// Those since a time, or so long ago
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(super) since: Option<String>,
    /// End at a time; what has happened is shown then, and nothing is waited for
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(super) until: Option<String>,
    /// type=, event=, container=, image=, volume=
    #[arg(long, short, value_name = "FILTER")]
    pub(super) filter: Vec<String>,
    /// json, or a template
    #[arg(long, value_name = "FORMAT")]
    pub(super) format: Option<String>,
}

impl Command {
    /// Its exit code is that of a process.
    pub(super) fn runs_processes(&self) -> bool {
        let (Self::Verb(verb) | Self::Container(ContainerCommand::Verb(verb))) = self else {
            return false;
        };
        matches!(**verb, Verb::Run(_) | Verb::Create(_) | Verb::Exec(_))
    }
}

impl Cli {
    pub(super) async fn run(self) -> Result<u8> {
        let address = self
            .address
            .map(|address| PathBuf::from(address.strip_prefix("unix://").unwrap_or(&address)));
        // The daemon is started elsewhere.
        let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        let place = Place {
            address,
            root: absolute(self.root),
            state: absolute(self.state),
        };
        if let Command::Complete { words } = &self.command {
            let mut root = Self::command();
            root.build();
            return complete::run(&root, place, words).await;
        }
        let daemon = Daemon::connect(&place).await?;
        let daemon = &daemon;
        match self.command {
            Command::Verb(verb) => verb.run(daemon).await,
            Command::Container(command) => command.run(daemon).await,
            Command::Inspect(arguments) => lists::inspect(daemon, arguments).await,
            Command::Import(arguments) => images::import_rootfs(daemon, arguments).await,
            Command::Images(arguments) => images::list(daemon, arguments).await,
            Command::Rmi(arguments) => images::remove(daemon, arguments).await,
            Command::Tag { image, name } => images::tag(daemon, image, name).await,
            Command::Load(arguments) => images::load(daemon, arguments).await,
            Command::Save(arguments) => images::save(daemon, arguments).await,
            Command::History(arguments) => images::history(daemon, arguments).await,
            Command::Image(command) => images::image(daemon, command).await,
            Command::Volume(command) => system::volume(daemon, command).await,
            Command::System(command) => system::system(daemon, command).await,
            Command::Events(arguments) => system::events(daemon, arguments).await,
            Command::Info(arguments) => system::info(daemon, arguments).await,
            Command::Version(arguments) => system::version(daemon, arguments).await,
            // Taken above.
            Command::Complete { .. } => Ok(0),
        }
    }
}

impl ContainerCommand {
    async fn run(self, daemon: &Daemon) -> Result<u8> {
        match self {
            Self::Verb(verb) => verb.run(daemon).await,
            Self::Ls(arguments) => lists::ps(daemon, arguments).await,
            Self::Inspect(containers) => {
                let kind = Some("container".to_owned());
                lists::inspect(daemon, InspectAny { kind, containers }).await
            }
            Self::Prune(arguments) => prune::of_containers(daemon, &arguments).await,
        }
    }
}

impl Verb {
    async fn run(self, daemon: &Daemon) -> Result<u8> {
        match self {
            Self::Run(arguments) => run::run(daemon, arguments).await,
            Self::Create(arguments) => run::create(daemon, arguments).await,
            Self::Start(arguments) => run::start(daemon, arguments).await,
            Self::Attach(arguments) => run::attach(daemon, arguments).await,
            Self::Exec(arguments) => run::exec(daemon, arguments).await,
            Self::Cp(arguments) => copy::copy(daemon, arguments).await,
            Self::Export(arguments) => copy::export(daemon, arguments).await,
            Self::Ps(arguments) => lists::ps(daemon, arguments).await,
            other => containers::run(daemon, other).await,
        }
    }
}
