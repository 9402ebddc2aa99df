//! Open files. A handle belongs to its connection and is closed with it.

use serde::{Deserialize, Serialize};

use super::{Offset, Text, Time};

/// Parameters of `open`; of `create`, which has no options.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OpenParams {
    /// The file.
    pub path: String,
    /// How to open it; for reading when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<OpenOptions>,
}

/// How to open a file.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenOptions {
    /// For reading; so by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read: Option<bool>,
    /// For writing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write: Option<bool>,
    /// For writing, each time at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub append: Option<bool>,
    /// Empty it first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncate: Option<bool>,
    /// Make it when it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create: Option<bool>,
    /// Make it, and fail when it exists. Wins over `create` and `truncate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create_new: Option<bool>,
    /// Permission bits of a new file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
}

/// Result of `open` and `create`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileHandle {
    /// Names the open file on this connection.
    pub file_handle_id: u64,
}

/// Parameters of `fileStat`, `fileSync`, `fileSyncData`, `fileUnlock` and
/// `fileClose`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HandleParams {
    /// The open file.
    pub file_handle_id: u64,
}

/// Parameters of `fileRead`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HandleReadParams {
    /// The open file.
    pub file_handle_id: u64,
    /// The most bytes to read; fewer may come.
    pub length: u64,
}

/// Result of `fileRead`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandleReadResult {
    /// Base64; `null` at the end of the file.
    pub data: Option<String>,
}

/// Parameters of `fileWrite`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HandleWriteParams<'a> {
    /// The open file.
    pub file_handle_id: u64,
    /// Base64.
    #[serde(borrow)]
    pub data: Text<'a>,
}

/// Result of `fileWrite`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HandleWriteResult {
    /// May be fewer than were given.
    pub bytes_written: u64,
}

/// Parameters of `fileSeek`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HandleSeekParams {
    /// The open file.
    pub file_handle_id: u64,
    /// How far.
    pub offset: Offset,
    /// From where: 0 the start, 1 the position, 2 the end.
    pub whence: u32,
}

/// Result of `fileSeek`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandleSeekResult {
    /// Bytes from the start.
    pub position: u64,
}

/// Parameters of `fileTruncate`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HandleTruncateParams {
    /// The open file.
    pub file_handle_id: u64,
    /// The new length, 0 when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub len: Option<u64>,
    /// Another name of `len`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// Parameters of `fileUtime`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HandleUtimeParams {
    /// The open file.
    pub file_handle_id: u64,
    /// When it was last read.
    pub atime: Time,
    /// When it was last written.
    pub mtime: Time,
}

/// Parameters of `fileLock`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HandleLockParams {
    /// The open file.
    pub file_handle_id: u64,
    /// Exclusive instead of shared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclusive: Option<bool>,
}
