//! `check`: what of a config would fail on this host, all of it, before anything is made.
//!
//! Runs in the runtime command. What a config may say at all is judged where it is for `create`: by `spec`, by the constructors of `plan`
//! and by what the command asks of the host before it makes anything; their errors are collected here. What only shows when a plan is carried out
//! is foreseen: this is a third reader of the plan, beside `spawn` and `init`, which looks where these act. It opens paths and
//! reads what the kernel says of itself. It makes no file, mount, process or group, and changes nothing of the host.
//!
//! What cannot be known before is passed over: files on a file system that does not exist yet, what a hook does, what is gone by the time of `create`.

mod document;
mod filesystems;
mod identity;
mod mounts;
mod namespaces;
mod process;
mod program;
mod tree;

pub(crate) use document::{Document, read};
pub(crate) use process::socket;

use crate::host::Host;
use crate::plan::Plan;
use crate::plan::cgroup::{CgroupPlan, Driver};
use crate::report::Error;
use crate::sys::Errno;
use crate::sys::bpf::load_device_program;
use oci_spec::runtime::Spec;
use serde::Serialize;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// One thing that is wrong, or that may not be what was meant.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// The path of the field in config.json; empty if it is none.
    pub(crate) field: String,
    pub(crate) message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// The container cannot be created or started.
    Error,
    Warning,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    list: Vec<Finding>,
    /// How many of them have the numbers of list entries as they were written: the others are of what was left of the document.
    as_written: usize,
}

/// What is looked at: a config, and what was planned from it.
#[derive(Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) bundle: &'a Path,
    /// None: there is no such directory.
    pub(crate) rootfs: Option<&'a Path>,
    pub(crate) host: &'a Host,
    pub(crate) plan: &'a Plan,
    pub(crate) cgroup: Option<&'a CgroupPlan>,
}

/// Looks for what would fail on this host when the plan is carried out.
pub(crate) fn look(subject: &Subject<'_>, findings: &mut Findings) {
    namespaces::look(subject, findings);
    if let Some(plan) = subject.cgroup {
        let resources = subject.spec.linux().as_ref();
        let resources = resources.and_then(|linux| linux.resources().as_ref());
        for error in crate::cgroup::foresee(plan, resources) {
            findings.error(error);
        }
        if plan.driver != Driver::Disabled {
            group(plan, subject, findings);
        }
    }
    let tree = mounts::look(subject, findings);
    process::look(subject, findings);
    identity::look(subject, findings);
    program::look(subject, &tree, findings);
}

/// What the kernel takes neither as a group's name nor as its device filter, which is loaded to be dropped.
fn group(plan: &CgroupPlan, subject: &Subject<'_>, findings: &mut Findings) {
    let path = subject.spec.linux().as_ref();
    let path = path.and_then(|linux| linux.cgroups_path().as_ref());
    if path.is_some_and(|path| path.as_os_str().as_bytes().contains(&b'\n')) {
        let text = "make a cgroup with a line feed in its name";
        findings.error(Error::os(text, Errno::EINVAL).in_field("linux.cgroupsPath"));
    }
    let program = &plan.devices.program;
    if program.is_empty() {
        return;
    }
    match load_device_program(program, &mut []) {
        // Whether those are errors is not the rules' matter.
        Ok(_) | Err(Errno::EPERM | Errno::EACCES | Errno::ENOSYS) => {}
        Err(errno) => {
            let text = "load the device filter that these rules make";
            findings.error(Error::os(text, errno).in_field("linux.resources.devices"));
        }
    }
}

impl Findings {
    /// Notes what a command fails with.
    pub(crate) fn error(&mut self, error: Error) {
        let field = error.field().to_owned();
        let told = error.to_string();
        // A parser's error names it for `create`, too.
        let message = told.strip_prefix(&format!("{field}: ")).unwrap_or(&told);
        self.add(Severity::Error, field, message.to_owned());
    }

    /// Notes that a field makes a container fail.
    fn wrong(&mut self, field: impl fmt::Display, message: impl fmt::Display) {
        self.add(Severity::Error, field.to_string(), message.to_string());
    }

    pub(crate) fn warn(&mut self, field: impl fmt::Display, message: impl fmt::Display) {
        self.add(Severity::Warning, field.to_string(), message.to_string());
    }

    /// What is said of a field already is not said again.
    fn add(&mut self, severity: Severity, field: String, message: String) {
        let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
        let known = |other: &Finding| other.field == field && other.message == message;
        if !self.list.iter().any(known) {
            self.list.push(Finding {
                severity,
                field,
                message,
            });
        }
    }

    /// Whether anything would fail.
    pub(crate) fn any_error(&self) -> bool {
        self.list
            .iter()
            .any(|finding| finding.severity == Severity::Error)
    }

    /// All of them with the numbers of list entries as they were written, errors first. Of a field that could not be read, what was found out
    /// about its stand-in is left out.
    pub(crate) fn in_order(mut self, document: &Document) -> Vec<Finding> {
        for finding in &mut self.list[self.as_written..] {
            finding.field = document.numbered_as_written(&finding.field);
        }
        let later = self.list.split_off(self.as_written);
        let unread = |field: &str| {
            self.list.iter().any(|other| {
                let below = field.strip_prefix(other.field.as_str());
                below.is_some_and(|below| below.is_empty() || below.starts_with(['.', '[']))
            })
        };
        let later: Vec<Finding> = later
            .into_iter()
            .filter(|finding| !unread(&finding.field))
            .collect();
        self.list.extend(later);
        let is_error = |finding: &Finding| finding.severity == Severity::Error;
        let (mut all, warnings): (Vec<_>, Vec<_>) = self.list.into_iter().partition(is_error);
        all.extend(warnings);
        all
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let field = match self.field.as_str() {
            "" => "config.json",
            field => field,
        };
        write!(f, "{severity}: {field}: {}", self.message)
    }
}
