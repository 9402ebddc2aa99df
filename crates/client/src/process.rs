//! Processes in a sandbox: start, feed, read, signal, wait.

use std::collections::BTreeMap;

use tombolo_api::rpc::{
    KillParams, ResizeParams, SpawnParams, SpawnResult, Stdio, WaitParams, methods,
};
pub use tombolo_api::rpc::{OomConfidence, TerminalSize, WaitResult};

use super::connection::{CallError, Connection, PendingCall};
use super::stream::{InboundStream, OutboundStream, SendError};

/// Whether the process reads what this side sends, or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdin {
    Piped,
    Null,
}

/// What to start.
#[derive(Debug, Clone)]
pub struct SpawnOptions {
    pub command: String,
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub cwd: Option<String>,
    pub stdin: Stdin,
    /// A terminal of this size, instead of pipes.
    pub terminal: Option<TerminalSize>,
}

/// Why a process did not start.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("cannot start {command}")]
    Refused {
        command: String,
        #[source]
        source: CallError,
    },
    #[error("cannot open the input of {command}")]
    Stdin {
        command: String,
        #[source]
        source: SendError,
    },
}

/// A process that was started.
#[derive(Debug)]
pub struct Process {
    pub pid: i32,
    pub stdin: Option<OutboundStream>,
    pub stdout: Option<InboundStream>,
    pub stderr: Option<InboundStream>,
    /// Answers when the process has exited.
    pub exit: PendingCall,
}

impl Connection {
    /// Starts a process and asks at once for its exit: the server sends no
    /// output before it is asked.
    pub async fn spawn(&self, options: &SpawnOptions) -> Result<Process, SpawnError> {
        let refused = |source| SpawnError::Refused {
            command: options.command.clone(),
            source,
        };
        let stdin = match options.stdin {
            Stdin::Null => None,
            Stdin::Piped => Some(self.outbound().await.map_err(|source| SpawnError::Stdin {
                command: options.command.clone(),
                source,
            })?),
        };
        let params = SpawnParams {
            command: options.command.clone(),
            args: Some(options.args.clone()),
            env: Some(options.env.clone()),
            clear_env: None,
            cwd: options.cwd.clone(),
            stdin_stream_id: stdin.as_ref().map(OutboundStream::id),
            stdout: Some(Stdio::Piped),
            stderr: Some(Stdio::Piped),
            terminal: options.terminal,
        };
        let spawned: SpawnResult = self.call(methods::SPAWN, &params).await.map_err(refused)?;
        let stdout = spawned.stdout_stream_id.map(|id| self.inbound(id));
        let stderr = spawned.stderr_stream_id.map(|id| self.inbound(id));
        let wait = WaitParams { pid: spawned.pid };
        Ok(Process {
            pid: spawned.pid,
            stdin,
            stdout,
            stderr,
            exit: self
                .begin(methods::PROCESS_WAIT, &wait)
                .await
                .map_err(refused)?,
        })
    }

    /// Sends a signal, such as `SIGINT`. A process that has gone is no error.
    pub async fn signal(&self, pid: i32, signal: &str) -> Result<(), CallError> {
        let params = KillParams {
            pid,
            signal: Some(signal.to_owned()),
        };
        match self.call::<_, ()>(methods::PROCESS_KILL, &params).await {
            Err(CallError::Failed { error })
                if error.code.as_deref() == Some("ENOENT")
                    && error.constructor_name == "TypeError" =>
            {
                Ok(())
            }
            answer => answer,
        }
    }

    /// Tells a terminal its new size.
    pub async fn resize(&self, pid: i32, size: TerminalSize) -> Result<(), CallError> {
        let params = ResizeParams {
            pid,
            rows: size.rows,
            columns: size.columns,
        };
        self.call(methods::PROCESS_RESIZE, &params).await
    }
}
