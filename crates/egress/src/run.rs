//! Starts a proxy, keeps it, and stops it in good order.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
};

use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
};
use tokio_stream::wrappers::UnixListenerStream;
use tombolo_ids::random_text;
use tombolo_node_proto::egress::egress_server::EgressServer;
use tombolo_policy::{OperatorRules, OperatorRulesError};

use crate::{
    audit::{Audit, OpenAuditError, Writer},
    clock::Clock,
    config::{EgressConfig, EgressListeners},
    control::{Control, Descriptors},
    counters::Counters,
    harden::harden,
    registry::Registry,
    sandbox::Shared,
    store::{Store, StoreError},
    upstream::{Identities, IdentitiesError, Resolver, ResolverError, RootsError, read_roots},
};

/// How long the prefix of identifiers of records is.
const PREFIX_LEN: usize = 12;

/// Why a proxy stopped.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// The process could not be protected.
    #[error("cannot keep the memory of the process from being read")]
    Harden(#[source] io::Error),
    /// The operator's tables are not valid.
    #[error("the operator's hosts and private networks cannot be used")]
    Operator(#[from] OperatorRulesError),
    /// Keys and sandboxes cannot be read.
    #[error("cannot use the state of the proxy")]
    Store(#[from] StoreError),
    /// Records cannot be written.
    #[error("cannot write records")]
    Audit(#[from] OpenAuditError),
    /// Hosts could not be verified.
    #[error("cannot verify hosts")]
    Roots(#[from] RootsError),
    /// Hosts that ask for a certificate could not be shown it.
    #[error("cannot use the client certificates")]
    Identities(#[from] IdentitiesError),
    /// Names could not be resolved.
    #[error("cannot resolve names")]
    Resolver(#[from] ResolverError),
    /// Another proxy uses the same state.
    #[error("another egress process uses {path}; stop it first")]
    Busy {
        /// The file both want to lock.
        path: PathBuf,
    },
    /// The kernel gave no randomness.
    #[error("cannot name records")]
    Entropy(#[from] tombolo_ids::EntropyError),
    /// A file or a socket failed.
    #[error("cannot use the proxy's files")]
    Files(#[from] io::Error),
    /// The socket could not be served.
    #[error("cannot serve the proxy's socket")]
    Serve(#[from] tonic::transport::Error),
}

/// Runs a proxy until SIGTERM or SIGINT. `ready` is called once it answers. The process
/// is its own user by then: this gives up no more than what its memory can be read by.
///
/// # Errors
/// What kept it from starting or from going on.
pub async fn run(
    config: EgressConfig,
    listeners: EgressListeners,
    ready: impl FnOnce(),
) -> Result<(), EgressError> {
    harden().map_err(EgressError::Harden)?;
    let (store, opening_key) = Store::open(&config.state_dir)?;
    let _lock = lock(&config.state_dir)?;
    let hosts = config
        .hosts
        .iter()
        .map(|(name, to)| (name.as_str(), to.as_str()));
    let certified = config.client_certificates.iter();
    let certified = certified.map(|certificate| certificate.host.as_str());
    let networks = config.private_networks.iter().map(String::as_str);
    let counters = Arc::new(Counters::default());
    let (audit, lines) = Audit::new(Arc::clone(&counters), random_text(PREFIX_LEN)?);
    let writer = Writer::open(config.state_dir.clone(), config.audit, lines).await?;
    let shared = Arc::new(Shared {
        clock: Clock::start(),
        audit,
        counters,
        operator: OperatorRules::parse(hosts, networks)?.with_client_certificates(certified)?,
        resolver: Resolver::system()?,
        roots: read_roots(&config.root_files)?,
        identities: Identities::read(&config.client_certificates)?,
        flow_serial: AtomicU64::new(0),
    });
    let registry = Arc::new(Registry::new(shared, store, opening_key));
    let descriptors = Arc::new(Descriptors::default());
    let control = Control {
        registry: Arc::clone(&registry),
        descriptors: Arc::clone(&descriptors),
    };
    let incoming = UnixListenerStream::new(UnixListener::from_std(listeners.control)?);
    let descriptor_listener = UnixListener::from_std(listeners.descriptors)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let writer = tokio::spawn(writer.run());
    let serve = tonic::transport::Server::builder()
        .add_service(EgressServer::new(control))
        .serve_with_incoming(incoming);
    ready();
    let result = tokio::select! {
        result = serve => result.map_err(EgressError::from),
        () = descriptors.serve(descriptor_listener) => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    registry.close().await;
    // With the last holder of the queue gone, the writer ends when all is written.
    drop(registry);
    if let Err(error) = writer.await {
        tracing::error!(%error, "the records were not written to the end");
    }
    result
}

fn lock(directory: &Path) -> Result<File, EgressError> {
    let path = directory.join("lock");
    let file = File::create(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(EgressError::Busy { path }),
        Err(std::fs::TryLockError::Error(error)) => Err(error.into()),
    }
}
