//! Has what a shim under test depends on fail, hang, or take its time.

use super::Shim;
use super::actions::output;
use crate::place;
use crate::runtime::Lines;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::Ordering;
use std::time::Duration;

impl Shim {
    /// Has the runtime do something else, in a shell, for commands whose arguments match the pattern; `"$RUNTIME" "$@"` is the command itself.
    /// To be said before the shim is launched.
    #[track_caller]
    pub fn have_runtime(&mut self, pattern: &str, does: &str) {
        let runtime = place::runtime().display().to_string();
        let script = format!(
            "#!/bin/busybox sh\nRUNTIME={runtime}\ncase \" $* \" in {pattern}) {does} ;; esac\nexec $RUNTIME \"$@\"\n"
        );
        let program = self.bundle.scratch.file("runtime", script);
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
            .unwrap_or_else(|error| panic!("chmod {}: {error}", program.display()));
        self.options.binary_name = program.display().to_string();
    }

    /// The command that hangs, by `sleep 1000`.
    #[track_caller]
    pub fn hung(&self) -> i32 {
        for _ in 0..1000 {
            let children = self.children();
            let mut hung = children
                .iter()
                .filter(|(_, command)| command.contains("sleep 1000"));
            if let Some((pid, _)) = hung.next() {
                return *pid;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        panic!("no command hangs: {:?}", self.children());
    }

    /// What comes out of a fifo, also before the shim has opened it.
    #[track_caller]
    pub fn lines(&self, fifo: &str) -> Lines {
        output(fifo)
    }

    /// How long containerd takes for each event from now on, after it has noticed it.
    pub fn take_events_slowly(&self, each: Duration) {
        let milliseconds = u64::try_from(each.as_millis()).unwrap_or(u64::MAX);
        self.pace.slowness.store(milliseconds, Ordering::Relaxed);
    }

    /// How many events have been taken, not only noticed.
    pub fn taken(&self) -> u64 {
        self.pace.taken.load(Ordering::Relaxed)
    }
}
