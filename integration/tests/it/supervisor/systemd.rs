//! The daemon as a service: the unit files of `supervisor/`, and what a service manager gives and is told.

use std::fs;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::Command;

use integration::runtime::{Finished, Running, finish};
use integration::supervisor::{IMAGE, Supervisor};
use integration::{host, place, require};
use nix::sys::signal::Signal;

const SERVICE: &str = include_str!("../../../../supervisor/caissond.service");
const SOCKET: &str = include_str!("../../../../supervisor/caissond.socket");
const INSTALLED: &str = "/usr/local/bin/caissond";
const LISTENED: &str = "/run/caisson/caissond.sock";

/// Writes both units, for the daemon under test and the places of this supervisor.
fn write_units(supervisor: &Supervisor, directory: &Path, name: &str) {
    let program = format!(
        "{} --root {} --state {}",
        place::daemon().display(),
        supervisor.scratch.path().join("root").display(),
        supervisor.state.display()
    );
    assert!(SERVICE.contains(INSTALLED) && SOCKET.contains(LISTENED));
    let listened = supervisor.state.join("caissond.sock");
    place::write(
        &directory.join(format!("{name}.service")),
        SERVICE.replace(INSTALLED, &program),
    );
    place::write(
        &directory.join(format!("{name}.socket")),
        SOCKET.replace(LISTENED, &listened.display().to_string()),
    );
}

fn systemctl(args: &[&str]) -> Finished {
    let mut command = Command::new("systemctl");
    command.args(args);
    finish(command)
}

/// Both units, known to systemd; gone at the end.
struct Units(String);

impl Units {
    fn new(supervisor: &Supervisor) -> Units {
        supervisor.crash();
        let units = Units(place::unique("caissond"));
        write_units(supervisor, Path::new("/run/systemd/system"), &units.0);
        systemctl(&["daemon-reload"]).success();
        units
    }

    fn file(&self, kind: &str) -> String {
        format!("{}.{kind}", self.0)
    }
}

impl Drop for Units {
    fn drop(&mut self) {
        for kind in ["socket", "service"] {
            systemctl(&["stop", &self.file(kind)]);
            fs::remove_file(Path::new("/run/systemd/system").join(self.file(kind))).ok();
        }
        systemctl(&["daemon-reload"]);
    }
}

#[test]
fn the_units_are_as_systemd_wants_them() {
    require!(containers, busybox, program("systemd-analyze"));
    let supervisor = Supervisor::new();
    let directory = supervisor.scratch.dir("units");
    write_units(&supervisor, &directory, "caissond");
    let mut command = Command::new("systemd-analyze");
    command
        .args(["verify", "--man=no"])
        .arg(directory.join("caissond.service"))
        .arg(directory.join("caissond.socket"));
    let verified = finish(command).success();
    assert_eq!(verified.stderr, "", "it has something to say");
}

#[test]
fn a_service_manager_is_told_when_the_daemon_serves() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    supervisor.crash();
    let path = supervisor.state.join("notify");
    let name = place::unique("notify");
    let named = SocketAddr::from_pathname(&path).unwrap();
    let unnamed = SocketAddr::from_abstract_name(&name).unwrap();
    for (address, word) in [
        (named, path.display().to_string()),
        (unnamed, format!("@{name}")),
    ] {
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let mut command = supervisor.daemon_command(&[]);
        command.env("NOTIFY_SOCKET", word);
        let mut daemon = Running::start(command);
        let mut said = [0; 100];
        let length = manager.recv(&mut said).unwrap();
        assert_eq!(&said[..length], b"READY=1");
        assert_eq!(daemon.stdout.line(), "ready");
        assert_eq!(supervisor.pid(), daemon.pid());
        daemon.signal(Signal::SIGTERM);
        daemon.wait().success();
    }
}

#[test]
fn a_socket_that_a_service_manager_listens_on_is_served_and_stays() {
    require!(
        containers,
        busybox,
        program("systemd-socket-activate"),
        program("env")
    );
    let supervisor = Supervisor::new();
    supervisor.crash();
    let socket = supervisor.state.join("caissond.sock");
    let start = |listen: &Path| {
        fs::remove_file(&socket).ok(); // The last one's.
        let daemon = supervisor.daemon_command(&[]);
        let mut command = Command::new("systemd-socket-activate");
        command
            .arg("--listen")
            .arg(listen)
            .arg(daemon.get_program())
            .args(daemon.get_args())
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let activated = Running::start(command);
        // Bound, it is there, and refuses connections until it listens (__SO_ACCEPTCON).
        let place = format!(" {}", listen.display());
        let listens = |line: &str| line.ends_with(&place) && line.contains(" 00010000 ");
        while !fs::read_to_string("/proc/net/unix")
            .unwrap()
            .lines()
            .any(listens)
        {
            std::thread::yield_now();
        }
        activated
    };
    let daemon = start(&socket);
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let before = inode(&socket);
    // The first client starts it; shims find it there, too.
    let said = supervisor.says(&["run", "--rm", IMAGE, "echo", "here"]);
    assert_eq!(said, "here");
    assert_eq!(supervisor.pid(), daemon.pid());
    daemon.signal(Signal::SIGTERM);
    daemon.wait().success();
    assert_eq!(inode(&socket), before, "its file is not the daemon's");
    let other = supervisor.state.join("other.sock");
    let daemon = start(&other);
    std::os::unix::net::UnixStream::connect(&other).unwrap();
    daemon
        .wait()
        .failure()
        .says("take the service manager's socket");
    fs::remove_file(other).unwrap();
    fs::remove_file(socket).ok();
}

#[test]
fn containers_have_the_descriptors_that_the_daemon_was_given() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    supervisor.crash();
    let daemon = supervisor.daemon_command(&[]);
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -Sn 500; ulimit -Hn 2000; exec \"$@\"", "sh"])
        .arg(daemon.get_program())
        .args(daemon.get_args())
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let mut daemon = Running::start(command);
    assert_eq!(daemon.stdout.line(), "ready");
    let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let numbers: Vec<_> = line.unwrap().split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers, ["2000", "2000"], "as many as it may have");
    let script = "ulimit -Sn; ulimit -Hn";
    let said = supervisor.says(&["run", "--rm", IMAGE, "sh", "-c", script]);
    assert_eq!(said, "500\n2000");
}

#[test]
fn a_restart_of_the_service_is_not_seen_by_containers() {
    require!(systemd, busybox);
    let supervisor = Supervisor::new();
    let units = Units::new(&supervisor);
    let service = units.file("service");
    // It comes back when the daemon has said that it serves.
    systemctl(&["start", &service]).success();
    let main = || {
        let shown = systemctl(&["show", "--value", "--property", "MainPID", &service]);
        shown.success().stdout.trim().parse::<i32>().unwrap()
    };
    let first = main();
    assert_eq!(supervisor.pid(), first);
    let adjustment = |pid: i32| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    assert_eq!(adjustment(first), "-500\n");
    let id = supervisor.detached(&["--name", "web"], "sleep 1000");
    let pid: i32 = supervisor.field("web", "{{.State.Pid}}").parse().unwrap();
    assert_eq!(adjustment(pid), "0\n");
    systemctl(&["restart", &service]).success();
    let second = main();
    assert!(first != second && supervisor.pid() == second);
    let lives = |name: &str| {
        assert_eq!(
            supervisor.field(name, "{{.State.Status}} {{.State.Pid}}"),
            format!("running {pid}")
        );
        assert_eq!(supervisor.says(&["exec", name, "echo", "here"]), "here");
    };
    lives("web");
    // One that is killed is started again, by systemd.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(second), Signal::SIGKILL).unwrap();
    systemctl(&["start", &service]).success();
    lives(&id);
    systemctl(&["stop", &service]).success();
    assert!(
        host::alive(pid),
        "who stops the daemon does not mean its containers"
    );
    // The next one is started by its socket.
    systemctl(&["start", &units.file("socket")]).success();
    lives("web");
    assert_eq!(supervisor.pid(), main());
    supervisor.says(&["rm", "-f", "web"]);
}

#[test]
fn where_there_is_a_unit_clients_start_that_and_no_daemon_in_its_way() {
    require!(systemd, busybox);
    let supervisor = Supervisor::new();
    let units = Units::new(&supervisor);
    let service = units.file("service");
    let client = |args: &[&str]| {
        let mut command = supervisor.command(args);
        command.env("CAISSON_UNIT", &service);
        finish(command).success().stdout
    };
    let served_by_it = || {
        let pid = client(&["version", "--format", "{{.Server.Pid}}"]);
        let shown = systemctl(&["show", "--property", "MainPID", &service]);
        assert_eq!(shown.success().stdout, format!("MainPID={pid}"));
        nix::unistd::Pid::from_raw(pid.trim().parse().unwrap())
    };
    // Not started yet, stopped, and killed, after which systemd starts it again anyway.
    served_by_it();
    systemctl(&["stop", &service]).success();
    let pid = served_by_it();
    nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
    assert!(host::await_end(pid.as_raw()));
    served_by_it();
    // One that does not start is not replaced.
    systemctl(&["stop", &service]).success();
    let path = Path::new("/run/systemd/system").join(&service);
    fs::remove_file(&path).unwrap();
    place::write(&path, "[Service]\nType=oneshot\nExecStart=/bin/false\n");
    systemctl(&["daemon-reload"]).success();
    let mut command = supervisor.command(&["ps"]);
    command.env("CAISSON_UNIT", &service);
    let refused = finish(command).failure();
    refused.says(&format!("start the daemon: systemctl start {service}: "));
}
