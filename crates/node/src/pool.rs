//! Restored machines that wait to be claimed, so that creating a sandbox of
//! the usual size costs a hand-over and not a restore.

use crate::identity;
use crate::retry::RetryDelay;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tombolo_diag::{in_one_line, log_limited};
use tombolo_guest_proto::agent_client;
use tombolo_guest_proto::v1::{PersonalizeRequest, PrewarmRequest};
use tombolo_host::{Engine, Isolation, LaunchError, Machine};
use tombolo_net::TakeSlotError;

/// How long the pool waits after a machine could not be made, the first time.
const RETRY_DELAY_MIN: Duration = Duration::from_secs(2);
/// How long it waits at most: then long enough that trying costs nothing, and
/// short enough that a person who has made room on the disk need not do more.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(30);
/// Starts at a time for each processor of this host. More would only take the
/// processors from each other, and all would be late.
const STARTS_PER_PROCESSOR: usize = 2;
/// Run once in an emulated machine that waits, so that the emulator has
/// translated what every process start goes through.
const WARM_COMMAND: &str = "true";
const WARM_TIMEOUT: Duration = Duration::from_mins(1);
/// What a machine is called while it waits.
const WAITING_NAME: &str = "sandbox";

pub(crate) struct Pool<E: Engine> {
    engine: Arc<E>,
    memory_mib: u32,
    target: usize,
    ready: Mutex<VecDeque<E::Machine>>,
    changed: Notify,
    /// Bounds how many machines are started at a time, here and on demand.
    starts: Semaphore,
    /// How many callers are waiting for their sandbox now.
    creates: watch::Sender<usize>,
    /// With this many callers waiting, filling the pool would be at their cost.
    creates_busy: usize,
}

/// Why a machine could not be added.
#[derive(Debug, thiserror::Error)]
enum LaunchWaitingError {
    #[error("cannot make a machine")]
    Launch(#[from] LaunchError),
    #[error("cannot make a network for a machine")]
    Network(#[from] TakeSlotError),
    #[error("the host gives no random numbers")]
    Random(#[from] getrandom::Error),
}

/// Held while a sandbox is being made.
pub(crate) struct Turn<'a> {
    permit: Option<SemaphorePermit<'a>>,
    creates: &'a watch::Sender<usize>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Lets the next caller start before the pool hears of it.
        self.permit.take();
        self.creates.send_modify(|count| *count -= 1);
    }
}

impl<E: Engine> Pool<E> {
    /// A pool that is to hold `target` machines of one size, on a host of
    /// `processors`.
    pub(crate) fn new(engine: Arc<E>, memory_mib: u32, target: usize, processors: usize) -> Self {
        let memory_mib = engine.granted_memory_mib(memory_mib);
        Self {
            engine,
            memory_mib,
            target,
            ready: Mutex::default(),
            changed: Notify::new(),
            starts: Semaphore::new(STARTS_PER_PROCESSOR * processors),
            creates: watch::Sender::default(),
            creates_busy: (processors / 2).max(1),
        }
    }

    pub(crate) fn ready_count(&self) -> usize {
        self.ready.lock().len()
    }

    pub(crate) fn target(&self) -> usize {
        self.target
    }

    /// A waiting machine of this size, if there is one.
    pub(crate) fn take(&self, memory_mib: u32) -> Option<E::Machine> {
        if self.engine.granted_memory_mib(memory_mib) != self.memory_mib {
            return None;
        }
        let waiting = self.ready.lock().pop_front();
        self.changed.notify_one();
        waiting
    }

    /// Takes back a machine that nobody has used after all.
    pub(crate) fn give_back(&self, machine: E::Machine) {
        self.ready.lock().push_front(machine);
    }

    /// To be held from before a machine is claimed until it is a sandbox.
    pub(crate) async fn turn(&self) -> Turn<'_> {
        self.creates.send_modify(|count| *count += 1);
        let mut turn = Turn {
            permit: None,
            creates: &self.creates,
        };
        // Fails only for a closed semaphore, and nobody closes this one.
        turn.permit = self.starts.acquire().await.ok();
        turn
    }

    async fn launch_waiting(&self) -> Result<E::Machine, LaunchWaitingError> {
        // Callers go first. While there are always some, the pool stays empty,
        // and what would fill it makes their sandboxes.
        let mut creates = self.creates.subscribe();
        creates
            .wait_for(|&count| count < self.creates_busy)
            .await
            .ok();
        let _permit = self.starts.acquire().await;
        let identity = || identity::new(WAITING_NAME, HashMap::new(), Bytes::new());
        let network = self.engine.network().await?;
        let launched = self.engine.launch(self.memory_mib, network, identity()?);
        let machine = launched.await?;
        self.warm(&machine, identity()?).await;
        Ok(machine)
    }

    /// Keeps the pool at its target until told to stop, then empties it.
    pub(crate) async fn keep_filled(&self, stop: CancellationToken) {
        let mut delay = RetryDelay::new(RETRY_DELAY_MIN, RETRY_DELAY_MAX);
        while !stop.is_cancelled() {
            let pause = self.fill_by_one(&mut delay).await;
            tokio::select! {
                () = stop.cancelled() => break,
                () = pause => {}
            }
        }
        let waiting = mem::take(&mut *self.ready.lock());
        for machine in waiting {
            if let Err(error) = machine.destroy().await {
                tracing::error!(%error, "a waiting machine leaves something behind");
            }
        }
    }

    /// Adds a machine if one lacks. Answers what to wait for before the next.
    async fn fill_by_one(&self, delay: &mut RetryDelay) -> impl Future<Output = ()> {
        let (wait, pause) = if self.ready_count() >= self.target {
            (true, Duration::ZERO)
        } else {
            match self.launch_waiting().await {
                Ok(machine) => {
                    self.ready.lock().push_back(machine);
                    delay.reset();
                    (false, Duration::ZERO)
                }
                Err(error) => {
                    let (error, pause) = (in_one_line(&error), delay.next());
                    log_limited!(warn, error, again_in = ?pause, "cannot fill the pool");
                    (false, pause)
                }
            }
        };
        async move {
            if wait {
                self.changed.notified().await;
            } else {
                tokio::time::sleep(pause).await;
            }
        }
    }

    async fn warm(&self, machine: &E::Machine, identity: PersonalizeRequest) {
        if self.engine.isolation().0 != Isolation::Emulated {
            return;
        }
        let request = PrewarmRequest {
            shell_commands: vec![WARM_COMMAND.to_owned()],
            settle: false,
        };
        let mut agent = agent_client(machine.agent());
        let warmed = async {
            agent.prewarm(request).await.map_err(Box::new)?;
            // What a claimed machine does first, it has then done before; the
            // identity that counts is the one it is given when it is claimed.
            identity::give(machine, identity).await
        };
        // A machine that cannot do this shows it again when it is claimed.
        match timeout(WARM_TIMEOUT, warmed).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot warm a waiting machine");
            }
            Err(_elapsed) => tracing::warn!("a waiting machine is slow to warm"),
        }
    }
}
