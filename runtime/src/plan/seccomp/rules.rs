//! The rules for one system call of one interface, and which of them wins.
//!
//! The answers are libseccomp's, on which every engine's profile has been tried:
//! - The first rule without conditions wins over all others, wherever it stands.
//! - Otherwise the conditions of a rule all hold or the rule does not count, and of several rules that count, the one wins that
//!   looks at the higher argument; at the same argument, `EQ`, `NE` and `MASKED_EQ` win over `LE` and `LT`, and these over `GE`
//!   and `GT`; then the greater value wins (for `LE` and `LT` the smaller), and then the one that was written first.
//! - A rule whose conditions are the beginning of another rule's makes the longer one superfluous.
//! - Two rules with the same conditions and different actions, or a shorter rule after a longer one with another action, are an
//!   error.
//!
//! In one case the answer is another: where several rules with several conditions each meet in one system call, libseccomp (up to
//! 2.5.4 at least) sometimes forgets a rule that holds, or follows one that does not. Here a rule counts iff its conditions hold.
//!
//! That order is the order in which a tree of comparisons is searched; the tree is kept here because it also makes short code:
//! rules that begin alike share their comparisons. A 64-bit comparison is two or three of 32 bits, since BPF has no wider ones.

use super::graph::{ARGS_OFFSET, Compare, Goto, Graph, Word};
use oci_spec::runtime::{LinuxSeccompArg, LinuxSeccompOperator as Operator};

/// How many arguments a system call has.
pub(super) const ARGUMENTS: usize = 6;

/// How arguments lie in `seccomp_data`.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// Compare all 64 bits, not only the low 32.
    pub(super) wide: bool,
    pub(super) little_endian: bool,
}

/// One condition: `argument operator value`, or `argument & mask == value`.
#[derive(Clone, Copy)]
pub(super) struct Condition {
    pub(super) argument: usize,
    pub(super) operator: Operator,
    pub(super) mask: u64,
    pub(super) value: u64,
}

/// Two rules that cannot both be meant.
#[derive(Debug, PartialEq)]
pub(super) struct Contradiction;

/// What happens to one system call.
pub(super) enum Rules {
    /// The same in every case.
    Always(u32),
    /// It depends on arguments; if no rule holds, the default action is taken.
    Depends(Level),
}

/// Alternatives, tried in this order.
pub(super) type Level = Vec<Node>;

/// One 32-bit comparison and what follows from it.
#[derive(Clone)]
pub(super) struct Node {
    /// The argument, doubled, plus one for its high half.
    half: usize,
    /// The comparison made, which may be the opposite of what the rule says.
    compare: Compare,
    mask: u32,
    value: u32,
    /// What the rule said: this is what the nodes of a level are ordered by.
    operator: Operator,
    whole_value: u64,
    yes: Branch,
    no: Branch,
}

#[derive(Clone)]
enum Branch {
    /// Go on with the next alternative.
    Next,
    Act(u32),
    Try(Level),
}

impl Rules {
    pub(super) fn new() -> Rules {
        Rules::Depends(Vec::new())
    }

    /// Adds a rule. No two conditions may be on the same argument.
    pub(super) fn add(
        &mut self,
        conditions: &[Condition],
        action: u32,
        wide: bool,
    ) -> Result<(), Contradiction> {
        let Rules::Depends(level) = self else {
            return Ok(());
        };
        if conditions.is_empty() {
            *self = Rules::Always(action);
            return Ok(());
        }
        let mut by_argument = [None; ARGUMENTS];
        for condition in conditions {
            let condition = condition.narrowed(wide);
            by_argument[condition.argument] = (!condition.is_always_true()).then_some(condition);
        }
        let mut rest = Branch::Act(action);
        for condition in by_argument.iter().flatten().rev() {
            rest = Branch::Try(vec![condition.compare_halves(wide, rest)]);
        }
        match rest {
            Branch::Try(rule) => return insert_all(level, rule),
            _ => *self = Rules::Always(action),
        }
        Ok(())
    }

    /// Makes the code for these rules.
    pub(super) fn generate(&self, graph: &mut Graph, layout: Layout, default: u32) -> Goto {
        match self {
            Rules::Always(action) => Goto::Return(*action),
            Rules::Depends(level) => generate_level(graph, layout, level, Goto::Return(default)),
        }
    }
}

impl Condition {
    pub(super) fn new(arg: &LinuxSeccompArg) -> Condition {
        let (mask, value) = match arg.op() {
            Operator::ScmpCmpMaskedEq => (arg.value(), arg.value_two().unwrap_or(0)),
            _ => (u64::MAX, arg.value()),
        };
        Condition {
            argument: arg.index(),
            operator: arg.op(),
            mask,
            value,
        }
    }

    pub(super) fn first_argument_is(value: u32) -> Condition {
        Condition {
            argument: 0,
            operator: Operator::ScmpCmpEq,
            mask: u64::MAX,
            value: value.into(),
        }
    }

    /// The condition as an interface with 32-bit arguments sees it. libseccomp cuts the value off, too.
    fn narrowed(self, wide: bool) -> Condition {
        let bits = if wide { u64::MAX } else { u64::from(u32::MAX) };
        let mask = self.mask & bits;
        Condition {
            mask,
            value: self.value & mask,
            ..self
        }
    }

    fn is_always_true(&self) -> bool {
        self.operator == Operator::ScmpCmpMaskedEq && self.mask == 0
    }

    /// The comparisons that lead to `then` if the condition holds, and to the next alternative if not.
    fn compare_halves(&self, wide: bool, then: Branch) -> Node {
        let low = |compare, yes, no| self.node(false, compare, yes, no);
        let high = |compare, yes, no| self.node(true, compare, yes, no);
        let only = |node| Branch::Try(vec![node]);
        let next = || Branch::Next;
        let equal = Compare::Equal;
        match (self.operator, wide) {
            (Operator::ScmpCmpEq | Operator::ScmpCmpMaskedEq, false) => low(equal, then, next()),
            (Operator::ScmpCmpEq | Operator::ScmpCmpMaskedEq, true) => {
                high(equal, only(low(equal, then, next())), next())
            }
            (Operator::ScmpCmpNe, false) => low(equal, next(), then),
            (Operator::ScmpCmpNe, true) => {
                high(equal, only(low(equal, next(), then.clone())), then)
            }
            (Operator::ScmpCmpGt | Operator::ScmpCmpGe, false) => low(self.upper(), then, next()),
            (Operator::ScmpCmpGt | Operator::ScmpCmpGe, true) => {
                let low = low(self.upper(), then.clone(), next());
                high(Compare::Greater, then, only(high(equal, only(low), next())))
            }
            (Operator::ScmpCmpLt | Operator::ScmpCmpLe, false) => low(self.upper(), next(), then),
            (Operator::ScmpCmpLt | Operator::ScmpCmpLe, true) => {
                let low = low(self.upper(), next(), then.clone());
                high(Compare::Greater, next(), only(high(equal, only(low), then)))
            }
        }
    }

    /// The comparison of BPF, which has no "less", that decides an ordering.
    fn upper(&self) -> Compare {
        match self.operator {
            Operator::ScmpCmpGe | Operator::ScmpCmpLt => Compare::AtLeast,
            _ => Compare::Greater,
        }
    }

    fn node(&self, high: bool, compare: Compare, yes: Branch, no: Branch) -> Node {
        let shift = if high { 32 } else { 0 };
        Node {
            half: self.argument * 2 + usize::from(high),
            compare,
            mask: (self.mask >> shift) as u32,
            value: (self.value >> shift) as u32,
            operator: self.operator,
            whole_value: self.value,
            yes,
            no,
        }
    }
}

fn insert_all(level: &mut Level, rule: Level) -> Result<(), Contradiction> {
    rule.into_iter().try_for_each(|node| insert(level, node))
}

/// Puts a node in its place among the alternatives, or makes it one with a node that asks the same.
fn insert(level: &mut Level, new: Node) -> Result<(), Contradiction> {
    for (place, node) in level.iter_mut().enumerate() {
        if node.asks_the_same(&new) {
            return node.merge(new);
        }
        if node.comes_after(&new) {
            level.insert(place, new);
            return Ok(());
        }
    }
    level.push(new);
    Ok(())
}

impl Node {
    fn asks_the_same(&self, other: &Node) -> bool {
        let masked = |node: &Node| node.operator == Operator::ScmpCmpMaskedEq;
        (self.half, self.compare, self.mask, self.value)
            == (other.half, other.compare, other.mask, other.value)
            && masked(self) == masked(other)
    }

    fn comes_after(&self, other: &Node) -> bool {
        let rank = |node: &Node| match node.operator {
            Operator::ScmpCmpEq | Operator::ScmpCmpNe | Operator::ScmpCmpMaskedEq => 3,
            Operator::ScmpCmpLe | Operator::ScmpCmpLt => 2,
            Operator::ScmpCmpGe | Operator::ScmpCmpGt => 1,
        };
        let smaller_first = matches!(self.operator, Operator::ScmpCmpLe | Operator::ScmpCmpLt);
        (self.half, rank(self))
            .cmp(&(other.half, rank(other)))
            .is_lt()
            || (self.half, rank(self)) == (other.half, rank(other))
                && if smaller_first {
                    self.value > other.value
                } else {
                    self.value < other.value
                }
    }

    /// Adds what another rule wants after the same comparison.
    fn merge(&mut self, new: Node) -> Result<(), Contradiction> {
        let ends_here = |node: &Node| {
            !matches!(
                (&node.yes, &node.no),
                (Branch::Try(_), _) | (_, Branch::Try(_))
            )
        };
        let contradictory = ends_here(self) || ends_here(&new);
        let greater = new.whole_value > self.whole_value;
        self.yes.merge(new.yes, contradictory, greater)?;
        self.no.merge(new.no, contradictory, false)?;
        self.whole_value = self.whole_value.max(new.whole_value);
        Ok(())
    }
}

impl Branch {
    /// Two actions contradict each other unless they only say what the high half alone decides: then the low halves tell the rules
    /// apart, and `replace` says which one wins here.
    fn merge(
        &mut self,
        new: Branch,
        contradictory: bool,
        replace: bool,
    ) -> Result<(), Contradiction> {
        match (&mut *self, new) {
            (_, Branch::Next) => {}
            (Branch::Next, new) => *self = new,
            (Branch::Act(old), Branch::Act(new)) if *old == new => {}
            (Branch::Act(_), Branch::Act(_)) if contradictory => return Err(Contradiction),
            (Branch::Act(old), Branch::Act(new)) => *old = if replace { new } else { *old },
            (Branch::Act(_), Branch::Try(_)) => {}
            (Branch::Try(old), Branch::Act(new)) if !all_act(old, new) => {
                return Err(Contradiction);
            }
            (Branch::Try(_), new @ Branch::Act(_)) => *self = new,
            (Branch::Try(old), Branch::Try(new)) => return insert_all(old, new),
        }
        Ok(())
    }
}

/// Whether no rule of this level has an action other than this one.
fn all_act(level: &Level, action: u32) -> bool {
    level
        .iter()
        .flat_map(|node| [&node.yes, &node.no])
        .all(|branch| match branch {
            Branch::Next => true,
            Branch::Act(other) => *other == action,
            Branch::Try(level) => all_act(level, action),
        })
}

fn generate_level(graph: &mut Graph, layout: Layout, level: &Level, otherwise: Goto) -> Goto {
    level.iter().rev().fold(otherwise, |next, node| {
        let mut follow = |branch: &Branch| match branch {
            Branch::Next => next,
            Branch::Act(action) => Goto::Return(*action),
            Branch::Try(level) => generate_level(graph, layout, level, next),
        };
        let (yes, no) = (follow(&node.yes), follow(&node.no));
        let offset = ARGS_OFFSET + 4 * node.word_index(layout);
        match (node.compare, node.mask, node.value) {
            // Nothing is compared: a mask often leaves one half out.
            (Compare::Equal, 0, _) => yes,
            (Compare::Equal, mask, 0) if mask != u32::MAX => {
                graph.test(Word::whole(offset), Compare::AnyBit, mask, no, yes)
            }
            (compare, mask, value) => graph.test(Word { offset, mask }, compare, value, yes, no),
        }
    })
}

impl Node {
    fn word_index(&self, layout: Layout) -> u32 {
        let swapped = if layout.little_endian { 0 } else { 1 };
        u32::try_from(self.half ^ swapped).expect("an argument index is less than six")
    }
}
