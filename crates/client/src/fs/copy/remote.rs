//! A sandbox's side of a copy.

use std::path::{Path, PathBuf};

use super::CopyError;
use super::side::{Entries, Entry, Kind, MODE_MASK, Reader, below};
use crate::fs::{Fs, Metadata, Walk, WalkOptions};

/// A file up to this size comes by one call instead of four.
const WHOLE_LEN_MAX: u64 = 256 * 1024;

pub(super) async fn walk(fs: &Fs, path: &str) -> Result<Entries, CopyError> {
    let metadata = fs.stat(path).await?;
    if metadata.is_dir() {
        // The walk must name everything below one root, whatever links and
        // dots were typed.
        let root = fs.real_path(path).await?;
        let options = WalkOptions::new()
            .include_symlinks(true)
            .follow_symlinks(false)
            .canonicalize(false);
        return Ok(Entries::Sandbox {
            walk: fs.walk_with(&root, options).await?,
            root: PathBuf::from(root),
        });
    }
    Ok(Entries::One(Some(Entry {
        path: path.to_owned(),
        relative: PathBuf::new(),
        kind: kind(&metadata),
    })))
}

pub(super) async fn next(
    fs: &Fs,
    walk: &mut Walk,
    root: &Path,
) -> Result<Option<Entry>, CopyError> {
    let Some(found) = walk.next().await? else {
        return Ok(None);
    };
    let relative = below(root, &found.path)?;
    let metadata = fs.lstat(&found.path).await?;
    let kind = if metadata.is_symlink() {
        Kind::Link {
            to: fs.read_link(&found.path).await?,
        }
    } else {
        kind(&metadata)
    };
    Ok(Some(Entry {
        path: found.path,
        relative,
        kind,
    }))
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
