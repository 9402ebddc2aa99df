//! A sandbox's side of a copy.

use std::path::{Component, Path, PathBuf};

use super::side::{Entry, Kind, MODE_MASK, Reader};
use super::{CopyError, printable};
use crate::fs::{Fs, Metadata};

/// A file up to this size comes by one call instead of four.
const WHOLE_LEN_MAX: u64 = 256 * 1024;
/// How many names wait to be visited, which is what a sandbox can make us
/// keep. A directory of as many names does not fit into one answer.
const WAITING_MAX: usize = 1_000_000;

/// What is left to visit.
///
/// Directories are listed one by one: the stream of [`Fs::walk`] would stand
/// unread between two of its entries, and a stream that is not read holds up
/// the answers to all the calls that copy what was found.
#[derive(Debug)]
pub(super) struct RemoteWalk {
    pending: Vec<(String, PathBuf)>,
    is_first: bool,
}

impl RemoteWalk {
    pub(super) fn new(root: &str) -> Self {
        Self {
            pending: vec![(root.to_owned(), PathBuf::new())],
            is_first: true,
        }
    }

    pub(super) async fn next(&mut self, fs: &Fs) -> Result<Option<Entry>, CopyError> {
        let Some((path, relative)) = self.pending.pop() else {
            return Ok(None);
        };
        let metadata = if std::mem::take(&mut self.is_first) {
            fs.stat(&path).await?
        } else {
            fs.lstat(&path).await?
        };
        let kind = if metadata.is_symlink() {
            Kind::Link {
                to: fs.read_link(&path).await?,
            }
        } else {
            kind(&metadata)
        };
        if metadata.is_dir() {
            self.visit(fs, &path, &relative).await?;
        }
        Ok(Some(Entry {
            path,
            relative,
            kind,
        }))
    }

    async fn visit(&mut self, fs: &Fs, path: &str, relative: &Path) -> Result<(), CopyError> {
        let mut found = fs.read_dir(path).await?;
        if self.pending.len() + found.len() > WAITING_MAX {
            return Err(CopyError::TooManyNames);
        }
        // The last is taken first.
        found.sort_by(|left, right| right.name.cmp(&left.name));
        for entry in found {
            if !is_name(&entry.name) {
                return Err(CopyError::Outside {
                    path: printable(&entry.path),
                });
            }
            let relative = relative.join(&entry.name);
            self.pending.push((entry.path, relative));
        }
        Ok(())
    }
}

/// Whether this is the name of something in a directory. A sandbox that
/// answers anything else wants to lead us out of the destination.
pub(super) fn is_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let is_plain = matches!(components.next(), Some(Component::Normal(plain)) if plain == name);
    is_plain && components.next().is_none()
}

fn kind(metadata: &Metadata) -> Kind {
    let mode = metadata.mode & MODE_MASK;
    if metadata.is_dir() {
        Kind::Directory { mode }
    } else if metadata.is_file() {
        Kind::File {
            mode,
            size: metadata.len,
        }
    } else {
        Kind::Other
    }
}

pub(super) async fn read(fs: &Fs, entry: &Entry) -> Result<Reader, CopyError> {
    match entry.kind {
        Kind::File { size, .. } if size <= WHOLE_LEN_MAX => {
            let content = fs.read_file(&entry.path).await?;
            Ok(Reader::Whole(Some(content)))
        }
        _ => Ok(Reader::Sandbox(fs.read_stream(&entry.path).await?)),
    }
}

pub(super) async fn make_link(fs: &Fs, path: &str, to: &str) -> Result<(), CopyError> {
    if let Ok(metadata) = fs.lstat(path).await
        && !metadata.is_dir()
    {
        fs.remove(path).await?;
    }
    Ok(fs.symlink(to, path).await?)
}
