//! The server's way to one sandbox's guest agent, and which client speaks.

mod chunk_writer;
mod listen;
mod process;
mod stream;

use std::path::Path;

use tombolo_guest_proto::v1::agent_client::AgentClient;
use tombolo_guest_proto::{Guarded, agent_client};
use tombolo_ids::SandboxId;
use tombolo_node_proto::SANDBOX_METADATA_KEY;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::call::unix_channel;

pub(crate) use process::ProcessHandle;
pub(crate) use stream::{ConnectGuestError, GuestStream, Target};

/// What one stream may hold in flight before the reader has taken it.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// Large enough that a stream nobody reads never stalls the others.
const CONNECTION_WINDOW_BYTES: u32 = 64 * 1024 * 1024;

/// Headers of one answer together: more than any status of an agent has, so
/// that one that is too long is seen, and told as that.
const HEADER_LIST_BYTES_MAX: u32 = 64 * 1024;

/// A channel to a node's unix socket, connected when first used and again
/// whenever the connection was lost.
///
/// Must be called within a Tokio runtime.
pub(crate) fn node_channel(socket: &Path) -> Channel {
    let endpoint = Endpoint::from_static("http://node.tombolo.internal")
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_max_header_list_size(HEADER_LIST_BYTES_MAX);
    unix_channel(&endpoint, socket)
}

/// The calls of the guest agent that one sandbox has.
pub(crate) type GuestClient = AgentClient<Guarded<InterceptedService<Channel, SandboxHeader>>>;

/// Calls of one sandbox's guest agent, passed through by the node.
///
/// Clones share one connection. Calls fail with `UNAVAILABLE` while the node is
/// away and with `NOT_FOUND` when the sandbox is gone.
#[derive(Clone, Debug)]
pub(crate) struct GuestAgent {
    channel: Channel,
    header: SandboxHeader,
}

impl GuestAgent {
    /// Must be called within a Tokio runtime.
    pub(crate) fn new(node_socket: &Path, sandbox: &SandboxId) -> Self {
        Self {
            channel: node_channel(node_socket),
            header: SandboxHeader::new(sandbox),
        }
    }

    /// What the guest answers is checked before it is parsed.
    pub(crate) fn client(&self) -> GuestClient {
        agent_client(InterceptedService::new(
            self.channel.clone(),
            self.header.clone(),
        ))
    }
}

/// Whether the way to the guest failed, before or after a call reached it.
pub(crate) fn is_lost(status: &Status) -> bool {
    // A status that came from the other side has no source.
    status.code() == Code::Unavailable || std::error::Error::source(status).is_some()
}

/// Names the sandbox on every call.
#[derive(Clone, Debug)]
pub(crate) struct SandboxHeader(MetadataValue<Ascii>);

impl SandboxHeader {
    fn new(sandbox: &SandboxId) -> Self {
        // A sandbox id is lower-case ASCII, which metadata always accepts.
        Self(MetadataValue::try_from(sandbox.as_str()).unwrap_or(MetadataValue::from_static("")))
    }
}

impl Interceptor for SandboxHeader {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        request
            .metadata_mut()
            .insert(SANDBOX_METADATA_KEY, self.0.clone());
        Ok(request)
    }
}

/// Which client is at the other end of a WebSocket. The official SDKs need
/// different answers in a few places; the handshake tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    JavaScript,
    Python,
    /// Our own command line.
    Native,
}

impl Dialect {
    /// The Python SDK always sends `Python/… websockets/…`, our own client
    /// `tombolo/…`, and the JavaScript SDK sends none.
    pub(crate) fn from_user_agent(user_agent: Option<&str>) -> Self {
        match user_agent {
            Some(agent) if agent.starts_with("tombolo/") => Self::Native,
            Some(agent) if agent.starts_with("Python/") && agent.contains("websockets/") => {
                Self::Python
            }
            _ => Self::JavaScript,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_agent_tells_clients_apart() {
        let cases = [
            (None, Dialect::JavaScript),
            (Some("Python/3.11 websockets/17.4"), Dialect::Python),
            (Some("Python/3.13 aiohttp/3"), Dialect::JavaScript),
            (Some("tombolo/0.1.0"), Dialect::Native),
            (Some("node"), Dialect::JavaScript),
        ];
        for (agent, expected) in cases {
            assert_eq!(Dialect::from_user_agent(agent), expected, "{agent:?}");
        }
    }
}
