//! Access tokens, known by their hashes only.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use tombolo_api::native::{TokenKind, TokenRow};
use tombolo_ids::{OrganisationId, OrganisationSlug, TokenId, UnixMillis};

use super::{Database, QueryError, failed, parsed};
use crate::token::TokenHash;

/// The most tokens one listing shows.
const TOKENS_LISTED_MAX: i64 = 10_000;

/// A token to be remembered.
#[derive(Debug)]
pub(crate) struct NewToken<'a> {
    pub(crate) id: &'a TokenId,
    pub(crate) organisation: &'a OrganisationId,
    pub(crate) kind: TokenKind,
    pub(crate) name: &'a str,
    pub(crate) hash: TokenHash,
    pub(crate) created_at: UnixMillis,
}

/// Whom a token that was presented acts for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenOwner {
    pub(crate) token: TokenId,
    pub(crate) organisation: OrganisationId,
    pub(crate) slug: OrganisationSlug,
}

fn kind_name(kind: TokenKind) -> &'static str {
    match kind {
        TokenKind::Organisation => "organisation",
        TokenKind::Personal => "personal",
    }
}

impl Database {
    pub(crate) async fn add_token(&self, token: &NewToken<'_>) -> Result<(), QueryError> {
        sqlx::query(
            "INSERT INTO tokens (id, organisation_id, kind, name, hash, created_at) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(token.id.as_str())
        .bind(token.organisation.as_str())
        .bind(kind_name(token.kind))
        .bind(token.name)
        .bind(token.hash.to_string())
        .bind(token.created_at.0)
        .execute(&self.writer)
        .await
        .map_err(failed("add a token"))?;
        Ok(())
    }

    /// Whom a token acts for, unless it is unknown or revoked.
    pub(crate) async fn token_owner(
        &self,
        hash: &TokenHash,
    ) -> Result<Option<TokenOwner>, QueryError> {
        let row = sqlx::query(
            "SELECT t.id AS id, t.hash AS hash, o.id AS organisation_id, o.slug AS slug \
             FROM tokens t JOIN organisations o ON o.id = t.organisation_id \
             WHERE t.hash = $1 AND t.revoked_at IS NULL",
        )
        .bind(hash.to_string())
        .fetch_optional(&self.readers)
        .await
        .map_err(failed("find a token"))?;
        let Some(row) = row else { return Ok(None) };
        // The index compared texts; the answer rests on this comparison, which
        // takes the same time wherever two hashes differ.
        let stored: TokenHash = parsed(&row, "hash")?;
        if !stored.matches(hash) {
            return Ok(None);
        }
        Ok(Some(TokenOwner {
            token: parsed(&row, "id")?,
            organisation: parsed(&row, "organisation_id")?,
            slug: parsed(&row, "slug")?,
        }))
    }

    /// All tokens, the newest first.
    pub(crate) async fn tokens(&self) -> Result<Vec<TokenRow>, QueryError> {
        let rows = sqlx::query(
            "SELECT t.id AS id, t.name AS name, t.kind AS kind, t.created_at AS created_at, \
             t.revoked_at AS revoked_at, o.slug AS slug \
             FROM tokens t JOIN organisations o ON o.id = t.organisation_id \
             ORDER BY t.created_at DESC, t.id DESC LIMIT $1",
        )
        .bind(TOKENS_LISTED_MAX)
        .fetch_all(&self.readers)
        .await
        .map_err(failed("list tokens"))?;
        rows.iter().map(token_row).collect()
    }

    /// Revokes a token. Answers whether there is such a token; revoking it
    /// again changes nothing.
    pub(crate) async fn revoke_token(
        &self,
        id: &TokenId,
        now: UnixMillis,
    ) -> Result<bool, QueryError> {
        let done =
            sqlx::query("UPDATE tokens SET revoked_at = COALESCE(revoked_at, $1) WHERE id = $2")
                .bind(now.0)
                .bind(id.as_str())
                .execute(&self.writer)
                .await
                .map_err(failed("revoke a token"))?;
        Ok(done.rows_affected() > 0)
    }
}

fn token_row(row: &SqliteRow) -> Result<TokenRow, QueryError> {
    let read = "read a token";
    let kind: String = row.try_get("kind").map_err(failed(read))?;
    let kind = [TokenKind::Organisation, TokenKind::Personal]
        .into_iter()
        .find(|known| kind_name(*known) == kind)
        .ok_or(QueryError::Corrupt { column: "kind" })?;
    let revoked_at: Option<i64> = row.try_get("revoked_at").map_err(failed(read))?;
    Ok(TokenRow {
        id: parsed(row, "id")?,
        name: row.try_get("name").map_err(failed(read))?,
        organisation: parsed(row, "slug")?,
        kind,
        created_at_ms: UnixMillis(row.try_get("created_at").map_err(failed(read))?),
        revoked_at_ms: revoked_at.map(UnixMillis),
    })
}
