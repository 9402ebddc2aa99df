//! Who may create another sandbox.

use std::collections::BTreeMap;

use tombolo_ids::{DiskBytes, MemoryMib, OrganisationId};

/// What one organisation may hold at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrganisationLimits {
    pub sandboxes_max: u32,
    pub memory_total_mib_max: u64,
    pub disk_total_bytes_max: u64,
}

/// What one sandbox takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    pub memory: MemoryMib,
    pub disk: DiskBytes,
}

/// What an organisation holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    pub sandboxes: u32,
    pub memory_mib: u64,
    pub disk_bytes: u64,
}

/// Why another sandbox may not be created.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionRefusal {
    #[error("the organisation runs {held} sandboxes already, its limit is {limit}")]
    Sandboxes { held: u32, limit: u32 },
    #[error(
        "the organisation's sandboxes hold {held} MiB of memory, {asked} MiB more would exceed \
         its limit of {limit} MiB"
    )]
    Memory { held: u64, asked: u64, limit: u64 },
    #[error(
        "the organisation's sandboxes hold {held} bytes of disk, {asked} more would exceed its \
         limit of {limit}"
    )]
    Disk { held: u64, asked: u64, limit: u64 },
    #[error("the server is ending and takes no more sandboxes; try again")]
    Closed,
}

/// Why a ledger was not closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{sandboxes} sandboxes are there or being created")]
pub struct InUse {
    /// Of all organisations.
    pub sandboxes: u32,
}

/// What every organisation holds now.
#[derive(Debug, Default)]
pub struct Ledger {
    held: BTreeMap<OrganisationId, Holdings>,
    closed: bool,
}

impl Ledger {
    pub fn holdings(&self, organisation: &OrganisationId) -> Holdings {
        self.held.get(organisation).copied().unwrap_or_default()
    }

    /// Books one more sandbox if the limits allow it.
    pub fn admit(
        &mut self,
        organisation: &OrganisationId,
        demand: Demand,
        limits: &OrganisationLimits,
    ) -> Result<(), AdmissionRefusal> {
        if self.closed {
            return Err(AdmissionRefusal::Closed);
        }
        let held = self.holdings(organisation);
        if held.sandboxes >= limits.sandboxes_max {
            return Err(AdmissionRefusal::Sandboxes {
                held: held.sandboxes,
                limit: limits.sandboxes_max,
            });
        }
        let asked = u64::from(demand.memory.0);
        if held.memory_mib.saturating_add(asked) > limits.memory_total_mib_max {
            return Err(AdmissionRefusal::Memory {
                held: held.memory_mib,
                asked,
                limit: limits.memory_total_mib_max,
            });
        }
        let asked = demand.disk.0;
        if held.disk_bytes.saturating_add(asked) > limits.disk_total_bytes_max {
            return Err(AdmissionRefusal::Disk {
                held: held.disk_bytes,
                asked,
                limit: limits.disk_total_bytes_max,
            });
        }
        self.book(organisation, demand);
        Ok(())
    }

    /// Admits nobody any more, if nobody holds anything. Both at once, so that no
    /// sandbox comes between the question and its answer.
    pub fn close(&mut self) -> Result<(), InUse> {
        let held = self.held.values().map(|held| held.sandboxes);
        match held.fold(0, u32::saturating_add) {
            0 => {
                self.closed = true;
                Ok(())
            }
            sandboxes => Err(InUse { sandboxes }),
        }
    }

    /// Books a sandbox that exists whatever the limits say now.
    pub fn book(&mut self, organisation: &OrganisationId, demand: Demand) {
        let held = self.held.entry(organisation.clone()).or_default();
        held.sandboxes = held.sandboxes.saturating_add(1);
        held.memory_mib = held.memory_mib.saturating_add(demand.memory.0.into());
        held.disk_bytes = held.disk_bytes.saturating_add(demand.disk.0);
    }

    /// Gives back what was booked, with the same demand.
    pub fn release(&mut self, organisation: &OrganisationId, demand: Demand) {
        let Some(held) = self.held.get_mut(organisation) else {
            return;
        };
        held.sandboxes = held.sandboxes.saturating_sub(1);
        held.memory_mib = held.memory_mib.saturating_sub(demand.memory.0.into());
        held.disk_bytes = held.disk_bytes.saturating_sub(demand.disk.0);
        if held.sandboxes == 0 {
            self.held.remove(organisation);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: OrganisationLimits = OrganisationLimits {
        sandboxes_max: 3,
        memory_total_mib_max: 4096,
        disk_total_bytes_max: 100,
    };

    fn demand(memory: u32, disk: u64) -> Demand {
        Demand {
            memory: MemoryMib(memory),
            disk: DiskBytes(disk),
        }
    }

    fn organisation(number: u8) -> OrganisationId {
        format!("org_{number:020}").parse().unwrap()
    }

    #[test]
    fn every_limit_holds_exactly() {
        let one = organisation(1);
        let cases = [
            (vec![demand(1, 1); 3], None),
            (vec![demand(1, 1); 4], Some("runs 3 sandboxes already")),
            (vec![demand(2048, 1); 2], None),
            (
                vec![demand(2048, 1), demand(2049, 1)],
                Some("limit of 4096 MiB"),
            ),
            (vec![demand(1, 50); 2], None),
            (vec![demand(1, 50), demand(1, 51)], Some("limit of 100")),
            (vec![demand(1, u64::MAX)], Some("limit of 100")),
        ];
        for (demands, refusal) in cases {
            let mut ledger = Ledger::default();
            let last = demands
                .iter()
                .map(|demand| ledger.admit(&one, *demand, &LIMITS))
                .last()
                .unwrap();
            let said = last.err().map(|error| error.to_string());
            assert_eq!(said.is_some(), refusal.is_some(), "{demands:?} {said:?}");
            if let (Some(said), Some(expected)) = (said, refusal) {
                assert!(said.contains(expected), "{said}");
            }
            assert_eq!(ledger.holdings(&organisation(2)), Holdings::default());
        }
    }

    #[test]
    fn a_ledger_closes_for_good_and_only_when_nobody_holds_anything() {
        let (one, other) = (organisation(1), organisation(2));
        let mut ledger = Ledger::default();
        ledger.admit(&one, demand(1, 1), &LIMITS).unwrap();
        ledger.book(&other, demand(1, 1));
        assert_eq!(ledger.close(), Err(InUse { sandboxes: 2 }));
        ledger.release(&other, demand(1, 1));
        assert_eq!(ledger.close(), Err(InUse { sandboxes: 1 }));
        ledger.admit(&other, demand(1, 1), &LIMITS).unwrap();
        ledger.release(&one, demand(1, 1));
        ledger.release(&other, demand(1, 1));
        for _ in 0..2 {
            assert_eq!(ledger.close(), Ok(()));
            let refused = ledger.admit(&one, demand(1, 1), &LIMITS);
            assert_eq!(refused, Err(AdmissionRefusal::Closed));
        }
    }

    proptest! {
        /// The model is the list of sandboxes itself.
        #[test]
        fn the_ledger_is_the_sum_of_what_it_admitted(
            steps in proptest::collection::vec((0..3_u8, 0..3000_u32, 0..60_u64, any::<bool>()), 1..60)
        ) {
            let mut ledger = Ledger::default();
            let mut model: Vec<(u8, Demand)> = Vec::new();
            for (number, memory, disk, create) in steps {
                let of = organisation(number);
                let mine = |model: &[(u8, Demand)]| -> Holdings {
                    model.iter().filter(|(n, _)| *n == number).fold(Holdings::default(), |sum, (_, d)| Holdings {
                        sandboxes: sum.sandboxes + 1,
                        memory_mib: sum.memory_mib + u64::from(d.memory.0),
                        disk_bytes: sum.disk_bytes + d.disk.0,
                    })
                };
                if create {
                    let asked = demand(memory, disk);
                    let before = mine(&model);
                    let fits = before.sandboxes < 3
                        && before.memory_mib + u64::from(memory) <= 4096
                        && before.disk_bytes + disk <= 100;
                    prop_assert_eq!(ledger.admit(&of, asked, &LIMITS).is_ok(), fits);
                    if fits {
                        model.push((number, asked));
                    }
                } else if let Some(at) = model.iter().position(|(n, _)| *n == number) {
                    let (_, released) = model.remove(at);
                    ledger.release(&of, released);
                }
                prop_assert_eq!(ledger.holdings(&of), mine(&model));
            }
        }
    }
}
