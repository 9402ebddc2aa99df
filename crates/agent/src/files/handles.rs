//! Open files that calls name by number.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{IoSliceMut, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::buffer::spare_capacity;
use rustix::fs::{FileType, FlockOperation, flock, fstat};
use rustix::io::{Errno, ReadWriteFlags, preadv2, retry_on_intr};
use tokio::sync::Notify;
use tombolo_guest_proto::v1::{
    FileInfo, HandleLockRequest, HandleReadReply, HandleReadRequest, HandleSeekRequest,
    HandleSyncRequest, HandleTruncateRequest, HandleUtimeRequest, HandleWriteRequest, OpenRequest,
};
use tonic::Status;

use super::lock::lock;
use super::{Files, LockSlots, PERMISSIONS, Patience, file_info, timestamps};
use crate::fault::{CallError, at, blocking};

const HANDLES_MAX: usize = 16_384;
const DEFAULT_MODE: u32 = 0o666;
/// Bytes in one answer, whatever was asked for.
const READ_LEN_MAX: usize = 1024 * 1024;
/// Reads up to this length are first tried without leaving the main thread.
const READ_AT_ONCE_LEN_MAX: usize = 64 * 1024;
/// Reads and writes at the file's own position.
const CURRENT_POSITION: u64 = u64::MAX;

/// All open handles.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    table: Mutex<Table>,
    locks: LockSlots,
}

#[derive(Debug, Default)]
struct Table {
    by_number: HashMap<u64, Arc<Handle>>,
    last: u64,
}

/// One open file.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) file: File,
    pub(super) path: String,
    kind: FileType,
    patience: Patience,
    is_closed: AtomicBool,
    on_close: Notify,
}

impl Handle {
    /// Gives back a lock that nobody waits for any more.
    pub(super) fn unlock_unwanted(&self) {
        // Fails only for files that cannot be locked in the first place.
        flock(&self.file, FlockOperation::Unlock).unwrap_or_default();
    }

    pub(super) async fn closed(&self) {
        let closing = self.on_close.notified();
        if !self.is_closed.load(Ordering::SeqCst) {
            closing.await;
        }
    }
}

impl Handles {
    pub(crate) async fn open(&self, files: &Files, request: OpenRequest) -> Result<u64, Status> {
        let path = files.resolve("open", &request.path)?;
        if self.table.lock().by_number.len() >= HANDLES_MAX {
            return Err(CallError::errno("open", &request.path, Errno::MFILE).into());
        }
        let patience = files.patience();
        let handle = blocking(move || {
            let _waiting = patience
                .for_path(&path)
                .map_err(at("open", &request.path))?;
            let mut options = OpenOptions::new();
            options
                .read(request.read)
                .write(request.write)
                .append(request.append)
                .truncate(request.truncate)
                .create(request.create)
                .create_new(request.create_new)
                .mode(request.mode.unwrap_or(DEFAULT_MODE) & PERMISSIONS);
            let file = options.open(path).map_err(at("open", &request.path))?;
            let stat = fstat(&file).map_err(at("open", &request.path))?;
            Ok(Handle {
                file,
                path: request.path,
                kind: FileType::from_raw_mode(stat.st_mode),
                patience,
                is_closed: AtomicBool::new(false),
                on_close: Notify::new(),
            })
        })
        .await?;
        let mut table = self.table.lock();
        table.last += 1;
        let number = table.last;
        table.by_number.insert(number, Arc::new(handle));
        Ok(number)
    }

    pub(crate) fn close(&self, number: u64) -> Result<(), CallError> {
        let handle = self.table.lock().by_number.remove(&number);
        let handle = handle.ok_or_else(|| unknown("close"))?;
        handle.is_closed.store(true, Ordering::SeqCst);
        handle.on_close.notify_waiters();
        Ok(())
    }

    fn find(&self, operation: &'static str, number: u64) -> Result<Arc<Handle>, CallError> {
        let table = self.table.lock();
        let handle = table.by_number.get(&number).cloned();
        handle.ok_or_else(|| unknown(operation))
    }

    /// Runs `work` on the file where it may block.
    async fn with<T: Send + 'static, E: Into<crate::fault::Cause>>(
        &self,
        operation: &'static str,
        number: u64,
        work: impl FnOnce(&File) -> Result<T, E> + Send + 'static,
    ) -> Result<T, Status> {
        let handle = self.find(operation, number)?;
        blocking(move || {
            let permit = handle.patience.for_type(handle.kind);
            let _waiting = permit.map_err(at(operation, &handle.path))?;
            work(&handle.file).map_err(at(operation, &handle.path))
        })
        .await
    }

    pub(crate) async fn read(&self, request: HandleReadRequest) -> Result<HandleReadReply, Status> {
        let HandleReadRequest { handle, length } = request;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let length = length.min(READ_LEN_MAX);
        let at_once = self.read_at_once(handle, length)?;
        let data = match at_once {
            Some(data) => data,
            None => {
                self.with("read", handle, move |file| {
                    let mut data = Vec::with_capacity(length);
                    retry_on_intr(|| rustix::io::read(file, spare_capacity(&mut data)))?;
                    Ok::<_, Errno>(data)
                })
                .await?
            }
        };
        Ok(HandleReadReply {
            end_of_file: data.is_empty() && length > 0,
            data: Bytes::from(data),
        })
    }

    /// What of a regular file is in memory already costs no other thread.
    fn read_at_once(&self, number: u64, length: usize) -> Result<Option<Vec<u8>>, CallError> {
        let handle = self.find("read", number)?;
        if length == 0 {
            return Ok(Some(Vec::new()));
        }
        if !handle.kind.is_file() || length > READ_AT_ONCE_LEN_MAX {
            return Ok(None);
        }
        let mut data = vec![0; length];
        let mut slices = [IoSliceMut::new(&mut data)];
        let flags = ReadWriteFlags::NOWAIT;
        match preadv2(&handle.file, &mut slices, CURRENT_POSITION, flags) {
            Ok(len) => {
                data.truncate(len);
                Ok(Some(data))
            }
            // Whatever else is wrong, an ordinary read will say.
            Err(_) => Ok(None),
        }
    }

    pub(crate) async fn write(&self, request: HandleWriteRequest) -> Result<u64, Status> {
        let data = request.data;
        let written = self.with("write", request.handle, move |file| {
            retry_on_intr(|| rustix::io::write(file, &data))
        });
        Ok(written.await? as u64)
    }

    pub(crate) fn seek(&self, request: &HandleSeekRequest) -> Result<u64, CallError> {
        let handle = self.find("seek", request.handle)?;
        let invalid = || CallError::errno("seek", &handle.path, Errno::INVAL);
        let position = match request.whence {
            0 => SeekFrom::Start(u64::try_from(request.offset).map_err(|_negative| invalid())?),
            1 => SeekFrom::Current(request.offset),
            2 => SeekFrom::End(request.offset),
            _ => return Err(invalid()),
        };
        let mut file = &handle.file;
        std::io::Seek::seek(&mut file, position).map_err(at("seek", &handle.path))
    }

    pub(crate) async fn truncate(&self, request: HandleTruncateRequest) -> Result<(), Status> {
        self.with("truncate", request.handle, move |file| {
            rustix::fs::ftruncate(file, request.length)
        })
        .await
    }

    pub(crate) async fn stat(&self, number: u64) -> Result<FileInfo, Status> {
        self.with("stat", number, |file| file_info(file)).await
    }

    pub(crate) async fn sync(&self, request: HandleSyncRequest) -> Result<(), Status> {
        self.with("sync", request.handle, move |file| {
            if request.data_only {
                rustix::fs::fdatasync(file)
            } else {
                rustix::fs::fsync(file)
            }
        })
        .await
    }

    pub(crate) async fn set_times(&self, request: HandleUtimeRequest) -> Result<(), Status> {
        let times = timestamps(request.atime_nanos, request.mtime_nanos);
        self.with("utime", request.handle, move |file| {
            rustix::fs::futimens(file, &times)
        })
        .await
    }

    pub(crate) async fn lock(&self, request: HandleLockRequest) -> Result<(), CallError> {
        let handle = self.find("lock", request.handle)?;
        lock(&self.locks, handle, request.exclusive).await
    }

    pub(crate) fn unlock(&self, number: u64) -> Result<(), CallError> {
        let handle = self.find("unlock", number)?;
        flock(&handle.file, FlockOperation::Unlock).map_err(at("unlock", &handle.path))
    }
}

fn unknown(operation: &'static str) -> CallError {
    CallError::errno(operation, "", Errno::BADF)
}
