//! The seam to the node crate.

use std::time::Duration;

use tombolo_node::{EgressSockets, IsolationChoice, NodeConfig, NodeError};

use super::NodeLaunch;
use crate::config::{Isolation, Settings};
use crate::failure::Outcome;
use crate::state::StateDir;

/// Probes the machine and makes the default template, if that is not done. A
/// node that runs already has done it.
pub(crate) async fn prepare(
    state: &StateDir,
    settings: &Settings,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Outcome {
    let config = config(NodeLaunch::new(state, settings));
    match tombolo_node::prepare(&config, progress).await {
        Ok(()) | Err(NodeError::Busy { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Boots the default machine without a template and says how long it took.
pub(crate) async fn cold_boot(state: &StateDir, settings: &Settings) -> Outcome<Duration> {
    let config = config(NodeLaunch::new(state, settings));
    Ok(tombolo_node::cold_boot(&config).await?)
}

/// Runs the node until it is told to end.
pub(super) async fn run(launch: NodeLaunch, ready: impl FnOnce()) -> Outcome {
    Ok(tombolo_node::run(config(launch), ready).await?)
}

fn config(launch: NodeLaunch) -> NodeConfig {
    let settings = launch.settings;
    NodeConfig {
        state_dir: launch.state_dir,
        socket: launch.socket,
        socket_owner: (settings.run_as.uid, settings.run_as.gid),
        isolation: match settings.isolation {
            Isolation::Auto => IsolationChoice::Auto,
            Isolation::Kvm => IsolationChoice::Kvm,
            Isolation::Emulated => IsolationChoice::Emulated,
        },
        pool_size: settings.pool_size,
        default_memory_mib: settings.default_memory_mib,
        vcpu_count: settings.vcpu_count,
        disk_gib: settings.disk_gib,
        sandbox_limit: settings.sandbox_limit,
        egress: Some(EgressSockets {
            control: launch.egress_control,
            descriptors: launch.egress_descriptors,
        }),
    }
}
