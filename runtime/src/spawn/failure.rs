//! What init reports as numbers, as errors in words.
//!
//! Runs in the runtime command, which holds the same steps as init.

use super::birth::clone_error;
use crate::plan::{Op, Step, process};
use crate::report::{Error, Kind};
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
    let text = failure.text();
    let (stdout, stderr) = text.split_once('\0').unwrap_or((&text, ""));
    Error::new(
        Kind::System,
        format!(
            "{story}: {how}, stdout: {}, stderr: {}, path: {path}",
            stdout.trim_end(),
            stderr.trim_end()
        ),
    )
}

/// The warning of a hook that takes long.
pub(crate) fn hook_runs(kind: &str, index: usize, path: &str) -> String {
    format!("{kind} hook #{index} ({path}) is still running and has no timeout, waiting")
}
