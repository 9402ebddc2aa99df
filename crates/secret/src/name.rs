//! Names of secrets. A secret appears in a sandbox as an environment variable,
//! so its name is one: POSIX.1-2024, 8.1.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The longest name, in bytes.
pub const SECRET_NAME_LEN_MAX: usize = 256;

/// A name that can be an environment variable: a letter or `_`, then letters,
/// digits and `_`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretName(String);

/// Why a text is no name of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseSecretNameError {
    /// There is no text.
    #[error("the name of a secret is empty; give the environment variable it shall be")]
    Empty,
    /// The text is longer than [`SECRET_NAME_LEN_MAX`].
    #[error("the name of a secret has {len} bytes; at most {SECRET_NAME_LEN_MAX} are possible")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// A character that a portable environment variable has not.
    #[error(
        "the name of a secret has {found:?} at byte {at}; letters, digits and _ are possible, \
         with no digit first"
    )]
    Character {
        /// The character.
        found: char,
        /// Where it is.
        at: usize,
    },
}

impl SecretName {
    /// Checks a name.
    pub fn parse(text: &str) -> Result<Self, ParseSecretNameError> {
        if text.is_empty() {
            return Err(ParseSecretNameError::Empty);
        }
        if text.len() > SECRET_NAME_LEN_MAX {
            return Err(ParseSecretNameError::TooLong { len: text.len() });
        }
        let allowed = |at: usize, c: char| {
            c == '_' || c.is_ascii_alphabetic() || (at > 0 && c.is_ascii_digit())
        };
        match text.char_indices().find(|(at, c)| !allowed(*at, *c)) {
            Some((at, found)) => Err(ParseSecretNameError::Character { found, at }),
            None => Ok(Self(text.to_owned())),
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SecretName {
    type Err = ParseSecretNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl TryFrom<String> for SecretName {
    type Error = ParseSecretNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<SecretName> for String {
    fn from(name: SecretName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_environment_variables() {
        for good in ["A", "_", "OPENAI_API_KEY", "lower9", "__x"] {
            assert_eq!(SecretName::parse(good).unwrap().as_str(), good);
        }
        let long = "A".repeat(SECRET_NAME_LEN_MAX + 1);
        assert!(SecretName::parse(&long[1..]).is_ok());
        for (bad, expected) in [
            ("", ParseSecretNameError::Empty),
            ("9A", ParseSecretNameError::Character { found: '9', at: 0 }),
            ("A=B", ParseSecretNameError::Character { found: '=', at: 1 }),
            (
                "A\0",
                ParseSecretNameError::Character { found: '\0', at: 1 },
            ),
            ("Ä", ParseSecretNameError::Character { found: 'Ä', at: 0 }),
            (&long, ParseSecretNameError::TooLong { len: 257 }),
        ] {
            assert_eq!(SecretName::parse(bad), Err(expected), "{bad:?}");
        }
        assert!(serde_json::from_str::<SecretName>("\"A B\"").is_err());
    }
}
