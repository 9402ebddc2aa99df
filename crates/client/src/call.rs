//! Why a call over the connection of a sandbox did not succeed.

use std::fmt;
use std::io;

use tombolo_api::rpc::ErrorObject;

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndReason {
    /// One side said goodbye, with these words.
    Closed(String),
    /// The socket broke, or the server sent what makes no sense.
    Broken(String),
}

impl fmt::Display for EndReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(reason) if reason.is_empty() => {
                formatter.write_str("the server closed the connection")
            }
            Self::Closed(reason) => write!(formatter, "the server closed the connection: {reason}"),
            Self::Broken(reason) => write!(formatter, "the connection broke: {reason}"),
        }
    }
}

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The connection ended, and perhaps the sandbox with it.
    #[error("{reason}")]
    ConnectionLost {
        /// How.
        reason: EndReason,
    },
    /// What was asked for failed in the sandbox.
    #[error("{}", error.message)]
    Failed {
        /// In the form both official SDKs know: class, code, message.
        error: Box<ErrorObject>,
    },
    /// The server does not understand the call: it is older than this crate.
    #[error("the server refused the call {method}: {message} ({code})")]
    Refused {
        /// Of the call.
        method: &'static str,
        /// Of JSON-RPC.
        code: i32,
        /// In the server's words.
        message: String,
    },
    /// The call cannot be put into JSON.
    #[error("the arguments of {method} cannot be written")]
    Encode {
        /// Of the call.
        method: &'static str,
        /// What is wrong with them.
        #[source]
        source: serde_json::Error,
    },
    /// The answer is another one than was expected.
    #[error("the answer to {method} is not understood")]
    Decode {
        /// Of the call.
        method: &'static str,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A stream that belongs to the call takes no more.
    #[error(transparent)]
    Send(#[from] crate::SendError),
}

impl CallError {
    /// The error as the sandbox told it, if it failed there.
    #[must_use]
    pub fn object(&self) -> Option<&ErrorObject> {
        match self {
            Self::Failed { error } => Some(error),
            _ => None,
        }
    }

    /// What kind of error it is, in the words of the standard library.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::ConnectionLost { .. } => io::ErrorKind::ConnectionReset,
            Self::Failed { error } => kind_of(error),
            Self::Refused { .. } => io::ErrorKind::Unsupported,
            Self::Encode { .. } => io::ErrorKind::InvalidInput,
            Self::Decode { .. } => io::ErrorKind::InvalidData,
            Self::Send(_) => io::ErrorKind::BrokenPipe,
        }
    }

    /// Whether what was named is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.kind() == io::ErrorKind::NotFound
    }

    /// What to do about it, where that is known.
    #[must_use]
    pub fn next_step(&self) -> Option<&'static str> {
        match self {
            Self::ConnectionLost { .. } => Some(
                "connect again while the sandbox lives; one without a lifetime ends with its \
                 first connection",
            ),
            Self::Refused { .. } => Some("use a server of this version"),
            Self::Failed { error } if error.code.as_deref() == Some("EMSGSIZE") => {
                Some("read it in pieces, through a stream or an open file")
            }
            _ => None,
        }
    }
}

/// The classes are Deno's and JavaScript's, the codes Linux's.
fn kind_of(error: &ErrorObject) -> io::ErrorKind {
    match error.code.as_deref() {
        Some("ENOENT") => return io::ErrorKind::NotFound,
        Some("EEXIST") => return io::ErrorKind::AlreadyExists,
        Some("EACCES" | "EPERM") => return io::ErrorKind::PermissionDenied,
        Some("ENOTDIR") => return io::ErrorKind::NotADirectory,
        Some("EISDIR") => return io::ErrorKind::IsADirectory,
        Some("ENOTEMPTY") => return io::ErrorKind::DirectoryNotEmpty,
        Some("EMSGSIZE") => return io::ErrorKind::FileTooLarge,
        _ => {}
    }
    match error.constructor_name.as_str() {
        "NotFound" => io::ErrorKind::NotFound,
        "AlreadyExists" => io::ErrorKind::AlreadyExists,
        "PermissionDenied" => io::ErrorKind::PermissionDenied,
        "NotADirectory" => io::ErrorKind::NotADirectory,
        "IsADirectory" => io::ErrorKind::IsADirectory,
        "ConnectionRefused" => io::ErrorKind::ConnectionRefused,
        "ConnectionAborted" => io::ErrorKind::ConnectionAborted,
        "ConnectionReset" => io::ErrorKind::ConnectionReset,
        "BrokenPipe" => io::ErrorKind::BrokenPipe,
        "TimedOut" => io::ErrorKind::TimedOut,
        "InvalidData" => io::ErrorKind::InvalidData,
        "TypeError" | "RangeError" | "SyntaxError" => io::ErrorKind::InvalidInput,
        "NotSupported" => io::ErrorKind::Unsupported,
        "Interrupted" => io::ErrorKind::Interrupted,
        "WouldBlock" => io::ErrorKind::WouldBlock,
        _ => io::ErrorKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_kind_of_their_code_or_class() {
        let cases = [
            ("NotFound", None, io::ErrorKind::NotFound),
            ("TypeError", Some("ENOENT"), io::ErrorKind::NotFound),
            ("Error", Some("ENOTEMPTY"), io::ErrorKind::DirectoryNotEmpty),
            (
                "AlreadyExists",
                Some("EEXIST"),
                io::ErrorKind::AlreadyExists,
            ),
            ("RangeError", Some("EMSGSIZE"), io::ErrorKind::FileTooLarge),
            ("RangeError", None, io::ErrorKind::InvalidInput),
            ("Whatever", Some("EWHATEVER"), io::ErrorKind::Other),
        ];
        for (class, code, expected) in cases {
            let mut error = ErrorObject::new(class, "m");
            error.code = code.map(str::to_owned);
            let error = CallError::Failed {
                error: Box::new(error),
            };
            assert_eq!(error.kind(), expected, "{class} {code:?}");
        }
    }
}
