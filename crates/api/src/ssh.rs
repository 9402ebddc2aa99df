//! SSH to sandboxes, as both the official clients and our own ask for it.

use serde::{Deserialize, Serialize};
use tombolo_ids::UnixMillis;
use utoipa::ToSchema;

/// Asks for a way in by SSH (body of `POST /api/v3/sandbox/{id}/expose/ssh`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExposeSsh {}

/// A way in: `ssh -p PORT USERNAME@HOSTNAME`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExposedSsh {
    /// Where the gateway is.
    pub hostname: String,
    /// 32 hexadecimal digits. It is the credential: whoever knows it is let in, and no
    /// password or key is asked for. Shown this once.
    pub username: String,
    /// The gateway's port. The JavaScript SDK does not show it, and its users meet 22.
    pub port: u16,
    /// The gateway's key, as a line of `known_hosts` has it after the name.
    pub host_key: String,
}

impl std::fmt::Debug for ExposedSsh {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ExposedSsh")
            .field("hostname", &self.hostname)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// Registers a public key (body of `POST /api/tombolo/v1/ssh-keys`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddSshKey {
    /// A line such as those of `~/.ssh/id_ed25519.pub`.
    pub key: String,
    /// What people call it; the line's comment when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A public key that opens every sandbox of its organisation: `ssh -p PORT ID@HOSTNAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SshKeyRow {
    /// `SHA256:…`, as `ssh-keygen -l` shows it.
    pub fingerprint: String,
    /// Type and key.
    pub key: String,
    /// What people call it.
    pub name: String,
    /// When it was registered.
    #[schema(value_type = i64)]
    pub created_at_ms: UnixMillis,
}
