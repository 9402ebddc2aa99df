//! One child process: started with its instructions, known to be ready,
//! stopped in order.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{ChildStdin, ChildStdout};

use crate::children;
use crate::config::keys;

/// How long a child may take until it is ready. A node takes over what an
/// earlier one left, which may be many virtual machines.
const READY_TIMEOUT: Duration = Duration::from_secs(90);
/// How long a child may take to end in order.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Which child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Egress,
    Server,
    Node,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Egress => "egress-proxy",
            Self::Server => "server",
            Self::Node => "node",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Why a child did not come up.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChildError {
    #[error("the {role} cannot be started")]
    Start {
        role: Role,
        #[source]
        source: tombolo_proc::RunError,
    },
    #[error("the {role} cannot be told how to run")]
    Launch {
        role: Role,
        #[source]
        source: std::io::Error,
    },
    #[error("the instructions of the {role} cannot be written")]
    Encode {
        role: Role,
        #[source]
        source: serde_json::Error,
    },
    #[error("the {role} ended before it was ready; it says why above")]
    Ended { role: Role },
    #[error("the {role} was not ready within {} s", READY_TIMEOUT.as_secs())]
    NotReady { role: Role },
}

/// How a child ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It is the server, and has agreed to make room for another.
    Retired,
    /// In any other way, in words.
    Died(String),
}

/// A child that runs.
#[derive(Debug)]
pub(super) struct Child {
    role: Role,
    process: tokio::process::Child,
    pid: u32,
    /// Its end tells the child that this process has gone.
    _stdin: ChildStdin,
    /// Kept, so that the child never writes into a closed pipe.
    _stdout: BufReader<ChildStdout>,
}

impl Child {
    /// Starts a child and waits until it is ready; answers what it said then.
    pub(super) async fn start<L: Serialize + Sync>(
        role: Role,
        launch: &L,
        log: Option<&str>,
    ) -> Result<(Self, String), ChildError> {
        let mut line =
            serde_json::to_vec(launch).map_err(|source| ChildError::Encode { role, source })?;
        line.push(b'\n');
        let mut process = spawn(role, log)?;
        let lost = |source| ChildError::Launch { role, source };
        let (Some(pid), Some(mut stdin), Some(stdout)) =
            (process.id(), process.stdin.take(), process.stdout.take())
        else {
            return Err(ChildError::Ended { role });
        };
        stdin.write_all(&line).await.map_err(lost)?;
        let mut stdout = BufReader::new(stdout);
        let mut said = String::new();
        match tokio::time::timeout(READY_TIMEOUT, stdout.read_line(&mut said)).await {
            Ok(Ok(0)) => return Err(ChildError::Ended { role }),
            Ok(Ok(_len)) => {}
            Ok(Err(source)) => return Err(lost(source)),
            Err(_elapsed) => return Err(ChildError::NotReady { role }),
        }
        let child = Self {
            role,
            process,
            pid,
            _stdin: stdin,
            _stdout: stdout,
        };
        Ok((child, said.trim().to_owned()))
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until the child ends, and says how.
    pub(super) async fn ended(&mut self) -> End {
        match self.process.wait().await {
            Ok(status) if status.code() == Some(children::RETIRED.into()) => End::Retired,
            Ok(status) => End::Died(status.to_string()),
            Err(error) => End::Died(error.to_string()),
        }
    }

    /// Asks the child to end, and insists after a while.
    pub(super) async fn stop(mut self) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        // A child that was waited for has no process id any more.
        if let (Some(pid), Some(_)) = (pid, self.process.id())
            && let Err(error) = kill_process(pid, Signal::TERM)
        {
            tracing::debug!(role = %self.role, %error, "it has ended already");
        }
        if tokio::time::timeout(STOP_TIMEOUT, self.ended())
            .await
            .is_err()
        {
            tracing::warn!(role = %self.role, "it does not end in order and is killed");
            if let Err(error) = self.process.kill().await {
                tracing::warn!(role = %self.role, %error, "it cannot be killed");
            }
        }
    }
}

/// The file of this very program, even if it has been replaced since.
pub(super) const PROGRAM: &str = "/proc/self/exe";

fn spawn(role: Role, log: Option<&str>) -> Result<tokio::process::Child, ChildError> {
    tombolo_proc::Command::new(PROGRAM)
        .arg(role.name())
        .pass_env([keys::LOG_FORMAT_VARIABLE, "RUST_BACKTRACE"])
        .envs(log.map(|log| (keys::LOG_VARIABLE, log)))
        // An interrupt from the terminal is for the supervisor alone.
        .process_group(true)
        // A supervisor that fails must not take the sandboxes with it; the
        // children end by themselves when their input does.
        .kill_on_drop(false)
        .spawn(Stdio::piped(), Stdio::piped(), Stdio::inherit())
        .map_err(|source| ChildError::Start { role, source })
}
