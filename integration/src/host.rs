//! What the host sees of a container: mounts, cgroups, processes.

use crate::seen::Mount;
use crate::{peer, place, runtime, sys};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Where the cgroup v2 hierarchy is that the harness looks at: where `CGROUP` says, or else /sys/fs/cgroup.
pub fn hierarchy() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| std::env::var_os("CGROUP").map_or("/sys/fs/cgroup".into(), PathBuf::from))
}

/// The mounts of the calling thread's mount namespace, which is the host's but for `in_own_mounts`.
#[track_caller]
pub fn mounts() -> Vec<Mount> {
    mounts_of("thread-self")
}

/// Runs a test in a mount namespace of its own: nobody else's mounts come and go there, nor do others see what it mounts.
/// It has none of the mounts that other tests made until then: those would go with their directories, as a directory that is
/// removed in one namespace takes along what is mounted on it in all others (Linux 3.18).
#[track_caller]
pub fn in_own_mounts(test: impl FnOnce() + Send) {
    let run = || {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
        mount(none, "/", none, private, none).expect("private mounts");
        forget_mounts_of_tests();
        test();
    };
    // A thread's mount namespace is its own, and what it starts inherits it. It says things under the name of the test.
    let name = std::thread::current().name().unwrap_or("?").to_owned();
    let named = std::thread::Builder::new().name(name);
    let ended =
        std::thread::scope(|scope| named.spawn_scoped(scope, run).expect("a thread").join());
    if let Err(panic) = ended {
        resume_unwind(panic);
    }
}

/// Detaches, in the calling thread's mount namespace, what tests have mounted in their scratch directories.
fn forget_mounts_of_tests() {
    let mounts = mounts();
    let of_tests = |mount: &&Mount| place::is_unique(&mount.target);
    for mount in mounts.iter().rev().filter(of_tests) {
        match umount2(mount.target.as_str(), MntFlags::MNT_DETACH) {
            // It has gone meanwhile, or with the one that it was on.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(errno) => panic!("umount {}: {errno}", mount.target),
        }
    }
}

/// The mounts of a process's mount namespace.
#[track_caller]
pub fn mounts_of(pid: impl std::fmt::Display) -> Vec<Mount> {
    let path = format!("/proc/{pid}/mountinfo");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {path}: {error}"));
    Mount::parse_all(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The directory of a process's cgroup.
#[track_caller]
pub fn cgroup_of(pid: i32) -> PathBuf {
    let path = format!("/proc/{pid}/cgroup");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {path}: {error}"));
    match text.lines().find_map(|line| line.strip_prefix("0::/")) {
        Some(group) => hierarchy().join(group),
        None => panic!("{path} has no line of the cgroup v2 hierarchy: {text:?}"),
    }
}

/// A file of a cgroup, without the newline at its end.
#[track_caller]
pub fn cgroup_file(cgroup: &Path, name: &str) -> String {
    let path = cgroup.join(name);
    let text = fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    text.trim_end().to_owned()
}

/// Writes to a file of the kernel's.
#[track_caller]
pub fn set(path: &Path, value: &str) {
    let written = fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, value.as_bytes()));
    written.unwrap_or_else(|error| panic!("write {value:?} to {}: {error}", path.display()));
}

/// A namespace of a process, as the link in /proc says it: `pid:[4026531836]`.
#[track_caller]
pub fn namespace(pid: impl std::fmt::Display, kind: &str) -> String {
    let path = format!("/proc/{pid}/ns/{kind}");
    let link = fs::read_link(&path).unwrap_or_else(|error| panic!("read {path}: {error}"));
    link.to_string_lossy().into_owned()
}

/// Pids of the live processes whose command line or cgroup mentions this id.
pub fn processes(text: &str) -> Vec<i32> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // A process may end while it is looked at: what cannot be read does not count.
    pids.filter(|pid| {
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let named = |file: &str| mentions(&String::from_utf8_lossy(&read(file)), text);
        (named("cmdline") || named("cgroup")) && !zombie(&read("stat"))
    })
    .collect()
}

/// Waits for the ends of the processes with this id that are ending already: a cgroup is empty, and can be removed, a moment before
/// the last of its processes is a zombie.
pub fn await_the_ending(id: &str) {
    const PF_EXITING: u64 = 4;
    for pid in processes(id) {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let flags = stat
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.split(' ').nth(6)?.parse::<u64>().ok());
        if flags.is_none_or(|flags| flags & PF_EXITING != 0) {
            await_end(pid);
        }
    }
}

/// Waits for the end of a process; false at the deadline.
pub fn await_end(pid: i32) -> bool {
    sys::pidfd_open(pid).map_or(true, |pidfd| runtime::readable(&pidfd))
}

/// Waits until somebody else has removed a directory.
#[track_caller]
pub fn await_removal(directory: &Path) {
    let since = Instant::now();
    while directory.exists() {
        let path = directory.display();
        assert!(
            since.elapsed() < runtime::deadline(),
            "{path} is not removed"
        );
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Whether a process exists and is not a zombie.
pub fn alive(pid: i32) -> bool {
    fs::read(format!("/proc/{pid}/stat")).is_ok_and(|stat| !zombie(&stat))
}

/// Everything on the host that bears a container's id: state, cgroups, mounts, processes.
pub fn traces(id: &str, root: &Path) -> Vec<String> {
    let state = root.join(id);
    let mut found = Vec::new();
    if state.symlink_metadata().is_ok() {
        found.push(format!("state {}", state.display()));
    }
    found.extend(
        cgroups(id)
            .iter()
            .map(|path| format!("cgroup {}", path.display())),
    );
    // Beside the state lies the bundle; what the test itself mounts is elsewhere in its scratch directory.
    let bundle = root.with_file_name("bundle");
    let below = |target: &Path| target.starts_with(root) || target.starts_with(&bundle);
    let mounts = mounts();
    let ours = |mount: &&Mount| mentions(&mount.target, id) || below(Path::new(&mount.target));
    found.extend(
        mounts
            .iter()
            .filter(ours)
            .map(|mount| format!("mount {}", mount.target)),
    );
    found.extend(processes(id).iter().map(|pid| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        format!(
            "process {pid} {}",
            String::from_utf8_lossy(&command).replace('\0', " ")
        )
    }));
    found
}

/// After a command that failed: nothing of the container may be left either. crun's traces are cleaned away silently, or
/// half of the suite would have to be marked for that one fault; the tests in `errors` show it.
#[track_caller]
pub(crate) fn after_failure(id: &str, root: &Path) {
    if peer::is("crun") {
        clear(id);
        fs::remove_dir_all(root.join(id)).ok(); // Mostly there is none.
        return;
    }
    assert_no_trace(id, root);
}

/// Fails the test if anything is left of a container.
#[track_caller]
pub fn assert_no_trace(id: &str, root: &Path) {
    let mut left = traces(id, root);
    if peer::is("runc") {
        // `delete --force` gives up on a group whose last process takes a third of a second to end, and still exits with 0.
        left.retain(|trace| !trace.starts_with("cgroup "));
        remove_cgroups(id);
    }
    if left.is_empty() {
        return;
    }
    clear(id);
    panic!("left behind of {id}: {left:#?}");
}

/// Held while a command works on a container: should the test fail meanwhile, as when the command hangs, nothing of the
/// container outlives it.
#[derive(Debug)]
pub(crate) struct Guard<'a>(pub(crate) &'a str);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            clear(self.0);
        }
    }
}

/// Ends the processes and removes the cgroups that bear this id.
pub fn clear(id: &str) {
    kill_all(id);
    remove_cgroups(id);
}

/// Kills what bears this id, if the test process started it: as the subreaper, it is an ancestor of all that it started.
fn kill_all(id: &str) {
    if !place::is_unique(id) {
        return;
    }
    for pid in processes(id).into_iter().filter(|pid| is_descendant(*pid)) {
        if let Ok(pidfd) = sys::pidfd_open(pid) {
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok(); // It may have ended just now.
            runtime::readable(&pidfd);
        }
    }
}

/// Kills a process that the test process started; one that is not its descendant is left alone.
pub fn kill_descendant(pid: i32) {
    if is_descendant(pid) {
        kill(Pid::from_raw(pid), Signal::SIGKILL).ok(); // A zombie is as good.
    }
}

fn is_descendant(pid: i32) -> bool {
    let parent = |pid: i32| -> Option<i32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok()
    };
    let own = std::process::id() as i32;
    let mut ancestors = std::iter::successors(parent(pid), |pid| parent(*pid));
    ancestors.any(|ancestor| ancestor == own)
}

/// Whether a text contains an id as a whole: `box-1-2`, but not as part of `box-1-20`.
fn mentions(text: &str, id: &str) -> bool {
    let part_of_id = |c: char| c.is_alphanumeric() || c == '-' || c == '_' || c == '+';
    text.match_indices(id).any(|(start, _)| {
        let (before, after) = (&text[..start], &text[start + id.len()..]);
        !before.ends_with(char::is_alphanumeric) && !after.starts_with(part_of_id)
    })
}

/// Removes what is left of a container's cgroups.
pub(crate) fn remove_cgroups(id: &str) {
    if !place::is_unique(id) {
        return;
    }
    for path in cgroups(id) {
        if let Ok(mut file) = fs::OpenOptions::new()
            .write(true)
            .open(path.join("cgroup.kill"))
        {
            std::io::Write::write_all(&mut file, b"1").ok(); // Only empty groups can be removed; the next line tells.
        }
        fs::remove_dir(&path).ok(); // A test that leaks has failed already.
    }
}

/// Directories below the hierarchy's root with this id in their name, children before parents.
fn cgroups(text: &str) -> Vec<PathBuf> {
    fn walk(directory: &Path, inside: bool, text: &str, found: &mut Vec<PathBuf>) {
        // Groups of other tests come and go.
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let inside = inside || mentions(&entry.file_name().to_string_lossy(), text);
                walk(&entry.path(), inside, text, found);
                if inside {
                    found.push(entry.path());
                }
            }
        }
    }
    let mut found = Vec::new();
    walk(hierarchy(), false, text, &mut found);
    found
}

fn zombie(stat: &[u8]) -> bool {
    let stat = String::from_utf8_lossy(stat);
    stat.is_empty()
        || stat
            .rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with(['Z', 'X']))
}

#[cfg(test)]
mod tests {
    use super::mentions;

    #[test]
    fn an_id_is_found_as_a_whole_only() {
        for text in [
            "box-1-2",
            "/a/box-1-2",
            "--pid-file\0box-1-2.pid",
            "runc-box-1-2.scope",
            "0::/box-1-2\n",
        ] {
            assert!(mentions(text, "box-1-2"), "{text}");
        }
        for text in ["box-1-20", "/a/box-1-2-3", "outbox-1-2", "crun --root x"] {
            assert!(!mentions(text, "box-1-2"), "{text}");
        }
    }
}
