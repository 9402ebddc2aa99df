//! Names under which ports of sandboxes are reached.

use std::num::NonZero;

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use tombolo_ids::{ExposureName, SandboxId, UnixMillis};

use super::{Database, QueryError, StoredState, failed, parsed};
use crate::exposures::Exposure;
use crate::guest::Target;
use crate::token::TokenHash;

impl Database {
    pub(crate) async fn add_exposure(&self, exposure: &Exposure) -> Result<(), QueryError> {
        let (port, pid) = columns(exposure.target);
        sqlx::query(
            "INSERT INTO exposures (name, sandbox_id, port, pid, access_hash, created_at) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(exposure.name.as_str())
        .bind(exposure.sandbox.as_str())
        .bind(port)
        .bind(pid)
        .bind(exposure.access.map(|hash| hash.to_string()))
        .bind(exposure.created_at.0)
        .execute(&self.writer)
        .await
        .map_err(failed("add an exposure"))?;
        Ok(())
    }

    pub(crate) async fn bind_exposure(
        &self,
        name: &ExposureName,
        target: Target,
    ) -> Result<(), QueryError> {
        let (port, pid) = columns(Some(target));
        sqlx::query("UPDATE exposures SET port = $1, pid = $2 WHERE name = $3")
            .bind(port)
            .bind(pid)
            .bind(name.as_str())
            .execute(&self.writer)
            .await
            .map_err(failed("bind an exposure"))?;
        Ok(())
    }

    pub(crate) async fn remove_exposure(&self, name: &ExposureName) -> Result<(), QueryError> {
        sqlx::query("DELETE FROM exposures WHERE name = $1")
            .bind(name.as_str())
            .execute(&self.writer)
            .await
            .map_err(failed("remove an exposure"))?;
        Ok(())
    }

    /// Those of sandboxes of which something may be left.
    pub(crate) async fn live_exposures(&self) -> Result<Vec<Exposure>, QueryError> {
        let rows = sqlx::query(
            "SELECT e.name AS name, e.sandbox_id AS sandbox_id, e.port AS port, e.pid AS pid, \
             e.access_hash AS access_hash, e.created_at AS created_at \
             FROM exposures e JOIN sandboxes s ON s.id = e.sandbox_id WHERE s.state <> $1",
        )
        .bind(StoredState::Stopped.as_str())
        .fetch_all(&self.readers)
        .await
        .map_err(failed("list exposures"))?;
        rows.iter().map(exposure).collect()
    }

    /// Whether a name was one of a sandbox that ended after that moment.
    pub(crate) async fn was_exposed(
        &self,
        name: &ExposureName,
        since: UnixMillis,
    ) -> Result<bool, QueryError> {
        let row = sqlx::query(
            "SELECT 1 FROM exposures e JOIN sandboxes s ON s.id = e.sandbox_id \
             WHERE e.name = $1 AND s.stopped_at >= $2",
        )
        .bind(name.as_str())
        .bind(since.0)
        .fetch_optional(&self.readers)
        .await
        .map_err(failed("look for an exposure"))?;
        Ok(row.is_some())
    }
}

fn columns(target: Option<Target>) -> (Option<i64>, Option<i64>) {
    match target {
        None => (None, None),
        Some(Target::Port(port)) => (Some(port.get().into()), None),
        Some(Target::Process(pid)) => (None, Some(pid.into())),
    }
}

fn exposure(row: &SqliteRow) -> Result<Exposure, QueryError> {
    let read = "read an exposure";
    let corrupt = |column| QueryError::Corrupt { column };
    let port: Option<i64> = row.try_get("port").map_err(failed(read))?;
    let pid: Option<i64> = row.try_get("pid").map_err(failed(read))?;
    let target = match (port, pid) {
        (Some(port), _) => {
            let port = u16::try_from(port).ok().and_then(NonZero::new);
            Some(Target::Port(port.ok_or(corrupt("port"))?))
        }
        (None, Some(pid)) => {
            let pid = i32::try_from(pid).ok();
            Some(Target::Process(pid.ok_or(corrupt("pid"))?))
        }
        (None, None) => None,
    };
    let access: Option<String> = row.try_get("access_hash").map_err(failed(read))?;
    let access: Option<TokenHash> = access
        .map(|hash| hash.parse().ok().ok_or(corrupt("access_hash")))
        .transpose()?;
    let name: ExposureName = parsed(row, "name")?;
    let sandbox: SandboxId = parsed(row, "sandbox_id")?;
    let created_at = row.try_get("created_at").map(UnixMillis);
    Ok(Exposure {
        name,
        sandbox,
        target,
        access,
        created_at: created_at.map_err(failed(read))?,
    })
}
