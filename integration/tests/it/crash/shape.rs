//! What the containers are like whose commands are killed.

use integration::console::ConsoleSocket;
use integration::{Bundle, place};
use serde_json::json;
use std::cell::RefCell;
use std::fs;

/// A kind of container.
pub(super) struct Shape {
    pub(super) name: &'static str,
    change: fn(&mut Bundle),
    /// It has no cgroup, or processes outside of it, as hooks are.
    pub(super) is_unknown_to_delete: bool,
    has_terminal: bool,
    socket: RefCell<Option<ConsoleSocket>>,
}

impl Shape {
    fn new(name: &'static str, change: fn(&mut Bundle)) -> Shape {
        Shape {
            name,
            change,
            is_unknown_to_delete: false,
            has_terminal: false,
            socket: RefCell::default(),
        }
    }

    /// A bundle for such containers, whose process runs until it is killed.
    pub(super) fn bundle(&self) -> Bundle {
        let mut bundle = Bundle::new();
        bundle.config.probe(&["pause"]);
        (self.change)(&mut bundle);
        self.renew(&bundle);
        bundle.save();
        bundle
    }

    /// The flags of `create` and `run --detach`.
    pub(super) fn flags(&self, bundle: &Bundle) -> Vec<String> {
        let mut flags = vec!["--pid-file".to_owned(), bundle.scratch.name("pid")];
        if self.has_terminal {
            flags.extend(["--console-socket".to_owned(), bundle.scratch.name("tty")]);
        }
        flags
    }

    /// The command line of `create` or `run --detach`.
    pub(super) fn making(&self, bundle: &Bundle, verb: &[&str]) -> Vec<String> {
        let mut words: Vec<String> = verb.iter().map(|word| (*word).to_owned()).collect();
        words.extend(self.flags(bundle));
        words.extend([
            "--bundle".to_owned(),
            bundle.scratch.name("bundle"),
            "ID".to_owned(),
        ]);
        words
    }

    /// A console socket that no terminals wait in which nobody takes: it takes so many of them only.
    pub(super) fn renew(&self, bundle: &Bundle) {
        if self.has_terminal {
            let path = bundle.scratch.path().join("tty");
            fs::remove_file(&path).ok(); // The first time there is none.
            *self.socket.borrow_mut() = Some(ConsoleSocket::listen(path));
        }
    }
}

/// Nothing special.
pub(super) fn plain() -> Shape {
    Shape::new("plain", |_| {})
}

/// All kinds of hooks.
pub(super) fn hooks() -> Shape {
    let shape = Shape::new("hooks", |bundle| {
        for kind in [
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "poststart",
            "poststop",
        ] {
            let path = match kind {
                "startContainer" => "/bin/probe".into(),
                _ => place::probe(),
            };
            let hook = json!({ "path": path, "args": ["probe", "exit", "0"] });
            bundle.config.push(&format!("/hooks/{kind}"), hook);
        }
    });
    Shape {
        is_unknown_to_delete: true,
        ..shape
    }
}

/// A user namespace, and an unprivileged user in it.
pub(super) fn user_namespace() -> Shape {
    Shape::new("user namespace", |bundle| {
        bundle
            .config
            .user_namespace(100_000, 65536)
            .set("/process/user/uid", 1000);
    })
}

/// One process more between the command and the container's.
pub(super) fn stage() -> Shape {
    Shape::new("stage", |bundle| {
        bundle.config.namespace("time").set(
            "/linux/timeOffsets",
            json!({ "boottime": { "secs": 1000, "nanosecs": 0 } }),
        );
    })
}

/// The same where nothing but the process itself leads to it.
pub(super) fn stage_without_cgroup() -> Shape {
    Shape {
        is_unknown_to_delete: true,
        ..Shape::new("stage without cgroup", |bundle| {
            (stage().change)(bundle);
            disable_cgroups(bundle);
        })
    }
}

/// A terminal, which goes to a console socket.
pub(super) fn terminal() -> Shape {
    Shape {
        has_terminal: true,
        ..Shape::new("terminal", |bundle| {
            bundle.config.set("/process/terminal", true);
        })
    }
}

/// A root that is an overlay.
pub(super) fn overlay() -> Shape {
    Shape::new("overlay", |bundle| {
        let base = bundle.scratch.path().join("base");
        fs::rename(bundle.rootfs(), &base).unwrap();
        fs::create_dir(bundle.rootfs()).unwrap();
        let (upper, work) = (bundle.scratch.dir("upper"), bundle.scratch.dir("work"));
        for (name, path) in [("lower", base), ("upper", upper), ("work", work)] {
            let name = format!("/annotations/dev.caisson.overlay.{name}");
            bundle.config.set(&name, path.to_str().unwrap());
        }
    })
}

/// No cgroup, and an unprivileged user: such a process dies with its parent only as long as somebody sees to that.
pub(super) fn without_cgroup() -> Shape {
    Shape {
        is_unknown_to_delete: true,
        ..Shape::new("without cgroup", |bundle| {
            disable_cgroups(bundle);
            bundle.config.set("/process/user/uid", 1000);
        })
    }
}

fn disable_cgroups(bundle: &mut Bundle) {
    bundle.runtime = bundle.runtime.with(&["--cgroup-manager", "disabled"]);
    bundle
        .config
        .unmount("/sys/fs/cgroup")
        .remove("/linux/resources");
}

/// A test for each of these shapes, in a module of this name: it calls a function with the shape. Peers may fail them.
macro_rules! each_shape {
    ($module:ident, $test:path, $fault:literal, [$($shape:ident),+]) => {
        mod $module {
            use super::super::shape;
            use integration::{beyond, require};
            $(#[test]
            fn $shape() {
                require!(containers, userns, namespace("time"));
                beyond!($shape, [runc_race($fault), crun_race($fault)]);
                $test(&shape::$shape());
            })+
        }
    };
}
pub(super) use each_shape;
