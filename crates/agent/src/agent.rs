//! The agent's state, shared by all calls.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tombolo_guest_proto::v1::SpawnRequest;

use crate::connect::Connections;
use crate::deno::Deno;
use crate::environment::Environment;
use crate::fault::CallError;
use crate::files::{Files, Handles};
use crate::process::{Process, Processes, Spawner};
use crate::trust::JavaStore;
use crate::walk::Turns;
use crate::watch::Watches;

/// Everything that calls act on.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) environment: Environment,
    pub(crate) processes: Processes,
    pub(crate) spawner: Spawner,
    pub(crate) files: Files,
    pub(crate) handles: Handles,
    pub(crate) turns: Turns,
    pub(crate) watches: Watches,
    /// To programs that listen in the guest.
    pub(crate) connections: Connections,
    pub(crate) deno: Deno,
    pub(crate) personalized: AtomicBool,
    /// Whether the clock, the host name and the like are this agent's to set.
    pub(crate) owns_system: bool,
    /// What Java reads, where the system is this agent's.
    pub(crate) java_store: Option<JavaStore>,
}

impl Agent {
    pub(crate) async fn spawn(&self, request: SpawnRequest) -> Result<Arc<Process>, CallError> {
        self.spawner
            .spawn(&self.processes, &self.environment, request)
            .await
    }
}
