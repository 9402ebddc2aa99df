//! HTTP/2 to the host over whatever stream there is.

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tombolo_guest_proto::MESSAGE_LEN_MAX;
use tombolo_guest_proto::v1::agent_server::AgentServer;

use crate::service::AgentService;

/// A stream's share: a reader that is slow holds up only itself.
const STREAM_WINDOW_LEN: u32 = 256 * 1024;
/// All streams' share: so many slow ones must not hold up a quick one.
const CONNECTION_WINDOW_LEN: u32 = 64 * 1024 * 1024;
const STREAMS_MAX: u32 = 16_384;
/// A chunk and what surrounds it go in one frame.
const FRAME_LEN_MAX: u32 = 128 * 1024;
/// Bytes that wait for the connection, per stream.
const SEND_BUFFER_LEN: usize = 128 * 1024;
/// Streams that were given up before they were looked at. The peer is our own
/// and gives up calls freely; the bound is for its bugs.
const RESETS_PENDING_MAX: usize = 65_536;
const HEADERS_LEN_MAX: u32 = 64 * 1024;

/// Serves one connection until the peer goes away.
pub(crate) async fn serve_connection<IO>(io: IO, service: AgentService) -> hyper::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = AgentServer::new(service)
        .max_decoding_message_size(MESSAGE_LEN_MAX)
        .max_encoding_message_size(MESSAGE_LEN_MAX);
    http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW_LEN)
        .initial_connection_window_size(CONNECTION_WINDOW_LEN)
        .max_concurrent_streams(STREAMS_MAX)
        .max_frame_size(FRAME_LEN_MAX)
        .max_send_buf_size(SEND_BUFFER_LEN)
        .max_header_list_size(HEADERS_LEN_MAX)
        .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
        // Counted over the connection's whole life, which is the sandbox's.
        .max_local_error_reset_streams(None)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(service))
        .await
}
