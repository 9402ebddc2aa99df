//! The control plane: one origin that serves REST and WebSocket JSON-RPC,
//! with accounts, admission and the database behind it.
//!
//! Everything here is reached by the network. It holds no host rights and
//! talks to the node, which does, over a unix socket.

mod app;
mod auth;
mod body;
mod call;
mod clock;
mod config;
mod database;
mod egress;
mod error;
mod exposures;
mod follow;
mod guest;
mod ingress;
mod native;
mod network;
mod node;
mod openapi;
mod registry;
mod routes;
mod rpc;
mod sandbox;
mod sandboxes;
mod serve;
mod ssh;
mod ssh_logins;
#[cfg(test)]
mod tests;
mod token;
mod trace;
mod unkept;
mod unread;
mod websocket;

pub use config::{IngressOptions, Limits, ServerConfig, SshOptions};
pub use database::OpenDatabaseError;
pub use openapi::document as openapi_document;
pub use serve::{Addresses, Ending, ServeError, Server, run};
pub use token::{ParseTokenHashError, TokenHash};
pub use tombolo_ingress::{
    AcmeConfig, Base as IngressBase, Limits as IngressLimits, ParseBaseError,
};
pub use tombolo_ssh::Limits as SshLimits;
