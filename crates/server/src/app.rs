//! What all requests share.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::ServerConfig;
use crate::database::Database;
use crate::egress::EgressLink;
use crate::exposures::Exposures;
use crate::node::NodeLink;
use crate::registry::Registry;
use crate::rpc::{Budget, StreamIds};
use crate::ssh_logins::SshLogins;

#[derive(Debug)]
pub(crate) struct App {
    pub(crate) config: ServerConfig,
    pub(crate) database: Database,
    pub(crate) node: NodeLink,
    /// Without it sandboxes have no network.
    pub(crate) egress: Option<EgressLink>,
    pub(crate) registry: Registry,
    pub(crate) exposures: Arc<Exposures>,
    pub(crate) ssh_logins: SshLogins,
    pub(crate) stream_ids: Arc<StreamIds>,
    /// What all connections may hold together.
    pub(crate) budget: Arc<Budget>,
    /// Fires when the server stops. Sandboxes live on.
    pub(crate) shutdown: CancellationToken,
    /// Fires when the server has agreed to make room for another.
    pub(crate) retired: CancellationToken,
    /// Every task that outlives a request.
    pub(crate) tasks: TaskTracker,
}
