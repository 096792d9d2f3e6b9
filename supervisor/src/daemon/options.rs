//! The daemon's command line. No I/O, but for the number of a group.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use super::metrics::Address;
use crate::fault::{Fault, Result, Tried as _};
use crate::host::STATE;
use crate::spec::Accounts;
use crate::store::ROOT;

const GROUPS: &str = "/etc/group";

pub(crate) const HELP: &str = "\
Usage: caissond [--root DIRECTORY] [--state DIRECTORY] [--address SOCKET] [--group GROUP] [--metrics ADDRESS]

Keeps images and containers, for caissonctl.

  --root DIRECTORY     what survives a reboot [/var/lib/caisson]
  --state DIRECTORY    what does not [/run/caisson]
  --address SOCKET     where to listen [caissond.sock in the state directory]
  --group GROUP        whose members may use the daemon, which is as good as being root
  --metrics ADDRESS    where to serve metrics for Prometheus, at /metrics: 127.0.0.1:PORT, [::1]:PORT or unix:PATH [nowhere]
";

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) root: PathBuf,
    pub(super) state: PathBuf,
    pub(super) address: PathBuf,
    pub(super) group: Option<u32>,
    pub(super) metrics: Option<Address>,
}

/// None to print the help.
pub(super) fn parse(arguments: &[OsString]) -> Result<Option<Options>> {
    let (mut root, mut state) = (PathBuf::from(ROOT), PathBuf::from(STATE));
    let (mut address, mut group, mut metrics) = (None, None, None);
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy().into_owned();
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(OsString::from(value))),
            None => (text, None),
        };
        let mut value = || {
            let next = value.clone().or_else(|| arguments.next().cloned());
            next.ok_or_else(|| Fault::new(format!("{name} needs a value")))
        };
        match name.as_str() {
            "--root" => root = value()?.into(),
            "--state" => state = value()?.into(),
            "--address" => {
                let text = value()?.to_string_lossy().into_owned();
                address = Some(PathBuf::from(text.strip_prefix("unix://").unwrap_or(&text)));
            }
            "--group" => group = Some(gid(&value()?.to_string_lossy())?),
            "--metrics" => metrics = Some(Address::parse(&value()?.to_string_lossy())?),
            "--help" | "-h" => return Ok(None),
            _ => {
                return Err(Fault::new(format!(
                    "unknown argument '{name}'; see caissond --help"
                )));
            }
        }
    }
    let address = address.unwrap_or_else(|| state.join("caissond.sock"));
    Ok(Some(Options {
        root,
        state,
        address,
        group,
        metrics,
    }))
}

/// As the file has it: programs like ours, which are linked with all that they need, cannot ask the libraries that know more (getgrnam(3)).
fn gid(group: &str) -> Result<u32> {
    let what = || format!("find the group '{group}' of --group");
    let groups = fs::File::open(GROUPS).tried(|| format!("{}: open {GROUPS}", what()))?;
    let mut accounts = Accounts {
        passwd: None,
        group: Some(groups),
    };
    let found = accounts.group_id(group);
    found.map_err(|_| {
        Fault::new(format!(
            "{}: {GROUPS} has none of that name, and it is no number",
            what()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_in_the_state_directory_unless_it_is_named() {
        let parse = |arguments: &[&str]| {
            let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
            parse(&arguments)
        };
        let options = parse(&["--state", "/s", "--root=/r"]).unwrap().unwrap();
        assert_eq!(options.address, PathBuf::from("/s/caissond.sock"));
        assert_eq!(options.root, PathBuf::from("/r"));
        assert_eq!(options.metrics, None);
        let options = parse(&["--address", "unix:///x"]).unwrap().unwrap();
        assert_eq!(options.address, PathBuf::from("/x"));
        assert!(parse(&["--state"]).is_err() && parse(&["--nonsense"]).is_err());
        assert_eq!(parse(&["--help"]).unwrap(), None);
    }
}
