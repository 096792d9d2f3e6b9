//! The system's own logs in place of a file: `--log journald:NAME` and `--log syslog:NAME`, which are crun's.
//!
//! Runs in the parent only, as the rest of the log. A record is one datagram, so records of several commands never mix. What a record looks
//! like there is the service's business: `--log-format` has no say in it.

use super::Level;
use crate::report::{Context, Result};
use std::os::unix::net::UnixDatagram;

/// Who keeps the log, and so how it is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// systemd-journald(8), in its native protocol.
    Journal,
    /// Whoever listens at /dev/log, as syslog(3) speaks to it.
    Syslog,
}

/// A service that records are sent to.
#[derive(Debug)]
pub(super) struct Service {
    socket: UnixDatagram,
    protocol: Protocol,
    /// What the records are found by.
    name: String,
}

impl Service {
    pub(super) fn open(protocol: Protocol, name: &str) -> Result<Service> {
        let path = match protocol {
            Protocol::Journal => "/run/systemd/journal/socket",
            Protocol::Syslog => "/dev/log",
        };
        Service::connect(protocol, name, path).context(|| format!("open log {path:?}"))
    }

    fn connect(protocol: Protocol, name: &str, path: &str) -> std::io::Result<Service> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        // A service that hangs must not keep the command from doing its work.
        socket.set_nonblocking(true)?;
        Ok(Service {
            socket,
            protocol,
            name: name.to_owned(),
        })
    }

    pub(super) fn write(&self, level: Level, text: &str) -> std::io::Result<()> {
        let record = match self.protocol {
            Protocol::Journal => journal(&self.name, level, text),
            Protocol::Syslog => syslog(&self.name, level, text),
        };
        self.socket.send(&record).map(drop)
    }
}

/// The numbers of syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warning => 4,
        Level::Debug => 7,
    }
}

/// Fields as <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/> has them: a value that may have several lines comes with its length.
fn journal(name: &str, level: Level, text: &str) -> Vec<u8> {
    let mut record = format!("PRIORITY={}\n", priority(level)).into_bytes();
    for (field, value) in [("SYSLOG_IDENTIFIER", name), ("MESSAGE", text)] {
        record.extend(field.as_bytes());
        record.push(b'\n');
        record.extend((value.len() as u64).to_le_bytes());
        record.extend(value.as_bytes());
        record.push(b'\n');
    }
    record
}

/// RFC 3164 without the time, which the receiver knows, and the facility of user programs.
fn syslog(name: &str, level: Level, text: &str) -> Vec<u8> {
    const USER: u8 = 1 << 3;
    let priority = USER | priority(level);
    format!("<{priority}>{name}[{}]: {text}", nix::unistd::getpid()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_the_journal_may_have_several_lines() {
        let record = journal("web", Level::Error, "one\ntwo");
        let expected = b"PRIORITY=3\nSYSLOG_IDENTIFIER\n\x03\0\0\0\0\0\0\0web\nMESSAGE\n\x07\0\0\0\0\0\0\0one\ntwo\n";
        assert_eq!(record, expected);
    }

    #[test]
    fn a_record_reaches_who_listens_as_one_datagram() {
        let path = std::env::temp_dir().join(format!("caisson-syslog-{}", nix::unistd::getpid()));
        let listener = UnixDatagram::bind(&path).unwrap();
        let service = Service::connect(Protocol::Syslog, "web", path.to_str().unwrap()).unwrap();
        std::fs::remove_file(path).unwrap();
        service.write(Level::Warning, "text, ignoring").unwrap();
        let mut buffer = [0; 100];
        let length = listener.recv(&mut buffer).unwrap();
        let expected = format!("<12>web[{}]: text, ignoring", nix::unistd::getpid());
        assert_eq!(buffer[..length], *expected.as_bytes());
    }
}
