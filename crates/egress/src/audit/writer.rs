//! The file of records: lines of JSON, rotated, with a bounded total.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    fs::{File, OpenOptions},
    io::{AsyncWriteExt as _, BufWriter},
    sync::mpsc,
    time::sleep,
};
use tombolo_diag::LogLimit;

use super::Line;
use crate::config::AuditBounds;

/// The newest file.
const FILE_NAME: &str = "audit.jsonl";
/// Records that are written at once.
const BATCH_LINES_MAX: usize = 256;
/// How long further records wait for each other.
const BATCH_INTERVAL: Duration = Duration::from_millis(5);
const BUFFER_BYTES: usize = 64 << 10;

/// The file cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the file of audit records")]
pub struct OpenAuditError(#[from] io::Error);

/// Writes what the queue brings.
#[derive(Debug)]
pub(crate) struct Writer {
    directory: PathBuf,
    bounds: AuditBounds,
    file: BufWriter<File>,
    written_bytes: u64,
    lines: mpsc::Receiver<Arc<Line>>,
}

impl Writer {
    pub(crate) async fn open(
        directory: PathBuf,
        bounds: AuditBounds,
        lines: mpsc::Receiver<Arc<Line>>,
    ) -> Result<Self, OpenAuditError> {
        let (file, written_bytes) = open(&directory).await?;
        Ok(Self {
            directory,
            bounds,
            file,
            written_bytes,
            lines,
        })
    }

    /// Writes until every sender is gone. A disk that is full stops no sandbox; the loss is
    /// logged.
    pub(crate) async fn run(mut self) {
        static LIMIT: LogLimit = LogLimit::new();
        let mut batch = Vec::new();
        while self.lines.recv_many(&mut batch, BATCH_LINES_MAX).await > 0 {
            let written = self.write_batch(&batch).await;
            if let (Err(error), Some(permit)) = (written, LIMIT.permit()) {
                let suppressed = permit.suppressed;
                tracing::error!(%error, suppressed, "cannot write audit records");
            }
            batch.clear();
            // Each visit of the file takes a thread of its own, which costs more than many
            // records do. Who is quiet is written at once, who is not a moment later.
            if self.lines.len() < BATCH_LINES_MAX {
                sleep(BATCH_INTERVAL).await;
            }
        }
    }

    /// Writes records so that they are in the file when this returns. One that fails takes
    /// no other with it.
    async fn write_batch(&mut self, batch: &[Arc<Line>]) -> io::Result<()> {
        let mut result = Ok(());
        for line in batch {
            result = self.write(&line.json).await.and(result);
        }
        self.file.flush().await.and(result)
    }

    async fn write(&mut self, json: &str) -> io::Result<()> {
        if self.written_bytes >= self.bounds.file_bytes_max.get() {
            self.rotate().await?;
        }
        self.file.write_all(json.as_bytes()).await?;
        self.file.write_all(b"\n").await?;
        self.written_bytes += json.len() as u64 + 1;
        Ok(())
    }

    async fn rotate(&mut self) -> io::Result<()> {
        self.file.flush().await?;
        let path = |number: u32| match number {
            0 => self.directory.join(FILE_NAME),
            number => self.directory.join(format!("{FILE_NAME}.{number}")),
        };
        for number in (0..self.bounds.files_kept.get()).rev() {
            match fs_err::tokio::rename(path(number), path(number + 1)).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        (self.file, self.written_bytes) = open(&self.directory).await?;
        Ok(())
    }
}

async fn open(directory: &std::path::Path) -> io::Result<(BufWriter<File>, u64)> {
    let path = directory.join(FILE_NAME);
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .open(path)
        .await?;
    let written_bytes = file.metadata().await?.len();
    let file = BufWriter::with_capacity(BUFFER_BYTES, file);
    Ok((file, written_bytes))
}

#[cfg(test)]
mod tests {
    use std::num::{NonZeroU32, NonZeroU64};

    use super::*;

    #[tokio::test]
    async fn files_are_rotated_and_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let (sender, lines) = mpsc::channel(1);
        let bounds = AuditBounds {
            file_bytes_max: NonZeroU64::new(20).unwrap(),
            files_kept: NonZeroU32::new(3).unwrap(),
        };
        let mut writer = Writer::open(directory.path().to_owned(), bounds, lines)
            .await
            .unwrap();
        // Each is more than half a file, so every file holds two.
        for number in 0..11 {
            writer.write(&format!("line {number:>7}")).await.unwrap();
        }
        // What was written goes into the file with the end of a batch.
        writer.write_batch(&[]).await.unwrap();
        drop(sender);
        writer.run().await;
        let mut names: Vec<_> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), 4, "{names:?}");
        let newest = fs_err::read_to_string(directory.path().join(FILE_NAME)).unwrap();
        assert_eq!(newest, "line      10\n");
        let oldest = directory.path().join(format!("{FILE_NAME}.3"));
        let oldest = fs_err::read_to_string(oldest).unwrap();
        assert_eq!(oldest, "line       4\nline       5\n");
    }
}
