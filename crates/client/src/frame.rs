//! The JSON of one WebSocket frame, read without copying what is large and
//! written straight into its place (docs/reference/protocol, "Envelope").

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use tombolo_api::rpc::{
    DenoWatcherRestart, ErrorObject, JsonRpc, Notification, Outcome, Request, ServerMessage,
    StreamChunk, StreamError, StreamReason, StreamSignal, methods,
};

/// What a frame from the server means.
#[derive(Debug)]
pub(crate) enum Incoming {
    Reply {
        id: u64,
        outcome: Result<Box<RawValue>, Fault>,
    },
    StreamStart(u64),
    StreamChunk(u64, Bytes),
    StreamEnd(u64),
    StreamError(u64, Option<ErrorObject>),
    /// The server wants no more of a stream of ours.
    StreamCancel(u64),
    /// A program that watches its files starts anew.
    Restart(String),
    /// A notification this client has no use for.
    Other,
}

/// Why a call did not succeed.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// What was asked for failed: a file is missing, a process has gone.
    Application(Box<ErrorObject>),
    /// The server did not understand the call.
    Protocol { code: i32, message: String },
}

/// Why a frame has no meaning.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a frame is not the JSON that was expected")]
    Json(#[from] serde_json::Error),
    #[error("a chunk is not base64")]
    Base64(#[from] base64::DecodeError),
    #[error("a frame is neither a reply nor a notification")]
    Shape,
}

/// Reads one frame.
pub(crate) fn parse(text: &str) -> Result<Incoming, FrameError> {
    let message: ServerMessage<'_> = serde_json::from_str(text)?;
    if let Some(method) = &message.method {
        return parse_notification(method, message.params);
    }
    let outcome = match (message.result, message.error) {
        (Some(result), _) => match serde_json::from_str(result.get())? {
            Outcome::<Box<RawValue>>::Ok(value) => Ok(value),
            Outcome::Error(error) => Err(Fault::Application(error)),
        },
        (None, Some(error)) => Err(Fault::Protocol {
            code: error.code,
            message: error.message,
        }),
        (None, None) => return Err(FrameError::Shape),
    };
    let id = message.id.ok_or(FrameError::Shape)?;
    Ok(Incoming::Reply { id, outcome })
}

fn parse_notification(method: &str, params: Option<&RawValue>) -> Result<Incoming, FrameError> {
    let json = params.map_or("null", RawValue::get);
    let stream = || serde_json::from_str::<StreamSignal>(json).map(|signal| signal.stream_id);
    Ok(match method {
        methods::STREAM_START => Incoming::StreamStart(stream()?),
        methods::STREAM_ENQUEUE => {
            let chunk: StreamChunk<'_> = serde_json::from_str(json)?;
            let data = STANDARD.decode(chunk.data.as_ref())?;
            Incoming::StreamChunk(chunk.stream_id, data.into())
        }
        methods::STREAM_END => Incoming::StreamEnd(stream()?),
        methods::STREAM_ERROR => {
            let broken: StreamError = serde_json::from_str(json)?;
            Incoming::StreamError(broken.stream_id, broken.error.map(ErrorObject::from))
        }
        methods::STREAM_CANCEL => Incoming::StreamCancel(stream()?),
        methods::DENO_WATCHER_RESTART => {
            let restart: DenoWatcherRestart = serde_json::from_str(json)?;
            Incoming::Restart(restart.watcher_id)
        }
        _ => Incoming::Other,
    })
}

/// Writes a call.
pub(crate) fn request<P: Serialize>(
    id: u64,
    method: &str,
    params: &P,
) -> Result<String, serde_json::Error> {
    serde_json::to_string(&Request {
        jsonrpc: JsonRpc,
        id,
        method,
        params,
    })
}

pub(crate) fn stream_start(id: u64) -> String {
    notification(methods::STREAM_START, id)
}

pub(crate) fn stream_end(id: u64) -> String {
    notification(methods::STREAM_END, id)
}

pub(crate) fn stream_cancel(id: u64) -> String {
    notification(methods::STREAM_CANCEL, id)
}

/// Writes a chunk. The bulk of all traffic comes by here, so the text is made
/// in one buffer of the right size.
pub(crate) fn stream_enqueue(id: u64, data: &[u8]) -> String {
    let head = format!(
        r#"{{"jsonrpc":"2.0","method":"{}","params":{{"streamId":{id},"data":""#,
        methods::STREAM_ENQUEUE
    );
    let mut frame = String::with_capacity(head.len() + data.len().div_ceil(3) * 4 + 3);
    frame.push_str(&head);
    STANDARD.encode_string(data, &mut frame);
    frame.push_str("\"}}");
    frame
}

/// Tells the server that a stream of ours broke off.
pub(crate) fn stream_error(id: u64, message: &str) -> Result<String, serde_json::Error> {
    let reason = ErrorObject::new("Error", message);
    serde_json::to_string(&Notification {
        jsonrpc: JsonRpc,
        method: methods::STREAM_ERROR,
        params: StreamError {
            stream_id: id,
            error: Some(StreamReason::Error(Box::new(reason))),
        },
    })
}

fn notification(method: &str, id: u64) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{{"streamId":{id}}}}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_server_sends() {
        for (text, expected) in [
            (
                r#"{"jsonrpc":"2.0","id":3,"result":{"ok":{"a":1}}}"#,
                r#"Reply 3 ok {"a":1}"#,
            ),
            (
                r#"{"jsonrpc":"2.0","id":3,"result":{"ok":null}}"#,
                "Reply 3 ok null",
            ),
            (
                r#"{"jsonrpc":"2.0","id":3,"result":{"error":{"constructorName":"NotFound","message":"m"}}}"#,
                "Reply 3 failed NotFound m",
            ),
            (
                r#"{"jsonrpc":"2.0","id":3,"error":{"code":-32601,"message":"Method not found"}}"#,
                "Reply 3 protocol -32601 Method not found",
            ),
            (stream_start(9).as_str(), "start 9"),
            (stream_enqueue(9, b"hi").as_str(), "chunk 9 hi"),
            (stream_end(9).as_str(), "end 9"),
            (stream_cancel(9).as_str(), "cancel 9"),
            (
                stream_error(9, "it \"broke\"").unwrap().as_str(),
                "error 9 it \"broke\"",
            ),
            (
                r#"{"jsonrpc":"2.0","method":"restart","params":{}}"#,
                "other",
            ),
            (
                r#"{"jsonrpc":"2.0","method":"$sandbox.stream.new","params":{"streamId":1}}"#,
                "other",
            ),
            (
                r#"{"jsonrpc":"2.0","method":"$sandbox.deno.watcher.restart","params":{"watcherId":"w"}}"#,
                "restart w",
            ),
            (r#"{"jsonrpc":"2.0","id":3}"#, "refused"),
            (
                r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"x"}}"#,
                "refused",
            ),
            (
                r#"{"jsonrpc":"2.0","method":"$sandbox.stream.enqueue","params":{"streamId":1}}"#,
                "refused",
            ),
            (
                r#"{"jsonrpc":"2.0","method":"$sandbox.stream.enqueue","params":{"streamId":1,"data":"!"}}"#,
                "refused",
            ),
            ("pong?", "refused"),
        ] {
            assert_eq!(describe(text), expected, "{text}");
        }
    }

    fn describe(text: &str) -> String {
        match parse(text) {
            Err(_) => "refused".to_owned(),
            Ok(Incoming::Other) => "other".to_owned(),
            Ok(Incoming::Restart(watcher)) => format!("restart {watcher}"),
            Ok(Incoming::StreamStart(id)) => format!("start {id}"),
            Ok(Incoming::StreamEnd(id)) => format!("end {id}"),
            Ok(Incoming::StreamCancel(id)) => format!("cancel {id}"),
            Ok(Incoming::StreamChunk(id, data)) => {
                format!("chunk {id} {}", String::from_utf8_lossy(&data))
            }
            Ok(Incoming::StreamError(id, error)) => {
                format!(
                    "error {id} {}",
                    error.map(|e| e.message).unwrap_or_default()
                )
            }
            Ok(Incoming::Reply { id, outcome }) => match outcome {
                Ok(value) => format!("Reply {id} ok {}", value.get()),
                Err(Fault::Application(e)) => {
                    format!("Reply {id} failed {} {}", e.constructor_name, e.message)
                }
                Err(Fault::Protocol { code, message }) => {
                    format!("Reply {id} protocol {code} {message}")
                }
            },
        }
    }
}
