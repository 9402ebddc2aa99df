//! What sandboxes may reach. No value of a secret comes here.

use sqlx::{Row as _, Sqlite, Transaction};
use tombolo_ids::SandboxId;

use super::{Database, QueryError, failed};
use crate::network::{NetworkRecord, written};

impl Database {
    /// What is remembered of a sandbox's network, if it has one and lives.
    pub(crate) async fn network(
        &self,
        id: &SandboxId,
    ) -> Result<Option<NetworkRecord>, QueryError> {
        let find = "find a network";
        let row = sqlx::query("SELECT policy, secrets FROM sandbox_networks WHERE sandbox_id = $1")
            .bind(id.as_str())
            .fetch_optional(&self.readers)
            .await
            .map_err(failed(find))?;
        let Some(row) = row else { return Ok(None) };
        let policy: String = row.try_get("policy").map_err(failed(find))?;
        let secrets: String = row.try_get("secrets").map_err(failed(find))?;
        Ok(Some(NetworkRecord {
            document: read(&policy, "policy")?,
            secrets: read(&secrets, "list of secrets")?,
        }))
    }

    /// Remembers what has become of a network.
    pub(crate) async fn change_network(
        &self,
        id: &SandboxId,
        record: &NetworkRecord,
    ) -> Result<(), QueryError> {
        sqlx::query("UPDATE sandbox_networks SET policy = $1, secrets = $2 WHERE sandbox_id = $3")
            .bind(written(&record.document))
            .bind(secrets(record)?)
            .bind(id.as_str())
            .execute(&self.writer)
            .await
            .map_err(failed("change a network"))?;
        Ok(())
    }
}

pub(super) async fn add(
    transaction: &mut Transaction<'_, Sqlite>,
    id: &SandboxId,
    record: &NetworkRecord,
) -> Result<(), QueryError> {
    sqlx::query("INSERT INTO sandbox_networks (sandbox_id, policy, secrets) VALUES ($1, $2, $3)")
        .bind(id.as_str())
        .bind(written(&record.document))
        .bind(secrets(record)?)
        .execute(&mut **transaction)
        .await
        .map_err(failed("add a network"))?;
    Ok(())
}

pub(super) async fn forget(
    transaction: &mut Transaction<'_, Sqlite>,
    id: &SandboxId,
) -> Result<(), QueryError> {
    sqlx::query("DELETE FROM sandbox_networks WHERE sandbox_id = $1")
        .bind(id.as_str())
        .execute(&mut **transaction)
        .await
        .map_err(failed("forget a network"))?;
    Ok(())
}

fn secrets(record: &NetworkRecord) -> Result<String, QueryError> {
    serde_json::to_string(&record.secrets)
        .ok()
        .ok_or(QueryError::Corrupt {
            column: "list of secrets",
        })
}

fn read<T: serde::de::DeserializeOwned>(text: &str, column: &'static str) -> Result<T, QueryError> {
    serde_json::from_str(text)
        .ok()
        .ok_or(QueryError::Corrupt { column })
}
