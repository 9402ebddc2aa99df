//! What may happen to a sandbox, and when: no clock, no sockets, no files.
//!
//! The shell around this crate passes `now` in, acts on what it answers, and
//! keeps no rule of its own.

mod admission;
mod lifetime;
mod machine;
mod plan;

pub use admission::{AdmissionRefusal, Demand, Holdings, InUse, Ledger, OrganisationLimits};
pub use lifetime::{
    CLOCK_SKEW_TOLERATED, Lifetime, LifetimeKind, LifetimeLimits, LifetimeRequest,
    LifetimeRequestError,
};
pub use machine::{
    Closing, ConnectRefusal, Event, ExtendRefusal, NodeEnd, Phase, Role, SandboxMachine, StopReason,
};
pub use plan::{
    ENV_BYTES_MAX, ENV_ENTRIES_MAX, PlanError, SandboxBounds, SandboxPlan, SandboxRequest,
};
