//! Files by path. Relative paths start at `/home/app`.

use serde::{Deserialize, Serialize};

use super::{Text, Time};

/// Parameters of the methods that take nothing but a path.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PathParams {
    /// The file or directory.
    pub path: String,
}

/// Parameters of `readFile` and `readTextFile`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadParams {
    /// The file.
    pub path: String,
    /// Lets `abort` cancel the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort_id: Option<u64>,
}

/// Parameters of `writeFile` and `writeTextFile`: either `content` or
/// `contentStreamId`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WriteParams<'a> {
    /// The file.
    pub path: String,
    /// How to open it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<WriteOptions>,
    /// Base64 for `writeFile`, text for `writeTextFile`.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub content: Option<Text<'a>>,
    /// The client stream that carries the content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_stream_id: Option<u64>,
    /// Lets `abort` cancel the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort_id: Option<u64>,
}

/// How to open a file that is written whole.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WriteOptions {
    /// Add to its end instead of replacing it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub append: Option<bool>,
    /// Make it when it is missing; yes by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create: Option<bool>,
    /// Make it, and fail when it exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create_new: Option<bool>,
    /// Permission bits, applied to an existing file too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
}

/// Parameters of `remove`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RemoveParams {
    /// The file or directory.
    pub path: String,
    /// How.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<RemoveOptions>,
}

/// How to remove.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct RemoveOptions {
    /// With all that is in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recursive: Option<bool>,
}

/// Parameters of `mkdir`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MkdirParams {
    /// The directory.
    pub path: String,
    /// How.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<MkdirOptions>,
}

/// How to make a directory.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct MkdirOptions {
    /// With all that is missing above it; then an existing one is no error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recursive: Option<bool>,
    /// Permission bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
}

/// Parameters of `rename`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RenameParams {
    /// From.
    pub old_path: String,
    /// To.
    pub new_path: String,
}

/// Parameters of `chmod`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChmodParams {
    /// The file or directory.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
}

/// Parameters of `chown`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChownParams {
    /// The file or directory.
    pub path: String,
    /// The new owner, unchanged when missing.
    #[serde(default)]
    pub uid: Option<u32>,
    /// The new group, unchanged when missing.
    #[serde(default)]
    pub gid: Option<u32>,
}

/// Parameters of `copyFile`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CopyFileParams {
    /// From.
    pub from_path: String,
    /// To.
    pub to_path: String,
}

/// Parameters of `link`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LinkParams {
    /// What exists.
    pub target: String,
    /// What is made.
    pub path: String,
}

/// Parameters of `symlink`. Its `options.type` has no meaning on Linux.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SymlinkParams {
    /// The link's text.
    pub target: String,
    /// What is made.
    pub path: String,
}

/// Parameters of `truncate`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TruncateParams {
    /// The file.
    pub name: String,
    /// The new length, 0 when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
}

/// Parameters of `umask`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct UmaskParams {
    /// The new mask; only asked for when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<u32>,
}

/// Parameters of `utime`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UtimeParams {
    /// The file or directory.
    pub path: String,
    /// When it was last read.
    pub atime: Time,
    /// When it was last written.
    pub mtime: Time,
}

/// Parameters of `makeTempDir` and `makeTempFile`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MakeTempParams {
    /// Where and how it is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<MakeTempOptions>,
}

/// Where a temporary file is made and how it is named.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MakeTempOptions {
    /// The directory, `/tmp` when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<String>,
    /// What its name starts with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// What its name ends with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suffix: Option<String>,
}

/// Result of `stat`, `lstat` and `fileStat`. Integers fit a JavaScript number,
/// times are ISO 8601.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the wire has one flag for each kind of file"
)]
pub struct FileInfo {
    /// Whether it is a regular file.
    pub is_file: bool,
    /// Whether it is a directory.
    pub is_directory: bool,
    /// Whether it is a symbolic link.
    pub is_symlink: bool,
    /// In bytes.
    pub size: u64,
    /// When it was last written.
    pub mtime: String,
    /// When it was last read.
    pub atime: String,
    /// When it was made.
    pub birthtime: String,
    /// When its metadata last changed.
    pub ctime: String,
    /// Permission bits and type bits.
    pub mode: u32,
    /// The device it is on.
    pub dev: u64,
    /// Its number on the device.
    pub ino: u64,
    /// How many names it has.
    pub nlink: u64,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The device it stands for.
    pub rdev: u64,
    /// The preferred size of reads and writes.
    pub blksize: u64,
    /// Units of 512 bytes it takes.
    pub blocks: u64,
    /// Whether it is a block device.
    pub is_block_device: bool,
    /// Whether it is a character device.
    pub is_char_device: bool,
    /// Whether it is a named pipe.
    pub is_fifo: bool,
    /// Whether it is a socket.
    pub is_socket: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_null_are_alike_and_unknown_keys_are_ignored() {
        for json in [
            r#"{"path":"a","content":"b"}"#,
            r#"{"path":"a","content":"b","options":null,"contentStreamId":null,"abortId":null}"#,
            r#"{"path":"a","content":"b","signal":{},"options":{"append":null,"x":1}}"#,
        ] {
            let params: WriteParams<'_> = serde_json::from_str(json).unwrap();
            assert_eq!(params.content.unwrap().as_ref(), "b", "{json}");
            assert_eq!(params.options.unwrap_or_default().append, None, "{json}");
            assert_eq!(params.content_stream_id, None, "{json}");
        }
    }
}
