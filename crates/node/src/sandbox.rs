//! One sandbox: a task that owns its machine, and the handle others hold.

use crate::egress::EgressLink;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tombolo_host::{Machine, Usage};
use tombolo_ids::SandboxId;
use tombolo_net::HeldSlot;
use tonic::transport::Channel;

const ORDERS_QUEUED_MAX: usize = 16;
/// How soon a machine that computes without end gives way to the others.
const BALANCE_INTERVAL: Duration = Duration::from_millis(500);

/// Why a sandbox is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndReason {
    /// Somebody asked.
    Destroyed,
    /// Its time was over.
    Deadline,
    /// Its machine ended.
    Exited,
}

/// What others may ask of a sandbox's task.
enum Order {
    SetDeadline(i64, oneshot::Sender<std::io::Result<()>>),
    Usage(oneshot::Sender<Usage>),
    Destroy,
}

/// What others hold of a sandbox. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    orders: mpsc::Sender<Order>,
    agent: Channel,
    /// None for a sandbox that was given none.
    network: Option<Arc<HeldSlot>>,
    memory_mib: u32,
    deadline: Arc<std::sync::atomic::AtomicI64>,
    /// The machine ended, or is being ended.
    ended: CancellationToken,
    /// Nothing of it is left.
    gone: CancellationToken,
}

impl Handle {
    pub(crate) fn agent(&self) -> Channel {
        self.agent.clone()
    }

    pub(crate) fn network(&self) -> Option<Arc<HeldSlot>> {
        self.network.clone()
    }

    pub(crate) fn memory_mib(&self) -> u32 {
        self.memory_mib
    }

    pub(crate) fn deadline_unix_millis(&self) -> i64 {
        self.deadline.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Whether its machine ended or is being ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Moves the deadline. `None` when the sandbox has ended meanwhile.
    pub(crate) async fn set_deadline(&self, unix_millis: i64) -> Option<std::io::Result<()>> {
        let (answer, answered) = oneshot::channel();
        let order = Order::SetDeadline(unix_millis, answer);
        self.orders.send(order).await.ok()?;
        answered.await.ok()
    }

    /// What it uses. `None` when it has ended meanwhile.
    pub(crate) async fn usage(&self) -> Option<Usage> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(Order::Usage(answer)).await.ok()?;
        answered.await.ok()
    }

    /// Ends the sandbox; answers when nothing of it is left.
    pub(crate) async fn destroy(&self) {
        // A task that no longer listens is ending the sandbox already.
        self.orders.send(Order::Destroy).await.ok();
        self.gone.cancelled().await;
    }
}

/// Starts the task of a sandbox, whose network `egress` carries if it has one.
/// `on_end` runs once nothing of it is left.
pub(crate) fn start<M: Machine>(
    id: SandboxId,
    machine: M,
    egress: Option<Arc<EgressLink>>,
    on_end: impl FnOnce(&SandboxId, EndReason) + Send + 'static,
) -> Handle {
    let (orders, inbox) = mpsc::channel(ORDERS_QUEUED_MAX);
    let deadline = machine.owner().map_or(0, |(_, deadline)| deadline);
    let handle = Handle {
        orders,
        agent: machine.agent(),
        network: egress.as_ref().and_then(|_| machine.network()),
        memory_mib: machine.memory_mib(),
        deadline: Arc::new(deadline.into()),
        ended: CancellationToken::new(),
        gone: CancellationToken::new(),
    };
    let task = Task {
        id,
        machine,
        egress,
        inbox,
        handle: handle.clone(),
    };
    tokio::spawn(task.run(on_end));
    handle
}

struct Task<M> {
    id: SandboxId,
    machine: M,
    egress: Option<Arc<EgressLink>>,
    inbox: mpsc::Receiver<Order>,
    handle: Handle,
}

impl<M: Machine> Task<M> {
    async fn run(mut self, on_end: impl FnOnce(&SandboxId, EndReason)) {
        let reason = self.serve().await;
        self.handle.ended.cancel();
        if reason == EndReason::Exited {
            let last = self.machine.last_words();
            tracing::info!(sandbox = %self.id, %last, "a sandbox's machine ended by itself");
        } else {
            tracing::info!(sandbox = %self.id, ?reason, "a sandbox ends");
        }
        let detached = async {
            if let Some(egress) = &self.egress {
                egress.detach(&self.id).await;
            }
        };
        let (destroyed, ()) = tokio::join!(self.machine.destroy(), detached);
        if let Err(error) = destroyed {
            tracing::error!(%error, sandbox = %self.id, "a sandbox leaves something behind");
        }
        on_end(&self.id, reason);
        self.handle.gone.cancel();
    }

    async fn serve(&mut self) -> EndReason {
        let mut balance = tokio::time::interval(BALANCE_INTERVAL);
        balance.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let deadline = until(self.handle.deadline_unix_millis());
            tokio::select! {
                _ = balance.tick() => self.machine.balance(),
                () = self.machine.ended() => return EndReason::Exited,
                () = tokio::time::sleep_until(deadline) => return EndReason::Deadline,
                order = self.inbox.recv() => match order {
                    Some(Order::SetDeadline(millis, answer)) => {
                        let result = self.machine.set_owner(&self.id, millis);
                        self.handle
                            .deadline
                            .store(millis, std::sync::atomic::Ordering::Relaxed);
                        // Whoever asked may have gone.
                        answer.send(result).ok();
                    }
                    Some(Order::Usage(answer)) => {
                        answer.send(self.machine.usage()).ok();
                    }
                    Some(Order::Destroy) | None => return EndReason::Destroyed,
                },
            }
        }
    }
}

/// The furthest a timer is set; it is looked at again then.
const TIMER_MAX: Duration = Duration::from_hours(24 * 365);

/// The moment on the timers' clock of a moment since the epoch. Zero is never.
fn until(unix_millis: i64) -> Instant {
    if unix_millis == 0 {
        return Instant::now() + TIMER_MAX;
    }
    let left = unix_millis.saturating_sub(now_unix_millis());
    let left = Duration::from_millis(u64::try_from(left).unwrap_or(0));
    Instant::now() + left.min(TIMER_MAX)
}

fn now_unix_millis() -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
