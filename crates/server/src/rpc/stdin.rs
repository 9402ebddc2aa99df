//! Feeds a client stream to a process's standard input.
//!
//! The end of the stream closes the pipe. So does a stream that fails: there
//! is no other way to tell a process that its input is over. A process that
//! ends first makes the rest of the stream unwanted.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tombolo_guest_proto::CHUNK_LEN_MAX;
use tombolo_guest_proto::v1::InputChunk;
use tonic::Status;

use super::connection::Connection;
use super::inbound::InboundStream;

/// Chunks on their way to the guest.
const CHUNKS_AHEAD: usize = 2;

/// Feeds the stream until it or the process ends; then `over` fires.
pub(super) fn feed(
    connection: &Arc<Connection>,
    pid: i32,
    stream: InboundStream,
    over: CancellationToken,
) {
    let connection = Arc::clone(connection);
    let tasks = connection.end.stream_tasks.clone();
    tasks.spawn(async move {
        let fed = tokio::select! {
            fed = copy(&connection, pid, stream) => fed,
            () = connection.end.streams.cancelled() => Ok(()),
            () = connection.end.peer_gone.cancelled() => Ok(()),
        };
        if let Err(status) = fed {
            tracing::debug!(sandbox = %connection.sandbox, pid, %status, "standard input ended early");
        }
        over.cancel();
    });
}

async fn copy(connection: &Connection, pid: i32, mut stream: InboundStream) -> Result<(), Status> {
    // Interactive input may never come, and then costs the guest nothing.
    let first = stream.next().await;
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let mut agent = connection.agent.client();
    let answer = agent.input(ReceiverStream::new(receiver));
    let feeding = async move {
        let mut next = first;
        let opening = InputChunk {
            pid,
            data: Bytes::new(),
        };
        sender.send(opening).await?;
        while let Some(Ok(mut data)) = next {
            while !data.is_empty() {
                let data = data.split_to(data.len().min(CHUNK_LEN_MAX));
                sender.send(InputChunk { pid, data }).await?;
            }
            next = stream.next().await;
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
