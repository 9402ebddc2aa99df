//! The only crate with unsafe code: what the programs need of Linux and no
//! maintained crate offers safely. Host side: jails, namespaces, control
//! groups. Guest side: boot, clock, entropy, processes, terminals.

#![expect(unsafe_code, reason = "this crate exists to hold it")]

pub mod guest;
pub mod jail;
pub mod net;
