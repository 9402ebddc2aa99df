//! File operations of the sandbox's user.
//!
//! Paths come from the network and name whatever programs of the guest made:
//! every operation runs on a thread that has the user's rights and may block,
//! and leaves the decision on every path to the kernel.

mod content;
mod handles;
mod info;
mod listing;
mod lock;
mod temp;

use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Timestamps, Uid, chmod, chownat};
use rustix::io::Errno;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tombolo_guest_proto::v1::{
    ChmodRequest, ChownRequest, FileInfo, MkdirRequest, RemoveRequest, StatRequest,
    TruncateRequest, TwoPathsRequest, UtimeRequest,
};
use tonic::Status;

use crate::fault::{CallError, Cause, at, between, blocking};
use crate::system::timespec;
pub(crate) use content::{read_file, write_file};
pub(crate) use handles::Handles;
pub(crate) use info::file_info;
pub(crate) use listing::read_dir;
pub(crate) use lock::LockSlots;
pub(crate) use temp::make_temp;

const DEFAULT_UMASK: u32 = 0o022;
const PERMISSIONS: u32 = 0o7777;
/// Operations at one time on files that may block for ever, such as pipes.
/// They must not use up the threads that all the others need.
const PATIENT_MAX: usize = 128;

/// What file operations share.
#[derive(Debug)]
pub(crate) struct Files {
    home: PathBuf,
    umask: Mutex<u32>,
    patient: Arc<Semaphore>,
}

impl Files {
    /// Sets the process's file mode creation mask, which from here on is the
    /// sandbox's.
    pub(crate) fn new(home: PathBuf) -> Self {
        rustix::process::umask(Mode::from(DEFAULT_UMASK));
        Self {
            home,
            umask: Mutex::new(DEFAULT_UMASK),
            patient: Arc::new(Semaphore::new(PATIENT_MAX)),
        }
    }

    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// The file that `path` names: relative ones start at the user's home.
    pub(crate) fn resolve(
        &self,
        operation: &'static str,
        path: &str,
    ) -> Result<PathBuf, CallError> {
        if path.contains('\0') {
            let cause = Cause::InvalidArgument("a path holds a nul byte");
            return Err(CallError::new(operation, path, cause));
        }
        Ok(match path {
            // The kernel knows no file of this name, but its directory.
            "" => PathBuf::new(),
            path => self.home.join(path),
        })
    }

    /// Answers with the former mask. Processes started later inherit the mask,
    /// and so do files made here.
    pub(crate) fn umask(&self, mask: Option<u32>) -> u32 {
        let mut current = self.umask.lock();
        let former = *current;
        if let Some(mask) = mask {
            *current = mask & 0o777;
            rustix::process::umask(Mode::from(*current));
        }
        former
    }

    fn patience(&self) -> Patience {
        Patience(Arc::clone(&self.patient))
    }
}

/// Lets operations that may block for ever have a thread, within a bound.
#[derive(Clone, Debug)]
struct Patience(Arc<Semaphore>);

impl Patience {
    /// What an operation on a file of this type must hold.
    fn for_type(&self, kind: FileType) -> Result<Option<OwnedSemaphorePermit>, Errno> {
        match kind {
            FileType::Fifo | FileType::CharacterDevice | FileType::Socket => {
                let permit = Arc::clone(&self.0).try_acquire_owned();
                permit.map(Some).map_err(|_closed_or_none| Errno::AGAIN)
            }
            _ => Ok(None),
        }
    }

    fn for_path(&self, path: &Path) -> Result<Option<OwnedSemaphorePermit>, Errno> {
        match rustix::fs::stat(path) {
            Ok(stat) => self.for_type(FileType::from_raw_mode(stat.st_mode)),
            // The operation itself will say why.
            Err(_) => Ok(None),
        }
    }
}

pub(crate) async fn remove(files: &Files, request: RemoveRequest) -> Result<(), Status> {
    let RemoveRequest { path, recursive } = request;
    let file = files.resolve("remove", &path)?;
    blocking(move || remove_now(&file, recursive).map_err(at("remove", &path))).await
}

fn remove_now(file: &Path, recursive: bool) -> Result<(), Cause> {
    let stat = rustix::fs::lstat(file)?;
    let is_directory = FileType::from_raw_mode(stat.st_mode).is_dir();
    match (is_directory, recursive) {
        (true, true) => Ok(fs_err::remove_dir_all(file)?),
        (true, false) => Ok(rustix::fs::rmdir(file)?),
        (false, _) => Ok(rustix::fs::unlink(file)?),
    }
}

pub(crate) async fn mkdir(files: &Files, request: MkdirRequest) -> Result<(), Status> {
    let MkdirRequest {
        path,
        recursive,
        mode,
    } = request;
    let file = files.resolve("mkdir", &path)?;
    blocking(move || {
        let mut builder = DirBuilder::new();
        builder
            .recursive(recursive)
            .mode(mode.unwrap_or(0o777) & PERMISSIONS);
        builder.create(file).map_err(at("mkdir", &path))
    })
    .await
}

pub(crate) async fn rename(files: &Files, request: TwoPathsRequest) -> Result<(), Status> {
    let TwoPathsRequest { from, to } = request;
    let old = files.resolve("rename", &from)?;
    let new = files.resolve("rename", &to)?;
    blocking(move || rustix::fs::rename(old, new).map_err(between("rename", &from, &to))).await
}

pub(crate) async fn link(files: &Files, request: TwoPathsRequest) -> Result<(), Status> {
    let TwoPathsRequest { from, to } = request;
    let old = files.resolve("link", &from)?;
    let new = files.resolve("link", &to)?;
    blocking(move || rustix::fs::link(old, new).map_err(between("link", &from, &to))).await
}

pub(crate) async fn symlink(files: &Files, request: TwoPathsRequest) -> Result<(), Status> {
    let TwoPathsRequest { from, to } = request;
    files.resolve("symlink", &from)?;
    let new = files.resolve("symlink", &to)?;
    blocking(move || {
        rustix::fs::symlink(from.as_str(), new).map_err(between("symlink", &from, &to))
    })
    .await
}

pub(crate) async fn copy_file(files: &Files, request: TwoPathsRequest) -> Result<(), Status> {
    let TwoPathsRequest { from, to } = request;
    let source = files.resolve("copy", &from)?;
    let target = files.resolve("copy", &to)?;
    let patience = files.patience();
    blocking(move || copy_now(&source, &target, &patience).map_err(between("copy", &from, &to)))
        .await
}

fn copy_now(source: &Path, target: &Path, patience: &Patience) -> Result<(), Cause> {
    let _reading = patience.for_path(source)?;
    let _writing = patience.for_path(target)?;
    // Copying a file onto itself would empty it first.
    if let (Ok(old), Ok(new)) = (rustix::fs::stat(source), rustix::fs::stat(target))
        && (old.st_dev, old.st_ino) == (new.st_dev, new.st_ino)
    {
        return Ok(());
    }
    std::fs::copy(source, target)?;
    Ok(())
}

pub(crate) async fn read_link(files: &Files, path: String) -> Result<String, Status> {
    let file = files.resolve("readlink", &path)?;
    blocking(move || {
        let target = std::fs::read_link(file).map_err(at("readlink", &path))?;
        Ok(target.to_string_lossy().into_owned())
    })
    .await
}

pub(crate) async fn real_path(files: &Files, path: String) -> Result<String, Status> {
    let file = files.resolve("realpath", &path)?;
    blocking(move || {
        let real = std::fs::canonicalize(file).map_err(at("realpath", &path))?;
        Ok(real.to_string_lossy().into_owned())
    })
    .await
}

pub(crate) async fn stat(files: &Files, request: StatRequest) -> Result<FileInfo, Status> {
    let StatRequest {
        path,
        follow_symlinks,
    } = request;
    let (operation, flags) = if follow_symlinks {
        ("stat", AtFlags::empty())
    } else {
        ("lstat", AtFlags::SYMLINK_NOFOLLOW)
    };
    let file = files.resolve(operation, &path)?;
    blocking(move || info::path_info(&file, flags).map_err(at(operation, &path))).await
}

pub(crate) async fn set_mode(files: &Files, request: ChmodRequest) -> Result<(), Status> {
    let ChmodRequest { path, mode } = request;
    let file = files.resolve("chmod", &path)?;
    blocking(move || chmod(file, Mode::from(mode & PERMISSIONS)).map_err(at("chmod", &path))).await
}

pub(crate) async fn set_owner(files: &Files, request: ChownRequest) -> Result<(), Status> {
    let ChownRequest { path, uid, gid } = request;
    let file = files.resolve("chown", &path)?;
    // The kernel takes this value for "leave as it is".
    if uid == Some(u32::MAX) || gid == Some(u32::MAX) {
        return Err(CallError::errno("chown", &path, Errno::INVAL).into());
    }
    let uid = uid.map(Uid::from_raw);
    let gid = gid.map(Gid::from_raw);
    blocking(move || chownat(CWD, file, uid, gid, AtFlags::empty()).map_err(at("chown", &path)))
        .await
}

pub(crate) async fn truncate(files: &Files, request: TruncateRequest) -> Result<(), Status> {
    let TruncateRequest { path, length } = request;
    let file = files.resolve("truncate", &path)?;
    blocking(move || {
        // A pipe without a reader is refused rather than waited for.
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let opened = OpenOptions::new()
            .write(true)
            .custom_flags(flags)
            .open(file);
        let opened = opened.map_err(at("truncate", &path))?;
        opened.set_len(length).map_err(at("truncate", &path))
    })
    .await
}

pub(crate) async fn set_times(files: &Files, request: UtimeRequest) -> Result<(), Status> {
    let file = files.resolve("utime", &request.path)?;
    let times = timestamps(request.atime_nanos, request.mtime_nanos);
    blocking(move || {
        rustix::fs::utimensat(CWD, file, &times, AtFlags::empty())
            .map_err(at("utime", &request.path))
    })
    .await
}

fn timestamps(atime_nanos: i64, mtime_nanos: i64) -> Timestamps {
    Timestamps {
        last_access: timespec(atime_nanos),
        last_modification: timespec(mtime_nanos),
    }
}
