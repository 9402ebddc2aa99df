//! Bytes on their way to a guest: the messages of a call, written as one stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;
use tombolo_guest_proto::CHUNK_LEN_MAX;

/// Writes messages that each carry some bytes, and waits while the call takes none.
/// Shutting it down, or dropping it, ends the stream.
#[derive(Debug)]
pub(crate) struct ChunkWriter<T> {
    sender: PollSender<T>,
    message: fn(Bytes) -> T,
}

impl<T: Send + 'static> ChunkWriter<T> {
    pub(super) fn new(sender: mpsc::Sender<T>, message: fn(Bytes) -> T) -> Self {
        Self {
            sender: PollSender::new(sender),
            message,
        }
    }
}

impl<T: Send + 'static> AsyncWrite for ChunkWriter<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let closed = |_closed| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.sender.poll_reserve(context)).map_err(closed)?;
        let taken = bytes.get(..CHUNK_LEN_MAX).unwrap_or(bytes);
        let message = (self.message)(Bytes::copy_from_slice(taken));
        self.sender.send_item(message).map_err(closed)?;
        Poll::Ready(Ok(taken.len()))
    }

    /// What was written is on its way already.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sender.close();
        Poll::Ready(Ok(()))
    }
}
