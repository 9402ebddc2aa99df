//! The Rust SDK of Tombolo.
#![warn(missing_docs)]

mod call;
mod client;
mod command;
mod connection;
pub mod deno;
mod egress;
mod endpoint;
mod env;
pub mod events;
mod expose;
pub mod fetch;
mod frame;
pub mod fs;
mod handshake;
mod listing;
mod process;
mod request;
mod sandbox;
mod stream;
#[cfg(test)]
mod tests;
mod transport;
mod vscode;

pub use tombolo_api as api;

pub use call::{CallError, EndReason};
pub use client::{Client, EnvironmentError};
pub use command::{Command, SpawnError, Stdio};
pub use deno::Deno;
pub use egress::{
    Egress, ExplainHeader, ExplainRequest, HostSums, PolicyChange, PutSecret, RecordEvent, Records,
    SecretChange, SecretRow,
};
pub use endpoint::{Endpoint, EndpointError, Token};
pub use env::{Env, EnvError};
pub use expose::{AccessToken, ExposedSsh, Exposure, PrivateExposure, Target};
pub use fs::Fs;
pub use handshake::ConnectError;
pub use listing::Sandboxes;
pub use process::{
    AttachError, ExitStatus, OUTPUT_LEN_MAX, OomConfidence, Output, Process, ProcessError,
    ProcessHandle, ProcessRow, Signal, TerminalSize,
};
pub use request::{Refusal, RequestError};
pub use sandbox::{Sandbox, SandboxBuilder, SandboxRef};
pub use stream::{ReadStream, SendError, StreamError, WriteStream};
pub use transport::{DialError, TrustError};
pub use vscode::{Vscode, VscodeCommand, VscodeError};

/// What this client calls itself; the server's native dialect goes by it.
pub(crate) const USER_AGENT: &str = concat!("tombolo/", env!("CARGO_PKG_VERSION"));
