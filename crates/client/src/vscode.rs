//! VS Code in a sandbox, used in a browser.

use serde_json::Value;
use tombolo_api::rpc::{VscodeParams, VscodeResult, methods};

use crate::connection::Connection;
use crate::process::{OUTPUT_LEN_MAX, Process, Streams};
use crate::{CallError, Exposure, RequestError, Sandbox, SandboxRef};

/// VS Code that is to be started.
#[derive(Debug, Clone)]
#[must_use = "nothing is started yet"]
pub struct VscodeCommand {
    connection: Connection,
    sandbox: SandboxRef,
    params: VscodeParams,
}

/// VS Code that runs in a sandbox.
#[derive(Debug)]
pub struct Vscode {
    /// Its process: output, signals, its end.
    pub process: Process,
    /// Where it listens, on the sandbox's loopback.
    pub port: u16,
    sandbox: SandboxRef,
}

/// Why VS Code does not run.
#[derive(Debug, thiserror::Error)]
#[error("VS Code does not run")]
pub struct VscodeError(#[from] CallError);

impl VscodeError {
    /// What went wrong on the way. What the server says has the next step.
    #[must_use]
    pub fn call(&self) -> &CallError {
        &self.0
    }
}

impl Sandbox {
    /// VS Code on a folder, which is to be started. The server has to have it:
    /// `tombolo setup --with-vscode`.
    pub fn vscode(&self, folder: impl Into<String>) -> VscodeCommand {
        VscodeCommand {
            connection: self.connection().clone(),
            sandbox: SandboxRef::clone(self),
            params: VscodeParams {
                path: folder.into(),
                ..VscodeParams::default()
            },
        }
    }
}

impl VscodeCommand {
    /// Installs an extension first: an id of the gallery, or the path of a
    /// `.vsix` file in the sandbox.
    pub fn extension(mut self, extension: impl Into<String>) -> Self {
        let extensions = self.params.extensions.get_or_insert_default();
        extensions.push(extension.into());
        self
    }

    /// Sets a variable, over those of the sandbox.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let env = self.params.env.get_or_insert_default();
        env.insert(name.into(), value.into());
        self
    }

    /// Shows the page at this address beside the editor.
    pub fn preview(mut self, url: impl Into<String>) -> Self {
        self.params.preview = Some(url.into());
        self
    }

    /// Leaves the button away that stops VS Code.
    pub fn without_stop_button(mut self) -> Self {
        self.params.disable_stop_button = Some(true);
        self
    }

    /// Sets a key of `settings.json`, and leaves the others.
    pub fn setting(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        let settings = self.params.editor_settings.get_or_insert_default();
        settings.insert(key.into(), value.into());
        self
    }

    /// Starts it, and waits until it listens.
    ///
    /// # Errors
    /// A server without VS Code, and an extension that cannot be had.
    pub async fn start(&self) -> Result<Vscode, VscodeError> {
        let started = self.connection.call(methods::VSCODE, &self.params).await;
        let started: VscodeResult = started?;
        let streams = Streams {
            stdin: None,
            stdout: Some(started.stdout_stream_id),
            stderr: Some(started.stderr_stream_id),
        };
        let pid = started.pid;
        let process = Process::attend(&self.connection, pid, streams, OUTPUT_LEN_MAX).await?;
        Ok(Vscode {
            process,
            port: started.port.get(),
            sandbox: self.sandbox.clone(),
        })
    }
}

impl Vscode {
    /// Exposes it: whoever has the address has the sandbox.
    ///
    /// # Errors
    /// As every request.
    pub async fn expose(&self) -> Result<Exposure, RequestError> {
        self.sandbox.expose_http(self.port).await
    }
}
