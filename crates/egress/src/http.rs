//! HTTP of a guest, ended here and sent on anew.
//!
//! Nothing of a request is forwarded because it was there: the head is checked
//! ([`guard`]), decided on ([`decide`]), written anew with values for placeholders
//! ([`credentials`], [`forward`]), and the response is searched for values ([`response`]).
//!
//! Guests choose every byte that comes in here. Nothing panics, everything is bounded, and
//! answers are constant texts.

mod answer;
mod coding;
pub(crate) mod credentials;
mod decide;
mod forward;
mod framing;
mod guard;
mod open;
mod request_body;
mod response;
mod search;
mod websocket;

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::{
    body::{Body as _, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::InspectReader;
use tombolo_policy::Target;

pub(crate) use answer::Stop;
use open::Terms;

use crate::{
    audit::Draft,
    flow::{Admission, Flow},
    identity::Scheme,
    rules::Rules,
    upstream::BodyError,
};

/// A body on its way to the guest.
pub(crate) type ResponseBody = UnsyncBoxBody<Bytes, BodyError>;

/// How long the head of a request may take, and a connection may wait for one (NET-18).
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// What the head of a request may have.
const HEAD_LEN_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 128;
/// HTTP-24.
const STREAMS_MAX: u32 = 128;
const PENDING_RESETS_MAX: usize = 32;
/// What a guest may send ahead of what the host takes. The way to a guest is short, so more
/// would carry no more, and each connection of it may be filled.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 512 << 10;
const SEND_BUFFER_BYTES: usize = 64 << 10;
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// A flow that speaks HTTP.
#[derive(Debug)]
pub(crate) struct HttpFlow {
    pub(crate) flow: Arc<Flow>,
    pub(crate) scheme: Scheme,
    pub(crate) proto: &'static str,
    /// The record of the connection, until a request has one of its own.
    opening: Mutex<Option<Draft>>,
}

impl HttpFlow {
    pub(crate) fn new(
        flow: Arc<Flow>,
        scheme: Scheme,
        proto: &'static str,
        mut opening: Draft,
    ) -> Arc<Self> {
        opening.record.proto = proto;
        Arc::new(Self {
            flow,
            scheme,
            proto,
            opening: Mutex::new(Some(opening)),
        })
    }

    fn is_http2(&self) -> bool {
        self.proto == "h2"
    }

    /// Records what came of a connection besides its requests.
    async fn ended(&self, ended: Result<(), hyper::Error>) {
        let is_malformed = ended.as_ref().is_err_and(hyper::Error::is_parse);
        let is_timeout = ended.as_ref().is_err_and(hyper::Error::is_timeout);
        let opening = self.opening.lock().take();
        let mut draft = match opening {
            Some(draft) => draft,
            None if is_malformed => self.flow.begin_record(self.proto),
            None => return,
        };
        if is_malformed {
            draft.record.refused("malformed_request");
            draft.keep().await;
        } else if is_timeout {
            draft.record.refused("head_timeout");
            draft.keep().await;
        }
    }
}

/// Serves HTTP/1.1 until the connection ends.
pub(crate) async fn serve_http1<S>(flow: Arc<HttpFlow>, stream: S)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    serve_http1_with(flow, stream, &http1_builder()).await;
}

/// Serves one request, which will be refused.
pub(crate) async fn serve_http1_once<S>(flow: Arc<HttpFlow>, stream: S)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut builder = http1_builder();
    builder.keep_alive(false);
    serve_http1_with(flow, stream, &builder).await;
}

fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_LEN_MAX);
    builder
}

async fn serve_http1_with<S>(flow: Arc<HttpFlow>, stream: S, builder: &http1::Builder)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let handler = Arc::clone(&flow);
    // The number of the request that has two lengths, and of the next.
    let two_lengths = Arc::new(AtomicU64::new(u64::MAX));
    let serial = AtomicU64::new(0);
    let (found, mut framing) = (Arc::clone(&two_lengths), framing::Framing::new());
    let stream = InspectReader::new(stream, move |bytes: &[u8]| {
        if let Some(serial) = framing.read(bytes) {
            found.store(serial, Ordering::Relaxed);
        }
    });
    let service = service_fn(move |mut request: Request<Incoming>| {
        if serial.fetch_add(1, Ordering::Relaxed) == two_lengths.load(Ordering::Relaxed) {
            request.extensions_mut().insert(guard::TwoLengths);
        }
        handle(Arc::clone(&handler), request)
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    flow.ended(connection.with_upgrades().await).await;
}

/// Serves HTTP/2 until the connection ends.
pub(crate) async fn serve_http2<S>(flow: Arc<HttpFlow>, stream: S)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let handler = Arc::clone(&flow);
    let service = service_fn(move |request| handle(Arc::clone(&handler), request));
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(HEAD_LEN_MAX).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(PENDING_RESETS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .serve_connection(TokioIo::new(stream), service);
    flow.ended(connection.await).await;
}

/// Answers one request, whatever it is, and records it.
async fn handle(
    flow: Arc<HttpFlow>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    if let Some(opening) = flow.opening.lock().take() {
        opening.discard();
    }
    let rules = flow.flow.sandbox.rules();
    let mut draft = flow.flow.begin_record(flow.proto);
    note_request(&mut draft, &rules, &request);
    let mut exchange = Exchange { flow, rules, draft };
    match exchange.run(request).await {
        Ok(reply) => Ok(reply.into_response(exchange.draft)),
        Err(stop) => {
            stop.note(&mut exchange.draft.record);
            exchange.draft.keep().await;
            Ok(stop.into_response(exchange.draft.id()))
        }
    }
}

/// One request on its way.
struct Exchange {
    flow: Arc<HttpFlow>,
    rules: Arc<Rules>,
    draft: Draft,
}

impl Exchange {
    async fn run(&mut self, request: Request<Incoming>) -> Result<response::Reply, Stop> {
        if self.flow.flow.admission == Admission::RefusedName {
            return Err(self.refuse_named(&request));
        }
        let decision = self.flow.flow.decide(&self.rules);
        self.draft.record.decided(&decision);
        let (mut parts, body) = request.into_parts();
        let checked = guard::check(&mut parts, &self.flow)?;
        if !decision.is_allowed() {
            return Err(Stop::denied(&decision, None));
        }
        let sandbox = Arc::clone(&self.flow.flow.sandbox);
        let room = sandbox.admit_request().ok_or_else(too_many_requests)?;
        let shape = (!body.is_end_stream(), body.size_hint().exact());
        let decided = self.decide(&parts, body).await?;
        let place = &self.flow.flow.place;
        let terms = Terms::new(&sandbox, place, &self.rules, &parts, shape);
        let mut watch = terms.watch();
        let carry = async {
            match checked {
                guard::Kind::WebSocket => self.websocket(parts, decided, &terms).await,
                guard::Kind::Plain => self.forward(parts, decided, &terms).await,
            }
        };
        let reply = tokio::select! {
            // No step is taken under rules that are known to have changed.
            biased;
            code = watch.ended() => return Err(Stop::no_longer_allowed(code)),
            reply = carry => reply?,
        };
        Ok(reply.with_room(room))
    }
}

impl Exchange {
    /// Says why the name that a request is for is refused.
    fn refuse_named(&mut self, request: &Request<Incoming>) -> Stop {
        let Some(name) = guard::named(request) else {
            return Stop::refused(
                http::StatusCode::BAD_REQUEST,
                "missing_host",
                "There is no Host.",
            );
        };
        let flow = &self.flow.flow;
        let decision = flow.refuse(&self.rules, Target::Name(&name));
        self.draft.record.name = Some(name.to_string());
        self.draft.record.decided(&decision);
        Stop::denied(&decision, None)
    }
}

fn too_many_requests() -> Stop {
    Stop::refused(
        http::StatusCode::TOO_MANY_REQUESTS,
        "too_many_requests",
        "This sandbox has too many requests under way.",
    )
}

fn note_request(draft: &mut Draft, rules: &Rules, request: &Request<Incoming>) {
    let record = &mut draft.record;
    record.policy_gen = rules.policy.generation();
    record.method = Some(request.method().to_string());
    record.path = Some(request.uri().path().to_owned());
    let pairs = request.uri().query().unwrap_or_default().split('&');
    let keys = pairs.filter_map(|pair| pair.split('=').next());
    record.query_keys = keys
        .filter(|key| !key.is_empty())
        .take(tombolo_policy::QUERY_PAIRS_MAX.min(64))
        .map(str::to_owned)
        .collect();
    let media_type = request.headers().get(http::header::CONTENT_TYPE);
    if media_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
        record.proto = "grpc";
    }
}
