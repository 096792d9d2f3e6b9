//! Mount sources that the container's root cannot reach, and id-mapped ones: lent by a process in between, so that flags of the host's mounts
//! stay locked.
//!
//! The parent opened them, as detached mounts of its own user namespace. Attached as they are, they would have flags that the container may
//! clear: a `nosuid` or `ro` of the host. The kernel locks flags where it copies mounts for a mount namespace of another user namespace
//! (mount_namespaces(7)). So the stage attaches the sources in a mount namespace of its own, which init is born with a copy of. Neither needs
//! a path that both know: the working directory is copied along. The directory to mount on is one of the container's own in the state, where it hides
//! nothing: on `/`, the kernel would take the stage for one that has left its root and refuse it a user namespace (clone(2), EPERM).
//!
//! `place` runs in the stage, `take` in init before its first step.

use super::{At, Digits, Done, Files};
use crate::plan::Op;
use crate::sys::mount::{
    attach, clone_tree, fsconfig_create, fsconfig_string, fsmount, fsopen, mount as mount2,
};
use crate::sys::{Errno, fs, process};

/// Attaches the sources in a directory where nobody else sees them, and stays there.
pub(super) fn place(files: &mut Files) -> Done {
    fs::chdir(files.lending.take().ok_or(Errno::ENOENT)?)?;
    process::unshare(libc::CLONE_NEWNS as u64)?;
    mount2(None, c"/", None, libc::MS_REC | libc::MS_SLAVE, None).at(Op::SetPropagation)?;
    let tmpfs = fsopen(c"tmpfs").at(Op::OpenFilesystem)?;
    fsconfig_string(&tmpfs, c"mode", c"0711").at(Op::Configure)?;
    fsconfig_create(&tmpfs).at(Op::CreateSuperblock)?;
    let directory = fsmount(&tmpfs, 0).at(Op::MakeMount)?;
    let here = fs::open(fs::CWD, c".", libc::O_PATH | libc::O_DIRECTORY)?;
    attach(&directory, here).at(Op::Attach)?;
    for (number, slot) in files.lent.iter().enumerate() {
        let source = &files.slots[slot.0];
        let name = name(number);
        if fs::stat(source)?.st_mode & libc::S_IFMT == libc::S_IFDIR {
            fs::mkdir(&directory, name.as_c_str(), 0o700).at(Op::Create)?;
        } else {
            fs::create(&directory, name.as_c_str(), libc::O_RDONLY, 0o600).at(Op::Create)?;
        }
        let target = fs::open(&directory, name.as_c_str(), libc::O_PATH).at(Op::Create)?;
        attach(source, target).at(Op::Attach)?;
    }
    Ok(fs::chdir(&directory)?)
}

/// Takes copies of them in place of what the parent opened.
pub(super) fn take(files: &mut Files) -> Done {
    for (number, slot) in files.lent.iter().enumerate() {
        let copy = clone_tree(fs::CWD, name(number).as_c_str(), true);
        files.slots[slot.0] = copy.at(Op::CloneSource)?;
    }
    Ok(())
}

fn name(number: usize) -> Digits {
    Digits::new("", number as u32, 10)
}
