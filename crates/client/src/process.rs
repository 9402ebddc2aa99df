//! Processes in a sandbox: feed, read, signal, wait.

use std::fmt;

use bytes::Bytes;
use tombolo_api::rpc::{
    AttachParams, KillParams, ListProcessesResult, ResizeParams, SpawnResult, WaitParams, methods,
};
pub use tombolo_api::rpc::{OomConfidence, ProcessRow, TerminalSize, WaitResult as ExitStatus};

use crate::connection::{Connection, PendingCall};
use crate::stream::{ReadStream, SendError, StreamError, WriteStream};
use crate::{CallError, Sandbox, SpawnError};

/// How much of each output [`Command::output`](crate::Command::output) keeps
/// unless told otherwise, in bytes.
pub const OUTPUT_LEN_MAX: usize = 64 * 1024 * 1024;

/// Why a process cannot be dealt with any further.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// It did not start.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// How it ended is not known.
    #[error("the exit of process {pid} is not known")]
    Exit {
        /// Which.
        pid: i32,
        /// Why not.
        #[source]
        source: CallError,
    },
    /// Its output is not complete.
    #[error("the output of process {pid} is not complete")]
    Output {
        /// Which.
        pid: i32,
        /// Why not.
        #[source]
        source: StreamError,
    },
}

/// Why a terminal was not taken over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// There is no such process, or it has no terminal.
    #[error("cannot attach to process {pid}")]
    Refused {
        /// Which.
        pid: i32,
        /// Why not.
        #[source]
        source: CallError,
    },
    /// Nothing can be sent to it.
    #[error("cannot open the input of process {pid}")]
    Stdin {
        /// Which.
        pid: i32,
        /// Why not.
        #[source]
        source: SendError,
    },
}

/// A signal of Linux's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each has its name and meaning from signal(7)")]
pub enum Signal {
    Hup,
    Int,
    Quit,
    Abrt,
    Kill,
    Usr1,
    Usr2,
    Pipe,
    Alrm,
    Term,
    Cont,
    Stop,
    Tstp,
    Winch,
}

impl Signal {
    /// As in `SIGTERM`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hup => "SIGHUP",
            Self::Int => "SIGINT",
            Self::Quit => "SIGQUIT",
            Self::Abrt => "SIGABRT",
            Self::Kill => "SIGKILL",
            Self::Usr1 => "SIGUSR1",
            Self::Usr2 => "SIGUSR2",
            Self::Pipe => "SIGPIPE",
            Self::Alrm => "SIGALRM",
            Self::Term => "SIGTERM",
            Self::Cont => "SIGCONT",
            Self::Stop => "SIGSTOP",
            Self::Tstp => "SIGTSTP",
            Self::Winch => "SIGWINCH",
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// How a process ended, and what it wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to its output; empty if that was not kept.
    pub stdout: Bytes,
    /// The same of its error output.
    pub stderr: Bytes,
}

impl Output {
    /// The output as text, with U+FFFD for what is none.
    #[must_use]
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The error output as text, with U+FFFD for what is none.
    #[must_use]
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// The streams of a process that has started.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) stdin: Option<WriteStream>,
    pub(crate) stdout: Option<u64>,
    pub(crate) stderr: Option<u64>,
}

/// A process in a sandbox. Dropping it lets it run on, with its streams
/// closed; it ends with its sandbox.
#[derive(Debug)]
pub struct Process {
    /// What it reads, if that was asked for. Take it to write.
    pub stdin: Option<WriteStream>,
    /// What it writes, if that was asked for. Take it to read.
    pub stdout: Option<ReadStream>,
    /// What it writes to its error output, if that was asked for.
    pub stderr: Option<ReadStream>,
    handle: ProcessHandle,
    exit: Exit,
    output_len_max: usize,
}

/// A process by its number, to signal it from wherever that is needed.
#[derive(Debug, Clone)]
pub struct ProcessHandle {
    pid: i32,
    connection: Connection,
}

#[derive(Debug)]
enum Exit {
    Awaited(PendingCall),
    Known(ExitStatus),
}

impl Exit {
    async fn status(&mut self) -> Result<ExitStatus, CallError> {
        match self {
            Self::Known(status) => Ok(status.clone()),
            Self::Awaited(call) => {
                let status: ExitStatus = call.reply().await?;
                *self = Self::Known(status.clone());
                Ok(status)
            }
        }
    }
}

impl Sandbox {
    /// A process that runs already, by its number: one that was started here
    /// or over another connection. One that a process started by itself is
    /// signalled by a command.
    #[must_use]
    pub fn process(&self, pid: i32) -> ProcessHandle {
        ProcessHandle {
            pid,
            connection: self.connection().clone(),
        }
    }

    /// The processes that were started from outside, by number; of those that have
    /// ended the latest.
    ///
    /// # Errors
    /// A connection that is lost.
    pub async fn processes(&self) -> Result<Vec<ProcessRow>, CallError> {
        let none = serde_json::Map::new();
        let listed = self.connection().call(methods::PROCESS_LIST, &none).await;
        listed.map(|listed: ListProcessesResult| listed.processes)
    }
}

impl Process {
    /// Asks for its exit at once: the server sends no output before it is
    /// asked.
    pub(crate) async fn attend(
        connection: &Connection,
        pid: i32,
        streams: Streams,
        output_len_max: usize,
    ) -> Result<Self, CallError> {
        let stdout = streams.stdout.map(|id| connection.inbound(id));
        let stderr = streams.stderr.map(|id| connection.inbound(id));
        let wait = WaitParams { pid };
        let exit = connection.begin(methods::PROCESS_WAIT, &wait).await?;
        Ok(Self {
            stdin: streams.stdin,
            stdout,
            stderr,
            handle: ProcessHandle {
                pid,
                connection: connection.clone(),
            },
            exit: Exit::Awaited(exit),
            output_len_max,
        })
    }

    /// Its number in the sandbox.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.handle.pid
    }

    /// A second way to it, for another task.
    #[must_use]
    pub fn handle(&self) -> ProcessHandle {
        self.handle.clone()
    }

    /// Waits for its end. Its input is closed first, and an output that
    /// nobody took is read and forgotten. May be asked again.
    ///
    /// # Errors
    /// A process that is lost with its connection.
    pub async fn status(&mut self) -> Result<ExitStatus, ProcessError> {
        if let Some(stdin) = self.stdin.take()
            && let Err(error) = stdin.finish().await
        {
            tracing::debug!(%error, "the process reads no more");
        }
        for unread in [self.stdout.take(), self.stderr.take()]
            .into_iter()
            .flatten()
        {
            tokio::spawn(unread.discard());
        }
        self.exited().await
    }

    /// Waits for its end and for nothing else: for whoever reads its streams
    /// at the same time.
    ///
    /// # Errors
    /// A process that is lost with its connection.
    pub async fn exited(&mut self) -> Result<ExitStatus, ProcessError> {
        let pid = self.pid();
        let status = self.exit.status().await;
        status.map_err(|source| ProcessError::Exit { pid, source })
    }

    /// Waits for its end and gathers what it writes until then.
    ///
    /// # Errors
    /// A process that writes more than is kept, or is lost.
    pub async fn output(mut self) -> Result<Output, ProcessError> {
        let pid = self.pid();
        if let Some(stdin) = self.stdin.take()
            && let Err(error) = stdin.finish().await
        {
            tracing::debug!(%error, "the process reads no more");
        }
        let len_max = self.output_len_max;
        let (stdout, stderr) = tokio::try_join!(
            gather(self.stdout.take(), len_max),
            gather(self.stderr.take(), len_max)
        )
        .map_err(|source| ProcessError::Output { pid, source })?;
        Ok(Output {
            status: self.exited().await?,
            stdout,
            stderr,
        })
    }

    /// Sends a signal. One that has ended is no error.
    ///
    /// # Errors
    /// A connection that is lost.
    pub async fn kill(&self, signal: Signal) -> Result<(), CallError> {
        self.handle.kill(signal).await
    }

    /// Tells its terminal a new size.
    ///
    /// # Errors
    /// A process that has ended or has no terminal.
    pub async fn resize(&self, size: TerminalSize) -> Result<(), CallError> {
        self.handle.resize(size).await
    }
}

impl ProcessHandle {
    /// Its number in the sandbox.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Takes its terminal over, from another client or from nobody. What it wrote
    /// last comes first. Who drops the input without finishing it leaves the
    /// terminal for another to come back to, and so does who is disconnected.
    ///
    /// # Errors
    /// A process that is not there or has no terminal.
    pub async fn attach(&self, size: TerminalSize) -> Result<Process, AttachError> {
        let Self { pid, connection } = self;
        let refused = |source| AttachError::Refused { pid: *pid, source };
        let stdin = connection.outbound().await;
        let stdin = stdin.map_err(|source| AttachError::Stdin { pid: *pid, source })?;
        let params = AttachParams {
            pid: *pid,
            stdin_stream_id: stdin.id(),
            terminal: size,
        };
        let attached = connection.call(methods::PROCESS_ATTACH, &params).await;
        let attached: SpawnResult = attached.map_err(refused)?;
        let streams = Streams {
            stdin: Some(stdin),
            stdout: attached.stdout_stream_id,
            stderr: attached.stderr_stream_id,
        };
        let process = Process::attend(connection, *pid, streams, OUTPUT_LEN_MAX).await;
        process.map_err(refused)
    }

    /// Sends a signal. One that has ended is no error.
    ///
    /// # Errors
    /// A connection that is lost.
    pub async fn kill(&self, signal: Signal) -> Result<(), CallError> {
        let params = KillParams {
            pid: self.pid,
            signal: Some(signal.as_str().to_owned()),
        };
        let killed = self
            .connection
            .call::<_, ()>(methods::PROCESS_KILL, &params);
        match killed.await {
            Err(CallError::Failed { error }) if is_gone(&error) => Ok(()),
            answer => answer,
        }
    }

    /// Tells its terminal a new size.
    ///
    /// # Errors
    /// A process that has ended or has no terminal.
    pub async fn resize(&self, size: TerminalSize) -> Result<(), CallError> {
        let params = ResizeParams {
            pid: self.pid,
            rows: size.rows,
            columns: size.columns,
        };
        self.connection.call(methods::PROCESS_RESIZE, &params).await
    }
}

/// What the server says of a process that has ended.
fn is_gone(error: &tombolo_api::rpc::ErrorObject) -> bool {
    error.code.as_deref() == Some("ENOENT") && error.constructor_name == "TypeError"
}

async fn gather(stream: Option<ReadStream>, len_max: usize) -> Result<Bytes, StreamError> {
    match stream {
        Some(stream) => stream.read_to_end(len_max).await,
        None => Ok(Bytes::new()),
    }
}
