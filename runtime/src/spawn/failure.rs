//! What init reports as numbers, as errors in words.
//!
//! Runs in the runtime command, which holds the same steps as init.

use super::birth::clone_error;
use crate::plan::{Op, Step, process};
use crate::report::{Error, Kind, tail};
use crate::sync::{Failure, STAGE};
use crate::sys::Errno;
use crate::sys::signal::meaning;

/// What init reported: the step says what was tried, the errno why it failed.
pub(super) fn failed(failure: &Failure, steps: &[Step], program: &str) -> Error {
    let errno = Errno::from_raw(failure.errno);
    let op = Op::from_number(failure.op);
    let Some(step) = steps.get(failure.step as usize) else {
        return match failure.step {
            STAGE => stage_error(op, failure.detail, errno),
            _ => Error::os(with_op("set the container up".to_owned(), op), errno),
        };
    };
    match (step, op) {
        (Step::LookUp | Step::Exec, _) => process::exec_error(program, op, errno),
        (Step::Hook(call), _) => {
            hook_error(call.kind, call.index, &call.path.to_string_lossy(), failure)
        }
        (_, Op::Unreachable) => Error::new(
            Kind::System,
            format!("{step}: {}", op.text().unwrap_or_default()),
        ),
        _ => {
            let what = match step {
                Step::Mount(mount) => format!("error mounting {}", mount.places()),
                _ => step.to_string(),
            };
            let mut story = with_op(what, op);
            story += match (step, errno) {
                // What setuid(2) and setgroups(2) say of an id that has no mapping.
                (Step::Ids { .. } | Step::Groups(_), Errno::EINVAL) => {
                    " (not mapped in the container's user namespace)"
                }
                (Step::Scheduler(attr), Errno::EPERM) if attr.policy == DEADLINE => {
                    // The first words are runc's.
                    " (process scheduler can't be used together with AllowedCPUs: SCHED_DEADLINE takes CAP_SYS_NICE and every CPU)"
                }
                // What overlayfs says; before 6.5, of all layers in one string, when it is mounted.
                (Step::Root(_), Errno::ELOOP)
                    if matches!(op, Op::CreateSuperblock | Op::MakeMount) =>
                {
                    " (an overlay's layer is given twice, or is below another one)"
                }
                _ => "",
            };
            // A plan without a program starts none.
            if !program.is_empty() {
                story = format!("{IN_INIT}: {story}");
            }
            let text = failure.text();
            if !text.is_empty() {
                story += &format!(" ({text})");
            }
            Error::os(story, errno)
        }
    }
}

/// What went wrong before init was there.
fn stage_error(op: Op, detail: i32, errno: Errno) -> Error {
    match op {
        Op::Clone => clone_error(0, errno),
        Op::Join => {
            let flag = detail as u64;
            let own = flag == libc::CLONE_NEWUSER as u64 && errno == Errno::EINVAL;
            let hint = if own {
                " (it is the runtime's own)"
            } else {
                ""
            };
            let name = crate::plan::names(flag);
            Error::os(
                format!("join the container's {name} namespace{hint}"),
                errno,
            )
        }
        op => Error::os(
            with_op("prepare the container's namespaces".to_owned(), op),
            errno,
        ),
    }
}

/// SCHED_DEADLINE's number.
const DEADLINE: u32 = 6;

/// What runc says in front of whatever fails in its init. People search for these words.
const IN_INIT: &str = "unable to start container process: error during container init";

fn with_op(story: String, op: Op) -> String {
    match op.text() {
        Some(text) => format!("{story}: {text}"),
        None => story,
    }
}

/// In the form of runc: `error running startContainer hook #0: exit status 1, stdout: , stderr: `, and what else is known.
pub(crate) fn hook_error(kind: &str, index: usize, path: &str, failure: &Failure) -> Error {
    let story = format!("error running {kind} hook #{index}");
    let how = match Op::from_number(failure.op) {
        Op::HookExit => format!("exit status {}", failure.detail),
        Op::HookTimeout => "did not end in time and was killed".to_owned(),
        Op::HookSignal => format!("signal: {}", meaning(failure.detail)),
        Op::Spawn => {
            return Error::os(
                format!("{story}: exec {path}"),
                Errno::from_raw(failure.errno),
            );
        }
        op => return Error::os(with_op(story, op), Errno::from_raw(failure.errno)),
    };
    let [stdout, stderr] = ends(&failure.text[..failure.text_len as usize]);
    let story = format!("{story}: {how}, stdout: {stdout}, stderr: {stderr}, path: {path}");
    Error::new(Kind::System, story)
}

/// The ends of a hook's outputs, from what init says of them.
fn ends(text: &[u8]) -> [String; 2] {
    let (dropped, text) = text.split_at_checked(8).unwrap_or((&[0; 8], b""));
    let mut ends = text.splitn(2, |byte| *byte == 0);
    let mut dropped = dropped.as_chunks::<4>().0.iter();
    std::array::from_fn(|_| {
        let dropped = dropped.next().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
        tail(dropped as usize, ends.next().unwrap_or_default())
    })
}

/// The warning of a hook that takes long.
pub(crate) fn hook_runs(kind: &str, index: usize, path: &str) -> String {
    format!("{kind} hook #{index} ({path}) is still running and has no timeout, waiting")
}
