//! `checkpoint` and `restore`: what their flags mean.

use super::command::{Create, create, id};
use super::flags::{Matches, usage};
use super::values;
use crate::report::Result;
use crate::state::ContainerId;
use std::path::{Path, PathBuf};

/// `checkpoint`.
#[derive(Debug, PartialEq)]
pub(crate) struct Checkpoint {
    pub(crate) id: ContainerId,
    pub(crate) images: Images,
    /// Relative to the images.
    pub(crate) parent_path: Option<PathBuf>,
    pub(crate) leave_running: bool,
    pub(crate) tcp_skip_in_flight: bool,
    pub(crate) link_remap: bool,
    pub(crate) status_fd: Option<i32>,
    pub(crate) page_server: Option<PageServer>,
    pub(crate) pre_dump: bool,
}

/// `restore`.
#[derive(Debug, PartialEq)]
pub(crate) struct Restore {
    pub(crate) create: Create,
    pub(crate) images: Images,
    pub(crate) detach: bool,
    pub(crate) no_subreaper: bool,
    pub(crate) tcp_close: bool,
    pub(crate) lsm_profile: Option<String>,
    pub(crate) lsm_mount_context: Option<String>,
}

/// What both have. Relative paths are relative to the caller's directory.
#[derive(Debug, PartialEq)]
pub(crate) struct Images {
    pub(crate) path: PathBuf,
    pub(crate) work_path: Option<PathBuf>,
    pub(crate) tcp_established: bool,
    pub(crate) ext_unix_sk: bool,
    pub(crate) shell_job: bool,
    pub(crate) file_locks: bool,
    pub(crate) auto_dedup: bool,
    pub(crate) lazy_pages: bool,
    pub(crate) cgroups: CgroupsMode,
    /// CRIU decides if there is none. What is restored is unlocked as it was locked, whatever this says.
    pub(crate) network_lock: Option<NetworkLock>,
}

/// What CRIU does about cgroups. The numbers are its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CgroupsMode {
    Ignore = 0,
    Soft = 3,
    Full = 4,
    Strict = 5,
    Default = 6,
}

/// What keeps packets from connections that are being saved. The numbers are CRIU's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NetworkLock {
    Iptables = 1,
    Nftables = 2,
    Skip = 3,
}

/// Where pages are sent to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PageServer {
    pub(crate) address: String,
    pub(crate) port: i32,
}

pub(super) fn checkpoint(found: &Matches) -> Result<Checkpoint> {
    let parent_path = path(found, "parent-path");
    if parent_path.as_deref().is_some_and(Path::is_absolute) {
        return Err(usage("--parent-path must be relative"));
    }
    let status_fd = found.text("status-fd")?.map(|text| {
        let number = text.parse::<i32>();
        number.map_err(|_| {
            usage(format!(
                "invalid value {text:?} for flag -status-fd: parse error"
            ))
        })
    });
    Ok(Checkpoint {
        id: id(found)?,
        images: images(found)?,
        parent_path,
        leave_running: found.on("leave-running"),
        tcp_skip_in_flight: found.on("tcp-skip-in-flight"),
        link_remap: found.on("link-remap"),
        // -1 is none.
        status_fd: status_fd.transpose()?.filter(|number| *number != -1),
        page_server: found
            .text("page-server")?
            .filter(|text| !text.is_empty())
            .map(page_server)
            .transpose()?,
        pre_dump: found.on("pre-dump"),
    })
}

pub(super) fn restore(found: &Matches) -> Result<Restore> {
    let text = |name| {
        let text = found.text(name)?.filter(|text| !text.is_empty());
        Ok(text.map(str::to_owned))
    };
    Ok(Restore {
        create: create(found)?,
        images: images(found)?,
        detach: found.on("detach"),
        no_subreaper: found.on("no-subreaper"),
        tcp_close: found.on("tcp-close"),
        lsm_profile: text("lsm-profile")?,
        lsm_mount_context: text("lsm-mount-context")?,
    })
}

fn images(found: &Matches) -> Result<Images> {
    let not_network = |name: &&str| *name != "network";
    if let Some(name) = found.texts("empty-ns")?.into_iter().find(not_network) {
        return Err(usage(format!("namespace {name:?} is not supported")));
    }
    Ok(Images {
        path: path(found, "image-path").unwrap_or_else(|| "checkpoint".into()),
        work_path: path(found, "work-path"),
        tcp_established: found.on("tcp-established"),
        ext_unix_sk: found.on("ext-unix-sk"),
        shell_job: found.on("shell-job"),
        file_locks: found.on("file-locks"),
        auto_dedup: found.on("auto-dedup"),
        lazy_pages: found.on("lazy-pages"),
        cgroups: match found.text("manage-cgroups-mode")?.unwrap_or_default() {
            "" => CgroupsMode::Default,
            "ignore" => CgroupsMode::Ignore,
            "soft" => CgroupsMode::Soft,
            "full" => CgroupsMode::Full,
            "strict" => CgroupsMode::Strict,
            _ => return Err(usage("invalid manage-cgroups-mode value")),
        },
        network_lock: match found.text("network-lock")?.unwrap_or_default() {
            "" => None,
            "iptables" => Some(NetworkLock::Iptables),
            "nftables" => Some(NetworkLock::Nftables),
            "skip" => Some(NetworkLock::Skip),
            _ => return Err(usage("unknown network lock method specified")),
        },
    })
}

/// An address of IPv6 stands in brackets.
fn page_server(text: &str) -> Result<PageServer> {
    let parts = text.rsplit_once(':');
    let parts = parts.map(|(address, port)| {
        let inner = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
        (inner.unwrap_or(address), port)
    });
    let Some((address, port)) = parts.filter(|(a, p)| !a.is_empty() && !p.is_empty()) else {
        return Err(usage(
            "Use --page-server ADDRESS:PORT to specify page server",
        ));
    };
    let port = values::decimal(port).and_then(|port| u16::try_from(port).ok());
    let port = port.filter(|port| *port > 0);
    Ok(PageServer {
        address: address.to_owned(),
        port: port.ok_or_else(|| usage("Invalid port number"))?.into(),
    })
}

fn path(found: &Matches, name: &str) -> Option<PathBuf> {
    let value = found.value(name).filter(|path| !path.is_empty());
    value.map(PathBuf::from)
}
