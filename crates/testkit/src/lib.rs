//! What tests share: a node, a guest agent and an egress process that live in memory, and waits
//! with a bound. Panics are how it reports, since only tests use it.

mod agent;
mod egress;
mod node;
mod service;
mod socket;
mod wait;

pub use agent::{FREE_PORT, FakeAgent, Listens, Process, Script};
pub use egress::{CarriedSandbox, FakeEgress, OpenedSecret};
pub use node::{CreateBehaviour, FakeNode};
pub use wait::{WAIT_MAX, eventually, within};
