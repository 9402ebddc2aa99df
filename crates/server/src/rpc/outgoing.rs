//! The way to the client: a short queue and the one task that writes.
//!
//! Whoever sends waits while the queue is full, so a client that reads slowly
//! slows down the guest's pipes. An answer may be sent in fragments while it
//! is made; no other message can stand between them, only control frames.

use std::io;

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tungstenite::protocol::frame::coding::Control;

use super::budget::ReplyPermit;
use super::outbound::Registration;
use super::socket::{CloseReason, FrameWriter};

/// Messages waiting to be written. A chunk of a stream is at most 88 KiB.
const QUEUE_LEN: usize = 16;
/// Control frames waiting to be written.
const CONTROL_QUEUE_LEN: usize = 4;
/// Fragments of an answer waiting to be written.
const FRAGMENTS_AHEAD: usize = 1;

/// Nobody is there to read what was sent.
#[derive(Debug, thiserror::Error)]
#[error("the client is gone")]
pub(super) struct PeerGone;

/// Sends to the client; clones share the queue.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    queue: mpsc::Sender<Item>,
    control: mpsc::Sender<ControlFrame>,
}

#[derive(Debug)]
enum Item {
    Hint(String),
    /// The permit counts large answers in memory and is held until the answer
    /// is written.
    Answer(String, Option<ReplyPermit>),
    Fragments(mpsc::Receiver<Fragment>),
    /// Not written once its stream is cancelled: a message about a cancelled
    /// stream can crash the JavaScript SDK's process.
    Stream {
        text: String,
        cancelled: CancellationToken,
        /// Given up after the last message of the stream.
        registration: Option<Registration>,
    },
    Close(CloseReason),
}

#[derive(Debug)]
enum ControlFrame {
    Ping,
    Pong(Bytes),
    /// The answer to the client's close frame.
    CloseEcho(Bytes),
}

#[derive(Debug)]
struct Fragment {
    text: String,
    is_last: bool,
}

/// An answer that is sent while it is made. It must be brought to an end: to
/// drop it before breaks the connection.
#[derive(Debug)]
pub(super) struct Fragments {
    queue: mpsc::Sender<Fragment>,
}

/// The writing side of [`Outgoing`].
#[derive(Debug)]
pub(super) struct Writer<W> {
    queue: mpsc::Receiver<Item>,
    control: mpsc::Receiver<ControlFrame>,
    frames: FrameWriter<W>,
}

pub(super) fn outgoing<W>(frames: FrameWriter<W>) -> (Outgoing, Writer<W>) {
    let (queue, items) = mpsc::channel(QUEUE_LEN);
    let (control, control_frames) = mpsc::channel(CONTROL_QUEUE_LEN);
    let writer = Writer {
        queue: items,
        control: control_frames,
        frames,
    };
    (Outgoing { queue, control }, writer)
}

impl Outgoing {
    pub(super) async fn answer(
        &self,
        text: String,
        permit: Option<ReplyPermit>,
    ) -> Result<(), PeerGone> {
        self.send(Item::Answer(text, permit)).await
    }

    /// Begins an answer that is sent while it is made. Other messages wait
    /// until it ends.
    pub(super) async fn fragments(&self) -> Result<Fragments, PeerGone> {
        let (queue, fragments) = mpsc::channel(FRAGMENTS_AHEAD);
        self.send(Item::Fragments(fragments)).await?;
        Ok(Fragments { queue })
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

    /// Sends a message that answers nothing.
    pub(super) async fn notify(&self, text: String) -> Result<(), PeerGone> {
        self.send(Item::Answer(text, None)).await
    }

    /// Sends a message that may be left out when the client is slow.
    pub(super) fn hint(&self, text: String) {
        if self.queue.try_send(Item::Hint(text)).is_err() {
            tracing::trace!("the client is slow or gone; a message was left out");
        }
    }

    pub(super) fn ping(&self) {
        self.control(ControlFrame::Ping);
    }

    pub(super) fn pong(&self, payload: Bytes) {
        self.control(ControlFrame::Pong(payload));
    }

    /// Answers the client's close frame. What waits to be sent is dropped.
    pub(super) async fn echo_close(&self, payload: Bytes) {
        let echo = ControlFrame::CloseEcho(payload);
        if self.control.send(echo).await.is_err() {
            tracing::trace!("the connection is closed already");
        }
    }

    fn control(&self, frame: ControlFrame) {
        if self.control.try_send(frame).is_err() {
            tracing::trace!("the client is slow or gone; a control frame was left out");
        }
    }

    /// The last message. What is sent after it is dropped.
    pub(super) async fn close(&self, reason: CloseReason) -> Result<(), PeerGone> {
        self.send(Item::Close(reason)).await
    }

    async fn send(&self, item: Item) -> Result<(), PeerGone> {
        match self.queue.send(item).await {
            Ok(()) => Ok(()),
            Err(mpsc::error::SendError(_)) => Err(PeerGone),
        }
    }
}

impl Fragments {
    /// Sends a part, and waits while those before it are not written.
    pub(super) async fn send(&self, text: String) -> Result<(), PeerGone> {
        let is_last = false;
        let sent = self.queue.send(Fragment { text, is_last }).await;
        sent.map_err(|_closed| PeerGone)
    }

    /// Sends the last part.
    pub(super) async fn finish(self, text: String) -> Result<(), PeerGone> {
        let is_last = true;
        let sent = self.queue.send(Fragment { text, is_last }).await;
        sent.map_err(|_closed| PeerGone)
    }
}

/// Whether there is more to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goes {
    On,
    Closed,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Writes until a close frame is written, all senders are gone or the
    /// connection fails.
    pub(super) async fn run(mut self) -> io::Result<()> {
        loop {
            let goes = tokio::select! {
                biased;
                Some(frame) = self.control.recv() => self.write_control(frame).await?,
                item = self.queue.recv() => match item {
                    Some(item) => self.write(item).await?,
                    None => return self.frames.flush().await,
                },
            };
            if goes == Goes::Closed {
                return Ok(());
            }
            if self.queue.is_empty() && self.control.is_empty() {
                self.frames.flush().await?;
            }
        }
    }

    async fn write(&mut self, item: Item) -> io::Result<Goes> {
        match item {
            Item::Hint(text) => self.frames.text(&text, true).await?,
            Item::Answer(text, permit) => {
                self.frames.text(&text, true).await?;
                if permit.is_some() {
                    drop(text);
                    self.frames.flush().await?;
                }
            }
            Item::Fragments(fragments) => return self.write_fragments(fragments).await,
            Item::Stream {
                text,
                cancelled,
                registration,
            } => {
                let is_wanted = !cancelled.is_cancelled();
                drop(registration);
                if is_wanted {
                    self.frames.text(&text, true).await?;
                }
            }
            Item::Close(reason) => {
                let payload = reason.into_payload();
                self.frames.control(Control::Close, &payload).await?;
                self.frames.flush().await?;
                return Ok(Goes::Closed);
            }
        }
        Ok(Goes::On)
    }

    async fn write_fragments(
        &mut self,
        mut fragments: mpsc::Receiver<Fragment>,
    ) -> io::Result<Goes> {
        loop {
            let fragment = tokio::select! {
                biased;
                Some(frame) = self.control.recv() => {
                    if self.write_control(frame).await? == Goes::Closed {
                        return Ok(Goes::Closed);
                    }
                    self.frames.flush().await?;
                    continue;
                }
                fragment = fragments.recv() => fragment,
            };
            // A message that was begun cannot be taken back.
            let unfinished = || io::Error::other("an answer was not brought to an end");
            let Fragment { text, is_last } = fragment.ok_or_else(unfinished)?;
            self.frames.text(&text, is_last).await?;
            if is_last {
                return Ok(Goes::On);
            }
            if fragments.is_empty() {
                self.frames.flush().await?;
            }
        }
    }

    async fn write_control(&mut self, frame: ControlFrame) -> io::Result<Goes> {
        match frame {
            ControlFrame::Ping => self.frames.control(Control::Ping, &[]).await?,
            ControlFrame::Pong(payload) => self.frames.control(Control::Pong, &payload).await?,
            ControlFrame::CloseEcho(payload) => {
                self.frames.control(Control::Close, &payload).await?;
                self.frames.shutdown().await?;
                return Ok(Goes::Closed);
            }
        }
        Ok(Goes::On)
    }
}
