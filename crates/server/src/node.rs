//! The server's way to the node: calls that outlast a node's restart.

use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tombolo_ids::{SandboxId, UnixMillis};
use tombolo_node_proto::v1::node_client::NodeClient;
use tombolo_node_proto::v1::{
    CreateSandboxReply, CreateSandboxRequest, DescribeReply, DescribeRequest, Empty, SandboxEnded,
    SandboxRef, SandboxState, SandboxUsageReply, SetDeadlineRequest,
};
use tonic::transport::Channel;
use tonic::{Code, Response, Status, Streaming};

use crate::guest::node_channel;

type Client = NodeClient<Channel>;

/// How long one attempt at a short call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long taking a sandbox down may take.
const DESTROY_TIMEOUT: Duration = Duration::from_mins(1);
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_millis(500);

/// A call to the node failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeCallError {
    #[error("the node cannot be reached (asked it to {operation})")]
    Away {
        operation: &'static str,
        #[source]
        source: Status,
    },
    #[error("the node did not {operation} in time")]
    TimedOut {
        operation: &'static str,
        #[source]
        source: tokio::time::error::Elapsed,
    },
    #[error("the node could not {operation}")]
    Refused {
        operation: &'static str,
        #[source]
        source: Status,
    },
}

impl NodeCallError {
    pub(crate) fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { source, .. } => Some(source.code()),
            Self::Away { .. } | Self::TimedOut { .. } => None,
        }
    }
}

/// Clones share one connection, which is made anew whenever it was lost.
#[derive(Clone, Debug)]
pub(crate) struct NodeLink {
    channel: Channel,
    /// How long a call waits for a node that is away.
    wait: Duration,
    up: watch::Sender<bool>,
}

impl NodeLink {
    /// Must be called within a Tokio runtime.
    pub(crate) fn new(socket: &Path, wait: Duration) -> Self {
        Self {
            channel: node_channel(socket),
            wait,
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
    /// became of the sandbox.
    pub(crate) async fn create(
        &self,
        request: CreateSandboxRequest,
        limit: Duration,
    ) -> Result<CreateSandboxReply, NodeCallError> {
        let call = |mut client: Client| async move { client.create_sandbox(request).await };
        self.attempt("create a sandbox", limit, call).await
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
        let give_up = Instant::now() + self.wait;
        let mut pause = RETRY_FIRST;
        loop {
            let failed = match self.attempt(operation, limit, &call).await {
                Err(failed @ NodeCallError::Away { .. }) => failed,
                done => return done,
            };
            if Instant::now() + pause >= give_up {
                return Err(failed);
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
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
        let client = NodeClient::new(self.channel.clone());
        match timeout(limit, call(client)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(source)) if is_away(&source) => Err(NodeCallError::Away { operation, source }),
            Ok(Err(source)) => Err(NodeCallError::Refused { operation, source }),
            Err(source) => Err(NodeCallError::TimedOut { operation, source }),
        }
    }
}

fn sandbox_ref(id: &SandboxId) -> SandboxRef {
    SandboxRef {
        sandbox_id: id.to_string(),
    }
}

/// A node that stops in the middle of a call shows as a broken connection,
/// which has a cause; a status the node sent has none.
fn is_away(status: &Status) -> bool {
    status.code() == Code::Unavailable || std::error::Error::source(status).is_some()
}
