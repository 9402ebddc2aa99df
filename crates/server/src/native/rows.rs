//! The listing with everything known about sandboxes: what is stored, and what
//! the tasks that own them know better.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream::{self, StreamExt as _};
use tombolo_api::error::{ErrorBody, ErrorCode};
use tombolo_api::native::{LifetimeKind, SANDBOXES_PATH, SandboxPhase, SandboxRow, UsageInfo};
use tombolo_api::query::RowsQuery;
use tombolo_lifecycle::Phase;

use crate::app::App;
use crate::auth::Principal;
use crate::database::{Page, SandboxRecord, StoredState, UsageSample};
use crate::error::ApiError;
use crate::openapi::{REFUSED, RowsParameters, SANDBOXES_TAG};
use crate::sandbox::SandboxHandle;
use crate::sandboxes::{PAGE_LEN_DEFAULT, cursor_of, link_header, page_query};

/// Sandboxes measured at a time when fresh figures are asked for.
const MEASURED_AT_ONCE: usize = 8;

/// List sandboxes with everything known about them
///
/// Newest first: the organisation's own, or everybody's for the admin token. A
/// page may have fewer rows than its limit; the `Link` header tells whether
/// another follows.
#[utoipa::path(
    get,
    path = SANDBOXES_PATH,
    tag = SANDBOXES_TAG,
    operation_id = "list_sandbox_rows",
    params(RowsParameters),
    responses(
        (
            status = 200,
            description = "One page",
            body = Vec<SandboxRow>,
            headers(("link" = String, description = "The next page, as `<ADDRESS>; rel=\"next\"`")),
        ),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
pub(crate) async fn list_sandboxes(
    State(app): State<Arc<App>>,
    principal: Principal,
    uri: Uri,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let query = RowsQuery::parse(&raw.unwrap_or_default())
        .map_err(|error| ApiError::saying(ErrorCode::InvalidRequest, &error))?;
    let states = stored_states(&query);
    let page_query = page_query(&app, &principal, &query.page, &states, PAGE_LEN_DEFAULT)?;
    let Page { records, next } = app.database.sandbox_page(&page_query).await?;
    let known = records
        .into_iter()
        .map(|record| KnownRow::new(&app, record))
        .filter(|known| query.admits(known.row.state));
    let rows: Vec<SandboxRow> = stream::iter(known)
        .map(|known| known.with_usage(&app, query.fresh))
        .buffered(MEASURED_AT_ONCE)
        .collect()
        .await;
    let mut response = Json(rows).into_response();
    if let Some(last) = next {
        let mut query = query;
        query.page.cursor = Some(cursor_of(&last));
        link_header(&app, &mut response, &uri, &headers, &query.to_query());
    }
    Ok(response)
}

/// Which stored rows can be in the phases that are asked for. The database
/// lags behind the tasks, so what it says runs may be ending already.
fn stored_states(query: &RowsQuery) -> Vec<StoredState> {
    use StoredState::{Creating, Running, Stopped, Stopping};
    let mut states = Vec::new();
    if query
        .states
        .iter()
        .any(|state| *state != SandboxPhase::Stopped)
    {
        states.extend([Creating, Running, Stopping]);
    }
    if query.states.contains(&SandboxPhase::Stopped) {
        states.push(Stopped);
    }
    states
}

/// A row, and the task that knows the rest of it.
struct KnownRow {
    row: SandboxRow,
    handle: Option<SandboxHandle>,
}

impl KnownRow {
    fn new(app: &App, record: SandboxRecord) -> Self {
        let mut row = stored_row(record);
        let handle = app.registry.get(&row.id);
        if let Some(handle) = &handle {
            let status = handle.status();
            row.deadline_ms = status.deadline;
            let (state, reason) = phase(status.phase);
            // A row that has ended says when, so it ends once that is stored.
            row.state = match state {
                SandboxPhase::Stopped if row.stopped_at_ms.is_none() => SandboxPhase::Stopping,
                state => state,
            };
            row.reason = reason.or(row.reason);
        }
        Self { row, handle }
    }

    async fn with_usage(self, app: &App, fresh: bool) -> SandboxRow {
        let Self { mut row, handle } = self;
        let Some(handle) = handle else {
            match app.database.usage_totals(&row.id).await {
                Ok(totals) => row.usage = totals.map(|totals| usage_info(totals.latest)),
                Err(error) => tracing::warn!(sandbox = %row.id, %error, "usage not read"),
            }
            return row;
        };
        let mut meter = handle.meter().lock().await;
        if fresh
            && matches!(row.state, SandboxPhase::Running | SandboxPhase::Grace)
            && let Err(error) = meter.measure(app).await
        {
            tracing::warn!(sandbox = %row.id, %error, "not measured");
        }
        row.usage = meter.latest().map(usage_info);
        row
    }
}

fn stored_row(record: SandboxRecord) -> SandboxRow {
    SandboxRow {
        id: record.id,
        organisation: record.slug,
        region: record.region.to_string(),
        state: match record.state {
            StoredState::Creating => SandboxPhase::Creating,
            StoredState::Running => SandboxPhase::Running,
            StoredState::Stopping => SandboxPhase::Stopping,
            StoredState::Stopped => SandboxPhase::Stopped,
        },
        reason: record.stop_reason.map(|reason| reason.as_str().to_owned()),
        lifetime: match record.lifetime.kind {
            tombolo_lifecycle::LifetimeKind::Session => LifetimeKind::Session,
            tombolo_lifecycle::LifetimeKind::Duration => LifetimeKind::Duration,
        },
        isolation: record.isolation,
        memory_mib: record.memory,
        disk_bytes: record.disk,
        created_at_ms: record.created_at,
        deadline_ms: record.lifetime.deadline,
        stopped_at_ms: record.stopped_at,
        labels: record.labels,
        usage: None,
    }
}

fn phase(phase: Phase) -> (SandboxPhase, Option<String>) {
    match phase {
        Phase::Creating => (SandboxPhase::Creating, None),
        Phase::Running => (SandboxPhase::Running, None),
        Phase::Grace { .. } => (SandboxPhase::Grace, None),
        Phase::Stopping { reason } => (SandboxPhase::Stopping, Some(reason.as_str().to_owned())),
        Phase::Stopped { reason } => (SandboxPhase::Stopped, Some(reason.as_str().to_owned())),
    }
}

fn usage_info(sample: UsageSample) -> UsageInfo {
    UsageInfo {
        at_ms: sample.taken_at,
        cpu_nanos: sample.cpu_nanos,
        memory_mib_seconds: sample.memory_mib_millis / 1000,
        memory_private_bytes: sample.memory_private_bytes,
        disk_allocated_bytes: sample.disk_allocated_bytes,
        ingress_requests: sample.ingress.requests,
        ingress_request_bytes: sample.ingress.request_bytes,
        ingress_response_bytes: sample.ingress.response_bytes,
    }
}
