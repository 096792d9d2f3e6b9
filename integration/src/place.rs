//! Where things are: the programs under test, and a scratch directory per test.
//!
//! Programs are found beside the test binary or through the environment, so that the binary can be copied to another machine.

use nix::unistd::{Gid, Uid, chown};
use std::env;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory that is removed with everything in it when it goes out of scope.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new empty directory that every user may enter.
    #[track_caller]
    pub fn new() -> Scratch {
        let path = env::temp_dir().join(unique("caisson-it"));
        fs::create_dir(&path).unwrap_or_else(|error| panic!("create {}: {error}", path.display()));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .unwrap_or_else(|error| panic!("chmod {}: {error}", path.display()));
        Scratch(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The path of something in it, as text for a command line.
    pub fn name(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// A file with these contents in it; directories are made as needed.
    #[track_caller]
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        write(&path, contents);
        path
    }

    /// A directory in it.
    #[track_caller]
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(&path)
            .unwrap_or_else(|error| panic!("create {}: {error}", path.display()));
        path
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Scratch::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let removed = fs::remove_dir_all(&self.0);
        // While a failed test unwinds, its own message is the one to read.
        if !std::thread::panicking() {
            removed.unwrap_or_else(|error| panic!("remove {}: {error}", self.0.display()));
        }
    }
}

/// A name that no other test and no other run of the suite uses; `word` says what for.
pub fn unique(word: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{word}-{}-{}", run(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A word for this run of the suite. Not the pid: in a pid namespace of its own every run has the same.
fn run() -> &'static str {
    static RUN: OnceLock<String> = OnceLock::new();
    RUN.get_or_init(|| format!("{:08x}", RandomState::new().build_hasher().finish() as u32))
}

/// Whether an id is one that [`unique`] made in this run. What is left of a container is looked for, and killed, by its
/// id, so it must not fit anything else.
pub(crate) fn is_unique(id: &str) -> bool {
    id.contains(&format!("-{}-", run()))
}

/// Replaces a file of the test's own scratch directory, which no container can reach while this runs.
#[track_caller]
pub fn write(path: &Path, contents: impl AsRef<[u8]>) {
    let parent = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent)
        .unwrap_or_else(|error| panic!("create {}: {error}", parent.display()));
    // A command that was started with the file before must find either text, whole.
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    fs::remove_file(&new).ok(); // There is none unless a write failed; any other trouble shows in the next line.
    let written = fs::File::create_new(&new)
        .and_then(|mut file| std::io::Write::write_all(&mut file, contents.as_ref()))
        .and_then(|()| fs::rename(&new, path));
    written.unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
}

/// The directory of a criu: the one beside this program, or in PATH.
pub fn criu() -> Option<PathBuf> {
    let program = beside("criu/criu").or_else(|| in_path(Path::new("criu")))?;
    program.parent().map(Path::to_owned)
}

/// The archive of a real image: in the directory that `IMAGES` names, or in one beside this program.
pub fn image(name: &str) -> Option<PathBuf> {
    let archive = format!("{name}.tar");
    match env::var_os("IMAGES") {
        Some(directory) => Some(Path::new(&directory).join(archive)).filter(|path| path.is_file()),
        None => beside(&format!("images/{archive}")),
    }
}

/// Gives a tree to another user.
#[track_caller]
pub fn give(path: &Path, uid: u32, gid: u32) {
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let flag = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
    nix::unistd::fchownat(nix::fcntl::AT_FDCWD, path, Some(user), Some(group), flag)
        .unwrap_or_else(|errno| panic!("chown {}: {errno}", path.display()));
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            give(&entry.path(), uid, gid);
        }
    }
}

/// The probe.
#[track_caller]
pub fn probe() -> PathBuf {
    program("PROBE", "probe")
        .unwrap_or_else(|| panic!("no probe beside {:?}; build it or set PROBE=", own()))
}

/// The program that runs another with system calls missing.
#[track_caller]
pub fn enosys() -> PathBuf {
    program("ENOSYS", "enosys")
        .unwrap_or_else(|| panic!("no enosys beside {:?}; build it or set ENOSYS=", own()))
}

/// The program that runs another and kills it at one of its system calls.
#[track_caller]
pub fn crash() -> PathBuf {
    program("CRASH", "crash")
        .unwrap_or_else(|| panic!("no crash beside {:?}; build it or set CRASH=", own()))
}

/// The shim under test.
#[track_caller]
pub fn shim() -> PathBuf {
    let name = "containerd-shim-caisson-v2";
    program("SHIM", name)
        .unwrap_or_else(|| panic!("no {name} beside {:?}; build it or set SHIM=", own()))
}

/// The daemon under test.
#[track_caller]
pub fn daemon() -> PathBuf {
    program("CAISSOND", "caissond")
        .unwrap_or_else(|| panic!("no caissond beside {:?}; build it or set CAISSOND=", own()))
}

/// The supervisor's client; the daemon is beside it.
#[track_caller]
pub fn caissonctl() -> PathBuf {
    program("CAISSONCTL", "caissonctl").unwrap_or_else(|| {
        panic!(
            "no caissonctl beside {:?}; build it or set CAISSONCTL=",
            own()
        )
    })
}

/// A static busybox, if there is one.
pub fn busybox() -> Option<PathBuf> {
    let path = env::var_os("BUSYBOX").map_or_else(|| PathBuf::from("/bin/busybox"), PathBuf::from);
    path.is_file().then_some(path)
}

/// The runtime under test.
#[track_caller]
pub fn runtime() -> PathBuf {
    let named = env::var_os("RUNTIME").map(PathBuf::from);
    match named {
        Some(path) if path.components().count() > 1 => path
            .canonicalize()
            .unwrap_or_else(|error| panic!("RUNTIME={}: {error}", path.display())),
        Some(name) => {
            in_path(&name).unwrap_or_else(|| panic!("RUNTIME={}: not in PATH", name.display()))
        }
        None => beside("caisson")
            .unwrap_or_else(|| panic!("no caisson beside {:?}; build it or set RUNTIME=", own())),
    }
}

/// The runc to compare with: what `PEER` names, or the one in PATH.
pub fn peer() -> Option<PathBuf> {
    env::var_os("PEER")
        .map(PathBuf::from)
        .or_else(|| in_path(Path::new("runc")))
}

fn program(variable: &str, name: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .map(PathBuf::from)
        .or_else(|| beside(name))
}

/// Cargo puts test binaries into `deps/`, one level below the programs, and the profile's directories beside each other.
fn beside(name: &str) -> Option<PathBuf> {
    let own = own()?;
    let directory = own.parent()?;
    let above = directory.parent()?;
    let release = above
        .parent()
        .map(|target| target.join("release").join(name));
    [Some(directory.join(name)), Some(above.join(name)), release]
        .into_iter()
        .flatten()
        .find(|path| path.is_file())
}

fn own() -> Option<PathBuf> {
    env::current_exe().ok()
}

/// A program of the machine.
pub fn in_path(name: &Path) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

/// Gives one file or directory to another user.
#[track_caller]
pub fn give_one(path: &Path, uid: u32, gid: u32) {
    chown(path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
        .unwrap_or_else(|errno| panic!("chown {}: {errno}", path.display()));
}

/// Makes a character device that everybody may use.
#[track_caller]
pub fn node(path: &Path, major: u64, minor: u64) {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    let mode = Mode::from_bits_truncate(0o666);
    mknod(path, SFlag::S_IFCHR, mode, makedev(major, minor))
        .unwrap_or_else(|errno| panic!("mknod {}: {errno}", path.display()));
}
