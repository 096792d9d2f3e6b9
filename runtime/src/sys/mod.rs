//! The system calls that `nix` does not offer, or does not offer in the form that a freshly cloned process needs.
//!
//! This is the only module with `unsafe` code. One function per call: it sets CLOEXEC, retries EINTR where that is sound,
//! returns the errno, allocates nothing and decides nothing. Every function may be called in init, between clone and exec.

#![allow(unsafe_code)]

pub(crate) mod bpf;
pub(crate) mod clock;
pub(crate) mod cred;
pub(crate) mod fs;
pub(crate) mod landlock;
pub(crate) mod mount;
pub(crate) mod net;
pub(crate) mod process;
pub(crate) mod signal;
pub(crate) mod socket;
pub(crate) mod trace;
pub(crate) mod tty;

pub(crate) use nix::errno::Errno;

/// What every system call here returns.
pub(crate) type Result<T> = std::result::Result<T, Errno>;
