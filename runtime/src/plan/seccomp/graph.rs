//! A BPF program as a graph of tests, and its assembly into instructions.
//!
//! A block compares one word of `seccomp_data` with a constant and goes on to one of two places. Equal blocks are one block, so
//! system calls with the same rules share their code. Blocks only lead to blocks made before them: laid out newest first, every
//! jump goes forward, which is the only way BPF can jump. The instructions are produced from the last to the first, so every
//! distance is known when a jump is written.

use super::hash::ShortKeys;
use seccompiler::sock_filter;
use std::collections::HashMap;

/// Offsets in `struct seccomp_data` (`linux/seccomp.h`).
pub(super) const NR_OFFSET: u32 = 0;
pub(super) const ARCH_OFFSET: u32 = 4;
pub(super) const ARGS_OFFSET: u32 = 16;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// How far a conditional jump may aim. Its offset has eight bits; two instructions may still come between (see
/// [`Assembler::within_reach`]).
const REACH: usize = 253;

/// Where a test leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Goto {
    /// The end: the value the filter returns.
    Return(u32),
    /// A block, by its place in the graph.
    Block(usize),
}

/// The word a test looks at, which is then in the accumulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Word {
    pub(super) offset: u32,
    pub(super) mask: u32,
}

impl Word {
    pub(super) fn whole(offset: u32) -> Word {
        Word {
            offset,
            mask: u32::MAX,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Compare {
    Equal,
    Greater,
    AtLeast,
    AnyBit,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Block {
    word: Word,
    compare: Compare,
    value: u32,
    yes: Goto,
    no: Goto,
}

/// The blocks made so far.
#[derive(Default)]
pub(super) struct Graph {
    blocks: Vec<Block>,
    places: HashMap<Block, usize, ShortKeys>,
}

impl Graph {
    /// A test that leads to `yes` or `no`, made now or found.
    pub(super) fn test(
        &mut self,
        word: Word,
        compare: Compare,
        value: u32,
        yes: Goto,
        no: Goto,
    ) -> Goto {
        if yes == no {
            return yes;
        }
        let block = Block {
            word,
            compare,
            value,
            yes,
            no,
        };
        let place = *self.places.entry(block).or_insert_with(|| {
            self.blocks.push(block);
            self.blocks.len() - 1
        });
        Goto::Block(place)
    }

    /// The instructions of a program that starts at `entry`. Blocks that nothing leads to from there are left out.
    pub(super) fn assemble(&self, entry: Goto) -> Vec<sock_filter> {
        let mut assembler = Assembler {
            reversed: Vec::new(),
            starts: Vec::new(),
            returns: Vec::new(),
        };
        if let Goto::Return(value) = entry {
            assembler.push(RETURN, value);
        }
        for (block, arrival) in self.blocks.iter().zip(self.arrivals(entry)) {
            assembler.block(block, arrival);
        }
        assembler.reversed.reverse();
        assembler.reversed
    }

    /// What is known of the accumulator on arrival at each block.
    fn arrivals(&self, entry: Goto) -> Vec<Arrival> {
        let mut arrivals = vec![Arrival::Never; self.blocks.len()];
        if let Goto::Block(place) = entry {
            arrivals[place] = Arrival::Unknown;
        }
        for (place, block) in self.blocks.iter().enumerate().rev() {
            for target in [block.yes, block.no] {
                if let (Goto::Block(target), true) = (target, arrivals[place] != Arrival::Never) {
                    arrivals[target] = match arrivals[target] {
                        Arrival::Never => Arrival::With(block.word),
                        Arrival::With(word) if word == block.word => Arrival::With(word),
                        _ => Arrival::Unknown,
                    };
                }
            }
        }
        arrivals
    }
}

/// What the accumulator holds when a block is reached.
#[derive(Clone, Copy, PartialEq)]
enum Arrival {
    /// The block is not reached.
    Never,
    /// The same word from wherever it is reached.
    With(Word),
    Unknown,
}

/// Where a block's code begins, as places in the reversed program.
struct Start {
    word: Word,
    load: usize,
    /// Behind the load: for those who come with the word loaded.
    loaded: usize,
}

struct Assembler {
    /// The program so far, last instruction first.
    reversed: Vec<sock_filter>,
    starts: Vec<Start>,
    /// The latest place of each return.
    returns: Vec<(u32, usize)>,
}

impl Assembler {
    fn push(&mut self, code: u16, k: u32) -> usize {
        self.reversed.push(sock_filter {
            code,
            jt: 0,
            jf: 0,
            k,
        });
        self.reversed.len() - 1
    }

    /// Writes one block in front of what there is.
    fn block(&mut self, block: &Block, arrival: Arrival) {
        let word = block.word;
        if arrival == Arrival::Never {
            // Nothing leads here, so nobody asks for the place.
            self.starts.push(Start {
                word,
                load: usize::MAX,
                loaded: usize::MAX,
            });
            return;
        }
        let yes = self.within_reach(block.yes, word);
        let no = self.within_reach(block.no, word);
        let compare = match block.compare {
            Compare::Equal => libc::BPF_JEQ,
            Compare::Greater => libc::BPF_JGT,
            Compare::AtLeast => libc::BPF_JGE,
            Compare::AnyBit => libc::BPF_JSET,
        };
        let code = (libc::BPF_JMP | libc::BPF_K | compare) as u16;
        let loaded = self.reversed.len();
        let offset =
            |target: usize| u8::try_from(loaded - target - 1).expect("targets are within reach");
        self.reversed.push(sock_filter {
            code,
            jt: offset(yes),
            jf: offset(no),
            k: block.value,
        });
        let mut load = loaded;
        if arrival != Arrival::With(word) {
            if word.mask != u32::MAX {
                self.push(AND, word.mask);
            }
            load = self.push(LOAD, word.offset);
        }
        self.starts.push(Start { word, load, loaded });
    }

    /// The place to jump to for `target` with `word` loaded, near enough for a conditional jump. What is put in between to get
    /// there cannot be run into: every block ends by jumping.
    fn within_reach(&mut self, target: Goto, word: Word) -> usize {
        let here = self.reversed.len();
        match target {
            Goto::Return(value) => {
                if let Some(&(_, place)) = self
                    .returns
                    .iter()
                    .find(|&&(v, place)| v == value && here - place <= REACH)
                {
                    return place;
                }
                let place = self.push(RETURN, value);
                self.returns.retain(|&(v, _)| v != value);
                self.returns.push((value, place));
                place
            }
            Goto::Block(place) => {
                let start = &self.starts[place];
                let place = if start.word == word {
                    start.loaded
                } else {
                    start.load
                };
                if here - place <= REACH {
                    return place;
                }
                let distance =
                    u32::try_from(here - place - 1).expect("a program is far shorter than 2^32");
                self.push(JUMP, distance)
            }
        }
    }
}
