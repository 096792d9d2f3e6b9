//! The id maps of a new user namespace, written from outside of it.
//!
//! Runs in the runtime command, or in programs of shadow-utils that it executes.

use crate::host::{self, Host};
use crate::plan::namespaces::{IdMap, IdMaps, map_text, maps_only};
use crate::report::{Context, Error, Kind, Result};

/// Writes the id maps of a new user namespace. An unprivileged user may map himself alone; for more there are newuidmap and newgidmap.
pub(super) fn write_id_maps(pid: i32, maps: &IdMaps, host: &Host) -> Result<()> {
    if host.sys_admin {
        write_host_file(&format!("/proc/{pid}/uid_map"), &map_text(&maps.uids))?;
        return write_host_file(&format!("/proc/{pid}/gid_map"), &map_text(&maps.gids));
    }
    if maps_only(&maps.gids, host.egid) {
        write_host_file(&format!("/proc/{pid}/setgroups"), "deny")?;
        write_host_file(&format!("/proc/{pid}/gid_map"), &map_text(&maps.gids))?;
    } else {
        run_map_helper("newgidmap", pid, &maps.gids)?;
    }
    if maps_only(&maps.uids, host.euid) {
        return write_host_file(&format!("/proc/{pid}/uid_map"), &map_text(&maps.uids));
    }
    run_map_helper("newuidmap", pid, &maps.uids)
}

/// Runs newuidmap or newgidmap (shadow-utils), which check /etc/subuid and /etc/subgid.
fn run_map_helper(name: &str, pid: i32, maps: &[IdMap]) -> Result<()> {
    let path = host::map_helper(name)?;
    let numbers = maps
        .iter()
        .flat_map(|map| [map.container, map.host, map.size])
        .map(|n| n.to_string());
    let mut command = std::process::Command::new(&path);
    crate::sys::signal::unblock_in_child(&mut command);
    let output = command
        .arg(pid.to_string())
        .args(numbers)
        .env_clear()
        .stdin(std::process::Stdio::null())
        .output()
        .context(|| format!("execute {}", path.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::new(
        Kind::System,
        format!("{name} refused the id mappings ({}): {text}", output.status),
    ))
}

pub(super) fn write_host_file(path: &str, value: &str) -> Result<()> {
    let open = || -> std::io::Result<()> {
        use std::io::Write;
        std::fs::OpenOptions::new()
            .write(true)
            .open(path)?
            .write_all(value.as_bytes())
    };
    open().context(|| format!("write {value:?} to {path}"))
}
