//! The serial port to the host, as a stream of bytes with an end.
//!
//! The port stays open for the guest's life. The host comes and goes: when it
//! is away a read answers end of file and the port reports a hang-up, and only
//! an edge of readiness tells that it came back.
//!
//! Bytes come from the host's side, which is trusted, but a connection may
//! begin in the middle of what an earlier one left behind.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tombolo_guest_proto::channel::{INTRODUCTION_LEN_MAX, MAGIC, OpeningScanner, REFUSED, TAKEN};
use tombolo_sys::guest::readiness::Readiness;

/// The driver takes no more in one write.
const WRITE_LEN: usize = 32 * 1024;
const HANDSHAKE_READ_LEN: usize = 4096;
/// How much of a conversation that overtook another is kept.
const RESCUE_LEN_MAX: usize = 2 * INTRODUCTION_LEN_MAX;

/// The guest's end of the port.
#[derive(Debug)]
pub(crate) struct Port {
    fd: Arc<OwnedFd>,
    rescued: Arc<Mutex<Vec<u8>>>,
}

impl Port {
    /// `fd` must not block.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self {
            fd: Arc::new(fd),
            rescued: Arc::default(),
        }
    }

    /// Waits for a host that opens a conversation, and answers it. `introduce`
    /// is given the introduction, unless that is empty, and says whether it
    /// could do what it asks.
    pub(crate) async fn accept(
        &self,
        introduce: impl FnOnce(&[u8]) -> bool,
    ) -> io::Result<PortStream> {
        self.host_present().await?;
        let mut stream = PortStream {
            fd: Readiness::new(Arc::clone(&self.fd))?,
            pending: Vec::new(),
            outgoing: Vec::with_capacity(WRITE_LEN),
            rescued: Arc::clone(&self.rescued),
        };
        let rescued = std::mem::take(&mut *self.rescued.lock());
        let mut scanner = OpeningScanner::default();
        let mut bytes = rescued;
        let opening = loop {
            if let Some(opening) = scanner.push(&bytes) {
                stream.pending = bytes.split_off(bytes.len().saturating_sub(opening.rest));
                break opening;
            }
            bytes.resize(HANDSHAKE_READ_LEN, 0);
            let len = stream.read(&mut bytes).await?;
            if len == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            bytes.truncate(len);
        };
        let taken = opening.introduction.is_empty() || introduce(&opening.introduction);
        stream.write_all(&MAGIC).await?;
        stream.write_all(&opening.nonce).await?;
        let verdict = if taken { TAKEN } else { REFUSED };
        stream.write_all(&[verdict]).await?;
        stream.flush().await?;
        self.forget_rescued();
        Ok(stream)
    }

    /// To be called when a conversation ended as it should: what came last
    /// belonged to it.
    pub(crate) fn forget_rescued(&self) {
        *self.rescued.lock() = Vec::new();
    }

    /// Waits at edges of the port's readiness. The runtime's own registration
    /// cannot serve here: it takes a hang-up for the last event of all.
    ///
    /// The second watcher must be gone before the conversation begins. Whoever
    /// polls the port takes the next buffer off the driver's queue, and the
    /// driver passes over an interrupt for a queue that is empty. Bytes that
    /// come between the polls of two watchers are then told to the later one
    /// alone, and the conversation would wait beside them for the next ones.
    async fn host_present(&self) -> io::Result<()> {
        let edges = epoll::create(CreateFlags::CLOEXEC)?;
        let interest = EventFlags::IN | EventFlags::HUP | EventFlags::ET;
        epoll::add(&edges, &self.fd, EventData::new_u64(0), interest)?;
        let edges = Readiness::new(edges)?;
        while hung_up(&*self.fd)? {
            let mut ready = edges.readable().await?;
            let mut events = Vec::with_capacity(1);
            let now = Timespec::default();
            epoll::wait(edges.fd(), spare_capacity(&mut events), Some(&now))?;
            if events.is_empty() {
                ready.clear_ready();
            }
        }
        Ok(())
    }
}

fn hung_up(fd: impl AsFd) -> io::Result<bool> {
    let mut polled = [PollFd::new(&fd, PollFlags::IN)];
    poll(&mut polled, Some(&Timespec::default()))?;
    let [polled] = polled;
    Ok(polled.revents().contains(PollFlags::HUP))
}

/// One conversation with the host. Dropping it leaves the port open.
#[derive(Debug)]
pub(crate) struct PortStream {
    fd: Readiness,
    /// Read ahead of the conversation.
    pending: Vec<u8>,
    /// Not written yet: every write is a trip to the host, so frames go out
    /// together.
    outgoing: Vec<u8>,
    /// What looks like the next conversation's beginning. A new host that was
    /// not seen to replace the old one talks into its conversation, which then
    /// fails; here the next one finds what it said.
    rescued: Arc<Mutex<Vec<u8>>>,
}

impl PortStream {
    fn note_beginning(&self, bytes: &[u8]) {
        let mut rescued = self.rescued.lock();
        if bytes.starts_with(&MAGIC) {
            rescued.clear();
            rescued.extend_from_slice(bytes);
        } else if !rescued.is_empty() {
            if rescued.len() + bytes.len() > RESCUE_LEN_MAX {
                // The conversation goes on, so it was part of it.
                *rescued = Vec::new();
            } else {
                rescued.extend_from_slice(bytes);
            }
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let mut ready = ready!(self.fd.poll_writable(cx))?;
            let chunk = self.outgoing.get(..WRITE_LEN).unwrap_or(&self.outgoing);
            match rustix::io::write(self.fd.fd(), chunk) {
                Ok(len) => {
                    self.outgoing.drain(..len);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if ready.ready().is_write_closed() => {
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(errno) => return Poll::Ready(Err(errno.into())),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for PortStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.pending.is_empty() {
            let len = self.pending.len().min(buf.remaining());
            buf.put_slice(self.pending.get(..len).unwrap_or_default());
            self.pending.drain(..len);
            return Poll::Ready(Ok(()));
        }
        loop {
            let mut ready = ready!(self.fd.poll_readable(cx))?;
            // One read gives at most a page; what follows is often there too.
            let before = buf.filled().len();
            let stop = loop {
                let room = buf.initialize_unfilled();
                if room.is_empty() {
                    break Ok(());
                }
                match rustix::io::read(self.fd.fd(), &mut *room) {
                    Ok(0) => break Err(None),
                    Ok(len) => {
                        self.note_beginning(room.get(..len).unwrap_or_default());
                        buf.advance(len);
                    }
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) if ready.ready().is_read_closed() => break Err(None),
                    Err(Errno::AGAIN) => {
                        ready.clear_ready();
                        break Ok(());
                    }
                    Err(errno) => break Err(Some(errno)),
                }
            };
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
            match stop {
                Ok(()) if buf.remaining() > 0 => {}
                Ok(()) | Err(None) => return Poll::Ready(Ok(())),
                Err(Some(errno)) => return Poll::Ready(Err(errno.into())),
            }
        }
    }
}

impl AsyncWrite for PortStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.outgoing.len() >= WRITE_LEN {
            ready!(self.poll_drain(cx))?;
        }
        let len = bytes.len().min(WRITE_LEN - self.outgoing.len());
        let chunk = bytes.get(..len).unwrap_or_default();
        self.outgoing.extend_from_slice(chunk);
        Poll::Ready(Ok(len))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drain(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drain(cx)
    }
}

#[cfg(test)]
mod tests;
