//! What tests share: a node and a guest agent that live in memory, and waits
//! with a bound. Panics are how it reports, since only tests use it.

mod agent;
mod node;
mod service;
mod wait;

pub use agent::{FakeAgent, Process, Script};
pub use node::{CreateBehaviour, FakeNode};
pub use wait::{WAIT_MAX, eventually, within};
