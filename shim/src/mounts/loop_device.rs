//! Files that are mounted by way of a loop device.

use std::fs::{File, OpenOptions};
use std::io::Result;
use std::os::fd::AsFd;
use std::path::PathBuf;

use crate::sys::mount::{configure_loop, free_loop_device};

/// How often another device is looked for, as somebody else was faster.
const TRIES: usize = 100;

/// A device that shows the file. It goes with the last that uses it: the mount, or this handle.
pub(super) fn attach(file: &str, read_only: bool) -> Result<(PathBuf, File)> {
    let open = |path: &str| OpenOptions::new().read(true).write(!read_only).open(path);
    let file = open(file)?;
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/loop-control")?;
    let mut tries = 0;
    loop {
        tries += 1;
        let path = format!("/dev/loop{}", free_loop_device(control.as_fd())?);
        let device = open(&path)?;
        match configure_loop(device.as_fd(), file.as_fd(), read_only) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && tries < TRIES => {}
            configured => return configured.map(|()| (path.into(), device)),
        }
    }
}
