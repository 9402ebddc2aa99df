//! The query of Tombolo's own listing of sandboxes: what the other listings
//! take, which states, and whether to measure first.

use std::collections::BTreeSet;

use url::form_urlencoded;

use super::{ListQuery, ParseQueryError};
use crate::native::SandboxPhase;

/// Which rows of `GET /api/tombolo/v1/sandboxes`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowsQuery {
    /// Labels, the page and its length.
    pub page: ListQuery,
    /// Rows must be in one of these; empty means any.
    pub states: BTreeSet<SandboxPhase>,
    /// Whether sandboxes that run are measured first.
    pub fresh: bool,
}

impl RowsQuery {
    /// Reads the raw query of a request's address, without the `?`.
    pub fn parse(raw: &str) -> Result<Self, ParseQueryError> {
        let mut query = Self {
            page: ListQuery::parse(raw)?,
            ..Self::default()
        };
        for (key, value) in form_urlencoded::parse(raw.as_bytes()) {
            match &*key {
                "state" => query.states.extend(parse_states(&value)?),
                "usage" => query.fresh = parse_usage(&value)?,
                _ => {}
            }
        }
        Ok(query)
    }

    /// The raw query that is read as this one.
    #[must_use]
    pub fn to_query(&self) -> String {
        let mut pairs = self
            .page
            .write(form_urlencoded::Serializer::new(String::new()));
        for state in &self.states {
            pairs.append_pair("state", state.as_str());
        }
        if self.fresh {
            pairs.append_pair("usage", "fresh");
        }
        pairs.finish()
    }

    /// Whether a sandbox in that phase is asked for.
    #[must_use]
    pub fn admits(&self, phase: SandboxPhase) -> bool {
        self.states.is_empty() || self.states.contains(&phase)
    }
}

fn parse_states(text: &str) -> Result<BTreeSet<SandboxPhase>, ParseQueryError> {
    let state = |name: &str| {
        SandboxPhase::ALL
            .into_iter()
            .find(|phase| phase.as_str() == name)
            .ok_or(ParseQueryError::State)
    };
    text.split(',').map(state).collect()
}

fn parse_usage(text: &str) -> Result<bool, ParseQueryError> {
    match text {
        "fresh" => Ok(true),
        "latest" => Ok(false),
        _ => Err(ParseQueryError::Usage),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_come_one_by_one_or_with_commas() {
        use SandboxPhase::{Grace, Running, Stopped};
        let cases: &[(&str, Result<&[SandboxPhase], ParseQueryError>)] = &[
            ("", Ok(&[])),
            ("state=running", Ok(&[Running])),
            ("state=grace&state=running", Ok(&[Running, Grace])),
            ("state=stopped%2Crunning", Ok(&[Running, Stopped])),
            ("state=", Err(ParseQueryError::State)),
            ("state=running,", Err(ParseQueryError::State)),
            ("state=Running", Err(ParseQueryError::State)),
            ("usage=never", Err(ParseQueryError::Usage)),
            ("limit=0", Err(ParseQueryError::Limit)),
        ];
        for (raw, expected) in cases {
            let states = RowsQuery::parse(raw).map(|query| query.states);
            let expected = expected
                .clone()
                .map(|states| states.iter().copied().collect());
            assert_eq!(states, expected, "{raw}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let query = RowsQuery {
            page: ListQuery {
                labels: [("a,b".to_owned(), "c;d&e".to_owned())].into(),
                limit: Some(3),
                cursor: Some("7.sbx".to_owned()),
            },
            states: [SandboxPhase::Grace, SandboxPhase::Stopped].into(),
            fresh: true,
        };
        for query in [query, RowsQuery::default()] {
            assert_eq!(RowsQuery::parse(&query.to_query()), Ok(query));
        }
    }

    #[test]
    fn no_state_asked_for_means_any() {
        for phase in SandboxPhase::ALL {
            assert!(RowsQuery::default().admits(phase));
            let one = RowsQuery::parse("state=grace").unwrap();
            assert_eq!(one.admits(phase), phase == SandboxPhase::Grace);
        }
    }
}
