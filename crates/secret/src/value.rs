//! Secret values: a type that is not printed, compared or serialised by
//! accident, and that wipes its memory.

use std::fmt;

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// The longest value, in bytes.
pub const SECRET_LEN_MAX: usize = 64 * 1024;

/// A credential. Reading it takes [`SecretValue::expose`]; its memory is wiped
/// when it is dropped.
///
/// It is 1 to [`SECRET_LEN_MAX`] bytes of UTF-8 without control characters
/// other than the tab, so that it can stand in a header (RFC 9110, 5.5) and
/// cannot end one.
#[derive(Clone)]
pub struct SecretValue(Zeroizing<String>);

/// Why a text cannot be a secret value. Says nothing of the text itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretValueError {
    /// There is no text.
    #[error("the value of a secret is empty")]
    Empty,
    /// The text is longer than [`SECRET_LEN_MAX`].
    #[error("the value of a secret has {len} bytes; at most {SECRET_LEN_MAX} are possible")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// CR, LF, NUL or another control character.
    #[error(
        "the value of a secret has the control character {character:#04x} at byte {at}, which \
         could end a header; remove it (a line feed at the end often comes from a file)"
    )]
    Control {
        /// The character.
        character: u8,
        /// Where it is.
        at: usize,
    },
}

impl SecretValue {
    /// Checks a value and takes it. What is refused is wiped as well.
    pub fn new(value: String) -> Result<Self, SecretValueError> {
        let value = Zeroizing::new(value);
        if value.is_empty() {
            return Err(SecretValueError::Empty);
        }
        if value.len() > SECRET_LEN_MAX {
            return Err(SecretValueError::TooLong { len: value.len() });
        }
        let control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
        match value.bytes().enumerate().find(|(_, byte)| control(byte)) {
            Some((at, character)) => Err(SecretValueError::Control { character, at }),
            None => Ok(Self(value)),
        }
    }

    /// The value itself. Whoever calls this answers for where it goes.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Its length in bytes, which is never zero.
    #[must_use]
    #[expect(
        clippy::len_without_is_empty,
        reason = "the constructor refuses what is empty"
    )]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Compares in a time that does not depend on where two values differ.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Result<SecretValue, SecretValueError> {
        SecretValue::new(text.to_owned())
    }

    #[test]
    fn printing_shows_nothing_of_it() {
        let secret = value("hunter2").unwrap();
        assert!(!format!("{secret:?} {secret:#?}").contains("hunter"));
        assert_eq!(secret.expose(), "hunter2");
        let refused = value("hunter2\r").unwrap_err();
        assert!(!format!("{refused} {refused:?}").contains("hunter"));
    }

    /// SUB-21: what could end a header is refused.
    #[test]
    fn sub_21_what_could_end_a_header_is_refused() {
        let control = |character, at| Err(SecretValueError::Control { character, at });
        for (text, expected) in [
            ("", Err(SecretValueError::Empty)),
            ("a\rb", control(b'\r', 1)),
            ("ab\n", control(b'\n', 2)),
            ("\0", control(0, 0)),
            ("a\x7f", control(0x7f, 1)),
            ("a\x1b[0m", control(0x1b, 1)),
            ("a\tb \"\\ é", Ok(())),
        ] {
            assert_eq!(value(text).map(drop), expected, "{text:?}");
        }
        assert!(value(&"x".repeat(SECRET_LEN_MAX)).is_ok());
        let long = value(&"x".repeat(SECRET_LEN_MAX + 1)).unwrap_err();
        assert_eq!(long, SecretValueError::TooLong { len: 65_537 });
    }

    #[test]
    fn values_are_compared() {
        assert!(value("abc").unwrap().is_same(&value("abc").unwrap()));
        assert!(!value("abc").unwrap().is_same(&value("abd").unwrap()));
        assert!(!value("abc").unwrap().is_same(&value("abcd").unwrap()));
    }
}
