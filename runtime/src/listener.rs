//! The descriptor of a seccomp filter with SCMP_ACT_NOTIFY: taken out of init and given to the agent that serves it.
//!
//! Runs in the runtime command, when init asks for it ([`crate::sync`]). Any system call may be one that the agent is to answer, so init can
//! tell nobody that it has the descriptor. It is traced over the one call that loads the filter instead:
//!
//! ```text
//!   init                                   command                                       agent
//!   Ask(Listener)      ────────────▶       connects to listenerPath   ────────────▶
//!                                          PTRACE_SEIZE
//!                      ◀────────────  Go
//!   seccomp(2) returns N  ═════════▶       stop: pidfd_getfd(N)
//!                                          containerProcessState + descriptor  ─────▶   answers from now on
//!   close(N) returns   ═════════▶          stop: PTRACE_DETACH
//! ```
//!
//! Init closes its own copy at once, since as long as anybody has one, calls wait for an agent that died. While it is traced the filter
//! is suspended, where that is allowed; else this close(2) is the first call that the agent may see.

use crate::console;
use crate::report::{Context, Error, Kind, Result};
use crate::state::OCI_VERSION;
use crate::sys::trace::{self, Stop};
use crate::sys::{Errno, socket};
use serde::Serialize;
use serde_json::value::RawValue;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

/// Who serves the filter, and what it is told.
#[derive(Debug)]
pub(crate) struct Agent {
    /// The stream socket where it listens.
    pub(crate) path: PathBuf,
    /// `listenerMetadata`.
    pub(crate) metadata: String,
    /// The container's state as JSON, in front of and behind the pid of its init.
    pub(crate) state: [Vec<u8>; 2],
    /// That pid; None: the process itself is the init.
    pub(crate) init: Option<i32>,
}

/// See runtime-spec, config-linux.md, "The Container Process State".
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ContainerProcessState<'a> {
    oci_version: &'a str,
    fds: [&'a str; 1],
    pid: i32,
    #[serde(skip_serializing_if = "str::is_empty")]
    metadata: &'a str,
    state: &'a RawValue,
}

impl Agent {
    /// Takes the listener of a child that has asked for this and gives it to the agent. `go` lets the child go on. If the child ends
    /// meanwhile or cannot load its filter, that is no error here: it says why itself.
    pub(crate) fn serve(
        &self,
        pid: i32,
        pidfd: &OwnedFd,
        go: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let agent = console::connect("failed to connect with seccomp agent", &self.path)?;
        let message = self.message(pid)?;
        let mut tracer = Tracer::begin(pid, pidfd)?;
        go()?;
        if let Some(number) = tracer.result_of(libc::SYS_seccomp)? {
            let listener = trace::pidfd_getfd(pidfd, number as i32)
                .context(|| "take the seccomp listener out of the container's process")?;
            socket::send_with_fd(&agent, &message, Some(listener.as_fd())).context(|| {
                format!(
                    "send the listener to the seccomp agent '{}'",
                    self.path.display()
                )
            })?;
            if tracer.suspended {
                tracer.result_of(libc::SYS_close)?;
            }
        }
        tracer.end()
    }

    fn message(&self, pid: i32) -> Result<Vec<u8>> {
        let wrong = |e: &dyn std::fmt::Display| {
            Error::new(
                Kind::System,
                format!("write the state for the seccomp agent: {e}"),
            )
        };
        let init = self.init.unwrap_or(pid).to_string();
        let text = [&self.state[0], init.as_bytes(), &self.state[1]].concat();
        let text = String::from_utf8(text).map_err(|e| wrong(&e))?;
        let state = RawValue::from_string(text).map_err(|e| wrong(&e))?;
        serde_json::to_vec(&ContainerProcessState {
            oci_version: OCI_VERSION,
            fds: ["seccompFd"],
            pid,
            metadata: &self.metadata,
            state: &state,
        })
        .map_err(|e| wrong(&e))
    }
}

/// A child that is traced, stopped between the calls of these functions. It is killed if we end before [`Tracer::end`].
struct Tracer<'a> {
    pid: i32,
    pidfd: &'a OwnedFd,
    /// Its filters do not apply while it is traced.
    suspended: bool,
    /// The signal that it stopped at, which it gets when it goes on.
    signal: i32,
}

const STORY: &str =
    "trace the container's process to take its seccomp listener, which needs CAP_SYS_PTRACE";

impl<'a> Tracer<'a> {
    /// Begins to trace a child that waits in a system call, and stops it there.
    fn begin(pid: i32, pidfd: &'a OwnedFd) -> Result<Self> {
        let all = trace::KILL_WITH_TRACER | trace::SUSPEND_SECCOMP;
        let suspended = match trace::seize(pid, all) {
            // We are not the host's root or under a filter ourselves, or the kernel cannot.
            Err(Errno::EPERM | Errno::EINVAL) => {
                trace::seize(pid, trace::KILL_WITH_TRACER).context(|| STORY)?;
                false
            }
            other => other.map(|()| true).context(|| STORY)?,
        };
        trace::interrupt(pid).context(|| STORY)?;
        let mut tracer = Tracer {
            pid,
            pidfd,
            suspended,
            signal: 0,
        };
        while !matches!(tracer.wait()?, None | Some(Stop::Asked)) {
            tracer.go_on()?;
        }
        Ok(tracer)
    }

    /// Lets the child go on up to the end of this system call. None if that fails, or the child ends.
    fn result_of(&mut self, call: i64) -> Result<Option<i64>> {
        let mut within = false;
        loop {
            self.go_on()?;
            match self.wait()? {
                None => return Ok(None),
                Some(Stop::Entry(number)) => within = number == call as u64,
                Some(Stop::Exit(result)) if within => return Ok(result.ok()),
                Some(_) => {}
            }
        }
    }

    fn wait(&mut self) -> Result<Option<Stop>> {
        let stop = trace::wait_stop(self.pid, self.pidfd).context(|| STORY)?;
        self.signal = match stop {
            Some(Stop::Signal(number)) => number,
            _ => 0,
        };
        Ok(stop)
    }

    fn go_on(&mut self) -> Result<()> {
        match trace::go_to_call(self.pid, self.signal) {
            // Killed just now: the next wait tells.
            Err(Errno::ESRCH) => Ok(()),
            other => other.context(|| STORY),
        }
    }

    /// Lets the child go, untraced.
    fn end(self) -> Result<()> {
        match trace::detach(self.pid) {
            Err(Errno::ESRCH) => Ok(()), // it ended
            other => other.context(|| STORY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_is_told_what_the_specification_says() {
        let mut agent = Agent {
            path: "/x".into(),
            metadata: "m".into(),
            state: [b"{\"pid\":".to_vec(), b",\"id\":\"web\"}".to_vec()],
            init: None,
        };
        let text = |agent: &Agent| String::from_utf8(agent.message(7).unwrap()).unwrap();
        assert_eq!(
            text(&agent),
            r#"{"ociVersion":"1.3.0","fds":["seccompFd"],"pid":7,"metadata":"m","state":{"pid":7,"id":"web"}}"#
        );
        agent.init = Some(3);
        agent.metadata.clear();
        assert_eq!(
            text(&agent),
            r#"{"ociVersion":"1.3.0","fds":["seccompFd"],"pid":7,"state":{"pid":3,"id":"web"}}"#
        );
    }
}
