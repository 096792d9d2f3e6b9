//! The overlay root, assembled from layer directories.
//!
//! Runs in init, in the container's mount namespace: the host's mount table never shows it. Layers are named by descriptor, so their number
//! and the length of their paths do not matter: one mount option holds at most 255 bytes, and mount(2) takes one page.

use super::{At, Digits, Done, Fail, Files, mount};
use crate::plan::Op;
use crate::plan::rootfs::Overlay;
use crate::sys::mount::{
    attach, fsconfig_create, fsconfig_flag, fsconfig_string, fsmount, fsopen, mount as mount2,
};
use crate::sys::{Errno, fs};
use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

/// Opens a layer, or the upper or work directory.
pub(crate) fn open(path: &CStr) -> Done<OwnedFd> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    fs::open_follow(fs::CWD, path, flags).at(Op::Whole)
}

/// Makes a detached overlay mount. `target` is the root directory, over which a tmpfs goes first if the upper layer is temporary: the kernel takes
/// layers only from mounts of this namespace. The overlay then covers it.
pub(crate) fn assemble(overlay: &Overlay, target: &OwnedFd, files: &Files) -> Done<OwnedFd> {
    let (layers, upper) = files.layers.split_at(overlay.lower.len());
    let temporary = match upper {
        [] => Some(Temporary::over(target)?),
        _ => None,
    };
    let upper = match (&temporary, upper) {
        (Some(temporary), _) => [&temporary.upper, &temporary.work],
        (None, [upper, work]) => [upper, work],
        _ => return Err(Fail::from(Errno::EINVAL)),
    };
    if fs::stat(upper[0])?.st_dev != fs::stat(upper[1])?.st_dev {
        return Err(Errno::EXDEV).at(Op::UpperAndWork);
    }
    match with_context(overlay, layers, upper, files) {
        // KERNEL(6.5): drop this. Before, all layers come in one string, and what a lone option makes wrong shows only now. A later
        // kernel says the same of layers that it does not take: then its own word stands, which is the clearer one.
        Err(fail) if fail.errno == Errno::EINVAL => {
            let place = match &temporary {
                Some(temporary) => &temporary.tmpfs,
                None => &Temporary::over(target)?.tmpfs,
            };
            match in_one_string(overlay, layers, upper, place, files) {
                Err(second) if second.errno == Errno::EINVAL => Err(fail),
                other => other,
            }
        }
        other => other,
    }
}

/// Directories on a tmpfs that dies with the mount namespace.
struct Temporary {
    tmpfs: OwnedFd,
    upper: OwnedFd,
    work: OwnedFd,
}

impl Temporary {
    fn over(target: &OwnedFd) -> Done<Temporary> {
        let context = fsopen(c"tmpfs").at(Op::OpenFilesystem)?;
        fsconfig_string(&context, c"mode", c"0755").at(Op::Configure)?;
        fsconfig_create(&context).at(Op::CreateSuperblock)?;
        let tmpfs = fsmount(&context, 0).at(Op::MakeMount)?;
        attach(&tmpfs, target).at(Op::Attach)?;
        let make = |name: &CStr| {
            fs::mkdir(&tmpfs, name, 0o755).at(Op::Create)?;
            fs::open(&tmpfs, name, libc::O_PATH | libc::O_DIRECTORY).at(Op::Create)
        };
        Ok(Temporary {
            upper: make(c"upper")?,
            work: make(c"work")?,
            tmpfs,
        })
    }
}

/// fsconfig(2) with one `lowerdir+` for each layer.
fn with_context(
    overlay: &Overlay,
    layers: &[OwnedFd],
    [upper, work]: [&OwnedFd; 2],
    files: &Files,
) -> Done<OwnedFd> {
    let context = fsopen(c"overlay").at(Op::OpenFilesystem)?;
    fs::chdir(&files.proc)?;
    let set = |key: &CStr, fd: &OwnedFd| {
        let path = Digits::fd_path(fd.as_fd());
        fsconfig_string(&context, key, path.as_c_str())
            .map_err(|errno| mount::explain(&context, Op::Configure, errno))
    };
    fsconfig_string(&context, c"source", c"overlay").at(Op::Configure)?;
    for layer in layers {
        set(c"lowerdir+", layer)?;
    }
    set(c"upperdir", upper)?;
    set(c"workdir", work)?;
    if overlay.userxattr {
        fsconfig_flag(&context, c"userxattr").at(Op::Configure)?;
    }
    fsconfig_create(&context)
        .map_err(|errno| mount::explain(&context, Op::CreateSuperblock, errno))?;
    fsmount(&context, 0).at(Op::MakeMount)
}

/// mount(2) with `lowerdir=10:11:…`, names in `/proc/self/fd` as the working directory, on a directory of the tmpfs `place`; then a detached
/// copy of that mount. 500 layers fit into the page that mount(2) takes.
fn in_one_string(
    overlay: &Overlay,
    layers: &[OwnedFd],
    [upper, work]: [&OwnedFd; 2],
    place: &OwnedFd,
    files: &Files,
) -> Done<OwnedFd> {
    let directory =
        fs::open(&files.proc, c"self/fd", libc::O_PATH | libc::O_DIRECTORY).at(Op::OpenProc)?;
    fs::chdir(&directory)?;
    let mut data = Data::new();
    data.push(b"lowerdir=");
    for (at, layer) in layers.iter().enumerate() {
        data.push(if at > 0 { b":" } else { b"" });
        data.push_fd(layer);
    }
    data.push(b",upperdir=");
    data.push_fd(upper);
    data.push(b",workdir=");
    data.push_fd(work);
    if overlay.userxattr {
        data.push(b",userxattr");
    }
    // Not on `place` itself: a mount over what a descriptor names is not reached through that descriptor.
    let name = c"merged";
    fs::mkdir(place, name, 0o755).at(Op::Create)?;
    let mut target = Data::new();
    target.push_fd(place);
    target.push(b"/");
    target.push(name.to_bytes());
    mount2(
        Some(c"overlay"),
        target.as_c_str().at(Op::Configure)?,
        Some(c"overlay"),
        0,
        Some(data.as_c_str().at(Op::Configure)?),
    )
    .at(Op::MakeMount)?;
    crate::sys::mount::clone_tree(place, name, false).at(Op::CloneSource)
}

/// Mount data on the stack.
struct Data {
    bytes: [u8; 4096],
    length: usize,
}

impl Data {
    fn new() -> Self {
        Data {
            bytes: [0; 4096],
            length: 0,
        }
    }

    fn push(&mut self, text: &[u8]) {
        let end = self.length + text.len();
        if let Some(room) = self.bytes.get_mut(self.length..end) {
            room.copy_from_slice(text);
        }
        self.length = end;
    }

    fn push_fd(&mut self, fd: &OwnedFd) {
        let digits = Digits::new("", std::os::fd::AsRawFd::as_raw_fd(fd).cast_unsigned(), 10);
        self.push(digits.as_c_str().to_bytes());
    }

    fn as_c_str(&self) -> Result<&CStr, Errno> {
        if self.length >= self.bytes.len() {
            return Err(Errno::E2BIG);
        }
        CStr::from_bytes_until_nul(&self.bytes).map_err(|_| Errno::EINVAL)
    }
}
