//! A container whose process the kernel kills for want of memory: the client is told of that, and before it is told of the end.

use integration::shim::Shim;
use integration::{Bundle, host, require};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

const ALL: &str = "tail /dev/zero";

/// A container whose only process takes all memory there is once somebody has written to the fifo.
pub(super) fn hog() -> (Bundle, PathBuf) {
    limited(&format!("read line </begin; exec {ALL}"))
}

fn limited(script: &str) -> (Bundle, PathBuf) {
    let mut bundle = Bundle::with_busybox();
    let fifo = bundle.rootfs().join("begin");
    mkfifo(&fifo, Mode::from_bits_truncate(0o600)).unwrap();
    bundle
        .config
        .args(&["sh", "-c", script])
        .set("/linux/resources/memory", json!({ "limit": 32 << 20 }));
    (bundle, fifo)
}

#[test]
fn it_is_told_before_the_end() {
    require!(containers, busybox, controller("memory"));
    let (bundle, fifo) = hog();
    let shim = Shim::start(bundle);
    let id = shim.id().to_owned();
    shim.create(&id).unwrap();
    shim.start_process(&id, "").unwrap();
    shim.events(2);
    // containerd's CRI learns of the end by Wait, and wants the reason then.
    shim.take_events_slowly(Duration::from_millis(500));
    host::set(&fifo, "\n");
    assert_eq!(shim.wait(&id, ""), Ok(137));
    assert_eq!(shim.taken(), 3);
    assert_eq!(shim.event(), format!("oom {id}"));
    assert_eq!(shim.event(), format!("exit {id} 137"));
    shim.delete(&id, "").unwrap();
    assert_eq!(shim.event(), format!("delete {id} 137"));
    shim.shutdown();
}

#[test]
fn each_is_told_once() {
    require!(containers, busybox, controller("memory"));
    let (bundle, fifo) = limited(&format!("while read line </begin; do {ALL}; done; exit 3"));
    let shim = Shim::start(bundle);
    let id = shim.id().to_owned();
    shim.create(&id).unwrap();
    shim.start_process(&id, "").unwrap();
    shim.events(2);
    for _ in 0..2 {
        host::set(&fifo, "\n");
        assert_eq!(shim.event(), format!("oom {id}"));
    }
    // An empty line is no end of the file, but no line is.
    host::set(&fifo, "");
    assert_eq!(shim.wait(&id, ""), Ok(3));
    assert_eq!(shim.event(), format!("exit {id} 3"));
    shim.delete(&id, "").unwrap();
    shim.shutdown();
}
