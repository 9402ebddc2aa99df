//! How often something may happen: the generic cell rate algorithm (ITU-T I.371).
//!
//! These few lines are ours because the libraries for it own a clock and shared maps,
//! and here `now` is an argument and the owner of the state is its only user.

use std::time::Duration;

/// At most `burst` at once, and then one every `interval`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    burst: u32,
    interval: Duration,
}

/// What one limit remembers: when it would be as if nothing had happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateState {
    /// On the same clock as `now`.
    idle_at: Duration,
}

impl RateState {
    /// Whether it is as if nothing had ever been taken.
    pub fn is_idle(self, now: Duration) -> bool {
        self.idle_at <= now
    }
}

impl Rate {
    /// `count` in each `period`, all of them at once if need be.
    ///
    /// None when either is nothing, or when the period is too short to divide.
    pub fn per(count: u32, period: Duration) -> Option<Self> {
        let interval = period.checked_div(count)?;
        (!interval.is_zero()).then_some(Self {
            burst: count,
            interval,
        })
    }

    /// Takes one if there is one. `now` is any clock that does not go back; if it does,
    /// nothing is gained by it.
    pub fn take(&self, state: &mut RateState, now: Duration) -> bool {
        match self.next(*state, now) {
            Some(next) => {
                *state = next;
                true
            }
            None => false,
        }
    }

    /// Whether [`Self::take`] would succeed.
    pub fn has(&self, state: RateState, now: Duration) -> bool {
        self.next(state, now).is_some()
    }

    fn next(&self, state: RateState, now: Duration) -> Option<RateState> {
        let idle_at = state.idle_at.max(now).checked_add(self.interval)?;
        let ahead = idle_at.saturating_sub(now);
        let permitted = self.interval.saturating_mul(self.burst);
        (ahead <= permitted).then_some(RateState { idle_at })
    }
}

#[cfg(test)]
mod tests;
