//! Streams from the server to the client.
//!
//! Each sends exactly one `start`, its data in non-empty chunks, and exactly
//! one `end` or `error`; after the client cancelled it, nothing.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tombolo_api::rpc::{
    ErrorObject, JsonRpc, Notification, StreamCancel, StreamError, StreamReason, methods,
};
use tombolo_guest_proto::CHUNK_LEN_MAX;

use super::frame::BASE64;
use super::outgoing::{Outgoing, PeerGone};
use super::stream_ids::StreamIds;
use crate::guest::Dialect;

/// More than the JSON around a chunk.
const ENQUEUE_OVERHEAD: usize = 128;

/// The open server streams of one connection.
#[derive(Debug)]
pub(super) struct OutboundStreams {
    ids: Arc<StreamIds>,
    open: Mutex<HashMap<u64, CancellationToken>>,
    outgoing: Outgoing,
    dialect: Dialect,
}

impl OutboundStreams {
    pub(super) fn new(ids: Arc<StreamIds>, outgoing: Outgoing, dialect: Dialect) -> Self {
        Self {
            ids,
            open: Mutex::default(),
            outgoing,
            dialect,
        }
    }

    pub(super) fn open(self: &Arc<Self>) -> OutboundStream {
        let id = self.ids.next();
        let cancelled = CancellationToken::new();
        self.open.lock().insert(id, cancelled.clone());
        OutboundStream {
            cancelled,
            is_started: false,
            registration: Registration {
                id,
                streams: Arc::clone(self),
            },
        }
    }

    /// A number that no stream of this server has or will have.
    pub(super) fn new_id(&self) -> u64 {
        self.ids.next()
    }

    /// The client wants no more of this stream.
    pub(super) fn cancel(&self, id: u64) {
        if let Some(cancelled) = self.open.lock().remove(&id) {
            cancelled.cancel();
        }
    }
}

/// An open stream's place in the table. The last message of a stream carries
/// it to the writer, so that a cancellation finds the stream until then.
#[derive(Debug)]
pub(super) struct Registration {
    id: u64,
    streams: Arc<OutboundStreams>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.streams.open.lock().remove(&self.id);
    }
}

/// Nobody wants more of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum StreamStopped {
    #[error("the client cancelled the stream")]
    Cancelled,
    #[error("the client is gone")]
    PeerGone,
}

impl From<PeerGone> for StreamStopped {
    fn from(_: PeerGone) -> Self {
        Self::PeerGone
    }
}

/// One stream to the client. Dropping it without [`Self::end`] or
/// [`Self::fail`] is right only when the client is gone or cancelled it.
#[derive(Debug)]
pub(super) struct OutboundStream {
    cancelled: CancellationToken,
    is_started: bool,
    registration: Registration,
}

impl OutboundStream {
    pub(super) fn id(&self) -> u64 {
        self.registration.id
    }

    /// Fires when the client cancels the stream.
    pub(super) fn cancelled(&self) -> CancellationToken {
        self.cancelled.clone()
    }

    /// Sends bytes, cut into chunks.
    pub(super) async fn data(&mut self, data: &[u8]) -> Result<(), StreamStopped> {
        self.start().await?;
        for chunk in data.chunks(CHUNK_LEN_MAX) {
            self.send(enqueue_message(self.id(), chunk)).await?;
        }
        Ok(())
    }

    /// Sends the end.
    pub(super) async fn end(mut self) -> Result<(), StreamStopped> {
        self.start().await?;
        let text = signal_message(methods::STREAM_END, self.id());
        self.send_last(text).await
    }

    /// Sends a failure. The Python SDK waits for an end all the same.
    pub(super) async fn fail(mut self, error: ErrorObject) -> Result<(), StreamStopped> {
        self.start().await?;
        let text = error_message(self.id(), error);
        if self.registration.streams.dialect == Dialect::Python {
            self.send(text).await?;
            let end = signal_message(methods::STREAM_END, self.id());
            return self.send_last(end).await;
        }
        self.send_last(text).await
    }

    async fn start(&mut self) -> Result<(), StreamStopped> {
        if !self.is_started {
            let text = signal_message(methods::STREAM_START, self.id());
            self.send(text).await?;
            self.is_started = true;
        }
        Ok(())
    }

    async fn send(&self, text: String) -> Result<(), StreamStopped> {
        if self.cancelled.is_cancelled() {
            return Err(StreamStopped::Cancelled);
        }
        let outgoing = &self.registration.streams.outgoing;
        Ok(outgoing.stream(text, &self.cancelled, None).await?)
    }

    async fn send_last(self, text: String) -> Result<(), StreamStopped> {
        if self.cancelled.is_cancelled() {
            return Err(StreamStopped::Cancelled);
        }
        let outgoing = self.registration.streams.outgoing.clone();
        let sent = outgoing.stream(text, &self.cancelled, Some(self.registration));
        Ok(sent.await?)
    }
}

fn enqueue_message(id: u64, chunk: &[u8]) -> String {
    let mut text = String::with_capacity(ENQUEUE_OVERHEAD + chunk.len().div_ceil(3) * 4);
    text.push_str(r#"{"jsonrpc":"2.0","method":"$sandbox.stream.enqueue","params":{"streamId":"#);
    push_number(&mut text, id);
    text.push_str(r#","data":""#);
    BASE64.encode_string(chunk, &mut text);
    text.push_str("\"}}");
    text
}

/// Tells the client that nobody reads a stream of its own. The JavaScript SDK
/// hands the reason to whoever writes on.
pub(super) fn cancel_message(id: u64) -> String {
    let reason = ErrorObject::new("BrokenPipe", "Broken pipe (os error 32)").with_code("EPIPE");
    let notification = Notification {
        jsonrpc: JsonRpc,
        method: methods::STREAM_CANCEL,
        params: StreamCancel {
            stream_id: id,
            reason: Some(StreamReason::Error(Box::new(reason))),
        },
    };
    serde_json::to_string(&notification).unwrap_or_default()
}

/// A notification that only names its stream.
fn signal_message(method: &str, id: u64) -> String {
    let mut text = String::with_capacity(ENQUEUE_OVERHEAD);
    text.push_str(r#"{"jsonrpc":"2.0","method":""#);
    text.push_str(method);
    text.push_str(r#"","params":{"streamId":"#);
    push_number(&mut text, id);
    text.push_str("}}");
    text
}

fn error_message(id: u64, error: ErrorObject) -> String {
    let notification = Notification {
        jsonrpc: JsonRpc,
        method: methods::STREAM_ERROR,
        params: StreamError {
            stream_id: id,
            error: Some(StreamReason::Error(Box::new(error))),
        },
    };
    // An error object is always JSON; the plain end is the least that helps.
    serde_json::to_string(&notification).unwrap_or_else(|_| signal_message(methods::STREAM_END, id))
}

fn push_number(text: &mut String, number: u64) {
    // Writing to a string never fails.
    if write!(text, "{number}").is_err() {
        text.push('0');
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn messages_are_what_they_claim() {
        let cases = [
            (
                enqueue_message(7, b"hi"),
                json!({"jsonrpc":"2.0","method":"$sandbox.stream.enqueue",
                    "params":{"streamId":7,"data":"aGk="}}),
            ),
            (
                signal_message(methods::STREAM_END, 7),
                json!({"jsonrpc":"2.0","method":"$sandbox.stream.end","params":{"streamId":7}}),
            ),
            (
                cancel_message(7),
                json!({"jsonrpc":"2.0","method":"$sandbox.stream.cancel",
                    "params":{"streamId":7,"reason":{"constructorName":"BrokenPipe",
                        "message":"Broken pipe (os error 32)","code":"EPIPE"}}}),
            ),
            (
                error_message(7, ErrorObject::new("Error", "\"")),
                json!({"jsonrpc":"2.0","method":"$sandbox.stream.error",
                    "params":{"streamId":7,"error":{"constructorName":"Error","message":"\""}}}),
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
        }
    }

    #[test]
    fn the_largest_chunk_fits_its_buffer() {
        let text = enqueue_message((1 << 53) - 1, &vec![0; CHUNK_LEN_MAX]);
        assert!(text.len() <= ENQUEUE_OVERHEAD + CHUNK_LEN_MAX.div_ceil(3) * 4);
        assert!(text.len() < 1024 * 1024, "the Python SDK takes no more");
    }
}
