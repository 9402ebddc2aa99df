//! Reads JSON bodies whatever their content type says, within bounds.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use tombolo_api::error::ErrorCode;

use crate::error::ApiError;

/// The largest body of most REST requests.
pub(crate) const BODY_LEN_MAX: usize = 64 * 1024;
/// The largest one where policies and values of secrets come in.
pub(crate) const LONG_BODY_LEN_MAX: usize = 1024 * 1024;

/// A body that was read. Official clients are loose about content types.
#[derive(Debug)]
pub(crate) struct JsonBody<T>(pub(crate) T);

/// The same for a body with a secret in it: what is wrong with it is told
/// without its own text.
#[derive(Debug)]
pub(crate) struct UnquotedBody<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = object(request, state).await?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            ApiError::new(
                ErrorCode::InvalidRequest,
                format!("the body is not what this address takes: {error}"),
            )
        })
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for UnquotedBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = object(request, state).await?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            ApiError::new(
                ErrorCode::InvalidRequest,
                format!(
                    "the body is not what this address takes, from line {line} column {column} on"
                ),
            )
        })
    }
}

async fn object<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, ApiError> {
    let bytes = Bytes::from_request(request, state)
        .await
        .map_err(|rejection| refuse(&rejection))?;
    // Structures would be read from lists as well.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(ApiError::new(
            ErrorCode::InvalidRequest,
            "the body is not a JSON object",
        ));
    }
    Ok(bytes)
}

fn refuse(rejection: &BytesRejection) -> ApiError {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return ApiError::new(
            ErrorCode::RequestTooLarge,
            "the body is larger than this address takes",
        );
    }
    ApiError::saying(ErrorCode::InvalidRequest, rejection)
}
