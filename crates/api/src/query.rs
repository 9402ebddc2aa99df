//! The query of a sandbox listing, as the two official clients write it.
//!
//! Reached by the network; never panics.

use std::collections::BTreeMap;

use url::Url;
use url::form_urlencoded;

mod python;
mod rows;

pub use rows::RowsQuery;

/// The most rows on one page.
pub const PAGE_LEN_MAX: u32 = 1000;
/// The most label conditions in one query.
pub const LABEL_CONDITIONS_MAX: usize = 16;
/// How many times one cursor may be wrapped in another's address.
const CURSOR_WRAPS_MAX: usize = 4;

/// Which rows of a listing are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Rows must have all of these labels.
    pub labels: BTreeMap<String, String>,
    /// At most so many rows.
    pub limit: Option<u32>,
    /// Where the page before this one ended.
    pub cursor: Option<String>,
}

/// The query breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseQueryError {
    /// The limit is no number, or zero.
    #[error("limit must be a whole number of at least 1")]
    Limit,
    /// The label filter cannot be read.
    #[error("labels must be written labels[KEY]=VALUE")]
    Labels,
    /// The state filter names none.
    #[error("state must be creating, running, grace, stopping or stopped, or several with commas")]
    State,
    /// The word after `usage=` means nothing.
    #[error("usage must be latest or fresh")]
    Usage,
    /// Too many label conditions.
    #[error("at most {LABEL_CONDITIONS_MAX} labels can be asked for at once")]
    TooManyLabels,
}

impl ListQuery {
    /// Reads the raw query of a request's address, without the `?`.
    pub fn parse(raw: &str) -> Result<Self, ParseQueryError> {
        let mut query = Self::default();
        for (key, value) in form_urlencoded::parse(raw.as_bytes()) {
            match &*key {
                "limit" => query.limit = Some(parse_limit(&value)?),
                "cursor" => query.cursor = unwrap_cursor(&value),
                "labels" => query.labels.extend(parse_label_map(&value)?),
                other => {
                    let label = other
                        .strip_prefix("labels[")
                        .and_then(|rest| rest.strip_suffix(']'));
                    if let Some(label) = label {
                        query.labels.insert(label.to_owned(), value.into_owned());
                    }
                }
            }
            if query.labels.len() > LABEL_CONDITIONS_MAX {
                return Err(ParseQueryError::TooManyLabels);
            }
        }
        Ok(query)
    }

    /// The raw query that is read as this one.
    #[must_use]
    pub fn to_query(&self) -> String {
        self.write(form_urlencoded::Serializer::new(String::new()))
            .finish()
    }

    fn write<'a>(
        &self,
        mut pairs: form_urlencoded::Serializer<'a, String>,
    ) -> form_urlencoded::Serializer<'a, String> {
        for (key, value) in &self.labels {
            pairs.append_pair(&format!("labels[{key}]"), value);
        }
        if let Some(limit) = self.limit {
            pairs.append_pair("limit", &limit.to_string());
        }
        if let Some(cursor) = &self.cursor {
            pairs.append_pair("cursor", cursor);
        }
        pairs
    }
}

fn parse_limit(text: &str) -> Result<u32, ParseQueryError> {
    match text.parse::<u32>() {
        Ok(limit) if limit > 0 => Ok(limit.min(PAGE_LEN_MAX)),
        _ => Err(ParseQueryError::Limit),
    }
}

/// The Python client sends the whole address of the next page as the cursor.
fn unwrap_cursor(text: &str) -> Option<String> {
    let mut cursor = text.to_owned();
    for _ in 0..CURSOR_WRAPS_MAX {
        let Ok(address) = Url::parse(&cursor) else {
            break;
        };
        let inner = address
            .query_pairs()
            .filter(|(key, _)| key == "cursor")
            .last()
            .map(|(_, value)| value.into_owned());
        cursor = inner?;
    }
    (!cursor.is_empty()).then_some(cursor)
}

/// The Python client writes its whole filter as a Python dictionary.
fn parse_label_map(text: &str) -> Result<BTreeMap<String, String>, ParseQueryError> {
    let text = text.trim();
    if text.is_empty() || text == "None" {
        return Ok(BTreeMap::new());
    }
    python::parse_dictionary(text).ok_or(ParseQueryError::Labels)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(raw: &str) -> Result<Vec<(String, String)>, ParseQueryError> {
        ListQuery::parse(raw).map(|query| query.labels.into_iter().collect())
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn both_ways_of_writing_labels_are_read() {
        let cases: &[(&str, &[(&str, &str)])] = &[
            ("", &[]),
            ("labels%5Bjob%5D=t", &[("job", "t")]),
            ("labels[a]=1&labels[b]=2", &[("a", "1"), ("b", "2")]),
            ("labels=%7B%27job%27%3A+%27t%27%7D", &[("job", "t")]),
            (
                "labels=%7B%27a%27%3A%20%27b%27%2C%20%27c%27%3A%20%27d%27%7D",
                &[("a", "b"), ("c", "d")],
            ),
            ("labels=", &[]),
            ("labels=None", &[]),
            ("labels={}", &[]),
            ("labels={\"a\":\"b\"}", &[("a", "b")]),
            ("other=1", &[]),
        ];
        for (raw, expected) in cases {
            assert_eq!(labels(raw), Ok(pairs(expected)), "{raw}");
        }
        for raw in [
            "labels=job",
            "labels={'a'}",
            "labels={'a': 1}",
            "labels={'a':'b'",
        ] {
            assert_eq!(labels(raw), Err(ParseQueryError::Labels), "{raw}");
        }
    }

    #[test]
    fn label_conditions_are_bounded() {
        let query = |count: usize| {
            (0..count)
                .map(|n| format!("labels[{n}]=x"))
                .collect::<Vec<_>>()
                .join("&")
        };
        assert!(labels(&query(LABEL_CONDITIONS_MAX)).is_ok());
        assert_eq!(
            labels(&query(LABEL_CONDITIONS_MAX + 1)),
            Err(ParseQueryError::TooManyLabels)
        );
    }

    #[test]
    fn cursors_are_unwrapped_and_the_last_counts() {
        let cases = [
            ("cursor=abc", Some("abc")),
            ("cursor=one&cursor=two", Some("two")),
            (
                "cursor=http%3A%2F%2F127.0.0.1%2Fapi%2Fv3%2Fsandboxes%3Flimit%3D2%26cursor%3Dabc",
                Some("abc"),
            ),
            (
                "cursor=http%3A%2F%2Fh%2F%3Fcursor%3Dhttp%253A%252F%252Fh%252F%253Fcursor%253Dabc",
                Some("abc"),
            ),
            ("cursor=http%3A%2F%2Fh%2F", None),
            ("cursor=", None),
            ("", None),
        ];
        for (raw, expected) in cases {
            let query = ListQuery::parse(raw).unwrap();
            assert_eq!(query.cursor.as_deref(), expected, "{raw}");
        }
    }

    #[test]
    fn limits_are_whole_and_bounded() {
        let cases = [
            ("limit=1", Ok(Some(1))),
            ("limit=1000", Ok(Some(1000))),
            ("limit=1001", Ok(Some(1000))),
            ("limit=0", Err(ParseQueryError::Limit)),
            ("limit=-1", Err(ParseQueryError::Limit)),
            ("limit=ten", Err(ParseQueryError::Limit)),
            ("", Ok(None)),
        ];
        for (raw, expected) in cases {
            assert_eq!(
                ListQuery::parse(raw).map(|query| query.limit),
                expected,
                "{raw}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_query_panics(raw in "\\PC{0,200}", dictionary in "[{}'\":, \\\\xuna-c0-9]{0,60}") {
            for text in [raw, format!("labels={dictionary}"), format!("cursor=http://{dictionary}")] {
                let parsed = ListQuery::parse(&text);
                prop_assert!(parsed.map_or(true, |query| query.labels.len() <= LABEL_CONDITIONS_MAX));
            }
        }
    }
}
