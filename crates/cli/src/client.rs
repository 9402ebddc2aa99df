//! An asynchronous client of the public protocol: REST for what is asked
//! once, a WebSocket with JSON-RPC for what happens inside a sandbox
//! (docs/reference/protocol). It is an ordinary client: it knows nothing of
//! the server's insides, and everything it keeps in memory is bounded.

pub(crate) mod connection;
pub(crate) mod endpoint;
pub(crate) mod events;
pub(crate) mod files;
pub(crate) mod frame;
mod handshake;
pub(crate) mod listing;
pub(crate) mod process;
pub(crate) mod rest;
pub(crate) mod stream;
#[cfg(test)]
mod tests;

pub(crate) use connection::{CallError, Connection};
pub(crate) use endpoint::{Endpoint, Token};
pub(crate) use handshake::ConnectError;
pub(crate) use rest::{RequestError, RestClient};
pub(crate) use tombolo_api::config::NewSandbox;

/// What this client calls itself; the server's native dialect goes by it.
pub(crate) const USER_AGENT: &str = concat!("tombolo/", env!("CARGO_PKG_VERSION"));
