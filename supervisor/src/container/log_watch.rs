//! Who waits for changes in directories of logs. All of them share one inotify instance: a user has few (fs.inotify.max_user_instances, 128 by
//! default), and the daemon's is root, whose other services need some too.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::lock::lock;

/// The instance, from its first use on.
#[derive(Debug, Default)]
pub(crate) struct Watches(Mutex<Option<Arc<Shared>>>);

#[derive(Debug)]
struct Shared {
    inotify: AsyncFd<Instance>,
    watched: Mutex<HashMap<WatchDescriptor, Watched>>,
}

#[derive(Debug)]
struct Instance(Inotify);

impl AsRawFd for Instance {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// A directory, and how many watch it.
#[derive(Debug)]
struct Watched {
    watchers: usize,
    changed: watch::Sender<()>,
}

/// Something that is written, made or renamed in a directory is noticed as long as this is there.
#[derive(Debug)]
pub(super) struct Watch {
    shared: Arc<Shared>,
    descriptor: WatchDescriptor,
    changed: watch::Receiver<()>,
}

impl Watches {
    pub(super) fn watch(&self, directory: &Path) -> io::Result<Watch> {
        let shared = {
            let mut shared = lock(&self.0);
            match &*shared {
                Some(shared) => shared.clone(),
                None => shared.insert(Shared::start()?).clone(),
            }
        };
        let events =
            AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        let (descriptor, changed) = {
            let mut watched = lock(&shared.watched);
            // For a directory that is watched already it is the same one.
            let descriptor = shared.inotify.get_ref().0.add_watch(directory, events)?;
            let of = watched.entry(descriptor).or_insert_with(|| Watched {
                watchers: 0,
                changed: watch::Sender::new(()),
            });
            of.watchers += 1;
            (descriptor, of.changed.subscribe())
        };
        Ok(Watch {
            shared,
            descriptor,
            changed,
        })
    }
}

impl Shared {
    fn start() -> io::Result<Arc<Self>> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe for what it cannot know: that the descriptor stays the same, as this one does"
        )]
        let inotify = AsyncFd::with_interest(Instance(inotify), Interest::READABLE)?;
        let shared = Arc::new(Self {
            inotify,
            watched: Mutex::default(),
        });
        tokio::spawn(shared.clone().tell());
        Ok(shared)
    }

    /// For as long as the daemon lives.
    async fn tell(self: Arc<Self>) {
        while let Ok(mut guard) = self.inotify.readable().await {
            match self.inotify.get_ref().0.read_events() {
                Ok(events) => {
                    let watched = lock(&self.watched);
                    for event in events {
                        match watched.get(&event.wd) {
                            Some(of) => of.changed.send_modify(|()| {}),
                            // Events were lost.
                            None if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) => watched
                                .values()
                                .for_each(|of| of.changed.send_modify(|()| {})),
                            None => {}
                        }
                    }
                }
                Err(Errno::EAGAIN) => guard.clear_ready(),
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    let fault = crate::fault::Fault::unknown(format!("read inotify: {errno}"));
                    return crate::daemon::warn(&fault.during("logs are not followed any more"));
                }
            }
        }
    }
}

impl Watch {
    /// Waits until something has happened since the last time.
    pub(super) async fn changed(&mut self) {
        // The sender is there as long as this is.
        self.changed.changed().await.ok();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = lock(&self.shared.watched);
        if let Some(of) = watched.get_mut(&self.descriptor) {
            of.watchers -= 1;
            if of.watchers == 0 {
                watched.remove(&self.descriptor);
                // A directory that is gone has taken it along.
                self.shared
                    .inotify
                    .get_ref()
                    .0
                    .rm_watch(self.descriptor)
                    .ok();
            }
        }
    }
}
