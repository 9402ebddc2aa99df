//! What a process writes, read only when somebody asks, so that a reader that
//! is slow slows the process. The last bytes handed out are kept for a reader
//! that lost its connection and comes back.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::pipe::fcntl_setpipe_size;
use tokio::sync::Notify;
use tombolo_guest_proto::{CHUNK_LEN_MAX, v1};
use tombolo_sys::guest::readiness::Readiness;

use super::Process;
use crate::fault::{CallError, Cause, at};

/// Bytes kept of one stream: more than can be under way to a reader, so that
/// none are lost with its connection.
const REPLAY_LEN_MAX: usize = 1024 * 1024;
/// Bytes kept of all streams together.
const REPLAYS_LEN_MAX: usize = 16 * 1024 * 1024;
/// Room in a pipe that carries much.
const ROOMY_PIPE_LEN: usize = 256 * 1024;
/// What keeping a chunk costs besides its bytes.
const CHUNK_OVERHEAD: usize = 128;

/// How many bytes all streams keep; also lends the one buffer reads go to.
#[derive(Debug)]
pub(crate) struct ReplayBudget {
    used: AtomicUsize,
    scratch: Mutex<Box<[u8]>>,
}

impl Default for ReplayBudget {
    fn default() -> Self {
        Self {
            used: AtomicUsize::new(0),
            scratch: Mutex::new(vec![0; CHUNK_LEN_MAX].into_boxed_slice()),
        }
    }
}

/// One output stream of a process.
#[derive(Debug)]
pub(crate) struct Output {
    state: Mutex<State>,
    /// Told when the reader changes or the stream is closed.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    source: Source,
    replay: Replay,
    /// Which reader has the stream; each new one takes it from the last.
    reader: u64,
    /// Whether the pipe has been widened.
    roomy: bool,
}

#[derive(Debug)]
enum Source {
    /// Nobody has had to wait for it yet.
    Fresh(OwnedFd),
    Registered(Arc<Readiness>),
    Ended,
}

enum Read {
    Chunk(Bytes),
    Wait(Arc<Readiness>),
    End,
}

impl Output {
    /// `pipe` must not block.
    pub(crate) fn new(pipe: OwnedFd, budget: Arc<ReplayBudget>) -> Self {
        Self {
            state: Mutex::new(State {
                source: Source::Fresh(pipe),
                replay: Replay::new(budget),
                reader: 0,
                roomy: false,
            }),
            changed: Notify::new(),
        }
    }

    /// Ends the stream for any reader and forgets what was kept of it.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.source = Source::Ended;
        state.replay.clear();
        drop(state);
        self.changed.notify_waiters();
    }

    /// The number of a new reader, and where it begins.
    fn attach(&self, start: Start) -> (u64, u64) {
        let mut state = self.state.lock();
        state.reader += 1;
        let reader = state.reader;
        let offset = match start {
            Start::At(offset) => offset,
            Start::Tail(len) => state.replay.tail(len),
        };
        drop(state);
        self.changed.notify_waiters();
        (reader, offset)
    }
}

impl State {
    fn read(&mut self, reader: u64, offset: u64) -> Result<Read, CallError> {
        if self.reader != reader {
            return Err(CallError::errno("output", "", Errno::CANCELED));
        }
        match self.replay.after(offset) {
            Kept::Chunk(chunk) => return Ok(Read::Chunk(chunk)),
            Kept::Nothing => {}
            Kept::Lost => {
                return Err(CallError::new(
                    "output",
                    "",
                    Cause::InvalidArgument("the output at this offset is no longer kept"),
                ));
            }
        }
        let fd = match &self.source {
            Source::Fresh(fd) => fd,
            Source::Registered(fd) => fd.fd(),
            Source::Ended => return Ok(Read::End),
        };
        match self.replay.read_from(fd) {
            Ok(Some(chunk)) => {
                if chunk.len() == CHUNK_LEN_MAX && !self.roomy {
                    self.roomy = true;
                    widen(fd);
                }
                Ok(Read::Chunk(chunk))
            }
            // A terminal without a program on it answers with an error.
            Ok(None) | Err(Errno::IO) => {
                self.source = Source::Ended;
                Ok(Read::End)
            }
            Err(Errno::AGAIN) => self.registered().map(Read::Wait).map_err(at("output", "")),
            Err(errno) => Err(CallError::errno("output", "", errno)),
        }
    }

    fn registered(&mut self) -> std::io::Result<Arc<Readiness>> {
        let fd = match std::mem::replace(&mut self.source, Source::Ended) {
            Source::Fresh(fd) => Arc::new(Readiness::new(fd)?),
            Source::Registered(fd) => fd,
            Source::Ended => return Err(Errno::BADF.into()),
        };
        self.source = Source::Registered(Arc::clone(&fd));
        Ok(fd)
    }
}

/// A reader of one stream, at some offset of it.
#[derive(Debug)]
pub(crate) struct OutputReader {
    process: Arc<Process>,
    stream: Stream,
    reader: u64,
    offset: u64,
}

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    At(u64),
    /// So many bytes before the end of what was handed out, if they are still kept.
    Tail(u64),
}

impl From<&v1::OutputRequest> for Start {
    fn from(request: &v1::OutputRequest) -> Self {
        request.tail.map_or(Self::At(request.offset), Self::Tail)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl OutputReader {
    /// Takes the stream over from whoever reads it. `None` when the process has
    /// no such stream.
    pub(crate) fn attach(process: Arc<Process>, stream: Stream, start: Start) -> Option<Self> {
        let (reader, offset) = stream.of(&process)?.attach(start);
        Some(Self {
            process,
            stream,
            reader,
            offset,
        })
    }

    /// The next bytes; `None` at the end. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Option<v1::OutputChunk>, CallError> {
        let process = Arc::clone(&self.process);
        let Some(output) = self.stream.of(&process) else {
            return Ok(None);
        };
        loop {
            let changed = output.changed.notified();
            let read = output.state.lock().read(self.reader, self.offset)?;
            let source = match read {
                Read::Wait(source) => source,
                read => return Ok(self.advance(read)),
            };
            tokio::select! {
                ready = source.readable() => {
                    let mut ready = ready.map_err(at("output", ""))?;
                    let read = output.state.lock().read(self.reader, self.offset)?;
                    match read {
                        Read::Wait(_) => ready.clear_ready(),
                        read => return Ok(self.advance(read)),
                    }
                }
                () = changed => {}
            }
        }
    }

    fn advance(&mut self, read: Read) -> Option<v1::OutputChunk> {
        let Read::Chunk(data) = read else {
            return None;
        };
        let offset = self.offset;
        self.offset += data.len() as u64;
        Some(v1::OutputChunk { data, offset })
    }
}

impl From<v1::OutputStream> for Stream {
    fn from(stream: v1::OutputStream) -> Self {
        match stream {
            v1::OutputStream::OutputStdout => Self::Stdout,
            v1::OutputStream::OutputStderr => Self::Stderr,
        }
    }
}

impl Stream {
    pub(super) fn of(self, process: &Process) -> Option<&Output> {
        match self {
            Self::Stdout => process.streams.stdout.as_ref(),
            Self::Stderr => process.streams.stderr.as_ref(),
        }
    }
}

/// Gives a pipe that fills up more room: its two ends then take turns less
/// often. A terminal, or a guest that has no more, stays as it is.
pub(super) fn widen(pipe: &OwnedFd) {
    fcntl_setpipe_size(pipe, ROOMY_PIPE_LEN).unwrap_or_default();
}

/// The last bytes of a stream that were handed out, and the count of all.
#[derive(Debug)]
struct Replay {
    chunks: VecDeque<Bytes>,
    len: usize,
    /// What the chunks take of the budget.
    cost: usize,
    /// Offset of the stream just after the last chunk.
    end: u64,
    budget: Arc<ReplayBudget>,
}

enum Kept {
    Chunk(Bytes),
    Nothing,
    Lost,
}

impl Replay {
    fn new(budget: Arc<ReplayBudget>) -> Self {
        Self {
            chunks: VecDeque::new(),
            len: 0,
            cost: 0,
            end: 0,
            budget,
        }
    }

    fn tail(&self, len: u64) -> u64 {
        self.end - len.min(self.len as u64)
    }

    fn after(&self, offset: u64) -> Kept {
        if offset == self.end {
            return Kept::Nothing;
        }
        let start = self.end - self.len as u64;
        if offset > self.end || offset < start {
            return Kept::Lost;
        }
        let mut at = start;
        for chunk in &self.chunks {
            let end = at + chunk.len() as u64;
            if offset < end {
                let skip = usize::try_from(offset - at).unwrap_or_default();
                return Kept::Chunk(chunk.slice(skip..));
            }
            at = end;
        }
        Kept::Nothing
    }

    /// Reads what is there, up to one chunk; `None` at end of file.
    fn read_from(&mut self, fd: &OwnedFd) -> Result<Option<Bytes>, Errno> {
        let chunk = {
            let mut scratch = self.budget.scratch.lock();
            let len = rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut scratch[..]))?;
            if len == 0 {
                return Ok(None);
            }
            Bytes::copy_from_slice(scratch.get(..len).unwrap_or_default())
        };
        self.push(chunk.clone());
        Ok(Some(chunk))
    }

    fn push(&mut self, chunk: Bytes) {
        let cost = chunk.len() + CHUNK_OVERHEAD;
        self.end += chunk.len() as u64;
        self.len += chunk.len();
        self.cost += cost;
        let used = self.budget.used.fetch_add(cost, Ordering::Relaxed);
        self.chunks.push_back(chunk);
        // The fuller the common store, the less each stream may keep.
        let share = REPLAYS_LEN_MAX.saturating_sub(used) / 4;
        while self.cost > share.min(REPLAY_LEN_MAX) && self.drop_oldest() {}
    }

    fn clear(&mut self) {
        while self.drop_oldest() {}
    }

    fn drop_oldest(&mut self) -> bool {
        let Some(oldest) = self.chunks.pop_front() else {
            return false;
        };
        let cost = oldest.len() + CHUNK_OVERHEAD;
        self.len -= oldest.len();
        self.cost -= cost;
        self.budget.used.fetch_sub(cost, Ordering::Relaxed);
        true
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.clear();
    }
}
