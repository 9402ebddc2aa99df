//! The guest's side of a connection: what was read to learn the protocol is read again,
//! and bytes are counted.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::sniff::{Protocol, SNIFF_LEN_MAX, sniff};

/// How much of what was read can be kept to be read again: the longest `ClientHello`
/// (TLS-05), with its records.
pub(crate) const KEPT_LEN_MAX: usize = 64 << 10;

/// Bytes that went through a stream, for its record.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) read: AtomicU64,
    pub(crate) written: AtomicU64,
}

/// A connection whose beginning can be read twice.
#[derive(Debug)]
pub(crate) struct Rewound<S> {
    inner: S,
    /// Read from the connection and not yet from here.
    ahead: Vec<u8>,
    /// All that was read from here, while that is wanted.
    kept: Option<Vec<u8>>,
    traffic: Arc<Traffic>,
}

/// What a connection's first bytes were.
#[derive(Debug)]
pub(crate) enum Sniffed {
    Protocol(Protocol),
    /// It ended before anything could be told.
    Closed,
}

impl<S: AsyncRead + Unpin> Rewound<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self {
            inner,
            ahead: Vec::new(),
            kept: None,
            traffic: Arc::default(),
        }
    }

    pub(crate) fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.traffic)
    }

    /// Reads until the protocol is known; all of it is still to be read afterwards.
    pub(crate) async fn sniff(&mut self) -> io::Result<Sniffed> {
        loop {
            if let Some(protocol) = sniff(&self.ahead) {
                return Ok(Sniffed::Protocol(protocol));
            }
            let mut chunk = [0; SNIFF_LEN_MAX];
            let wanted = SNIFF_LEN_MAX.saturating_sub(self.ahead.len()).max(1);
            let buffer = chunk.get_mut(..wanted).unwrap_or_default();
            let len = self.inner.read(buffer).await?;
            let read = buffer.get(..len).unwrap_or_default();
            if read.is_empty() {
                return Ok(Sniffed::Closed);
            }
            self.ahead.extend_from_slice(read);
        }
    }

    /// Reads until so many bytes are there, or none come any more; all of them are still to
    /// be read afterwards.
    pub(crate) async fn fill(&mut self, len: usize) -> io::Result<&[u8]> {
        let mut chunk = [0; SNIFF_LEN_MAX];
        while self.ahead.len() < len {
            let wanted = len.saturating_sub(self.ahead.len()).min(SNIFF_LEN_MAX);
            let buffer = chunk.get_mut(..wanted).unwrap_or_default();
            let read = self.inner.read(buffer).await?;
            if read == 0 {
                break;
            }
            self.ahead
                .extend_from_slice(buffer.get(..read).unwrap_or_default());
        }
        Ok(&self.ahead)
    }

    /// From now on remembers what is read.
    pub(crate) fn keep(&mut self) {
        self.kept = Some(Vec::new());
    }

    /// Remembers no more; what was read so far is dropped.
    pub(crate) fn forget(&mut self) {
        self.kept = None;
    }

    /// Makes what was read since [`Self::keep`] to be read again.
    pub(crate) fn rewind(&mut self) {
        if let Some(mut kept) = self.kept.take() {
            let len = kept.len() as u64;
            kept.append(&mut self.ahead);
            self.ahead = kept;
            self.traffic.read.fetch_sub(len, Ordering::Relaxed);
        }
    }
}

impl Rewound<TcpStream> {
    /// Ends the connection with a reset, so that the guest sees at once that it is refused.
    pub(crate) fn reset(self) {
        // Without it the guest sees an end instead of a refusal, and nothing worse.
        if let Err(error) = self.inner.set_zero_linger() {
            tracing::debug!(%error, "cannot make a connection end with a reset");
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        if this.ahead.is_empty() {
            ready!(Pin::new(&mut this.inner).poll_read(context, buffer))?;
        } else {
            let len = this.ahead.len().min(buffer.remaining());
            buffer.put_slice(this.ahead.get(..len).unwrap_or_default());
            this.ahead.drain(..len);
            if this.ahead.is_empty() {
                this.ahead = Vec::new();
            }
        }
        let read = buffer.filled().get(before..).unwrap_or_default();
        this.traffic
            .read
            .fetch_add(read.len() as u64, Ordering::Relaxed);
        if let Some(kept) = &mut this.kept {
            if kept.len() + read.len() > KEPT_LEN_MAX {
                return Poll::Ready(Err(io::Error::other("the beginning is too long")));
            }
            kept.extend_from_slice(read);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(context, bytes))?;
        self.traffic
            .written
            .fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write_vectored(context, slices))?;
        self.traffic
            .written
            .fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
