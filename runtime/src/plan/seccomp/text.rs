//! A program as text for people and as bytes for other programs.

use super::Filter;
use super::graph::{ARCH_OFFSET, ARGS_OFFSET, NR_OFFSET};
use seccompiler::sock_filter;
use std::fmt::Write;

impl Filter {
    /// One line for each instruction, with absolute jump targets.
    pub(crate) fn disassemble(&self) -> String {
        let mut text = String::new();
        for (at, instruction) in self.program.iter().enumerate() {
            writeln!(text, "{at:4}: {}", line(at, instruction))
                .expect("writing to a string does not fail");
        }
        text
    }

    /// The program as the kernel takes it: `struct sock_filter`s in this machine's byte order.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.program.len() * 8);
        for instruction in &self.program {
            bytes.extend(instruction.code.to_ne_bytes());
            bytes.extend([instruction.jt, instruction.jf]);
            bytes.extend(instruction.k.to_ne_bytes());
        }
        bytes
    }

    /// What the container's directory keeps for exec: the flags, then the program.
    pub(crate) fn to_saved(&self) -> Vec<u8> {
        let mut bytes = self.flags.to_ne_bytes().to_vec();
        bytes.extend(self.to_bytes());
        bytes
    }

    /// The filter that [`to_saved`](Self::to_saved) was given; None if the bytes cannot be one.
    pub(crate) fn from_saved(bytes: &[u8]) -> Option<Filter> {
        let (flags, program) = bytes.split_first_chunk::<4>()?;
        Some(Filter {
            program: instructions(program)?,
            flags: u32::from_ne_bytes(*flags),
            warnings: Vec::new(),
            unknown: Vec::new(),
        })
    }
}

/// The program that these bytes are; None if they are none, or not whole.
pub(super) fn instructions(bytes: &[u8]) -> Option<Vec<sock_filter>> {
    let (instructions, rest) = bytes.as_chunks::<8>();
    let instruction = |&[c0, c1, jt, jf, k0, k1, k2, k3]: &[u8; 8]| sock_filter {
        code: u16::from_ne_bytes([c0, c1]),
        jt,
        jf,
        k: u32::from_ne_bytes([k0, k1, k2, k3]),
    };
    let whole = rest.is_empty() && !instructions.is_empty();
    whole.then(|| instructions.iter().map(instruction).collect())
}

fn line(at: usize, instruction: &sock_filter) -> String {
    let &sock_filter { code, jt, jf, k } = instruction;
    let target = |offset: usize| at + 1 + offset;
    let code = u32::from(code);
    let jump = |name: &str| {
        format!(
            "{name} {k:#x}, {}, {}",
            target(jt.into()),
            target(jf.into())
        )
    };
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const AND: u32 = libc::BPF_ALU | libc::BPF_AND;
    const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ;
    const GREATER: u32 = libc::BPF_JMP | libc::BPF_JGT;
    const AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE;
    const ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET;
    match code {
        LOAD => format!("ld {}", word(k)),
        AND => format!("and {k:#x}"),
        JUMP => format!("ja {}", target(k as usize)),
        EQUAL => jump("jeq"),
        GREATER => jump("jgt"),
        AT_LEAST => jump("jge"),
        ANY_BIT => jump("jset"),
        libc::BPF_RET => format!("ret {}", action(k)),
        _ => format!("code {code:#x}, {jt}, {jf}, {k:#x}"),
    }
}

/// The name of a word of `seccomp_data`.
fn word(offset: u32) -> String {
    match offset {
        NR_OFFSET => "nr".to_string(),
        ARCH_OFFSET => "arch".to_string(),
        ARGS_OFFSET.. => {
            let half = (offset - ARGS_OFFSET) / 4;
            let low = if cfg!(target_endian = "little") { 0 } else { 1 };
            format!(
                "args[{}].{}",
                half / 2,
                if half % 2 == low { "low" } else { "high" }
            )
        }
        _ => format!("[{offset}]"),
    }
}

fn action(value: u32) -> String {
    let data = value & libc::SECCOMP_RET_DATA;
    match value & libc::SECCOMP_RET_ACTION_FULL {
        libc::SECCOMP_RET_KILL_PROCESS => "KILL_PROCESS".to_string(),
        libc::SECCOMP_RET_KILL_THREAD => "KILL_THREAD".to_string(),
        libc::SECCOMP_RET_TRAP => "TRAP".to_string(),
        libc::SECCOMP_RET_ERRNO => format!("ERRNO({data})"),
        libc::SECCOMP_RET_USER_NOTIF => "NOTIFY".to_string(),
        libc::SECCOMP_RET_TRACE => format!("TRACE({data})"),
        libc::SECCOMP_RET_LOG => "LOG".to_string(),
        libc::SECCOMP_RET_ALLOW => "ALLOW".to_string(),
        _ => format!("{value:#x}"),
    }
}
