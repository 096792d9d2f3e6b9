//! A seccomp agent: the process that answers for system calls with SCMP_ACT_NOTIFY.
//!
//! It serves from a thread of the test, so that a test can wait for a runtime that waits for it. It ends when it is dropped, as if its
//! process had died.

use crate::socket::message;
use crate::sys;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// What an agent does with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It happens.
    Continue,
    /// It fails with this errno.
    Errno(i32),
    /// The agent ends without an answer, all its descriptors closed.
    Die,
}

/// What an agent saw.
#[derive(Clone, Debug, Default)]
pub struct Served {
    /// Every `containerProcessState` that came, in order.
    pub states: Vec<Value>,
    /// Every call, in order: its number and the pid of who made it.
    pub calls: Vec<(i32, u32)>,
    /// What went wrong.
    pub errors: Vec<String>,
}

/// A serving agent.
pub struct Agent {
    /// What to put as `listenerPath`.
    pub path: PathBuf,
    served: Arc<Mutex<Served>>,
    /// Closed to make the thread end.
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Agent {
    /// Serves at this path: calls that are not listed happen.
    #[track_caller]
    pub fn serve(path: &Path, answers: &[(&str, Answer)]) -> Agent {
        let listener = UnixListener::bind(path)
            .unwrap_or_else(|error| panic!("listen on {}: {error}", path.display()));
        let number = |name: &str| {
            syscalls::Sysno::from_str(name)
                .unwrap_or_else(|()| panic!("no system call {name}"))
                .id()
        };
        let answers = answers.iter().map(|(name, answer)| (number(name), *answer));
        let served = Arc::new(Mutex::new(Served::default()));
        let (stopped, stop) = crate::runtime::pipe();
        let server = Server {
            listener,
            stopped,
            answers: answers.collect(),
            filters: Vec::new(),
            served: served.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("seccomp agent".to_owned())
            .spawn(|| server.run())
            .unwrap_or_else(|error| panic!("start the agent's thread: {error}"));
        Agent {
            path: path.to_owned(),
            served,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// What it saw so far.
    pub fn served(&self) -> Served {
        lock(&self.served).clone()
    }

    /// Ends it, and returns what it saw.
    #[track_caller]
    pub fn end(mut self) -> Served {
        self.stop();
        let served = self.served();
        assert!(served.errors.is_empty(), "the agent: {:?}", served.errors);
        served
    }

    fn stop(&mut self) {
        drop(self.stop.take());
        // A panic of the thread shows as an error of its own: it did not serve.
        self.thread.take().map(JoinHandle::join);
    }
}

impl Served {
    /// How often this call came.
    #[track_caller]
    pub fn count(&self, name: &str) -> usize {
        let number = syscalls::Sysno::from_str(name)
            .unwrap_or_else(|()| panic!("no system call {name}"))
            .id();
        self.calls.iter().filter(|call| call.0 == number).count()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Agent at {}", self.path.display())
    }
}

/// The thread's side.
struct Server {
    listener: UnixListener,
    stopped: OwnedFd,
    answers: BTreeMap<i32, Answer>,
    filters: Vec<OwnedFd>,
    served: Arc<Mutex<Served>>,
}

impl Server {
    fn run(mut self) {
        loop {
            let fds = [self.stopped.as_fd(), self.listener.as_fd()];
            let fds = fds.into_iter().chain(self.filters.iter().map(AsFd::as_fd));
            let mut fds: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            match poll(&mut fds, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => continue,
                Err(errno) => return self.complain(&format!("poll: {errno}")),
                Ok(_) => {}
            }
            let ready: Vec<PollFlags> = fds
                .iter()
                .map(|fd| fd.revents().unwrap_or(PollFlags::empty()))
                .collect();
            if !ready[0].is_empty() {
                return;
            }
            // From the last on, since one that has ended is taken out.
            for at in (0..self.filters.len()).rev() {
                let ready = ready[at + 2];
                if ready.contains(PollFlags::POLLIN) {
                    if self.answer(at) == Answer::Die {
                        return;
                    }
                } else if !ready.is_empty() {
                    self.filters.remove(at);
                }
            }
            if !ready[1].is_empty() {
                self.accept();
            }
        }
    }

    fn accept(&mut self) {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => return self.complain(&format!("accept: {error}")),
        };
        let (text, mut fds) = message(&stream);
        match serde_json::from_slice(&text) {
            Ok(state) => lock(&self.served).states.push(state),
            // A runtime that fails after it connected sends nothing.
            Err(_) if text.is_empty() => {}
            Err(error) => self.complain(&format!("no JSON: {error}: {text:?}")),
        }
        self.filters.append(&mut fds);
    }

    fn answer(&self, at: usize) -> Answer {
        let filter = self.filters[at].as_fd();
        // ENOENT: whoever called has been killed.
        let Ok(notification) = sys::receive_notification(filter) else {
            return Answer::Continue;
        };
        let number = notification.number;
        lock(&self.served).calls.push((number, notification.pid));
        let answer = self.answers.get(&number).copied();
        let answer = answer.unwrap_or(Answer::Continue);
        let errno = match answer {
            Answer::Die => return Answer::Die,
            Answer::Continue => None,
            Answer::Errno(errno) => Some(errno),
        };
        sys::answer_notification(filter, notification.id, errno).ok(); // as above
        answer
    }

    fn complain(&self, error: &str) {
        lock(&self.served).errors.push(error.to_owned());
    }
}

fn lock(served: &Mutex<Served>) -> MutexGuard<'_, Served> {
    served.lock().unwrap_or_else(PoisonError::into_inner)
}
