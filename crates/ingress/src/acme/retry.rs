//! When an authority is asked again after an attempt that failed.

use std::time::Duration;

/// The first wait after nobody was reached. A machine that has just started may have no
/// network yet, and what nobody heard of weighs on nobody.
const UNREACHED_FIRST: Duration = Duration::from_secs(10);
/// The first wait after any other failure, and the longest after each. Let's Encrypt takes
/// five failed validations of a name within an hour.
const HEARD_FIRST: Duration = Duration::from_mins(2);
const LAST: Duration = Duration::from_hours(6);

/// How an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// There was no connection to the authority.
    Unreached,
    /// In any other way: the authority may have heard of it.
    Heard,
}

/// The waits after attempts that failed one after another.
#[derive(Debug)]
pub(super) struct Waits {
    next: Duration,
}

impl Waits {
    pub(super) fn new() -> Self {
        Self {
            next: UNREACHED_FIRST,
        }
    }

    /// How long to wait after one more that failed.
    pub(super) fn after(&mut self, failed: Failed) -> Duration {
        let wait = match failed {
            Failed::Unreached => self.next,
            Failed::Heard => self.next.max(HEARD_FIRST),
        };
        self.next = wait.saturating_mul(2).min(LAST);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::Failed::{Heard, Unreached};
    use super::*;

    #[test]
    fn waits_double_and_are_short_only_while_nobody_was_reached() {
        let cases: [(&[Failed], &[u64]); 5] = [
            (&[Unreached; 6], &[10, 20, 40, 80, 160, 320]),
            (&[Heard; 3], &[120, 240, 480]),
            (&[Unreached, Heard, Unreached], &[10, 120, 240]),
            (&[Heard, Unreached, Heard], &[120, 240, 480]),
            (
                &[Unreached, Unreached, Unreached, Unreached, Unreached, Heard],
                &[10, 20, 40, 80, 160, 320],
            ),
        ];
        for (failures, expected) in cases {
            let mut waits = Waits::new();
            let after = failures.iter().map(|failed| waits.after(*failed).as_secs());
            assert_eq!(after.collect::<Vec<_>>(), expected, "{failures:?}");
        }
        for failed in [Unreached, Heard] {
            let mut waits = Waits::new();
            let last = (0..40).map(|_| waits.after(failed)).last();
            assert_eq!(last, Some(LAST), "{failed:?}");
        }
    }
}
