//! The file of records: lines of JSON, rotated, with a bounded total.

use std::{io, path::PathBuf, sync::Arc};

use tokio::{
    fs::{File, OpenOptions},
    io::{AsyncWriteExt as _, BufWriter},
    sync::mpsc,
};
use tombolo_diag::LogLimit;

use super::Line;

/// The newest file.
const FILE_NAME: &str = "audit.jsonl";
/// A file that grew to this is put aside.
const FILE_BYTES_MAX: u64 = 32 << 20;
/// Files that are put aside.
const FILES_KEPT: u32 = 7;

/// The file cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the file of audit records")]
pub struct OpenAuditError(#[from] io::Error);

/// Writes what the queue brings.
#[derive(Debug)]
pub(crate) struct Writer {
    directory: PathBuf,
    file: BufWriter<File>,
    written_bytes: u64,
    lines: mpsc::Receiver<Arc<Line>>,
}

impl Writer {
    pub(crate) async fn open(
        directory: PathBuf,
        lines: mpsc::Receiver<Arc<Line>>,
    ) -> Result<Self, OpenAuditError> {
        let (file, written_bytes) = open(&directory).await?;
        Ok(Self {
            directory,
            file,
            written_bytes,
            lines,
        })
    }

    /// Writes until every sender is gone. A disk that is full stops no sandbox; the loss is
    /// logged.
    pub(crate) async fn run(mut self) {
        static LIMIT: LogLimit = LogLimit::new();
        while let Some(line) = self.lines.recv().await {
            let written = self.write(&line.json).await;
            if let (Err(error), Some(permit)) = (written, LIMIT.permit()) {
                let suppressed = permit.suppressed;
                tracing::error!(%error, suppressed, "cannot write audit records");
            }
        }
    }

    async fn write(&mut self, json: &str) -> io::Result<()> {
        if self.written_bytes >= FILE_BYTES_MAX {
            self.rotate().await?;
        }
        self.file.write_all(json.as_bytes()).await?;
        self.file.write_all(b"\n").await?;
        self.written_bytes += json.len() as u64 + 1;
        if self.lines.is_empty() {
            self.file.flush().await?;
        }
        Ok(())
    }

    async fn rotate(&mut self) -> io::Result<()> {
        self.file.flush().await?;
        let path = |number: u32| match number {
            0 => self.directory.join(FILE_NAME),
            number => self.directory.join(format!("{FILE_NAME}.{number}")),
        };
        for number in (0..FILES_KEPT).rev() {
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
    Ok((BufWriter::new(file), written_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_are_rotated_and_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let (sender, lines) = mpsc::channel(1);
        let mut writer = Writer::open(directory.path().to_owned(), lines)
            .await
            .unwrap();
        for number in 0..FILES_KEPT + 3 {
            writer.written_bytes = FILE_BYTES_MAX;
            writer.write(&format!("{number}")).await.unwrap();
        }
        drop(sender);
        writer.run().await;
        let mut names: Vec<_> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), 1 + FILES_KEPT as usize, "{names:?}");
        let newest = fs_err::read_to_string(directory.path().join(FILE_NAME)).unwrap();
        assert_eq!(newest, format!("{}\n", FILES_KEPT + 2));
    }
}
