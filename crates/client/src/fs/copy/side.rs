//! One side of a copy: this machine or a sandbox. Both know the same verbs.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::local::{LocalReader, LocalWalk, LocalWriter};
use super::remote::RemoteWalk;
use super::{CopyError, CopyPlace, local, remote};
use crate::fs::{FileReader, FileWriter, Fs, MkdirOptions, WriteOptions};

/// The permissions that are copied; never set-user-id and the like.
pub(super) const MODE_MASK: u32 = 0o777;

/// Where files are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Side<'a> {
    Local,
    Sandbox(&'a Fs),
}

/// Something that is to be copied.
#[derive(Debug)]
pub(super) struct Entry {
    /// Where it is on its side.
    pub(super) path: String,
    /// Where it is below what is copied; empty for that itself.
    pub(super) relative: PathBuf,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Directory { mode: u32 },
    File { mode: u32, size: u64 },
    Link { to: String },
    Other,
}

impl Entry {
    pub(super) fn mode(&self) -> u32 {
        match self.kind {
            Kind::Directory { mode } | Kind::File { mode, .. } => mode,
            Kind::Link { .. } | Kind::Other => MODE_MASK,
        }
    }
}

/// What is to be copied, in an order in which a directory comes before what
/// is in it.
#[derive(Debug)]
pub(super) enum Entries {
    Local(LocalWalk),
    Sandbox(RemoteWalk),
}

impl Entries {
    pub(super) async fn next(&mut self, side: Side<'_>) -> Result<Option<Entry>, CopyError> {
        match (self, side) {
            (Self::Local(walk), _) => walk.next(),
            (Self::Sandbox(walk), Side::Sandbox(fs)) => walk.next(fs).await,
            (Self::Sandbox(_), Side::Local) => Ok(None),
        }
    }
}

impl<'a> Side<'a> {
    pub(super) fn of(place: CopyPlace<'a>) -> (Self, &'a str) {
        match place {
            CopyPlace::Here(path) => (Self::Local, path),
            CopyPlace::Sandbox(fs, path) => (Self::Sandbox(fs), path),
        }
    }

    pub(super) async fn exists(self, path: &str) -> Result<bool, CopyError> {
        match self {
            Self::Local => local::exists(path),
            Self::Sandbox(fs) => Ok(fs.try_stat(path).await?.is_some()),
        }
    }

    pub(super) async fn is_directory(self, path: &str) -> Result<bool, CopyError> {
        match self {
            Self::Local => Ok(Path::new(path).is_dir()),
            Self::Sandbox(fs) => {
                let metadata = fs.try_stat(path).await?;
                Ok(metadata.is_some_and(|metadata| metadata.is_dir()))
            }
        }
    }

    /// Everything at and below a path. A link at the path itself is followed.
    pub(super) fn walk(self, path: &str) -> Result<Entries, CopyError> {
        match self {
            Self::Local => Ok(Entries::Local(LocalWalk::new(path)?)),
            Self::Sandbox(_) => Ok(Entries::Sandbox(RemoteWalk::new(path))),
        }
    }

    pub(super) async fn read(self, entry: &Entry) -> Result<Reader, CopyError> {
        match self {
            Self::Local => Ok(Reader::Local(local::open(&entry.path).await?)),
            Self::Sandbox(fs) => remote::read(fs, entry).await,
        }
    }

    /// `is_top` is the destination itself, which a person named.
    pub(super) async fn write(
        self,
        path: &str,
        mode: u32,
        is_top: bool,
    ) -> Result<Writer, CopyError> {
        match self {
            Self::Local if is_top => Ok(Writer::Local(LocalWriter::open_named(path, mode).await?)),
            Self::Local => Ok(Writer::Local(LocalWriter::open(path, mode).await?)),
            Self::Sandbox(fs) => {
                let options = WriteOptions::new().create(true).mode(mode);
                let writer = fs.write_stream_with(path, options).await?;
                Ok(Writer::Sandbox(Box::new(writer)))
            }
        }
    }

    /// `is_top` is the destination itself, which may be a link of the
    /// person's own.
    pub(super) async fn make_directory(
        self,
        path: &str,
        mode: u32,
        is_top: bool,
    ) -> Result<(), CopyError> {
        match self {
            Self::Local => local::make_directory(path, mode, is_top),
            Self::Sandbox(fs) => {
                let options = MkdirOptions::new().recursive(true).mode(mode);
                Ok(fs.mkdir_with(path, options).await?)
            }
        }
    }

    pub(super) async fn make_link(self, path: &str, to: &str) -> Result<(), CopyError> {
        match self {
            Self::Local => local::make_link(path, to),
            Self::Sandbox(fs) => remote::make_link(fs, path, to).await,
        }
    }
}

/// A file that is being read.
#[derive(Debug)]
pub(super) enum Reader {
    Local(LocalReader),
    Sandbox(FileReader),
    /// A small file, which came whole.
    Whole(Option<Bytes>),
}

impl Reader {
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, CopyError> {
        match self {
            Self::Local(reader) => reader.next().await,
            Self::Sandbox(reader) => Ok(reader.chunk().await?),
            Self::Whole(content) => Ok(content.take().filter(|content| !content.is_empty())),
        }
    }

    pub(super) async fn close(self) -> Result<(), CopyError> {
        if let Self::Sandbox(reader) = self {
            reader.close().await?;
        }
        Ok(())
    }
}

/// A file that is being written.
#[derive(Debug)]
pub(super) enum Writer {
    Local(LocalWriter),
    Sandbox(Box<FileWriter>),
}

impl Writer {
    /// Writes a piece, or tells why the file takes no more, which a sandbox
    /// says in its answer to the call.
    pub(super) async fn write(mut self, piece: &[u8]) -> Result<Self, CopyError> {
        match &mut self {
            Self::Local(writer) => writer.write(piece).await?,
            Self::Sandbox(writer) => {
                if writer.write(piece).await.is_err() {
                    return Err(self.reason().await);
                }
            }
        }
        Ok(self)
    }

    async fn reason(self) -> CopyError {
        match self {
            Self::Local(_) => CopyError::Here(std::io::ErrorKind::BrokenPipe.into()),
            Self::Sandbox(writer) => writer.reason().await.into(),
        }
    }

    pub(super) async fn finish(self) -> Result<(), CopyError> {
        match self {
            Self::Local(writer) => writer.finish().await,
            Self::Sandbox(writer) => Ok(writer.finish().await?),
        }
    }
}

/// A path below another, as text.
pub(super) fn join(base: &str, relative: &Path) -> String {
    let relative = relative.to_string_lossy();
    if relative.is_empty() {
        return base.to_owned();
    }
    format!("{}/{relative}", base.trim_end_matches('/'))
}
