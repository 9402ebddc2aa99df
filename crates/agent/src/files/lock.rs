//! Waiting for a file lock, in a thread of its own: only the kernel queues the
//! waiters, and only a signal ends a wait that nobody wants any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tokio::sync::{Semaphore, oneshot};
use tombolo_sys::guest::wakeup::{ThreadId, current_thread, wake};

use super::handles::Handle;
use crate::fault::{CallError, at};

const WAITERS_MAX: usize = 256;
const WAITER_STACK_LEN: usize = 64 * 1024;
const WAKE_INTERVAL: Duration = Duration::from_millis(2);

/// Room for waiting threads.
#[derive(Debug)]
pub(crate) struct LockSlots(Arc<Semaphore>);

impl Default for LockSlots {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(WAITERS_MAX)))
    }
}

/// Takes the lock. Dropping the future gives up the wait.
pub(super) async fn lock(
    slots: &LockSlots,
    handle: Arc<Handle>,
    exclusive: bool,
) -> Result<(), CallError> {
    let (at_once, patiently) = if exclusive {
        (
            FlockOperation::NonBlockingLockExclusive,
            FlockOperation::LockExclusive,
        )
    } else {
        (
            FlockOperation::NonBlockingLockShared,
            FlockOperation::LockShared,
        )
    };
    match flock(&handle.file, at_once) {
        Err(Errno::WOULDBLOCK | Errno::INTR) => {}
        locked => return locked.map_err(at("lock", &handle.path)),
    }
    let permit = Arc::clone(&slots.0).try_acquire_owned();
    let permit = permit.map_err(|_none| CallError::errno("lock", &handle.path, Errno::NOLCK))?;
    let wait = Arc::new(Wait::default());
    let (answer, answered) = oneshot::channel();
    let waiter = Arc::clone(&wait);
    let held = Arc::clone(&handle);
    std::thread::Builder::new()
        .name("lock".to_owned())
        .stack_size(WAITER_STACK_LEN)
        .spawn(move || {
            let locked = waiter.run(&held, patiently);
            drop(permit);
            if let Err(Ok(())) = answer.send(locked) {
                held.unlock_unwanted();
            }
        })
        .map_err(at("lock", &handle.path))?;
    let mut waiting = Waiting {
        wait,
        answered,
        handle: &handle,
    };
    let locked = tokio::select! {
        locked = &mut waiting.answered => locked.unwrap_or(Err(Errno::CANCELED)),
        () = handle.closed() => Err(Errno::BADF),
    };
    drop(waiting);
    locked.map_err(at("lock", &handle.path))
}

/// What the waiting thread and its caller share.
#[derive(Debug, Default)]
struct Wait {
    cancelled: AtomicBool,
    /// The waiting thread, while it may be in the system call.
    thread: Mutex<Option<ThreadId>>,
}

impl Wait {
    fn run(&self, handle: &Handle, operation: FlockOperation) -> Result<(), Errno> {
        *self.thread.lock() = Some(current_thread());
        let locked = loop {
            if self.cancelled.load(Ordering::SeqCst) {
                break Err(Errno::CANCELED);
            }
            match flock(&handle.file, operation) {
                Err(Errno::INTR) => {}
                locked => break locked,
            }
        };
        *self.thread.lock() = None;
        locked
    }
}

/// Gives up the wait when dropped before its answer came.
struct Waiting<'a> {
    wait: Arc<Wait>,
    answered: oneshot::Receiver<Result<(), Errno>>,
    handle: &'a Handle,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.wait.cancelled.store(true, Ordering::SeqCst);
        self.answered.close();
        // Either the answer is here, or the thread will find nobody to take it.
        if let Ok(Ok(())) = self.answered.try_recv() {
            self.handle.unlock_unwanted();
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let wait = Arc::clone(&self.wait);
        runtime.spawn(async move {
            // A signal that comes just before the call is missed, so it is
            // repeated until the thread has left the call.
            while wait.wake_thread() {
                tokio::time::sleep(WAKE_INTERVAL).await;
            }
        });
    }
}

impl Wait {
    /// False when there is nobody to wake.
    fn wake_thread(self: &Arc<Self>) -> bool {
        let thread = self.thread.lock();
        match *thread {
            // Held, the thread cannot end and leave its number to another.
            Some(thread) => wake(thread).is_ok(),
            // Not there yet, or not any more.
            None => Arc::strong_count(self) > 1,
        }
    }
}
