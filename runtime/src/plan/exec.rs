//! The plan of `exec`: one more process in a running container.

use super::{Birth, Ids, Join, Open, Plan, Slot, Step, create, landlock, mounts, process, seccomp};
use crate::host::Host;
use crate::report::{Faults, Result};
use oci_spec::runtime::{Linux, Process};

/// What the container and the command line add to the process document.
#[derive(Debug)]
pub(crate) struct Options<'a> {
    pub(crate) id: &'a str,
    pub(crate) host: &'a Host,
    /// `CLONE_NEW*` of the namespaces that are the container's own.
    pub(crate) namespaces: u64,
    /// The pid of the container's init here.
    pub(crate) init: i32,
    pub(crate) new_keyring: bool,
    pub(crate) keep_groups: bool,
    pub(crate) preserved_fds: u32,
    pub(crate) detached: bool,
    pub(crate) landlock: Option<landlock::Ruleset>,
    pub(crate) seccomp: Option<seccomp::Filter>,
    /// The container's section of the config.
    pub(crate) linux: Option<&'a Linux>,
}

/// Plans a process in a container.
pub(crate) fn exec(process: &Process, mut options: Options<'_>) -> Result<Plan> {
    let mut steps = Vec::with_capacity(32);
    let user = Ids {
        uid: process.user().uid(),
        gid: process.user().gid(),
    };
    let [initial, cpus] = process::affinity(process)?;
    if initial.is_none() || cpus.is_some() {
        steps.push(Step::Cpus(cpus));
    }
    let birth = Birth {
        oom_score_adj: process.oom_score_adj(),
        cpus: initial,
        ..enter(&options, user, &mut steps)
    };
    steps.push(Step::NewSession);
    if options.new_keyring {
        steps.push(Step::Keyring(mounts::c_string(format!(
            "_ses.{}",
            options.id
        ))?));
    }
    let mut opens = vec![Open::Process];
    if options.namespaces & MOUNT == 0 {
        // The root of the mount namespace is the host's. That of init is a link which leads to where init is.
        let root = format!("/proc/{}/root", options.init);
        opens.push(Open::Directory(mounts::c_string(root)?));
        steps.push(Step::ChrootInto(Slot(1)));
    }
    steps.push(Step::UseRoot);
    if process.terminal().unwrap_or(false) {
        steps.push(Step::Console(create::console(process, false)));
    }
    steps.push(Step::Umask(process.user().umask().unwrap_or(0o022)));
    if let Some(profile) = process
        .apparmor_profile()
        .as_deref()
        .filter(|profile| !profile.is_empty())
    {
        steps.push(Step::Apparmor(mounts::c_string(profile)?));
    }
    if let Some(linux) = options.linux {
        super::of_every_process(linux, &mut steps)?;
    }
    let mut faults = Faults::default();
    let tail = process::Tail {
        process,
        landlock: options.landlock.take(),
        seccomp: options.seccomp.take(),
        ask_for_rlimits: options.namespaces & USER != 0,
        keep_groups: options.keep_groups,
        detached: options.detached,
        close_from: 3 + options.preserved_fds,
        before_exec: Vec::new(),
    };
    let rlimits = process::tail(tail, &mut steps, &mut faults);
    let program = process::exec(process, &mut faults);
    faults.settle()?;
    Ok(Plan {
        birth,
        opens,
        steps,
        exec: program,
        rlimits,
        net_devices: Vec::new(),
    })
}

const MOUNT: u64 = libc::CLONE_NEWNS as u64;
const USER: u64 = libc::CLONE_NEWUSER as u64;
const PID: u64 = libc::CLONE_NEWPID as u64;

/// Into the container's namespaces, by the pidfd of its init.
fn enter(options: &Options<'_>, user: Ids, steps: &mut Vec<Step>) -> Birth {
    let slot = Slot(0);
    let join = |flags| Join {
        slot,
        flags,
        path: format!("of container {:?}", options.id),
    };
    let userns = options.namespaces & USER != 0;
    let mut birth = Birth::default();
    if options.host.may_return_to_pid_namespace() {
        // The parent enters the pid namespace for its child, which joins the others at once: one fork.
        birth.pid_namespace = (options.namespaces & PID != 0).then_some(slot);
        steps.push(Step::NotDumpable);
        let rest = options.namespaces & !PID;
        if rest != 0 {
            steps.push(Step::Join(join(rest)));
        }
    } else {
        // Without rights over the pid namespace before the user namespace is joined, or over the one to return to, a process in between has
        // to join all.
        let join = vec![join(options.namespaces)];
        birth.stage = Some(super::Stage {
            join,
            become_root: userns,
            otherwise: user,
            ..Default::default()
        });
        steps.push(Step::NotDumpable);
    }
    if userns {
        steps.push(Step::BecomeRoot { otherwise: user });
    }
    birth
}
