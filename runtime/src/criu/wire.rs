//! The part of CRIU's protocol that is used here, in the encoding of Protocol Buffers (protobuf.dev, "Encoding").
//!
//! Pure. Two messages with a few dozen fields of four kinds do not need a library: one would be larger than all of this program's dealings
//! with CRIU. Field numbers are those of CRIU's rpc.proto, which never change their meaning.

/// `criu_opts`.
pub(crate) mod opts {
    pub(crate) const IMAGES_DIR_FD: u32 = 1;
    pub(crate) const PID: u32 = 2;
    pub(crate) const LEAVE_RUNNING: u32 = 3;
    pub(crate) const EXT_UNIX_SK: u32 = 4;
    pub(crate) const TCP_ESTABLISHED: u32 = 5;
    pub(crate) const EVASIVE_DEVICES: u32 = 6;
    pub(crate) const SHELL_JOB: u32 = 7;
    pub(crate) const FILE_LOCKS: u32 = 8;
    pub(crate) const LOG_LEVEL: u32 = 9;
    pub(crate) const LOG_FILE: u32 = 10;
    /// `criu_page_server_info`: address 1, port 2.
    pub(crate) const PAGE_SERVER: u32 = 11;
    pub(crate) const NOTIFY_SCRIPTS: u32 = 12;
    pub(crate) const ROOT: u32 = 13;
    pub(crate) const PARENT_IMG: u32 = 14;
    pub(crate) const TRACK_MEM: u32 = 15;
    pub(crate) const AUTO_DEDUP: u32 = 16;
    pub(crate) const WORK_DIR_FD: u32 = 17;
    pub(crate) const LINK_REMAP: u32 = 18;
    /// `ext_mount_map`: key 1, val 2.
    pub(crate) const EXT_MNT: u32 = 23;
    pub(crate) const MANAGE_CGROUPS: u32 = 24;
    /// `cgroup_root`: ctrl 1, path 2.
    pub(crate) const CG_ROOT: u32 = 25;
    pub(crate) const RST_SIBLING: u32 = 26;
    /// `inherit_fd`: key 1, fd 2.
    pub(crate) const INHERIT_FD: u32 = 27;
    pub(crate) const MANAGE_CGROUPS_MODE: u32 = 34;
    pub(crate) const EXTERNAL: u32 = 37;
    pub(crate) const EMPTY_NS: u32 = 38;
    /// `join_namespace`: ns 1, ns_file 2.
    pub(crate) const JOIN_NS: u32 = 39;
    pub(crate) const FREEZE_CGROUP: u32 = 44;
    pub(crate) const TCP_SKIP_IN_FLIGHT: u32 = 46;
    pub(crate) const LAZY_PAGES: u32 = 48;
    pub(crate) const ORPHAN_PTS_MASTER: u32 = 50;
    pub(crate) const CONFIG_FILE: u32 = 51;
    pub(crate) const TCP_CLOSE: u32 = 52;
    pub(crate) const LSM_PROFILE: u32 = 53;
    pub(crate) const LSM_MOUNT_CONTEXT: u32 = 63;
    pub(crate) const NETWORK_LOCK: u32 = 64;
}

/// `criu_req`; its `type` is 1.
pub(crate) mod request {
    pub(crate) const TYPE: u32 = 1;
    pub(crate) const OPTS: u32 = 2;
    pub(crate) const NOTIFY_SUCCESS: u32 = 3;
    pub(crate) const KEEP_OPEN: u32 = 4;
    /// `criu_features`: mem_track 1, lazy_pages 2.
    pub(crate) const FEATURES: u32 = 5;
}

/// `criu_req_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Dump = 1,
    Restore = 2,
    PreDump = 4,
    Notify = 6,
    FeatureCheck = 9,
    Version = 10,
}

impl Type {
    /// As runc's errors name them.
    pub(crate) fn name(number: u64) -> &'static str {
        const NAMES: [&str; 14] = [
            "EMPTY",
            "DUMP",
            "RESTORE",
            "CHECK",
            "PRE_DUMP",
            "PAGE_SERVER",
            "NOTIFY",
            "CPUINFO_DUMP",
            "CPUINFO_CHECK",
            "FEATURE_CHECK",
            "VERSION",
            "WAIT_PID",
            "PAGE_SERVER_CHLD",
            "SINGLE_PRE_DUMP",
        ];
        let name = usize::try_from(number).ok().and_then(|at| NAMES.get(at));
        name.copied().unwrap_or("UNKNOWN")
    }
}

const VARINT: u64 = 0;
const BYTES: u64 = 2;

/// A message while it is written.
#[derive(Debug, Default)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// A field of a number or an enumeration.
    pub(crate) fn number(&mut self, field: u32, value: i64) {
        self.varint(u64::from(field) << 3 | VARINT);
        self.varint(value.cast_unsigned());
    }

    /// A switch. One that is off is left out: that is what all of them are by default.
    pub(crate) fn switch(&mut self, field: u32, on: bool) {
        if on {
            self.number(field, 1);
        }
    }

    /// A text, or a message in a message.
    pub(crate) fn text(&mut self, field: u32, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        self.varint(u64::from(field) << 3 | BYTES);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    /// A message of two texts, such as the maps of CRIU are made of.
    pub(crate) fn pair(&mut self, field: u32, first: impl AsRef<[u8]>, second: impl AsRef<[u8]>) {
        let mut pair = Message::default();
        pair.text(1, first);
        pair.text(2, second);
        self.text(field, pair.bytes());
    }

    /// A message of a text and a number.
    pub(crate) fn named(&mut self, field: u32, name: impl AsRef<[u8]>, number: i64) {
        let mut pair = Message::default();
        pair.text(1, name);
        pair.number(2, number);
        self.text(field, pair.bytes());
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// What CRIU answers: `criu_resp`. What it does not say is 0 or empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) kind: u64,
    pub(crate) success: bool,
    pub(crate) notify: Notify,
    pub(crate) errno: i32,
    pub(crate) features: Features,
    pub(crate) version: Version,
}

/// `criu_notify`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Notify {
    pub(crate) script: String,
    pub(crate) pid: i32,
}

/// `criu_features`. None: this CRIU does not know of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Features {
    pub(crate) mem_track: Option<bool>,
    pub(crate) lazy_pages: Option<bool>,
}

/// `criu_version`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) sublevel: u32,
    /// Built from between two releases.
    pub(crate) from_git: bool,
}

impl Version {
    /// As runc and its users count: 3.15 is 31500. What is not a release counts as the one to come.
    pub(crate) fn number(&self) -> u32 {
        match self.from_git {
            false => self.major * 10000 + self.minor * 100 + self.sublevel,
            true => self.major * 10000 + (self.minor + 1) * 100,
        }
    }
}

impl Response {
    /// None: that is no message.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Response> {
        let mut response = Response::default();
        each(bytes, |field, value| {
            match (field, value) {
                (1, Value::Number(number)) => response.kind = number,
                (2, Value::Number(number)) => response.success = number != 0,
                (5, Value::Bytes(bytes)) => response.notify = notify(bytes)?,
                (7, Value::Number(number)) => response.errno = number as i32,
                (8, Value::Bytes(bytes)) => response.features = features(bytes)?,
                (10, Value::Bytes(bytes)) => response.version = version(bytes)?,
                _ => {}
            }
            Some(())
        })?;
        Some(response)
    }
}

fn notify(bytes: &[u8]) -> Option<Notify> {
    let mut notify = Notify::default();
    each(bytes, |field, value| {
        match (field, value) {
            (1, Value::Bytes(text)) => notify.script = String::from_utf8_lossy(text).into_owned(),
            (2, Value::Number(number)) => notify.pid = number as i32,
            _ => {}
        }
        Some(())
    })?;
    Some(notify)
}

fn features(bytes: &[u8]) -> Option<Features> {
    let mut features = Features::default();
    each(bytes, |field, value| {
        match (field, value) {
            (1, Value::Number(number)) => features.mem_track = Some(number != 0),
            (2, Value::Number(number)) => features.lazy_pages = Some(number != 0),
            _ => {}
        }
        Some(())
    })?;
    Some(features)
}

fn version(bytes: &[u8]) -> Option<Version> {
    let mut version = Version::default();
    each(bytes, |field, value| {
        match (field, value) {
            (1, Value::Number(number)) => version.major = number as u32,
            (2, Value::Number(number)) => version.minor = number as u32,
            (3, Value::Bytes(text)) => version.from_git = !text.is_empty() && text != b"0",
            (4, Value::Number(number)) => version.sublevel = number as u32,
            _ => {}
        }
        Some(())
    })?;
    Some(version)
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Tells of each field of a message.
fn each<'a>(mut bytes: &'a [u8], mut tell: impl FnMut(u64, Value<'a>) -> Option<()>) -> Option<()> {
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let value = match tag & 7 {
            VARINT => Value::Number(varint(&mut bytes)?),
            BYTES => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let (value, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                Value::Bytes(value)
            }
            _ => return None, // CRIU's messages have no others.
        };
        tell(tag >> 3, value)?;
    }
    Some(())
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_encoded_as_protocol_buffers_are() {
        let mut opts = Message::default();
        opts.number(opts::IMAGES_DIR_FD, 300);
        opts.number(opts::PID, -1);
        opts.switch(opts::LEAVE_RUNNING, false);
        opts.switch(opts::SHELL_JOB, true);
        opts.pair(opts::EXT_MNT, "/a", "/b");
        opts.named(opts::INHERIT_FD, "k", 5);
        let expected: &[u8] = &[
            0x08, 0xac, 0x02, // 1: 300
            0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, // 2: -1
            0x38, 0x01, // 7: true
            0xba, 0x01, 8, 0x0a, 2, b'/', b'a', 0x12, 2, b'/', b'b', // 23
            0xda, 0x01, 5, 0x0a, 1, b'k', 0x10, 5, // 27
        ];
        assert_eq!(opts.bytes(), expected);
    }

    #[test]
    fn a_response_is_read_and_what_is_unknown_passed_over() {
        let bytes = [
            0x08, 6, 0x10, 1, // NOTIFY, success
            0x2a, 8, 0x0a, 3, b'a', b'-', b'b', 0x10, 0x81, 0x02, // script, pid 257
            0x38, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, // errno -2
            0x42, 2, 0x10, 1, // lazy_pages
            0x52, 6, 0x08, 4, 0x10, 2, 0x20, 1, // 4.2.1
            0x7a, 1, 9, // a field of later versions
        ];
        let response = Response::parse(&bytes).unwrap();
        assert_eq!(
            (response.kind, response.success, response.errno),
            (6, true, -2)
        );
        assert_eq!(
            response.notify,
            Notify {
                script: "a-b".into(),
                pid: 257
            }
        );
        let features = &response.features;
        assert_eq!(
            (features.mem_track, features.lazy_pages),
            (None, Some(true))
        );
        assert_eq!(response.version.number(), 40201);
        for end in 1..bytes.len() {
            // Cut anywhere, it is a shorter message or none, and never a panic.
            Response::parse(&bytes[..end]);
        }
        assert_eq!(Response::parse(&[0x0d, 1, 2, 3, 4]), None);
    }

    #[test]
    fn a_version_between_releases_counts_as_the_next() {
        let version = Version {
            major: 3,
            minor: 14,
            sublevel: 2,
            from_git: true,
        };
        assert_eq!(version.number(), 31500);
    }
}
