//! Feeds a client stream to a process's standard input.
//!
//! The end of the stream closes the pipe. So does a stream that fails: there
//! is no other way to tell a process that its input is over. A process that
//! ends first makes the rest of the stream unwanted.
//!
//! A terminal outlives its client, and so does its input: only a client that ends
//! the stream ends it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tombolo_guest_proto::CHUNK_LEN_MAX;
use tombolo_guest_proto::v1::InputChunk;
use tonic::Status;

use super::connection::Connection;
use super::inbound::InboundStream;

/// Chunks on their way to the guest.
const CHUNKS_AHEAD: usize = 2;

/// What becomes of an input whose client goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bereft {
    Broken,
    /// It waits for another client.
    Open,
}

/// How long a guest may take to hear that a client has gone.
const LEAVE_PATIENCE: Duration = Duration::from_secs(10);

/// Feeds the stream until it or the process ends; then `over` fires.
pub(super) fn feed(
    connection: &Arc<Connection>,
    pid: i32,
    stream: InboundStream,
    bereft: Bereft,
    over: CancellationToken,
) {
    let connection = Arc::clone(connection);
    let tasks = connection.end.stream_tasks.clone();
    tasks.spawn(async move {
        let gone = async {
            connection.end.peer_gone.cancelled().await;
            if bereft == Bereft::Open {
                // The copy says that it leaves, and then is over by itself.
                sleep(LEAVE_PATIENCE).await;
            }
        };
        let fed = tokio::select! {
            fed = copy(&connection, pid, stream, bereft) => fed,
            () = connection.end.streams.cancelled() => Ok(()),
            () = gone => Ok(()),
        };
        if let Err(status) = fed {
            tracing::debug!(sandbox = %connection.sandbox, pid, %status, "standard input ended early");
        }
        over.cancel();
    });
}

async fn copy(
    connection: &Connection,
    pid: i32,
    mut stream: InboundStream,
    bereft: Bereft,
) -> Result<(), Status> {
    // Interactive input may never come, and then costs the guest nothing.
    let first = next(connection, &mut stream, bereft).await;
    if bereft == Bereft::Open && matches!(first, Next::Gone) {
        return Ok(());
    }
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let mut agent = connection.agent.client();
    let answer = agent.input(ReceiverStream::new(receiver));
    let feeding = async move {
        let mut following = first;
        sender.send(chunk(pid, Bytes::new())).await?;
        while let Next::Data(mut data) = following {
            while !data.is_empty() {
                let data = data.split_to(data.len().min(CHUNK_LEN_MAX));
                sender.send(chunk(pid, data)).await?;
            }
            following = next(connection, &mut stream, bereft).await;
        }
        if bereft == Bereft::Open && matches!(following, Next::Gone) {
            let leaving = InputChunk {
                leaves_open: true,
                ..chunk(pid, Bytes::new())
            };
            sender.send(leaving).await?;
        }
        Ok::<_, mpsc::error::SendError<InputChunk>>(())
    };
    tokio::pin!(answer, feeding);
    tokio::select! {
        biased;
        // A guest that takes no more says why in its answer.
        _ = &mut feeding => answer.await?,
        answer = &mut answer => answer?,
    };
    Ok(())
}

/// What comes next of a client's stream.
enum Next {
    Data(Bytes),
    End,
    /// The client has gone, or gave the stream up.
    Gone,
}

async fn next(connection: &Connection, stream: &mut InboundStream, bereft: Bereft) -> Next {
    tokio::select! {
        biased;
        next = stream.next() => match next {
            Some(Ok(data)) => Next::Data(data),
            None => Next::End,
            Some(Err(_)) => Next::Gone,
        },
        () = connection.end.peer_gone.cancelled(), if bereft == Bereft::Open => Next::Gone,
    }
}

fn chunk(pid: i32, data: Bytes) -> InputChunk {
    InputChunk {
        pid,
        data,
        leaves_open: false,
    }
}
