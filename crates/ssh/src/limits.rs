//! What clients can make this process do and hold.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;

/// Addresses of which something is remembered.
const ADDRESSES_REMEMBERED: usize = 4096;
/// So many connections without an attempt weigh as one that was refused.
const REFUSED_WEIGHT: u32 = 5;

/// The bounds of a gateway.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections of clients at a time.
    pub connections_max: usize,
    /// Those of one address, or of one IPv6 network of 64 bits.
    pub connections_of_address_max: usize,
    /// Those of one address that are not let in yet.
    pub entering_of_address_max: usize,
    /// Those into one sandbox.
    pub connections_of_sandbox_max: usize,
    /// Channels of one connection at a time: programs and forwarded connections.
    pub channels_max: usize,
    /// Ports that one connection forwards from its sandbox.
    pub forwards_max: usize,
    /// Attempts to log in of one connection.
    pub attempts_max: usize,
    /// Connections of one address that are refused, within `failures_window`, until its
    /// connections are closed unheard. Five that end without an attempt weigh as one.
    pub failures_max: u32,
    pub failures_window: Duration,
    /// How long an attempt that is refused takes, whatever it was.
    pub refusal_time: Duration,
    /// How long a client may take until it is let in.
    pub login_timeout: Duration,
    /// How long a connection may go without a byte from the client. One that is there
    /// answers keepalives.
    pub idle_timeout: Duration,
    /// How often a silent client is asked whether it is there.
    pub keepalive_interval: Duration,
    /// How long a sandbox may take to start a program or to connect.
    pub start_timeout: Duration,
    /// How long a sandbox may take to be told a signal or the size of a terminal.
    pub tell_timeout: Duration,
    /// How long the output of a terminal may pause, once its program has ended, before
    /// nothing more is expected of what else holds it.
    pub linger: Duration,
    /// Variables of one program's environment.
    pub environment_max: usize,
    /// Their names and values together, in bytes.
    pub environment_len_max: usize,
    /// What a connection may hold of what came on channels on which no program was
    /// started, in bytes. Beyond, it ends.
    pub unstarted_len_max: usize,
    /// What a connection may hold of what programs have not read yet, in bytes. It is
    /// read no more until they have.
    pub held_len_max: usize,
    /// The same while the client is to tell first that it has read.
    pub held_len_starved_max: usize,
    /// How long connections may take to end when the gateway stops.
    pub shutdown_grace: Duration,
}

impl Limits {
    /// What a gateway does when nobody says otherwise.
    pub const STANDARD: Self = Self {
        connections_max: 512,
        connections_of_address_max: 128,
        entering_of_address_max: 32,
        connections_of_sandbox_max: 64,
        channels_max: 128,
        forwards_max: 32,
        attempts_max: 6,
        failures_max: 20,
        failures_window: Duration::from_mins(1),
        refusal_time: Duration::from_secs(1),
        login_timeout: Duration::from_mins(1),
        idle_timeout: Duration::from_mins(10),
        keepalive_interval: Duration::from_secs(30),
        start_timeout: Duration::from_secs(15),
        tell_timeout: Duration::from_secs(5),
        linger: Duration::from_millis(500),
        environment_max: 64,
        environment_len_max: 32 * 1024,
        unstarted_len_max: 512 * 1024,
        held_len_max: 1024 * 1024,
        held_len_starved_max: 16 * 1024 * 1024,
        shutdown_grace: Duration::from_secs(5),
    };
}

/// How a connection ended before anybody was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// An attempt was refused.
    Refused,
    /// There was none, as with those who look for hosts' keys or whether anybody listens.
    Silent,
}

impl Failure {
    pub(crate) fn of(is_refused: bool) -> Self {
        if is_refused {
            Self::Refused
        } else {
            Self::Silent
        }
    }

    fn weight(self) -> u32 {
        match self {
            Self::Refused => REFUSED_WEIGHT,
            Self::Silent => 1,
        }
    }
}

/// Counts attempts that fail, by the address they come from.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    addresses: Mutex<HashMap<IpAddr, Failing>>,
}

#[derive(Clone, Copy, Debug)]
struct Failing {
    since: Duration,
    weight: u32,
}

impl Failures {
    /// `now` counts from any fixed moment.
    pub(crate) fn count(&self, address: IpAddr, failure: Failure, limits: &Limits, now: Duration) {
        let mut addresses = self.addresses.lock();
        let is_over =
            |failing: &Failing| now.saturating_sub(failing.since) >= limits.failures_window;
        if addresses.len() >= ADDRESSES_REMEMBERED && !addresses.contains_key(&address) {
            addresses.retain(|_, failing| !is_over(failing));
            if addresses.len() >= ADDRESSES_REMEMBERED {
                // So many at once: the oldest has had the longest pause.
                let oldest = addresses.iter().min_by_key(|(_, failing)| failing.since);
                if let Some(oldest) = oldest.map(|(address, _)| *address) {
                    addresses.remove(&oldest);
                }
            }
        }
        let fresh = Failing {
            since: now,
            weight: 0,
        };
        let failing = addresses.entry(address).or_insert(fresh);
        if is_over(failing) {
            *failing = fresh;
        }
        failing.weight = failing.weight.saturating_add(failure.weight());
    }

    /// Whether an address is to wait.
    pub(crate) fn refuses(&self, address: IpAddr, limits: &Limits, now: Duration) -> bool {
        self.addresses.lock().get(&address).is_some_and(|failing| {
            failing.weight >= limits.failures_max.saturating_mul(REFUSED_WEIGHT)
                && now.saturating_sub(failing.since) < limits.failures_window
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn an_address_that_fails_too_often_waits_and_no_other_does() {
        let limits = Limits {
            failures_max: 2,
            failures_window: Duration::from_secs(10),
            ..Limits::STANDARD
        };
        let failures = Failures::default();
        let one = IpAddr::from(Ipv4Addr::new(192, 0, 2, 1));
        let other = IpAddr::from(Ipv4Addr::new(192, 0, 2, 2));
        let at = Duration::from_secs;
        failures.count(one, Failure::Refused, &limits, at(0));
        assert!(!failures.refuses(one, &limits, at(0)));
        failures.count(one, Failure::Refused, &limits, at(1));
        assert!(failures.refuses(one, &limits, at(9)));
        assert!(!failures.refuses(other, &limits, at(9)));
        assert!(!failures.refuses(one, &limits, at(10)));
        failures.count(one, Failure::Refused, &limits, at(10));
        assert!(!failures.refuses(one, &limits, at(10)));
    }

    #[test]
    fn many_that_say_nothing_are_one_that_fails() {
        let limits = Limits {
            failures_max: 1,
            ..Limits::STANDARD
        };
        let failures = Failures::default();
        let address = IpAddr::from(Ipv4Addr::LOCALHOST);
        for _ in 1..REFUSED_WEIGHT {
            failures.count(address, Failure::Silent, &limits, Duration::ZERO);
            assert!(!failures.refuses(address, &limits, Duration::ZERO));
        }
        failures.count(address, Failure::Silent, &limits, Duration::ZERO);
        assert!(failures.refuses(address, &limits, Duration::ZERO));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let failures = Failures::default();
        for number in (0..).take(2 * ADDRESSES_REMEMBERED) {
            let address = IpAddr::from(Ipv4Addr::from_bits(number));
            failures.count(address, Failure::Refused, &Limits::STANDARD, Duration::ZERO);
        }
        assert_eq!(failures.addresses.lock().len(), ADDRESSES_REMEMBERED);
    }
}
