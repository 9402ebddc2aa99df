//! An asynchronous client of the public protocol: REST for what is asked
//! once, a WebSocket with JSON-RPC for what happens inside a sandbox
//! (docs/reference/protocol). It is an ordinary client: it knows nothing of
//! the server's insides, and everything it keeps in memory is bounded.

pub mod connection;
pub mod endpoint;
pub mod events;
pub mod files;
mod frame;
mod handshake;
pub mod listing;
pub mod process;
pub mod rest;
pub mod stream;
#[cfg(test)]
mod tests;

pub use connection::{CallError, Connection};
pub use endpoint::{Endpoint, Token};
pub use handshake::ConnectError;
pub use rest::{RequestError, RestClient};
pub use tombolo_api::config::NewSandbox;

/// What this client calls itself; the server's native dialect goes by it.
pub const USER_AGENT: &str = concat!("tombolo/", env!("CARGO_PKG_VERSION"));
