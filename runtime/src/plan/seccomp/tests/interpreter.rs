//! Evaluates a program as the kernel would, for tests.

use seccompiler::sock_filter;

/// What a filter sees of a system call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) arch: u32,
    pub(super) nr: u32,
    pub(super) args: [u64; 6],
}

/// The value the program returns, and how many instructions it ran. Panics where the kernel would refuse the program.
pub(super) fn run(program: &[sock_filter], call: &Call, little_endian: bool) -> (u32, usize) {
    let mut accumulator = None;
    let mut at = 0;
    for steps in 1.. {
        let &sock_filter { code, jt, jf, k } = &program[at];
        at += 1;
        let test = |holds: fn(u32, u32) -> bool| {
            let value = accumulator.expect("a test needs a value");
            usize::from(if holds(value, k) { jt } else { jf })
        };
        match u32::from(code) {
            0x20 => accumulator = Some(word(call, k, little_endian)),
            0x54 => accumulator = accumulator.map(|a| a & k),
            0x05 => at += k as usize,
            0x15 => at += test(|a, k| a == k),
            0x25 => at += test(|a, k| a > k),
            0x35 => at += test(|a, k| a >= k),
            0x45 => at += test(|a, k| a & k != 0),
            0x06 => return (k, steps),
            _ => panic!("instruction {code:#x}"),
        }
    }
    unreachable!("every jump goes forward")
}

fn word(call: &Call, offset: u32, little_endian: bool) -> u32 {
    match offset {
        0 => call.nr,
        4 => call.arch,
        16..64 if offset.is_multiple_of(4) => {
            let arg = call.args[(offset as usize - 16) / 8];
            let high = (offset % 8 == 4) == little_endian;
            (if high { arg >> 32 } else { arg }) as u32
        }
        _ => panic!("load of {offset}"),
    }
}
