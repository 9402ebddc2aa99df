//! The body of a request on its way to the host: counted, limited, and with values for
//! placeholders where a secret is wanted in bodies.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderValue, header};
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use parking_lot::Mutex;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep, sleep},
};
use tombolo_substitute::{
    BodyKind, BodyLength, BodyPlan, BodySubstitution, Codings, Findings, OnChange, Refusal,
    RequestFraming, RequestSubstitution, UnknownCoding, UpstreamFraming, is_digest_header,
};

use super::{
    answer::Stop,
    coding::{DecodeError, Decoder, is_too_dense},
    decide::GuestBody,
    guard::is_grpc,
    open::{Terms, Watch},
};
use crate::upstream::{BodyError, RequestBody};

/// How long a guest may be silent in the middle of a body (NET-18).
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_mins(2);

/// What is known of a body while it flows and when it has ended.
#[derive(Debug)]
pub(super) struct Meter {
    /// From the guest, as sent.
    pub(super) bytes: AtomicU64,
    /// More came than a rule allows.
    pub(super) is_over_limit: AtomicBool,
    /// The guest broke off.
    pub(super) is_broken: AtomicBool,
    /// It decodes to more than it may.
    is_too_dense: AtomicBool,
    pub(super) findings: Mutex<Findings>,
    /// Values found in the response.
    pub(super) scrubbed: AtomicU64,
    /// The rules changed, and no longer let it through.
    ended: Mutex<Option<&'static str>>,
    terms: Arc<Terms>,
}

/// The sum of `Content-Encoding`.
pub(super) fn content_codings(headers: &HeaderMap) -> Result<Codings, UnknownCoding> {
    let lines = headers.get_all(header::CONTENT_ENCODING).iter();
    let texts: Result<Vec<&str>, _> = lines.map(HeaderValue::to_str).collect();
    match texts {
        Ok(texts) => Codings::parse(&texts.join(",")),
        Err(_not_text) => Err(UnknownCoding),
    }
}

/// Makes the body that is sent and adjusts the headers that describe it.
pub(super) async fn prepare(
    headers: &mut HeaderMap,
    body: GuestBody,
    substitution: Option<&RequestSubstitution>,
    upstream: UpstreamFraming,
    limits: (Option<u64>, &Arc<Meter>),
) -> Result<RequestBody, Stop> {
    let (limit_bytes, meter) = limits;
    let framing = framing(headers, &body, upstream);
    let plan = match substitution {
        Some(substitution) => substitution.plan_body(&framing)?,
        None => BodyPlan::Untouched,
    };
    if framing.length == BodyLength::Empty {
        let empty = Empty::new().map_err(|never| match never {});
        return Ok(empty.boxed_unsync());
    }
    let trailers = if is_grpc(headers) {
        Trailers::Kept
    } else {
        Trailers::Dropped
    };
    let length = body.length();
    let raw = body.into_stream(limit_bytes, meter, trailers);
    let (Some(substitution), Some(kind)) = (substitution, &framing.kind) else {
        return Ok(raw);
    };
    if !matches!(plan, BodyPlan::Untouched | BodyPlan::Literal) {
        meter.terms.expect(substitution.usable(kind.slot()));
    }
    Ok(match plan {
        BodyPlan::Untouched | BodyPlan::Literal => raw,
        BodyPlan::SameLength => substituted(raw, substitution.body(kind), meter, length),
        BodyPlan::Stream { codings } => {
            headers.remove(header::CONTENT_LENGTH);
            headers.remove(header::CONTENT_ENCODING);
            let decoder = meter.terms.decoder(codings).await?;
            let decoded = decoder.stream(raw);
            substituted(decoded, substitution.body(kind), meter, None)
        }
        BodyPlan::Buffer {
            codings,
            max_bytes,
            on_change,
        } => {
            let substitution = substitution.body(kind);
            // What a coded body becomes is not known, and it is held decoded.
            let room = if codings.is_empty() {
                length.unwrap_or(max_bytes).min(max_bytes)
            } else {
                max_bytes
            };
            let buffer = Buffer {
                max_bytes,
                on_change,
                room: meter.terms.reserve_buffer(room).await?,
                decoder: meter.terms.decoder(codings).await?,
            };
            buffer.run(headers, raw, substitution, meter).await?
        }
    })
}

fn framing(headers: &HeaderMap, body: &GuestBody, upstream: UpstreamFraming) -> RequestFraming {
    let content_type = headers.get(header::CONTENT_TYPE);
    RequestFraming {
        kind: content_type
            .and_then(|value| value.to_str().ok())
            .and_then(BodyKind::of_content_type),
        length: if body.is_empty() {
            BodyLength::Empty
        } else {
            body.length().map_or(BodyLength::Unknown, BodyLength::Known)
        },
        codings: content_codings(headers),
        has_digest: headers
            .iter()
            .any(|(name, value)| is_digest_header(name.as_str(), value.as_bytes())),
        upstream,
        buffer_max_bytes: tombolo_substitute::BODY_BUFFER_LEN_MAX,
        is_strict: false,
    }
}

impl GuestBody {
    pub(super) fn is_empty(&self) -> bool {
        self.ahead.is_empty() && self.rest.is_end_stream()
    }

    /// Bytes of all of it, where that is known.
    fn length(&self) -> Option<u64> {
        let rest = if self.rest.is_end_stream() {
            0
        } else {
            self.rest.size_hint().exact()?
        };
        rest.checked_add(self.ahead.len() as u64)
    }

    fn into_stream(
        self,
        limit_bytes: Option<u64>,
        meter: &Arc<Meter>,
        trailers: Trailers,
    ) -> RequestBody {
        let length = self.length();
        let guest = FromGuest {
            ahead: self.ahead,
            rest: self.rest,
            limit_bytes,
            length,
            meter: Arc::clone(meter),
            trailers,
            patience: Box::pin(sleep(IDLE_TIMEOUT)),
            watch: meter.watch(),
            _room: self.room,
        };
        guest.boxed_unsync()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trailers {
    Kept,
    Dropped,
}

/// A body as it comes from the guest.
struct FromGuest {
    ahead: Bytes,
    rest: Incoming,
    limit_bytes: Option<u64>,
    length: Option<u64>,
    meter: Arc<Meter>,
    trailers: Trailers,
    patience: Pin<Box<Sleep>>,
    watch: Watch,
    /// For what was read ahead.
    _room: Option<OwnedSemaphorePermit>,
}

/// Why a body is not read to its end. Guests do not see these.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum GuestBodyError {
    #[error("the body is longer than a rule allows")]
    OverLimit,
    #[error("the guest was silent in the middle of a body")]
    Idle,
    #[error("the rules changed in the middle of a body")]
    Ended,
}

impl FromGuest {
    fn admit(&self, data: Bytes) -> Result<Frame<Bytes>, BodyError> {
        let len = data.len() as u64;
        let sum = self.meter.bytes.fetch_add(len, Ordering::Relaxed) + len;
        if self.limit_bytes.is_some_and(|limit| sum > limit) {
            self.meter.is_over_limit.store(true, Ordering::Relaxed);
            return Err(Box::new(GuestBodyError::OverLimit));
        }
        Ok(Frame::data(data))
    }
}

impl Body for FromGuest {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Poll::Ready(code) = this.watch.poll_end(context) {
            *this.meter.ended.lock() = Some(code);
            return Poll::Ready(Some(Err(Box::new(GuestBodyError::Ended))));
        }
        if !this.ahead.is_empty() {
            let ahead = std::mem::take(&mut this.ahead);
            return Poll::Ready(Some(this.admit(ahead)));
        }
        let frame = match Pin::new(&mut this.rest).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(error))) => {
                this.meter.is_broken.store(true, Ordering::Relaxed);
                return Poll::Ready(Some(Err(Box::new(error))));
            }
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {
                ready!(this.patience.as_mut().poll(context));
                this.meter.is_broken.store(true, Ordering::Relaxed);
                return Poll::Ready(Some(Err(Box::new(GuestBodyError::Idle))));
            }
        };
        this.patience.as_mut().reset(Instant::now() + IDLE_TIMEOUT);
        match frame.into_data() {
            Ok(data) => Poll::Ready(Some(this.admit(data))),
            Err(trailers) if this.trailers == Trailers::Kept => Poll::Ready(Some(Ok(trailers))),
            Err(_trailers) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // It is asked before the first byte alone.
        self.length
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Substitutes as it flows.
fn substituted(
    body: RequestBody,
    substitution: BodySubstitution,
    meter: &Arc<Meter>,
    length: Option<u64>,
) -> RequestBody {
    let state = Some((body, substitution, Arc::clone(meter)));
    let frames = futures_util::stream::unfold(state, async |state| {
        let (mut body, mut substitution, meter) = state?;
        let mut out = Vec::new();
        loop {
            match body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        substitution.push(&data, &mut out);
                        if !out.is_empty() {
                            let frame = Frame::data(Bytes::from(out));
                            return Some((Ok(frame), Some((body, substitution, meter))));
                        }
                    }
                    // Substitution is never in gRPC, and only there do trailers come.
                    Err(_trailers) => {}
                },
                Some(Err(error)) => {
                    let is_dense = is_too_dense(&error);
                    meter.is_too_dense.fetch_or(is_dense, Ordering::Relaxed);
                    return Some((Err(error), None));
                }
                None => {
                    let findings = substitution.finish(&mut out);
                    meter.terms.settle(&findings);
                    meter.findings.lock().merge(findings);
                    return Some((Ok(Frame::data(Bytes::from(out))), None));
                }
            }
        }
    });
    let body = StreamBody::new(frames.boxed()).boxed_unsync();
    match length {
        Some(length) => Sized { body, length }.boxed_unsync(),
        None => body,
    }
}

/// A body whose length was declared.
struct Sized {
    body: RequestBody,
    length: u64,
}

impl Body for Sized {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}

/// A body that is read whole.
struct Buffer {
    max_bytes: u64,
    on_change: OnChange,
    room: OwnedSemaphorePermit,
    decoder: Decoder,
}

impl Buffer {
    async fn run(
        self,
        headers: &mut HeaderMap,
        body: RequestBody,
        mut substitution: BodySubstitution,
        meter: &Meter,
    ) -> Result<RequestBody, Stop> {
        let raw = self.read(body, meter).await?;
        let max = usize::try_from(self.max_bytes).unwrap_or(usize::MAX);
        let decoded = match self.decoder.whole(&raw, max).await {
            Ok(decoded) => decoded,
            Err(DecodeError::TooLong) => return Err(self.too_large().into()),
            Err(DecodeError::TooDense(_)) => return Err(too_dense()),
            // A body that only pretends to be coded goes on as it is.
            Err(DecodeError::Broken(_)) => {
                meter.terms.settle(&Findings::default());
                return Ok(full(headers, raw, self.room));
            }
        };
        let mut out = Vec::with_capacity(decoded.len());
        substitution.push(&decoded, &mut out);
        let findings = substitution.finish(&mut out);
        let is_changed = findings.substituted() > 0;
        meter.terms.settle(&findings);
        meter.findings.lock().merge(findings);
        if !is_changed {
            return Ok(full(headers, raw, self.room));
        }
        if self.on_change == OnChange::Refuse {
            return Err(Refusal::DigestWouldBreak.into());
        }
        headers.remove(header::CONTENT_ENCODING);
        Ok(full(headers, Bytes::from(out), self.room))
    }

    async fn read(&self, mut body: RequestBody, meter: &Meter) -> Result<Bytes, Stop> {
        let mut raw = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_guest: BodyError| broken_body(meter))?;
            if let Ok(data) = frame.into_data() {
                raw.extend_from_slice(&data);
            }
            if raw.len() as u64 > self.max_bytes {
                return Err(self.too_large().into());
            }
        }
        Ok(Bytes::from(raw))
    }

    fn too_large(&self) -> Refusal {
        Refusal::BodyTooLarge {
            max_bytes: self.max_bytes,
        }
    }
}

impl Meter {
    pub(super) fn of(terms: &Arc<Terms>) -> Arc<Self> {
        Arc::new(Self {
            bytes: AtomicU64::default(),
            is_over_limit: AtomicBool::default(),
            is_broken: AtomicBool::default(),
            is_too_dense: AtomicBool::default(),
            findings: Mutex::default(),
            scrubbed: AtomicU64::default(),
            ended: Mutex::default(),
            terms: Arc::clone(terms),
        })
    }

    pub(super) fn watch(&self) -> Watch {
        self.terms.watch()
    }

    /// Whether it is the guest's fault that a request was not sent whole.
    pub(super) fn is_at_fault(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
            || self.is_over_limit.load(Ordering::Relaxed)
            || self.is_too_dense.load(Ordering::Relaxed)
            || self.ended.lock().is_some()
    }
}

/// What to answer when the guest's own body is what failed.
pub(super) fn broken_body(meter: &Meter) -> Stop {
    if let Some(code) = *meter.ended.lock() {
        return Stop::no_longer_allowed(code);
    }
    if meter.is_over_limit.load(Ordering::Relaxed) {
        return Stop::refused(
            http::StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            "The body is longer than the rule allows.",
        );
    }
    if meter.is_too_dense.load(Ordering::Relaxed) {
        return too_dense();
    }
    ended_early()
}

/// The body decodes to far more than it has (HTTP-24).
fn too_dense() -> Stop {
    Stop::refused(
        http::StatusCode::PAYLOAD_TOO_LARGE,
        "body_too_dense",
        "The body decodes to more than a hundred times its length.",
    )
}

/// The guest broke off in the middle of a body, or was silent for too long.
pub(super) fn ended_early() -> Stop {
    Stop::refused(
        http::StatusCode::BAD_REQUEST,
        "request_body",
        "The body of the request ended early.",
    )
}

/// A body in memory, and the room that it takes until it is sent.
fn full(headers: &mut HeaderMap, bytes: Bytes, room: OwnedSemaphorePermit) -> RequestBody {
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    Full::new(bytes)
        .map_err(move |never| {
            let _held = &room;
            match never {}
        })
        .boxed_unsync()
}
