//! Tombolo's own endpoints: tokens and the server itself; richer listings are
//! in `rows.rs`, the network in `egress.rs` and `records.rs`, ports that are reached over
//! HTTP in `exposures.rs`, files that change in `watch.rs`, its end in `retire.rs`.

pub(crate) mod egress;
pub(crate) mod exposures;
pub(crate) mod records;
pub(crate) mod retire;
mod rows;
pub(crate) mod ssh;
pub(crate) mod watch;

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use tombolo_api::error::{ErrorBody, ErrorCode};
use tombolo_api::native::{
    CreateToken, CreatedToken, HEALTH_PATH, Health, INFO_PATH, LimitsInfo, NodeInfo, ServerInfo,
    TOKENS_PATH, TokenRow,
};
use tombolo_ids::{OrganisationId, OrganisationSlug, TokenId};

use crate::app::App;
use crate::auth::{Admin, Principal};
use crate::body::JsonBody;
use crate::clock;
use crate::config::Limits;
use crate::database::NewToken;
use crate::error::ApiError;
use crate::openapi::{REFUSED, SERVER_TAG, TOKENS_TAG};
use crate::token::{TokenHash, new_token};

pub(crate) use rows::{__path_list_sandboxes, list_sandboxes};

/// The organisation of a token that names none.
const ORGANISATION_DEFAULT: &str = "default";
/// The longest name of a token, in bytes.
const TOKEN_NAME_LEN_MAX: usize = 128;

/// Whether the server runs
///
/// The only address that needs no token.
#[utoipa::path(
    get,
    path = HEALTH_PATH,
    tag = SERVER_TAG,
    security(()),
    responses((status = 200, description = "It runs", body = Health)),
)]
pub(crate) async fn health(State(app): State<Arc<App>>) -> Json<Health> {
    Json(Health {
        status: "ok".to_owned(),
        node: app.node.is_up(),
    })
}

/// Create a token
///
/// Admin only. An organisation that does not exist is made.
#[utoipa::path(
    post,
    path = TOKENS_PATH,
    tag = TOKENS_TAG,
    request_body = CreateToken,
    responses(
        (status = 201, description = "The token, this once", body = CreatedToken),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
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

/// List every token, without their text
///
/// Admin only.
#[utoipa::path(
    get,
    path = TOKENS_PATH,
    tag = TOKENS_TAG,
    responses(
        (status = 200, description = "Revoked ones too", body = Vec<TokenRow>),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
pub(crate) async fn list_tokens(
    State(app): State<Arc<App>>,
    _: Admin,
) -> Result<Json<Vec<TokenRow>>, ApiError> {
    Ok(Json(app.database.tokens().await?))
}

/// Revoke a token
///
/// Admin only. New requests are refused; connections that are open stay open.
#[utoipa::path(
    delete,
    path = format!("{TOKENS_PATH}/{{id}}"),
    tag = TOKENS_TAG,
    params(("id" = String, Path, description = "The token's id")),
    responses(
        (status = 204, description = "It is revoked"),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
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

/// What this server is and allows
#[utoipa::path(
    get,
    path = INFO_PATH,
    tag = SERVER_TAG,
    responses(
        (status = 200, description = "Version, region, node and limits", body = ServerInfo),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
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
