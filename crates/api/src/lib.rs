//! The public wire of Tombolo: what clients send and what they are answered,
//! over REST and over the WebSocket JSON-RPC. Types and pure parsing only.
#![warn(missing_docs)]

pub mod rpc;
