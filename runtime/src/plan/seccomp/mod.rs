//! Compiles an OCI seccomp profile to the BPF program that the kernel runs before each system call.
//!
//! Runs in the parent while the plan is made: pure, no system call, no file. Loading the program is a step of init.
//!
//! The verdicts are those of runc, which means libseccomp's for the profile's rules, and in front of them runc's own answer for
//! system calls that are newer than the profile: `ENOSYS`, on which a C library falls back to an older call, where the profile's
//! default (mostly `EPERM`) would make it give up. The program's form is our own:
//!
//! ```text
//!   architecture ──▶ native: binary search of the number ──▶ return, or ──▶ tests of arguments ──▶ return
//!              └───▶ the others: the same
//!              └───▶ none of these: kill
//! ```
//!
//! Neighbouring numbers with the same answer are one range. A path that only looks at architecture and number is one the kernel
//! (since 5.11) evaluates once at load time if it allows the call: such calls then cost nothing.

mod abi;
mod graph;
mod hash;
mod rules;
mod text;

#[cfg(test)]
mod interpreter;
#[cfg(test)]
mod tests;

use crate::report::{Error, Result};
use abi::Multiplexer;
use graph::{ARCH_OFFSET, Compare, Goto, Graph, NR_OFFSET, Word};
use hash::ShortKeys;
use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSyscall};
use rules::{ARGUMENTS, Condition, Layout, Rules};
use seccompiler::sock_filter;
use std::cell::Cell;
use std::collections::HashMap;

/// The longest program the kernel takes (`BPF_MAXINSNS`).
const LONGEST: usize = 4096;

/// What a call of an architecture that the profile does not list gets, as with libseccomp.
const BAD_ARCHITECTURE: Goto = Goto::Return(libc::SECCOMP_RET_KILL_THREAD);

const ENOSYS: Goto = Goto::Return(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);

/// A compiled profile.
#[derive(Debug)]
pub(crate) struct Filter {
    /// The program, for seccomp(2).
    pub(crate) program: Vec<sock_filter>,
    /// The flags of seccomp(2) that the profile asks for. `SECCOMP_FILTER_FLAG_NEW_LISTENER` is not among them: whoever loads a
    /// filter that notifies adds it.
    pub(crate) flags: u32,
    /// Some rule has the action `SCMP_ACT_NOTIFY`.
    pub(crate) notifies: bool,
    /// What in the profile has no effect.
    pub(crate) warnings: Vec<String>,
}

/// Compiles a profile for this machine.
pub(crate) fn compile(profile: &LinuxSeccomp) -> Result<Filter> {
    compile_for(abi::NATIVE, profile)
}

fn compile_for(native: Arch, profile: &LinuxSeccomp) -> Result<Filter> {
    let mut warnings = Vec::new();
    let default = profile.default_action();
    if default == LinuxSeccompAction::ScmpActNotify {
        return Err(Error::invalid("seccomp: SCMP_ACT_NOTIFY cannot be the default action"));
    }
    let default_return = return_value(default, profile.default_errno_ret(), &mut warnings);
    let blocks = blocks(profile, default_return, &mut warnings)?;
    let names = names(profile)?;
    let permissive =
        matches!(default, LinuxSeccompAction::ScmpActAllow | LinuxSeccompAction::ScmpActLog | LinuxSeccompAction::ScmpActTrace);
    let mut compiler = Compiler { blocks, names, default: default_return, permissive, graph: Graph::default() };

    let mut entry = BAD_ARCHITECTURE;
    for machine in machines(native, profile, &mut warnings)?.iter().rev() {
        let ranges = compiler.machine(machine)?;
        let calls = compiler.search(&ranges);
        entry = compiler.graph.test(Word::whole(ARCH_OFFSET), Compare::Equal, machine.audit, calls, entry);
    }
    let program = compiler.graph.assemble(entry);
    if program.len() > LONGEST {
        let length = program.len();
        return Err(Error::invalid(format!("seccomp: the profile compiles to {length} instructions, the kernel takes {LONGEST}")));
    }

    let notifies = compiler.blocks.iter().any(|block| block.action == libc::SECCOMP_RET_USER_NOTIF);
    let flags = flags(profile, notifies, &mut warnings);
    warnings.extend(compiler.unknown_names());
    Ok(Filter { program, flags, notifies, warnings })
}

/// One entry of the profile's `syscalls`: what is done under which conditions. The names it is for are kept apart.
struct Block {
    action: u32,
    /// Any one of these sets of conditions.
    alternatives: Vec<Vec<Condition>>,
    /// Says what the default action says: such a rule is dropped, as libseccomp demands.
    redundant: bool,
}

/// Where the profile names a system call: block, and place in its list.
type Occurrence = (usize, usize);

/// A name in the profile.
#[derive(Default)]
struct Named {
    occurrences: Vec<Occurrence>,
    /// Some architecture of the filter has the call.
    found: Cell<bool>,
}

type Names<'a> = HashMap<&'a str, Named, ShortKeys>;

/// The interfaces that share one value of `seccomp_data.arch`: one, or x86_64 and x32.
struct Machine {
    audit: u32,
    abis: Vec<Arch>,
}

struct Compiler<'a> {
    blocks: Vec<Block>,
    names: Names<'a>,
    default: u32,
    /// By default, calls are let through or shown to a tracer: then new ones are too.
    permissive: bool,
    graph: Graph,
}

impl Compiler<'_> {
    /// What is done with each number of a machine: a range begins at each number listed and goes on to the next.
    fn machine(&mut self, machine: &Machine) -> Result<Vec<(u32, Goto)>> {
        let default = Goto::Return(self.default);
        let mut ranges = Vec::new();
        if machine.audit == Arch::ScmpArchX86_64 as u32 {
            let (low, high) = (Arch::ScmpArchX86_64, Arch::ScmpArchX32);
            let has = |abi| machine.abis.contains(&abi);
            let calls = if has(low) { self.calls(low)? } else { Vec::new() };
            set(&mut ranges, 0, if has(low) { default } else { BAD_ARCHITECTURE });
            self.cover(&mut ranges, &calls);
            if has(high) {
                set(&mut ranges, abi::X32_BIT, default);
                let calls = self.calls(high)?;
                self.cover(&mut ranges, &calls);
            } else {
                set(&mut ranges, abi::X32_BIT, BAD_ARCHITECTURE);
                // A tracer that skips a call makes its number -1, and the filter sees that (seccomp(2)).
                set(&mut ranges, u32::MAX, default);
            }
            return Ok(ranges);
        }
        for &abi in &machine.abis {
            let mut calls = self.calls(abi)?;
            if abi == Arch::ScmpArchS390x && !self.permissive {
                // s390 passes numbers that do not fit its instruction in a register, and a number that the kernel does not know
                // arrives as 0, a call nobody uses.
                calls.retain(|&(nr, _)| nr != 0);
                calls.insert(0, (0, ENOSYS));
            }
            set(&mut ranges, 0, default);
            self.cover(&mut ranges, &calls);
        }
        Ok(ranges)
    }

    /// Lays the calls over the ranges. Numbers greater than any that the profile names are newer than the profile.
    fn cover(&self, ranges: &mut Vec<(u32, Goto)>, calls: &[(u32, Goto)]) {
        for &(nr, goto) in calls {
            set(ranges, nr, goto);
            set(ranges, nr + 1, Goto::Return(self.default));
        }
        match calls.last() {
            // runc takes a greatest number of 0 for none.
            Some(&(greatest, _)) if greatest > 0 && !self.permissive => set(ranges, greatest + 1, ENOSYS),
            _ => {}
        }
    }

    /// The calls of one interface that the profile names, by number.
    fn calls(&mut self, abi: Arch) -> Result<Vec<(u32, Goto)>> {
        let layout = Layout { wide: abi::is_wide(abi), little_endian: abi::is_little_endian(abi) };
        let mut calls = Vec::with_capacity(self.names.len());
        let multiplexers = abi::multiplexers(abi);
        let table = abi::table(abi).expect("machines() lists only interfaces that have a table");
        for (nr, name) in table.calls() {
            let places = self.places(name, multiplexers.iter().find(|m| m.name == name));
            if places.is_empty() {
                continue;
            }
            let rules = self.rules(&places, layout.wide).map_err(|rules::Contradiction| {
                Error::invalid(format!("seccomp: the rules for '{name}' on {abi} contradict each other"))
            })?;
            calls.push((nr, rules.generate(&mut self.graph, layout, self.default)));
        }
        calls.sort_unstable_by_key(|&(nr, _)| nr);
        Ok(calls)
    }

    /// The places in the profile that say something about a call, in order. A place that is about a call that goes through this one
    /// comes with that call's number.
    fn places(&self, name: &str, multiplexer: Option<&Multiplexer>) -> Vec<(Occurrence, Option<u32>)> {
        let calls = multiplexer.into_iter().flat_map(|multiplexer| multiplexer.calls);
        let through = calls.map(|&(call, number)| (call, Some(number)));
        let mut places = Vec::new();
        for (name, number) in through.chain([(name, None)]) {
            if let Some(named) = self.names.get(name) {
                named.found.set(true);
                places.extend(named.occurrences.iter().map(|&occurrence| (occurrence, number)));
            }
        }
        places.sort_unstable();
        places
    }

    /// The rules at these places of the profile. A call that is made through a multiplexer has its number in the first argument, and
    /// its own arguments behind a pointer, where no filter can look: libseccomp then ignores the condition on the first and compares
    /// the others with what is in their place, and so do we.
    fn rules(&self, places: &[(Occurrence, Option<u32>)], wide: bool) -> std::result::Result<Rules, rules::Contradiction> {
        let mut rules = Rules::new();
        for &((block, _), subcall) in places {
            let block = &self.blocks[block];
            if block.redundant {
                continue;
            }
            for conditions in &block.alternatives {
                match subcall {
                    None => rules.add(conditions, block.action, wide)?,
                    Some(subcall) => {
                        let mut conditions: Vec<_> = conditions.iter().copied().filter(|c| c.argument != 0).collect();
                        conditions.push(Condition::first_argument_is(subcall));
                        rules.add(&conditions, block.action, wide)?;
                    }
                }
            }
        }
        Ok(rules)
    }

    /// A balanced tree of comparisons that finds the range of a number.
    fn search(&mut self, ranges: &[(u32, Goto)]) -> Goto {
        let (low, high) = ranges.split_at(ranges.len() / 2);
        match (low, high) {
            ([], [(_, goto)]) => *goto,
            _ => {
                let from = high[0].0;
                let (high, low) = (self.search(high), self.search(low));
                self.graph.test(Word::whole(NR_OFFSET), Compare::AtLeast, from, high, low)
            }
        }
    }

    fn unknown_names(&self) -> Option<String> {
        let mut unknown: Vec<&str> = self.names.iter().filter(|(_, named)| !named.found.get()).map(|(name, _)| *name).collect();
        abi::retain_unknown(&mut unknown);
        unknown.sort_unstable();
        (!unknown.is_empty()).then(|| format!("seccomp: unknown system calls {}, ignoring", unknown.join(", ")))
    }
}

/// Begins a range. Ranges are set in ascending order; what was set last for a number counts.
fn set(ranges: &mut Vec<(u32, Goto)>, from: u32, goto: Goto) {
    ranges.pop_if(|last| last.0 == from);
    if ranges.last().is_none_or(|last| last.1 != goto) {
        ranges.push((from, goto));
    }
}

fn blocks(profile: &LinuxSeccomp, default: u32, warnings: &mut Vec<String>) -> Result<Vec<Block>> {
    let entries = profile.syscalls().iter().flatten();
    entries
        .map(|entry| {
            let action = return_value(entry.action(), entry.errno_ret(), warnings);
            Ok(Block { action, alternatives: alternatives(entry)?, redundant: action == default })
        })
        .collect()
}

/// The conditions of an entry. All must hold, unless two are on the same argument: then each counts for itself, as in runc.
fn alternatives(entry: &LinuxSyscall) -> Result<Vec<Vec<Condition>>> {
    let mut conditions = Vec::new();
    for arg in entry.args().iter().flatten() {
        if arg.index() >= ARGUMENTS {
            let (names, index) = (entry.names().join(", "), arg.index());
            return Err(Error::invalid(format!("seccomp: rule for {names}: there is no argument {index}, only 0 to 5")));
        }
        conditions.push(Condition::new(arg));
    }
    let repeated = |c: &Condition| conditions.iter().filter(|other| other.argument == c.argument).count() > 1;
    if conditions.iter().any(repeated) {
        return Ok(conditions.into_iter().map(|condition| vec![condition]).collect());
    }
    Ok(vec![conditions])
}

fn names(profile: &LinuxSeccomp) -> Result<Names<'_>> {
    let entries = profile.syscalls().as_deref().unwrap_or_default();
    let mut names = Names::with_capacity_and_hasher(entries.iter().map(|entry| entry.names().len()).sum(), ShortKeys::default());
    for (block, entry) in entries.iter().enumerate() {
        for (place, name) in entry.names().iter().enumerate() {
            if name.is_empty() {
                return Err(Error::invalid("seccomp: a system call's name is empty"));
            }
            names.entry(name).or_default().occurrences.push((block, place));
        }
    }
    Ok(names)
}

/// What the filter returns for an action.
fn return_value(action: LinuxSeccompAction, errno: Option<u32>, warnings: &mut Vec<String>) -> u32 {
    match action {
        LinuxSeccompAction::ScmpActErrno | LinuxSeccompAction::ScmpActTrace => {}
        _ => warnings.extend(errno.map(|errno| format!("seccomp: {action} returns no error {errno}, ignoring"))),
    }
    action.as_u32(errno.map(|errno| errno & libc::SECCOMP_RET_DATA))
}

/// The machines of the filter: this one, listed or not, and then the others in the profile's order.
fn machines(native: Arch, profile: &LinuxSeccomp, warnings: &mut Vec<String>) -> Result<Vec<Machine>> {
    let mut machines = vec![Machine { audit: abi::audit(native), abis: vec![native] }];
    for &abi in profile.architectures().iter().flatten() {
        let abi = if abi == Arch::ScmpArchNative { native } else { abi };
        match abi {
            Arch::ScmpArchParisc | Arch::ScmpArchParisc64 | Arch::ScmpArchM68k | Arch::ScmpArchSh | Arch::ScmpArchSheb => {
                return Err(Error::invalid(format!("seccomp: architecture {abi} is not supported")));
            }
            _ if abi::is_little_endian(abi) != abi::is_little_endian(native) => {
                return Err(Error::invalid(format!("seccomp: architecture {abi} has another byte order than this machine")));
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
            None => machines.push(Machine { audit, abis: vec![abi] }),
        }
    }
    Ok(machines)
}

/// The flags for seccomp(2). Without a list, the filter does not switch on the mitigation of speculative store bypass, as in runc;
/// an empty list leaves it on.
fn flags(profile: &LinuxSeccomp, notifies: bool, warnings: &mut Vec<String>) -> u32 {
    let default = vec![LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow];
    let mut flags = 0;
    for flag in profile.flags().as_ref().unwrap_or(&default) {
        flags |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            // There is only one thread to apply the filter to.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv if notifies => libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                // The kernel refuses the flag for a filter that has no listener.
                warnings.push("seccomp: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV without a rule that notifies, ignoring".to_string());
                0
            }
        };
    }
    flags as u32
}
