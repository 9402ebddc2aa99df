//! What surrounds every message.

use std::borrow::Cow;

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::ErrorObject;

/// Codes of [`ProtocolError`].
pub mod code {
    /// The message is not JSON.
    pub const PARSE_ERROR: i32 = -32700;
    /// The message is not a JSON-RPC 2.0 request.
    pub const INVALID_REQUEST: i32 = -32600;
    /// There is no such method.
    pub const METHOD_NOT_FOUND: i32 = -32601;
    /// The parameters do not fit the method.
    pub const INVALID_PARAMS: i32 = -32602;
    /// The server failed.
    pub const INTERNAL_ERROR: i32 = -32603;
}

/// The member `jsonrpc`, which is always `"2.0"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JsonRpc;

impl JsonRpc {
    const VERSION: &'static str = "2.0";
}

impl Serialize for JsonRpc {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(Self::VERSION)
    }
}

impl<'de> Deserialize<'de> for JsonRpc {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let version = Cow::<str>::deserialize(deserializer)?;
        if version == Self::VERSION {
            Ok(Self)
        } else {
            Err(D::Error::custom("jsonrpc must be \"2.0\""))
        }
    }
}

/// A call, answered under the same `id`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Request<'a, P> {
    /// Always `"2.0"`.
    pub jsonrpc: JsonRpc,
    /// Chosen by the client, echoed in the answer.
    pub id: u64,
    /// One of [`super::methods`].
    pub method: &'a str,
    /// The method's parameters.
    pub params: P,
}

/// A message without an answer.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Notification<'a, P> {
    /// Always `"2.0"`.
    pub jsonrpc: JsonRpc,
    /// One of [`super::methods`].
    pub method: &'a str,
    /// The notification's parameters.
    pub params: P,
}

/// The `result` of an answered call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome<T> {
    /// It succeeded; `null` when there is nothing to say.
    Ok(T),
    /// It failed.
    Error(Box<ErrorObject>),
}

/// The top-level `error` of an answer: the request itself was wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProtocolError {
    /// One of [`code`].
    pub code: i32,
    /// What is wrong.
    pub message: String,
    /// For invalid parameters: which, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<ErrorObject>>,
}

/// Any message from the server, as a client first sees it: an answer when
/// there is an `id`, else a notification.
#[derive(Clone, Debug, Deserialize)]
pub struct ServerMessage<'a> {
    /// The request that is answered.
    #[serde(default)]
    pub id: Option<u64>,
    /// The notification's name.
    #[serde(borrow, default)]
    pub method: Option<Cow<'a, str>>,
    /// The notification's parameters.
    #[serde(borrow, default)]
    pub params: Option<&'a RawValue>,
    /// An [`Outcome`].
    #[serde(borrow, default)]
    pub result: Option<&'a RawValue>,
    /// Set instead of `result` when the request itself was wrong.
    #[serde(default)]
    pub error: Option<ProtocolError>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_always_has_its_key() {
        assert_eq!(
            serde_json::to_string(&Outcome::Ok(())).unwrap(),
            r#"{"ok":null}"#
        );
        let error = Outcome::<()>::Error(Box::new(ErrorObject::new("NotFound", "no")));
        let text = serde_json::to_string(&error).unwrap();
        assert_eq!(
            serde_json::from_str::<Outcome<()>>(&text).unwrap(),
            error,
            "{text}"
        );
    }

    #[test]
    fn only_version_two_is_json_rpc() {
        assert!(serde_json::from_str::<JsonRpc>(r#""2.0""#).is_ok());
        for wrong in [r#""1.0""#, "2.0", "null"] {
            assert!(serde_json::from_str::<JsonRpc>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_client_can_take_every_kind_of_message_apart() {
        let answer = r#"{"jsonrpc":"2.0","id":3,"result":{"ok":[1]}}"#;
        let message: ServerMessage<'_> = serde_json::from_str(answer).unwrap();
        assert_eq!(message.id, Some(3));
        let outcome: Outcome<Vec<u8>> =
            serde_json::from_str(message.result.unwrap().get()).unwrap();
        assert_eq!(outcome, Outcome::Ok(vec![1]));
        let notification = r#"{"jsonrpc":"2.0","method":"m","params":{}}"#;
        let message: ServerMessage<'_> = serde_json::from_str(notification).unwrap();
        assert_eq!(message.method.as_deref(), Some("m"));
    }
}
