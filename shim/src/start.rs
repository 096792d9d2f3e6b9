//! `start`: finds the serving shim of the group or makes it, and says where it listens.
//!
//! Runs in the bundle, for a moment. containerd takes standard output and standard error together as the answer, and it waits until nobody
//! holds them any more: nothing is printed but the answer, and the serving shim gets neither.

use std::env;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::{CommandExt, parent_id};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use protobuf::Message;
use protobuf::well_known_types::any::Any;

use crate::bundle;
use crate::cgroup;
use crate::cli::Invocation;
use crate::options::Options;
use crate::protos::bootstrap::{BootstrapParams, BootstrapResult};
use crate::{memory, socket, sys};

/// More than any client sends.
const MOST_INPUT: u64 = 10 * 1024 * 1024;

pub(crate) fn run(invocation: &Invocation) -> Result<()> {
    let request = Request::read(io::stdin().lock(), invocation)?;
    let bundle = Path::new(".");
    let socket = socket::of(bundle, request.socket_dir.as_deref(), invocation)?;
    let directory = socket.parent().unwrap_or(Path::new("/"));
    // For `delete`, which is not told.
    bundle::write_sockets(bundle, directory).context("link the directory of sockets")?;
    if let Some(listener) = socket::bind(&socket)? {
        spawn(invocation, listener, &request).inspect_err(|_| {
            // The error is the one to report.
            fs::remove_file(&socket).ok();
        })?;
    }
    let address = format!("unix://{}", socket.display());
    if !request.bootstrap {
        // containerd 1.7 finds the shim by it when it has been restarted; later ones note themselves what we answer.
        bundle::write_address(bundle, &address).context("write the file address")?;
    }
    let answer = request.answer(&address)?;
    io::stdout().write_all(&answer).context("write the answer")
}

/// What containerd says on standard input.
struct Request {
    /// By the protocol of containerd 2.3.
    bootstrap: bool,
    socket_dir: Option<PathBuf>,
    ttrpc_address: String,
    debug: bool,
    options: Options,
}

impl Request {
    fn read(input: impl Read, invocation: &Invocation) -> Result<Self> {
        let mut bytes = Vec::new();
        input
            .take(MOST_INPUT)
            .read_to_end(&mut bytes)
            .context("read standard input")?;
        // Options alone decode as parameters as well: their type and value come out as id and namespace, which are not those of the command line.
        let parameters = BootstrapParams::parse_from_bytes(&bytes).ok();
        let parameters = parameters.filter(|said| {
            said.instance_id == invocation.id && said.namespace == invocation.namespace
        });
        let Some(parameters) = parameters else {
            let any = Any::parse_from_bytes(&bytes).context("decode standard input")?;
            return Ok(Self {
                bootstrap: false,
                socket_dir: None,
                ttrpc_address: String::new(),
                debug: invocation.debug,
                options: Options::from_any(Some(&any))?,
            });
        };
        let options = parameters
            .extensions
            .iter()
            .filter_map(|extension| extension.value.as_ref())
            .find(|any| any.type_url.ends_with(".Options"));
        Ok(Self {
            bootstrap: true,
            socket_dir: (!parameters.socket_dir.is_empty())
                .then(|| (&parameters.socket_dir).into()),
            options: Options::from_any(options)?,
            ttrpc_address: parameters.containerd_ttrpc_address,
            // Below INFO.
            debug: invocation.debug || parameters.log_level < 0,
        })
    }

    fn answer(&self, address: &str) -> Result<Vec<u8>> {
        if !self.bootstrap {
            // containerd 1.7 refuses a version above 2, and later ones call task.v2 then.
            return Ok(serde_json::to_vec(
                &serde_json::json!({ "version": 2, "address": address, "protocol": "ttrpc" }),
            )?);
        }
        let result = BootstrapResult {
            version: 3,
            address: address.to_owned(),
            protocol: "ttrpc".into(),
            ..Default::default()
        };
        Ok(result.write_to_bytes()?)
    }
}

/// Makes the serving shim. Clients may connect at once: the socket listens already.
fn spawn(invocation: &Invocation, listener: UnixListener, request: &Request) -> Result<()> {
    let mut command = Command::new(env::current_exe().context("find this program")?);
    command.args([
        "-namespace",
        &invocation.namespace,
        "-id",
        &invocation.id,
        "-address",
        &invocation.address,
    ]);
    if request.debug {
        command.arg("-debug");
    }
    if !request.ttrpc_address.is_empty() {
        command.env("TTRPC_ADDRESS", &request.ttrpc_address);
    }
    if env::var_os("SCHED_CORE").is_some_and(|value| !value.is_empty()) {
        // The shim inherits it, and so do its containers: none of others' runs beside them on a core.
        sys::sched_core().context("enable core scheduling")?;
    }
    memory::prepare(&mut command);
    command
        .stdin(OwnedFd::from(listener))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    let mut shim = command.spawn().context("run the serving shim")?;
    settle(shim.id(), &request.options).inspect_err(|_| {
        // The error is the one to report; a shim that ended by itself is as good.
        shim.kill().and_then(|()| shim.wait()).ok();
    })
}

/// Puts the serving shim where it belongs: into the group that the options name, and behind containerd in the order of the OOM killer.
fn settle(pid: u32, options: &Options) -> Result<()> {
    if !options.shim_cgroup.is_empty() {
        let group = cgroup::hierarchy()?.join(options.shim_cgroup.trim_start_matches('/'));
        put(&group.join("cgroup.procs"), pid)?;
    }
    let adjustment = fs::read_to_string(format!("/proc/{}/oom_score_adj", parent_id()))
        .context("read containerd's oom_score_adj")?;
    let adjustment: i32 = adjustment
        .trim()
        .parse()
        .context("read containerd's oom_score_adj")?;
    put(
        Path::new(&format!("/proc/{pid}/oom_score_adj")),
        (adjustment + 1).min(1000),
    )
}

fn put(path: &Path, value: impl std::fmt::Display) -> Result<()> {
    let written = OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.to_string().as_bytes()));
    written.with_context(|| format!("write {value} to {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Action;
    use crate::protos::bootstrap::Extension;
    use crate::protos::{pack, runc_options};
    use protobuf::MessageField;

    fn invocation() -> Invocation {
        Invocation {
            action: Action::Start,
            namespace: "default".into(),
            id: "web".into(),
            address: "/run/containerd/containerd.sock".into(),
            bundle: String::new(),
            debug: false,
        }
    }

    fn options() -> Any {
        pack(
            "containerd.runc.v1.Options",
            &runc_options::Options {
                binary_name: "crun".into(),
                ..Default::default()
            },
        )
        .unwrap()
    }

    #[test]
    fn options_alone_are_the_older_protocol() {
        let request =
            Request::read(&options().write_to_bytes().unwrap()[..], &invocation()).unwrap();
        assert!(!request.bootstrap);
        assert_eq!(request.options.binary_name, "crun");
        assert_eq!(
            request.answer("unix:///x").unwrap(),
            br#"{"address":"unix:///x","protocol":"ttrpc","version":2}"#
        );
    }

    #[test]
    fn nothing_is_the_older_protocol() {
        let request = Request::read(&b""[..], &invocation()).unwrap();
        assert!(!request.bootstrap);
        assert_eq!(request.options, Options::default());
    }

    #[test]
    fn parameters_are_the_newer_protocol() {
        let parameters = BootstrapParams {
            instance_id: "web".into(),
            namespace: "default".into(),
            log_level: -4,
            containerd_ttrpc_address: "/run/containerd/containerd.sock.ttrpc".into(),
            extensions: vec![Extension {
                value: MessageField::some(options()),
                ..Default::default()
            }],
            socket_dir: "/run/other".into(),
            ..Default::default()
        };
        let request =
            Request::read(&parameters.write_to_bytes().unwrap()[..], &invocation()).unwrap();
        assert!(request.bootstrap && request.debug);
        assert_eq!(request.socket_dir.as_deref(), Some(Path::new("/run/other")));
        assert_eq!(request.options.binary_name, "crun");
        let result =
            BootstrapResult::parse_from_bytes(&request.answer("unix:///x").unwrap()).unwrap();
        assert_eq!(
            (result.version, &*result.address, &*result.protocol),
            (3, "unix:///x", "ttrpc")
        );
    }
}
