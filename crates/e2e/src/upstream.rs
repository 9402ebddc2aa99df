//! The host of `examples/secret`: HTTPS on the loopback address, as
//! `api.example.com`. It says which credential each request came with.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::time::timeout;
use tombolo_proc::Command;

use crate::packages::workspace;

/// Until it has said what it must.
const PATIENCE: Duration = Duration::from_secs(30);

/// The example's host, and what it prints.
#[derive(Debug)]
pub struct Upstream {
    directory: TempDir,
    said: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

impl Upstream {
    /// Starts it on a free port.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start() -> anyhow::Result<Self> {
        let directory = TempDir::new()?;
        let mut process = Command::new("python3")
            .arg(example().join("upstream.py"))
            .arg(directory.path())
            .args(["--port", "0"])
            .kill_on_drop(true)
            .spawn(Stdio::null(), Stdio::piped(), Stdio::inherit())?;
        let output = process.stdout.take().context("its output is piped")?;
        let mut upstream = Self {
            directory,
            said: BufReader::new(output).lines(),
            _process: process,
        };
        // It says that it is there, and then how to tell Tombolo.
        upstream.says("api.example.com is here").await?;
        upstream.says("export TOMBOLO_CONFIG=").await?;
        Ok(upstream)
    }

    /// The configuration that leads there.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.directory.path().join("config.toml")
    }

    /// The same as flags of `tombolo up`.
    #[must_use]
    pub fn flags(&self) -> Vec<String> {
        let config = self.config().to_string_lossy().into_owned();
        vec!["--config".to_owned(), config]
    }

    /// The next line, which has these words.
    ///
    /// # Errors
    /// When it has others, or does not come.
    pub async fn says(&mut self, words: &str) -> anyhow::Result<()> {
        let line = timeout(PATIENCE, self.said.next_line()).await??;
        let line = line.context("the host has ended")?;
        ensure!(
            line.contains(words),
            "the host says {line:?}, not {words:?}"
        );
        Ok(())
    }

    /// Some line from now on, which has these words.
    ///
    /// # Errors
    /// When none has.
    pub async fn says_at_last(&mut self, words: &str) -> anyhow::Result<()> {
        let search = async {
            while let Some(line) = self.said.next_line().await? {
                if line.contains(words) {
                    return Ok(());
                }
            }
            anyhow::bail!("the host has ended")
        };
        let said = timeout(PATIENCE, search).await;
        said.with_context(|| format!("the host does not say {words:?}"))?
    }
}

/// Where the example is.
#[must_use]
pub fn example() -> PathBuf {
    workspace().join("examples/secret")
}
