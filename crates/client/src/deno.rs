//! Deno in a sandbox: programs, expressions, REPLs.

mod repl;

use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tombolo_api::rpc::{
    DenoPidParams, DenoProcessParams, SpawnDenoParams, SpawnDenoResult, Watch, methods,
};

pub use self::repl::{EvalError, Repl, ReplCommand, Thrown};

use crate::command::{Settings, SpawnError, settings};
use crate::connection::Connection;
use crate::fetch::Fetch;
use crate::process::{Output, Process, ProcessError, Streams};
use crate::stream::WriteStream;
use crate::{CallError, Stdio};

/// Deno in a sandbox.
#[derive(Debug, Clone)]
pub struct Deno {
    connection: Connection,
}

/// A program for Deno that is to be started.
#[derive(Debug, Clone)]
#[must_use = "nothing is started yet"]
pub struct DenoCommand {
    connection: Connection,
    program: Program,
    args: Vec<String>,
    settings: Settings,
}

#[derive(Debug, Clone)]
enum Program {
    Entrypoint {
        path: String,
        watch: Option<Watch>,
    },
    Code {
        text: String,
        extension: Option<String>,
    },
}

impl Deno {
    pub(crate) fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// A program in a file of the sandbox, or at an address.
    pub fn run(&self, entrypoint: impl Into<String>) -> DenoCommand {
        self.program(Program::Entrypoint {
            path: entrypoint.into(),
            watch: None,
        })
    }

    /// A program as text, TypeScript unless [`DenoCommand::extension`] says
    /// otherwise.
    pub fn run_code(&self, code: impl Into<String>) -> DenoCommand {
        self.program(Program::Code {
            text: code.into(),
            extension: None,
        })
    }

    fn program(&self, program: Program) -> DenoCommand {
        DenoCommand {
            connection: self.connection.clone(),
            program,
            args: Vec::new(),
            settings: Settings::default(),
        }
    }

    /// A process that evaluates what it is sent, which is to be started.
    pub fn repl(&self) -> ReplCommand {
        ReplCommand::new(self.connection.clone())
    }

    /// Evaluates TypeScript in a process of its own, and tells its value.
    ///
    /// # Errors
    /// What the code throws, and a value of another shape than is expected.
    pub async fn eval<T: DeserializeOwned>(&self, code: &str) -> Result<T, EvalError> {
        let mut repl = self.repl().spawn().await?;
        let value = repl.eval(code).await;
        if let Err(error) = repl.close().await {
            tracing::debug!(%error, "a REPL that is not needed any more was not closed");
        }
        value
    }
}

impl DenoCommand {
    settings!();

    /// Adds an argument: the program finds it in `Deno.args`.
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.args.push(argument.into());
        self
    }

    /// Adds arguments.
    pub fn args<A: Into<String>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// What the text of [`Deno::run_code`] is: `js`, `cjs`, `mjs`, `ts`,
    /// `cts`, `mts`, `jsx` or `tsx`. Means nothing for a file.
    pub fn extension(mut self, extension: impl Into<String>) -> Self {
        if let Program::Code { extension: set, .. } = &mut self.program {
            *set = Some(extension.into());
        }
        self
    }

    /// Starts the program of [`Deno::run`] anew whenever its modules change.
    /// Means nothing for text.
    pub fn watch(self) -> Self {
        self.watching(Watch::Modules(true))
    }

    /// The same, and whenever one of these paths changes.
    pub fn watch_also<P: Into<String>>(self, paths: impl IntoIterator<Item = P>) -> Self {
        let paths = paths.into_iter().map(Into::into).collect();
        self.watching(Watch::Also(paths))
    }

    fn watching(mut self, watch: Watch) -> Self {
        if let Program::Entrypoint { watch: set, .. } = &mut self.program {
            *set = Some(watch);
        }
        self
    }

    /// Starts the program.
    ///
    /// # Errors
    /// A program that the sandbox does not start. One that is wrong in itself
    /// starts, and ends with the error in its error output.
    pub async fn spawn(&self) -> Result<DenoProcess, SpawnError> {
        let refused = |source| SpawnError::Refused {
            command: "deno".to_owned(),
            source,
        };
        let stdin = self.settings.open_stdin(&self.connection, "deno").await?;
        let mut params = SpawnDenoParams {
            process: deno_params(&self.settings, &self.args, stdin.as_ref()),
            ..SpawnDenoParams::default()
        };
        match &self.program {
            Program::Entrypoint { path, watch } => {
                params.entrypoint = Some(path.clone());
                params.watch.clone_from(watch);
            }
            Program::Code { text, extension } => {
                params.code = Some(text.clone());
                params.extension.clone_from(extension);
            }
        }
        let spawned = self.connection.call(methods::SPAWN_DENO, &params).await;
        let spawned: SpawnDenoResult = spawned.map_err(refused)?;
        let streams = Streams {
            stdin,
            stdout: spawned.stdout_stream_id,
            stderr: spawned.stderr_stream_id,
        };
        let restarts = spawned.watcher_id.map(|watcher| Restarts {
            count: self.connection.restarts(&watcher),
            told: 0,
        });
        let len_max = self.settings.output_len_max;
        let process = Process::attend(&self.connection, spawned.pid, streams, len_max).await;
        Ok(DenoProcess {
            process: process.map_err(refused)?,
            connection: self.connection.clone(),
            restarts,
        })
    }

    /// Runs the program to its end and gathers what it writes.
    ///
    /// # Errors
    /// A program that does not start, writes more than is kept, or is lost.
    pub async fn output(self) -> Result<Output, ProcessError> {
        let piped = self.stdout(Stdio::Piped).stderr(Stdio::Piped);
        piped.spawn().await?.process.output().await
    }
}

fn deno_params(
    settings: &Settings,
    args: &[String],
    stdin: Option<&WriteStream>,
) -> DenoProcessParams {
    DenoProcessParams {
        script_args: Some(args.to_vec()),
        env: Some(settings.env.clone()),
        clear_env: settings.clear_env.then_some(true),
        cwd: settings.cwd.clone(),
        stdin_stream_id: stdin.map(WriteStream::id),
        stdout: Some(settings.stdout),
        stderr: Some(settings.stderr),
    }
}

/// A program that runs in Deno.
#[derive(Debug)]
pub struct DenoProcess {
    /// Its process: streams, signals, its end.
    pub process: Process,
    connection: Connection,
    restarts: Option<Restarts>,
}

/// The restarts of a program that watches its files.
#[derive(Debug)]
struct Restarts {
    count: watch::Receiver<u64>,
    told: u64,
}

impl DenoProcess {
    /// Waits until it listens on a TCP port. False: it ended before it did.
    ///
    /// # Errors
    /// A connection that is lost.
    pub async fn http_ready(&self) -> Result<bool, CallError> {
        let params = DenoPidParams {
            pid: self.process.pid(),
        };
        self.connection.call(methods::DENO_HTTP_WAIT, &params).await
    }

    /// A request to its HTTP server, whatever host the address says.
    pub fn fetch(&self, url: impl Into<String>) -> Fetch {
        Fetch::new(
            self.connection.clone(),
            url.into(),
            Some(self.process.pid()),
        )
    }

    /// Waits until it has started anew because a file changed; each time is
    /// told once. None: it does not watch, or the connection has ended.
    pub async fn restarted(&mut self) -> Option<()> {
        let restarts = self.restarts.as_mut()?;
        let told = restarts.told;
        restarts.count.wait_for(|count| *count > told).await.ok()?;
        restarts.told += 1;
        Some(())
    }
}
