//! The one way to write a host name.
//!
//! Names come from DNS questions, TLS server names, HTTP authorities and
//! policies. All become a [`HostName`] or nothing, and what was compared with
//! the policy is the same value that is resolved and dialled. A name that two
//! programs could read differently is refused instead of repaired.
//!
//! Guests choose these bytes: parsing is bounded and never panics.

use std::{fmt, str::FromStr};

use idna::{
    AsciiDenyList,
    uts46::{DnsLength, Hyphens, Uts46},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Octets of a name without its trailing dot (RFC 1035, section 2.3.4, in text form).
pub const HOST_NAME_LEN_MAX: usize = 253;
/// Octets of one label (RFC 1035, section 2.3.4).
pub const LABEL_LEN_MAX: usize = 63;
/// What is looked at before the form of a name is known: Unicode may shrink when it
/// is encoded, but not by this much.
const INPUT_LEN_MAX: usize = 1024;

/// A host name in canonical form: lower case, IDNA A-labels, no trailing dot, letters,
/// digits, `-` and `_` only, and nothing that any resolver would read as an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

/// Why a text is not a host name. None of them quotes the text, which may be hostile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HostNameError {
    #[error("a host name must not be empty")]
    Empty,
    #[error("a host name has at most {HOST_NAME_LEN_MAX} characters")]
    TooLong,
    #[error("a host name has an empty label: two dots follow each other, or one comes first")]
    EmptyLabel,
    #[error("a label of a host name has at most {LABEL_LEN_MAX} characters")]
    LabelTooLong,
    #[error("a label of a host name must not begin or end with a hyphen")]
    HyphenAtEdge,
    #[error("`*` is not part of a host name")]
    Wildcard,
    #[error("a host name holds letters, digits, `-`, `_` and dots only")]
    Character,
    #[error("this is not a valid internationalised host name (UTS #46)")]
    Idna,
    #[error("this reads as an IP address, or as part of one, not as a host name")]
    LooksLikeAddress,
}

impl HostName {
    /// Brings `text` into canonical form.
    ///
    /// # Errors
    /// Says what keeps `text` from being a host name (NET-08, NET-23, TLS-06).
    pub fn parse(text: &str) -> Result<Self, HostNameError> {
        if text.is_empty() {
            return Err(HostNameError::Empty);
        }
        if text.len() > INPUT_LEN_MAX {
            return Err(HostNameError::TooLong);
        }
        if text.contains('*') {
            return Err(HostNameError::Wildcard);
        }
        // Said here, because IDNA names no reason.
        if text.bytes().any(|byte| byte.is_ascii() && !is_typed(byte)) {
            return Err(HostNameError::Character);
        }
        let ascii = Uts46::new()
            .to_ascii(
                text.as_bytes(),
                AsciiDenyList::EMPTY,
                Hyphens::Allow,
                DnsLength::Ignore,
            )
            .ok()
            .ok_or(HostNameError::Idna)?;
        let name = ascii.strip_suffix('.').unwrap_or(&ascii);
        check_canonical(name)?;
        Ok(Self(name.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The labels, the most specific first.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('.')
    }

    /// Whether this name lies below `ancestor`; a name does not lie below itself.
    pub fn is_below(&self, ancestor: &Self) -> bool {
        self.0
            .strip_suffix(ancestor.as_str())
            .is_some_and(|rest| rest.ends_with('.') && rest.len() > 1)
    }
}

/// Which ASCII may stand in what is typed; upper case is lowered by the mapping.
fn is_typed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

fn check_canonical(name: &str) -> Result<(), HostNameError> {
    if name.is_empty() {
        return Err(HostNameError::EmptyLabel);
    }
    if name.len() > HOST_NAME_LEN_MAX {
        return Err(HostNameError::TooLong);
    }
    for label in name.split('.') {
        check_label(label)?;
    }
    if name.rsplit('.').next().is_some_and(is_number) {
        return Err(HostNameError::LooksLikeAddress);
    }
    Ok(())
}

fn check_label(label: &str) -> Result<(), HostNameError> {
    if label.is_empty() {
        return Err(HostNameError::EmptyLabel);
    }
    if label.len() > LABEL_LEN_MAX {
        return Err(HostNameError::LabelTooLong);
    }
    let permitted = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_')
    };
    if !label.bytes().all(permitted) {
        return Err(HostNameError::Character);
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(HostNameError::HyphenAtEdge);
    }
    Ok(())
}

/// Whether C libraries and the URL standard ("ends in a number") read a name that
/// ends in this label as an IPv4 address: `2130706433`, `0x7f000001`, `0177.0.0.1`.
fn is_number(label: &str) -> bool {
    let hexadecimal = label
        .strip_prefix("0x")
        .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    hexadecimal || label.bytes().all(|byte| byte.is_ascii_digit())
}

impl fmt::Display for HostName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for HostName {
    type Err = HostNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl TryFrom<String> for HostName {
    type Error = HostNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<HostName> for String {
    fn from(name: HostName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests;
