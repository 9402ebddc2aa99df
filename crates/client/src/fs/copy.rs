//! Files and directories between this machine and sandboxes, in either
//! direction, and between sandboxes.
//!
//! What comes out of a sandbox is not to be trusted: names must stay below the
//! destination, symbolic links are made only after everything else, and
//! nothing is ever written through one that is already there.

mod local;
mod remote;
mod side;

use std::path::PathBuf;
use std::pin::pin;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde::Serialize;

use self::side::{Entry, Kind, Side};
use super::{Fs, FsError};

/// How many files are on their way at once.
const FILES_AT_ONCE: usize = 8;
/// How many symbolic links wait for the end.
const LINKS_MAX: usize = 1_000_000;

/// What was copied.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Copied {
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub links: u64,
    /// What is none of these, and was left out.
    pub skipped: u64,
    /// Bytes of all files together.
    pub bytes: u64,
}

/// One end of a copy.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum CopyPlace<'a> {
    /// A path of this machine.
    Here(&'a str),
    /// A path of a sandbox.
    Sandbox(&'a Fs, &'a str),
}

/// What happens during a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CopyEvent<'a> {
    /// A file was copied; this is what was copied so far.
    File(Copied),
    /// Something that is no file, directory or link was left out. Its name may
    /// be one that a sandbox chose.
    Skipped(&'a str),
}

/// Why a copy broke off. What was copied until then stays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// There is nothing to copy.
    #[error("there is nothing at {path} to copy")]
    NotThere {
        /// What was named.
        path: String,
    },
    /// One file could not be copied.
    #[error("{path} is not copied")]
    File {
        /// Which, in a form that can be shown.
        path: String,
        /// Why not.
        #[source]
        source: Box<CopyError>,
    },
    /// Something with a file of this machine did not succeed.
    #[error(transparent)]
    Here(#[from] std::io::Error),
    /// Something with a file of a sandbox did not succeed.
    #[error(transparent)]
    Sandbox(#[from] FsError),
    /// The protocol is JSON, so a name must be text.
    #[error("the name {path} is not UTF-8 and cannot be copied")]
    Name {
        /// The name, as far as it is text.
        path: String,
    },
    /// A sandbox that answers this wants to lead us out of the destination.
    #[error("the sandbox names {path}, which is not below what is copied")]
    Outside {
        /// What it named, in a form that can be shown.
        path: String,
    },
    /// Something else has the name that a directory or a link is to have.
    #[error("{path} is in the way: it is {what}")]
    InTheWay {
        /// The name.
        path: String,
        /// What has it.
        what: &'static str,
    },
    /// There is no end of links.
    #[error("there are more than {LINKS_MAX} symbolic links")]
    TooManyLinks,
    /// There is no end of names.
    #[error("there are too many names in the directories to keep in memory")]
    TooManyNames,
    /// There is no randomness for a temporary name.
    #[error("no temporary name")]
    Entropy(#[from] tombolo_ids::EntropyError),
}

impl CopyError {
    /// What to do about it, where that is known.
    #[must_use]
    pub fn next_step(&self) -> Option<&'static str> {
        match self {
            Self::InTheWay { .. } => Some("move it away, or copy to another place"),
            Self::TooManyNames => Some("pack it with `tar`"),
            Self::Name { .. } => Some("give it another name, or pack it with `tar`"),
            Self::File { source, .. } => source.next_step(),
            Self::Sandbox(error) => error.next_step(),
            _ => None,
        }
    }
}

impl Fs {
    /// Copies a file or a directory of this machine into the sandbox: into a
    /// directory that is there, otherwise under the name that is given.
    ///
    /// # Errors
    /// What cannot be read here or written there.
    pub async fn upload(&self, local: &str, path: &str) -> Result<Copied, CopyError> {
        copy(CopyPlace::Here(local), CopyPlace::Sandbox(self, path)).await
    }

    /// Copies a file or a directory of the sandbox to this machine, by the
    /// same rules. Nothing is written outside of the destination, whatever the
    /// sandbox says.
    ///
    /// # Errors
    /// What cannot be read there or written here.
    pub async fn download(&self, path: &str, local: &str) -> Result<Copied, CopyError> {
        copy(CopyPlace::Sandbox(self, path), CopyPlace::Here(local)).await
    }
}

/// Copies a file or a directory: into a directory that is there, otherwise
/// under the name that is given.
///
/// # Errors
/// What cannot be read or written.
pub async fn copy(from: CopyPlace<'_>, to: CopyPlace<'_>) -> Result<Copied, CopyError> {
    copy_with(from, to, |_event| {}).await
}

/// The same, telling what happens.
///
/// # Errors
/// What cannot be read or written.
pub async fn copy_with(
    from: CopyPlace<'_>,
    to: CopyPlace<'_>,
    mut tell: impl FnMut(CopyEvent<'_>),
) -> Result<Copied, CopyError> {
    let (from, source) = Side::of(from);
    let (to, destination) = Side::of(to);
    let target = choose_target(from, source, to, destination).await?;
    let mut walk = from.walk(source)?;
    let mut links = Vec::new();
    let mut work = Work::new(&mut tell);
    while let Some(entry) = work.during(walk.next(from)).await? {
        let path = side::join(&target, &entry.relative);
        match entry.kind {
            // Awaited in its turn: what is in it comes after it.
            Kind::Directory { mode } => {
                let is_top = entry.relative.as_os_str().is_empty();
                work.during(to.make_directory(&path, mode, is_top)).await?;
                work.copied.directories += 1;
            }
            Kind::File { .. } => work.add(copy_file(from, entry, to, path)).await?,
            Kind::Link { to } if links.len() < LINKS_MAX => links.push((path, to)),
            Kind::Link { .. } => return Err(CopyError::TooManyLinks),
            Kind::Other => {
                work.copied.skipped += 1;
                (work.tell)(CopyEvent::Skipped(&entry.path));
            }
        }
    }
    let mut copied = work.finish().await?;
    for (path, points_to) in links {
        to.make_link(&path, &points_to).await?;
        copied.links += 1;
    }
    Ok(copied)
}

/// The files on their way, and what has arrived.
struct Work<'t, F, T> {
    files: FuturesUnordered<F>,
    copied: Copied,
    tell: &'t mut T,
}

impl<'t, F, T> Work<'t, F, T>
where
    F: Future<Output = Result<u64, CopyError>>,
    T: FnMut(CopyEvent<'_>),
{
    fn new(tell: &'t mut T) -> Self {
        Self {
            files: FuturesUnordered::new(),
            copied: Copied::default(),
            tell,
        }
    }

    /// Does something else while the files go on: one that stood still could
    /// hold what the other waits for.
    async fn during<R>(
        &mut self,
        other: impl Future<Output = Result<R, CopyError>>,
    ) -> Result<R, CopyError> {
        let mut other = pin!(other);
        loop {
            tokio::select! {
                biased;
                Some(bytes) = self.files.next() => self.arrived(bytes?),
                done = &mut other => return done,
            }
        }
    }

    async fn add(&mut self, file: F) -> Result<(), CopyError> {
        self.files.push(file);
        if self.files.len() >= FILES_AT_ONCE
            && let Some(bytes) = self.files.next().await
        {
            self.arrived(bytes?);
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<Copied, CopyError> {
        while let Some(bytes) = self.files.next().await {
            self.arrived(bytes?);
        }
        Ok(self.copied)
    }

    fn arrived(&mut self, bytes: u64) {
        self.copied.files += 1;
        self.copied.bytes += bytes;
        (self.tell)(CopyEvent::File(self.copied));
    }
}

/// Into a directory that is there, otherwise under the name that was given.
async fn choose_target(
    from: Side<'_>,
    source: &str,
    to: Side<'_>,
    destination: &str,
) -> Result<String, CopyError> {
    if !from.exists(source).await? {
        let path = source.to_owned();
        return Err(CopyError::NotThere { path });
    }
    if !to.is_directory(destination).await? {
        return Ok(destination.to_owned());
    }
    Ok(match name_of(source) {
        Some(name) => side::join(destination, &PathBuf::from(name)),
        // `dir/.` and the like mean what is in the directory.
        None => destination.to_owned(),
    })
}

/// What a copy of this path is called; nothing for `.`, `..` and `/`, and for
/// `dir/.`, which mean what is in the directory.
fn name_of(path: &str) -> Option<&str> {
    if path.ends_with("/.") {
        return None;
    }
    let name = path.trim_end_matches('/').rsplit('/').next()?;
    match name {
        "" | "." | ".." => None,
        name => Some(name),
    }
}

async fn copy_file(
    from: Side<'_>,
    entry: Entry,
    to: Side<'_>,
    path: String,
) -> Result<u64, CopyError> {
    let copied = async {
        let mut reader = from.read(&entry).await?;
        let is_top = entry.relative.as_os_str().is_empty();
        let mut writer = to.write(&path, entry.mode(), is_top).await?;
        let mut bytes = 0;
        while let Some(piece) = reader.next().await? {
            bytes += piece.len() as u64;
            writer = writer.write(&piece).await?;
        }
        reader.close().await?;
        writer.finish().await?;
        Ok(bytes)
    };
    copied.await.map_err(|source: CopyError| CopyError::File {
        path: printable(&entry.path),
        source: Box::new(source),
    })
}

/// What a sandbox chose, safe to show on a terminal.
fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escaped = c.is_control().then(|| c.escape_default());
            let plain = escaped.is_none().then_some(c);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

#[cfg(test)]
mod tests;
