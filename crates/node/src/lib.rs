//! The privileged host daemon: owns the VMs of this machine and passes guest
//! calls to them, unread. It holds no secret and no public socket.
//!
//! ```text
//!   server ── gRPC over a unix socket ──► service ──► sandboxes ──► one task each
//!                                            │                        │
//!                                            └── guest calls ─────────┴──► agent
//! ```
//!
//! One task owns each sandbox's machine: it waits for the machine's end, the
//! deadline and orders. A node that dies takes no machine with it; the next one
//! adopts them.

mod config;
mod egress;
mod identity;
mod image;
mod passthrough;
mod pool;
mod retry;
mod run;
mod sandbox;
mod sandboxes;
mod service;

pub use config::{EgressSockets, NodeConfig};
pub use run::{NodeError, cold_boot, prepare, run};
pub use tombolo_host::IsolationChoice;
