//! The files of a sandbox. Relative paths start at `/home/app`.

mod copy;
mod file;
mod listing;
mod metadata;
mod options;

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tombolo_api::rpc;
use tombolo_api::rpc::methods;

pub use self::copy::{Copied, CopyError, CopyEvent, CopyPlace, copy, copy_with};
pub use self::file::{File, FileReader, FileWriter, SeekFrom};
pub use self::listing::{Entry, Walk};
pub use self::metadata::{FileType, Metadata};
pub use self::options::{
    ExpandGlobOptions, MakeTempOptions, MkdirOptions, OpenOptions, Pattern, WalkOptions,
    WriteOptions,
};

use crate::connection::Connection;
use crate::{CallError, StreamError};

/// The files of a sandbox.
#[derive(Debug, Clone)]
pub struct Fs {
    connection: Connection,
}

/// Why something with a file did not succeed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {path}")]
pub struct FsError {
    operation: &'static str,
    path: String,
    #[source]
    source: FsCause,
}

/// What went wrong on the way.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FsCause {
    /// The sandbox or the connection to it.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The stream of what was asked for.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// What came is not what was asked for.
    #[error("the sandbox answers what is not understood")]
    Answer(#[from] serde_json::Error),
    /// The content is no text.
    #[error("it is not UTF-8")]
    NotText(#[from] std::string::FromUtf8Error),
}

impl FsError {
    pub(crate) fn new(operation: &'static str, path: &str, cause: impl Into<FsCause>) -> Self {
        Self {
            operation,
            path: path.to_owned(),
            source: cause.into(),
        }
    }

    /// What it was about.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What kind of error it is, in the words of the standard library.
    #[must_use]
    pub fn kind(&self) -> std::io::ErrorKind {
        match &self.source {
            FsCause::Call(error) => error.kind(),
            FsCause::Stream(_) => std::io::ErrorKind::ConnectionReset,
            FsCause::Answer(_) | FsCause::NotText(_) => std::io::ErrorKind::InvalidData,
        }
    }

    /// Whether there is no such file.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.kind() == std::io::ErrorKind::NotFound
    }

    /// What went wrong on the way.
    #[must_use]
    pub fn cause(&self) -> &FsCause {
        &self.source
    }

    /// What to do about it, where that is known.
    #[must_use]
    pub fn next_step(&self) -> Option<&'static str> {
        match &self.source {
            FsCause::NotText(_) => Some("read it as bytes"),
            FsCause::Call(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                Some("files belong to the user `app`; others need `sudo` in a command")
            }
            FsCause::Call(error) => error.next_step(),
            _ => None,
        }
    }
}

impl From<FsError> for std::io::Error {
    fn from(error: FsError) -> Self {
        Self::new(error.kind(), error)
    }
}

/// The parameters of methods that have options beside a path.
#[derive(Serialize)]
struct Beside<'a, O> {
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    options: Option<O>,
}

impl Fs {
    pub(crate) fn new(connection: Connection) -> Self {
        Self { connection }
    }

    async fn call<P: Serialize + Sync, R: DeserializeOwned>(
        &self,
        operation: &'static str,
        path: &str,
        method: &'static str,
        params: &P,
    ) -> Result<R, FsError> {
        let outcome = self.connection.call(method, params).await;
        outcome.map_err(|source| FsError::new(operation, path, source))
    }

    /// A whole file. Dropping the future stops the transfer. For a large one
    /// [`Fs::read_stream`] needs less memory.
    ///
    /// # Errors
    /// A file that cannot be read, or is larger than one answer (96 MiB).
    pub async fn read_file(&self, path: &str) -> Result<Bytes, FsError> {
        let data: String = self.read(methods::READ_FILE, path).await?;
        decode(methods::READ_FILE, &data).map_err(|source| FsError::new("read", path, source))
    }

    /// A whole file as text.
    ///
    /// # Errors
    /// As [`Fs::read_file`], and what is not UTF-8.
    pub async fn read_text_file(&self, path: &str) -> Result<String, FsError> {
        // By its bytes: as text the server would replace what is none.
        let bytes = self.read_file(path).await?;
        String::from_utf8(bytes.into()).map_err(|source| FsError::new("read", path, source))
    }

    async fn read(&self, method: &'static str, path: &str) -> Result<String, FsError> {
        let read = async {
            let params = at(path);
            let mut pending = self.connection.begin_abortable(method, &params).await?;
            pending.reply().await
        };
        read.await
            .map_err(|source: CallError| FsError::new("read", path, source))
    }

    /// Writes a whole file in place of what was there. For a large one
    /// [`Fs::write_stream`] needs less memory.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub async fn write_file(&self, path: &str, content: impl AsRef<[u8]>) -> Result<(), FsError> {
        self.write_file_with(path, content, WriteOptions::new())
            .await
    }

    /// The same with a choice of how.
    ///
    /// # Errors
    /// As [`Fs::write_file`].
    pub async fn write_file_with(
        &self,
        path: &str,
        content: impl AsRef<[u8]>,
        options: WriteOptions,
    ) -> Result<(), FsError> {
        let writer = self.write_stream_with(path, options).await?;
        writer.write_whole(content.as_ref()).await
    }

    /// Writes a whole file of text in place of what was there.
    ///
    /// # Errors
    /// As [`Fs::write_file`].
    pub async fn write_text_file(
        &self,
        path: &str,
        content: impl AsRef<str>,
    ) -> Result<(), FsError> {
        self.write_file(path, content.as_ref()).await
    }

    /// Removes a file or an empty directory.
    ///
    /// # Errors
    /// What is not there or not empty.
    pub async fn remove(&self, path: &str) -> Result<(), FsError> {
        self.remove_with(path, None).await
    }

    /// Removes a file, or a directory with all that is in it.
    ///
    /// # Errors
    /// What is not there.
    pub async fn remove_all(&self, path: &str) -> Result<(), FsError> {
        let recursive = rpc::RemoveOptions {
            recursive: Some(true),
        };
        self.remove_with(path, Some(recursive)).await
    }

    async fn remove_with(
        &self,
        path: &str,
        options: Option<rpc::RemoveOptions>,
    ) -> Result<(), FsError> {
        let params = Beside { path, options };
        self.call("remove", path, methods::REMOVE, &params).await
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// One that is there, or has none above it.
    pub async fn mkdir(&self, path: &str) -> Result<(), FsError> {
        self.mkdir_with(path, MkdirOptions::new()).await
    }

    /// The same with a choice of how.
    ///
    /// # Errors
    /// As [`Fs::mkdir`].
    pub async fn mkdir_with(&self, path: &str, options: MkdirOptions) -> Result<(), FsError> {
        let options = Some(options.0);
        let params = Beside { path, options };
        self.call("make the directory", path, methods::MKDIR, &params)
            .await
    }

    /// Gives something another name.
    ///
    /// # Errors
    /// What is not there, and names that cannot be had.
    pub async fn rename(&self, from: &str, to: &str) -> Result<(), FsError> {
        let params = rpc::RenameParams {
            old_path: from.to_owned(),
            new_path: to.to_owned(),
        };
        self.call("rename", from, methods::RENAME, &params).await
    }

    /// Copies a file within the sandbox.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub async fn copy_file(&self, from: &str, to: &str) -> Result<(), FsError> {
        let params = rpc::CopyFileParams {
            from_path: from.to_owned(),
            to_path: to.to_owned(),
        };
        self.call("copy", from, methods::COPY_FILE, &params).await
    }

    /// Gives a file another name beside the one it has.
    ///
    /// # Errors
    /// A file that is not there, and a name that is taken.
    pub async fn link(&self, existing: &str, new: &str) -> Result<(), FsError> {
        let params = rpc::LinkParams {
            target: existing.to_owned(),
            path: new.to_owned(),
        };
        self.call("link", new, methods::LINK, &params).await
    }

    /// Makes a symbolic link with this text.
    ///
    /// # Errors
    /// A name that is taken.
    pub async fn symlink(&self, target: &str, path: &str) -> Result<(), FsError> {
        let params = rpc::SymlinkParams {
            target: target.to_owned(),
            path: path.to_owned(),
        };
        self.call("make the link", path, methods::SYMLINK, &params)
            .await
    }

    /// The text of a symbolic link.
    ///
    /// # Errors
    /// What is not there or no link.
    pub async fn read_link(&self, path: &str) -> Result<String, FsError> {
        let method = methods::READ_LINK;
        self.call("read the link", path, method, &at(path)).await
    }

    /// The one path of something, without links and dots.
    ///
    /// # Errors
    /// What is not there.
    pub async fn real_path(&self, path: &str) -> Result<String, FsError> {
        self.call("find", path, methods::REAL_PATH, &at(path)).await
    }

    /// What a path leads to; links are followed.
    ///
    /// # Errors
    /// What is not there.
    pub async fn stat(&self, path: &str) -> Result<Metadata, FsError> {
        let info: rpc::FileInfo = self.call("find", path, methods::STAT, &at(path)).await?;
        Ok(info.into())
    }

    /// What is at a path; a link is told as one.
    ///
    /// # Errors
    /// What is not there.
    pub async fn lstat(&self, path: &str) -> Result<Metadata, FsError> {
        let info: rpc::FileInfo = self.call("find", path, methods::LSTAT, &at(path)).await?;
        Ok(info.into())
    }

    /// As [`Fs::stat`], and nothing if there is nothing.
    ///
    /// # Errors
    /// A place that cannot be looked at.
    pub async fn try_stat(&self, path: &str) -> Result<Option<Metadata>, FsError> {
        match self.stat(path).await {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Changes permission bits.
    ///
    /// # Errors
    /// What is not there or belongs to somebody else.
    pub async fn chmod(&self, path: &str, mode: u32) -> Result<(), FsError> {
        let params = rpc::ChmodParams {
            path: path.to_owned(),
            mode,
        };
        let operation = "change the permissions of";
        self.call(operation, path, methods::CHMOD, &params).await
    }

    /// Changes the owner, the group, or both.
    ///
    /// # Errors
    /// What is not there, and what the user `app` may not give away.
    pub async fn chown(
        &self,
        path: &str,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Result<(), FsError> {
        let params = rpc::ChownParams {
            path: path.to_owned(),
            uid,
            gid,
        };
        let operation = "change the owner of";
        self.call(operation, path, methods::CHOWN, &params).await
    }

    /// Cuts or extends a file to this length.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub async fn truncate(&self, path: &str, len: u64) -> Result<(), FsError> {
        let params = rpc::TruncateParams {
            name: path.to_owned(),
            length: Some(len),
        };
        self.call("cut", path, methods::TRUNCATE, &params).await
    }

    /// Changes when something was last read and written.
    ///
    /// # Errors
    /// What is not there or belongs to somebody else.
    pub async fn utime(
        &self,
        path: &str,
        accessed: SystemTime,
        modified: SystemTime,
    ) -> Result<(), FsError> {
        let params = rpc::UtimeParams {
            path: path.to_owned(),
            atime: metadata::wire_time(accessed),
            mtime: metadata::wire_time(modified),
        };
        let operation = "change the times of";
        self.call(operation, path, methods::UTIME, &params).await
    }

    /// Which permission bits new files of this connection do not get; with a
    /// mask, which they did not get until now.
    ///
    /// # Errors
    /// A connection that is lost.
    pub async fn umask(&self, mask: Option<u32>) -> Result<u32, FsError> {
        let params = rpc::UmaskParams { mask };
        self.call("set", "the mask of new files", methods::UMASK, &params)
            .await
    }

    /// Makes a directory of a new name, and tells its path.
    ///
    /// # Errors
    /// A place where none can be made.
    pub async fn make_temp_dir(&self, options: MakeTempOptions) -> Result<String, FsError> {
        self.make_temp(methods::MAKE_TEMP_DIR, options).await
    }

    /// Makes an empty file of a new name, and tells its path.
    ///
    /// # Errors
    /// A place where none can be made.
    pub async fn make_temp_file(&self, options: MakeTempOptions) -> Result<String, FsError> {
        self.make_temp(methods::MAKE_TEMP_FILE, options).await
    }

    async fn make_temp(
        &self,
        method: &'static str,
        options: MakeTempOptions,
    ) -> Result<String, FsError> {
        let place = options.0.dir.clone().unwrap_or_else(|| "/tmp".to_owned());
        let params = rpc::MakeTempParams {
            options: Some(options.0),
        };
        self.call("make a temporary name in", &place, method, &params)
            .await
    }
}

fn at(path: &str) -> rpc::PathParams {
    rpc::PathParams {
        path: path.to_owned(),
    }
}

fn decode(method: &'static str, data: &str) -> Result<Bytes, CallError> {
    STANDARD
        .decode(data)
        .map(Bytes::from)
        .map_err(|source| CallError::Decode {
            method,
            source: serde::de::Error::custom(source),
        })
}
