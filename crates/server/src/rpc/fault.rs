//! What a call can fail with, and how each is told to the client.
//!
//! Failures of the sandbox become an [`ErrorObject`] that the SDKs rebuild as
//! an exception of Deno's classes. Only requests that are wrong in themselves
//! use the top-level error of JSON-RPC, because older releases of the
//! JavaScript SDK never see that one.

use tombolo_api::rpc::{ErrorObject, ProtocolError, code};
use tombolo_guest_proto::v1::OsError;
use tonic::{Code, Status};

use super::guest_call::is_lost;
use super::params::InvalidParams;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("Method not found")]
    MethodNotFound,
    #[error("Invalid params")]
    InvalidParams(#[source] InvalidParams),
    #[error("the call failed")]
    Failed(#[source] Box<ErrorObject>),
    #[error("the answer could not be written as JSON")]
    Unwritable(#[source] serde_json::Error),
}

impl From<ErrorObject> for CallError {
    fn from(error: ErrorObject) -> Self {
        Self::Failed(Box::new(error))
    }
}

impl From<Box<ErrorObject>> for CallError {
    fn from(error: Box<ErrorObject>) -> Self {
        Self::Failed(error)
    }
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        from_status(&status).into()
    }
}

impl CallError {
    /// The error as the client is told it: of the call, or of the request.
    pub(super) fn tell(self) -> Result<Box<ErrorObject>, ProtocolError> {
        match self {
            Self::Failed(error) => Ok(error),
            Self::MethodNotFound => Err(ProtocolError {
                code: code::METHOD_NOT_FOUND,
                // The Python SDK looks for exactly these words.
                message: "Method not found".into(),
                data: None,
            }),
            Self::InvalidParams(invalid) => Err(ProtocolError {
                code: code::INVALID_PARAMS,
                message: "Invalid params".into(),
                data: Some(Box::new(invalid.into_zod_error())),
            }),
            Self::Unwritable(error) => {
                tracing::error!(%error, "an answer could not be written as JSON");
                Err(ProtocolError {
                    code: code::INTERNAL_ERROR,
                    message: "Internal error".into(),
                    data: None,
                })
            }
        }
    }
}

/// What a failed guest call means to the client.
pub(super) fn from_status(status: &Status) -> ErrorObject {
    if let Some(error) = OsError::from_status(status) {
        return from_os_error(&error, status.message());
    }
    if is_lost(status) {
        return ErrorObject::new(
            "ConnectionReset",
            "The way to the sandbox was lost, so it is unknown whether the call took effect; \
             look, then try again",
        )
        .with_code("ECONNRESET");
    }
    match status.code() {
        Code::NotFound => sandbox_ended(),
        Code::ResourceExhausted => ErrorObject::new("Busy", status.message()).with_code("EBUSY"),
        Code::Unimplemented => ErrorObject::new("NotSupported", status.message()),
        _ => ErrorObject::new("Error", status.message()),
    }
}

/// The answer to calls that the end of the sandbox cuts off.
pub(super) fn sandbox_ended() -> ErrorObject {
    ErrorObject::new("ConnectionAborted", "The sandbox has ended").with_code("ECONNABORTED")
}

/// The answer to a call that `abort` cancelled.
pub(super) fn aborted() -> ErrorObject {
    let mut error = ErrorObject::new("DOMException", "The signal has been aborted");
    error.name = Some("AbortError".into());
    error
}

/// Both SDKs take exactly this for "the process has ended already".
pub(super) fn process_gone() -> ErrorObject {
    ErrorObject::new("TypeError", "Child process has already terminated").with_code("ENOENT")
}

/// A handle this connection does not have.
pub(super) fn bad_handle() -> ErrorObject {
    ErrorObject::new("BadResource", "Bad file descriptor (os error 9)").with_code("EBADF")
}

/// Whether the guest says that there is no such process, or the node that there
/// is no such guest.
pub(super) fn is_no_such_process(status: &Status) -> bool {
    OsError::from_status(status).map_or(status.code() == Code::NotFound, |error| {
        matches!(error.errno, 2 | 3 | 10)
    })
}

fn from_os_error(error: &OsError, message: &str) -> ErrorObject {
    let kind = match error.kind.as_str() {
        "invalid_argument" => Some("TypeError"),
        "invalid_utf8" => Some("InvalidData"),
        "bad_regex" => Some("SyntaxError"),
        _ => None,
    };
    let Some(class) = Class::of(error.errno) else {
        let text = if error.errno == 0 {
            message.to_owned()
        } else {
            os_text(error)
        };
        return ErrorObject::new(kind.unwrap_or("Error"), text);
    };
    // A kind beside an error number could make a missing file look like a dead
    // process, so the number wins.
    ErrorObject::new(class.constructor, os_text(error)).with_code(class.code)
}

/// The text Deno gives a failed system call.
fn os_text(error: &OsError) -> String {
    let reason = std::io::Error::from_raw_os_error(error.errno);
    match (error.operation.as_str(), error.path.as_str()) {
        ("", "") => reason.to_string(),
        (operation, "") => format!("{reason}, {operation}"),
        ("", path) => format!("{reason}: '{path}'"),
        (operation, path) => format!("{reason}: {operation} '{path}'"),
    }
}

struct Class {
    code: &'static str,
    constructor: &'static str,
}

impl Class {
    /// The name of a Linux error number and Deno's class for it.
    fn of(errno: i32) -> Option<Self> {
        let (code, constructor) = match errno {
            1 => ("EPERM", "PermissionDenied"),
            2 => ("ENOENT", "NotFound"),
            3 => ("ESRCH", "NotFound"),
            4 => ("EINTR", "Interrupted"),
            5 => ("EIO", "Error"),
            6 => ("ENXIO", "Error"),
            7 => ("E2BIG", "Error"),
            8 => ("ENOEXEC", "Error"),
            9 => ("EBADF", "BadResource"),
            10 => ("ECHILD", "NotFound"),
            11 => ("EAGAIN", "WouldBlock"),
            12 => ("ENOMEM", "Error"),
            13 => ("EACCES", "PermissionDenied"),
            16 => ("EBUSY", "Busy"),
            17 => ("EEXIST", "AlreadyExists"),
            18 => ("EXDEV", "Error"),
            19 => ("ENODEV", "Error"),
            20 => ("ENOTDIR", "NotADirectory"),
            21 => ("EISDIR", "IsADirectory"),
            22 => ("EINVAL", "TypeError"),
            23 => ("ENFILE", "Error"),
            24 => ("EMFILE", "Error"),
            25 => ("ENOTTY", "BadResource"),
            26 => ("ETXTBSY", "Busy"),
            27 => ("EFBIG", "Error"),
            28 => ("ENOSPC", "Error"),
            29 => ("ESPIPE", "Error"),
            30 => ("EROFS", "Error"),
            31 => ("EMLINK", "Error"),
            32 => ("EPIPE", "BrokenPipe"),
            34 => ("ERANGE", "RangeError"),
            36 => ("ENAMETOOLONG", "Error"),
            39 => ("ENOTEMPTY", "Error"),
            40 => ("ELOOP", "FilesystemLoop"),
            75 => ("EOVERFLOW", "RangeError"),
            95 => ("EOPNOTSUPP", "NotSupported"),
            98 => ("EADDRINUSE", "AddrInUse"),
            99 => ("EADDRNOTAVAIL", "AddrNotAvailable"),
            101 => ("ENETUNREACH", "NetworkUnreachable"),
            103 => ("ECONNABORTED", "ConnectionAborted"),
            104 => ("ECONNRESET", "ConnectionReset"),
            107 => ("ENOTCONN", "NotConnected"),
            110 => ("ETIMEDOUT", "TimedOut"),
            111 => ("ECONNREFUSED", "ConnectionRefused"),
            122 => ("EDQUOT", "Error"),
            _ => return None,
        };
        Some(Self { code, constructor })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn os_error(errno: i32, operation: &str, path: &str, kind: &str) -> Status {
        OsError {
            errno,
            operation: operation.into(),
            path: path.into(),
            kind: kind.into(),
        }
        .into_status("as the agent says")
    }

    #[test]
    fn system_errors_become_denos() {
        let cases = [
            (
                os_error(2, "open", "/x", ""),
                "NotFound",
                Some("ENOENT"),
                "No such file or directory (os error 2): open '/x'",
            ),
            (
                os_error(13, "", "/x", ""),
                "PermissionDenied",
                Some("EACCES"),
                "Permission denied (os error 13): '/x'",
            ),
            (
                os_error(17, "mkdir", "", ""),
                "AlreadyExists",
                Some("EEXIST"),
                "File exists (os error 17), mkdir",
            ),
            (
                os_error(22, "", "", ""),
                "TypeError",
                Some("EINVAL"),
                "Invalid argument (os error 22)",
            ),
            (
                os_error(0, "", "", "bad_regex"),
                "SyntaxError",
                None,
                "as the agent says",
            ),
            (os_error(0, "", "", ""), "Error", None, "as the agent says"),
            (
                os_error(0, "", "", "invalid_argument"),
                "TypeError",
                None,
                "as the agent says",
            ),
            (
                os_error(133, "", "", ""),
                "Error",
                None,
                "Memory page has hardware error (os error 133)",
            ),
        ];
        for (status, constructor, code, message) in cases {
            let error = from_status(&status);
            assert_eq!(error.constructor_name, constructor, "{message}");
            assert_eq!(error.code.as_deref(), code, "{message}");
            assert_eq!(error.message, message);
        }
    }

    #[test]
    fn a_missing_file_is_never_taken_for_a_dead_process() {
        for errno in 0..200 {
            let error = from_status(&os_error(errno, "open", "/x", "invalid_argument"));
            let both =
                error.constructor_name == "TypeError" && error.code.as_deref() == Some("ENOENT");
            assert!(!both, "errno {errno}");
        }
        let dead = process_gone();
        assert_eq!(
            (dead.constructor_name.as_str(), dead.code.as_deref()),
            ("TypeError", Some("ENOENT"))
        );
    }

    #[test]
    fn other_failures_say_what_to_expect() {
        let cases = [
            (Status::not_found("no such sandbox"), "ConnectionAborted"),
            (Status::unavailable("gone"), "ConnectionReset"),
            (Status::resource_exhausted("full"), "Busy"),
            (Status::internal("bug"), "Error"),
        ];
        for (status, constructor) in cases {
            assert_eq!(
                from_status(&status).constructor_name,
                constructor,
                "{status}"
            );
        }
    }
}
