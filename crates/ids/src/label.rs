//! Labels: a few short texts a client hangs on a sandbox to find it again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The most labels one sandbox carries.
pub const LABELS_MAX: usize = 5;
/// The longest key, in bytes.
pub const LABEL_KEY_LEN_MAX: usize = 64;
/// The longest value, in bytes.
pub const LABEL_VALUE_LEN_MAX: usize = 128;

/// Checked labels, ordered by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    try_from = "BTreeMap<String, String>",
    into = "BTreeMap<String, String>"
)]
pub struct Labels(BTreeMap<String, String>);

/// Labels beyond their bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    #[error("{count} labels given, at most {LABELS_MAX} are allowed")]
    TooMany { count: usize },
    #[error("a label has an empty key")]
    EmptyKey,
    #[error("a label's key has {len} bytes, at most {LABEL_KEY_LEN_MAX} are allowed")]
    KeyTooLong { len: usize },
    #[error("label {key:?} has a value of {len} bytes, at most {LABEL_VALUE_LEN_MAX} are allowed")]
    ValueTooLong { key: String, len: usize },
}

impl Labels {
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl TryFrom<BTreeMap<String, String>> for Labels {
    type Error = LabelError;

    fn try_from(labels: BTreeMap<String, String>) -> Result<Self, LabelError> {
        if labels.len() > LABELS_MAX {
            return Err(LabelError::TooMany {
                count: labels.len(),
            });
        }
        for (key, value) in &labels {
            if key.is_empty() {
                return Err(LabelError::EmptyKey);
            }
            if key.len() > LABEL_KEY_LEN_MAX {
                return Err(LabelError::KeyTooLong { len: key.len() });
            }
            if value.len() > LABEL_VALUE_LEN_MAX {
                return Err(LabelError::ValueTooLong {
                    key: key.clone(),
                    len: value.len(),
                });
            }
        }
        Ok(Self(labels))
    }
}

impl From<Labels> for BTreeMap<String, String> {
    fn from(labels: Labels) -> Self {
        labels.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Result<Labels, LabelError> {
        let map: BTreeMap<String, String> = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        Labels::try_from(map)
    }

    #[test]
    fn bounds_are_kept_at_the_limit_and_refused_beyond() {
        let key_64 = "k".repeat(64);
        let key_65 = "k".repeat(65);
        let value_128 = "v".repeat(128);
        let value_129 = "v".repeat(129);
        assert!(labels(&[]).is_ok());
        assert!(labels(&[(&key_64, &value_128)]).is_ok());
        assert_eq!(
            labels(&[(&key_65, "")]),
            Err(LabelError::KeyTooLong { len: 65 })
        );
        assert!(matches!(
            labels(&[("k", &value_129)]),
            Err(LabelError::ValueTooLong { len: 129, .. })
        ));
        assert_eq!(labels(&[("", "v")]), Err(LabelError::EmptyKey));
        let five = [("a", ""), ("b", ""), ("c", ""), ("d", ""), ("e", "")];
        assert!(labels(&five).is_ok());
        let six = [five.as_slice(), &[("f", "")]].concat();
        assert_eq!(labels(&six), Err(LabelError::TooMany { count: 6 }));
    }

    #[test]
    fn lengths_are_bytes() {
        let key = "é".repeat(33);
        assert_eq!(
            labels(&[(&key, "")]),
            Err(LabelError::KeyTooLong { len: 66 })
        );
    }
}
