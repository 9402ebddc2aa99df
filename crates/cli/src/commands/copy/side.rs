//! One side of a copy: this machine or a sandbox. Both know the same verbs.

use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use tombolo_diag::ExitCode;

use super::local::{LocalWalk, LocalWriter};
use super::place::Place;
use super::{local, remote};
use crate::failure::{Failure, OrFail as _, Outcome};
use crate::wire;
use tombolo_client::files::{FileReader, FileWriter, Walk};
use tombolo_client::{Connection, RestClient};

/// The permissions that are copied; never set-user-id and the like.
pub(super) const MODE_MASK: u32 = 0o777;

/// Where files are.
#[derive(Debug)]
pub(super) enum Side {
    Local,
    Sandbox(Box<Connection>),
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
pub(super) enum Entries {
    Local(LocalWalk),
    Sandbox {
        walk: Walk,
        root: PathBuf,
    },
    /// What is copied is a single name.
    One(Option<Entry>),
}

impl Entries {
    pub(super) async fn next(&mut self, side: &Side) -> Outcome<Option<Entry>> {
        match (self, side) {
            (Self::Local(walk), _) => walk.next(),
            (Self::One(entry), _) => Ok(entry.take()),
            (Self::Sandbox { walk, root }, Side::Sandbox(connection)) => {
                remote::next(connection, walk, root).await
            }
            (Self::Sandbox { .. }, Side::Local) => Ok(None),
        }
    }
}

impl Side {
    pub(super) async fn open(client: &RestClient, place: &Place) -> Outcome<Self> {
        match place {
            Place::Local(_) => Ok(Self::Local),
            Place::Sandbox(id, _) => {
                let connection =
                    Connection::connect(client.endpoint(), client.token(), id.as_str())
                        .await
                        .map_err(wire::not_connected)?;
                Ok(Self::Sandbox(Box::new(connection)))
            }
        }
    }

    pub(super) async fn close(self) {
        if let Self::Sandbox(connection) = self {
            connection.close().await;
        }
    }

    pub(super) async fn exists(&self, path: &str) -> Outcome<bool> {
        match self {
            Self::Local => local::exists(path),
            Self::Sandbox(connection) => Ok(connection.stat(path).await?.is_some()),
        }
    }

    pub(super) async fn is_directory(&self, path: &str) -> Outcome<bool> {
        match self {
            Self::Local => Ok(Path::new(path).is_dir()),
            Self::Sandbox(connection) => {
                let info = connection.stat(path).await?;
                Ok(info.is_some_and(|info| info.is_directory))
            }
        }
    }

    /// Everything at and below a path. A link at the path itself is followed.
    pub(super) async fn walk(&self, path: &str) -> Outcome<Entries> {
        match self {
            Self::Local => Ok(Entries::Local(LocalWalk::new(path)?)),
            Self::Sandbox(connection) => remote::walk(connection, path).await,
        }
    }

    pub(super) async fn read<'a>(&'a self, entry: &Entry) -> Outcome<Reader<'a>> {
        match self {
            Self::Local => Ok(Reader::Local(local::open(&entry.path).await?)),
            Self::Sandbox(connection) => remote::read(connection, entry).await,
        }
    }

    pub(super) async fn write(&self, path: &str, mode: u32) -> Outcome<Writer> {
        match self {
            Self::Local => Ok(Writer::Local(LocalWriter::open(path, mode).await?)),
            Self::Sandbox(connection) => Ok(Writer::Sandbox(
                connection.open_for_writing(path, mode).await?,
            )),
        }
    }

    /// `is_top` is the destination itself, which may be a link of the
    /// person's own.
    pub(super) async fn make_directory(&self, path: &str, mode: u32, is_top: bool) -> Outcome {
        match self {
            Self::Local => local::make_directory(path, mode, is_top),
            Self::Sandbox(connection) => connection
                .make_directory(path, mode)
                .await
                .while_doing(format!("the directory {path} cannot be made")),
        }
    }

    pub(super) async fn make_link(&self, path: &str, to: &str) -> Outcome {
        match self {
            Self::Local => local::make_link(path, to),
            Self::Sandbox(connection) => remote::make_link(connection, path, to).await,
        }
    }
}

/// A file that is being read.
pub(super) enum Reader<'a> {
    Local(local::LocalReader),
    Sandbox(FileReader<'a>),
    /// A small file, which came whole.
    Whole(Option<Bytes>),
}

impl Reader<'_> {
    pub(super) async fn next(&mut self) -> Outcome<Option<Bytes>> {
        match self {
            Self::Local(reader) => reader.next().await,
            Self::Sandbox(reader) => Ok(reader.next().await?),
            Self::Whole(content) => Ok(content.take().filter(|content| !content.is_empty())),
        }
    }

    pub(super) async fn close(self) -> Outcome {
        if let Self::Sandbox(reader) = self {
            reader.close().await?;
        }
        Ok(())
    }
}

/// A file that is being written.
pub(super) enum Writer {
    Local(LocalWriter),
    Sandbox(FileWriter),
}

impl Writer {
    pub(super) async fn write(&mut self, piece: &[u8]) -> Outcome {
        match self {
            Self::Local(writer) => writer.write(piece).await,
            Self::Sandbox(writer) => Ok(writer.write(piece).await?),
        }
    }

    pub(super) async fn finish(self) -> Outcome {
        match self {
            Self::Local(writer) => writer.finish().await,
            Self::Sandbox(writer) => Ok(writer.finish().await?),
        }
    }

    /// Why a write failed, which a sandbox says in its answer to the call.
    pub(super) async fn reason(self, failure: Failure) -> Failure {
        match self {
            Self::Local(_) => failure,
            Self::Sandbox(writer) => writer.reason().await.into(),
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

/// What a path is below a root. A sandbox that answers anything else wants to
/// lead us out of the destination.
pub(super) fn below(root: &Path, path: &str) -> Outcome<PathBuf> {
    let refused = || {
        Failure::message(
            ExitCode::Failure,
            format!(
                "the sandbox names {}, which is not below what is copied",
                crate::output::printable(path)
            ),
        )
    };
    let relative = Path::new(path)
        .strip_prefix(root)
        .map_err(|_outside| refused())?;
    let is_plain = relative
        .components()
        .all(|component| matches!(component, Component::Normal(_)));
    if is_plain {
        Ok(relative.to_owned())
    } else {
        Err(refused())
    }
}
