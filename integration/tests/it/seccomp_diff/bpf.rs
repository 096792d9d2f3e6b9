//! Seccomp programs, as the kernel evaluates them.

/// One `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

/// What a program sees of a system call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) arch: u32,
    pub(super) nr: u32,
    pub(super) args: [u64; 6],
}

impl Call {
    pub(super) fn with(mut self, index: usize, value: u64) -> Call {
        self.args[index] = value;
        self
    }
}

/// What the program returns for a call.
pub(super) fn verdict(program: &[Instruction], call: &Call) -> u32 {
    evaluate(program, call).0
}

/// Whether the program looks at any argument of a call. If not, its verdict is the same for all arguments.
pub(super) fn looks_at_arguments(program: &[Instruction], call: &Call) -> bool {
    evaluate(program, call).1
}

fn evaluate(program: &[Instruction], call: &Call) -> (u32, bool) {
    let (mut accumulator, mut at, mut looked) = (0, 0, false);
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        let choose = |yes: bool| usize::from(if yes { jt } else { jf });
        match code {
            0x20 => {
                looked |= k >= 16;
                accumulator = match k {
                    0 => call.nr,
                    4 => call.arch,
                    _ => (call.args[(k as usize - 16) / 8] >> (k % 8 * 8)) as u32,
                };
            }
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => at += choose(accumulator == k),
            0x25 => at += choose(accumulator > k),
            0x35 => at += choose(accumulator >= k),
            0x45 => at += choose(accumulator & k != 0),
            0x06 => return (k, looked),
            _ => panic!("instruction {code:#x} at {}", at - 1),
        }
    }
}

pub(super) fn from_bytes(bytes: &[u8]) -> Vec<Instruction> {
    assert!(
        !bytes.is_empty() && bytes.len().is_multiple_of(8),
        "{} bytes",
        bytes.len()
    );
    let instruction = |b: &[u8]| Instruction {
        code: u16::from_ne_bytes([b[0], b[1]]),
        jt: b[2],
        jf: b[3],
        k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
    };
    bytes.chunks(8).map(instruction).collect()
}

/// The program in a line of strace's, with `--const-print-style=raw`, that is about prctl(PR_SET_SECCOMP) or seccomp(2):
/// `... {len=3, filter=[BPF_STMT(0|0|0x20, 0x4), BPF_JUMP(0x5|0|0x10, 0xc000003e, 0x1, 0), ...]}`. Other lines have none.
pub(super) fn from_strace(line: &str) -> Option<Vec<Instruction>> {
    let (length, rest) = line.split_once("{len=")?.1.split_once(", filter=[")?;
    let (list, _) = rest.split_once("]}")?;
    let words = |text: &str| -> Vec<u32> { text.split(", ").map(any_of).collect() };
    let program: Vec<Instruction> = list
        .split("BPF_")
        .filter_map(|item| item.split_once('('))
        .map(
            |(kind, item)| match (kind, &words(&item[..item.find(')').unwrap()])[..]) {
                ("STMT", &[code, k]) => Instruction {
                    code: code as u16,
                    jt: 0,
                    jf: 0,
                    k,
                },
                ("JUMP", &[code, k, jt, jf]) => Instruction {
                    code: code as u16,
                    jt: jt as u8,
                    jf: jf as u8,
                    k,
                },
                _ => panic!("BPF_{kind}({item}"),
            },
        )
        .collect();
    assert_eq!(
        program.len().to_string(),
        length,
        "strace left something out"
    );
    Some(program)
}

/// The value of `0x5|0|0x10`.
fn any_of(text: &str) -> u32 {
    text.split('|')
        .map(|word| match word.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16).unwrap(),
            None => word.parse().unwrap(),
        })
        .fold(0, std::ops::BitOr::bitor)
}
