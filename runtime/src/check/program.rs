//! The program and the hooks: whether they are there, and whether who is to execute them may.

use super::tree::{Entry, Place, Tree};
use super::{Findings, Subject};
use crate::plan::namespaces::{IdMaps, host_id};
use crate::plan::process::exec_error;
use crate::plan::{Op, Step};
use crate::report::Error;
use crate::sys::{self, Errno, fs};
use oci_spec::runtime::Hook;
use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;

const CAP_DAC_OVERRIDE: u64 = 1 << 1;
const CAP_DAC_READ_SEARCH: u64 = 1 << 2;

/// Looks for the program of the process and for every hook.
pub(super) fn look(subject: &Subject<'_>, tree: &Tree, findings: &mut Findings) {
    program(subject, tree, findings);
    let hooks = subject.spec.hooks().as_ref();
    let lists = hooks.map(|hooks| {
        [
            ("prestart", hooks.prestart()),
            ("createRuntime", hooks.create_runtime()),
            ("poststart", hooks.poststart()),
            ("poststop", hooks.poststop()),
        ]
    });
    for (kind, list) in lists.into_iter().flatten() {
        for (at, hook) in list.iter().flatten().enumerate() {
            host_hook(kind, at, hook, subject, findings);
        }
    }
    let user = User::root(subject);
    for step in &subject.plan.steps {
        let Step::Hook(call) = step else { continue };
        let found = match call.kind {
            "startContainer" => find(tree, &call.path, &user),
            _ => host_program(&call.path),
        };
        if let Err(errno) = found {
            let path = call.path.to_string_lossy();
            let text = format!("{} hook #{}: exec {path}", call.kind, call.index);
            let field = format!("hooks.{}[{}].path", call.kind, call.index);
            findings.error(Error::os(text, errno).in_field(field));
        }
    }
}

/// A hook that the runtime command runs, in the bundle.
fn host_hook(kind: &str, at: usize, hook: &Hook, subject: &Subject<'_>, findings: &mut Findings) {
    let path = subject.bundle.join(hook.path());
    let found = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL);
    let found = found.and_then(|path| host_program(&path)).map_err(|errno| {
        let text = format!("{kind} hook #{at}: exec {}", hook.path().display());
        Error::os(text, errno).in_field("path")
    });
    for error in [crate::hooks::timeout(hook).map(drop), found]
        .into_iter()
        .filter_map(Result::err)
    {
        let error = error.in_field(format!("hooks.{kind}[{at}]"));
        match kind {
            // What fails when all is over is only logged.
            "poststop" => findings.warn(error.field(), &error),
            _ => findings.error(error),
        }
    }
}

/// The program, by the rules of `init::exec`: in PATH, what cannot be executed is passed over.
fn program(subject: &Subject<'_>, tree: &Tree, findings: &mut Findings) {
    let exec = &subject.plan.exec;
    let Some(name) = exec.argv.strings().first() else {
        return; // Said already.
    };
    let cwd = subject
        .spec
        .process()
        .as_ref()
        .map(|process| process.cwd().clone());
    let cwd = cwd.unwrap_or_default();
    let user = User::of(subject);
    let mut failure = Errno::ENOENT;
    for candidate in &exec.candidates {
        let path = cwd.join(OsStr::from_bytes(candidate.to_bytes()));
        let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
            return;
        };
        // An empty name is nothing, and not the directory.
        let found = match candidate.is_empty() {
            true => Err(Errno::ENOENT),
            false => find(tree, &path, &user),
        };
        match found {
            Ok(()) => return,
            Err(errno) if name.to_bytes().contains(&b'/') => failure = errno,
            Err(_) => {}
        }
    }
    let error = exec_error(&name.to_string_lossy(), Op::Resolve, failure);
    findings.error(error.in_field("process.args[0]"));
}

/// Whether a program of the host may be executed by this process.
fn host_program(path: &CStr) -> sys::Result<()> {
    let stat = fs::stat_at(fs::CWD, path, 0)?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(Errno::EACCES);
    }
    fs::access(path, libc::X_OK)
}

/// Whether the user may execute a file of the container's tree. What cannot be known is taken to be so.
fn find(tree: &Tree, path: &CStr, user: &User<'_>) -> sys::Result<()> {
    let found = tree.find(path, true)?;
    let program = match found.place.as_ref().ok_or(Errno::ENOENT)? {
        Place::There(program) => program,
        Place::New => return Ok(()),
    };
    if program.kind() == libc::S_IFDIR {
        return Err(Errno::EISDIR);
    }
    let above = &found.passed[..found.passed.len() - 1];
    let searchable = above.iter().all(|place| match place {
        Place::There(directory) => user.may_execute(directory),
        Place::New => true,
    });
    let executable = program.kind() == libc::S_IFREG && !program.noexec;
    match searchable && executable && user.may_execute(program) {
        true => Ok(()),
        false => Err(Errno::EACCES),
    }
}

/// Who executes a program.
struct User<'a> {
    uid: u32,
    gid: u32,
    groups: &'a [u32],
    /// Effective capabilities.
    capabilities: u64,
    /// The maps of a new user namespace.
    maps: Option<&'a IdMaps>,
    /// His user namespace is one that exists: what his ids are there is not known.
    unknown: bool,
}

impl<'a> User<'a> {
    /// The process of the container.
    fn of(subject: &Subject<'a>) -> Self {
        let mut user = Self::root(subject);
        user.capabilities = 0;
        for step in &subject.plan.steps {
            match step {
                Step::Ids { uid, gid } => (user.uid, user.gid) = (*uid, *gid),
                Step::Groups(groups) => user.groups = groups,
                Step::Caps(sets) => user.capabilities = sets.effective,
                _ => {}
            }
        }
        user
    }

    /// Root of the container, with all that it may.
    fn root(subject: &Subject<'a>) -> Self {
        let joins = |stage: &crate::plan::Stage| stage.become_root;
        User {
            uid: 0,
            gid: 0,
            groups: &[],
            capabilities: u64::MAX,
            maps: subject.plan.birth.id_maps.as_ref(),
            unknown: subject.plan.birth.stage.as_ref().is_some_and(joins),
        }
    }

    /// By the bits of the mode. What access control lists give beyond the group is in its bits, as a limit.
    fn may_execute(&self, entry: &Entry) -> bool {
        if self.unknown {
            return true;
        }
        let stat = &entry.stat;
        let directory = entry.kind() == libc::S_IFDIR;
        let host = |maps: Option<&Vec<_>>, id| maps.map_or(Some(id), |maps| host_id(maps, id));
        let (uids, gids) = (
            self.maps.map(|maps| &maps.uids),
            self.maps.map(|maps| &maps.gids),
        );
        let mapped = |maps: Option<&Vec<crate::plan::namespaces::IdMap>>, id: u32| {
            let within =
                |map: &crate::plan::namespaces::IdMap| id >= map.host && id - map.host < map.size;
            maps.is_none_or(|maps| maps.iter().any(within))
        };
        let override_with = match directory {
            true => CAP_DAC_OVERRIDE | CAP_DAC_READ_SEARCH,
            false => CAP_DAC_OVERRIDE,
        };
        if self.capabilities & override_with != 0
            && (directory || stat.st_mode & 0o111 != 0)
            && mapped(uids, stat.st_uid)
            && mapped(gids, stat.st_gid)
        {
            return true;
        }
        let mut groups = self.groups.iter().copied().chain([self.gid]);
        let shift = if host(uids, self.uid) == Some(stat.st_uid) {
            6
        } else if groups.any(|gid| host(gids, gid) == Some(stat.st_gid)) {
            3
        } else {
            0
        };
        stat.st_mode >> shift & 1 != 0
    }
}
