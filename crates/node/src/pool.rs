//! Restored machines that wait to be claimed, so that creating a sandbox of
//! the usual size costs a hand-over and not a restore.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;
use tombolo_guest_proto::v1::PrewarmRequest;
use tombolo_guest_proto::v1::agent_client::AgentClient;
use tombolo_host::{Engine, Isolation, LaunchError, Machine};

/// How long the pool waits after a machine could not be made.
const RETRY_DELAY: Duration = Duration::from_secs(2);
/// Run once in an emulated machine that waits, so that the emulator has
/// translated what every process start goes through.
const WARM_COMMAND: &str = "true";

pub(crate) struct Pool<E: Engine> {
    engine: Arc<E>,
    memory_mib: u32,
    target: usize,
    ready: Mutex<VecDeque<E::Machine>>,
    changed: Notify,
    /// Bounds how many machines are started at a time, here and on demand.
    starts: Semaphore,
}

impl<E: Engine> Pool<E> {
    pub(crate) fn new(engine: Arc<E>, memory_mib: u32, target: usize, starts_max: usize) -> Self {
        let memory_mib = engine.granted_memory_mib(memory_mib);
        Self {
            engine,
            memory_mib,
            target,
            ready: Mutex::default(),
            changed: Notify::new(),
            starts: Semaphore::new(starts_max),
        }
    }

    pub(crate) fn ready_count(&self) -> usize {
        self.ready.lock().len()
    }

    pub(crate) fn target(&self) -> usize {
        self.target
    }

    /// A machine of this size: a waiting one if there is, else a new one.
    pub(crate) async fn claim(&self, memory_mib: u32) -> Result<(E::Machine, bool), LaunchError> {
        if self.engine.granted_memory_mib(memory_mib) == self.memory_mib {
            let waiting = self.ready.lock().pop_front();
            self.changed.notify_one();
            if let Some(machine) = waiting {
                return Ok((machine, true));
            }
        }
        Ok((self.engine.launch(memory_mib).await?, false))
    }

    /// To be held while a machine is started or given its identity: more at a
    /// time would only take the processors from each other, and all would be
    /// late. `None` never comes, since the semaphore is not closed.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.starts.acquire().await.ok()
    }

    async fn launch_waiting(&self) -> Result<E::Machine, LaunchError> {
        let _turn = self.turn().await;
        let machine = self.engine.launch(self.memory_mib).await?;
        self.warm(&machine).await;
        Ok(machine)
    }

    /// Keeps the pool at its target until told to stop, then empties it.
    pub(crate) async fn keep_filled(&self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let delay = self.fill_by_one().await;
            tokio::select! {
                () = stop.cancelled() => break,
                () = delay => {}
            }
        }
        let waiting = std::mem::take(&mut *self.ready.lock());
        for machine in waiting {
            if let Err(error) = machine.destroy().await {
                tracing::error!(%error, "a waiting machine leaves something behind");
            }
        }
    }

    /// Adds a machine if one lacks. Answers what to wait for before the next.
    async fn fill_by_one(&self) -> impl Future<Output = ()> {
        let (wait, delay) = if self.ready_count() >= self.target {
            (true, Duration::ZERO)
        } else {
            match self.launch_waiting().await {
                Ok(machine) => {
                    self.ready.lock().push_back(machine);
                    (false, Duration::ZERO)
                }
                Err(error) => {
                    tracing::warn!(error = ?error, "cannot fill the pool");
                    (false, RETRY_DELAY)
                }
            }
        };
        async move {
            if wait {
                self.changed.notified().await;
            } else {
                tokio::time::sleep(delay).await;
            }
        }
    }

    async fn warm(&self, machine: &E::Machine) {
        if self.engine.isolation().0 != Isolation::Emulated {
            return;
        }
        let request = PrewarmRequest {
            shell_commands: vec![WARM_COMMAND.to_owned()],
            settle: false,
        };
        // A machine that cannot do this shows it again when it is claimed.
        if let Err(status) = AgentClient::new(machine.agent()).prewarm(request).await {
            tracing::warn!(%status, "cannot warm a waiting machine");
        }
    }
}
