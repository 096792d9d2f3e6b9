//! `checkpoint`: has CRIU save the processes of a container in files.

use super::criu::{self, DESCRIPTORS, Directories, Place, Program};
use super::{Context, delete};
use crate::cgroup::Cgroup;
use crate::cli;
use crate::criu::Criu;
use crate::criu::wire::{Features, Message, Type, opts};
use crate::host::Host;
use crate::plan::criu::{Foreign, check, dump, externals, foreign, masked};
use crate::plan::mounts::{Outside, c_path};
use crate::report::{Context as _, Error, Kind, Result};
use crate::spawn::Child;
use crate::spec;
use crate::state::{Locked, State, Status};
use crate::sys::{Errno, fs};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use oci_spec::runtime::Spec;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const LOG: &str = "dump.log";

/// The `checkpoint` command.
pub(super) fn run(context: &Context<'_>, request: &cli::Checkpoint) -> Result<()> {
    let host = context.host()?;
    criu::warn_if_rootless(context, &host);
    let directory = context.root.lock(&request.id)?;
    let state = directory.load()?;
    let status = context.status(&directory, &state)?;
    if !matches!(status, Status::Running | Status::Paused) {
        let text = format!("Container cannot be checkpointed in {status} state");
        return Err(Error::new(Kind::State, text));
    }
    save(context, request, &directory, &state, &host)
        .context(|| format!("checkpoint container '{}'", request.id))?;
    if request.leave_running || request.pre_dump {
        return Ok(());
    }
    // CRIU has waited for the ends of all, unless its own configuration says to leave them.
    if context.status(&directory, &state)? != Status::Stopped {
        let text = "unable to destroy container: container still running";
        context.log.warn(text);
        return Ok(());
    }
    // It is saved, and its processes are gone: what is left of it is not worth to fail for.
    let spec = directory.config().and_then(|text| spec::parse(&text));
    let spec = spec.map(|parsed| parsed.value).ok();
    if let Err(error) = delete::destroy(context, directory, &state, spec.as_ref()) {
        context.log.warn(format!("{error}, ignoring"));
    }
    Ok(())
}

fn save(
    context: &Context<'_>,
    request: &cli::Checkpoint,
    directory: &Locked,
    state: &State,
    host: &Host,
) -> Result<()> {
    make_directories(request)?;
    let status_fd = request.status_fd.filter(|_| request.images.lazy_pages);
    let status_fd = status_fd.map(take_status_fd).transpose()?;
    let mut spec = spec::parse(&directory.config()?)?.value;
    criu::extend(&mut spec, directory)?;
    let cgroup = context.cgroup(state)?;
    let path = cgroup.as_ref().map(Cgroup::host_path);
    let view = cgroup.as_ref().map(Cgroup::mountpoint).zip(path.as_deref());
    let options = criu::plan_options(state, host, view);
    check(&spec, &options)?;
    let program = Program::find()?;
    let directories = Directories::open(&request.images, LOG)?;
    let place = Place {
        host,
        cgroup: None,
        resctrl: None,
        directory,
    };
    let mut child = None;
    let job = Job {
        context,
        request,
        state,
        spec: &spec,
        options,
        freezer: path.as_deref(),
        status_fd,
    };
    let done = criu::start(
        context,
        &program,
        &[],
        &directories,
        place,
        &mut child,
        dump,
    )
    .and_then(|criu| job.carry_out(criu, &directories, child.as_ref()));
    done.inspect_err(|_| child.iter().for_each(Child::kill))
}

fn make_directories(request: &cli::Checkpoint) -> Result<()> {
    criu::make(&request.images.path)?;
    let Some(parent) = &request.parent_path else {
        return Ok(());
    };
    let parent = request.images.path.join(parent);
    let story = || format!("invalid --parent-path: stat {}", parent.display());
    let found = std::fs::metadata(&parent).context(story)?;
    match found.is_dir() {
        true => Ok(()),
        false => Err(Error::os(story(), Errno::ENOTDIR)),
    }
}

/// The descriptor that is told when pages are served. Who waits at its other end waits for its last copy to be closed, too.
fn take_status_fd(number: i32) -> Result<OwnedFd> {
    let story = || format!("invalid --status-fd argument {number}");
    let fd = fs::duplicate(number).context(story)?;
    let flags = fcntl(&fd, FcntlArg::F_GETFL).context(story)?;
    let mode = OFlag::from_bits_truncate(flags) & OFlag::O_ACCMODE;
    if mode == OFlag::O_RDONLY {
        let text = format!("{}: not writable", story());
        return Err(Error::new(Kind::Usage, text));
    }
    fs::close_number(number);
    Ok(fd)
}

/// All that a dump depends on.
struct Job<'a> {
    context: &'a Context<'a>,
    request: &'a cli::Checkpoint,
    state: &'a State,
    spec: &'a Spec,
    options: Outside<'a>,
    /// The container's cgroup, by which CRIU stops its processes.
    freezer: Option<&'a Path>,
    status_fd: Option<OwnedFd>,
}

impl Job<'_> {
    fn carry_out(
        mut self,
        criu: Criu,
        directories: &Directories,
        child: Option<&Child>,
    ) -> Result<()> {
        let kind = if self.request.pre_dump {
            Type::PreDump
        } else {
            Type::Dump
        };
        require_features(&criu, self.request)?;
        let message = self.message(&criu, directories)?;
        if !self.request.pre_dump {
            self.save_descriptors(directories)?;
        }
        let mut status_fd = self.status_fd.take();
        let told = |notify: &crate::criu::wire::Notify, _| {
            let script = notify.script.as_str();
            self.context.log.debug(|| format!("notify: {script}"));
            if script == "status-ready"
                && let Some(fd) = status_fd.take()
                && let Err(errno) = fs::write(&fd, b"\0")
            {
                let text = format!("can't write \\0 to status fd: {}, ignoring", errno.desc());
                self.context.log.warn(text);
            }
            Ok(())
        };
        let worked = criu.work(kind, &message, told);
        worked.map_err(|error| directories.explain(self.context, error))?;
        match child {
            Some(child) => criu::finish(criu, child, !self.request.pre_dump),
            None => Ok(()),
        }
    }

    fn message(&self, criu: &Criu, directories: &Directories) -> Result<Message> {
        let request = self.request;
        let mut message = criu::options(&request.images, directories, self.state);
        message.text(opts::ROOT, self.state.rootfs.as_os_str().as_bytes());
        message.number(opts::PID, self.state.pid().unwrap_or_default().into());
        message.switch(opts::LEAVE_RUNNING, request.leave_running);
        message.switch(opts::TCP_SKIP_IN_FLIGHT, request.tcp_skip_in_flight);
        message.switch(opts::LINK_REMAP, request.link_remap);
        message.switch(opts::ORPHAN_PTS_MASTER, true);
        // Otherwise CRIU stops them one by one, by ptrace(2).
        if let Some(freezer) = self.freezer.filter(|_| criu.is_at_least(31400)) {
            message.text(opts::FREEZE_CGROUP, freezer.as_os_str().as_bytes());
        }
        if let Some(server) = &request.page_server {
            message.named(opts::PAGE_SERVER, &server.address, server.port.into());
        }
        if let Some(parent) = &request.parent_path {
            message.text(opts::PARENT_IMG, parent.as_os_str().as_bytes());
            message.switch(opts::TRACK_MEM, true);
        }
        // Before, it does not notify, but writes to a descriptor of its own.
        if self.status_fd.is_some() && !criu.is_at_least(31500) {
            let text = "--status-fd requires at least CRIU 3.15";
            return Err(Error::new(Kind::Unsupported, text));
        }
        self.add_namespaces(criu, &mut message)?;
        if !request.pre_dump {
            self.add_mounts(&mut message)?;
        }
        Ok(message)
    }

    /// Namespaces that are not the container's own stay when it goes.
    fn add_namespaces(&self, criu: &Criu, message: &mut Message) -> Result<()> {
        for namespace in foreign(self.spec)? {
            let Foreign::External { kind, key, path } = namespace else {
                continue;
            };
            criu.require_external(kind, "checkpointing")?;
            let stat = nix::sys::stat::stat(path)
                .context(|| format!("look at namespace {}", path.display()))?;
            message.text(opts::EXTERNAL, format!("{kind}[{}]:{key}", stat.st_ino));
        }
        Ok(())
    }

    /// CRIU names mounts by where they are in the end, and keeps the name that we give them: where the config has them.
    fn add_mounts(&self, message: &mut Message) -> Result<()> {
        let pid = self.state.pid().unwrap_or_default();
        let path = format!("/proc/{pid}/root");
        let root = fs::open_follow(fs::CWD, &c_path(&path)?, libc::O_PATH)
            .context(|| format!("open {path}"))?;
        for external in externals(self.spec, &self.options)? {
            if let Some((place, _)) = resolve(&root, &external.target)? {
                let name = external.target.as_os_str().as_bytes();
                message.pair(opts::EXT_MNT, place, name);
            }
        }
        for masked in masked(self.spec) {
            // Over a directory is a file system of its own.
            if let Some((place, false)) = resolve(&root, &masked)? {
                message.pair(opts::EXT_MNT, place, "/dev/null");
            }
        }
        Ok(())
    }

    /// What the first process had as standard streams, by which `restore` knows which of its own to give it.
    fn save_descriptors(&self, directories: &Directories) -> Result<()> {
        let pid = self.state.pid().unwrap_or_default();
        let target = |number| {
            let link = std::fs::read_link(format!("/proc/{pid}/fd/{number}"));
            // It may have closed it.
            link.map(|path| path.to_string_lossy().into_owned())
                .unwrap_or_default()
        };
        let targets: [String; 3] = [0, 1, 2].map(target);
        let path = directories.image(DESCRIPTORS);
        let story = || format!("write {}", path.display());
        let text = serde_json::to_vec(&targets)
            .map_err(|error| Error::new(Kind::System, format!("{}: {error}", story())))?;
        // That of an earlier dump to the same place.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).context(story);
            }
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let written = options
            .open(&path)
            .and_then(|mut file| file.write_all(&text));
        written.context(story)
    }
}

/// Where a path leads in a container's root, and whether a directory is there. None: nothing is.
fn resolve(root: &OwnedFd, path: &Path) -> Result<Option<(Vec<u8>, bool)>> {
    let story = || format!("look at {} of the container", path.display());
    let flags = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
    let c_path = c_path(path)?;
    let found = match fs::openat2(root, &c_path, libc::O_PATH, 0, flags) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
        found => found.context(story)?,
    };
    let is_directory = fs::stat(&found).context(story)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
    let place = std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()));
    let place = place.context(story)?;
    Ok(Some((place.as_os_str().as_bytes().to_vec(), is_directory)))
}

/// What the flags need of CRIU and the kernel.
fn require_features(criu: &Criu, request: &cli::Checkpoint) -> Result<()> {
    let wanted = Features {
        mem_track: request.pre_dump.then_some(true),
        lazy_pages: request.images.lazy_pages.then_some(true),
    };
    match wanted == Features::default() {
        true => Ok(()),
        false => criu.require(&wanted),
    }
}
