//! What `checkpoint` and `restore` have in common: finding and starting CRIU, and the options that both have.

use super::Context;
use crate::cgroup::Cgroup;
use crate::cli::Images;
use crate::criu::wire::{Message, opts};
use crate::criu::{Criu, quote};
use crate::host::Host;
use crate::plan::{self, Plan};
use crate::report::{Context as _, Error, Kind, Result};
use crate::resctrl::Group;
use crate::spawn::{self, Child, Surroundings};
use crate::state::{Locked, State};
use crate::sys::signal::{Exit, wait_pidfd};
use crate::sys::socket;
use nix::unistd::{AccessFlags, access};
use oci_spec::runtime::Spec;
use std::ffi::{CString, OsString};
use std::fs::{DirBuilder, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Where programs are for a caller without PATH: Podman is one.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The program, found in PATH.
#[derive(Debug)]
pub(super) struct Program {
    path: PathBuf,
    search: OsString,
}

impl Program {
    pub(super) fn find() -> Result<Program> {
        let search = std::env::var_os("PATH").filter(|path| !path.is_empty());
        let search = search.unwrap_or_else(|| PATH.into());
        let candidates = std::env::split_paths(&search).filter(|dir| dir.is_absolute());
        let mut candidates = candidates.map(|dir| dir.join("criu"));
        let is_program =
            |path: &PathBuf| path.is_file() && access(path.as_path(), AccessFlags::X_OK).is_ok();
        match candidates.find(is_program) {
            Some(path) => Ok(Program { path, search }),
            None => Err(Error::new(
                Kind::Unsupported,
                "CRIU version check failed: exec: \"criu\": executable file not found in $PATH",
            )),
        }
    }

    /// Our own environment; CRIU looks in it for tools of its own.
    fn environment(&self) -> Vec<CString> {
        let others = std::env::vars_os().filter(|(name, _)| name != "PATH");
        let all = others.chain([("PATH".into(), self.search.clone())]);
        let text = all.map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
        // The kernel has handed them over as such strings.
        text.filter_map(|text| CString::new(text).ok()).collect()
    }
}

/// In what CRIU is to run.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) host: &'a Host,
    pub(super) cgroup: Option<&'a Cgroup>,
    pub(super) resctrl: Option<&'a Group>,
    pub(super) directory: &'a Locked,
}

/// Starts CRIU as the plan has it, which `make` makes of the program with these descriptors. What runs is in `child`, whatever becomes of it.
pub(super) fn start(
    context: &Context<'_>,
    program: &Program,
    passed: &[i32],
    directories: &Directories,
    place: Place<'_>,
    child: &mut Option<Child>,
    make: impl FnOnce(plan::criu::Program<'_>) -> Result<Plan>,
) -> Result<Criu> {
    let (ours, theirs) = socket::pair().context(|| "create a socket pair")?;
    let plan = make(plan::criu::Program {
        path: &program.path,
        environment: program.environment(),
        socket: theirs.as_raw_fd(),
        passed,
        directories: &directories.numbers(),
    })?;
    context.log_plan(&plan);
    let around = Surroundings {
        cgroup: place.cgroup,
        resctrl: place.resctrl,
        lock: Some(place.directory.lock_fd()),
        ..Surroundings::none(place.host, context.trace)
    };
    let child = child.insert(spawn::spawn(plan, around)?);
    // Or a CRIU that dies would be no end of file.
    drop(theirs);
    child
        .until_executed(place.host, &|_| {}) // it has no hooks
        .context(|| format!("start {}", program.path.display()))?;
    let criu = Criu::begin(&ours)?;
    context
        .log
        .debug(|| format!("using CRIU {}", criu.version()));
    Ok(criu)
}

/// Ends the conversation and waits for the end of CRIU. A pre-dump is no success to it, since no dump followed.
pub(super) fn finish(criu: Criu, child: &Child, must_succeed: bool) -> Result<()> {
    drop(criu);
    let exit = wait_pidfd(&child.pidfd).context(|| "wait for criu")?.exit;
    match exit {
        Exit::Code(0) => Ok(()),
        _ if !must_succeed => Ok(()),
        Exit::Code(code) => Err(Error::new(
            Kind::System,
            format!("criu failed: exit status {code}"),
        )),
        Exit::Signal { number, .. } => Err(Error::new(
            Kind::System,
            format!("criu failed: killed by signal {number}"),
        )),
    }
}

/// The directories that CRIU works in.
#[derive(Debug)]
pub(super) struct Directories {
    images: OpenDirectory,
    work: Option<OpenDirectory>,
    log: PathBuf,
}

#[derive(Debug)]
struct OpenDirectory {
    path: PathBuf,
    /// Open for the sake of its number.
    fd: OwnedFd,
}

impl OpenDirectory {
    fn new(path: &Path) -> Result<OpenDirectory> {
        let story = || format!("open directory {}", path.display());
        Ok(OpenDirectory {
            path: std::path::absolute(path).context(story)?,
            fd: File::open(path).context(story)?.into(),
        })
    }
}

impl Directories {
    /// Opens them, and makes that of logs if it is not there.
    pub(super) fn open(request: &Images, log: &str) -> Result<Directories> {
        let images = OpenDirectory::new(&request.path)?;
        let work = match &request.work_path {
            Some(path) => {
                make(path)?;
                Some(OpenDirectory::new(path)?)
            }
            None => None,
        };
        let log = work.as_ref().unwrap_or(&images).path.join(log);
        Ok(Directories { images, work, log })
    }

    fn numbers(&self) -> Vec<(i32, PathBuf)> {
        let all = [Some(&self.images), self.work.as_ref()];
        let one = |directory: &OpenDirectory| (directory.fd.as_raw_fd(), directory.path.clone());
        all.into_iter().flatten().map(one).collect()
    }

    /// A file beside the images.
    pub(super) fn image(&self, name: &str) -> PathBuf {
        self.images.path.join(name)
    }

    /// Quotes CRIU's log as warnings, and names it in the error.
    pub(super) fn explain(&self, context: &Context<'_>, error: Error) -> Error {
        let quoted = quote(&self.log);
        quoted.iter().for_each(|line| context.log.warn(line));
        if quoted.is_empty() {
            return error;
        }
        let text = format!("{error}, log file: {}", self.log.display());
        Error::new(error.kind(), text)
    }
}

/// Makes a directory with those above it. One that is there is taken.
pub(super) fn make(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.context(|| format!("make directory {}", path.display()))
}

/// The file that stdio of a saved process is kept in, beside CRIU's images: runc's.
pub(super) const DESCRIPTORS: &str = "descriptors.json";

/// The options that are the same for both.
pub(super) fn options(request: &Images, directories: &Directories, state: &State) -> Message {
    const VERBOSE: i64 = 4;
    let mut message = Message::default();
    let number = |directory: &OpenDirectory| i64::from(directory.fd.as_raw_fd());
    message.number(opts::IMAGES_DIR_FD, number(&directories.images));
    if let Some(work) = &directories.work {
        message.number(opts::WORK_DIR_FD, number(work));
    }
    message.number(opts::LOG_LEVEL, VERBOSE);
    let log = directories.log.file_name().unwrap_or_default();
    message.text(opts::LOG_FILE, log.as_bytes());
    message.switch(opts::NOTIFY_SCRIPTS, true);
    message.switch(opts::MANAGE_CGROUPS, true);
    message.number(opts::MANAGE_CGROUPS_MODE, request.cgroups as i64);
    if let Some(method) = request.network_lock {
        message.number(opts::NETWORK_LOCK, method as i64);
    }
    message.switch(opts::SHELL_JOB, request.shell_job);
    message.switch(opts::TCP_ESTABLISHED, request.tcp_established);
    message.switch(opts::EXT_UNIX_SK, request.ext_unix_sk);
    message.switch(opts::FILE_LOCKS, request.file_locks);
    message.switch(opts::AUTO_DEDUP, request.auto_dedup);
    message.switch(opts::LAZY_PAGES, request.lazy_pages);
    // The devices and addresses of a network namespace are the business of whoever has set them up.
    message.number(opts::EMPTY_NS, libc::CLONE_NEWNET.into());
    if let Some(file) = config_file(state) {
        message.text(opts::CONFIG_FILE, file);
    }
    message
}

/// CRIU's configuration for this container: that of the annotation, which is none if it is empty. One that is not there is none to CRIU.
fn config_file(state: &State) -> Option<&str> {
    const ANNOTATION: &str = "org.criu.config";
    const DEFAULT: &str = "/etc/criu/runc.conf";
    match state.annotations.get(ANNOTATION).map(String::as_str) {
        None => Some(DEFAULT),
        Some("") => None,
        Some(file) => Some(file),
    }
}

/// CRIU may be of no use to who is not root on the host.
pub(super) fn warn_if_rootless(context: &Context<'_>, host: &Host) {
    if host.euid != 0 || !host.initial_user_namespace {
        context
            .log
            .warn("runc checkpoint is untested with rootless containers");
    }
}

/// What the plan for CRIU is to know of the host.
pub(super) fn plan_options<'a>(
    state: &'a State,
    host: &'a Host,
    cgroup: Option<(&'a Path, &'a Path)>,
) -> plan::mounts::Outside<'a> {
    plan::mounts::Outside {
        bundle: &state.bundle,
        rootfs: &state.rootfs,
        host,
        cgroup_root: cgroup.map(|(root, _)| root),
        cgroup_path: cgroup.map(|(_, path)| path),
    }
}

/// The environment variable and mount that a container with a notify socket has besides its config.
pub(super) fn extend(spec: &mut Spec, directory: &Locked) -> Result<()> {
    if directory.notify()?.is_some() {
        crate::notify_socket::extend(spec, &directory.path().join("notify"));
    }
    Ok(())
}
