//! The public wire of Tombolo: what clients send and what they are answered,
//! over REST and over the WebSocket JSON-RPC. Types and pure parsing only.
#![warn(missing_docs)]

pub mod config;
pub mod error;
pub mod exposures;
pub mod native;
pub mod query;
pub mod rpc;
pub mod sandbox;
pub mod secret;
pub mod ssh;
pub mod watch;

/// Request header that carries the create configuration.
pub const CONFIG_HEADER: &str = "x-deno-sandbox-config";
/// Response header that names the sandbox of a WebSocket.
pub const SANDBOX_ID_HEADER: &str = "x-deno-sandbox-id";
/// Response header that says what is probably not meant in a new sandbox's
/// policy. May be repeated.
pub const WARNING_HEADER: &str = "x-tombolo-warning";
/// Response header that names the request, for error reports.
pub const TRACE_ID_HEADER: &str = "x-deno-trace-id";
/// Request header that picks the organisation of a personal token.
pub const ORGANISATION_HEADER: &str = "x-deno-org";
/// What every token of an organisation starts with.
pub const ORGANISATION_TOKEN_PREFIX: &str = "ddo_";
/// What every personal token starts with.
pub const PERSONAL_TOKEN_PREFIX: &str = "ddp_";
/// The WebSocket route that creates a sandbox.
pub const CREATE_PATH: &str = "/api/v3/sandboxes/create";
