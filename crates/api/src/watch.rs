//! Files of a sandbox that change, as `GET /api/v3/sandbox/{id}/files/watch` tells
//! of them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What happened. It is the name of the event, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileChangeKind {
    /// It is there now, or was moved here from where nobody watches.
    Created,
    /// Its content changed.
    Modified,
    /// Its mode, owner, times or number of links changed.
    Metadata,
    /// It is not there any more, or was moved to where nobody watches. Nothing follows
    /// when it is what was asked for.
    Removed,
    /// It has another path.
    Renamed,
    /// What is in this directory is not watched: the sandbox's user may not read it, or
    /// there are too many directories.
    Unwatched,
    /// Changes may be missing: whatever is below may have changed.
    Missed,
}

impl FileChangeKind {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Modified => "modified",
            Self::Metadata => "metadata",
            Self::Removed => "removed",
            Self::Renamed => "renamed",
            Self::Unwatched => "unwatched",
            Self::Missed => "missed",
        }
    }
}

/// Why changes may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MissedReason {
    /// They came faster than they were read.
    Overflow,
    /// The way to the sandbox was lost for a while.
    Interrupted,
    /// The client was away: it said which event it saw last.
    Reconnected,
}

/// One change: the data of one event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileChange {
    /// What happened.
    pub kind: FileChangeKind,
    /// Begins with the path that was asked for. What is not UTF-8 is replaced.
    pub path: String,
    /// The former path of what was renamed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Whether it is, or was, a directory.
    pub is_directory: bool,
    /// Why changes may be missing, of `missed` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<MissedReason>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_kind_is_written_as_it_says() {
        use FileChangeKind::{Created, Metadata, Missed, Modified, Removed, Renamed, Unwatched};
        for kind in [
            Created, Modified, Metadata, Removed, Renamed, Unwatched, Missed,
        ] {
            assert_eq!(serde_json::to_value(kind).unwrap(), json!(kind.as_str()));
        }
    }
}
