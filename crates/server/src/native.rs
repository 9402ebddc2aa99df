//! Tombolo's own endpoints: tokens, the server itself, richer listings.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use futures_util::stream::{self, StreamExt as _};
use serde::Serialize;
use tombolo_api::error::ErrorCode;
use tombolo_api::native::{
    CreateToken, CreatedToken, LifetimeKind, LimitsInfo, NodeInfo, SandboxPhase, SandboxRow,
    ServerInfo, TokenRow, UsageInfo,
};
use tombolo_api::query::PAGE_LEN_MAX;
use tombolo_ids::{OrganisationId, OrganisationSlug, TokenId};
use tombolo_lifecycle::Phase;
use url::form_urlencoded;

use crate::app::App;
use crate::auth::{Admin, Principal};
use crate::body::JsonBody;
use crate::clock;
use crate::config::Limits;
use crate::database::{NewToken, PageQuery, SandboxRecord, StoredState, UsageSample};
use crate::error::ApiError;
use crate::sandboxes::{parse_cursor, parse_query, stopped_since};
use crate::token::{TokenHash, new_token};

/// The organisation of a token that names none.
const ORGANISATION_DEFAULT: &str = "default";
/// The longest name of a token, in bytes.
const TOKEN_NAME_LEN_MAX: usize = 128;
/// Sandboxes measured at a time when fresh figures are asked for.
const MEASURED_AT_ONCE: usize = 8;

#[derive(Debug, Serialize)]
pub(crate) struct Health {
    status: &'static str,
    /// Whether the node can be reached.
    node: bool,
}

pub(crate) async fn health(State(app): State<Arc<App>>) -> Json<Health> {
    Json(Health {
        status: "ok",
        node: app.node.is_up(),
    })
}

pub(crate) async fn create_token(
    State(app): State<Arc<App>>,
    _: Admin,
    JsonBody(asked): JsonBody<CreateToken>,
) -> Result<(StatusCode, Json<CreatedToken>), ApiError> {
    if asked.name.len() > TOKEN_NAME_LEN_MAX {
        return Err(ApiError::new(
            ErrorCode::InvalidRequest,
            format!("a token's name has at most {TOKEN_NAME_LEN_MAX} bytes"),
        ));
    }
    let slug = match asked.organisation {
        Some(slug) => slug,
        None => ORGANISATION_DEFAULT
            .parse::<OrganisationSlug>()
            .map_err(ApiError::internal)?,
    };
    let now = clock::now();
    let organisation = app
        .database
        .ensure_organisation(&OrganisationId::random()?, &slug, now)
        .await?;
    let id = TokenId::random()?;
    let token = new_token(asked.kind)?;
    app.database
        .add_token(&NewToken {
            id: &id,
            organisation: &organisation,
            kind: asked.kind,
            name: &asked.name,
            hash: TokenHash::of(&token),
            created_at: now,
        })
        .await?;
    tracing::info!(token = %id, organisation = %slug, "token created");
    let row = TokenRow {
        id,
        name: asked.name,
        organisation: slug,
        kind: asked.kind,
        created_at_ms: now,
        revoked_at_ms: None,
    };
    Ok((StatusCode::CREATED, Json(CreatedToken { token, row })))
}

pub(crate) async fn list_tokens(
    State(app): State<Arc<App>>,
    _: Admin,
) -> Result<Json<Vec<TokenRow>>, ApiError> {
    Ok(Json(app.database.tokens().await?))
}

pub(crate) async fn revoke_token(
    State(app): State<Arc<App>>,
    _: Admin,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let unknown = || ApiError::new(ErrorCode::TokenNotFound, "there is no such token");
    let id: TokenId = id.parse().ok().ok_or_else(unknown)?;
    if app.database.revoke_token(&id, clock::now()).await? {
        tracing::info!(token = %id, "token revoked");
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(unknown())
    }
}

pub(crate) async fn info(State(app): State<Arc<App>>, _: Principal) -> Json<ServerInfo> {
    let node = app.node.describe().await;
    let node = node
        .inspect_err(|error| tracing::warn!(%error, "the node does not describe itself"))
        .ok()
        .map(|node| NodeInfo {
            version: node.version,
            isolation: node.isolation,
            isolation_reason: node.isolation_reason,
            sandbox_count: node.sandbox_count,
            pool_ready: node.pool_ready,
            pool_target: node.pool_target,
        });
    Json(ServerInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        region: app.config.region.to_string(),
        node,
        limits: limits_info(&app.config.limits),
    })
}

fn limits_info(limits: &Limits) -> LimitsInfo {
    LimitsInfo {
        sandboxes_max: limits.sandboxes_max,
        memory_total_mib_max: limits.memory_total_mib_max,
        disk_total_bytes_max: limits.disk_total_bytes_max,
        lifetime_secs_max: limits.lifetime_max.as_secs(),
        extension_secs_max: limits.extension_max.as_secs(),
        memory_mib_min: limits.memory_min,
        memory_mib_max: limits.memory_max,
        memory_mib_default: limits.memory_default,
        grace_secs: limits.grace.as_secs(),
    }
}

/// Everything known about sandboxes: of the member's organisation, or of all
/// when the admin asks. `usage=fresh` measures those that run first.
pub(crate) async fn list_sandboxes(
    State(app): State<Arc<App>>,
    principal: Principal,
    RawQuery(raw): RawQuery,
) -> Result<Json<Vec<SandboxRow>>, ApiError> {
    let fresh = raw.as_deref().is_some_and(|raw| {
        form_urlencoded::parse(raw.as_bytes())
            .any(|(key, value)| key == "usage" && value == "fresh")
    });
    let query = parse_query(raw)?;
    let organisation = match &principal {
        Principal::Admin => None,
        Principal::Member(member) => Some(&member.organisation),
    };
    let page_query = PageQuery {
        organisation,
        labels: &query.labels,
        stopped_since: stopped_since(&app),
        after: query.cursor.as_deref().map(parse_cursor).transpose()?,
        limit: query.limit.unwrap_or(PAGE_LEN_MAX),
    };
    let page = app.database.sandbox_page(&page_query).await?;
    let rows: Vec<SandboxRow> = stream::iter(page.records)
        .map(|record| row(&app, record, fresh))
        .buffered(MEASURED_AT_ONCE)
        .collect()
        .await;
    Ok(Json(rows))
}

async fn row(app: &App, record: SandboxRecord, fresh: bool) -> SandboxRow {
    let mut row = stored_row(record);
    if let Some(handle) = app.registry.get(&row.id) {
        let status = handle.status();
        row.deadline_ms = status.deadline;
        let (state, reason) = phase(status.phase);
        row.state = state;
        row.reason = reason.or(row.reason);
        let mut meter = handle.meter().lock().await;
        if fresh
            && matches!(row.state, SandboxPhase::Running | SandboxPhase::Grace)
            && let Err(error) = meter.measure(app).await
        {
            tracing::warn!(sandbox = %row.id, %error, "not measured");
        }
        row.usage = meter.latest().map(usage_info);
        return row;
    }
    match app.database.usage_totals(&row.id).await {
        Ok(totals) => row.usage = totals.map(|totals| usage_info(totals.latest)),
        Err(error) => tracing::warn!(sandbox = %row.id, %error, "usage not read"),
    }
    row
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
    }
}
