//! Deno: starting programs and REPLs, waiting for their servers, and having
//! code evaluated.
//!
//! All of it happens in the guest. What a REPL answers is whatever the code in
//! it wants to say, so it is bounded, and checked to be JSON, before it is
//! made a part of an answer.

use std::sync::Arc;

use serde_json::value::RawValue;
use tombolo_api::rpc::{
    DenoPidParams, DenoProcessParams, DenoReplCallParams, DenoReplEvalParams, DenoWatcherRestart,
    ErrorObject, JsonRpc, Notification, SpawnDenoParams, SpawnDenoResult, SpawnResult, Stdio,
    Watch, methods,
};
use tombolo_guest_proto::v1;
use tombolo_guest_proto::v1::DenoFrameKind;
use tombolo_guest_proto::v1::spawn_deno_request::Program;
use tonic::{Status, Streaming};

use super::budget::ReplyPermit;
use super::call::Call;
use super::connection::Connection;
use super::fault::{self, CallError};
use super::guest_call::{Repeat, Retry, guest_call};
use super::inbound::InboundStream;
use super::limits::Patience;
use super::params;
use super::processes::{self, Wired};
use super::reply::{Reply, ReplyWriter};
use crate::guest::GuestAgent;

/// The longest error that is told in its own words.
const ERROR_LEN_MAX: usize = 512 * 1024;

pub(super) async fn spawn(call: &mut Call) -> Result<Reply, CallError> {
    let stdin = call.take_stream()?;
    let params: SpawnDenoParams = call.params()?;
    let program = program(&params)?;
    let watches = matches!(&program, Program::Entrypoint(entrypoint) if entrypoint.watch);
    let (pid, wired) = start(call, stdin, params.process, program).await?;
    let watcher_id = watches.then(|| {
        let stream_id = call.connection.outbound.new_id();
        format!("{}-{stream_id}", call.connection.sandbox)
    });
    let reply = call.ok(&SpawnDenoResult {
        pid,
        stdout_stream_id: wired.stdout,
        stderr_stream_id: wired.stderr,
        watcher_id: watcher_id.clone(),
    })?;
    if let Some(watcher_id) = watcher_id {
        tell_restarts(&call.connection, pid, watcher_id, &wired);
    }
    Ok(wired.flow_after(&call.connection, reply))
}

pub(super) async fn spawn_repl(call: &mut Call) -> Result<Reply, CallError> {
    let stdin = call.take_stream()?;
    let params: DenoProcessParams = call.params()?;
    let program = Program::Repl(v1::Empty {});
    let (pid, wired) = start(call, stdin, params, program).await?;
    let reply = call.ok(&SpawnResult {
        pid,
        stdout_stream_id: wired.stdout,
        stderr_stream_id: wired.stderr,
    })?;
    Ok(wired.flow_after(&call.connection, reply))
}

fn program(params: &SpawnDenoParams) -> Result<Program, CallError> {
    match (&params.entrypoint, &params.code) {
        (Some(path), None) => {
            let (watch, watch_also) = match params.watch.clone() {
                None => (false, Vec::new()),
                Some(Watch::Modules(watch)) => (watch, Vec::new()),
                Some(Watch::Also(paths)) => (true, paths),
            };
            Ok(Program::Entrypoint(v1::DenoEntrypoint {
                path: path.clone(),
                watch,
                watch_also,
            }))
        }
        (None, Some(text)) => Ok(Program::Code(v1::DenoCode {
            text: text.clone(),
            extension: params.extension.clone().unwrap_or_else(|| "ts".to_owned()),
        })),
        (None, None) => Err(params::invalid(&["entrypoint"], "string", "undefined")),
        (Some(_), Some(_)) => Err(params::invalid(&["code"], "undefined", "string")),
    }
}

async fn start(
    call: &Call,
    stdin: Option<InboundStream>,
    params: DenoProcessParams,
    program: Program,
) -> Result<(i32, Wired), CallError> {
    let stdout = params.stdout.unwrap_or(Stdio::Piped);
    let stderr = params.stderr.unwrap_or(Stdio::Piped);
    let process = v1::SpawnRequest {
        env: params.env.unwrap_or_default().into_iter().collect(),
        clear_env: params.clear_env.unwrap_or(false),
        cwd: params.cwd.unwrap_or_default(),
        // A pipe that nobody writes to would never end.
        stdin: processes::stdio(if stdin.is_some() {
            Stdio::Piped
        } else {
            Stdio::Null
        }),
        stdout: processes::stdio(stdout),
        stderr: processes::stdio(stderr),
        ..v1::SpawnRequest::default()
    };
    let request = v1::SpawnDenoRequest {
        process: Some(process),
        script_args: params.script_args.unwrap_or_default(),
        program: Some(program),
    };
    let started = call
        .guest(request, |mut agent, request| async move {
            agent.spawn_deno(request).await
        })
        .await?;
    let wired = processes::wire(&call.connection, started.pid, stdin, stdout, stderr);
    Ok((started.pid, wired))
}

/// Tells the client each time that a program starts anew.
fn tell_restarts(connection: &Arc<Connection>, pid: i32, watcher_id: String, wired: &Wired) {
    let answered = wired.answered.clone();
    let task_connection = Arc::clone(connection);
    connection.end.stream_tasks.spawn(async move {
        let connection = task_connection;
        let telling = async {
            answered.cancelled().await;
            let told = follow_restarts(&connection, pid, &watcher_id).await;
            if let Err(status) = told {
                tracing::debug!(sandbox = %connection.sandbox, pid, %status, "restarts are not told");
            }
        };
        tokio::select! {
            () = telling => {}
            () = connection.end.streams.cancelled() => {}
            () = connection.end.peer_gone.cancelled() => {}
        }
    });
}

async fn follow_restarts(
    connection: &Connection,
    pid: i32,
    watcher_id: &str,
) -> Result<(), Status> {
    let notification = Notification {
        jsonrpc: JsonRpc,
        method: methods::DENO_WATCHER_RESTART,
        params: DenoWatcherRestart {
            watcher_id: watcher_id.to_owned(),
        },
    };
    let text = serde_json::to_string(&notification).unwrap_or_default();
    let mut seen = 0;
    let mut retry = Retry::new(Repeat::WhileSandboxLives);
    loop {
        let outcome = async {
            let request = v1::DenoRestartsRequest { pid, seen };
            let mut agent = connection.agent.client();
            let mut restarts = agent.deno_restarts(request).await?.into_inner();
            while restarts.message().await?.is_some() {
                seen += 1;
                // The client is gone, which ends this task.
                if connection.outgoing.notify(text.clone()).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        match outcome.await {
            Ok(()) => return Ok(()),
            Err(status) => retry.pause(status).await?,
        }
    }
}

pub(super) async fn http_wait(call: &Call) -> Result<Reply, CallError> {
    let DenoPidParams { pid } = call.params()?;
    let server = server_of(&call.connection.agent, pid).await?;
    call.ok(&server.is_some())
}

/// Waits for the process to listen: its IP address and port, or `None` when it
/// ends before.
pub(super) async fn server_of(
    agent: &GuestAgent,
    pid: i32,
) -> Result<Option<(String, u32)>, CallError> {
    let found = guest_call(
        agent,
        Repeat::WhileSandboxLives,
        v1::DenoRequest { pid },
        |mut agent, request| async move { agent.deno_http_wait(request).await },
    )
    .await;
    match found {
        Ok(found) => Ok(found.host.map(|host| (host, found.port))),
        Err(status) => Err(of_process(status, fault::process_gone())),
    }
}

pub(super) async fn eval(call: &Call) -> Result<Reply, CallError> {
    let DenoReplEvalParams { pid, code } = call.params()?;
    run(call, pid, &serde_json::json!({ "code": code })).await
}

pub(super) async fn call_function(call: &Call) -> Result<Reply, CallError> {
    #[derive(serde::Serialize)]
    struct Request {
        #[serde(rename = "fn")]
        function: String,
        args: Vec<Box<RawValue>>,
    }
    let params: DenoReplCallParams = call.params()?;
    let request = Request {
        function: params.function,
        args: params.args.unwrap_or_default(),
    };
    run(call, params.pid, &request).await
}

pub(super) async fn close(call: &Call) -> Result<Reply, CallError> {
    let DenoPidParams { pid } = call.params()?;
    // To close it twice is to close it.
    let closed = guest_call(
        &call.connection.agent,
        Repeat::IfLost,
        v1::DenoRequest { pid },
        |mut agent, request| async move { agent.deno_repl_close(request).await },
    )
    .await;
    match closed {
        Err(status) if !fault::is_no_such_process(&status) => Err(status.into()),
        _ => call.null(),
    }
}

/// Has a REPL evaluate something, and answers with the value.
async fn run<T: serde::Serialize>(call: &Call, pid: i32, request: &T) -> Result<Reply, CallError> {
    let request = serde_json::to_vec(request).map_err(CallError::Unwritable)?;
    let request = v1::DenoReplRunRequest {
        pid,
        request: request.into(),
    };
    let frames = guest_call(
        &call.connection.agent,
        Repeat::IfUnsent,
        request,
        |mut agent, request| async move { agent.deno_repl_run(request).await },
    )
    .await;
    let mut frames = frames.map_err(|status| of_process(status, fault::process_gone()))?;
    let first = next(&mut frames).await?;
    match first.kind() {
        DenoFrameKind::DenoFrameHead => value(call, frames).await,
        DenoFrameKind::DenoFrameError => Err(thrown(&first.payload).into()),
        _ => Err(nonsense().into()),
    }
}

/// Gathers the value, which is told only when it is whole.
async fn value(call: &Call, mut frames: Streaming<v1::DenoFrame>) -> Result<Reply, CallError> {
    let limits = &call.connection.limits;
    let len_max = call.connection.reply_len_max().min(limits.gathered_len_max);
    let mut held: Option<(ReplyPermit, Patience)> = None;
    // The answer itself, so that a value is not held twice.
    let mut answer = call.reply_writer().take().into_bytes();
    let begin = answer.len();
    loop {
        // The end of the stream is the end of the value. Code that takes its
        // time holds nothing meanwhile; a value that is half told does.
        let frame = match &held {
            None => frames.message().await,
            Some((_permit, patience)) => patience.wait(frames.message()).await?,
        };
        let frame = frame.map_err(|status| of_process(status, ended_early()))?;
        let Some(frame) = frame else { break };
        if frame.kind() != DenoFrameKind::DenoFrameData {
            return Err(nonsense().into());
        }
        let len = answer.len() - begin + frame.payload.len();
        if len > len_max {
            return Err(too_large(len_max).into());
        }
        if held.is_none() && len > limits.reply_held_max {
            let permit = call.connection.large_reply(len_max).await;
            held = Some((permit, limits.patience()));
        }
        answer.extend_from_slice(&frame.payload);
    }
    let answer = String::from_utf8(answer).map_err(|_no_text| nonsense())?;
    let value = answer.get(begin..).unwrap_or_default();
    serde_json::from_str::<&RawValue>(value).map_err(|_no_json| nonsense())?;
    let mut reply = ReplyWriter::resume(answer).finish();
    reply.permit = held.map(|(permit, _)| permit);
    Ok(reply)
}

async fn next(frames: &mut Streaming<v1::DenoFrame>) -> Result<v1::DenoFrame, CallError> {
    let frame = frames.message().await;
    let frame = frame.map_err(|status| of_process(status, ended_early()))?;
    frame.ok_or_else(|| nonsense().into())
}

/// What code threw, as the guest describes it.
pub(super) fn thrown(description: &[u8]) -> ErrorObject {
    if description.len() > ERROR_LEN_MAX {
        return ErrorObject::new("Error", "The error is too large to be told");
    }
    serde_json::from_slice(description).unwrap_or_else(|_no_error| nonsense())
}

fn of_process(status: Status, ended: ErrorObject) -> CallError {
    if fault::is_no_such_process(&status) {
        ended.into()
    } else {
        status.into()
    }
}

/// The class that both SDKs take for the end of a process.
fn ended_early() -> ErrorObject {
    ErrorObject {
        message: "The process ended before it answered".into(),
        ..fault::process_gone()
    }
}

/// Something in the sandbox spoke in the place of our own program.
pub(super) fn nonsense() -> ErrorObject {
    ErrorObject::new("InvalidData", "The process answered with nonsense")
}

fn too_large(len_max: usize) -> ErrorObject {
    let message = format!(
        "The value is larger than the {len_max} bytes this client can receive at once; \
         return less, or write it to a file and read that"
    );
    ErrorObject::new("RangeError", message).with_code("EMSGSIZE")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_as_described_or_not_at_all() {
        let described = br#"{"constructorName":"AggregateError","message":"m","stack":"s",
            "cause":{"constructorName":"NotFound","message":"c","code":"ENOENT"},
            "errors":[{"constructorName":"Error","message":"e"}],"more":1}"#;
        let error = thrown(described);
        assert_eq!(error.constructor_name, "AggregateError");
        assert_eq!(error.cause.unwrap().code.as_deref(), Some("ENOENT"));
        assert_eq!(error.errors.unwrap().len(), 1);
        let deep = [br#"{"cause":"#.repeat(10_000), vec![b'1']].concat();
        for wrong in [&b""[..], b"null", b"{}", b"\xff", &deep] {
            assert_eq!(thrown(wrong).constructor_name, "InvalidData", "{wrong:?}");
        }
        let large = vec![b' '; ERROR_LEN_MAX + 1];
        assert_eq!(thrown(&large).constructor_name, "Error");
    }

    #[test]
    fn a_program_is_a_path_or_a_text() {
        let params = |json: &str| serde_json::from_str::<SpawnDenoParams>(json).unwrap();
        let entrypoint = |json: &str| match program(&params(json)).unwrap() {
            Program::Entrypoint(entrypoint) => (entrypoint.watch, entrypoint.watch_also.len()),
            other => panic!("{other:?}"),
        };
        assert_eq!(entrypoint(r#"{"entrypoint":"a"}"#), (false, 0));
        assert_eq!(entrypoint(r#"{"entrypoint":"a","watch":null}"#), (false, 0));
        assert_eq!(entrypoint(r#"{"entrypoint":"a","watch":true}"#), (true, 0));
        assert_eq!(entrypoint(r#"{"entrypoint":"a","watch":["b"]}"#), (true, 1));
        let Program::Code(code) = program(&params(r#"{"code":"1","args":["x"]}"#)).unwrap() else {
            panic!("a text is one");
        };
        assert_eq!((code.text.as_str(), code.extension.as_str()), ("1", "ts"));
        assert!(program(&params("{}")).is_err());
        assert!(program(&params(r#"{"code":"1","entrypoint":"a"}"#)).is_err());
    }
}
