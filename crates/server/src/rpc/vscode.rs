//! VS Code for browsers, as a process of the sandbox.
//!
//! It is in the root image of machines that were set up with it
//! (docs/design/0016-vscode.md). It listens on the sandbox's loopback and lets
//! everybody in: what keeps others out is the name by which its port is exposed.

mod merge;
mod settings;

use std::num::NonZero;
use std::time::Duration;

use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tombolo_api::rpc::{ErrorObject, Stdio, VscodeParams, VscodeResult};
use tombolo_guest_proto::v1::{self, OsError, OutputStream};
use tonic::Status;

use super::call::Call;
use super::fault::CallError;
use super::guest_call::{Repeat, guest_call};
use super::reply::Reply;
use super::{deno, processes, signals};
use crate::guest::GuestAgent;

const NODE: &str = "/usr/local/bin/node";
/// Where set-up puts it (`crates/setup/src/debian/vscode.rs`).
const ENTRY: &str = "/usr/local/lib/code-server/out/node/entry.js";
const CONFIG: &str = "/usr/local/lib/code-server/config.yaml";
/// Everything that VS Code keeps.
const DATA: &str = "/home/app/.local/share/code-server";

/// The JavaScript SDK puts its own token here; code in a sandbox must not have it.
const TOKEN_VARIABLE: &str = "DENO_DEPLOY_SANDBOX_TOKEN";
/// Read by the extension that is in the image.
const PREVIEW_VARIABLE: &str = "TOMBOLO_VSCODE_PREVIEW";
const STOP_BUTTON_VARIABLE: &str = "TOMBOLO_VSCODE_STOP_BUTTON";

/// Emulated processors take the better part of a minute.
const START_MAX: Duration = Duration::from_mins(5);
const INSTALL_MAX: Duration = Duration::from_mins(5);
const EXTENSIONS_MAX: usize = 50;
/// Linux: there is no such file.
const ENOENT: i32 = 2;
/// What is told of the words of a program that failed.
const WORDS_LEN_MAX: usize = 4096;

/// Starts VS Code and answers when it listens.
pub(super) async fn start(call: &Call) -> Result<Reply, CallError> {
    let params: VscodeParams = call.params()?;
    check_extensions(params.extensions.as_deref().unwrap_or_default())?;
    check_installed(call).await?;
    let folder = real_path(call, &params.path).await?;
    settings::settle(call, params.editor_settings.as_ref()).await?;
    install_extensions(call, &params).await?;

    let args = [
        "--host=127.0.0.1",
        "--port=0",
        "--disable-telemetry",
        "--disable-update-check",
        "--disable-getting-started-override",
        "--disable-workspace-trust",
    ];
    let mut request = code(&params, args.map(str::to_owned).to_vec());
    request.args.push(folder.clone());
    // What is no folder fails here.
    request.cwd = folder;
    let running = Running::spawn(call, request).await?;
    let port = timeout(START_MAX, port(call, running.pid)).await;
    let port = port.map_err(|_elapsed| {
        ErrorObject::new("TimedOut", "VS Code did not start in five minutes")
    })??;
    let pid = running.keep();

    let connection = &call.connection;
    let wired = processes::wire(connection, pid, None, Stdio::Piped, Stdio::Piped);
    let reply = call.ok(&VscodeResult {
        pid,
        port,
        // Both are piped, so both have one.
        stdout_stream_id: wired.stdout.unwrap_or_default(),
        stderr_stream_id: wired.stderr.unwrap_or_default(),
    })?;
    Ok(wired.flow_after(connection, reply))
}

fn check_extensions(extensions: &[String]) -> Result<(), CallError> {
    let is_one = |name: &String| !name.is_empty() && !name.starts_with('-');
    let words = match extensions.iter().find(|name| !is_one(name)) {
        Some(name) => format!("\"{name}\" is neither an extension's id nor a path"),
        None if extensions.len() > EXTENSIONS_MAX => {
            format!("at most {EXTENSIONS_MAX} extensions are installed at once")
        }
        None => return Ok(()),
    };
    Err(ErrorObject::new("TypeError", words).into())
}

/// Says what to do where there is no VS Code.
async fn check_installed(call: &Call) -> Result<(), CallError> {
    match find(call, ENTRY).await {
        Ok(_entry) => Ok(()),
        Err(status) if is_missing(&status) => {
            let words = "This sandbox has no VS Code: run \"tombolo setup --with-vscode\" on the \
                         machine that runs it, start \"tombolo up\" anew, and create another sandbox";
            Err(ErrorObject::new("NotSupported", words).into())
        }
        Err(status) => Err(status.into()),
    }
}

async fn find(call: &Call, path: &str) -> Result<v1::FileInfo, Status> {
    let request = v1::StatRequest {
        path: path.to_owned(),
        follow_symlinks: true,
    };
    guest_call(
        &call.connection.agent,
        Repeat::IfLost,
        request,
        |mut agent, request| async move { agent.stat(request).await },
    )
    .await
}

/// What it is, where there is no such file.
fn is_missing(status: &Status) -> bool {
    OsError::from_status(status).is_some_and(|error| error.errno == ENOENT)
}

/// A path that is one wherever VS Code looks from, and that has no links.
async fn real_path(call: &Call, path: &str) -> Result<String, CallError> {
    let request = v1::PathRequest {
        path: path.to_owned(),
    };
    let real = call.guest_read(request, |mut agent, request| async move {
        agent.real_path(request).await
    });
    Ok(real.await?.path)
}

async fn install_extensions(call: &Call, params: &VscodeParams) -> Result<(), CallError> {
    let extensions = params.extensions.iter().flatten();
    let args: Vec<_> = extensions
        .map(|name| format!("--install-extension={name}"))
        .collect();
    if args.is_empty() {
        return Ok(());
    }
    let running = Running::spawn(call, code(params, args)).await?;
    let ended = timeout(INSTALL_MAX, ended(call, running.pid)).await;
    let (code, words) = ended
        .map_err(|_elapsed| ErrorObject::new("TimedOut", "extensions did not come in time"))??;
    running.keep();
    if code == 0 {
        return Ok(());
    }
    let words = format!(
        "VS Code did not install the extensions; by their ids they come from open-vsx.org and \
         openvsx.eclipsecontent.org, which the sandbox has to be allowed to reach. It said: {words}"
    );
    Err(ErrorObject::new("Error", words).into())
}

/// code-server with arguments.
fn code(params: &VscodeParams, args: Vec<String>) -> v1::SpawnRequest {
    let ours = [
        ENTRY.to_owned(),
        format!("--config={CONFIG}"),
        format!("--user-data-dir={DATA}"),
    ];
    let mut env = params.env.clone().unwrap_or_default();
    env.remove(TOKEN_VARIABLE);
    if let Some(preview) = &params.preview {
        env.insert(PREVIEW_VARIABLE.to_owned(), preview.clone());
    }
    if !params.disable_stop_button.unwrap_or(false) {
        env.insert(STOP_BUTTON_VARIABLE.to_owned(), "1".to_owned());
    }
    v1::SpawnRequest {
        command: NODE.to_owned(),
        args: ours.into_iter().chain(args).collect(),
        env: env.into_iter().collect(),
        stdin: processes::stdio(Stdio::Null),
        stdout: processes::stdio(Stdio::Piped),
        stderr: processes::stdio(Stdio::Piped),
        ..v1::SpawnRequest::default()
    }
}

/// The port that VS Code listens on.
async fn port(call: &Call, pid: i32) -> Result<NonZero<u16>, CallError> {
    if let Some((_host, port)) = deno::server_of(&call.connection.agent, pid).await? {
        let port = u16::try_from(port).ok().and_then(NonZero::new);
        return port.ok_or_else(|| deno::nonsense().into());
    }
    let (code, words) = ended(call, pid).await?;
    let words = format!("VS Code ended with code {code} instead of starting: {words}");
    Err(ErrorObject::new("Error", words).into())
}

/// How a process ended, and the end of what it said.
async fn ended(call: &Call, pid: i32) -> Result<(i32, String), CallError> {
    let (output, errors) = tokio::join!(
        words(call, pid, OutputStream::OutputStdout),
        words(call, pid, OutputStream::OutputStderr),
    );
    let agent = &call.connection.agent;
    let ended = guest_call(
        agent,
        Repeat::WhileSandboxLives,
        v1::WaitRequest { pid },
        |mut agent, request| async move { agent.wait(request).await },
    );
    let code = ended.await?.code;
    let said = [output?, errors?].concat();
    let said = String::from_utf8_lossy(&said);
    Ok((code, said.trim().to_owned()))
}

/// Reads an output to its end and keeps the last of it.
async fn words(call: &Call, pid: i32, stream: OutputStream) -> Result<Vec<u8>, Status> {
    let request = v1::OutputRequest {
        pid,
        stream: stream.into(),
        ..v1::OutputRequest::default()
    };
    let mut chunks = call.connection.agent.client().output(request).await?;
    let mut kept = Vec::new();
    while let Some(chunk) = chunks.get_mut().next().await {
        kept.extend_from_slice(&chunk?.data);
        let excess = kept.len().saturating_sub(WORDS_LEN_MAX);
        kept.drain(..excess);
    }
    Ok(kept)
}

/// A process that is ended unless it is kept: whoever asked for it may have gone.
struct Running {
    agent: GuestAgent,
    pid: i32,
    is_kept: bool,
}

impl Running {
    async fn spawn(call: &Call, request: v1::SpawnRequest) -> Result<Self, CallError> {
        let spawned = call.guest(request, |mut agent, request| async move {
            agent.spawn(request).await
        });
        Ok(Self {
            pid: spawned.await?.pid,
            agent: call.connection.agent.clone(),
            is_kept: false,
        })
    }

    fn keep(mut self) -> i32 {
        self.is_kept = true;
        self.pid
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        let (mut client, pid) = (self.agent.client(), self.pid);
        tokio::spawn(async move {
            let signal = signals::SIGTERM;
            if let Err(status) = client.kill(v1::KillRequest { pid, signal }).await {
                tracing::debug!(pid, %status, "VS Code has ended already");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn params(json: &Value) -> VscodeParams {
        serde_json::from_value(json.clone()).unwrap()
    }

    #[test]
    fn the_token_of_the_sdk_stays_here() {
        let params = params(&json!({
            "path": "x", "extensions": [], "preview": "http://localhost:1",
            "env": {"DENO_DEPLOY_SANDBOX_TOKEN": "ddo_secret", "MINE": "1"},
        }));
        let request = code(&params, vec!["--more".to_owned()]);
        let mut names: Vec<_> = request.env.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["MINE", PREVIEW_VARIABLE, STOP_BUTTON_VARIABLE]);
        assert_eq!(request.args.last().map(String::as_str), Some("--more"));
        assert!(!format!("{request:?}").contains("ddo_secret"));
    }

    #[test]
    fn the_button_can_be_left_away() {
        for (given, has_button) in [
            (json!(null), true),
            (json!(false), true),
            (json!(true), false),
        ] {
            let params = params(&json!({"path": "x", "disableStopButton": given}));
            let request = code(&params, Vec::new());
            assert_eq!(request.env.contains_key(STOP_BUTTON_VARIABLE), has_button);
        }
    }

    #[test]
    fn an_extension_is_never_a_flag() {
        let check = |names: &[&str]| {
            let names: Vec<_> = names.iter().copied().map(str::to_owned).collect();
            check_extensions(&names).is_ok()
        };
        assert!(check(&["denoland.vscode-deno", "./my.vsix"]));
        for wrong in ["", "-x", "--uninstall-extension"] {
            assert!(!check(&[wrong]), "{wrong:?}");
        }
        assert!(!check(&["a.b"; EXTENSIONS_MAX + 1]));
    }
}
