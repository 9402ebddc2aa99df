//! Listings longer than a page: follows the links to the next one.

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt as _, stream};
use http::Method;
use tombolo_api::native::{SANDBOXES_PATH, SandboxPhase, SandboxRow};
use tombolo_api::query::{ListQuery, PAGE_LEN_MAX, RowsQuery};

use crate::request::decode;
use crate::{Client, RequestError};

/// Pages read of one listing: a million rows.
const PAGES_MAX: usize = 1000;

/// A listing of sandboxes that was asked for, the newest first.
#[derive(Debug, Clone)]
#[must_use = "nothing is asked before the rows are"]
pub struct Sandboxes {
    client: Client,
    query: RowsQuery,
    most: usize,
}

impl Client {
    /// Every sandbox that this token may see, those that have ended too.
    pub fn sandboxes(&self) -> Sandboxes {
        Sandboxes {
            client: self.clone(),
            query: RowsQuery::default(),
            most: usize::MAX,
        }
    }
}

impl Sandboxes {
    /// Only those with this label; several must all be there.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.query.page.labels.insert(key.into(), value.into());
        self
    }

    /// Only those with all of these labels.
    pub fn labels<K: Into<String>, V: Into<String>>(
        self,
        labels: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let mut listing = self;
        for (key, value) in labels {
            listing = listing.label(key, value);
        }
        listing
    }

    /// Only those in this state; several are alternatives.
    pub fn state(mut self, state: SandboxPhase) -> Self {
        self.query.states.insert(state);
        self
    }

    /// Only those that have not ended.
    pub fn running(mut self) -> Self {
        let phases = SandboxPhase::ALL.into_iter();
        self.query.states = phases
            .filter(|phase| *phase != SandboxPhase::Stopped)
            .collect();
        self
    }

    /// With figures of what they use that are taken now.
    pub fn fresh_usage(mut self) -> Self {
        self.query.fresh = true;
        self
    }

    /// At most so many.
    pub fn limit(mut self, most: u32) -> Self {
        self.most = most as usize;
        self
    }

    /// The rows one by one; each page is asked for when it is come to.
    pub fn stream(self) -> impl Stream<Item = Result<SandboxRow, RequestError>> + Send {
        self.pages()
            .map_ok(|rows| stream::iter(rows.into_iter().map(Ok)))
            .try_flatten()
    }

    /// All rows.
    ///
    /// # Errors
    /// As every request.
    pub async fn all(self) -> Result<Vec<SandboxRow>, RequestError> {
        self.pages().try_concat().await
    }

    /// The rows in the pages they come in.
    pub fn pages(self) -> impl Stream<Item = Result<Vec<SandboxRow>, RequestError>> + Send {
        let begin = Some((self, 0));
        stream::try_unfold(begin, |position| async move {
            let Some((listing, count)) = position else {
                return Ok(None);
            };
            if count >= PAGES_MAX {
                return Err(RequestError::Endless { limit: PAGES_MAX });
            }
            let (rows, rest) = listing.page().await?;
            Ok(Some((rows, rest.map(|rest| (rest, count + 1)))))
        })
    }

    /// The first page, and what comes after it.
    async fn page(mut self) -> Result<(Vec<SandboxRow>, Option<Self>), RequestError> {
        let left = u32::try_from(self.most).unwrap_or(PAGE_LEN_MAX);
        if left == 0 {
            return Ok((Vec::new(), None));
        }
        self.query.page.limit = Some(left.min(PAGE_LEN_MAX));
        let path = format!("{SANDBOXES_PATH}?{}", self.query.to_query());
        let answer = self.client.accepted(Method::GET, &path, Bytes::new());
        let answer = answer.await?;
        let mut rows: Vec<SandboxRow> = decode(Method::GET, &path, &answer.body)?;
        rows.truncate(self.most);
        self.most -= rows.len();
        self.query.page.cursor = answer.link.as_deref().and_then(next_cursor);
        let is_over = self.query.page.cursor.is_none() || self.most == 0;
        Ok((rows, (!is_over).then_some(self)))
    }
}

/// The cursor of the next page, out of a `Link` header (RFC 8288). Only that
/// is taken of the address: the token goes to no other server.
fn next_cursor(link: &str) -> Option<String> {
    let (address, relation) = link.split_once(';')?;
    let address = address.trim().strip_prefix('<')?.strip_suffix('>')?;
    let (_, query) = address.split_once('?')?;
    if relation.trim() != "rel=\"next\"" {
        return None;
    }
    ListQuery::parse(query).ok()?.cursor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_cursor_of_a_next_link_is_taken() {
        let cases = [
            ("<http://h/p?cursor=7.a>; rel=\"next\"", Some("7.a")),
            ("<http://h/p?limit=2&cursor=7.a>;rel=\"next\"", Some("7.a")),
            ("<http://h/p?cursor=7.a>; rel=\"last\"", None),
            ("<http://h/p>; rel=\"next\"", None),
            ("http://h/p?cursor=7.a; rel=\"next\"", None),
            ("", None),
        ];
        for (link, cursor) in cases {
            assert_eq!(next_cursor(link).as_deref(), cursor, "{link}");
        }
    }
}
