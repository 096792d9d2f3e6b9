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
mod profile;
mod raw;
mod rules;
mod text;

#[cfg(test)]
mod tests;

use crate::report::{Error, Result};
use abi::Multiplexer;
use graph::{ARCH_OFFSET, Compare, Goto, Graph, NR_OFFSET, Word};
use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction};
use profile::{Block, Machine, Names, Occurrence};
pub(crate) use raw::decode;
use rules::{Condition, Layout, Rules};
use seccompiler::sock_filter;

/// crun's annotation for a program in place of the profile.
pub(crate) const BPF_DATA: &str = "run.oci.seccomp_bpf_data";

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
    /// The flags for seccomp(2). With `SECCOMP_FILTER_FLAG_NEW_LISTENER`, because some rule has the action `SCMP_ACT_NOTIFY`,
    /// that call returns a descriptor, and system calls hang until somebody serves it.
    pub(crate) flags: u32,
    /// What in the profile has no effect.
    pub(crate) warnings: Vec<String>,
    /// The system calls that the profile names and nobody knows. The warnings have them, too.
    pub(crate) unknown: Vec<String>,
}

impl Filter {
    /// Whether loading it returns a listener.
    pub(crate) fn notifies(&self) -> bool {
        self.flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32 != 0
    }
}

/// Compiles a profile for this machine.
pub(crate) fn compile(profile: &LinuxSeccomp) -> Result<Filter> {
    compile_for(abi::NATIVE, profile)
}

fn compile_for(native: Arch, profile: &LinuxSeccomp) -> Result<Filter> {
    let mut warnings = Vec::new();
    let default = profile.default_action();
    let default_return = profile::return_value(default, profile.default_errno_ret(), &mut warnings);
    let blocks = profile::blocks(profile, default_return, &mut warnings)?;
    let names = profile::names(profile)?;
    let permissive = matches!(
        default,
        LinuxSeccompAction::ScmpActAllow
            | LinuxSeccompAction::ScmpActLog
            | LinuxSeccompAction::ScmpActTrace
            | LinuxSeccompAction::ScmpActNotify
    );
    let mut compiler = Compiler {
        blocks,
        names,
        default: default_return,
        permissive,
        graph: Graph::default(),
    };

    let mut entry = BAD_ARCHITECTURE;
    for machine in profile::machines(native, profile, &mut warnings)?
        .iter()
        .rev()
    {
        let ranges = compiler.machine(machine)?;
        let calls = compiler.search(&ranges);
        entry = compiler.graph.test(
            Word::whole(ARCH_OFFSET),
            Compare::Equal,
            machine.audit,
            calls,
            entry,
        );
    }
    let program = compiler.graph.assemble(entry);
    if program.len() > LONGEST {
        let length = program.len();
        return Err(Error::invalid(format!(
            "seccomp: the profile compiles to {length} instructions, the kernel takes {LONGEST}"
        )));
    }

    let actions = compiler.blocks.iter().map(|block| block.action);
    let notifies = actions
        .chain([default_return])
        .any(|action| action == libc::SECCOMP_RET_USER_NOTIF);
    let flags = profile::flags(profile.flags().as_deref(), notifies, &mut warnings);
    let unknown = compiler.unknown_names();
    warnings.extend((!unknown.is_empty()).then(|| {
        format!(
            "seccomp: unknown system calls {}, ignoring",
            unknown.join(", ")
        )
    }));
    Ok(Filter {
        program,
        flags,
        warnings,
        unknown,
    })
}

struct Compiler<'a> {
    blocks: Vec<Block>,
    names: Names<'a>,
    default: u32,
    /// By default, calls are let through or shown to a tracer or an agent: then new ones are too.
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
            let calls = if has(low) {
                self.calls(low)?
            } else {
                Vec::new()
            };
            set(
                &mut ranges,
                0,
                if has(low) { default } else { BAD_ARCHITECTURE },
            );
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
            Some(&(greatest, _)) if greatest > 0 && !self.permissive => {
                set(ranges, greatest + 1, ENOSYS)
            }
            _ => {}
        }
    }

    /// The calls of one interface that the profile names, by number.
    fn calls(&mut self, abi: Arch) -> Result<Vec<(u32, Goto)>> {
        let layout = Layout {
            wide: abi::is_wide(abi),
            little_endian: abi::is_little_endian(abi),
        };
        let mut calls = Vec::with_capacity(self.names.len());
        let multiplexers = abi::multiplexers(abi);
        let table = abi::table(abi).expect("machines() lists only interfaces that have a table");
        let mut places = Vec::new();
        for (nr, name) in table.calls() {
            let multiplexer = multiplexers.iter().find(|m| m.name == name);
            self.places(name, multiplexer, &mut places);
            if places.is_empty() {
                continue;
            }
            let rules = self
                .rules(&places, layout.wide)
                .map_err(|rules::Contradiction| {
                    Error::invalid(format!(
                        "seccomp: the rules for '{name}' on {abi} contradict each other"
                    ))
                })?;
            calls.push((nr, rules.generate(&mut self.graph, layout, self.default)));
        }
        calls.sort_unstable_by_key(|&(nr, _)| nr);
        Ok(calls)
    }

    /// Fills in the places in the profile that say something about a call, in order. A place that is about a call that goes through
    /// this one comes with that call's number.
    fn places(
        &self,
        name: &str,
        multiplexer: Option<&Multiplexer>,
        places: &mut Vec<(Occurrence, Option<u32>)>,
    ) {
        places.clear();
        let calls = multiplexer
            .into_iter()
            .flat_map(|multiplexer| multiplexer.calls);
        let through = calls.map(|&(call, number)| (call, Some(number)));
        for (name, number) in through.chain([(name, None)]) {
            if let Some(named) = self.names.get(name) {
                named.found.set(true);
                places.extend(
                    named
                        .occurrences
                        .iter()
                        .map(|&occurrence| (occurrence, number)),
                );
            }
        }
        places.sort_unstable();
    }

    /// The rules at these places of the profile. A call that is made through a multiplexer has its number in the first argument, and
    /// its own arguments behind a pointer, where no filter can look: libseccomp then ignores the condition on the first and compares
    /// the others with what is in their place, and so do we.
    fn rules(
        &self,
        places: &[(Occurrence, Option<u32>)],
        wide: bool,
    ) -> std::result::Result<Rules, rules::Contradiction> {
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
                        let mut conditions: Vec<_> = conditions
                            .iter()
                            .copied()
                            .filter(|c| c.argument != 0)
                            .collect();
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
                self.graph
                    .test(Word::whole(NR_OFFSET), Compare::AtLeast, from, high, low)
            }
        }
    }

    fn unknown_names(&self) -> Vec<String> {
        let mut unknown: Vec<&str> = self
            .names
            .iter()
            .filter(|(_, named)| !named.found.get())
            .map(|(name, _)| *name)
            .collect();
        abi::retain_unknown(&mut unknown);
        unknown.sort_unstable();
        unknown.into_iter().map(str::to_owned).collect()
    }
}

/// Begins a range. Ranges are set in ascending order; what was set last for a number counts.
fn set(ranges: &mut Vec<(u32, Goto)>, from: u32, goto: Goto) {
    ranges.pop_if(|last| last.0 == from);
    if ranges.last().is_none_or(|last| last.1 != goto) {
        ranges.push((from, goto));
    }
}
