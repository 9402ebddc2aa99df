//! How a child is told to run.

use std::fmt;
use std::net::{AddrParseError, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::config::{EgressSettings, RunAs, Settings};
use crate::privileges::Keep;
use crate::state::{StateDir, Tenure};

/// Ports below it are for who may (ip(7), `ip_unprivileged_port_start`).
const LOW_PORTS_END: u16 = 1024;

/// How to run the egress proxy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct EgressLaunch {
    pub(crate) state_dir: PathBuf,
    pub(crate) control: PathBuf,
    /// The user that may use `control`, besides root.
    pub(crate) control_uid: u32,
    pub(crate) descriptors: PathBuf,
    pub(crate) settings: EgressSettings,
}

/// How to run the public server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ServerLaunch {
    pub(crate) run_as: RunAs,
    pub(crate) listen: SocketAddr,
    pub(crate) node_socket: PathBuf,
    pub(crate) egress_socket: PathBuf,
    pub(crate) database: PathBuf,
    /// Certificates and key of the ingress.
    pub(crate) ingress_identity: PathBuf,
    /// Where the server keeps what authorities give it.
    pub(crate) acme_dir: PathBuf,
    /// The SSH gateway's key, which the server makes.
    pub(crate) ssh_host_key: PathBuf,
    /// The server knows the admin token by its hash only, in hexadecimal.
    pub(crate) admin_token_hash: String,
    /// Whether it makes room for another when it is asked to.
    pub(crate) retires: bool,
    pub(crate) settings: Settings,
}

/// What a server says when it is ready: where it listens, in one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ready {
    pub(crate) api: SocketAddr,
    pub(crate) ingress: Option<SocketAddr>,
    pub(crate) ssh: Option<SocketAddr>,
}

impl fmt::Display for Ready {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.api)?;
        for gate in [self.ingress, self.ssh] {
            match gate {
                Some(address) => write!(formatter, " {address}")?,
                None => formatter.write_str(" -")?,
            }
        }
        Ok(())
    }
}

impl FromStr for Ready {
    type Err = AddrParseError;

    fn from_str(line: &str) -> Result<Self, AddrParseError> {
        let mut words = line.split(' ');
        let api = words.next().unwrap_or_default().parse()?;
        let mut gate = || {
            let word = words.next().filter(|word| *word != "-");
            word.map(str::parse).transpose()
        };
        Ok(Self {
            api,
            ingress: gate()?,
            ssh: gate()?,
        })
    }
}

/// How to run the node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NodeLaunch {
    pub(crate) state_dir: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) egress_control: PathBuf,
    pub(crate) egress_descriptors: PathBuf,
    pub(crate) settings: Settings,
}

impl EgressLaunch {
    pub(crate) fn new(state: &StateDir, settings: &Settings) -> Self {
        Self {
            state_dir: state.egress_dir(),
            control: state.egress_control_socket(),
            control_uid: settings.run_as.uid,
            descriptors: state.egress_descriptor_socket(),
            settings: settings.egress.clone(),
        }
    }
}

impl ServerLaunch {
    /// What the server needs beyond its user.
    pub(crate) fn rights(&self) -> Keep {
        let (ingress, ssh) = (&self.settings.ingress, &self.settings.ssh);
        let dns = ingress.acme.as_ref().map(|_| ingress.acme_dns_listen);
        let mut addresses = [self.listen, ingress.listen, ssh.listen]
            .into_iter()
            .chain(dns);
        // Port 0 is a free one, and those are high.
        if addresses.any(|address| (1..LOW_PORTS_END).contains(&address.port())) {
            Keep::LowPorts
        } else {
            Keep::Nothing
        }
    }

    pub(crate) fn new(
        state: &StateDir,
        settings: &Settings,
        tenure: Tenure,
        admin_token_hash: String,
    ) -> Self {
        Self {
            run_as: settings.run_as,
            listen: settings.listen,
            node_socket: state.node_socket(),
            egress_socket: state.egress_control_socket(),
            database: state.database_file(),
            acme_dir: state.acme_dir(),
            ssh_host_key: state.ssh_host_key_file(),
            ingress_identity: crate::ingress::identity_file(state, &settings.ingress),
            admin_token_hash,
            retires: tenure == Tenure::Passes,
            settings: settings.clone(),
        }
    }
}

impl NodeLaunch {
    pub(crate) fn new(state: &StateDir, settings: &Settings) -> Self {
        Self {
            state_dir: state.root().to_owned(),
            socket: state.node_socket(),
            egress_control: state.egress_control_socket(),
            egress_descriptors: state.egress_descriptor_socket(),
            settings: settings.clone(),
        }
    }
}
