//! The program and the hooks: whether they are there, and whether who is to execute them may.

use super::tree::{Entry, Found, Place, Tree};
use super::{Findings, Subject};
use crate::plan::landlock::{ANNOTATION, Ruleset};
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

/// Bits of a mode.
pub(super) const WRITE: u32 = 2;
pub(super) const EXECUTE: u32 = 1;

/// LANDLOCK_ACCESS_FS_EXECUTE.
const LANDLOCK_EXECUTE: u64 = 1;

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
        let call = match step {
            Step::Hook(call) => call,
            Step::Landlock(ruleset) => {
                rules(ruleset, tree, findings);
                continue;
            }
            _ => continue,
        };
        let found = match call.kind {
            "startContainer" => find(tree, &call.path, &user).map(drop),
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
            Ok(found) => return confined(&found, subject, tree, findings),
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
fn find(tree: &Tree, path: &CStr, user: &User<'_>) -> sys::Result<Found> {
    let found = tree.find(path, true)?;
    let program = match found.place.as_ref().ok_or(Errno::ENOENT)? {
        Place::There(program) => program,
        Place::New => return Ok(found),
        Place::Empty => return Err(Errno::EISDIR),
    };
    if program.kind() == libc::S_IFDIR {
        return Err(Errno::EISDIR);
    }
    let above = &found.passed[..found.passed.len() - 1];
    let searchable = above.iter().all(|place| match place {
        Place::There(directory) => user.may(EXECUTE, directory),
        Place::New | Place::Empty => true,
    });
    let executable = program.kind() == libc::S_IFREG && !program.noexec;
    match searchable && executable && user.may(EXECUTE, program) {
        true => Ok(found),
        false => Err(Errno::EACCES),
    }
}

/// The files that Landlock rules name must be there.
fn rules(ruleset: &Ruleset, tree: &Tree, findings: &mut Findings) {
    for (path, _) in &ruleset.paths {
        let found = tree.find(path, true);
        if let Err(errno) = found.and_then(|found| found.place.ok_or(Errno::ENOENT)) {
            let text = format!("add the rule ({})", path.to_string_lossy());
            let field = format!("annotations[{ANNOTATION:?}]");
            findings.error(Error::os(text, errno).in_field(field));
        }
    }
}

/// One of the Landlock rules must let the program be executed. What it needs beside itself, such as an interpreter, is not looked for.
fn confined(program: &Found, subject: &Subject<'_>, tree: &Tree, findings: &mut Findings) {
    for step in &subject.plan.steps {
        let Step::Landlock(ruleset) = step else {
            continue;
        };
        let allows = |(path, access): &(CString, u64)| {
            let rule = tree.find(path, true).ok();
            access & LANDLOCK_EXECUTE != 0 && rule.is_some_and(|rule| covers(&rule, program))
        };
        if ruleset.handled.fs & LANDLOCK_EXECUTE != 0 && !ruleset.paths.iter().any(allows) {
            let name = subject.plan.exec.argv.strings().first();
            let name = name.map(|name| name.to_string_lossy()).unwrap_or_default();
            let text = format!("execute {name}: no rule of the Landlock annotation lets it");
            findings.error(Error::os(text, Errno::EACCES).in_field("process.args[0]"));
        }
    }
}

/// Whether a rule for one file is one for the other: it is that file, or a directory above it. A rule is about the file, by whatever name.
fn covers(rule: &Found, program: &Found) -> bool {
    let same = |place: &Place| match (place, &rule.place) {
        (Place::There(passed), Some(Place::There(rule))) => {
            (passed.stat.st_dev, passed.stat.st_ino) == (rule.stat.st_dev, rule.stat.st_ino)
        }
        _ => false,
    };
    program.path.starts_with(&rule.path) || program.passed.iter().any(same)
}

/// Who executes a program.
pub(super) struct User<'a> {
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
    pub(super) fn root(subject: &Subject<'a>) -> Self {
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

    /// His ids on the host: what he makes is theirs.
    pub(super) fn owner(&self) -> (u32, u32) {
        let host = |maps: &Vec<_>, id| host_id(maps, id).unwrap_or(id);
        self.maps.map_or((self.uid, self.gid), |maps| {
            (host(&maps.uids, self.uid), host(&maps.gids, self.gid))
        })
    }

    /// Whether he has these rights (the bits of one digit of a mode). What access control lists give beyond the group is in its bits, as a limit.
    pub(super) fn may(&self, wanted: u32, entry: &Entry) -> bool {
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
        let override_with = match directory && wanted & WRITE == 0 {
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
        stat.st_mode >> shift & wanted == wanted
    }
}
