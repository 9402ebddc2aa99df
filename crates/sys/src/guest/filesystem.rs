//! What the file system of a disk is told beyond what every file system knows.

#![expect(unsafe_code, reason = "the request to grow has no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Lets the mounted ext4 file system of `directory` have `block_count` blocks of
/// its own block size, counted from its start. One that has them stays as it is;
/// `EINVAL` when it has more, or its disk has fewer.
pub fn grow_ext4(directory: impl AsFd, block_count: u64) -> io::Result<()> {
    /// `EXT4_IOC_RESIZE_FS` (Linux, `include/uapi/linux/ext4.h`).
    const RESIZE: libc::Ioctl = libc::_IOW::<u64>(b'f' as u32, 16);
    let fd = directory.as_fd().as_raw_fd();
    // SAFETY: the kernel only reads the number, which outlives the call.
    let grown = unsafe { libc::ioctl(fd, RESIZE, &raw const block_count) };
    if grown < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
