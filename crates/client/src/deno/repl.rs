//! A process of Deno's that evaluates what it is sent.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tombolo_api::rpc::{
    DenoPidParams, DenoReplCallParams, DenoReplEvalParams, ErrorObject, SpawnResult, methods,
};

use super::deno_params;
use crate::CallError;
use crate::command::{Settings, SpawnError, settings};
use crate::connection::Connection;
use crate::process::{Process, Streams};

/// A REPL that is to be started.
#[derive(Debug, Clone)]
#[must_use = "nothing is started yet"]
pub struct ReplCommand {
    connection: Connection,
    args: Vec<String>,
    settings: Settings,
}

/// A process of Deno's that evaluates what it is sent, and keeps what was
/// declared.
#[derive(Debug)]
pub struct Repl {
    /// Its process: streams, signals, its end.
    pub process: Process,
    connection: Connection,
}

/// Why there is no value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// The code threw.
    #[error(transparent)]
    Thrown(#[from] Box<Thrown>),
    /// The value has another shape than was expected.
    #[error("the value is not of the type that was asked for")]
    Value(#[source] serde_json::Error),
    /// The arguments cannot be put into JSON.
    #[error("the arguments cannot be put into JSON")]
    Arguments(#[source] serde_json::Error),
    /// The REPL has ended, or the connection to it.
    #[error("the code was not evaluated")]
    Call(#[source] CallError),
    /// There is no REPL for it.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
}

/// What code threw: an error of JavaScript's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thrown {
    /// The error as it was told.
    pub object: ErrorObject,
}

impl Thrown {
    /// Its class, as in `RangeError`.
    #[must_use]
    pub fn class(&self) -> &str {
        &self.object.constructor_name
    }

    /// What it says.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.object.message
    }

    /// Where it was thrown, if that is known.
    #[must_use]
    pub fn stack(&self) -> Option<&str> {
        self.object.stack.as_deref()
    }
}

impl fmt::Display for Thrown {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.class(), self.message())
    }
}

impl std::error::Error for Thrown {}

impl EvalError {
    /// What the code threw, if it did.
    #[must_use]
    pub fn thrown(&self) -> Option<&Thrown> {
        match self {
            Self::Thrown(thrown) => Some(thrown),
            _ => None,
        }
    }

    /// What to do about it, where that is known.
    #[must_use]
    pub fn next_step(&self) -> Option<&'static str> {
        match self {
            Self::Value(_) => Some("ask for a `serde_json::Value` to see what there is"),
            Self::Call(error) if error.is_not_found() => Some("start another REPL"),
            Self::Call(error) => error.next_step(),
            Self::Spawn(error) => error.next_step(),
            _ => None,
        }
    }
}

impl ReplCommand {
    settings!();

    pub(super) fn new(connection: Connection) -> Self {
        Self {
            connection,
            args: Vec::new(),
            settings: Settings::default(),
        }
    }

    /// Adds an argument: code finds it in `Deno.args`.
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.args.push(argument.into());
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// A REPL that the sandbox does not start.
    pub async fn spawn(&self) -> Result<Repl, SpawnError> {
        let refused = |source| SpawnError::Refused {
            command: "deno repl".to_owned(),
            source,
        };
        let connection = &self.connection;
        let stdin = self.settings.open_stdin(connection, "deno repl").await?;
        let params = deno_params(&self.settings, &self.args, stdin.as_ref());
        let spawned = connection.call(methods::SPAWN_DENO_REPL, &params).await;
        let spawned: SpawnResult = spawned.map_err(refused)?;
        let streams = Streams {
            stdin,
            stdout: spawned.stdout_stream_id,
            stderr: spawned.stderr_stream_id,
        };
        let len_max = self.settings.output_len_max;
        let process = Process::attend(connection, spawned.pid, streams, len_max).await;
        Ok(Repl {
            process: process.map_err(refused)?,
            connection: connection.clone(),
        })
    }
}

impl Repl {
    /// Evaluates TypeScript, waits for a promise, and tells the value: what
    /// JSON has no form for is null.
    ///
    /// # Errors
    /// What the code throws, and a value of another shape than is expected.
    pub async fn eval<T: DeserializeOwned>(&self, code: &str) -> Result<T, EvalError> {
        let params = DenoReplEvalParams {
            pid: self.process.pid(),
            code: code.to_owned(),
        };
        let value = self.connection.call(methods::DENO_REPL_EVAL, &params).await;
        typed(value)
    }

    /// Calls a function by its name, or an expression for one, with a tuple,
    /// a list or an array of arguments.
    ///
    /// # Errors
    /// As [`Repl::eval`].
    pub async fn call<T: DeserializeOwned>(
        &self,
        function: &str,
        arguments: impl Serialize,
    ) -> Result<T, EvalError> {
        let json = serde_json::to_string(&arguments).map_err(EvalError::Arguments)?;
        let args: Vec<Box<RawValue>> = match json.as_str() {
            // What the empty tuple is in JSON.
            "null" => Vec::new(),
            list => serde_json::from_str(list).map_err(EvalError::Arguments)?,
        };
        let params = DenoReplCallParams {
            pid: self.process.pid(),
            function: function.to_owned(),
            args: Some(args),
        };
        let value = self.connection.call(methods::DENO_REPL_CALL, &params).await;
        typed(value)
    }

    /// Ends it. One that has ended is no error.
    ///
    /// # Errors
    /// A connection that is lost.
    pub async fn close(&mut self) -> Result<(), CallError> {
        let params = DenoPidParams {
            pid: self.process.pid(),
        };
        self.connection
            .call(methods::DENO_REPL_CLOSE, &params)
            .await
    }
}

fn typed<T: DeserializeOwned>(value: Result<Box<RawValue>, CallError>) -> Result<T, EvalError> {
    match value {
        Ok(value) => serde_json::from_str(value.get()).map_err(EvalError::Value),
        Err(CallError::Failed { error }) if !is_of_the_call(&error) => {
            Err(Box::new(Thrown { object: *error }).into())
        }
        Err(error) => Err(EvalError::Call(error)),
    }
}

/// Whether an error says that the code was not evaluated, or its value not
/// told. Code can throw the like itself, and is believed then.
fn is_of_the_call(error: &ErrorObject) -> bool {
    let class = error.constructor_name.as_str();
    matches!(
        (class, error.code.as_deref()),
        ("TypeError", Some("ENOENT"))
            | ("RangeError", Some("EMSGSIZE"))
            | ("ConnectionAborted", Some("ECONNABORTED"))
    )
}
