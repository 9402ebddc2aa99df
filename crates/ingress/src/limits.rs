//! What clients and programs can make this process hold.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Owners of whom something is remembered; beyond it, of those with nothing under way
/// it is forgotten.
const OWNERS_REMEMBERED: usize = 1024;

/// The bounds of an ingress.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections of clients at a time.
    pub connections_max: usize,
    /// Of one client, by its address: the network of 64 bits if that is of IPv6.
    pub client_connections_max: usize,
    /// Requests of one HTTP/2 connection at a time.
    pub streams_max: u32,
    /// Requests and upgraded connections to one owner at a time.
    pub requests_max: usize,
    /// Requests to one owner, each second on average.
    pub requests_per_second: u32,
    /// Requests to one owner at once after a pause.
    pub burst: u32,
    /// All headers of a request or a response together, in bytes.
    pub headers_len_max: usize,
    /// How many headers those are.
    pub headers_max: usize,
    /// How long a client may take for its TLS handshake.
    pub handshake_timeout: Duration,
    /// How long a client may take for the head of a request, the first and each after
    /// it. A connection on which none has been under way for so long is ended.
    pub head_timeout: Duration,
    /// How long a sandbox may take to connect.
    pub connect_timeout: Duration,
    /// How long a request or an upgraded connection may go without a byte either way,
    /// a response that has begun excepted.
    pub idle_timeout: Duration,
    /// How long a connection to a program is kept for the next request.
    pub keep_timeout: Duration,
    /// Connections to one program that are kept.
    pub kept_max: usize,
    /// How long requests under way may take when the ingress stops.
    pub shutdown_grace: Duration,
}

impl Limits {
    /// What an ingress does when nobody says otherwise.
    pub const STANDARD: Self = Self {
        connections_max: 4096,
        client_connections_max: 1024,
        streams_max: 128,
        requests_max: 256,
        requests_per_second: 2000,
        burst: 4000,
        headers_len_max: 64 * 1024,
        headers_max: 128,
        handshake_timeout: Duration::from_secs(10),
        head_timeout: Duration::from_secs(30),
        connect_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_mins(5),
        // Servers close after 5 s, the most hasty of them; a request that meets the close
        // would be lost.
        keep_timeout: Duration::from_secs(4),
        kept_max: 32,
        shutdown_grace: Duration::from_secs(5),
    };
}

/// A rate with a burst, as the generic cell rate algorithm keeps it: the moment at which
/// all that was let through would have come evenly.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rate {
    even: Duration,
}

impl Rate {
    /// Lets one more through at `now`, or says how long to wait.
    pub(crate) fn take(&mut self, limits: &Limits, now: Duration) -> Result<(), Duration> {
        let interval = Duration::from_secs(1) / limits.requests_per_second.max(1);
        let tolerance = interval * limits.burst.saturating_sub(1);
        let even = self.even.max(now);
        let ahead = even.saturating_sub(now);
        if ahead > tolerance {
            return Err(ahead.saturating_sub(tolerance));
        }
        self.even = even.saturating_add(interval);
        Ok(())
    }

    /// Whether it remembers nothing that matters.
    fn is_rested(&self, now: Duration) -> bool {
        self.even <= now
    }
}

/// Why a request is not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Too many a second; how long to wait.
    Rate(Duration),
    /// Too many at a time.
    Concurrency,
}

/// Lets requests through as far as their owners' bounds go.
#[derive(Debug)]
pub(crate) struct Gates {
    limits: Limits,
    owners: Mutex<HashMap<String, Gate>>,
}

#[derive(Debug)]
struct Gate {
    rate: Rate,
    slots: Arc<Semaphore>,
}

impl Gates {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            owners: Mutex::default(),
        }
    }

    /// Counts a request against its owner's bounds, as long as the permit is there.
    /// `now` counts from any fixed moment.
    pub(crate) fn admit(
        &self,
        owner: &str,
        now: Duration,
    ) -> Result<OwnedSemaphorePermit, Refused> {
        let mut owners = self.owners.lock();
        if owners.len() >= OWNERS_REMEMBERED && !owners.contains_key(owner) {
            let full = self.limits.requests_max;
            owners.retain(|_, gate| {
                gate.slots.available_permits() < full || !gate.rate.is_rested(now)
            });
        }
        let gate = owners.entry(owner.to_owned()).or_insert_with(|| Gate {
            rate: Rate::default(),
            slots: Arc::new(Semaphore::new(self.limits.requests_max)),
        });
        gate.rate.take(&self.limits, now).map_err(Refused::Rate)?;
        Arc::clone(&gate.slots)
            .try_acquire_owned()
            .map_err(|_full| Refused::Concurrency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            requests_max: 2,
            requests_per_second: 10,
            burst: 3,
            ..Limits::STANDARD
        }
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let mut rate = Rate::default();
        let at = |millis| Duration::from_millis(millis);
        let cases = [
            (0, Ok(())),
            (0, Ok(())),
            (0, Ok(())),
            (0, Err(at(100))),
            (99, Err(at(1))),
            (100, Ok(())),
            (100, Err(at(100))),
            (1000, Ok(())),
            (1000, Ok(())),
            (1000, Ok(())),
            (1000, Err(at(100))),
        ];
        for (step, (now, expected)) in cases.into_iter().enumerate() {
            assert_eq!(rate.take(&limits(), at(now)), expected, "step {step}");
        }
    }

    #[test]
    fn owners_have_bounds_of_their_own() {
        let gates = Gates::new(limits());
        let now = Duration::ZERO;
        let held = [
            gates.admit("a", now).unwrap(),
            gates.admit("a", now).unwrap(),
        ];
        assert_eq!(gates.admit("a", now).unwrap_err(), Refused::Concurrency);
        drop(gates.admit("b", now).unwrap());
        drop(held);
        let later = now + Duration::from_secs(1);
        drop(gates.admit("a", later).unwrap());
    }

    #[test]
    fn who_has_nothing_under_way_is_forgotten() {
        let gates = Gates::new(limits());
        let busy = gates.admit("busy", Duration::ZERO).unwrap();
        let later = Duration::from_mins(1);
        for owner in 0..2 * OWNERS_REMEMBERED as u64 {
            let now = later + Duration::from_secs(owner);
            drop(gates.admit(&owner.to_string(), now).unwrap());
        }
        assert!(gates.owners.lock().len() <= OWNERS_REMEMBERED);
        assert!(gates.owners.lock().contains_key("busy"));
        drop(busy);
    }
}
