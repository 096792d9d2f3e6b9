//! A disk whose power can be cut: a target of the device mapper over another disk, all of whose writes are dropped from some moment on.
//!
//! What the other disk has then is what it had at that moment: everything that the kernel had handed to it, and nothing of what was in memory.
//! A write cache of the disk's own is not simulated.

use crate::sys::{self, DM_IOCTL};
use nix::mount::{MsFlags, mount, umount};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const DEV_CREATE: u8 = 3;
const DEV_REMOVE: u8 = 4;
const DEV_SUSPEND: u8 = 6;
const TABLE_LOAD: u8 = 9;
const SUSPEND: u32 = 1 << 1;
/// The file system is not to write anything down before.
const SKIP_LOCKFS: u32 = 1 << 10;

/// Gone with its end; the disk below stays.
#[derive(Debug)]
pub struct Disk {
    control: File,
    name: String,
    below: PathBuf,
    sectors: u64,
    /// Its file in /dev.
    pub path: PathBuf,
}

impl Disk {
    /// Over another one, which it is like until its power is cut.
    #[track_caller]
    pub fn new(below: &Path) -> Disk {
        let below = below
            .canonicalize()
            .unwrap_or_else(|error| panic!("{}: {error}", below.display()));
        let name = below.file_name().unwrap_or_default().to_string_lossy();
        let sectors = fs::read_to_string(format!("/sys/class/block/{name}/size"));
        let sectors = sectors.ok().and_then(|text| text.trim().parse().ok());
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/mapper/control");
        let mut disk = Disk {
            control: control.unwrap_or_else(|error| panic!("/dev/mapper/control: {error}")),
            name: crate::place::unique("disk"),
            sectors: sectors.expect("the size of the disk below"),
            below,
            path: PathBuf::new(),
        };
        let made = disk.call(DEV_CREATE, 0, None).expect("make a device");
        let device = made.get(40).copied().unwrap_or_default();
        // Of the structure's device number, the lowest byte is the minor, as long as there are few.
        disk.path = format!("/dev/dm-{device}").into();
        disk.mend();
        disk
    }

    /// From now on nothing reaches the disk.
    #[track_caller]
    pub fn cut(&self) {
        let table = format!("{} 0 0 3600 1 drop_writes", self.below.display());
        self.become_("flakey", &table);
    }

    /// What is written reaches it again.
    #[track_caller]
    pub fn mend(&self) {
        self.become_("linear", &format!("{} 0", self.below.display()));
    }

    #[track_caller]
    fn become_(&self, target: &str, parameters: &str) {
        let mut table = self.sectors.to_ne_bytes().to_vec();
        table.splice(0..0, 0_u64.to_ne_bytes());
        // A status, and where the next target is: there is none.
        table.extend([0; 8]);
        table.extend(target.bytes());
        table.resize(40, 0);
        table.extend(parameters.bytes());
        table.resize((table.len() + 1).next_multiple_of(8), 0);
        self.call(TABLE_LOAD, 0, Some(&table))
            .unwrap_or_else(|error| panic!("{target} {parameters}: {error}"));
        self.call(DEV_SUSPEND, SUSPEND | SKIP_LOCKFS, None)
            .expect("suspend the device");
        self.call(DEV_SUSPEND, 0, None).expect("resume the device");
    }

    fn call(&self, command: u8, flags: u32, target: Option<&[u8]>) -> io::Result<Vec<u8>> {
        let mut request = vec![0; DM_IOCTL];
        request.extend(target.unwrap_or_default());
        let size = request.len() as u32;
        let fields = [
            4,
            0,
            0,
            size,
            DM_IOCTL as u32,
            target.is_some().into(),
            0,
            flags,
        ];
        for (place, field) in request.chunks_exact_mut(4).zip(fields) {
            place.copy_from_slice(&field.to_ne_bytes());
        }
        request[48..48 + self.name.len()].copy_from_slice(self.name.as_bytes());
        sys::device_mapper(self.control.as_fd(), command, &mut request)?;
        Ok(request)
    }

    /// With a new file system of this type there.
    #[track_caller]
    pub fn format(&self, kind: &str) {
        let mut command = std::process::Command::new(format!("mkfs.{kind}"));
        command.arg("-q").arg(&self.path);
        crate::runtime::finish(command).success();
    }

    #[track_caller]
    pub fn mount(&self, kind: &str, options: &str, place: &Path) {
        let none = MsFlags::empty();
        mount(Some(&self.path), place, Some(kind), none, Some(options))
            .unwrap_or_else(|errno| panic!("mount {} ({options}): {errno}", self.path.display()));
    }

    /// Until nothing of it is in memory any more: mounts of containers that have been killed go a moment later than they.
    #[track_caller]
    pub fn unmount(&self, place: &Path) {
        umount(place).unwrap_or_else(|errno| panic!("umount {}: {errno}", place.display()));
        let end = Instant::now() + Duration::from_secs(60);
        let mut alone = OpenOptions::new();
        alone.read(true).custom_flags(libc::O_EXCL);
        while let Err(error) = alone.open(&self.path) {
            assert!(
                Instant::now() < end,
                "{} is in use: {error}",
                self.path.display()
            );
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let removed = self.call(DEV_REMOVE, 0, None);
        if !std::thread::panicking() {
            removed.unwrap_or_else(|error| panic!("remove {}: {error}", self.name));
        }
    }
}
