//! Creates a sandbox: books it, starts its task and waits until it runs.

use std::sync::Arc;

use tokio::sync::oneshot;
use tombolo_ids::{EntropyError, OrganisationId, SandboxId};
use tombolo_lifecycle::{AdmissionRefusal, Demand, SandboxMachine, SandboxPlan};

use super::task::{Order, SandboxTask, TaskParts};
use super::{Closing, Connection, Meter};
use crate::app::App;
use crate::clock;
use crate::database::QueryError;
use crate::egress::EgressError;
use crate::network::NetworkPlan;
use crate::node::NodeCallError;

/// Why a sandbox was not created.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateError {
    #[error(transparent)]
    Refused(#[from] AdmissionRefusal),
    #[error("the sandbox has no id")]
    Id(#[from] EntropyError),
    #[error("the sandbox could not be recorded")]
    Database(#[source] QueryError),
    #[error("the node did not create the sandbox")]
    Node(#[source] NodeCallError),
    #[error("the sandbox's secrets could not be sealed")]
    Egress(#[source] EgressError),
    #[error("the sandbox was ended while it was being created")]
    Ended,
    #[error("the server is stopping")]
    ShuttingDown,
}

/// Creates a sandbox. The connection that comes back is its primary, with what
/// its owner should know of its policy. When the caller goes away before it is
/// opened, the sandbox is taken down again.
pub(crate) async fn create(
    app: &Arc<App>,
    organisation: &OrganisationId,
    plan: SandboxPlan,
    network: Option<NetworkPlan>,
) -> Result<(Connection, Vec<String>), CreateError> {
    if app.shutdown.is_cancelled() {
        return Err(CreateError::ShuttingDown);
    }
    let demand = Demand {
        memory: plan.memory,
        disk: plan.disk,
    };
    let limits = app.config.limits.organisation();
    let reservation = app.registry.admit(organisation, demand, &limits)?;
    let id = SandboxId::random(plan.region)?;
    let created_at = clock::now();
    let network = match (network, &app.egress) {
        (Some(network), Some(egress)) => {
            let sealed = network.seal(egress, organisation, &id, &plan.labels, created_at);
            Some(sealed.await.map_err(CreateError::Egress)?)
        }
        _ => None,
    };
    let mut task = SandboxTask::new(
        app,
        TaskParts {
            id: id.clone(),
            organisation: organisation.clone(),
            machine: SandboxMachine::new(plan.lifetime, app.config.limits.lifetime()),
            meter: Meter::new(id, organisation.clone(), plan.memory, created_at, None),
            reservation,
        },
    );
    let connection = task.hold_primary(Closing::NeverOpened);
    app.registry.insert(task.handle().clone());
    let (ready, answer) = oneshot::channel();
    let order = Order {
        plan,
        network,
        created_at,
    };
    app.tasks.spawn(task.run_new(order, ready));
    match answer.await {
        Ok(Ok(warnings)) => Ok((connection, warnings)),
        Ok(Err(error)) => Err(error),
        Err(_dropped) => Err(CreateError::ShuttingDown),
    }
}
