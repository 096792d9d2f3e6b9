//! The few messages of rtnetlink(7) that moving a device takes.
//!
//! Written out here: there are five, of which four are fixed but for a name, where the crates for this bring types for all of them.

use crate::sys::{Errno, Result};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};

/// A socket for rtnetlink, in the network namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Netlink(OwnedFd);

/// An address of a device: family, prefix length and flags, and the attributes that make it up.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Address {
    family: u8,
    prefix_length: u8,
    flags: u32,
    attributes: Vec<(u16, Vec<u8>)>,
}

const HEADER: usize = size_of::<libc::nlmsghdr>();

/// Size of struct ifinfomsg, and of struct ifaddrmsg (linux/rtnetlink.h, linux/if_addr.h).
const IFINFO: usize = 16;
const IFADDR: usize = 8;

impl Netlink {
    pub(super) fn open() -> Result<Netlink> {
        socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )
        .map(Netlink)
    }

    /// The index of a device; ENODEV if there is none of that name.
    pub(super) fn link(&self, name: &str) -> Result<u32> {
        let mut body = ifinfo(0, 0, 0);
        attribute(&mut body, libc::IFLA_IFNAME, &terminated(name));
        let answers = self.ask(libc::RTM_GETLINK, 0, &body)?;
        let index = answers.iter().find_map(|answer| word(answer, 4));
        index.ok_or(Errno::EPROTO)
    }

    /// Sets a device up or down.
    pub(super) fn set_up(&self, index: u32, up: bool) -> Result<()> {
        let flag = libc::IFF_UP as u32;
        let body = ifinfo(index, if up { flag } else { 0 }, flag);
        self.ask(libc::RTM_NEWLINK, 0, &body).map(drop)
    }

    /// Moves a device into another network namespace and names it, in one step.
    pub(super) fn move_link(&self, index: u32, to: &File, name: &str) -> Result<()> {
        let mut body = ifinfo(index, 0, 0);
        attribute(&mut body, libc::IFLA_IFNAME, &terminated(name));
        let fd = to.as_raw_fd().to_ne_bytes();
        attribute(&mut body, libc::IFLA_NET_NS_FD, &fd);
        self.ask(libc::RTM_NEWLINK, 0, &body).map(drop)
    }

    /// The addresses of a device that somebody gave it for good and that mean the same elsewhere: permanent ones of global scope.
    pub(super) fn addresses(&self, index: u32) -> Result<Vec<Address>> {
        let answers = self.ask(libc::RTM_GETADDR, libc::NLM_F_DUMP as u16, &[0; IFADDR])?;
        let own = answers.iter().filter(|a| word(a, 4) == Some(index));
        Ok(own.filter_map(|answer| Address::parse(answer)).collect())
    }

    pub(super) fn add_address(&self, index: u32, address: &Address) -> Result<()> {
        let mut body = vec![
            address.family,
            address.prefix_length,
            0,
            libc::RT_SCOPE_UNIVERSE,
        ];
        body.extend(index.to_ne_bytes());
        for (kind, value) in &address.attributes {
            attribute(&mut body, *kind, value);
        }
        attribute(&mut body, libc::IFA_FLAGS, &address.flags.to_ne_bytes());
        let flags = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
        self.ask(libc::RTM_NEWADDR, flags, &body).map(drop)
    }

    /// Sends a request and returns the bodies of the answers to it, or the error that the kernel answers.
    fn ask(&self, kind: u16, flags: u16, body: &[u8]) -> Result<Vec<Vec<u8>>> {
        let request = request(kind, flags, body);
        send(self.0.as_raw_fd(), &request, MsgFlags::empty())?;
        let mut answers = Vec::new();
        // What does not fit is the end of what is told of one device, of which the beginning is enough.
        let mut buffer = vec![0; 32 * 1024];
        loop {
            let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            for (kind, body) in messages(&buffer[..length]) {
                match i32::from(kind) {
                    libc::NLMSG_DONE => return Ok(answers),
                    libc::NLMSG_ERROR => {
                        return match word(body, 0).map(u32::cast_signed) {
                            Some(0) => Ok(answers),
                            Some(errno) => Err(Errno::from_raw(-errno)),
                            None => Err(Errno::EPROTO),
                        };
                    }
                    _ => answers.push(body.to_vec()),
                }
            }
        }
    }
}

impl Address {
    /// Reads the body of an RTM_NEWADDR; None for one that is not to be kept.
    fn parse(body: &[u8]) -> Option<Address> {
        let [family, prefix_length, short_flags, scope] = *body.first_chunk()?;
        let mut flags = u32::from(short_flags);
        let mut attributes = Vec::new();
        for (kind, value) in attributes_of(body.get(IFADDR..)?) {
            match kind {
                // All flags, where the field in front has room for eight.
                libc::IFA_FLAGS => flags = word(value, 0)?,
                libc::IFA_ADDRESS | libc::IFA_LOCAL | libc::IFA_BROADCAST => {
                    attributes.push((kind, value.to_vec()));
                }
                _ => {}
            }
        }
        let kept = flags & libc::IFA_F_PERMANENT != 0 && scope == libc::RT_SCOPE_UNIVERSE;
        /// What is a setting of the address rather than its state.
        const SETTINGS: u32 = libc::IFA_F_NODAD
            | libc::IFA_F_HOMEADDRESS
            | libc::IFA_F_MANAGETEMPADDR
            | libc::IFA_F_NOPREFIXROUTE;
        kept.then_some(Address {
            family,
            prefix_length,
            flags: flags & SETTINGS,
            attributes,
        })
    }
}

/// A message: header and body. Everything but a dump is acknowledged, so that each exchange has an end.
fn request(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let dump = libc::NLM_F_DUMP as u16;
    let mut flags = flags | libc::NLM_F_REQUEST as u16;
    if flags & dump != dump {
        flags |= libc::NLM_F_ACK as u16;
    }
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence number and port are for sockets with more than one request under way.
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// struct ifinfomsg of the device with this index: flags, and which of them are meant.
fn ifinfo(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    for field in [index, flags, change] {
        body.extend(field.to_ne_bytes());
    }
    debug_assert_eq!(body.len(), IFINFO);
    body
}

/// Appends an attribute, padded to four bytes.
fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(((4 + value.len()) as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn terminated(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

/// The messages of one datagram: type and body. The last one may be cut off.
fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = word(datagram, 0)? as usize;
        let kind = u16::from_ne_bytes(*datagram.get(4..)?.first_chunk()?);
        let end = length.min(datagram.len());
        let body = datagram.get(HEADER..end)?;
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
        Some((kind, body))
    })
}

/// The attributes behind the fixed part of a body: type and value.
fn attributes_of(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [a, b, c, d] = *rest.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]), value))
    })
}

/// The 32-bit number at an offset.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_attributes_are_read_back() {
        let mut body = ifinfo(7, 1, 1);
        attribute(&mut body, libc::IFLA_IFNAME, &terminated("eth0"));
        attribute(&mut body, libc::IFLA_NET_NS_FD, &3u32.to_ne_bytes());
        let datagram = [request(16, 0, &body), request(17, 0, &[1])].concat();
        let read: Vec<_> = messages(&datagram).collect();
        assert_eq!(read[0], (16, &body[..]));
        assert_eq!(word(read[0].1, 4), Some(7));
        let attributes: Vec<_> = attributes_of(&body[IFINFO..]).collect();
        assert_eq!(
            attributes,
            [
                (libc::IFLA_IFNAME, &b"eth0\0"[..]),
                (libc::IFLA_NET_NS_FD, &3u32.to_ne_bytes()[..])
            ]
        );
    }

    #[test]
    fn what_is_no_message_is_none() {
        assert_eq!(messages(&[]).count(), 0);
        assert_eq!(messages(&[0; 15]).count(), 0);
        assert_eq!(messages(&[0; 16]).count(), 0, "a length of 0 ends it");
        assert_eq!(attributes_of(&[2, 0, 0, 0]).count(), 0);
        assert_eq!(Address::parse(&[2, 24]), None);
    }

    #[test]
    fn only_permanent_addresses_of_global_scope_are_kept() {
        let body = |flags: u32, scope| {
            let mut body = vec![2, 24, 0, scope, 7, 0, 0, 0];
            attribute(&mut body, libc::IFA_ADDRESS, &[10, 0, 0, 1]);
            attribute(&mut body, libc::IFA_LABEL, &terminated("eth0"));
            attribute(&mut body, libc::IFA_FLAGS, &flags.to_ne_bytes());
            body
        };
        let permanent = libc::IFA_F_PERMANENT;
        let kept = Address::parse(&body(permanent | libc::IFA_F_NOPREFIXROUTE, 0)).unwrap();
        assert_eq!(kept.flags, libc::IFA_F_NOPREFIXROUTE);
        assert_eq!(kept.attributes, [(libc::IFA_ADDRESS, vec![10, 0, 0, 1])]);
        assert_eq!(Address::parse(&body(0, 0)), None);
        assert_eq!(Address::parse(&body(permanent, 253)), None);
    }
}
