//! Gives every request an id and tells it in the answer, so that a report of a
//! failure leads to the log.

use axum::extract::Request;
use axum::http::HeaderValue;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tombolo_api::TRACE_ID_HEADER;
use tombolo_ids::TraceId;
use tracing::Instrument as _;

use crate::error::ApiError;

pub(crate) async fn trace(request: Request, next: Next) -> Response {
    let trace_id = match TraceId::random() {
        Ok(trace_id) => trace_id,
        Err(error) => return ApiError::from(error).into_response(),
    };
    let span = tracing::info_span!(
        "request",
        trace_id = %trace_id,
        method = %request.method(),
        path = request.uri().path(),
    );
    let mut response = next.run(request).instrument(span).await;
    if let Ok(value) = HeaderValue::from_str(trace_id.as_str()) {
        response.headers_mut().insert(TRACE_ID_HEADER, value);
    }
    response
}
