//! All sandboxes of this node, and how one comes to be: a machine is claimed,
//! given an identity of its own, recorded as the sandbox's, and handed to the
//! task that owns it from then on.

use crate::identity;
use crate::pool::Pool;
use crate::sandbox::{self, EndReason, Handle};
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

/// A place in the table: taken before the sandbox is there.
enum Slot {
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
    slots: Arc<Mutex<HashMap<SandboxId, Slot>>>,
    ends: broadcast::Sender<Ended>,
}

impl<E: Engine> Sandboxes<E> {
    pub(crate) fn new(engine: Arc<E>, pool: Pool<E>, limit: usize) -> Self {
        Self {
            engine,
            pool,
            limit,
            slots: Arc::default(),
            ends: broadcast::Sender::new(ENDS_KEPT_MAX),
        }
    }

    pub(crate) fn get(&self, id: &SandboxId) -> Option<Handle> {
        match self.slots.lock().get(id)? {
            Slot::Live(handle) => Some(handle.clone()),
            Slot::Reserved(_) => None,
        }
    }

    pub(crate) fn all(&self) -> Vec<(SandboxId, Handle)> {
        let slots = self.slots.lock();
        let live = slots.iter().filter_map(|(id, slot)| match slot {
            Slot::Live(handle) => Some((id.clone(), handle.clone())),
            Slot::Reserved(_) => None,
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
                self.start(&id, machine);
            }
        }
        Ok(count)
    }

    /// Makes a sandbox. Answers its handle and whether a machine was waiting.
    pub(crate) async fn create(&self, new: NewSandbox) -> Result<(Handle, bool), CreateError> {
        let reservation = self.reserve(&new.id)?;
        let _turn = self.pool.turn().await;
        // Underscores are not allowed in host names (RFC 1123).
        let name = new.id.as_str().replace('_', "-");
        let identity = identity::new(&name, new.env)?;
        let waiting = self.pool.take(new.memory_mib);
        let from_pool = waiting.is_some();
        let (mut machine, identity) = if let Some(machine) = waiting {
            (machine, Some(identity))
        } else {
            let machine = self.engine.launch(new.memory_mib, identity).await?;
            if self.engine.isolation().0 == Isolation::Emulated {
                tokio::spawn(identity::greet(machine.agent()));
            }
            (machine, None)
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
        if let Err(error) = prepared {
            machine.destroy().await?;
            return Err(error);
        }
        let handle = self.start(&new.id, machine);
        if reservation.keep() {
            return Ok((handle, from_pool));
        }
        handle.destroy().await;
        Err(CreateError::Unwanted)
    }

    /// Ends a sandbox, if it is there or on its way; answers when nothing of
    /// it is left.
    pub(crate) async fn destroy(&self, id: &SandboxId) {
        let beginning = match self.slots.lock().get(id) {
            Some(Slot::Reserved(beginning)) => Some(beginning.clone()),
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
        let mut slots = self.slots.lock();
        let count = slots.len();
        match slots.entry(id.clone()) {
            Entry::Occupied(_) => Err(CreateError::Exists),
            Entry::Vacant(_) if count >= self.limit => Err(CreateError::Full),
            Entry::Vacant(vacant) => {
                let beginning = Beginning::default();
                vacant.insert(Slot::Reserved(beginning.clone()));
                Ok(Reservation {
                    slots: &self.slots,
                    id,
                    beginning: Some(beginning),
                })
            }
        }
    }

    fn start(&self, id: &SandboxId, machine: E::Machine) -> Handle {
        let slots = Arc::clone(&self.slots);
        let ends = self.ends.clone();
        // Held until the sandbox is in the table, so that its end, however
        // soon, finds it there.
        let mut table = self.slots.lock();
        let handle = sandbox::start(id.clone(), machine, move |id, reason| {
            slots.lock().remove(id);
            if reason != EndReason::Destroyed {
                let id = id.clone();
                // Nobody may be watching, and that is no fault.
                ends.send(Ended { id, reason }).ok();
            }
        });
        let live = Slot::Live(handle.clone());
        table.insert(id.clone(), live);
        handle
    }
}

/// Gives a place in the table back unless the sandbox came to be.
struct Reservation<'a> {
    slots: &'a Mutex<HashMap<SandboxId, Slot>>,
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
            self.slots.lock().remove(self.id);
            beginning.over.cancel();
        }
    }
}
