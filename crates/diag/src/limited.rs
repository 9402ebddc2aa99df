//! Log lines that a guest or a client can trigger are limited per call site.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How long a call site's allowance lasts.
const WINDOW: Duration = Duration::from_secs(10);
/// Lines a call site may write in one window.
const LINES_PER_WINDOW: u32 = 10;

/// One call site's allowance. Use it through [`log_limited`](crate::log_limited).
#[derive(Debug, Default)]
pub struct LogLimit {
    /// Which window the count belongs to, from 1 on.
    window: AtomicU64,
    written: AtomicU32,
    suppressed: AtomicU64,
}

/// A line may be written.
#[derive(Debug, PartialEq, Eq)]
pub struct LogPermit {
    /// Lines of this call site held back since the last that was written.
    pub suppressed: u64,
}

impl LogLimit {
    pub const fn new() -> Self {
        Self {
            window: AtomicU64::new(0),
            written: AtomicU32::new(0),
            suppressed: AtomicU64::new(0),
        }
    }

    /// Counts one line. Answers whether it may be written.
    pub fn permit(&self) -> Option<LogPermit> {
        static START: OnceLock<Instant> = OnceLock::new();
        self.permit_at(START.get_or_init(Instant::now).elapsed())
    }

    /// Races between threads may let a line too many through, which is
    /// harmless; none is miscounted for longer than a window.
    fn permit_at(&self, since_start: Duration) -> Option<LogPermit> {
        let window = since_start.as_secs() / WINDOW.as_secs() + 1;
        if self.window.swap(window, Ordering::Relaxed) != window {
            self.written.store(0, Ordering::Relaxed);
        }
        if self.written.fetch_add(1, Ordering::Relaxed) < LINES_PER_WINDOW {
            let suppressed = self.suppressed.swap(0, Ordering::Relaxed);
            return Some(LogPermit { suppressed });
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// Writes a tracing event unless this line of code has written too many lately.
///
/// ```
/// tombolo_diag::log_limited!(warn, sandbox = "sbx_…", "the guest sent nonsense");
/// ```
#[macro_export]
macro_rules! log_limited {
    ($level:ident, $($event:tt)+) => {{
        static LIMIT: $crate::LogLimit = $crate::LogLimit::new();
        if let Some(permit) = LIMIT.permit() {
            $crate::tracing::$level!(suppressed = permit.suppressed, $($event)+);
        }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_cut_and_the_next_window_says_how_much_was_lost() {
        let limit = LogLimit::new();
        let now = Duration::from_secs(3);
        for line in 0..LINES_PER_WINDOW {
            assert!(limit.permit_at(now).is_some(), "line {line}");
        }
        for line in 0..5 {
            assert_eq!(limit.permit_at(now), None, "line {line}");
        }
        assert_eq!(
            limit.permit_at(now + WINDOW),
            Some(LogPermit { suppressed: 5 })
        );
        assert_eq!(
            limit.permit_at(now + WINDOW),
            Some(LogPermit { suppressed: 0 })
        );
    }
}
