//! Values that clients write in more than one way.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, Unexpected, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Text that is borrowed from the message where that is possible, so that a
/// large file is not copied to be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

impl From<String> for Text<'_> {
    fn from(text: String) -> Self {
        Self(Cow::Owned(text))
    }
}

impl AsRef<str> for Text<'_> {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// A moment: ISO 8601 text, or seconds since the epoch.
#[derive(Clone, Debug, PartialEq)]
pub enum Time {
    /// As in `2026-03-01T12:00:00.000Z`.
    Iso(String),
    /// Seconds since the epoch, with a fraction.
    Seconds(f64),
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Iso(text) => serializer.serialize_str(text),
            Self::Seconds(seconds) => serializer.serialize_f64(*seconds),
        }
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TimeVisitor)
    }
}

struct TimeVisitor;

impl Visitor<'_> for TimeVisitor {
    type Value = Time;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a date string or a number of seconds")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Time, E> {
        Ok(Time::Iso(text.to_owned()))
    }

    fn visit_f64<E: serde::de::Error>(self, seconds: f64) -> Result<Time, E> {
        Ok(Time::Seconds(seconds))
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "seconds of any real date fit exactly"
    )]
    fn visit_i64<E: serde::de::Error>(self, seconds: i64) -> Result<Time, E> {
        Ok(Time::Seconds(seconds as f64))
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "seconds of any real date fit exactly"
    )]
    fn visit_u64<E: serde::de::Error>(self, seconds: u64) -> Result<Time, E> {
        Ok(Time::Seconds(seconds as f64))
    }
}

/// A signed file offset: an integer, or its decimal text when it may exceed
/// what a JavaScript number holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Offset(pub i64);

impl<'de> Deserialize<'de> for Offset {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OffsetVisitor)
    }
}

struct OffsetVisitor;

impl Visitor<'_> for OffsetVisitor {
    type Value = Offset;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an integer or its decimal text")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Offset, E> {
        match text.parse() {
            Ok(offset) => Ok(Offset(offset)),
            Err(_) => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }

    fn visit_i64<E: serde::de::Error>(self, offset: i64) -> Result<Offset, E> {
        Ok(Offset(offset))
    }

    fn visit_u64<E: serde::de::Error>(self, offset: u64) -> Result<Offset, E> {
        i64::try_from(offset).map(Offset).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_as_text_or_seconds() {
        let cases = [
            (
                r#""2026-01-01T00:00:00Z""#,
                Time::Iso("2026-01-01T00:00:00Z".into()),
            ),
            ("12", Time::Seconds(12.0)),
            ("-3", Time::Seconds(-3.0)),
            ("1.5", Time::Seconds(1.5)),
        ];
        for (json, expected) in cases {
            assert_eq!(
                serde_json::from_str::<Time>(json).unwrap(),
                expected,
                "{json}"
            );
        }
        assert!(serde_json::from_str::<Time>("[]").is_err());
    }

    #[test]
    fn offsets_come_as_integers_or_text() {
        let good = [
            ("5", 5),
            ("-5", -5),
            (r#""9007199254740993""#, 9_007_199_254_740_993),
        ];
        for (json, expected) in good {
            assert_eq!(
                serde_json::from_str::<Offset>(json).unwrap(),
                Offset(expected),
                "{json}"
            );
        }
        for bad in ["1.5", r#""x""#, "18446744073709551615", "null"] {
            assert!(serde_json::from_str::<Offset>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn plain_text_is_not_copied() {
        let text: Text<'_> = serde_json::from_str(r#""abc""#).unwrap();
        assert!(matches!(text.0, Cow::Borrowed("abc")));
        let escaped: Option<Text<'_>> = serde_json::from_str(r#""a\/c""#).unwrap();
        assert_eq!(escaped.unwrap().as_ref(), "a/c");
    }
}
