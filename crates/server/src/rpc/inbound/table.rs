//! The client streams of one connection as plain state: no waiting, no disk.

use std::collections::hash_map::Entry as Slot;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Notify;
use tombolo_api::rpc::ErrorObject;

use super::{Advice, StreamTaken};
use crate::rpc::budget::{Budget, UploadCount};
use crate::rpc::limits::RpcLimits;
use crate::rpc::spill::{Segment, Spill};

#[derive(Debug)]
pub(super) struct Table {
    pub(super) streams: HashMap<u64, Entry>,
    /// Bytes in memory.
    pub(super) buffered: UploadCount,
    pub(super) spill: Spill,
}

#[derive(Debug)]
pub(super) struct Entry {
    chunks: VecDeque<Chunk>,
    /// Bytes in memory.
    buffered: usize,
    /// What comes waits on disk until all that is there has been read.
    is_spilling: bool,
    source: Source,
    reader: Reader,
    is_cancel_told: bool,
    wake: Arc<Notify>,
}

/// Data that waits for its reader.
#[derive(Debug)]
enum Chunk {
    Memory(Bytes),
    Disk(Segment),
}

/// What the client has said of a stream.
#[derive(Debug)]
enum Source {
    /// A call named it before it began.
    Expected,
    Open,
    Ended,
    Failed(Box<ErrorObject>),
    /// The server gave it up; the client may not know yet.
    GivenUp(Box<ErrorObject>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// No call has named the stream yet.
    Awaited,
    Reading,
    /// The call that read it is over.
    Gone,
}

/// What became of data.
#[derive(Debug)]
pub(super) enum Accepted {
    Done(Advice),
    ForDisk(Bytes),
}

/// What a reader finds.
#[derive(Debug)]
pub(super) enum Taken {
    Data(Bytes),
    OnDisk(Arc<File>, Segment),
    End,
    Failed(Box<ErrorObject>),
    Nothing,
}

impl Table {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self {
            streams: HashMap::new(),
            buffered: UploadCount::new(Arc::clone(&budget)),
            spill: Spill::new(budget),
        }
    }

    /// Enters a stream that waits on disk from its beginning. Answers its id,
    /// which no client uses, and what wakes its reader.
    pub(super) fn enter_content(&mut self) -> (u64, Arc<Notify>) {
        let mut id = u64::MAX;
        while self.streams.contains_key(&id) {
            id -= 1;
        }
        let mut entry = Entry::new(Source::Open);
        entry.reader = Reader::Reading;
        entry.is_spilling = true;
        let wake = Arc::clone(&entry.wake);
        self.streams.insert(id, entry);
        (id, wake)
    }

    pub(super) fn start(&mut self, id: u64, streams_max: usize) -> Advice {
        if self.streams.len() >= streams_max {
            self.streams.retain(|_, entry| entry.reader != Reader::Gone);
            if self.streams.len() >= streams_max {
                return Advice::Cancel;
            }
        }
        match self.streams.entry(id) {
            Slot::Vacant(slot) => {
                slot.insert(Entry::new(Source::Open));
            }
            Slot::Occupied(mut slot) => match (slot.get().reader, &slot.get().source) {
                (Reader::Gone, _) => {
                    slot.insert(Entry::new(Source::Open));
                }
                (_, Source::Expected) => slot.get_mut().source = Source::Open,
                _ => {}
            },
        }
        Advice::Nothing
    }

    pub(super) fn accept(&mut self, id: u64, data: Bytes, limits: &RpcLimits) -> Accepted {
        let Some(entry) = self.streams.get_mut(&id) else {
            return Accepted::Done(Advice::Nothing);
        };
        if entry.reader == Reader::Gone {
            self.streams.remove(&id);
            return Accepted::Done(Advice::Cancel);
        }
        if matches!(entry.source, Source::GivenUp(_)) {
            return Accepted::Done(entry.unwanted());
        }
        if data.is_empty() || entry.is_over() {
            return Accepted::Done(Advice::Nothing);
        }
        if entry.reader == Reader::Awaited && entry.buffered > limits.orphan_buffer_max {
            let advice = entry.unwanted();
            self.give_up(id, no_reader());
            return Accepted::Done(advice);
        }
        if entry.is_spilling {
            return Accepted::ForDisk(data);
        }
        entry.keep(data, &mut self.buffered);
        Accepted::Done(Advice::Nothing)
    }

    /// Keeps data in memory that could not wait on disk.
    pub(super) fn keep(&mut self, id: u64, data: Vec<Bytes>) {
        if let Some(entry) = self.streams.get_mut(&id)
            && entry.reader == Reader::Reading
        {
            for chunk in data {
                entry.keep(chunk, &mut self.buffered);
            }
        }
    }

    /// Adds data that waits on disk.
    pub(super) fn add_from_disk(&mut self, id: u64, segments: Vec<Segment>) {
        match self.streams.get_mut(&id) {
            Some(entry) if entry.reader == Reader::Reading => {
                entry.chunks.extend(segments.into_iter().map(Chunk::Disk));
                entry.wake.notify_one();
            }
            _ => {
                for segment in segments {
                    self.spill.release(segment.len());
                }
            }
        }
    }

    pub(super) fn finish(&mut self, id: u64, outcome: Result<(), Box<ErrorObject>>) {
        let Slot::Occupied(mut slot) = self.streams.entry(id) else {
            return;
        };
        if slot.get().reader == Reader::Gone {
            slot.remove();
            return;
        }
        let entry = slot.get_mut();
        if !entry.is_over() {
            entry.source = match outcome {
                Ok(()) => Source::Ended,
                Err(error) => Source::Failed(error),
            };
            entry.wake.notify_one();
        }
    }

    /// A call becomes the reader. Answers what wakes it.
    pub(super) fn claim(&mut self, id: u64) -> Result<Arc<Notify>, StreamTaken> {
        let new = || Entry::new(Source::Expected);
        let entry = self.streams.entry(id).or_insert_with(new);
        if entry.reader != Reader::Awaited {
            return Err(StreamTaken(id));
        }
        entry.reader = Reader::Reading;
        Ok(Arc::clone(&entry.wake))
    }

    pub(super) fn take(&mut self, id: u64) -> Taken {
        let Some(entry) = self.streams.get_mut(&id) else {
            return Taken::End;
        };
        match (entry.chunks.pop_front(), &entry.source) {
            (Some(Chunk::Memory(data)), _) => {
                entry.buffered -= data.len();
                self.buffered.sub(data.len());
                Taken::Data(data)
            }
            (Some(Chunk::Disk(segment)), _) => match self.spill.file() {
                Some(file) => Taken::OnDisk(file, segment),
                None => Taken::End,
            },
            (None, Source::Expected | Source::Open) => {
                entry.is_spilling = false;
                Taken::Nothing
            }
            (None, Source::Ended) => Taken::End,
            (None, Source::Failed(error) | Source::GivenUp(error)) => Taken::Failed(error.clone()),
        }
    }

    /// The reader is gone.
    pub(super) fn release(&mut self, id: u64) {
        let Slot::Occupied(mut slot) = self.streams.entry(id) else {
            return;
        };
        slot.get_mut().clear(&mut self.buffered, &mut self.spill);
        if slot.get().may_continue() {
            slot.get_mut().reader = Reader::Gone;
        } else {
            slot.remove();
        }
    }

    /// The stream that holds most in memory, if any holds something.
    pub(super) fn fullest(&self, reader: Reader) -> Option<u64> {
        let full = self
            .streams
            .iter()
            .filter(|(_, entry)| entry.reader == reader && entry.buffered > 0);
        let fullest = full.max_by_key(|(_, entry)| entry.buffered);
        fullest.map(|(id, _)| *id)
    }

    /// Takes what a stream holds in memory, to be put back by way of the disk.
    /// What is in memory is always newer than what is on disk.
    pub(super) fn take_memory(&mut self, id: u64) -> Vec<Bytes> {
        let Some(entry) = self.streams.get_mut(&id) else {
            return Vec::new();
        };
        entry.is_spilling = true;
        self.buffered.sub(std::mem::take(&mut entry.buffered));
        let is_on_disk = |chunk: &Chunk| matches!(chunk, Chunk::Disk(_));
        let last_on_disk = entry.chunks.iter().rposition(is_on_disk);
        let in_memory = entry
            .chunks
            .split_off(last_on_disk.map_or(0, |last| last + 1));
        in_memory
            .into_iter()
            .filter_map(|chunk| match chunk {
                Chunk::Memory(data) => Some(data),
                Chunk::Disk(_) => None,
            })
            .collect()
    }

    pub(super) fn give_up(&mut self, id: u64, error: ErrorObject) {
        if let Some(entry) = self.streams.get_mut(&id) {
            entry.source = Source::GivenUp(Box::new(error));
            entry.wake.notify_one();
            entry.clear(&mut self.buffered, &mut self.spill);
        }
    }
}

impl Entry {
    fn new(source: Source) -> Self {
        Self {
            chunks: VecDeque::new(),
            buffered: 0,
            is_spilling: false,
            source,
            reader: Reader::Awaited,
            is_cancel_told: false,
            wake: Arc::default(),
        }
    }

    fn is_over(&self) -> bool {
        !matches!(self.source, Source::Expected | Source::Open)
    }

    /// Advises to cancel, once.
    fn unwanted(&mut self) -> Advice {
        if std::mem::replace(&mut self.is_cancel_told, true) {
            Advice::Nothing
        } else {
            Advice::Cancel
        }
    }

    /// Whether the client may still send some of it.
    fn may_continue(&self) -> bool {
        match self.source {
            Source::Expected | Source::Open => true,
            Source::Ended | Source::Failed(_) => false,
            Source::GivenUp(_) => !self.is_cancel_told,
        }
    }

    fn keep(&mut self, data: Bytes, buffered: &mut UploadCount) {
        self.buffered += data.len();
        buffered.add(data.len());
        self.chunks.push_back(Chunk::Memory(data));
        self.wake.notify_one();
    }

    /// Drops the data.
    fn clear(&mut self, buffered: &mut UploadCount, spill: &mut Spill) {
        buffered.sub(std::mem::take(&mut self.buffered));
        for chunk in std::mem::take(&mut self.chunks) {
            if let Chunk::Disk(segment) = chunk {
                spill.release(segment.len());
            }
        }
    }
}

pub(super) fn no_reader() -> ErrorObject {
    ErrorObject::new(
        "Error",
        "Too much data came before any call named the stream; send the call first",
    )
}

pub(super) fn stalled() -> ErrorObject {
    ErrorObject::new(
        "TimedOut",
        "The stream was given up: its data was not read for too long while too much more waited",
    )
}
