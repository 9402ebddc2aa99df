//! The control plane: one origin that serves REST and WebSocket JSON-RPC,
//! with accounts, admission and the database behind it.

mod guest;
mod rpc;
