//! REPLs: processes of Deno's that evaluate what they are sent.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, pin_mut};
use tokio::time::timeout;
use tombolo_guest_proto::v1::spawn_deno_request::Program;
use tombolo_guest_proto::v1::{DenoFrame, DenoFrameKind, Empty, SpawnDenoRequest};
use tonic::Status;

use super::socket::Socket;
use super::{Role, frames, invalid};
use crate::agent::Agent;
use crate::fault::{CallError, at};
use crate::log::log;
use crate::process::{Process, no_process};

const OPERATION: &str = "repl";
/// How long a REPL that is told to end may take, which one that is busy does not.
const END_PATIENCE: Duration = Duration::from_secs(1);
const WARM_PATIENCE: Duration = Duration::from_mins(2);
const CLOSE_REQUEST: &[u8] = br#"{"close":true}"#;
const WARM_REQUEST: &[u8] = br#"{"code":"1 + 1"}"#;
const HEAD: u8 = DenoFrameKind::DenoFrameHead as u8;

/// How to speak to a REPL.
#[derive(Debug)]
pub(crate) struct Repl {
    socket: Socket,
    /// Set once it was told to end.
    closing: AtomicBool,
}

impl Repl {
    pub(super) fn new(socket: Socket) -> Self {
        Self {
            socket,
            closing: AtomicBool::new(false),
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.socket.path()
    }

    /// What its process runs. Neither path holds what would have to be escaped.
    pub(super) fn program(&self, script: &str) -> String {
        let socket = self.path().display();
        format!("import {{ listen }} from \"{script}\";\nawait listen(\"{socket}\");\n")
    }
}

fn of(process: &Process) -> Result<&Repl, CallError> {
    match process.deno.get() {
        Some(Role::Repl(repl)) => Ok(repl),
        _ => Err(invalid("the process is not a REPL")),
    }
}

/// Has code evaluated, and answers with what comes of it.
pub(crate) async fn run(
    process: Arc<Process>,
    request: Bytes,
) -> Result<impl Stream<Item = Result<DenoFrame, Status>>, CallError> {
    let repl = of(&process)?;
    if repl.closing.load(Ordering::Relaxed) {
        return Err(no_process(OPERATION));
    }
    let mut stream = repl.socket.connect(&process).await?;
    let sent = frames::send(&mut stream, HEAD, &request).await;
    // A process that ends breaks the connection.
    sent.map_err(|_broken| no_process(OPERATION))?;
    Ok(futures_util::stream::try_unfold(
        Some(stream),
        |stream| async {
            let Some(mut stream) = stream else {
                return Ok(None);
            };
            let frame = frames::receive(&mut stream).await;
            let frame = frame.map_err(|_broken| no_process(OPERATION))?;
            Ok(match frame.kind() {
                DenoFrameKind::DenoFrameEnd => None,
                DenoFrameKind::DenoFrameError => Some((frame, None)),
                _ => Some((frame, Some(stream))),
            })
        },
    ))
}

/// Ends a REPL, by force if it is busy. Does not wait for that.
pub(crate) fn close(process: Arc<Process>) -> Result<(), CallError> {
    of(&process)?.closing.store(true, Ordering::Relaxed);
    tokio::spawn(async move {
        let end = async {
            let repl = of(&process)?;
            let mut stream = repl.socket.connect(&process).await?;
            let sent = frames::send(&mut stream, HEAD, CLOSE_REQUEST).await;
            sent.map_err(at(OPERATION, ""))?;
            process.wait().await
        };
        if !matches!(timeout(END_PATIENCE, end).await, Ok(Ok(_))) && process.exit().is_none() {
            // It may end by itself at this moment, which is as good.
            process.kill(9).unwrap_or_default();
        }
    });
    Ok(())
}

/// Starts a REPL and ends it again, so that the next one finds all it reads in
/// memory and compiled.
pub(crate) async fn warm(agent: &Agent) {
    let request = SpawnDenoRequest {
        program: Some(Program::Repl(Empty {})),
        ..SpawnDenoRequest::default()
    };
    let process = match super::spawn(agent, request).await {
        Ok(process) => process,
        Err(error) => {
            log!("cannot warm up a REPL: {error}");
            return;
        }
    };
    let warmed = timeout(WARM_PATIENCE, async {
        let answer = run(Arc::clone(&process), Bytes::from_static(WARM_REQUEST)).await?;
        pin_mut!(answer);
        while answer.next().await.is_some() {}
        close(Arc::clone(&process))?;
        process.wait().await
    });
    match warmed.await {
        Ok(Ok(_ended)) => {}
        Ok(Err(error)) => log!("cannot warm up a REPL: {error}"),
        Err(_elapsed) => {
            log!("a REPL took too long");
            // It may have ended by itself after all.
            process.kill(9).unwrap_or_default();
        }
    }
}
