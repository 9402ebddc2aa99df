//! How a failed request is answered: a status, a stable code for programs and
//! a sentence for people.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong, for programs.
    #[schema(value_type = ErrorCode)]
    pub code: String,
    /// What went wrong and, when there is one, the next step.
    pub message: String,
}

macro_rules! error_codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $status:literal $text:literal,)+) => {
        /// What went wrong, for programs. Codes never change their meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum ErrorCode { $($(#[doc = $doc])+ $name,)+ }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// As it appears in [`ErrorBody::code`].
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// What it means, in one sentence.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// The HTTP status it comes with.
            #[must_use]
            pub fn status(self) -> u16 {
                match self { $(Self::$name => $status,)+ }
            }
        }
    };
}

error_codes! {
    /// The create configuration cannot be read or breaks a rule.
    InvalidConfig = 400 "INVALID_CONFIG",
    /// A body, a query or a path cannot be read or breaks a rule.
    InvalidRequest = 400 "INVALID_REQUEST",
    /// The sandbox has ended.
    SandboxAlreadyTerminated = 400 "SANDBOX_ALREADY_TERMINATED",
    /// No token came with the request.
    NotAuthenticated = 401 "NOT_AUTHENTICATED",
    /// The token is unknown or revoked.
    InvalidToken = 401 "INVALID_TOKEN",
    /// The token is good and does not open this.
    Forbidden = 403 "FORBIDDEN",
    /// There is no such address.
    NotFound = 404 "NOT_FOUND",
    /// There is no such sandbox, or it belongs to somebody else.
    SandboxNotFound = 404 "SANDBOX_NOT_FOUND",
    /// There is no such token.
    TokenNotFound = 404 "TOKEN_NOT_FOUND",
    /// The sandbox has no such secret.
    SecretNotFound = 404 "SECRET_NOT_FOUND",
    /// The sandbox has no such exposure.
    ExposureNotFound = 404 "EXPOSURE_NOT_FOUND",
    /// There is no such file in the sandbox, or its user may not read it.
    FileNotReadable = 404 "FILE_NOT_READABLE",
    /// The address exists and does not take this method.
    MethodNotAllowed = 405 "METHOD_NOT_ALLOWED",
    /// The sandbox is still being created.
    SandboxNotReady = 409 "SANDBOX_NOT_READY",
    /// The sandbox was created without a network.
    NoNetwork = 409 "NO_NETWORK",
    /// The policy was changed since it was read. Read it again.
    PolicyChanged = 409 "POLICY_CHANGED",
    /// The server has sandboxes, so it does not make room for another.
    ServerInUse = 409 "SERVER_IN_USE",
    /// The server was started to stay, so it does not make room for another.
    ServerStays = 409 "SERVER_STAYS",
    /// The body is larger than this address takes.
    RequestTooLarge = 413 "REQUEST_TOO_LARGE",
    /// The address speaks WebSocket only.
    WebsocketRequired = 426 "WEBSOCKET_REQUIRED",
    /// A limit of the organisation is reached.
    LimitExceeded = 429 "LIMIT_EXCEEDED",
    /// A defect of ours; the trace id leads to the log.
    Internal = 500 "INTERNAL",
    /// The request is understood and this version cannot do it.
    NotBuiltYet = 501 "NOT_BUILT_YET",
    /// The node that runs sandboxes cannot be reached. Try again.
    NodeUnavailable = 503 "NODE_UNAVAILABLE",
    /// The egress process that carries the network does not answer. Try again.
    NetworkUnavailable = 503 "NETWORK_UNAVAILABLE",
    /// The node has no room for another sandbox. Try again later.
    NoCapacity = 503 "NO_CAPACITY",
    /// The sandbox did not start in time, as on a busy machine. Nothing is left of it. Try again.
    StartTimedOut = 503 "START_TIMED_OUT",
    /// The server is ending and takes no more sandboxes. Another may be taking its place. Try again.
    ServerEnding = 503 "SERVER_ENDING",
}

impl PartialSchema for ErrorCode {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some(
                "Codes never change their meaning; later versions may add some.",
            ))
            .enum_values(Some(Self::ALL.iter().map(|code| code.as_str())))
            .into()
    }
}

impl ToSchema for ErrorCode {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("ErrorCode")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn codes_are_distinct_and_errors() {
        let texts: HashSet<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(texts.len(), ErrorCode::ALL.len());
        for code in ErrorCode::ALL {
            assert!((400..600).contains(&code.status()), "{code:?}");
        }
    }

    #[test]
    fn the_reference_page_lists_every_code() {
        let page = include_str!("../../../docs/reference/http.md");
        let (_, table) = page.split_once("## Codes").unwrap();
        let rows: Vec<&str> = table
            .lines()
            .filter(|line| line.starts_with("| `"))
            .collect();
        let expected: Vec<String> = ErrorCode::ALL
            .iter()
            .map(|code| {
                format!(
                    "| `{}` | {} | {} |",
                    code.as_str(),
                    code.status(),
                    code.meaning()
                )
            })
            .collect();
        assert_eq!(rows, expected, "docs/reference/http.md is stale");
    }
}
