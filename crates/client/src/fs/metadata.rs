//! What a file is.

use std::time::SystemTime;

use tombolo_api::rpc::{DirEntry, FileInfo, Time, WalkEntry};

/// The kind of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A block device.
    BlockDevice,
    /// A character device.
    CharDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// Something else, or not told.
    Other,
}

/// What is known of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metadata {
    /// Its kind.
    pub file_type: FileType,
    /// In bytes.
    pub len: u64,
    /// Permission bits and type bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When it was last written; none if that cannot be told.
    pub modified: Option<SystemTime>,
    /// When it was last read.
    pub accessed: Option<SystemTime>,
    /// When it was made.
    pub created: Option<SystemTime>,
    /// When what is known of it last changed.
    pub changed: Option<SystemTime>,
    /// The device it is on.
    pub device: u64,
    /// Its number on the device.
    pub inode: u64,
    /// How many names it has.
    pub links: u64,
    /// The device it stands for.
    pub represented_device: u64,
    /// The preferred size of reads and writes, in bytes.
    pub block_size: u64,
    /// Units of 512 bytes that it takes.
    pub blocks: u64,
}

impl Metadata {
    /// Whether it is a regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.file_type == FileType::File
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.file_type == FileType::Directory
    }

    /// Whether it is a symbolic link.
    #[must_use]
    pub fn is_symlink(&self) -> bool {
        self.file_type == FileType::Symlink
    }
}

impl From<FileInfo> for Metadata {
    fn from(info: FileInfo) -> Self {
        let kinds = [
            (info.is_symlink, FileType::Symlink),
            (info.is_file, FileType::File),
            (info.is_directory, FileType::Directory),
            (info.is_block_device, FileType::BlockDevice),
            (info.is_char_device, FileType::CharDevice),
            (info.is_fifo, FileType::Fifo),
            (info.is_socket, FileType::Socket),
        ];
        Self {
            file_type: file_type(&kinds),
            len: info.size,
            mode: info.mode,
            uid: info.uid,
            gid: info.gid,
            modified: moment(&info.mtime),
            accessed: moment(&info.atime),
            created: moment(&info.birthtime),
            changed: moment(&info.ctime),
            device: info.dev,
            inode: info.ino,
            links: info.nlink,
            represented_device: info.rdev,
            block_size: info.blksize,
            blocks: info.blocks,
        }
    }
}

/// The kind of a directory's entry.
pub(super) fn kind_of_entry(entry: &DirEntry) -> FileType {
    file_type(&[
        (entry.is_symlink, FileType::Symlink),
        (entry.is_file, FileType::File),
        (entry.is_directory, FileType::Directory),
    ])
}

/// The kind of what a walk found.
pub(super) fn kind_of_found(entry: &WalkEntry) -> FileType {
    file_type(&[
        (entry.is_symlink, FileType::Symlink),
        (entry.is_file, FileType::File),
        (entry.is_directory, FileType::Directory),
    ])
}

fn file_type(kinds: &[(bool, FileType)]) -> FileType {
    let found = kinds.iter().find(|(is_it, _)| *is_it);
    found.map_or(FileType::Other, |(_, kind)| *kind)
}

fn moment(text: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(text).ok()
}

/// A moment as the wire has it.
pub(super) fn wire_time(at: SystemTime) -> Time {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    Time::Seconds(match since {
        Ok(since) => since.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    })
}
