//! What the process is to be: limits, priorities, labels, Landlock.

use super::{Findings, Subject};
use crate::plan::landlock::known;
use crate::plan::{Rlimit, Step, process::rlimit_name};
use crate::report::Error;
use crate::sys::landlock::Handled;
use crate::sys::process::rlimit as own_rlimit;
use crate::sys::{Errno, cred, fs, landlock};
use std::ffi::CString;
use std::fs::read_to_string;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const CAP_SYS_NICE: u64 = 1 << 23;
const CAP_SYS_RESOURCE: u64 = 1 << 24;

/// Looks at each of these steps.
pub(super) fn look(subject: &Subject<'_>, findings: &mut Findings) {
    let effective = cred::caps().map_or(0, |caps| caps.effective);
    let limits = subject
        .plan
        .rlimits
        .iter()
        .chain(subject.plan.steps.iter().filter_map(|step| match step {
            Step::Rlimit(limit) => Some(limit),
            _ => None,
        }));
    for limit in limits {
        if let Err((errno, why)) = rlimit(limit, effective & CAP_SYS_RESOURCE != 0) {
            let text = format!("{}{why}", Step::Rlimit(*limit));
            findings.error(Error::os(text, errno).in_field(rlimit_field(subject, limit)));
        }
    }
    for step in &subject.plan.steps {
        match step {
            Step::Scheduler(attr) if is_realtime(attr.policy) && effective & CAP_SYS_NICE == 0 => {
                let error = Error::os(step.to_string(), Errno::EPERM);
                findings.error(error.in_field("process.scheduler.policy"));
            }
            Step::Apparmor(profile) => apparmor(&profile.to_string_lossy(), findings),
            Step::Selinux(_) if !Path::new("/sys/fs/selinux/enforce").exists() => {
                let text = "SELinux is not enabled on this host";
                findings.wrong("process.selinuxLabel", text);
            }
            Step::Hostname(name) => host_name("hostname", name.as_bytes(), findings),
            Step::Domainname(name) => host_name("domainname", name.as_bytes(), findings),
            Step::Landlock(ruleset) => confinement(&ruleset.handled, ruleset.strict, findings),
            Step::MemoryPolicy { nodes, .. } => memory_nodes(nodes, findings),
            _ => {}
        }
    }
    if let Some(value) = subject.plan.birth.oom_score_adj {
        oom_score(value, subject, effective & CAP_SYS_RESOURCE != 0, findings);
    }
    terminal(subject, findings);
}

/// A socket that `create` connects to. Who listens there may not have begun yet.
pub(crate) fn socket(field: &str, path: &Path, findings: &mut Findings) {
    let story = format!("connect to {}", path.display());
    let found = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL);
    match found.and_then(|path| fs::stat_at(fs::CWD, &path, 0)) {
        Ok(stat) if stat.st_mode & libc::S_IFMT == libc::S_IFSOCK => {}
        Ok(_) => {
            let text = format!("{story}, which is not a socket");
            findings.error(Error::os(text, Errno::ECONNREFUSED).in_field(field));
        }
        Err(Errno::ENOENT) => findings.warn(field, format!("{story}: nobody listens there yet")),
        Err(errno) => findings.error(Error::os(story, errno).in_field(field)),
    }
}

fn host_name(field: &str, name: &[u8], findings: &mut Findings) {
    /// __NEW_UTS_LEN of linux/utsname.h.
    const MOST: usize = 64;
    if name.len() > MOST {
        let text = format!(
            "{} bytes, and the kernel takes no more than {MOST}",
            name.len()
        );
        findings.error(Error::os(text, Errno::EINVAL).in_field(field));
    }
}

/// prlimit(2): why the kernel would refuse.
fn rlimit(limit: &Rlimit, may_raise: bool) -> Result<(), (Errno, &'static str)> {
    if limit.soft > limit.hard {
        return Err((Errno::EINVAL, " (soft is above hard)"));
    }
    if limit.resource == libc::RLIMIT_NOFILE {
        let most = read_to_string("/proc/sys/fs/nr_open").unwrap_or_default();
        if most.trim().parse().is_ok_and(|most: u64| limit.hard > most) {
            return Err((Errno::EPERM, " (above fs.nr_open)"));
        }
    }
    match own_rlimit(limit.resource) {
        Ok((_, own)) if limit.hard > own && !may_raise => {
            Err((Errno::EPERM, " (above the caller's own hard limit)"))
        }
        _ => Ok(()),
    }
}

/// The index of a limit in `process.rlimits`.
fn rlimit_field(subject: &Subject<'_>, limit: &Rlimit) -> String {
    let process = subject.spec.process().as_ref();
    let listed = process
        .and_then(|process| process.rlimits().as_ref())
        .into_iter()
        .flatten();
    let name = rlimit_name(limit.resource);
    let at = listed
        .map(|limit| limit.typ().to_string())
        .position(|typ| typ == name);
    at.map_or("process.rlimits".to_owned(), |at| {
        format!("process.rlimits[{at}]")
    })
}

fn is_realtime(policy: u32) -> bool {
    matches!(policy, 1 | 2 | 6)
}

/// aa_change_onexec(3) knows a profile only if it is loaded.
fn apparmor(profile: &str, findings: &mut Findings) {
    let field = "process.apparmorProfile";
    let enabled = read_to_string("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
    if enabled.trim() != "Y" {
        return findings.wrong(field, "AppArmor is not enabled on this host");
    }
    let Ok(loaded) = read_to_string("/sys/kernel/security/apparmor/profiles") else {
        return; // securityfs is not mounted, or is root's: nobody can tell.
    };
    let names = loaded
        .lines()
        .filter_map(|line| line.rsplit_once(" (").map(|(name, _)| name));
    if profile != "unconfined" && !names.into_iter().any(|name| name == profile) {
        findings.wrong(
            field,
            format!("the AppArmor profile {profile:?} is not loaded"),
        );
    }
}

fn confinement(wanted: &Handled, strict: bool, findings: &mut Findings) {
    let field = format!("annotations[{:?}]", crate::plan::landlock::ANNOTATION);
    let abi = match landlock::abi() {
        Ok(abi) => abi,
        Err(errno) => {
            let text = "this kernel has no Landlock, or it is not enabled";
            return findings.error(Error::os(text, errno).in_field(field));
        }
    };
    let known = known(abi);
    let missing = Handled {
        fs: wanted.fs & !known.fs,
        net: wanted.net & !known.net,
        scoped: wanted.scoped & !known.scoped,
    };
    if missing != Handled::default() {
        let text = format!("rights that version {abi} of Landlock does not have");
        match strict {
            true => findings.wrong(field, format!("{text}, and the ruleset is strict")),
            false => findings.warn(field, format!("{text} are left out")),
        }
    }
}

/// set_mempolicy(2): EINVAL without one node that is there.
fn memory_nodes(nodes: &[u64], findings: &mut Findings) {
    let there = |bit: usize| Path::new(&format!("/sys/devices/system/node/node{bit}")).exists();
    let set = |bit: &usize| nodes[bit / 64] & 1 << (bit % 64) != 0;
    let mut wanted = (0..nodes.len() * 64).filter(set).peekable();
    if wanted.peek().is_some() && !wanted.any(there) {
        findings.wrong(
            "linux.memoryPolicy.nodes",
            "none of these memory nodes is on this host",
        );
    }
}

fn oom_score(value: i32, subject: &Subject<'_>, may_lower: bool, findings: &mut Findings) {
    let field = "process.oomScoreAdj";
    if !(-1000..=1000).contains(&value) {
        return findings.wrong(field, format!("{value} is not between -1000 and 1000"));
    }
    let own = read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    let lower = own.trim().parse().is_ok_and(|own: i32| value < own);
    if lower && !may_lower {
        let text = format!("lowering it to {value} needs CAP_SYS_RESOURCE");
        match subject.host.sys_admin {
            true => findings.wrong(field, text),
            false => findings.warn(field, text + ", ignoring"),
        }
    }
}

/// A terminal comes from a devpts of the container's own.
fn terminal(subject: &Subject<'_>, findings: &mut Findings) {
    let wants = subject
        .plan
        .steps
        .iter()
        .any(|step| matches!(step, Step::Console(_)));
    let has = subject.plan.steps.iter().any(|step| match step {
        Step::Mount(mount) => matches!(mount.target.to_bytes(), b"/dev/pts" | b"/dev"),
        _ => false,
    });
    if wants && !has {
        let text = "there is no /dev/pts in mounts to take a terminal from";
        findings.wrong("process.terminal", text);
    }
}
