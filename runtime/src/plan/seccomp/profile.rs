//! What the profile says, checked and in the compiler's terms.

use super::abi;
use super::hash::ShortKeys;
use super::rules::{ARGUMENTS, Condition};
use crate::report::{Error, Result};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSyscall,
};
use std::cell::Cell;
use std::collections::HashMap;

/// One entry of the profile's `syscalls`: what is done under which conditions. The names it is for are kept apart.
pub(super) struct Block {
    pub(super) action: u32,
    /// Any one of these sets of conditions.
    pub(super) alternatives: Vec<Vec<Condition>>,
    /// Says what the default action says: such a rule is dropped, as libseccomp demands.
    pub(super) redundant: bool,
}

/// Where the profile names a system call: block, and place in its list.
pub(super) type Occurrence = (usize, usize);

/// A name in the profile.
#[derive(Default)]
pub(super) struct Named {
    pub(super) occurrences: Vec<Occurrence>,
    /// Some architecture of the filter has the call.
    pub(super) found: Cell<bool>,
}

pub(super) type Names<'a> = HashMap<&'a str, Named, ShortKeys>;

/// The interfaces that share one value of `seccomp_data.arch`: one, or x86_64 and x32.
pub(super) struct Machine {
    pub(super) audit: u32,
    pub(super) abis: Vec<Arch>,
}

pub(super) fn blocks(
    profile: &LinuxSeccomp,
    default: u32,
    warnings: &mut Vec<String>,
) -> Result<Vec<Block>> {
    let entries = profile.syscalls().iter().flatten();
    entries
        .map(|entry| {
            let action = return_value(entry.action(), entry.errno_ret(), warnings);
            Ok(Block {
                action,
                alternatives: alternatives(entry)?,
                redundant: action == default,
            })
        })
        .collect()
}

/// The conditions of an entry. All must hold, unless two are on the same argument: then each counts for itself, as in runc.
fn alternatives(entry: &LinuxSyscall) -> Result<Vec<Vec<Condition>>> {
    let mut conditions = Vec::new();
    for arg in entry.args().iter().flatten() {
        if arg.index() >= ARGUMENTS {
            let (names, index) = (entry.names().join(", "), arg.index());
            return Err(Error::invalid(format!(
                "seccomp: rule for {names}: there is no argument {index}, only 0 to 5"
            )));
        }
        conditions.push(Condition::new(arg));
    }
    let repeated = |c: &Condition| {
        conditions
            .iter()
            .filter(|other| other.argument == c.argument)
            .count()
            > 1
    };
    if conditions.iter().any(repeated) {
        return Ok(conditions
            .into_iter()
            .map(|condition| vec![condition])
            .collect());
    }
    Ok(vec![conditions])
}

pub(super) fn names(profile: &LinuxSeccomp) -> Result<Names<'_>> {
    let entries = profile.syscalls().as_deref().unwrap_or_default();
    let mut names = Names::with_capacity_and_hasher(
        entries.iter().map(|entry| entry.names().len()).sum(),
        ShortKeys::default(),
    );
    for (block, entry) in entries.iter().enumerate() {
        for (place, name) in entry.names().iter().enumerate() {
            if name.is_empty() {
                return Err(Error::invalid("seccomp: a system call's name is empty"));
            }
            names
                .entry(name)
                .or_default()
                .occurrences
                .push((block, place));
        }
    }
    Ok(names)
}

/// What the filter returns for an action.
pub(super) fn return_value(
    action: LinuxSeccompAction,
    errno: Option<u32>,
    warnings: &mut Vec<String>,
) -> u32 {
    match action {
        LinuxSeccompAction::ScmpActErrno | LinuxSeccompAction::ScmpActTrace => {}
        _ => warnings.extend(
            errno.map(|errno| format!("seccomp: {action} returns no error {errno}, ignoring")),
        ),
    }
    action.as_u32(errno.map(|errno| errno & libc::SECCOMP_RET_DATA))
}

/// The machines of the filter: this one, listed or not, and then the others in the profile's order.
pub(super) fn machines(
    native: Arch,
    profile: &LinuxSeccomp,
    warnings: &mut Vec<String>,
) -> Result<Vec<Machine>> {
    let mut machines = vec![Machine {
        audit: abi::audit(native),
        abis: vec![native],
    }];
    for &abi in profile.architectures().iter().flatten() {
        let abi = if abi == Arch::ScmpArchNative {
            native
        } else {
            abi
        };
        match abi {
            Arch::ScmpArchParisc
            | Arch::ScmpArchParisc64
            | Arch::ScmpArchM68k
            | Arch::ScmpArchSh
            | Arch::ScmpArchSheb => {
                return Err(Error::invalid(format!(
                    "seccomp: architecture {abi} is not supported"
                )));
            }
            _ if abi::is_little_endian(abi) != abi::is_little_endian(native) => {
                return Err(Error::invalid(format!(
                    "seccomp: architecture {abi} has another byte order than this machine"
                )));
            }
            _ if abi::table(abi).is_none() => {
                warnings.push(format!("seccomp: the system calls of {abi} are not known, ignoring: its processes are killed"));
                continue;
            }
            _ => {}
        }
        let audit = abi::audit(abi);
        match machines.iter_mut().find(|machine| machine.audit == audit) {
            Some(machine) if machine.abis.contains(&abi) => {}
            Some(machine) => machine.abis.push(abi),
            None => machines.push(Machine {
                audit,
                abis: vec![abi],
            }),
        }
    }
    Ok(machines)
}

/// The flags for seccomp(2). Without a list, the filter does not switch on the mitigation of speculative store bypass, as in runc;
/// an empty list leaves it on.
pub(super) fn flags(
    listed: Option<&[LinuxSeccompFilterFlag]>,
    notifies: bool,
    warnings: &mut Vec<String>,
) -> u32 {
    let default = &[LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow];
    let mut flags = if notifies {
        libc::SECCOMP_FILTER_FLAG_NEW_LISTENER
    } else {
        0
    };
    for flag in listed.unwrap_or(default) {
        flags |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => {
                libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW
            }
            // There is only one thread to apply the filter to.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv if notifies => {
                libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
            }
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                // The kernel refuses the flag for a filter that has no listener.
                warnings.push("seccomp: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV without a rule that notifies, ignoring".to_string());
                0
            }
        };
    }
    flags as u32
}
