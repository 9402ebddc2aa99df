//! Streams from the client to the server: file contents and standard input.
//!
//! The protocol has no flow control of its own, so data is kept here until its
//! reader takes it. When all streams of a connection together hold more than
//! [`RpcLimits::inbound_buffer_max`], the connection is read no further until
//! a reader makes progress: other calls then wait behind the data that the
//! client has already sent, which is the order TCP gives them anyway. Two
//! rules keep that from lasting:
//!
//! - a stream that no call has named yet cannot make progress, so it has a
//!   small bound of its own and is given up beyond it;
//! - when no reader makes progress for [`RpcLimits::stall_max`], what the
//!   fullest stream holds waits on disk from then on. (A process may well not
//!   read its input for minutes; the Python SDK even sends all of it before it
//!   listens to the output that the process is stuck on.) Only when the disk
//!   takes no more, the stream is given up.
//!
//! All connections together have a bound too, beyond which each may hold little.
//!
//! The content of a message that is too long to be held becomes a stream as
//! well. It waits on disk from its beginning, because its call is only made
//! when the message is whole.
//!
//! A stream that is given up fails for its reader, and the client is told to
//! cancel it.

mod table;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;
use tombolo_api::rpc::ErrorObject;

use self::table::{Accepted, Reader, Table, Taken};
use super::budget::Budget;
use super::limits::RpcLimits;
use super::spill::{self, Segment, SpillError};

/// When the server's budget is used up, each connection may still hold this
/// part of its own bound.
const FULL_BUDGET_SHARE: usize = 64;

/// The client streams of one connection.
#[derive(Debug)]
pub(super) struct InboundStreams {
    table: Mutex<Table>,
    /// Told whenever a reader took or gave up data.
    progress: Notify,
    limits: RpcLimits,
    budget: Arc<Budget>,
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

impl InboundStreams {
    pub(super) fn new(limits: RpcLimits, budget: Arc<Budget>) -> Self {
        Self {
            table: Mutex::new(Table::new(Arc::clone(&budget))),
            progress: Notify::new(),
            limits,
            budget,
        }
    }

    /// Begins a stream for the content of a message that is too long to be
    /// held. It waits on disk until the message is whole and its call is made.
    pub(super) fn content(self: &Arc<Self>) -> InboundStream {
        let (id, wake) = self.table.lock().enter_content();
        InboundStream {
            id,
            wake,
            streams: Arc::clone(self),
        }
    }

    /// The client begins a stream.
    pub(super) fn start(&self, id: u64) -> Advice {
        let streams_max = self.limits.inbound_streams_max;
        self.table.lock().start(id, streams_max)
    }

    /// The client sends data of a stream. Data of a stream that never began,
    /// or is over, is dropped. Only the connection's reading task adds data,
    /// so data that goes by way of the disk keeps its place.
    pub(super) async fn push(&self, id: u64, data: Bytes) -> Advice {
        let accepted = self.table.lock().accept(id, data, &self.limits);
        match accepted {
            Accepted::Done(advice) => advice,
            Accepted::ForDisk(data) => {
                if let Err((error, data)) = self.spill(id, vec![data]).await {
                    tracing::debug!(%error, "a client's data waits in memory after all");
                    self.table.lock().keep(id, data);
                }
                Advice::Nothing
            }
        }
    }

    /// The client ends a stream: well, or with an error.
    pub(super) fn finish(&self, id: u64, outcome: Result<(), Box<ErrorObject>>) {
        self.table.lock().finish(id, outcome);
    }

    /// A call names the stream it reads, which may not have begun yet.
    pub(super) fn claim(self: &Arc<Self>, id: u64) -> Result<InboundStream, StreamTaken> {
        let wake = self.table.lock().claim(id)?;
        Ok(InboundStream {
            id,
            wake,
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
                self.relieve().await;
            }
        }
    }

    fn has_room(&self) -> bool {
        let mut table = self.table.lock();
        let mut len_max = self.limits.inbound_buffer_max;
        if self.budget.is_full_of_uploads() {
            len_max /= FULL_BUDGET_SHARE;
        }
        while table.buffered.get() > len_max {
            if table.fullest(Reader::Reading).is_some() {
                return false;
            }
            let Some(orphan) = table.fullest(Reader::Awaited) else {
                return true;
            };
            table.give_up(orphan, table::no_reader());
        }
        true
    }

    /// Moves what the fullest stream holds to disk, or gives the stream up.
    async fn relieve(&self) {
        let (id, data) = {
            let mut table = self.table.lock();
            let Some(id) = table.fullest(Reader::Reading) else {
                return;
            };
            (id, table.take_memory(id))
        };
        if let Err((error, _)) = self.spill(id, data).await {
            tracing::warn!(%error, stream = id, "gave up a client's stream that nobody reads");
            self.table.lock().give_up(id, table::stalled());
        }
    }

    /// Adds data to a stream by way of the disk.
    async fn spill(&self, id: u64, data: Vec<Bytes>) -> Result<(), (SpillError, Vec<Bytes>)> {
        let len = data.iter().map(Bytes::len).sum();
        let directory = &self.limits.spill_directory;
        let len_max = self.limits.spill_len_max;
        let reserved = self.table.lock().spill.reserve(len, directory, len_max);
        let written = match reserved {
            Ok(reserved) => reserved.write(data.clone()).await,
            Err(error) => return Err((error, data)),
        };
        let mut table = self.table.lock();
        match written {
            Ok(segments) => {
                table.add_from_disk(id, segments);
                Ok(())
            }
            Err(error) => {
                table.spill.release(len);
                Err((error, data))
            }
        }
    }
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
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// The next bytes, never none; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, Box<ErrorObject>>> {
        loop {
            let taken = self.streams.table.lock().take(self.id);
            match taken {
                Taken::Data(data) => {
                    self.streams.progress.notify_waiters();
                    return Some(Ok(data));
                }
                Taken::OnDisk(file, segment) => return Some(self.read(file, segment).await),
                Taken::End => return None,
                Taken::Failed(error) => return Some(Err(error)),
                Taken::Nothing => self.wake.notified().await,
            }
        }
    }

    async fn read(&self, file: Arc<File>, segment: Segment) -> Result<Bytes, Box<ErrorObject>> {
        let _space = SpaceInUse {
            streams: &self.streams,
            len: segment.len(),
        };
        spill::read(file, segment).await.map_err(|error| {
            tracing::error!(%error, "data that waited on disk is lost");
            Box::new(ErrorObject::new("Error", "The stream's data was lost"))
        })
    }
}

impl Drop for InboundStream {
    fn drop(&mut self) {
        self.streams.table.lock().release(self.id);
        self.streams.progress.notify_waiters();
    }
}

/// Space on disk whose data is being read.
struct SpaceInUse<'a> {
    streams: &'a InboundStreams,
    len: usize,
}

impl Drop for SpaceInUse<'_> {
    fn drop(&mut self) {
        self.streams.table.lock().spill.release(self.len);
        self.streams.progress.notify_waiters();
    }
}
