//! What changes among the files of a sandbox.

pub use tombolo_api::watch::{FileChange, FileChangeKind, MissedReason};
use url::form_urlencoded;

use crate::events::Events;
use crate::{RequestError, SandboxRef};

/// Changes among files, as they happen.
#[derive(Debug)]
pub struct FileChanges {
    events: Events,
}

impl SandboxRef {
    /// What changes from now on: a file, or what is in a directory.
    ///
    /// # Errors
    /// As every request.
    pub async fn watch(&self, path: &str) -> Result<FileChanges, RequestError> {
        self.watch_with(path, false).await
    }

    /// The same with all that is below a directory.
    ///
    /// # Errors
    /// As every request.
    pub async fn watch_all(&self, path: &str) -> Result<FileChanges, RequestError> {
        self.watch_with(path, true).await
    }

    async fn watch_with(&self, path: &str, recursive: bool) -> Result<FileChanges, RequestError> {
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("path", path)
            .append_pair("recursive", if recursive { "true" } else { "false" })
            .finish();
        let path = format!("{}/files/watch?{query}", self.path());
        let events = self.client.events(&path).await?;
        Ok(FileChanges { events })
    }
}

impl FileChanges {
    /// The next change, or none when what was watched is gone or the sandbox
    /// has ended. That changes were missed is told as one, too. Changes in a
    /// form that this version does not know are passed over.
    ///
    /// # Errors
    /// An answer that broke off, or a server that fell silent.
    pub async fn next(&mut self) -> Result<Option<FileChange>, RequestError> {
        while let Some(event) = self.events.next().await? {
            match serde_json::from_str(&event.data) {
                Ok(change) => return Ok(Some(change)),
                Err(error) => tracing::debug!(%error, "a change that is not understood"),
            }
        }
        Ok(None)
    }
}
