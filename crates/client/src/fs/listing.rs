//! What is in directories.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::{Stream, StreamExt};
use serde::Serialize;
use tombolo_api::rpc::{DirEntry, StreamReference, WalkEntry, methods};

use super::metadata::{kind_of_entry, kind_of_found};
use super::{ExpandGlobOptions, FileType, Fs, FsError, WalkOptions, at};
use crate::stream::ReadStream;

/// Something in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// Its whole path.
    pub path: String,
    /// The last part of the path.
    pub name: String,
    /// Its kind; a link is told as one.
    pub file_type: FileType,
}

/// What a walk or a glob finds, while it is found. Dropping it stops the
/// search.
#[derive(Debug)]
pub struct Walk {
    entries: ReadStream,
    root: String,
}

impl Walk {
    /// The next, or nothing after the last.
    ///
    /// # Errors
    /// A search that broke off.
    pub async fn next(&mut self) -> Result<Option<Entry>, FsError> {
        StreamExt::next(self).await.transpose()
    }

    /// All that is found.
    ///
    /// # Errors
    /// A search that broke off.
    pub async fn all(mut self) -> Result<Vec<Entry>, FsError> {
        let mut all = Vec::new();
        while let Some(entry) = self.next().await? {
            all.push(entry);
        }
        Ok(all)
    }

    fn read(&self, document: &[u8]) -> Result<Entry, FsError> {
        let entry: WalkEntry = serde_json::from_slice(document)
            .map_err(|source| FsError::new("walk", &self.root, source))?;
        Ok(Entry {
            file_type: kind_of_found(&entry),
            path: entry.path,
            name: entry.name,
        })
    }
}

impl Stream for Walk {
    type Item = Result<Entry, FsError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // One document is one chunk, by the protocol.
        let chunk = ready!(self.entries.poll_next_unpin(context));
        Poll::Ready(chunk.map(|chunk| match chunk {
            Ok(document) => self.read(&document),
            Err(source) => Err(FsError::new("walk", &self.root, source)),
        }))
    }
}

impl Fs {
    /// What is in a directory.
    ///
    /// # Errors
    /// What is not there or no directory.
    pub async fn read_dir(&self, path: &str) -> Result<Vec<Entry>, FsError> {
        let entries: Vec<DirEntry> = self
            .call("list", path, methods::READ_DIR, &at(path))
            .await?;
        let base = path.trim_end_matches('/');
        let entries = entries.into_iter().map(|entry| Entry {
            file_type: kind_of_entry(&entry),
            path: format!("{base}/{}", entry.name),
            name: entry.name,
        });
        Ok(entries.collect())
    }

    /// Everything at and below a path. Links are shown and not followed.
    ///
    /// # Errors
    /// What is not there.
    pub async fn walk(&self, path: &str) -> Result<Walk, FsError> {
        self.walk_with(path, WalkOptions::new()).await
    }

    /// The same with a choice of what.
    ///
    /// # Errors
    /// As [`Fs::walk`].
    pub async fn walk_with(&self, path: &str, options: WalkOptions) -> Result<Walk, FsError> {
        /// The options stand beside the path, as the JavaScript client has it.
        #[derive(Serialize)]
        struct Params<'a> {
            path: &'a str,
            #[serde(flatten)]
            options: tombolo_api::rpc::WalkOptions,
        }
        let options = options.0;
        self.search("walk", path, methods::WALK, &Params { path, options })
            .await
    }

    /// Everything that a glob matches.
    ///
    /// # Errors
    /// A glob that cannot be read.
    pub async fn expand_glob(&self, glob: &str) -> Result<Walk, FsError> {
        self.expand_glob_with(glob, ExpandGlobOptions::new()).await
    }

    /// The same with a choice of what.
    ///
    /// # Errors
    /// As [`Fs::expand_glob`].
    pub async fn expand_glob_with(
        &self,
        glob: &str,
        options: ExpandGlobOptions,
    ) -> Result<Walk, FsError> {
        /// As of a walk.
        #[derive(Serialize)]
        struct Params<'a> {
            glob: &'a str,
            #[serde(flatten)]
            options: tombolo_api::rpc::ExpandGlobOptions,
        }
        let options = options.0;
        let params = Params { glob, options };
        self.search("expand", glob, methods::EXPAND_GLOB, &params)
            .await
    }

    async fn search<P: Serialize + Sync>(
        &self,
        operation: &'static str,
        root: &str,
        method: &'static str,
        params: &P,
    ) -> Result<Walk, FsError> {
        let found: StreamReference = self.call(operation, root, method, params).await?;
        Ok(Walk {
            entries: self.connection.inbound(found.stream_id),
            root: root.to_owned(),
        })
    }
}
