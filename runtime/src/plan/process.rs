//! `process` of config.json, and the process document of exec, into steps.
//!
//! Pure. The steps of this module come last in every plan; [`tail`] decides their order.

use super::mounts::c_string;
use super::{Exec, Op, Request, Rlimit, Step, landlock, seccomp};
use crate::report::{Error, Faults, Result};
use crate::sys::cred::CapSets;
use crate::sys::process::{CStringArray, SchedAttr};
use oci_spec::runtime::{
    Capabilities, IOPriorityClass, LinuxCapabilities, LinuxIOPriority, LinuxSchedulerFlag,
    LinuxSchedulerPolicy, PosixRlimit, Process, Scheduler, User,
};
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;

/// The program with its arguments, environment and the places where it may be.
pub(crate) fn exec(process: &Process, faults: &mut Faults) -> Exec {
    let args = process.args().as_deref().unwrap_or_default();
    if args.is_empty() {
        let text = "args must not be empty";
        faults.keep_in("process.args", Err::<(), _>(Error::invalid(text)));
    }
    let env = environment(process.env().as_deref().unwrap_or_default(), faults);
    let path = env
        .iter()
        .find_map(|var| var.strip_prefix("PATH="))
        .unwrap_or_default();
    let candidates = args.first().map(|program| candidates(program, path));
    let candidates = faults
        .keep_in("process.args[0]", candidates.transpose())
        .flatten();
    let envp = env.iter().map(c_string).collect::<Result<_>>();
    let argv = args.iter().map(c_string).collect::<Result<_>>();
    Exec {
        argv: CStringArray::new(faults.keep_in("process.args", argv).unwrap_or_default()),
        envp: CStringArray::with_home_slot(faults.keep_in("process.env", envp).unwrap_or_default()),
        candidates: candidates.unwrap_or_default(),
    }
}

/// The environment with each name once, where the last one of equal names wins. An empty HOME is none: see [`look_for_home`].
fn environment<'a>(env: &'a [String], faults: &mut Faults) -> Vec<&'a str> {
    let mut seen = std::collections::HashSet::new();
    let mut unique = Vec::with_capacity(env.len());
    for (at, var) in env.iter().enumerate().rev() {
        let Some((name, _)) = var.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            let text = format!("invalid environment variable {var:?}: not NAME=VALUE");
            faults.keep_in(
                format!("process.env[{at}]"),
                Err::<(), _>(Error::invalid(text)),
            );
            continue;
        };
        if seen.insert(name) && var != "HOME=" {
            unique.push(var.as_str());
        }
    }
    unique.reverse();
    unique
}

/// Where a program may be. A name without a slash is looked for in PATH; relative directories there are passed over, so that a
/// program of the working directory is never taken by accident.
fn candidates(program: &str, path: &str) -> Result<Vec<CString>> {
    if program.contains('/') || program.is_empty() {
        return Ok(vec![c_string(program)?]);
    }
    path.split(':')
        .filter(|dir| dir.starts_with('/'))
        .map(|dir| c_string(format!("{dir}/{program}")))
        .collect()
}

/// Where in a plan the process comes to be: what the steps of create and of exec differ in.
#[derive(Debug)]
pub(crate) struct Tail<'a> {
    pub(crate) process: &'a Process,
    pub(crate) landlock: Option<landlock::Ruleset>,
    pub(crate) seccomp: Option<seccomp::Filter>,
    /// The limits need the parent's rights.
    pub(crate) ask_for_rlimits: bool,
    /// `run.oci.keep_original_groups` of crun.
    pub(crate) keep_groups: bool,
    /// Nobody stays with the process: its standard streams are its own.
    pub(crate) detached: bool,
    /// No descriptor from this one on is the program's.
    pub(crate) close_from: u32,
    /// Waits for `start`, and the hooks that run then.
    pub(crate) before_exec: Vec<Step>,
}

/// The last steps of a plan: from the process's attributes to its execve, in runc's order.
///
/// Returns the resource limits for which init asks the parent.
pub(crate) fn tail(tail: Tail<'_>, steps: &mut Vec<Step>, faults: &mut Faults) -> Vec<Rlimit> {
    let process = tail.process;
    let user = process.user();
    let no_new_privileges = process.no_new_privileges().unwrap_or(false);
    if no_new_privileges {
        steps.push(Step::NoNewPrivileges);
    }
    attributes(process, steps, faults);
    let rlimits = limits(process, tail.ask_for_rlimits, steps, faults);
    look_for_home(process, steps);
    let label = process.selinux_label().as_deref();
    let label = label
        .filter(|label| !label.is_empty())
        .map(c_string)
        .transpose();
    let label = faults.keep_in("process.selinuxLabel", label).flatten();
    steps.extend(label.map(Step::Selinux));
    let cwd = faults
        .keep_in("process.cwd", working_directory(process))
        .unwrap_or_default();
    steps.push(Step::Chdir {
        path: cwd.clone(),
        last: false,
    });
    let confinement = confinement(tail.landlock, tail.seccomp);
    let (early, late) = if no_new_privileges {
        (Vec::new(), confinement)
    } else {
        (confinement, Vec::new())
    };
    // Without no_new_privs, loading a filter needs CAP_SYS_ADMIN, which goes below; with it, the filter comes last, so that the profile
    // need not allow what these steps call.
    steps.extend(early);
    let caps = capabilities(process.capabilities().as_ref());
    steps.push(Step::BoundingSet(caps.bounding));
    steps.push(Step::ChownStdio {
        uid: user.uid(),
        files: tail.detached,
    });
    if !tail.keep_groups {
        steps.push(Step::Groups(
            user.additional_gids().clone().unwrap_or_default(),
        ));
    }
    check_ids(user, faults);
    steps.push(Step::Ids {
        uid: user.uid(),
        gid: user.gid(),
    });
    steps.push(Step::Chdir {
        path: cwd,
        last: true,
    });
    steps.push(Step::Caps(caps.sets));
    if caps.ambient != 0 {
        steps.push(Step::Ambient(caps.ambient));
    }
    let needs_files =
        |step: &Step| matches!(step, Step::Landlock(_) | Step::AwaitStart | Step::Hook(_));
    steps.push(Step::CloseFrom {
        first: tail.close_from,
        last: !late.iter().chain(&tail.before_exec).any(needs_files),
    });
    // A path of the container's is walked here, and as the program is executed: nothing of the host's may be there to begin at.
    steps.push(Step::LookUp);
    steps.push(Step::ResetSignals);
    if !tail.before_exec.is_empty() {
        // Before anybody is told that there is a container to be ended, and before a filter that might refuse it.
        steps.push(Step::EndAtSignals);
    }
    confine_last(late, tail.before_exec, steps);
    steps.push(Step::Exec);
    rlimits
}

fn working_directory(process: &Process) -> Result<CString> {
    let cwd = process.cwd();
    if !cwd.is_absolute() {
        let text = format!("Cwd must be an absolute path, not {cwd:?}");
        return Err(Error::invalid(text));
    }
    c_string(cwd.as_os_str().as_bytes())
}

/// The last steps before the execve, with the confinement of a process that has no_new_privs.
fn confine_last(late: Vec<Step>, before_exec: Vec<Step>, steps: &mut Vec<Step>) {
    // Landlock's rules are the last to need the root.
    let is_landlock = |step: &Step| matches!(step, Step::Landlock(_));
    let (landlock, filter): (Vec<_>, Vec<_>) = late.into_iter().partition(is_landlock);
    steps.extend(landlock);
    steps.push(Step::CloseRoot);
    // What follows the filter calls write, read, openat and execve only: a profile that does without them runs nothing.
    steps.extend(filter);
    steps.extend(before_exec);
}

/// Landlock before seccomp, whose profile need not allow its calls. The listener of a filter is asked for before the filter is loaded: from
/// then on, any call may be one that only its agent answers.
fn confinement(landlock: Option<landlock::Ruleset>, filter: Option<seccomp::Filter>) -> Vec<Step> {
    let notifies = filter.as_ref().is_some_and(seccomp::Filter::notifies);
    let listener = notifies.then_some(Step::Ask(Request::Listener));
    let landlock = landlock.map(Step::Landlock);
    let steps = landlock.into_iter().chain(listener);
    steps.chain(filter.map(Step::Seccomp)).collect()
}

/// The resource limits: set by init, or returned for the parent, whom init asks.
fn limits(process: &Process, ask: bool, steps: &mut Vec<Step>, faults: &mut Faults) -> Vec<Rlimit> {
    let limits = rlimits(process.rlimits().as_deref().unwrap_or_default(), faults);
    if !ask {
        steps.extend(limits.into_iter().map(Step::Rlimit));
        return Vec::new();
    }
    if !limits.is_empty() {
        steps.push(Step::Ask(Request::Rlimits));
    }
    limits
}

/// A process that is not told its home directory gets it from the container's /etc/passwd.
fn look_for_home(process: &Process, steps: &mut Vec<Step>) {
    let told = |var: &&String| var.starts_with("HOME=");
    let home = process.env().iter().flatten().rfind(told);
    if home.is_none_or(|var| var == "HOME=") {
        steps.push(Step::Home {
            uid: process.user().uid(),
        });
    }
}

fn check_ids(user: &User, faults: &mut Faults) {
    /// See setgroups(2): the kernel says EINVAL, as of a group that is not mapped.
    const NGROUPS_MAX: usize = 65_536;
    let count = user.additional_gids().as_ref().map_or(0, Vec::len);
    if count > NGROUPS_MAX {
        let text = format!("{count} groups, and the kernel takes no more than {NGROUPS_MAX}");
        faults.keep_in(
            "process.user.additionalGids",
            Err::<(), _>(Error::invalid(text)),
        );
    }
    let groups = user.additional_gids().iter().flatten().enumerate();
    for (at, gid) in groups {
        faults.keep_in(
            format!("process.user.additionalGids[{at}]"),
            check_id("gid", *gid),
        );
    }
    for (what, id) in [("uid", user.uid()), ("gid", user.gid())] {
        faults.keep_in(format!("process.user.{what}"), check_id(what, id));
    }
}

/// 2^32 - 1 means "leave unchanged" to the kernel, so that it would keep root (containerd's CVE-2026-46680 is of this family).
fn check_id(what: &str, id: u32) -> Result<()> {
    if id == u32::MAX {
        return Err(Error::invalid(format!("{what} {id} is not a valid id")));
    }
    Ok(())
}

/// `execCPUAffinity`: the CPUs before the process is in the container's cgroup, and those to run on there.
pub(crate) fn affinity(process: &Process) -> Result<[Option<Vec<u64>>; 2]> {
    let Some(affinity) = process.exec_cpu_affinity() else {
        return Ok([None, None]);
    };
    let mask = |name: &str, list: &Option<String>| {
        let Some(list) = list.as_deref().filter(|list| !list.is_empty()) else {
            return Ok(None);
        };
        let mask = super::bit_mask(list).filter(|mask| !mask.is_empty());
        let wrong = || {
            Error::invalid(format!(
                "bad CPUAffinity.{name}: {list:?} is not a list of CPUs up to 1023"
            ))
        };
        mask.ok_or_else(wrong).map(Some)
    };
    Ok([
        mask("Initial", affinity.initial())?,
        mask("Final", affinity.cpu_affinity_final())?,
    ])
}

/// Scheduler and io priority.
fn attributes(process: &Process, steps: &mut Vec<Step>, faults: &mut Faults) {
    let scheduler = process.scheduler().as_ref().map(sched_attr).transpose();
    let scheduler = faults.keep_in("process.scheduler", scheduler).flatten();
    steps.extend(scheduler.map(Step::Scheduler));
    let priority = process.io_priority().as_ref().map(io_priority).transpose();
    let priority = faults.keep_in("process.ioPriority", priority).flatten();
    steps.extend(priority.map(Step::IoPriority));
}

fn io_priority(priority: &LinuxIOPriority) -> Result<i32> {
    let class = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    let level = priority.priority();
    if !(0..=7).contains(&level) {
        let text = format!("invalid ioPriority.priority {level}: not in 0..=7");
        return Err(Error::invalid(text).in_field("priority"));
    }
    Ok(class << 13 | level as i32)
}

/// See sched_setattr(2) and runtime-spec config.md, "scheduler".
fn sched_attr(scheduler: &Scheduler) -> Result<SchedAttr> {
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flags = scheduler.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                LinuxSchedulerFlag::SchedResetOnFork => 0x01,
                LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
                LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
                LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
                LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
                LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
                LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
            }
    });
    let nice = scheduler.nice().unwrap_or(0);
    let priority = scheduler.priority().unwrap_or(0);
    let (runtime, deadline, period) = (
        scheduler.runtime().unwrap_or(0),
        scheduler.deadline().unwrap_or(0),
        scheduler.period().unwrap_or(0),
    );
    if !(-20..=19).contains(&nice) {
        return Err(Error::invalid(format!(
            "invalid scheduler.nice: '{nice}', must be within -20 to 19"
        )));
    }
    if priority != 0 && !matches!(policy, 1 | 2) {
        return Err(Error::invalid(
            "scheduler.priority can only be specified for SchedFIFO or SchedRR policy",
        ));
    }
    if policy != 6 && (runtime != 0 || deadline != 0 || period != 0) {
        return Err(Error::invalid(
            "scheduler runtime/deadline/period can only be specified for SchedDeadline policy",
        ));
    }
    let priority = u32::try_from(priority).map_err(|_| {
        Error::invalid(format!(
            "invalid scheduler.priority: '{priority}', must not be negative"
        ))
    })?;
    Ok(SchedAttr {
        policy,
        flags,
        nice,
        priority,
        runtime,
        deadline,
        period,
        ..SchedAttr::default()
    })
}

/// The five capability sets as bit masks.
#[derive(Debug, Default)]
struct Caps {
    bounding: u64,
    ambient: u64,
    sets: CapSets,
}

/// What the kernel will not raise, in runc's words: a capability that is to be ambient has to be permitted and inheritable, too.
pub(crate) fn ambient_warnings(process: &Process) -> Vec<String> {
    let wanted = process.capabilities().as_ref();
    let raised = capabilities(wanted).ambient;
    let lost = |cap: &caps::Capability| cap.bitmask() & !raised != 0;
    let wanted = wanted.and_then(|sets| sets.ambient().as_ref());
    let known = |cap: &oci_spec::runtime::Capability| format!("CAP_{cap}").parse().ok();
    wanted
        .into_iter()
        .flatten()
        .filter_map(known)
        .filter(lost)
        .map(|cap| format!("can't raise ambient capability {cap}: operation not permitted"))
        .collect()
}

/// A process without `capabilities` has none.
fn capabilities(capabilities: Option<&LinuxCapabilities>) -> Caps {
    let Some(capabilities) = capabilities else {
        return Caps::default();
    };
    let sets = CapSets {
        effective: cap_mask(capabilities.effective()),
        permitted: cap_mask(capabilities.permitted()),
        inheritable: cap_mask(capabilities.inheritable()),
    };
    Caps {
        bounding: cap_mask(capabilities.bounding()),
        // The kernel raises only what is permitted and inheritable; runc logs the others and goes on.
        ambient: cap_mask(capabilities.ambient()) & sets.permitted & sets.inheritable,
        sets,
    }
}

/// The set as a mask, bit n for the capability with number n.
fn cap_mask(set: &Option<Capabilities>) -> u64 {
    let number =
        |cap: &oci_spec::runtime::Capability| format!("CAP_{cap}").parse::<caps::Capability>().ok();
    set.iter()
        .flatten()
        .filter_map(number)
        .fold(0, |mask, cap| mask | cap.bitmask())
}

const RLIMITS: [(&str, u32); 16] = [
    ("RLIMIT_CPU", libc::RLIMIT_CPU),
    ("RLIMIT_FSIZE", libc::RLIMIT_FSIZE),
    ("RLIMIT_DATA", libc::RLIMIT_DATA),
    ("RLIMIT_STACK", libc::RLIMIT_STACK),
    ("RLIMIT_CORE", libc::RLIMIT_CORE),
    ("RLIMIT_RSS", libc::RLIMIT_RSS),
    ("RLIMIT_NPROC", libc::RLIMIT_NPROC),
    ("RLIMIT_NOFILE", libc::RLIMIT_NOFILE),
    ("RLIMIT_MEMLOCK", libc::RLIMIT_MEMLOCK),
    ("RLIMIT_AS", libc::RLIMIT_AS),
    ("RLIMIT_LOCKS", libc::RLIMIT_LOCKS),
    ("RLIMIT_SIGPENDING", libc::RLIMIT_SIGPENDING),
    ("RLIMIT_MSGQUEUE", libc::RLIMIT_MSGQUEUE),
    ("RLIMIT_NICE", libc::RLIMIT_NICE),
    ("RLIMIT_RTPRIO", libc::RLIMIT_RTPRIO),
    ("RLIMIT_RTTIME", libc::RLIMIT_RTTIME),
];

/// The name of a resource number, for messages.
pub(crate) fn rlimit_name(resource: u32) -> &'static str {
    RLIMITS
        .iter()
        .find(|(_, number)| *number == resource)
        .map_or("RLIMIT_?", |(name, _)| name)
}

fn rlimits(rlimits: &[PosixRlimit], faults: &mut Faults) -> Vec<Rlimit> {
    let mut seen = Vec::new();
    for (at, limit) in rlimits.iter().enumerate() {
        let limit = rlimit(limit, &seen);
        seen.extend(faults.keep_in(format!("process.rlimits[{at}]"), limit));
    }
    seen
}

fn rlimit(limit: &PosixRlimit, others: &[Rlimit]) -> Result<Rlimit> {
    let name = limit.typ().to_string();
    let Some((_, resource)) = RLIMITS.iter().find(|(known, _)| *known == name) else {
        return Err(Error::invalid(format!("wrong rlimit value: {name}")));
    };
    if others.iter().any(|other| other.resource == *resource) {
        return Err(Error::invalid(format!("rlimit {name} is listed twice")));
    }
    Ok(Rlimit {
        resource: *resource,
        soft: limit.soft(),
        hard: limit.hard(),
    })
}

/// What `exec:` errors say, in runc's words: engines turn these into the exit codes 126 and 127.
pub(crate) fn exec_error(program: &str, op: Op, errno: crate::sys::Errno) -> Error {
    use crate::sys::Errno;
    if op != Op::Resolve {
        // What could only be seen by executing it: a script whose interpreter is missing, a format without a handler.
        let reason = errno.desc().to_lowercase();
        return Error::invalid(format!(
            "unable to start container process: exec {program}: {reason}"
        ));
    }
    let reason = match errno {
        Errno::ENOENT if !program.contains('/') => "executable file not found in $PATH".to_owned(),
        Errno::ENOENT => format!("stat {program}: no such file or directory"),
        Errno::EACCES => "permission denied".to_owned(),
        Errno::EISDIR => "is a directory".to_owned(),
        Errno::ENOTDIR => format!("stat {program}: not a directory"),
        _ => errno.desc().to_lowercase(),
    };
    Error::invalid(format!(
        "unable to start container process: exec: {program:?}: {reason}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_equal_names_wins_in_the_environment() {
        let env = ["A=1".to_owned(), "B=2".to_owned(), "A=3".to_owned()];
        let mut faults = Faults::default();
        assert_eq!(environment(&env, &mut faults), ["B=2", "A=3"]);
        assert!(faults.all().is_empty());
        let mut faults = Faults::default();
        environment(
            &["=x".to_owned(), "A=1".to_owned(), "x".to_owned()],
            &mut faults,
        );
        let fields: Vec<String> = faults.all().iter().map(|e| e.field().to_owned()).collect();
        assert_eq!(fields, ["process.env[2]", "process.env[0]"]);
    }

    #[test]
    fn a_name_is_looked_for_in_absolute_directories_of_path_only() {
        let found = candidates("sh", "/bin::.:usr:/sbin").unwrap();
        assert_eq!(found, [c"/bin/sh".to_owned(), c"/sbin/sh".to_owned()]);
        assert_eq!(candidates("./sh", "/bin").unwrap(), [c"./sh".to_owned()]);
        assert!(candidates("sh", "").unwrap().is_empty());
    }

    fn process(json: &str) -> Process {
        serde_json::from_str(json).unwrap()
    }

    fn steps(json: &str) -> Vec<String> {
        let process = process(json);
        let filter = seccomp::Filter {
            program: Vec::new(),
            flags: libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32,
            warnings: Vec::new(),
            unknown: Vec::new(),
        };
        let parts = Tail {
            process: &process,
            landlock: landlock::parse(Some(&"{}".to_owned())).unwrap(),
            seccomp: Some(filter),
            ask_for_rlimits: false,
            keep_groups: false,
            detached: true,
            close_from: 3,
            before_exec: vec![Step::AwaitStart],
        };
        let mut steps = Vec::new();
        let mut faults = Faults::default();
        tail(parts, &mut steps, &mut faults);
        faults.settle().unwrap();
        steps
            .iter()
            .map(|step| {
                format!("{step:?}")
                    .split([' ', '(', '{'])
                    .next()
                    .unwrap()
                    .to_owned()
            })
            .collect()
    }

    #[test]
    fn seccomp_comes_after_the_capabilities_iff_no_new_privileges() {
        let at = |steps: &[String], name: &str| {
            let at = steps.iter().position(|s| s == name).unwrap();
            if name == "Seccomp" {
                // The root that is closed between is the last business of a step that the filter may not know.
                let before = steps[..at].iter().filter(|step| *step != "CloseRoot");
                let before: Vec<_> = before.collect();
                assert_eq!(before[before.len() - 2..], ["Landlock", "Ask"], "{steps:?}");
            }
            at
        };
        let with = steps(r#"{"user":{},"cwd":"/","args":["x"],"noNewPrivileges":true}"#);
        assert!(
            at(&with, "Seccomp") > at(&with, "LookUp")
                && at(&with, "Seccomp") < at(&with, "AwaitStart")
        );
        for json in [
            r#"{"user":{},"cwd":"/","args":["x"],"noNewPrivileges":false}"#,
            r#"{"user":{},"cwd":"/","args":["x"]}"#,
        ] {
            let without = steps(json);
            assert!(
                at(&without, "Seccomp") < at(&without, "BoundingSet"),
                "{without:?}"
            );
        }
    }

    #[test]
    fn capability_names_become_kernel_numbers() {
        let json = r#"{"bounding":["CAP_CHOWN","CAP_CHECKPOINT_RESTORE"],"ambient":["CAP_CHOWN","CAP_KILL"],
            "permitted":["CAP_CHOWN"],"inheritable":["CAP_CHOWN"]}"#;
        let caps = capabilities(Some(&serde_json::from_str(json).unwrap()));
        assert_eq!(caps.bounding, 1 | 1 << 40);
        assert_eq!(caps.ambient, 1, "only what is permitted and inheritable");
        assert_eq!(caps.sets.effective, 0);
    }

    #[test]
    fn the_invalid_id_is_refused() {
        let process = process(r#"{"user":{"uid":4294967295},"cwd":"/","args":["x"]}"#);
        assert!(check_id("uid", process.user().uid()).is_err());
    }
}
