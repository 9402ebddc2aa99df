//! Asking the request rules, with the body where they need it.

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{error::Elapsed, timeout},
};
use tombolo_policy::{Body, RequestDecision, RequestHead, Staged};

use super::{
    Exchange, Stop,
    coding::{DecodeError, Decoder},
    open::no_room,
    request_body::{IDLE_TIMEOUT, content_codings, ended_early},
};
use crate::audit::Outcome;

/// A request that may go on.
#[derive(Debug)]
pub(super) struct Decided {
    pub(super) body: GuestBody,
    /// The path to send, before substitution.
    pub(super) path: String,
    /// Refuse the request when its body turns out to be longer than this.
    pub(super) body_limit_bytes: Option<u64>,
}

/// The body of a request, with what was read of it already.
#[derive(Debug)]
pub(super) struct GuestBody {
    pub(super) ahead: Bytes,
    pub(super) rest: Incoming,
    /// For what was read ahead.
    pub(super) room: Option<OwnedSemaphorePermit>,
}

impl Exchange {
    /// Asks the rules. Nothing was sent to the host yet.
    pub(super) async fn decide(&mut self, parts: &Parts, body: Incoming) -> Result<Decided, Stop> {
        let mut body = GuestBody {
            ahead: Bytes::new(),
            rest: body,
            room: None,
        };
        let sandbox = std::sync::Arc::clone(&self.flow.flow.sandbox);
        let now = || sandbox.shared.clock.now();
        let headers: Vec<(&str, &[u8])> = parts
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        let place = &self.flow.flow.place;
        let head = RequestHead {
            target: place.peer.target(),
            port: place.port,
            method: parts.method.as_str(),
            path: parts.uri.path(),
            query: parts.uri.query(),
            headers: &headers,
            has_body: !body.rest.is_end_stream(),
            content_length: body.rest.size_hint().exact(),
        };
        let rules = std::sync::Arc::clone(&self.rules);
        let requests = rules.policy.requests();
        let staged = sandbox.with_limits(|limits| requests.decide_head(&head, limits, now()));
        let decision = match staged {
            Staged::Decided(decision) => decision,
            Staged::NeedBody { cap_bytes } => {
                let codings = content_codings(&parts.headers);
                // What a coded body becomes is not known, and it is held decoded.
                let is_coded = codings.as_ref().is_ok_and(|codings| !codings.is_empty());
                let length = head.content_length.filter(|_| !is_coded);
                let length = length.unwrap_or(cap_bytes).min(cap_bytes);
                let room = sandbox.reserve_buffer(length).await;
                body.room = Some(room.ok_or_else(no_room)?);
                let decoder = match codings {
                    Ok(codings) => Some(Decoder::new(&sandbox, codings).await?),
                    Err(_unknown) => None,
                };
                let inspected = inspect(&mut body, decoder, cap_bytes).await?;
                sandbox.with_limits(|limits| {
                    requests.decide_body(&head, inspected.as_body(), limits, now())
                })
            }
        };
        self.note_decision(&decision);
        if !decision.proceeds() {
            return Err(Stop::denied_request(&decision));
        }
        Ok(Decided {
            body,
            path: decision.path.unwrap_or_else(|| parts.uri.path().to_owned()),
            body_limit_bytes: decision.body_limit_bytes,
        })
    }

    fn note_decision(&mut self, decision: &RequestDecision) {
        let record = &mut self.draft.record;
        record.audited = decision.audited.iter().map(ToString::to_string).collect();
        // Where there are no rules, the entry that allowed the host stays in the record.
        if decision.decision.reason != tombolo_policy::Reason::NoRules {
            record.decided(&decision.decision);
        }
        if !decision.decision.is_allowed() && !decision.enforced {
            record.decision = Outcome::Audit;
        }
    }
}

/// What rules may see of a body.
enum Inspection {
    Complete(Vec<u8>),
    OverCap,
    Undecodable,
}

impl Inspection {
    fn as_body(&self) -> Body<'_> {
        match self {
            Self::Complete(bytes) => Body::Complete(bytes),
            Self::OverCap => Body::OverCap,
            Self::Undecodable => Body::Undecodable,
        }
    }
}

/// Reads a body up to the cap and decodes it. What was read stays to be sent.
async fn inspect(
    body: &mut GuestBody,
    decoder: Option<Decoder>,
    cap_bytes: u64,
) -> Result<Inspection, Stop> {
    let cap = usize::try_from(cap_bytes).unwrap_or(usize::MAX);
    let mut read = BytesMut::new();
    loop {
        let next = timeout(IDLE_TIMEOUT, body.rest.frame()).await;
        let Some(frame) = next.map_err(|_silent: Elapsed| ended_early())? else {
            break;
        };
        let frame = frame.map_err(|_broken: hyper::Error| ended_early())?;
        let Ok(data) = frame.into_data() else {
            // Trailers of a body that is read whole are of no use to anybody.
            continue;
        };
        read.extend_from_slice(&data);
        if read.len() > cap {
            body.ahead = read.freeze();
            return Ok(Inspection::OverCap);
        }
    }
    body.ahead = read.freeze();
    let Some(decoder) = decoder else {
        return Ok(Inspection::Undecodable);
    };
    Ok(match decoder.whole(&body.ahead, cap).await {
        Ok(decoded) => Inspection::Complete(decoded),
        Err(DecodeError::TooLong | DecodeError::TooDense(_)) => Inspection::OverCap,
        Err(DecodeError::Broken(_)) => Inspection::Undecodable,
    })
}
