//! The create configuration: base64 of a JSON object in a request header.
//!
//! The two official clients send different dialects of it. Both are read here
//! into one shape. Reached by the network; never panics. Messages never quote
//! the text of secrets, and what is decoded is wiped.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use tombolo_ids::UnixMillis;
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::secret::{GivenValue, SecretValue, expose, given};

/// The longest header value that is read.
pub const CONFIG_HEADER_LEN_MAX: usize = 128 * 1024;

/// Characters of a client's own key in a message about it.
const KEY_CHARS_MAX: usize = 64;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a client asks of a new sandbox, whichever client it is. Nothing is
/// checked yet beyond its shape.
#[derive(Clone, Debug, Default)]
pub struct CreateConfig {
    /// Memory in MiB.
    pub memory_mib: Option<i64>,
    /// When it shall end.
    pub stop_at: Option<UnixMillis>,
    /// `session`, or a duration such as `30s` or `5m`.
    pub timeout: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// The volume or snapshot to use as the root disk.
    pub root: Option<String>,
    /// Volumes to mount.
    pub volumes: Vec<VolumeMount>,
    /// Hosts that may be reached; absent means all.
    pub allow_net: Option<Vec<String>>,
    /// Secrets by name.
    pub secrets: BTreeMap<String, SecretSpec>,
    /// A policy document, which only our own clients send.
    pub egress_policy: Option<Value>,
    /// Whether to open SSH.
    pub ssh: bool,
    /// A port to expose over HTTP.
    pub port: Option<i64>,
    /// The region's code.
    pub region: Option<String>,
}

/// A volume and where it is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeMount {
    /// The volume's id or name.
    pub volume: String,
    /// The directory in the sandbox.
    pub path: String,
}

/// A secret and the hosts it may be sent to.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretSpec {
    /// Where it may be sent. Left out when a policy document says it.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// The credential.
    #[serde(deserialize_with = "given")]
    pub value: GivenValue,
}

/// The configuration does not fit into its header.
#[derive(Debug, thiserror::Error)]
#[error(
    "the configuration takes {len} bytes of base64, of {CONFIG_HEADER_LEN_MAX} that a header may \
     have{}",
    .largest.as_ref().map(|part| format!("; {part}")).unwrap_or_default()
)]
pub struct ConfigTooLong {
    /// Bytes of the header.
    pub len: usize,
    /// Its largest part, where it can be told from the others.
    pub largest: Option<ConfigPart>,
}

/// A part of a configuration.
#[derive(Debug)]
pub struct ConfigPart {
    /// Its key, cut to a printable length.
    pub key: String,
    /// Bytes of it as JSON.
    pub len: usize,
}

impl fmt::Display for ConfigPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, len } = self;
        write!(f, "its largest part is `{key}` with {len} bytes of JSON")
    }
}

/// The header cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum EncodeConfigError {
    /// It would not be read.
    #[error(transparent)]
    TooLong(#[from] ConfigTooLong),
    /// A part that is no JSON, which none is.
    #[error("the configuration cannot be written")]
    Json(#[from] serde_json::Error),
}

/// The header cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeConfigError {
    /// Too long to read.
    #[error(
        "{0}. Create the sandbox without it: secrets and a policy can be put under \
         /api/tombolo/v1/sandboxes/{{id}}/egress afterwards, other contents into a file"
    )]
    TooLong(#[from] ConfigTooLong),
    /// Not base64.
    #[error("the configuration is not base64")]
    Base64(#[source] base64::DecodeError),
    /// Not a JSON object.
    #[error("the configuration is not a JSON object")]
    Json(#[source] serde_json::Error),
    /// A key we do not know: better said than ignored.
    #[error("the configuration has an unknown key {key:?}")]
    UnknownKey {
        /// The key, cut to a printable length.
        key: String,
    },
    /// A known key with a value of the wrong shape.
    #[error("the configuration's {key:?} is not {expected}")]
    Shape {
        /// The key.
        key: &'static str,
        /// What it should be.
        expected: &'static str,
    },
}

impl CreateConfig {
    /// Reads the header's value. Its bytes may be UTF-8 or Latin-1. How much is
    /// decoded at all is bounded by what the caller reads as headers.
    pub fn decode_header(header: &[u8]) -> Result<Self, DecodeConfigError> {
        let bytes = BASE64.decode(header).map_err(DecodeConfigError::Base64)?;
        let bytes = Zeroizing::new(bytes);
        check_len(header.len(), &bytes)?;
        if let Ok(text) = std::str::from_utf8(&bytes) {
            return Self::from_json(text);
        }
        // The JavaScript client encodes characters up to U+00FF as one byte.
        let latin: String = bytes.iter().copied().map(char::from).collect();
        Self::from_json(&Zeroizing::new(latin))
    }

    fn from_json(text: &str) -> Result<Self, DecodeConfigError> {
        // Parts of the text itself: a tree of values would be copies of it.
        let object: BTreeMap<String, &RawValue> =
            serde_json::from_str(text).map_err(|error| DecodeConfigError::Json(located(&error)))?;
        let mut config = Self::default();
        for (key, value) in object {
            // Both clients may send null for what was not asked for.
            if value.get() != "null" {
                config.set(&key, value)?;
            }
        }
        Ok(config)
    }

    fn set(&mut self, key: &str, value: &RawValue) -> Result<(), DecodeConfigError> {
        match key {
            "memory_mb" => self.memory_mib = Some(integer("memory_mb", value)?),
            "stop_at_ms" => {
                self.stop_at = Some(UnixMillis(integer("stop_at_ms", value)?));
            }
            "timeout" => self.timeout = Some(shape("timeout", "a text", value)?),
            "labels" => self.labels = shape("labels", "an object of texts", value)?,
            "env" => self.env = shape("env", "an object of texts", value)?,
            "root" => {
                let root: RootVolume = shape("root", "{volume: text}", value)?;
                self.root = Some(root.volume);
            }
            "volumes" => {
                let volumes: Volumes = shape(
                    "volumes",
                    "a list of {volume, path} or an object from path to volume",
                    value,
                )?;
                self.volumes = volumes.into();
            }
            "allow_net" => self.allow_net = Some(shape("allow_net", "a list of texts", value)?),
            "secrets" => {
                self.secrets = shape("secrets", "an object of {hosts, value}", value)?;
            }
            "egress_policy" => {
                let policy: Value = shape("egress_policy", "a policy document", value)?;
                self.egress_policy = Some(policy);
            }
            "ssh" => self.ssh = shape("ssh", "true or false", value)?,
            "port" => self.port = Some(integer("port", value)?),
            "region" => self.region = Some(shape("region", "a text", value)?),
            // Only switches the client's own output.
            "debug" => {}
            _ => {
                let key = key.chars().take(KEY_CHARS_MAX).collect();
                return Err(DecodeConfigError::UnknownKey { key });
            }
        }
        Ok(())
    }
}

/// Refuses what the header has no room for, naming what most of it is.
fn check_len(header_len: usize, json: &[u8]) -> Result<(), ConfigTooLong> {
    if header_len <= CONFIG_HEADER_LEN_MAX {
        return Ok(());
    }
    // What is no JSON, or not in UTF-8, has no parts that could be told.
    let parts: BTreeMap<String, &RawValue> = serde_json::from_slice(json).unwrap_or_default();
    let sizes = parts.iter().map(|(key, value)| (value.get().len(), key));
    Err(ConfigTooLong {
        len: header_len,
        largest: sizes.max().map(|(len, key)| ConfigPart {
            key: key.chars().take(KEY_CHARS_MAX).collect(),
            len,
        }),
    })
}

#[derive(Deserialize)]
struct RootVolume {
    volume: String,
}

#[derive(Deserialize)]
struct VolumeEntry {
    volume: String,
    path: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Volumes {
    List(Vec<VolumeEntry>),
    ByPath(BTreeMap<String, String>),
}

impl From<Volumes> for Vec<VolumeMount> {
    fn from(volumes: Volumes) -> Self {
        match volumes {
            Volumes::List(entries) => entries
                .into_iter()
                .map(|VolumeEntry { volume, path }| VolumeMount { volume, path })
                .collect(),
            Volumes::ByPath(by_path) => by_path
                .into_iter()
                .map(|(path, volume)| VolumeMount { volume, path })
                .collect(),
        }
    }
}

/// The value in its expected shape. The cause is dropped on purpose: it would
/// quote the offending text, which may be a secret.
fn shape<T: DeserializeOwned>(
    key: &'static str,
    expected: &'static str,
    value: &RawValue,
) -> Result<T, DecodeConfigError> {
    serde_json::from_str(value.get())
        .ok()
        .ok_or(DecodeConfigError::Shape { key, expected })
}

/// Languages whose only number is a double may write `1280.0`.
fn integer(key: &'static str, value: &RawValue) -> Result<i64, DecodeConfigError> {
    const EXACT_MAX: f64 = 9_007_199_254_740_991.0;
    let value: Value = shape(key, "a whole number", value)?;
    let whole = |number: f64| number.fract() == 0.0 && number.abs() <= EXACT_MAX;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "checked to be whole and within the exact range"
    )]
    let from_float = || value.as_f64().filter(|n| whole(*n)).map(|n| n as i64);
    value
        .as_i64()
        .or_else(from_float)
        .ok_or(DecodeConfigError::Shape {
            key,
            expected: "a whole number",
        })
}

/// Where the text stops being JSON, without quoting it.
fn located(error: &serde_json::Error) -> serde_json::Error {
    use serde::de::Error as _;
    serde_json::Error::custom(format_args!(
        "{:?} error at line {} column {}",
        error.classify(),
        error.line(),
        error.column()
    ))
}

/// What our own clients ask of a new sandbox.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct NewSandbox {
    /// Memory in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u32>,
    /// When it shall end. Absent: with the connection that created it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>)]
    pub stop_at_ms: Option<UnixMillis>,
    /// A duration such as `5m`, instead of a moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Environment variables.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Hosts that may be reached. Absent: all that are public. Empty: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_net: Option<Vec<String>>,
    /// Secrets by the name of the environment variable that stands for each.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, NewSecret>,
    /// A policy document, for what `allow_net` and `secrets` cannot say.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub egress_policy: Option<Value>,
    /// The region's code. Absent: the server's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
}

/// A secret of a new sandbox.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct NewSecret {
    /// Where it may be sent. Left out when the policy document says it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// The credential: 1 byte to 64 KiB of text without control characters.
    #[serde(serialize_with = "expose")]
    #[schema(value_type = String)]
    pub value: SecretValue,
}

impl NewSandbox {
    /// The value of the header [`CONFIG_HEADER`](crate::CONFIG_HEADER). Holds
    /// the values of secrets, so it is wiped.
    ///
    /// # Errors
    /// What does not fit into the header, which is found before it is sent.
    pub fn to_header(&self) -> Result<Zeroizing<String>, EncodeConfigError> {
        let json = serde_json::to_vec(self).map(Zeroizing::new)?;
        let header = Zeroizing::new(BASE64.encode(&*json));
        check_len(header.len(), &json)?;
        Ok(header)
    }
}

impl fmt::Display for VolumeMount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.volume, self.path)
    }
}

#[cfg(test)]
mod tests;
