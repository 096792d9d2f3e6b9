//! Whoever takes part in a container's life under the shim is killed (SIGKILL) in each phase of it: the client, the shim, a command of the
//! runtime, the logger, the container's init. What comes after does what containerd does then, and afterwards nothing is left, and
//! exactly one end of the container was told, with its true code.
//!
//! The moment is a random one of the phase; `SWEEP=NUMBER` repeats those of a run, whose number is on standard error. `SWEEP=every` plays so
//! many rounds that somebody is killed in a thousand, and `ONLY=Delete/Runtime` plays those only.

use integration::runtime::announce;
use integration::shim::{Protocol, Shim};
use integration::{Bundle, host, peer, place, require, waiting};
use shim::protos::task::{
    DeleteRequest, ExecProcessRequest, KillRequest, ShutdownRequest, StartRequest,
};
use std::fs;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use ttrpc::Code;
use ttrpc::context::with_timeout;

/// How long after a death everything must be gone.
const GONE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Phase {
    /// The action `start`.
    Launch,
    Create,
    /// Between Create and Start.
    Created,
    Start,
    Running,
    Exec,
    /// From the signal that it ends of.
    Exit,
    Delete,
    Shutdown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Victim {
    Client,
    Shim,
    Runtime,
    Logger,
    Init,
}

use Phase::*;
use Victim::*;

/// Who there is to kill in each phase.
const CELLS: &[(Phase, &[Victim])] = &[
    (Launch, &[Client, Victim::Shim]),
    (Create, &[Client, Victim::Shim, Runtime, Logger, Init]),
    (Created, &[Client, Victim::Shim, Logger, Init]),
    (Start, &[Client, Victim::Shim, Runtime, Logger, Init]),
    (Running, &[Client, Victim::Shim, Logger, Init]),
    (Exec, &[Client, Victim::Shim, Runtime, Logger, Init]),
    (Exit, &[Client, Victim::Shim, Runtime, Logger, Init]),
    (Delete, &[Client, Victim::Shim, Runtime, Logger]),
    (Shutdown, &[Client, Victim::Shim]),
];

/// What the container exits with when it is asked to.
const CODE: u32 = 7;
const KILLED: u32 = 137;

#[test]
fn whoever_is_killed_whenever_nothing_is_left_and_one_true_end_is_told() {
    require!(containers, busybox);
    let cells = CELLS.iter();
    let cells = cells.flat_map(|(phase, victims)| victims.iter().map(|victim| (*phase, *victim)));
    // That a command of theirs which is killed leaves something behind is shown by the tests of module `crash`; it dies with the shim.
    let is_caisson = peer::is("caisson");
    let calls = [Create, Start, Exec, Exit, Delete];
    let cells = cells.filter(|(phase, victim)| match victim {
        Runtime => is_caisson,
        Victim::Shim => is_caisson || !calls.contains(phase),
        // crun's start opens the fifo of an init that is gone, and waits for ever.
        Init => !(peer::is("crun") && *phase == Start),
        _ => true,
    });
    let only = std::env::var("ONLY").unwrap_or_default();
    let cells: Vec<_> = cells
        .filter(|(phase, victim)| format!("{phase:?}/{victim:?}").contains(&only))
        .collect();
    let (seed, rounds) = match std::env::var("SWEEP").as_deref() {
        Ok("every") => (0, 1200),
        Ok(number) => (number.parse().unwrap(), cells.len()),
        Err(_) => (
            RandomState::new().build_hasher().finish() % 1000,
            cells.len(),
        ),
    };
    announce(&format!("SWEEP={seed}"));
    let lasts = durations();
    let mut missed = 0;
    for number in 0..rounds {
        let (phase, victim) = cells[number % cells.len()];
        let mut hasher = DefaultHasher::new();
        (seed, number, phase, victim).hash(&mut hasher);
        let chance = hasher.finish();
        let lasts = lasts[phase as usize];
        let after = lasts.mul_f64((chance % 1000) as f64 / 1000.0);
        let round = Round {
            phase,
            victim,
            after,
            terminal: chance & 1 << 20 != 0,
        };
        let _told = Told(format!("round {number} of SWEEP={seed}: {round:?}"));
        if !round.play() {
            missed += 1;
        }
    }
    announce(&format!(
        "killed in {} of {rounds} rounds, else it was too late",
        rounds - missed
    ));
    assert!(
        missed * 3 < rounds,
        "{missed} of {rounds} rounds killed nobody"
    );
}

/// Says in which round a test failed.
struct Told(String);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            announce(&self.0);
        }
    }
}

/// How long each phase takes when nobody is killed.
fn durations() -> [Duration; 9] {
    let mut lasts = [Duration::ZERO; 9];
    let mut shim = Shim::prepared(bundle(false));
    let mut timed = |phase: Phase, shim: &mut Shim, does: &mut dyn FnMut(&mut Shim)| {
        let before = Instant::now();
        does(shim);
        lasts[phase as usize] = before.elapsed();
    };
    timed(Launch, &mut shim, &mut |shim| {
        shim.launch(Protocol::Bootstrap)
    });
    for phase in [Create, Start, Exec, Exit, Delete, Shutdown] {
        timed(phase, &mut shim, &mut |shim| {
            let call = begin(shim, phase);
            assert!(shim.wait_for(call), "{phase:?}");
        });
        if phase == Exec {
            shim.wait(shim.id(), "one").unwrap();
        }
    }
    assert!(shim.has_ended());
    lasts
}

#[derive(Debug)]
struct Round {
    phase: Phase,
    victim: Victim,
    /// The beginning of the phase.
    after: Duration,
    terminal: bool,
}

fn bundle(terminal: bool) -> Bundle {
    let mut bundle = Bundle::new();
    bundle
        .config
        .probe(&["pause", "7"])
        .set("/process/terminal", terminal);
    let script = "#!/bin/busybox sh\nexec 5>&-\nexec /bin/busybox cat <&3 >/dev/null\n";
    let logger = bundle.scratch.file("logger", script);
    fs::set_permissions(logger, fs::Permissions::from_mode(0o755)).unwrap();
    bundle
}

fn logger(shim: &Shim) -> String {
    format!("binary://{}", shim.bundle.scratch.name("logger"))
}

/// The call that is the phase.
fn begin(shim: &Shim, phase: Phase) -> JoinHandle<bool> {
    let id = shim.id().to_owned();
    let start = |exec: &str| StartRequest {
        id: id.clone(),
        exec_id: exec.into(),
        ..Default::default()
    };
    match phase {
        Create => {
            let mut request = shim.request(&id);
            request.terminal = shim.bundle.config.0["process"]["terminal"] == true;
            request.stdout = logger(shim);
            shim.begin(
                |client| async move { client.create(with_timeout(0), &request).await.is_ok() },
            )
        }
        Start => {
            let request = start("");
            shim.begin(
                |client| async move { client.start(with_timeout(0), &request).await.is_ok() },
            )
        }
        Exec => {
            let register = exec(shim, &id);
            let request = start("one");
            shim.begin(|client| async move {
                client.exec(with_timeout(0), &register).await.is_ok()
                    && client.start(with_timeout(0), &request).await.is_ok()
            })
        }
        Exit => {
            // It handles the signal from some moment on; what is sent before is lost.
            await_handler(shim);
            let request = KillRequest {
                id: id.clone(),
                signal: 15,
                ..Default::default()
            };
            let wait = shim::protos::task::WaitRequest {
                id: id.clone(),
                ..Default::default()
            };
            shim.begin(|client| async move {
                client.kill(with_timeout(0), &request).await.is_ok()
                    && client.wait(with_timeout(0), &wait).await.is_ok()
            })
        }
        Delete => {
            let request = DeleteRequest {
                id: id.clone(),
                ..Default::default()
            };
            shim.begin(
                |client| async move { client.delete(with_timeout(0), &request).await.is_ok() },
            )
        }
        Shutdown => {
            let request = ShutdownRequest {
                id: id.clone(),
                ..Default::default()
            };
            // The shim may be gone before it has answered.
            shim.begin(|client| async move {
                client.shutdown(with_timeout(0), &request).await.ok();
                true
            })
        }
        Launch | Created | Running => panic!("{phase:?} is no call"),
    }
}

/// What Exec is asked: a process that ends soon, with a logger of its own.
fn exec(shim: &Shim, id: &str) -> ExecProcessRequest {
    let mut process = shim.bundle.config.0["process"].clone();
    process["args"] = ["/bin/probe", "linger", "3"].into();
    ExecProcessRequest {
        id: id.to_owned(),
        exec_id: "one".into(),
        stdout: logger(shim),
        spec: protobuf::MessageField::some(protobuf::well_known_types::any::Any {
            value: process.to_string().into_bytes(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

impl Round {
    /// False if there was nobody to kill any more.
    #[track_caller]
    fn play(&self) -> bool {
        let mut shim = Shim::prepared(bundle(self.terminal));
        let id = shim.id().to_owned();
        if self.phase == Launch {
            shim.launch_in_vain(self.after, self.victim == Victim::Shim);
            shim.kill_daemon();
            shim.clean_up();
            return self.nothing_is_left(&shim, true);
        }
        shim.launch(Protocol::Bootstrap);
        note_address(&shim);
        for before in [Create, Start, Exit, Delete, Shutdown] {
            if before < self.phase {
                let call = begin(&shim, before);
                assert!(shim.wait_for(call), "{before:?}");
            }
        }
        let init = pid(&shim);
        let call = match self.phase {
            Created | Running => None,
            phase => Some(begin(&shim, phase)),
        };
        std::thread::park_timeout(self.after);
        let killed = self.kill(&mut shim, call.as_ref());
        if let Some(call) = call
            && self.victim != Client
        {
            self.end_of(call, &shim, killed);
        }
        let init = init.or_else(|| pid(&shim));
        self.recover(&mut shim, &id, init);
        self.nothing_is_left(&shim, killed)
    }

    /// A call whose container may never end by itself is given up by its client.
    fn end_of(&self, call: JoinHandle<bool>, shim: &Shim, killed: bool) {
        let lost = self.phase == Exit && self.victim == Runtime && killed;
        if lost {
            // The signal may not have been sent.
            call.abort();
        } else {
            shim.wait_for(call);
        }
    }

    /// Kills the victim, as soon as there is one while the call goes on.
    fn kill(&self, shim: &mut Shim, call: Option<&JoinHandle<bool>>) -> bool {
        let runtime = place::runtime().display().to_string();
        let logger = shim.bundle.scratch.name("logger");
        let child = |word: &str| {
            let children = shim.children();
            children
                .iter()
                .find(|(_, command)| command.contains(word))
                .map(|(pid, _)| *pid)
        };
        loop {
            let pid = match self.victim {
                Client => {
                    shim.kill_daemon();
                    return true;
                }
                Victim::Shim => Some(shim.pid),
                Runtime => child(&runtime),
                Logger => child(&logger).or_else(|| child("busybox cat")),
                Init => pid(shim),
            };
            if let Some(pid) = pid.filter(|pid| host::alive(*pid)) {
                shim.kill_process(pid);
                return true;
            }
            if call.is_none_or(JoinHandle::is_finished) {
                return false;
            }
            std::thread::yield_now();
        }
    }

    /// What containerd does next.
    #[track_caller]
    fn recover(&self, shim: &mut Shim, id: &str, init: Option<i32>) {
        if self.victim == Client && shim.restart_daemon() && self.phase == Shutdown {
            // It was not asked before, or it was.
            shim.shutdown();
        }
        let code = if self.phase == Shutdown {
            assert!(shim.has_ended(), "the shim goes on");
            shim.clean_up();
            None
        } else if self.victim == Victim::Shim {
            assert!(shim.has_ended());
            Some(self.code_of_delete(shim, init))
        } else {
            leave(shim, id)
        };
        let ends: Vec<String> = shim
            .events_so_far()
            .into_iter()
            .filter(|event| event.starts_with(&format!("exit {id} ")))
            .collect();
        assert!(ends.len() <= 1, "told more than once: {ends:?}");
        let told = ends
            .first()
            .and_then(|end| end.rsplit(' ').next()?.parse::<u32>().ok());
        match (told, code) {
            (Some(told), Some(code)) => assert_eq!(told, code),
            // The event was not on its way when the shim was killed: containerd makes one of what delete says.
            (None, Some(_)) => assert!(self.victim == Victim::Shim, "not told"),
            (_, None) => {}
        }
        let code = told.or(code);
        let possible: &[u32] = match (self.phase, self.victim) {
            (Delete | Shutdown, _) => &[CODE],
            (Exit, Init | Client | Victim::Shim | Runtime) => &[CODE, KILLED],
            (Exit, _) => &[CODE],
            _ => &[KILLED],
        };
        assert!(code.is_none_or(|code| possible.contains(&code)), "{code:?}");
    }

    /// If the shim has reaped the container's process, it is the code of that; if it could not know, that of a killed one.
    #[track_caller]
    fn code_of_delete(&self, shim: &Shim, init: Option<i32>) -> u32 {
        let was_alive = init.is_some_and(host::alive);
        // A zombie is either ours by now, or was the shim's to reap.
        if let Some(pid) = init.filter(|_| !was_alive) {
            await_(&|| !PathBuf::from(format!("/proc/{pid}")).exists());
        }
        let left_to_us = init.is_some_and(|pid| shim.left_to_us(pid));
        let ended = shim.clean_up();
        let reaped = init.is_some() && !left_to_us && !was_alive;
        if self.phase == Exit && reaped {
            assert_eq!(ended.exit_status, CODE, "the shim had reaped it");
        }
        ended.exit_status
    }

    /// Processes, mounts, groups, sockets, and of a runtime's state.
    #[track_caller]
    fn nothing_is_left(&self, shim: &Shim, killed: bool) -> bool {
        let id = shim.id();
        let root = shim.bundle.scratch.path().join("runtimes");
        let left = || {
            let mut left = host::traces(id, &root);
            let sockets = fs::read_dir(&shim.sockets).unwrap();
            left.extend(sockets.map(|entry| entry.unwrap().path().display().to_string()));
            left
        };
        await_(&|| left().is_empty());
        let left = left();
        if !left.is_empty() {
            host::clear(id);
        }
        assert!(left.is_empty(), "left behind: {left:#?}");
        killed
    }
}

/// As containerd notes it when `start` has answered.
fn note_address(shim: &Shim) {
    let noted = serde_json::json!({ "version": 3, "address": format!("unix://{}", shim.socket.display()), "protocol": "ttrpc" });
    place::write(
        &shim.directory(shim.id()).join("bootstrap.json"),
        noted.to_string(),
    );
}

fn pid(shim: &Shim) -> Option<i32> {
    let path: PathBuf = shim.directory(shim.id()).join("init.pid");
    fs::read_to_string(path).ok()?.parse().ok()
}

/// At most as long as everything may take.
fn await_(is_so: &dyn Fn() -> bool) {
    let end = Instant::now() + GONE;
    while !is_so() && Instant::now() < end {
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Waits until the container's process handles SIGTERM.
fn await_handler(shim: &Shim) {
    let pid = pid(shim).unwrap();
    let handles = || {
        // It waits for one, or works on one and blocks the others.
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        // crun's start is done before this is the container's program, and crun blocks signals, too.
        let is_probe = status.starts_with("Name:\tprobe\n");
        let blocked = status
            .lines()
            .find_map(|line| line.strip_prefix("SigBlk:\t"));
        let blocked = blocked.and_then(|mask| u64::from_str_radix(mask, 16).ok());
        let blocks = blocked.is_some_and(|mask| mask & 1 << 14 != 0);
        is_probe && (blocks || waiting::call(pid).as_deref() == Some("rt_sigtimedwait"))
    };
    await_(&handles);
}

/// Kill, Wait, Delete and Shutdown, as far as there is something. What was cut short may be asked for again. The exit code comes back.
#[track_caller]
fn leave(shim: &mut Shim, id: &str) -> Option<u32> {
    let mut code = None;
    // A Create that goes on without its client answers Delete.
    if shim
        .state(id, "")
        .is_ok_and(|state| state.status.value() != 3)
    {
        shim.kill(id, "", 9).ok();
        code = shim.wait(id, "").ok();
    }
    let deleted = shim.delete(id, "").or_else(|_| shim.delete(id, ""));
    let ended = match deleted {
        Ok((_, code)) => Some(code),
        Err((Code::NOT_FOUND, _)) => None,
        Err((code, text)) => panic!("delete: {code:?} {text}"),
    };
    assert!(code.is_none() || code == ended, "{code:?} {ended:?}");
    let left = || (shim.held(), shim.children());
    await_(&|| left() == Default::default());
    assert_eq!(left(), Default::default(), "the shim holds");
    shim.shutdown();
    assert!(shim.has_ended(), "the shim goes on");
    ended
}
