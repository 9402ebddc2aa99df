//! How values of secrets travel on the public wire: once, towards the server,
//! and never back.

use serde::{Deserialize, Deserializer, Serializer};
pub use tombolo_secret::{SecretValue, SecretValueError};

/// A value as a client sent it: checked, and wiped if it is no value.
///
/// Reading goes on after one that is refused, so that a client is told all that
/// is wrong at once.
pub type GivenValue = Result<SecretValue, SecretValueError>;

/// For a field that a client sends: the one place where a value is written out.
pub(crate) fn expose<S: Serializer>(value: &SecretValue, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(value.expose())
}

/// For a field that the server reads.
pub(crate) fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<GivenValue, D::Error> {
    String::deserialize(deserializer).map(SecretValue::new)
}

/// The same for a field that may be left out.
pub(crate) fn given_if_any<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<GivenValue>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.map(SecretValue::new))
}
