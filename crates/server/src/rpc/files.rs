//! Files by path, except for their content.

use tombolo_api::rpc::{
    ChmodParams, ChownParams, CopyFileParams, FileInfo, LinkParams, MakeTempParams, MkdirParams,
    PathParams, RemoveParams, RenameParams, SymlinkParams, TruncateParams, UmaskParams,
    UtimeParams,
};
use tombolo_guest_proto::v1;

use super::call::Call;
use super::fault::CallError;
use super::reply::Reply;
use super::times;

/// The largest integer a JavaScript number holds exactly.
const JAVASCRIPT_INTEGER_MAX: u64 = (1 << 53) - 1;
/// The bits of a mode that tell the kind of file, and what they tell.
const KIND_MASK: u32 = 0o170_000;
const KIND_FIFO: u32 = 0o010_000;
const KIND_CHAR_DEVICE: u32 = 0o020_000;
const KIND_DIRECTORY: u32 = 0o040_000;
const KIND_BLOCK_DEVICE: u32 = 0o060_000;
const KIND_FILE: u32 = 0o100_000;
const KIND_SYMLINK: u32 = 0o120_000;
const KIND_SOCKET: u32 = 0o140_000;

/// What a temporary name is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Temporary {
    Directory,
    File,
}

pub(super) async fn remove(call: &Call) -> Result<Reply, CallError> {
    let RemoveParams { path, options } = call.params()?;
    let request = v1::RemoveRequest {
        path,
        recursive: options.unwrap_or_default().recursive.unwrap_or(false),
    };
    call.guest(request, |mut agent, request| async move {
        agent.remove(request).await
    })
    .await?;
    call.null()
}

pub(super) async fn mkdir(call: &Call) -> Result<Reply, CallError> {
    let MkdirParams { path, options } = call.params()?;
    let options = options.unwrap_or_default();
    let request = v1::MkdirRequest {
        path,
        recursive: options.recursive.unwrap_or(false),
        mode: options.mode,
    };
    call.guest(request, |mut agent, request| async move {
        agent.mkdir(request).await
    })
    .await?;
    call.null()
}

pub(super) async fn rename(call: &Call) -> Result<Reply, CallError> {
    let RenameParams { old_path, new_path } = call.params()?;
    let request = v1::TwoPathsRequest {
        from: old_path,
        to: new_path,
    };
    call.guest(request, |mut agent, request| async move {
        agent.rename(request).await
    })
    .await?;
    call.null()
}

pub(super) async fn stat(call: &Call) -> Result<Reply, CallError> {
    stat_path(call, true).await
}

pub(super) async fn lstat(call: &Call) -> Result<Reply, CallError> {
    stat_path(call, false).await
}

async fn stat_path(call: &Call, follow_symlinks: bool) -> Result<Reply, CallError> {
    let PathParams { path } = call.params()?;
    let request = v1::StatRequest {
        path,
        follow_symlinks,
    };
    let info = call
        .guest_read(request, |mut agent, request| async move {
            agent.stat(request).await
        })
        .await?;
    call.ok(&file_info(&info))
}

pub(super) async fn chmod(call: &Call) -> Result<Reply, CallError> {
    let ChmodParams { path, mode } = call.params()?;
    let request = v1::ChmodRequest { path, mode };
    call.guest(request, |mut agent, request| async move {
        agent.chmod(request).await
    })
    .await?;
    call.null()
}

pub(super) async fn chown(call: &Call) -> Result<Reply, CallError> {
    let ChownParams { path, uid, gid } = call.params()?;
    let request = v1::ChownRequest { path, uid, gid };
    call.guest(request, |mut agent, request| async move {
        agent.chown(request).await
    })
    .await?;
    call.null()
}

pub(super) async fn copy_file(call: &Call) -> Result<Reply, CallError> {
    let CopyFileParams { from_path, to_path } = call.params()?;
    let request = v1::TwoPathsRequest {
        from: from_path,
        to: to_path,
    };
    call.guest(request, |mut agent, request| async move {
        agent.copy_file(request).await
    })
    .await?;
    call.null()
}

pub(super) async fn link(call: &Call) -> Result<Reply, CallError> {
    let LinkParams { target, path } = call.params()?;
    let request = v1::TwoPathsRequest {
        from: target,
        to: path,
    };
    call.guest(request, |mut agent, request| async move {
        agent.link(request).await
    })
    .await?;
    call.null()
}

pub(super) async fn symlink(call: &Call) -> Result<Reply, CallError> {
    let SymlinkParams { target, path } = call.params()?;
    let request = v1::TwoPathsRequest {
        from: target,
        to: path,
    };
    call.guest(request, |mut agent, request| async move {
        agent.symlink(request).await
    })
    .await?;
    call.null()
}

pub(super) async fn read_link(call: &Call) -> Result<Reply, CallError> {
    let PathParams { path } = call.params()?;
    let found = call
        .guest_read(v1::PathRequest { path }, |mut agent, request| async move {
            agent.read_link(request).await
        })
        .await?;
    call.ok(&found.path)
}

pub(super) async fn real_path(call: &Call) -> Result<Reply, CallError> {
    let PathParams { path } = call.params()?;
    let found = call
        .guest_read(v1::PathRequest { path }, |mut agent, request| async move {
            agent.real_path(request).await
        })
        .await?;
    call.ok(&found.path)
}

pub(super) async fn truncate(call: &Call) -> Result<Reply, CallError> {
    let TruncateParams { name, length } = call.params()?;
    let request = v1::TruncateRequest {
        path: name,
        length: length.unwrap_or(0),
    };
    call.guest(request, |mut agent, request| async move {
        agent.truncate(request).await
    })
    .await?;
    call.null()
}

pub(super) async fn umask(call: &Call) -> Result<Reply, CallError> {
    let UmaskParams { mask } = call.params()?;
    let request = v1::UmaskRequest { mask };
    let mask = call
        .guest(request, |mut agent, request| async move {
            agent.umask(request).await
        })
        .await?;
    call.ok(&mask.previous)
}

pub(super) async fn utime(call: &Call) -> Result<Reply, CallError> {
    let UtimeParams { path, atime, mtime } = call.params()?;
    let request = v1::UtimeRequest {
        path,
        atime_nanos: times::to_nanos(&atime)?,
        mtime_nanos: times::to_nanos(&mtime)?,
    };
    call.guest(request, |mut agent, request| async move {
        agent.utime(request).await
    })
    .await?;
    call.null()
}

pub(super) async fn make_temp(call: &Call, kind: Temporary) -> Result<Reply, CallError> {
    let MakeTempParams { options } = call.params()?;
    let options = options.unwrap_or_default();
    let request = v1::MakeTempRequest {
        directory: kind == Temporary::Directory,
        dir: options.dir.unwrap_or_default(),
        prefix: options.prefix.unwrap_or_default(),
        suffix: options.suffix.unwrap_or_default(),
    };
    let made = call
        .guest(request, |mut agent, request| async move {
            agent.make_temp(request).await
        })
        .await?;
    call.ok(&made.path)
}

/// The guest's file information as the wire has it.
pub(super) fn file_info(info: &v1::FileInfo) -> FileInfo {
    let kind = info.mode & KIND_MASK;
    let exact = |number: u64| number.min(JAVASCRIPT_INTEGER_MAX);
    FileInfo {
        is_file: kind == KIND_FILE,
        is_directory: kind == KIND_DIRECTORY,
        is_symlink: kind == KIND_SYMLINK,
        size: exact(info.size),
        mtime: times::to_iso(info.mtime_nanos),
        atime: times::to_iso(info.atime_nanos),
        birthtime: times::to_iso(info.birthtime_nanos),
        ctime: times::to_iso(info.ctime_nanos),
        mode: info.mode,
        dev: exact(info.dev),
        ino: exact(info.ino),
        nlink: exact(info.nlink),
        uid: info.uid,
        gid: info.gid,
        rdev: exact(info.rdev),
        blksize: exact(info.blksize),
        blocks: exact(info.blocks),
        is_block_device: kind == KIND_BLOCK_DEVICE,
        is_char_device: kind == KIND_CHAR_DEVICE,
        is_fifo: kind == KIND_FIFO,
        is_socket: kind == KIND_SOCKET,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_tells_exactly_one_kind() {
        let kinds = [
            0o010_000, 0o020_000, 0o040_000, 0o060_000, 0o100_000, 0o120_000, 0o140_000,
        ];
        for kind in kinds {
            let info = file_info(&v1::FileInfo {
                mode: kind | 0o644,
                ino: u64::MAX,
                ..v1::FileInfo::default()
            });
            let flags = [
                info.is_fifo,
                info.is_char_device,
                info.is_directory,
                info.is_block_device,
                info.is_file,
                info.is_symlink,
                info.is_socket,
            ];
            let expected = kinds.map(|other| other == kind);
            assert_eq!(flags, expected, "{kind:o}");
            assert_eq!(info.ino, JAVASCRIPT_INTEGER_MAX);
        }
    }
}
