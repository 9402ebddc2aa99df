//! Placeholders become values in requests, and values become placeholders in
//! responses. No clock, no socket, no file, no chance.
//!
//! For the egress process, once for each generation of a sandbox's policy:
//! [`SecretTable::new`]. For each request: [`SecretTable::eligibility`] of its
//! destination, then a [`RequestSubstitution`] for its head and body. For each
//! response: a [`Scrubber`]. Everything read here comes from a guest or from
//! the network, so nothing here panics, recurses or grows without a bound.
//!
//! Rules and reasons: `docs/design/0008-substitution.md`.

mod body;
mod composite;
mod encode;
mod finding;
#[cfg(test)]
mod fixture;
mod framing;
mod head;
mod host;
mod needle;
mod refusal;
mod request;
mod scan;
mod scrub;
mod slot;
mod table;

pub use body::{BodyKind, BodySubstitution};
pub use composite::{COMPOSITES_MAX, Composite, Composites};
pub use finding::{Finding, Findings};
pub use framing::{
    BODY_BUFFER_LEN_MAX, BodyLength, BodyPlan, Coding, Codings, OnChange, RequestFraming,
    ResponseFraming, ResponsePlan, UnknownCoding, UpstreamFraming, accepted_codings,
    is_digest_header, plan_response,
};
pub use head::{InjectedHeader, is_header_excluded};
pub use host::{Destination, Flow, IneligibleReason, ParseSecretHostError, Scheme, SecretHost};
pub use needle::SCRUB_LEN_MIN;
pub use refusal::Refusal;
pub use request::{RequestSubstitution, WEBSOCKET_MESSAGE_LEN_MAX};
pub use scrub::{BuildAutomatonError, ScrubMode, Scrubber};
pub use slot::{Slot, Slots};
pub use table::{
    Eligibility, Injection, InjectionFault, NEEDLE_BYTES_MAX, Plaintext, Requirement, SECRETS_MAX,
    SecretRule, SecretTable, TableError, TableWarning,
};
