//! QEMU's monitor (QMP): start a restore, save a template, ask whether KVM gave up.
//!
//! Six commands of a line-based JSON protocol; a generated client of the whole
//! schema would be a hundred times this (see `docs/design/dependencies.md`).

use crate::short_path;
use serde_json::{Value, json};
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// The socket's name in a VM's directory.
pub(crate) const MONITOR_SOCKET: &str = "monitor.sock";
/// The longest line QEMU may send us.
const LINE_LEN_MAX: u64 = 1024 * 1024;
const MIGRATION_POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Why a monitor command did not work.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// The socket could not be used.
    #[error("cannot talk to QEMU's monitor")]
    Io(#[from] io::Error),
    /// QEMU sent something that is not QMP.
    #[error("QEMU's monitor sent something unreadable")]
    Parse(#[from] serde_json::Error),
    /// QEMU refused a command.
    #[error("QEMU refused {command}: {words}")]
    Refused {
        /// The command's name.
        command: &'static str,
        /// QEMU's words.
        words: String,
    },
    /// Saving or restoring the device state failed.
    #[error("QEMU could not save or restore the device state: {words}")]
    Migration {
        /// QEMU's words.
        words: String,
    },
}

/// A conversation with one VM's monitor. One at a time per VM.
#[derive(Debug)]
pub(crate) struct Monitor {
    stream: BufReader<UnixStream>,
}

impl Monitor {
    pub(crate) async fn connect(vm_dir: &Path) -> Result<Self, MonitorError> {
        let stream = short_path::connect(vm_dir, MONITOR_SOCKET).await?;
        let mut monitor = Self {
            stream: BufReader::new(stream),
        };
        monitor.read_message().await?;
        monitor.execute("qmp_capabilities", json!({})).await?;
        Ok(monitor)
    }

    /// Leaves memory that lies in a shared file out of the device state.
    async fn ignore_shared_memory(&mut self) -> Result<(), MonitorError> {
        let capabilities = json!([{ "capability": "x-ignore-shared", "state": true }]);
        self.execute(
            "migrate-set-capabilities",
            json!({ "capabilities": capabilities }),
        )
        .await?;
        Ok(())
    }

    /// Begins to load the device state; the VM runs when it is done.
    pub(crate) async fn restore_from(&mut self, jail_path: &str) -> Result<(), MonitorError> {
        self.ignore_shared_memory().await?;
        let uri = format!("file:{jail_path}");
        self.execute("migrate-incoming", json!({ "uri": uri }))
            .await?;
        Ok(())
    }

    /// Stops the VM for good and saves its device state.
    pub(crate) async fn save_to(&mut self, jail_path: &str) -> Result<(), MonitorError> {
        self.ignore_shared_memory().await?;
        let uri = format!("file:{jail_path}");
        self.execute("migrate", json!({ "uri": uri })).await?;
        loop {
            let state = self.execute("query-migrate", json!({})).await?;
            match state["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => {
                    let words = state["error-desc"].as_str().unwrap_or("no reason given");
                    return Err(MonitorError::Migration {
                        words: words.to_owned(),
                    });
                }
                _ => tokio::time::sleep(MIGRATION_POLL_INTERVAL).await,
            }
        }
    }

    /// Whether the accelerator met something it cannot run.
    pub(crate) async fn has_internal_error(&mut self) -> Result<bool, MonitorError> {
        let state = self.execute("query-status", json!({})).await?;
        Ok(state["status"] == "internal-error")
    }

    /// Ends the VM's process. It may be gone before it answers.
    pub(crate) async fn quit(&mut self) -> Result<(), MonitorError> {
        match self.execute("quit", json!({})).await {
            Err(MonitorError::Io(_)) | Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn execute(
        &mut self,
        command: &'static str,
        arguments: Value,
    ) -> Result<Value, MonitorError> {
        let request = json!({ "execute": command, "arguments": arguments });
        let mut line = serde_json::to_vec(&request)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).await?;
        loop {
            let mut message = self.read_message().await?;
            if let Some(value) = message.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = message.get("error") {
                let words = error["desc"].as_str().unwrap_or("no reason given");
                return Err(MonitorError::Refused {
                    command,
                    words: words.to_owned(),
                });
            }
            // Anything else is an event, and none of them concerns us.
        }
    }

    async fn read_message(&mut self) -> Result<Value, MonitorError> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.stream).take(LINE_LEN_MAX);
        if bounded.read_until(b'\n', &mut line).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(serde_json::from_slice(&line)?)
    }
}
