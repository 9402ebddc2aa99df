//! A node without machines: it keeps a list of sandboxes, tells what ends when
//! a test says so, and passes guest calls to a [`FakeAgent`] for each.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::{broadcast, watch};
use tombolo_guest_proto::v1::agent_server::{Agent, AgentServer};
use tombolo_node_proto::v1::node_server::NodeServer;
use tombolo_node_proto::v1::{CreateSandboxRequest, SandboxEnded, SandboxState, SandboxUsageReply};
use tonic::Code;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::agent::FakeAgent;
use crate::egress::{EgressShared, FakeEgress};
use crate::service::{GuestService, NodeService};
use crate::socket::listen;

/// The windows of a real node: smaller ones bound how many small messages may
/// be under way.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 64 * 1024 * 1024;
/// Events a slow reader may be behind.
const EVENTS_MAX: usize = 1024;

/// What the next requests to create a sandbox meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateBehaviour {
    Succeed,
    Refuse(Code),
    /// The answer waits until the behaviour changes.
    Hold,
}

#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) request: CreateSandboxRequest,
    pub(crate) deadline_unix_millis: i64,
    pub(crate) agent: FakeAgent,
    pub(crate) usage: SandboxUsageReply,
}

/// What outlives a restart of the node.
#[derive(Debug)]
pub(crate) struct Shared {
    sandboxes: Mutex<BTreeMap<String, Sandbox>>,
    pub(crate) created: Mutex<Vec<CreateSandboxRequest>>,
    pub(crate) events: broadcast::Sender<SandboxEnded>,
    pub(crate) behaviour: watch::Sender<CreateBehaviour>,
    pub(crate) watchers: watch::Sender<usize>,
    /// Who carries the network of sandboxes, if anybody does.
    pub(crate) egress: Mutex<Option<Arc<EgressShared>>>,
    /// Memory is granted in multiples of this.
    pub(crate) memory_step_mib: watch::Sender<u32>,
}

impl Shared {
    pub(crate) fn egress(&self) -> Option<Arc<EgressShared>> {
        let egress = self.egress.lock();
        egress.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn sandboxes(&self) -> MutexGuard<'_, BTreeMap<String, Sandbox>> {
        self.sandboxes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A node on a unix socket of its own. It can be killed and started again, and
/// keeps its sandboxes meanwhile, as a real one does.
#[derive(Debug)]
pub struct FakeNode {
    shared: Arc<Shared>,
    routes: Routes,
    directory: TempDir,
    runtime: Option<Runtime>,
}

impl FakeNode {
    /// A node whose sandboxes have a [`FakeAgent`] each.
    pub fn start() -> anyhow::Result<Self> {
        let shared = new_shared();
        let agent = AgentServer::new(GuestService::new(Arc::clone(&shared)));
        Self::with_routes(shared, Routes::new(agent))
    }

    /// A node that passes every guest call to `agent`, whichever the sandbox.
    pub fn with_agent(agent: impl Agent) -> anyhow::Result<Self> {
        Self::with_routes(new_shared(), Routes::new(AgentServer::new(agent)))
    }

    /// A node whose guests answer calls with whatever `guest` does, gRPC or
    /// not.
    pub fn with_guest<S>(guest: S) -> anyhow::Result<Self>
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        Self::with_routes(new_shared(), Routes::new(guest))
    }

    fn with_routes(shared: Arc<Shared>, routes: Routes) -> anyhow::Result<Self> {
        let node = NodeServer::new(NodeService::new(Arc::clone(&shared)));
        let mut fake = Self {
            shared,
            routes: routes.add_service(node),
            directory: tempfile::tempdir().context("no directory for the fake node")?,
            runtime: None,
        };
        fake.restart()?;
        Ok(fake)
    }

    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("node.sock")
    }

    /// A directory that lives as long as the node, for whatever a test needs.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Ends the node's process, so to speak: connections break, sandboxes stay.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        self.shared.watchers.send_replace(0);
    }

    /// Starts the node again on the same socket.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.kill();
        let (runtime, connections) = listen(&self.socket())?;
        let serving = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .add_routes(self.routes.clone())
            .serve_with_incoming(connections);
        runtime.spawn(serving);
        self.runtime = Some(runtime);
        Ok(())
    }

    /// Ids of the sandboxes it has.
    #[must_use]
    pub fn sandboxes(&self) -> Vec<String> {
        self.shared.sandboxes().keys().cloned().collect()
    }

    #[must_use]
    pub fn has(&self, id: &str) -> bool {
        self.shared.sandboxes().contains_key(id)
    }

    /// Every request to create a sandbox that arrived.
    #[must_use]
    pub fn created(&self) -> Vec<CreateSandboxRequest> {
        let created = self.shared.created.lock();
        created.unwrap_or_else(PoisonError::into_inner).clone()
    }

    #[must_use]
    pub fn state(&self, id: &str) -> Option<SandboxState> {
        let sandboxes = self.shared.sandboxes();
        let sandbox = sandboxes.get(id)?;
        Some(SandboxState {
            sandbox_id: id.to_owned(),
            deadline_unix_millis: sandbox.deadline_unix_millis,
            memory_mib: sandbox.request.memory_mib,
        })
    }

    #[must_use]
    pub fn agent(&self, id: &str) -> Option<FakeAgent> {
        let sandboxes = self.shared.sandboxes();
        sandboxes.get(id).map(|sandbox| sandbox.agent.clone())
    }

    pub fn set_usage(&self, id: &str, usage: SandboxUsageReply) {
        if let Some(sandbox) = self.shared.sandboxes().get_mut(id) {
            sandbox.usage = usage;
        }
    }

    pub fn on_create(&self, behaviour: CreateBehaviour) {
        self.shared.behaviour.send_replace(behaviour);
    }

    /// From now on the network of new sandboxes is carried by this process.
    pub fn attach_to(&self, egress: &FakeEgress) {
        let mut carrier = self
            .shared
            .egress
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *carrier = Some(egress.shared());
    }

    /// Rounds the memory of new sandboxes up to a multiple of this.
    pub fn set_memory_step(&self, step_mib: u32) {
        self.shared.memory_step_mib.send_replace(step_mib.max(1));
    }

    /// A sandbox that nobody asked for.
    pub fn add_stray(&self, id: &str) {
        let request = CreateSandboxRequest {
            sandbox_id: id.to_owned(),
            ..CreateSandboxRequest::default()
        };
        self.shared
            .sandboxes()
            .insert(id.to_owned(), Sandbox::new(request));
    }

    /// Forgets a sandbox without a word.
    pub fn lose(&self, id: &str) {
        self.shared.sandboxes().remove(id);
        if let Some(egress) = self.shared.egress() {
            egress.detach(id);
        }
    }

    /// A sandbox ends by itself.
    pub fn end(&self, id: &str, reason: &str) {
        self.lose(id);
        let event = SandboxEnded {
            sandbox_id: id.to_owned(),
            reason: reason.to_owned(),
        };
        // Nobody may be listening.
        drop(self.shared.events.send(event));
    }

    /// How many follow its events now.
    #[must_use]
    pub fn watchers(&self) -> usize {
        *self.shared.watchers.borrow()
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Sandbox {
    pub(crate) fn new(request: CreateSandboxRequest) -> Self {
        let agent = FakeAgent::default();
        for (key, value) in &request.env {
            agent.set_env(key.clone(), Some(value.clone()));
        }
        Self {
            deadline_unix_millis: request.deadline_unix_millis,
            request,
            agent,
            usage: SandboxUsageReply::default(),
        }
    }
}

fn new_shared() -> Arc<Shared> {
    Arc::new(Shared {
        sandboxes: Mutex::default(),
        created: Mutex::default(),
        events: broadcast::Sender::new(EVENTS_MAX),
        behaviour: watch::Sender::new(CreateBehaviour::Succeed),
        watchers: watch::Sender::new(0),
        egress: Mutex::default(),
        memory_step_mib: watch::Sender::new(1),
    })
}
