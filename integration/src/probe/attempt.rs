//! Tries something and says how it ended: `ok` or the name of the errno.

use crate::sys;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::process::Command;
use std::str::FromStr;

/// Every action and its outcome.
pub(super) fn all(actions: &[&str]) -> BTreeMap<String, String> {
    actions
        .iter()
        .map(|action| ((*action).to_owned(), one(action)))
        .collect()
}

/// One action and its outcome.
pub(super) fn one(action: &str) -> String {
    let (verb, argument) = action.split_once(':').unwrap_or((action, ""));
    let outcome = match verb {
        "read" => read(argument),
        "write" => OpenOptions::new().write(true).open(argument).map(drop),
        "create" => File::create_new(argument).and_then(|_| fs::remove_file(argument)),
        "mkdir" => fs::create_dir(argument).and_then(|()| fs::remove_dir(argument)),
        "bind" => argument
            .parse()
            .map_err(io::Error::other)
            .and_then(|port: u16| std::net::TcpListener::bind(("127.0.0.1", port)))
            .map(drop),
        "exec" => Command::new(argument).output().map(drop),
        "mknod" => make_node(argument),
        "syscall" => return system_call(argument, &[]),
        "hostname" => nix::unistd::sethostname(argument).map_err(io::Error::from),
        "mount" => mount(
            Some("try"),
            argument,
            Some("tmpfs"),
            MsFlags::empty(),
            None::<&str>,
        )
        .map_err(io::Error::from),
        "remount" => mount(
            None::<&str>,
            argument,
            None::<&str>,
            MsFlags::MS_REMOUNT | MsFlags::MS_BIND,
            None::<&str>,
        )
        .map_err(io::Error::from),
        _ => return format!("no such action: {action}"),
    };
    outcome.map_or_else(|error| name(&error), |()| "ok".to_owned())
}

/// Calls the kernel with these arguments and zeroes after them.
pub(super) fn system_call(name_or_number: &str, arguments: &[u64]) -> String {
    let number = match (
        name_or_number.parse::<i64>(),
        syscalls::Sysno::from_str(name_or_number),
    ) {
        (Ok(number), _) => number,
        (_, Ok(known)) => i64::from(known.id()),
        _ => return format!("no such system call: {name_or_number}"),
    };
    let mut padded = [0; 6];
    for (slot, argument) in padded.iter_mut().zip(arguments) {
        *slot = *argument;
    }
    sys::call(number, padded).map_or_else(|error| name(&error), |_| "ok".to_owned())
}

/// The name of an error's errno, or its text if it has none.
pub(super) fn name(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(
        || error.to_string(),
        |errno| format!("{:?}", Errno::from_raw(errno)),
    )
}

/// Opening is not enough: some files refuse the read.
fn read(path: &str) -> io::Result<()> {
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return fs::read_dir(path)?.try_for_each(|entry| entry.map(drop));
    }
    let mut byte = [0];
    io::Read::read(&mut &file, &mut byte).map(drop)
}

fn make_node(argument: &str) -> io::Result<()> {
    let mut words = argument.split(':');
    let path = words.next().unwrap_or_default();
    let mut number = || {
        words
            .next()
            .and_then(|word| word.parse().ok())
            .ok_or(io::Error::other("mknod:PATH:MAJOR:MINOR"))
    };
    let device = makedev(number()?, number()?);
    mknod(
        path,
        SFlag::S_IFCHR,
        Mode::from_bits_truncate(0o600),
        device,
    )?;
    fs::remove_file(path)
}
