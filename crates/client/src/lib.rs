//! The Rust SDK of Tombolo: microVM sandboxes for code that nobody reviewed,
//! on a machine of your own.
//!
//! A [`Client`] is a server and the token that opens it. A [`Sandbox`] is a
//! virtual machine and a connection to it; everything in it is reached from
//! there.
//!
//! ```no_run
//! use tombolo_client::{Client, Sandbox};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::from_env()?;
//! let sandbox = Sandbox::create(&client).await?;
//! let output = sandbox.command("uname").arg("-a").output().await?;
//! print!("{}", output.stdout_text());
//! sandbox.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! `tombolo up` starts a server and prints the variables that
//! [`Client::from_env`] reads.
//!
//! # Making sandboxes
//!
//! A sandbox ends with its first connection unless it is given a lifetime, and
//! reaches every public host unless it is given a list.
//!
//! ```no_run
//! # use tombolo_client::{Client, Sandbox};
//! # async fn example(client: &Client, key: String) -> Result<(), Box<dyn std::error::Error>> {
//! let sandbox = Sandbox::builder()
//!     .memory_mib(2048)
//!     .timeout(std::time::Duration::from_secs(3600))
//!     .label("job", "nightly")
//!     .allow_net(["api.example.com"])
//!     .secret("API_KEY", ["api.example.com"], key)
//!     .create(client)
//!     .await?;
//! let id = sandbox.id().clone();
//! sandbox.close().await;
//!
//! // Later, and elsewhere.
//! let sandbox = Sandbox::connect(client, id.as_str()).await?;
//! sandbox.extend_timeout(std::time::Duration::from_secs(600)).await?;
//! // What needs no connection is asked by the id.
//! client.sandbox(&id).kill().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Processes
//!
//! [`Sandbox::command`] is built up as `std::process::Command` is. Streams
//! lead nowhere unless they are asked for, and a stream that was asked for is
//! read or dropped ([`ReadStream`] says why).
//!
//! ```no_run
//! # use tombolo_client::{Sandbox, Signal, Stdio};
//! # async fn example(sandbox: Sandbox) -> Result<(), Box<dyn std::error::Error>> {
//! let mut process = sandbox
//!     .command("grep")
//!     .args(["--line-buffered", "error"])
//!     .stdin(Stdio::Piped)
//!     .stdout(Stdio::Piped)
//!     .spawn()
//!     .await?;
//! let stdin = process.stdin.take().ok_or("no input")?;
//! let mut stdout = process.stdout.take().ok_or("no output")?;
//! stdin.write(b"an error\n").await?;
//! if let Some(chunk) = stdout.chunk().await? {
//!     println!("{}", String::from_utf8_lossy(&chunk));
//! }
//! process.kill(Signal::Term).await?;
//! let status = process.status().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Files, Deno, the network
//!
//! - [`Sandbox::fs`]: files whole and in pieces, open files, walks, globs,
//!   directories copied in and out.
//! - [`Sandbox::env`]: the environment of processes that are started later.
//! - [`Sandbox::deno`]: programs, expressions and REPLs with values that have
//!   types on both sides.
//! - [`Sandbox::fetch`]: requests from within the sandbox.
//! - [`SandboxRef::expose_http`], [`SandboxRef::expose_ssh`]: ways in.
//! - [`SandboxRef::watch`]: what changes among its files.
//! - [`SandboxRef::egress`]: what it may send out, its secrets, what it did.
//!
//! # Errors, ends and drops
//!
//! Each family of operations has an error of its own, with what it came from
//! as its source, and `next_step()` where something can be done about it.
//!
//! Whatever is dropped ends: a future that waits for a transfer aborts it, a
//! stream is cancelled, an open file closed. A process runs on. A connection
//! lives as long as something uses it; when the server or the network ends it,
//! every call and every stream says so.
#![warn(missing_docs)]

mod call;
mod client;
mod command;
mod connection;
pub mod deno;
pub mod egress;
mod endpoint;
mod env;
pub mod events;
pub mod expose;
pub mod fetch;
mod frame;
pub mod fs;
mod handshake;
mod listing;
pub mod process;
mod request;
mod sandbox;
mod stream;
#[cfg(test)]
mod tests;
mod transport;
mod vscode;
mod watch;

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
pub use watch::{FileChange, FileChangeKind, FileChanges, MissedReason};

/// What this client calls itself; the server's native dialect goes by it.
pub(crate) const USER_AGENT: &str = concat!("tombolo/", env!("CARGO_PKG_VERSION"));
