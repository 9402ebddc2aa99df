//! Attacks on what lies between a sandbox and the network, and what they run in.
//!
//! [`table`] has a row for every attack and says where it is tried;
//! `docs/attacks.md` is made from it. [`rig`] is a server of its own in a network
//! of its own: what sandboxes may reach, what they must not, and a place that
//! sees every packet that goes anywhere else. Used by the test of this crate.

pub mod canary;
pub mod certificates;
pub mod client;
pub mod memory;
pub mod neighbour;
pub mod network;
pub mod rig;
pub mod table;
