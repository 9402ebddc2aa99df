//! Where a sandbox runs: three lower-case letters, part of its id.

use std::fmt;
use std::str::FromStr;

/// A region code, three lower-case ASCII letters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Region([u8; 3]);

/// Text that is not a region code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a region is three lower-case letters")]
pub struct ParseRegionError;

impl Region {
    /// What official clients use when no region is asked for.
    pub const DEFAULT: Self = Self(*b"ord");

    pub fn as_str(&self) -> &str {
        // Always ASCII: the constructor admits nothing else.
        str::from_utf8(&self.0).unwrap_or("")
    }
}

impl FromStr for Region {
    type Err = ParseRegionError;

    fn from_str(text: &str) -> Result<Self, ParseRegionError> {
        match text.as_bytes() {
            [a, b, c] if [a, b, c].iter().all(|byte| byte.is_ascii_lowercase()) => {
                Ok(Self([*a, *b, *c]))
            }
            _ => Err(ParseRegionError),
        }
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_lower_case_letters_and_nothing_else() {
        for (text, valid) in [
            ("ord", true),
            ("ams", true),
            ("or", false),
            ("ord1", false),
            ("Ord", false),
            ("or1", false),
            ("é1", false),
            ("", false),
        ] {
            let parsed = text.parse::<Region>();
            assert_eq!(parsed.is_ok(), valid, "{text:?}");
            if let Ok(region) = parsed {
                assert_eq!(region.to_string(), text);
            }
        }
    }
}
