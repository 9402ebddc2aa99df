//! Sandboxes as the REST interface shows and changes them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tombolo_ids::{SandboxId, UnixMillis};
use utoipa::ToSchema;

/// One row of a sandbox listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SandboxMeta {
    /// Its id.
    #[schema(value_type = String)]
    pub id: SandboxId,
    /// When it was created, ISO 8601.
    pub created_at: String,
    /// When it ended, ISO 8601; null while it runs.
    pub stopped_at: Option<String>,
    /// The region's code.
    pub region: String,
    /// Whether it still exists.
    pub status: SandboxStatus,
    /// The labels it was created with.
    pub labels: BTreeMap<String, String>,
}

/// Whether a sandbox still exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SandboxStatus {
    /// It exists: it is starting, running or ending.
    Running,
    /// Nothing is left of it.
    Stopped,
}

/// Asks for a later end (body of `PATCH /api/v3/sandbox/{id}`), and the answer
/// with the end that was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StopAt {
    /// Milliseconds since the Unix epoch.
    #[schema(value_type = i64)]
    pub stop_at_ms: UnixMillis,
}
