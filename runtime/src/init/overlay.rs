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
        [] => Some(temporary(target)?),
        _ => None,
    };
    let upper = match (&temporary, upper) {
        (Some([upper, work]), _) | (None, [upper, work]) => [upper, work],
        _ => return Err(Fail::from(Errno::EINVAL)),
    };
    if fs::stat(upper[0])?.st_dev != fs::stat(upper[1])?.st_dev {
        return Err(Errno::EXDEV).at(Op::UpperAndWork);
    }
    match with_context(overlay, layers, upper, files) {
        // KERNEL(6.5): drop this. Before, all layers come in one string, and what a lone option makes wrong shows only now. A later
        // kernel says the same of layers that it does not take: then its own word stands, which is the clearer one.
        Err(fail) if fail.errno == Errno::EINVAL => {
            match in_one_string(overlay, layers, upper, target, files) {
                Err(second) if second.errno == Errno::EINVAL => Err(fail),
                other => other,
            }
        }
        other => other,
    }
}

/// Upper and work directory on a tmpfs that dies with the mount namespace.
fn temporary(target: &OwnedFd) -> Done<[OwnedFd; 2]> {
    let context = fsopen(c"tmpfs").at(Op::OpenFilesystem)?;
    fsconfig_string(&context, c"mode", c"0755").at(Op::Configure)?;
    fsconfig_create(&context).at(Op::CreateSuperblock)?;
    let tmpfs = fsmount(&context, 0).at(Op::MakeMount)?;
    attach(&tmpfs, target).at(Op::Attach)?;
    let make = |name: &CStr| {
        fs::mkdir(&tmpfs, name, 0o755).at(Op::Create)?;
        fs::open(&tmpfs, name, libc::O_PATH | libc::O_DIRECTORY).at(Op::Create)
    };
    Ok([make(c"upper")?, make(c"work")?])
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

/// mount(2) with `lowerdir=10:11:…`, names in `/proc/self/fd` as the working directory, over `target`; then its mount as a detached copy would be,
/// opened. 500 layers fit into the page that mount(2) takes.
fn in_one_string(
    overlay: &Overlay,
    layers: &[OwnedFd],
    [upper, work]: [&OwnedFd; 2],
    target: &OwnedFd,
    files: &Files,
) -> Done<OwnedFd> {
    let directory =
        fs::open(&files.proc, c"self/fd", libc::O_PATH | libc::O_DIRECTORY).at(Op::OpenProc)?;
    fs::chdir(&directory)?;
    let mut data = Data {
        bytes: [0; 4096],
        length: 0,
    };
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
    let name = Digits::new(
        "",
        std::os::fd::AsRawFd::as_raw_fd(target).cast_unsigned(),
        10,
    );
    mount2(
        Some(c"overlay"),
        name.as_c_str(),
        Some(c"overlay"),
        0,
        Some(data.as_c_str().at(Op::Configure)?),
    )
    .at(Op::MakeMount)?;
    // `target` was opened before and lies below the overlay: a copy of the overlay's mount is taken through the name again.
    let covered = fs::open_follow(
        &directory,
        name.as_c_str(),
        libc::O_PATH | libc::O_DIRECTORY,
    )
    .at(Op::OpenSource)?;
    crate::sys::mount::clone_tree(&covered, c"", false).at(Op::CloneSource)
}

/// Mount data on the stack.
struct Data {
    bytes: [u8; 4096],
    length: usize,
}

impl Data {
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
