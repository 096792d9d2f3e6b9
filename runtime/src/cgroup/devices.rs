//! Attaches a device filter to a group.
//!
//! A group's program and those of all groups above it must allow an access (BPF_F_ALLOW_MULTI). A program that is replaced is never
//! missing in between.

use super::Cgroup;
use crate::plan::device_filter::DeviceFilter;
use crate::report::{Context, Error, Result};
use crate::sys::{Errno, bpf};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::os::fd::OwnedFd;

/// The kernel allows a group this many programs of one type.
const MAX_PROGRAMS: usize = 64;

impl Cgroup {
    /// Makes `filter` the group's only device filter. `may_fail` tolerates a kernel that does not permit it: in a user namespace no
    /// device can be made and bpf(2) is out of reach.
    pub(super) fn filter_devices(
        &self,
        filter: &DeviceFilter,
        fresh: bool,
        may_fail: bool,
    ) -> Result<()> {
        let old = if fresh {
            Vec::new()
        } else {
            self.device_programs()?
        };
        if filter.program.is_empty() {
            return self.detach_all(&old);
        }
        let program = match load(&filter.program) {
            Err(error)
                if may_fail
                    && matches!(
                        error.errno(),
                        Some(Errno::EPERM | Errno::EACCES | Errno::ENOSYS)
                    ) =>
            {
                return Ok(());
            }
            loaded => loaded?,
        };
        let (replaced, detached) = match old.as_slice() {
            [one] => (Some(one), &[][..]),
            several => (None, several),
        };
        match bpf::attach_device_program(&self.dir, &program, replaced) {
            Err(Errno::EPERM | Errno::EACCES) if may_fail => return Ok(()),
            attached => attached
                .context(|| format!("attach the device filter to cgroup '/{}'", self.path))?,
        }
        self.detach_all(detached)
    }

    fn detach_all(&self, programs: &[OwnedFd]) -> Result<()> {
        for program in programs {
            bpf::detach_device_program(&self.dir, program).context(|| {
                format!(
                    "detach the former device filter from cgroup '/{}'",
                    self.path
                )
            })?;
        }
        Ok(())
    }

    fn device_programs(&self) -> Result<Vec<OwnedFd>> {
        let story = || format!("find the device filters of cgroup '/{}'", self.path);
        let mut ids = [0; MAX_PROGRAMS];
        let count = match bpf::device_programs(&self.dir, &mut ids) {
            // Who may not ask may not attach either, and that decides.
            Err(Errno::EPERM | Errno::EACCES | Errno::ENOSYS) => 0,
            count => count.context(story)?,
        };
        let mut programs = Vec::new();
        for id in &ids[..count] {
            match bpf::program_by_id(*id) {
                Err(Errno::ENOENT) => {}
                program => programs.push(program.context(story)?),
            }
        }
        Ok(programs)
    }
}

fn load(program: &[u64]) -> Result<OwnedFd> {
    let loaded = match bpf::load_device_program(program, &mut []) {
        Err(Errno::EPERM) => load_with_more_memory(program),
        loaded => loaded,
    };
    loaded.map_err(|errno| match errno {
        Errno::EINVAL | Errno::EACCES => Error::os(
            format!("load the device filter ({})", verifier_log(program)),
            errno,
        ),
        _ => Error::os("load the device filter", errno),
    })
}

/// KERNEL(5.11): drop this. Older kernels count programs against RLIMIT_MEMLOCK and fail with EPERM. The limit is put back at once,
/// because the container inherits it.
fn load_with_more_memory(program: &[u64]) -> crate::sys::Result<OwnedFd> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    setrlimit(
        Resource::RLIMIT_MEMLOCK,
        nix::libc::RLIM_INFINITY,
        nix::libc::RLIM_INFINITY,
    )?;
    let loaded = bpf::load_device_program(program, &mut []);
    setrlimit(Resource::RLIMIT_MEMLOCK, soft, hard)?;
    loaded
}

fn verifier_log(program: &[u64]) -> String {
    let mut log = vec![0; 1 << 16];
    // This fails again; what counts is what it leaves in the log.
    drop(bpf::load_device_program(program, &mut log));
    let text = String::from_utf8_lossy(&log);
    let lines: Vec<_> = text
        .trim_end_matches('\0')
        .lines()
        .filter(|line| !line.is_empty())
        .collect();
    lines.join("; ")
}
