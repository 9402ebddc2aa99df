//! A process of a guest with its streams, for who reads and writes bytes.
//!
//! What is not read waits in the call's window and then in the guest, and what is not
//! taken makes the writer wait.

use std::io;

use futures_util::StreamExt as _;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;
use tombolo_guest_proto::v1;
use tonic::Status;

use super::GuestAgent;
use super::chunk_writer::ChunkWriter;

/// Chunks that wait for the connection to the node.
const CHUNKS_MAX: usize = 4;

/// The standard input of a process.
pub(crate) type Input = ChunkWriter<v1::InputChunk>;

/// A process that was started, and its streams.
pub(crate) struct GuestProcess {
    pub(crate) handle: ProcessHandle,
    pub(crate) stdin: Input,
    pub(crate) stdout: Box<dyn AsyncRead + Send + Unpin>,
    pub(crate) stderr: Box<dyn AsyncRead + Send + Unpin>,
}

/// A process whose streams somebody else has. Once it is dropped nobody reads them.
#[derive(Debug)]
pub(crate) struct ProcessHandle {
    agent: GuestAgent,
    pid: i32,
}

impl GuestAgent {
    /// Starts a process whose three streams are pipes, or a terminal.
    pub(crate) async fn start(
        &self,
        mut request: v1::SpawnRequest,
    ) -> Result<GuestProcess, Status> {
        let piped = v1::Stdio::Piped.into();
        (request.stdin, request.stdout, request.stderr) = (piped, piped, piped);
        let has_terminal = request.terminal.is_some();
        let pid = self.client().spawn(request).await?.into_inner().pid;
        let handle = ProcessHandle {
            agent: self.clone(),
            pid,
        };
        let stdout = handle.output(v1::OutputStream::OutputStdout).await?;
        let stderr = if has_terminal {
            Box::new(tokio::io::empty())
        } else {
            handle.output(v1::OutputStream::OutputStderr).await?
        };
        Ok(GuestProcess {
            stdin: handle.input(),
            handle,
            stdout,
            stderr,
        })
    }
}

impl ProcessHandle {
    async fn output(
        &self,
        stream: v1::OutputStream,
    ) -> Result<Box<dyn AsyncRead + Send + Unpin>, Status> {
        let request = v1::OutputRequest {
            pid: self.pid,
            stream: stream.into(),
            ..v1::OutputRequest::default()
        };
        let chunks = self.agent.client().output(request).await?.into_inner();
        let data = chunks.map(|chunk| chunk.map(|chunk| chunk.data).map_err(io::Error::other));
        Ok(Box::new(StreamReader::new(data.boxed())))
    }

    fn input(&self) -> Input {
        let (sender, chunks) = mpsc::channel(CHUNKS_MAX);
        let first = v1::InputChunk {
            pid: self.pid,
            ..v1::InputChunk::default()
        };
        // A new channel takes a message.
        let is_named = sender.try_send(first).is_ok();
        debug_assert!(is_named, "the channel has room");
        let mut client = self.agent.client();
        tokio::spawn(async move {
            if let Err(status) = client.input(ReceiverStream::new(chunks)).await {
                tracing::debug!(%status, "a process takes no more input");
            }
        });
        ChunkWriter::new(sender, |data| v1::InputChunk {
            data,
            ..v1::InputChunk::default()
        })
    }

    pub(crate) async fn resize(&self, rows: u32, columns: u32) -> Result<(), Status> {
        let request = v1::ResizePtyRequest {
            pid: self.pid,
            size: Some(v1::WindowSize { rows, columns }),
        };
        self.agent.client().resize_pty(request).await?;
        Ok(())
    }

    pub(crate) async fn signal(&self, signal: i32) -> Result<(), Status> {
        let pid = self.pid;
        self.agent
            .client()
            .kill(v1::KillRequest { pid, signal })
            .await?;
        Ok(())
    }

    pub(crate) async fn wait(&self) -> Result<v1::WaitReply, Status> {
        let request = v1::WaitRequest { pid: self.pid };
        Ok(self.agent.client().wait(request).await?.into_inner())
    }
}

/// Tells the process, should it write on, that nobody reads.
impl Drop for ProcessHandle {
    fn drop(&mut self) {
        let (mut client, pid) = (self.agent.client(), self.pid);
        tokio::spawn(async move {
            for stream in [
                v1::OutputStream::OutputStdout,
                v1::OutputStream::OutputStderr,
            ] {
                let request = v1::CloseOutputRequest {
                    pid,
                    stream: stream.into(),
                };
                if let Err(status) = client.close_output(request).await {
                    tracing::debug!(%status, "an output is closed already");
                }
            }
        });
    }
}
