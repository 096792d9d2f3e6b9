//! The end of a shim: what comes when it is decided is refused, and what the shim has started does not outlive it.

use integration::shim::Shim;
use integration::{Bundle, host, place, require};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::json;
use shim::protos::task::DeleteRequest;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use ttrpc::Code;
use ttrpc::context::with_timeout;

fn in_pod() -> Bundle {
    let mut bundle = Bundle::new();
    bundle.config.probe(&["pause", "7"]).set(
        "/annotations",
        json!({ "io.kubernetes.cri.sandbox-id": place::unique("pod") }),
    );
    bundle
}

#[test]
fn a_shim_that_is_ending_takes_no_container() {
    require!(containers);
    let shim = Shim::start(in_pod());
    let (id, other) = (shim.id().to_owned(), shim.sibling());
    shim.create(&id).unwrap();
    // Its events keep it, when it has decided to end.
    shim.take_events_slowly(Duration::from_secs(3));
    shim.delete(&id, "").unwrap();
    shim.shutdown();
    assert!(host::alive(shim.pid));
    let refused = (Code::FAILED_PRECONDITION, "the shim is ending".into());
    assert_eq!(shim.create(&other), Err(refused));
    assert!(shim.has_ended());
    host::assert_no_trace(&other, &shim.bundle.scratch.path().join("runtimes"));
}

/// A shim whose container writes to a logger, and the logger's pid. It does this when it is told to end.
fn logging(on_term: &str) -> (Shim, i32) {
    let bundle = in_pod();
    let pid = bundle.scratch.path().join("pid");
    mkfifo(&pid, Mode::S_IRWXU).unwrap();
    let note = bundle.scratch.name("note");
    let script = format!(
        "#!/bin/busybox sh
        end() {{ {on_term}; }}
        trap end TERM
        echo $$ >{}
        exec 5>&-
        while :; do /bin/busybox sleep 1; done",
        pid.display()
    );
    let script = script.replace("NOTE", &note);
    let logger = bundle.scratch.file("logger", script);
    fs::set_permissions(&logger, fs::Permissions::from_mode(0o755)).unwrap();
    let shim = Shim::start(bundle);
    let said = std::thread::Builder::new().spawn(move || fs::read_to_string(pid).unwrap());
    let id = shim.id().to_owned();
    let mut request = shim.request(&id);
    request.stdout = format!("binary://{}", logger.display());
    shim.call(async |client, ctx| client.create(ctx, &request).await)
        .unwrap();
    let said = said.unwrap().join().unwrap();
    (shim, said.trim().parse().unwrap())
}

#[test]
fn a_logger_does_not_outlive_its_shim() {
    require!(containers, busybox);
    // One that has something to do yet has the time for it; one that is deaf is killed in the end.
    let cases = [
        (
            "/bin/busybox sleep 3; echo done >NOTE; exit",
            Some("done\n"),
        ),
        (":", None),
    ];
    let shims = cases.map(|(on_term, note)| (logging(on_term), note));
    let deleted = shims.each_ref().map(|((shim, _), _)| {
        let request = DeleteRequest {
            id: shim.id().to_owned(),
            ..Default::default()
        };
        shim.begin(|client| async move { client.delete(with_timeout(0), &request).await.is_ok() })
    });
    for (((shim, logger), note), deleted) in shims.iter().zip(deleted) {
        assert!(shim.wait_for(deleted));
        shim.shutdown();
        assert!(shim.has_ended());
        assert!(!host::alive(*logger), "{note:?}");
        let noted = fs::read_to_string(shim.bundle.scratch.path().join("note")).ok();
        assert_eq!(noted.as_deref(), *note);
    }
}
