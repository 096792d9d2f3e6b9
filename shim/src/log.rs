//! The shim's log: lines as logrus has them, into the fifo `log` of the bundle, which containerd copies to its own log.
//!
//! Never blocks and never fails: while containerd is away nobody reads the fifo; what does not fit into it is lost. Standard error is
//! that fifo in the serving shim (see `serve`), and containerd's buffer in the other commands, so they do not log.

use std::fmt::Write;
use std::sync::OnceLock;
use std::time::SystemTime;

use crate::timestamp;

/// What every line says about its shim.
#[derive(Debug)]
struct Identity {
    id: String,
    namespace: String,
    debug: bool,
}

static IDENTITY: OnceLock<Identity> = OnceLock::new();

/// Without this call nothing is logged.
pub(crate) fn open(namespace: &str, id: &str, debug: bool) {
    // A second call changes nothing.
    IDENTITY
        .set(Identity {
            id: id.to_owned(),
            namespace: namespace.to_owned(),
            debug,
        })
        .ok();
}

pub(crate) fn warn(message: &str) {
    line("warning", message);
}

pub(crate) fn info(message: &str) {
    line("info", message);
}

pub(crate) fn debug(message: &str) {
    if IDENTITY.get().is_some_and(|identity| identity.debug) {
        line("debug", message);
    }
}

fn line(level: &str, message: &str) {
    let Some(identity) = IDENTITY.get() else {
        return;
    };
    let mut line = format!(
        "time=\"{}\" level={level} msg={message:?} runtime=io.containerd.caisson.v2",
        timestamp::text(SystemTime::now())
    );
    // Writing to a string cannot fail.
    writeln!(line, " id={} namespace={}", identity.id, identity.namespace).ok();
    // A full fifo or one without a reader loses the line, by intention.
    nix::unistd::write(std::io::stderr(), line.as_bytes()).ok();
}
