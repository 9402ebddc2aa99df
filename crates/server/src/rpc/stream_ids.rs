//! Ids of streams from the server to clients.

use std::sync::atomic::{AtomicU64, Ordering};

/// The largest integer a JavaScript number holds exactly.
const JAVASCRIPT_INTEGER_MAX: u64 = (1 << 53) - 1;

/// Hands out the ids of server streams: positive, exact in JavaScript, and
/// unique in the whole server, because the JavaScript SDK keeps one table for
/// all its connections.
#[derive(Debug)]
pub(crate) struct StreamIds {
    next: AtomicU64,
}

impl StreamIds {
    /// Counts from somewhere in the lower half of the range. A random `seed`
    /// keeps the ids of a restarted server apart from those a client still
    /// remembers.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            next: AtomicU64::new(seed % (JAVASCRIPT_INTEGER_MAX / 2)),
        }
    }

    /// An id that no other stream of this server has.
    pub(crate) fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) % JAVASCRIPT_INTEGER_MAX + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_positive_exact_and_differ() {
        for seed in [0, 1, JAVASCRIPT_INTEGER_MAX, u64::MAX] {
            let ids = StreamIds::new(seed);
            let first = ids.next();
            let second = ids.next();
            assert!(first >= 1 && second <= JAVASCRIPT_INTEGER_MAX, "{seed}");
            assert_ne!(first, second);
        }
        let near_the_end = StreamIds {
            next: AtomicU64::new(JAVASCRIPT_INTEGER_MAX - 1),
        };
        assert_eq!(near_the_end.next(), JAVASCRIPT_INTEGER_MAX);
        assert_eq!(near_the_end.next(), 1);
    }
}
