//! One WebSocket (RFC 6455) as frames.
//!
//! The library that the command line uses gives a message when all of it is in
//! memory, and files travel as messages of any size. So here a message is read
//! in the pieces in which it comes, and may be sent in fragments. Heads of
//! frames are read and written by the library all the same.

mod decoder;
mod upgrade;
mod writer;

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadHalf, WriteHalf};

use decoder::Decoder;

pub(super) use decoder::Malformed;
pub(crate) use upgrade::{NoUpgrade, Upgrade};
pub(super) use writer::{CloseReason, FrameWriter};

type Io = TokioIo<Upgraded>;

/// How much is asked of the connection at once, and so the longest piece.
const READ_LEN: usize = 64 * 1024;

/// A WebSocket whose handshake is done.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(super) reader: FrameReader<ReadHalf<Io>>,
    pub(super) writer: FrameWriter<WriteHalf<Io>>,
}

impl Socket {
    fn new(connection: Upgraded, message_len_max: usize) -> Self {
        let (input, output) = tokio::io::split(TokioIo::new(connection));
        Self {
            reader: FrameReader {
                io: input,
                decoder: Decoder::new(message_len_max as u64),
            },
            writer: FrameWriter::new(output),
        }
    }
}

/// What comes from the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The next part of a message, perhaps an empty one.
    Piece {
        data: Bytes,
        is_text: bool,
        is_last: bool,
    },
    Ping(Bytes),
    Pong,
    /// The client's close frame: two bytes of code and a reason, or nothing.
    Close(Bytes),
}

/// Nothing more can be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("the connection broke")]
    Broken(#[from] std::io::Error),
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// The reading half.
#[derive(Debug)]
pub(super) struct FrameReader<R> {
    io: R,
    decoder: Decoder,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// The next event; `None` when the connection ends. Cancelling it loses
    /// nothing.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, ReadError> {
        loop {
            if let Some(event) = self.decoder.next()? {
                return Ok(Some(event));
            }
            let buffer = self.decoder.buffer();
            buffer.reserve(READ_LEN);
            if self.io.read_buf(buffer).await? == 0 {
                return Ok(None);
            }
        }
    }
}
