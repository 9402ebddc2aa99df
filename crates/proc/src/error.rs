//! Why a program could not be run to a good end.

use std::{io, process::ExitStatus, time::Duration};

use thiserror::Error;

use crate::Output;

/// A program that did not start, did not end in time, or ended badly.
#[derive(Debug, Error)]
pub enum RunError {
    /// The program could not be started: not installed, not executable, or a
    /// working directory that does not exist.
    #[error("cannot start {program:?} in {}", cwd.display())]
    Start {
        /// The program as it was named.
        program: String,
        /// The working directory it was to start in.
        cwd: std::path::PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The program started, but its pipes or its status could not be read.
    #[error("lost contact with {program:?}")]
    Contact {
        /// The program as it was named.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The program was killed because it took too long.
    #[error("{program:?} did not end within {limit:?}{}", tail(stderr))]
    Deadline {
        /// The program as it was named.
        program: String,
        /// How long it was given.
        limit: Duration,
        /// The last lines it wrote to standard error.
        stderr: String,
    },
    /// The program ended with another status than success.
    #[error("{program:?} ended with {status}{}", tail(stderr))]
    Failed {
        /// The program as it was named.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The last lines it wrote to standard error.
        stderr: String,
    },
}

impl RunError {
    /// Whether the program is simply not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Start { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    pub(crate) fn failed(program: &str, output: &Output) -> Self {
        Self::Failed {
            program: program.to_owned(),
            status: output.status,
            stderr: output.stderr_tail(),
        }
    }
}

fn tail(stderr: &str) -> String {
    if stderr.is_empty() {
        return String::new();
    }
    let indented: Vec<String> = stderr.lines().map(|line| format!("\n  | {line}")).collect();
    format!(", saying{}", indented.concat())
}
