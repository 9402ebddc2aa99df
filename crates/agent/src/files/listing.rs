//! The entries of one directory, in batches, so that a directory of any size
//! takes little memory and a slow reader holds no thread.

use std::fs::ReadDir;

use futures_util::{Stream, stream};
use tombolo_guest_proto::BATCH_ENTRIES_MAX;
use tombolo_guest_proto::v1::{DirEntry, DirEntryBatch};
use tonic::Status;

use super::Files;
use crate::fault::{CallError, at, blocking};

struct Listing {
    path: String,
    entries: ReadDir,
    ended: bool,
}

/// Fails before the first batch when the directory cannot be opened.
pub(crate) async fn read_dir(
    files: &Files,
    path: String,
) -> Result<impl Stream<Item = Result<DirEntryBatch, Status>> + use<>, Status> {
    let directory = files.resolve("readdir", &path)?;
    let first = blocking(move || {
        let entries = std::fs::read_dir(directory).map_err(at("readdir", &path))?;
        let listing = Listing {
            path,
            entries,
            ended: false,
        };
        listing.batch()
    })
    .await?;
    Ok(stream::try_unfold(Step::Send(first.0, first.1), next))
}

enum Step {
    Send(DirEntryBatch, Listing),
    Read(Listing),
}

async fn next(step: Step) -> Result<Option<(DirEntryBatch, Step)>, Status> {
    let (batch, listing) = match step {
        Step::Send(batch, listing) => (batch, listing),
        Step::Read(listing) if listing.ended => return Ok(None),
        Step::Read(listing) => blocking(move || listing.batch()).await?,
    };
    if batch.entries.is_empty() {
        return Ok(None);
    }
    Ok(Some((batch, Step::Read(listing))))
}

impl Listing {
    fn batch(mut self) -> Result<(DirEntryBatch, Self), CallError> {
        let mut batch = DirEntryBatch::default();
        while batch.entries.len() < BATCH_ENTRIES_MAX {
            let Some(entry) = self.entries.next() else {
                self.ended = true;
                break;
            };
            let entry = entry.map_err(at("readdir", &self.path))?;
            let kind = match entry.file_type() {
                Ok(kind) => kind,
                // Removed since.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(CallError::new("readdir", &self.path, error)),
            };
            batch.entries.push(DirEntry {
                name: entry.file_name().to_string_lossy().into_owned(),
                is_file: kind.is_file(),
                is_directory: kind.is_dir(),
                is_symlink: kind.is_symlink(),
            });
        }
        Ok((batch, self))
    }
}
