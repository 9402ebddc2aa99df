//! Calls that the client may cancel by their `abortId`.
//!
//! A call is entered here when its message is read, before the next message
//! is: an `abort` that follows it always finds it, unless it has ended.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Default)]
pub(super) struct Aborts {
    /// Several calls under one id are all cancelled.
    calls: Mutex<HashMap<u64, Vec<Arc<CancellationToken>>>>,
}

impl Aborts {
    pub(super) fn enter(self: &Arc<Self>, id: u64) -> Abortable {
        let token = Arc::new(CancellationToken::new());
        self.calls
            .lock()
            .entry(id)
            .or_default()
            .push(Arc::clone(&token));
        Abortable {
            id,
            token,
            aborts: Arc::clone(self),
        }
    }

    /// Cancels the calls under `id`, if there are any.
    pub(super) fn abort(&self, id: u64) {
        for token in self.calls.lock().remove(&id).into_iter().flatten() {
            token.cancel();
        }
    }
}

/// A call's entry, as long as it is at work.
#[derive(Debug)]
pub(super) struct Abortable {
    id: u64,
    token: Arc<CancellationToken>,
    aborts: Arc<Aborts>,
}

impl Abortable {
    pub(super) fn token(&self) -> CancellationToken {
        CancellationToken::clone(&self.token)
    }
}

impl Drop for Abortable {
    fn drop(&mut self) {
        let mut calls = self.aborts.calls.lock();
        if let Some(tokens) = calls.get_mut(&self.id) {
            tokens.retain(|token| !Arc::ptr_eq(token, &self.token));
            if tokens.is_empty() {
                calls.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abort_finds_what_is_at_work_and_nothing_else() {
        let aborts = Arc::new(Aborts::default());
        let first = aborts.enter(0);
        let twin = aborts.enter(0);
        let other = aborts.enter(1);
        drop(aborts.enter(2));
        aborts.abort(0);
        aborts.abort(2);
        assert!(first.token().is_cancelled() && twin.token().is_cancelled());
        assert!(!other.token().is_cancelled());
        drop((first, twin, other));
        assert!(
            !aborts.enter(0).token().is_cancelled(),
            "an old abort is forgotten"
        );
        assert!(aborts.calls.lock().is_empty());
    }
}
