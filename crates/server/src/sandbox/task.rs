//! The task that owns a sandbox: it applies what happens to the pure state
//! machine, and acts on the phase that comes out.
//!
//! It ends when nothing is left of the sandbox, or when the server stops; the
//! sandbox then lives on and the next server adopts it.

use std::future::{Future, pending};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tombolo_ids::{MemoryMib, OrganisationId, SandboxId, UnixMillis};
use tombolo_lifecycle::{
    Closing, Demand, Event, Phase, Role, SandboxMachine, SandboxPlan, StopReason,
};
use tombolo_node_proto::v1::{CreateSandboxReply, CreateSandboxRequest};

use super::{
    BACKSTOP, COMMANDS_MAX, CONNECTIONS_MAX, Command, ConnectError, Connection, CreateError, Held,
    Meter, SandboxHandle, SandboxStatus, Shared, WATCHES_MAX,
};
use crate::app::App;
use crate::clock;
use crate::database::{NewRecord, QueryError, SandboxRecord, StoredState};
use crate::guest::GuestAgent;
use crate::network::SealedNetwork;
use crate::node::NodeCallError;
use crate::registry::Reservation;

/// How long connections may take to answer what is pending before the machine
/// is taken down. One whose client does not read closes later, by itself.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// How long connections may take to close when the server stops.
const CLOSE_MAX: Duration = Duration::from_secs(5);
/// The wall clock may be set: look at it at least this often.
const CLOCK_CHECK: Duration = Duration::from_mins(1);
const RETRY_PAUSE: Duration = Duration::from_secs(1);

type ClosedFuture = Pin<Box<dyn Future<Output = (Role, Closing)> + Send>>;

/// What a new task is made of.
pub(super) struct TaskParts {
    pub(super) id: SandboxId,
    pub(super) organisation: OrganisationId,
    pub(super) machine: SandboxMachine,
    pub(super) meter: Meter,
    pub(super) reservation: Reservation,
}

/// What a new sandbox is to be.
pub(super) struct Order {
    pub(super) plan: SandboxPlan,
    pub(super) network: Option<SealedNetwork>,
    pub(super) created_at: UnixMillis,
}

pub(super) struct SandboxTask {
    app: Arc<App>,
    handle: SandboxHandle,
    machine: SandboxMachine,
    agent: GuestAgent,
    commands: mpsc::Receiver<Command>,
    connections: FuturesUnordered<ClosedFuture>,
    status: watch::Sender<SandboxStatus>,
    /// Fires when connections must be ended: at the sandbox's end or the
    /// server's.
    ending: CancellationToken,
    /// Given back when the task ends.
    reservation: Reservation,
}

enum Happening {
    Command(Command),
    ConnectionClosed(Role, Closing),
    TimePassed,
}

/// Looks after a sandbox that an earlier server process created.
pub(crate) async fn adopt(app: &Arc<App>, record: SandboxRecord) -> Result<(), QueryError> {
    let before = app.database.usage_totals(&record.id).await?;
    let now = clock::now();
    let mut machine = SandboxMachine::restored(record.lifetime, app.config.limits.lifetime(), now);
    match record.state {
        StoredState::Running => machine.apply(now, Event::Tick),
        // It was being taken down: go on.
        StoredState::Stopping | StoredState::Stopped => {
            machine.end_for(record.stop_reason.unwrap_or(StopReason::Killed));
        }
        // Its creator never learnt the id.
        StoredState::Creating => machine.end_for(StopReason::Abandoned),
    }
    let demand = Demand {
        memory: record.memory,
        disk: record.disk,
    };
    let task = SandboxTask::new(
        app,
        TaskParts {
            id: record.id.clone(),
            organisation: record.organisation.clone(),
            machine,
            meter: Meter::new(
                record.id,
                record.organisation.clone(),
                record.memory,
                record.created_at,
                before,
            ),
            reservation: app.registry.book(&record.organisation, demand),
        },
    );
    app.registry.insert(task.handle().clone());
    app.tasks.spawn(task.run_adopted());
    Ok(())
}

impl SandboxTask {
    pub(super) fn new(app: &Arc<App>, parts: TaskParts) -> Self {
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        let status = watch::Sender::new(SandboxStatus {
            phase: parts.machine.phase(),
            deadline: parts.machine.lifetime().deadline,
        });
        let agent = GuestAgent::new(&app.config.node_socket, &parts.id);
        let shared = Shared {
            id: parts.id,
            organisation: parts.organisation,
            commands: sender,
            status: status.subscribe(),
            agent: agent.clone(),
            ingress: parts.meter.ingress(),
            stopped: CancellationToken::new(),
            meter: tokio::sync::Mutex::new(parts.meter),
            extending: tokio::sync::Mutex::new(()),
            networking: tokio::sync::Mutex::new(()),
            watches: Arc::new(Semaphore::new(WATCHES_MAX)),
        };
        Self {
            app: Arc::clone(app),
            handle: SandboxHandle {
                shared: Arc::new(shared),
            },
            machine: parts.machine,
            agent,
            commands,
            connections: FuturesUnordered::new(),
            status,
            ending: app.shutdown.child_token(),
            reservation: parts.reservation,
        }
    }

    pub(super) fn handle(&self) -> &SandboxHandle {
        &self.handle
    }

    pub(super) fn hold_primary(&mut self, if_dropped: Closing) -> Connection {
        self.hold(Role::Primary, if_dropped)
    }

    fn hold(&mut self, role: Role, if_dropped: Closing) -> Connection {
        let (sender, closed) = oneshot::channel();
        let held = Held { role, closed };
        self.connections.push(Box::pin(async move {
            (held.role, held.closed.await.unwrap_or(Closing::Lost))
        }));
        Connection {
            sandbox: self.handle.id().clone(),
            agent: self.agent.clone(),
            ending: self.ending.clone(),
            closed: Some(sender),
            if_dropped,
        }
    }

    pub(super) async fn run_new(
        mut self,
        order: Order,
        ready: oneshot::Sender<Result<Vec<String>, CreateError>>,
    ) {
        let memory = order.plan.memory;
        let answer = self.create(order).await;
        let id = self.handle.id();
        match &answer {
            Ok(warnings) => {
                tracing::info!(sandbox = %id, %memory, ?warnings, "sandbox created");
            }
            Err(error) => tracing::warn!(sandbox = %id, %error, "sandbox not created"),
        }
        if ready.send(answer).is_err() {
            tracing::debug!(sandbox = %id, "its creator has gone away");
        }
        self.run().await;
    }

    pub(super) async fn run_adopted(self) {
        tracing::info!(sandbox = %self.handle.id(), phase = ?self.machine.phase(), "sandbox adopted");
        self.run().await;
    }

    async fn create(&mut self, order: Order) -> Result<Vec<String>, CreateError> {
        let Order {
            plan,
            network,
            created_at,
        } = order;
        let app = Arc::clone(&self.app);
        let id = self.handle.id().clone();
        let record = NewRecord {
            id: &id,
            organisation: &self.handle.shared.organisation.clone(),
            plan: &plan,
            network: network.as_ref().map(|network| &network.record),
            created_at,
        };
        if let Err(error) = app.database.add_sandbox(&record).await {
            self.apply(Event::CreateFailed);
            return Err(CreateError::Database(error));
        }
        let request = CreateSandboxRequest {
            sandbox_id: id.to_string(),
            memory_mib: plan.memory.0,
            vcpu_count: 0,
            disk_bytes: plan.disk.0,
            deadline_unix_millis: plan.lifetime.deadline.plus(BACKSTOP).0,
            env: plan.env.into_iter().collect(),
            network: network.map(|network| network.message),
        };
        match self
            .answering_while(create_on_node(&app, &id, request))
            .await
        {
            Ok(reply) => self.on_created(reply).await,
            Err(error) => {
                self.apply(Event::CreateFailed);
                Err(CreateError::Node(error))
            }
        }
    }

    /// Goes on answering while something else is worked on.
    async fn answering_while<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            let happening = tokio::select! {
                done = &mut work => return done,
                happening = self.next() => happening,
            };
            self.handle_happening(happening);
        }
    }

    async fn on_created(&mut self, reply: CreateSandboxReply) -> Result<Vec<String>, CreateError> {
        let memory = MemoryMib(reply.memory_mib);
        self.handle.meter().lock().await.set_memory(memory);
        self.reservation.grant(memory);
        let recorded = self
            .app
            .database
            .sandbox_is_running(self.handle.id(), &reply.isolation, memory)
            .await;
        self.apply(Event::Created);
        if let Err(error) = recorded {
            self.apply(Event::Kill);
            return Err(CreateError::Database(error));
        }
        match self.machine.phase() {
            Phase::Running => Ok(reply.warnings),
            _ => Err(CreateError::Ended),
        }
    }

    async fn run(mut self) {
        let shutdown = self.app.shutdown.clone();
        while let Phase::Creating | Phase::Running | Phase::Grace { .. } = self.machine.phase() {
            let happening = tokio::select! {
                () = shutdown.cancelled() => return self.leave().await,
                happening = self.next() => happening,
            };
            self.handle_happening(happening);
        }
        self.end(&shutdown).await;
    }

    /// The next thing that happens. Nothing is lost when it is not awaited to
    /// the end.
    async fn next(&mut self) -> Happening {
        let wakeup = self.machine.next_wakeup();
        let timer = async {
            match wakeup {
                Some(moment) => sleep(moment.since(clock::now()).min(CLOCK_CHECK)).await,
                None => pending().await,
            }
        };
        tokio::select! {
            Some(command) = self.commands.recv() => Happening::Command(command),
            Some((role, closing)) = self.connections.next(), if !self.connections.is_empty() => {
                Happening::ConnectionClosed(role, closing)
            }
            () = timer => Happening::TimePassed,
        }
    }

    fn handle_happening(&mut self, happening: Happening) {
        match happening {
            Happening::Command(Command::Kill) => self.apply(Event::Kill),
            Happening::Command(Command::NodeEnded(end)) => self.apply(Event::NodeEnded(end)),
            Happening::Command(Command::Connect { reply }) => self.on_connect(reply),
            Happening::Command(Command::Extend { stop_at, reply }) => {
                let granted = self.machine.extend(clock::now(), stop_at);
                self.publish();
                if reply.send(granted).is_err() {
                    tracing::debug!(sandbox = %self.handle.id(), "nobody waits for the extension");
                }
            }
            Happening::ConnectionClosed(role, closing) => {
                self.apply(Event::ConnectionClosed { role, closing });
            }
            Happening::TimePassed => self.apply(Event::Tick),
        }
    }

    fn on_connect(&mut self, reply: oneshot::Sender<Result<Connection, ConnectError>>) {
        let answer = if self.connections.len() >= CONNECTIONS_MAX {
            Err(ConnectError::TooMany)
        } else {
            match self.machine.connect(clock::now()) {
                Ok(role) => Ok(self.hold(role, Closing::Lost)),
                Err(refusal) => Err(refusal.into()),
            }
        };
        self.publish();
        // A connection nobody waits for is dropped here, and thereby lost.
        drop(reply.send(answer));
    }

    fn apply(&mut self, event: Event) {
        let before = self.machine.phase();
        self.machine.apply(clock::now(), event);
        let after = self.machine.phase();
        if before != after {
            tracing::debug!(sandbox = %self.handle.id(), ?event, ?before, ?after, "phase changed");
        }
        self.publish();
    }

    fn publish(&self) {
        self.status.send_replace(SandboxStatus {
            phase: self.machine.phase(),
            deadline: self.machine.lifetime().deadline,
        });
    }

    /// The server stops: wait for the connections, leave the sandbox be.
    async fn leave(mut self) {
        self.drain(CLOSE_MAX).await;
        tracing::debug!(sandbox = %self.handle.id(), "left to the next server");
    }

    async fn drain(&mut self, limit: Duration) {
        let give_up = Instant::now() + limit;
        while !self.connections.is_empty() {
            let happening = tokio::select! {
                happening = self.next() => happening,
                () = sleep_until(give_up) => {
                    let connections = self.connections.len();
                    tracing::debug!(sandbox = %self.handle.id(), connections, "still closing");
                    return;
                }
            };
            self.handle_happening(happening);
        }
    }

    async fn end(mut self, shutdown: &CancellationToken) {
        if let Phase::Stopping { reason } = self.machine.phase() {
            tracing::info!(sandbox = %self.handle.id(), reason = reason.as_str(), "sandbox is ending");
            self.ending.cancel();
            self.record_ending(reason).await;
            self.drain(ANSWER_MAX).await;
            let (app, id) = (Arc::clone(&self.app), self.handle.id().clone());
            let destroyed = async {
                tokio::select! {
                    () = shutdown.cancelled() => false,
                    () = destroy(&app, &id) => true,
                }
            };
            if !self.answering_while(destroyed).await {
                return;
            }
            self.apply(Event::Destroyed);
        }
        let id = self.handle.id();
        if let Phase::Stopped { reason } = self.machine.phase() {
            let at = clock::now();
            let recorded = self.app.database.sandbox_has_stopped(id, reason, at).await;
            log_failure(id, recorded);
            tracing::info!(sandbox = %id, reason = reason.as_str(), "sandbox ended");
        }
        self.app.exposures.forget(id);
        self.app.ssh_logins.forget(id);
        self.app.registry.remove(id);
        self.handle.shared.stopped.cancel();
    }

    /// Before anything of it goes away: why it ends, and what it used.
    async fn record_ending(&mut self, reason: StopReason) {
        let app = Arc::clone(&self.app);
        let handle = self.handle.clone();
        let id = handle.id();
        let written = async {
            log_failure(id, app.database.sandbox_is_stopping(id, reason).await);
        };
        let measured = async {
            log_failure(id, handle.meter().lock().await.measure(&app).await);
        };
        self.answering_while(async { tokio::join!(written, measured) })
            .await;
    }
}

/// Creates the sandbox on the node. When the node goes away in between, what
/// may be left is taken down before the next attempt.
async fn create_on_node(
    app: &App,
    id: &SandboxId,
    request: CreateSandboxRequest,
) -> Result<CreateSandboxReply, NodeCallError> {
    let limit = app.config.limits.create_timeout;
    let first = app.node.create(request.clone(), limit).await;
    let again = match first {
        Err(NodeCallError::Away { .. }) => {
            // Waits for the node to come back, within bounds.
            app.node.destroy(id).await?;
            app.node.create(request, limit).await
        }
        done => done,
    };
    if let Err(NodeCallError::TimedOut { .. } | NodeCallError::Away { .. }) = &again
        && let Err(error) = app.node.destroy(id).await
    {
        tracing::warn!(sandbox = %id, %error, "left to be reaped when the node is back");
    }
    again
}

/// Takes the sandbox down, however long the node is away.
async fn destroy(app: &App, id: &SandboxId) {
    while let Err(error) = app.node.destroy(id).await {
        tracing::warn!(sandbox = %id, %error, "trying again to take it down");
        sleep(RETRY_PAUSE).await;
    }
}

/// The sandbox must end whether or not this can be written down.
fn log_failure(id: &SandboxId, result: Result<(), QueryError>) {
    if let Err(error) = result {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        tracing::error!(sandbox = %id, %error, ?cause, "could not be recorded");
    }
}
