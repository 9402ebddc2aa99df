//! What the operator decides about a server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tombolo_ids::{DiskBytes, MemoryMib, Region};
use tombolo_ingress::{AcmeConfig, Base as IngressBase, Limits as IngressLimits};
use tombolo_lifecycle::{LifetimeLimits, OrganisationLimits, SandboxBounds};
use tombolo_ssh::Limits as SshLimits;

use crate::token::TokenHash;

/// Everything a server is started with.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where it listens. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// The address clients use, such as `https://sandboxes.example.com`. When
    /// absent, links are built from the `Host` of each request.
    pub base_url: Option<String>,
    /// The unix socket of the node.
    pub node_socket: PathBuf,
    /// The unix socket of the egress process. When absent sandboxes have no
    /// network, and whoever asks for one is refused.
    pub egress_socket: Option<PathBuf>,
    /// The database file, made when absent.
    pub database: PathBuf,
    /// Opens the administration endpoints. When absent nothing does.
    pub admin_token: Option<TokenHash>,
    /// The region sandboxes are created in: part of their ids.
    pub region: Region,
    pub limits: Limits,
    /// How ports of sandboxes are reached over HTTP. When absent they are not, and
    /// whoever asks is refused.
    pub ingress: Option<IngressOptions>,
    /// How sandboxes are reached over SSH. When absent they are not, and whoever asks is
    /// refused.
    pub ssh: Option<SshOptions>,
    /// Whether it ends when whoever holds the admin token asks it to and it has no
    /// sandboxes, to make room for another.
    pub retires: bool,
}

/// How sandboxes are reached over SSH.
#[derive(Clone, Debug)]
pub struct SshOptions {
    /// Where the gateway listens. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// The name by which clients reach it.
    pub host: String,
    /// Its key, made when absent.
    pub key_file: PathBuf,
    /// Its bounds.
    pub limits: SshLimits,
}

/// How ports of sandboxes are reached over HTTP.
#[derive(Clone, Debug)]
pub struct IngressOptions {
    /// Where the ingress listens. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// The name below which exposures are.
    pub base: IngressBase,
    /// A file of a certificate chain and its key, as PEM; read again when it changes.
    pub identity_file: PathBuf,
    /// From where it gets a certificate that it prefers to that file, if it does.
    pub acme: Option<AcmeConfig>,
    /// Its bounds.
    pub limits: IngressLimits,
}

/// Bounds of what clients may ask for, and of how long the server waits.
#[derive(Clone, Debug)]
pub struct Limits {
    pub memory_min: MemoryMib,
    pub memory_max: MemoryMib,
    pub memory_default: MemoryMib,
    /// The size of every sandbox's disk.
    pub disk: DiskBytes,
    /// The longest life of a sandbox, extensions included.
    pub lifetime_max: Duration,
    /// How far from now one extension may put the end.
    pub extension_max: Duration,
    /// How long a session outlives its lost primary connection.
    pub grace: Duration,
    /// Per organisation: sandboxes at the same time.
    pub sandboxes_max: u32,
    /// Per organisation: memory of all its sandboxes together.
    pub memory_total_mib_max: u64,
    /// Per organisation: disk of all its sandboxes together.
    pub disk_total_bytes_max: u64,
    /// How long ended sandboxes stay in listings.
    pub stopped_retention: Duration,
    /// How often usage is measured.
    pub usage_interval: Duration,
    /// How long one measurement may take.
    pub usage_timeout: Duration,
    /// How long a request waits for a node that is away.
    pub node_wait: Duration,
    /// How long a node may take to create a sandbox, a new template included.
    pub create_timeout: Duration,
    /// The largest WebSocket message a client may send.
    pub frame_len_max: usize,
    /// How long requests and connections may take to end at shutdown.
    pub shutdown_grace: Duration,
}

impl Limits {
    /// What a server does when the operator says nothing.
    pub const STANDARD: Self = Self {
        memory_min: MemoryMib(768),
        memory_max: MemoryMib(4096),
        memory_default: MemoryMib(1280),
        disk: DiskBytes(10 * 1024 * 1024 * 1024),
        lifetime_max: Duration::from_hours(24),
        extension_max: Duration::from_mins(30),
        grace: Duration::from_secs(30),
        sandboxes_max: 100,
        memory_total_mib_max: 512 * 1024,
        disk_total_bytes_max: 2 * 1024 * 1024 * 1024 * 1024,
        stopped_retention: Duration::from_hours(24),
        usage_interval: Duration::from_mins(1),
        usage_timeout: Duration::from_secs(2),
        node_wait: Duration::from_secs(10),
        create_timeout: Duration::from_mins(3),
        frame_len_max: 128 * 1024 * 1024,
        shutdown_grace: Duration::from_secs(5),
    };

    pub(crate) fn lifetime(&self) -> LifetimeLimits {
        LifetimeLimits {
            lifetime_max: self.lifetime_max,
            extension_max: self.extension_max,
            grace: self.grace,
        }
    }

    pub(crate) fn organisation(&self) -> OrganisationLimits {
        OrganisationLimits {
            sandboxes_max: self.sandboxes_max,
            memory_total_mib_max: self.memory_total_mib_max,
            disk_total_bytes_max: self.disk_total_bytes_max,
        }
    }
}

impl ServerConfig {
    pub(crate) fn bounds(&self) -> SandboxBounds {
        SandboxBounds {
            memory_min: self.limits.memory_min,
            memory_max: self.limits.memory_max,
            memory_default: self.limits.memory_default,
            disk: self.limits.disk,
            lifetime: self.limits.lifetime(),
            region: self.region,
        }
    }
}
