//! Connections of one sandbox that wait for its next request.
//!
//! The key holds everything that must be the same for a connection to be used again: the
//! place, what is spoken, and the generations of policy and secrets (HTTP-26). No pool is
//! shared between sandboxes (HTTP-27).

use std::{
    collections::HashMap,
    error::Error,
    fmt,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderValue, Request, Response, Uri, Version, header, uri};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tombolo_policy::Policy;

use super::{
    dial::{DialError, Dialler},
    tls::Alpn,
};
use crate::identity::{Place, Scheme};

/// What a body may fail with; its text never reaches a guest.
pub(crate) type BodyError = Box<dyn Error + Send + Sync>;
/// A body on its way to a host.
pub(crate) type RequestBody = UnsyncBoxBody<Bytes, BodyError>;

/// Idle HTTP/1.1 connections to one place.
const IDLE_PER_PLACE_MAX: usize = 8;
/// Places with idle connections.
const PLACES_MAX: usize = 64;
/// How long a connection may wait. Servers commonly close after a minute.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// What is read of a response's head.
const HEAD_LEN_MAX: usize = 128 << 10;
const HEADER_LIST_LEN_MAX: u32 = 64 << 10;
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// How often a silent HTTP/2 connection is asked whether it lives.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// What two requests must share to share a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PoolKey {
    pub(crate) place: Place,
    pub(crate) scheme: Scheme,
    pub(crate) alpn: Alpn,
    pub(crate) policy_generation: u64,
    pub(crate) secret_generation: u64,
}

/// The connections of one sandbox.
pub(crate) struct Pool {
    idle: Arc<Mutex<Idle>>,
    dialler: Dialler,
    tasks: TaskTracker,
    closed: CancellationToken,
}

type Idle = HashMap<PoolKey, Vec<Waiting>>;

struct Waiting {
    connection: Connection,
    since: Instant,
}

/// A connection to a host that takes a request now.
pub(crate) struct Connection {
    sender: Sender,
    pub(crate) address: SocketAddr,
    /// Whether the operator chose the address.
    pub(crate) overridden: bool,
    /// Whether it served another request before.
    is_reused: bool,
}

enum Sender {
    Http1(http1::SendRequest<RequestBody>),
    Http2(http2::SendRequest<RequestBody>),
}

/// A response, and what gives its connection back when the body has ended.
pub(crate) struct Sent {
    pub(crate) response: Response<Incoming>,
    pub(crate) lease: Lease,
}

/// Gives a connection back; dropped instead, the connection ends.
pub(crate) struct Lease {
    key: PoolKey,
    connection: Option<Connection>,
    idle: Weak<Mutex<Idle>>,
}

/// A request was not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the connection broke before the response")]
    Http(#[source] hyper::Error),
    #[error("the request cannot be written for the host")]
    Target(#[from] http::Error),
}

impl SendError {
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Dial(error) => error.code(),
            Self::Http(_) => "upstream_http",
            Self::Target(_) => "request_target",
        }
    }
}

impl Pool {
    pub(crate) fn new(dialler: Dialler, tasks: TaskTracker, closed: CancellationToken) -> Self {
        Self {
            idle: Arc::default(),
            dialler,
            tasks,
            closed,
        }
    }

    pub(crate) fn dialler(&self) -> &Dialler {
        &self.dialler
    }

    /// A connection that waits, or a new one.
    pub(crate) async fn connect(
        &self,
        policy: &Policy,
        key: &PoolKey,
    ) -> Result<Connection, DialError> {
        match self.take(key) {
            Some(connection) => Ok(connection),
            None => self.open(policy, key).await,
        }
    }

    /// Sends a request. A waiting connection that turns out to be dead is replaced by a new
    /// one, if nothing of the request was sent.
    pub(crate) async fn send(
        &self,
        policy: &Policy,
        key: PoolKey,
        mut connection: Connection,
        request: Request<RequestBody>,
    ) -> Result<Sent, SendError> {
        let mut request = request;
        loop {
            adapt(&mut request, &connection, &key)?;
            let (error, unsent) = match connection.try_send(request).await {
                Ok(response) => {
                    let lease = Lease {
                        key,
                        connection: Some(connection),
                        idle: Arc::downgrade(&self.idle),
                    };
                    return Ok(Sent { response, lease });
                }
                Err(failed) => failed,
            };
            match unsent {
                Some(unsent) if connection.is_reused => request = unsent,
                _ => return Err(SendError::Http(error)),
            }
            connection = self.open(policy, &key).await?;
        }
    }

    /// Forgets all that wait: they were opened under rules that no longer hold.
    pub(crate) fn clear(&self) {
        self.idle.lock().clear();
    }

    fn take(&self, key: &PoolKey) -> Option<Connection> {
        let mut idle = self.idle.lock();
        let waiting = idle.get_mut(key)?;
        while let Some(candidate) = waiting.pop() {
            if candidate.since.elapsed() > IDLE_TIMEOUT {
                continue;
            }
            let mut connection = candidate.connection;
            connection.is_reused = true;
            match &mut connection.sender {
                Sender::Http1(sender) => {
                    if sender
                        .ready()
                        .now_or_never()
                        .is_some_and(|ready| ready.is_ok())
                    {
                        return Some(connection);
                    }
                }
                Sender::Http2(sender) if !sender.is_closed() => {
                    // Many requests share it, so it goes on waiting as well.
                    waiting.push(Waiting {
                        since: Instant::now(),
                        connection: connection.share()?,
                    });
                    return Some(connection);
                }
                Sender::Http2(_) => {}
            }
        }
        idle.remove(key);
        None
    }

    async fn open(&self, policy: &Policy, key: &PoolKey) -> Result<Connection, DialError> {
        let dialler = &self.dialler;
        let (sender, address, overridden) = match key.scheme {
            Scheme::Http => {
                let dialled = dialler.tcp(policy, &key.place).await?;
                let sender = self.http1(dialled.stream).await?;
                (sender, dialled.address, dialled.overridden)
            }
            Scheme::Https => {
                let dialled = dialler.tls(policy, &key.place, key.alpn).await?;
                let is_http2 = dialled.stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let sender = if is_http2 {
                    self.http2(dialled.stream).await?
                } else {
                    self.http1(dialled.stream).await?
                };
                (sender, dialled.address, dialled.overridden)
            }
        };
        let connection = Connection {
            sender,
            address,
            overridden,
            is_reused: false,
        };
        if let Some(shared) = connection.share() {
            put(&mut self.idle.lock(), key.clone(), shared);
        }
        Ok(connection)
    }

    async fn http1<S>(&self, stream: S) -> Result<Sender, DialError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_LEN_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let closed = self.closed.clone();
        self.tasks.spawn(async move {
            // How it ends is told to whoever waits for a response on it.
            tokio::select! {
                _ended = connection.with_upgrades() => {}
                () = closed.cancelled() => {}
            }
        });
        Ok(Sender::Http1(sender))
    }

    async fn http2<S>(&self, stream: S) -> Result<Sender, DialError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_header_list_size(HEADER_LIST_LEN_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let closed = self.closed.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                _ended = connection => {}
                () = closed.cancelled() => {}
            }
        });
        Ok(Sender::Http2(sender))
    }
}

impl Connection {
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self.sender, Sender::Http2(_))
    }

    /// The same connection for another request, which HTTP/2 alone can do.
    fn share(&self) -> Option<Self> {
        match &self.sender {
            Sender::Http1(_) => None,
            Sender::Http2(sender) => Some(Self {
                sender: Sender::Http2(sender.clone()),
                address: self.address,
                overridden: self.overridden,
                is_reused: true,
            }),
        }
    }

    async fn try_send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, (hyper::Error, Option<Request<RequestBody>>)> {
        let sent = match &mut self.sender {
            Sender::Http1(sender) => sender.try_send_request(request).await,
            Sender::Http2(sender) => sender.try_send_request(request).await,
        };
        sent.map_err(|mut error| {
            let unsent = error.take_message();
            (error.into_error(), unsent)
        })
    }
}

impl Lease {
    /// The body has ended in good order.
    pub(crate) fn give_back(mut self) {
        let (Some(connection), Some(idle)) = (self.connection.take(), self.idle.upgrade()) else {
            return;
        };
        // An HTTP/2 connection waits already.
        if !connection.is_http2() {
            put(&mut idle.lock(), self.key, connection);
        }
    }
}

fn put(idle: &mut Idle, key: PoolKey, connection: Connection) {
    if !idle.contains_key(&key) && idle.len() >= PLACES_MAX {
        idle.retain(|_, waiting| {
            waiting.retain(|candidate| candidate.since.elapsed() <= IDLE_TIMEOUT);
            !waiting.is_empty()
        });
        if idle.len() >= PLACES_MAX {
            return;
        }
    }
    let waiting = idle.entry(key).or_default();
    if waiting.len() < IDLE_PER_PLACE_MAX {
        let since = Instant::now();
        waiting.push(Waiting { connection, since });
    }
}

/// Writes target, host and version as the connection's protocol wants them. The host is
/// always the one that the policy decided about (HTTP-05).
fn adapt(
    request: &mut Request<RequestBody>,
    connection: &Connection,
    key: &PoolKey,
) -> Result<(), http::Error> {
    let authority = key.place.authority(key.scheme);
    let path = request.uri().path_and_query().cloned();
    let path = path.unwrap_or_else(|| uri::PathAndQuery::from_static("/"));
    if connection.is_http2() {
        *request.uri_mut() = Uri::builder()
            .scheme(key.scheme.as_str())
            .authority(authority)
            .path_and_query(path)
            .build()?;
        *request.version_mut() = Version::HTTP_2;
        request.headers_mut().remove(header::HOST);
    } else {
        *request.uri_mut() = Uri::from(path);
        *request.version_mut() = Version::HTTP_11;
        let host = HeaderValue::try_from(authority)?;
        request.headers_mut().insert(header::HOST, host);
    }
    Ok(())
}

fn broken(error: hyper::Error) -> DialError {
    DialError::Connect(std::io::Error::other(error))
}

impl fmt::Debug for Pool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Pool({} places)", self.idle.lock().len())
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Lease({:?})", self.key)
    }
}
