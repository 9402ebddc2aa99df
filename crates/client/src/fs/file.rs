//! Open files, and files that are read or written in pieces, so that none is
//! ever whole in memory here.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
pub use std::io::SeekFrom;
use tombolo_api::rpc::{self, methods};

use super::metadata::wire_time;
use super::{Fs, FsError, Metadata, OpenOptions, WriteOptions, decode};
use crate::connection::{Connection, PendingCall};
use crate::stream::{SendError, WriteStream};
use crate::{CallError, StreamError};

/// How much of a file to ask for at once.
const READ_LEN: u64 = 512 * 1024;
/// How much of a file to send in one call: far below the longest message.
const WRITE_LEN: usize = 512 * 1024;

/// An open file. [`File::close`] it; one that is dropped is closed too, and
/// nobody learns whether that went well.
#[derive(Debug)]
pub struct File {
    connection: Connection,
    handle: u64,
    path: String,
    is_open: bool,
}

impl Fs {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub async fn open(&self, path: &str) -> Result<File, FsError> {
        self.open_with(path, OpenOptions::new()).await
    }

    /// Opens a file with a choice of how.
    ///
    /// # Errors
    /// A file that cannot be opened so.
    pub async fn open_with(&self, path: &str, options: OpenOptions) -> Result<File, FsError> {
        let params = rpc::OpenParams {
            path: path.to_owned(),
            options: Some(options.0),
        };
        self.opened(path, methods::OPEN, &params).await
    }

    /// Opens a file for reading and writing, emptied or new.
    ///
    /// # Errors
    /// A file that cannot be made.
    pub async fn create(&self, path: &str) -> Result<File, FsError> {
        self.opened(path, methods::CREATE, &super::at(path)).await
    }

    async fn opened<P: Serialize + Sync>(
        &self,
        path: &str,
        method: &'static str,
        params: &P,
    ) -> Result<File, FsError> {
        let opened: rpc::FileHandle = self.call("open", path, method, params).await?;
        Ok(File {
            connection: self.connection.clone(),
            handle: opened.file_handle_id,
            path: path.to_owned(),
            is_open: true,
        })
    }

    /// Begins to read a file in pieces.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub async fn read_stream(&self, path: &str) -> Result<FileReader, FsError> {
        let file = self.open(path).await?;
        Ok(FileReader { file })
    }

    /// Begins to write a file in pieces, in place of what was there.
    ///
    /// # Errors
    /// A connection that is lost.
    pub async fn write_stream(&self, path: &str) -> Result<FileWriter, FsError> {
        self.write_stream_with(path, WriteOptions::new()).await
    }

    /// The same with a choice of how.
    ///
    /// # Errors
    /// As [`Fs::write_stream`]. What is wrong with the file is told when it is
    /// finished.
    pub async fn write_stream_with(
        &self,
        path: &str,
        options: WriteOptions,
    ) -> Result<FileWriter, FsError> {
        let begin = async {
            let content = self.connection.outbound().await?;
            let params = rpc::WriteParams {
                path: path.to_owned(),
                options: Some(options.0),
                content: None,
                content_stream_id: Some(content.id()),
                abort_id: None,
            };
            let method = methods::WRITE_FILE;
            let done = self.connection.begin_abortable(method, &params).await?;
            Ok(FileWriter {
                content,
                done,
                path: path.to_owned(),
            })
        };
        begin
            .await
            .map_err(|source: CallError| FsError::new("write", path, source))
    }
}

impl File {
    /// Its path, as it was opened.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    fn params(&self) -> rpc::HandleParams {
        rpc::HandleParams {
            file_handle_id: self.handle,
        }
    }

    async fn call<P: Serialize + Sync, R: DeserializeOwned>(
        &self,
        operation: &'static str,
        method: &'static str,
        params: &P,
    ) -> Result<R, FsError> {
        let outcome = self.connection.call(method, params).await;
        outcome.map_err(|source| FsError::new(operation, &self.path, source))
    }

    /// Reads at most so many bytes from where it stands; nothing at the end.
    ///
    /// # Errors
    /// A file that is not open for reading.
    pub async fn read(&mut self, len_max: u64) -> Result<Option<Bytes>, FsError> {
        let params = rpc::HandleReadParams {
            file_handle_id: self.handle,
            length: len_max,
        };
        let read: rpc::HandleReadResult = self.call("read", methods::FILE_READ, &params).await?;
        let data = read.data.filter(|data| !data.is_empty());
        let bytes = data.map(|data| decode(methods::FILE_READ, &data));
        let bytes = bytes.transpose();
        bytes.map_err(|source| FsError::new("read", &self.path, source))
    }

    /// Writes all of it where it stands.
    ///
    /// # Errors
    /// A file that is not open for writing, and a disk that is full.
    pub async fn write_all(&mut self, data: &[u8]) -> Result<(), FsError> {
        for mut rest in data.chunks(WRITE_LEN) {
            while !rest.is_empty() {
                let written = self.write(rest).await?;
                if written == 0 {
                    let message = "the other side takes no more of it".to_owned();
                    let cause = StreamError::Failed { message };
                    return Err(FsError::new("write", &self.path, cause));
                }
                // A server that wrote more than there was is not believed.
                rest = rest.get(written..).unwrap_or_default();
            }
        }
        Ok(())
    }

    /// Writes where it stands, and tells how many bytes it took.
    ///
    /// # Errors
    /// As [`File::write_all`].
    pub async fn write(&mut self, data: &[u8]) -> Result<usize, FsError> {
        let data = data.get(..WRITE_LEN).unwrap_or(data);
        let params = rpc::HandleWriteParams {
            file_handle_id: self.handle,
            data: STANDARD.encode(data).into(),
        };
        let written: rpc::HandleWriteResult =
            self.call("write", methods::FILE_WRITE, &params).await?;
        Ok(usize::try_from(written.bytes_written).unwrap_or(data.len()))
    }

    /// Moves to another place, and tells how far from the start that is.
    ///
    /// # Errors
    /// A place before the start.
    pub async fn seek(&mut self, to: SeekFrom) -> Result<u64, FsError> {
        let (offset, whence) = match to {
            SeekFrom::Start(offset) => (i64::try_from(offset).unwrap_or(i64::MAX), 0),
            SeekFrom::Current(offset) => (offset, 1),
            SeekFrom::End(offset) => (offset, 2),
        };
        let params = rpc::HandleSeekParams {
            file_handle_id: self.handle,
            offset: rpc::Offset(offset),
            whence,
        };
        let sought: rpc::HandleSeekResult = self.call("seek", methods::FILE_SEEK, &params).await?;
        Ok(sought.position)
    }

    /// Cuts or extends it to this length.
    ///
    /// # Errors
    /// A file that is not open for writing.
    pub async fn truncate(&mut self, len: u64) -> Result<(), FsError> {
        let params = rpc::HandleTruncateParams {
            file_handle_id: self.handle,
            len: Some(len),
            size: None,
        };
        self.call("cut", methods::FILE_TRUNCATE, &params).await
    }

    /// What it is.
    ///
    /// # Errors
    /// A connection that is lost.
    pub async fn stat(&self) -> Result<Metadata, FsError> {
        let info: rpc::FileInfo = self
            .call("find", methods::FILE_STAT, &self.params())
            .await?;
        Ok(info.into())
    }

    /// Waits until all that was written, and what is known of the file, is on
    /// the disk.
    ///
    /// # Errors
    /// A disk that fails.
    pub async fn sync(&self) -> Result<(), FsError> {
        self.call("sync", methods::FILE_SYNC, &self.params()).await
    }

    /// The same without what is known of it.
    ///
    /// # Errors
    /// As [`File::sync`].
    pub async fn sync_data(&self) -> Result<(), FsError> {
        self.call("sync", methods::FILE_SYNC_DATA, &self.params())
            .await
    }

    /// Changes when it was last read and written.
    ///
    /// # Errors
    /// A file that belongs to somebody else.
    pub async fn utime(&self, accessed: SystemTime, modified: SystemTime) -> Result<(), FsError> {
        let params = rpc::HandleUtimeParams {
            file_handle_id: self.handle,
            atime: wire_time(accessed),
            mtime: wire_time(modified),
        };
        self.call("change the times of", methods::FILE_UTIME, &params)
            .await
    }

    /// Takes an advisory lock that others may share, and waits for it.
    ///
    /// # Errors
    /// A connection that is lost.
    pub async fn lock_shared(&self) -> Result<(), FsError> {
        self.lock_as(false).await
    }

    /// Takes an advisory lock for itself, and waits for it.
    ///
    /// # Errors
    /// A connection that is lost.
    pub async fn lock(&self) -> Result<(), FsError> {
        self.lock_as(true).await
    }

    async fn lock_as(&self, exclusive: bool) -> Result<(), FsError> {
        let params = rpc::HandleLockParams {
            file_handle_id: self.handle,
            exclusive: Some(exclusive),
        };
        self.call("lock", methods::FILE_LOCK, &params).await
    }

    /// Gives the lock back.
    ///
    /// # Errors
    /// A connection that is lost.
    pub async fn unlock(&self) -> Result<(), FsError> {
        self.call("unlock", methods::FILE_UNLOCK, &self.params())
            .await
    }

    /// Closes it, which gives a lock back too.
    ///
    /// # Errors
    /// A file that has been closed with its connection.
    pub async fn close(mut self) -> Result<(), FsError> {
        self.is_open = false;
        self.call("close", methods::FILE_CLOSE, &self.params())
            .await
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if self.is_open {
            self.connection
                .call_later(methods::FILE_CLOSE, &self.params());
        }
    }
}

/// A file that is being read in pieces.
#[derive(Debug)]
pub struct FileReader {
    file: File,
}

impl FileReader {
    /// The next piece, or nothing at the end of the file.
    ///
    /// # Errors
    /// A file that cannot be read any further.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, FsError> {
        self.file.read(READ_LEN).await
    }

    /// Closes the file.
    ///
    /// # Errors
    /// As [`File::close`].
    pub async fn close(self) -> Result<(), FsError> {
        self.file.close().await
    }
}

/// A file that is being written in pieces. Dropped without
/// [`FileWriter::finish`], it breaks off where it is.
#[derive(Debug)]
pub struct FileWriter {
    content: WriteStream,
    done: PendingCall,
    path: String,
}

impl FileWriter {
    /// Writes a piece.
    ///
    /// # Errors
    /// A file that takes no more; [`FileWriter::reason`] asks why.
    pub async fn write(&mut self, data: &[u8]) -> Result<(), SendError> {
        self.content.write(data).await
    }

    /// Ends the file and waits until it is written.
    ///
    /// # Errors
    /// A file that could not be written, whole or in part.
    pub async fn finish(self) -> Result<(), FsError> {
        let Self {
            content,
            mut done,
            path,
        } = self;
        let failed = |source: CallError| FsError::new("write", &path, source);
        match content.finish().await {
            // The answer to the call says why the server reads no more.
            Ok(()) | Err(SendError::Cancelled) => {}
            Err(error) => return Err(failed(error.into())),
        }
        done.reply().await.map_err(failed)
    }

    /// Why the file takes no more.
    pub async fn reason(self) -> FsError {
        let Self {
            content,
            mut done,
            path,
        } = self;
        // It was cancelled by the other side, which has nothing to be told.
        drop(content);
        let cause = match done.reply::<()>().await {
            Ok(()) => SendError::Cancelled.into(),
            Err(error) => error,
        };
        FsError::new("write", &path, cause)
    }

    pub(super) async fn write_whole(mut self, content: &[u8]) -> Result<(), FsError> {
        match self.write(content).await {
            Ok(()) => self.finish().await,
            Err(_takes_no_more) => Err(self.reason().await),
        }
    }
}
