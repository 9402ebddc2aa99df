//! Addresses that stand for names.
//!
//! The guest's DNS questions are answered with an address of our own for each permitted
//! name, one IPv4 and one IPv6. When the guest connects to it, the proxy knows the name,
//! whatever the protocol, and resolves it itself. So nothing that is asked leaves the host.
//!
//! ```text
//!            assign                 flow opened
//! (no place) ------> Idle <----------------------> Busy
//!                     |          last flow closed
//!                     | no room, and unused for RETIRE_AFTER
//!                     v
//!                  Retired ---- place handed out anew after REUSE_AFTER ----> Idle
//! ```
//!
//! An address is never given to another name while a flow is open, nor soon after: a
//! guest that kept an old answer is refused, not led elsewhere (DNS-12). Places are handed
//! out in a circle through the whole pool, so that the oldest comes again last.
//!
//! Guests cause these calls: everything is bounded and nothing panics.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use thiserror::Error;

use crate::{
    host::HostName,
    rate::{Rate, RateState},
};

/// The first address of the pool: RFC 2544's range, without its first 256 addresses, which
/// are left for gateways and resolvers.
pub const VIP_V4_FIRST: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 0);
/// Places of the pool: up to and without the last address of 198.18.0.0/15.
pub const VIP_PLACES: u32 = (1 << 17) - 256 - 1;
/// Names that have an address at a time.
pub const VIP_NAMES_MAX: usize = 4096;
/// The time to live of answers, in seconds. Short, because policies change.
pub const VIP_ANSWER_TTL_S: u32 = 60;
/// The same for the address of refused names: a person who allows a name tries again at once.
pub const VIP_REFUSAL_TTL_S: u32 = 1;
/// A name that was neither asked for nor connected to for so long may lose its address.
pub const VIP_RETIRE_AFTER: Duration = Duration::from_mins(10);
/// An address that lost its name has none for at least so long.
pub const VIP_REUSE_AFTER: Duration = Duration::from_hours(1);
/// New names below one wildcard: so many at once (DNS-09).
pub const WILDCARD_NAMES_BURST: u32 = 256;
/// New names below one wildcard: the burst comes back over this time.
pub const WILDCARD_NAMES_PERIOD: Duration = Duration::from_hours(1);
/// Wildcards that are counted at a time; a policy has no more entries.
const WILDCARDS_MAX: usize = crate::ALLOW_NET_MAX;

const _: () = assert!(VIP_RETIRE_AFTER.as_secs() > VIP_ANSWER_TTL_S as u64);
const _: () = assert!(VIP_PLACES as usize > 8 * VIP_NAMES_MAX);

/// The addresses of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtualAddresses {
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

/// Why a name gets no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AssignError {
    /// Every name of the table is in use or was lately.
    #[error("{VIP_NAMES_MAX} names are in use at once")]
    Full,
    /// Too many different names below one wildcard, which is how data is carried out in names.
    #[error("too many new names below one wildcard")]
    WildcardRate,
}

/// What stands behind an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup<'a> {
    Name(&'a HostName),
    /// An address of the pool that stands for no name, now or any more.
    Vacant,
    /// The address where refusals are explained ([`VipTable::refusal`]).
    Refusal,
    /// Not an address of the pool.
    Foreign,
}

/// Why a table cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the prefix is not a /64 of fd00::/8 (RFC 4193)")]
pub struct PrefixError;

/// The table of one sandbox.
#[derive(Clone, Debug)]
pub struct VipTable {
    prefix: Ipv6Addr,
    places: BTreeMap<u32, Place>,
    by_name: HashMap<HostName, u32>,
    /// Places without flows, the longest unused first.
    idle: BTreeSet<(Duration, u32)>,
    /// When places lost their names.
    retired: BTreeMap<u32, Duration>,
    /// Where to look for the next place.
    cursor: u32,
    wildcards: HashMap<HostName, RateState>,
}

#[derive(Clone, Debug)]
struct Place {
    name: HostName,
    used_at: Duration,
    flows: u32,
}

impl VipTable {
    /// An empty table. `prefix` is the sandbox's own /64 for the IPv6 addresses; its first
    /// 256 addresses are left for gateways and resolvers. Places are handed out from
    /// `start` on, whatever number that is. A table that takes the place of a lost one begins
    /// at random, so that addresses that a guest kept from before most likely stand for
    /// nothing, and not for other names (DNS-12).
    ///
    /// # Errors
    /// The prefix is not a unique local one, or has bits beyond the 64.
    pub fn new(prefix: Ipv6Addr, start: u32) -> Result<Self, PrefixError> {
        let [first, .., e, f, g, h] = prefix.segments();
        if first & 0xff00 != 0xfd00 || [e, f, g, h] != [0; 4] {
            return Err(PrefixError);
        }
        Ok(Self {
            prefix,
            places: BTreeMap::new(),
            by_name: HashMap::new(),
            idle: BTreeSet::new(),
            retired: BTreeMap::new(),
            cursor: start % VIP_PLACES,
            wildcards: HashMap::new(),
        })
    }

    /// The addresses of `name`, which the policy allowed; below `wildcard`, if it was a
    /// wildcard that allowed it ([`crate::NetworkPolicy::wildcard`]).
    ///
    /// # Errors
    /// There is no room, or there are too many new names below the wildcard. Asking again
    /// later may succeed.
    pub fn assign(
        &mut self,
        name: &HostName,
        wildcard: Option<&HostName>,
        now: Duration,
    ) -> Result<VirtualAddresses, AssignError> {
        if let Some(index) = self.by_name.get(name).copied() {
            self.touch(index, now);
            return Ok(self.addresses(index));
        }
        self.take_wildcard(wildcard, now)?;
        if self.places.len() >= VIP_NAMES_MAX {
            self.retire_oldest(now)?;
        }
        let index = self.next_vacant(now)?;
        let place = Place {
            name: name.clone(),
            used_at: now,
            flows: 0,
        };
        self.places.insert(index, place);
        self.by_name.insert(name.clone(), index);
        self.idle.insert((now, index));
        Ok(self.addresses(index))
    }

    /// What stands behind `address`, an IPv4-mapped one included.
    pub fn lookup(&self, address: IpAddr) -> Lookup<'_> {
        let refusal = self.refusal();
        match address.to_canonical() {
            IpAddr::V4(v4) if v4 == refusal.v4 => return Lookup::Refusal,
            IpAddr::V6(v6) if v6 == refusal.v6 => return Lookup::Refusal,
            _ => {}
        }
        match self.index(address) {
            None => Lookup::Foreign,
            Some(index) => match self.places.get(&index) {
                Some(place) => Lookup::Name(&place.name),
                None => Lookup::Vacant,
            },
        }
    }

    /// The addresses that stand for every name that is refused. They are none of the pool,
    /// so that a guest that asks for many such names fills nothing. Nothing that is sent to
    /// them goes anywhere: HTTP is told why, and anything else is closed.
    pub fn refusal(&self) -> VirtualAddresses {
        VirtualAddresses {
            v4: REFUSAL_V4,
            v6: Ipv6Addr::from(u128::from(self.prefix) | REFUSAL_V6_SUFFIX),
        }
    }

    /// Notes a flow to `address` and answers its name; none when it stands for none. Each
    /// flow that was noted is ended with [`Self::close_flow`].
    pub fn open_flow(&mut self, address: IpAddr, now: Duration) -> Option<HostName> {
        let index = self.index(address)?;
        let place = self.places.get_mut(&index)?;
        let flows = place.flows.checked_add(1)?;
        self.idle.remove(&(place.used_at, index));
        place.flows = flows;
        place.used_at = place.used_at.max(now);
        Some(place.name.clone())
    }

    /// Notes the end of a flow that [`Self::open_flow`] noted.
    pub fn close_flow(&mut self, address: IpAddr, now: Duration) {
        let Some(index) = self.index(address) else {
            return;
        };
        let Some(place) = self.places.get_mut(&index) else {
            return;
        };
        place.flows = place.flows.saturating_sub(1);
        self.touch(index, now);
    }

    /// Names that have an address now.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    fn touch(&mut self, index: u32, now: Duration) {
        let Some(place) = self.places.get_mut(&index) else {
            return;
        };
        self.idle.remove(&(place.used_at, index));
        place.used_at = place.used_at.max(now);
        if place.flows == 0 {
            self.idle.insert((place.used_at, index));
        }
    }

    fn take_wildcard(
        &mut self,
        wildcard: Option<&HostName>,
        now: Duration,
    ) -> Result<(), AssignError> {
        let Some(ancestor) = wildcard else {
            return Ok(());
        };
        let Some(rate) = Rate::per(WILDCARD_NAMES_BURST, WILDCARD_NAMES_PERIOD) else {
            return Err(AssignError::WildcardRate);
        };
        if !self.wildcards.contains_key(ancestor) && self.wildcards.len() >= WILDCARDS_MAX {
            // Wildcards of older policies; those that were used up are kept.
            self.wildcards.retain(|_, state| !state.is_idle(now));
            if self.wildcards.len() >= WILDCARDS_MAX {
                return Err(AssignError::WildcardRate);
            }
        }
        let state = self.wildcards.entry(ancestor.clone()).or_default();
        if rate.take(state, now) {
            Ok(())
        } else {
            Err(AssignError::WildcardRate)
        }
    }

    fn retire_oldest(&mut self, now: Duration) -> Result<(), AssignError> {
        let oldest = self.idle.first().copied();
        let (used_at, index) = oldest.ok_or(AssignError::Full)?;
        if now.saturating_sub(used_at) < VIP_RETIRE_AFTER {
            return Err(AssignError::Full);
        }
        self.idle.remove(&(used_at, index));
        if let Some(place) = self.places.remove(&index) {
            self.by_name.remove(&place.name);
        }
        self.retired.insert(index, now);
        Ok(())
    }

    fn next_vacant(&mut self, now: Duration) -> Result<u32, AssignError> {
        self.retired
            .retain(|_, at| now.saturating_sub(*at) < VIP_REUSE_AFTER);
        let taken = self.places.len() + self.retired.len();
        for _ in 0..=taken {
            let index = self.cursor;
            self.cursor = (self.cursor + 1) % VIP_PLACES;
            if !self.places.contains_key(&index) && !self.retired.contains_key(&index) {
                return Ok(index);
            }
        }
        Err(AssignError::Full)
    }

    fn addresses(&self, index: u32) -> VirtualAddresses {
        let v4 = u32::from(VIP_V4_FIRST).wrapping_add(index);
        let v6 = u128::from(self.prefix) | u128::from(index + V6_FIRST);
        VirtualAddresses {
            v4: Ipv4Addr::from(v4),
            v6: Ipv6Addr::from(v6),
        }
    }

    fn index(&self, address: IpAddr) -> Option<u32> {
        let index = match address.to_canonical() {
            IpAddr::V4(v4) => u32::from(v4).checked_sub(u32::from(VIP_V4_FIRST))?,
            IpAddr::V6(v6) => {
                let suffix = u128::from(v6) ^ u128::from(self.prefix);
                u32::try_from(suffix).ok()?.checked_sub(V6_FIRST)?
            }
        };
        (index < VIP_PLACES).then_some(index)
    }
}

/// Among those that [`VIP_V4_FIRST`] leaves out, and its twin.
const REFUSAL_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const REFUSAL_V6_SUFFIX: u128 = 1;
/// The first 256 IPv6 addresses are left out, as the first 256 IPv4 addresses are.
const V6_FIRST: u32 = 256;

#[cfg(test)]
mod tests;
