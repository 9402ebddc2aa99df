//! Guest side: what PID 1 of a sandbox needs of Linux and no maintained crate
//! offers safely. Only the guest agent calls it. It may run next to hostile
//! programs: nothing here panics, and every failure is an errno.

pub mod entropy;
pub mod filesystem;
pub mod identity;
pub mod network;
pub mod readiness;
pub mod spawn;
pub mod wakeup;
