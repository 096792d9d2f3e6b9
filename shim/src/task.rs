//! The task service: a request → one call on a container → its reply. No decisions.
//!
//! ttrpc drops what answers a request when its client disconnects or its time is up. What changes something is therefore a task of its own,
//! which is only waited for here: nothing is ever cut in half.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use protobuf::well_known_types::empty::Empty;
use protobuf::{Message, MessageField};
use ttrpc::r#async::{Service, TtrpcContext};

use crate::cgroup;
use crate::container::Container;
use crate::containers::Containers;
use crate::end::End;
use crate::error::{Error, Result};
use crate::metrics;
use crate::process::{Ended, Process, State};
use crate::protos::pack;
use crate::protos::runc_options::{CheckpointOptions, ProcessDetails};
use crate::protos::task::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest,
    StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse,
    UpdateTaskRequest, WaitRequest, WaitResponse,
};
use crate::protos::task_ttrpc::{Task, create_task};
use crate::protos::task_types::{ProcessInfo, Status};
use crate::sys;

#[derive(Debug)]
struct Tasks {
    containers: Arc<Containers>,
    end: Arc<End>,
}

/// The service under both of its names. `end` is told when a client wants the shim to end.
pub(crate) fn services(containers: Arc<Containers>, end: Arc<End>) -> HashMap<String, Service> {
    let tasks = Arc::new(Tasks { containers, end });
    let mut services = create_task(tasks.clone());
    // The same messages and methods; containerd up to 1.7 and newer ones that were told of version 2 call it so.
    services.extend(
        create_task(tasks)
            .into_values()
            .map(|service| ("containerd.task.v2.Task".to_owned(), service)),
    );
    services
}

pub(crate) type Reply<T> = ttrpc::Result<T>;

/// Does it, whatever becomes of the client.
pub(crate) async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Reply<T> {
    let done = tokio::spawn(work).await;
    sys::unmap_code();
    match done {
        Ok(done) => Ok(done?),
        // Panics abort, and nobody cancels.
        Err(error) => Err(Error::unknown(error.to_string()).into()),
    }
}

impl Tasks {
    fn container(&self, id: &str) -> Result<Arc<Container>> {
        self.containers.get(id)
    }
}

#[async_trait]
impl Task for Tasks {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> Reply<CreateTaskResponse> {
        let containers = self.containers.clone();
        let pid = detached(async move { containers.create(request).await }).await?;
        Ok(CreateTaskResponse {
            pid: pid.cast_unsigned(),
            ..Default::default()
        })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> Reply<StartResponse> {
        let container = self.container(&request.id)?;
        let start = async move {
            if request.exec_id.is_empty() {
                container.start().await
            } else {
                container.start_exec(&request.exec_id).await
            }
        };
        Ok(StartResponse {
            pid: detached(start).await?.cast_unsigned(),
            ..Default::default()
        })
    }

    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> Reply<StateResponse> {
        match self.container(&request.id) {
            Ok(container) => Ok(state(&container, &request.exec_id)?),
            Err(error) => match self.containers.gone(&request.id) {
                Some(ended) if request.exec_id.is_empty() => Ok(StateResponse {
                    id: request.id,
                    ..state_of_end(ended)
                }),
                _ => Err(error.into()),
            },
        }
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> Reply<WaitResponse> {
        let ended = match self.container(&request.id) {
            Ok(container) if request.exec_id.is_empty() => container.init.ended().await,
            Ok(container) => match container.execs.get(&request.exec_id) {
                Ok(exec) => exec.process.ended().await,
                Err(error) => container.execs.gone(&request.exec_id).ok_or(error)?,
            },
            Err(error) => self
                .containers
                .gone(&request.id)
                .filter(|_| request.exec_id.is_empty())
                .ok_or(error)?,
        };
        Ok(WaitResponse {
            exit_status: ended.exit.status,
            exited_at: MessageField::some(ended.exit.at.into()),
            ..Default::default()
        })
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> Reply<Empty> {
        let container = match self.container(&request.id) {
            Ok(container) => container,
            Err(_) if self.containers.gone(&request.id).is_some() => {
                return Err(Error::not_found("process already finished").into());
            }
            Err(error) => return Err(error.into()),
        };
        let kill = async move {
            if request.exec_id.is_empty() {
                return container.kill(request.signal, request.all).await;
            }
            match container.execs.get(&request.exec_id) {
                Ok(exec) => exec.process.signal(request.signal),
                Err(_) if container.execs.gone(&request.exec_id).is_some() => {
                    Err(Error::not_found("process already finished"))
                }
                Err(error) => Err(error),
            }
        };
        detached(kill).await.map(|()| Empty::new())
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> Reply<DeleteResponse> {
        let containers = self.containers.clone();
        let delete = async move {
            if request.exec_id.is_empty() {
                return containers.delete(&request.id).await;
            }
            containers
                .get(&request.id)?
                .delete_exec(&request.exec_id)
                .await
        };
        let ended = detached(delete).await?;
        // Of many processes the last one's deletion may be the last thing for long.
        sys::trim_memory();
        Ok(DeleteResponse {
            pid: ended.pid.cast_unsigned(),
            exit_status: ended.exit.status,
            exited_at: MessageField::some(ended.exit.at.into()),
            ..Default::default()
        })
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> Reply<Empty> {
        self.container(&request.id)?.add_exec(request)?;
        Ok(Empty::new())
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> Reply<PidsResponse> {
        let container = self.container(&request.id)?;
        Ok(PidsResponse {
            processes: processes(&container)?,
            ..Default::default()
        })
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> Reply<Empty> {
        let container = self.container(&request.id)?;
        detached(async move { container.pause().await })
            .await
            .map(|()| Empty::new())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> Reply<Empty> {
        let container = self.container(&request.id)?;
        detached(async move { container.resume().await })
            .await
            .map(|()| Empty::new())
    }

    async fn checkpoint(&self, _: &TtrpcContext, request: CheckpointTaskRequest) -> Reply<Empty> {
        let container = self.container(&request.id)?;
        let options = request
            .options
            .as_ref()
            .map_or(Ok(Default::default()), |any| {
                CheckpointOptions::parse_from_bytes(&any.value)
            });
        let options = options
            .map_err(|error| Error::invalid(format!("the options of the checkpoint: {error}")))?;
        detached(async move { container.checkpoint(&request.path, &options).await })
            .await
            .map(|()| Empty::new())
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> Reply<Empty> {
        let container = self.container(&request.id)?;
        let resize = |process: &Process| {
            if matches!(process.state(), State::Stopped(_)) {
                return Err(Error::unknown("cannot resize a stopped process"));
            }
            let size = |length: u32| {
                u16::try_from(length).map_err(|_| {
                    Error::invalid(format!(
                        "a terminal of {}x{}",
                        request.width, request.height
                    ))
                })
            };
            let (width, height) = (size(request.width)?, size(request.height)?);
            let stdio = process.stdio();
            stdio
                .map_or(Ok(()), |stdio| stdio.resize(width, height))
                .map_err(|error| Error::os("resize the terminal", error))
        };
        on_process(&container, &request.exec_id, resize)?;
        Ok(Empty::new())
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> Reply<Empty> {
        let container = self.container(&request.id)?;
        if request.stdin {
            on_process(&container, &request.exec_id, |process| {
                process.close_stdin();
                Ok(())
            })?;
        }
        Ok(Empty::new())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> Reply<Empty> {
        let container = self.container(&request.id)?;
        let resources = request
            .resources
            .into_option()
            .ok_or_else(|| Error::invalid("an update without resources"))?;
        detached(async move {
            container
                .runtime
                .update(&container.id, &resources.value)
                .await
        })
        .await
        .map(|()| Empty::new())
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> Reply<StatsResponse> {
        let container = self.container(&request.id)?;
        let group = container.group()?;
        let metrics = metrics::read(group).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Error::not_found(format!("group {} does not exist", group.display()))
            }
            _ => Error::os(format!("read the statistics of {}", group.display()), error),
        })?;
        let stats = pack("io.containerd.cgroups.v2.Metrics", &metrics)
            .map_err(|error| Error::unknown(error.to_string()))?;
        Ok(StatsResponse {
            stats: MessageField::some(stats),
            ..Default::default()
        })
    }

    /// Never fails: containerd asks this to learn whether the shim lives.
    async fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> Reply<ConnectResponse> {
        let task_pid = self
            .container(&request.id)
            .map_or(0, |container| container.init.pid().cast_unsigned());
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid,
            version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        })
    }

    /// With containers left it is only a wish.
    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> Reply<Empty> {
        if self.containers.close_if_none() {
            self.end.now().await;
        } else {
            self.end.wish();
        }
        Ok(Empty::new())
    }
}

/// `exec` is empty for init.
fn on_process<T>(
    container: &Container,
    exec: &str,
    act: impl FnOnce(&Process) -> Result<T>,
) -> Result<T> {
    if exec.is_empty() {
        act(&container.init)
    } else {
        act(&container.execs.get(exec)?.process)
    }
}

fn state(container: &Container, exec: &str) -> Result<StateResponse> {
    if let Some(ended) = container.execs.gone(exec) {
        return Ok(StateResponse {
            id: container.id.clone(),
            exec_id: exec.to_owned(),
            ..state_of_end(ended)
        });
    }
    on_process(container, exec, |process| {
        let streams = process.streams.clone();
        let init = container.init.status();
        let mut state = StateResponse {
            id: container.id.clone(),
            exec_id: exec.to_owned(),
            bundle: container.bundle.to_string_lossy().into_owned(),
            pid: process.pid().cast_unsigned(),
            status: process.status().into(),
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
            terminal: streams.terminal,
            ..Default::default()
        };
        match process.state() {
            State::Stopped(ended) => {
                state.exit_status = ended.exit.status;
                state.exited_at = MessageField::some(ended.exit.at.into());
            }
            // The freezer holds all of them.
            _ if matches!(init, Status::PAUSED | Status::PAUSING) => state.status = init.into(),
            _ => {}
        }
        Ok(state)
    })
}

fn state_of_end(ended: Ended) -> StateResponse {
    StateResponse {
        pid: ended.pid.cast_unsigned(),
        status: Status::STOPPED.into(),
        exit_status: ended.exit.status,
        exited_at: MessageField::some(ended.exit.at.into()),
        ..Default::default()
    }
}

/// Of a container that has ended, its init; of one that was saved and comes back in Start, a process without a pid. Of an empty list, and up to
/// 1.7 of an error, containerd would think after its restart that the shim is left over, and throw the exit status away.
fn processes(container: &Container) -> Result<Vec<ProcessInfo>> {
    let mut pids = match container.init.state() {
        State::Registered | State::Stopped(_) => Vec::new(),
        State::Alive(..) => {
            let group = container.group()?;
            let listed =
                |error| Error::os(format!("list the processes of {}", group.display()), error);
            cgroup::pids(group).map_err(listed)?
        }
    };
    if pids.is_empty() {
        pids.push(container.init.pid());
    }
    let execs: HashMap<i32, String> = container
        .execs
        .all()
        .into_iter()
        .map(|exec| (exec.process.pid(), exec.id.clone()))
        .collect();
    let info = |pid: i32| {
        let mut info = ProcessInfo {
            pid: pid.cast_unsigned(),
            ..Default::default()
        };
        if let Some(exec_id) = execs.get(&pid) {
            let details = ProcessDetails {
                exec_id: exec_id.clone(),
                ..Default::default()
            };
            info.info =
                MessageField::from(pack("containerd.runc.v1.ProcessDetails", &details).ok());
        }
        info
    };
    Ok(pids.into_iter().map(info).collect())
}
