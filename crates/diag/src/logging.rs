//! Sets up the log of a program: to standard error, as lines or as JSON.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// The log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogSetupError {
    #[error("log filter {filter:?} is not understood")]
    Filter {
        filter: String,
        #[source]
        source: ParseError,
    },
    #[error("the log is already set up")]
    AlreadySetUp(#[source] TryInitError),
}

/// Writes log lines to standard error. `filter` has the syntax of
/// `tracing`'s filters, as in `info,tombolo_server=debug`.
pub fn init_logging(filter: &str, format: LogFormat) -> Result<(), LogSetupError> {
    let parsed = EnvFilter::try_new(filter).map_err(|source| LogSetupError::Filter {
        filter: filter.to_owned(),
        source,
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr);
    let done = match format {
        LogFormat::Text => builder
            .with_ansi(std::io::stderr().is_terminal())
            .finish()
            .try_init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
    };
    done.map_err(LogSetupError::AlreadySetUp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_is_refused_by_name() {
        let error = init_logging("info,=", LogFormat::Text).unwrap_err();
        assert!(error.to_string().contains("info,="), "{error}");
    }
}
