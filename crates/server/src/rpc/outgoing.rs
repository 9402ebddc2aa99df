//! The way to the client: a short queue and the one task that writes.
//!
//! Whoever sends waits while the queue is full, so a client that reads slowly
//! slows down the guest's pipes.

use std::borrow::Cow;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use futures_util::SinkExt as _;
use futures_util::stream::SplitSink;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use super::outbound::Registration;

/// Messages waiting to be written. A chunk of a stream is at most 88 KiB.
const QUEUE_LEN: usize = 16;

/// Nobody is there to read what was sent.
#[derive(Debug, thiserror::Error)]
#[error("the client is gone")]
pub(super) struct PeerGone;

/// Sends to the client; clones share the queue.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    queue: mpsc::Sender<Item>,
}

#[derive(Debug)]
enum Item {
    Control(Message),
    /// The permit counts large answers in memory and is held until the answer
    /// is written.
    Answer(String, Option<OwnedSemaphorePermit>),
    /// Not written once its stream is cancelled: a message about a cancelled
    /// stream can crash the JavaScript SDK's process.
    Stream {
        text: String,
        cancelled: CancellationToken,
        /// Given up after the last message of the stream.
        registration: Option<Registration>,
    },
    Close(CloseFrame),
}

/// The writing side of [`Outgoing`].
#[derive(Debug)]
pub(super) struct Writer {
    queue: mpsc::Receiver<Item>,
    sink: SplitSink<WebSocket, Message>,
}

pub(super) fn outgoing(sink: SplitSink<WebSocket, Message>) -> (Outgoing, Writer) {
    let (sender, receiver) = mpsc::channel(QUEUE_LEN);
    let writer = Writer {
        queue: receiver,
        sink,
    };
    (Outgoing { queue: sender }, writer)
}

impl Outgoing {
    pub(super) async fn answer(
        &self,
        text: String,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<(), PeerGone> {
        self.send(Item::Answer(text, permit)).await
    }

    /// Sends a message about a stream unless `cancelled` fires before it is
    /// written.
    pub(super) async fn stream(
        &self,
        text: String,
        cancelled: &CancellationToken,
        registration: Option<Registration>,
    ) -> Result<(), PeerGone> {
        self.send(Item::Stream {
            text,
            cancelled: cancelled.clone(),
            registration,
        })
        .await
    }

    /// Sends a message that may be left out when the client is slow.
    pub(super) fn hint(&self, message: Message) {
        if self.queue.try_send(Item::Control(message)).is_err() {
            tracing::trace!("the client is slow or gone; a message was left out");
        }
    }

    /// The last message. What is sent after it is dropped.
    pub(super) async fn close(&self, code: u16, reason: Cow<'static, str>) -> Result<(), PeerGone> {
        let reason = match reason {
            Cow::Borrowed(reason) => Utf8Bytes::from_static(reason),
            Cow::Owned(reason) => Utf8Bytes::from(reason),
        };
        self.send(Item::Close(CloseFrame { code, reason })).await
    }

    async fn send(&self, item: Item) -> Result<(), PeerGone> {
        match self.queue.send(item).await {
            Ok(()) => Ok(()),
            Err(mpsc::error::SendError(_)) => Err(PeerGone),
        }
    }
}

impl Writer {
    /// Writes until a close frame is written, all senders are gone or the
    /// connection fails.
    pub(super) async fn run(mut self) -> Result<(), axum::Error> {
        while let Some(item) = self.queue.recv().await {
            let (message, permit, is_last) = match item {
                Item::Control(message) => (message, None, false),
                Item::Answer(text, permit) => (Message::Text(text.into()), permit, false),
                Item::Close(frame) => (Message::Close(Some(frame)), None, true),
                Item::Stream {
                    text,
                    cancelled,
                    registration,
                } => {
                    let is_wanted = !cancelled.is_cancelled();
                    drop(registration);
                    if !is_wanted {
                        self.flush_if_idle().await?;
                        continue;
                    }
                    (Message::Text(text.into()), None, false)
                }
            };
            self.sink.feed(message).await?;
            if is_last {
                return self.sink.flush().await;
            }
            if permit.is_some() {
                self.sink.flush().await?;
            } else {
                self.flush_if_idle().await?;
            }
        }
        self.sink.flush().await
    }

    async fn flush_if_idle(&mut self) -> Result<(), axum::Error> {
        if self.queue.is_empty() {
            self.sink.flush().await?;
        }
        Ok(())
    }
}
