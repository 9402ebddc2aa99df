//! What is to be started in a sandbox, built up before it is.

use std::collections::BTreeMap;

pub use tombolo_api::rpc::Stdio;
use tombolo_api::rpc::{SpawnParams, SpawnResult, methods};

use crate::connection::Connection;
use crate::process::{
    ExitStatus, OUTPUT_LEN_MAX, Output, Process, ProcessError, Streams, TerminalSize,
};
use crate::stream::{SendError, WriteStream};
use crate::{CallError, Sandbox};

/// A process that is to be started in a sandbox, built up as the standard
/// library's is.
///
/// Streams are connected to nothing unless they are asked for. A stream that
/// was asked for is read or dropped: see [`ReadStream`](crate::ReadStream).
#[derive(Debug, Clone)]
#[must_use = "nothing is started yet"]
pub struct Command {
    connection: Connection,
    program: String,
    args: Vec<String>,
    settings: Settings,
    terminal: Option<TerminalSize>,
}

/// What all processes can be given, those of Deno too.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) clear_env: bool,
    pub(crate) cwd: Option<String>,
    pub(crate) stdin: Stdio,
    pub(crate) stdout: Stdio,
    pub(crate) stderr: Stdio,
    pub(crate) output_len_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            env: BTreeMap::new(),
            clear_env: false,
            cwd: None,
            stdin: Stdio::Null,
            stdout: Stdio::Null,
            stderr: Stdio::Null,
            output_len_max: OUTPUT_LEN_MAX,
        }
    }
}

/// The setters of [`Settings`], for every builder that has some.
macro_rules! settings {
    () => {
        /// Sets a variable, over those of the sandbox.
        pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
            self.settings.env.insert(name.into(), value.into());
            self
        }

        /// Sets variables, over those of the sandbox.
        pub fn envs<N: Into<String>, V: Into<String>>(
            mut self,
            variables: impl IntoIterator<Item = (N, V)>,
        ) -> Self {
            let variables = variables.into_iter();
            let variables = variables.map(|(name, value)| (name.into(), value.into()));
            self.settings.env.extend(variables);
            self
        }

        /// Starts from an empty environment instead of the sandbox's.
        pub fn env_clear(mut self) -> Self {
            self.settings.clear_env = true;
            self
        }

        /// The working directory; `/home/app` unless this is set.
        pub fn current_dir(mut self, path: impl Into<String>) -> Self {
            self.settings.cwd = Some(path.into());
            self
        }

        /// What the process reads from; nothing unless this is set.
        pub fn stdin(mut self, stdin: $crate::Stdio) -> Self {
            self.settings.stdin = stdin;
            self
        }

        /// Where its output goes; nowhere unless this is set.
        pub fn stdout(mut self, stdout: $crate::Stdio) -> Self {
            self.settings.stdout = stdout;
            self
        }

        /// Where its error output goes; nowhere unless this is set.
        pub fn stderr(mut self, stderr: $crate::Stdio) -> Self {
            self.settings.stderr = stderr;
            self
        }

        /// The most bytes of each output that are kept when it is gathered.
        pub fn output_len_max(mut self, len_max: usize) -> Self {
            self.settings.output_len_max = len_max;
            self
        }
    };
}
pub(crate) use settings;

/// Why a process did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The sandbox did not start it: there is no such program, or no room.
    #[error("cannot start {command}")]
    Refused {
        /// What was to be started.
        command: String,
        /// Why not.
        #[source]
        source: CallError,
    },
    /// There is no connection for its input any more.
    #[error("cannot open the input of {command}")]
    Stdin {
        /// What was to be started.
        command: String,
        /// Why not.
        #[source]
        source: SendError,
    },
}

impl SpawnError {
    /// Whether there is no such program or directory.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if source.is_not_found())
    }

    /// What to do about it, where that is known.
    #[must_use]
    pub fn next_step(&self) -> Option<&'static str> {
        match self {
            Self::Refused { source, .. } if source.is_not_found() => Some(
                "look with `command -v` in the sandbox, or give a whole path; the working \
                 directory has to exist, too",
            ),
            Self::Refused { source, .. } => source.next_step(),
            Self::Stdin { .. } => None,
        }
    }
}

impl Sandbox {
    /// A process that is to be started: a path, or a name that is looked for
    /// in `PATH`.
    pub fn command(&self, program: impl Into<String>) -> Command {
        Command {
            connection: self.connection().clone(),
            program: program.into(),
            args: Vec::new(),
            settings: Settings::default(),
            terminal: None,
        }
    }

    /// A script for `bash`, which is to be started.
    pub fn sh(&self, script: impl Into<String>) -> Command {
        self.command("bash").arg("-c").arg(script)
    }
}

impl Command {
    settings!();

    /// Adds an argument.
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.args.push(argument.into());
        self
    }

    /// Adds arguments.
    pub fn args<A: Into<String>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Gives the process a terminal of this size in place of its streams. All
    /// that it writes comes as its output, and the error output stays empty.
    pub fn terminal(mut self, size: TerminalSize) -> Self {
        self.terminal = Some(size);
        self.stdin(Stdio::Piped).stdout(Stdio::Piped)
    }

    /// Starts the process.
    ///
    /// # Errors
    /// A process that the sandbox does not start.
    pub async fn spawn(&self) -> Result<Process, SpawnError> {
        let Self {
            connection,
            program,
            args,
            settings,
            terminal,
        } = self;
        let refused = |source| SpawnError::Refused {
            command: program.clone(),
            source,
        };
        let stdin = settings.open_stdin(connection, program).await?;
        let params = SpawnParams {
            command: program.clone(),
            args: Some(args.clone()),
            env: Some(settings.env.clone()),
            clear_env: settings.clear_env.then_some(true),
            cwd: settings.cwd.clone(),
            stdin_stream_id: stdin.as_ref().map(WriteStream::id),
            stdout: Some(settings.stdout),
            stderr: Some(settings.stderr),
            terminal: *terminal,
        };
        let spawned: SpawnResult = connection
            .call(methods::SPAWN, &params)
            .await
            .map_err(refused)?;
        let streams = Streams {
            stdin,
            stdout: spawned.stdout_stream_id,
            stderr: spawned.stderr_stream_id,
        };
        let len_max = settings.output_len_max;
        let process = Process::attend(connection, spawned.pid, streams, len_max).await;
        process.map_err(refused)
    }

    /// Runs the process to its end and gathers what it writes.
    ///
    /// # Errors
    /// A process that does not start, writes more than is kept, or is lost.
    pub async fn output(self) -> Result<Output, ProcessError> {
        let piped = self.stdout(Stdio::Piped).stderr(Stdio::Piped);
        piped.spawn().await?.output().await
    }

    /// Runs the process to its end; nobody reads what it writes.
    ///
    /// # Errors
    /// A process that does not start or is lost.
    pub async fn status(self) -> Result<ExitStatus, ProcessError> {
        self.spawn().await?.status().await
    }
}

impl Settings {
    pub(crate) async fn open_stdin(
        &self,
        connection: &Connection,
        command: &str,
    ) -> Result<Option<WriteStream>, SpawnError> {
        match self.stdin {
            Stdio::Null => Ok(None),
            Stdio::Piped => {
                let opened = connection.outbound().await;
                opened.map(Some).map_err(|source| SpawnError::Stdin {
                    command: command.to_owned(),
                    source,
                })
            }
        }
    }
}
