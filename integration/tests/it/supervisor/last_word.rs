//! Several at once who stop, restart, start or remove a container: what the last one has asked for is what comes of it.

use std::path::PathBuf;

use integration::runtime::Running;
use integration::supervisor::Supervisor;
use integration::{host, require};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::cut_off::until;

/// Says which signals it gets, and ends when the test has it do so.
const SCRIPT: &str = "trap 'echo TERM' TERM; trap 'echo INT' INT; echo start; cat /gate/end & \
    while wait $!; [ $? -gt 128 ]; do :; done; exit 3";

struct Gated<'a> {
    supervisor: &'a Supervisor,
    name: String,
    end: PathBuf,
    log: Running,
}

impl<'a> Gated<'a> {
    #[track_caller]
    fn new(supervisor: &'a Supervisor, name: &str, flags: &[&str]) -> Self {
        let gate = supervisor.scratch.dir(&format!("gate-{name}"));
        let end = gate.join("end");
        mkfifo(&end, Mode::from_bits_truncate(0o600)).unwrap();
        let bind = format!("{}:/gate", gate.display());
        supervisor.detached(&[&["--name", name, "-v", &bind], flags].concat(), SCRIPT);
        let mut log = supervisor.start(&["logs", "-f", name]);
        assert_eq!(log.stdout.line(), "start");
        Self {
            supervisor,
            name: name.into(),
            end,
            log,
        }
    }

    /// A `stop` or a `restart` that has told it so, and waits for its end.
    #[track_caller]
    fn told(&mut self, verb: &str, signal: &str) -> Running {
        let told = [verb, "-s", signal, "-t", "1000", &self.name];
        let client = self.supervisor.start(&told);
        assert_eq!(self.log.stdout.line(), signal);
        client
    }

    fn end(&self) {
        host::set(&self.end, "\n");
    }

    fn status(&self) -> String {
        self.supervisor.field(&self.name, "{{.State.Status}}")
    }
}

#[test]
fn what_is_stopped_during_its_restart_stays_down() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    for (name, policy) in [("plain", "no"), ("kept", "unless-stopped")] {
        for verb in ["stop", "kill"] {
            let name = format!("{name}-{verb}");
            let mut container = Gated::new(&supervisor, &name, &["--restart", policy]);
            let restart = container.told("restart", "TERM");
            if verb == "kill" {
                supervisor.says(&["kill", &name]);
            } else {
                let stop = container.told("stop", "INT");
                container.end();
                stop.wait().success();
            }
            let text = format!("container {name} was stopped during its restart");
            restart.wait().failure().says(&text);
            assert_eq!(container.status(), "exited");
        }
    }
    // What goes with its end does.
    let mut container = Gated::new(&supervisor, "gone", &["--rm"]);
    let restart = container.told("restart", "TERM");
    let stop = container.told("stop", "INT");
    container.end();
    stop.wait().success();
    restart.wait().failure().says("no such container");
    supervisor.ctl(&["inspect", "gone"]).failure();
    let mut container = Gated::new(&supervisor, "removed", &[]);
    let restart = container.told("restart", "TERM");
    supervisor.says(&["rm", "-f", "removed"]);
    restart.wait().failure();
    supervisor.ctl(&["inspect", "removed"]).failure();
}

#[test]
fn what_is_restarted_or_started_after_all_runs() {
    require!(containers, busybox);
    let supervisor = Supervisor::new();
    for (name, flags) in [("plain", &[][..]), ("gone", &["--rm"])] {
        for verb in ["stop", "restart"] {
            let name = format!("{name}-{verb}");
            let mut container = Gated::new(&supervisor, &name, flags);
            let first = container.told(verb, "TERM");
            let last = container.told("restart", "INT");
            // It runs, and so this has nothing to do.
            supervisor.says(&["start", &name]);
            container.end();
            first.wait().success();
            last.wait().success();
            assert_eq!(container.status(), "running");
        }
    }
}

#[test]
fn who_asks_between_the_end_and_the_start_has_the_last_word_too() {
    require!(containers, busybox);
    for crash in [false, true] {
        let supervisor = Supervisor::new();
        let mut slow = Gated::new(&supervisor, "slow", &[]);
        let join = |name: &str, with: &str| {
            let with = format!("container:{with}");
            Gated::new(&supervisor, name, &["--network", &with])
        };
        let joined = ["stopped", "removed", "other"].map(|name| join(name, "slow"));
        let lonely = join("lonely", "removed");
        let slowly = slow.told("restart", "TERM");
        let rest = joined.into_iter().chain([lonely]).map(|mut container| {
            let restart = container.told("restart", "TERM");
            (container, restart)
        });
        let rest: Vec<_> = rest.collect();
        supervisor.crash();
        slowly.wait().failure();
        for (container, restart) in rest {
            container.end();
            restart.wait().failure();
        }
        // The next daemon finds that they have ended, and starts each when the one that it needs is there.
        let exited = ["ps", "-aq", "--filter", "status=exited"];
        until("they have not ended", || {
            supervisor.says(&exited).lines().count() == 4
        });
        supervisor.says(&["stop", "stopped"]);
        supervisor.says(&["rm", "removed"]);
        let error = || supervisor.field("lonely", "{{.State.Error}}");
        until("it waits for what is gone", || !error().is_empty());
        if crash {
            supervisor.crash();
        }
        slow.end();
        let status = |name: &str| supervisor.field(name, "{{.State.Status}}");
        until("it is not started", || status("other") == "running");
        assert_eq!(status("slow"), "running");
        assert_eq!(status("stopped"), "exited");
    }
}
