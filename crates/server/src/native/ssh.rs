//! Ways in by SSH: the address that the official clients ask, and Tombolo's own.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use tombolo_api::error::{ErrorBody, ErrorCode};
use tombolo_api::native::{SANDBOXES_PATH, SSH_KEYS_PATH};
use tombolo_api::ssh::{AddSshKey, ExposeSsh, ExposedSsh, SshKeyRow};
use tombolo_ssh::Key;

use crate::app::App;
use crate::auth::{Member, Principal};
use crate::body::JsonBody;
use crate::clock;
use crate::error::ApiError;
use crate::openapi::{REFUSED, SANDBOXES_TAG, SSH_TAG};
use crate::sandboxes::find_seen;

/// Keys of one organisation.
const KEYS_MAX: usize = 100;
/// Characters of a key's name.
const NAME_LEN_MAX: usize = 200;

/// Give out a user name for SSH
///
/// Whoever knows the name is let in. Each call gives out another; all end with the
/// sandbox.
#[utoipa::path(
    post,
    path = "/api/v3/sandbox/{id}/expose/ssh",
    tag = SANDBOXES_TAG,
    operation_id = "expose_ssh",
    params(("id" = String, Path, description = "The sandbox's id")),
    request_body = ExposeSsh,
    responses(
        (status = 200, description = "The way in", body = ExposedSsh),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
pub(crate) async fn expose_ssh(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path(id): Path<String>,
    JsonBody(ExposeSsh {}): JsonBody<ExposeSsh>,
) -> Result<Json<ExposedSsh>, ApiError> {
    let handle = find_seen(&app, &principal, &id).await?;
    let place = app.ssh_logins.place()?.clone();
    let username = app.ssh_logins.allocate(handle.id(), clock::now()).await?;
    if handle.stopped().is_cancelled() {
        // It ended meanwhile, and its end may not have seen this one.
        app.ssh_logins.forget(handle.id());
        return Err(ApiError::sandbox_ended());
    }
    Ok(Json(ExposedSsh {
        hostname: place.host,
        username,
        port: place.port,
        host_key: place.host_key,
    }))
}

/// Take back a sandbox's SSH user names
///
/// All of them; connections by them end.
#[utoipa::path(
    delete,
    path = format!("{SANDBOXES_PATH}/{{id}}/ssh"),
    tag = SSH_TAG,
    params(("id" = String, Path, description = "The sandbox's id")),
    responses(
        (status = 204, description = "They lead nowhere"),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
pub(crate) async fn revoke_ssh(
    State(app): State<Arc<App>>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let handle = find_seen(&app, &principal, &id).await?;
    app.ssh_logins.revoke(handle.id()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List SSH keys
///
/// Each opens every sandbox of the organisation, with the sandbox's id as the user name.
#[utoipa::path(
    get,
    path = SSH_KEYS_PATH,
    tag = SSH_TAG,
    responses(
        (status = 200, description = "The oldest first", body = Vec<SshKeyRow>),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
pub(crate) async fn list_ssh_keys(
    State(app): State<Arc<App>>,
    member: Member,
) -> Result<Json<Vec<SshKeyRow>>, ApiError> {
    Ok(Json(app.database.ssh_keys(&member.organisation).await?))
}

/// Register an SSH key
#[utoipa::path(
    post,
    path = SSH_KEYS_PATH,
    tag = SSH_TAG,
    request_body = AddSshKey,
    responses(
        (status = 201, description = "It is registered", body = SshKeyRow),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
pub(crate) async fn add_ssh_key(
    State(app): State<Arc<App>>,
    member: Member,
    JsonBody(asked): JsonBody<AddSshKey>,
) -> Result<(StatusCode, Json<SshKeyRow>), ApiError> {
    let refuse = |text: String| ApiError::new(ErrorCode::InvalidRequest, text);
    let key: Key = asked
        .key
        .parse()
        .map_err(|error| refuse(format!("{error}")))?;
    let line = key
        .to_line()
        .ok_or_else(|| refuse("the key cannot be written as a line; make another".to_owned()))?;
    let name = asked.name.unwrap_or_else(|| key.comment());
    if name.chars().count() > NAME_LEN_MAX {
        return Err(refuse(format!(
            "a name has up to {NAME_LEN_MAX} characters"
        )));
    }
    let held = app.database.ssh_keys(&member.organisation).await?;
    if held.len() >= KEYS_MAX {
        return Err(ApiError::new(
            ErrorCode::LimitExceeded,
            format!("the organisation has {KEYS_MAX} SSH keys, as many as it may; remove one"),
        ));
    }
    let row = SshKeyRow {
        fingerprint: key.fingerprint(),
        key: line,
        name,
        created_at_ms: clock::now(),
    };
    app.database.put_ssh_key(&member.organisation, &row).await?;
    Ok((StatusCode::CREATED, Json(row)))
}

/// Remove an SSH key
///
/// Nobody is let in by it any more; who is in stays.
#[utoipa::path(
    delete,
    path = format!("{SSH_KEYS_PATH}/{{fingerprint}}"),
    tag = SSH_TAG,
    params(("fingerprint" = String, Path, description = "SHA256:…, percent-encoded")),
    responses(
        (status = 204, description = "It is removed"),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
pub(crate) async fn remove_ssh_key(
    State(app): State<Arc<App>>,
    member: Member,
    Path(fingerprint): Path<String>,
) -> Result<StatusCode, ApiError> {
    let removed = app
        .database
        .remove_ssh_key(&member.organisation, &fingerprint);
    if removed.await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::new(
            ErrorCode::InvalidRequest,
            "the organisation has no such SSH key; list them",
        ))
    }
}
