//! A server and the right to use it. One request, one answer, each with a
//! deadline and a bounded body.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, header};
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tombolo_api::native::{HEALTH_PATH, INFO_PATH, ServerInfo};
use zeroize::Zeroizing;

use crate::request::{Answer, RequestError, decode, read_answer, read_refusal};
use crate::transport::{self, Dialer, RequestBody, TrustError};
use crate::{Endpoint, EndpointError, Token, USER_AGENT};

/// How long one request may take. Ending a sandbox is the slowest of them.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

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
