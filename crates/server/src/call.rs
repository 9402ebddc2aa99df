//! Calls to the two programs behind this one: how long they wait, when they are
//! tried again, and how they fail.

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_millis(500);

/// A call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("{peer} cannot be reached (asked it to {operation})")]
    Away {
        peer: &'static str,
        operation: &'static str,
        #[source]
        source: Status,
    },
    #[error("{peer} did not {operation} in time")]
    TimedOut {
        peer: &'static str,
        operation: &'static str,
        #[source]
        source: tokio::time::error::Elapsed,
    },
    #[error("{peer} could not {operation}")]
    Refused {
        peer: &'static str,
        operation: &'static str,
        #[source]
        source: Status,
    },
}

impl CallError {
    /// What the other side answered, if it did.
    pub(crate) fn refusal(&self) -> Option<&Status> {
        match self {
            Self::Refused { source, .. } => Some(source),
            Self::Away { .. } | Self::TimedOut { .. } => None,
        }
    }

    pub(crate) fn code(&self) -> Option<Code> {
        self.refusal().map(Status::code)
    }

    /// A refusal where the other side itself, and not the way to it, said that
    /// something is unavailable.
    pub(crate) fn or_its_own_words(self) -> Self {
        match self {
            Self::Away {
                peer,
                operation,
                source,
            } if source.source().is_none() => Self::Refused {
                peer,
                operation,
                source,
            },
            other => other,
        }
    }
}

/// Whom to call, and how long to wait for it when it is away.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    /// As messages name it: "the node".
    pub(crate) peer: &'static str,
    pub(crate) wait: Duration,
}

impl Caller {
    /// Repeats a call that may be repeated while the other side is away, or as
    /// long as `again` says.
    pub(crate) async fn repeat<T, F>(
        self,
        operation: &'static str,
        limit: Duration,
        again: impl Fn(&CallError) -> bool,
        call: impl Fn() -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let give_up = Instant::now() + self.wait;
        let mut pause = RETRY_FIRST;
        loop {
            let failed = match self.attempt(operation, limit, &call).await {
                Ok(done) => return Ok(done),
                Err(failed) => failed,
            };
            let is_over = Instant::now() + pause >= give_up;
            if is_over || !(matches!(failed, CallError::Away { .. }) || again(&failed)) {
                return Err(failed);
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    pub(crate) async fn attempt<T, F>(
        self,
        operation: &'static str,
        limit: Duration,
        call: impl FnOnce() -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let peer = self.peer;
        match timeout(limit, call()).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(source)) if is_away(&source) => Err(CallError::Away {
                peer,
                operation,
                source,
            }),
            Ok(Err(source)) => Err(CallError::Refused {
                peer,
                operation,
                source,
            }),
            Err(source) => Err(CallError::TimedOut {
                peer,
                operation,
                source,
            }),
        }
    }
}

/// For calls that are repeated only while the other side is away.
pub(crate) fn never(_: &CallError) -> bool {
    false
}

/// A program that stops in the middle of a call shows as a broken connection,
/// which has a cause; a status that it sent has none.
fn is_away(status: &Status) -> bool {
    status.code() == Code::Unavailable || status.source().is_some()
}

/// A channel to a unix socket, connected when first used and again whenever the
/// connection was lost.
///
/// Must be called within a Tokio runtime.
pub(crate) fn unix_channel(endpoint: &Endpoint, socket: &Path) -> Channel {
    let socket = PathBuf::from(socket);
    endpoint.connect_with_connector_lazy(tower::service_fn(move |_: http::Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    }))
}
