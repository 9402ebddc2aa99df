//! Streams of bytes in both directions. Ids of the two directions are
//! independent of each other.

use serde::{Deserialize, Serialize};

use super::{ErrorObject, Text};

/// Parameters of `$sandbox.stream.start` and `$sandbox.stream.end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamSignal {
    /// Which stream.
    pub stream_id: u64,
}

/// Parameters of `$sandbox.stream.enqueue`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamChunk<'a> {
    /// Which stream.
    pub stream_id: u64,
    /// Base64 of at least one byte.
    #[serde(borrow)]
    pub data: Text<'a>,
}

/// Parameters of `$sandbox.stream.error`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamError {
    /// Which stream.
    pub stream_id: u64,
    /// Why.
    #[serde(default)]
    pub error: Option<StreamReason>,
}

/// Parameters of `$sandbox.stream.cancel`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamCancel {
    /// Which stream.
    pub stream_id: u64,
    /// Why.
    #[serde(default)]
    pub reason: Option<StreamReason>,
}

/// Why a stream failed or was cancelled: clients send an error object or
/// plain text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StreamReason {
    /// An error object.
    Error(Box<ErrorObject>),
    /// Plain text.
    Text(String),
}

impl From<StreamReason> for ErrorObject {
    fn from(reason: StreamReason) -> Self {
        match reason {
            StreamReason::Error(error) => *error,
            StreamReason::Text(message) => Self::new("Error", message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_come_as_objects_or_text() {
        let cases = [
            (r#"{"streamId":1,"error":"boom"}"#, Some("boom")),
            (
                r#"{"streamId":1,"error":{"constructorName":"Error","message":"boom","code":null}}"#,
                Some("boom"),
            ),
            (r#"{"streamId":1,"error":null}"#, None),
            (r#"{"streamId":1}"#, None),
        ];
        for (json, expected) in cases {
            let parsed: StreamError = serde_json::from_str(json).unwrap();
            let message = parsed.error.map(|error| ErrorObject::from(error).message);
            assert_eq!(message.as_deref(), expected, "{json}");
        }
    }
}
