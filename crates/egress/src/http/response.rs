//! The response of a host on its way to the guest: searched for the values of all secrets
//! of the sandbox, whatever host it comes from (REF-10).

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header, response::Parts};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::oneshot;
use tombolo_substitute::{
    BodyLength, Codings, ResponseFraming, ResponsePlan, ScrubMode, Scrubber, plan_response,
};

use super::{
    Exchange, ResponseBody, Stop, coding,
    guard::remove_hop_by_hop,
    request_body::{Meter, content_codings},
};
use crate::{
    audit::Draft,
    rules::Rules,
    sandbox::Sandbox,
    upstream::{BodyError, Lease, Sent},
};

/// Headers that would lead a client past the proxy.
const REMOVED: [&str; 1] = ["alt-svc"];

/// A response that is ready but for its record, which it carries until its end.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) parts: Parts,
    pub(super) body: ToGuest,
    /// Who carries on with the record, when the response is only a beginning.
    tunnel: Option<oneshot::Sender<Draft>>,
}

/// A body on its way to the guest. Its record is written when it is dropped.
#[derive(Debug)]
pub(super) struct ToGuest {
    inner: ResponseBody,
    scrubber: Option<Scrubber>,
    trailer_scrub: Option<(Arc<Sandbox>, Arc<Rules>)>,
    trailers: Option<HeaderMap>,
    is_finished: bool,
    length: Option<u64>,
    lease: Option<Lease>,
    bytes: u64,
    meter: Arc<Meter>,
    draft: Option<Draft>,
}

/// Takes what the host answered.
pub(super) async fn take(
    exchange: &mut Exchange,
    sent: Sent,
    is_head: bool,
    meter: Arc<Meter>,
) -> Result<Reply, Stop> {
    let (mut parts, body) = sent.response.into_parts();
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        // Nobody asked for it (HTTP-13).
        exchange.note_body(&meter);
        return Err(Stop::upstream("upstream_upgrade"));
    }
    clean(&mut parts);
    exchange.draft.record.status = Some(parts.status.as_u16());
    let sandbox = Arc::clone(&exchange.flow.flow.sandbox);
    let rules = Arc::clone(&exchange.rules);
    let length = if is_head {
        None
    } else {
        body.size_hint().exact()
    };
    let mut to_guest = ToGuest {
        inner: pass(body),
        scrubber: None,
        trailer_scrub: None,
        trailers: None,
        is_finished: false,
        length,
        lease: Some(sent.lease),
        bytes: 0,
        meter: Arc::clone(&meter),
        draft: None,
    };
    if rules.secrets.is_empty() {
        return Ok(Reply::new(parts, to_guest));
    }
    exchange.draft.record.scrubbed += scrub_headers(&sandbox, &rules, &mut parts.headers);
    to_guest.trailer_scrub = Some((Arc::clone(&sandbox), Arc::clone(&rules)));
    let plan = match plan_response(&framing(&parts, is_head, &to_guest)) {
        Ok(plan) => plan,
        Err(refusal) => {
            exchange.note_body(&meter);
            return Err(refusal.into());
        }
    };
    let scrub = Scrub { sandbox, rules };
    scrub.apply(&mut parts.headers, &mut to_guest, plan).await?;
    Ok(Reply::new(parts, to_guest))
}

/// Removes what is about the connection to the host, and its reason phrase.
pub(super) fn clean(parts: &mut Parts) {
    remove_hop_by_hop(&mut parts.headers);
    for name in REMOVED {
        parts.headers.remove(name);
    }
    parts.extensions.clear();
}

/// Searches the values of headers; says how many were changed.
pub(super) fn scrub_headers(sandbox: &Sandbox, rules: &Rules, headers: &mut HeaderMap) -> u64 {
    let mut scrubbed = 0;
    for value in headers.values_mut() {
        let found = sandbox.scrub(rules, ScrubMode::Placeholder, value.as_bytes());
        if let Some(clean) = found {
            // A placeholder is text; if the rest is not, nothing of it is passed on.
            *value = HeaderValue::from_bytes(&clean).unwrap_or(HeaderValue::from_static(""));
            scrubbed += 1;
        }
    }
    scrubbed
}

fn pass(body: Incoming) -> ResponseBody {
    body.map_err(|error| -> BodyError { Box::new(error) })
        .boxed_unsync()
}

fn framing<'a>(parts: &'a Parts, is_head: bool, body: &ToGuest) -> ResponseFraming<'a> {
    let content_type = parts.headers.get(header::CONTENT_TYPE);
    let has_none = is_head
        || parts.status == StatusCode::NO_CONTENT
        || parts.status == StatusCode::NOT_MODIFIED;
    ResponseFraming {
        content_type: content_type.and_then(|value| value.to_str().ok()),
        length: match body.length {
            _ if has_none => BodyLength::Empty,
            Some(0) => BodyLength::Empty,
            Some(bytes) => BodyLength::Known(bytes),
            None => BodyLength::Unknown,
        },
        codings: content_codings(&parts.headers),
    }
}

struct Scrub {
    sandbox: Arc<Sandbox>,
    rules: Arc<Rules>,
}

impl Scrub {
    async fn apply(
        &self,
        headers: &mut HeaderMap,
        body: &mut ToGuest,
        plan: ResponsePlan,
    ) -> Result<(), Stop> {
        match plan {
            ResponsePlan::HeadersOnly => {}
            ResponsePlan::Stream { codings } => {
                self.stream(headers, body, &codings, ScrubMode::Placeholder);
                unknown_length(headers, body);
            }
            ResponsePlan::Mask { codings } => {
                self.stream(headers, body, &codings, ScrubMode::Mask);
                if !codings.is_empty() {
                    unknown_length(headers, body);
                }
            }
            ResponsePlan::Buffer { codings, max_bytes } => {
                self.buffer(headers, body, &codings, max_bytes).await?;
            }
        }
        Ok(())
    }

    fn stream(
        &self,
        headers: &mut HeaderMap,
        body: &mut ToGuest,
        codings: &Codings,
        mode: ScrubMode,
    ) {
        if !codings.is_empty() {
            headers.remove(header::CONTENT_ENCODING);
            let inner = std::mem::replace(&mut body.inner, empty());
            body.inner = coding::decode_stream(inner, codings);
        }
        body.scrubber = self.sandbox.scrubber(&self.rules, mode);
    }

    /// A short text is read whole, so that it keeps a length, and its coding if nothing
    /// is found in it.
    async fn buffer(
        &self,
        headers: &mut HeaderMap,
        body: &mut ToGuest,
        codings: &Codings,
        max_bytes: u64,
    ) -> Result<(), Stop> {
        let raw = std::mem::replace(&mut body.inner, empty());
        let raw = raw
            .collect()
            .await
            .map_err(|_broken: BodyError| Stop::upstream("upstream_body"))?
            .to_bytes();
        if let Some(lease) = body.lease.take() {
            lease.give_back();
        }
        let max = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        let decoded = match coding::decode(&raw, codings, max).await {
            Ok(decoded) => decoded,
            Err(coding::DecodeError::TooLong) => {
                body.inner = full(raw);
                self.stream(headers, body, codings, ScrubMode::Placeholder);
                unknown_length(headers, body);
                return Ok(());
            }
            Err(coding::DecodeError::Broken(_)) => {
                return Err(Stop::secret(
                    &tombolo_substitute::Refusal::UnscannableEncoding,
                ));
            }
        };
        let found = self
            .sandbox
            .scrub(&self.rules, ScrubMode::Placeholder, &decoded);
        let Some(clean) = found else {
            body.inner = full(raw);
            return Ok(());
        };
        headers.remove(header::CONTENT_ENCODING);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(clean.len()));
        body.length = Some(clean.len() as u64);
        body.inner = full(Bytes::from(clean));
        body.meter.scrubbed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

fn unknown_length(headers: &mut HeaderMap, body: &mut ToGuest) {
    headers.remove(header::CONTENT_LENGTH);
    body.length = None;
}

fn empty() -> ResponseBody {
    full(Bytes::new())
}

fn full(bytes: Bytes) -> ResponseBody {
    Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}

impl Reply {
    /// The response, with the record that its end completes.
    pub(super) fn into_response(mut self, draft: Draft) -> Response<ResponseBody> {
        match self.tunnel.take() {
            // If nobody carries on, the record is complete as it is.
            Some(tunnel) => drop(tunnel.send(draft)),
            None => self.body.draft = Some(draft),
        }
        Response::from_parts(self.parts, self.body.boxed_unsync())
    }

    /// A response without a body.
    pub(super) fn bare(parts: Parts) -> Self {
        let body = ToGuest {
            inner: empty(),
            scrubber: None,
            trailer_scrub: None,
            trailers: None,
            is_finished: false,
            length: None,
            lease: None,
            bytes: 0,
            meter: Arc::default(),
            draft: None,
        };
        Self::new(parts, body)
    }

    fn new(parts: Parts, body: ToGuest) -> Self {
        Self {
            parts,
            body,
            tunnel: None,
        }
    }

    /// Leaves the record to somebody else.
    pub(super) fn with_tunnel(mut self, tunnel: oneshot::Sender<Draft>) -> Self {
        self.tunnel = Some(tunnel);
        self
    }
}

impl ToGuest {
    fn frame(&mut self, data: Vec<u8>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.bytes = self.bytes.saturating_add(data.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(data)))))
    }

    fn finish(&mut self) -> Option<Vec<u8>> {
        self.is_finished = true;
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
        let mut rest = Vec::new();
        if let Some(scrubber) = &mut self.scrubber {
            scrubber.finish(&mut rest);
        }
        (!rest.is_empty()).then_some(rest)
    }

    fn take_trailers(&mut self, mut trailers: HeaderMap) {
        if let Some((sandbox, rules)) = &self.trailer_scrub {
            let scrubbed = scrub_headers(sandbox, rules, &mut trailers);
            self.meter.scrubbed.fetch_add(scrubbed, Ordering::Relaxed);
        }
        self.trailers = Some(trailers);
    }
}

impl Body for ToGuest {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        loop {
            if this.is_finished {
                let trailers = this.trailers.take();
                return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
            }
            let frame = match ready!(Pin::new(&mut this.inner).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    if let Some(draft) = &mut this.draft {
                        draft.record.failed("upstream_body");
                    }
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    if let Some(rest) = this.finish() {
                        return this.frame(rest);
                    }
                    continue;
                }
            };
            match frame.into_data() {
                Ok(data) => {
                    let Some(scrubber) = &mut this.scrubber else {
                        this.bytes = this.bytes.saturating_add(data.len() as u64);
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    };
                    let mut out = Vec::with_capacity(data.len());
                    scrubber.push(&data, &mut out);
                    if !out.is_empty() {
                        return this.frame(out);
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        this.take_trailers(trailers);
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_finished && self.trailers.is_none()
            || self.scrubber.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, |length| {
            SizeHint::with_exact(length.saturating_sub(self.bytes))
        })
    }
}

impl Drop for ToGuest {
    fn drop(&mut self) {
        // A body that ended by itself may not have been asked for its end.
        if !self.is_finished && self.inner.is_end_stream() {
            self.finish();
        }
        let Some(draft) = &mut self.draft else {
            return;
        };
        let record = &mut draft.record;
        record.req_bytes = self.meter.bytes.load(Ordering::Relaxed);
        record.found(&self.meter.findings.lock());
        record.resp_bytes = self.bytes;
        record.scrubbed += self.meter.scrubbed.load(Ordering::Relaxed);
        record.scrubbed += self.scrubber.as_ref().map_or(0, Scrubber::scrubbed);
    }
}
