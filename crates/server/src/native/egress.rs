//! The network of a sandbox that lives, for its owner and the admin: its
//! policy, its secrets, and what was sent.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use serde_json::Value;
use serde_json::value::RawValue;
use tombolo_api::error::ErrorBody;
use tombolo_api::native::{
    AllowNet, EGRESS_METRICS_PATH, ExplainRequest, GivenSecret, HostSums, PolicyChange, PutSecret,
    SANDBOXES_PATH, SecretChange, SecretRow,
};
use tombolo_policy::{PolicyDocument, SecretDocument};

use crate::app::App;
use crate::auth::{Admin, Principal};
use crate::body::{JsonBody, UnquotedBody};
use crate::egress::{EgressError, EgressLink};
use crate::error::ApiError;
use crate::network::{
    self, ChangeError, Changed, NetworkRecord, SecretRecord, put_secret as put,
    replace_allow_net as replace_list, replace_policy as replace, revoke_secret as revoke,
};
use crate::openapi::{EGRESS_TAG, REFUSED};
use crate::sandboxes::find_seen;

/// What Prometheus calls its text format.
pub(super) const PROMETHEUS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The egress process, or what a server without one answers.
pub(super) fn link(app: &App) -> Result<&EgressLink, ApiError> {
    app.egress.as_ref().ok_or_else(|| {
        ApiError::not_built("the network: this server was started without an egress process")
    })
}

/// What a sandbox may reach
///
/// The document without values, in the form that `PUT` takes.
#[utoipa::path(
    get,
    path = format!("{SANDBOXES_PATH}/{{id}}/egress/policy"),
    tag = EGRESS_TAG,
    params(("id" = String, Path, description = "The sandbox's id")),
    responses(
        (status = 200, description = "The policy document", body = PolicyDocument),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
pub(crate) async fn get_policy(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<Json<PolicyDocument>, ApiError> {
    let handle = find_seen(&app, &principal, &id).await?;
    let (_, record) = network::current(&app, &handle).await?;
    Ok(Json(record.shown()))
}

/// Replace what a sandbox may reach
///
/// Flows that are no longer allowed end within a second. A document with a
/// `generation` other than 0 replaces that generation only. Secrets that it leaves
/// out stay as they are.
#[utoipa::path(
    put,
    path = format!("{SANDBOXES_PATH}/{{id}}/egress/policy"),
    tag = EGRESS_TAG,
    params(("id" = String, Path, description = "The sandbox's id")),
    request_body = PolicyDocument,
    responses(
        (status = 200, description = "It is in force", body = PolicyChange),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
pub(crate) async fn replace_policy(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path(id): Path<String>,
    JsonBody(given): JsonBody<Value>,
) -> Result<Json<PolicyChange>, ApiError> {
    let handle = find_seen(&app, &principal, &id).await?;
    Ok(Json(policy_change(&replace(&app, handle, given).await?)))
}

/// Replace the list of hosts alone
#[utoipa::path(
    put,
    path = format!("{SANDBOXES_PATH}/{{id}}/egress/allow_net"),
    tag = EGRESS_TAG,
    params(("id" = String, Path, description = "The sandbox's id")),
    request_body = AllowNet,
    responses(
        (status = 200, description = "It is in force", body = PolicyChange),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
pub(crate) async fn replace_allow_net(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path(id): Path<String>,
    JsonBody(AllowNet { allow_net }): JsonBody<AllowNet>,
) -> Result<Json<PolicyChange>, ApiError> {
    let handle = find_seen(&app, &principal, &id).await?;
    let changed = replace_list(&app, handle, allow_net).await?;
    Ok(Json(policy_change(&changed)))
}

/// List a sandbox's secrets, without their values
#[utoipa::path(
    get,
    path = format!("{SANDBOXES_PATH}/{{id}}/egress/secrets"),
    tag = EGRESS_TAG,
    params(("id" = String, Path, description = "The sandbox's id")),
    responses(
        (status = 200, description = "By name, revoked ones too", body = Vec<SecretRow>),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
pub(crate) async fn list_secrets(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<Json<Vec<SecretRow>>, ApiError> {
    let handle = find_seen(&app, &principal, &id).await?;
    let (_, record) = network::current(&app, &handle).await?;
    let mut rows: Vec<SecretRow> = record
        .secrets
        .iter()
        .filter_map(|secret| secret_row(&record, secret))
        .collect();
    rows.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(Json(rows))
}

/// Set a secret
///
/// A new one appears as a variable in the environment of processes that start
/// afterwards. One that is there gets a new value, new hosts, or both; its
/// placeholder stays.
#[utoipa::path(
    put,
    path = format!("{SANDBOXES_PATH}/{{id}}/egress/secrets/{{name}}"),
    tag = EGRESS_TAG,
    params(
        ("id" = String, Path, description = "The sandbox's id"),
        ("name" = String, Path, description = "The environment variable that stands for it"),
    ),
    request_body = PutSecret,
    responses(
        (status = 200, description = "It is in force", body = SecretChange),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
pub(crate) async fn put_secret(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path((id, name)): Path<(String, String)>,
    UnquotedBody(given): UnquotedBody<GivenSecret>,
) -> Result<Json<SecretChange>, ApiError> {
    let handle = find_seen(&app, &principal, &id).await?;
    let Changed { record, warnings } = put(&app, handle, name.clone(), given).await?;
    let secret = record
        .active(&name)
        .and_then(|secret| secret_row(&record, secret))
        .ok_or(ChangeError::SecretNotFound)?;
    Ok(Json(SecretChange { secret, warnings }))
}

/// Revoke a secret
///
/// Requests with its placeholder are refused from then on. May be repeated.
#[utoipa::path(
    delete,
    path = format!("{SANDBOXES_PATH}/{{id}}/egress/secrets/{{name}}"),
    tag = EGRESS_TAG,
    params(
        ("id" = String, Path, description = "The sandbox's id"),
        ("name" = String, Path, description = "The environment variable that stands for it"),
    ),
    responses(
        (status = 204, description = "It is used no more"),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
pub(crate) async fn revoke_secret(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path((id, name)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let handle = find_seen(&app, &principal, &id).await?;
    revoke(&app, handle, name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What the policy says to a request, without sending it
#[utoipa::path(
    post,
    path = format!("{SANDBOXES_PATH}/{{id}}/egress/explain"),
    tag = EGRESS_TAG,
    params(("id" = String, Path, description = "The sandbox's id")),
    request_body = ExplainRequest,
    responses(
        (status = 200, description = "What is decided about the name, the connection, TLS, secrets and the request", body = Object),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
pub(crate) async fn explain(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path(id): Path<String>,
    JsonBody(asked): JsonBody<ExplainRequest>,
) -> Result<Response, ApiError> {
    let handle = find_seen(&app, &principal, &id).await?;
    let (egress, _) = network::current(&app, &handle).await?;
    let explained = egress.explain(handle.id(), &asked).await;
    let explained = explained.map_err(EgressError::from)?;
    // Passed on as it is, once it is known to be JSON.
    let explained: Box<RawValue> = serde_json::from_str(&explained).map_err(ApiError::internal)?;
    Ok(Json(explained).into_response())
}

/// Sums of what a sandbox sent out, by host
///
/// Since the egress process was started last.
#[utoipa::path(
    get,
    path = format!("{SANDBOXES_PATH}/{{id}}/egress/stats"),
    tag = EGRESS_TAG,
    params(("id" = String, Path, description = "The sandbox's id")),
    responses(
        (status = 200, description = "By name of host", body = Vec<HostSums>),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
pub(crate) async fn stats(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<Json<Vec<HostSums>>, ApiError> {
    let handle = find_seen(&app, &principal, &id).await?;
    let (egress, _) = network::current(&app, &handle).await?;
    let sums = egress.sums(handle.id()).await.map_err(EgressError::from)?;
    let sums = sums.into_iter().map(|sums| HostSums {
        host: sums.host,
        attempts: sums.attempts,
        denied: sums.denied,
        failed: sums.failed,
        request_bytes: sums.request_bytes,
        response_bytes: sums.response_bytes,
        secret_uses: sums.secret_uses,
        scrubbed: sums.scrubbed,
    });
    Ok(Json(sums.collect()))
}

/// Sums of all sandboxes for Prometheus
///
/// Admin only.
#[utoipa::path(
    get,
    path = EGRESS_METRICS_PATH,
    tag = EGRESS_TAG,
    operation_id = "egress_metrics",
    responses(
        (status = 200, description = "The text format 0.0.4", body = String, content_type = "text/plain"),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
pub(crate) async fn metrics(State(app): State<Arc<App>>, _: Admin) -> Result<Response, ApiError> {
    let metrics = link(&app)?.metrics().await.map_err(EgressError::from)?;
    Ok(([(CONTENT_TYPE, PROMETHEUS_TYPE)], metrics).into_response())
}

fn policy_change(changed: &Changed) -> PolicyChange {
    PolicyChange {
        generation: changed.record.document.generation,
        warnings: changed.warnings.clone(),
    }
}

/// None for a secret of which the document says nothing, which does not occur.
fn secret_row(record: &NetworkRecord, secret: &SecretRecord) -> Option<SecretRow> {
    let SecretDocument {
        hosts,
        slots,
        require,
        on_ineligible,
        ..
    } = record.document.secrets.get(secret.name.as_str())?.clone();
    let slots = slots.map_or_else(|| vec!["header".to_owned()], |slots| words(&slots));
    Some(SecretRow {
        name: secret.name.to_string(),
        placeholder: secret.placeholder.to_string(),
        hosts,
        slots,
        require,
        on_ineligible: words(&[on_ineligible]).concat(),
        set_at_ms: secret.set_at,
        revoked_at_ms: secret.revoked_at,
    })
}

/// Words of the document, as it is written.
fn words<T: serde::Serialize>(words: &[T]) -> Vec<String> {
    let written = words.iter().filter_map(|word| {
        let value = serde_json::to_value(word).ok()?;
        value.as_str().map(str::to_owned)
    });
    written.collect()
}
