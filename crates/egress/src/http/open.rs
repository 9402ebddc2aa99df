//! What keeps an exchange allowed after it began (NET-15, SUB-23).
//!
//! A response, an upload or a `WebSocket` may last for hours, and rules change meanwhile.
//! Each of them watches the rules of its sandbox: it ends when the request would no longer
//! be let through, and when a value that was written for it is no longer in force. Changes
//! that are about something else end nothing. Connections to hosts that are no longer
//! allowed at all are ended by the flow.

use std::{
    collections::BTreeSet,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_util::StreamExt as _;
use http::{HeaderMap, StatusCode, request::Parts};
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;
use tokio_stream::wrappers::WatchStream;
use tombolo_policy::RequestHead;
use tombolo_secret::SecretName;
use tombolo_substitute::{Codings, Finding, Findings};

use super::{Stop, coding::Decoder};
use crate::{
    identity::{Peer, Place},
    rules::Rules,
    sandbox::Sandbox,
};

/// What an exchange was let through for.
#[derive(Debug)]
pub(super) struct Terms {
    sandbox: Arc<Sandbox>,
    place: Place,
    rules: Arc<Rules>,
    method: String,
    path: String,
    query: Option<String>,
    /// Before substitution: with placeholders.
    headers: HeaderMap,
    has_body: bool,
    content_length: Option<u64>,
    carried: Mutex<Carried>,
}

/// Secrets of which an exchange carries values.
#[derive(Debug, Default)]
struct Carried {
    written: BTreeSet<SecretName>,
    /// May be written yet, while a body or messages flow.
    expected: BTreeSet<SecretName>,
}

/// Tells when an exchange has to end.
#[derive(Debug)]
pub(super) struct Watch {
    terms: Arc<Terms>,
    changes: WatchStream<Arc<Rules>>,
}

impl Terms {
    /// The terms of a request that the rules let through; `length` is that of its body, none
    /// where it is not known.
    pub(super) fn new(
        sandbox: &Arc<Sandbox>,
        place: &Place,
        rules: &Arc<Rules>,
        parts: &Parts,
        (has_body, length): (bool, Option<u64>),
    ) -> Arc<Self> {
        Arc::new(Self {
            sandbox: Arc::clone(sandbox),
            place: place.clone(),
            rules: Arc::clone(rules),
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().map(str::to_owned),
            headers: parts.headers.clone(),
            has_body,
            content_length: length,
            carried: Mutex::default(),
        })
    }

    /// Notes the values that were written for placeholders.
    pub(super) fn carry(&self, findings: &Findings) {
        let written = findings.iter().filter_map(|finding| match finding {
            Finding::Substituted { secret, .. } => Some(secret.clone()),
            Finding::Ineligible { .. } | Finding::Foreign { .. } => None,
        });
        self.carried.lock().written.extend(written);
    }

    /// Notes secrets whose values may be written from now on.
    pub(super) fn expect(&self, secrets: impl Iterator<Item = SecretName>) {
        self.carried.lock().expected.extend(secrets);
    }

    /// Nothing more is written than what was found.
    pub(super) fn settle(&self, findings: &Findings) {
        self.carried.lock().expected.clear();
        self.carry(findings);
    }

    /// Watches from the beginning: a change that came already is noticed.
    pub(super) fn watch(self: &Arc<Self>) -> Watch {
        Watch {
            terms: Arc::clone(self),
            changes: self.sandbox.watch_rules(),
        }
    }

    /// Room for a body that is read whole.
    pub(super) async fn reserve_buffer(&self, bytes: u64) -> Result<OwnedSemaphorePermit, Stop> {
        self.sandbox.reserve_buffer(bytes).await.ok_or_else(no_room)
    }

    /// What undoes the codings of a body.
    pub(super) async fn decoder(&self, codings: Codings) -> Result<Decoder, Stop> {
        Decoder::new(&self.sandbox, codings).await
    }

    /// Whether the exchange can go on under the rules of now. A watch may have let a change
    /// pass because no value was written yet: this is asked once they are.
    pub(super) fn check(&self) -> Result<(), Stop> {
        match self.broken_by(&self.sandbox.rules()) {
            Some(code) => Err(Stop::no_longer_allowed(code)),
            None => Ok(()),
        }
    }

    /// Why the exchange cannot go on under these rules; none where it can.
    fn broken_by(&self, newer: &Arc<Rules>) -> Option<&'static str> {
        if Arc::ptr_eq(&self.rules, newer) {
            return None;
        }
        if !self.values_are_in_force(newer) {
            return Some("secrets_changed");
        }
        if self.rules.has_same_request_rules(newer) || self.is_allowed_by(newer) {
            return None;
        }
        Some("policy_changed")
    }

    /// Whether what is written for the host is what the newer rules would write (SUB-23).
    fn values_are_in_force(&self, newer: &Rules) -> bool {
        // No secret is for an address.
        let Peer::Name(host) = &self.place.peer else {
            return true;
        };
        let carried = self.carried.lock();
        let mut secrets = carried.written.union(&carried.expected);
        secrets.all(|secret| {
            self.rules
                .value_is_in_force(newer, secret, host, self.place.port)
        })
    }

    fn is_allowed_by(&self, rules: &Rules) -> bool {
        let headers: Vec<(&str, &[u8])> = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        let head = RequestHead {
            target: self.place.peer.target(),
            port: self.place.port,
            method: &self.method,
            path: &self.path,
            query: self.query.as_deref(),
            headers: &headers,
            has_body: self.has_body,
            content_length: self.content_length,
        };
        // A body that has gone by cannot be looked at: what takes it is a denial.
        rules
            .policy
            .requests()
            .decide_open(&head)
            .is_some_and(|decision| decision.proceeds())
    }
}

/// Bodies of this sandbox fill what it may hold of them.
pub(super) fn no_room() -> Stop {
    Stop::refused(
        StatusCode::SERVICE_UNAVAILABLE,
        "too_many_bodies",
        "This sandbox has too many long requests under way.",
    )
}

impl Watch {
    /// Ready when the exchange has to end, with why.
    pub(super) fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<&'static str> {
        loop {
            let Some(rules) = ready!(self.changes.poll_next_unpin(context)) else {
                // The rules live as long as the sandbox, which ends its exchanges itself.
                return Poll::Pending;
            };
            if let Some(code) = self.terms.broken_by(&rules) {
                return Poll::Ready(code);
            }
        }
    }

    /// Returns when the exchange has to end, with why.
    pub(super) async fn ended(&mut self) -> &'static str {
        poll_fn(|context| self.poll_end(context)).await
    }
}
