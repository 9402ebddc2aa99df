//! A sandbox's side of a copy.

use std::path::{Path, PathBuf};

use super::side::{Entries, Entry, Kind, MODE_MASK, Reader, below};
use crate::failure::{Failure, Outcome};
use tombolo_client::Connection;
use tombolo_client::files::{FileInfo, Walk};

/// A file up to this size comes by one call instead of four.
const WHOLE_LEN_MAX: u64 = 256 * 1024;

pub(super) async fn walk(connection: &Connection, path: &str) -> Outcome<Entries> {
    let Some(info) = connection.stat(path).await? else {
        return Err(Failure::message(
            tombolo_diag::ExitCode::Failure,
            format!("there is no {path} in the sandbox"),
        ));
    };
    if info.is_directory {
        // The walk must name everything below one root, whatever links and
        // dots were typed.
        let root = connection.real_path(path).await?;
        return Ok(Entries::Sandbox {
            walk: connection.walk(&root).await?,
            root: PathBuf::from(root),
        });
    }
    Ok(Entries::One(Some(Entry {
        path: path.to_owned(),
        relative: PathBuf::new(),
        kind: kind(&info),
    })))
}

pub(super) async fn next(
    connection: &Connection,
    walk: &mut Walk,
    root: &Path,
) -> Outcome<Option<Entry>> {
    let Some(found) = walk.next().await? else {
        return Ok(None);
    };
    let relative = below(root, &found.path)?;
    let info = connection.lstat(&found.path).await?;
    let kind = if info.is_symlink {
        Kind::Link {
            to: connection.read_link(&found.path).await?,
        }
    } else {
        kind(&info)
    };
    Ok(Some(Entry {
        path: found.path,
        relative,
        kind,
    }))
}

fn kind(info: &FileInfo) -> Kind {
    let mode = info.mode & MODE_MASK;
    if info.is_directory {
        Kind::Directory { mode }
    } else if info.is_file {
        Kind::File {
            mode,
            size: info.size,
        }
    } else {
        Kind::Other
    }
}

pub(super) async fn read<'a>(connection: &'a Connection, entry: &Entry) -> Outcome<Reader<'a>> {
    match entry.kind {
        Kind::File { size, .. } if size <= WHOLE_LEN_MAX => {
            let content = connection.read_file(&entry.path).await?;
            Ok(Reader::Whole(Some(content)))
        }
        _ => Ok(Reader::Sandbox(
            connection.open_for_reading(&entry.path).await?,
        )),
    }
}

pub(super) async fn make_link(connection: &Connection, path: &str, to: &str) -> Outcome {
    if let Ok(info) = connection.lstat(path).await
        && !info.is_directory
    {
        connection.remove(path).await?;
    }
    Ok(connection.symlink(to, path).await?)
}
