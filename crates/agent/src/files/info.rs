//! What the kernel knows about a file, in the contract's form.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Statx, StatxFlags, StatxTimestamp, makedev, statx};
use rustix::io::Errno;
use tombolo_guest_proto::v1::FileInfo;

const NANOS_PER_SECOND: i64 = 1_000_000_000;

pub(super) fn path_info(path: &Path, flags: AtFlags) -> Result<FileInfo, Errno> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    statx(CWD, path, flags, wanted).map(|stat| info(&stat))
}

/// What an open file is.
pub(crate) fn file_info(file: impl AsFd) -> Result<FileInfo, Errno> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    statx(file, "", AtFlags::EMPTY_PATH, wanted).map(|stat| info(&stat))
}

fn info(stat: &Statx) -> FileInfo {
    let mtime_nanos = nanos(stat.stx_mtime);
    let ctime_nanos = nanos(stat.stx_ctime);
    let has_birthtime = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
    FileInfo {
        mode: u32::from(stat.stx_mode),
        size: stat.stx_size,
        mtime_nanos,
        atime_nanos: nanos(stat.stx_atime),
        birthtime_nanos: if has_birthtime {
            nanos(stat.stx_btime)
        } else {
            // Not every file system records it; it was no later than these.
            ctime_nanos.min(mtime_nanos)
        },
        ctime_nanos,
        dev: makedev(stat.stx_dev_major, stat.stx_dev_minor),
        ino: stat.stx_ino,
        nlink: u64::from(stat.stx_nlink),
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        rdev: makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
        blksize: u64::from(stat.stx_blksize),
        blocks: stat.stx_blocks,
    }
}

fn nanos(time: StatxTimestamp) -> i64 {
    let seconds = time.tv_sec.saturating_mul(NANOS_PER_SECOND);
    seconds.saturating_add(i64::from(time.tv_nsec))
}
