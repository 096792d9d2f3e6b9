//! Verbs that use up something: CPU, memory, processes, disk.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use nix::time::{ClockId, clock_gettime};
use std::fs::OpenOptions;
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

/// What direct transfers move at a time, aligned as any block device wants it.
#[repr(align(4096))]
struct Block([u8; 65536]);

/// Fills its standard output, a pipe, and all that takes from it: none of what it has written waits in itself.
pub(super) fn glut() -> io::Result<()> {
    // A pipe takes it whole, or not at all.
    const BLOCK: [u8; 4096] = [b'.'; 4096];
    let stdout = io::stdout();
    fcntl(&stdout, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let mut written = 0;
    loop {
        match nix::unistd::write(&stdout, &BLOCK) {
            Ok(length) => written += length,
            Err(Errno::EAGAIN) => {
                let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)];
                if poll(&mut fds, 1000_u16)? == 0 {
                    return writeln!(io::stderr(), "{written}");
                }
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Uses one CPU until something ends the process.
pub(super) fn spin() -> ! {
    let mut n = 0u64;
    loop {
        n = black_box(n.wrapping_add(1));
    }
}

/// Uses that much CPU time, by the process's own clock, between two lines.
pub(super) fn burn(milliseconds: u64) -> io::Result<()> {
    let used = || clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from);
    super::say("begin")?;
    let end = used()? + Duration::from_millis(milliseconds);
    let mut n = 0u64;
    while used()? < end {
        for _ in 0..10_000 {
            n = black_box(n.wrapping_add(1));
        }
    }
    super::say("done")
}

/// Writes to an existing file or device with O_DIRECT, so that each write is one that the device has to take now.
pub(super) fn write_direct(file: &str, bytes: u64) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(file)?;
    let block = Box::new(Block([0x5a; 65536]));
    super::say("begin")?;
    for _ in 0..bytes / block.0.len() as u64 {
        file.write_all(&block.0)?;
    }
    super::say("done")
}

/// Reads from a file or device with O_DIRECT.
pub(super) fn read_direct(file: &str, bytes: u64) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(file)?;
    let mut block = Box::new(Block([0; 65536]));
    super::say("begin")?;
    for _ in 0..bytes / block.0.len() as u64 {
        file.read_exact(&mut block.0)?;
    }
    super::say("done")
}

/// Memory of that size with every page written, so that it is charged.
pub(super) fn eat(mib: usize) -> Vec<u8> {
    let mut memory = vec![0u8; mib << 20];
    for page in memory.chunks_mut(4096) {
        page[0] = 1;
    }
    black_box(memory)
}

/// Starts copies of `pause` until one cannot be started; prints `N ok` or `N errno-text`.
pub(super) fn fork(count: u64) -> io::Result<()> {
    let program = std::env::args_os()
        .next()
        .unwrap_or_else(|| "/bin/probe".into());
    let mut children = Vec::new();
    let mut outcome = "ok".to_owned();
    for _ in 0..count {
        match Command::new(&program)
            .arg("pause")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
        {
            Ok(child) => children.push(child),
            Err(error) => {
                outcome = super::attempt::name(&error);
                break;
            }
        }
    }
    super::say(&format!("{} {outcome}", children.len()))?;
    for mut child in children {
        child.kill()?;
        child.wait()?;
    }
    Ok(())
}

/// Writes `bytes` zeroes and syncs, so that a limit on writing is felt before this returns.
pub(super) fn write_file(file: &str, bytes: u64) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .open(file)?;
    let block = [0u8; 65536];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(block.len() as u64);
        file.write_all(&block[..now as usize])?;
        left -= now;
    }
    file.sync_all()
}
