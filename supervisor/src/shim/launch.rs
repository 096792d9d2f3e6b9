//! Running a shim's binary: `start`, and `delete` for one that has died.
//!
//! Blocking calls, for a thread that may block.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use protobuf::{Message, MessageField};

use super::{Exit, nanoseconds};
use crate::fault::{Fault, Result, Tried as _};
use crate::host::{Host, NAMESPACE};
use crate::protos::containers::Ids;
use ::shim::protos::bootstrap::{BootstrapParams, BootstrapResult, Extension};
use ::shim::protos::pack;
use ::shim::protos::runc_options::Options;
use ::shim::protos::task::DeleteResponse;
use protobuf::well_known_types::any::Any;

/// More than a shim has to say.
const MOST_OUTPUT: u64 = 1 << 20;

/// Which shim is run, and with which runtime.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    program: PathBuf,
    /// It is ours: knows the newer protocol of `start`, and writes logs.
    pub(crate) ours: bool,
    /// For the shim; none for one that is not ours.
    pub(crate) options: Option<Any>,
}

impl Launch {
    /// `runtime` is empty, an OCI runtime's name or path, or a shim's name (io.containerd.runc.v2). The streams of a container with ids of
    /// its own are its root's; who only cleans up needs none.
    pub(crate) fn new(host: &Host, runtime: &str, ids: Option<&Ids>) -> Result<Self> {
        if let Some(name) = runtime.strip_prefix("io.containerd.") {
            let name = format!("containerd-shim-{}", name.replace('.', "-"));
            return Ok(Self {
                program: crate::host::program(&name)?,
                ours: false,
                options: None,
            });
        }
        let runtime = match runtime {
            "" | "caisson" => host.runtime.clone(),
            path if path.starts_with('/') => PathBuf::from(path),
            name => crate::host::program(name)?,
        };
        let options = Options {
            binary_name: runtime.display().to_string(),
            root: host.state.join("runtimes").display().to_string(),
            io_uid: ids.map_or(0, |ids| ids.first_uid),
            io_gid: ids.map_or(0, |ids| ids.first_gid),
            ..Default::default()
        };
        let options =
            pack("containerd.runc.v1.Options", &options).tried(|| "encode options".into())?;
        Ok(Self {
            program: host.shim.clone(),
            ours: true,
            options: Some(options),
        })
    }

    /// What is not there is refused before there is a container that would need it.
    pub(crate) fn check(host: &Host, runtime: &str) -> Result<()> {
        let what = || format!("find the runtime '{runtime}'");
        Self::new(host, runtime, None).map_err(|fault| fault.during(what()))?;
        if runtime.starts_with('/') && !Path::new(runtime).is_file() {
            let text = format!("{}: there is no such file", what());
            return Err(Fault::not_found(text));
        }
        Ok(())
    }

    /// Makes the serving shim of the container whose bundle that is: its address, for [`super::Shim::connect`].
    pub(crate) fn start(&self, host: &Host, id: &str, bundle: &Path) -> Result<String> {
        let parameters = BootstrapParams {
            instance_id: id.into(),
            namespace: NAMESPACE.into(),
            containerd_ttrpc_address: host.socket.display().to_string(),
            socket_dir: host.sockets().display().to_string(),
            extensions: vec![Extension {
                value: MessageField(self.options.clone().map(Box::new)),
                ..Default::default()
            }],
            ..Default::default()
        };
        let input = if self.ours {
            parameters.write_to_bytes().tried(|| "encode".into())?
        } else {
            vec![]
        };
        let mut command = command(&self.program, host, id, bundle);
        let output = run(command.arg("start"), &input)?;
        if self.ours {
            let result = BootstrapResult::parse_from_bytes(&output)
                .tried(|| format!("read the answer of {}", self.program.display()))?;
            return Ok(format!("{} {}", result.version, result.address));
        }
        let text = String::from_utf8_lossy(&output).trim().to_owned();
        match serde_json::from_str::<serde_json::Value>(&text) {
            Ok(said) => Ok(format!(
                "{} {}",
                said["version"].as_u64().unwrap_or(2),
                said["address"].as_str().unwrap_or_default()
            )),
            Err(_) => Ok(format!("2 {text}")),
        }
    }
}

/// Has the shim's binary clean up after a shim that has died: how the container ended, if that is known.
pub(crate) fn clean_up(launch: &Launch, host: &Host, id: &str, bundle: &Path) -> Result<Exit> {
    let mut command = command(&launch.program, host, id, bundle);
    command.arg("-bundle").arg(bundle).arg("delete");
    let output = run(&mut command, &[])?;
    let response = DeleteResponse::parse_from_bytes(&output)
        .tried(|| format!("read the answer of {} delete", launch.program.display()))?;
    Ok(Exit {
        code: response.exit_status,
        at: nanoseconds(&response.exited_at),
    })
}

fn command(program: &Path, host: &Host, id: &str, bundle: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .args(["-namespace", NAMESPACE, "-id", id, "-address"])
        .arg(&host.socket)
        .current_dir(bundle)
        .env("TTRPC_ADDRESS", &host.socket)
        .env_remove("NOTIFY_SOCKET");
    crate::sys::with_descriptors(&mut command, host.descriptors);
    command
}

fn run(command: &mut Command, input: &[u8]) -> Result<Vec<u8>> {
    let program = command.get_program().to_string_lossy().into_owned();
    // What it is about to make, the next daemon would not find.
    crate::sys::dies_with_us(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .tried(|| format!("run {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read it says why, or needs none of it.
        stdin.write_all(input).ok();
    }
    let mut output = vec![];
    if let Some(stdout) = child.stdout.take() {
        stdout
            .take(MOST_OUTPUT)
            .read_to_end(&mut output)
            .tried(|| format!("read what {program} says"))?;
    }
    let ended = child
        .wait_with_output()
        .tried(|| format!("wait for {program}"))?;
    if ended.status.success() {
        return Ok(output);
    }
    let said = [&output[..], &ended.stderr[..]].concat();
    Err(Fault::unknown(
        String::from_utf8_lossy(&said).trim().to_owned(),
    ))
}
