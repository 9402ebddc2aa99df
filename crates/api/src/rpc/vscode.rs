//! VS Code, used in a browser.

use std::collections::BTreeMap;
use std::num::NonZero;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Parameters of `vscode`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VscodeParams {
    /// The folder to open; relative paths start at `/home/app`.
    pub path: String,
    /// Ids of the extension gallery or paths of `.vsix` files, installed before VS Code
    /// starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extensions: Option<Vec<String>>,
    /// Merged over the sandbox's environment. The JavaScript SDK adds its own token as
    /// `DENO_DEPLOY_SANDBOX_TOKEN`, which is not passed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, String>>,
    /// The address of a page to show beside the editor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<String>,
    /// Leave the button that stops VS Code away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable_stop_button: Option<bool>,
    /// Keys of `settings.json` to set. The rest of the file stays; where there is none,
    /// it is made of our own defaults and these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub editor_settings: Option<Map<String, Value>>,
}

/// Result of `vscode`, once VS Code listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VscodeResult {
    /// The process in the sandbox; `processWait` and `processKill` take it.
    pub pid: i32,
    /// Where it listens, on the sandbox's loopback.
    pub port: NonZero<u16>,
    /// The server stream of its standard output.
    pub stdout_stream_id: u64,
    /// The server stream of its standard error.
    pub stderr_stream_id: u64,
}
