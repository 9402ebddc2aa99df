//! Organisations.

use tombolo_ids::{OrganisationId, OrganisationSlug, UnixMillis};

use super::{Database, QueryError, failed, parsed};

impl Database {
    /// The organisation of that name, made when there is none.
    pub(crate) async fn ensure_organisation(
        &self,
        new_id: &OrganisationId,
        slug: &OrganisationSlug,
        now: UnixMillis,
    ) -> Result<OrganisationId, QueryError> {
        sqlx::query(
            "INSERT INTO organisations (id, slug, created_at) VALUES ($1, $2, $3) \
             ON CONFLICT (slug) DO NOTHING",
        )
        .bind(new_id.as_str())
        .bind(slug.as_str())
        .bind(now.0)
        .execute(&self.writer)
        .await
        .map_err(failed("add an organisation"))?;
        let row = sqlx::query("SELECT id FROM organisations WHERE slug = $1")
            .bind(slug.as_str())
            .fetch_one(&self.writer)
            .await
            .map_err(failed("find an organisation"))?;
        parsed(&row, "id")
    }
}
