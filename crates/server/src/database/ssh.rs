//! Ways in by SSH: user names that are credentials, and public keys.

use sqlx::Row as _;
use tombolo_api::ssh::SshKeyRow;
use tombolo_ids::{OrganisationId, SandboxId, UnixMillis};

use super::{Database, QueryError, StoredState, failed, parsed};
use crate::token::TokenHash;

impl Database {
    pub(crate) async fn add_ssh_login(
        &self,
        name: TokenHash,
        sandbox: &SandboxId,
        now: UnixMillis,
    ) -> Result<(), QueryError> {
        sqlx::query(
            "INSERT INTO ssh_logins (name_hash, sandbox_id, created_at) VALUES ($1, $2, $3)",
        )
        .bind(name.to_string())
        .bind(sandbox.as_str())
        .bind(now.0)
        .execute(&self.writer)
        .await
        .map_err(failed("add an SSH login"))?;
        Ok(())
    }

    pub(crate) async fn remove_ssh_logins(&self, sandbox: &SandboxId) -> Result<(), QueryError> {
        sqlx::query("DELETE FROM ssh_logins WHERE sandbox_id = $1")
            .bind(sandbox.as_str())
            .execute(&self.writer)
            .await
            .map_err(failed("remove SSH logins"))?;
        Ok(())
    }

    /// Those of sandboxes of which something may be left; the others are forgotten.
    pub(crate) async fn live_ssh_logins(&self) -> Result<Vec<(TokenHash, SandboxId)>, QueryError> {
        sqlx::query(
            "DELETE FROM ssh_logins WHERE sandbox_id IN \
             (SELECT id FROM sandboxes WHERE state = $1)",
        )
        .bind(StoredState::Stopped.as_str())
        .execute(&self.writer)
        .await
        .map_err(failed("forget SSH logins"))?;
        let rows = sqlx::query("SELECT name_hash, sandbox_id FROM ssh_logins")
            .fetch_all(&self.readers)
            .await
            .map_err(failed("list SSH logins"))?;
        rows.iter()
            .map(|row| Ok((parsed(row, "name_hash")?, parsed(row, "sandbox_id")?)))
            .collect()
    }

    /// A key that is there already is given the new name.
    pub(crate) async fn put_ssh_key(
        &self,
        organisation: &OrganisationId,
        key: &SshKeyRow,
    ) -> Result<(), QueryError> {
        sqlx::query(
            "INSERT INTO ssh_keys (organisation_id, fingerprint, line, name, created_at) \
             VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (organisation_id, fingerprint) DO UPDATE SET name = excluded.name",
        )
        .bind(organisation.as_str())
        .bind(&key.fingerprint)
        .bind(&key.key)
        .bind(&key.name)
        .bind(key.created_at_ms.0)
        .execute(&self.writer)
        .await
        .map_err(failed("add an SSH key"))?;
        Ok(())
    }

    /// Whether there was one.
    pub(crate) async fn remove_ssh_key(
        &self,
        organisation: &OrganisationId,
        fingerprint: &str,
    ) -> Result<bool, QueryError> {
        let done =
            sqlx::query("DELETE FROM ssh_keys WHERE organisation_id = $1 AND fingerprint = $2")
                .bind(organisation.as_str())
                .bind(fingerprint)
                .execute(&self.writer)
                .await
                .map_err(failed("remove an SSH key"))?;
        Ok(done.rows_affected() > 0)
    }

    pub(crate) async fn ssh_keys(
        &self,
        organisation: &OrganisationId,
    ) -> Result<Vec<SshKeyRow>, QueryError> {
        let read = "list SSH keys";
        let rows = sqlx::query(
            "SELECT fingerprint, line, name, created_at FROM ssh_keys \
             WHERE organisation_id = $1 ORDER BY created_at, fingerprint",
        )
        .bind(organisation.as_str())
        .fetch_all(&self.readers)
        .await
        .map_err(failed(read))?;
        rows.iter()
            .map(|row| {
                Ok(SshKeyRow {
                    fingerprint: row.try_get("fingerprint").map_err(failed(read))?,
                    key: row.try_get("line").map_err(failed(read))?,
                    name: row.try_get("name").map_err(failed(read))?,
                    created_at_ms: UnixMillis(row.try_get("created_at").map_err(failed(read))?),
                })
            })
            .collect()
    }

    /// Whether a key opens the sandboxes of an organisation.
    pub(crate) async fn has_ssh_key(
        &self,
        organisation: &OrganisationId,
        line: &str,
    ) -> Result<bool, QueryError> {
        let row = sqlx::query("SELECT 1 FROM ssh_keys WHERE organisation_id = $1 AND line = $2")
            .bind(organisation.as_str())
            .bind(line)
            .fetch_optional(&self.readers)
            .await
            .map_err(failed("find an SSH key"))?;
        Ok(row.is_some())
    }
}
