//! What sandboxes may reach and the secrets they may use, under
//! `/api/tombolo/v1/sandboxes/{id}/egress`. Values of secrets go in and never
//! come out.

use serde::{Deserialize, Serialize, Serializer};
use tombolo_ids::UnixMillis;
use utoipa::ToSchema;

use crate::secret::{GivenValue, SecretValue, expose, given_if_any};

/// Records of what sandboxes send out, as server-sent events.
pub const EGRESS_RECORDS_PATH: &str = "/api/tombolo/v1/egress/records";
/// Sums of all sandboxes for Prometheus. Admin only.
pub const EGRESS_METRICS_PATH: &str = "/api/tombolo/v1/egress/metrics";

/// The list of hosts alone (body of `PUT …/egress/allow_net`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AllowNet {
    /// Hosts that may be reached. Null: all that are public. Empty: none.
    // Not left out by accident, since that would open everything.
    #[serde(deserialize_with = "Option::deserialize")]
    pub allow_net: Option<Vec<String>>,
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PolicyChange {
    /// The generation of the policy that is in force.
    pub generation: u64,
    /// What is valid and probably not meant.
    pub warnings: Vec<String>,
}

/// One secret, without its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretRow {
    /// The environment variable that stands for it.
    pub name: String,
    /// What the variable holds.
    pub placeholder: String,
    /// Where it may be sent.
    pub hosts: Vec<String>,
    /// The parts of a request in which the placeholder becomes the value.
    #[serde(rename = "in")]
    pub slots: Vec<String>,
    /// Whether requests to its hosts must carry it and no other credential.
    pub require: bool,
    /// `forward` or `deny`: what becomes of a request that carries the
    /// placeholder where it may not be used.
    pub on_ineligible: String,
    /// When its present value came.
    #[schema(value_type = i64)]
    pub set_at_ms: UnixMillis,
    /// When it was revoked, if it was: it is used no more, and responses are
    /// still searched for its value.
    #[schema(value_type = Option<i64>)]
    pub revoked_at_ms: Option<UnixMillis>,
}

/// Sets a secret (body of `PUT …/egress/secrets/{name}`). What is left out stays
/// as it is; a new secret needs `value` and `hosts`.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct PutSecret {
    /// The credential: 1 byte to 64 KiB of text without control characters.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "expose_if_any"
    )]
    #[schema(value_type = Option<String>)]
    pub value: Option<SecretValue>,
    /// Where it may be sent: names and `*.names`, with or without a port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<String>>,
    /// The parts of a request in which the placeholder becomes the value:
    /// `header` (the default), `query`, `path`, `json`, `form`, `text`,
    /// `multipart`, `websocket`.
    #[serde(rename = "in", skip_serializing_if = "Option::is_none")]
    pub slots: Option<Vec<String>>,
    /// Requests to these hosts must carry it and no other credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub require: Option<bool>,
    /// `forward` (the default) or `deny`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_ineligible: Option<String>,
}

/// [`PutSecret`] as the server reads it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GivenSecret {
    /// The credential, if a new one came.
    #[serde(deserialize_with = "given_if_any")]
    pub value: Option<GivenValue>,
    /// Where it may be sent.
    pub hosts: Option<Vec<String>>,
    /// In which parts of a request.
    #[serde(rename = "in")]
    pub slots: Option<Vec<String>>,
    /// Whether requests must carry it.
    pub require: Option<bool>,
    /// What becomes of its placeholder elsewhere.
    pub on_ineligible: Option<String>,
}

/// A secret that was set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretChange {
    /// As the listing shows it.
    #[serde(flatten)]
    pub secret: SecretRow,
    /// What is valid and probably not meant.
    pub warnings: Vec<String>,
}

/// A request to be judged without being sent (body of `POST …/egress/explain`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// `GET` if left out.
    #[serde(default = "get")]
    pub method: String,
    /// The whole address: `https://host/path`.
    pub url: String,
    /// The request's headers, for rules that look at them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<ExplainHeader>,
    /// The request's body, for rules that look into it. Left out: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

/// A header of a request to be judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainHeader {
    /// Its name, in any case.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// What happened between a sandbox and one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostSums {
    /// The host's name, `(address)` for all that had none, or `(other)` for those
    /// beyond the number that is told apart.
    pub host: String,
    /// Requests, flows and questions for names.
    pub attempts: u64,
    /// Of these, refused.
    pub denied: u64,
    /// Of these, allowed and failed.
    pub failed: u64,
    /// Bytes sent to it.
    pub request_bytes: u64,
    /// Bytes that came from it.
    pub response_bytes: u64,
    /// How many times a placeholder became a value.
    pub secret_uses: u64,
    /// How many times a value was taken out of a response.
    pub scrubbed: u64,
}

fn get() -> String {
    "GET".to_owned()
}

#[expect(clippy::ref_option, reason = "serde passes the field as it is")]
fn expose_if_any<S: Serializer>(
    value: &Option<SecretValue>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => expose(value, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allow_list_is_not_left_out_by_accident() {
        let read = |json| serde_json::from_str::<AllowNet>(json);
        assert_eq!(read(r#"{"allow_net":null}"#).unwrap().allow_net, None);
        assert_eq!(
            read(r#"{"allow_net":[]}"#).unwrap().allow_net,
            Some(Vec::new())
        );
        for wrong in ["{}", r#"{"allow_net":"a"}"#, r#"{"allow_net":[],"net":{}}"#] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_value_is_written_once_and_never_shown() {
        let value = SecretValue::new("real".to_owned()).unwrap();
        let put = PutSecret {
            value: Some(value),
            slots: Some(vec!["header".to_owned()]),
            ..PutSecret::default()
        };
        assert!(!format!("{put:?}").contains("real"));
        let json = serde_json::to_string(&put).unwrap();
        assert_eq!(json, r#"{"value":"real","in":["header"]}"#);
        let given: GivenSecret = serde_json::from_str(&json).unwrap();
        assert!(!format!("{given:?}").contains("real"));
        assert_eq!(given.value.unwrap().unwrap().expose(), "real");
        let refused: GivenSecret = serde_json::from_str(r#"{"value":"real\n"}"#).unwrap();
        assert!(refused.value.as_ref().unwrap().is_err());
        assert!(!format!("{refused:?}").contains("real"));
        let none: GivenSecret = serde_json::from_str("{}").unwrap();
        assert!(none.value.is_none());
    }
}
