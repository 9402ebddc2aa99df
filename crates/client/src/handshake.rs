//! Opening a WebSocket: create a sandbox, or connect to one. The HTTP part is
//! done by hyper, so that a refusal's body is read whole and can be shown.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tombolo_api::config::{ConfigTooLong, EncodeConfigError, NewSandbox};
use tombolo_ids::{ParseIdError, SandboxId};
use zeroize::Zeroizing;

use crate::request::{Refusal, read_answer, read_refusal};
use crate::transport::{self, DialError, RequestBody};
use crate::{Client, Endpoint, USER_AGENT};

/// How long the server may take to make a sandbox. The first of a size may
/// have to wait for its template to boot.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_mins(2);
/// The largest message from a server: a whole file read by one call.
const MESSAGE_LEN_MAX: usize = 192 * 1024 * 1024;
/// How many bytes may wait for the socket before a writer has to.
const WRITE_BUFFER_LEN: usize = 128 * 1024;

pub(crate) type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// How much of the server's warnings is kept, each and together.
const WARNING_CHARS: usize = 500;
const WARNINGS_MAX: usize = 64;

/// A WebSocket that was opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) socket: Socket,
    pub(crate) sandbox: SandboxId,
    /// What the server thinks is not meant in the new sandbox's policy.
    pub(crate) warnings: Vec<String>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Nobody answers there.
    #[error("cannot reach a server at {endpoint}")]
    Unreachable {
        /// Where it should be.
        endpoint: Endpoint,
        /// Why not.
        #[source]
        source: DialError,
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
    /// The connection ended before there was an answer.
    #[error("the handshake with {endpoint} broke off")]
    Http {
        /// Where it went.
        endpoint: Endpoint,
        /// How it ended.
        #[source]
        source: hyper::Error,
    },
    /// The connection ended within a refusal.
    #[error("the refusal of {endpoint} broke off")]
    Body {
        /// Where it came from.
        endpoint: Endpoint,
        /// How it ended.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What answers is something else.
    #[error("what listens at {endpoint} is no sandbox server: {missing}")]
    NotAServer {
        /// Where it is.
        endpoint: Endpoint,
        /// What its answer lacks.
        missing: &'static str,
    },
    /// What was named cannot be a sandbox.
    #[error("\"{given}\" is no sandbox")]
    Id {
        /// What was given.
        given: String,
        /// What is wrong with it.
        #[source]
        source: ParseIdError,
    },
    /// The request has a part that no header may have.
    #[error("the request for a sandbox cannot be written")]
    Request(#[from] http::Error),
    /// What is asked of the sandbox does not fit into a header.
    #[error(transparent)]
    Encode(#[from] EncodeConfigError),
    /// The value of a secret is none that can be sent.
    #[error("the value of the secret {name} cannot be used")]
    Secret {
        /// Of the secret.
        name: String,
        /// What is wrong with it. Its text is not in here.
        #[source]
        source: tombolo_api::secret::SecretValueError,
    },
    /// The sandbox was made, and what it was to have from the start was not.
    /// It has been ended again.
    #[error("the sandbox could not be made ready")]
    Prepare(#[source] Box<crate::RequestError>),
}

impl ConnectError {
    /// The server's refusal, if it was one.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused { refusal } => Some(refusal),
            Self::Prepare(error) => error.refusal(),
            _ => None,
        }
    }

    /// What to do about it, where that is known.
    #[must_use]
    pub fn next_step(&self) -> Option<&'static str> {
        match self {
            Self::Unreachable { .. } => Some("start a server with `tombolo up`, or name another"),
            Self::Refused { refusal } => refusal.next_step(),
            Self::Prepare(error) => error.next_step(),
            Self::TimedOut { .. } | Self::Http { .. } | Self::Body { .. } => {
                Some("try again in a moment")
            }
            Self::Id { .. } => Some("`Client::sandboxes` lists those that there are"),
            Self::Encode(_) => {
                Some("put secrets and a policy with `Sandbox::egress`, contents into files")
            }
            _ => None,
        }
    }

    /// The part that is too large for a sandbox to be made with it, if that is it.
    #[must_use]
    pub fn too_long(&self) -> Option<&ConfigTooLong> {
        match self {
            Self::Encode(EncodeConfigError::TooLong(error)) => Some(error),
            _ => None,
        }
    }
}

/// Makes a sandbox and opens its first connection.
pub(crate) async fn create(client: &Client, config: &NewSandbox) -> Result<Opened, ConnectError> {
    let config = config_header(config)?;
    open(client, tombolo_api::CREATE_PATH, Some(config)).await
}

/// Opens a further connection to a sandbox.
pub(crate) async fn connect(client: &Client, sandbox: &SandboxId) -> Result<Opened, ConnectError> {
    let path = format!("/api/v3/sandbox/{sandbox}/connect");
    open(client, &path, None).await
}

/// The configuration as a header whose memory is wiped when it was sent, and
/// that is not printed: it may hold values of secrets.
fn config_header(config: &NewSandbox) -> Result<HeaderValue, ConnectError> {
    let text = config.to_header()?;
    let bytes = Zeroizing::new(text.as_bytes().to_vec());
    let mut header =
        HeaderValue::from_maybe_shared(Bytes::from_owner(bytes)).map_err(http::Error::from)?;
    header.set_sensitive(true);
    Ok(header)
}

async fn open(
    client: &Client,
    path: &str,
    config: Option<HeaderValue>,
) -> Result<Opened, ConnectError> {
    let opened = open_unbounded(client, path, config);
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, opened).await {
        Ok(opened) => opened,
        Err(_elapsed) => Err(ConnectError::TimedOut {
            endpoint: client.endpoint().clone(),
            limit: HANDSHAKE_TIMEOUT,
        }),
    }
}

async fn open_unbounded(
    client: &Client,
    path: &str,
    config: Option<HeaderValue>,
) -> Result<Opened, ConnectError> {
    let endpoint = client.endpoint();
    let broken = |source| ConnectError::Http {
        endpoint: endpoint.clone(),
        source,
    };
    let dialled = client.dialer().dial().await;
    let mut sender = dialled.map_err(|source| ConnectError::Unreachable {
        endpoint: endpoint.clone(),
        source,
    })?;
    let key = generate_key();
    let request = upgrade_request(client, path, config, &key)?;
    let response = sender.send_request(request).await.map_err(broken)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let answer = read_answer(response)
            .await
            .map_err(|source| ConnectError::Body {
                endpoint: endpoint.clone(),
                source,
            })?;
        return Err(ConnectError::Refused {
            refusal: read_refusal(&answer),
        });
    }
    let sandbox =
        check_upgrade(response.headers(), &key).map_err(|missing| ConnectError::NotAServer {
            endpoint: endpoint.clone(),
            missing,
        })?;
    let warnings = warnings(response.headers());
    let upgraded = hyper::upgrade::on(response).await.map_err(broken)?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_LEN_MAX))
        .max_frame_size(Some(MESSAGE_LEN_MAX))
        .write_buffer_size(0)
        .max_write_buffer_size(MESSAGE_LEN_MAX + WRITE_BUFFER_LEN);
    let socket =
        WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, Some(config)).await;
    Ok(Opened {
        socket,
        sandbox,
        warnings,
    })
}

fn warnings(headers: &HeaderMap) -> Vec<String> {
    let texts = headers.get_all(tombolo_api::WARNING_HEADER).iter();
    texts
        .take(WARNINGS_MAX)
        .map(|text| {
            let text = String::from_utf8_lossy(text.as_bytes());
            text.chars().take(WARNING_CHARS).collect()
        })
        .collect()
}

fn upgrade_request(
    client: &Client,
    path: &str,
    config: Option<HeaderValue>,
    key: &str,
) -> Result<Request<RequestBody>, http::Error> {
    let authorization = format!("Bearer {}", client.token().reveal());
    let mut request = Request::builder()
        .uri(path)
        .header(header::HOST, client.endpoint().authority())
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::AUTHORIZATION, authorization)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, key);
    if let Some(config) = config {
        request = request.header(tombolo_api::CONFIG_HEADER, config);
    }
    request.body(transport::body(Bytes::new()))
}

/// Checks that the other side speaks WebSocket, and finds the sandbox's id.
fn check_upgrade(headers: &HeaderMap, key: &str) -> Result<SandboxId, &'static str> {
    let accepted = headers
        .get(header::SEC_WEBSOCKET_ACCEPT)
        .is_some_and(|value| value.as_bytes() == derive_accept_key(key.as_bytes()).as_bytes());
    if !accepted {
        return Err("its handshake does not answer ours");
    }
    headers
        .get(tombolo_api::SANDBOX_ID_HEADER)
        .and_then(|value| value.to_str().ok())
        .and_then(|id| id.parse().ok())
        .ok_or("it does not name the sandbox")
}
