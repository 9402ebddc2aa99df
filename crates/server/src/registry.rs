//! The sandboxes this server looks after, and what each organisation holds.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tombolo_ids::{MemoryMib, OrganisationId, SandboxId};
use tombolo_lifecycle::{AdmissionRefusal, Demand, InUse, Ledger, OrganisationLimits};

use crate::sandbox::SandboxHandle;

#[derive(Debug, Default)]
pub(crate) struct Registry {
    sandboxes: Mutex<HashMap<SandboxId, SandboxHandle>>,
    ledger: Arc<Mutex<Ledger>>,
}

impl Registry {
    pub(crate) fn get(&self, id: &SandboxId) -> Option<SandboxHandle> {
        self.sandboxes.lock().get(id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<SandboxHandle> {
        self.sandboxes.lock().values().cloned().collect()
    }

    pub(crate) fn insert(&self, handle: SandboxHandle) {
        self.sandboxes.lock().insert(handle.id().clone(), handle);
    }

    pub(crate) fn remove(&self, id: &SandboxId) {
        self.sandboxes.lock().remove(id);
    }

    /// Books one more sandbox, until the booking is dropped.
    pub(crate) fn admit(
        &self,
        organisation: &OrganisationId,
        demand: Demand,
        limits: &OrganisationLimits,
    ) -> Result<Reservation, AdmissionRefusal> {
        self.ledger.lock().admit(organisation, demand, limits)?;
        Ok(self.reservation(organisation, demand))
    }

    /// Takes no more sandboxes, if there are none.
    pub(crate) fn close(&self) -> Result<(), InUse> {
        self.ledger.lock().close()
    }

    /// Books a sandbox that exists already.
    pub(crate) fn book(&self, organisation: &OrganisationId, demand: Demand) -> Reservation {
        self.ledger.lock().book(organisation, demand);
        self.reservation(organisation, demand)
    }

    fn reservation(&self, organisation: &OrganisationId, demand: Demand) -> Reservation {
        Reservation {
            ledger: Arc::clone(&self.ledger),
            organisation: organisation.clone(),
            demand,
        }
    }
}

/// Counts against an organisation's limits as long as it exists.
#[derive(Debug)]
pub(crate) struct Reservation {
    ledger: Arc<Mutex<Ledger>>,
    organisation: OrganisationId,
    demand: Demand,
}

impl Reservation {
    /// The node granted more than was asked for, which the organisation holds
    /// whatever its limits.
    pub(crate) fn grant(&mut self, memory: MemoryMib) {
        let granted = Demand {
            memory,
            ..self.demand
        };
        let mut ledger = self.ledger.lock();
        ledger.release(&self.organisation, self.demand);
        ledger.book(&self.organisation, granted);
        self.demand = granted;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.ledger.lock().release(&self.organisation, self.demand);
    }
}
