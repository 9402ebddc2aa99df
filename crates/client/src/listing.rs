//! Listings longer than a page: follows the links to the next one.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::Method;
use tombolo_api::native::{SANDBOXES_PATH, SandboxPhase, SandboxRow};
use tombolo_api::query::{ListQuery, PAGE_LEN_MAX, RowsQuery};

use super::rest::{RequestError, RestClient, decode};

/// Pages read of one listing: a million rows.
const PAGES_MAX: usize = 1000;

/// Every state but the last.
pub fn not_ended() -> BTreeSet<SandboxPhase> {
    SandboxPhase::ALL
        .into_iter()
        .filter(|phase| *phase != SandboxPhase::Stopped)
        .collect()
}

impl RestClient {
    /// Every sandbox that the query asks for, the newest first, on however
    /// many pages. `query.page.limit` bounds all rows together.
    pub async fn sandbox_rows(
        &self,
        mut query: RowsQuery,
    ) -> Result<Vec<SandboxRow>, RequestError> {
        let most = query.page.limit.map_or(usize::MAX, |limit| limit as usize);
        query.page.limit.get_or_insert(PAGE_LEN_MAX);
        let mut rows: Vec<SandboxRow> = Vec::new();
        for _ in 0..PAGES_MAX {
            let path = format!("{SANDBOXES_PATH}?{}", query.to_query());
            let answer = self.accepted(Method::GET, &path, Bytes::new()).await?;
            let page: Vec<SandboxRow> = decode(Method::GET, &path, &answer.body)?;
            rows.extend(page);
            query.page.cursor = answer.link.as_deref().and_then(next_cursor);
            if rows.len() >= most || query.page.cursor.is_none() {
                rows.truncate(most);
                return Ok(rows);
            }
        }
        Err(RequestError::Endless { limit: PAGES_MAX })
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
