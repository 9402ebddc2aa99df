//! Bodies as strict JSON, and pointers into them.
//!
//! What two parsers could read differently is not JSON here (HTTP-20): a key that comes
//! twice, also when the two differ in case only, because there are parsers that look for
//! fields without regard to it.
//!
//! Guests choose these bytes: depth and number of values are bounded and nothing panics.

use std::{cell::Cell, collections::HashSet, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use thiserror::Error;

/// Values of a body, keys not counted.
pub const JSON_VALUES_MAX: usize = 65_536;
/// Characters of a pointer.
pub const POINTER_LEN_MAX: usize = 512;

/// The body is not JSON that everybody reads alike.
#[derive(Debug, Error)]
#[error("the body is not strict JSON")]
pub(crate) struct JsonError(#[source] serde_json::Error);

/// Reads a body. Depth is bounded by the parser.
pub(crate) fn parse(body: &[u8]) -> Result<Value, JsonError> {
    let left = Cell::new(JSON_VALUES_MAX);
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = Strict { left: &left }
        .deserialize(&mut deserializer)
        .map_err(JsonError)?;
    deserializer.end().map_err(JsonError)?;
    Ok(value)
}

/// Upper and lower case, and the letters that fold into ASCII ones, made alike.
fn fold(key: &str) -> String {
    key.chars()
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase)
        .collect()
}

#[derive(Clone, Copy)]
struct Strict<'a> {
    left: &'a Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let left = self.left.get().checked_sub(1);
        self.left
            .set(left.ok_or_else(|| D::Error::custom("too many values"))?);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = sequence.next_element_seed(self)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        let mut seen = HashSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            if !seen.insert(fold(&key)) {
                return Err(A::Error::custom("a key comes twice"));
            }
            let value = entries.next_value_seed(self)?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

/// A pointer into a JSON document (RFC 6901).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pointer {
    tokens: Vec<String>,
}

/// Why a text is not a pointer, with what to write instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PointerError {
    #[error("a JSON pointer has at most {POINTER_LEN_MAX} characters")]
    TooLong,
    #[error("a JSON pointer begins with a slash (RFC 6901): `/model`, `/messages/0/role`")]
    NoSlash,
    #[error("`~` in a JSON pointer is written `~0`, and `/` in a key `~1` (RFC 6901)")]
    Tilde,
}

/// What a pointer found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Found<'a> {
    Value(&'a Value),
    Missing,
    /// There is a key that differs in case only, which some parsers would take.
    Ambiguous,
}

impl Pointer {
    pub(crate) fn parse(text: &str) -> Result<Self, PointerError> {
        if text.len() > POINTER_LEN_MAX {
            return Err(PointerError::TooLong);
        }
        if text.is_empty() {
            return Ok(Self { tokens: Vec::new() });
        }
        let rest = text.strip_prefix('/').ok_or(PointerError::NoSlash)?;
        let tokens = rest.split('/').map(unescape).collect::<Option<_>>();
        Ok(Self {
            tokens: tokens.ok_or(PointerError::Tilde)?,
        })
    }

    pub(crate) fn find<'a>(&self, document: &'a Value) -> Found<'a> {
        let mut value = document;
        for token in &self.tokens {
            let next = match value {
                Value::Object(object) => match object.get(token) {
                    Some(next) => Some(next),
                    None if has_folded(object, token) => return Found::Ambiguous,
                    None => None,
                },
                Value::Array(values) => index(token).and_then(|index| values.get(index)),
                _ => None,
            };
            match next {
                Some(next) => value = next,
                None => return Found::Missing,
            }
        }
        Found::Value(value)
    }
}

fn has_folded(object: &Map<String, Value>, token: &str) -> bool {
    let folded = fold(token);
    object.keys().any(|key| fold(key) == folded)
}

fn unescape(token: &str) -> Option<String> {
    let mut text = String::with_capacity(token.len());
    let mut characters = token.chars();
    while let Some(character) = characters.next() {
        match character {
            '~' => match characters.next()? {
                '0' => text.push('~'),
                '1' => text.push('/'),
                _ => return None,
            },
            character => text.push(character),
        }
    }
    Some(text)
}

/// RFC 6901, section 4: digits without leading zeros.
fn index(token: &str) -> Option<usize> {
    let plain = token == "0" || !token.starts_with('0');
    let digits = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_digit());
    (plain && digits).then(|| token.parse().ok()).flatten()
}

#[cfg(test)]
mod tests;
