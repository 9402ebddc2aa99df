//! Starts a node, keeps it, and stops it in good order.

use crate::config::NodeConfig;
use crate::egress::EgressLink;
use crate::image;
use crate::passthrough::Passthrough;
use crate::pool::Pool;
use crate::sandboxes::Sandboxes;
use crate::service::NodeService;
use std::fs::File;
use std::io;
use std::num::NonZero;
use std::os::unix::fs::{PermissionsExt, chown};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tombolo_host::agent_channel::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES};
use tombolo_host::{
    AdoptError, Artefacts, BuildTemplateError, Engine, EngineConfig, LoadArtefactsError,
    QemuEngine, StartEngineError,
};
use tombolo_node_proto::v1::node_server::NodeServer;

/// Templates kept on disk; each is about as large as what its guest touched.
const TEMPLATE_COUNT_MAX: usize = 8;
/// Networks that wait for machines, in the node of a busy host: each costs
/// milliseconds to make and 0.3 MiB to keep.
const SLOT_COUNT: usize = 4;
/// Calls one connection may have under way: every process of a sandbox has a
/// few that last as long as it does.
const CONCURRENT_CALLS_MAX: u32 = 16_384;
/// Calls of one connection that were cancelled before they were looked at.
/// Many end at once when a client of the server goes; without a bound, opening
/// and cancelling would cost the other side nothing.
const CANCELLED_CALLS_MAX: usize = 1024;
/// Streams of one connection that the other side broke a rule on.
const BROKEN_CALLS_MAX: usize = 1024;
/// Headers of one call together. The server sends a few short ones.
const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;

/// Why a node stopped.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Set-up has not been done.
    #[error("this machine is not set up")]
    Artefacts(#[from] LoadArtefactsError),
    /// The engine could not start.
    #[error("cannot start the VM engine")]
    Engine(#[from] StartEngineError),
    /// Earlier VMs could not be taken over.
    #[error("cannot take over the VMs of an earlier run")]
    Adopt(#[from] AdoptError),
    /// Another node uses the same state.
    #[error("another node uses {path}; stop it first")]
    Busy {
        /// The file both want to lock.
        path: std::path::PathBuf,
    },
    /// The image does not fit on the disk that sandboxes are to have.
    #[error("disk_gib = {disk_gib} is less than the {image_gib} GiB of the image; raise it")]
    DiskTooSmall {
        /// What is configured.
        disk_gib: u32,
        /// What the image takes, rounded up.
        image_gib: u64,
    },
    /// A file or the socket failed.
    #[error("cannot use the node's files")]
    Files(#[from] io::Error),
    /// The node's socket could not be served, or the egress proxy's is no path.
    #[error("cannot serve the node's socket")]
    Serve(#[from] tonic::transport::Error),
    /// A comparison boot failed.
    #[error("cannot boot a VM without a template")]
    ColdBoot(#[from] BuildTemplateError),
}

/// Settles on an isolation and makes the default template, as far as that has
/// not been done. `progress` is told what takes time.
pub async fn prepare(
    config: &NodeConfig,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<(), NodeError> {
    let _lock = lock(config)?;
    progress("booting the template VM");
    start_engine(config).await?;
    Ok(())
}

/// Boots the VM of the default size without a template; for comparison. It may
/// run beside a node.
pub async fn cold_boot(config: &NodeConfig) -> Result<Duration, NodeError> {
    let engine = QemuEngine::settle(engine_config(config)?, config.isolation).await?;
    Ok(engine.time_cold_boot().await?)
}

/// Runs a node until SIGTERM or SIGINT. `ready` is called once it answers.
pub async fn run(config: NodeConfig, ready: impl FnOnce()) -> Result<(), NodeError> {
    let _lock = lock(&config)?;
    let engine = Arc::new(start_engine(&config).await?);
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let pool = Pool::new(
        Arc::clone(&engine),
        config.default_memory_mib,
        config.pool_size,
        processors,
    );
    let egress = config.egress.clone().map(EgressLink::new).transpose()?;
    let egress = egress.map(Arc::new);
    let limit = config.sandbox_limit;
    let sandboxes = Arc::new(Sandboxes::new(engine, pool, limit, egress.clone()));
    let adopted = sandboxes.adopt_all().await?;
    if adopted > 0 {
        tracing::info!(adopted, "took over the sandboxes of an earlier run");
    }

    let stop = CancellationToken::new();
    let keeper = {
        let (sandboxes, stop) = (Arc::clone(&sandboxes), stop.clone());
        tokio::spawn(async move { sandboxes.pool.keep_filled(stop).await })
    };
    let linked = {
        let sandboxes = Arc::clone(&sandboxes);
        async move {
            match egress {
                Some(egress) => egress.keep_linked(&*sandboxes).await,
                None => std::future::pending().await,
            }
        }
    };
    let listener = listen(&config)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stopped = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let serve = serve(&config, &sandboxes, listener);
    ready();
    let result = tokio::select! {
        result = serve => result,
        () = linked => Ok(()),
        () = stopped => Ok(()),
    };
    stop.cancel();
    // It only ends machines that belong to nobody; a panic there is logged.
    if let Err(error) = keeper.await {
        tracing::error!(%error, "the pool was not emptied");
    }
    tombolo_host::remove_empty_parent();
    result
}

async fn serve<E: Engine>(
    config: &NodeConfig,
    sandboxes: &Arc<Sandboxes<E>>,
    listener: UnixListener,
) -> Result<(), NodeError> {
    let service = NodeService {
        sandboxes: Arc::clone(sandboxes),
        disk_bytes: gib(config.disk_gib),
        default_memory_mib: config.default_memory_mib,
        vcpu_count: config.vcpu_count,
    };
    tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(CONCURRENT_CALLS_MAX)
        .http2_max_pending_accept_reset_streams(Some(CANCELLED_CALLS_MAX))
        .http2_max_local_error_reset_streams(Some(BROKEN_CALLS_MAX))
        .http2_max_header_list_size(HEADER_LIST_BYTES_MAX)
        .add_service(NodeServer::new(service))
        .add_service(Passthrough::new(Arc::clone(sandboxes)))
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await?;
    Ok(())
}

async fn start_engine(config: &NodeConfig) -> Result<QemuEngine, NodeError> {
    Ok(QemuEngine::start(engine_config(config)?, config.isolation).await?)
}

fn engine_config(config: &NodeConfig) -> Result<EngineConfig, NodeError> {
    let artefacts = Artefacts::load(&config.state_dir)?;
    let image_bytes = image::disk_bytes(&artefacts.image)?;
    // A layer that ends before what is below it would cut the file system off.
    if gib(config.disk_gib) < image_bytes {
        return Err(NodeError::DiskTooSmall {
            disk_gib: config.disk_gib,
            image_gib: image_bytes.div_ceil(1 << 30),
        });
    }
    Ok(EngineConfig {
        state_dir: config.state_dir.clone(),
        artefacts,
        vcpu_count: config.vcpu_count,
        disk_gib: config.disk_gib,
        default_memory_mib: config.default_memory_mib,
        template_count_max: TEMPLATE_COUNT_MAX,
        slot_count: SLOT_COUNT,
    })
}

fn gib(count: u32) -> u64 {
    u64::from(count) << 30
}

/// Held as long as a node uses its state.
fn lock(config: &NodeConfig) -> Result<File, NodeError> {
    let path = config.state_dir.join("node.lock");
    let file = File::create(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(NodeError::Busy { path }),
        Err(std::fs::TryLockError::Error(error)) => Err(error.into()),
    }
}

/// Puts the socket in its place at once, with its final owner, so that nobody
/// else can connect in between.
fn listen(config: &NodeConfig) -> io::Result<UnixListener> {
    let temporary = config.socket.with_extension("new");
    fs_err::remove_file(&temporary).ok();
    let listener = UnixListener::bind(&temporary)?;
    let (uid, gid) = config.socket_owner;
    chown(&temporary, Some(uid), Some(gid))?;
    fs_err::set_permissions(&temporary, PermissionsExt::from_mode(0o600))?;
    fs_err::rename(&temporary, &config.socket)?;
    Ok(listener)
}
