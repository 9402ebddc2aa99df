//! Opening a WebSocket: create a sandbox, or connect to one. The HTTP part is
//! done by hyper, so that a refusal's body is read whole and can be shown.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tombolo_api::config::{ConfigTooLong, EncodeConfigError, NewSandbox};
use zeroize::Zeroizing;

use super::rest::{self, Refusal};
use super::{Endpoint, Token, USER_AGENT};

/// How long the server may take to make a sandbox. The first of a size may
/// have to wait for its template to boot.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_mins(2);
/// The largest message from a server: a whole file read by one call.
const MESSAGE_LEN_MAX: usize = 192 * 1024 * 1024;
/// How many bytes may wait for the socket before a writer has to.
const WRITE_BUFFER_LEN: usize = 128 * 1024;

pub(super) type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// How much of the server's warnings is kept, each and together.
const WARNING_CHARS: usize = 500;
const WARNINGS_MAX: usize = 64;

/// A WebSocket that was opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) socket: Socket,
    pub(super) sandbox: String,
    /// What the server thinks is not meant in the new sandbox's policy.
    pub(super) warnings: Vec<String>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot reach a server at {endpoint}")]
    Unreachable {
        endpoint: Endpoint,
        #[source]
        source: std::io::Error,
    },
    #[error("the server at {endpoint} did not answer within {} s", limit.as_secs())]
    TimedOut { endpoint: Endpoint, limit: Duration },
    #[error("{refusal}")]
    Refused { refusal: Refusal },
    #[error("the handshake with {endpoint} broke off")]
    Http {
        endpoint: Endpoint,
        #[source]
        source: hyper::Error,
    },
    #[error("the refusal of {endpoint} broke off")]
    Body {
        endpoint: Endpoint,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("what listens at {endpoint} is no sandbox server: {missing}")]
    NotAServer {
        endpoint: Endpoint,
        missing: &'static str,
    },
    #[error("the request for a sandbox cannot be written")]
    Request(#[from] http::Error),
    #[error(transparent)]
    Encode(#[from] EncodeConfigError),
}

impl ConnectError {
    /// The server's refusal, if it was one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused { refusal } => Some(refusal),
            _ => None,
        }
    }

    /// The part that is too large for a sandbox to be made with it, if that is it.
    pub fn too_long(&self) -> Option<&ConfigTooLong> {
        match self {
            Self::Encode(EncodeConfigError::TooLong(error)) => Some(error),
            _ => None,
        }
    }
}

/// Makes a sandbox and opens its first connection.
pub(super) async fn create(
    endpoint: &Endpoint,
    token: &Token,
    config: &NewSandbox,
) -> Result<Opened, ConnectError> {
    let config = config_header(config)?;
    open(endpoint, token, tombolo_api::CREATE_PATH, Some(config)).await
}

/// Opens a further connection to a sandbox.
pub(super) async fn connect(
    endpoint: &Endpoint,
    token: &Token,
    sandbox: &str,
) -> Result<Opened, ConnectError> {
    let path = format!("/api/v3/sandbox/{sandbox}/connect");
    open(endpoint, token, &path, None).await
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
    endpoint: &Endpoint,
    token: &Token,
    path: &str,
    config: Option<HeaderValue>,
) -> Result<Opened, ConnectError> {
    match tokio::time::timeout(
        HANDSHAKE_TIMEOUT,
        open_unbounded(endpoint, token, path, config),
    )
    .await
    {
        Ok(opened) => opened,
        Err(_elapsed) => Err(ConnectError::TimedOut {
            endpoint: endpoint.clone(),
            limit: HANDSHAKE_TIMEOUT,
        }),
    }
}

async fn open_unbounded(
    endpoint: &Endpoint,
    token: &Token,
    path: &str,
    config: Option<HeaderValue>,
) -> Result<Opened, ConnectError> {
    let unreachable = |source| ConnectError::Unreachable {
        endpoint: endpoint.clone(),
        source,
    };
    let broken = |source| ConnectError::Http {
        endpoint: endpoint.clone(),
        source,
    };
    let tcp = TcpStream::connect(endpoint.socket())
        .await
        .map_err(unreachable)?;
    tcp.set_nodelay(true).map_err(unreachable)?;
    let (mut sender, exchange) = hyper::client::conn::http1::handshake(TokioIo::new(tcp))
        .await
        .map_err(broken)?;
    // The exchange ends by itself when the upgraded socket or the sender is
    // dropped, and its error is the one that `send_request` reports.
    tokio::spawn(exchange.with_upgrades());
    let key = generate_key();
    let request = upgrade_request(endpoint, token, path, config, &key)?;
    let response = sender.send_request(request).await.map_err(broken)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let answer = rest::read_answer(response)
            .await
            .map_err(|source| ConnectError::Body {
                endpoint: endpoint.clone(),
                source,
            })?;
        return Err(ConnectError::Refused {
            refusal: rest::read_refusal(&answer),
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
    endpoint: &Endpoint,
    token: &Token,
    path: &str,
    config: Option<HeaderValue>,
    key: &str,
) -> Result<Request<Empty<Bytes>>, http::Error> {
    let mut request = Request::builder()
        .uri(path)
        .header(header::HOST, endpoint.authority())
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::AUTHORIZATION, format!("Bearer {}", token.reveal()))
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, key);
    if let Some(config) = config {
        request = request.header(tombolo_api::CONFIG_HEADER, config);
    }
    request.body(Empty::new())
}

/// Checks that the other side speaks WebSocket, and finds the sandbox's id.
fn check_upgrade(headers: &HeaderMap, key: &str) -> Result<String, &'static str> {
    let accepted = headers
        .get(header::SEC_WEBSOCKET_ACCEPT)
        .is_some_and(|value| value.as_bytes() == derive_accept_key(key.as_bytes()).as_bytes());
    if !accepted {
        return Err("its handshake does not answer ours");
    }
    headers
        .get(tombolo_api::SANDBOX_ID_HEADER)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned)
        .ok_or("it does not name the sandbox")
}
