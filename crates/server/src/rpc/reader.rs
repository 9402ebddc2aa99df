//! Reads the client's messages in order, and settles in that order whatever
//! depends on it, before calls run side by side.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::Deserialize;
use tokio::io::AsyncRead;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tombolo_api::rpc::{AbortParams, ErrorObject, methods};

use super::SessionEnd;
use super::budget::Permit;
use super::call::{Call, CallPermits};
use super::connection::Connection;
use super::dispatch;
use super::fault::CallError;
use super::frame::{self, CallFrame, ClientMessage};
use super::inbound::InboundStream;
use super::incoming::{Incoming, IncomingError, Whole, advise, deliver};
use super::long::NotBase64;
use super::params;
use super::reply::Reply;
use super::socket::{Event, FrameReader, Malformed, ReadError};

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

impl From<ReadError> for ReadEnd {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Malformed(Malformed::TooLarge) => Self::TooLarge,
            ReadError::Malformed(_) => Self::Malformed,
            ReadError::Broken(_) => Self::Lost,
        }
    }
}

impl From<IncomingError> for ReadEnd {
    fn from(error: IncomingError) -> Self {
        match error {
            IncomingError::NotUtf8 => Self::Malformed,
            IncomingError::TooLong => Self::TooLarge,
            IncomingError::Ended => Self::Lost,
        }
    }
}

/// Reads until the connection ends.
pub(super) async fn read<R: AsyncRead + Unpin>(
    connection: &Arc<Connection>,
    frames: &mut FrameReader<R>,
) -> ReadEnd {
    match read_on(connection, frames).await {
        Ok(()) => ReadEnd::ClientClosed,
        Err(end) => {
            tracing::debug!(sandbox = %connection.sandbox, ?end, "a connection is not read on");
            end
        }
    }
}

async fn read_on<R: AsyncRead + Unpin>(
    connection: &Arc<Connection>,
    frames: &mut FrameReader<R>,
) -> Result<(), ReadEnd> {
    let mut ping = interval(connection.limits.ping_interval);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_heard = Instant::now();
    let mut incoming = Incoming::default();
    loop {
        let event = tokio::select! {
            event = frames.next() => event?.ok_or(ReadEnd::Lost)?,
            _ = ping.tick() => {
                if last_heard.elapsed() > connection.limits.silence_max {
                    return Err(ReadEnd::Lost);
                }
                connection.outgoing.ping();
                continue;
            }
            () = connection.end.peer_gone.cancelled() => return Err(ReadEnd::Lost),
        };
        match event {
            Event::Piece {
                data,
                is_text,
                is_last,
            } => {
                let whole = incoming.take(connection, data, is_text, is_last).await?;
                if let Some(whole) = whole {
                    accept(connection, whole).await;
                    connection.messages_read.fetch_add(1, Ordering::Relaxed);
                }
            }
            Event::Ping(payload) => connection.outgoing.pong(payload),
            Event::Pong => {}
            Event::Close(payload) => {
                connection.outgoing.echo_close(payload).await;
                return Ok(());
            }
        }
        last_heard = Instant::now();
    }
}

async fn accept(connection: &Arc<Connection>, whole: Whole) {
    let Whole {
        frame,
        content,
        permit,
    } = whole;
    if frame == HEARTBEAT {
        connection.outgoing.hint(HEARTBEAT_ANSWER.to_owned());
        return;
    }
    let message = frame::parse(&frame);
    drop(frame);
    match message {
        Ok(ClientMessage::Call(call)) => accept_call(connection, call, content, permit).await,
        Ok(ClientMessage::StreamStart(stream)) => {
            let advice = connection.inbound.start(stream);
            advise(connection, stream, advice);
        }
        Ok(ClientMessage::StreamData { stream, data }) => {
            drop(permit);
            deliver(connection, stream, data).await;
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

async fn accept_call(
    connection: &Arc<Connection>,
    frame: CallFrame,
    content: Option<Result<InboundStream, NotBase64>>,
    permit: Option<Permit>,
) {
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
        content,
        stream: None,
        abortable: None,
        turn: None,
        fragments: None,
        _permits: CallPermits {
            _in_flight: in_flight,
            _message: permit,
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
    #[serde(rename = "bodyStreamId")]
    body: Option<u64>,
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
        methods::FETCH => {
            let ties = ties();
            call.abortable = ties.abort.map(|id| connection.aborts.enter(id));
            call.stream = ties.body.map(|id| connection.inbound.claim(id));
        }
        methods::SPAWN
        | methods::SPAWN_DENO
        | methods::SPAWN_DENO_REPL
        | methods::PROCESS_ATTACH => {
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
