//! Writing a request anew and sending it.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Request, header, request::Parts};
use tombolo_policy::HostName;
use tombolo_substitute::{Coding, RequestSubstitution, UpstreamFraming, accepted_codings};

use super::{
    Exchange, Stop, credentials,
    decide::Decided,
    open::Terms,
    request_body::{self, Meter},
    response::{self, Reply},
};
use crate::{
    identity::Peer,
    upstream::{Alpn, PoolKey, SendError},
};

impl Exchange {
    /// Sends a plain request and takes the response.
    pub(super) async fn forward(
        &mut self,
        mut parts: Parts,
        decided: Decided,
        terms: &Arc<Terms>,
    ) -> Result<Reply, Stop> {
        let mut substitution = self.substitution();
        self.write_head(&mut parts, &decided.path, substitution.as_mut())?;
        let key = self.pool_key(Alpn::Any);
        let sandbox = Arc::clone(&self.flow.flow.sandbox);
        self.commit_values(substitution.as_mut(), terms).await?;
        let connection = sandbox.pool.connect(&self.rules.policy, &key).await?;
        self.draft.record.resolved_ip = Some(connection.address.ip().to_string());
        self.draft.record.overridden = connection.overridden;
        let upstream = if connection.is_http2() {
            UpstreamFraming::Http2
        } else {
            UpstreamFraming::Http1
        };
        let meter = Meter::of(terms);
        let body = request_body::prepare(
            &mut parts.headers,
            decided.body,
            substitution.as_ref(),
            upstream,
            (decided.body_limit_bytes, &meter),
        )
        .await?;
        let is_head = parts.method == http::Method::HEAD;
        let request = Request::from_parts(parts, body);
        let started = tokio::time::Instant::now();
        let sent = sandbox
            .pool
            .send(&self.rules.policy, key, connection, request)
            .await;
        let ttfb_us = started.elapsed().as_micros();
        self.draft.record.ttfb_us = u64::try_from(ttfb_us).unwrap_or(u64::MAX);
        match sent {
            Ok(sent) => response::take(self, sent, is_head, meter).await,
            Err(error) => {
                self.note_body(&meter);
                Err(match &error {
                    SendError::Http(_) if meter.is_at_fault() => request_body::broken_body(&meter),
                    _ => error.into(),
                })
            }
        }
    }

    /// Records and remembers the values that were written, before anything is sent, and sends
    /// nothing where they were revoked meanwhile (SUB-23).
    pub(super) async fn commit_values(
        &mut self,
        substitution: Option<&mut RequestSubstitution>,
        terms: &Terms,
    ) -> Result<(), Stop> {
        if let Some(substitution) = substitution {
            // What a secret was used for is recorded, come what may.
            self.draft.keep().await;
            let sandbox = &self.flow.flow.sandbox;
            sandbox.register_composites(substitution.take_composites());
            terms.carry(substitution.findings());
        }
        terms.check()
    }

    /// The substitution of this request; none where there are no secrets at all.
    pub(super) fn substitution(&self) -> Option<RequestSubstitution> {
        let flow = &self.flow;
        credentials::substitution(&self.rules, &flow.flow.place, flow.scheme)
    }

    /// Writes target and headers with values for placeholders.
    pub(super) fn write_head(
        &mut self,
        parts: &mut Parts,
        path: &str,
        substitution: Option<&mut RequestSubstitution>,
    ) -> Result<(), Stop> {
        let query = parts.uri.query().map(str::to_owned);
        let Some(substitution) = substitution else {
            parts.uri = credentials::target(path, query.as_deref())?;
            return Ok(());
        };
        let asked = (path, query.as_deref());
        let result = credentials::write_head(&self.rules, parts, asked, substitution);
        // Also what was refused is in the record.
        self.draft.record.found(substitution.findings());
        result?;
        self.restrict_response(&mut parts.headers);
        Ok(())
    }

    /// Asks for a response that can be searched: in a coding that can be undone, and, from
    /// hosts that know a secret, whole unless the secret allows parts (REF-03, REF-09).
    fn restrict_response(&self, headers: &mut HeaderMap) {
        let lines = headers.get_all(header::ACCEPT_ENCODING).iter();
        let texts: Vec<&str> = lines.filter_map(|line| line.to_str().ok()).collect();
        // While much is decoded, not in the coding that takes the most memory.
        let is_short = self.flow.flow.sandbox.lacks_room_for_decoders();
        let is_wanted = |coding| !(is_short && coding == Coding::Brotli);
        let accepted = accepted_codings(&texts.join(","), is_wanted);
        if let Ok(value) = HeaderValue::try_from(accepted) {
            headers.insert(header::ACCEPT_ENCODING, value);
        }
        if self.forbids_range() {
            headers.remove(header::RANGE);
            headers.remove(header::IF_RANGE);
        } else if headers.contains_key(header::RANGE) {
            // A part of something coded cannot be decoded.
            let identity = HeaderValue::from_static("identity");
            headers.insert(header::ACCEPT_ENCODING, identity);
        }
    }

    fn forbids_range(&self) -> bool {
        let place = &self.flow.flow.place;
        let name: Option<&HostName> = match &place.peer {
            Peer::Name(name) => Some(name),
            Peer::Address(_) => None,
        };
        name.is_some_and(|name| {
            self.rules
                .policy
                .secrets_for(name, place.port)
                .any(|secret| !secret.allow_range)
        })
    }

    pub(super) fn pool_key(&self, alpn: Alpn) -> PoolKey {
        PoolKey {
            place: self.flow.flow.place.clone(),
            scheme: self.flow.scheme,
            alpn,
            policy_generation: self.rules.policy.generation(),
            secret_generation: self.rules.secret_generation,
        }
    }

    /// Puts what is known of the body into the record.
    pub(super) fn note_body(&mut self, meter: &Meter) {
        let bytes = meter.bytes.load(std::sync::atomic::Ordering::Relaxed);
        self.draft.record.req_bytes = bytes;
        self.draft.record.found(&meter.findings.lock());
    }
}
