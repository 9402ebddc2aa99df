//! The JSON-RPC 2.0 spoken over a sandbox's WebSocket: envelopes, streams, and
//! the parameters and results of every method.
//!
//! Only the client sends requests; the server answers them and sends
//! notifications. A successful answer is `result: {"ok": …}`, a failed call is
//! `result: {"error": …}` ([`Outcome`]), and the top-level `error` of JSON-RPC
//! is kept for requests that are wrong in themselves ([`ProtocolError`]).
//!
//! Optional parameters may be missing or `null`; unknown ones are ignored.
//!
//! Beyond what the official SDKs call, our own clients may ask for:
//!
//! - `spawn` with `terminal: {rows, columns}`: the process gets a terminal, its
//!   output comes as `stdout` and `stderr` yields nothing;
//! - `processResize {pid, rows, columns}`: changes that terminal's size.

mod deno;
mod env;
mod envelope;
mod error;
mod expose;
mod files;
mod handles;
mod listing;
pub mod methods;
mod processes;
mod streams;
mod values;
mod vscode;

pub use deno::{
    DenoPidParams, DenoProcessParams, DenoReplCallParams, DenoReplEvalParams, DenoWatcherRestart,
    FetchParams, FetchResult, Redirect, SpawnDenoParams, SpawnDenoResult, Watch,
};
pub use env::{EnvKeyParams, EnvSetParams};
pub use envelope::{JsonRpc, Notification, Outcome, ProtocolError, Request, ServerMessage, code};
pub use error::ErrorObject;
pub use expose::ExposeHttpParams;
pub use files::{
    ChmodParams, ChownParams, CopyFileParams, FileInfo, LinkParams, MakeTempOptions,
    MakeTempParams, MkdirOptions, MkdirParams, PathParams, ReadParams, RemoveOptions, RemoveParams,
    RenameParams, SymlinkParams, TruncateParams, UmaskParams, UtimeParams, WriteOptions,
    WriteParams,
};
pub use handles::{
    FileHandle, HandleLockParams, HandleParams, HandleReadParams, HandleReadResult,
    HandleSeekParams, HandleSeekResult, HandleTruncateParams, HandleUtimeParams, HandleWriteParams,
    HandleWriteResult, OpenOptions, OpenParams,
};
pub use listing::{
    DirEntry, ExpandGlobOptions, ExpandGlobParams, Pattern, StreamReference, WalkEntry,
    WalkOptions, WalkParams,
};
pub use processes::{
    AbortParams, AttachParams, KillParams, ListProcessesResult, OomConfidence, ProcessRow,
    ResizeParams, SpawnParams, SpawnResult, Stdio, TerminalSize, WaitParams, WaitResult,
};
pub use streams::{StreamCancel, StreamChunk, StreamError, StreamReason, StreamSignal};
pub use values::{Offset, Text, Time};
pub use vscode::{VscodeParams, VscodeResult};
