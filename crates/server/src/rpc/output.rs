//! Carries a process's output to the client.
//!
//! Nothing is read from the guest before the client listens, and one chunk at
//! a time after that, so a slow client slows down the process. When the client
//! cancels the stream, the process's pipe is closed, as if it had been the
//! client's own. When the client is gone while the sandbox lives on, the rest is
//! read and dropped: a process must not block because its client left.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tombolo_api::rpc::ErrorObject;
use tombolo_guest_proto::v1::{
    CloseOutputRequest, OsError, OutputChunk, OutputRequest, OutputStream,
};
use tonic::{Status, Streaming};

use super::connection::Connection;
use super::fault;
use super::gates::Gate;
use super::guest_call::{Repeat, Retry, guest_call};
use super::outbound::{OutboundStream, StreamStopped};
use crate::guest::{Dialect, GuestAgent};

/// An `errno` of Linux.
const ECANCELED: i32 = 125;

/// What the outputs of one process wait for.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) gate: Gate,
    /// Fires when the answer to `spawn` is on its way.
    pub(super) answered: CancellationToken,
    /// Fires when all standard input is delivered, if there is any.
    pub(super) stdin_over: Option<CancellationToken>,
}

/// Lets output flow after a while when the client does not wait for the
/// process.
pub(super) fn hold(connection: &Arc<Connection>, held: Arc<Held>) {
    let connection = Arc::clone(connection);
    let tasks = connection.end.stream_tasks.clone();
    tasks.spawn(async move {
        let fallback = async {
            held.answered.cancelled().await;
            // The Python SDK sends all of standard input before it listens.
            if let (Dialect::Python, Some(over)) = (connection.dialect, &held.stdin_over) {
                over.cancelled().await;
            }
            sleep(match connection.dialect {
                Dialect::Python => connection.limits.output_hold_python,
                Dialect::JavaScript | Dialect::Native => connection.limits.output_hold,
            })
            .await;
            held.gate.open();
        };
        tokio::select! {
            () = fallback => {}
            () = held.gate.opened() => {}
            () = connection.end.streams.cancelled() => {}
            () = connection.end.peer_gone.cancelled() => {}
        }
    });
}

/// Where an output is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    Offset(u64),
    /// So many bytes before the end of what was read before, as far as they are kept.
    Tail(u64),
}

/// Sends one output of a process to the client. Answers the stream's id.
pub(super) fn send(
    connection: &Arc<Connection>,
    pid: i32,
    which: OutputStream,
    begin: Begin,
    held: &Arc<Held>,
) -> u64 {
    let stream = connection.outbound.open();
    let id = stream.id();
    let reader = OutputReader {
        agent: connection.agent.clone(),
        pid,
        which,
        begin,
        chunks: None,
    };
    let held = Arc::clone(held);
    let task_connection = Arc::clone(connection);
    connection.end.stream_tasks.spawn(async move {
        copy_then_drain(&task_connection, stream, reader, &held).await;
    });
    id
}

async fn copy_then_drain(
    connection: &Connection,
    mut stream: OutboundStream,
    mut reader: OutputReader,
    held: &Held,
) {
    let cancelled = stream.cancelled();
    let outcome = tokio::select! {
        outcome = copy(&mut stream, &mut reader, held) => outcome,
        () = cancelled.cancelled() => Copied::Stopped(StreamStopped::Cancelled),
        () = connection.end.peer_gone.cancelled() => Copied::Stopped(StreamStopped::PeerGone),
        () = connection.end.streams.cancelled() => Copied::All,
    };
    let finishing = async {
        match outcome {
            Copied::All => stream.end().await,
            Copied::Failed(status) => stream.fail(failure(&status)).await,
            Copied::Stopped(stopped) => Err(stopped),
        }
    };
    let finished = tokio::select! {
        finished = finishing => finished,
        () = connection.end.peer_gone.cancelled() => Err(StreamStopped::PeerGone),
    };
    if let Err(stopped) = finished {
        drain(connection, reader, stopped);
    }
}

/// What a client is told of an output that fails.
fn failure(status: &Status) -> ErrorObject {
    match OsError::from_status(status) {
        // What the agent tells a reader that is not the last.
        Some(OsError {
            errno: ECANCELED, ..
        }) => ErrorObject::new("Interrupted", "Another client has taken this over")
            .with_code("ECANCELED"),
        _ => fault::from_status(status),
    }
}

enum Copied {
    All,
    Failed(Status),
    Stopped(StreamStopped),
}

async fn copy(stream: &mut OutboundStream, reader: &mut OutputReader, held: &Held) -> Copied {
    held.gate.opened().await;
    loop {
        match reader.next().await {
            Ok(Some(data)) => {
                if let Err(stopped) = stream.data(&data).await {
                    return Copied::Stopped(stopped);
                }
            }
            Ok(None) => return Copied::All,
            Err(status) => return Copied::Failed(status),
        }
    }
}

/// Reads and drops the rest, for as long as the sandbox lives. After the pipe is
/// closed there is none, except of a terminal, which stays open.
fn drain(connection: &Connection, mut reader: OutputReader, stopped: StreamStopped) {
    let ending = connection.end.sandbox.clone();
    tokio::spawn(async move {
        let drained = async {
            if stopped == StreamStopped::Cancelled {
                reader.close().await;
            }
            while let Ok(Some(_)) = reader.next().await {}
        };
        tokio::select! {
            () = drained => {}
            () = ending.cancelled() => {}
        }
    });
}

/// One output of a process, read on after the way to the guest was lost.
#[derive(Debug)]
struct OutputReader {
    agent: GuestAgent,
    pid: i32,
    which: OutputStream,
    /// Where the next bytes are.
    begin: Begin,
    chunks: Option<Streaming<OutputChunk>>,
}

impl OutputReader {
    /// The next bytes; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        let mut retry = Retry::new(Repeat::WhileSandboxLives);
        loop {
            match self.attempt().await {
                Ok(None) => return Ok(None),
                Ok(Some(chunk)) => {
                    let begin = match self.begin {
                        Begin::Offset(offset) => offset,
                        Begin::Tail(_) => chunk.offset,
                    };
                    self.begin = Begin::Offset(begin.saturating_add(chunk.data.len() as u64));
                    return Ok(Some(chunk.data));
                }
                Err(status) => {
                    self.chunks = None;
                    retry.pause(status).await?;
                }
            }
        }
    }

    /// Closes the process's end. A process that is forgotten has none.
    async fn close(&self) {
        let request = CloseOutputRequest {
            pid: self.pid,
            stream: self.which.into(),
        };
        let closed = guest_call(
            &self.agent,
            Repeat::WhileSandboxLives,
            request,
            |mut agent, request| async move { agent.close_output(request).await },
        );
        if let Err(status) = closed.await {
            tracing::debug!(pid = self.pid, %status, "an output was not closed");
        }
    }

    async fn attempt(&mut self) -> Result<Option<OutputChunk>, Status> {
        if self.chunks.is_none() {
            let (offset, tail) = match self.begin {
                Begin::Offset(offset) => (offset, None),
                Begin::Tail(len) => (0, Some(len)),
            };
            let request = OutputRequest {
                pid: self.pid,
                stream: self.which.into(),
                offset,
                tail,
            };
            self.chunks = Some(self.agent.client().output(request).await?.into_inner());
        }
        let Some(chunks) = &mut self.chunks else {
            return Ok(None);
        };
        chunks.message().await
    }
}
