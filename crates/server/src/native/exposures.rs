//! Ports of sandboxes that are reached over HTTP: the address that the official clients
//! ask, and Tombolo's own.

use std::fmt::Write as _;
use std::num::NonZero;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use tombolo_api::error::{ErrorBody, ErrorCode};
use tombolo_api::exposures::{
    CreateExposure, CreatedExposure, ExposeHttp, ExposeVscode, ExposedHttp, ExposureRow,
};
use tombolo_api::native::{INGRESS_METRICS_PATH, SANDBOXES_PATH};

use super::egress::PROMETHEUS_TYPE;
use crate::app::App;
use crate::auth::{Admin, Member, Principal};
use crate::body::JsonBody;
use crate::clock;
use crate::error::ApiError;
use crate::exposures::{Access, ExposeError, Exposure};
use crate::guest::Target;
use crate::openapi::{INGRESS_TAG, REFUSED, SANDBOXES_TAG};
use crate::sandbox::SandboxHandle;
use crate::sandboxes::{find_running, find_seen};

/// Give out a name for a port
///
/// As the official SDKs ask for it; the RPC method `exposeHttp` binds a name that was
/// given out without a port. Each call gives out another name.
#[utoipa::path(
    post,
    path = "/api/v3/sandbox/{id}/expose/http",
    tag = SANDBOXES_TAG,
    operation_id = "expose_http",
    params(("id" = String, Path, description = "The sandbox's id")),
    request_body = ExposeHttp,
    responses(
        (status = 200, description = "The name", body = ExposedHttp),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
pub(crate) async fn expose_http(
    State(app): State<Arc<App>>,
    member: Member,
    Path(id): Path<String>,
    JsonBody(asked): JsonBody<ExposeHttp>,
) -> Result<Json<ExposedHttp>, ApiError> {
    let handle = find_running(&app, &member, &id).await?;
    let target = match (asked.port, asked.pid) {
        (None, None) => None,
        (port, pid) => Some(one_target(port, pid)?),
    };
    let (exposure, _) = allocate(&app, &handle, target, Access::Public).await?;
    let domain = app.exposures.domain(&exposure.name);
    Ok(Json(ExposedHttp { domain }))
}

/// Give out a name for VS Code
///
/// As the official SDK asks for it after the RPC method `vscode` has started VS Code; the RPC
/// method `exposeHttp` binds the name. Whoever knows it has the sandbox.
#[utoipa::path(
    post,
    path = "/api/v3/sandbox/{id}/expose/vscode",
    tag = SANDBOXES_TAG,
    operation_id = "expose_vscode",
    params(("id" = String, Path, description = "The sandbox's id")),
    request_body = ExposeVscode,
    responses(
        (status = 200, description = "The name", body = ExposedHttp),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
pub(crate) async fn expose_vscode(
    State(app): State<Arc<App>>,
    member: Member,
    Path(id): Path<String>,
    JsonBody(ExposeVscode {}): JsonBody<ExposeVscode>,
) -> Result<Json<ExposedHttp>, ApiError> {
    let handle = find_running(&app, &member, &id).await?;
    let (exposure, _) = allocate(&app, &handle, None, Access::Public).await?;
    let domain = app.exposures.domain(&exposure.name);
    Ok(Json(ExposedHttp { domain }))
}

/// Expose a port of a sandbox
///
/// Its address works at once. With `private` the answer shows, this once, the token
/// without which nobody is let in.
#[utoipa::path(
    post,
    path = format!("{SANDBOXES_PATH}/{{id}}/exposures"),
    tag = INGRESS_TAG,
    params(("id" = String, Path, description = "The sandbox's id")),
    request_body = CreateExposure,
    responses(
        (status = 201, description = "It is exposed", body = CreatedExposure),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
pub(crate) async fn create_exposure(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path(id): Path<String>,
    JsonBody(asked): JsonBody<CreateExposure>,
) -> Result<(StatusCode, Json<CreatedExposure>), ApiError> {
    let handle = find_seen(&app, &principal, &id).await?;
    let target = one_target(asked.port, asked.pid)?;
    let access = if asked.private {
        Access::Private
    } else {
        Access::Public
    };
    let (exposure, access_token) = allocate(&app, &handle, Some(target), access).await?;
    let row = row(&app, &exposure);
    let created = CreatedExposure { access_token, row };
    Ok((StatusCode::CREATED, Json(created)))
}

/// List a sandbox's exposures
#[utoipa::path(
    get,
    path = format!("{SANDBOXES_PATH}/{{id}}/exposures"),
    tag = INGRESS_TAG,
    params(("id" = String, Path, description = "The sandbox's id")),
    responses(
        (status = 200, description = "The oldest first", body = Vec<ExposureRow>),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
pub(crate) async fn list_exposures(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<Json<Vec<ExposureRow>>, ApiError> {
    let handle = find_seen(&app, &principal, &id).await?;
    let exposures = app.exposures.of(handle.id());
    Ok(Json(exposures.iter().map(|one| row(&app, one)).collect()))
}

/// Take an exposure back
///
/// Its name leads nowhere from then on; requests under way go on.
#[utoipa::path(
    delete,
    path = format!("{SANDBOXES_PATH}/{{id}}/exposures/{{name}}"),
    tag = INGRESS_TAG,
    params(
        ("id" = String, Path, description = "The sandbox's id"),
        ("name" = String, Path, description = "The exposure's name"),
    ),
    responses(
        (status = 204, description = "It is taken back"),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
pub(crate) async fn remove_exposure(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path((id, name)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let handle = find_seen(&app, &principal, &id).await?;
    let name = name.parse().ok().ok_or(ExposeError::NotFound)?;
    app.exposures.remove(handle.id(), &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What came in over HTTP, for Prometheus
///
/// Admin only. For each sandbox that runs.
#[utoipa::path(
    get,
    path = INGRESS_METRICS_PATH,
    tag = INGRESS_TAG,
    operation_id = "ingress_metrics",
    responses(
        (status = 200, description = "The text format 0.0.4", body = String, content_type = "text/plain"),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
pub(crate) async fn ingress_metrics(State(app): State<Arc<App>>, _: Admin) -> Response {
    let handles = app.registry.all();
    let traffic: Vec<_> = handles
        .iter()
        .map(|handle| (handle.id(), handle.ingress().read()))
        .collect();
    let mut text = String::new();
    let counters = [
        ("requests", "Requests let through to a sandbox"),
        (
            "request_bytes",
            "Bytes of bodies and upgraded connections to a sandbox",
        ),
        (
            "response_bytes",
            "Bytes of bodies and upgraded connections from a sandbox",
        ),
    ];
    for (at, (name, help)) in counters.into_iter().enumerate() {
        let metric = format!("tombolo_ingress_{name}_total");
        let mut write = |line: String| {
            let written = writeln!(text, "{line}");
            debug_assert!(written.is_ok(), "a String takes everything");
        };
        write(format!("# HELP {metric} {help}."));
        write(format!("# TYPE {metric} counter"));
        for (id, traffic) in &traffic {
            let value = match at {
                0 => traffic.requests,
                1 => traffic.request_bytes,
                _ => traffic.response_bytes,
            };
            write(format!("{metric}{{sandbox=\"{id}\"}} {value}"));
        }
    }
    let count = app.exposures.count();
    text.push_str("# HELP tombolo_ingress_exposures Names of sandboxes that run.\n");
    text.push_str("# TYPE tombolo_ingress_exposures gauge\n");
    let written = writeln!(text, "tombolo_ingress_exposures {count}");
    debug_assert!(written.is_ok(), "a String takes everything");
    ([(CONTENT_TYPE, PROMETHEUS_TYPE)], text).into_response()
}

fn one_target(port: Option<NonZero<u16>>, pid: Option<i32>) -> Result<Target, ApiError> {
    match (port, pid) {
        (Some(port), None) => Ok(Target::Port(port)),
        (None, Some(pid)) => Ok(Target::Process(pid)),
        _ => Err(ApiError::new(
            ErrorCode::InvalidRequest,
            "the body takes a port or a pid, one of them",
        )),
    }
}

async fn allocate(
    app: &App,
    handle: &SandboxHandle,
    target: Option<Target>,
    access: Access,
) -> Result<(Exposure, Option<String>), ApiError> {
    let allocated = app
        .exposures
        .allocate(handle.id(), target, access, clock::now());
    let allocated = allocated.await?;
    if handle.stopped().is_cancelled() {
        // It ended meanwhile, and its end may not have seen this one.
        app.exposures.forget(handle.id());
        return Err(ApiError::sandbox_ended());
    }
    Ok(allocated)
}

fn row(app: &App, exposure: &Exposure) -> ExposureRow {
    let (port, pid) = match exposure.target {
        None => (None, None),
        Some(Target::Port(port)) => (Some(port), None),
        Some(Target::Process(pid)) => (None, Some(pid)),
    };
    ExposureRow {
        name: exposure.name.to_string(),
        url: format!("https://{}", app.exposures.domain(&exposure.name)),
        port,
        pid,
        private: exposure.access.is_some(),
        created_at_ms: exposure.created_at,
    }
}
