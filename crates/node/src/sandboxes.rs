//! All sandboxes of this node, and how one comes to be: a machine is claimed,
//! given an identity of its own, recorded as the sandbox's, and handed to the
//! task that owns it from then on.

use crate::egress::{AttachError, EgressLink, Network, Residents};
use crate::identity;
use crate::pool::Pool;
use crate::sandbox::{self, EndReason, Handle};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tombolo_host::{AdoptError, Engine, Isolation, LaunchError, Machine};
use tombolo_ids::SandboxId;
use tombolo_net::{Slot, SlotSockets, TakeSlotError};
use tombolo_node_proto::v1::SandboxNetwork;

/// Ends that a watcher may be behind before it must start over.
const ENDS_KEPT_MAX: usize = 1024;
const PERSONALIZE_TIMEOUT: Duration = Duration::from_mins(1);

/// What a new sandbox is to be.
#[derive(Debug, Clone)]
pub(crate) struct NewSandbox {
    pub(crate) id: SandboxId,
    pub(crate) memory_mib: u32,
    pub(crate) deadline_unix_millis: i64,
    pub(crate) env: HashMap<String, String>,
    /// Without one it reaches nothing.
    pub(crate) network: Option<SandboxNetwork>,
}

/// A sandbox that has come to be.
pub(crate) struct Created {
    pub(crate) handle: Handle,
    /// Its machine was waiting.
    pub(crate) from_pool: bool,
    /// What the egress proxy says about its network.
    pub(crate) warnings: Vec<String>,
}

/// A sandbox that ended without being asked to.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    pub(crate) id: SandboxId,
    pub(crate) reason: EndReason,
}

/// Why a sandbox could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateError {
    #[error("this node has a sandbox of that name")]
    Exists,
    #[error("this node has as many sandboxes as it may")]
    Full,
    #[error("the sandbox was ended before it had begun")]
    Unwanted,
    #[error("cannot make a network for the sandbox")]
    Network(#[from] TakeSlotError),
    #[error("cannot give the sandbox its network")]
    Attach(#[from] AttachError),
    #[error("cannot make a machine for the sandbox")]
    Launch(#[from] LaunchError),
    #[error("cannot record the sandbox")]
    Record(#[from] std::io::Error),
    #[error("the host gives no random numbers")]
    Random(#[from] getrandom::Error),
    #[error("the guest did not take its identity")]
    Identity(#[from] Box<tonic::Status>),
    #[error("the guest did not take its identity in time")]
    Slow(#[from] tokio::time::error::Elapsed),
}

/// What a new sandbox is made from.
enum Claim<M> {
    /// A machine that was waiting.
    Waiting(M),
    /// The network of a machine that is still to be made.
    New(Slot),
}

/// What the egress proxy answered.
#[derive(Default)]
struct Attached {
    certificate_pem: Bytes,
    warnings: Vec<String>,
}

/// A place in the table: taken before the sandbox is there.
enum Place {
    Reserved(Beginning),
    Live(Handle),
}

/// A sandbox that is being made.
#[derive(Debug, Clone, Default)]
struct Beginning {
    /// It is to end before it has begun.
    unwanted: CancellationToken,
    /// It has become a sandbox or nothing.
    over: CancellationToken,
}

pub(crate) struct Sandboxes<E: Engine> {
    pub(crate) engine: Arc<E>,
    pub(crate) pool: Pool<E>,
    limit: usize,
    egress: Option<Arc<EgressLink>>,
    places: Arc<Mutex<HashMap<SandboxId, Place>>>,
    ends: broadcast::Sender<Ended>,
}

impl<E: Engine> Sandboxes<E> {
    pub(crate) fn new(
        engine: Arc<E>,
        pool: Pool<E>,
        limit: usize,
        egress: Option<Arc<EgressLink>>,
    ) -> Self {
        Self {
            engine,
            pool,
            limit,
            egress,
            places: Arc::default(),
            ends: broadcast::Sender::new(ENDS_KEPT_MAX),
        }
    }

    pub(crate) fn get(&self, id: &SandboxId) -> Option<Handle> {
        match self.places.lock().get(id)? {
            Place::Live(handle) => Some(handle.clone()),
            Place::Reserved(_) => None,
        }
    }

    pub(crate) fn all(&self) -> Vec<(SandboxId, Handle)> {
        let places = self.places.lock();
        let live = places.iter().filter_map(|(id, slot)| match slot {
            Place::Live(handle) => Some((id.clone(), handle.clone())),
            Place::Reserved(_) => None,
        });
        live.collect()
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Ended> {
        self.ends.subscribe()
    }

    /// Takes over the machines of an earlier run.
    pub(crate) async fn adopt_all(&self) -> Result<usize, AdoptError> {
        let machines = self.engine.adopt_all().await?;
        let count = machines.len();
        for machine in machines {
            if let Some((id, _)) = machine.owner() {
                let id = id.clone();
                // Whether it has one, the egress proxy knows.
                self.start(&id, machine, true);
            }
        }
        Ok(count)
    }

    /// Makes a sandbox.
    pub(crate) async fn create(&self, new: NewSandbox) -> Result<Created, CreateError> {
        let reservation = self.reserve(&new.id)?;
        let _turn = self.pool.turn().await;
        let claim = match self.pool.take(new.memory_mib) {
            Some(machine) => Claim::Waiting(machine),
            None => Claim::New(self.engine.network().await?),
        };
        let from_pool = matches!(claim, Claim::Waiting(_));
        let is_attached = new.network.is_some();
        let attached = match self.attach(&new, &claim).await {
            Ok(attached) => attached,
            Err(error) => {
                self.give_up(&new.id, claim, &error).await?;
                return Err(error.into());
            }
        };
        let machine = match self.make(&new, claim, attached.certificate_pem).await {
            Ok(machine) => machine,
            Err(error) => {
                if let Some(egress) = self.egress.as_ref().filter(|_| is_attached) {
                    egress.detach(&new.id).await;
                }
                return Err(error);
            }
        };
        let created = Created {
            handle: self.start(&new.id, machine, is_attached),
            from_pool,
            warnings: attached.warnings,
        };
        if reservation.keep() {
            return Ok(created);
        }
        created.handle.destroy().await;
        Err(CreateError::Unwanted)
    }

    /// Puts back what a sandbox was to have. A network that may be the
    /// sandbox's all the same is nobody else's: the proxy would answer the next
    /// one's connections by the rules of this one.
    async fn give_up(
        &self,
        id: &SandboxId,
        claim: Claim<E::Machine>,
        error: &AttachError,
    ) -> Result<(), CreateError> {
        let was_never_attached = error.was_never_attached();
        if let Some(egress) = self.egress.as_ref().filter(|_| !was_never_attached) {
            egress.detach(id).await;
        }
        match claim {
            Claim::Waiting(machine) if was_never_attached => self.pool.give_back(machine),
            Claim::Waiting(machine) => machine.destroy().await?,
            Claim::New(network) => network.discard(),
        }
        Ok(())
    }

    /// Gives the sandbox the network of the machine it is to have.
    async fn attach(
        &self,
        new: &NewSandbox,
        claim: &Claim<E::Machine>,
    ) -> Result<Attached, AttachError> {
        let Some(network) = new.network.clone() else {
            return Ok(Attached::default());
        };
        let egress = self.egress.as_ref().ok_or(AttachError::NotConfigured)?;
        let reply = match claim {
            Claim::New(slot) => egress.attach(&new.id, &slot.sockets, network).await?,
            Claim::Waiting(machine) => {
                let slot = machine.network().ok_or(AttachError::Lost)?;
                // It was made here, so the sockets are at hand.
                let sockets: Arc<SlotSockets> = slot.sockets()?;
                egress.attach(&new.id, &sockets, network).await?
            }
        };
        Ok(Attached {
            certificate_pem: reply.ca_certificate_pem.into(),
            warnings: reply.warnings,
        })
    }

    /// A machine that is the sandbox's, on record and in the guest's own eyes.
    async fn make(
        &self,
        new: &NewSandbox,
        claim: Claim<E::Machine>,
        certificate_pem: Bytes,
    ) -> Result<E::Machine, CreateError> {
        // Underscores are not allowed in host names (RFC 1123).
        let name = new.id.as_str().replace('_', "-");
        let identity = identity::new(&name, new.env.clone(), certificate_pem)?;
        let (mut machine, identity) = match claim {
            Claim::Waiting(machine) => (machine, Some(identity)),
            Claim::New(network) => {
                let launched = self.engine.launch(new.memory_mib, network, identity);
                let machine = launched.await?;
                if self.engine.isolation().0 == Isolation::Emulated {
                    tokio::spawn(identity::greet(machine.agent()));
                }
                (machine, None)
            }
        };
        let prepared = async {
            if let Some(identity) = identity {
                let given = identity::give(&machine, identity);
                timeout(PERSONALIZE_TIMEOUT, given).await??;
            }
            machine.set_owner(&new.id, new.deadline_unix_millis)?;
            Ok(())
        };
        let prepared: Result<(), CreateError> = prepared.await;
        match prepared {
            Ok(()) => Ok(machine),
            Err(error) => {
                machine.destroy().await?;
                Err(error)
            }
        }
    }

    /// Ends a sandbox, if it is there or on its way; answers when nothing of
    /// it is left.
    pub(crate) async fn destroy(&self, id: &SandboxId) {
        let beginning = match self.places.lock().get(id) {
            Some(Place::Reserved(beginning)) => Some(beginning.clone()),
            _ => None,
        };
        if let Some(beginning) = beginning {
            beginning.unwanted.cancel();
            beginning.over.cancelled().await;
        }
        if let Some(handle) = self.get(id) {
            handle.destroy().await;
        }
    }

    fn reserve<'a>(&'a self, id: &'a SandboxId) -> Result<Reservation<'a>, CreateError> {
        let mut places = self.places.lock();
        let count = places.len();
        match places.entry(id.clone()) {
            Entry::Occupied(_) => Err(CreateError::Exists),
            Entry::Vacant(_) if count >= self.limit => Err(CreateError::Full),
            Entry::Vacant(vacant) => {
                let beginning = Beginning::default();
                vacant.insert(Place::Reserved(beginning.clone()));
                Ok(Reservation {
                    places: &self.places,
                    id,
                    beginning: Some(beginning),
                })
            }
        }
    }

    /// `is_attached` says whether the egress proxy may know of it.
    fn start(&self, id: &SandboxId, machine: E::Machine, is_attached: bool) -> Handle {
        let places = Arc::clone(&self.places);
        let ends = self.ends.clone();
        // Held until the sandbox is in the table, so that its end, however
        // soon, finds it there.
        let mut table = self.places.lock();
        let egress = self.egress.clone().filter(|_| is_attached);
        let handle = sandbox::start(id.clone(), machine, egress, move |id, reason| {
            places.lock().remove(id);
            if reason != EndReason::Destroyed {
                let id = id.clone();
                // Nobody may be watching, and that is no fault.
                ends.send(Ended { id, reason }).ok();
            }
        });
        let live = Place::Live(handle.clone());
        table.insert(id.clone(), live);
        handle
    }
}

impl<E: Engine> Residents for Sandboxes<E> {
    fn ids(&self) -> Vec<SandboxId> {
        let places = self.places.lock();
        let living = places.iter().filter(|(_, place)| match place {
            Place::Live(handle) => !handle.has_ended(),
            Place::Reserved(_) => true,
        });
        living.map(|(id, _)| id.clone()).collect()
    }

    fn networks(&self) -> Vec<(SandboxId, Arc<dyn Network>)> {
        let live = self.all().into_iter();
        live.filter(|(_, handle)| !handle.has_ended())
            .filter_map(|(id, handle)| Some((id, handle.network()? as Arc<dyn Network>)))
            .collect()
    }
}

/// Gives a place in the table back unless the sandbox came to be.
struct Reservation<'a> {
    places: &'a Mutex<HashMap<SandboxId, Place>>,
    id: &'a SandboxId,
    /// Until the sandbox has come to be.
    beginning: Option<Beginning>,
}

impl Reservation<'_> {
    /// The sandbox came to be; the place is its own now. Answers whether
    /// anybody still wants it.
    fn keep(mut self) -> bool {
        let Some(beginning) = self.beginning.take() else {
            return true;
        };
        beginning.over.cancel();
        !beginning.unwanted.is_cancelled()
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if let Some(beginning) = self.beginning.take() {
            self.places.lock().remove(self.id);
            beginning.over.cancel();
        }
    }
}
