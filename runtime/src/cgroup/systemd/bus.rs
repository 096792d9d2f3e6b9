//! A connection to systemd's manager: one thread, one call after the other, and a limit in time for the whole.
//!
//! The manager's own socket comes first. It is there without a bus daemon, and what is sent to it has no way around. Where it is out of
//! reach it is the bus. Both speak D-Bus; only a bus wants to be greeted and to be told which signals to pass on.
//!
//! No library does this in the little space that the runtime has: see the table of its limits in the README.

use super::message::{self, Call, Meaning, Message, Reader};
use crate::plan::variant::Value;
use crate::report::{Context, Error, Kind, Result};
use crate::sys::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, setsockopt, socket,
    sockopt::{ReceiveTimeout, SendTimeout},
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// What systemd may take for all that is asked of it. On a busy machine, jobs wait for each other.
const PATIENCE: Duration = Duration::from_secs(30);

const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";

/// An open connection.
#[derive(Debug)]
pub(in crate::cgroup) struct Bus {
    socket: OwnedFd,
    /// What was received and not yet used.
    received: Vec<u8>,
    serial: u32,
    deadline: Instant,
    /// Jobs that ended, with their results, for whoever asks after the call that made them.
    ended: Vec<(String, String)>,
}

/// What systemd says to a call.
#[derive(Debug)]
pub(super) enum Answer {
    Reply(Reader),
    /// It will not: the name of the error, and a sentence.
    Refusal {
        name: String,
        text: String,
    },
}

/// Where to connect.
#[derive(Debug, PartialEq, Eq)]
struct Address {
    path: String,
    /// In the abstract namespace, not in the file system.
    is_abstract: bool,
    is_bus: bool,
}

impl Bus {
    /// Connects to the manager of the system or of the user. Kind::Unsupported: it is out of reach.
    pub(super) fn connect(user: bool) -> Result<Bus> {
        let variable = |name| std::env::var(name).unwrap_or_default();
        let addresses = if user {
            user_addresses(
                &variable("XDG_RUNTIME_DIR"),
                &variable("DBUS_SESSION_BUS_ADDRESS"),
            )
        } else {
            vec![
                Address::file("/run/systemd/private", false),
                Address::file("/run/dbus/system_bus_socket", true),
            ]
        };
        let whose = if user { "user's" } else { "system's" };
        let mut refusal = None;
        for address in addresses {
            match Bus::open(&address) {
                Ok(bus) => return Ok(bus),
                // The first is the one that should have worked.
                Err(error) => drop(refusal.get_or_insert(error)),
            }
        }
        let error = refusal.unwrap_or_else(|| {
            Error::new(
                Kind::Unsupported,
                "neither XDG_RUNTIME_DIR nor DBUS_SESSION_BUS_ADDRESS is set",
            )
        });
        Err(error
            .context(format!("connect to the {whose} systemd"))
            .with_kind(Kind::Unsupported))
    }

    fn open(address: &Address) -> Result<Bus> {
        let story = || address.path.clone();
        let socket = socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .context(story)?;
        let patience = TimeVal::seconds(PATIENCE.as_secs() as i64);
        setsockopt(&socket, SendTimeout, &patience).context(story)?;
        setsockopt(&socket, ReceiveTimeout, &patience).context(story)?;
        let place = if address.is_abstract {
            UnixAddr::new_abstract(address.path.as_bytes())
        } else {
            UnixAddr::new(address.path.as_str())
        };
        connect(socket.as_raw_fd(), &place.context(story)?).context(story)?;
        let mut bus = Bus {
            socket,
            received: Vec::new(),
            serial: 0,
            deadline: Instant::now() + PATIENCE,
            ended: Vec::new(),
        };
        bus.authenticate().context(story)?;
        if address.is_bus {
            bus.greet()?;
        }
        Ok(bus)
    }

    /// Who we are is what the kernel says of the socket. No user id is sent: in a user namespace it would be another than the one that
    /// the other side sees.
    fn authenticate(&mut self) -> Result<()> {
        self.send(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
        loop {
            let line = loop {
                if let Some(end) = self.received.windows(2).position(|w| w == b"\r\n") {
                    break self.received.drain(..end + 2).collect::<Vec<u8>>();
                }
                self.receive()?;
            };
            if line.starts_with(b"OK") {
                return Ok(());
            }
            if !line.starts_with(b"DATA") {
                let line = String::from_utf8_lossy(&line);
                let story = format!("authentication: '{}'", line.trim_end());
                return Err(Error::new(Kind::System, story));
            }
        }
    }

    /// A bus gives a name, and passes on only what was asked for.
    fn greet(&mut self) -> Result<()> {
        let rule = format!("type='signal',interface='{MANAGER}',member='JobRemoved'");
        let calls: [(&str, &[Value]); 2] = [("Hello", &[]), ("AddMatch", &[Value::text(rule)])];
        for (member, arguments) in calls {
            let call = Call {
                destination: "org.freedesktop.DBus",
                path: "/org/freedesktop/DBus",
                interface: "org.freedesktop.DBus",
                member,
                arguments,
            };
            if let Answer::Refusal { name, text } = self.call(&call)? {
                return Err(refused(member, &name, &text));
            }
        }
        Ok(())
    }

    /// Calls a method of the manager.
    pub(super) fn manager(&mut self, member: &str, arguments: &[Value]) -> Result<Answer> {
        self.call(&Call {
            destination: "org.freedesktop.systemd1",
            path: MANAGER_PATH,
            interface: MANAGER,
            member,
            arguments,
        })
    }

    /// Where the manager has its groups in the hierarchy, without `/` at either end.
    pub(super) fn control_group(&mut self) -> Result<String> {
        self.group_of(MANAGER_PATH, MANAGER)
    }

    /// The same of a scope or slice that is loaded; empty if it has none. None: there is no such unit.
    pub(super) fn unit_group(&mut self, unit: &str) -> Result<Option<String>> {
        let path = match self.manager("GetUnit", &[Value::text(unit)])? {
            Answer::Reply(mut path) => path.text().ok_or_else(malformed)?,
            Answer::Refusal { name, .. } if name == super::NO_SUCH_UNIT => return Ok(None),
            Answer::Refusal { name, text } => {
                return Err(refused(&format!("to find unit '{unit}'"), &name, &text));
            }
        };
        let kind = if unit.ends_with(".slice") {
            "org.freedesktop.systemd1.Slice"
        } else {
            "org.freedesktop.systemd1.Scope"
        };
        self.group_of(&path, kind).map(Some)
    }

    fn group_of(&mut self, path: &str, interface: &str) -> Result<String> {
        let call = Call {
            destination: "org.freedesktop.systemd1",
            path,
            interface: "org.freedesktop.DBus.Properties",
            member: "Get",
            arguments: &[Value::text(interface), Value::text("ControlGroup")],
        };
        match self.call(&call)? {
            Answer::Reply(mut body) => match body.text_variant() {
                Some(path) => Ok(path.trim_matches('/').to_owned()),
                None => Err(malformed()),
            },
            Answer::Refusal { name, text } => Err(refused("Get ControlGroup", &name, &text)),
        }
    }

    /// Waits until a job has ended, and returns its result: `done`, if all went well.
    pub(super) fn job_result(&mut self, job: &str) -> Result<String> {
        loop {
            if let Some(at) = self.ended.iter().position(|(ended, _)| ended == job) {
                return Ok(self.ended.swap_remove(at).1);
            }
            let message = self.message()?;
            self.note(message);
        }
    }

    fn call(&mut self, call: &Call<'_>) -> Result<Answer> {
        self.serial += 1;
        let ours = self.serial;
        self.send(&call.encode(ours))?;
        loop {
            match self.message()? {
                Meaning::Reply { serial, body } if serial == ours => {
                    return Ok(Answer::Reply(body));
                }
                Meaning::Refusal { serial, name, text } if serial == ours => {
                    return Ok(Answer::Refusal { name, text });
                }
                other => self.note(other),
            }
        }
    }

    fn note(&mut self, message: Meaning) {
        if let Meaning::Signal {
            interface,
            member,
            mut body,
        } = message
            && interface == MANAGER
            && member == "JobRemoved"
        {
            let removed = (|| {
                body.u32()?;
                let job = body.text()?;
                body.text()?;
                Some((job, body.text()?))
            })();
            self.ended.extend(removed);
        }
    }

    fn message(&mut self) -> Result<Meaning> {
        loop {
            if let Some(start) = self.received.first_chunk() {
                let length = message::length(start).ok_or_else(malformed)?;
                if self.received.len() >= length {
                    let bytes = self.received.drain(..length).collect();
                    return Message::decode(bytes)
                        .map(Message::meaning)
                        .ok_or_else(malformed);
                }
            }
            self.receive()?;
        }
    }

    fn receive(&mut self) -> Result<()> {
        let mut buf = [0; 4096];
        if Instant::now() > self.deadline {
            return Err(Error::os("hear from systemd", Errno::ETIMEDOUT));
        }
        match recv(self.socket.as_raw_fd(), &mut buf, MsgFlags::empty()) {
            Ok(0) => Err(Error::os("hear from systemd", Errno::ECONNRESET)),
            Ok(count) => {
                self.received.extend_from_slice(&buf[..count]);
                Ok(())
            }
            Err(Errno::EINTR) => Ok(()),
            Err(Errno::EAGAIN) => Err(Error::os("hear from systemd", Errno::ETIMEDOUT)),
            Err(errno) => Err(Error::os("hear from systemd", errno)),
        }
    }

    fn send(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match send(self.socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    return Err(Error::os("talk to systemd", Errno::ETIMEDOUT));
                }
                Err(errno) => return Err(Error::os("talk to systemd", errno)),
            }
        }
        Ok(())
    }
}

impl Address {
    fn file(path: impl Into<String>, is_bus: bool) -> Address {
        Address {
            path: path.into(),
            is_abstract: false,
            is_bus,
        }
    }
}

/// What systemd said no to. The names of D-Bus errors are for programs, the sentences for people.
pub(super) fn refused(what: &str, name: &str, text: &str) -> Error {
    let story = format!("systemd refuses {what}: {text} ({name})");
    Error::new(Kind::System, story)
}

pub(super) fn malformed() -> Error {
    Error::os("understand what systemd says", Errno::EBADMSG)
}

fn user_addresses(runtime_dir: &str, bus: &str) -> Vec<Address> {
    let mut addresses = Vec::new();
    if !runtime_dir.is_empty() {
        addresses.push(Address::file(
            format!("{runtime_dir}/systemd/private"),
            false,
        ));
    }
    addresses.extend(bus.split(';').filter_map(bus_address));
    if !runtime_dir.is_empty() {
        addresses.push(Address::file(format!("{runtime_dir}/bus"), true));
    }
    addresses
}

/// `unix:path=/run/user/1000/bus,guid=...`; other transports are for other machines.
fn bus_address(text: &str) -> Option<Address> {
    let mut pairs = text.trim().strip_prefix("unix:")?.split(',');
    pairs.find_map(|pair| match pair.split_once('=')? {
        ("path", path) => Some(Address::file(unescaped(path)?, true)),
        ("abstract", name) => Some(Address {
            path: unescaped(name)?,
            is_abstract: true,
            is_bus: true,
        }),
        _ => None,
    })
}

fn unescaped(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend(part[2..].bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_manager_comes_before_his_bus() {
        let found = user_addresses(
            "/run/user/7",
            "tcp:host=a;unix:abstract=/tmp/x%2dy,guid=1;unix:path=/b%20us",
        );
        let expected = [
            Address::file("/run/user/7/systemd/private", false),
            Address {
                path: "/tmp/x-y".to_owned(),
                is_abstract: true,
                is_bus: true,
            },
            Address::file("/b us", true),
            Address::file("/run/user/7/bus", true),
        ];
        assert_eq!(found, expected);
        assert_eq!(user_addresses("", ""), []);
        assert_eq!(bus_address("unix:path=%zz"), None);
    }
}
