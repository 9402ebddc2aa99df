//! This machine's side of a copy.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use fs_err as fs;
use fs_err::os::unix::fs::symlink;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::CopyError;
use super::side::{Entry, Kind, MODE_MASK};

/// How much of a file is read at once.
const PIECE_LEN: usize = 256 * 1024;
/// The random part of a temporary name.
const TEMPORARY_CHARS: usize = 12;
/// What the owner needs to fill a directory.
const OWNER_ALL: u32 = 0o700;

pub(super) fn exists(path: &str) -> Result<bool, CopyError> {
    Ok(Path::new(path).try_exists()?)
}

/// What is left to visit.
#[derive(Debug)]
pub(super) struct LocalWalk {
    pending: Vec<(PathBuf, PathBuf)>,
    is_first: bool,
}

impl LocalWalk {
    pub(super) fn new(root: &str) -> Result<Self, CopyError> {
        fs::metadata(root)?;
        Ok(Self {
            pending: vec![(PathBuf::from(root), PathBuf::new())],
            is_first: true,
        })
    }

    pub(super) fn next(&mut self) -> Result<Option<Entry>, CopyError> {
        let Some((path, relative)) = self.pending.pop() else {
            return Ok(None);
        };
        let metadata = if std::mem::take(&mut self.is_first) {
            fs::metadata(&path)?
        } else {
            fs::symlink_metadata(&path)?
        };
        let mode = metadata.permissions().mode() & MODE_MASK;
        let kind = if metadata.is_dir() {
            self.visit(&path, &relative)?;
            Kind::Directory { mode }
        } else if metadata.is_file() {
            Kind::File {
                mode,
                size: metadata.len(),
            }
        } else if metadata.is_symlink() {
            let to = fs::read_link(&path)?;
            Kind::Link {
                to: text(&to)?.to_owned(),
            }
        } else {
            Kind::Other
        };
        let path = text(&path)?.to_owned();
        Ok(Some(Entry {
            path,
            relative,
            kind,
        }))
    }

    fn visit(&mut self, path: &Path, relative: &Path) -> Result<(), CopyError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            names.push(entry?.file_name());
        }
        // The last is taken first.
        names.sort_by(|left, right| right.cmp(left));
        self.pending.extend(
            names
                .into_iter()
                .map(|name| (path.join(&name), relative.join(&name))),
        );
        Ok(())
    }
}

/// The protocol is JSON, so a name must be text.
fn text(path: &Path) -> Result<&str, CopyError> {
    path.to_str().ok_or_else(|| CopyError::Name {
        path: path.display().to_string(),
    })
}

/// A file of this machine that is being read.
#[derive(Debug)]
pub(super) struct LocalReader {
    file: fs_err::tokio::File,
}

pub(super) async fn open(path: &str) -> Result<LocalReader, CopyError> {
    Ok(LocalReader {
        file: fs_err::tokio::File::open(path).await?,
    })
}

impl LocalReader {
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, CopyError> {
        let mut piece = Vec::with_capacity(PIECE_LEN);
        let len = self.file.read_buf(&mut piece).await?;
        Ok((len > 0).then(|| piece.into()))
    }
}

/// A file of this machine that is being written under a temporary name. The
/// rename at the end replaces whatever has its name, link or not, and writes
/// through nothing. What is no file, such as a device that the person named
/// as the destination, is written itself.
#[derive(Debug)]
pub(super) struct LocalWriter {
    file: fs_err::tokio::File,
    replaces: Option<Replaces>,
}

/// What a file that is complete takes the place of.
#[derive(Debug)]
struct Replaces {
    temporary: Temporary,
    path: PathBuf,
    mode: u32,
}

/// A temporary name, whose file goes when it is not used.
#[derive(Debug)]
struct Temporary(Option<PathBuf>);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = self.0.take()
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!(%error, "a temporary file is left");
        }
    }
}

impl LocalWriter {
    /// Opens the destination itself, which may be a device or a pipe.
    pub(super) async fn open_named(path: &str, mode: u32) -> Result<Self, CopyError> {
        if !is_written_through(Path::new(path)) {
            return Self::open(path, mode).await;
        }
        // Standard output may be a file that has something in it already.
        let mut options = fs_err::tokio::OpenOptions::new();
        Ok(Self {
            file: options.append(true).open(path).await?,
            replaces: None,
        })
    }

    pub(super) async fn open(path: &str, mode: u32) -> Result<Self, CopyError> {
        let path = PathBuf::from(path);
        let name = format!(".tombolo-{}", tombolo_ids::random_text(TEMPORARY_CHARS)?);
        let temporary = path.with_file_name(name);
        let file = fs_err::tokio::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temporary)
            .await?;
        Ok(Self {
            file,
            replaces: Some(Replaces {
                temporary: Temporary(Some(temporary)),
                path,
                mode,
            }),
        })
    }

    pub(super) async fn write(&mut self, piece: &[u8]) -> Result<(), CopyError> {
        Ok(self.file.write_all(piece).await?)
    }

    pub(super) async fn finish(mut self) -> Result<(), CopyError> {
        self.file.flush().await?;
        let Some(mut replaces) = self.replaces.take() else {
            return Ok(());
        };
        self.file
            .set_permissions(std::fs::Permissions::from_mode(replaces.mode & MODE_MASK))
            .await?;
        if let Some(temporary) = &replaces.temporary.0 {
            fs::rename(temporary, &replaces.path)?;
        }
        replaces.temporary.0 = None;
        Ok(())
    }
}

/// Whether a destination is a device, a pipe or the like, or one of the names
/// that processes have for their open files: these are never replaced.
fn is_written_through(path: &Path) -> bool {
    let Ok(metadata) = fs::metadata(path) else {
        return false;
    };
    if !metadata.is_file() && !metadata.is_dir() {
        return true;
    }
    let leads_to_open_files = |path: PathBuf| path.starts_with("/proc");
    let directory = path.parent().map(fs::canonicalize);
    fs::read_link(path).is_ok_and(leads_to_open_files)
        || directory.is_some_and(|directory| directory.is_ok_and(leads_to_open_files))
}

pub(super) fn make_directory(path: &str, mode: u32, is_top: bool) -> Result<(), CopyError> {
    if is_top && Path::new(path).is_dir() {
        return Ok(());
    }
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => {
            return Err(CopyError::InTheWay {
                path: path.to_owned(),
                what: "no directory",
            });
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    if is_top {
        fs::create_dir_all(path)?;
    } else {
        fs::create_dir(path)?;
    }
    let mode = mode & MODE_MASK | OWNER_ALL;
    fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(())
}

pub(super) fn make_link(path: &str, to: &str) -> Result<(), CopyError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            return Err(CopyError::InTheWay {
                path: path.to_owned(),
                what: "a directory, and a link is to be there",
            });
        }
        Ok(_) => fs::remove_file(path)?,
        Err(_not_there) => {}
    }
    Ok(symlink(to, path)?)
}
