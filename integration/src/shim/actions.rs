//! What containerd does with files, commands and sockets to have a shim: the bundle's directory, the actions, the connection.

use super::{Protocol, Shim};
use crate::bundle::Bundle;
use crate::children;
use crate::runtime::{self, Lines};
use crate::{peer, place};
use protobuf::{Message, MessageField};
use shim::protos::bootstrap::{BootstrapParams, BootstrapResult, Extension};
use shim::protos::task_ttrpc::TaskClient;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use ttrpc::r#async::Client;
use ttrpc::r#async::transport::Socket;

/// containerd's directory for a container.
pub(super) fn directory(bundle: &Bundle, namespace: &str, id: &str) -> PathBuf {
    bundle.scratch.path().join("tasks").join(namespace).join(id)
}

/// What containerd puts there: the configuration, and the fifo for the log.
#[track_caller]
pub(super) fn prepare(bundle: &Bundle, namespace: &str, id: &str) {
    let directory = directory(bundle, namespace, id);
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory);
    made.unwrap_or_else(|error| panic!("make {}: {error}", directory.display()));
    let mut config = bundle.config.clone();
    if config
        .0
        .pointer("/root/path")
        .is_some_and(|path| path == "rootfs")
    {
        config.set("/root/path", bundle.rootfs().display().to_string());
    }
    // The harness finds what is left of a container by its id.
    if config.0.pointer("/linux/cgroupsPath").is_none() {
        config.set("/linux/cgroupsPath", format!("/{id}"));
    }
    place::write(
        &directory.join("config.json"),
        peer::adapted(&config).0.to_string(),
    );
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
    for name in ["log", "stdout"] {
        nix::unistd::mkfifo(&directory.join(name), mode)
            .unwrap_or_else(|errno| panic!("make the fifo {name}: {errno}"));
    }
}

/// The client's end of a fifo, open before the shim's is, and for writing too: it neither waits for the shim nor sees an end.
#[track_caller]
pub(super) fn output(fifo: &str) -> Lines {
    let opened = fs::OpenOptions::new().read(true).write(true).open(fifo);
    Lines::new(
        opened
            .unwrap_or_else(|error| panic!("open {fifo}: {error}"))
            .into(),
    )
}

pub(super) fn command(bundle: &Bundle, namespace: &str, id: &str, wrapper: &[String]) -> Command {
    let mut command = match wrapper {
        [] => Command::new(place::shim()),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(place::shim());
            command
        }
    };
    command.args([
        "-namespace",
        namespace,
        "-id",
        id,
        "-address",
        "/run/containerd/containerd.sock",
    ]);
    command.args(["-publish-binary", "/usr/bin/containerd"]);
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("TTRPC_ADDRESS", bundle.scratch.name("events.sock"));
    command
}

/// What containerd says to `start` from 2.3 on.
#[track_caller]
pub(super) fn parameters(shim: &Shim, id: &str) -> Vec<u8> {
    let parameters = BootstrapParams {
        instance_id: id.into(),
        namespace: shim.namespace.clone(),
        containerd_ttrpc_address: shim.bundle.scratch.name("events.sock"),
        socket_dir: shim.sockets.display().to_string(),
        extensions: vec![Extension {
            value: MessageField::some(shim.any_options()),
            ..Default::default()
        }],
        ..Default::default()
    };
    parameters
        .write_to_bytes()
        .unwrap_or_else(|error| panic!("encode: {error}"))
}

/// Runs the action `start`.
#[track_caller]
pub(super) fn start(protocol: Protocol, shim: &Shim, id: &str) -> Vec<u8> {
    let (bundle, namespace) = (&shim.bundle, &shim.namespace);
    let mut command = shim.command(id);
    command
        .arg("start")
        .current_dir(directory(bundle, namespace, id));
    let input = match protocol {
        Protocol::Json => shim
            .any_options()
            .write_to_bytes()
            .unwrap_or_else(|error| panic!("encode: {error}")),
        Protocol::Bootstrap => parameters(shim, id),
    };
    run(&mut command, &input, true)
}

/// Runs a command to the end of its output, as containerd does: it waits until nobody holds the pipe any more.
#[track_caller]
pub(super) fn run(command: &mut Command, input: &[u8], errors_too: bool) -> Vec<u8> {
    let line = runtime::describe(command);
    let mut stdin = runtime::memory_file();
    let fed = stdin.write_all(input).and_then(|()| stdin.rewind());
    fed.unwrap_or_else(|error| panic!("write the input: {error}"));
    let (reader, writer) = runtime::pipe();
    let errors = runtime::memory_file();
    let stderr = if errors_too {
        writer.try_clone().map(Stdio::from)
    } else {
        Ok(runtime::share(&errors))
    };
    command.stdin(Stdio::from(stdin)).stdout(writer);
    command.stderr(stderr.unwrap_or_else(|error| panic!("duplicate the pipe: {error}")));
    let (pid, since) = children::spawn(command);
    // The writing ends in it.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (mut output, mut reader) = (Vec::new(), File::from(reader));
    let mut buffer = [0; 4096];
    loop {
        assert!(
            runtime::readable(&reader),
            "something holds the output of {line}"
        );
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => output.extend_from_slice(&buffer[..count]),
            Err(error) => panic!("read the output of {line}: {error}"),
        }
    }
    let status = runtime::wait_for(pid, since, &line);
    let said = [
        String::from_utf8_lossy(&output).into_owned(),
        runtime::contents(&errors),
    ]
    .concat();
    assert!(status.success(), "{line}: {status}: {said}");
    output
}

/// The socket's path, out of what `start` said, which must be of the right form.
#[track_caller]
pub(super) fn address_of(protocol: Protocol, said: &[u8]) -> PathBuf {
    let (version, address, transport) = match protocol {
        Protocol::Json => {
            let said: serde_json::Value = serde_json::from_slice(said)
                .unwrap_or_else(|error| panic!("{:?}: {error}", String::from_utf8_lossy(said)));
            let text = |key: &str| said[key].as_str().unwrap_or_default().to_owned();
            (said["version"].as_i64(), text("address"), text("protocol"))
        }
        Protocol::Bootstrap => {
            let said = BootstrapResult::parse_from_bytes(said)
                .unwrap_or_else(|error| panic!("{:?}: {error}", String::from_utf8_lossy(said)));
            (Some(said.version.into()), said.address, said.protocol)
        }
    };
    let expected = if protocol == Protocol::Json { 2 } else { 3 };
    assert_eq!((version, &*transport), (Some(expected), "ttrpc"));
    let path = address.strip_prefix("unix://");
    path.unwrap_or_else(|| panic!("an address: {address}"))
        .into()
}

pub(super) async fn connect(socket: &Path) -> TaskClient {
    TaskClient::new(client(socket).await)
}

pub(super) async fn client(socket: &Path) -> Client {
    let address = format!("unix://{}", socket.display());
    let connected = Socket::connect(&address).await;
    Client::new(connected.unwrap_or_else(|error| panic!("connect to {address}: {error}")))
}
