//! The connection to the daemon, which is started if none runs: by systemd, where that has a unit for it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;
use tokio::net::UnixStream;
use ttrpc::r#async::Client;
use ttrpc::r#async::transport::Socket;
use ttrpc::context::{Context, with_timeout};

use crate::fault::{Fault, Kind, Result, Tried as _};
use crate::protos::containers_ttrpc::ContainersClient;
use crate::protos::images_ttrpc::ImagesClient;
use crate::protos::system_ttrpc::{SystemClient, VolumesClient};

/// What the daemon that is started on demand has, and containers inherit: as in `caissond.service`.
const DESCRIPTORS: (u64, u64) = (1024, 524_288);

/// The unit that is the daemon where systemd knows it.
const UNIT: &str = "caissond.service";
/// Names the unit of a daemon at other places.
const UNIT_VARIABLE: &str = "CAISSON_UNIT";

/// Where the daemon is, or is to be.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) address: Option<PathBuf>,
    pub(super) root: PathBuf,
    pub(super) state: PathBuf,
}

impl Place {
    fn socket(&self) -> PathBuf {
        self.address
            .clone()
            .unwrap_or_else(|| self.state.join("caissond.sock"))
    }
}

/// The daemon's services over one connection.
pub(super) struct Daemon {
    pub(super) containers: ContainersClient,
    pub(super) images: ImagesClient,
    pub(super) system: SystemClient,
    pub(super) volumes: VolumesClient,
}

impl Daemon {
    pub(super) async fn connect(place: &Place) -> Result<Self> {
        let socket = place.socket();
        let stream = match UnixStream::connect(&socket).await {
            Ok(stream) => stream,
            // A socket that is named belongs to a daemon with a store of its own, which nobody here knows.
            Err(error) if geteuid().is_root() && place.address.is_none() => {
                start(place, &error)?;
                let stream = UnixStream::connect(&socket).await;
                stream.map_err(|error| unreachable(place, &error))?
            }
            Err(error) => return Err(unreachable(place, &error)),
        };
        Ok(Self::over(stream))
    }

    /// To one that runs.
    pub(super) async fn running(place: &Place) -> Result<Self> {
        let stream = UnixStream::connect(place.socket()).await;
        let stream = stream.map_err(|error| unreachable(place, &error))?;
        Ok(Self::over(stream))
    }

    fn over(stream: UnixStream) -> Self {
        let client = Client::new(Socket::new(stream));
        Self {
            containers: ContainersClient::new(client.clone()),
            images: ImagesClient::new(client.clone()),
            system: SystemClient::new(client.clone()),
            volumes: VolumesClient::new(client),
        }
    }
}

/// Without a deadline: what takes long takes long, and the user can interrupt it.
pub(super) fn patient() -> Context {
    with_timeout(0)
}

fn unreachable(place: &Place, error: &std::io::Error) -> Fault {
    let hint = if error.kind() == std::io::ErrorKind::PermissionDenied {
        "use root, or have the daemon started with --group"
    } else if place.address.is_some() {
        "a daemon whose socket is named is not started on demand; start caissond"
    } else {
        "it is started on demand as root only; start caissond, or name its socket with --address"
    };
    Fault::of(
        Kind::Unavailable,
        format!(
            "cannot reach the daemon at {}: {error} ({hint})",
            place.socket().display()
        ),
    )
}

/// Of the clients that start it. The directory is as the daemon makes it.
fn alone(place: &Place) -> Result<Flock<File>> {
    let mask = umask(Mode::from_bits_truncate(0o022));
    let made = DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(&place.state);
    umask(mask);
    made.tried(|| format!("make {}", place.state.display()))?;
    let lock = place.state.join("start.lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&lock);
    let file = file.tried(|| format!("open {}", lock.display()))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| Fault::unknown(format!("lock {}: {errno}", lock.display())))
}

/// Starts the daemon and waits until it listens, unless another client has just done so.
fn start(place: &Place, error: &std::io::Error) -> Result<()> {
    let _alone = alone(place)?;
    if std::os::unix::net::UnixStream::connect(place.socket()).is_ok() {
        return Ok(());
    }
    if let Some(unit) = unit(place) {
        return start_unit(&unit);
    }
    spawn(place, error)
}

/// The daemon's own unit, if there is one: another daemon would be in its way. It may be about to start, or between two.
fn unit(place: &Place) -> Option<String> {
    let named = std::env::var(UNIT_VARIABLE).ok();
    let usual = *place.root == *crate::store::ROOT && *place.state == *crate::host::STATE;
    let unit = named.or_else(|| usual.then(|| UNIT.to_owned()))?;
    // As sd_booted(3) does.
    if !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let shown = Command::new("systemctl")
        .args(["show", "--property=LoadState", "--value", &unit])
        .output();
    // Where there is no systemctl nobody has made a service of it. One that is masked, or has errors, is there all the same.
    let known = shown.is_ok_and(|shown| !matches!(&*shown.stdout, b"" | b"not-found\n"));
    known.then_some(unit)
}

/// Comes back when it listens.
fn start_unit(unit: &str) -> Result<()> {
    let what = || format!("start the daemon: systemctl start {unit}");
    let started = Command::new("systemctl").args(["start", unit]).output();
    let started = started.tried(what)?;
    if started.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&started.stderr);
    Err(Fault::of(
        Kind::Unavailable,
        format!("{}: {}", what(), said.trim_end()),
    ))
}

/// Starts one of our own.
fn spawn(place: &Place, error: &std::io::Error) -> Result<()> {
    let program = crate::host::program("caissond").map_err(|fault| {
        Fault::of(
            fault.kind,
            format!("{fault}; {}", unreachable(place, error)),
        )
    })?;
    let log = place.state.join("caissond.log");
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&log);
    let file = file.tried(|| format!("open {}", log.display()))?;
    let mut command = Command::new(&program);
    command
        .arg("--root")
        .arg(&place.root)
        .arg("--state")
        .arg(&place.state);
    // Nor is it to be another one because of who was the first to need it.
    let ours = std::env::vars_os()
        .filter(|(name, _)| name == "PATH" || name.as_encoded_bytes().starts_with(b"CAISSON_"));
    command.env_clear().envs(ours);
    let limit = Resource::RLIMIT_NOFILE;
    let (soft, hard) = DESCRIPTORS;
    if setrlimit(limit, soft, hard).is_err() {
        // Without the right to raise the hard one.
        let changed = getrlimit(limit).and_then(|(_, own)| setrlimit(limit, soft.min(own), own));
        changed.tried(|| "set the limit of descriptors for the daemon".into())?;
    }
    // Its own process group: what a terminal sends us is not for it.
    command
        .process_group(0)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(file);
    let mut daemon = command
        .spawn()
        .tried(|| format!("run {}", program.display()))?;
    let mut said = vec![];
    if let Some(mut stdout) = daemon.stdout.take() {
        // It says so and closes its standard output when it listens; it closes that without a word when it ends.
        stdout
            .read_to_end(&mut said)
            .tried(|| "wait for the daemon".into())?;
    }
    if !said.is_empty() {
        return Ok(());
    }
    let status = daemon.wait().tried(|| "wait for the daemon".into())?;
    let text = fs::read_to_string(&log).unwrap_or_default();
    let last = text.lines().last().unwrap_or("it said nothing");
    Err(Fault::of(
        Kind::Unavailable,
        format!("the daemon has ended ({status}): {last}"),
    ))
}
