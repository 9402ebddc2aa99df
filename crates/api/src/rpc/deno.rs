//! Deno: programs, REPLs, fetches.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Stdio;

/// Parameters of `spawnDeno`. One of `entrypoint` and `code` is needed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpawnDenoParams {
    /// What is common to all processes of Deno's.
    #[serde(flatten)]
    pub process: DenoProcessParams,
    /// The path or address of a module.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<String>,
    /// Whether to start anew when files of an entrypoint change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watch: Option<Watch>,
    /// A module's text, whose imports start in the working directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What the text is: `js`, `cjs`, `mjs`, `ts`, `cts`, `mts`, `jsx` or `tsx`;
    /// `ts` when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extension: Option<String>,
}

/// Parameters of `spawnDenoRepl`, and those that `spawnDeno` has too.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DenoProcessParams {
    /// What the program finds in `Deno.args`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub script_args: Option<Vec<String>>,
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
}

/// What is watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Watch {
    /// The module and what it imports, or nothing.
    Modules(bool),
    /// These paths too.
    Also(Vec<String>),
}

/// Result of `spawnDeno`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpawnDenoResult {
    /// The process in the sandbox.
    pub pid: i32,
    /// The server stream of its standard output, unless that is null.
    pub stdout_stream_id: Option<u64>,
    /// The server stream of its standard error, unless that is null.
    pub stderr_stream_id: Option<u64>,
    /// Named by the notifications of its restarts, if files are watched.
    pub watcher_id: Option<String>,
}

/// Parameters of `denoHttpWait` and `denoReplClose`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct DenoPidParams {
    /// The process.
    pub pid: i32,
}

/// Parameters of `denoReplEval`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DenoReplEvalParams {
    /// The REPL.
    pub pid: i32,
    /// TypeScript.
    pub code: String,
}

/// Parameters of `denoReplCall`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DenoReplCallParams {
    /// The REPL.
    pub pid: i32,
    /// The name of a function in the REPL, or an expression for one.
    #[serde(rename = "fn")]
    pub function: String,
    /// JSON values; none when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<Box<RawValue>>>,
}

/// Parameters of `$sandbox.deno.watcher.restart`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DenoWatcherRestart {
    /// From the result of `spawnDeno`.
    pub watcher_id: String,
}

/// Parameters of `fetch`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FetchParams {
    /// Where.
    pub url: String,
    /// The method, `GET` when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Names and values, none when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<Vec<(String, String)>>,
    /// What to do when sent elsewhere: go there when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect: Option<Redirect>,
    /// The client stream of the request's body; none when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_stream_id: Option<u64>,
    /// Speak to the HTTP server of this process, whatever the address says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
}

/// What a fetch does when it is sent elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Redirect {
    /// Goes there.
    #[default]
    Follow,
    /// Answers with what sent it there.
    Manual,
    /// Fails.
    Error,
}

/// Result of `fetch`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FetchResult {
    /// From 200 to 599.
    pub status: u16,
    /// The words beside it, which may be empty.
    pub status_text: String,
    /// Names, in lower case, and values. The body is decoded already.
    pub headers: Vec<(String, String)>,
    /// The server stream of the body, if there is one.
    pub body_stream_id: Option<u64>,
}
