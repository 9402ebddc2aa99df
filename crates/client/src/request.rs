//! Answers to requests: whole, refused, or none.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response, StatusCode, header};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use tombolo_api::error::ErrorBody;

use crate::Endpoint;
use crate::transport::{self, DialError};

/// The longest answer that is read; a list of every sandbox is far below it.
const ANSWER_LEN_MAX: usize = 16 * 1024 * 1024;
/// The most of an answer that is not understood to show to a person.
const EXCERPT_CHARS: usize = 200;

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
