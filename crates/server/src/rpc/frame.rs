//! Takes a client's message apart.
//!
//! Reachable from the network: any bytes give a message or a fault, never a
//! panic, in time linear in their number and without building a tree. Data of
//! streams is decoded straight from the message.

use std::borrow::Cow;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny};
use serde_json::value::RawValue;
use tombolo_api::rpc::{ErrorObject, StreamChunk, StreamError, StreamSignal, code, methods};

use super::surrogates;

/// Base64 as both SDKs write it; padding may be missing.
pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The longest request id that is echoed.
const ID_LEN_MAX: usize = 256;
/// Smaller messages are copied, so that a call that takes long does not keep
/// the whole read buffer it came in.
pub(super) const COPY_LEN_MAX: usize = 64 * 1024;

/// A request's id, echoed as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RequestId(Box<str>);

impl RequestId {
    /// What an answer to an unreadable request carries.
    pub(super) fn null() -> Self {
        Self("null".into())
    }

    pub(super) fn as_json(&self) -> &str {
        &self.0
    }

    fn parse(raw: &RawValue) -> Option<Self> {
        let text = raw.get();
        let is_scalar = text == "null"
            || text
                .starts_with(|first: char| first == '"' || first == '-' || first.is_ascii_digit());
        (is_scalar && text.len() <= ID_LEN_MAX).then(|| Self(text.into()))
    }
}

/// A call.
#[derive(Clone, Debug)]
pub(super) struct CallFrame {
    pub(super) id: RequestId,
    pub(super) method: String,
    /// A JSON value; `{}` when the request has none.
    pub(super) params: Bytes,
}

/// What a client can say.
#[derive(Clone, Debug)]
pub(super) enum ClientMessage {
    Call(CallFrame),
    StreamStart(u64),
    StreamData {
        stream: u64,
        data: Bytes,
    },
    StreamEnd(u64),
    StreamError {
        stream: u64,
        error: ErrorObject,
    },
    StreamCancel(u64),
    /// A notification nobody knows, or one that makes no sense. JSON-RPC has
    /// no answer to either.
    Ignored(&'static str),
}

/// A message that is answered with a protocol error.
#[derive(Clone, Debug)]
pub(super) struct FrameFault {
    pub(super) id: RequestId,
    pub(super) code: i32,
    pub(super) message: Cow<'static, str>,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    jsonrpc: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<&'a RawValue>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    error: Option<&'a RawValue>,
}

/// Tells `"id": null` from no id.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Takes a text or binary message apart.
pub(super) fn parse(frame: &Bytes) -> Result<ClientMessage, FrameFault> {
    let envelope = envelope(frame)?;
    let id = match envelope.id {
        None => None,
        Some(raw) => Some(RequestId::parse(raw).ok_or_else(|| {
            invalid_request(RequestId::null(), "id must be a short string or a number")
        })?),
    };
    let fault = |message| invalid_request(id.clone().unwrap_or_else(RequestId::null), message);
    if envelope.jsonrpc.is_none_or(|raw| raw.get() != r#""2.0""#) {
        return Err(fault("jsonrpc must be \"2.0\""));
    }
    let Some(method) = envelope.method else {
        return if envelope.result.is_some() || envelope.error.is_some() {
            Ok(ClientMessage::Ignored("an answer to nothing"))
        } else {
            Err(fault("a request needs a method"))
        };
    };
    let Ok(method) = serde_json::from_str::<Cow<'_, str>>(method.get()) else {
        return Err(fault("method must be a string"));
    };
    let params = envelope.params.map_or("{}", RawValue::get);
    match id {
        Some(id) => Ok(ClientMessage::Call(CallFrame {
            id,
            method: method.into_owned(),
            params: surrogates::mend(part(frame, params)),
        })),
        None => Ok(notification(&method, params)),
    }
}

fn envelope(frame: &Bytes) -> Result<Envelope<'_>, FrameFault> {
    let first = frame.iter().find(|byte| !byte.is_ascii_whitespace());
    // A struct also parses from an array, which here would be a batch.
    if first != Some(&b'{') {
        return Err(match serde_json::from_slice::<IgnoredAny>(frame) {
            Ok(_) => invalid_request(RequestId::null(), "a message must be one object"),
            Err(error) => parse_error(&error),
        });
    }
    serde_json::from_slice(frame).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => {
            invalid_request(RequestId::null(), "a message must not repeat a key")
        }
        _ => parse_error(&error),
    })
}

fn parse_error(error: &serde_json::Error) -> FrameFault {
    FrameFault {
        id: RequestId::null(),
        code: code::PARSE_ERROR,
        message: format!("Parse error: {error}").into(),
    }
}

fn invalid_request(id: RequestId, message: &'static str) -> FrameFault {
    FrameFault {
        id,
        code: code::INVALID_REQUEST,
        message: format!("Invalid Request: {message}").into(),
    }
}

/// The part of `frame` that `text` is.
fn part(frame: &Bytes, text: &str) -> Bytes {
    if text.len() > COPY_LEN_MAX {
        frame.slice_ref(text.as_bytes())
    } else {
        Bytes::copy_from_slice(text.as_bytes())
    }
}

fn notification(method: &str, params: &str) -> ClientMessage {
    match method {
        methods::STREAM_ENQUEUE => stream_data(params),
        methods::STREAM_START => stream_signal(params, ClientMessage::StreamStart),
        methods::STREAM_END => stream_signal(params, ClientMessage::StreamEnd),
        // Why a client cancels changes nothing, so its reason is not read.
        methods::STREAM_CANCEL => stream_signal(params, ClientMessage::StreamCancel),
        methods::STREAM_ERROR => stream_error(params),
        _ => ClientMessage::Ignored("an unknown notification"),
    }
}

fn stream_signal(params: &str, message: fn(u64) -> ClientMessage) -> ClientMessage {
    serde_json::from_str::<StreamSignal>(params).map_or(
        ClientMessage::Ignored("a stream notification without a stream id"),
        |signal| message(signal.stream_id),
    )
}

fn stream_data(params: &str) -> ClientMessage {
    let Ok(chunk) = serde_json::from_str::<StreamChunk<'_>>(params) else {
        return stream_failure(params, "the data of a stream must be a base64 string");
    };
    match BASE64.decode(chunk.data.as_ref()) {
        Ok(data) => ClientMessage::StreamData {
            stream: chunk.stream_id,
            data: data.into(),
        },
        Err(_) => stream_failure(params, "the data of a stream is not base64"),
    }
}

fn stream_error(params: &str) -> ClientMessage {
    match serde_json::from_str::<StreamError>(params) {
        Ok(StreamError { stream_id, error }) => ClientMessage::StreamError {
            stream: stream_id,
            error: error.map_or_else(
                || ErrorObject::new("Error", "the stream failed"),
                ErrorObject::from,
            ),
        },
        Err(_) => stream_failure(params, "the stream failed"),
    }
}

/// A stream whose data makes no sense has failed, if it can be told which.
fn stream_failure(params: &str, message: &'static str) -> ClientMessage {
    match serde_json::from_str::<StreamSignal>(params) {
        Ok(signal) => ClientMessage::StreamError {
            stream: signal.stream_id,
            error: ErrorObject::new("InvalidData", message),
        },
        Err(_) => ClientMessage::Ignored("a stream notification without a stream id"),
    }
}

#[cfg(test)]
mod tests;
