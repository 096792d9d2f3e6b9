//! One container, from `create` to `delete`.
//!
//! It is deleted by force when dropped, and the drop fails the test if something of it is left. The harness adopts orphans,
//! so that it gets the container's exit status the way an engine does.

use crate::bundle::seen;
use crate::children::{self, Since};
use crate::runtime::{self, Finished, Lines, Runtime, deadline};
use crate::seen::Seen;
use crate::{host, place};
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

/// A created container.
#[derive(Debug)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its process, as the pid file says.
    pub pid: i32,
    /// The runtime that made it.
    pub runtime: Runtime,
    /// What its process writes to standard output.
    pub stdout: Lines,
    stderr: File,
    since: Since,
    gone: bool,
}

/// A process that `exec --detach` left running; it ends with its container.
#[derive(Clone, Copy, Debug)]
pub struct Detached {
    /// Its pid on the host.
    pub pid: i32,
    since: Since,
}

impl Container {
    /// `create` with these flags. On failure checks that nothing is left and says what the command said.
    #[track_caller]
    pub fn create(
        runtime: &Runtime,
        bundle: &Path,
        flags: &[&str],
        id: &str,
    ) -> Result<Container, Finished> {
        Container::make(runtime, bundle, &[&["create"], flags].concat(), id)
    }

    /// `run --detach` with these flags.
    #[track_caller]
    pub fn run_detached(
        runtime: &Runtime,
        bundle: &Path,
        flags: &[&str],
        id: &str,
    ) -> Result<Container, Finished> {
        Container::make(runtime, bundle, &[&["run", "--detach"], flags].concat(), id)
    }

    /// `restore --detach` with these flags.
    #[track_caller]
    pub fn restore(
        runtime: &Runtime,
        bundle: &Path,
        flags: &[&str],
        id: &str,
    ) -> Result<Container, Finished> {
        Container::make(
            runtime,
            bundle,
            &[&["restore", "--detach"], flags].concat(),
            id,
        )
    }

    #[track_caller]
    fn make(
        runtime: &Runtime,
        bundle: &Path,
        verb: &[&str],
        id: &str,
    ) -> Result<Container, Finished> {
        assert!(place::is_unique(id), "{id:?} is not from place::unique");
        let _guard = host::Guard(id);
        let pid_file = pid_file(runtime, id);
        let (bundle, pid_path) = (bundle.display().to_string(), pid_file.display().to_string());
        let mut command =
            runtime.command(&[verb, &["--bundle", &bundle, "--pid-file", &pid_path, id]].concat());
        let line = runtime::describe(&command);
        let (reader, writer) = runtime::pipe();
        let stderr = runtime::memory_file();
        command
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(runtime::share(&stderr));
        let (child, since) = children::spawn(&mut command);
        // The writing end must not stay open here, or the container's output would never end.
        drop(command);
        let status = runtime::wait_for(child, since, &line);
        let mut stdout = Lines::new(reader);
        if !status.success() {
            let stderr = runtime::contents(&stderr);
            let finished = Finished {
                command: line,
                status,
                stdout: stdout.rest(),
                stderr,
            };
            host::after_failure(id, &runtime.root);
            return Err(finished);
        }
        let pid = read_pid(&pid_file);
        Ok(Container {
            id: id.to_owned(),
            pid,
            runtime: runtime.clone(),
            stdout,
            stderr,
            since,
            gone: false,
        })
    }

    /// `start`.
    #[track_caller]
    pub fn start(&self) -> Finished {
        self.call("start", &[])
    }

    /// `state`, parsed.
    #[track_caller]
    pub fn state(&self) -> Value {
        self.call("state", &[]).success().json()
    }

    /// The status that `state` says.
    #[track_caller]
    pub fn status(&self) -> String {
        self.state()["status"]
            .as_str()
            .unwrap_or("no status")
            .to_owned()
    }

    /// `checkpoint` with these flags; the container goes on.
    #[track_caller]
    pub fn checkpoint(&self, flags: &[&str]) -> Finished {
        self.runtime
            .call(&[&["checkpoint"], flags, &[&self.id]].concat())
    }

    /// The same, after which the container is gone, and nothing of it is left.
    #[track_caller]
    pub fn checkpoint_away(mut self, flags: &[&str]) {
        self.checkpoint(flags).success();
        self.gone = true;
        let said = self.call("state", &[]).failure();
        said.says("does not exist");
    }

    /// `kill` with this signal.
    #[track_caller]
    pub fn kill(&self, signal: &str) -> Finished {
        self.call("kill", &[signal])
    }

    /// `delete`.
    #[track_caller]
    pub fn delete(&mut self) -> Finished {
        self.remove(&[])
    }

    /// `delete --force`.
    #[track_caller]
    pub fn delete_by_force(&mut self) -> Finished {
        self.remove(&["--force"])
    }

    /// `exec` with these flags and this command line.
    #[track_caller]
    pub fn exec(&self, flags: &[&str], args: &[&str]) -> Finished {
        self.runtime
            .call(&[&["exec"], flags, &[&self.id], args].concat())
    }

    /// `exec --detach` with these flags and this command line.
    #[track_caller]
    pub fn exec_detached(&self, flags: &[&str], args: &[&str]) -> Detached {
        let pid_file = self.runtime.root.with_file_name(place::unique("exec.pid"));
        let pid_path = pid_file.display().to_string();
        let since = children::now();
        self.exec(
            &[&["--detach", "--pid-file", &pid_path], flags].concat(),
            args,
        )
        .success();
        let pid = read_pid(&pid_file);
        Detached { pid, since }
    }

    /// `exec` of `probe report`.
    #[track_caller]
    pub fn exec_report(&self, flags: &[&str], questions: &[&str]) -> Seen {
        seen(
            &self
                .exec(flags, &[&["/bin/probe", "report"], questions].concat())
                .success(),
        )
    }

    /// Any verb that takes the id and then these arguments.
    #[track_caller]
    pub fn call(&self, verb: &str, after: &[&str]) -> Finished {
        self.runtime.call(&[&[verb, &self.id], after].concat())
    }

    /// Waits until the container's process ends and returns its exit code, 128+n for one killed by signal n.
    #[track_caller]
    pub fn wait(&mut self) -> i32 {
        let status = children::wait(self.pid, self.since).unwrap_or_else(|| {
            panic!(
                "process {} of {} did not end within {:?}",
                self.pid,
                self.id,
                deadline()
            )
        });
        exit_code(status)
    }

    /// What the container's process, and `create`, wrote to standard error so far.
    pub fn stderr(&self) -> String {
        runtime::contents(&self.stderr)
    }

    /// The container's cgroup on the host.
    #[track_caller]
    pub fn cgroup(&self) -> PathBuf {
        host::cgroup_of(self.pid)
    }

    #[track_caller]
    fn remove(&mut self, flags: &[&str]) -> Finished {
        let finished = self
            .runtime
            .call(&[&["delete"], flags, &[&self.id]].concat());
        self.gone = finished.status.success();
        finished
    }
}

impl Detached {
    /// Waits until it ends and returns its exit code, as [`Container::wait`] does.
    #[track_caller]
    pub fn wait(&self) -> i32 {
        let status = children::wait(self.pid, self.since)
            .unwrap_or_else(|| panic!("process {} did not end within {:?}", self.pid, deadline()));
        exit_code(status)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Caught, because a second panic while a failed test unwinds would abort all the others.
        let delete = || self.runtime.call(&["delete", "--force", &self.id]);
        let deleted = (!self.gone).then(|| catch_unwind(AssertUnwindSafe(delete)));
        if !children::has_ended(self.pid, self.since) {
            // A runtime that failed to kill it must not leave it to the next test.
            host::kill_descendant(self.pid);
        }
        fs::remove_file(pid_file(&self.runtime, &self.id)).ok(); // Part of the scratch directory anyway.
        if !std::thread::panicking() {
            if let Some(deleted) = deleted {
                deleted
                    .unwrap_or_else(|panic| resume_unwind(panic))
                    .success();
            }
            host::assert_no_trace(&self.id, &self.runtime.root);
        }
        host::remove_cgroups(&self.id);
    }
}

/// Beside the state directory, where the runtime's user may write.
fn pid_file(runtime: &Runtime, id: &str) -> PathBuf {
    runtime.root.with_file_name(format!("{id}.pid"))
}

#[track_caller]
fn read_pid(file: &Path) -> i32 {
    let text = fs::read_to_string(file)
        .unwrap_or_else(|error| panic!("pid file {}: {error}", file.display()));
    text.parse()
        .unwrap_or_else(|error| panic!("pid file {}: {text:?}: {error}", file.display()))
}

fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
