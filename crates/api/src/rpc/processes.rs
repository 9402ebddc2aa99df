//! Processes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Parameters of `abort`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AbortParams {
    /// As given to the call that is to be cancelled.
    pub abort_id: u64,
}

/// What an output of a new process is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stdio {
    /// To a stream of this connection.
    #[serde(alias = "inherit")]
    Piped,
    /// To nothing.
    Null,
}

/// Parameters of `spawn`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpawnParams {
    /// A path, or a name to look for in `PATH`.
    pub command: String,
    /// Arguments after the command's own name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// Merged over the sandbox's environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, String>>,
    /// Start from an empty environment instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clear_env: Option<bool>,
    /// The working directory, `/home/app` when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// The client stream that feeds standard input; none when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin_stream_id: Option<u64>,
    /// Standard output, piped when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdout: Option<Stdio>,
    /// Standard error, piped when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stderr: Option<Stdio>,
    /// Gives the process a terminal of this size. For our own clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminal: Option<TerminalSize>,
}

/// The size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// Result of `spawn`. Output is held back until `processWait` is called for
/// the process, or for a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpawnResult {
    /// The process in the sandbox.
    pub pid: i32,
    /// The server stream of its standard output, unless that is null.
    pub stdout_stream_id: Option<u64>,
    /// The server stream of its standard error, unless that is null.
    pub stderr_stream_id: Option<u64>,
}

/// Parameters of `processWait`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct WaitParams {
    /// The process.
    pub pid: i32,
}

/// Result of `processWait`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitResult {
    /// It exited with code 0.
    pub success: bool,
    /// The exit code; 128 + the signal's number when a signal ended it.
    pub code: i32,
    /// The signal that ended it, as in `SIGTERM`.
    pub signal: Option<String>,
    /// Whether the kernel killed it for want of memory.
    pub oom: Option<OomConfidence>,
}

/// How sure it is that a process ran out of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OomConfidence {
    /// The kernel named this process.
    HighConfidence,
    /// The sandbox ran out of memory about when it was killed.
    LowConfidence,
}

/// Parameters of `processKill`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KillParams {
    /// The process.
    pub pid: i32,
    /// As in `SIGINT`; `SIGTERM` when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
}

/// Parameters of `processAttach`: takes a terminal over from whoever has it. The
/// answer is as of `spawn`. For our own clients.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachParams {
    /// A process that was started with a terminal.
    pub pid: i32,
    /// The client stream that feeds it from now on.
    pub stdin_stream_id: u64,
    /// The size of the terminal it has now.
    pub terminal: TerminalSize,
}

/// Result of `processList`: processes that were started through the interface, by
/// pid, of those that have ended the latest. For our own clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListProcessesResult {
    /// At most 8192.
    pub processes: Vec<ProcessRow>,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessRow {
    /// The process in the sandbox.
    pub pid: i32,
    /// What was started, without arguments; the first 256 characters.
    pub command: String,
    /// Whether it has not ended.
    pub running: bool,
    /// Whether it has a terminal.
    pub has_terminal: bool,
}

/// Parameters of `processResize`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ResizeParams {
    /// A process that was started with a terminal.
    pub pid: i32,
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}
