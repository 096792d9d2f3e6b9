//! Verbs that use up something: CPU, memory, processes, disk.

use std::fs::OpenOptions;
use std::hint::black_box;
use std::io::{self, Write};
use std::process::{Command, Stdio};

/// Uses one CPU until something ends the process.
pub(super) fn spin() -> ! {
    let mut n = 0u64;
    loop {
        n = black_box(n.wrapping_add(1));
    }
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
