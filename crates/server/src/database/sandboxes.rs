//! Sandboxes: those that exist and those that did.

use std::collections::BTreeMap;
use std::str::FromStr;

use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row as _, Sqlite};
use tombolo_ids::{
    DiskBytes, Labels, MemoryMib, OrganisationId, OrganisationSlug, Region, SandboxId, UnixMillis,
};
use tombolo_lifecycle::{Lifetime, LifetimeKind, SandboxPlan, StopReason};

use super::{Database, QueryError, failed, networks, parsed, signed, unsigned};
use crate::network::NetworkRecord;

const COLUMNS: &str = "SELECT s.id AS id, s.organisation_id AS organisation_id, o.slug AS slug, \
     s.region AS region, s.labels AS labels, s.lifetime AS lifetime, s.memory_mib AS memory_mib, \
     s.disk_bytes AS disk_bytes, s.isolation AS isolation, s.state AS state, \
     s.stop_reason AS stop_reason, s.created_at AS created_at, s.deadline AS deadline, \
     s.latest AS latest, s.stopped_at AS stopped_at \
     FROM sandboxes s JOIN organisations o ON o.id = s.organisation_id";

/// As far as the database knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoredState {
    Creating,
    Running,
    Stopping,
    Stopped,
}

impl StoredState {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }
}

impl FromStr for StoredState {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Creating, Self::Running, Self::Stopping, Self::Stopped]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or(())
    }
}

/// A sandbox about to be created.
#[derive(Debug)]
pub(crate) struct NewRecord<'a> {
    pub(crate) id: &'a SandboxId,
    pub(crate) organisation: &'a OrganisationId,
    pub(crate) plan: &'a SandboxPlan,
    pub(crate) network: Option<&'a NetworkRecord>,
    pub(crate) created_at: UnixMillis,
}

/// One row.
#[derive(Clone, Debug)]
pub(crate) struct SandboxRecord {
    pub(crate) id: SandboxId,
    pub(crate) organisation: OrganisationId,
    pub(crate) slug: OrganisationSlug,
    pub(crate) region: Region,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) lifetime: Lifetime,
    pub(crate) memory: MemoryMib,
    pub(crate) disk: DiskBytes,
    pub(crate) isolation: Option<String>,
    pub(crate) state: StoredState,
    pub(crate) stop_reason: Option<StopReason>,
    pub(crate) created_at: UnixMillis,
    pub(crate) stopped_at: Option<UnixMillis>,
}

/// Which rows of a listing.
#[derive(Debug)]
pub(crate) struct PageQuery<'a> {
    /// Everybody's when absent.
    pub(crate) organisation: Option<&'a OrganisationId>,
    pub(crate) labels: &'a BTreeMap<String, String>,
    /// Only rows in one of these; empty means any.
    pub(crate) states: &'a [StoredState],
    /// Sandboxes that ended before this are left out.
    pub(crate) stopped_since: UnixMillis,
    /// Where the page before this one ended.
    pub(crate) after: Option<(UnixMillis, SandboxId)>,
    pub(crate) limit: u32,
}

/// A part of a listing, the newest first.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) records: Vec<SandboxRecord>,
    /// Where the next page starts, if there is one.
    pub(crate) next: Option<(UnixMillis, SandboxId)>,
}

fn kind_name(kind: LifetimeKind) -> &'static str {
    match kind {
        LifetimeKind::Session => "session",
        LifetimeKind::Duration => "duration",
    }
}

impl Database {
    pub(crate) async fn add_sandbox(&self, new: &NewRecord<'_>) -> Result<(), QueryError> {
        let add = "add a sandbox";
        let labels: BTreeMap<&str, &str> = new.plan.labels.iter().collect();
        let labels = serde_json::to_string(&labels)
            .ok()
            .ok_or(QueryError::Corrupt { column: "labels" })?;
        let mut transaction = self.writer.begin().await.map_err(failed(add))?;
        sqlx::query(
            "INSERT INTO sandboxes (id, organisation_id, region, labels, lifetime, memory_mib, \
             disk_bytes, state, created_at, deadline, latest) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        )
        .bind(new.id.as_str())
        .bind(new.organisation.as_str())
        .bind(new.plan.region.as_str())
        .bind(labels)
        .bind(kind_name(new.plan.lifetime.kind))
        .bind(i64::from(new.plan.memory.0))
        .bind(signed(new.plan.disk.0))
        .bind(StoredState::Creating.as_str())
        .bind(new.created_at.0)
        .bind(new.plan.lifetime.deadline.0)
        .bind(new.plan.lifetime.latest.0)
        .execute(&mut *transaction)
        .await
        .map_err(failed(add))?;
        for (key, value) in new.plan.labels.iter() {
            sqlx::query(
                "INSERT INTO sandbox_labels (sandbox_id, label_key, label_value) \
                 VALUES ($1, $2, $3)",
            )
            .bind(new.id.as_str())
            .bind(key)
            .bind(value)
            .execute(&mut *transaction)
            .await
            .map_err(failed(add))?;
        }
        if let Some(network) = new.network {
            networks::add(&mut transaction, new.id, network).await?;
        }
        transaction.commit().await.map_err(failed(add))
    }

    pub(crate) async fn sandbox_is_running(
        &self,
        id: &SandboxId,
        isolation: &str,
        memory: MemoryMib,
    ) -> Result<(), QueryError> {
        sqlx::query(
            "UPDATE sandboxes SET state = $1, isolation = $2, memory_mib = $3 WHERE id = $4",
        )
        .bind(StoredState::Running.as_str())
        .bind(isolation)
        .bind(i64::from(memory.0))
        .bind(id.as_str())
        .execute(&self.writer)
        .await
        .map_err(failed("record that a sandbox runs"))?;
        Ok(())
    }

    pub(crate) async fn sandbox_is_stopping(
        &self,
        id: &SandboxId,
        reason: StopReason,
    ) -> Result<(), QueryError> {
        sqlx::query("UPDATE sandboxes SET state = $1, stop_reason = $2 WHERE id = $3")
            .bind(StoredState::Stopping.as_str())
            .bind(reason.as_str())
            .bind(id.as_str())
            .execute(&self.writer)
            .await
            .map_err(failed("record that a sandbox is ending"))?;
        Ok(())
    }

    pub(crate) async fn sandbox_has_stopped(
        &self,
        id: &SandboxId,
        reason: StopReason,
        at: UnixMillis,
    ) -> Result<(), QueryError> {
        let record = "record that a sandbox has ended";
        let mut transaction = self.writer.begin().await.map_err(failed(record))?;
        sqlx::query(
            "UPDATE sandboxes SET state = $1, stop_reason = $2, stopped_at = $3 WHERE id = $4",
        )
        .bind(StoredState::Stopped.as_str())
        .bind(reason.as_str())
        .bind(at.0)
        .bind(id.as_str())
        .execute(&mut *transaction)
        .await
        .map_err(failed(record))?;
        networks::forget(&mut transaction, id).await?;
        transaction.commit().await.map_err(failed(record))
    }

    pub(crate) async fn set_sandbox_deadline(
        &self,
        id: &SandboxId,
        deadline: UnixMillis,
    ) -> Result<(), QueryError> {
        sqlx::query("UPDATE sandboxes SET deadline = $1 WHERE id = $2")
            .bind(deadline.0)
            .bind(id.as_str())
            .execute(&self.writer)
            .await
            .map_err(failed("record a deadline"))?;
        Ok(())
    }

    pub(crate) async fn sandbox(
        &self,
        id: &SandboxId,
    ) -> Result<Option<SandboxRecord>, QueryError> {
        let mut query = QueryBuilder::<Sqlite>::new(COLUMNS);
        query.push(" WHERE s.id = ").push_bind(id.as_str());
        let row = query
            .build()
            .fetch_optional(&self.readers)
            .await
            .map_err(failed("find a sandbox"))?;
        row.as_ref().map(record).transpose()
    }

    /// Every sandbox of which something may be left.
    pub(crate) async fn unfinished_sandboxes(&self) -> Result<Vec<SandboxRecord>, QueryError> {
        let mut query = QueryBuilder::<Sqlite>::new(COLUMNS);
        query
            .push(" WHERE s.state <> ")
            .push_bind(StoredState::Stopped.as_str());
        let rows = query
            .build()
            .fetch_all(&self.readers)
            .await
            .map_err(failed("list the sandboxes left"))?;
        rows.iter().map(record).collect()
    }

    pub(crate) async fn sandbox_page(&self, page: &PageQuery<'_>) -> Result<Page, QueryError> {
        let mut query = page_query(page);
        let rows = query
            .build()
            .fetch_all(&self.readers)
            .await
            .map_err(failed("list sandboxes"))?;
        let mut records = rows.iter().map(record).collect::<Result<Vec<_>, _>>()?;
        let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
        let more = records.len() > limit;
        records.truncate(limit);
        let last = records.last().filter(|_| more);
        let next = last.map(|record| (record.created_at, record.id.clone()));
        Ok(Page { records, next })
    }
}

/// One row more than asked for, which tells whether there is another page.
fn page_query(page: &PageQuery<'_>) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::new(COLUMNS);
    query
        .push(" WHERE (s.stopped_at IS NULL OR s.stopped_at >= ")
        .push_bind(page.stopped_since.0)
        .push(")");
    if let Some(organisation) = page.organisation {
        query
            .push(" AND s.organisation_id = ")
            .push_bind(organisation.as_str().to_owned());
    }
    if let Some((created_at, id)) = &page.after {
        query
            .push(" AND (s.created_at < ")
            .push_bind(created_at.0)
            .push(" OR (s.created_at = ")
            .push_bind(created_at.0)
            .push(" AND s.id < ")
            .push_bind(id.as_str().to_owned())
            .push("))");
    }
    if !page.states.is_empty() {
        query.push(" AND s.state IN (");
        let mut states = query.separated(", ");
        for state in page.states {
            states.push_bind(state.as_str());
        }
        query.push(")");
    }
    for (key, value) in page.labels {
        query
            .push(" AND EXISTS (SELECT 1 FROM sandbox_labels l WHERE l.sandbox_id = s.id AND l.label_key = ")
            .push_bind(key.clone())
            .push(" AND l.label_value = ")
            .push_bind(value.clone())
            .push(")");
    }
    query
        .push(" ORDER BY s.created_at DESC, s.id DESC LIMIT ")
        .push_bind(i64::from(page.limit).saturating_add(1));
    query
}

fn record(row: &SqliteRow) -> Result<SandboxRecord, QueryError> {
    let read = "read a sandbox";
    let moment = |column| row.try_get(column).map(UnixMillis).map_err(failed(read));
    let text = |column: &'static str| -> Result<Option<String>, QueryError> {
        row.try_get(column).map_err(failed(read))
    };
    let labels = text("labels")?
        .and_then(|labels| serde_json::from_str(&labels).ok())
        .ok_or(QueryError::Corrupt { column: "labels" })?;
    let labels: Labels = labels;
    let kind_text = text("lifetime")?.unwrap_or_default();
    let kind = [LifetimeKind::Session, LifetimeKind::Duration]
        .into_iter()
        .find(|kind| kind_name(*kind) == kind_text)
        .ok_or(QueryError::Corrupt { column: "lifetime" })?;
    let stop_reason = text("stop_reason")?.and_then(|name| {
        StopReason::ALL
            .into_iter()
            .find(|reason| reason.as_str() == name)
    });
    let stopped_at: Option<i64> = row.try_get("stopped_at").map_err(failed(read))?;
    Ok(SandboxRecord {
        id: parsed(row, "id")?,
        organisation: parsed(row, "organisation_id")?,
        slug: parsed(row, "slug")?,
        region: parsed(row, "region")?,
        labels: labels.into(),
        lifetime: Lifetime {
            kind,
            deadline: moment("deadline")?,
            latest: moment("latest")?,
        },
        memory: MemoryMib(unsigned(row, "memory_mib")?),
        disk: DiskBytes(unsigned(row, "disk_bytes")?),
        isolation: text("isolation")?,
        state: row
            .try_get::<String, _>("state")
            .map_err(failed(read))?
            .parse()
            .map_err(|()| QueryError::Corrupt { column: "state" })?,
        stop_reason,
        created_at: moment("created_at")?,
        stopped_at: stopped_at.map(UnixMillis),
    })
}
