//! Starts a server, takes connections, and stops in order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tombolo_diag::log_limited;
use tombolo_ingress::{AcmeOpenError, IdentityError, Ingress, ListenError};
use tombolo_ssh::Gateway;

use crate::app::App;
use crate::config::ServerConfig;
use crate::database::{Database, OpenDatabaseError, QueryError};
use crate::egress::EgressLink;
use crate::exposures::Exposures;
use crate::follow::{follow_node, measure_usage};
use crate::ingress::{Entrance, Sandboxes};
use crate::node::NodeLink;
use crate::registry::Registry;
use crate::routes::router;
use crate::rpc::StreamIds;
use crate::sandbox::adopt;
use crate::ssh::SshEntrance;
use crate::ssh_logins::SshLogins;

/// All headers of a request together. The create configuration travels in one.
const HEADERS_LEN_MAX: usize = 256 * 1024;
const HEADERS_MAX: usize = 128;
/// How long a client may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECTIONS_MAX: usize = 8192;
/// How long to wait when the system has no descriptor for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Database(#[from] OpenDatabaseError),
    #[error("could not listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("could not read which sandboxes there are")]
    Load(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the system's random source failed")]
    Entropy(#[source] getrandom::Error),
    #[error("could not watch for signals")]
    Signals(#[source] io::Error),
    #[error(transparent)]
    IngressListen(#[from] ListenError),
    #[error("the ingress cannot start")]
    Identity(#[from] IdentityError),
    #[error("the ingress cannot get certificates")]
    Acme(#[from] AcmeOpenError),
    #[error(transparent)]
    SshListen(#[from] tombolo_ssh::OpenError),
    #[error("the SSH gateway cannot start")]
    SshKey(#[from] tombolo_ssh::HostKeyError),
}

impl From<QueryError> for ServeError {
    fn from(error: QueryError) -> Self {
        Self::Load(Box::new(error))
    }
}

/// Where a server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Its API.
    pub api: SocketAddr,
    /// Its ingress, if it has one.
    pub ingress: Option<SocketAddr>,
    /// Its SSH gateway, if it has one.
    pub ssh: Option<SocketAddr>,
}

/// Why a server has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By a signal.
    Stopped,
    /// It was asked to make room for another, and had no sandboxes.
    Retired,
}

/// Serves until SIGTERM, SIGINT or its retirement, then stops in order. `ready` is
/// told the addresses once requests are answered. Sandboxes outlive the server.
pub async fn run(
    config: ServerConfig,
    ready: oneshot::Sender<Addresses>,
) -> Result<Ending, ServeError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signals)?;
    let server = Server::start(config).await?;
    if ready.send(server.addresses()).is_err() {
        tracing::debug!("nobody waits for the server to be ready");
    }
    let ending = tokio::select! {
        _ = terminate.recv() => {
            tracing::info!("stopping: SIGTERM");
            Ending::Stopped
        }
        _ = interrupt.recv() => {
            tracing::info!("stopping: SIGINT");
            Ending::Stopped
        }
        () = server.app.retired.cancelled() => {
            tracing::info!("stopping: it makes room for another");
            Ending::Retired
        }
    };
    server.stop().await;
    Ok(ending)
}

/// A server that runs in the background.
#[derive(Debug)]
pub struct Server {
    app: Arc<App>,
    address: SocketAddr,
    ingress: Option<Ingress<Sandboxes>>,
    ssh: Option<Gateway>,
}

impl Server {
    /// Starts to serve. Needs no node yet: requests wait for it, within bounds.
    pub async fn start(mut config: ServerConfig) -> Result<Self, ServeError> {
        let database = Database::open(&config.database).await?;
        let address = config.listen;
        let listen = |source| ServeError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        config.listen = listener.local_addr().map_err(listen)?;
        let address = config.listen;
        let (entrance, place) = match &config.ingress {
            Some(options) => {
                let entrance = Entrance::open(options).await?;
                let place = entrance.place();
                (Some(entrance), Some(place))
            }
            None => (None, None),
        };
        let ssh = match &config.ssh {
            Some(options) => Some(SshEntrance::open(options).await?),
            None => None,
        };
        let ssh_place = ssh.as_ref().map(SshEntrance::place);
        let seed = getrandom::u64().map_err(ServeError::Entropy)?;
        let app = Arc::new(App {
            node: NodeLink::new(&config.node_socket, config.limits.node_wait),
            egress: config
                .egress_socket
                .as_deref()
                .map(|socket| EgressLink::new(socket, config.limits.node_wait)),
            exposures: Arc::new(Exposures::load(database.clone(), place).await?),
            ssh_logins: SshLogins::load(database.clone(), ssh_place).await?,
            database,
            registry: Registry::default(),
            stream_ids: Arc::new(StreamIds::new(seed)),
            budget: Arc::default(),
            shutdown: CancellationToken::new(),
            retired: CancellationToken::new(),
            tasks: TaskTracker::new(),
            config,
        });
        for record in app.database.unfinished_sandboxes().await? {
            adopt(&app, record).await?;
        }
        app.tasks.spawn(follow_node(Arc::clone(&app)));
        app.tasks.spawn(measure_usage(Arc::clone(&app)));
        app.tasks.spawn(accept(Arc::clone(&app), listener));
        let ingress = entrance.map(|entrance| entrance.start(Sandboxes(Arc::clone(&app))));
        let ssh = ssh.map(|entrance| entrance.start(&app));
        tracing::info!(%address, "serving");
        Ok(Self {
            app,
            address,
            ingress,
            ssh,
        })
    }

    /// Where it and its ingress listen.
    pub fn addresses(&self) -> Addresses {
        Addresses {
            api: self.address,
            ingress: self.ingress.as_ref().map(Ingress::address),
            ssh: self.ssh.as_ref().map(Gateway::address),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers what is under way, closes every connection and the database.
    pub async fn stop(self) {
        self.app.shutdown.cancel();
        if let Some(ingress) = self.ingress {
            ingress.stop().await;
        }
        if let Some(ssh) = self.ssh {
            ssh.stop().await;
        }
        self.app.tasks.close();
        let grace = self.app.config.limits.shutdown_grace;
        if timeout(grace, self.app.tasks.wait()).await.is_err() {
            tracing::warn!(left = self.app.tasks.len(), "not everything ended in time");
        }
        self.app.database.close().await;
    }
}

async fn accept(app: Arc<App>, listener: TcpListener) {
    let router = router(Arc::clone(&app));
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let next = async || {
        let slot = Arc::clone(&slots).acquire_owned().await;
        (listener.accept().await, slot)
    };
    while let Some((accepted, slot)) = app.shutdown.run_until_cancelled(next()).await {
        match accepted {
            Ok((stream, _)) => {
                let service = TowerToHyperService::new(router.clone());
                let serving = serve_connection(stream, service, app.shutdown.clone());
                app.tasks.spawn(async move {
                    serving.await;
                    drop(slot);
                });
            }
            Err(error) => {
                log_limited!(warn, %error, "could not accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(
    stream: TcpStream,
    service: TowerToHyperService<axum::Router>,
    shutdown: CancellationToken,
) {
    // Small frames go both ways; waiting to fill packets would slow them all.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "the connection is gone already");
        return;
    }
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_header_size(HEADERS_LEN_MAX)
        .max_buf_size(2 * HEADERS_LEN_MAX)
        .max_headers(HEADERS_MAX);
    let connection = builder
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        log_limited!(debug, %error, "a connection ended badly");
    }
}
