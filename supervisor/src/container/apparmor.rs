//! AppArmor: which profile a container gets, and the one of those that name none. Only where the kernel has it, and not before a container
//! needs it.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use crate::fault::{Fault, Result, Tried as _};
use crate::lock::lock;
use crate::protos::containers::Config;
use crate::spec;

/// The profile, which is called so in its text, too.
const NAME: &str = "caisson-default";
const POLICY: &str = include_str!("caisson-default");
const PARSER: &str = "/sbin/apparmor_parser";
/// What the kernel tells of itself and of its profiles.
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
const DIRECTORY: &str = "/sys/kernel/security/apparmor";

/// The default profile: false if it is known that there is no parser for it, true if it is loaded.
#[derive(Debug, Default)]
pub(super) struct Profile(Mutex<Option<bool>>);

impl Profile {
    /// Of a container that is about to start, if any. Blocks.
    pub(super) fn of(&self, config: &Config) -> Result<Option<String>> {
        if !is_enabled() {
            return Ok(None);
        }
        match spec::profile(config)? {
            None if config.privileged => Ok(None),
            None => Ok(self.load()?.then(|| NAME.to_owned())),
            Some(said) if said == NAME => {
                // It may be there without a parser, too; if it is not, the runtime says so.
                self.load()?;
                Ok(Some(said))
            }
            said => Ok(said),
        }
    }

    /// Loads it, unless it is. Others may have removed it: for who loads all profiles of the machine anew, it is one without a file. Blocks.
    pub(super) fn load(&self) -> Result<bool> {
        let mut loaded = lock(&self.0);
        if *loaded == Some(true) && is_listed() {
            return Ok(true);
        }
        let there = Path::new(PARSER).exists();
        if there {
            parse()?;
        } else if loaded.is_none() {
            crate::daemon::warn(&Fault::unknown(format!(
                "there is no {PARSER} to load the AppArmor profile {NAME} with: containers run without"
            )));
        }
        *loaded = Some(there);
        Ok(there)
    }

    /// Has what a container's process runs under be there for another one of it. Blocks.
    pub(super) fn keep(&self, process: &serde_json::Value) -> Result<()> {
        if process["apparmorProfile"] == NAME {
            self.load()?;
        }
        Ok(())
    }
}

/// What one who names a profile should know.
pub(crate) fn warnings(config: &Config) -> Result<Vec<String>> {
    let lacks = |profile: &String| profile != "unconfined" && !is_enabled();
    let lacking = spec::profile(config)?.filter(lacks);
    let warning = |profile| {
        format!("AppArmor is not enabled on this host: the profile {profile} is not applied")
    };
    Ok(lacking.map(warning).into_iter().collect())
}

/// Whether containers get the default profile.
pub(crate) fn has_apparmor() -> bool {
    is_enabled() && Path::new(PARSER).exists()
}

fn is_enabled() -> bool {
    fs::read(ENABLED).is_ok_and(|text| text.starts_with(b"Y")) && Path::new(DIRECTORY).exists()
}

fn is_listed() -> bool {
    let listed = fs::read_to_string(format!("{DIRECTORY}/profiles")).unwrap_or_default();
    listed
        .lines()
        .any(|line| line.split(' ').next() == Some(NAME))
}

fn parse() -> Result<()> {
    let run = || -> std::io::Result<std::process::Output> {
        let mut parser = Command::new(PARSER)
            .args(["--replace", "--skip-cache"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        // One that reads no more says why.
        parser
            .stdin
            .take()
            .and_then(|mut stdin| stdin.write_all(POLICY.as_bytes()).ok());
        parser.wait_with_output()
    };
    let output = run().tried(|| format!("run {PARSER}"))?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(Fault::unknown(format!(
        "load the AppArmor profile {NAME}: {PARSER}: {}: {}; a container with --security-opt apparmor=unconfined needs none",
        output.status,
        why.trim()
    )))
}
