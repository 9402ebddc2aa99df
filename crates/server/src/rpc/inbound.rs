//! Streams from the client to the server: file contents and standard input.
//!
//! The protocol has no flow control of its own, so data is kept here until its
//! reader takes it. When all streams of a connection together hold more than
//! [`RpcLimits::inbound_buffer_max`], the connection is read no further until
//! a reader makes progress: other calls then wait behind the data that the
//! client has already sent, which is the order TCP gives them anyway. Two
//! rules keep that from lasting for ever:
//!
//! - a stream that no call has named yet cannot make progress, so it has a
//!   small bound of its own and is given up beyond it;
//! - when no reader makes progress for [`RpcLimits::stall_max`], the fullest
//!   stream is given up.
//!
//! A stream that is given up fails for its reader, and the client is told to
//! cancel it.

use std::collections::hash_map::Entry as Slot;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;
use tombolo_api::rpc::ErrorObject;

use super::limits::RpcLimits;

/// The client streams of one connection.
#[derive(Debug)]
pub(super) struct InboundStreams {
    table: Mutex<Table>,
    /// Told whenever a reader took or gave up data.
    progress: Notify,
    limits: RpcLimits,
}

#[derive(Debug, Default)]
struct Table {
    streams: HashMap<u64, Entry>,
    buffered: usize,
}

#[derive(Debug)]
struct Entry {
    chunks: VecDeque<Bytes>,
    buffered: usize,
    source: Source,
    reader: Reader,
    is_cancel_told: bool,
    wake: Arc<Notify>,
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
enum Reader {
    /// No call has named the stream yet.
    Awaited,
    Reading,
    /// The call that read it is over.
    Gone,
}

/// What is to be told to the client about data it sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Advice {
    Nothing,
    /// Nobody will read this stream: cancel it.
    Cancel,
}

/// A call named a stream that another call reads or has read.
#[derive(Debug, thiserror::Error)]
#[error("stream {0} is already in use")]
pub(super) struct StreamTaken(u64);

impl Entry {
    fn new(source: Source, reader: Reader) -> Self {
        Self {
            chunks: VecDeque::new(),
            buffered: 0,
            source,
            reader,
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
}

impl InboundStreams {
    pub(super) fn new(limits: RpcLimits) -> Self {
        Self {
            table: Mutex::default(),
            progress: Notify::new(),
            limits,
        }
    }

    /// The client begins a stream.
    pub(super) fn start(&self, id: u64) -> Advice {
        let mut table = self.table.lock();
        if table.streams.len() >= self.limits.inbound_streams_max {
            table
                .streams
                .retain(|_, entry| entry.reader != Reader::Gone);
            if table.streams.len() >= self.limits.inbound_streams_max {
                return Advice::Cancel;
            }
        }
        match table.streams.entry(id) {
            Slot::Vacant(slot) => {
                slot.insert(Entry::new(Source::Open, Reader::Awaited));
            }
            Slot::Occupied(mut slot) => match (slot.get().reader, &slot.get().source) {
                (Reader::Gone, _) => {
                    slot.insert(Entry::new(Source::Open, Reader::Awaited));
                }
                (_, Source::Expected) => slot.get_mut().source = Source::Open,
                _ => {}
            },
        }
        Advice::Nothing
    }

    /// The client sends data of a stream. Data of a stream that never began,
    /// or is over, is dropped.
    pub(super) fn push(&self, id: u64, data: Bytes) -> Advice {
        let mut table = self.table.lock();
        let Table { streams, buffered } = &mut *table;
        let Some(entry) = streams.get_mut(&id) else {
            return Advice::Nothing;
        };
        if entry.reader == Reader::Gone {
            streams.remove(&id);
            return Advice::Cancel;
        }
        if matches!(entry.source, Source::GivenUp(_)) {
            return entry.unwanted();
        }
        if data.is_empty() || entry.is_over() {
            return Advice::Nothing;
        }
        if entry.reader == Reader::Awaited && entry.buffered > self.limits.orphan_buffer_max {
            *buffered -= entry.give_up(Box::new(no_reader()));
            return entry.unwanted();
        }
        entry.buffered += data.len();
        *buffered += data.len();
        entry.chunks.push_back(data);
        entry.wake.notify_one();
        Advice::Nothing
    }

    /// The client ends a stream: well, or with an error.
    pub(super) fn finish(&self, id: u64, outcome: Result<(), Box<ErrorObject>>) {
        let mut table = self.table.lock();
        let Slot::Occupied(mut slot) = table.streams.entry(id) else {
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

    /// A call names the stream it reads, which may not have begun yet.
    pub(super) fn claim(self: &Arc<Self>, id: u64) -> Result<InboundStream, StreamTaken> {
        let mut table = self.table.lock();
        let entry = table
            .streams
            .entry(id)
            .or_insert_with(|| Entry::new(Source::Expected, Reader::Awaited));
        if entry.reader != Reader::Awaited {
            return Err(StreamTaken(id));
        }
        entry.reader = Reader::Reading;
        Ok(InboundStream {
            id,
            wake: Arc::clone(&entry.wake),
            streams: Arc::clone(self),
        })
    }

    /// Returns when there is room for more data.
    pub(super) async fn room(&self) {
        loop {
            let progress = self.progress.notified();
            tokio::pin!(progress);
            // From here on no progress is missed.
            progress.as_mut().enable();
            if self.has_room() {
                return;
            }
            if timeout(self.limits.stall_max, progress).await.is_err() {
                self.give_up_fullest(Reader::Reading);
            }
        }
    }

    fn has_room(&self) -> bool {
        loop {
            let table = self.table.lock();
            if table.buffered <= self.limits.inbound_buffer_max {
                return true;
            }
            let is_moving = |entry: &Entry| entry.reader == Reader::Reading && entry.buffered > 0;
            if table.streams.values().any(is_moving) {
                return false;
            }
            drop(table);
            if !self.give_up_fullest(Reader::Awaited) {
                return true;
            }
        }
    }

    fn give_up_fullest(&self, reader: Reader) -> bool {
        let mut table = self.table.lock();
        let Table { streams, buffered } = &mut *table;
        let fullest = streams
            .iter_mut()
            .filter(|(_, entry)| entry.reader == reader && entry.buffered > 0)
            .max_by_key(|(_, entry)| entry.buffered);
        let Some((id, entry)) = fullest else {
            return false;
        };
        tracing::warn!(
            stream = id,
            bytes = entry.buffered,
            "gave up a client's stream"
        );
        let error = if reader == Reader::Reading {
            stalled()
        } else {
            no_reader()
        };
        *buffered -= entry.give_up(Box::new(error));
        true
    }

    fn take(&self, id: u64) -> Taken {
        let mut table = self.table.lock();
        let Table { streams, buffered } = &mut *table;
        let Some(entry) = streams.get_mut(&id) else {
            return Taken::End;
        };
        if let Some(chunk) = entry.chunks.pop_front() {
            entry.buffered -= chunk.len();
            *buffered -= chunk.len();
            drop(table);
            self.progress.notify_waiters();
            return Taken::Chunk(chunk);
        }
        match &entry.source {
            Source::Expected | Source::Open => Taken::Nothing,
            Source::Ended => Taken::End,
            Source::Failed(error) | Source::GivenUp(error) => Taken::Failed(error.clone()),
        }
    }

    fn release(&self, id: u64) {
        let mut table = self.table.lock();
        let Table { streams, buffered } = &mut *table;
        let Slot::Occupied(mut slot) = streams.entry(id) else {
            return;
        };
        *buffered -= slot.get_mut().clear();
        if slot.get().may_continue() {
            slot.get_mut().reader = Reader::Gone;
        } else {
            slot.remove();
        }
        drop(table);
        self.progress.notify_waiters();
    }
}

impl Entry {
    /// Drops the data. Answers how much it was.
    fn clear(&mut self) -> usize {
        self.chunks = VecDeque::new();
        std::mem::take(&mut self.buffered)
    }

    fn give_up(&mut self, error: Box<ErrorObject>) -> usize {
        self.source = Source::GivenUp(error);
        self.wake.notify_one();
        self.clear()
    }
}

enum Taken {
    Chunk(Bytes),
    End,
    Failed(Box<ErrorObject>),
    Nothing,
}

/// A call's reading end of a client stream. Dropping it tells the client,
/// when it sends more, that nobody reads on.
#[derive(Debug)]
pub(super) struct InboundStream {
    id: u64,
    wake: Arc<Notify>,
    streams: Arc<InboundStreams>,
}

impl InboundStream {
    /// The next bytes, never none; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, Box<ErrorObject>>> {
        loop {
            match self.streams.take(self.id) {
                Taken::Chunk(chunk) => return Some(Ok(chunk)),
                Taken::End => return None,
                Taken::Failed(error) => return Some(Err(error)),
                Taken::Nothing => self.wake.notified().await,
            }
        }
    }
}

impl Drop for InboundStream {
    fn drop(&mut self) {
        self.streams.release(self.id);
    }
}

fn no_reader() -> ErrorObject {
    ErrorObject::new(
        "Error",
        "Too much data came before any call named the stream; send the call first",
    )
}

fn stalled() -> ErrorObject {
    ErrorObject::new(
        "TimedOut",
        "The stream was given up: its data was not read for too long while too much more waited",
    )
}

#[cfg(test)]
mod tests;
