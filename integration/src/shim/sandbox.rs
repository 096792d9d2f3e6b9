//! The sandbox service of a shim under test, as containerd's sandboxer "shim" calls it.

use super::actions::client;
use super::{Answer, Shim};
use crate::runtime::deadline;
use protobuf::MessageField;
use shim::protos::pack;
use shim::protos::pod::PodSandboxConfig;
use shim::protos::sandbox::{
    CreateSandboxRequest, SandboxStatusRequest, SandboxStatusResponse, ShutdownSandboxRequest,
    StartSandboxRequest, StopSandboxRequest, WaitSandboxRequest,
};
use shim::protos::sandbox_ttrpc::SandboxClient;
use ttrpc::Code;
use ttrpc::context::{Context, with_timeout};

impl Shim {
    /// Calls a method of the sandbox service over a connection of its own, with a deadline.
    pub fn ask<T>(
        &self,
        call: impl AsyncFnOnce(&SandboxClient, Context) -> ttrpc::Result<T>,
    ) -> Answer<T> {
        let asked = async {
            let client = SandboxClient::new(client(&self.socket).await);
            tokio::time::timeout(deadline(), call(&client, with_timeout(0))).await
        };
        let answer = self.daemon().asynchronous.block_on(asked);
        answer
            .unwrap_or_else(|_| panic!("no answer within {:?}", deadline()))
            .map_err(|error| match error {
                ttrpc::Error::RpcStatus(status) => (status.code(), status.message),
                other => (Code::UNAVAILABLE, other.to_string()),
            })
    }

    /// CreateSandbox, named as the shim's first bundle is. `network` may be empty, and `config` none: other clients than CRI have none.
    pub fn create_sandbox(&self, network: &str, config: Option<&PodSandboxConfig>) -> Answer<()> {
        let packed = config.map(|config| {
            pack("runtime.v1.PodSandboxConfig", config)
                .unwrap_or_else(|error| panic!("encode: {error}"))
        });
        let request = CreateSandboxRequest {
            sandbox_id: self.id.clone(),
            bundle_path: self.directory(&self.id).display().to_string(),
            netns_path: network.into(),
            options: MessageField::from(packed),
            ..Default::default()
        };
        self.ask(async |client, ctx| client.create_sandbox(ctx, &request).await)
            .map(drop)
    }

    /// StartSandbox: its pid.
    pub fn start_sandbox(&self) -> Answer<u32> {
        let request = StartSandboxRequest {
            sandbox_id: self.id.clone(),
            ..Default::default()
        };
        self.ask(async |client, ctx| client.start_sandbox(ctx, &request).await)
            .map(|response| response.pid)
    }

    /// SandboxStatus.
    pub fn sandbox_status(&self) -> Answer<SandboxStatusResponse> {
        let request = SandboxStatusRequest {
            sandbox_id: self.id.clone(),
            verbose: true,
            ..Default::default()
        };
        self.ask(async |client, ctx| client.sandbox_status(ctx, &request).await)
    }

    /// StopSandbox.
    pub fn stop_sandbox(&self, seconds: u32) -> Answer<()> {
        let request = StopSandboxRequest {
            sandbox_id: self.id.clone(),
            timeout_secs: seconds,
            ..Default::default()
        };
        self.ask(async |client, ctx| client.stop_sandbox(ctx, &request).await)
            .map(drop)
    }

    /// WaitSandbox: the exit status.
    pub fn wait_sandbox(&self) -> Answer<u32> {
        let request = WaitSandboxRequest {
            sandbox_id: self.id.clone(),
            ..Default::default()
        };
        self.ask(async |client, ctx| client.wait_sandbox(ctx, &request).await)
            .map(|response| response.exit_status)
    }

    /// ShutdownSandbox.
    pub fn shutdown_sandbox(&self) -> Answer<()> {
        let request = ShutdownSandboxRequest {
            sandbox_id: self.id.clone(),
            ..Default::default()
        };
        self.ask(async |client, ctx| client.shutdown_sandbox(ctx, &request).await)
            .map(drop)
    }
}
