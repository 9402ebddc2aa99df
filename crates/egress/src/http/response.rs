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
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tombolo_substitute::{
    BodyLength, Codings, ResponseFraming, ResponsePlan, ScrubMode, plan_response,
};

use super::{
    Exchange, ResponseBody, Stop, coding,
    guard::remove_hop_by_hop,
    open::Watch,
    request_body::{Meter, content_codings},
    search::{Search, SecretsChanged},
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
    searching: Searching,
    /// Who searches trailers.
    scrub: Option<Scrub>,
    trailers: Option<HeaderMap>,
    is_finished: bool,
    length: Option<u64>,
    lease: Option<Lease>,
    bytes: u64,
    /// None where the body is none.
    meter: Option<Arc<Meter>>,
    watch: Option<Watch>,
    draft: Option<Draft>,
    room: Option<OwnedSemaphorePermit>,
}

/// How a body is searched.
#[derive(Debug)]
enum Searching {
    /// It was, or there is none.
    Done,
    /// There were no secrets when it began, and its framing promises what a search could not
    /// keep: it ends when there are.
    Unneeded,
    Stream(Search),
}

/// Why a body does not reach its end.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the response is not passed on any further: {0}")]
struct Ended(&'static str);

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
        searching: Searching::Unneeded,
        scrub: Some(Scrub {
            sandbox: Arc::clone(&sandbox),
            rules: Arc::clone(&rules),
        }),
        trailers: None,
        is_finished: false,
        length,
        lease: Some(sent.lease),
        bytes: 0,
        watch: Some(meter.watch()),
        meter: Some(Arc::clone(&meter)),
        draft: None,
        room: None,
    };
    exchange.draft.record.scrubbed += scrub_headers(&sandbox, &rules, &mut parts.headers);
    if rules.secrets.is_empty() && sandbox.rules().secrets.is_empty() {
        return Ok(Reply::new(parts, to_guest));
    }
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

/// Searches by the rules of an exchange, and by those that hold when it is asked.
#[derive(Debug)]
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
            ResponsePlan::HeadersOnly => body.searching = Searching::Done,
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
        body.searching = Searching::Stream(Search::new(&self.sandbox, &self.rules, mode));
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
        body.searching = Searching::Done;
        let Some(clean) = found else {
            body.inner = full(raw);
            return Ok(());
        };
        headers.remove(header::CONTENT_ENCODING);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(clean.len()));
        body.length = Some(clean.len() as u64);
        body.inner = full(Bytes::from(clean));
        body.note_scrubbed(1);
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
            searching: Searching::Done,
            scrub: None,
            trailers: None,
            is_finished: false,
            length: None,
            lease: None,
            bytes: 0,
            meter: None,
            watch: None,
            draft: None,
            room: None,
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

    /// Keeps the place of a request taken until the response has ended.
    pub(super) fn with_room(mut self, room: OwnedSemaphorePermit) -> Self {
        self.body.room = Some(room);
        self
    }

    /// Leaves the record to somebody else.
    pub(super) fn with_tunnel(mut self, tunnel: oneshot::Sender<Draft>) -> Self {
        self.tunnel = Some(tunnel);
        self
    }
}

impl ToGuest {
    fn frame(&mut self, data: Bytes) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.bytes = self.bytes.saturating_add(data.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn finish(&mut self) -> Option<Vec<u8>> {
        self.is_finished = true;
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
        let mut rest = Vec::new();
        if let Searching::Stream(search) = &mut self.searching {
            search.finish(&mut rest);
        }
        (!rest.is_empty()).then_some(rest)
    }

    /// What of a piece may be passed on; nothing where all of it is held back.
    fn search(&mut self, data: Bytes) -> Result<Option<Bytes>, Ended> {
        let changed = Ended("secrets_changed");
        match &mut self.searching {
            Searching::Done => Ok(Some(data)),
            Searching::Unneeded => {
                let is_needed = self
                    .scrub
                    .as_ref()
                    .is_some_and(|scrub| !scrub.sandbox.rules().secrets.is_empty());
                if is_needed {
                    Err(changed)
                } else {
                    Ok(Some(data))
                }
            }
            Searching::Stream(search) => {
                let mut out = Vec::with_capacity(data.len());
                search
                    .push(&data, &mut out)
                    .map_err(|SecretsChanged| changed)?;
                Ok((!out.is_empty()).then(|| Bytes::from(out)))
            }
        }
    }

    /// Ends the body before its end.
    fn break_off<E>(
        &mut self,
        code: &'static str,
        error: E,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>>
    where
        E: Into<BodyError>,
    {
        if let Some(draft) = &mut self.draft {
            draft.record.failed(code);
        }
        // The connection to the host is not used again.
        self.lease = None;
        Poll::Ready(Some(Err(error.into())))
    }

    fn note_scrubbed(&self, count: u64) {
        if let Some(meter) = &self.meter {
            meter.scrubbed.fetch_add(count, Ordering::Relaxed);
        }
    }

    fn take_trailers(&mut self, mut trailers: HeaderMap) {
        if let Some(scrub) = &self.scrub {
            let scrubbed = scrub_headers(&scrub.sandbox, &scrub.rules, &mut trailers);
            self.note_scrubbed(scrubbed);
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
            if let Some(Poll::Ready(code)) =
                this.watch.as_mut().map(|watch| watch.poll_end(context))
            {
                return this.break_off(code, Ended(code));
            }
            let frame = match ready!(Pin::new(&mut this.inner).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return this.break_off("upstream_body", error),
                None => {
                    if let Some(rest) = this.finish() {
                        return this.frame(rest.into());
                    }
                    continue;
                }
            };
            match frame.into_data() {
                Ok(data) => match this.search(data) {
                    Ok(Some(out)) => return this.frame(out),
                    Ok(None) => {}
                    Err(ended) => return this.break_off(ended.0, ended),
                },
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
            || !matches!(self.searching, Searching::Stream(_)) && self.inner.is_end_stream()
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
        record.resp_bytes = self.bytes;
        if let Some(meter) = &self.meter {
            record.req_bytes = meter.bytes.load(Ordering::Relaxed);
            record.found(&meter.findings.lock());
            record.scrubbed += meter.scrubbed.load(Ordering::Relaxed);
        }
        if let Searching::Stream(search) = &self.searching {
            record.scrubbed += search.scrubbed();
        }
    }
}
