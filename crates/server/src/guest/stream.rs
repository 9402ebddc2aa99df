//! A connection with a program of a guest, as one stream of bytes both ways. HTTP and port forwards are carried by these.
//!
//! What is not read waits in the call's window and then in the guest, so a
//! connection holds no more than a few chunks here.

use std::io;
use std::num::NonZero;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;
use tombolo_guest_proto::v1::dial_chunk::Part;
use tombolo_guest_proto::v1::dial_target::To;
use tombolo_guest_proto::v1::{DialChunk, DialTarget, OsError};
use tonic::{Code, Status};

use super::GuestAgent;
use super::chunk_writer::ChunkWriter;

/// Chunks that wait for the connection to the node.
const CHUNKS_MAX: usize = 4;
/// `errno`s of Linux.
const ESRCH: i32 = 3;
const EMFILE: i32 = 24;
const ECONNREFUSED: i32 = 111;

/// Which program of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Port(NonZero<u16>),
    /// What this process or one below it listens on at that moment.
    Process(i32),
}

/// No connection to a program of a guest was made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectGuestError {
    #[error("nobody listens there")]
    Refused(#[source] Status),
    #[error("there is no such process")]
    NoProcess(#[source] Status),
    #[error("the sandbox has as many connections as it takes")]
    TooMany(#[source] Status),
    #[error("the sandbox cannot be reached")]
    Away(#[source] Status),
    #[error("the sandbox could not connect")]
    Failed(#[source] Status),
}

impl From<Status> for ConnectGuestError {
    fn from(status: Status) -> Self {
        let errno = OsError::from_status(&status).map(|error| error.errno);
        match (errno, status.code()) {
            (Some(ECONNREFUSED), _) => Self::Refused(status),
            (Some(ESRCH), _) => Self::NoProcess(status),
            (Some(EMFILE), _) => Self::TooMany(status),
            (None, Code::Unavailable | Code::NotFound) => Self::Away(status),
            _ => Self::Failed(status),
        }
    }
}

impl GuestAgent {
    /// Connects to a program. Waits as long as the guest takes.
    pub(crate) async fn connect(&self, target: Target) -> Result<GuestStream, ConnectGuestError> {
        let to = match target {
            Target::Port(port) => To::Port(port.get().into()),
            Target::Process(pid) => To::Pid(pid),
        };
        self.dial(to).await
    }

    /// Connects to a program that listens on a Unix socket, as the sandbox's user.
    pub(crate) async fn connect_local(&self, path: &str) -> Result<GuestStream, ConnectGuestError> {
        self.dial(To::Path(path.to_owned())).await
    }

    /// Takes up a connection that a program made, by the number that it was told by.
    pub(super) async fn take(&self, number: u64) -> Result<GuestStream, ConnectGuestError> {
        self.dial(To::Accepted(number)).await
    }

    async fn dial(&self, to: To) -> Result<GuestStream, ConnectGuestError> {
        let (sender, chunks) = mpsc::channel(CHUNKS_MAX);
        let first = Part::Target(DialTarget { to: Some(to) });
        let first = DialChunk { part: Some(first) };
        sender
            .try_send(first)
            .map_err(|_full| Status::internal("a new channel takes no message"))?;
        let chunks = ReceiverStream::new(chunks);
        let answer = self.client().dial(chunks).await?.into_inner();
        let data = answer.map(|chunk| chunk.map(|chunk| chunk.data).map_err(io::Error::other));
        Ok(GuestStream {
            reader: StreamReader::new(data.boxed()),
            writer: ChunkWriter::new(sender, |data| DialChunk {
                part: Some(Part::Data(data)),
            }),
        })
    }
}

/// Both directions of a connection. Each ends by itself; dropping it ends both.
pub(crate) struct GuestStream {
    reader: StreamReader<BoxStream<'static, io::Result<Bytes>>, Bytes>,
    writer: ChunkWriter<DialChunk>,
}

impl std::fmt::Debug for GuestStream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("GuestStream")
    }
}

impl AsyncRead for GuestStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(context, buffer)
    }
}

impl AsyncWrite for GuestStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(context)
    }
}
