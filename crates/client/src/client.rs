//! A server and the right to use it. One request, one answer, each with a
//! deadline and a bounded body.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tombolo_api::error::ErrorBody;
use tombolo_api::native::{HEALTH_PATH, INFO_PATH, ServerInfo};
use zeroize::Zeroizing;

use crate::transport::{self, DialError, Dialer, RequestBody, TrustError};
use crate::{Endpoint, EndpointError, Token, USER_AGENT};

/// The longest answer that is read; a list of every sandbox is far below it.
const ANSWER_LEN_MAX: usize = 16 * 1024 * 1024;
/// How long one request may take. Ending a sandbox is the slowest of them.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The most of an answer that is not understood to show to a person.
const EXCERPT_CHARS: usize = 200;

/// The variable that names the server, as both official SDKs have it.
const ENDPOINT_VARIABLE: &str = "DENO_SANDBOX_ENDPOINT";
/// The variable that holds the token.
const TOKEN_VARIABLE: &str = "DENO_DEPLOY_TOKEN";

/// A server, and the token that opens it. Cheap to clone.
///
/// It keeps no connection: each request makes its own, and each sandbox has
/// one of its own.
#[derive(Debug, Clone)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dialer: Dialer,
    token: Token,
}

/// Why the environment names no server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnvironmentError {
    /// A variable is not set.
    #[error("the variable {name} is not set; `tombolo up` prints what it has to be")]
    Missing {
        /// The variable.
        name: &'static str,
    },
    /// A variable holds what is no text.
    #[error("the variable {name} is not UTF-8")]
    NotText {
        /// The variable.
        name: &'static str,
    },
    /// The address is not one of a server.
    #[error("the variable {ENDPOINT_VARIABLE} names no server")]
    Endpoint(#[from] EndpointError),
}

/// Why a request brought nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// There was no connection.
    #[error("cannot reach a server at {endpoint}")]
    Unreachable {
        /// Where it should be.
        endpoint: Endpoint,
        /// Why not.
        #[source]
        source: DialError,
    },
    /// The connection ended before there was an answer.
    #[error("the request to {endpoint} broke off")]
    Broken {
        /// Where it went.
        endpoint: Endpoint,
        /// How it ended.
        #[source]
        source: hyper::Error,
    },
    /// There was no answer in time.
    #[error("the server at {endpoint} did not answer within {} s", limit.as_secs())]
    TimedOut {
        /// Where it is.
        endpoint: Endpoint,
        /// How long was waited.
        limit: Duration,
    },
    /// The server does not do what it was asked.
    #[error("{refusal}")]
    Refused {
        /// Its words.
        refusal: Refusal,
    },
    /// A listing goes on and on.
    #[error("the server's listing does not end after {limit} pages")]
    Endless {
        /// How many were read.
        limit: usize,
    },
    /// The answer ended too early, or is longer than any should be.
    #[error("the server's answer broke off")]
    Body {
        /// How it ended.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Events that were listened to have stopped coming, and so has the
    /// heartbeat between them.
    #[error("the server has sent nothing for {} s", limit.as_secs())]
    Silent {
        /// How long was waited.
        limit: Duration,
    },
    /// An event is longer than any should be.
    #[error("the server sent an event of more than {limit} bytes")]
    LongEvent {
        /// Bytes of the longest that is taken.
        limit: usize,
    },
    /// The answer is something else than was asked for.
    #[error("the server's answer to {method} {path} is not understood: {excerpt}")]
    Answer {
        /// Of the request.
        method: Method,
        /// Of the request.
        path: String,
        /// How the answer begins.
        excerpt: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The address cannot be asked for.
    #[error("the request {method} {path} cannot be written")]
    Request {
        /// Of the request.
        method: Method,
        /// Of the request.
        path: String,
        /// What is wrong with it.
        #[source]
        source: http::Error,
    },
    /// What is to be sent is not JSON.
    #[error("the body of {method} {path} cannot be written")]
    Encode {
        /// Of the request.
        method: Method,
        /// Of the request.
        path: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// What a server says when it does not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Of its answer.
    pub status: StatusCode,
    /// For programs: one of the codes in the server's reference.
    pub code: String,
    /// For people, with the next step where there is one.
    pub message: String,
    /// Leads to the server's log.
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

impl Refusal {
    /// Whether the same may succeed later without a change.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(self.status.as_u16(), 429 | 503)
    }

    /// What to do about it where the server's own words do not say.
    pub(crate) fn next_step(&self) -> Option<&'static str> {
        match self.status.as_u16() {
            401 => Some("give a token of this server; `tombolo token create` makes one"),
            429 => Some("end sandboxes that are not needed, or ask for a higher limit"),
            503 => Some("try again in a moment"),
            _ => None,
        }
    }
}

impl RequestError {
    /// The server's refusal, if it was one.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused { refusal } => Some(refusal),
            _ => None,
        }
    }

    /// What to do about it, where that is known.
    #[must_use]
    pub fn next_step(&self) -> Option<&'static str> {
        match self {
            Self::Unreachable { .. } => Some("start a server with `tombolo up`, or name another"),
            Self::Refused { refusal } => refusal.next_step(),
            Self::TimedOut { .. } | Self::Broken { .. } | Self::Silent { .. } => {
                Some("try again in a moment")
            }
            _ => None,
        }
    }
}

impl Client {
    /// A client of this server. Nothing is asked yet.
    #[must_use]
    pub fn new(endpoint: Endpoint, token: Token) -> Self {
        Self(Arc::new(Inner {
            dialer: Dialer::new(endpoint),
            token,
        }))
    }

    /// A client of the server that `DENO_SANDBOX_ENDPOINT` names, with the
    /// token in `DENO_DEPLOY_TOKEN`: the variables of the official SDKs.
    ///
    /// # Errors
    /// A variable that is not set, or names no server.
    pub fn from_env() -> Result<Self, EnvironmentError> {
        let endpoint = Endpoint::parse(&variable(ENDPOINT_VARIABLE)?)?;
        Ok(Self::new(endpoint, Token::new(&variable(TOKEN_VARIABLE)?)))
    }

    /// The same, trusting these certificates of authorities (PEM) instead of
    /// those that the machine trusts, for servers behind `https://`.
    ///
    /// # Errors
    /// A text without certificates.
    pub fn trusting(&self, pem: &[u8]) -> Result<Self, TrustError> {
        Ok(Self(Arc::new(Inner {
            dialer: self.0.dialer.clone().trusting(pem)?,
            token: self.0.token.clone(),
        })))
    }

    /// Where the server is.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        self.0.dialer.endpoint()
    }

    /// What opens it.
    #[must_use]
    pub fn token(&self) -> &Token {
        &self.0.token
    }

    pub(crate) fn dialer(&self) -> &Dialer {
        &self.0.dialer
    }

    /// Whether a server answers at all, whatever the token.
    pub async fn healthy(&self) -> bool {
        self.exchange(Method::GET, HEALTH_PATH, Bytes::new())
            .await
            .is_ok_and(|answer| answer.status.is_success())
    }

    /// What the server is and allows.
    ///
    /// # Errors
    /// As every request.
    pub async fn info(&self) -> Result<ServerInfo, RequestError> {
        self.get(INFO_PATH).await
    }

    /// Asks any address of the server, for what has no method here.
    ///
    /// # Errors
    /// As every request.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, RequestError> {
        let body = self.request(Method::GET, path, Bytes::new()).await?;
        decode(Method::GET, path, &body)
    }

    /// Sends JSON to any address of the server, for what has no method here.
    /// It is wiped from memory when it was sent: it may hold a secret.
    ///
    /// # Errors
    /// As every request.
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
        let body = Bytes::from_owner(Zeroizing::new(body));
        let answer = self.request(method.clone(), path, body).await?;
        decode(method, path, &answer)
    }

    /// A DELETE of any address: whatever a success says, it is one.
    ///
    /// # Errors
    /// As every request.
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
    pub(crate) async fn accepted(
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
        let answer = async {
            read_answer(self.ask(request).await?)
                .await
                .map_err(|source| RequestError::Body { source })
        };
        self.in_time(answer).await
    }

    /// An answer that goes on for as long as both sides want. Only its
    /// beginning has a deadline.
    pub(crate) async fn follow(&self, path: &str) -> Result<Response<Incoming>, RequestError> {
        let request = self.build(Method::GET, path, Bytes::new())?;
        let response = self.in_time(self.ask(request)).await?;
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

    async fn ask(&self, request: Request<RequestBody>) -> Result<Response<Incoming>, RequestError> {
        let mut sender =
            self.0
                .dialer
                .dial()
                .await
                .map_err(|source| RequestError::Unreachable {
                    endpoint: self.endpoint().clone(),
                    source,
                })?;
        let answered = sender.send_request(request).await;
        answered.map_err(|source| RequestError::Broken {
            endpoint: self.endpoint().clone(),
            source,
        })
    }

    async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, RequestError>>,
    ) -> Result<T, RequestError> {
        match tokio::time::timeout(REQUEST_TIMEOUT, work).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(RequestError::TimedOut {
                endpoint: self.endpoint().clone(),
                limit: REQUEST_TIMEOUT,
            }),
        }
    }

    fn build(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Request<RequestBody>, RequestError> {
        let authorization = format!("Bearer {}", self.token().reveal());
        let mut request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header(header::HOST, self.endpoint().authority())
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::ACCEPT, "application/json")
            .header(header::AUTHORIZATION, authorization);
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        request
            .body(transport::body(body))
            .map_err(|source| RequestError::Request {
                method,
                path: path.to_owned(),
                source,
            })
    }
}

fn variable(name: &'static str) -> Result<String, EnvironmentError> {
    let value = std::env::var_os(name).ok_or(EnvironmentError::Missing { name })?;
    let text = value.into_string();
    text.map_err(|_bytes| EnvironmentError::NotText { name })
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    trace_id: Option<String>,
    /// The header that tells where a listing goes on.
    pub(crate) link: Option<String>,
    pub(crate) body: Bytes,
}

/// Reads a whole answer, up to the limit.
pub(crate) async fn read_answer(
    response: Response<Incoming>,
) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let (parts, body) = response.into_parts();
    let text = |name: &str| {
        let value = parts.headers.get(name)?;
        value.to_str().ok().map(str::to_owned)
    };
    Ok(Answer {
        status: parts.status,
        trace_id: text(tombolo_api::TRACE_ID_HEADER),
        link: text(header::LINK.as_str()),
        body: transport::read_body(body, ANSWER_LEN_MAX).await?,
    })
}

/// Understands an error body, or says what there was instead of one.
pub(crate) fn read_refusal(answer: &Answer) -> Refusal {
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

pub(crate) fn decode<T: DeserializeOwned>(
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
