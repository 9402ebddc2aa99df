//! The response of a host on its way to the guest: searched for the values of all secrets
//! of the sandbox, whatever host it comes from (REF-10).

mod body;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header, response::Parts};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tombolo_substitute::{BodyLength, ResponseFraming, ResponsePlan, ScrubMode, plan_response};

use super::{
    Exchange, ResponseBody, Stop,
    coding::{DecodeError, Decoder},
    guard::remove_hop_by_hop,
    request_body::{Meter, content_codings},
    search::Search,
};
use crate::{
    audit::Draft,
    rules::Rules,
    sandbox::Sandbox,
    upstream::{BodyError, Sent},
};
use body::{Searching, ToGuest};

/// Headers that would lead a client past the proxy.
const REMOVED: [&str; 1] = ["alt-svc"];

/// Of a body that decodes to far more than it has (HTTP-24).
const TOO_DENSE: &str = "upstream_body_too_dense";

/// A response that is ready but for its record, which it carries until its end.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) parts: Parts,
    pub(super) body: ToGuest,
    /// Who carries on with the record, when the response is only a beginning.
    tunnel: Option<oneshot::Sender<Draft>>,
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
    let has_none = is_head
        || parts.status == StatusCode::NO_CONTENT
        || parts.status == StatusCode::NOT_MODIFIED;
    let (inner, length, lease) = if has_none {
        // Over HTTP/2 a host can send one all the same. Nobody reads it: the stream ends.
        let lease = body.is_end_stream().then_some(sent.lease);
        (empty(), None, lease)
    } else {
        let length = body.size_hint().exact();
        (pass(body), length, Some(sent.lease))
    };
    let mut to_guest = ToGuest {
        inner,
        searching: Searching::Unneeded,
        scrub: Some(Scrub {
            sandbox: Arc::clone(&sandbox),
            rules: Arc::clone(&rules),
        }),
        trailers: None,
        is_finished: false,
        length,
        lease,
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
    let plan = match plan_response(&framing(&parts, has_none, &to_guest)) {
        Ok(plan) => plan,
        Err(refusal) => {
            exchange.note_body(&meter);
            return Err(refusal.into());
        }
    };
    // What is said of a part's place stays true only where its length does.
    let plan = match plan {
        ResponsePlan::Buffer { codings, .. } | ResponsePlan::Stream { codings }
            if parts.status == StatusCode::PARTIAL_CONTENT =>
        {
            ResponsePlan::Mask { codings }
        }
        plan => plan,
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

fn framing<'a>(parts: &'a Parts, has_none: bool, body: &ToGuest) -> ResponseFraming<'a> {
    let content_type = parts.headers.get(header::CONTENT_TYPE);
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
                let decoder = Decoder::new(&self.sandbox, codings).await?;
                self.stream(headers, body, decoder, ScrubMode::Placeholder);
                unknown_length(headers, body);
            }
            ResponsePlan::Mask { codings } => {
                let decoder = Decoder::new(&self.sandbox, codings).await?;
                if !decoder.is_idle() {
                    unknown_length(headers, body);
                }
                self.stream(headers, body, decoder, ScrubMode::Mask);
            }
            ResponsePlan::Buffer { codings, max_bytes } => {
                let decoder = Decoder::new(&self.sandbox, codings).await?;
                self.buffer(headers, body, decoder, max_bytes).await?;
            }
        }
        Ok(())
    }

    fn stream(
        &self,
        headers: &mut HeaderMap,
        body: &mut ToGuest,
        decoder: Decoder,
        mode: ScrubMode,
    ) {
        if !decoder.is_idle() {
            headers.remove(header::CONTENT_ENCODING);
            let inner = std::mem::replace(&mut body.inner, empty());
            body.inner = decoder.stream(inner);
        }
        body.searching = Searching::Stream(Search::new(&self.sandbox, &self.rules, mode));
    }

    /// A short text is read whole, so that it keeps a length, and its coding if nothing
    /// is found in it.
    async fn buffer(
        &self,
        headers: &mut HeaderMap,
        body: &mut ToGuest,
        decoder: Decoder,
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
        let decoded = match decoder.whole(&raw, max).await {
            Ok(decoded) => decoded,
            Err(DecodeError::TooLong) => {
                body.inner = full(raw);
                self.stream(headers, body, decoder, ScrubMode::Placeholder);
                unknown_length(headers, body);
                return Ok(());
            }
            Err(DecodeError::TooDense(_)) => return Err(Stop::upstream(TOO_DENSE)),
            Err(DecodeError::Broken(_)) => {
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
