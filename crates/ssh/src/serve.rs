//! Takes connections of clients.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use russh::keys::Algorithm;
use russh::server::{Config, run_stream};
use russh::{Disconnect, MethodKind, MethodSet, Preferred, SshId};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tombolo_diag::log_limited;
use tombolo_places::{Place, Places, origin};

use crate::backend::Backend;
use crate::connection::Connection;
use crate::host_key::HostKey;
use crate::limits::{Failures, Limits};
use crate::pace::{Gauge, Paced};
use crate::shared::{Common, over};

/// How long to wait when the system has no descriptor for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Messages that may wait in one channel. Long before there are so many the connection is
/// read no more: the session must never wait here.
const QUEUE_MAX: usize = 512 * 1024;
const WINDOW_BYTES: u32 = 1024 * 1024;
const PACKET_BYTES: u32 = 32 * 1024;

/// The gateway cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("the SSH gateway could not listen on {address}")]
pub struct OpenError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// Where a gateway will take connections; they wait until it is started.
#[derive(Debug)]
pub struct Listening {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listening {
    /// Port 0 takes a free one.
    pub async fn at(address: SocketAddr) -> Result<Self, OpenError> {
        let open = |source| OpenError { address, source };
        let listener = TcpListener::bind(address).await.map_err(open)?;
        let address = listener.local_addr().map_err(open)?;
        Ok(Self { listener, address })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A gateway that runs in the background.
#[derive(Debug)]
pub struct Gateway {
    address: SocketAddr,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    grace: Duration,
}

impl Gateway {
    /// Starts to serve. Must be called within a Tokio runtime.
    pub fn start(
        listening: Listening,
        key: &HostKey,
        limits: Limits,
        backend: impl Backend,
    ) -> Self {
        let Listening { listener, address } = listening;
        let shutdown = CancellationToken::new();
        let tasks = TaskTracker::new();
        let grace = limits.shutdown_grace;
        let config = Arc::new(config(key, &limits));
        let common = Arc::new(Common {
            backend,
            limits: Arc::new(limits),
            failures: Failures::default(),
            addresses: Places::default(),
            entering: Places::default(),
            sandboxes: Places::default(),
            since: Instant::now(),
            tasks: tasks.clone(),
        });
        tasks.spawn(accept(listener, config, common, shutdown.clone()));
        tracing::info!(%address, "the SSH gateway serves");
        Self {
            address,
            shutdown,
            tasks,
            grace,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Tells every client and closes its connection. Programs that were started go on as
    /// they do when a client is gone.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.close();
        if timeout(self.grace, self.tasks.wait()).await.is_err() {
            let left = self.tasks.len();
            tracing::warn!(left, "not every SSH connection ended in time");
        }
    }
}

fn config(key: &HostKey, limits: &Limits) -> Config {
    // What is left to try once a name alone was refused, and so no password is asked for.
    // Those who send one with a name that is good are let in all the same.
    let methods = [MethodKind::PublicKey];
    Config {
        server_id: SshId::Standard("SSH-2.0-Tombolo".into()),
        methods: MethodSet::from(methods.as_slice()),
        auth_rejection_time: limits.refusal_time,
        keys: vec![key.private()],
        window_size: WINDOW_BYTES,
        maximum_packet_size: PACKET_BYTES,
        channel_buffer_size: QUEUE_MAX,
        preferred: Preferred {
            key: vec![Algorithm::Ed25519].into(),
            ..Preferred::DEFAULT
        },
        max_auth_attempts: limits.attempts_max,
        // A client that is not read cannot be heard: the gauge knows when that is so.
        inactivity_timeout: None,
        keepalive_interval: Some(limits.keepalive_interval),
        // Answers wait behind input that no program takes; who is really gone is found
        // by TCP, or by the silence.
        keepalive_max: 0,
        ..Config::default()
    }
}

async fn accept<B: Backend>(
    listener: TcpListener,
    config: Arc<Config>,
    common: Arc<Common<B>>,
    shutdown: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(common.limits.connections_max));
    let next = async || {
        let slot = Arc::clone(&slots).acquire_owned().await;
        (listener.accept().await, slot)
    };
    while let Some((accepted, slot)) = shutdown.run_until_cancelled(next()).await {
        match accepted {
            Ok((stream, client)) => {
                let Some(visitor) = Visitor::admit(&common, client.ip()) else {
                    continue;
                };
                let serving = serve(
                    stream,
                    visitor,
                    Arc::clone(&config),
                    Arc::clone(&common),
                    shutdown.clone(),
                );
                common.tasks.spawn(async move {
                    if let Err(error) = serving.await {
                        log_limited!(debug, %error, "an SSH connection ended badly");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                log_limited!(warn, %error, "the SSH gateway could not accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Somebody who is heard.
struct Visitor {
    address: IpAddr,
    place: Place<IpAddr>,
    entering: Place<IpAddr>,
}

impl Visitor {
    fn admit<B>(common: &Common<B>, address: IpAddr) -> Option<Self> {
        let address = origin(address);
        let limits = &common.limits;
        if common.failures.refuses(address, limits, common.now()) {
            log_limited!(warn, client = %address, "too many logins that failed");
            return None;
        }
        let place = common
            .addresses
            .take(address, limits.connections_of_address_max);
        let entering = common
            .entering
            .take(address, limits.entering_of_address_max);
        let (Some(place), Some(entering)) = (place, entering) else {
            log_limited!(warn, client = %address, "too many SSH connections of one address");
            return None;
        };
        Some(Self {
            address,
            place,
            entering,
        })
    }
}

async fn serve<B: Backend>(
    stream: TcpStream,
    visitor: Visitor,
    config: Arc<Config>,
    common: Arc<Common<B>>,
    shutdown: CancellationToken,
) -> Result<(), russh::Error> {
    // Keystrokes are small; waiting to fill packets would slow them all.
    stream.set_nodelay(true)?;
    let limits = Arc::clone(&common.limits);
    let gauge = Gauge::new(limits.held_len_max, limits.held_len_starved_max);
    let stream = Paced::new(stream, gauge.clone());
    let (let_in, entering) = oneshot::channel();
    let Visitor {
        address,
        place: _place,
        entering: place_to_enter,
    } = visitor;
    let connection = Connection::new(common, address, place_to_enter, gauge.clone(), let_in);
    let starting = timeout(limits.login_timeout, run_stream(config, stream, connection));
    let mut running = match starting.await {
        Ok(running) => running?,
        Err(_elapsed) => return Ok(()),
    };
    let reason = tokio::select! {
        ended = &mut running => return ended,
        reason = over::<B>(entering, &limits) => reason,
        () = gauge.silence(limits.idle_timeout) => "the client is silent",
        () = shutdown.cancelled() => "the server stops",
    };
    let handle = running.handle();
    let ending = async {
        let told = handle.disconnect(Disconnect::ByApplication, reason.to_owned(), String::new());
        if told.await.is_err() {
            tracing::debug!("the client is gone already");
        }
        (&mut running).await
    };
    match timeout(limits.shutdown_grace / 2, ending).await {
        Ok(ended) => ended,
        Err(_elapsed) => {
            gauge.cut();
            running.await
        }
    }
}
