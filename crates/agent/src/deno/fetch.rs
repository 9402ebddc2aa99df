//! Fetches, done by one process of Deno's for all clients of the sandbox. It is
//! started with the first one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::Stream;
use rustix::io::Errno;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tombolo_guest_proto::v1::{DenoFrame, DenoFrameKind, SpawnRequest};
use tonic::{Status, Streaming};

use super::socket::Socket;
use super::{frames, prepare};
use crate::agent::Agent;
use crate::fault::{CallError, Cause};
use crate::process::Process;

const OPERATION: &str = "fetch";

/// The process that fetches, once there is one.
#[derive(Debug, Default)]
pub(super) struct Fetcher {
    process: Mutex<Option<Arc<Running>>>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Running {
    process: Arc<Process>,
    socket: Socket,
    /// Set when it is alive but could not be reached, and was killed for that.
    is_lost: AtomicBool,
}

impl Running {
    async fn connect(&self) -> Result<UnixStream, CallError> {
        let connected = self.socket.connect_soon(&self.process).await;
        connected.map_err(|error| {
            if !self.is_alive() {
                return broken();
            }
            // Somebody in the sandbox stopped it or took its socket away. The
            // next fetch has another.
            self.is_lost.store(true, Ordering::Relaxed);
            // It may end by itself at this moment, which is as good.
            self.process.kill(9).unwrap_or_default();
            error
        })
    }

    fn is_alive(&self) -> bool {
        self.process.exit().is_none() && !self.is_lost.load(Ordering::Relaxed)
    }
}

/// The process that fetches, or a new one if it has ended.
async fn running(agent: &Agent) -> Result<Arc<Running>, CallError> {
    let mut slot = agent.deno.fetcher.process.lock().await;
    if let Some(running) = slot.as_ref()
        && running.is_alive()
    {
        return Ok(Arc::clone(running));
    }
    if let Some(ended) = slot.take() {
        fs_err::remove_file(ended.socket.path()).unwrap_or_default();
    }
    let socket = agent.deno.new_socket()?;
    let mut request = SpawnRequest {
        args: vec![
            "run".to_owned(),
            "-A".to_owned(),
            // What lies in the sandbox's directories is not about this program.
            "--no-config".to_owned(),
            agent.deno.script("fetch.mjs"),
            socket.path().display().to_string(),
        ],
        cwd: "/".to_owned(),
        ..SpawnRequest::default()
    };
    prepare(&mut request);
    let process = agent.spawn(request).await?;
    let running = slot.insert(Arc::new(Running {
        process,
        socket,
        is_lost: AtomicBool::new(false),
    }));
    Ok(Arc::clone(running))
}

/// Performs a fetch. To drop the answer aborts it.
pub(crate) async fn fetch(
    agent: Arc<Agent>,
    mut request: Streaming<DenoFrame>,
) -> Result<impl Stream<Item = Result<DenoFrame, Status>>, Status> {
    let Some(head) = request.message().await? else {
        let why = Cause::InvalidArgument("a fetch needs a head");
        return Err(CallError::new(OPERATION, "", why).into());
    };
    let running = running(&agent).await?;
    let number = agent.deno.fetcher.next.fetch_add(1, Ordering::Relaxed);
    let number = number.to_string();
    let (reader, mut writer) = running.connect().await?.into_split();
    let sent = async {
        frames::send(&mut writer, frames::OPEN, number.as_bytes()).await?;
        frames::send(&mut writer, kind_of(&head), &head.payload).await
    };
    sent.await.map_err(|_broken| broken())?;
    let answer = Answer {
        reader,
        upload: tokio::spawn(upload(request, writer)),
        running,
        number,
        is_over: false,
    };
    Ok(futures_util::stream::try_unfold(answer, next))
}

async fn next(mut answer: Answer) -> Result<Option<(DenoFrame, Answer)>, Status> {
    if answer.is_over {
        return Ok(None);
    }
    let frame = frames::receive(&mut answer.reader).await;
    let frame = frame.map_err(|_broken| broken())?;
    answer.is_over = matches!(
        frame.kind(),
        DenoFrameKind::DenoFrameEnd | DenoFrameKind::DenoFrameError
    );
    Ok(match frame.kind() {
        DenoFrameKind::DenoFrameEnd => None,
        _ => Some((frame, answer)),
    })
}

/// Passes the body on, as it is taken.
async fn upload(mut request: Streaming<DenoFrame>, mut writer: OwnedWriteHalf) {
    while let Ok(Some(frame)) = request.message().await {
        let sent = frames::send(&mut writer, kind_of(&frame), &frame.payload).await;
        if sent.is_err() {
            // The answer says why.
            return;
        }
    }
    // Half a connection is closed by dropping it, which a request without a
    // body must not see before its answer has come; it does not look.
}

fn kind_of(frame: &DenoFrame) -> u8 {
    u8::try_from(frame.kind).unwrap_or(u8::MAX)
}

/// The process ended, or was ended by somebody in the sandbox.
fn broken() -> CallError {
    CallError::errno(OPERATION, "", Errno::CONNRESET)
}

/// An answer under way.
struct Answer {
    reader: OwnedReadHalf,
    upload: JoinHandle<()>,
    running: Arc<Running>,
    number: String,
    is_over: bool,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.upload.abort();
        if self.is_over {
            return;
        }
        // A process that waits for its upstream does not notice that a
        // connection was closed; it is told on another one.
        let (running, number) = (Arc::clone(&self.running), std::mem::take(&mut self.number));
        tokio::spawn(async move {
            if let Ok(mut stream) = running.connect().await {
                let told = frames::send(&mut stream, frames::CANCEL, number.as_bytes());
                // One that has ended meanwhile fetches nothing.
                told.await.unwrap_or_default();
            }
        });
    }
}
