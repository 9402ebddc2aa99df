//! The proxy of a machine: every byte that a sandbox sends out arrives here, and nowhere
//! else does a secret have its value.
//!
//! ```text
//! guest ── transparent sockets ──► registry ─┬─► dns    names have addresses of ours
//!                                            └─► flow ─► http ─► upstream ──► host
//! node, server ── control ──► registry ◄── store           │
//!                                                           └─► audit
//! ```
//!
//! It is given, for each sandbox, the sockets of its network slot, a policy and sealed
//! secrets, and has no rights on the host. What may be reached is `tombolo-policy`'s to
//! say, and where a value may stand is `tombolo-substitute`'s: nothing here decides either.
//! Guests and hosts on the internet choose every byte that is read: nothing panics,
//! everything is bounded, and what is not understood is refused.
//! Why it is so: `docs/design/0010-egress-proxy.md`.

mod audit;
mod authority;
mod clock;
mod config;
mod control;
mod counters;
mod dns;
mod flow;
mod harden;
mod http;
mod identity;
mod registry;
mod rules;
mod run;
mod sandbox;
mod sniff;
mod store;
mod stream;
mod upstream;

pub use audit::OpenAuditError;
pub use config::{AuditBounds, ClientCertificate, EgressConfig, EgressListeners, RootFile};
pub use run::{EgressError, run};
pub use store::StoreError;
pub use upstream::{IdentitiesError, ResolverError, RootsError};

#[cfg(test)]
mod tests;
