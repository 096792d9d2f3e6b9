//! The sandbox service: a pod without a pause container. A request → what it means for the pod and its containers → its reply.
//!
//! Served beside the task service, by which containers come into the pod; containerd's sandboxer "shim" is its client. As there, what
//! changes something goes on when its client leaves.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use protobuf::MessageField;
use ttrpc::r#async::{Service, TtrpcContext};

use crate::aside::aside;
use crate::containers::Containers;
use crate::end::End;
use crate::error::{Error, Result};
use crate::metrics;
use crate::pod::{Pod, State};
use crate::protos::pack;
use crate::protos::sandbox::{
    CreateSandboxRequest, CreateSandboxResponse, PingRequest, PingResponse, PlatformRequest,
    PlatformResponse, SandboxMetricsRequest, SandboxMetricsResponse, SandboxStatusRequest,
    SandboxStatusResponse, ShutdownSandboxRequest, ShutdownSandboxResponse, StartSandboxRequest,
    StartSandboxResponse, StopSandboxRequest, StopSandboxResponse, WaitSandboxRequest,
    WaitSandboxResponse,
};
use crate::protos::sandbox_ttrpc::{Sandbox, create_sandbox};
use crate::protos::types::{Metric, Platform};
use crate::task::{Reply, detached};

#[derive(Debug)]
struct Sandboxes {
    containers: Arc<Containers>,
    end: Arc<End>,
}

/// `end` is told when the sandbox has been shut down.
pub(crate) fn services(containers: Arc<Containers>, end: Arc<End>) -> HashMap<String, Service> {
    create_sandbox(Arc::new(Sandboxes { containers, end }))
}

#[async_trait]
impl Sandbox for Sandboxes {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: CreateSandboxRequest,
    ) -> Reply<CreateSandboxResponse> {
        let containers = self.containers.clone();
        detached(async move { containers.set_pod(|| Pod::make(request)) }).await?;
        Ok(CreateSandboxResponse::new())
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        request: StartSandboxRequest,
    ) -> Reply<StartSandboxResponse> {
        let pod = self.containers.pod(&request.sandbox_id)?;
        pod.start()?;
        Ok(StartSandboxResponse {
            // It has no process.
            pid: 0,
            created_at: MessageField::some(pod.made.into()),
            ..Default::default()
        })
    }

    async fn platform(
        &self,
        _: &TtrpcContext,
        request: PlatformRequest,
    ) -> Reply<PlatformResponse> {
        self.containers.pod(&request.sandbox_id)?;
        // By the names that Go has.
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Ok(PlatformResponse {
            platform: MessageField::some(Platform {
                os: "linux".into(),
                architecture: architecture.into(),
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    async fn stop_sandbox(
        &self,
        _: &TtrpcContext,
        request: StopSandboxRequest,
    ) -> Reply<StopSandboxResponse> {
        let (containers, pod) = (
            self.containers.clone(),
            self.containers.pod(&request.sandbox_id)?,
        );
        let patience = Duration::from_secs(request.timeout_secs.into());
        detached(async move { stop(&containers, &pod, patience).await }).await?;
        Ok(StopSandboxResponse::new())
    }

    async fn wait_sandbox(
        &self,
        _: &TtrpcContext,
        request: WaitSandboxRequest,
    ) -> Reply<WaitSandboxResponse> {
        let stopped = self.containers.pod(&request.sandbox_id)?.stopped().await;
        Ok(WaitSandboxResponse {
            exit_status: 0,
            exited_at: MessageField::some(stopped.into()),
            ..Default::default()
        })
    }

    async fn sandbox_status(
        &self,
        _: &TtrpcContext,
        request: SandboxStatusRequest,
    ) -> Reply<SandboxStatusResponse> {
        let pod = self.containers.pod(&request.sandbox_id)?;
        let mut status = SandboxStatusResponse {
            sandbox_id: pod.id.clone(),
            state: "SANDBOX_NOTREADY".into(),
            created_at: MessageField::some(pod.made.into()),
            ..Default::default()
        };
        match pod.state() {
            State::Ready => status.state = "SANDBOX_READY".into(),
            State::Stopped(at) => status.exited_at = MessageField::some(at.into()),
            State::Made | State::Stopping => {}
        }
        if request.verbose {
            let network = pod.network.clone();
            status.info.insert("networkNamespace".into(), network);
        }
        Ok(status)
    }

    async fn ping_sandbox(&self, _: &TtrpcContext, request: PingRequest) -> Reply<PingResponse> {
        self.containers.pod(&request.sandbox_id)?;
        Ok(PingResponse::new())
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        request: ShutdownSandboxRequest,
    ) -> Reply<ShutdownSandboxResponse> {
        let (containers, end) = (self.containers.clone(), self.end.clone());
        detached(async move {
            match containers.pod(&request.sandbox_id) {
                Ok(pod) => {
                    stop(&containers, &pod, Duration::ZERO).await?;
                    containers.delete_all().await?;
                    aside(move || pod.undo()).await?;
                    containers.forget_pod();
                }
                // A client whose CreateSandbox has failed asks for the shim's end by this, and by nothing else.
                Err(_) if containers.close_if_none() => {}
                Err(error) => return Err(error),
            }
            end.now().await;
            Ok(())
        })
        .await?;
        Ok(ShutdownSandboxResponse::new())
    }

    async fn sandbox_metrics(
        &self,
        _: &TtrpcContext,
        request: SandboxMetricsRequest,
    ) -> Reply<SandboxMetricsResponse> {
        let pod = self.containers.pod(&request.sandbox_id)?;
        let group = pod.group()?;
        let read = metrics::read(&group);
        let read = read.map_err(|error| {
            Error::os(format!("read the statistics of {}", group.display()), error)
        })?;
        let data = pack("io.containerd.cgroups.v2.Metrics", &read)
            .map_err(|error| Error::unknown(error.to_string()))?;
        Ok(SandboxMetricsResponse {
            metrics: MessageField::some(Metric {
                timestamp: MessageField::some(SystemTime::now().into()),
                id: pod.id.clone(),
                data: MessageField::some(data),
                ..Default::default()
            }),
            ..Default::default()
        })
    }
}

/// Ends its containers. Whoever asks second waits until that is done.
async fn stop(containers: &Containers, pod: &Pod, patience: Duration) -> Result<()> {
    while !pod.close() {
        if pod.settled().await {
            return Ok(());
        }
    }
    let ended = containers.end(patience).await;
    ended.inspect_err(|_| pod.reopen())?;
    pod.set_stopped();
    Ok(())
}
