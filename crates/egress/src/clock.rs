//! The two clocks of this process.

use std::time::Duration;

use tokio::time::Instant;

/// A clock that does not go back, for the cores; pauses with Tokio's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

/// Seconds of the Unix clock, for certificates.
pub(crate) fn unix_seconds() -> i64 {
    jiff::Timestamp::now().as_second()
}
