//! Opaque identifiers: a prefix that tells the kind and twenty random
//! characters (about 100 bits).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Region;

/// The characters identifiers are made of: no `i`, `l` or `o`, which are
/// easily misread.
const ALPHABET: &[u8; 33] = b"0123456789abcdefghjkmnpqrstuvwxyz";
/// Random characters in an identifier.
const RANDOM_LEN: usize = 20;
const SANDBOX_PREFIX: &str = "sbx_";

/// The system has no randomness to give.
#[derive(Debug, thiserror::Error)]
#[error("the system's random source failed")]
pub struct EntropyError(#[source] pub(crate) getrandom::Error);

/// Text that is not an identifier of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {kind} id")]
pub struct ParseIdError {
    kind: &'static str,
}

/// `len` random characters of the identifier alphabet, about five bits each.
pub fn random_text(len: usize) -> Result<String, EntropyError> {
    // Bytes from here on would make the first characters likelier.
    const REJECT_FROM: u8 = 33 * 7;
    let mut text = String::with_capacity(len);
    let mut pool = [0_u8; 64];
    while text.len() < len {
        getrandom::fill(&mut pool).map_err(EntropyError)?;
        let characters = pool
            .iter()
            .filter(|byte| **byte < REJECT_FROM)
            .filter_map(|byte| ALPHABET.get(usize::from(byte % 33)))
            .map(|byte| char::from(*byte));
        text.extend(characters.take(len - text.len()));
    }
    Ok(text)
}

fn is_random_part(text: &str) -> bool {
    text.len() == RANDOM_LEN && text.bytes().all(|byte| ALPHABET.contains(&byte))
}

/// One sandbox: `sbx_`, its region's three letters, `_`, twenty characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SandboxId(String);

impl SandboxId {
    pub fn random(region: Region) -> Result<Self, EntropyError> {
        let random = random_text(RANDOM_LEN)?;
        Ok(Self(format!("{SANDBOX_PREFIX}{region}_{random}")))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn is_valid(text: &str) -> bool {
        text.strip_prefix(SANDBOX_PREFIX)
            .and_then(|rest| rest.split_once('_'))
            .is_some_and(|(region, random)| {
                Region::from_str(region).is_ok() && is_random_part(random)
            })
    }
}

macro_rules! prefixed_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn random() -> Result<Self, EntropyError> {
                Ok(Self(format!(concat!($prefix, "{}"), random_text(RANDOM_LEN)?)))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }

            fn is_valid(text: &str) -> bool {
                text.strip_prefix($prefix).is_some_and(is_random_part)
            }
        }
    };
}

prefixed_id! {
    /// One organisation: the owner of sandboxes and of the limits on them.
    OrganisationId, "org_"
}
prefixed_id! {
    /// One access token. It names the token and opens nothing.
    TokenId, "tok_"
}

/// One request, for people who look for it in the log: 32 hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TraceId(String);

impl TraceId {
    const LEN: usize = 32;

    pub fn random() -> Result<Self, EntropyError> {
        let mut bytes = [0_u8; Self::LEN / 2];
        getrandom::fill(&mut bytes).map_err(EntropyError)?;
        Ok(Self(format!("{:032x}", u128::from_be_bytes(bytes))))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn is_valid(text: &str) -> bool {
        text.len() == Self::LEN
            && text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    }
}

macro_rules! text_newtype {
    ($name:ident, $kind:literal) => {
        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                if Self::is_valid(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(ParseIdError { kind: $kind })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseIdError;

            fn try_from(text: String) -> Result<Self, ParseIdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_newtype!(SandboxId, "sandbox");
text_newtype!(OrganisationId, "organisation");
text_newtype!(TokenId, "token");
text_newtype!(TraceId, "trace");

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: FromStr>(cases: &[(&str, bool)]) {
        for (text, valid) in cases {
            assert_eq!(text.parse::<T>().is_ok(), *valid, "{text:?}");
        }
    }

    #[test]
    fn sandbox_ids_keep_the_published_pattern() {
        check::<SandboxId>(&[
            ("sbx_ord_1at5nn58e77rtd11e3k3", true),
            ("sbx_ord_1at5nn58e77rtd11e3k", false),
            ("sbx_ord_1at5nn58e77rtd11e3k33", false),
            ("sbx_ord_1at5nn58e77rtd11e3ki", false),
            ("sbx_ord_1at5nn58e77rtd11e3kl", false),
            ("sbx_ord_1at5nn58e77rtd11e3ko", false),
            ("sbx_ORD_1at5nn58e77rtd11e3k3", false),
            ("sbx_or_1at5nn58e77rtd11e3k3", false),
            ("sbx_ord11at5nn58e77rtd11e3k3", false),
            ("vol_ord_1at5nn58e77rtd11e3k3", false),
            ("sbx_ord_1at5nn58e77rtd11e3ké", false),
            ("", false),
        ]);
    }

    #[test]
    fn other_ids_tell_their_kind() {
        check::<TokenId>(&[
            ("tok_1at5nn58e77rtd11e3k3", true),
            ("org_1at5nn58e77rtd11e3k3", false),
        ]);
        check::<OrganisationId>(&[("org_1at5nn58e77rtd11e3k3", true)]);
        check::<TraceId>(&[
            ("0123456789abcdef0123456789abcdef", true),
            ("0123456789ABCDEF0123456789abcdef", false),
            ("0123456789abcdef", false),
        ]);
    }

    #[test]
    fn random_ids_are_valid_and_differ() {
        let region: Region = "tmb".parse().unwrap();
        let first = SandboxId::random(region).unwrap();
        let second = SandboxId::random(region).unwrap();
        assert_ne!(first, second);
        for id in [&first, &second] {
            assert_eq!(id.as_str().parse::<SandboxId>().as_ref(), Ok(id));
        }
        let token = TokenId::random().unwrap();
        assert_eq!(token.as_str().parse::<TokenId>(), Ok(token));
        let trace = TraceId::random().unwrap();
        assert_eq!(trace.as_str().parse::<TraceId>(), Ok(trace));
    }

    #[test]
    fn every_character_of_the_alphabet_is_drawn() {
        let text = random_text(20_000).unwrap();
        for character in ALPHABET {
            assert!(text.contains(char::from(*character)), "{character}");
        }
    }
}
