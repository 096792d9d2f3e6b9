//! `linux.resources.devices` → a BPF_PROG_TYPE_CGROUP_DEVICE program.
//!
//! Pure: the program is made here, loaded by `sys::bpf` and attached by `cgroup`. The rules were made for the device controller of
//! cgroup v1, so the program gives the verdicts which that controller would give: a group allows or denies everything (the last rule
//! of type `a` says which), with a set of exceptions. An exception cannot be cut out of a wider one, and asking for it is an error,
//! because a rule that does nothing is a trap (runc refuses it too; v1 ignored it silently).
//!
//! The program gets `struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor; }`, where `access_type` is
//! `access << 16 | type`, and returns 1 to allow.

use crate::report::{Error, Result};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use std::fmt;

/// A program ready for bpf(2).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DeviceFilter {
    /// The instructions as the kernel reads them, or none if every access is allowed: no program has that effect.
    pub(crate) program: Vec<u64>,
    pub(crate) warnings: Vec<String>,
}

/// What every container may use, whatever its rules say: making any node, and `null full zero random urandom tty ptmx` and the
/// terminals of its own devpts, and the tun device.
const DEFAULTS: [Exception; 11] = [
    Exception::new(Kind::Char, None, None, MKNOD),
    Exception::new(Kind::Block, None, None, MKNOD),
    Exception::new(Kind::Char, Some(1), Some(3), ALL),
    Exception::new(Kind::Char, Some(1), Some(5), ALL),
    Exception::new(Kind::Char, Some(1), Some(7), ALL),
    Exception::new(Kind::Char, Some(1), Some(8), ALL),
    Exception::new(Kind::Char, Some(1), Some(9), ALL),
    Exception::new(Kind::Char, Some(5), Some(0), ALL),
    Exception::new(Kind::Char, Some(5), Some(2), ALL),
    Exception::new(Kind::Char, Some(136), None, ALL),
    Exception::new(Kind::Char, Some(10), Some(200), ALL),
];

/// Compiles the rules, followed by the defaults. No rules at all means that only the defaults are allowed.
pub(crate) fn device_filter(rules: &[LinuxDeviceCgroup]) -> Result<DeviceFilter> {
    let mut policy = Policy {
        allow: false,
        exceptions: Vec::new(),
    };
    let mut warnings = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        policy
            .apply(rule, &mut warnings)
            .map_err(|e| e.context(format!("linux.resources.devices[{index}]")))
            .map_err(|e| e.in_field(format!("devices[{index}]")))?;
    }
    for default in DEFAULTS {
        policy
            .set(default, true)
            .map_err(|e| e.context("allow the default devices after linux.resources.devices"))?;
    }
    Ok(DeviceFilter {
        program: policy.compile(),
        warnings,
    })
}

/// The values of BPF_DEVCG_DEV_*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Block = 1,
    Char = 2,
}

/// Bits of BPF_DEVCG_ACC_*.
type Access = u8;
const MKNOD: Access = 1;
const READ: Access = 2;
const WRITE: Access = 4;
const ALL: Access = MKNOD | READ | WRITE;

/// Devices that the policy treats unlike the rest. A number that is absent stands for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Exception {
    kind: Kind,
    major: Option<u32>,
    minor: Option<u32>,
    access: Access,
}

impl Exception {
    const fn new(kind: Kind, major: Option<u32>, minor: Option<u32>, access: Access) -> Self {
        Exception {
            kind,
            major,
            minor,
            access,
        }
    }

    fn same_devices(&self, other: &Exception) -> bool {
        (self.kind, self.major, self.minor) == (other.kind, other.major, other.minor)
    }

    /// Has every device of `other`, and more.
    fn is_wider_than(&self, other: &Exception) -> bool {
        let covers = |mine: Option<u32>, its| mine.is_none() || mine == its;
        self.kind == other.kind
            && covers(self.major, other.major)
            && covers(self.minor, other.minor)
            && !self.same_devices(other)
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.kind == Kind::Block { 'b' } else { 'c' };
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        write!(f, "{kind} {}:{} ", number(self.major), number(self.minor))?;
        let letters = [(READ, "r"), (WRITE, "w"), (MKNOD, "m")];
        letters
            .iter()
            .filter(|(bit, _)| self.access & bit != 0)
            .try_for_each(|(_, letter)| f.write_str(letter))
    }
}

/// A device group of cgroup v1.
struct Policy {
    allow: bool,
    exceptions: Vec<Exception>,
}

impl Policy {
    fn apply(&mut self, rule: &LinuxDeviceCgroup, warnings: &mut Vec<String>) -> Result<()> {
        let access = parse_access(rule.access().as_deref().unwrap_or_default(), warnings)?;
        let major = parse_number("major", rule.major())?;
        let minor = parse_number("minor", rule.minor())?;
        let kind = match rule.typ().unwrap_or_default() {
            LinuxDeviceType::A => {
                if major.is_some() || minor.is_some() || access != ALL {
                    let verb = if rule.allow() { "allows" } else { "denies" };
                    warnings.push(format!(
                        "linux.resources.devices: a rule of type 'a' {verb} every access to all devices, ignoring its numbers and access"
                    ));
                }
                *self = Policy {
                    allow: rule.allow(),
                    exceptions: Vec::new(),
                };
                return Ok(());
            }
            LinuxDeviceType::B => Kind::Block,
            LinuxDeviceType::C => Kind::Char,
            other => {
                return Err(Error::invalid(format!(
                    "device type '{}' is none of a, b and c",
                    other.as_str()
                )));
            }
        };
        self.set(
            Exception {
                kind,
                major,
                minor,
                access,
            },
            rule.allow(),
        )
    }

    /// Makes an exception, or takes one back if `allow` is what the policy does anyway.
    fn set(&mut self, rule: Exception, allow: bool) -> Result<()> {
        let known = self.exceptions.iter().position(|e| e.same_devices(&rule));
        if allow != self.allow {
            match known {
                Some(i) => self.exceptions[i].access |= rule.access,
                None => self.exceptions.push(rule),
            }
            return Ok(());
        }
        if let Some(wide) = self
            .exceptions
            .iter()
            .find(|e| e.is_wider_than(&rule) && e.access & rule.access != 0)
        {
            let (verb, done) = if allow {
                ("allow", "denied")
            } else {
                ("deny", "allowed")
            };
            return Err(Error::invalid(format!(
                "cannot {verb} '{rule}' alone: it is part of '{wide}', which is {done} as a whole"
            )));
        }
        for exception in &mut self.exceptions {
            // v1 and runc let a narrow permission survive a later, wider denial. The spec wants the rules applied in order, and a denial
            // that leaves something allowed is the trap to avoid. The opposite case stays as on v1: a wider permission (such as the
            // default one to make any node) leaves narrow denials in force.
            if exception.same_devices(&rule) || (!allow && rule.is_wider_than(exception)) {
                exception.access &= !rule.access;
            }
        }
        self.exceptions.retain(|e| e.access != 0);
        Ok(())
    }

    /// Tests of the kind, inside them tests of the major number, inside them those of the minor: the fewer ways lead through a program, the less
    /// the kernel's verifier has to walk. All exceptions have the same verdict, so their order means nothing.
    fn compile(&self) -> Vec<u64> {
        if self.allow && self.exceptions.is_empty() {
            return Vec::new();
        }
        let mut program = vec![
            load_word(TYPE, CTX, 0),
            load_word(ACCESS, CTX, 0),
            and_imm(TYPE, 0xffff),
            shift_right_imm(ACCESS, 16),
            load_word(MAJOR, CTX, 4),
            load_word(MINOR, CTX, 8),
        ];
        // What a wider exception says already would be code that nothing leads to, which the kernel refuses.
        let covered = |e: &Exception| {
            let mut wider = self.exceptions.iter().filter(|wide| wide.is_wider_than(e));
            wider.any(|wide| e.access & !wide.access == 0)
        };
        let exceptions = || self.exceptions.iter().filter(|e| !covered(e));
        for kind in [Kind::Block, Kind::Char] {
            let of_kind: Vec<_> = exceptions().filter(|e| e.kind == kind).collect();
            let mut majors: Vec<_> = of_kind.iter().map(|e| e.major).collect();
            majors.sort_unstable();
            majors.dedup();
            let by_major = majors.into_iter().flat_map(|major| {
                let minors = of_kind.iter().filter(|e| e.major == major);
                let by_minor = minors.flat_map(|e| within(MINOR, e.minor, self.verdict(e.access)));
                within(MAJOR, major, by_minor.collect())
            });
            program.extend(within(TYPE, Some(kind as u32), by_major.collect()));
        }
        program.extend([move_imm(RESULT, u32::from(self.allow)), exit()]);
        program
    }

    /// Returns if the exception's access is asked for, else goes on behind.
    fn verdict(&self, exception: Access) -> Vec<u64> {
        let verdict = [move_imm(RESULT, u32::from(!self.allow)), exit()];
        // If everything else is denied, an access must be allowed in all its parts. If everything else is allowed, one denied part
        // denies it: opening for reading and writing is a single access of both kinds, and denying writes must stop it.
        let mut code = match (exception, self.allow) {
            (ALL, _) => Vec::new(),
            (access, false) => {
                let others = 0xffff & !u32::from(access);
                vec![jump_if_bits(ACCESS, others, verdict.len())]
            }
            (access, true) => vec![
                jump_if_bits(ACCESS, u32::from(access), 1),
                jump(verdict.len()),
            ],
        };
        code.extend(verdict);
        code
    }
}

/// Code to be run if a register has this value; code for all values without a test.
fn within(register: u8, value: Option<u32>, mut code: Vec<u64>) -> Vec<u64> {
    if let Some(value) = value.filter(|_| !code.is_empty()) {
        code.insert(0, jump_if_not(register, value, code.len()));
    }
    code
}

/// Letters that mean nothing are passed over, as runc does, if others are left.
fn parse_access(letters: &str, warnings: &mut Vec<String>) -> Result<Access> {
    if letters.is_empty() {
        return Err(Error::invalid("access cannot be empty"));
    }
    let one = |letter| match letter {
        'r' => READ,
        'w' => WRITE,
        'm' => MKNOD,
        _ => 0,
    };
    let access = letters
        .chars()
        .fold(0, |access, letter| access | one(letter));
    let unknown = format!("access '{letters}' has a letter that is none of r, w and m");
    if access == 0 {
        return Err(Error::invalid(unknown));
    }
    if letters.chars().any(|letter| one(letter) == 0) {
        warnings.push(format!("linux.resources.devices: {unknown}, ignoring it"));
    }
    Ok(access)
}

/// Absent and -1 stand for all.
fn parse_number(name: &str, number: Option<i64>) -> Result<Option<u32>> {
    match number {
        None | Some(-1) => Ok(None),
        Some(n) => match u32::try_from(n) {
            Ok(n) => Ok(Some(n)),
            Err(_) => Err(Error::invalid(format!("{name} {n} is not a device number"))),
        },
    }
}

const RESULT: u8 = 0;
const CTX: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// `struct bpf_insn`: the operation, the registers (a bit field, so its halves change places on big-endian machines), the offset and
/// the immediate.
fn insn(code: u8, dst: u8, src: u8, off: i16, imm: u32) -> u64 {
    let registers = if cfg!(target_endian = "little") {
        src << 4 | dst
    } else {
        dst << 4 | src
    };
    let [off_0, off_1] = off.to_ne_bytes();
    let [imm_0, imm_1, imm_2, imm_3] = imm.to_ne_bytes();
    u64::from_ne_bytes([code, registers, off_0, off_1, imm_0, imm_1, imm_2, imm_3])
}

/// BPF_LDX | BPF_MEM | BPF_W
fn load_word(dst: u8, src: u8, off: i16) -> u64 {
    insn(0x61, dst, src, off, 0)
}

/// BPF_ALU | BPF_AND | BPF_K
fn and_imm(dst: u8, imm: u32) -> u64 {
    insn(0x54, dst, 0, 0, imm)
}

/// BPF_ALU | BPF_RSH | BPF_K
fn shift_right_imm(dst: u8, imm: u32) -> u64 {
    insn(0x74, dst, 0, 0, imm)
}

/// BPF_ALU | BPF_MOV | BPF_K
fn move_imm(dst: u8, imm: u32) -> u64 {
    insn(0xb4, dst, 0, 0, imm)
}

/// BPF_JMP32 | BPF_JNE | BPF_K: the 32-bit form, because the 64-bit one extends the sign of a number above 2^31.
fn jump_if_not(dst: u8, imm: u32, skip: usize) -> u64 {
    insn(0x56, dst, 0, skip as i16, imm)
}

/// BPF_JMP32 | BPF_JSET | BPF_K
fn jump_if_bits(dst: u8, imm: u32, skip: usize) -> u64 {
    insn(0x46, dst, 0, skip as i16, imm)
}

/// BPF_JMP | BPF_JA
fn jump(skip: usize) -> u64 {
    insn(0x05, 0, 0, skip as i16, 0)
}

/// BPF_JMP | BPF_EXIT
fn exit() -> u64 {
    insn(0x95, 0, 0, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(json: &str) -> Vec<LinuxDeviceCgroup> {
        serde_json::from_str(json).expect("test rules are valid JSON")
    }

    fn compile(json: &str) -> Vec<u64> {
        device_filter(&rules(json))
            .expect("test rules are accepted")
            .program
    }

    fn refusal(json: &str) -> String {
        device_filter(&rules(json))
            .expect_err("test rules are refused")
            .to_string()
    }

    /// Runs a program as the kernel would, for the instructions that are made here.
    fn run(program: &[u64], kind: Kind, access: Access, major: u32, minor: u32) -> bool {
        if program.is_empty() {
            return true;
        }
        let context = [u32::from(access) << 16 | kind as u32, major, minor];
        let mut registers = [0u32; 11];
        let mut at = 0;
        loop {
            let bytes = program[at].to_ne_bytes();
            let (dst, src) = if cfg!(target_endian = "little") {
                (bytes[1] & 15, bytes[1] >> 4)
            } else {
                (bytes[1] >> 4, bytes[1] & 15)
            };
            let off = i16::from_ne_bytes([bytes[2], bytes[3]]);
            let imm = u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
            let dst = dst as usize;
            at += 1;
            let mut take = false;
            match bytes[0] {
                0x61 => {
                    assert_eq!(src, CTX);
                    registers[dst] = context[off as usize / 4];
                }
                0x54 => registers[dst] &= imm,
                0x74 => registers[dst] >>= imm,
                0xb4 => registers[dst] = imm,
                0x56 => take = registers[dst] != imm,
                0x46 => take = registers[dst] & imm != 0,
                0x05 => take = true,
                0x95 => return registers[0] == 1,
                code => panic!("unknown operation {code:#x}"),
            }
            if take {
                assert!(off >= 0, "no loops");
                at += off as usize;
            }
        }
    }

    /// The kernel refuses a program with instructions to which nothing leads.
    fn unreachable(program: &[u64]) -> Vec<usize> {
        let mut reached = vec![program.is_empty(); program.len().max(1)];
        let mut open = vec![0];
        while let Some(at) = open.pop() {
            if std::mem::replace(&mut reached[at], true) {
                continue;
            }
            let bytes = program[at].to_ne_bytes();
            let off = i16::from_ne_bytes([bytes[2], bytes[3]]) as usize;
            match bytes[0] {
                0x95 => {}
                0x05 => open.push(at + 1 + off),
                0x56 | 0x46 => open.extend([at + 1, at + 1 + off]),
                _ => open.push(at + 1),
            }
        }
        (0..program.len()).filter(|at| !reached[*at]).collect()
    }

    #[test]
    fn what_a_wider_rule_says_already_makes_no_code() {
        let rule = |kind: &str, numbers: &str, access: &str, allow: bool| {
            format!(r#"{{"allow":{allow},"type":"{kind}"{numbers},"access":"{access}"}}"#)
        };
        let numbers = [
            "",
            r#","major":1"#,
            r#","major":1,"minor":11"#,
            r#","minor":11"#,
        ];
        for allow in [true, false] {
            let first = format!(r#"{{"allow":{},"access":"rwm"}}"#, !allow);
            for (one, access) in numbers
                .iter()
                .flat_map(|n| ["rwm", "rw", "m"].map(|a| (n, a)))
            {
                for (two, other) in numbers.iter().flat_map(|n| ["rwm", "w"].map(|a| (n, a))) {
                    let rules = [
                        rule("c", one, access, allow),
                        rule("c", two, other, allow),
                        rule("b", one, other, allow),
                    ];
                    let json = format!("[{first},{}]", rules.join(","));
                    // Some of them would have to cut out of what they deny what is always allowed.
                    if let Ok(filter) = device_filter(&self::rules(&json)) {
                        assert!(unreachable(&filter.program).is_empty(), "{json}");
                        assert!(run(&filter.program, Kind::Char, READ, 1, 3), "{json}");
                    }
                }
            }
        }
        let program = compile(r#"[{"allow":true,"type":"c","access":"rwm"}]"#);
        assert!(run(&program, Kind::Char, ALL, 7, 7) && !run(&program, Kind::Block, READ, 7, 7));
    }

    const NO_RULES: &str = "[]";
    const ALLOW_ALL: &str = r#"[{"allow":true,"access":"rwm"}]"#;

    #[test]
    fn without_rules_the_defaults_and_nothing_else_are_allowed() {
        let program = compile(NO_RULES);
        for (major, minor) in [
            (1, 3),
            (1, 5),
            (1, 7),
            (1, 8),
            (1, 9),
            (5, 0),
            (5, 2),
            (136, 0),
            (136, 77),
            (10, 200),
        ] {
            assert!(
                run(&program, Kind::Char, ALL, major, minor),
                "c {major}:{minor}"
            );
            assert!(
                !run(&program, Kind::Block, READ, major, minor),
                "b {major}:{minor}"
            );
        }
        for (major, minor) in [
            (1, 1),
            (1, 11),
            (5, 1),
            (10, 229),
            (8, 0),
            (u32::MAX, u32::MAX),
        ] {
            assert!(
                run(&program, Kind::Char, MKNOD, major, minor),
                "mknod c {major}:{minor}"
            );
            assert!(
                run(&program, Kind::Block, MKNOD, major, minor),
                "mknod b {major}:{minor}"
            );
            for access in [READ, WRITE, READ | WRITE, READ | MKNOD] {
                assert!(
                    !run(&program, Kind::Char, access, major, minor),
                    "{access} c {major}:{minor}"
                );
                assert!(
                    !run(&program, Kind::Block, access, major, minor),
                    "{access} b {major}:{minor}"
                );
            }
        }
    }

    #[test]
    fn denying_all_first_is_the_same_as_no_rules() {
        assert_eq!(
            compile(r#"[{"allow":false,"access":"rwm"}]"#),
            compile(NO_RULES)
        );
        assert_eq!(
            compile(
                r#"[{"allow":true,"type":"c","major":7,"minor":7,"access":"r"},{"allow":false,"type":"a","access":"rwm"}]"#
            ),
            compile(NO_RULES)
        );
    }

    #[test]
    fn allowing_all_needs_no_program() {
        assert!(compile(ALLOW_ALL).is_empty());
    }

    #[test]
    fn an_allowed_access_must_be_allowed_in_all_its_parts() {
        let program = compile(r#"[{"allow":true,"type":"b","major":8,"minor":0,"access":"r"}]"#);
        assert!(run(&program, Kind::Block, READ, 8, 0));
        assert!(!run(&program, Kind::Block, READ | WRITE, 8, 0));
        assert!(!run(&program, Kind::Block, WRITE, 8, 0));
        assert!(!run(&program, Kind::Block, READ, 8, 1));
        assert!(!run(&program, Kind::Char, READ, 8, 0));
    }

    #[test]
    fn one_denied_part_denies_an_access() {
        let json =
            r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"b","major":8,"access":"w"}]"#;
        let program = compile(json);
        assert!(run(&program, Kind::Block, READ, 8, 5));
        assert!(!run(&program, Kind::Block, WRITE, 8, 5));
        assert!(!run(&program, Kind::Block, READ | WRITE, 8, 5));
        assert!(run(&program, Kind::Block, READ | WRITE, 9, 5));
        assert!(run(&program, Kind::Char, READ | WRITE, 8, 5));
    }

    #[test]
    fn permissions_for_the_same_devices_add_up_and_are_taken_back_one_by_one() {
        let json = r#"[{"allow":true,"type":"c","major":42,"minor":7,"access":"rm"},{"allow":true,"type":"c","major":42,"minor":7,"access":"w"},
            {"allow":false,"type":"c","major":42,"minor":7,"access":"r"}]"#;
        let program = compile(json);
        assert!(run(&program, Kind::Char, WRITE, 42, 7));
        assert!(!run(&program, Kind::Char, READ, 42, 7));
        let json = r#"[{"allow":true,"type":"c","major":42,"minor":7,"access":"r"},{"allow":false,"type":"c","major":42,"minor":7,"access":"rwm"}]"#;
        assert_eq!(compile(json), compile(NO_RULES));
    }

    #[test]
    fn defaults_win_over_rules() {
        let json = r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"c","major":1,"minor":3,"access":"rwm"}]"#;
        assert!(compile(json).is_empty());
    }

    #[test]
    fn a_hole_in_a_wider_rule_is_refused() {
        let json = r#"[{"allow":true,"type":"c","major":42,"access":"rm"},{"allow":false,"type":"c","major":42,"minor":7,"access":"r"}]"#;
        let text = refusal(json);
        assert!(
            text.starts_with("linux.resources.devices[1]: cannot deny 'c 42:7 r' alone"),
            "{text}"
        );
        assert!(text.contains("'c 42:* rm'"), "{text}");
        let json = r#"[{"allow":true,"type":"c","major":42,"access":"wm"},{"allow":false,"type":"c","major":42,"minor":7,"access":"r"}]"#;
        compile(json);
        let json = r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"c","access":"rw"}]"#;
        assert!(refusal(json).starts_with(
            "allow the default devices after linux.resources.devices: cannot allow 'c 1:3"
        ));
    }

    #[test]
    fn a_wide_denial_takes_back_narrow_permissions_and_a_wide_permission_leaves_narrow_denials() {
        let narrow = r#"{"allow":true,"type":"c","major":42,"minor":7,"access":"rw"}"#;
        let program = compile(&format!(
            r#"[{narrow},{{"allow":false,"type":"c","major":42,"access":"w"}}]"#
        ));
        assert!(run(&program, Kind::Char, READ, 42, 7));
        assert!(!run(&program, Kind::Char, WRITE, 42, 7));
        let json = r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"c","major":42,"minor":7,"access":"rwm"}]"#;
        let program = compile(json);
        assert!(!run(&program, Kind::Char, MKNOD, 42, 7));
        assert!(run(&program, Kind::Char, ALL, 42, 8));
    }

    #[test]
    fn wildcards_in_one_number_match_the_other() {
        let program = compile(r#"[{"allow":true,"type":"b","major":-1,"minor":3,"access":"rw"}]"#);
        assert!(run(&program, Kind::Block, READ | WRITE, 99, 3));
        assert!(!run(&program, Kind::Block, READ | WRITE, 3, 99));
    }

    #[test]
    fn large_numbers_are_not_mistaken_for_negative_ones() {
        let program = compile(
            r#"[{"allow":true,"type":"b","major":4294967295,"minor":2147483648,"access":"r"}]"#,
        );
        assert!(run(&program, Kind::Block, READ, u32::MAX, 1 << 31));
        assert!(!run(&program, Kind::Block, READ, u32::MAX, 0));
    }

    #[test]
    fn malformed_rules_are_refused_with_their_place() {
        let cases = [
            (
                r#"[{"allow":true,"type":"c"}]"#,
                "devices[0]: access cannot be empty",
            ),
            (r#"[{"allow":true,"type":"c","access":"x"}]"#, "access 'x'"),
            (
                r#"[{"allow":true,"type":"p","access":"r"}]"#,
                "device type 'p'",
            ),
            (
                r#"[{"allow":true,"type":"u","access":"r"}]"#,
                "device type 'u'",
            ),
            (
                r#"[{"allow":true,"type":"c","major":-2,"access":"r"}]"#,
                "major -2",
            ),
            (
                r#"[{"allow":true,"type":"c","minor":4294967296,"access":"r"}]"#,
                "minor 4294967296",
            ),
        ];
        for (json, text) in cases {
            assert!(refusal(json).contains(text), "{json}: {}", refusal(json));
        }
    }

    #[test]
    fn a_rule_for_all_devices_warns_about_numbers_that_it_ignores() {
        let filter =
            device_filter(&rules(r#"[{"allow":true,"major":10,"access":"rwm"}]"#)).unwrap();
        assert!(filter.program.is_empty());
        assert!(filter.warnings[0].contains("type 'a' allows every access"));
        assert!(
            device_filter(&rules(ALLOW_ALL))
                .unwrap()
                .warnings
                .is_empty()
        );
    }

    #[test]
    fn letters_that_mean_nothing_are_passed_over_with_a_warning() {
        let filter = |access: &str| {
            let rule = format!(r#"[{{"allow":false,"type":"c","major":1,"access":"{access}"}}]"#);
            device_filter(&rules(&rule)).unwrap()
        };
        assert_eq!(filter("rwa").program, filter("rw").program);
        assert!(filter("rwa").warnings[0].contains("'rwa'"));
        assert!(filter("rw").warnings.is_empty());
    }

    /// The verdict by the rules of the kernel's own v1 device controller, read from its documentation.
    fn reference(policy: &Policy, kind: Kind, access: Access, major: u32, minor: u32) -> bool {
        let hits = |e: &&Exception| {
            e.kind == kind
                && e.major.is_none_or(|n| n == major)
                && e.minor.is_none_or(|n| n == minor)
        };
        let mut exceptions = policy.exceptions.iter().filter(hits);
        match policy.allow {
            false => exceptions.any(|e| access & !e.access == 0),
            true => !exceptions.any(|e| access & e.access != 0),
        }
    }

    #[test]
    fn programs_agree_with_the_reference_over_every_small_policy() {
        let numbers = [None, Some(0), Some(1)];
        let mut all = Vec::new();
        for kind in [Kind::Block, Kind::Char] {
            for major in numbers {
                for minor in numbers {
                    for access in 1..=ALL {
                        all.push(Exception {
                            kind,
                            major,
                            minor,
                            access,
                        });
                    }
                }
            }
        }
        for (i, first) in all.iter().enumerate() {
            for second in all.iter().skip(i + 1).step_by(5) {
                for allow in [false, true] {
                    let policy = Policy {
                        allow,
                        exceptions: vec![*first, *second],
                    };
                    let program = policy.compile();
                    for kind in [Kind::Block, Kind::Char] {
                        for (access, major, minor) in (1..=ALL)
                            .flat_map(|a| [(a, 0, 0), (a, 0, 1), (a, 1, 0), (a, 1, 1), (a, 2, 2)])
                        {
                            assert_eq!(
                                run(&program, kind, access, major, minor),
                                reference(&policy, kind, access, major, minor),
                                "allow {allow}, '{first}', '{second}': {kind:?} {major}:{minor} {access}"
                            );
                        }
                    }
                }
            }
        }
    }
}
