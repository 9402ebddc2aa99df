//! Access tokens: a prefix that tells the kind and random text. Only their
//! SHA-256 is ever kept; there is too much randomness in them to guess.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tombolo_api::native::TokenKind;
use tombolo_api::{ORGANISATION_TOKEN_PREFIX, PERSONAL_TOKEN_PREFIX};
use tombolo_ids::{EntropyError, random_text};

/// Random characters of a token, five bits each.
const RANDOM_LEN: usize = 40;
const HASH_LEN: usize = 32;

/// The SHA-256 of a token.
#[derive(Clone, Copy)]
pub struct TokenHash([u8; HASH_LEN]);

/// Text that is no hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a token's hash is 64 hexadecimal digits")]
pub struct ParseTokenHashError;

impl TokenHash {
    /// The hash of a token's text.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// Takes the same time wherever two hashes differ.
    pub(crate) fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(hidden)")
    }
}

impl FromStr for TokenHash {
    type Err = ParseTokenHashError;

    fn from_str(text: &str) -> Result<Self, ParseTokenHashError> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let bytes: Option<Vec<u8>> = pairs
            .iter()
            .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
            .collect();
        bytes
            .filter(|_| rest.is_empty())
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or(ParseTokenHashError)
    }
}

/// A new token's text.
pub(crate) fn new_token(kind: TokenKind) -> Result<String, EntropyError> {
    let prefix = match kind {
        TokenKind::Organisation => ORGANISATION_TOKEN_PREFIX,
        TokenKind::Personal => PERSONAL_TOKEN_PREFIX,
    };
    Ok(format!("{prefix}{}", random_text(RANDOM_LEN)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_sha_256_and_survive_being_written() {
        let hash = TokenHash::of("abc");
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash.to_string(), text);
        assert!(text.parse::<TokenHash>().unwrap().matches(&hash));
        assert!(!TokenHash::of("abd").matches(&hash));
        assert!(!format!("{hash:?}").contains("ba78"));
        for wrong in [
            "",
            "ba",
            &text[1..],
            &text.to_uppercase(),
            &format!("{text}00"),
        ] {
            assert!(wrong.parse::<TokenHash>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn tokens_tell_their_kind_and_differ() {
        let first = new_token(TokenKind::Organisation).unwrap();
        let second = new_token(TokenKind::Organisation).unwrap();
        assert_ne!(first, second);
        assert!(first.starts_with("ddo_") && first.len() == 44, "{first}");
        assert!(new_token(TokenKind::Personal).unwrap().starts_with("ddp_"));
    }
}
