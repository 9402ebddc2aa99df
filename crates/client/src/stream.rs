//! The two directions of bytes on a connection. Chunks that arrive wait in a
//! short queue for their reader, and a full queue holds up the socket: that
//! is the protocol's flow control.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use parking_lot::Mutex;
use tokio::io::AsyncBufRead;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::io::StreamReader;
use tokio_util::sync::CancellationToken;
use tombolo_api::rpc::ErrorObject;

use crate::connection::Connection;
use crate::frame;

/// How many chunks of one stream wait for their reader.
const CHUNKS_WAITING_MAX: usize = 16;
/// How many streams may be open that nobody has asked for yet.
const UNCLAIMED_MAX: usize = 256;
/// The largest chunk that is sent in one frame.
pub(crate) const CHUNK_LEN_MAX: usize = 64 * 1024;

/// What arrives for a stream.
#[derive(Debug)]
pub(crate) enum Event {
    Chunk(Bytes),
    End,
    Failed(Option<ErrorObject>),
}

/// Why a stream gave no more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The connection ended, and perhaps the sandbox with it.
    #[error("the connection to the sandbox ended in the middle of a stream")]
    ConnectionLost,
    /// What made the stream could not go on.
    #[error("the stream broke off: {message}")]
    Failed {
        /// In the words of the other side.
        message: String,
    },
    /// There is more of it than was to be kept in memory.
    #[error("the stream is longer than {limit} bytes; read it in pieces")]
    TooLong {
        /// Bytes of the longest that is taken.
        limit: usize,
    },
    /// It was to be text.
    #[error("the stream is not UTF-8")]
    NotText(#[from] std::string::FromUtf8Error),
}

impl From<StreamError> for io::Error {
    fn from(error: StreamError) -> Self {
        let kind = match error {
            StreamError::ConnectionLost => io::ErrorKind::ConnectionReset,
            StreamError::NotText(_) => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// The streams that the server sends.
#[derive(Debug, Default)]
pub(crate) struct InboundTable {
    entries: Mutex<HashMap<u64, Entry>>,
}

#[derive(Debug)]
struct Entry {
    sender: Option<mpsc::Sender<Event>>,
    /// Here until somebody asks for the stream.
    receiver: Option<mpsc::Receiver<Event>>,
    is_announced: bool,
}

impl Entry {
    fn new() -> Self {
        let (sender, receiver) = mpsc::channel(CHUNKS_WAITING_MAX);
        Self {
            sender: Some(sender),
            receiver: Some(receiver),
            is_announced: false,
        }
    }
}

impl InboundTable {
    /// The server begins a stream, whether or not somebody asked for it yet.
    pub(crate) fn announce(&self, id: u64) {
        let mut entries = self.entries.lock();
        if !entries.contains_key(&id) {
            let unclaimed = entries.values().filter(|e| e.receiver.is_some()).count();
            if unclaimed >= UNCLAIMED_MAX {
                tracing::debug!(stream = id, "too many streams that nobody asked for");
                return;
            }
        }
        entries.entry(id).or_insert_with(Entry::new).is_announced = true;
    }

    /// Where to put what arrives for `id`; nothing if nobody can want it.
    pub(crate) fn sender(&self, id: u64) -> Option<mpsc::Sender<Event>> {
        self.entries.lock().get(&id)?.sender.clone()
    }

    /// The last event of a stream has been queued.
    pub(crate) fn finish(&self, id: u64) {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get_mut(&id) {
            entry.sender = None;
            if entry.receiver.is_none() {
                entries.remove(&id);
            }
        }
    }

    pub(crate) fn claim(&self, id: u64) -> Option<mpsc::Receiver<Event>> {
        let mut entries = self.entries.lock();
        let entry = entries.entry(id).or_insert_with(Entry::new);
        let receiver = entry.receiver.take();
        if entry.sender.is_none() {
            entries.remove(&id);
        }
        receiver
    }

    /// Nobody reads the stream any more, and the server is told so. One that
    /// was not begun yet may still be: it stays known as one to ignore.
    pub(crate) fn forget(&self, id: u64) {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get_mut(&id) {
            entry.sender = None;
            if entry.is_announced {
                entries.remove(&id);
            }
        }
    }

    /// Forgets every stream, so that each reader learns that it is over.
    pub(crate) fn clear(&self) {
        self.entries.lock().clear();
    }
}

/// Bytes from the sandbox: the output of a process, the body of a response.
///
/// Whoever has one reads it or drops it. A stream that is kept and not read
/// holds up everything else on its connection, once some chunks of it wait.
/// Dropping it tells the sandbox that nobody reads: a process finds its pipe
/// closed, a download ends.
///
/// It is a [`Stream`] of chunks, too.
#[derive(Debug)]
pub struct ReadStream {
    id: u64,
    events: Option<mpsc::Receiver<Event>>,
    ended: bool,
    connection: Connection,
}

impl ReadStream {
    pub(crate) fn new(
        id: u64,
        events: Option<mpsc::Receiver<Event>>,
        connection: Connection,
    ) -> Self {
        Self {
            id,
            events,
            ended: false,
            connection,
        }
    }

    /// The next chunk, or nothing after the last. Dropping the future loses
    /// no chunk.
    ///
    /// # Errors
    /// A stream that broke off; it gives nothing afterwards.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, StreamError> {
        self.next().await.transpose()
    }

    /// All that comes until the end, of at most `len_max` bytes.
    ///
    /// # Errors
    /// A stream that broke off or is longer.
    pub async fn read_to_end(mut self, len_max: usize) -> Result<Bytes, StreamError> {
        let mut all = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if all.len() + chunk.len() > len_max {
                return Err(StreamError::TooLong { limit: len_max });
            }
            all.extend_from_slice(&chunk);
        }
        Ok(all.freeze())
    }

    /// The same as text.
    ///
    /// # Errors
    /// As [`ReadStream::read_to_end`], and what is not UTF-8.
    pub async fn read_to_string(self, len_max: usize) -> Result<String, StreamError> {
        let bytes = self.read_to_end(len_max).await?;
        Ok(String::from_utf8(bytes.into())?)
    }

    /// As a reader of Tokio's, for lines and the like.
    pub fn into_async_read(self) -> impl AsyncBufRead + Send + Unpin {
        StreamReader::new(self.map(|chunk| chunk.map_err(io::Error::from)))
    }

    /// Reads what comes and keeps nothing of it.
    pub(crate) async fn discard(mut self) {
        while let Ok(Some(_chunk)) = self.chunk().await {}
    }
}

impl Stream for ReadStream {
    type Item = Result<Bytes, StreamError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let event = match &mut self.events {
            Some(events) => ready!(events.poll_recv(context)),
            None => None,
        };
        if let Some(Event::Chunk(chunk)) = event {
            return Poll::Ready(Some(Ok(chunk)));
        }
        self.ended = true;
        Poll::Ready(match event {
            Some(Event::Failed(error)) => Some(Err(StreamError::Failed {
                message: error.map_or_else(|| "no reason given".to_owned(), |e| e.message),
            })),
            Some(_end) => None,
            None => Some(Err(StreamError::ConnectionLost)),
        })
    }
}

impl Drop for ReadStream {
    fn drop(&mut self) {
        // Before the table forgets it: a chunk that waits for room in the
        // queue must not hold up the connection.
        self.events = None;
        if self.ended {
            return;
        }
        self.connection.inbound_table().forget(self.id);
        let frame = Message::text(frame::stream_cancel(self.id));
        self.connection.post_later(frame);
    }
}

/// The streams that this client sends, for the server's cancellations.
#[derive(Debug, Default)]
pub(crate) struct OutboundTable {
    cancelled: Mutex<HashMap<u64, CancellationToken>>,
}

impl OutboundTable {
    pub(crate) fn cancel(&self, id: u64) {
        if let Some(token) = self.cancelled.lock().get(&id) {
            token.cancel();
        }
    }
}

/// Bytes into the sandbox: the input of a process, the content of a file.
/// Dropped without [`WriteStream::finish`], it tells the sandbox that it broke
/// off.
#[derive(Debug)]
pub struct WriteStream {
    id: u64,
    connection: Connection,
    cancelled: CancellationToken,
    ended: bool,
}

/// Why a stream into the sandbox takes no more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The connection ended, and perhaps the sandbox with it.
    #[error("the connection to the sandbox has ended")]
    ConnectionLost,
    /// Whoever read it has had enough.
    #[error("the sandbox reads no more of the stream")]
    Cancelled,
}

impl From<SendError> for io::Error {
    fn from(error: SendError) -> Self {
        let kind = match error {
            SendError::ConnectionLost => io::ErrorKind::ConnectionReset,
            SendError::Cancelled => io::ErrorKind::BrokenPipe,
        };
        Self::new(kind, error)
    }
}

impl WriteStream {
    pub(crate) async fn start(id: u64, connection: Connection) -> Result<Self, SendError> {
        let cancelled = CancellationToken::new();
        let table = &connection.outbound_table().cancelled;
        table.lock().insert(id, cancelled.clone());
        let stream = Self {
            id,
            connection,
            cancelled,
            ended: false,
        };
        stream.post(frame::stream_start(id)).await?;
        Ok(stream)
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Sends bytes, and waits for as long as the socket is full.
    ///
    /// # Errors
    /// A stream that takes no more.
    pub async fn write(&self, data: &[u8]) -> Result<(), SendError> {
        // The protocol knows no empty chunk, and `chunks` yields none.
        for chunk in data.chunks(CHUNK_LEN_MAX) {
            self.post(frame::stream_enqueue(self.id, chunk)).await?;
        }
        Ok(())
    }

    /// Ends the stream: the reader finds the end of its input.
    ///
    /// # Errors
    /// A stream that takes no more.
    pub async fn finish(mut self) -> Result<(), SendError> {
        self.post(frame::stream_end(self.id)).await?;
        self.ended = true;
        Ok(())
    }

    async fn post(&self, frame: String) -> Result<(), SendError> {
        tokio::select! {
            biased;
            () = self.cancelled.cancelled() => Err(SendError::Cancelled),
            sent = self.connection.post(Message::text(frame)) => {
                sent.map_err(|_closed| SendError::ConnectionLost)
            }
        }
    }
}

impl Drop for WriteStream {
    fn drop(&mut self) {
        let table = &self.connection.outbound_table().cancelled;
        table.lock().remove(&self.id);
        if self.ended || self.cancelled.is_cancelled() {
            return;
        }
        if let Ok(frame) = frame::stream_error(self.id, "the sender gave up") {
            self.connection.post_later(Message::text(frame));
        }
    }
}
