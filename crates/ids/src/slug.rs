//! The name people give an organisation.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The shortest slug.
pub const SLUG_LEN_MIN: usize = 2;
/// The longest slug.
pub const SLUG_LEN_MAX: usize = 32;

/// Two to 32 lower-case letters, digits and inner hyphens.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OrganisationSlug(String);

/// Text that is no slug.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "an organisation's name has {SLUG_LEN_MIN} to {SLUG_LEN_MAX} of a-z, 0-9 and -, and neither \
     starts nor ends with -"
)]
pub struct ParseSlugError;

impl OrganisationSlug {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for OrganisationSlug {
    type Err = ParseSlugError;

    fn from_str(text: &str) -> Result<Self, ParseSlugError> {
        let bytes = text.as_bytes();
        let valid = (SLUG_LEN_MIN..=SLUG_LEN_MAX).contains(&bytes.len())
            && bytes
                .iter()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && bytes.first() != Some(&b'-')
            && bytes.last() != Some(&b'-');
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseSlugError)
        }
    }
}

impl TryFrom<String> for OrganisationSlug {
    type Error = ParseSlugError;

    fn try_from(text: String) -> Result<Self, ParseSlugError> {
        text.parse()
    }
}

impl From<OrganisationSlug> for String {
    fn from(slug: OrganisationSlug) -> Self {
        slug.0
    }
}

impl fmt::Display for OrganisationSlug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for OrganisationSlug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_short_and_plain() {
        let longest = "a".repeat(SLUG_LEN_MAX);
        let too_long = "a".repeat(SLUG_LEN_MAX + 1);
        for (text, valid) in [
            ("default", true),
            ("a1-b", true),
            (&*longest, true),
            (&*too_long, false),
            ("a", false),
            ("-ab", false),
            ("ab-", false),
            ("Ab", false),
            ("a b", false),
        ] {
            assert_eq!(text.parse::<OrganisationSlug>().is_ok(), valid, "{text:?}");
        }
    }
}
