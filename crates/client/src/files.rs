//! Files in a sandbox, read and written in pieces, so that no file is ever
//! whole in memory here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tombolo_api::rpc::{
    FileHandle, HandleParams, HandleReadParams, HandleReadResult, MkdirOptions, MkdirParams,
    OpenOptions, OpenParams, PathParams, ReadParams, RemoveParams, StreamReference, SymlinkParams,
    WalkOptions, WriteOptions, WriteParams, methods,
};
pub use tombolo_api::rpc::{FileInfo, WalkEntry};

use super::connection::{CallError, Connection, PendingCall};
use super::stream::{InboundStream, OutboundStream, SendError, StreamError};

/// How much of a file to ask for at once.
const READ_LEN: u64 = 512 * 1024;

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Send(#[from] SendError),
}

/// Why a walk ended early.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("an entry of the walk is not understood")]
    Entry(#[from] serde_json::Error),
}

/// A file open for reading. [`FileReader::close`] it; the server closes what
/// is left when the connection ends.
#[derive(Debug)]
pub struct FileReader<'a> {
    connection: &'a Connection,
    handle: u64,
}

impl FileReader<'_> {
    /// The next piece, or nothing at the end of the file.
    pub async fn next(&mut self) -> Result<Option<Bytes>, CallError> {
        let params = HandleReadParams {
            file_handle_id: self.handle,
            length: READ_LEN,
        };
        let read: HandleReadResult = self.connection.call(methods::FILE_READ, &params).await?;
        match read.data {
            Some(data) if !data.is_empty() => decode(methods::FILE_READ, &data).map(Some),
            _ => Ok(None),
        }
    }

    pub async fn close(self) -> Result<(), CallError> {
        let params = HandleParams {
            file_handle_id: self.handle,
        };
        self.connection.call(methods::FILE_CLOSE, &params).await
    }
}

/// A walk through a directory of a sandbox.
#[derive(Debug)]
pub struct Walk {
    entries: InboundStream,
}

impl Walk {
    pub async fn next(&mut self) -> Result<Option<WalkEntry>, WalkError> {
        match self.entries.next().await? {
            Some(document) => Ok(Some(serde_json::from_slice(&document)?)),
            None => Ok(None),
        }
    }
}

/// A file that is being written.
#[derive(Debug)]
pub struct FileWriter {
    content: OutboundStream,
    done: PendingCall,
}

impl FileWriter {
    pub async fn write(&self, data: &[u8]) -> Result<(), SendError> {
        self.content.send(data).await
    }

    /// Ends the file and waits until it is written.
    pub async fn finish(self) -> Result<(), WriteError> {
        match self.content.end().await {
            // The answer to the call says why the server reads no more.
            Ok(()) | Err(SendError::Cancelled) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.done.reply().await?)
    }

    /// The server reads no more: waits for it to say why.
    pub async fn reason(self) -> WriteError {
        match self.done.reply::<()>().await {
            Ok(()) => WriteError::Send(SendError::Cancelled),
            Err(error) => error.into(),
        }
    }
}

impl Connection {
    /// What a name is, without following a link at its end.
    pub async fn lstat(&self, path: &str) -> Result<FileInfo, CallError> {
        self.call(methods::LSTAT, &at(path)).await
    }

    /// What a name leads to; nothing if there is nothing.
    pub async fn stat(&self, path: &str) -> Result<Option<FileInfo>, CallError> {
        match self.call(methods::STAT, &at(path)).await {
            Ok(info) => Ok(Some(info)),
            Err(CallError::Failed { error }) if error.constructor_name == "NotFound" => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub async fn read_link(&self, path: &str) -> Result<String, CallError> {
        self.call(methods::READ_LINK, &at(path)).await
    }

    /// The one true path of what is there.
    pub async fn real_path(&self, path: &str) -> Result<String, CallError> {
        self.call(methods::REAL_PATH, &at(path)).await
    }

    /// Makes a directory and those above it.
    pub async fn make_directory(&self, path: &str, mode: u32) -> Result<(), CallError> {
        let params = MkdirParams {
            path: path.to_owned(),
            options: Some(MkdirOptions {
                recursive: Some(true),
                mode: Some(mode),
            }),
        };
        self.call(methods::MKDIR, &params).await
    }

    pub async fn symlink(&self, target: &str, path: &str) -> Result<(), CallError> {
        let params = SymlinkParams {
            target: target.to_owned(),
            path: path.to_owned(),
        };
        self.call(methods::SYMLINK, &params).await
    }

    /// Removes one name.
    pub async fn remove(&self, path: &str) -> Result<(), CallError> {
        let params = RemoveParams {
            path: path.to_owned(),
            options: None,
        };
        self.call(methods::REMOVE, &params).await
    }

    /// Reads a whole file by one call, as the SDKs do. For files whose size
    /// is known to be small, and for measuring.
    pub async fn read_file(&self, path: &str) -> Result<Bytes, CallError> {
        let params = ReadParams {
            path: path.to_owned(),
            abort_id: None,
        };
        let data: String = self.call(methods::READ_FILE, &params).await?;
        decode(methods::READ_FILE, &data)
    }

    pub async fn open_for_reading(&self, path: &str) -> Result<FileReader<'_>, CallError> {
        let params = OpenParams {
            path: path.to_owned(),
            options: Some(OpenOptions {
                read: Some(true),
                ..OpenOptions::default()
            }),
        };
        let opened: FileHandle = self.call(methods::OPEN, &params).await?;
        Ok(FileReader {
            connection: self,
            handle: opened.file_handle_id,
        })
    }

    /// Starts to write a file, which replaces what was there.
    pub async fn open_for_writing(&self, path: &str, mode: u32) -> Result<FileWriter, WriteError> {
        let content = self.outbound().await?;
        let params = WriteParams {
            path: path.to_owned(),
            options: Some(WriteOptions {
                create: Some(true),
                mode: Some(mode),
                ..WriteOptions::default()
            }),
            content: None,
            content_stream_id: Some(content.id()),
            abort_id: None,
        };
        let done = self.begin(methods::WRITE_FILE, &params).await?;
        Ok(FileWriter { content, done })
    }

    /// Everything below a directory, itself included, links not followed.
    pub async fn walk(&self, path: &str) -> Result<Walk, CallError> {
        /// The options stand beside the path, as the JavaScript client has it.
        #[derive(serde::Serialize)]
        struct Params<'a> {
            path: &'a str,
            #[serde(flatten)]
            options: WalkOptions,
        }
        let options = WalkOptions {
            include_symlinks: Some(true),
            follow_symlinks: Some(false),
            canonicalize: Some(false),
            ..WalkOptions::default()
        };
        let walking: StreamReference = self.call(methods::WALK, &Params { path, options }).await?;
        Ok(Walk {
            entries: self.inbound(walking.stream_id),
        })
    }
}

fn at(path: &str) -> PathParams {
    PathParams {
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
