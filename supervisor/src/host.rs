//! Where the daemon keeps things and which programs it runs. Decided once, at its start.

use std::env;
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit};

use crate::fault::{Fault, Result, Tried as _};

/// What a machine's one daemon uses, beside the store's root; tests and others who want more than one name directories of their own.
pub(crate) const STATE: &str = "/run/caisson";

/// The namespace of all containers at the shims and the runtime.
pub(crate) const NAMESPACE: &str = "caisson";
/// The default shim and its runtime.
const SHIM: &str = "containerd-shim-caisson-v2";
const RUNTIME: &str = "caisson";
const SOCKETS: &str = "s";
/// Bytes of a socket's address (unix(7)), and what is left for a directory with a shim's name in it: a digest.
const ADDRESS: usize = 107;
const LONGEST: usize = ADDRESS - "/".len() - 64;
/// What separates options, layers and the parts of URIs, or takes the meaning from what follows.
const SEPARATORS: [char; 6] = [':', ',', '\\', '?', '%', '#'];

/// This daemon's places and programs.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// What survives a reboot.
    pub(crate) root: PathBuf,
    /// What does not: bundles and sockets.
    pub(crate) state: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) shim: PathBuf,
    pub(crate) runtime: PathBuf,
    /// This program, which is also the init of containers that ask for one.
    pub(crate) daemon: PathBuf,
    /// The soft and the hard limit of descriptors that we were started with, and that shims and containers get.
    pub(crate) descriptors: (u64, u64),
}

impl Host {
    pub(crate) fn new(root: PathBuf, state: PathBuf, socket: PathBuf) -> Result<Self> {
        let daemon = env::current_exe()
            .map_err(|error| Fault::unknown(format!("find this program: {error}")))?;
        // Shims have working directories of their own.
        let absolute = |path: PathBuf| {
            std::path::absolute(&path).tried(|| format!("find out where {} is", path.display()))
        };
        Ok(Self {
            shim: program(SHIM)?,
            runtime: program(RUNTIME)?,
            root: absolute(root).and_then(plain)?,
            state: absolute(state)?,
            socket: absolute(socket).and_then(addressable)?,
            daemon,
            descriptors: getrlimit(Resource::RLIMIT_NOFILE)
                .tried(|| "read the limit of descriptors".into())?,
        })
    }

    /// A container's bundle.
    pub(crate) fn bundle(&self, id: &str) -> PathBuf {
        self.state.join("bundles").join(id)
    }

    /// The directory of a container's log.
    pub(crate) fn log(&self, id: &str) -> PathBuf {
        self.root.join("containers").join(id)
    }

    /// The directory with the shims' sockets: where the machine's one daemon has them, if their addresses could not have the path of our own. Their names
    /// are digests of what they are for, our socket included, so that no other daemon has the same.
    pub(crate) fn sockets(&self) -> PathBuf {
        let own = self.state.join(SOCKETS);
        match own.as_os_str().len() <= LONGEST {
            true => own,
            false => Path::new(STATE).join(SOCKETS),
        }
    }

    pub(crate) fn volume(&self, name: &str) -> PathBuf {
        self.root.join("volumes").join(name)
    }
}

/// A root as layers are named by in the options of a mount, for the kernel and for all shims, and logs in URIs.
pub(crate) fn plain(root: PathBuf) -> Result<PathBuf> {
    match root.to_str() {
        Some(text) if !text.contains(SEPARATORS) => Ok(root),
        _ => Err(Fault::new(format!(
            "the root {} cannot have containers: no ':', ',', '\\', '?', '%' or '#' may be in its path, which is to be UTF-8 (name another with --root)",
            root.display()
        ))),
    }
}

fn addressable(socket: PathBuf) -> Result<PathBuf> {
    match socket.as_os_str().len() {
        ..=ADDRESS => Ok(socket),
        length => Err(Fault::new(format!(
            "the socket {} has a path of {length} bytes, and {ADDRESS} are possible (name another with --address)",
            socket.display()
        ))),
    }
}

/// A program beside this one, or in PATH.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let beside = env::current_exe()
        .ok()
        .and_then(|path| path.parent().map(Path::to_owned));
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = beside.into_iter().chain(env::split_paths(&path));
    let mut candidates = directories.map(|directory| directory.join(name));
    candidates.find(|path| path.is_file()).ok_or_else(|| {
        Fault::not_found(format!("{name} is neither beside this program nor in PATH"))
    })
}
