//! The open files of one connection, and the order of work on each.
//!
//! Calls on one file take effect in the order the client sent them, although
//! each runs as its own task: every call takes a turn when its message is
//! read, and waits for the turn before it. Locks take no turn, so a call that
//! waits for a lock holds up no other.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Files one connection may have open.
const HANDLES_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct HandleTable {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: HashMap<u64, Last>,
    is_closed: bool,
}

/// Ends when the last turn taken on a file ends.
#[derive(Debug, Default)]
struct Last(Option<oneshot::Receiver<()>>);

/// The connection has ended, or has too many files open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum HandleRefused {
    #[error("the connection has ended")]
    Closed,
    #[error("too many open files on one connection")]
    TooMany,
}

/// A call's turn on a file; the next one begins when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    before: Option<oneshot::Receiver<()>>,
    _done: oneshot::Sender<()>,
}

impl Turn {
    /// Returns when all earlier turns are over.
    pub(super) async fn begin(&mut self) {
        if let Some(before) = self.before.take() {
            // The turn before ends by being dropped.
            drop(before.await);
        }
    }
}

impl HandleTable {
    pub(super) fn insert(&self, handle: u64) -> Result<(), HandleRefused> {
        let mut state = self.state.lock();
        if state.is_closed {
            return Err(HandleRefused::Closed);
        }
        if state.open.len() >= HANDLES_MAX {
            return Err(HandleRefused::TooMany);
        }
        state.open.insert(handle, Last::default());
        Ok(())
    }

    pub(super) fn contains(&self, handle: u64) -> bool {
        self.state.lock().open.contains_key(&handle)
    }

    /// Takes the next turn on a file, if it is open.
    pub(super) fn turn(&self, handle: u64) -> Option<Turn> {
        let mut state = self.state.lock();
        let last = state.open.get_mut(&handle)?;
        let (done, over) = oneshot::channel();
        Some(Turn {
            before: last.0.replace(over),
            _done: done,
        })
    }

    /// Forgets a file. Answers whether it was open.
    pub(super) fn remove(&self, handle: u64) -> bool {
        self.state.lock().open.remove(&handle).is_some()
    }

    /// Takes no more files, and gives up all it has.
    pub(super) fn close(&self) -> Vec<u64> {
        let mut state = self.state.lock();
        state.is_closed = true;
        state.open.drain().map(|(handle, _)| handle).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turns_come_in_the_order_they_were_taken() {
        let table = HandleTable::default();
        table.insert(1).unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let turns: Vec<_> = (0..10)
            .map(|place| (place, table.turn(1).unwrap()))
            .collect();
        let tasks: Vec<_> = turns
            .into_iter()
            .rev()
            .map(|(place, mut turn)| {
                let order = Arc::clone(&order);
                tokio::spawn(async move {
                    turn.begin().await;
                    tokio::task::yield_now().await;
                    order.lock().push(place);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock(), (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn an_ended_connection_takes_no_files() {
        let table = HandleTable::default();
        table.insert(1).unwrap();
        assert!(table.turn(2).is_none());
        assert_eq!(table.close(), [1]);
        assert_eq!(table.insert(2), Err(HandleRefused::Closed));
    }

    #[test]
    fn the_number_of_files_is_bounded() {
        let table = HandleTable::default();
        for handle in 0..HANDLES_MAX as u64 {
            table.insert(handle).unwrap();
        }
        assert_eq!(
            table.insert(HANDLES_MAX as u64),
            Err(HandleRefused::TooMany)
        );
        assert!(table.remove(0));
        assert_eq!(table.insert(HANDLES_MAX as u64), Ok(()));
    }
}
