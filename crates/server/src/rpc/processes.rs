//! Processes: starting, waiting, signals, terminals.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tombolo_api::rpc::{
    AttachParams, ErrorObject, KillParams, ListProcessesResult, OomConfidence, ProcessRow,
    ResizeParams, SpawnParams, SpawnResult, Stdio, TerminalSize, WaitParams, WaitResult,
};
use tombolo_guest_proto::v1;

use super::call::Call;
use super::connection::Connection;
use super::fault::{self, CallError};
use super::guest_call::{Repeat, guest_call};
use super::inbound::InboundStream;
use super::output::{self, Begin, Held};
use super::reply::Reply;
use super::signals;
use super::stdin::{self, Bereft};

/// What a new client of a terminal is shown of what was written before.
const SCROLLBACK_LEN: u64 = 64 * 1024;

pub(super) async fn spawn(call: &mut Call) -> Result<Reply, CallError> {
    let stdin = call.take_stream()?;
    let params: SpawnParams = call.params()?;
    let stdout = params.stdout.unwrap_or(Stdio::Piped);
    let stderr = params.stderr.unwrap_or(Stdio::Piped);
    let request = v1::SpawnRequest {
        command: params.command,
        args: params.args.unwrap_or_default(),
        env: params.env.unwrap_or_default().into_iter().collect(),
        clear_env: params.clear_env.unwrap_or(false),
        cwd: params.cwd.unwrap_or_default(),
        // A pipe that nobody writes to would never end.
        stdin: stdio(if stdin.is_some() {
            Stdio::Piped
        } else {
            Stdio::Null
        }),
        stdout: stdio(stdout),
        stderr: stdio(stderr),
        terminal: params.terminal.map(window_size),
    };
    let bereft = match params.terminal {
        Some(_) => Bereft::Open,
        None => Bereft::Broken,
    };
    let pid = call
        .guest(request, |mut agent, request| async move {
            agent.spawn(request).await
        })
        .await?
        .pid;
    let stdin = stdin.map(|stream| (stream, bereft));
    let begin = Begin::Offset(0);
    let wired = wire_from(&call.connection, pid, stdin, stdout, stderr, begin);
    wired.answer(call, pid)
}

/// Takes a terminal over from its client, or from nobody.
pub(super) async fn attach(call: &mut Call) -> Result<Reply, CallError> {
    let stdin = call.take_stream()?;
    let params: AttachParams = call.params()?;
    let pid = params.pid;
    // Says, too, that there is such a process, and that it has a terminal.
    let request = v1::ResizePtyRequest {
        pid,
        size: Some(window_size(params.terminal)),
    };
    call.guest_read(request, |mut agent, request| async move {
        agent.resize_pty(request).await
    })
    .await?;
    let stdin = stdin.map(|stream| (stream, Bereft::Open));
    let begin = Begin::Tail(SCROLLBACK_LEN);
    let (stdout, stderr) = (Stdio::Piped, Stdio::Null);
    let wired = wire_from(&call.connection, pid, stdin, stdout, stderr, begin);
    wired.answer(call, pid)
}

pub(super) async fn list(call: &Call) -> Result<Reply, CallError> {
    let listed = call
        .guest_read(v1::Empty {}, |mut agent, request| async move {
            agent.list_processes(request).await
        })
        .await?;
    let rows = listed.processes.into_iter().map(|process| ProcessRow {
        pid: process.pid,
        command: process.command,
        running: process.running,
        has_terminal: process.has_terminal,
    });
    call.ok(&ListProcessesResult {
        processes: rows.collect(),
    })
}

/// The streams of a new process.
pub(super) struct Wired {
    pub(super) stdout: Option<u64>,
    pub(super) stderr: Option<u64>,
    /// Fires when the answer that names them is on its way.
    pub(super) answered: CancellationToken,
    held: Arc<Held>,
}

/// Ties a new process's streams to those of its client.
pub(super) fn wire(
    connection: &Arc<Connection>,
    pid: i32,
    stdin: Option<InboundStream>,
    stdout: Stdio,
    stderr: Stdio,
) -> Wired {
    let stdin = stdin.map(|stream| (stream, Bereft::Broken));
    wire_from(connection, pid, stdin, stdout, stderr, Begin::Offset(0))
}

fn wire_from(
    connection: &Arc<Connection>,
    pid: i32,
    stdin: Option<(InboundStream, Bereft)>,
    stdout: Stdio,
    stderr: Stdio,
    begin: Begin,
) -> Wired {
    let answered = CancellationToken::new();
    let stdin_over = CancellationToken::new();
    let has_stdin = stdin.is_some();
    if let Some((stream, bereft)) = stdin {
        stdin::feed(connection, pid, stream, bereft, stdin_over.clone());
    } else {
        stdin_over.cancel();
    }
    let held = Arc::new(Held {
        gate: connection.gates.add(pid),
        answered: answered.clone(),
        stdin_over: has_stdin.then_some(stdin_over),
    });
    let piped = |mode: Stdio, which: v1::OutputStream| {
        (mode == Stdio::Piped).then(|| output::send(connection, pid, which, begin, &held))
    };
    Wired {
        stdout: piped(stdout, v1::OutputStream::OutputStdout),
        stderr: piped(stderr, v1::OutputStream::OutputStderr),
        answered,
        held,
    }
}

fn window_size(size: TerminalSize) -> v1::WindowSize {
    v1::WindowSize {
        rows: size.rows.into(),
        columns: size.columns.into(),
    }
}

impl Wired {
    fn answer(self, call: &Call, pid: i32) -> Result<Reply, CallError> {
        let reply = call.ok(&SpawnResult {
            pid,
            stdout_stream_id: self.stdout,
            stderr_stream_id: self.stderr,
        })?;
        Ok(self.flow_after(&call.connection, reply))
    }

    /// Lets output flow when `reply` is on its way and its client listens.
    pub(super) fn flow_after(self, connection: &Arc<Connection>, mut reply: Reply) -> Reply {
        output::hold(connection, self.held);
        reply.sent = Some(self.answered);
        reply
    }
}

pub(super) fn stdio(mode: Stdio) -> i32 {
    match mode {
        Stdio::Piped => v1::Stdio::Piped,
        Stdio::Null => v1::Stdio::Null,
    }
    .into()
}

pub(super) async fn wait(call: &Call) -> Result<Reply, CallError> {
    let WaitParams { pid } = call.params()?;
    call.connection.gates.open(pid);
    let ended = guest_call(
        &call.connection.agent,
        Repeat::WhileSandboxLives,
        v1::WaitRequest { pid },
        |mut agent, request| async move { agent.wait(request).await },
    )
    .await?;
    call.ok(&WaitResult {
        success: ended.code == 0 && ended.signal == 0,
        code: ended.code,
        signal: (ended.signal != 0).then(|| signals::name(ended.signal)),
        oom: match ended.oom() {
            v1::OomVerdict::OomNone => None,
            v1::OomVerdict::OomLowConfidence => Some(OomConfidence::LowConfidence),
            v1::OomVerdict::OomHighConfidence => Some(OomConfidence::HighConfidence),
        },
    })
}

pub(super) async fn kill(call: &Call) -> Result<Reply, CallError> {
    let KillParams { pid, signal } = call.params()?;
    let signal = match signal {
        None => signals::SIGTERM,
        Some(name) => signals::number(&name)
            .ok_or_else(|| ErrorObject::new("TypeError", format!("Invalid signal: {name}")))?,
    };
    let killed = guest_call(
        &call.connection.agent,
        Repeat::IfUnsent,
        v1::KillRequest { pid, signal },
        |mut agent, request| async move { agent.kill(request).await },
    )
    .await;
    match killed {
        Ok(_) => call.null(),
        Err(status) if fault::is_no_such_process(&status) => Err(fault::process_gone().into()),
        Err(status) => Err(status.into()),
    }
}

pub(super) async fn resize(call: &Call) -> Result<Reply, CallError> {
    let params: ResizeParams = call.params()?;
    let request = v1::ResizePtyRequest {
        pid: params.pid,
        size: Some(window_size(TerminalSize {
            rows: params.rows,
            columns: params.columns,
        })),
    };
    call.guest_read(request, |mut agent, request| async move {
        agent.resize_pty(request).await
    })
    .await?;
    call.null()
}
