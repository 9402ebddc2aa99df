//! One request, one answer, each with a deadline and a bounded body.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tombolo_api::error::ErrorBody;
use zeroize::Zeroizing;

use super::{Endpoint, Token, USER_AGENT};

/// The longest answer that is read; a list of every sandbox is far below it.
const ANSWER_LEN_MAX: usize = 16 * 1024 * 1024;
/// How long one request may take. Ending a sandbox is the slowest of them.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The most of an answer that is not understood to show to a person.
const EXCERPT_CHARS: usize = 200;

/// A client of the REST part of one server.
#[derive(Debug, Clone)]
pub struct RestClient {
    endpoint: Endpoint,
    token: Token,
    http: Client<HttpConnector, Full<Bytes>>,
}

/// Why a request brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("cannot reach a server at {endpoint}")]
    Unreachable {
        endpoint: Endpoint,
        #[source]
        source: hyper_util::client::legacy::Error,
    },
    #[error("the server at {endpoint} did not answer within {} s", limit.as_secs())]
    TimedOut { endpoint: Endpoint, limit: Duration },
    #[error("{refusal}")]
    Refused { refusal: Refusal },
    #[error("the server's listing does not end after {limit} pages")]
    Endless { limit: usize },
    #[error("the server's answer broke off")]
    Body {
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the server has sent nothing for {} s", limit.as_secs())]
    Silent { limit: Duration },
    #[error("the server sent an event of more than {limit} bytes")]
    LongEvent { limit: usize },
    #[error("the server's answer to {method} {path} is not understood: {excerpt}")]
    Answer {
        method: Method,
        path: String,
        excerpt: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("the request {method} {path} cannot be written")]
    Request {
        method: Method,
        path: String,
        #[source]
        source: http::Error,
    },
    #[error("the body of {method} {path} cannot be written")]
    Encode {
        method: Method,
        path: String,
        #[source]
        source: serde_json::Error,
    },
}

/// What a server says when it does not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    pub code: String,
    pub message: String,
    pub trace_id: Option<String>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} ({}", self.message, self.code)?;
        if let Some(trace_id) = &self.trace_id {
            write!(formatter, ", trace {trace_id}")?;
        }
        formatter.write_str(")")
    }
}

impl RequestError {
    /// The server's refusal, if it was one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused { refusal } => Some(refusal),
            _ => None,
        }
    }
}

impl RestClient {
    pub fn new(endpoint: Endpoint, token: Token) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self {
            endpoint,
            token,
            // A client may outlive the runtime that it first asked on, and with
            // it every connection that would be kept.
            http: Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(0)
                .build(connector),
        }
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub fn token(&self) -> &Token {
        &self.token
    }

    /// Whether a server answers at all, whatever the token.
    pub async fn healthy(&self) -> bool {
        self.exchange(Method::GET, tombolo_api::native::HEALTH_PATH, Bytes::new())
            .await
            .is_ok_and(|answer| answer.status.is_success())
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, RequestError> {
        let body = self.request(Method::GET, path, Bytes::new()).await?;
        decode(Method::GET, path, &body)
    }

    pub async fn send<B: Serialize + Sync, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &B,
    ) -> Result<T, RequestError> {
        let body = serde_json::to_vec(body).map_err(|source| RequestError::Encode {
            method: method.clone(),
            path: path.to_owned(),
            source,
        })?;
        // Wiped when it was sent: it may hold the value of a secret.
        let body = Bytes::from_owner(Zeroizing::new(body));
        let answer = self.request(method.clone(), path, body).await?;
        decode(method, path, &answer)
    }

    /// A DELETE: whatever a success says, it is one.
    pub async fn delete(&self, path: &str) -> Result<(), RequestError> {
        self.request(Method::DELETE, path, Bytes::new())
            .await
            .map(drop)
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Bytes, RequestError> {
        self.accepted(method, path, body)
            .await
            .map(|answer| answer.body)
    }

    /// An answer that is a success.
    pub(super) async fn accepted(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Answer, RequestError> {
        let answer = self.exchange(method, path, body).await?;
        if answer.status.is_success() {
            return Ok(answer);
        }
        Err(RequestError::Refused {
            refusal: read_refusal(&answer),
        })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Answer, RequestError> {
        let request = self.build(method, path, body)?;
        let answer =
            async {
                let response = self.http.request(request).await.map_err(|source| {
                    RequestError::Unreachable {
                        endpoint: self.endpoint.clone(),
                        source,
                    }
                })?;
                read_answer(response)
                    .await
                    .map_err(|source| RequestError::Body { source })
            };
        match tokio::time::timeout(REQUEST_TIMEOUT, answer).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(RequestError::TimedOut {
                endpoint: self.endpoint.clone(),
                limit: REQUEST_TIMEOUT,
            }),
        }
    }

    /// An answer that goes on for as long as both sides want. Only its
    /// beginning has a deadline.
    pub(super) async fn follow(&self, path: &str) -> Result<Response<Incoming>, RequestError> {
        let request = self.build(Method::GET, path, Bytes::new())?;
        let asked = tokio::time::timeout(REQUEST_TIMEOUT, self.http.request(request));
        let response = match asked.await {
            Ok(response) => response.map_err(|source| RequestError::Unreachable {
                endpoint: self.endpoint.clone(),
                source,
            })?,
            Err(_elapsed) => {
                return Err(RequestError::TimedOut {
                    endpoint: self.endpoint.clone(),
                    limit: REQUEST_TIMEOUT,
                });
            }
        };
        if response.status().is_success() {
            return Ok(response);
        }
        let answer = read_answer(response)
            .await
            .map_err(|source| RequestError::Body { source })?;
        Err(RequestError::Refused {
            refusal: read_refusal(&answer),
        })
    }

    fn build(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, RequestError> {
        let mut request = Request::builder()
            .method(method.clone())
            .uri(format!("{}{path}", self.endpoint))
            .header(http::header::USER_AGENT, USER_AGENT)
            .header(http::header::ACCEPT, "application/json")
            .header(
                http::header::AUTHORIZATION,
                format!("Bearer {}", self.token.reveal()),
            );
        if !body.is_empty() {
            request = request.header(http::header::CONTENT_TYPE, "application/json");
        }
        request
            .body(Full::new(body))
            .map_err(|source| RequestError::Request {
                method,
                path: path.to_owned(),
                source,
            })
    }
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    trace_id: Option<String>,
    /// The header that tells where a listing goes on.
    pub(super) link: Option<String>,
    pub(super) body: Bytes,
}

/// Reads a whole answer, up to the limit.
pub(super) async fn read_answer(
    response: Response<Incoming>,
) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let (parts, body) = response.into_parts();
    let header = |name: &str| {
        let value = parts.headers.get(name)?;
        value.to_str().ok().map(str::to_owned)
    };
    let body = Limited::new(body, ANSWER_LEN_MAX).collect().await?;
    Ok(Answer {
        status: parts.status,
        trace_id: header(tombolo_api::TRACE_ID_HEADER),
        link: header(http::header::LINK.as_str()),
        body: body.to_bytes(),
    })
}

/// Understands an error body, or says what there was instead of one.
pub(super) fn read_refusal(answer: &Answer) -> Refusal {
    let status = answer.status;
    let trace_id = answer.trace_id.clone();
    match serde_json::from_slice(&answer.body) {
        Ok(ErrorBody { code, message }) => Refusal {
            status,
            code,
            message,
            trace_id,
        },
        Err(_not_an_error_body) => Refusal {
            status,
            code: status.as_u16().to_string(),
            message: format!("the server answered {status}: {}", excerpt(&answer.body)),
            trace_id,
        },
    }
}

pub(super) fn decode<T: DeserializeOwned>(
    method: Method,
    path: &str,
    body: &[u8],
) -> Result<T, RequestError> {
    serde_json::from_slice(body).map_err(|source| RequestError::Answer {
        method,
        path: path.to_owned(),
        excerpt: excerpt(body),
        source,
    })
}

/// The start of an answer, safe to show on a terminal.
fn excerpt(body: &[u8]) -> String {
    String::from_utf8_lossy(body)
        .chars()
        .take(EXCERPT_CHARS)
        .flat_map(char::escape_debug)
        .collect()
}
