//! Network devices that come into a container's network namespace, with their addresses, and back if it is not to be; and the loopback of
//! a container that CRIU restores.
//!
//! Runs in the runtime command, while init waits for the answer to its request. The protocol is in [`netlink`]; which devices are
//! meant was decided by the plan. When a container ends, its namespace does: the kernel gives physical devices to the initial network
//! namespace then and removes virtual ones.

mod netlink;

use crate::plan::net_devices::NetDevice;
use crate::report::{Context, Error, Result};
use crate::sys::Errno;
use crate::sys::process::setns;
use netlink::Netlink;
use std::fs::File;

const OWN: &str = "/proc/self/ns/net";

/// A network namespace, and a socket in it.
#[derive(Debug)]
struct Namespace {
    file: File,
    netlink: Netlink,
}

/// Devices that were moved.
#[derive(Debug)]
pub(crate) struct Moved {
    here: Namespace,
    there: Namespace,
    devices: Vec<NetDevice>,
}

/// Moves devices into the network namespace of a process. If one cannot be moved, none is.
pub(crate) fn move_devices(devices: &[NetDevice], pid: i32) -> Result<Moved> {
    let here = Namespace {
        file: open(OWN)?,
        netlink: Netlink::open().context(|| "open a netlink socket")?,
    };
    let file = open(&format!("/proc/{pid}/ns/net"))?;
    let made = inside(&file, &here.file, Netlink::open)?;
    let netlink = made.context(|| "open a netlink socket")?;
    let mut moved = Moved {
        here,
        there: Namespace { file, netlink },
        devices: Vec::with_capacity(devices.len()),
    };
    for device in devices {
        // Kernels before 6.4 move it and then fail to rename it.
        match moved.there.netlink.link(&device.new_name) {
            Err(Errno::ENODEV) => {}
            Ok(_) => {
                return Err(Error::os(
                    format!("network device {} in the container", device.new_name),
                    Errno::EEXIST,
                ));
            }
            Err(errno) => {
                return Err(Error::os(
                    "look at the network devices of the container",
                    errno,
                ));
            }
        }
    }
    for device in devices {
        moved.devices.push(device.clone());
        let done = carry(
            (&moved.here, &device.name),
            (&moved.there, &device.new_name),
        );
        if let Err(error) = done {
            moved.undo();
            return Err(error);
        }
    }
    Ok(moved)
}

/// That of the network namespace of a process.
pub(crate) fn bring_loopback_up(pid: i32) -> Result<()> {
    let (there, here) = (open(&format!("/proc/{pid}/ns/net"))?, open(OWN)?);
    let done = inside(&there, &here, crate::sys::net::loopback_up)?;
    done.context(|| "bring the loopback interface up")
}

impl Moved {
    /// Gives the devices back, as far as that can be done: the failure that leads here is the one to tell.
    pub(crate) fn undo(&self) {
        for device in &self.devices {
            carry((&self.there, &device.new_name), (&self.here, &device.name)).ok();
        }
    }
}

fn open(path: &str) -> Result<File> {
    File::open(path).context(|| format!("open {path}"))
}

/// Calls it in that network namespace: a socket belongs to the one in which it was made.
fn inside<T>(there: &File, here: &File, call: impl FnOnce() -> T) -> Result<T> {
    setns(there, libc::CLONE_NEWNET as u64)
        .context(|| "enter the container's network namespace")?;
    let done = call();
    setns(here, libc::CLONE_NEWNET as u64).context(|| "return to our own network namespace")?;
    Ok(done)
}

/// Moves one device, renames it on the way, gives it its addresses again, which the kernel drops, and brings it up.
fn carry((from, name): (&Namespace, &str), (to, new_name): (&Namespace, &str)) -> Result<()> {
    let link = from.netlink.link(name);
    let index =
        link.context(|| format!("link not found for interface {name} on runtime namespace"))?;
    let addresses = from.netlink.addresses(index);
    let addresses = addresses.context(|| format!("get the addresses of network device {name}"))?;
    // Down first, so that nobody on the host uses it halfway.
    let down = from.netlink.set_up(index, false);
    down.context(|| format!("set network device {name} down"))?;
    let moved = from.netlink.move_link(index, &to.file, new_name);
    if moved.is_err() {
        // As it was: some addresses do not outlive being down. The failure to move is the one to tell.
        from.netlink.set_up(index, true).ok();
        for address in &addresses {
            from.netlink.add_address(index, address).ok(); // most are still there
        }
    }
    moved.context(|| format!("move network device {name} into the container as {new_name}"))?;
    let arrived = to.netlink.link(new_name);
    let index = arrived.context(|| format!("find network device {new_name} in the container"))?;
    for address in &addresses {
        let added = to.netlink.add_address(index, address);
        added
            .context(|| format!("set an address of network device {new_name} in the container"))?;
    }
    let up = to.netlink.set_up(index, true);
    up.context(|| format!("set network device {new_name} up in the container"))
}
