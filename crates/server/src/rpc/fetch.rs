//! Fetches, which happen in the guest: in the sandbox's network, under its
//! policy, with its certificates. The server passes on what comes back, once
//! it is something that a client can take.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tombolo_api::rpc::{ErrorObject, FetchParams, FetchResult, Redirect};
use tombolo_guest_proto::CHUNK_LEN_MAX;
use tombolo_guest_proto::v1::{DenoFrame, DenoFrameKind};
use tonic::Streaming;

use super::aborts::Abortable;
use super::call::Call;
use super::connection::Connection;
use super::deno::{self, nonsense, thrown};
use super::fault::{self, CallError};
use super::inbound::InboundStream;
use super::outbound::{OutboundStream, StreamStopped};
use super::reply::Reply;

/// How long a process may take to listen that a request is for.
const LISTEN_PATIENCE: Duration = Duration::from_mins(1);
/// Address and headers of a request together.
const HEAD_LEN_MAX: usize = 512 * 1024;
const HEADERS_MAX: usize = 1024;
/// Frames on their way to the guest.
const FRAMES_AHEAD: usize = 2;
/// Statuses whose answers have no body (Fetch standard, null body status).
const WITHOUT_BODY: [u16; 3] = [204, 205, 304];

/// What `fetch.mjs` is asked.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    url: String,
    method: String,
    headers: Vec<(String, String)>,
    redirect: Redirect,
    has_body: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<Server>,
}

#[derive(Serialize)]
struct Server {
    hostname: String,
    port: u32,
}

/// What it answers.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    status: u16,
    status_text: String,
    headers: Vec<(String, String)>,
    has_body: bool,
}

pub(super) async fn fetch(call: &mut Call) -> Result<Reply, CallError> {
    let body = call.take_stream()?;
    let params: FetchParams = call.params()?;
    let server = match params.pid {
        Some(pid) => Some(server_of(call, pid).await?),
        None => None,
    };
    let request = Request {
        url: params.url,
        method: params.method.unwrap_or_else(|| "GET".to_owned()),
        headers: params.headers.unwrap_or_default(),
        redirect: params.redirect.unwrap_or_default(),
        has_body: body.is_some(),
        server,
    };
    let (mut frames, upload) = begin(call, &request, body).await?;
    let first = frames.message().await?.ok_or_else(nonsense)?;
    let head = match first.kind() {
        DenoFrameKind::DenoFrameHead => read_head(&first.payload)?,
        DenoFrameKind::DenoFrameError => return Err(thrown(&first.payload).into()),
        _ => return Err(nonsense().into()),
    };
    let has_body = head.has_body && !WITHOUT_BODY.contains(&head.status);
    let body = has_body.then(|| call.connection.outbound.open());
    let mut reply = call.ok(&FetchResult {
        status: head.status,
        status_text: head.status_text,
        headers: head.headers,
        body_stream_id: body.as_ref().map(OutboundStream::id),
    })?;
    if let Some(stream) = body {
        let answered = CancellationToken::new();
        reply.sent = Some(answered.clone());
        let download = Download {
            connection: Arc::clone(&call.connection),
            frames,
            abortable: call.abortable.take(),
            _upload: upload,
        };
        let tasks = call.connection.end.stream_tasks.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = answered.cancelled() => download.run(stream).await,
                // Then the answer is not sent, and nobody knows the stream.
                () = download.connection.end.peer_gone.cancelled() => {}
            }
        });
    }
    Ok(reply)
}

async fn server_of(call: &Call, pid: i32) -> Result<Server, CallError> {
    let found = timeout(
        LISTEN_PATIENCE,
        deno::server_of(&call.connection.agent, pid),
    )
    .await;
    match found {
        Ok(Ok(Some((hostname, port)))) => Ok(Server { hostname, port }),
        Ok(Ok(None)) => Err(refused(pid).into()),
        Ok(Err(error)) => Err(error),
        Err(_elapsed) => Err(silent(pid).into()),
    }
}

fn refused(pid: i32) -> ErrorObject {
    let message = format!("Process {pid} ended before it listened on a port");
    ErrorObject::new("ConnectionRefused", message).with_code("ECONNREFUSED")
}

fn silent(pid: i32) -> ErrorObject {
    let seconds = LISTEN_PATIENCE.as_secs();
    let message =
        format!("Process {pid} did not listen on a port within {seconds} seconds; does it serve?");
    ErrorObject::new("TimedOut", message).with_code("ETIMEDOUT")
}

/// Sends the request. Its body follows until the guard is dropped.
async fn begin(
    call: &Call,
    request: &Request,
    body: Option<InboundStream>,
) -> Result<(Streaming<DenoFrame>, DropGuard), CallError> {
    let head = serde_json::to_vec(request).map_err(CallError::Unwritable)?;
    if head.len() > HEAD_LEN_MAX {
        let message = format!("Address and headers are larger than {HEAD_LEN_MAX} bytes");
        return Err(ErrorObject::new("RangeError", message).into());
    }
    let (sender, receiver) = mpsc::channel(FRAMES_AHEAD);
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    call.connection.end.stream_tasks.spawn(async move {
        tokio::select! {
            sent = upload(sender, head.into(), body) => {
                if sent.is_err() {
                    tracing::trace!("the guest took no more of a body");
                }
            }
            () = stopped.cancelled() => {}
        }
    });
    let guard = stop.drop_guard();
    let mut agent = call.connection.agent.client();
    let frames = agent.fetch(ReceiverStream::new(receiver)).await?;
    Ok((frames.into_inner(), guard))
}

async fn upload(
    sender: mpsc::Sender<DenoFrame>,
    head: Bytes,
    body: Option<InboundStream>,
) -> Result<(), mpsc::error::SendError<DenoFrame>> {
    let frame = |kind: DenoFrameKind, payload: Bytes| DenoFrame {
        kind: kind.into(),
        payload,
    };
    sender
        .send(frame(DenoFrameKind::DenoFrameHead, head))
        .await?;
    let Some(mut body) = body else {
        return Ok(());
    };
    while let Some(next) = body.next().await {
        let mut data = match next {
            Ok(data) => data,
            Err(error) => {
                let message = Bytes::from(error.message);
                return sender
                    .send(frame(DenoFrameKind::DenoFrameError, message))
                    .await;
            }
        };
        while !data.is_empty() {
            let data = data.split_to(data.len().min(CHUNK_LEN_MAX));
            sender
                .send(frame(DenoFrameKind::DenoFrameData, data))
                .await?;
        }
    }
    let end = frame(DenoFrameKind::DenoFrameEnd, Bytes::new());
    sender.send(end).await
}

/// Reads the head of an answer, and refuses what no client could take.
fn read_head(json: &[u8]) -> Result<Head, Box<ErrorObject>> {
    let mut head: Head = serde_json::from_slice(json).map_err(|_no_head| Box::new(nonsense()))?;
    if !(200..600).contains(&head.status) || head.headers.len() > HEADERS_MAX {
        return Err(Box::new(nonsense()));
    }
    let is_reason = |text: &str| HeaderValue::from_str(text).is_ok();
    if !is_reason(&head.status_text) {
        head.status_text.clear();
    }
    let is_header = |name: &str, value: &str| {
        HeaderName::from_bytes(name.as_bytes()).is_ok()
            && HeaderValue::from_bytes(value.as_bytes()).is_ok()
            // A byte string: each character is one byte.
            && value.chars().all(|character| u32::from(character) < 0x100)
    };
    // The body is decoded, so that these no longer describe it.
    let is_coded = |name: &str| name.eq_ignore_ascii_case("content-encoding");
    let was_coded = head.headers.iter().any(|(name, _)| is_coded(name));
    head.headers.retain(|(name, value)| {
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_header(name, value) && !is_coded(name) && !(was_coded && is_length)
    });
    Ok(head)
}

/// The body of an answer on its way to the client. To drop it aborts the fetch.
struct Download {
    connection: Arc<Connection>,
    frames: Streaming<DenoFrame>,
    /// An abort may come as long as the body does.
    abortable: Option<Abortable>,
    _upload: DropGuard,
}

enum Copied {
    All,
    Failed(ErrorObject),
    Stopped(StreamStopped),
}

impl Download {
    async fn run(mut self, mut stream: OutboundStream) {
        let end = &self.connection.end;
        let aborted = self
            .abortable
            .as_ref()
            .map_or_else(CancellationToken::new, Abortable::token);
        let cancelled = stream.cancelled();
        let copied = tokio::select! {
            biased;
            () = aborted.cancelled() => Copied::Failed(fault::aborted()),
            () = cancelled.cancelled() => Copied::Stopped(StreamStopped::Cancelled),
            () = end.peer_gone.cancelled() => Copied::Stopped(StreamStopped::PeerGone),
            () = end.streams.cancelled() => Copied::Failed(fault::sandbox_ended()),
            copied = copy(&mut self.frames, &mut stream) => copied,
        };
        let finishing = async {
            match copied {
                Copied::All => stream.end().await,
                Copied::Failed(error) => stream.fail(error).await,
                Copied::Stopped(stopped) => Err(stopped),
            }
        };
        tokio::select! {
            finished = finishing => {
                if let Err(stopped) = finished {
                    tracing::trace!(%stopped, "a body was not read to its end");
                }
            }
            () = end.peer_gone.cancelled() => {}
        }
    }
}

async fn copy(frames: &mut Streaming<DenoFrame>, stream: &mut OutboundStream) -> Copied {
    loop {
        let frame = match frames.message().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return Copied::All,
            Err(status) => return Copied::Failed(fault::from_status(&status)),
        };
        match frame.kind() {
            // No client takes an empty chunk.
            DenoFrameKind::DenoFrameData if frame.payload.is_empty() => {}
            DenoFrameKind::DenoFrameData => {
                if let Err(stopped) = stream.data(&frame.payload).await {
                    return Copied::Stopped(stopped);
                }
            }
            DenoFrameKind::DenoFrameError => return Copied::Failed(thrown(&frame.payload)),
            _ => return Copied::Failed(nonsense()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn head(value: &Value) -> Result<Head, Box<ErrorObject>> {
        read_head(value.to_string().as_bytes())
    }

    #[test]
    fn only_what_a_client_takes_is_passed_on() {
        let good = head(
            &json!({"status":200,"statusText":"OK","hasBody":true,"headers":[
            ["content-type","text/html"],["set-cookie","a=1"],["set-cookie","b=2"],
            ["bad name","x"],["bad","x\ny"],["x-latin","\u{e9}"],["wide","\u{20ac}"],
            ["content-length","3"]]}),
        )
        .unwrap();
        let names: Vec<_> = good.headers.iter().map(|(name, _)| name.as_str()).collect();
        let expected = [
            "content-type",
            "set-cookie",
            "set-cookie",
            "x-latin",
            "content-length",
        ];
        assert_eq!(names, expected);
        let coded = head(
            &json!({"status":200,"statusText":"a\nb","hasBody":true,"headers":[
            ["Content-Encoding","gzip"],["Content-Length","3"]]}),
        )
        .unwrap();
        assert!(coded.headers.is_empty() && coded.status_text.is_empty());
        for status in [0, 101, 199, 600, 65_535] {
            let value = json!({"status":status,"statusText":"","hasBody":true,"headers":[]});
            assert!(head(&value).is_err(), "{status}");
        }
        assert!(head(&json!({"status":200})).is_err());
        let many = vec![("a", "b"); HEADERS_MAX + 1];
        let value = json!({"status":200,"statusText":"","hasBody":true,"headers":many});
        assert!(head(&value).is_err());
    }
}
