//! Output that a program reads.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use super::{Scratch, lines, open, owner, settle, write_all};
use crate::io::{Stdio, Streams};

/// A logger that is a shell script.
fn logger(scratch: &Scratch, scheme: &str, script: &str) -> String {
    let path = scratch.path("logger");
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o700)
        .open(&path)
        .unwrap();
    write!(file, "#!/bin/sh\n{script}\n").unwrap();
    format!("{scheme}://{path}?dir={}&x=a+b", scratch.0.display())
}

#[tokio::test]
async fn a_logger_gets_its_environment_and_both_streams() {
    let scratch = Scratch::new();
    let script = r#"env > $2/env; echo "$*" > $2/args; printf r >&5; exec 5>&-; cat <&3 > $2/o & cat <&4 > $2/e; wait"#;
    let uri = logger(&scratch, "binary-v2", script);
    let (stdio, _stdin, mut stdout, mut stderr) = open(&Streams {
        stdout: uri.clone(),
        stderr: uri,
        ..Streams::default()
    })
    .await;
    let all = lines(50_000);
    write_all(&mut stdout, &all).await;
    stderr.write_all(b"error").unwrap();
    drop((stdout, stderr));
    assert!(
        stdio.drained(Duration::from_secs(20)).await,
        "the logger has not ended"
    );
    assert!(
        std::fs::read(scratch.path("o")).unwrap() == all,
        "changed on the way"
    );
    assert_eq!(std::fs::read(scratch.path("e")).unwrap(), b"error");
    let env = std::fs::read_to_string(scratch.path("env")).unwrap();
    assert!(
        env.contains("CONTAINER_ID=c1\n")
            && env.contains("CONTAINER_NAMESPACE=ns\n")
            && !env.contains("CARGO"),
        "{env}"
    );
    let args = std::fs::read_to_string(scratch.path("args")).unwrap();
    assert_eq!(args, format!("dir {} x a b\n", scratch.0.display()));
    assert_eq!(stdio.dropped(), 0);
}

#[tokio::test]
async fn a_logger_that_dies_does_not_block_the_process() {
    let scratch = Scratch::new();
    let uri = logger(&scratch, "binary", "exec 5>&-; head -c 10 <&3 > /dev/null");
    let (stdio, _stdin, mut stdout, stderr) = open(&Streams {
        stdout: uri,
        ..Streams::default()
    })
    .await;
    write_all(&mut stdout, &lines(50_000)).await;
    drop((stdout, stderr));
    assert!(stdio.drained(Duration::from_secs(5)).await);
    assert!(stdio.dropped() > 0);
}

#[tokio::test]
async fn a_logger_that_does_not_end_is_asked_to() {
    let scratch = Scratch::new();
    let script = r"trap 'echo asked > $2/asked; exit' TERM; echo $$ > $2/pid; exec 5>&-; while :; do read x < $2/in; done";
    let uri = logger(&scratch, "binary", script);
    let (stdio, _stdin, stdout, stderr) = open(&Streams {
        stdout: uri,
        ..Streams::default()
    })
    .await;
    drop((stdout, stderr));
    assert!(!stdio.drained(Duration::from_millis(50)).await);
    let pid = std::fs::read_to_string(scratch.path("pid")).unwrap();
    drop(stdio);
    let proc = Path::new("/proc").join(pid.trim());
    for _ in 0..500 {
        if !proc.exists() {
            break;
        }
        settle().await;
    }
    assert!(!proc.exists(), "it has not ended, or is a zombie");
    assert!(Path::new(&scratch.path("asked")).exists());
}

#[tokio::test]
async fn a_logger_that_fails_is_said_to() {
    let scratch = Scratch::new();
    let uri = logger(&scratch, "binary-v2", "exit 3");
    let error = Stdio::open(
        &Streams {
            stdout: uri,
            ..Streams::default()
        },
        &owner(),
    )
    .await
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{error}");
    let missing = format!("binary://{}", scratch.path("missing"));
    let error = Stdio::open(
        &Streams {
            stdout: missing,
            ..Streams::default()
        },
        &owner(),
    )
    .await
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}
