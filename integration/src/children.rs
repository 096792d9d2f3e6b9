//! Starts children and reaps them: those that tests start, and the orphans that runtimes leave to the test process.
//!
//! The test process is the subreaper of everything below it, as an engine is: a container's first process, and every
//! detached `exec`, become its children when the runtime's command ends. One thread reaps all of them, because a pid
//! namespace goes away only when every process in it is reaped, whoever it was left to. So nobody else may wait for a child:
//! `std::process::Child::wait` and what builds on it (`output`, `status`) would find it gone.

use crate::runtime::deadline;
use crate::sys;
use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

/// Which end of a process with a pid is meant: pids are used again, and this says since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Since(u64);

#[derive(Default)]
struct Ended {
    count: u64,
    by_pid: HashMap<i32, (Since, ExitStatus)>,
}

struct Reaper {
    ended: Mutex<Ended>,
    /// A child has ended.
    news: Condvar,
    /// A child was started; the thread sleeps on this while there is none.
    work: Condvar,
}

/// Now, as a point in the order of children's ends.
pub fn now() -> Since {
    Since(lock().count)
}

/// Starts a command and says its pid.
#[track_caller]
#[expect(clippy::zombie_processes, reason = "the reaper thread waits for it")]
pub fn spawn(command: &mut Command) -> (i32, Since) {
    let ended = lock();
    let since = Since(ended.count);
    let child = command
        .spawn()
        .unwrap_or_else(|error| panic!("start {command:?}: {error}"));
    // Held until here, so that the thread cannot store the child's end before `since` is taken.
    drop(ended);
    reaper().work.notify_all();
    (child.id() as i32, since)
}

/// Waits until a child, or an orphan, has ended; nothing at the deadline.
pub fn wait(pid: i32, since: Since) -> Option<ExitStatus> {
    let mut ended = lock();
    let end = Instant::now() + deadline();
    loop {
        if let Some((_, status)) = ended.by_pid.get(&pid).filter(|(when, _)| *when >= since) {
            return Some(*status);
        }
        let left = end.checked_duration_since(Instant::now())?;
        ended = reaper()
            .news
            .wait_timeout(ended, left)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
    }
}

/// Whether a child, or an orphan, has ended.
pub fn has_ended(pid: i32, since: Since) -> bool {
    lock()
        .by_pid
        .get(&pid)
        .is_some_and(|(when, _)| *when >= since)
}

fn lock() -> MutexGuard<'static, Ended> {
    // A test that failed while it held the lock has changed nothing.
    reaper()
        .ended
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

fn reaper() -> &'static Reaper {
    static REAPER: OnceLock<Reaper> = OnceLock::new();
    static THREAD: OnceLock<()> = OnceLock::new();
    let reaper = REAPER.get_or_init(|| Reaper {
        ended: Mutex::default(),
        news: Condvar::new(),
        work: Condvar::new(),
    });
    THREAD.get_or_init(|| {
        sys::become_subreaper().unwrap_or_else(|error| panic!("become a subreaper: {error}"));
        let thread = std::thread::Builder::new()
            .name("reaper".to_owned())
            .spawn(reap);
        thread
            .map(drop)
            .unwrap_or_else(|error| panic!("start the reaper thread: {error}"));
    });
    reaper
}

fn reap() {
    loop {
        match sys::await_any() {
            Ok(()) => {
                // Held while it goes away: who sees that it is gone finds its end here.
                let mut ended = lock();
                let (pid, status) =
                    sys::reap_any().unwrap_or_else(|error| panic!("reap a child: {error}"));
                let when = Since(ended.count);
                ended.count += 1;
                ended
                    .by_pid
                    .insert(pid, (when, ExitStatus::from_raw(status)));
                drop(ended);
                reaper().news.notify_all();
            }
            // No children. A spawn holds the lock, so that none is missed between this check and the wait.
            Err(_) => {
                let ended = lock();
                if !sys::has_children() {
                    drop(reaper().work.wait(ended));
                }
            }
        }
    }
}
