//! The ingress as its clients see it, before programs that live in memory.

mod bounds;
mod forwarding;
mod refusals;
mod rest;
mod rig;
mod upgrades;
