//! The query of a request, as far as servers agree on how to read it.
//!
//! Guests choose these bytes: parsing is linear, bounded and never panics.

use thiserror::Error;

/// Pairs that are looked at.
pub const QUERY_PAIRS_MAX: usize = 1024;

/// Keys and values, decoded, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query {
    pairs: Vec<(String, String)>,
}

/// Why a query cannot be told for sure. None of them quotes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum QueryError {
    #[error("there are more than {QUERY_PAIRS_MAX} pairs")]
    TooMany,
    #[error("`;` ends a pair for some servers and not for others")]
    Semicolon,
    #[error("an escape is not valid, or does not give UTF-8")]
    Escape,
}

impl Query {
    /// Reads `a=1&b=2` (the URL standard's form encoding).
    pub(crate) fn parse(raw: &str) -> Result<Self, QueryError> {
        if raw.contains(';') {
            return Err(QueryError::Semicolon);
        }
        let mut pairs = Vec::new();
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            if pairs.len() >= QUERY_PAIRS_MAX {
                return Err(QueryError::TooMany);
            }
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            pairs.push((decode(key)?, decode(value)?));
        }
        Ok(Self { pairs })
    }

    /// The values of a key, in order.
    pub(crate) fn values(&self, key: &str) -> impl Iterator<Item = &str> {
        self.pairs
            .iter()
            .filter(move |(found, _)| found == key)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

fn decode(text: &str) -> Result<String, QueryError> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => decoded.push(b' '),
            b'%' => {
                let digits = bytes.next().zip(bytes.next());
                decoded.push(digits.and_then(hexadecimal).ok_or(QueryError::Escape)?);
            }
            byte => decoded.push(byte),
        }
    }
    String::from_utf8(decoded).ok().ok_or(QueryError::Escape)
}

fn hexadecimal((high, low): (u8, u8)) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

#[cfg(test)]
mod tests;
