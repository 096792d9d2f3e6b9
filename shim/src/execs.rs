//! The execs of a container: registered by Exec, run by Start, forgotten some time after Delete.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::Value;

use crate::bundle;
use crate::cli;
use crate::container::{Container, EXEC_DRAIN, drain, ended};
use crate::error::{Error, Kind, Result};
use crate::events::Event;
use crate::io::{Stdio, Streams};
use crate::lock::lock;
use crate::process::{Ended, Phase, Process, State};
use crate::protos::events::{TaskExecAdded, TaskExecStarted};
use crate::protos::task::ExecProcessRequest;
use crate::reaper::{Child, Exit};
use crate::runtime::Newborn;

/// How many ends are remembered, for a Delete that is asked for again.
pub(crate) const REMEMBERED: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Execs(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    here: HashMap<String, Arc<Exec>>,
    gone: Gone,
}

/// The last ends of what was deleted.
#[derive(Debug, Default)]
pub(crate) struct Gone(VecDeque<(String, Ended)>);

impl Gone {
    pub(crate) fn remember(&mut self, id: &str, ended: Ended) {
        self.forget(id);
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back((id.to_owned(), ended));
    }

    pub(crate) fn forget(&mut self, id: &str) {
        self.0.retain(|(gone, _)| gone != id);
    }

    pub(crate) fn get(&self, id: &str) -> Option<Ended> {
        self.0
            .iter()
            .find(|(gone, _)| gone == id)
            .map(|(_, ended)| *ended)
    }
}

#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) id: String,
    pub(crate) process: Process,
    /// The OCI process, as JSON, until it is started.
    spec: Vec<u8>,
}

/// Counts an exec as one that init's end must wait for.
#[derive(Debug)]
struct Busy(Arc<Container>);

impl Busy {
    fn new(container: &Arc<Container>) -> Self {
        container.busy.send_modify(|busy| *busy += 1);
        Self(container.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.send_modify(|busy| *busy -= 1);
    }
}

impl Execs {
    pub(crate) fn get(&self, id: &str) -> Result<Arc<Exec>> {
        self.known()
            .here
            .get(id)
            .cloned()
            .ok_or_else(|| Error::not_found(format!("process does not exist {id}")))
    }

    /// The end of one that was deleted.
    pub(crate) fn gone(&self, id: &str) -> Option<Ended> {
        self.known().gone.get(id)
    }

    pub(crate) fn all(&self) -> Vec<Arc<Exec>> {
        self.known().here.values().cloned().collect()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.0)
    }
}

impl Container {
    /// Registers an exec. Nothing runs yet.
    pub(crate) fn add_exec(&self, request: ExecProcessRequest) -> Result<()> {
        cli::identifier("exec id", &request.exec_id)
            .map_err(|error| Error::invalid(error.to_string()))?;
        self.accepts_execs()?;
        let spec = with_terminal(&request.spec.value, request.terminal)?;
        let streams = Streams {
            terminal: request.terminal,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        };
        let exec = Exec {
            id: request.exec_id,
            process: Process::new(streams, State::Registered),
            spec,
        };
        let mut known = self.execs.known();
        if known.here.contains_key(&exec.id) {
            return Err(Error::new(Kind::AlreadyExists, format!("id {}", exec.id)));
        }
        known.gone.forget(&exec.id);
        let added = TaskExecAdded {
            container_id: self.id.clone(),
            exec_id: exec.id.clone(),
            ..TaskExecAdded::default()
        };
        known.here.insert(exec.id.clone(), Arc::new(exec));
        self.shim.spool.publish(Event::ExecAdded(added));
        Ok(())
    }

    pub(crate) async fn start_exec(self: &Arc<Self>, id: &str) -> Result<i32> {
        let exec = self.execs.get(id)?;
        let _operation = exec.process.operation.lock().await;
        self.accepts_execs()
            .inspect_err(|_| exec.process.will_not_run())?;
        if !matches!(exec.process.state(), State::Registered) {
            return Err(Error::unknown("cannot start a running process"));
        }
        let busy = Busy::new(self);
        let child = match self.run(&exec).await {
            Ok(child) => Arc::new(child),
            Err(error) => {
                exec.process.will_not_run();
                exec.process.close_stdio();
                return Err(error);
            }
        };
        exec.process.set_phase(Phase::Running, child.clone());
        self.shim.spool.publish(Event::ExecStarted(TaskExecStarted {
            container_id: self.id.clone(),
            exec_id: exec.id.clone(),
            pid: child.pid.cast_unsigned(),
            ..TaskExecStarted::default()
        }));
        let pid = child.pid;
        tokio::spawn(supervise(busy, exec.clone(), child));
        Ok(pid)
    }

    async fn run(&self, exec: &Exec) -> Result<Child> {
        let stdio = Stdio::open(&exec.process.streams, &self.owner)
            .await
            .map_err(|error| Error::os("open the streams", error))?;
        let pid_file = bundle::pid_file(&self.bundle, &exec.id);
        let expectation = self.shim.reaper.expect();
        let newborn = Newborn {
            pid_file: &pid_file,
            streams: &stdio,
            expectation: &expectation,
        };
        let called = self
            .runtime
            .exec(&self.id, &exec.spec, newborn, self.closing())
            .await;
        let claim = || expectation.claim(bundle::read_pid(&pid_file)?);
        if let Err(error) = called {
            // A command that was cut short may have come so far.
            if error.unfinished
                && let Ok(child) = claim()
            {
                child.abandon();
                ended(&child).await;
            }
            // The next exec of this name must not find it; mostly there is none.
            fs::remove_file(&pid_file).ok();
            return Err(error);
        }
        let child = claim().map_err(|error| Error::os("find the process", error))?;
        if let Err(error) = stdio.start().await {
            // Nobody else knows of it.
            child.abandon();
            ended(&child).await;
            return Err(Error::os("start to copy the streams", error));
        }
        exec.process.set_stdio(Arc::new(stdio));
        Ok(child)
    }

    /// Removes an exec that has ended, or that was never started.
    pub(crate) async fn delete_exec(&self, id: &str) -> Result<Ended> {
        let exec = match self.execs.get(id) {
            Ok(exec) => exec,
            Err(error) => return self.execs.gone(id).ok_or(error),
        };
        let _operation = exec.process.operation.lock().await;
        let ended = match exec.process.state() {
            State::Stopped(ended) => ended,
            State::Registered => {
                let never = Ended {
                    pid: 0,
                    exit: Exit::now(0),
                };
                // For those who wait for it.
                exec.process.set_ended(never);
                never
            }
            State::Alive(..) => return Err(Error::precondition("cannot delete a running process")),
        };
        drain(&exec.process, id, EXEC_DRAIN).await;
        exec.process.close_stdio();
        match fs::remove_file(bundle::pid_file(&self.bundle, id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::os(format!("remove the pid file of {id}"), error));
            }
            _ => {}
        }
        let mut known = self.execs.known();
        known.here.remove(id);
        known.gone.remember(id, ended);
        Ok(ended)
    }

    fn accepts_execs(&self) -> Result<()> {
        let alive = matches!(self.init.state(), State::Alive(_, child) if !child.has_ended());
        if !alive || *self.closing.borrow() {
            return Err(Error::precondition(format!(
                "container {} init process is not running",
                self.id
            )));
        }
        Ok(())
    }
}

async fn supervise(busy: Busy, exec: Arc<Exec>, child: Arc<Child>) {
    let exit = ended(&child).await;
    let _operation = exec.process.operation.lock().await;
    exec.process.set_ended(Ended {
        pid: child.pid,
        exit,
    });
    busy.0.publish_exit(&exec.id, child.pid, exit);
}

/// The request's word about the terminal counts, not the process'.
fn with_terminal(spec: &[u8], terminal: bool) -> Result<Vec<u8>> {
    let refused =
        |error: serde_json::Error| Error::invalid(format!("the process to execute: {error}"));
    let mut process: Value = serde_json::from_slice(spec).map_err(refused)?;
    let Some(fields) = process.as_object_mut() else {
        return Err(Error::invalid("the process to execute is no object"));
    };
    fields.insert("terminal".into(), terminal.into());
    serde_json::to_vec(&process).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn the_terminal_is_that_of_the_request() {
        let spec = with_terminal(br#"{"args":["sh"],"terminal":true}"#, false).unwrap();
        assert_eq!(spec, br#"{"args":["sh"],"terminal":false}"#);
        assert!(with_terminal(b"[]", false).is_err());
    }

    #[test]
    fn only_the_last_ends_are_remembered() {
        let ended = Ended {
            pid: 1,
            exit: Exit {
                status: 0,
                at: SystemTime::UNIX_EPOCH,
            },
        };
        let mut gone = Gone::default();
        for number in 0..=REMEMBERED {
            gone.remember(&number.to_string(), ended);
        }
        assert_eq!(gone.get("0"), None);
        assert_eq!(gone.get("1"), Some(ended));
        gone.forget("1");
        assert_eq!(gone.get("1"), None);
    }
}
