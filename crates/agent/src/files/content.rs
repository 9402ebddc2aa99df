//! Whole files, read and written in streams of chunks.
//!
//! A small file is opened, moved and closed in one visit to another thread; a
//! large one in batches, and between batches nothing is held but the file.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{IoSlice, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;

use bytes::Bytes;
use futures_util::{Stream, stream};
use rustix::buffer::spare_capacity;
use rustix::fs::{FileType, fstat};
use rustix::io::{Errno, retry_on_intr};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use tombolo_guest_proto::CHUNK_LEN_MAX;
use tombolo_guest_proto::v1::write_file_chunk::Part;
use tombolo_guest_proto::v1::{DataChunk, WriteFileChunk, WriteFileOpen};
use tonic::{Status, Streaming};

use super::{Files, PERMISSIONS, Patience};
use crate::fault::{CallError, Cause, at, blocking};

/// Bytes moved in one visit to another thread.
const BATCH_LEN: usize = 4 * CHUNK_LEN_MAX;
/// Pieces in one visit, however small.
const BATCH_PIECES_MAX: usize = 512;

/// Fails before the first chunk when the file cannot be opened.
pub(crate) async fn read_file(
    files: &Files,
    path: String,
) -> Result<impl Stream<Item = Result<DataChunk, Status>> + use<>, Status> {
    let file = files.resolve("readfile", &path)?;
    let patience = files.patience();
    let reading = blocking(move || {
        let mut reading = Reading::open(path, file, &patience)?;
        reading.read_batch()?;
        Ok(reading)
    })
    .await?;
    Ok(stream::try_unfold(reading, |mut reading| async move {
        if reading.ready.is_empty() && !reading.ended {
            reading = blocking(move || {
                reading.read_batch()?;
                Ok(reading)
            })
            .await?;
        }
        let chunk = reading.ready.pop_front();
        Ok::<_, Status>(chunk.map(|data| (DataChunk { data }, reading)))
    }))
}

struct Reading {
    path: String,
    file: File,
    /// What is left of the size the file had; nothing when it says nothing.
    expected: Option<u64>,
    ready: VecDeque<Bytes>,
    ended: bool,
    _patience: Option<OwnedSemaphorePermit>,
}

impl Reading {
    fn open(path: String, file: PathBuf, patience: &Patience) -> Result<Self, CallError> {
        let permit = patience.for_path(&file).map_err(at("readfile", &path))?;
        let file = File::open(file).map_err(at("readfile", &path))?;
        let stat = fstat(&file).map_err(at("readfile", &path))?;
        let regular = FileType::from_raw_mode(stat.st_mode).is_file();
        // Files that the kernel makes up as they are read have no size.
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        Ok(Self {
            path,
            file,
            expected: (regular && size > 0).then_some(size),
            ready: VecDeque::new(),
            ended: false,
            _patience: permit,
        })
    }

    fn read_batch(&mut self) -> Result<(), CallError> {
        let mut len = 0;
        while len < BATCH_LEN && !self.ended {
            let chunk = self.read_chunk().map_err(at("readfile", &self.path))?;
            len += chunk.len();
            if chunk.is_empty() {
                self.ended = true;
            } else {
                self.ready.push_back(chunk);
            }
            if self.expected.is_none() {
                // Whoever writes the other end may take their time.
                break;
            }
        }
        Ok(())
    }

    fn read_chunk(&mut self) -> Result<Bytes, Errno> {
        let expected = self
            .expected
            .map(|len| usize::try_from(len).unwrap_or(usize::MAX));
        // One byte more shows whether the file ends where it should.
        let room = expected.map_or(CHUNK_LEN_MAX, |len| {
            len.saturating_add(1).min(CHUNK_LEN_MAX)
        });
        let mut chunk = Vec::with_capacity(room);
        let len = retry_on_intr(|| rustix::io::read(&self.file, spare_capacity(&mut chunk)))?;
        if let Some(expected) = &mut self.expected {
            self.ended = len < room;
            // A file that has grown is read in whole chunks from here.
            *expected = expected
                .checked_sub(len as u64)
                .filter(|left| *left > 0)
                .unwrap_or(CHUNK_LEN_MAX as u64);
        }
        Ok(Bytes::from(chunk))
    }
}

/// Writes what `chunks` say to the file that the first one names.
pub(crate) async fn write_file(
    files: &Files,
    mut chunks: Streaming<WriteFileChunk>,
) -> Result<(), Status> {
    let first = chunks.message().await?.and_then(|chunk| chunk.part);
    let Some(Part::Open(open)) = first else {
        return Err(Status::invalid_argument("the first chunk opens no file"));
    };
    let file = files.resolve("writefile", &open.path)?;
    let mut writing = Writing {
        path: open.path.clone(),
        state: State::Closed(file, open, files.patience()),
    };
    let mut under_way: Option<JoinHandle<Result<Writing, CallError>>> = None;
    loop {
        // Receives while the batch before is being written.
        let batch = Batch::receive(&mut chunks).await?;
        if let Some(under_way) = under_way.take() {
            writing = under_way
                .await
                .map_err(|error| Status::internal(error.to_string()))??;
        }
        let last = batch.last;
        let write = move || writing.write(&batch);
        if last {
            return blocking(move || write().map(drop)).await;
        }
        under_way = Some(tokio::task::spawn_blocking(write));
        // Taken back when the batch is written.
        writing = Writing::away();
    }
}

#[derive(Default)]
struct Batch {
    pieces: Vec<Bytes>,
    last: bool,
}

impl Batch {
    async fn receive(chunks: &mut Streaming<WriteFileChunk>) -> Result<Self, Status> {
        let mut batch = Self::default();
        let mut len = 0;
        while len < BATCH_LEN && batch.pieces.len() < BATCH_PIECES_MAX {
            match chunks.message().await?.map(|chunk| chunk.part) {
                None => {
                    batch.last = true;
                    break;
                }
                Some(Some(Part::Data(data))) => {
                    len += data.len();
                    batch.pieces.push(data);
                }
                Some(_) => {
                    return Err(Status::invalid_argument(
                        "a chunk after the first holds no data",
                    ));
                }
            }
        }
        Ok(batch)
    }
}

struct Writing {
    path: String,
    state: State,
}

enum State {
    Closed(PathBuf, WriteFileOpen, Patience),
    Open {
        file: File,
        _patience: Option<OwnedSemaphorePermit>,
    },
    Away,
}

impl Writing {
    fn away() -> Self {
        Self {
            path: String::new(),
            state: State::Away,
        }
    }

    fn write(mut self, batch: &Batch) -> Result<Self, CallError> {
        self.write_pieces(batch)
            .map_err(at("writefile", &self.path))?;
        Ok(self)
    }

    fn write_pieces(&mut self, batch: &Batch) -> Result<(), Cause> {
        if let State::Closed(path, open, patience) = &self.state {
            let permit = patience.for_path(path)?;
            self.state = State::Open {
                file: open_for_writing(path.clone(), open)?,
                _patience: permit,
            };
        }
        let State::Open { file, .. } = &mut self.state else {
            return Err(Errno::BADF.into());
        };
        let pieces = batch.pieces.iter().filter(|piece| !piece.is_empty());
        let mut slices: Vec<IoSlice<'_>> = pieces.map(|piece| IoSlice::new(piece)).collect();
        let mut slices = slices.as_mut_slice();
        while !slices.is_empty() {
            match file.write_vectored(slices) {
                Ok(0) => return Err(Errno::IO.into()),
                Ok(len) => IoSlice::advance_slices(&mut slices, len),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn open_for_writing(path: PathBuf, open: &WriteFileOpen) -> Result<File, Cause> {
    let mut options = OpenOptions::new();
    options
        .write(true)
        .append(open.append)
        .truncate(!open.append)
        .create(open.create)
        .create_new(open.create_new);
    if let Some(mode) = open.mode {
        options.mode(mode & PERMISSIONS);
    }
    let file = options.open(path)?;
    if let Some(mode) = open.mode {
        file.set_permissions(PermissionsExt::from_mode(mode & PERMISSIONS))?;
    }
    Ok(file)
}
