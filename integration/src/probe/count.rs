//! A program that counts, for tests that save and restore it: whoever goes on where it was has its memory, and what else it holds.

use super::say;
use nix::sys::signal::{SigSet, Signal};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::process::ExitCode;

/// Counts. The words say by way of what.
pub(super) fn count(by: &[&str]) -> io::Result<ExitCode> {
    match by {
        [] => count_by(Ok),
        ["by-network", lock] => by_network(lock),
        ["by-unlinked-file", file, name] => by_unlinked_file(file, name),
        ["to-socket", path] => {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path)?;
            count_by(|text| socket.send(text.as_bytes()).map(|_| text))
        }
        ["unless-connected"] => unless_connected(),
        _ => Err(io::Error::other("no such way to count")),
    }
}

/// Tells a number for each SIGUSR1. `by` is the way that it takes.
fn count_by(mut by: impl FnMut(String) -> io::Result<String>) -> io::Result<ExitCode> {
    let all = SigSet::all();
    all.thread_block()?;
    say("ready")?;
    let mut number = 0u64;
    loop {
        match all.wait()? {
            Signal::SIGTERM => return Ok(ExitCode::SUCCESS),
            Signal::SIGUSR1 => {
                number += 1;
                say(&by(format!("count {number}"))?)?;
            }
            _ => {}
        }
    }
}

/// By a connection to itself, while it holds a lock.
fn by_network(lock: &str) -> io::Result<ExitCode> {
    let lock = File::create_new(lock)?;
    lock.lock()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut here = TcpStream::connect(listener.local_addr()?)?;
    let (mut there, _) = listener.accept()?;
    drop(listener);
    count_by(|text| {
        here.write_all(text.as_bytes())?;
        let mut arrived = vec![0; text.len()];
        there.read_exact(&mut arrived)?;
        Ok(String::from_utf8_lossy(&arrived).into_owned())
    })
}

/// By a file that has lost the name that it was opened by, and has another one.
fn by_unlinked_file(path: &str, name: &str) -> io::Result<ExitCode> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).open(path)?;
    std::fs::hard_link(path, name)?;
    std::fs::remove_file(path)?;
    count_by(|text| {
        file.write_all_at(text.as_bytes(), 0)?;
        Ok(text)
    })
}

/// While it listens, with a connection that it has not accepted; if there is one, it says so.
fn unless_connected() -> io::Result<ExitCode> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    drop(TcpStream::connect(listener.local_addr()?)?);
    count_by(|text| match listener.accept() {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(text),
        accepted => accepted.map(|_| "connected".to_owned()),
    })
}
