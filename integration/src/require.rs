//! What a test needs of the machine.
//!
//! `require!(containers, controller("memory"));` at the start of a test prints `skipped: ...` and returns if something is missing,
//! or fails if `MUST_WORK=1` is set. Each function here answers one question by trying, and says what is missing.

use crate::host::hierarchy;
use crate::runtime::Running;
use crate::{peer, place, runtime, sys};
use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

/// How what is no lack of the machine begins.
pub const OF_THE_RUNTIME: &str = "the runtime under test";

/// The answer: nothing, or what is missing.
pub type Missing = Result<(), String>;

/// Returns from the test, with a word why, unless the machine has all of these.
#[macro_export]
macro_rules! require {
    ($($need:ident $(($($argument:expr),*))?),+ $(,)?) => {
        $(if let Err(missing) = $crate::require::$need($($($argument),*)?) {
            return $crate::require::skip(&missing);
        })+
    };
}

/// Says that the running test is skipped; with `MUST_WORK=1` fails it, unless it is not for the runtime under test.
#[track_caller]
pub fn skip(missing: &str) {
    assert!(
        missing.starts_with(OF_THE_RUNTIME)
            || std::env::var_os("MUST_WORK").is_none_or(|value| value != "1"),
        "MUST_WORK=1, but: {missing}"
    );
    let thread = std::thread::current();
    runtime::announce(&format!(
        "skipped: {missing} [{}]",
        thread.name().unwrap_or("?")
    ));
}

/// Root, and a cgroup v2 hierarchy where runtimes look for it: what every privileged container needs.
pub fn containers() -> Missing {
    root()?;
    cgroup2()
}

/// The test process is root.
pub fn root() -> Missing {
    if nix::unistd::geteuid().is_root() {
        Ok(())
    } else {
        Err("not root".to_owned())
    }
}

/// systemd is PID 1, and obeys.
pub fn systemd() -> Missing {
    containers()?;
    // sd_booted(3).
    path("/run/systemd/system").map_err(|_| "systemd is not running".to_owned())?;
    path("/usr/bin/systemctl")
}

/// A cgroup v2 hierarchy is mounted where the suite looks for it.
pub fn cgroup2() -> Missing {
    let there = hierarchy().join("cgroup.controllers").is_file();
    if there {
        Ok(())
    } else {
        Err(format!(
            "no cgroup v2 at {}; see the head of tests/it/main.rs",
            hierarchy().display()
        ))
    }
}

/// This controller can limit a cgroup below the root one.
pub fn controller(name: &str) -> Missing {
    cgroup2()?;
    let controllers =
        fs::read_to_string(hierarchy().join("cgroup.controllers")).unwrap_or_default();
    let there = controllers.split_whitespace().any(|word| word == name);
    if there {
        Ok(())
    } else {
        Err(format!("no {name} controller on cgroup v2"))
    }
}

/// A static busybox for the root file system.
pub fn busybox() -> Missing {
    place::busybox().map(drop).ok_or_else(|| {
        "no /bin/busybox (Debian: busybox-static), and BUSYBOX is not set".to_owned()
    })
}

/// containerd, its client, and what makes images for it.
pub fn containerd() -> Missing {
    ["containerd", "ctr", "umoci"]
        .into_iter()
        .try_for_each(program)
}

/// The runtime under test needs no other file, so that it runs in a container that holds nothing else: no dynamic loader is named in it.
pub fn static_runtime() -> Missing {
    let program = fs::read(place::runtime()).map_err(|error| error.to_string())?;
    if has_interpreter(&program) {
        return Err(format!("{OF_THE_RUNTIME} is linked dynamically"));
    }
    Ok(())
}

/// By the program headers of elf(5), 64 bits wide.
fn has_interpreter(program: &[u8]) -> bool {
    const PT_INTERP: u64 = 3;
    let number = |at: usize, size: usize| {
        let bytes = &program[at..at + size];
        bytes
            .iter()
            .rev()
            .fold(0, |sum, &byte| sum << 8 | u64::from(byte))
    };
    let (first, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    (0..count).any(|header| number((first + header * size) as usize, 4) == PT_INTERP)
}

/// A runc to compare with.
pub fn peer() -> Missing {
    let found = place::peer().map(drop);
    found.ok_or_else(|| "no runc in PATH, and PEER is not set".to_owned())
}

/// The kernel has this kind of namespace.
pub fn namespace(kind: &str) -> Missing {
    let there = Path::new("/proc/self/ns")
        .join(kind)
        .symlink_metadata()
        .is_ok();
    if there {
        Ok(())
    } else {
        Err(format!("kernel without {kind} namespaces"))
    }
}

/// User namespaces can be made.
pub fn userns() -> Missing {
    namespace("user")?;
    let limit = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    if limit.trim() == "0" {
        Err("user.max_user_namespaces is 0".to_owned())
    } else {
        Ok(())
    }
}

/// The tools that map more than one id for a user without privileges are installed.
pub fn subordinate_ids() -> Missing {
    [
        "/usr/bin/newuidmap",
        "/usr/bin/newgidmap",
        "/etc/subuid",
        "/etc/subgid",
    ]
    .into_iter()
    .try_for_each(path)
}

/// Users without privileges can make user namespaces, and there is a hierarchy for those of their containers that get a cgroup.
pub fn unprivileged_user() -> Missing {
    containers()?;
    // Tests put their own in the place of these.
    ["/etc/passwd", "/etc/group", "/etc/subuid", "/etc/subgid"]
        .into_iter()
        .try_for_each(path)?;
    userns()?;
    let knob = fs::read_to_string("/proc/sys/kernel/unprivileged_userns_clone").unwrap_or_default();
    if knob.trim() == "0" {
        Err("kernel.unprivileged_userns_clone is 0".to_owned())
    } else {
        Ok(())
    }
}

/// The kernel knows this system call: called with nothing sensible, it fails with something else than ENOSYS.
pub fn system_call(name: &str) -> Missing {
    let number: syscalls::Sysno = name
        .parse()
        .map_err(|()| format!("no system call named {name}"))?;
    let without = std::env::var("WITHOUT").unwrap_or_default();
    if without.split(',').any(|call| call == name) {
        return Err(format!("WITHOUT={without}"));
    }
    // All ones is no valid pointer, descriptor, size or flag anywhere.
    match sys::call(i64::from(number.id()), [u64::MAX; 6]) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
            Err(format!("kernel without {name}"))
        }
        _ => Ok(()),
    }
}

/// Mounts of the file system that tests use can be id-mapped.
pub fn id_mapped_mounts() -> Missing {
    containers()?;
    system_call("mount_setattr")?;
    let scratch = place::Scratch::new();
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "cat"]);
    let mut child = Running::start(command);
    let mut mapped = || {
        // What it echoes, it got after its user namespace was made.
        if let Some(stdin) = &mut child.stdin {
            writeln!(stdin, "made")?;
        }
        child.stdout.line();
        let namespace = fs::File::open(format!("/proc/{}/ns/user", child.pid()))?;
        sys::id_map(scratch.path(), namespace.as_fd())
    };
    mapped().map_err(|error| format!("no id-mapped mounts here: {error}"))
}

/// Pairs of virtual network devices can be made, in a network namespace of its own.
pub fn virtual_ethernet() -> Missing {
    containers()?;
    let mut command = Command::new("unshare");
    command.args(["--net", "ip", "link", "add", "one", "type", "veth"]);
    let tried = runtime::finish(command);
    match tried.status.success() {
        true => Ok(()),
        false => Err(format!("no veth devices: {}", tried.stderr.trim())),
    }
}

/// The runtime is not run under a filter that makes system calls fail.
pub fn no_filter() -> Missing {
    match std::env::var("WITHOUT") {
        Ok(calls) if !calls.is_empty() => Err(format!("WITHOUT={calls}")),
        _ => Ok(()),
    }
}

/// The test process, and so the runtime, has this capability.
pub fn capability(name: &str) -> Missing {
    let wanted: caps::Capability = name
        .parse()
        .map_err(|_| format!("no capability named {name}"))?;
    match caps::has_cap(None, caps::CapSet::Effective, wanted) {
        Ok(true) => Ok(()),
        _ => Err(format!("no {name}")),
    }
}

/// Settings of the whole machine may be changed: it is thrown away after the tests, as `IN_VM=1` says.
pub fn throwaway_machine() -> Missing {
    if std::env::var_os("IN_VM").is_some_and(|value| value == "1") {
        Ok(())
    } else {
        Err("IN_VM=1 is not set, so settings of the machine are left alone".to_owned())
    }
}

/// A program of the machine.
pub fn program(name: &str) -> Missing {
    match place::in_path(Path::new(name)) {
        Some(_) => Ok(()),
        None => Err(format!("no {name} in PATH")),
    }
}

/// CRIU, which can save and restore processes on this kernel.
pub fn criu() -> Missing {
    containers()?;
    // CRIU would run under it as well, and so would what it restores.
    no_filter()?;
    if peer::is("crun") {
        return Err(format!("{OF_THE_RUNTIME} wants CRIU as a library"));
    }
    checked(&["check"])
}

/// CRIU and the kernel have this of `criu check --feature`.
pub fn criu_feature(name: &str) -> Missing {
    criu()?;
    checked(&["check", "--feature", name])
}

fn checked(question: &[&str]) -> Missing {
    let Some(directory) = place::criu() else {
        return Err("no criu beside this program or in PATH".to_owned());
    };
    let mut command = Command::new(directory.join("criu"));
    command.args(question);
    let answer = runtime::finish(command);
    match answer.status.success() {
        true => Ok(()),
        false => Err(format!("{}: {}", question.join(" "), answer.stdout)),
    }
}

/// A real image, made by scripts/test.d/images.
pub fn image(name: &str) -> Missing {
    let missing = || format!("no images/{name}.tar beside this program, and IMAGES is not set");
    place::image(name).map(drop).ok_or_else(missing)
}

/// A file or directory of the host.
pub fn path(path: &str) -> Missing {
    if Path::new(path).exists() {
        Ok(())
    } else {
        Err(format!("no {path}"))
    }
}

/// The machine itself lets its root use this character device: a filter around the whole suite would hide the container's own.
pub fn device(major: u64, minor: u64) -> Missing {
    root()?;
    let scratch = place::Scratch::new();
    let node = scratch.path().join("node");
    place::node(&node, major, minor);
    let opened = fs::OpenOptions::new().write(true).open(&node);
    opened
        .map(drop)
        .map_err(|error| format!("device {major}:{minor} of this machine: {error}"))
}

/// AppArmor is on, and profiles can be loaded.
pub fn apparmor() -> Missing {
    path("/sys/kernel/security/apparmor/.replace")?;
    program("apparmor_parser")
}

/// The runtime under test can load the device filter. crun raises RLIMIT_MEMLOCK for that, whether or not the kernel needs
/// it, and fails where it may not.
pub fn device_filter() -> Missing {
    if peer::is("crun") && capability("CAP_SYS_RESOURCE").is_err() {
        return Err("crun's device filter needs CAP_SYS_RESOURCE".to_owned());
    }
    containers()
}

/// The runtime under test can stream events. runc wants the memory controller for that, to watch its file.
pub fn event_stream() -> Missing {
    if peer::is("runc") {
        return controller("memory");
    }
    Ok(())
}

/// The runtime under test can be given a directory for the resctrl file system.
pub fn resctrl() -> Missing {
    caisson().map_err(|_| format!("{OF_THE_RUNTIME} wants a real resctrl file system"))
}

/// The shim under test is built as it is released: what memory it needs is no promise otherwise.
pub fn released_shim() -> Missing {
    let size = fs::metadata(place::shim())
        .map_err(|error| error.to_string())?
        .len();
    if size <= 4 << 20 {
        Ok(())
    } else {
        Err("the shim is not built as it is released".to_owned())
    }
}

/// The runtime under test is Caisson: what the test is about is its own, and no peer's fault.
pub fn caisson() -> Missing {
    if peer::is("caisson") {
        Ok(())
    } else {
        Err(format!("{OF_THE_RUNTIME} is not Caisson"))
    }
}
