//! Talking to CRIU (criu.org), which takes a container's processes apart into files and makes them again from these.
//!
//! Runs in the runtime command, of `checkpoint` and `restore`. What is asked for was decided by the command; how the program comes to be
//! executed, in which namespaces and in which cgroup, is a plan like any other's ([`crate::plan::criu`]). Here is the conversation only:
//!
//! ```text
//!   command                                  criu swrk FD
//!   VERSION, keep_open ─────────────────────▶
//!                      ◀───────────────────── version
//!   FEATURE_CHECK, keep_open (if need be) ──▶
//!                      ◀───────────────────── features
//!   DUMP, PRE_DUMP or RESTORE, opts ────────▶ at work
//!                      ◀───────────────────── NOTIFY script, pid, perhaps a descriptor      any number of times
//!   NOTIFY, notify_success ─────────────────▶
//!                      ◀───────────────────── DUMP, PRE_DUMP or RESTORE, success or errno
//!   end of file ────────────────────────────▶ ends
//! ```
//!
//! One message is one packet. Descriptors that CRIU is told by number were passed on by execve.

mod quote;
pub(crate) mod wire;

pub(crate) use quote::quote;

use crate::report::{Context, Error, Kind, Result};
use crate::sys::socket::{recv_with_fd, send_with_fd};
use std::os::fd::OwnedFd;
use wire::{Features, Message, Notify, Response, Type, request};

/// The oldest version that is talked to, as with runc: it was the first to tell its version.
const OLDEST: u32 = 30000;

/// More than any answer of CRIU's.
const ANSWER: usize = 10 * 4096;

/// A `criu swrk` that waits for requests.
#[derive(Debug)]
pub(crate) struct Criu {
    socket: OwnedFd,
    version: u32,
}

impl Criu {
    /// Begins the conversation, over a socket that comes through this one. Fails if this CRIU is too old for any.
    pub(crate) fn begin(from: &OwnedFd) -> Result<Criu> {
        let received = recv_with_fd(from, &mut [0; 16]).context(|| "get a socket to criu")?;
        let socket = received
            .1
            .ok_or_else(|| Error::new(Kind::System, "got no socket to criu"))?;
        let mut criu = Criu { socket, version: 0 };
        let story = || "CRIU version check failed";
        let response = criu
            .ask(Type::Version, |request| {
                request.switch(request::KEEP_OPEN, true);
            })
            .context(story)?;
        criu.version = response.version.number();
        match criu.is_at_least(OLDEST) {
            true => Ok(criu),
            false => Err(Error::new(
                Kind::Unsupported,
                format!("CRIU version {} must be {OLDEST} or higher", criu.version),
            )),
        }
    }

    /// The version, in the form of [`wire::Version::number`].
    pub(crate) fn version(&self) -> u32 {
        self.version
    }

    pub(crate) fn is_at_least(&self, version: u32) -> bool {
        self.version >= version
    }

    /// Fails if this CRIU cannot leave out a namespace of this kind that is not the container's own.
    pub(crate) fn require_external(&self, kind: &str, process: &str) -> Result<()> {
        let needed = if kind == "net" { 31100 } else { 31500 };
        if self.is_at_least(needed) {
            return Ok(());
        }
        let text = format!(
            "criu lacks support for external {kind} namespace during {process} process (old criu version?)"
        );
        Err(Error::new(Kind::Unsupported, text))
    }

    /// Fails unless CRIU and this kernel have the features that are wanted.
    pub(crate) fn require(&self, wanted: &Features) -> Result<()> {
        let mut question = Message::default();
        question.switch(1, wanted.mem_track == Some(true));
        question.switch(2, wanted.lazy_pages == Some(true));
        let response = self.ask(Type::FeatureCheck, |request| {
            request.switch(request::KEEP_OPEN, true);
            request.text(request::FEATURES, question.bytes());
        });
        let found = response.context(|| "CRIU feature check failed")?.features;
        let missing = |wanted, found| wanted == Some(true) && found == Some(false);
        let mut names = Vec::new();
        if missing(wanted.mem_track, found.mem_track) {
            names.push("MemTrack");
        }
        if missing(wanted.lazy_pages, found.lazy_pages) {
            names.push("LazyPages");
        }
        match names.is_empty() {
            true => Ok(()),
            false => Err(Error::new(
                Kind::Unsupported,
                format!("CRIU is missing features: [{}]", names.join(" ")),
            )),
        }
    }

    /// Has CRIU do the work. It stops for `notified` at each of its stages; an error there ends the work, and CRIU takes back what it has
    /// done.
    pub(crate) fn work(
        &self,
        kind: Type,
        opts: &Message,
        mut notified: impl FnMut(&Notify, Option<OwnedFd>) -> Result<()>,
    ) -> Result<()> {
        self.tell(kind, |request| request.text(request::OPTS, opts.bytes()))?;
        loop {
            let (response, fd) = self.hear()?;
            if !response.success {
                return Err(failed(&response));
            }
            if response.kind == kind as u64 {
                return Ok(());
            }
            if response.kind != Type::Notify as u64 {
                return Err(unexpected(&response));
            }
            notified(&response.notify, fd)?;
            self.tell(Type::Notify, |request| {
                request.switch(request::NOTIFY_SUCCESS, true);
            })?;
        }
    }

    /// One question that is answered at once.
    fn ask(&self, kind: Type, fill: impl FnOnce(&mut Message)) -> Result<Response> {
        self.tell(kind, fill)?;
        let (response, _) = self.hear()?;
        if !response.success {
            return Err(failed(&response));
        }
        match response.kind == kind as u64 {
            true => Ok(response),
            false => Err(unexpected(&response)),
        }
    }

    fn tell(&self, kind: Type, fill: impl FnOnce(&mut Message)) -> Result<()> {
        let mut request = Message::default();
        request.number(request::TYPE, kind as i64);
        fill(&mut request);
        send_with_fd(&self.socket, request.bytes(), None).context(|| "talk to criu")
    }

    fn hear(&self) -> Result<(Response, Option<OwnedFd>)> {
        let mut answer = vec![0; ANSWER];
        let (length, fd) = recv_with_fd(&self.socket, &mut answer).context(|| "hear from criu")?;
        if length == 0 {
            return Err(Error::new(Kind::System, "criu failed: unexpected EOF"));
        }
        let response = Response::parse(&answer[..length]);
        let text = "unable to parse the response of criu";
        let response = response.ok_or_else(|| Error::new(Kind::System, text))?;
        Ok((response, fd))
    }
}

/// In runc's words, which engines show and scripts look for.
fn failed(response: &Response) -> Error {
    let name = Type::name(response.kind);
    let text = format!("criu failed: type {name} errno {}", response.errno);
    Error::new(Kind::System, text)
}

fn unexpected(response: &Response) -> Error {
    let name = Type::name(response.kind);
    Error::new(
        Kind::System,
        format!("criu answered {name}, which was not asked"),
    )
}
