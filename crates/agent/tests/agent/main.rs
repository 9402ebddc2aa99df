//! The agent as its host sees it: the real program on a socket, run as an
//! ordinary process, and every call of the contract made by the generated
//! client.
#![expect(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    clippy::panic,
    reason = "all of this program is a test"
)]

mod connections;
mod files;
mod handles;
mod hostile;
mod processes;
mod streams;
mod support;
mod system;
mod terminals;
mod walks;
mod watches;
