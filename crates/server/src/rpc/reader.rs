//! Reads the client's messages in order, and settles in that order whatever
//! depends on it, before calls run side by side.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::SplitStream;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tombolo_api::rpc::{AbortParams, ErrorObject, methods};

use super::SessionEnd;
use super::call::{Call, CallPermits};
use super::connection::{Connection, FRAME_UNIT};
use super::dispatch;
use super::fault::CallError;
use super::frame::{self, CallFrame, ClientMessage};
use super::inbound::Advice;
use super::outbound::cancel_message;
use super::params;
use super::reply::Reply;
use crate::guest::Dialect;

/// The JavaScript SDK's heartbeat, which is not JSON.
const HEARTBEAT: &[u8] = b"ping";
const HEARTBEAT_ANSWER: &str = "pong";

/// Why no more is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadEnd {
    ClientClosed,
    Lost,
    /// A message was larger than allowed. What follows cannot be read.
    TooLarge,
    /// The client broke the WebSocket protocol.
    Malformed,
}

impl From<ReadEnd> for SessionEnd {
    fn from(end: ReadEnd) -> Self {
        match end {
            ReadEnd::ClientClosed => Self::ClientClosed,
            ReadEnd::Lost => Self::ConnectionLost,
            ReadEnd::TooLarge | ReadEnd::Malformed => Self::ProtocolFault,
        }
    }
}

/// Reads until the connection ends. Cancelling it between messages loses
/// nothing.
pub(super) async fn read(
    connection: &Arc<Connection>,
    messages: &mut SplitStream<WebSocket>,
) -> ReadEnd {
    let mut ping = interval(connection.limits.ping_interval);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_heard = Instant::now();
    let mut is_closed_by_client = false;
    loop {
        let message = tokio::select! {
            message = messages.next() => message,
            _ = ping.tick() => {
                if last_heard.elapsed() > connection.limits.silence_max {
                    return ReadEnd::Lost;
                }
                connection.outgoing.hint(Message::Ping(Bytes::new()));
                continue;
            }
            () = connection.end.peer_gone.cancelled() => return ReadEnd::Lost,
        };
        let frame = match message {
            // Reading on sends the close frame's echo and then ends.
            Some(Ok(Message::Close(_))) => {
                is_closed_by_client = true;
                continue;
            }
            Some(Ok(Message::Text(text))) => Bytes::from(text),
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Bytes::new(),
            None | Some(Err(_)) if is_closed_by_client => return ReadEnd::ClientClosed,
            None => return ReadEnd::Lost,
            Some(Err(error)) => return classify(error),
        };
        if !frame.is_empty() {
            accept(connection, frame).await;
            connection.messages_read.fetch_add(1, Ordering::Relaxed);
        }
        last_heard = Instant::now();
    }
}

fn classify(error: axum::Error) -> ReadEnd {
    let error = error.into_inner();
    match error.downcast_ref::<axum_tungstenite::Error>() {
        Some(axum_tungstenite::Error::Capacity(_)) => ReadEnd::TooLarge,
        // A connection that ends without a close frame is a protocol error
        // too, but it is the network's.
        Some(axum_tungstenite::Error::Protocol(
            axum_tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
        )) => ReadEnd::Lost,
        Some(axum_tungstenite::Error::Protocol(_) | axum_tungstenite::Error::Utf8(_)) => {
            ReadEnd::Malformed
        }
        _ => ReadEnd::Lost,
    }
}

async fn accept(connection: &Arc<Connection>, frame: Bytes) {
    if frame == HEARTBEAT {
        connection.outgoing.hint(Message::text(HEARTBEAT_ANSWER));
        return;
    }
    let frame_len = frame.len();
    let message = frame::parse(&frame);
    drop(frame);
    match message {
        Ok(ClientMessage::Call(call)) => accept_call(connection, call, frame_len).await,
        Ok(ClientMessage::StreamStart(stream)) => {
            let advice = connection.inbound.start(stream);
            advise(connection, stream, advice);
        }
        Ok(ClientMessage::StreamData { stream, data }) => {
            let advice = connection.inbound.push(stream, data).await;
            advise(connection, stream, advice);
            tokio::select! {
                () = connection.inbound.room() => {}
                () = connection.end.streams.cancelled() => {}
                () = connection.end.peer_gone.cancelled() => {}
            }
        }
        Ok(ClientMessage::StreamEnd(stream)) => connection.inbound.finish(stream, Ok(())),
        Ok(ClientMessage::StreamError { stream, error }) => {
            connection.inbound.finish(stream, Err(Box::new(error)));
        }
        Ok(ClientMessage::StreamCancel(stream)) => connection.outbound.cancel(stream),
        Ok(ClientMessage::Ignored(why)) => tracing::debug!(why, "ignored a client's message"),
        Err(fault) => answer(connection, Reply::fault(&fault)).await,
    }
}

/// Tells the client to cancel a stream that nobody will read. The Python SDK
/// does not know the message.
fn advise(connection: &Connection, stream: u64, advice: Advice) {
    if advice == Advice::Cancel && connection.dialect != Dialect::Python {
        let text = cancel_message(stream);
        connection.outgoing.hint(Message::text(text));
    }
}

async fn accept_call(connection: &Arc<Connection>, frame: CallFrame, frame_len: usize) {
    if frame.method == methods::ABORT {
        let reply = match params::parse::<AbortParams>(&frame.params) {
            Ok(params) => {
                connection.aborts.abort(params.abort_id);
                Reply::ok(&frame.id, &())
            }
            Err(error) => Err(error),
        };
        let reply = reply.unwrap_or_else(|error| Reply::error(&frame.id, error));
        return answer(connection, reply).await;
    }
    let Ok(in_flight) = Arc::clone(&connection.in_flight).try_acquire_owned() else {
        return answer(connection, Reply::error(&frame.id, too_many_calls())).await;
    };
    let mut call = Call {
        connection: Arc::clone(connection),
        id: frame.id,
        params: frame.params,
        stream: None,
        abortable: None,
        turn: None,
        _permits: CallPermits {
            _in_flight: in_flight,
            _frame: hold_frame(connection, frame_len).await,
        },
    };
    settle_order(&mut call, &frame.method);
    let task = dispatch::run(frame.method, call);
    connection.end.call_tasks.spawn(task);
}

/// The parameters that tie a call to messages before and after it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Ties {
    #[serde(rename = "abortId")]
    abort: Option<u64>,
    #[serde(rename = "contentStreamId")]
    content: Option<u64>,
    #[serde(rename = "stdinStreamId")]
    stdin: Option<u64>,
    #[serde(rename = "fileHandleId")]
    file: Option<u64>,
}

fn settle_order(call: &mut Call, method: &str) {
    let connection = &call.connection;
    // Parameters of the wrong type are reported when the call is run.
    let ties = || serde_json::from_slice::<Ties>(&call.params).unwrap_or_default();
    match method {
        methods::READ_FILE | methods::READ_TEXT_FILE => {
            call.abortable = ties().abort.map(|id| connection.aborts.enter(id));
        }
        methods::WRITE_FILE | methods::WRITE_TEXT_FILE => {
            let ties = ties();
            call.abortable = ties.abort.map(|id| connection.aborts.enter(id));
            call.stream = ties.content.map(|id| connection.inbound.claim(id));
        }
        methods::SPAWN => {
            call.stream = ties().stdin.map(|id| connection.inbound.claim(id));
        }
        // Locks wait for others, and what unlocks may come from this client.
        methods::FILE_LOCK => {}
        _ if method.starts_with("file") => {
            call.turn = ties().file.and_then(|id| connection.handles.turn(id));
        }
        _ => {}
    }
}

/// Counts a large message until its call ends, and waits while too much is
/// held by calls before it. Those have all they need, so they end.
async fn hold_frame(connection: &Connection, frame_len: usize) -> Option<OwnedSemaphorePermit> {
    let units = frame_len / FRAME_UNIT;
    if units <= frame::COPY_LEN_MAX / FRAME_UNIT {
        return None;
    }
    let most = connection.limits.frames_held_max / FRAME_UNIT;
    let units = u32::try_from(units.min(most)).unwrap_or(u32::MAX);
    let held = Arc::clone(&connection.frames).acquire_many_owned(units);
    tokio::select! {
        permit = held => permit.ok(),
        () = connection.end.calls.cancelled() => None,
        () = connection.end.peer_gone.cancelled() => None,
    }
}

/// Answers from the reading task itself, which so reads no further while the
/// client does not read.
async fn answer(connection: &Connection, reply: Reply) {
    tokio::select! {
        sent = connection.outgoing.answer(reply.text, reply.permit) => {
            if let Err(gone) = sent {
                tracing::trace!(%gone, "an answer was not sent");
            }
        }
        () = connection.end.peer_gone.cancelled() => {}
    }
}

fn too_many_calls() -> CallError {
    ErrorObject::new(
        "Busy",
        "Too many calls are at work on this connection; wait for some to end",
    )
    .with_code("EAGAIN")
    .into()
}
