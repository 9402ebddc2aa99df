//! One sandbox: everything that its flows share, and nothing that another's do.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rustls::RootCertStore;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};
use tokio_stream::wrappers::WatchStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tombolo_policy::{
    HostName, Lookup, OperatorRules, PrefixError, RateLimits, RateState, Transport, VipTable,
};
use tombolo_substitute::{Composite, Composites, ScrubMode, Scrubber};

use crate::{
    audit::{Audit, Draft, Record},
    authority::Authority,
    clock::Clock,
    counters::Counters,
    flow::FlowFacts,
    identity::{Peer, Place},
    rules::Rules,
    upstream::{Dialler, Identities, Pool, Resolver},
};

/// Connections that a sandbox may have at a time; further ones are reset.
pub(crate) const CONNECTIONS_MAX: usize = 1024;
/// Requests that a sandbox may have under way, on all its connections together.
pub(crate) const REQUESTS_MAX: usize = 1024;
/// `WebSocket`s among them: each may hold a long message in either direction.
pub(crate) const WEBSOCKETS_MAX: usize = 64;
/// What a sandbox's request bodies may take of memory where they are read whole, in KiB.
pub(crate) const BUFFERS_KIB: u32 = 64 << 10;
/// What decoders of a sandbox's bodies may take of memory, in KiB: twelve of the widest
/// window, two thousand of the usual one.
pub(crate) const DECODERS_KIB: u32 = 256 << 10;
/// How long a body waits for room.
const BUFFER_TIMEOUT: Duration = Duration::from_secs(10);
/// The /64 from which names get their IPv6 addresses; beside the one that guests are in.
const VIRTUAL_PREFIX: Ipv6Addr = Ipv6Addr::new(0xfd54, 0x6f6d, 0x626f, 1, 0, 0, 0, 0);

/// What all sandboxes share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) audit: Arc<Audit>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) operator: OperatorRules,
    pub(crate) resolver: Resolver,
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) identities: Identities,
    pub(crate) flow_serial: AtomicU64,
}

/// Who a sandbox is.
#[derive(Clone, Debug)]
pub(crate) struct SandboxIdentity {
    pub(crate) id: Arc<str>,
    pub(crate) organisation: Arc<str>,
    pub(crate) labels: BTreeMap<String, String>,
}

/// A sandbox whose traffic this process carries.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) identity: SandboxIdentity,
    pub(crate) authority: Authority,
    pub(crate) pool: Pool,
    pub(crate) shared: Arc<Shared>,
    /// Ends with the sandbox.
    pub(crate) closed: CancellationToken,
    pub(crate) tasks: TaskTracker,
    rules: watch::Sender<Arc<Rules>>,
    vips: Mutex<VipTable>,
    limits: Mutex<RateLimits>,
    composites: Mutex<Composites>,
    connections: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    websockets: Arc<Semaphore>,
    buffers: Arc<Semaphore>,
    decoders: Arc<Semaphore>,
    dns_rate: Mutex<RateState>,
}

/// A sandbox cannot be carried.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    /// The TLS client refused its configuration.
    #[error("cannot configure TLS")]
    Tls(#[from] rustls::Error),
    /// The prefix of virtual addresses is wrong.
    #[error("cannot make virtual addresses")]
    Prefix(#[from] PrefixError),
    /// The kernel gave no randomness.
    #[error("cannot choose where virtual addresses begin")]
    Entropy(#[from] getrandom::Error),
}

/// Keeps a virtual address in use while a flow to it is open.
#[derive(Debug)]
pub(crate) struct AddressLease {
    sandbox: Arc<Sandbox>,
    address: IpAddr,
}

/// What a guest's own destination address stands for.
#[derive(Debug)]
pub(crate) enum Destination {
    Peer(Peer, Option<AddressLease>),
    /// A virtual address that stands for nothing, now or any more (DNS-12).
    Vacant,
    /// The address of refused names, in canonical form.
    Refusal(IpAddr),
}

impl Sandbox {
    pub(crate) fn new(
        identity: SandboxIdentity,
        rules: Rules,
        authority: Authority,
        shared: Arc<Shared>,
    ) -> Result<Arc<Self>, SandboxError> {
        let (closed, tasks) = (CancellationToken::new(), TaskTracker::new());
        let dialler = Dialler::new(shared.resolver.clone(), &shared.roots, &shared.identities)?;
        Ok(Arc::new(Self {
            identity,
            authority,
            pool: Pool::new(dialler, tasks.clone(), closed.clone()),
            shared,
            closed,
            tasks,
            rules: watch::Sender::new(Arc::new(rules)),
            vips: Mutex::new(VipTable::new(VIRTUAL_PREFIX, getrandom::u32()?)?),
            limits: Mutex::default(),
            composites: Mutex::default(),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
            websockets: Arc::new(Semaphore::new(WEBSOCKETS_MAX)),
            buffers: Arc::new(Semaphore::new(BUFFERS_KIB as usize)),
            decoders: Arc::new(Semaphore::new(DECODERS_KIB as usize)),
            dns_rate: Mutex::default(),
        }))
    }

    /// What holds now.
    pub(crate) fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.borrow())
    }

    /// What holds now, and each time that something else does.
    pub(crate) fn watch_rules(&self) -> WatchStream<Arc<Rules>> {
        WatchStream::new(self.rules.subscribe())
    }

    /// What holds from now on. Requests that begin later are held to it, and flows that it
    /// does not allow end (NET-15).
    pub(crate) fn replace_rules(&self, mut rules: Rules) {
        rules.share_secrets(&self.rules());
        self.limits.lock().retain(rules.policy.requests());
        self.rules.send_replace(Arc::new(rules));
        self.pool.clear();
    }

    /// Returns when the rules no longer allow connections to this place.
    pub(crate) async fn until_revoked(&self, place: &Place) {
        let mut rules = self.rules.subscribe();
        let allows = |rules: &Arc<Rules>| {
            let network = rules.policy.network();
            network
                .decide_connect(place.peer.target(), place.port, Transport::Tcp)
                .is_allowed()
        };
        // The sender lives as long as the sandbox, which outlives its flows.
        if rules.wait_for(|rules| !allows(rules)).await.is_err() {
            self.closed.cancelled().await;
        }
    }

    /// What a destination stands for; notes the flow, so that its address stays.
    pub(crate) fn destination(self: &Arc<Self>, address: IpAddr) -> Destination {
        let now = self.shared.clock.now();
        let mut vips = self.vips.lock();
        match vips.lookup(address) {
            Lookup::Foreign => Destination::Peer(Peer::Address(address.to_canonical()), None),
            Lookup::Vacant => Destination::Vacant,
            Lookup::Refusal => Destination::Refusal(address.to_canonical()),
            Lookup::Name(_) => match vips.open_flow(address, now) {
                Some(name) => {
                    let sandbox = Arc::clone(self);
                    let lease = AddressLease { sandbox, address };
                    Destination::Peer(Peer::Name(name), Some(lease))
                }
                None => Destination::Vacant,
            },
        }
    }

    /// The table of virtual addresses, for DNS.
    pub(crate) fn with_vips<T>(&self, act: impl FnOnce(&mut VipTable) -> T) -> T {
        act(&mut self.vips.lock())
    }

    pub(crate) fn with_limits<T>(&self, act: impl FnOnce(&mut RateLimits) -> T) -> T {
        act(&mut self.limits.lock())
    }

    pub(crate) fn with_dns_rate<T>(&self, act: impl FnOnce(&mut RateState) -> T) -> T {
        act(&mut self.dns_rate.lock())
    }

    /// Remembers what was made of values, before the request is sent.
    pub(crate) fn register_composites(&self, made: Vec<Composite>) {
        let mut composites = self.composites.lock();
        for composite in made {
            if let Err(error) = composites.register(composite) {
                tracing::error!(%error, "cannot search responses for a composite value");
            }
        }
    }

    /// A search of one response for everything that must not reach the guest.
    pub(crate) fn scrubber(&self, rules: &Rules, mode: ScrubMode) -> Option<Scrubber> {
        rules.secrets.scrubber(&self.composites.lock(), mode)
    }

    /// The same for something short: for the values of `rules`, and of those that hold now.
    pub(crate) fn scrub(&self, rules: &Rules, mode: ScrubMode, text: &[u8]) -> Option<Vec<u8>> {
        let now = self.rules();
        let composites = self.composites.lock();
        let clean = rules.secrets.scrub(&composites, mode, text);
        if Arc::ptr_eq(&now.secrets, &rules.secrets) {
            return clean;
        }
        let newer = now
            .secrets
            .scrub(&composites, mode, clean.as_deref().unwrap_or(text));
        newer.or(clean)
    }

    /// Room for one connection more, if there is.
    pub(crate) fn admit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.connections).try_acquire_owned().ok()
    }

    /// Room for one request more, if there is.
    pub(crate) fn admit_request(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.requests).try_acquire_owned().ok()
    }

    /// Room for one `WebSocket` more, if there is.
    pub(crate) fn admit_websocket(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.websockets).try_acquire_owned().ok()
    }

    /// Room to hold so many bytes, as soon as there is; none if there is not for a while.
    pub(crate) async fn reserve_buffer(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        reserve(&self.buffers, kib.min(BUFFERS_KIB)).await
    }

    /// Room for decoders of so much, as soon as there is; none if there is not for a while.
    pub(crate) async fn reserve_decoders(&self, kib: u32) -> Option<OwnedSemaphorePermit> {
        reserve(&self.decoders, kib.min(DECODERS_KIB)).await
    }

    /// Whether a decoder of the widest window might have to wait.
    pub(crate) fn lacks_room_for_decoders(&self) -> bool {
        self.decoders.available_permits() < DECODERS_KIB as usize / 2
    }

    /// The facts of a new flow.
    pub(crate) fn flow_facts(
        &self,
        source: SocketAddr,
        original: SocketAddr,
        name: Option<HostName>,
    ) -> FlowFacts {
        FlowFacts {
            id: self.shared.flow_serial.fetch_add(1, Ordering::Relaxed),
            organisation: Arc::clone(&self.identity.organisation),
            sandbox: Arc::clone(&self.identity.id),
            source,
            original,
            name,
        }
    }

    pub(crate) fn begin_record(&self, facts: &FlowFacts, proto: &'static str) -> Draft {
        let mut record = Record::new(facts, proto);
        record.policy_gen = self.rules.borrow().policy.generation();
        self.shared.audit.begin(record)
    }

    /// Ends every flow and waits until they have.
    pub(crate) async fn close(&self) {
        self.closed.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.pool.clear();
    }
}

async fn reserve(room: &Arc<Semaphore>, kib: u32) -> Option<OwnedSemaphorePermit> {
    let reserved = Arc::clone(room).acquire_many_owned(kib);
    timeout(BUFFER_TIMEOUT, reserved).await.ok()?.ok()
}

impl Drop for AddressLease {
    fn drop(&mut self) {
        let now = self.sandbox.shared.clock.now();
        self.sandbox.vips.lock().close_flow(self.address, now);
    }
}
