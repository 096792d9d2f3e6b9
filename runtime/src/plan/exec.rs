//! The plan of `exec`: one more process in a running container.

use super::{
    Birth, Join, Open, Plan, Request, Slot, Step, create, mounts, namespaces, process, seccomp,
};
use crate::host::Host;
use crate::report::Result;
use oci_spec::runtime::Process;

/// What the container and the command line add to the process document.
#[derive(Debug)]
pub(crate) struct Options<'a> {
    pub(crate) id: &'a str,
    pub(crate) host: &'a Host,
    /// `CLONE_NEW*` of the namespaces that are the container's own.
    pub(crate) namespaces: u64,
    pub(crate) new_keyring: bool,
    pub(crate) keep_groups: bool,
    /// Whether the container's user namespace allows setgroups(2).
    pub(crate) may_set_groups: bool,
    pub(crate) preserved_fds: u32,
    pub(crate) seccomp: Option<seccomp::Filter>,
}

/// Plans a process in a container.
pub(crate) fn exec(process: &Process, mut options: Options<'_>) -> Result<Plan> {
    let slot = Slot(0);
    let pid = libc::CLONE_NEWPID as u64;
    let userns = options.namespaces & libc::CLONE_NEWUSER as u64 != 0;
    let mut birth = Birth {
        oom_score_adj: process.oom_score_adj(),
        ..Birth::default()
    };
    let path = format!("of container {:?}", options.id);
    let join = |flags| Join {
        slot,
        flags,
        path: path.clone(),
    };
    let mut steps = Vec::with_capacity(32);
    if options.host.sys_admin {
        // The parent enters the pid namespace for its child, which joins the others at once: one fork.
        birth.pid_namespace = (options.namespaces & pid != 0).then_some(slot);
        steps.push(Step::NotDumpable);
        let rest = options.namespaces & !pid;
        if rest != 0 {
            steps.push(Step::Join(join(rest)));
        }
    } else {
        // Without rights over the pid namespace before the user namespace is joined, a process in between has to join both.
        let stage = super::Stage {
            join: vec![join(options.namespaces)],
            become_root: userns,
            ..Default::default()
        };
        birth.stage = Some(stage);
        steps.push(Step::NotDumpable);
    }
    if userns {
        steps.push(Step::BecomeRoot);
    }
    steps.push(Step::NewSession);
    if options.new_keyring {
        steps.push(Step::Keyring(mounts::c_string(format!(
            "_ses.{}",
            options.id
        ))?));
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
    let mut rlimits = Vec::new();
    let tail = process::Tail {
        process,
        seccomp: options.seccomp.take(),
        ask_for_rlimits: userns,
        may_set_groups: options.may_set_groups,
        keep_groups: options.keep_groups,
        close_from: 3 + options.preserved_fds,
        before_exec: Vec::new(),
    };
    process::tail(tail, &mut steps, &mut rlimits)?;
    debug_assert!(
        !steps
            .iter()
            .any(|step| matches!(step, Step::Ask(Request::IdMaps)))
    );
    debug_assert_eq!(birth.flags & namespaces::CLONE_NEWTIME as u64, 0);
    Ok(Plan {
        birth,
        opens: vec![Open::Process],
        steps,
        exec: process::exec(process)?,
        rlimits,
    })
}
