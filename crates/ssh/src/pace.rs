//! Reads a connection no faster than programs take what it brings.
//!
//! `russh` widens a channel's window as soon as it has the bytes, and when a channel's
//! queue is full it stops the whole session, writing included: a program whose output
//! nobody takes because its input is full would stand still for ever. So the queues are
//! given room, what waits in them is counted for each connection, and at the bound the
//! socket is read no more while everything else goes on. The client's word that it has
//! read our output comes over the same socket, so the bound is wider while some output
//! waits for that.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use russh::{ChannelMsg, Pty, Sig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep};

/// What a message costs besides its bytes.
const MESSAGE_LEN: usize = 128;

/// Counts what one connection's channels hold. Clones are one.
#[derive(Clone, Debug)]
pub(crate) struct Gauge(Arc<Mutex<Level>>);

#[derive(Debug)]
struct Level {
    held: i64,
    starved: usize,
    max: i64,
    starved_max: i64,
    is_cut: bool,
    reader: Option<Waker>,
    /// When the client was last heard, or could first be heard again.
    heard: Instant,
}

impl Level {
    fn is_full(&self) -> bool {
        let max = if self.starved > 0 {
            self.starved_max
        } else {
            self.max
        };
        self.held >= max
    }

    fn wake(&mut self) {
        if !self.is_full()
            && let Some(reader) = self.reader.take()
        {
            self.heard = Instant::now();
            reader.wake();
        }
    }
}

/// The bytes of a message in a channel's queue that [`Gauge::add`] was told of. Nothing of
/// one that comes once, nor of data: those stay counted while they are [`Held`].
fn queued_len(message: &ChannelMsg) -> Option<usize> {
    match message {
        ChannelMsg::ExtendedData { data, .. } => Some(data.len()),
        ChannelMsg::RequestPty {
            term,
            terminal_modes,
            ..
        } => Some(pty_len(term, terminal_modes)),
        ChannelMsg::RequestX11 {
            x11_authentication_protocol: protocol,
            x11_authentication_cookie: cookie,
            ..
        } => Some(protocol.len().saturating_add(cookie.len())),
        ChannelMsg::SetEnv {
            variable_name: name,
            variable_value: value,
            ..
        } => Some(name.len().saturating_add(value.len())),
        ChannelMsg::Exec { command, .. } => Some(command.len()),
        ChannelMsg::RequestSubsystem { name, .. } => Some(name.len()),
        ChannelMsg::Signal { signal } => Some(signal_len(signal)),
        ChannelMsg::Open { .. }
        | ChannelMsg::Eof
        | ChannelMsg::RequestShell { .. }
        | ChannelMsg::AgentForward { .. }
        | ChannelMsg::WindowChange { .. }
        | ChannelMsg::WindowAdjusted { .. } => Some(0),
        _ => None,
    }
}

pub(crate) fn pty_len(term: &str, modes: &[(Pty, u32)]) -> usize {
    term.len().saturating_add(size_of_val(modes))
}

pub(crate) fn signal_len(signal: &Sig) -> usize {
    match signal {
        Sig::Custom(name) => name.len(),
        _ => 0,
    }
}

/// What a message of that many bytes costs.
pub(crate) fn cost(len: usize) -> i64 {
    i64::try_from(len.saturating_add(MESSAGE_LEN)).unwrap_or(i64::MAX)
}

impl Gauge {
    pub(crate) fn new(max: usize, starved_max: usize) -> Self {
        Self(Arc::new(Mutex::new(Level {
            held: 0,
            starved: 0,
            max: i64::try_from(max).unwrap_or(i64::MAX),
            starved_max: i64::try_from(starved_max).unwrap_or(i64::MAX),
            is_cut: false,
            reader: None,
            heard: Instant::now(),
        })))
    }

    /// A message of that many bytes waits. It may be told after it was taken.
    pub(crate) fn add(&self, len: usize) {
        self.0.lock().held += cost(len);
    }

    /// A message of that many bytes was taken.
    pub(crate) fn taken(&self, len: usize) {
        let mut level = self.0.lock();
        level.held -= cost(len);
        level.wake();
    }

    /// A message was taken from its channel's queue; data is to be held besides.
    pub(crate) fn take(&self, message: &ChannelMsg) {
        if let Some(len) = queued_len(message) {
            self.taken(len);
        }
    }

    /// Answers when the client has been silent for that long. While it is not read, it
    /// cannot be heard, and no time counts.
    pub(crate) async fn silence(&self, longest: Duration) {
        loop {
            let left = {
                let level = self.0.lock();
                if level.is_full() {
                    longest
                } else {
                    longest.saturating_sub(level.heard.elapsed())
                }
            };
            if left.is_zero() {
                return;
            }
            sleep(left).await;
        }
    }

    /// Bytes that are counted until they are dropped.
    pub(crate) fn hold(&self, data: Bytes) -> Held {
        Held {
            data,
            gauge: self.clone(),
        }
    }

    /// The connection is read no more, and so ends.
    pub(crate) fn cut(&self) {
        let mut level = self.0.lock();
        level.is_cut = true;
        if let Some(reader) = level.reader.take() {
            reader.wake();
        }
    }

    fn starve(&self) {
        let mut level = self.0.lock();
        level.starved += 1;
        level.wake();
    }

    fn feed(&self) {
        self.0.lock().starved -= 1;
    }
}

/// Bytes from a client that a program has not taken yet.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) data: Bytes,
    gauge: Gauge,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gauge.taken(self.data.len());
    }
}

/// A socket that is read only while its gauge allows.
#[derive(Debug)]
pub(crate) struct Paced<S> {
    stream: S,
    gauge: Gauge,
}

impl<S> Paced<S> {
    pub(crate) fn new(stream: S, gauge: Gauge) -> Self {
        Self { stream, gauge }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        {
            let mut level = self.gauge.0.lock();
            if level.is_cut {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            level.reader = Some(context.waker().clone());
            if level.is_full() {
                return Poll::Pending;
            }
        }
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if polled.is_ready() {
            self.gauge.0.lock().heard = Instant::now();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Output of a channel; says so while it waits for the client.
pub(crate) struct Output<W> {
    writer: Pin<Box<W>>,
    gauge: Gauge,
    is_starved: bool,
}

impl<W: AsyncWrite> Output<W> {
    pub(crate) fn new(writer: W, gauge: Gauge) -> Self {
        Self {
            writer: Box::pin(writer),
            gauge,
            is_starved: false,
        }
    }

    fn note<T>(&mut self, polled: Poll<T>) -> Poll<T> {
        match (polled.is_pending(), self.is_starved) {
            (true, false) => self.gauge.starve(),
            (false, true) => self.gauge.feed(),
            _ => {}
        }
        self.is_starved = polled.is_pending();
        polled
    }
}

impl<W> Drop for Output<W> {
    fn drop(&mut self) {
        if self.is_starved {
            self.gauge.feed();
        }
    }
}

impl<W: AsyncWrite> AsyncWrite for Output<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = self.writer.as_mut().poll_write(context, bytes);
        self.note(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.writer.as_mut().poll_flush(context);
        self.note(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.writer.as_mut().poll_shutdown(context);
        self.note(polled)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_full_gauge_stops_reading_and_nothing_else() {
        let gauge = Gauge::new(1000, 2000);
        let (mut far, near) = tokio::io::duplex(64);
        let mut near = Paced::new(near, gauge.clone());
        far.write_all(b"a").await.unwrap();
        gauge.add(1000);
        let mut byte = [0; 1];
        {
            let mut reading = std::pin::pin!(near.read(&mut byte));
            assert!(futures_poll(reading.as_mut()).is_pending());
            gauge.taken(1000);
            assert_eq!(reading.await.unwrap(), 1);
        }
        gauge.add(1000);
        near.write_all(b"b").await.unwrap();
        far.read_exact(&mut byte).await.unwrap();
    }

    #[tokio::test]
    async fn output_that_waits_for_the_client_widens_the_bound() {
        let gauge = Gauge::new(1000, 2000);
        let (far, near) = tokio::io::duplex(1);
        let mut output = Output::new(near, gauge.clone());
        gauge.add(1000);
        assert!(gauge.0.lock().is_full());
        {
            let mut writing = std::pin::pin!(output.write_all(b"abc"));
            assert!(futures_poll(writing.as_mut()).is_pending());
            assert!(!gauge.0.lock().is_full());
        }
        drop(output);
        assert!(gauge.0.lock().is_full());
        drop(far);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_counts_only_while_the_client_can_be_heard() {
        let minute = Duration::from_mins(1);
        let gauge = Gauge::new(1000, 2000);
        gauge.silence(minute).await;
        let gauge = Gauge::new(1000, 2000);
        let (_far, near) = tokio::io::duplex(64);
        let mut near = Paced::new(near, gauge.clone());
        let mut byte = [0; 1];
        let mut reading = std::pin::pin!(near.read(&mut byte));
        gauge.add(1000);
        assert!(futures_poll(reading.as_mut()).is_pending());
        let silence = tokio::time::timeout(5 * minute, gauge.silence(minute));
        assert!(silence.await.is_err(), "a full gauge is no silence");
        let since = Instant::now();
        gauge.taken(1000);
        gauge.silence(minute).await;
        assert_eq!(since.elapsed(), minute);
    }

    fn futures_poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }
}
