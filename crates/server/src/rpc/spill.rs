//! Where data waits on disk that has nowhere else to wait.
//!
//! One unnamed file for a connection, made when it is first needed. Space is
//! used front to back, and the file is given up whenever nothing is waiting
//! any more.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::budget::{Budget, SpillCount};

/// The most that is read back at once.
const SEGMENT_LEN_MAX: usize = 256 * 1024;

/// A part of the file that holds data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    at: u64,
    len: usize,
}

impl Segment {
    pub(super) fn len(self) -> usize {
        self.len
    }
}

/// What is used of the file.
#[derive(Debug)]
pub(super) struct Spill {
    file: Option<Arc<File>>,
    end: u64,
    waiting: u64,
    count: SpillCount,
}

/// Data could not wait on disk.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpillError {
    #[error("too much data waits on disk already")]
    Full,
    #[error("no temporary file could be made")]
    Create(#[source] io::Error),
    #[error("the temporary file could not be written")]
    Write(#[source] io::Error),
    #[error("the temporary file could not be read")]
    Read(#[source] io::Error),
    #[error("the task that uses the temporary file failed")]
    Task(#[source] tokio::task::JoinError),
}

impl Spill {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self {
            file: None,
            end: 0,
            waiting: 0,
            count: SpillCount::new(budget),
        }
    }

    /// Sets space aside.
    pub(super) fn reserve(
        &mut self,
        len: usize,
        directory: &Path,
        len_max: u64,
    ) -> Result<Reserved, SpillError> {
        let end = self.end + len as u64;
        if end > len_max || !self.count.grow_to(end) {
            return Err(SpillError::Full);
        }
        let file = if let Some(file) = &self.file {
            Arc::clone(file)
        } else {
            let file = tempfile::tempfile_in(directory).map_err(SpillError::Create)?;
            Arc::clone(self.file.insert(Arc::new(file)))
        };
        let at = std::mem::replace(&mut self.end, end);
        self.waiting += len as u64;
        Ok(Reserved { file, at, len })
    }

    /// Gives space back.
    pub(super) fn release(&mut self, len: usize) {
        self.waiting -= len as u64;
        if self.waiting == 0 {
            self.end = 0;
            self.file = None;
            self.count.clear();
        }
    }

    pub(super) fn file(&self) -> Option<Arc<File>> {
        self.file.clone()
    }
}

/// Space for data that is to be written.
#[derive(Debug)]
pub(super) struct Reserved {
    file: Arc<File>,
    at: u64,
    len: usize,
}

impl Reserved {
    /// Writes the data. Answers where it is, in parts that are read one at a
    /// time.
    pub(super) async fn write(self, chunks: Vec<Bytes>) -> Result<Vec<Segment>, SpillError> {
        let Self { file, at, len } = self;
        let writing = spawn_blocking(move || {
            let mut place = at;
            for chunk in chunks {
                file.write_all_at(&chunk, place)?;
                place += chunk.len() as u64;
            }
            Ok(())
        });
        let written = writing.await.map_err(SpillError::Task)?;
        written.map_err(SpillError::Write)?;
        let starts = (0..len).step_by(SEGMENT_LEN_MAX);
        let segments = starts.map(|start| Segment {
            at: at + start as u64,
            len: SEGMENT_LEN_MAX.min(len - start),
        });
        Ok(segments.collect())
    }
}

/// Reads data back.
pub(super) async fn read(file: Arc<File>, segment: Segment) -> Result<Bytes, SpillError> {
    let reading = spawn_blocking(move || {
        let mut bytes = vec![0; segment.len];
        file.read_exact_at(&mut bytes, segment.at)?;
        Ok(Bytes::from(bytes))
    });
    reading
        .await
        .map_err(SpillError::Task)?
        .map_err(SpillError::Read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::BudgetLimits;

    #[tokio::test]
    async fn data_comes_back_and_space_is_used_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut spill = Spill::new(Arc::default());
        for turn in 0..3_u8 {
            let chunks = vec![
                Bytes::from(vec![turn; 300_000]),
                Bytes::from(vec![turn + 1; 7]),
            ];
            let reserved = spill.reserve(300_007, directory.path(), 300_007).unwrap();
            let full = spill.reserve(1, directory.path(), 300_007);
            assert!(matches!(full, Err(SpillError::Full)));
            let segments = reserved.write(chunks.clone()).await.unwrap();
            let mut back = Vec::new();
            for segment in segments {
                assert!(segment.len() <= SEGMENT_LEN_MAX);
                back.extend(read(spill.file().unwrap(), segment).await.unwrap());
                spill.release(segment.len());
            }
            assert!(back == chunks.concat());
        }
    }

    #[test]
    fn all_connections_together_have_a_bound() {
        let budget = Arc::new(Budget::new(BudgetLimits {
            spilled: 10,
            ..BudgetLimits::default()
        }));
        let directory = tempfile::tempdir().unwrap();
        let mut spills = [(); 2].map(|()| Spill::new(Arc::clone(&budget)));
        let [first, second] = &mut spills;
        let reserve = |spill: &mut Spill, len| spill.reserve(len, directory.path(), 100).is_ok();
        assert!(reserve(first, 7));
        assert!(!reserve(second, 4));
        assert!(reserve(second, 3));
        first.release(7);
        assert!(reserve(second, 7));
        assert!(!reserve(first, 1));
        drop(spills);
        assert!(reserve(&mut Spill::new(budget), 10));
    }

    #[test]
    fn a_directory_that_is_missing_is_told() {
        let error = Spill::new(Arc::default()).reserve(1, Path::new("/nonexistent"), 10);
        assert!(matches!(error, Err(SpillError::Create(_))));
    }
}
