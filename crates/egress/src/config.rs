//! What the proxy is told at its start.

use std::{collections::BTreeMap, path::PathBuf};

/// Everything that an egress process needs to know.
#[derive(Clone, Debug)]
pub struct EgressConfig {
    /// Holds its keys, what it keeps of sandboxes, and its records. Nobody else reads it.
    pub state_dir: PathBuf,
    /// Where it is controlled.
    pub socket: PathBuf,
    /// Where the sockets of sandboxes are handed to it.
    pub descriptor_socket: PathBuf,
    /// Addresses of the operator for names: `name` or `name:port` to `address` or
    /// `address:port`.
    pub hosts: BTreeMap<String, String>,
    /// Private ranges that policies may open.
    pub private_networks: Vec<String>,
    /// Files of further certificate authorities, as PEM.
    pub root_files: Vec<PathBuf>,
}
