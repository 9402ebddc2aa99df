//! Writes answers.
//!
//! An answer is written front to back. Of a large file, what is written is
//! sent while the rest is still to come.

use base64::Engine as _;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tombolo_api::rpc::{ErrorObject, ProtocolError, code};

use super::budget::ReplyPermit;
use super::fault::CallError;
use super::frame::{BASE64, FrameFault, RequestId};

/// Bytes that base64 turns into whole characters.
const BASE64_GROUP: usize = 3;
/// The longest beginning of a character that may have to wait for its rest.
const UTF8_TAIL_MAX: usize = 3;

/// A whole answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) text: String,
    /// Counts a large answer until it is written.
    pub(super) permit: Option<ReplyPermit>,
    /// Fires when the answer is on its way.
    pub(super) sent: Option<CancellationToken>,
}

impl Reply {
    fn new(text: String) -> Self {
        Self {
            text,
            permit: None,
            sent: None,
        }
    }

    /// A successful answer.
    pub(super) fn ok<T: Serialize>(id: &RequestId, value: &T) -> Result<Self, CallError> {
        let value = serde_json::to_string(value).map_err(CallError::Unwritable)?;
        let mut writer = ReplyWriter::new(id);
        writer.push_json(&value);
        Ok(writer.finish())
    }

    /// An answer to a call that failed.
    pub(super) fn error(id: &RequestId, error: CallError) -> Self {
        match error.tell() {
            Ok(error) => Self::failed(id, &error),
            Err(error) => Self::refused(id, &error),
        }
    }

    /// The end of an answer of which a part was sent, within a string.
    ///
    /// When the call fails after all, what was sent cannot be taken back. But
    /// an answer whose key `result` is repeated has the value that comes last:
    /// so JavaScript reads JSON (ECMA-262, 25.5.1), and so does Python.
    pub(super) fn last_part(outcome: Result<Self, CallError>) -> String {
        let error = match outcome.map_err(CallError::tell) {
            Ok(reply) => return reply.text,
            Err(Ok(error)) => error,
            Err(Err(error)) => Box::new(ErrorObject::new("Error", error.message)),
        };
        let error = json_or_null(&error);
        format!(r#""}},"result":{{"error":{error}}}}}"#)
    }

    /// An answer to a message that is no request.
    pub(super) fn fault(fault: &FrameFault) -> Self {
        let error = ProtocolError {
            code: fault.code,
            message: fault.message.to_string(),
            data: None,
        };
        Self::refused(&fault.id, &error)
    }

    fn failed(id: &RequestId, error: &ErrorObject) -> Self {
        let id = id.as_json();
        let error = json_or_null(error);
        Self::new(format!(
            r#"{{"jsonrpc":"2.0","id":{id},"result":{{"error":{error}}}}}"#
        ))
    }

    fn refused(id: &RequestId, error: &ProtocolError) -> Self {
        let id = id.as_json();
        let error = serde_json::to_string(error).unwrap_or_else(|_| {
            let code = code::INTERNAL_ERROR;
            format!(r#"{{"code":{code},"message":"Internal error"}}"#)
        });
        Self::new(format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#))
    }
}

fn json_or_null(error: &ErrorObject) -> String {
    serde_json::to_string(error).unwrap_or_else(|_| {
        r#"{"constructorName":"Error","message":"The error could not be written"}"#.to_owned()
    })
}

/// Writes a successful answer piece by piece.
#[derive(Debug)]
pub(super) struct ReplyWriter {
    text: String,
}

impl ReplyWriter {
    pub(super) fn new(id: &RequestId) -> Self {
        let id = id.as_json();
        Self {
            text: format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"ok":"#),
        }
    }

    /// Goes on with what [`Self::take`] gave.
    pub(super) fn resume(text: String) -> Self {
        Self { text }
    }

    /// The length of what is written so far.
    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    /// Takes what is written so far, to be sent.
    pub(super) fn take(&mut self) -> String {
        std::mem::take(&mut self.text)
    }

    /// Adds JSON as it is.
    pub(super) fn push_json(&mut self, json: &str) {
        self.text.push_str(json);
    }

    /// Adds a value as JSON.
    pub(super) fn push_value<T: Serialize>(&mut self, value: &T) -> Result<(), CallError> {
        let json = serde_json::to_string(value).map_err(CallError::Unwritable)?;
        self.text.push_str(&json);
        Ok(())
    }

    pub(super) fn finish(mut self) -> Reply {
        self.text.push_str("}}");
        Reply::new(self.text)
    }
}

/// Writes bytes that come in pieces as one JSON string.
#[derive(Debug)]
pub(super) enum StringEncoder {
    /// Holds up to two bytes of an unfinished group.
    Base64(Vec<u8>),
    /// Holds up to three bytes of an unfinished character.
    Text(Vec<u8>),
}

impl StringEncoder {
    pub(super) fn base64() -> Self {
        Self::Base64(Vec::with_capacity(BASE64_GROUP))
    }

    /// Bytes that are not UTF-8 become replacement characters.
    pub(super) fn text() -> Self {
        Self::Text(Vec::with_capacity(UTF8_TAIL_MAX))
    }

    pub(super) fn push(&mut self, reply: &mut ReplyWriter, bytes: &[u8]) -> Result<(), CallError> {
        match self {
            Self::Base64(rest) => {
                push_base64(&mut reply.text, rest, bytes);
                Ok(())
            }
            Self::Text(rest) => push_text(&mut reply.text, rest, bytes),
        }
    }

    /// How long so many bytes become at least.
    pub(super) fn least_len(&self, len: u64) -> u64 {
        match self {
            Self::Base64(_) => len.div_ceil(3).saturating_mul(4),
            Self::Text(_) => len,
        }
    }

    /// Writes what is held back.
    pub(super) fn finish(self, reply: &mut ReplyWriter) -> Result<(), CallError> {
        match self {
            Self::Base64(rest) => {
                BASE64.encode_string(rest, &mut reply.text);
                Ok(())
            }
            Self::Text(rest) => push_escaped(&mut reply.text, &String::from_utf8_lossy(&rest)),
        }
    }
}

fn push_base64(text: &mut String, rest: &mut Vec<u8>, mut bytes: &[u8]) {
    if !rest.is_empty() {
        let (filling, after) = bytes.split_at(bytes.len().min(BASE64_GROUP - rest.len()));
        rest.extend_from_slice(filling);
        bytes = after;
        if rest.len() < BASE64_GROUP {
            return;
        }
        BASE64.encode_string(&*rest, text);
        rest.clear();
    }
    let (whole, tail) = bytes.split_at(bytes.len() - bytes.len() % BASE64_GROUP);
    BASE64.encode_string(whole, text);
    rest.extend_from_slice(tail);
}

fn push_text(text: &mut String, rest: &mut Vec<u8>, bytes: &[u8]) -> Result<(), CallError> {
    let joined;
    let mut bytes = bytes;
    if !rest.is_empty() {
        rest.extend_from_slice(bytes);
        joined = std::mem::take(rest);
        bytes = &joined;
    }
    let mut chunks = bytes.utf8_chunks().peekable();
    while let Some(chunk) = chunks.next() {
        push_escaped(text, chunk.valid())?;
        if chunk.invalid().is_empty() {
            continue;
        }
        let is_unfinished = chunks.peek().is_none()
            && std::str::from_utf8(chunk.invalid()).is_err_and(|error| error.error_len().is_none());
        if is_unfinished {
            rest.extend_from_slice(chunk.invalid());
        } else {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    Ok(())
}

/// Adds text as part of a JSON string.
fn push_escaped(text: &mut String, part: &str) -> Result<(), CallError> {
    let is_plain = part
        .bytes()
        .all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\');
    if is_plain {
        text.push_str(part);
        return Ok(());
    }
    let quoted = serde_json::to_string(part).map_err(CallError::Unwritable)?;
    text.push_str(quoted.get(1..quoted.len() - 1).unwrap_or_default());
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn id() -> RequestId {
        RequestId::null()
    }

    fn encode(mut encoder: StringEncoder, pieces: &[Vec<u8>]) -> String {
        let mut writer = ReplyWriter::new(&id());
        writer.push_json("\"");
        for piece in pieces {
            encoder.push(&mut writer, piece).unwrap();
        }
        encoder.finish(&mut writer).unwrap();
        writer.push_json("\"");
        let answer: Value = serde_json::from_str(&writer.finish().text).unwrap();
        answer["result"]["ok"].as_str().unwrap().to_owned()
    }

    #[test]
    fn answers_have_the_shape_of_their_outcome() {
        let fault = FrameFault {
            id: id(),
            code: -32700,
            message: "no".into(),
        };
        let cases = [
            (
                Reply::ok(&id(), &()).unwrap(),
                json!({"result":{"ok":null}}),
            ),
            (Reply::ok(&id(), &7).unwrap(), json!({"result":{"ok":7}})),
            (
                Reply::error(&id(), ErrorObject::new("NotFound", "no").into()),
                json!({"result":{"error":{"constructorName":"NotFound","message":"no"}}}),
            ),
            (
                Reply::error(&id(), CallError::MethodNotFound),
                json!({"error":{"code":-32601,"message":"Method not found"}}),
            ),
            (
                Reply::fault(&fault),
                json!({"error":{"code":-32700,"message":"no"}}),
            ),
        ];
        for (reply, mut expected) in cases {
            expected["jsonrpc"] = "2.0".into();
            expected["id"] = Value::Null;
            assert_eq!(
                serde_json::from_str::<Value>(&reply.text).unwrap(),
                expected
            );
        }
    }

    #[test]
    fn quotes_at_the_edges_survive() {
        for text in ["\"", "\"\"", "a\"", "\"a", "\\", "\n", "\u{0}", "ü\"", ""] {
            assert_eq!(encode(StringEncoder::text(), &[text.into()]), text);
        }
    }

    proptest! {
        #[test]
        fn bytes_survive_however_they_are_cut(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 0..9)
        ) {
            let whole = pieces.concat();
            prop_assert_eq!(encode(StringEncoder::base64(), &pieces), BASE64.encode(&whole));
            prop_assert_eq!(encode(StringEncoder::text(), &pieces), String::from_utf8_lossy(&whole));
        }

        #[test]
        fn text_survives_however_it_is_cut(text in "\\PC{0,40}[\"\\\\\n\u{0}ü€𝄞]{0,9}", at in 0_usize..200) {
            let (left, right) = text.as_bytes().split_at(at.min(text.len()));
            prop_assert_eq!(encode(StringEncoder::text(), &[left.to_vec(), right.to_vec()]), text);
        }
    }
}
