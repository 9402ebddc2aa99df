//! The server's side of the opening handshake (RFC 6455, section 4.2).

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY};
use axum::http::header::{HeaderName, SEC_WEBSOCKET_VERSION, UPGRADE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::OnUpgrade;
use tungstenite::handshake::derive_accept_key;

use super::Socket;

/// A request that asks for a WebSocket.
#[derive(Debug)]
pub(crate) struct Upgrade {
    accept: HeaderValue,
    pending: OnUpgrade,
}

/// The request does not ask for a WebSocket as it must.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoUpgrade {
    #[error("the method must be GET")]
    Method,
    #[error("the header Connection does not ask for an upgrade")]
    Connection,
    #[error("the header Upgrade does not name websocket")]
    Protocol,
    #[error("the header Sec-WebSocket-Version must be 13")]
    Version,
    #[error("the header Sec-WebSocket-Key is missing")]
    Key,
    #[error("this connection cannot become a WebSocket")]
    Transport,
}

impl IntoResponse for NoUpgrade {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, self.to_string()).into_response()
    }
}

impl<S: Sync> FromRequestParts<S> for Upgrade {
    type Rejection = NoUpgrade;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, NoUpgrade> {
        let accept = accept(&parts.method, &parts.headers)?;
        let pending = parts.extensions.remove().ok_or(NoUpgrade::Transport)?;
        Ok(Self { accept, pending })
    }
}

impl Upgrade {
    /// Answers the handshake, and serves the connection in a task of its own.
    /// If the connection breaks first, `serve` is dropped.
    pub(crate) fn accept<F, Served>(self, message_len_max: usize, serve: F) -> Response
    where
        F: FnOnce(Socket) -> Served + Send + 'static,
        Served: Future<Output = ()> + Send,
    {
        let pending = self.pending;
        tokio::spawn(async move {
            match pending.await {
                Ok(connection) => serve(Socket::new(connection, message_len_max)).await,
                Err(error) => tracing::debug!(%error, "a handshake was not completed"),
            }
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, self.accept);
        response
    }
}

/// Checks a request. Answers what proves that it was understood.
fn accept(method: &Method, headers: &HeaderMap) -> Result<HeaderValue, NoUpgrade> {
    if method != Method::GET {
        return Err(NoUpgrade::Method);
    }
    let checks = [
        (CONNECTION, "upgrade", NoUpgrade::Connection),
        (UPGRADE, "websocket", NoUpgrade::Protocol),
        (SEC_WEBSOCKET_VERSION, "13", NoUpgrade::Version),
    ];
    for (name, wanted, refusal) in checks {
        if !lists(headers, &name, wanted) {
            return Err(refusal);
        }
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or(NoUpgrade::Key)?;
    HeaderValue::try_from(derive_accept_key(key.as_bytes())).map_err(|_not_base64| NoUpgrade::Key)
}

/// Whether one of a header's comma-separated values is this one.
fn lists(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).into_iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_is_checked_and_answered() {
        let good = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let headers = |skipped: Option<usize>| -> HeaderMap {
            let kept = good
                .iter()
                .enumerate()
                .filter(|(at, _)| Some(*at) != skipped);
            let pair = |(name, value): &(&str, &str)| -> (HeaderName, HeaderValue) {
                (name.parse().unwrap(), value.parse().unwrap())
            };
            kept.map(|(_, header)| pair(header)).collect()
        };
        // The example of RFC 6455, section 1.3.
        let accepted = accept(&Method::GET, &headers(None)).unwrap();
        assert_eq!(accepted, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let refusals = [
            NoUpgrade::Connection,
            NoUpgrade::Protocol,
            NoUpgrade::Version,
            NoUpgrade::Key,
        ];
        for (skipped, refusal) in refusals.into_iter().enumerate() {
            let refused = accept(&Method::GET, &headers(Some(skipped)));
            assert_eq!(refused, Err(refusal));
        }
        let posted = accept(&Method::POST, &headers(None));
        assert_eq!(posted, Err(NoUpgrade::Method));
    }
}
