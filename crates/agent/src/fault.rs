//! The one failure that calls answer with: an errno (or why there is none), at
//! which operation, on which path. It becomes a gRPC status whose details hold
//! the contract's `OsError`.

use std::fmt;

use rustix::io::Errno;
use tombolo_guest_proto::v1::OsError;
use tonic::Status;

/// A failure travels in HTTP headers, and headers that are too long end the
/// whole connection.
const SHOWN_LEN_MAX: usize = 1024;
const MESSAGE_LEN_MAX: usize = 2560;

/// A call that failed, as its caller will see it.
#[derive(Debug, thiserror::Error)]
pub(crate) struct CallError {
    #[source]
    cause: Cause,
    operation: &'static str,
    path: String,
    /// The second path of calls that take two.
    to: Option<String>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cause {
    #[error("{}", std::io::Error::from_raw_os_error(*.0))]
    Os(i32),
    #[error("{0}")]
    InvalidArgument(&'static str),
    /// Refused before the kernel was asked.
    #[error("{0}")]
    Unsuitable(std::io::Error),
    #[error("invalid regular expression {source_text:?}: {error}")]
    BadRegex {
        source_text: String,
        error: regress::Error,
    },
}

impl From<Errno> for Cause {
    fn from(errno: Errno) -> Self {
        Self::Os(errno.raw_os_error())
    }
}

impl From<std::io::Error> for Cause {
    fn from(error: std::io::Error) -> Self {
        match errno_of(&error) {
            Some(errno) => Self::Os(errno),
            None if error.kind() == std::io::ErrorKind::InvalidInput => Self::Unsuitable(error),
            None => Self::Os(Errno::IO.raw_os_error()),
        }
    }
}

/// The errno of an error that may be wrapped in one that names the path.
fn errno_of(error: &std::io::Error) -> Option<i32> {
    let mut cause: &(dyn std::error::Error + 'static) = error;
    loop {
        if let Some(error) = cause.downcast_ref::<std::io::Error>()
            && let Some(errno) = error.raw_os_error()
        {
            return Some(errno);
        }
        let inner = cause.downcast_ref::<std::io::Error>();
        let inner = inner.and_then(std::io::Error::get_ref);
        cause = match inner {
            Some(inner) => inner,
            None => cause.source()?,
        };
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.cause, self.operation)?;
        if !self.path.is_empty() || self.to.is_some() {
            write!(f, " '{}'", cut(&self.path, SHOWN_LEN_MAX))?;
        }
        match &self.to {
            Some(to) => write!(f, " -> '{}'", cut(to, SHOWN_LEN_MAX)),
            None => Ok(()),
        }
    }
}

impl CallError {
    pub(crate) fn new(operation: &'static str, path: &str, cause: impl Into<Cause>) -> Self {
        Self {
            cause: cause.into(),
            operation,
            path: path.to_owned(),
            to: None,
        }
    }

    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self.cause, Cause::Os(errno) if errno == Errno::NOENT.raw_os_error())
    }

    /// An errno that the agent itself decided on.
    pub(crate) fn errno(operation: &'static str, path: &str, errno: Errno) -> Self {
        Self::new(operation, path, errno)
    }
}

/// For `map_err`: the failure of `operation` on `path`.
pub(crate) fn at<E: Into<Cause>>(
    operation: &'static str,
    path: &str,
) -> impl FnOnce(E) -> CallError {
    move |cause| CallError::new(operation, path, cause)
}

/// For `map_err`: the failure of `operation` from `path` to `to`.
pub(crate) fn between<E: Into<Cause>>(
    operation: &'static str,
    path: &str,
    to: &str,
) -> impl FnOnce(E) -> CallError {
    move |cause| CallError {
        to: Some(to.to_owned()),
        ..CallError::new(operation, path, cause)
    }
}

impl From<CallError> for Status {
    fn from(error: CallError) -> Self {
        let message = cut(&error.to_string(), MESSAGE_LEN_MAX);
        let (errno, kind) = match error.cause {
            Cause::Os(errno) => (errno, ""),
            Cause::InvalidArgument(_) | Cause::Unsuitable(_) => (0, "invalid_argument"),
            Cause::BadRegex { .. } => (0, "bad_regex"),
        };
        let details = OsError {
            errno,
            operation: error.operation.to_owned(),
            path: cut(&error.path, SHOWN_LEN_MAX),
            kind: kind.to_owned(),
        };
        details.into_status(message)
    }
}

/// The beginning of a text that somebody else chose the length of.
fn cut(text: &str, len_max: usize) -> String {
    if text.len() <= len_max {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(len_max);
    format!("{}…", text.get(..end).unwrap_or_default())
}

/// Runs `work` on a thread that has the rights of the sandbox's user and may
/// block. The work goes on when the call that wanted it is dropped.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CallError> + Send + 'static,
) -> Result<T, Status> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Status::from),
        Err(error) => Err(Status::internal(error.to_string())),
    }
}
