//! Attach: what a container writes, from its log, and input for it.
//!
//! The daemon is a reader here like any other. That it goes away, or that a client is slow, holds no container up and loses no output.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{mpsc, watch};
use ttrpc::r#async::{SSSender, ServerStream};

use super::flow::{self, Inputs, Output, Seen};
use super::log::{Follower, From};
use super::{Container, Run, Supervisor};
use crate::daemon::detached;
use crate::fault::{Fault, Result, Tried as _};
use crate::protos::containers::{AttachRequest, AttachResponse, Input, attach_request};
use crate::requests::{Requests, attended};
use crate::shim::Launch;

pub(crate) async fn attach(
    supervisor: &Arc<Supervisor>,
    stream: ServerStream<AttachResponse, AttachRequest>,
) -> Result<()> {
    let (sender, receiver) = stream.split();
    let mut requests = Requests::new(receiver);
    let first = requests.next().await?;
    let Some(attach_request::Of::To(to)) = first.and_then(|request| request.of) else {
        return Err(Fault::new(
            "the first request does not say what to attach to",
        ));
    };
    let container = supervisor.found(&to.container).await?;
    let mut follower = match begin(supervisor, &container, &to, &sender).await {
        Ok(follower) => follower,
        Err(fault) => {
            if to.start {
                let supervisor = supervisor.clone();
                detached(async move { supervisor.forget_unstarted(&container).await }).await?;
            }
            return Err(fault);
        }
    };
    if to.start {
        let (supervisor, container, size) =
            (supervisor.clone(), container.clone(), to.size.into_option());
        // A client that leaves does not cut it in half.
        detached(async move { supervisor.start_or_forget(&container, size).await }).await?;
    } else {
        if let (Some(size), Ok(shim)) = (to.size.as_ref(), container.shim()) {
            shim.resize("", size.width, size.height).await?;
        }
        supervisor.tell_of(&container, "attach", &[]).await;
    }
    let Some(run) = container.run() else {
        return Err(Fault::precondition(format!(
            "container {} is not running",
            container.name()
        )));
    };
    let (taken_sender, taken) = watch::channel(0);
    let mut output = Output::new(sender.clone(), taken);
    let (to_inputs, mut next) = mpsc::channel(16);
    let config = container.config();
    let client = Client {
        stdin: (to.stdin && config.interactive)
            .then(|| supervisor.host.bundle(&container.id).join("stdin")),
        keep: config.keep_stdin,
        sender: sender.clone(),
        taken: taken_sender,
        seen: Seen::default(),
    };
    let attached = async {
        tokio::select! {
            done = client.runs(&container, run, &mut follower, &mut output, &mut next) => done,
            () = flow::receive(requests, to_inputs) => Ok(()),
        }
    };
    let done = attended(&sender, attached).await;
    if done.is_err() && client.stdin.is_some() && !client.keep && !config.terminal {
        // His end is that of his input; one on a terminal may come back. What has ended meanwhile needs no end of input.
        if let Ok(shim) = container.shim() {
            shim.close_stdin("").await.ok();
        }
    }
    done
}

/// All that comes before its start, if it is to be started.
async fn begin(
    supervisor: &Supervisor,
    container: &Container,
    to: &attach_request::To,
    sender: &SSSender<AttachResponse>,
) -> Result<Follower> {
    let config = container.config();
    let launch = Launch::new(&supervisor.host, &config.runtime, None)?;
    if config.log.none && !launch.ours {
        return Err(Fault::precondition(format!(
            "container {} has no log, without which nothing of its output can be seen with the shim {}",
            container.name(),
            config.runtime
        )));
    }
    if !to.start && !container.is_alive() {
        return Err(Fault::precondition(format!(
            "container {} does not run: start it to attach to it",
            container.name()
        )));
    }
    let from = if to.logs { From::Begin } else { From::End };
    let directory = supervisor.host.log(&container.id);
    std::fs::create_dir_all(&directory).tried(|| format!("make {}", directory.display()))?;
    let follower = Follower::waited_for(&supervisor.watches, &directory, from)
        .tried(|| "open the log".into())?;
    flow::attached(sender, &container.id, config.terminal).await?;
    Ok(follower)
}

/// Who is attached.
struct Client {
    /// The container's fifo, if he is to write to it.
    stdin: Option<PathBuf>,
    keep: bool,
    sender: SSSender<AttachResponse>,
    taken: watch::Sender<u64>,
    seen: Seen,
}

impl Client {
    /// From this run to the last one.
    async fn runs(
        &self,
        container: &Container,
        mut run: Arc<Run>,
        follower: &mut Follower,
        output: &mut Output,
        next: &mut mpsc::Receiver<Input>,
    ) -> Result<()> {
        loop {
            let inputs = Inputs {
                shim: &run.shim,
                exec: "",
                stdin: self.stdin.as_deref(),
                keep: self.keep,
                sender: self.sender.clone(),
                taken: self.taken.clone(),
                seen: &self.seen,
            };
            tokio::select! {
                done = follow(&run, follower, output) => done?,
                failed = inputs.run(next) => return failed,
            }
            match container.run_after(&run).await {
                Some(next) => run = next,
                None => return over(container, &run, output).await,
            }
        }
    }
}

/// Until the run has ended and all has been read.
async fn follow(run: &Arc<Run>, follower: &mut Follower, output: &mut Output) -> Result<()> {
    let mut reading = Some(run.readers.subscribe());
    let (over_sender, mut over) = watch::channel(false);
    let mut last = over.clone();
    let mut ended = run.ended.subscribe();
    let noticing = async {
        // The sender is in `run`.
        ended.wait_for(Option::is_some).await.ok();
        over_sender.send_modify(|over| *over = true);
        std::future::pending::<Result<()>>().await
    };
    let copying = async {
        while let Some(record) = follower
            .next(&mut over)
            .await
            .tried(|| "read the log".into())?
        {
            if follower.was_overtaken() {
                // There is no more than that to be lost, for who is attached: he has asked for all of it.
                return Err(Fault::unknown(
                    "output is missing: its log was rotated faster than it could be read; the container goes on",
                ));
            }
            // A client that takes nothing holds up the sending itself too, but not the container's removal.
            let sending = async {
                output.room().await?;
                output.data(record.stderr, record.data).await
            };
            let mut sending = pin!(sending);
            tokio::select! {
                biased;
                sent = &mut sending => sent?,
                kept = follower.keep_up(&mut last) => {
                    kept.tried(|| "read the log".into())?;
                    drop(reading.take());
                    sending.await?;
                }
            }
        }
        drop(reading.take());
        Ok::<_, Fault>(())
    };
    tokio::select! {
        copied = copying => copied?,
        never = noticing => never?,
    }
    Ok(())
}

/// Tells the client of the last run's end.
async fn over(container: &Container, run: &Run, output: &Output) -> Result<()> {
    if container.config().auto_remove {
        run.settled().await;
    }
    let lost = run.lost_output.load(Ordering::Relaxed);
    output.ended(run.ended().await, lost).await
}
