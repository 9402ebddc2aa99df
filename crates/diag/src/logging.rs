//! Sets up the log of a program: to standard error, as lines or as JSON.

use std::io::IsTerminal as _;

use tracing::{Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

/// Libraries whose finer lines tell credentials: SSH's tells every user name, and whoever
/// knows one is let in.
const TELLTALES: [&str; 1] = ["russh"];
/// The finest that is written of them, whatever a filter says.
const TELLTALE_LEVEL: LevelFilter = LevelFilter::INFO;

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
/// `tracing`'s filters, as in `info,tombolo_server=debug`. Lines of libraries that would
/// tell credentials are left out, whatever it says.
pub fn init_logging(filter: &str, format: LogFormat) -> Result<(), LogSetupError> {
    let parsed = EnvFilter::try_new(filter).map_err(|source| LogSetupError::Filter {
        filter: filter.to_owned(),
        source,
    })?;
    let is_terminal = std::io::stderr().is_terminal();
    let done = match format {
        LogFormat::Text => text(parsed, is_terminal, std::io::stderr).try_init(),
        LogFormat::Json => json(parsed, std::io::stderr).try_init(),
    };
    done.map_err(LogSetupError::AlreadySetUp)
}

fn text<W>(filter: EnvFilter, is_coloured: bool, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        // It would be told with `eprintln!`, which panics where the window was closed.
        .log_internal_errors(false)
        .with_ansi(is_coloured);
    lines.finish().with(filter_fn(tells_nothing))
}

fn json<W>(filter: EnvFilter, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        // It would be told with `eprintln!`, which panics where the window was closed.
        .log_internal_errors(false)
        .json()
        .flatten_event(true);
    lines.finish().with(filter_fn(tells_nothing))
}

fn tells_nothing(line: &Metadata<'_>) -> bool {
    *line.level() <= TELLTALE_LEVEL
        || !TELLTALES
            .iter()
            .any(|library| line.target().starts_with(library))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn talk() {
        tracing::debug!(target: "russh::server::encrypted", "a credential");
        tracing::trace!(target: "russh", "a credential");
        tracing::info!(target: "russh::server", "a fact");
        tracing::debug!(target: "tombolo_ssh", "a detail");
    }

    #[test]
    fn no_filter_makes_a_library_tell_credentials() {
        for filter in ["trace", "debug,russh=trace,russh::server::encrypted=debug"] {
            for is_json in [false, true] {
                let written = Written::default();
                let writer = {
                    let written = written.clone();
                    move || written.clone()
                };
                let parsed = EnvFilter::try_new(filter).unwrap();
                if is_json {
                    tracing::subscriber::with_default(json(parsed, writer), talk);
                } else {
                    tracing::subscriber::with_default(text(parsed, false, writer), talk);
                }
                let told = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
                assert!(!told.contains("credential"), "{filter}: {told}");
                assert!(told.contains("a fact"), "{filter}: {told}");
                assert!(told.contains("a detail"), "{filter}: {told}");
            }
        }
    }

    #[test]
    fn a_bad_filter_is_refused_by_name() {
        let error = init_logging("info,=", LogFormat::Text).unwrap_err();
        assert!(error.to_string().contains("info,="), "{error}");
    }
}
