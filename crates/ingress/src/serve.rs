//! Takes connections of clients: TLS, then HTTP/2 or HTTP/1.1 as both agreed on.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tombolo_diag::log_limited;
use tombolo_places::{Places, origin};

use crate::acme::Acme;
use crate::backend::Backend;
use crate::forward::Forwarder;
use crate::host::Base;
use crate::identity::Identity;
use crate::limits::Limits;
use crate::plain;
use crate::under_way::UnderWay;

/// How long to wait when the system has no descriptor for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// After how long of silence an HTTP/2 client is asked whether it is there, and how
/// long it may take to say so.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// The same of any client, by its system.
const SILENT_FOR: Duration = Duration::from_mins(1);
const ASK_AGAIN: Duration = Duration::from_secs(15);
const ASKED_MAX: u32 = 4;
/// What one request's body and all of a connection's may hold in flight.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// Bytes of one response that wait for an HTTP/2 connection.
const SEND_BUFFER_BYTES: usize = 128 * 1024;
/// Requests that an HTTP/2 client gave up before they were looked at.
const RESETS_PENDING_MAX: usize = 64;
/// The least that hyper buffers of an HTTP/1.1 connection.
const BUFFER_LEN_MIN: usize = 8192;

/// How an ingress is run.
#[derive(Clone, Debug)]
pub struct IngressConfig {
    /// The name below which exposures are.
    pub base: Base,
    pub identity: Identity,
    pub limits: Limits,
}

/// The ingress cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("the ingress could not listen on {address}")]
pub struct ListenError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// Where an ingress will take connections; they wait until it is started.
#[derive(Debug)]
pub struct Listening {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listening {
    /// Port 0 takes a free one.
    pub async fn at(address: SocketAddr) -> Result<Self, ListenError> {
        let listen = |source| ListenError { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        Ok(Self { listener, address })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// An ingress that runs in the background.
pub struct Ingress<B: Backend> {
    forwarder: Arc<Forwarder<B>>,
    address: SocketAddr,
    grace: Duration,
}

impl<B: Backend> std::fmt::Debug for Ingress<B> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Ingress")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl<B: Backend> Ingress<B> {
    /// Starts to serve.
    pub fn start(listening: Listening, config: IngressConfig, backend: B) -> Self {
        let Listening { listener, address } = listening;
        let forwarder = Forwarder::new(backend, config.base, config.limits.clone());
        let forwarder = Arc::new(forwarder);
        let identity = config.identity.clone();
        let shutdown = forwarder.shutdown.clone();
        forwarder.tasks.spawn(async move {
            shutdown.run_until_cancelled(identity.follow()).await;
        });
        let grace = config.limits.shutdown_grace;
        let acceptor = Acceptor {
            forwarder: Arc::clone(&forwarder),
            identity: config.identity,
            limits: config.limits,
        };
        forwarder.tasks.spawn(acceptor.accept(listener));
        tracing::info!(%address, "the ingress serves");
        Self {
            forwarder,
            address,
            grace,
        }
    }

    /// Keeps its certificate as long as it serves.
    pub fn renew_by(&self, acme: Acme) {
        let shutdown = self.forwarder.shutdown.clone();
        self.forwarder.tasks.spawn(async move {
            shutdown.run_until_cancelled(acme.keep()).await;
        });
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers what is under way and closes every connection.
    pub async fn stop(self) {
        self.forwarder.shutdown.cancel();
        self.forwarder.tasks.close();
        if timeout(self.grace, self.forwarder.tasks.wait())
            .await
            .is_err()
        {
            let left = self.forwarder.tasks.len();
            tracing::warn!(left, "not every request through the ingress ended in time");
        }
    }
}

/// Asks a silent client's system whether it is there.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, SILENT_FOR)?;
    sockopt::set_tcp_keepintvl(stream, ASK_AGAIN)?;
    Ok(sockopt::set_tcp_keepcnt(stream, ASKED_MAX)?)
}

struct Acceptor<B: Backend> {
    forwarder: Arc<Forwarder<B>>,
    identity: Identity,
    limits: Limits,
}

impl<B: Backend> Acceptor<B> {
    async fn accept(self, listener: TcpListener) {
        let this = Arc::new(self);
        let slots = Arc::new(Semaphore::new(this.limits.connections_max));
        let clients = Places::default();
        let shutdown = this.forwarder.shutdown.clone();
        let next = async || {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (listener.accept().await, slot)
        };
        while let Some((accepted, slot)) = shutdown.run_until_cancelled(next()).await {
            match accepted {
                Ok((stream, client)) => {
                    let max = this.limits.client_connections_max;
                    let Some(place) = clients.take(origin(client.ip()), max) else {
                        log_limited!(debug, client = %client.ip(), "a client has too many connections");
                        continue;
                    };
                    let serving = Arc::clone(&this).connection(stream, client.ip());
                    this.forwarder.tasks.spawn(async move {
                        serving.await;
                        drop((slot, place));
                    });
                }
                Err(error) => {
                    log_limited!(warn, %error, "the ingress could not accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, client: IpAddr) {
        // Small frames go both ways; waiting to fill packets would slow them all. A client
        // that vanished is noticed even while nothing is sent.
        if let Err(error) = stream.set_nodelay(true).and_then(|()| keep_alive(&stream)) {
            tracing::debug!(%error, "the connection is gone already");
            return;
        }
        let handshake = async {
            if plain::is_http(&stream).await? {
                return plain::answer(stream).await.map(|()| None);
            }
            let tls = TlsAcceptor::from(self.identity.config());
            tls.accept(stream).await.map(Some)
        };
        let stream = match timeout(self.limits.handshake_timeout, handshake).await {
            Ok(Ok(Some(stream))) => stream,
            Ok(Ok(None)) => {
                log_limited!(debug, %client, "a client spoke HTTP to the ingress, not HTTPS");
                return;
            }
            Ok(Err(error)) => {
                log_limited!(debug, %error, "a TLS handshake with the ingress failed");
                return;
            }
            Err(_elapsed) => return,
        };
        let served = if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            self.http2(stream, client).await
        } else {
            self.http1(stream, client).await
        };
        if let Err(error) = served {
            log_limited!(debug, %error, "a connection to the ingress ended badly");
        }
    }

    async fn http1(&self, stream: TlsStream<TcpStream>, client: IpAddr) -> hyper::Result<()> {
        let forwarder = Arc::clone(&self.forwarder);
        let service = service_fn(move |request| {
            let forwarder = Arc::clone(&forwarder);
            async move { Ok::<_, Infallible>(forwarder.answer(request, client).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.head_timeout)
            .max_header_size(self.limits.headers_len_max)
            .max_buf_size((2 * self.limits.headers_len_max).max(BUFFER_LEN_MIN))
            .max_headers(self.limits.headers_max)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            served = connection.as_mut() => served,
            () = self.forwarder.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    }

    async fn http2(&self, stream: TlsStream<TcpStream>, client: IpAddr) -> hyper::Result<()> {
        let forwarder = Arc::clone(&self.forwarder);
        let under_way = UnderWay::default();
        let counted = under_way.clone();
        let service = service_fn(move |request| {
            let (forwarder, one) = (Arc::clone(&forwarder), counted.one());
            async move {
                let response = forwarder.answer(request, client).await;
                Ok::<_, Infallible>(one.until_answered(response))
            }
        });
        let headers_len_max = u32::try_from(self.limits.headers_len_max).unwrap_or(u32::MAX);
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .max_concurrent_streams(self.limits.streams_max)
            .max_header_list_size(headers_len_max)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            served = connection.as_mut() => return served,
            () = self.forwarder.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                return connection.await;
            }
            () = under_way.none_for(self.limits.head_timeout) => {}
        }
        // Two GOAWAYs: what the client sends before it has read the first is answered (RFC
        // 9113, section 6.8), so that nobody loses a request by this.
        connection.as_mut().graceful_shutdown();
        // The client may still be taking the end of an answer; one that never asked for
        // anything has none to take, and may not even have begun to speak HTTP/2.
        let patience = if under_way.any() {
            self.limits.idle_timeout
        } else {
            self.limits.shutdown_grace
        };
        tokio::select! {
            served = connection => served,
            () = under_way.none_for(patience) => Ok(()),
        }
    }
}
