//! Tombolo's own endpoints under `/api/tombolo/v1`, beyond what the official
//! clients know: tokens, the state of the server, richer sandbox rows, and the
//! network of sandboxes.

mod egress;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tombolo_ids::{DiskBytes, MemoryMib, OrganisationSlug, SandboxId, TokenId, UnixMillis};
use utoipa::ToSchema;

pub use egress::{
    AllowNet, EGRESS_METRICS_PATH, EGRESS_RECORDS_PATH, ExplainHeader, ExplainRequest, GivenSecret,
    HostSums, PolicyChange, PutSecret, SecretChange, SecretRow,
};

/// Where tokens are created, listed and (with `/{id}`) revoked. Admin only.
pub const TOKENS_PATH: &str = "/api/tombolo/v1/tokens";
/// What this server is and allows.
pub const INFO_PATH: &str = "/api/tombolo/v1/info";
/// Makes room for another server.
pub const RETIRE_PATH: &str = "/api/tombolo/v1/retire";
/// Sandboxes with everything known about them.
pub const SANDBOXES_PATH: &str = "/api/tombolo/v1/sandboxes";
/// Sums of all that came in over HTTP, for Prometheus. Admin only.
pub const INGRESS_METRICS_PATH: &str = "/api/tombolo/v1/ingress/metrics";
/// Where SSH keys are registered, listed and (with `/{fingerprint}`) removed.
pub const SSH_KEYS_PATH: &str = "/api/tombolo/v1/ssh-keys";
/// Whether the server runs. The only address that needs no token.
pub const HEALTH_PATH: &str = "/healthz";

/// Which kind of token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TokenKind {
    /// `ddo_…`: acts for its organisation.
    #[default]
    Organisation,
    /// `ddp_…`: a person's, used with the header `X-Deno-Org`.
    Personal,
}

/// Asks for a new token (body of `POST /api/tombolo/v1/tokens`).
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// What people call the token.
    #[serde(default)]
    pub name: String,
    /// The organisation it acts for, made when it does not exist; `default`
    /// when absent.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub organisation: Option<OrganisationSlug>,
    /// Which kind.
    #[serde(default)]
    pub kind: TokenKind,
}

/// A new token: the only time its text is shown.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedToken {
    /// The credential itself.
    pub token: String,
    /// Everything that can be listed about it.
    #[serde(flatten)]
    pub row: TokenRow,
}

impl std::fmt::Debug for CreatedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreatedToken")
            .field("row", &self.row)
            .finish_non_exhaustive()
    }
}

/// One row of the token listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenRow {
    /// Names the token.
    #[schema(value_type = String)]
    pub id: TokenId,
    /// What people call it.
    pub name: String,
    /// The organisation it acts for.
    #[schema(value_type = String)]
    pub organisation: OrganisationSlug,
    /// Which kind.
    pub kind: TokenKind,
    /// When it was made.
    #[schema(value_type = i64)]
    pub created_at_ms: UnixMillis,
    /// When it was revoked, if it was.
    #[schema(value_type = Option<i64>)]
    pub revoked_at_ms: Option<UnixMillis>,
}

/// Whether the server runs (answer of `GET /healthz`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Always `ok`.
    pub status: String,
    /// Whether the node is being followed.
    pub node: bool,
}

/// What became of a server that was asked to make room (answer of
/// `POST /api/tombolo/v1/retire`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Retirement {
    /// Always `ending`.
    pub status: String,
}

/// What this server is and allows (answer of `GET /api/tombolo/v1/info`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServerInfo {
    /// The server's version.
    pub version: String,
    /// The region sandboxes are created in.
    pub region: String,
    /// The node, or null while it cannot be reached.
    pub node: Option<NodeInfo>,
    /// What an organisation may use.
    pub limits: LimitsInfo,
}

/// The machine that runs the sandboxes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeInfo {
    /// Its version.
    pub version: String,
    /// `kvm` or `emulated`.
    pub isolation: String,
    /// Why it is that.
    pub isolation_reason: String,
    /// Sandboxes it runs.
    pub sandbox_count: u32,
    /// Restored machines ready to be claimed.
    pub pool_ready: u32,
    /// How many it wants to have ready.
    pub pool_target: u32,
}

/// The limits of one organisation and of each sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LimitsInfo {
    /// Sandboxes at the same time.
    pub sandboxes_max: u32,
    /// Memory of all its sandboxes together.
    pub memory_total_mib_max: u64,
    /// Disk of all its sandboxes together.
    pub disk_total_bytes_max: u64,
    /// The longest life of a sandbox, extensions included.
    pub lifetime_secs_max: u64,
    /// How much later one extension may put the end, counted from now.
    pub extension_secs_max: u64,
    /// The least memory of a sandbox.
    #[schema(value_type = u32)]
    pub memory_mib_min: MemoryMib,
    /// The most memory of a sandbox.
    #[schema(value_type = u32)]
    pub memory_mib_max: MemoryMib,
    /// The memory of a sandbox that asks for none.
    #[schema(value_type = u32)]
    pub memory_mib_default: MemoryMib,
    /// How long a session outlives its lost primary connection.
    pub grace_secs: u64,
}

/// Where a sandbox is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SandboxPhase {
    /// The node is making it.
    Creating,
    /// It runs.
    Running,
    /// It runs, its primary connection is lost, and it ends soon unless
    /// somebody connects.
    Grace,
    /// It is being taken down.
    Stopping,
    /// Nothing is left of it.
    Stopped,
}

impl SandboxPhase {
    /// Every phase, in the order of a life.
    pub const ALL: [Self; 5] = [
        Self::Creating,
        Self::Running,
        Self::Grace,
        Self::Stopping,
        Self::Stopped,
    ];

    /// As it is written in JSON and in queries.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Running => "running",
            Self::Grace => "grace",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }
}

/// Whether a sandbox lives as long as a connection or until a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LifetimeKind {
    /// It ends with its primary connection.
    Session,
    /// It ends at its deadline.
    Duration,
}

/// One row of `GET /api/tombolo/v1/sandboxes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SandboxRow {
    /// Its id.
    #[schema(value_type = String)]
    pub id: SandboxId,
    /// The organisation it belongs to.
    #[schema(value_type = String)]
    pub organisation: OrganisationSlug,
    /// The region's code.
    pub region: String,
    /// Where it is in its life.
    pub state: SandboxPhase,
    /// Why it ended, once it does: `killed`, `session_closed`,
    /// `connection_lost`, `deadline`, `vm_exited`, `lost`, `create_failed` or
    /// `abandoned`.
    pub reason: Option<String>,
    /// What it lives as long as.
    pub lifetime: LifetimeKind,
    /// `kvm` or `emulated`; null until it runs.
    pub isolation: Option<String>,
    /// The memory it was granted.
    #[schema(value_type = u32)]
    pub memory_mib: MemoryMib,
    /// The size of its disk.
    #[schema(value_type = u64)]
    pub disk_bytes: DiskBytes,
    /// When it was created.
    #[schema(value_type = i64)]
    pub created_at_ms: UnixMillis,
    /// When it ends at the latest.
    #[schema(value_type = i64)]
    pub deadline_ms: UnixMillis,
    /// When it ended.
    #[schema(value_type = Option<i64>)]
    pub stopped_at_ms: Option<UnixMillis>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The latest figures, if any were taken.
    pub usage: Option<UsageInfo>,
}

/// What a sandbox has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UsageInfo {
    /// When these figures were taken.
    #[schema(value_type = i64)]
    pub at_ms: UnixMillis,
    /// Processor time of its machine since it was created.
    pub cpu_nanos: u64,
    /// Memory granted times the time it was held.
    pub memory_mib_seconds: u64,
    /// Memory that is its own: private and dirty.
    pub memory_private_bytes: u64,
    /// Disk it has taken of its own.
    pub disk_allocated_bytes: u64,
    /// Requests that came in through its exposures.
    #[serde(default)]
    pub ingress_requests: u64,
    /// Bytes of bodies and upgraded connections that came in with them.
    #[serde(default)]
    pub ingress_request_bytes: u64,
    /// The same that went out as answers.
    #[serde(default)]
    pub ingress_response_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_written_alike_everywhere() {
        for phase in SandboxPhase::ALL {
            assert_eq!(serde_json::to_value(phase).unwrap(), phase.as_str());
        }
    }
}
