//! How long to wait between attempts that fail: what keeps them from succeeding,
//! a full disk for instance, seldom goes away by itself.

use std::mem;
use std::time::Duration;

/// A delay that grows with each failure.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RetryDelay {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl RetryDelay {
    /// From `first` on, twice as long each time, up to `longest`.
    pub(crate) const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// The delay after one more failure.
    pub(crate) fn next(&mut self) -> Duration {
        let longer = self.next.saturating_mul(2).min(self.longest);
        mem::replace(&mut self.next, longer)
    }

    /// After a success.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_that_fail_come_less_and_less_often() {
        let mut delay = RetryDelay::new(Duration::from_secs(2), Duration::from_secs(30));
        let mut seconds =
            |count| -> Vec<_> { (0..count).map(|_| delay.next().as_secs()).collect() };
        assert_eq!(seconds(8), [2, 4, 8, 16, 30, 30, 30, 30]);
        delay.reset();
        assert_eq!(delay.next().as_secs(), 2);
    }
}
