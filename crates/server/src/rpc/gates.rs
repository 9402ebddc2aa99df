//! Holds a process's output back until its client listens.
//!
//! Both SDKs register a process's streams when they have read the answer to
//! `spawn`, and call `processWait` right then; what comes earlier the Python
//! SDK loses. So output starts with `processWait`, or a while after the answer
//! for clients that do not call it.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// The processes of one connection whose output is still held or flowing.
#[derive(Debug, Default)]
pub(super) struct Gates {
    by_pid: Mutex<HashMap<i32, Arc<CancellationToken>>>,
}

impl Gates {
    /// A closed gate for a new process.
    pub(super) fn add(self: &Arc<Self>, pid: i32) -> Gate {
        let opened = Arc::new(CancellationToken::new());
        self.by_pid.lock().insert(pid, Arc::clone(&opened));
        Gate {
            pid,
            opened,
            gates: Arc::clone(self),
        }
    }

    /// The client waits for this process.
    pub(super) fn open(&self, pid: i32) {
        if let Some(opened) = self.by_pid.lock().get(&pid) {
            opened.cancel();
        }
    }
}

/// One process's gate, as long as its output flows.
#[derive(Debug)]
pub(super) struct Gate {
    pid: i32,
    opened: Arc<CancellationToken>,
    gates: Arc<Gates>,
}

impl Gate {
    pub(super) fn open(&self) {
        self.opened.cancel();
    }

    pub(super) async fn opened(&self) {
        self.opened.cancelled().await;
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let mut by_pid = self.gates.by_pid.lock();
        // A later process may have got the same pid.
        if by_pid
            .get(&self.pid)
            .is_some_and(|opened| Arc::ptr_eq(opened, &self.opened))
        {
            by_pid.remove(&self.pid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_belongs_to_its_process_only() {
        let gates = Arc::new(Gates::default());
        let first = gates.add(7);
        let second = gates.add(7);
        drop(first);
        gates.open(7);
        assert!(second.opened.is_cancelled());
        drop(second);
        assert!(gates.by_pid.lock().is_empty());
        gates.open(7);
    }
}
