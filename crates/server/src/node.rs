//! The server's way to the node: calls that outlast a node's restart.

use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;
use tombolo_ids::{SandboxId, UnixMillis};
use tombolo_node_proto::v1::node_client::NodeClient;
use tombolo_node_proto::v1::{
    CreateSandboxReply, CreateSandboxRequest, DescribeReply, DescribeRequest, Empty, SandboxEnded,
    SandboxRef, SandboxState, SandboxUsageReply, SetDeadlineRequest,
};
use tonic::transport::Channel;
use tonic::{Response, Status, Streaming};

use crate::call::{CallError, Caller, never};
use crate::guest::node_channel;

type Client = NodeClient<Channel>;

/// How long one attempt at a short call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long taking a sandbox down may take.
const DESTROY_TIMEOUT: Duration = Duration::from_mins(1);

/// A call to the node failed.
pub(crate) type NodeCallError = CallError;

/// Clones share one connection, which is made anew whenever it was lost.
#[derive(Clone, Debug)]
pub(crate) struct NodeLink {
    channel: Channel,
    caller: Caller,
    up: watch::Sender<bool>,
}

impl NodeLink {
    /// Must be called within a Tokio runtime.
    pub(crate) fn new(socket: &Path, wait: Duration) -> Self {
        Self {
            channel: node_channel(socket),
            caller: Caller {
                peer: "the node",
                wait,
            },
            up: watch::Sender::new(false),
        }
    }

    /// Whether the node's events are being followed.
    pub(crate) fn is_up(&self) -> bool {
        *self.up.borrow()
    }

    pub(crate) fn set_up(&self, up: bool) {
        self.up.send_replace(up);
    }

    pub(crate) async fn describe(&self) -> Result<DescribeReply, NodeCallError> {
        let call = |mut client: Client| async move { client.describe(DescribeRequest {}).await };
        self.call("describe itself", CALL_TIMEOUT, call).await
    }

    /// One attempt: when the reply is lost, the caller must find out what
    /// became of the sandbox. A node that says itself that something is
    /// unavailable is there: it means its egress process.
    pub(crate) async fn create(
        &self,
        request: CreateSandboxRequest,
        limit: Duration,
    ) -> Result<CreateSandboxReply, NodeCallError> {
        let call = |mut client: Client| async move { client.create_sandbox(request).await };
        let created = self.attempt("create a sandbox", limit, call).await;
        created.map_err(NodeCallError::or_its_own_words)
    }

    pub(crate) async fn destroy(&self, id: &SandboxId) -> Result<(), NodeCallError> {
        let call = |mut client: Client| {
            let request = sandbox_ref(id);
            async move { client.destroy_sandbox(request).await }
        };
        let Empty {} = self
            .call("take down a sandbox", DESTROY_TIMEOUT, call)
            .await?;
        Ok(())
    }

    pub(crate) async fn list(&self) -> Result<Vec<SandboxState>, NodeCallError> {
        let call = |mut client: Client| async move { client.list_sandboxes(Empty {}).await };
        let reply = self.call("list its sandboxes", CALL_TIMEOUT, call).await?;
        Ok(reply.sandboxes)
    }

    pub(crate) async fn set_deadline(
        &self,
        id: &SandboxId,
        deadline: UnixMillis,
    ) -> Result<(), NodeCallError> {
        let call = |mut client: Client| {
            let request = SetDeadlineRequest {
                sandbox_id: id.to_string(),
                deadline_unix_millis: deadline.0,
            };
            async move { client.set_deadline(request).await }
        };
        let Empty {} = self.call("move a deadline", CALL_TIMEOUT, call).await?;
        Ok(())
    }

    /// One attempt: a measurement that comes late is worth nothing.
    pub(crate) async fn usage(
        &self,
        id: &SandboxId,
        limit: Duration,
    ) -> Result<SandboxUsageReply, NodeCallError> {
        let request = sandbox_ref(id);
        let call = |mut client: Client| async move { client.sandbox_usage(request).await };
        self.attempt("measure a sandbox", limit, call).await
    }

    /// One attempt: the caller follows the node again and again anyway.
    pub(crate) async fn watch(&self) -> Result<Streaming<SandboxEnded>, NodeCallError> {
        let call = |mut client: Client| async move { client.watch(Empty {}).await };
        self.attempt("tell what ends", CALL_TIMEOUT, call).await
    }

    /// Repeats a call that may be repeated while the node is away.
    async fn call<T, F>(
        &self,
        operation: &'static str,
        limit: Duration,
        call: impl Fn(Client) -> F,
    ) -> Result<T, NodeCallError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let call = || call(NodeClient::new(self.channel.clone()));
        self.caller.repeat(operation, limit, never, call).await
    }

    async fn attempt<T, F>(
        &self,
        operation: &'static str,
        limit: Duration,
        call: impl FnOnce(Client) -> F,
    ) -> Result<T, NodeCallError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let call = || call(NodeClient::new(self.channel.clone()));
        self.caller.attempt(operation, limit, call).await
    }
}

fn sandbox_ref(id: &SandboxId) -> SandboxRef {
    SandboxRef {
        sandbox_id: id.to_string(),
    }
}
