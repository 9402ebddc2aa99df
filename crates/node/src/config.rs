//! What a node is told at its start.

use std::path::PathBuf;
use tombolo_host::IsolationChoice;

/// Everything a node needs to know.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Holds artefacts, templates and the records of VMs.
    pub state_dir: PathBuf,
    /// Where the control plane reaches this node.
    pub socket: PathBuf,
    /// User and group that may use the socket.
    pub socket_owner: (u32, u32),
    /// How VMs are to be isolated.
    pub isolation: IsolationChoice,
    /// Restored VMs that wait to be claimed; 0 for none.
    pub pool_size: usize,
    /// The size of the waiting VMs, and of requests that name none.
    pub default_memory_mib: u32,
    /// Virtual processors of each VM.
    pub vcpu_count: u32,
    /// The disk of each VM; at least as large as the image.
    pub disk_gib: u32,
    /// The most sandboxes at a time.
    pub sandbox_limit: usize,
    /// The proxy that carries what sandboxes send out. Without one they have no network.
    pub egress: Option<EgressSockets>,
}

/// Where the egress proxy of this machine answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressSockets {
    /// Its gRPC service.
    pub control: PathBuf,
    /// Where it takes the sockets of network slots.
    pub descriptors: PathBuf,
}
