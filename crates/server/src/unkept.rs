//! Ends connections on which a value of a secret came.
//!
//! The HTTP library keeps what it read in a buffer of the connection, also when
//! the request is answered. With the connection the buffer goes, and what is given
//! back is wiped by the program's allocator.

use axum::extract::Request;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use tombolo_api::CONFIG_HEADER;

pub(crate) async fn close_after_values(request: Request, next: Next) -> Response {
    // Secrets are put, and are in the configuration of a new sandbox.
    let may_have_values =
        request.method() == Method::PUT || request.headers().contains_key(CONFIG_HEADER);
    let mut response = next.run(request).await;
    // One that becomes a WebSocket leaves its buffer behind.
    if may_have_values && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    response
}
