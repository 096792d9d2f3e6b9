//! The protocol between the runtime command (the parent) and init, over one SOCK_SEQPACKET pair.
//!
//! ```text
//!   init (or the stage before it)                    parent
//!                          ◀──────────────── Go      what must precede init's first step is done
//!   Born(pid)              ────────────────▶         only from a stage: init is there, as the parent's child, and is moved into
//!                          ◀──────────────── Go      its cgroup if it could not be born there; this Go is init's
//!   Ask(request)           ────────────────▶         does it
//!                          ◀──────────────── Go
//!   Terminal + descriptor  ────────────────▶         keeps the pty's master and sets its size (foreground only)
//!                          ◀──────────────── Go
//!   IdMap(step) + descriptor  ─────────────▶         gives the detached mount the id maps of that step's
//!                          ◀──────────────── Go
//!   HookRuns(hook)         ────────────────▶         warns: the hook has no timeout and takes long
//!   Ask(Start)             ────────────────▶         the container is created: state and pid file are written,
//!                          ◀──────────────── Go      and either init waits at the start fifo now or it is started
//!   Executing              ────────────────▶         one system call is left
//!   Failed(step, op, errno, text)  ────────▶         then init exits
//!   end of file            ────────────────▶         the program runs, or init died: Executing tells which
//! ```
//!
//! Messages are fixed-size records, so that neither side parses and init allocates nothing. Whatever is not expected is an error.
//! Ask(Listener) has more to it: see [`crate::listener`]. Behind the start fifo, init has no socket any more: it writes the same
//! `HookRuns` and `Failed` records into the fifo, where `start` reads.

use crate::plan::Request;
use crate::sys::socket::{recv_with_fd, send_with_fd};
use crate::sys::{Errno, Result, fs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How many bytes of text a failure carries: the end of a hook's output, or the kernel's message about a mount option.
pub(crate) const TEXT: usize = RECORD - 56;

/// The size of a record; no more than PIPE_BUF, so that it goes through the fifo whole, and as little as will do: it is on the stack of every
/// step, whose pages cost time at each start.
pub(crate) const RECORD: usize = 1024;

/// What init tells the parent.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "init allocates nothing, so it cannot box the failure"
)]
pub(crate) enum Message {
    Born {
        pid: i32,
        in_cgroup: bool,
    },
    Ask(Request),
    Terminal,
    /// The source of a bind comes from the container's root itself.
    IdMap {
        step: u32,
    },
    /// A hook without a timeout takes long: whether it is of kind startContainer, and its index.
    HookRuns {
        start: bool,
        index: u32,
    },
    Executing,
    Failed(Failure),
}

/// Why init ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    /// Index into the plan's steps; [`STAGE`] for the work of the stage. In the start fifo: how far from the end, 1 for the last step.
    pub(crate) step: u32,
    /// [`crate::plan::Op`] as a number.
    pub(crate) op: u32,
    pub(crate) errno: i32,
    /// Depends on the operation: an exit status, a signal.
    pub(crate) detail: i32,
    pub(crate) text_len: u32,
    pub(crate) text: [u8; TEXT],
}

/// The step number of what the stage does.
pub(crate) const STAGE: u32 = u32::MAX;

const BORN: u32 = 1;
const ASK: u32 = 2;
const TERMINAL: u32 = 3;
const EXECUTING: u32 = 4;
const FAILED: u32 = 5;
const HOOK_RUNS: u32 = 6;
const ID_MAP: u32 = 7;

const REQUESTS: [Request; 7] = [
    Request::IdMaps,
    Request::NetDevices,
    Request::Delegate,
    Request::Hooks,
    Request::Rlimits,
    Request::Listener,
    Request::Start,
];

/// Encodes a message.
pub(crate) fn encode(message: &Message) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    let mut put =
        |at: usize, word: u32| record[at * 4..at * 4 + 4].copy_from_slice(&word.to_ne_bytes());
    match message {
        Message::Born { pid, in_cgroup } => {
            put(0, BORN);
            put(1, pid.cast_unsigned());
            put(2, u32::from(*in_cgroup));
        }
        Message::Ask(request) => {
            put(0, ASK);
            put(
                1,
                REQUESTS.iter().position(|r| r == request).unwrap_or(0) as u32,
            );
        }
        Message::Terminal => put(0, TERMINAL),
        Message::IdMap { step } => {
            put(0, ID_MAP);
            put(1, *step);
        }
        Message::HookRuns { start, index } => {
            put(0, HOOK_RUNS);
            put(1, u32::from(*start));
            put(2, *index);
        }
        Message::Executing => put(0, EXECUTING),
        Message::Failed(failure) => {
            put(0, FAILED);
            put(1, failure.step);
            put(2, failure.op);
            put(3, failure.errno.cast_unsigned());
            put(4, failure.detail.cast_unsigned());
            put(5, failure.text_len);
            record[24..24 + TEXT].copy_from_slice(&failure.text);
        }
    }
    record
}

/// Decodes a record; None if it is not one of ours.
pub(crate) fn decode(record: &[u8]) -> Option<Message> {
    let record: &[u8; RECORD] = record.try_into().ok()?;
    let word = |at: usize| {
        u32::from_ne_bytes([
            record[at * 4],
            record[at * 4 + 1],
            record[at * 4 + 2],
            record[at * 4 + 3],
        ])
    };
    Some(match word(0) {
        BORN => Message::Born {
            pid: word(1).cast_signed(),
            in_cgroup: word(2) != 0,
        },
        ASK => Message::Ask(*REQUESTS.get(word(1) as usize)?),
        TERMINAL => Message::Terminal,
        ID_MAP => Message::IdMap { step: word(1) },
        EXECUTING => Message::Executing,
        HOOK_RUNS => Message::HookRuns {
            start: word(1) != 0,
            index: word(2),
        },
        FAILED => {
            let mut text = [0; TEXT];
            text.copy_from_slice(&record[24..24 + TEXT]);
            Message::Failed(Failure {
                step: word(1),
                op: word(2),
                errno: word(3).cast_signed(),
                detail: word(4).cast_signed(),
                text_len: word(5).min(TEXT as u32),
                text,
            })
        }
        _ => return None,
    })
}

impl Failure {
    /// The text that came along.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.text[..self.text_len as usize])
            .trim_end()
            .to_owned()
    }
}

/// Init's end: sends a message. By write(2), since a seccomp profile may be in force that lacks the socket calls.
pub(crate) fn tell(socket: impl AsFd, message: &Message) -> Result<()> {
    fs::write(socket, &encode(message))
}

/// Init's end: sends a message that has a descriptor with it.
pub(crate) fn hand_over(socket: impl AsFd, message: &Message, fd: BorrowedFd<'_>) -> Result<()> {
    send_with_fd(socket, &encode(message), Some(fd))
}

/// Init's end: waits for Go, by read(2). The parent's death is EPIPE.
pub(crate) fn await_go(socket: impl AsFd) -> Result<()> {
    let mut bytes = [0; 2];
    match fs::read(socket, &mut bytes)? {
        1 if bytes[0] == b'g' => Ok(()),
        0 => Err(Errno::EPIPE),
        _ => Err(Errno::EPROTO),
    }
}

/// The parent's end: says Go.
pub(crate) fn go(socket: impl AsFd) -> Result<()> {
    send_with_fd(socket, b"g", None)
}

/// The parent's end: the next message; None at the end of file.
pub(crate) fn next(socket: impl AsFd) -> Result<Option<(Message, Option<OwnedFd>)>> {
    let mut record = [0; RECORD];
    let (length, fd) = match recv_with_fd(&socket, &mut record) {
        // Told once, if the other end was closed with a Go unread; then comes what it sent before, or the end of file.
        Err(Errno::ECONNRESET) => recv_with_fd(&socket, &mut record)?,
        other => other?,
    };
    if length == 0 {
        return Ok(None);
    }
    let message = decode(&record[..length]).ok_or(Errno::EPROTO)?;
    if fd.is_some() != matches!(message, Message::Terminal | Message::IdMap { .. }) {
        return Err(Errno::EPROTO);
    }
    Ok(Some((message, fd)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_survives_its_encoding() {
        let mut text = [0; TEXT];
        text[..2].copy_from_slice(b"no");
        let failure = Failure {
            step: 7,
            op: 3,
            errno: 2,
            detail: -1,
            text_len: 2,
            text,
        };
        for message in [
            Message::Born {
                pid: 4,
                in_cgroup: true,
            },
            Message::Terminal,
            Message::IdMap { step: 9 },
            Message::HookRuns {
                start: true,
                index: 3,
            },
            Message::Executing,
            Message::Failed(failure),
        ] {
            let back = decode(&encode(&message)).unwrap();
            assert_eq!(format!("{back:?}"), format!("{message:?}"));
        }
        for request in REQUESTS {
            assert!(
                matches!(decode(&encode(&Message::Ask(request))), Some(Message::Ask(r)) if r == request)
            );
        }
    }

    #[test]
    fn what_is_not_a_record_is_refused() {
        assert!(decode(b"").is_none());
        assert!(decode(&[0; RECORD]).is_none());
        assert!(decode(&[9; RECORD]).is_none());
        let mut record = encode(&Message::Ask(Request::Hooks));
        record[4] = 200;
        assert!(decode(&record).is_none());
    }
}
