//! How a server makes room for another. One that `tombolo run` started in the
//! background is in the way of a `tombolo up`; it alone can tell whether it is needed,
//! because it alone knows who is just creating a sandbox.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use tombolo_api::error::{ErrorBody, ErrorCode};
use tombolo_api::native::{RETIRE_PATH, Retirement};

use crate::app::App;
use crate::auth::Admin;
use crate::error::ApiError;
use crate::openapi::{REFUSED, SERVER_TAG};

/// Make room for another server
///
/// Admin only. Ends a server that `tombolo run` started, if it has no sandboxes and none is
/// being created: from its answer on it creates no more. Any other server is left as it is.
#[utoipa::path(
    post,
    path = RETIRE_PATH,
    tag = SERVER_TAG,
    responses(
        (status = 202, description = "It is ending", body = Retirement),
        (status = "default", description = REFUSED, body = ErrorBody),
    ),
)]
pub(crate) async fn retire(
    State(app): State<Arc<App>>,
    _: Admin,
) -> Result<(StatusCode, Json<Retirement>), ApiError> {
    if !app.config.retires {
        return Err(ApiError::new(
            ErrorCode::ServerStays,
            "this server was started to stay",
        ));
    }
    app.registry
        .close()
        .map_err(|in_use| ApiError::saying(ErrorCode::ServerInUse, &in_use))?;
    app.retired.cancel();
    let status = "ending".to_owned();
    Ok((StatusCode::ACCEPTED, Json(Retirement { status })))
}
