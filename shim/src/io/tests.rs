//! Streams as a container and a client use them: with the kernel's pipes, fifos and terminals.

mod logger;
mod terminal;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::*;

/// A directory with the fifos `in`, `out` and `err`.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let directory =
            nix::unistd::mkdtemp(&std::env::temp_dir().join("caisson-io-XXXXXX")).unwrap();
        for name in ["in", "out", "err"] {
            mkfifo(&directory.join(name), Mode::from_bits_truncate(0o600)).unwrap();
        }
        Self(directory)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn streams(&self) -> Streams {
        Streams {
            terminal: false,
            stdin: self.path("in"),
            stdout: self.path("out"),
            stderr: self.path("err"),
        }
    }

    /// The client's end of the input.
    fn writer(&self) -> File {
        let path = self.path("in");
        OpenOptions::new().write(true).open(path).unwrap()
    }

    /// The client's end, as containerd opens it.
    fn reader(&self, name: &str) -> File {
        OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(self.0.join(name))
            .unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn owner() -> Owner {
    Owner {
        stopping: Stopping::default(),
        namespace: "ns".to_owned(),
        container: "c1".to_owned(),
        uid: 0,
        gid: 0,
        directory: std::env::temp_dir(),
    }
}

async fn open(streams: &Streams) -> (Stdio, File, File, File) {
    let stdio = Stdio::open(streams, &owner()).await.unwrap();
    let inner = stdio.take_inner().unwrap();
    stdio.start().await.unwrap();
    (
        stdio,
        File::from(inner.stdin),
        File::from(inner.stdout),
        File::from(inner.stderr),
    )
}

/// The copies' turn: three rounds of events are enough for anything that has happened before.
async fn settle() {
    for _ in 0..3 {
        time::sleep(Duration::from_millis(1)).await;
    }
}

/// Reads what is there.
fn available(file: &mut File) -> Vec<u8> {
    let mut data = Vec::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return data,
            Ok(length) => data.extend(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return data,
            Err(error) => panic!("{error}"),
        }
    }
}

fn is_writable(file: &File) -> bool {
    poll(
        &mut [PollFd::new(file.as_fd(), PollFlags::POLLOUT)],
        PollTimeout::ZERO,
    )
    .unwrap()
        == 1
}

fn nonblocking(file: &File) {
    fcntl(file, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
}

/// Lines that differ, so that a loss or a change of order shows.
fn lines(count: usize) -> Vec<u8> {
    (0..count)
        .flat_map(|number| format!("{number:015}\n").into_bytes())
        .collect()
}

/// Writes all, letting the copies run whenever the pipe is full; as a process would, in a loop with others.
async fn write_all(file: &mut File, mut data: &[u8]) {
    nonblocking(file);
    while !data.is_empty() {
        match file.write(data) {
            Ok(length) => data = &data[length..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => settle().await,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn nothing_named_is_dev_null() {
    let (stdio, mut stdin, mut stdout, _) = open(&Streams::default()).await;
    stdout.write_all(b"lost").unwrap();
    assert_eq!(stdin.read(&mut [0]).unwrap(), 0);
    assert!(stdio.drained(Duration::ZERO).await);
    assert!(stdio.take_inner().is_err());
}

#[tokio::test]
async fn output_reaches_its_own_fifo_and_input_the_process() {
    let scratch = Scratch::new();
    let (mut out, mut err) = (scratch.reader("out"), scratch.reader("err"));
    let (stdio, mut stdin, mut stdout, mut stderr) = open(&scratch.streams()).await;
    stdout.write_all(b"to out").unwrap();
    stderr.write_all(b"to err").unwrap();
    let mut client = scratch.writer();
    client.write_all(b"typed").unwrap();
    settle().await;
    assert_eq!(available(&mut out), b"to out");
    assert_eq!(available(&mut err), b"to err");
    let mut typed = [0; 5];
    stdin.read_exact(&mut typed).unwrap();
    assert_eq!(&typed, b"typed");
    drop((stdout, stderr));
    assert!(stdio.drained(Duration::from_secs(5)).await);
    assert_eq!(stdio.dropped(), 0);
}

#[tokio::test]
async fn what_a_command_says_that_fails_is_not_output_unless_it_would_never_end() {
    let scratch = Scratch::new();
    let mut reader = scratch.reader("out");
    let stdio = Stdio::open(&scratch.streams(), &owner()).await.unwrap();
    let mut stdout = File::from(stdio.take_inner().unwrap().stdout);
    stdout.write_all(b"the reason of a failure\n").unwrap();
    settle().await;
    assert_eq!(available(&mut reader), b"");
    write_all(&mut stdout, &lines(3_000)).await;
    settle().await;
    assert!(available(&mut reader).starts_with(b"the reason of a failure\n"));
}

#[tokio::test]
async fn the_end_of_input_comes_when_both_the_client_and_the_shim_have_closed() {
    let scratch = Scratch::new();
    let (stdio, mut stdin, _stdout, _stderr) = open(&scratch.streams()).await;
    nonblocking(&stdin);
    let mut client = scratch.writer();
    client.write_all(b"first").unwrap();
    drop(client);
    settle().await;
    assert_eq!(stdin.read(&mut [0; 64]).unwrap(), 5);
    assert_eq!(
        stdin.read(&mut [0; 64]).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    let mut client = scratch.writer();
    stdio.close_stdin();
    client.write_all(b"second").unwrap();
    settle().await;
    assert_eq!(stdin.read(&mut [0; 64]).unwrap(), 6);
    drop(client);
    settle().await;
    assert_eq!(stdin.read(&mut [0; 64]).unwrap(), 0);
    stdio.close_stdin();
}

#[tokio::test]
async fn stdin_may_be_closed_before_the_process_is_there() {
    let scratch = Scratch::new();
    let stdio = Stdio::open(&scratch.streams(), &owner()).await.unwrap();
    let mut client = scratch.writer();
    client.write_all(b"all there is").unwrap();
    drop(client);
    stdio.close_stdin();
    let mut stdin = File::from(stdio.take_inner().unwrap().stdin);
    settle().await;
    let mut text = String::new();
    stdin.read_to_string(&mut text).unwrap();
    assert_eq!(text, "all there is");
}

#[tokio::test]
async fn a_process_that_closes_its_stdin_breaks_the_clients_pipe() {
    let scratch = Scratch::new();
    let (_stdio, stdin, _stdout, _stderr) = open(&scratch.streams()).await;
    let mut client = scratch.writer();
    drop(stdin);
    client.write_all(b"x").unwrap();
    settle().await;
    assert_eq!(
        client.write(b"y").unwrap_err().kind(),
        ErrorKind::BrokenPipe
    );
}

#[tokio::test]
async fn a_slow_reader_gets_everything_and_the_process_waits_for_him() {
    let scratch = Scratch::new();
    let mut out = scratch.reader("out");
    let (stdio, _stdin, mut stdout, _stderr) = open(&scratch.streams()).await;
    let all = lines(100_000);
    nonblocking(&stdout);
    let mut written = 0;
    while let Ok(length) = stdout.write(&all[written..]) {
        written += length;
        settle().await;
    }
    assert!(!is_writable(&stdout), "the process must wait");
    // The fifo and the pipe; no more than that is under way.
    assert!((64 << 10..=128 << 10).contains(&written), "{written}");
    let mut got = Vec::new();
    while written < all.len() {
        got.extend(available(&mut out));
        settle().await;
        written += stdout.write(&all[written..]).unwrap_or(0);
    }
    drop(stdout);
    while got.len() < all.len() {
        settle().await;
        got.extend(available(&mut out));
    }
    assert!(got == all, "changed on the way");
    assert_eq!(stdio.dropped(), 0);
}

#[tokio::test]
async fn a_reader_that_has_gone_does_not_block_the_process_and_finds_the_beginning_when_he_comes_back()
 {
    let scratch = Scratch::new();
    let mut out = scratch.reader("out");
    let (stdio, _stdin, mut stdout, stderr) = open(&scratch.streams()).await;
    drop(stderr);
    let all = lines(400_000);
    let (before, away) = all.split_at(512 << 10);
    // He is known by having read when the fifo was full.
    nonblocking(&stdout);
    let (mut written, mut got) = (0, Vec::new());
    while got.len() < before.len() {
        written += stdout.write(&before[written..]).unwrap_or(0);
        settle().await;
        settle().await;
        if written > 96 << 10 {
            got.extend(available(&mut out));
        }
    }
    drop(out);
    write_all(&mut stdout, away).await;
    settle().await;
    assert!(stdio.dropped() > 0);
    let mut out = scratch.reader("out");
    let kept = available(&mut out);
    assert!(kept.len() >= 64 << 10, "{}", kept.len());
    assert!(away.starts_with(&kept), "what is kept must be in one piece");
    assert_eq!(kept.len() as u64 + stdio.dropped(), away.len() as u64);
    // And from then on everything again.
    stdout.write_all(b"after").unwrap();
    settle().await;
    assert_eq!(available(&mut out), b"after");
    drop(stdout);
    assert!(stdio.drained(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_reader_that_has_read_and_leaves_early_does_not_block_the_process() {
    let scratch = Scratch::new();
    let mut out = scratch.reader("out");
    let (stdio, _stdin, mut stdout, stderr) = open(&scratch.streams()).await;
    drop(stderr);
    stdout.write_all(b"first").unwrap();
    let mut got = Vec::new();
    while got.len() < 5 {
        settle().await;
        got.extend(available(&mut out));
    }
    drop(out);
    // More than the fifo and the pipe hold.
    let all = lines(20_000);
    let written = write_all(&mut stdout, &all);
    let written = time::timeout(Duration::from_secs(15), written).await;
    assert!(written.is_ok(), "nobody reads, and the process waits");
    drop(stdout);
    assert!(stdio.drained(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_reader_that_leaves_while_the_process_waits_for_him_frees_it() {
    let scratch = Scratch::new();
    let mut out = scratch.reader("out");
    let (stdio, _stdin, mut stdout, stderr) = open(&scratch.streams()).await;
    drop(stderr);
    nonblocking(&stdout);
    // He reads a little, so that he is known; then no more.
    let all = lines(20_000);
    let mut written = 0;
    for round in 0..40 {
        written += stdout.write(&all[written..]).unwrap_or(0);
        settle().await;
        if round == 20 {
            out.read_exact(&mut vec![0; 32 << 10]).unwrap();
        }
    }
    assert!(!is_writable(&stdout));
    drop(out);
    settle().await;
    assert!(is_writable(&stdout), "nobody reads, and the process waits");
    write_all(&mut stdout, &all[written..]).await;
    drop(stdout);
    assert!(stdio.drained(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_client_that_comes_late_finds_everything() {
    let scratch = Scratch::new();
    let (stdio, _stdin, mut stdout, _stderr) = open(&scratch.streams()).await;
    nonblocking(&stdout);
    let all = lines(20_000);
    let mut written = 0;
    for _ in 0..20 {
        written += stdout.write(&all[written..]).unwrap_or(0);
        settle().await;
    }
    assert!(
        !is_writable(&stdout),
        "he may take his time to open his end"
    );
    let mut out = scratch.reader("out");
    let mut got = Vec::new();
    while got.len() < all.len() {
        got.extend(available(&mut out));
        settle().await;
        written += stdout.write(&all[written..]).unwrap_or(0);
    }
    assert!(got == all, "changed on the way");
    assert_eq!(stdio.dropped(), 0);
}

#[tokio::test]
async fn the_end_of_a_restarting_reader_is_not_the_end_of_the_fifo() {
    let scratch = Scratch::new();
    let out = scratch.reader("out");
    let (_stdio, _stdin, mut stdout, _stderr) = open(&scratch.streams()).await;
    drop(out);
    stdout.write_all(b"while away").unwrap();
    settle().await;
    let mut out = scratch.reader("out");
    let mut text = [0; 64];
    assert_eq!(out.read(&mut text).unwrap(), 10);
    // Not the end of file.
    assert_eq!(
        out.read(&mut text).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
}

#[tokio::test]
async fn somebody_who_holds_the_pipe_holds_the_drain_only_so_long() {
    let scratch = Scratch::new();
    let _out = scratch.reader("out");
    let (stdio, _stdin, stdout, stderr) = open(&scratch.streams()).await;
    drop(stderr);
    assert!(!stdio.drained(Duration::from_millis(50)).await);
    drop(stdout);
    assert!(stdio.drained(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn what_is_not_a_fifo_is_not_waited_for() {
    let scratch = Scratch::new();
    let streams = Streams {
        stdin: scratch.path("missing"),
        ..Streams::default()
    };
    let error = Stdio::open(&streams, &owner()).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().contains("missing")),
        (ErrorKind::NotFound, true)
    );
    let streams = Streams {
        stdin: "/dev/null".to_owned(),
        ..Streams::default()
    };
    assert!(
        Stdio::open(&streams, &owner())
            .await
            .unwrap_err()
            .to_string()
            .contains("not a fifo")
    );
}

#[tokio::test]
async fn both_streams_may_go_to_one_file() {
    let scratch = Scratch::new();
    let uri = format!("file://{}", scratch.path("new/log"));
    let (stdio, _stdin, mut stdout, mut stderr) = open(&Streams {
        stdout: uri.clone(),
        stderr: uri,
        ..Streams::default()
    })
    .await;
    stdout.write_all(b"one ").unwrap();
    settle().await;
    stderr.write_all(b"two ").unwrap();
    settle().await;
    stdout.write_all(b"three").unwrap();
    drop((stdout, stderr));
    assert!(stdio.drained(Duration::from_secs(5)).await);
    assert_eq!(
        std::fs::read_to_string(scratch.path("new/log")).unwrap(),
        "one two three"
    );
}

#[tokio::test]
async fn a_full_disk_costs_output_and_not_the_process() {
    // /dev/full answers every write with ENOSPC (full(4)).
    let streams = Streams {
        stdout: "/dev/full".to_owned(),
        ..Streams::default()
    };
    let (stdio, _stdin, mut stdout, stderr) = open(&streams).await;
    drop(stderr);
    write_all(&mut stdout, &lines(20_000)).await;
    drop(stdout);
    assert!(stdio.drained(Duration::from_secs(5)).await);
    assert_eq!(stdio.dropped(), 320_000);
}
