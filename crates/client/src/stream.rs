//! The two directions of bytes on a connection. Chunks that arrive wait in a
//! short queue for their reader, and a full queue holds up the socket: that
//! is the protocol's flow control.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;
use tombolo_api::rpc::ErrorObject;

use super::frame;

/// How many chunks of one stream wait for their reader.
const CHUNKS_WAITING_MAX: usize = 16;
/// How many streams may be open that nobody has asked for yet.
const UNCLAIMED_MAX: usize = 256;
/// The largest chunk that is sent in one frame.
pub const CHUNK_LEN_MAX: usize = 64 * 1024;

/// What arrives for a stream.
#[derive(Debug)]
pub(super) enum Event {
    Chunk(Bytes),
    End,
    Failed(Option<ErrorObject>),
}

/// Why a stream gave no more.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("the connection to the sandbox ended in the middle of a stream")]
    ConnectionLost,
    #[error("the stream broke off: {message}")]
    Failed { message: String },
}

/// The streams that the server sends.
#[derive(Debug, Default)]
pub(super) struct InboundTable {
    entries: Mutex<HashMap<u64, Entry>>,
}

#[derive(Debug)]
struct Entry {
    sender: Option<mpsc::Sender<Event>>,
    /// Here until somebody asks for the stream.
    receiver: Option<mpsc::Receiver<Event>>,
}

impl Entry {
    fn new() -> Self {
        let (sender, receiver) = mpsc::channel(CHUNKS_WAITING_MAX);
        Self {
            sender: Some(sender),
            receiver: Some(receiver),
        }
    }
}

impl InboundTable {
    /// Where to put what arrives for `id`; nothing if nobody can want it.
    pub(super) fn sender(&self, id: u64) -> Option<mpsc::Sender<Event>> {
        let mut entries = self.entries.lock();
        if !entries.contains_key(&id) {
            let unclaimed = entries.values().filter(|e| e.receiver.is_some()).count();
            if unclaimed >= UNCLAIMED_MAX {
                return None;
            }
        }
        entries.entry(id).or_insert_with(Entry::new).sender.clone()
    }

    /// The last event of a stream has been queued.
    pub(super) fn finish(&self, id: u64) {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get_mut(&id) {
            entry.sender = None;
            if entry.receiver.is_none() {
                entries.remove(&id);
            }
        }
    }

    pub(super) fn claim(&self, id: u64) -> Option<mpsc::Receiver<Event>> {
        let mut entries = self.entries.lock();
        let entry = entries.entry(id).or_insert_with(Entry::new);
        let receiver = entry.receiver.take();
        if entry.sender.is_none() {
            entries.remove(&id);
        }
        receiver
    }

    /// Forgets every stream, so that each reader learns that it is over.
    pub(super) fn clear(&self) {
        self.entries.lock().clear();
    }
}

/// A stream from the sandbox.
#[derive(Debug)]
pub struct InboundStream {
    id: u64,
    events: Option<mpsc::Receiver<Event>>,
    ended: bool,
    outgoing: mpsc::Sender<Message>,
}

impl InboundStream {
    pub(super) fn new(
        id: u64,
        events: Option<mpsc::Receiver<Event>>,
        outgoing: mpsc::Sender<Message>,
    ) -> Self {
        Self {
            id,
            events,
            ended: false,
            outgoing,
        }
    }

    /// The next chunk, or nothing after the last. Dropping the future loses
    /// no chunk.
    pub async fn next(&mut self) -> Result<Option<Bytes>, StreamError> {
        if self.ended {
            return Ok(None);
        }
        let event = match &mut self.events {
            Some(events) => events.recv().await,
            None => None,
        };
        if let Some(Event::Chunk(chunk)) = event {
            return Ok(Some(chunk));
        }
        self.ended = true;
        match event {
            Some(Event::Failed(error)) => Err(StreamError::Failed {
                message: error.map_or_else(|| "no reason given".to_owned(), |e| e.message),
            }),
            Some(_end) => Ok(None),
            None => Err(StreamError::ConnectionLost),
        }
    }

    /// Tells the server that nobody reads any further.
    pub async fn cancel(mut self) {
        self.events = None;
        if !self.ended {
            let frame = Message::text(frame::stream_cancel(self.id));
            if self.outgoing.send(frame).await.is_err() {
                tracing::debug!(stream = self.id, "the connection ended before the cancel");
            }
        }
    }
}

/// The streams that this client sends, for the server's cancellations.
#[derive(Debug, Default)]
pub(super) struct OutboundTable {
    cancelled: Mutex<HashMap<u64, CancellationToken>>,
}

impl OutboundTable {
    pub(super) fn cancel(&self, id: u64) {
        if let Some(token) = self.cancelled.lock().get(&id) {
            token.cancel();
        }
    }
}

/// A stream into the sandbox. Dropped without [`OutboundStream::end`], it
/// tells the server that it broke off.
#[derive(Debug)]
pub struct OutboundStream {
    id: u64,
    outgoing: mpsc::Sender<Message>,
    table: Arc<OutboundTable>,
    cancelled: CancellationToken,
    ended: bool,
}

/// Why a stream into the sandbox takes no more.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error("the connection to the sandbox has ended")]
    ConnectionLost,
    #[error("the sandbox reads no more of the stream")]
    Cancelled,
}

impl OutboundStream {
    pub(super) async fn start(
        id: u64,
        outgoing: mpsc::Sender<Message>,
        table: Arc<OutboundTable>,
    ) -> Result<Self, SendError> {
        let cancelled = CancellationToken::new();
        table.cancelled.lock().insert(id, cancelled.clone());
        let stream = Self {
            id,
            outgoing,
            table,
            cancelled,
            ended: false,
        };
        stream.post(frame::stream_start(id)).await?;
        Ok(stream)
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    /// Sends bytes, and waits for as long as the socket is full.
    pub async fn send(&self, data: &[u8]) -> Result<(), SendError> {
        // The protocol knows no empty chunk, and `chunks` yields none.
        for chunk in data.chunks(CHUNK_LEN_MAX) {
            self.post(frame::stream_enqueue(self.id, chunk)).await?;
        }
        Ok(())
    }

    pub async fn end(mut self) -> Result<(), SendError> {
        self.ended = true;
        self.post(frame::stream_end(self.id)).await
    }

    async fn post(&self, frame: String) -> Result<(), SendError> {
        tokio::select! {
            biased;
            () = self.cancelled.cancelled() => Err(SendError::Cancelled),
            sent = self.outgoing.send(Message::text(frame)) => {
                sent.map_err(|_closed| SendError::ConnectionLost)
            }
        }
    }
}

impl Drop for OutboundStream {
    fn drop(&mut self) {
        self.table.cancelled.lock().remove(&self.id);
        if self.ended || self.cancelled.is_cancelled() {
            return;
        }
        let Ok(frame) = frame::stream_error(self.id, "the sender gave up") else {
            return;
        };
        if self.outgoing.try_send(Message::text(frame)).is_err() {
            tracing::debug!(
                stream = self.id,
                "a stream was dropped while the socket was full"
            );
        }
    }
}
