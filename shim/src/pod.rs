//! A pod without a pause container: what its containers share, and whether it is up. Made by the sandbox service, used by Create.
//!
//! Runs in the serving shim. The pod has no process. Its network namespace is the client's, by its path; namespaces for IPC and host name are
//! made here and held by descriptors, so that the kernel removes them with the shim at the latest; files that every container
//! sees are in the sandbox' bundle, of which one is a mount, `shm`: whoever removes the bundle undoes that ([`detach`]).
//!
//! A container joins by its config.json, which [`Pod::join`] edits: containerd writes there the namespaces of the sandbox' process, and we
//! have told it that this is process 0. Where an edit is forgotten, a container cannot be made; it never comes into the host's by mistake.

mod files;
mod namespaces;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use protobuf::Message;
use tokio::sync::watch;

use self::files::Files;
use self::namespaces::Namespaces;
use crate::bundle;
use crate::cgroup;
use crate::error::{Error, Kind, Result};
use crate::protos::pod::{LinuxPodSandboxConfig, NamespaceMode, NamespaceOption, PodSandboxConfig};
use crate::protos::sandbox::CreateSandboxRequest;

pub(crate) use self::files::detach;

#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) made: SystemTime,
    /// Empty if its network is the host's.
    pub(crate) network: String,
    namespaces: Namespaces,
    files: Option<Files>,
    /// As the client names the group that all of its containers are in; empty if it does not.
    group: String,
    state: watch::Sender<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Made,
    Ready,
    /// Containers are being ended, none comes.
    Stopping,
    Stopped(SystemTime),
}

impl Pod {
    /// What fails leaves nothing behind but files in the bundle.
    pub(crate) fn make(request: CreateSandboxRequest) -> Result<Self> {
        if !request.rootfs.is_empty() {
            let story = "a sandbox without a process has no root file system";
            return Err(Error::invalid(story));
        }
        let config = configuration(&request)?;
        let linux = config.as_ref().and_then(|config| config.linux.as_ref());
        let options = options(linux);
        if let Some(mode) = options.and_then(|options| options.userns_options.as_ref())
            && mode.mode.enum_value() != Ok(NamespaceMode::NODE)
        {
            let story = "a sandbox without a process cannot hold a user namespace";
            return Err(Error::new(Kind::Unimplemented, story));
        }
        let bundle = PathBuf::from(&request.bundle_path);
        let hostname = config.as_ref().map_or("", |config| &config.hostname);
        let namespaces = Namespaces::make(&request.netns_path, options, hostname, linux)?;
        let files = config
            .as_ref()
            .map(|config| Files::make(&bundle, config, namespaces.own_ipc()))
            .transpose()?;
        Ok(Self {
            id: request.sandbox_id,
            made: SystemTime::now(),
            network: request.netns_path,
            namespaces,
            files,
            group: linux.map_or_else(String::new, |linux| linux.cgroup_parent.clone()),
            state: watch::Sender::new(State::Made),
            bundle,
        })
    }

    pub(crate) fn state(&self) -> State {
        *self.state.borrow()
    }

    pub(crate) fn start(&self) -> Result<()> {
        match self.state() {
            State::Made => self.state.send_replace(State::Ready),
            _ => return Err(Error::precondition("the sandbox has been started before")),
        };
        Ok(())
    }

    /// From now on no container comes. False if it was stopped before, or is being stopped.
    pub(crate) fn close(&self) -> bool {
        let open = matches!(self.state(), State::Made | State::Ready);
        if open {
            self.state.send_replace(State::Stopping);
        }
        open
    }

    /// Its containers could not be ended: the client may try again.
    pub(crate) fn reopen(&self) {
        self.state.send_replace(State::Ready);
    }

    pub(crate) fn set_stopped(&self) {
        self.state.send_replace(State::Stopped(SystemTime::now()));
    }

    /// Waits until it is stopped, and says when that was.
    pub(crate) async fn stopped(&self) -> SystemTime {
        loop {
            if let State::Stopped(at) = self
                .becomes(|state| matches!(state, State::Stopped(_)))
                .await
            {
                return at;
            }
        }
    }

    /// Waits until whoever is stopping it has done so, or has failed. Whether it is stopped then.
    pub(crate) async fn settled(&self) -> bool {
        let state = self.becomes(|state| *state != State::Stopping).await;
        matches!(state, State::Stopped(_))
    }

    async fn becomes(&self, wanted: impl FnMut(&State) -> bool) -> State {
        let mut states = self.state.subscribe();
        // The sender lives as long as `self`.
        states
            .wait_for(wanted)
            .await
            .map_or(State::Stopping, |state| *state)
    }

    pub(crate) fn admits(&self) -> Result<()> {
        match self.state() {
            State::Ready => Ok(()),
            _ => Err(Error::precondition(format!(
                "sandbox {} is not running",
                self.id
            ))),
        }
    }

    /// Has a container, which was not created yet, share what the pod has: edits its config.json.
    pub(crate) fn join(&self, bundle: &Path) -> Result<()> {
        let path = bundle.join("config.json");
        let failed = |error| Error::os(format!("have {} join its pod", path.display()), error);
        let mut config = bundle::Document::read(&path).map_err(failed)?;
        self.namespaces.join(&mut config)?;
        if let Some(files) = &self.files {
            files.join(&mut config).map_err(failed)?;
        }
        config.write(&path).map_err(failed)
    }

    /// The directory of the group that all containers are in, if the client has named it.
    pub(crate) fn group(&self) -> Result<PathBuf> {
        if self.group.is_empty() {
            return Err(Error::not_found("the sandbox has no group"));
        }
        let hierarchy = cgroup::hierarchy();
        let hierarchy = hierarchy.map_err(|error| Error::os("find the sandbox' group", error))?;
        Ok(hierarchy.join(cgroup::directory(&self.group)))
    }

    /// Undoes what would outlive the shim.
    pub(crate) fn undo(&self) -> Result<()> {
        detach(&self.bundle)
    }
}

/// CRI's description of the pod; other clients need not have one.
fn configuration(request: &CreateSandboxRequest) -> Result<Option<PodSandboxConfig>> {
    let Some(any) = request.options.as_ref() else {
        return Ok(None);
    };
    if !any.type_url.ends_with("runtime.v1.PodSandboxConfig") {
        return Ok(None);
    }
    PodSandboxConfig::parse_from_bytes(&any.value)
        .map(Some)
        .map_err(|error| Error::invalid(format!("the sandbox' options: {error}")))
}

fn options(linux: Option<&LinuxPodSandboxConfig>) -> Option<&NamespaceOption> {
    linux?.security_context.as_ref()?.namespace_options.as_ref()
}

/// Of a file that is read from the host: what is not there is empty.
fn host_file(path: &str) -> std::io::Result<Vec<u8>> {
    fs::read(path).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(Vec::new()),
        _ => Err(error),
    })
}
