//! What stands for a secret inside a sandbox: not secret, but not guessable.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::EntropyError;

/// What every placeholder begins with: what Deno Sandbox shows in its
/// documentation, so that programs written for it recognise it.
pub const PLACEHOLDER_PREFIX: &str = "DENO_SECRET_PLACEHOLDER_";
/// How many bytes are behind the prefix, written as twice as many digits.
const RANDOM_LEN: usize = 32;
/// The length of every placeholder in bytes. One length means that none is a
/// prefix of another.
pub const PLACEHOLDER_LEN: usize = PLACEHOLDER_PREFIX.len() + 2 * RANDOM_LEN;

/// [`PLACEHOLDER_PREFIX`] and 64 lower-case hexadecimal digits: 256 random bits.
///
/// All its characters are left as they are by the encoders of URLs, JSON,
/// forms and headers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Placeholder([u8; RANDOM_LEN]);

/// A text is no placeholder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a placeholder: {PLACEHOLDER_PREFIX} and 64 lower-case hexadecimal digits")]
pub struct ParsePlaceholderError;

impl Placeholder {
    /// A new one, from the kernel's randomness.
    pub fn generate() -> Result<Self, EntropyError> {
        let mut random = [0; RANDOM_LEN];
        getrandom::fill(&mut random)?;
        Ok(Self(random))
    }

    /// The one with these bytes: for tests, and where randomness is an argument.
    #[must_use]
    pub fn from_bytes(random: [u8; RANDOM_LEN]) -> Self {
        Self(random)
    }

    /// Reads one that is the whole text.
    pub fn parse(text: &[u8]) -> Result<Self, ParsePlaceholderError> {
        let digits = text
            .strip_prefix(PLACEHOLDER_PREFIX.as_bytes())
            .ok_or(ParsePlaceholderError)?;
        if digits.len() != 2 * RANDOM_LEN {
            return Err(ParsePlaceholderError);
        }
        let mut random = [0; RANDOM_LEN];
        for (byte, pair) in random.iter_mut().zip(digits.as_chunks::<2>().0) {
            let [high, low] = pair.map(digit);
            *byte = high.ok_or(ParsePlaceholderError)? << 4 | low.ok_or(ParsePlaceholderError)?;
        }
        Ok(Self(random))
    }
}

/// The value of a lower-case hexadecimal digit. One case only: a second
/// spelling of a placeholder would be a second needle to look for.
fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Placeholder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PLACEHOLDER_PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Placeholder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Placeholder({self})")
    }
}

impl FromStr for Placeholder {
    type Err = ParsePlaceholderError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text.as_bytes())
    }
}

impl TryFrom<String> for Placeholder {
    type Error = ParsePlaceholderError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Placeholder> for String {
    fn from(placeholder: Placeholder) -> Self {
        placeholder.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_and_back(random: [u8; 32]) {
            let placeholder = Placeholder::from_bytes(random);
            let text = placeholder.to_string();
            prop_assert_eq!(text.len(), PLACEHOLDER_LEN);
            prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
            prop_assert_eq!(text.parse(), Ok(placeholder));
        }

        #[test]
        fn nothing_else_parses(text: Vec<u8>) {
            if let Ok(placeholder) = Placeholder::parse(&text) {
                prop_assert_eq!(placeholder.to_string().into_bytes(), text);
            }
        }
    }

    #[test]
    fn one_spelling_only() {
        let good = Placeholder::from_bytes([0xab; 32]).to_string();
        assert!(good.parse::<Placeholder>().is_ok());
        for bad in [
            good.to_uppercase(),
            good.replace("ab", "AB"),
            good[..good.len() - 1].to_owned(),
            format!("{good}0"),
            format!(" {good}"),
            good.replace("DENO", "TOMB"),
            String::new(),
        ] {
            assert!(bad.parse::<Placeholder>().is_err(), "{bad}");
        }
    }

    #[test]
    fn two_are_different() {
        assert_ne!(
            Placeholder::generate().unwrap(),
            Placeholder::generate().unwrap()
        );
    }
}
