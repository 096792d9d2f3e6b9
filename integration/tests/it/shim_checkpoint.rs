//! Checkpoint, and Create from one, with the real CRIU below the runtime.

use integration::shim::{Protocol, Shim};
use integration::{Bundle, host, place, require};
use shim::protos::pack;
use shim::protos::runc_options::CheckpointOptions;
use shim::protos::task::CheckpointTaskRequest;
use ttrpc::Code;

/// A container that counts the signals that it gets, and has counted one.
#[track_caller]
fn counting() -> (Shim, String, i32) {
    let mut bundle = Bundle::new();
    bundle.config.probe(&["count"]);
    let mut shim = Shim::prepared(bundle);
    let directory = place::criu().unwrap_or_default();
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", directory.display());
    shim.environment.push(("PATH".to_owned(), path));
    shim.launch(Protocol::Bootstrap);
    let id = shim.id().to_owned();
    let pid = shim.create(&id).unwrap();
    shim.start_process(&id, "").unwrap();
    assert_eq!(shim.line(&id), "ready");
    shim.events(2);
    counts(&shim, &id, 1);
    (shim, id, pid)
}

#[track_caller]
fn counts(shim: &Shim, id: &str, number: usize) {
    shim.kill(id, "", 10).unwrap();
    assert_eq!(shim.line(id), format!("count {number}"));
}

#[track_caller]
fn checkpoint(shim: &Shim, id: &str, images: &str, exit: bool) -> Result<(), (Code, String)> {
    let options = CheckpointOptions {
        exit,
        ..Default::default()
    };
    let options = pack("containerd.runc.v1.CheckpointOptions", &options).unwrap();
    let request = CheckpointTaskRequest {
        id: id.into(),
        path: images.into(),
        options: protobuf::MessageField::some(options),
        ..Default::default()
    };
    shim.call(async |client, ctx| client.checkpoint(ctx, &request).await)
        .map(drop)
}

#[test]
fn of_one_that_is_to_come_back_there_is_a_process_without_a_pid() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.probe(&["pause"]);
    let shim = Shim::start(bundle);
    let id = shim.id().to_owned();
    let images = shim.bundle.scratch.name("images");
    let saved = |request: &mut shim::protos::task::CreateTaskRequest| request.checkpoint = images;
    assert_eq!(shim.create_with(&id, saved), Ok(0));
    let request = shim::protos::task::PidsRequest {
        id: id.clone(),
        ..Default::default()
    };
    let listed = shim.call(async |client, ctx| client.pids(ctx, &request).await);
    let pids = listed.unwrap().processes.into_iter();
    assert_eq!(pids.map(|process| process.pid).collect::<Vec<_>>(), [0]);
    shim.delete(&id, "").unwrap();
}

#[test]
fn a_container_is_saved_and_goes_on_where_it_was() {
    require!(criu);
    let (shim, id, pid) = counting();
    let images = shim.bundle.scratch.name("images");
    checkpoint(&shim, &id, &images, true).unwrap();
    assert_eq!(shim.wait(&id, ""), Ok(137));
    assert!(host::await_end(pid));
    shim.delete(&id, "").unwrap();
    let mut told = shim.events(3);
    told.sort();
    let mut expected = [
        format!("checkpointed {images}"),
        format!("exit {id} 137"),
        format!("delete {id} 137"),
    ];
    expected.sort();
    assert_eq!(told, expected);

    let made = shim.create_with(&id, |request| request.checkpoint = images.clone());
    assert_eq!(made, Ok(0), "it has no process yet");
    let state = shim.state(&id, "").unwrap();
    assert_eq!((state.status.value(), state.pid), (1, 0));
    assert_eq!(
        shim.kill(&id, "", 9).unwrap_err().0,
        Code::FAILED_PRECONDITION
    );
    let restored = shim.start_process(&id, "").unwrap();
    assert!(host::alive(restored));
    assert_eq!(
        shim.events(2),
        [format!("create {id}"), format!("start {id}")]
    );
    counts(&shim, &id, 2);
    shim.kill(&id, "", 15).unwrap();
    assert_eq!(shim.wait(&id, ""), Ok(0));
    assert_eq!(shim.delete(&id, ""), Ok((restored, 0)));
    shim.shutdown();
    assert!(shim.has_ended());
    host::assert_no_trace(&id, &shim.bundle.scratch.path().join("runtimes"));
}

#[test]
fn a_container_that_is_left_running_goes_on() {
    require!(criu);
    let (shim, id, _) = counting();
    checkpoint(&shim, &id, &shim.bundle.scratch.name("images"), false).unwrap();
    counts(&shim, &id, 2);
    assert_eq!(shim.state(&id, "").unwrap().status.value(), 2, "running");
}

#[test]
fn a_saved_container_that_is_never_started_can_be_deleted() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.probe(&["pause"]);
    let shim = Shim::start(bundle);
    let id = shim.id().to_owned();
    let made = shim.create_with(&id, |request| request.checkpoint = "/nowhere".into());
    assert_eq!(made, Ok(0));
    assert_eq!(shim.delete(&id, ""), Ok((0, 0)));
    assert_eq!(
        shim.events(2),
        [format!("create {id}"), format!("delete {id} 0")]
    );
    // And one that cannot be restored says so, and tells no end.
    shim.create_with(&id, |request| request.checkpoint = "/nowhere".into())
        .unwrap();
    let (code, text) = shim.start_process(&id, "").unwrap_err();
    assert_eq!(code, Code::UNKNOWN);
    assert!(text.starts_with("OCI runtime restore failed: "), "{text}");
    shim.delete(&id, "").unwrap();
    assert_eq!(
        shim.events(2),
        [format!("create {id}"), format!("delete {id} 0")]
    );
    shim.shutdown();
    assert!(shim.has_ended());
    host::assert_no_trace(&id, &shim.bundle.scratch.path().join("runtimes"));
}

#[test]
fn only_what_runs_can_be_saved() {
    require!(containers);
    let mut bundle = Bundle::new();
    bundle.config.probe(&["pause"]);
    let shim = Shim::start(bundle);
    let id = shim.id().to_owned();
    shim.create(&id).unwrap();
    let images = shim.bundle.scratch.name("images");
    let (code, text) = checkpoint(&shim, &id, &images, true).unwrap_err();
    assert_eq!(code, Code::UNKNOWN);
    assert_eq!(text, "cannot checkpoint a container that is CREATED");
}
