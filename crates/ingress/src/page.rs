//! What a client is told when no program answers: a status and what to do next, as a
//! page for browsers and as JSON for everybody else.

use std::time::Duration;

use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use http::{HeaderName, Response, StatusCode};
use serde_json::json;

use crate::backend::{ConnectError, Target};
use crate::body::{Body, full};
use crate::host::HostError;
use crate::limits::Refused;

/// Marks what this program answered itself, which no program in a sandbox can.
pub(crate) const MARK: HeaderName = HeaderName::from_static("x-tombolo-ingress");

/// An answer of the ingress itself.
#[derive(Debug)]
pub(crate) struct Page {
    status: StatusCode,
    /// For programs; never changes its meaning.
    code: &'static str,
    title: &'static str,
    /// What happened and what to do next. Holds nothing that a client or a program
    /// wrote.
    message: String,
    retry_after: Option<Duration>,
}

impl Page {
    fn new(
        status: StatusCode,
        code: &'static str,
        title: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            status,
            code,
            title,
            message: message.into(),
            retry_after: None,
        }
    }

    fn again(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    pub(crate) fn unknown() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "NO_SUCH_ADDRESS",
            "No such address",
            "Nothing is exposed under this address. Check it for a slip; whoever runs the sandbox \
             sees its addresses with: tombolo sandbox exposures ID",
        )
    }

    pub(crate) fn stopped() -> Self {
        Self::new(
            StatusCode::GONE,
            "SANDBOX_STOPPED",
            "The sandbox has ended",
            "The sandbox behind this address has ended, and nothing wakes it. Start another one \
             and expose its port: it gets an address of its own.",
        )
    }

    pub(crate) fn nothing_bound() -> Self {
        Self::new(
            StatusCode::BAD_GATEWAY,
            "NOTHING_BOUND",
            "No port yet",
            "This address was given out and leads to no port so far. Its sandbox has to say which: \
             exposeHttp in the SDKs, or tombolo sandbox expose ID PORT",
        )
    }

    pub(crate) fn unavailable() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "UNAVAILABLE",
            "Not available now",
            "It cannot be told now where this address leads. Try again in a moment.",
        )
        .again(Duration::from_secs(1))
    }

    pub(crate) fn host(error: HostError) -> Self {
        let message = format!("{error} Ask for the address as it was given out.");
        Self::new(
            StatusCode::BAD_REQUEST,
            "INVALID_REQUEST",
            "Bad request",
            message,
        )
    }

    pub(crate) fn target() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "INVALID_REQUEST",
            "Bad request",
            "The target of the request is not a path. This is no proxy: ask for paths only.",
        )
    }

    pub(crate) fn method() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "METHOD_NOT_ALLOWED",
            "Method not allowed",
            "This is no proxy: it takes no CONNECT. Ask for paths only.",
        )
    }

    pub(crate) fn private() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "ACCESS_TOKEN_REQUIRED",
            "This address is private",
            "It is opened by the token that was shown when it was exposed: in the header \
             x-tombolo-access or the cookie __Host-tombolo_access, or once, for browsers, at the end of \
             the address as ?tombolo_access=TOKEN",
        )
    }

    pub(crate) fn refused(refused: Refused) -> Self {
        match refused {
            Refused::Rate(wait) => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "TOO_MANY_REQUESTS",
                "Too many requests",
                "This sandbox gets more requests a second than it may. Send fewer, or try again \
                 after the time in Retry-After.",
            )
            .again(wait),
            Refused::Concurrency => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "TOO_MANY_AT_ONCE",
                "Too many requests at once",
                "This sandbox has as many requests under way as it may. Wait until some are \
                 answered and try again.",
            )
            .again(Duration::from_secs(1)),
        }
    }

    pub(crate) fn not_connected(error: &ConnectError, target: Target) -> Self {
        let bad_gateway =
            |code, title, message| Self::new(StatusCode::BAD_GATEWAY, code, title, message);
        match error {
            ConnectError::NothingListens => {
                let message = format!(
                    "The sandbox runs, and nothing listens on {target} in it. Start the program, and \
                     have it listen on 127.0.0.1, on ::1 or on all addresses."
                );
                bad_gateway("NOTHING_LISTENS", "Nothing listens", message)
            }
            ConnectError::NoProcess => {
                let message = format!(
                    "The sandbox runs, and {target} in it has ended. Start it again and expose it \
                     anew, or expose its port instead."
                );
                bad_gateway("NOTHING_LISTENS", "Nothing listens", message)
            }
            ConnectError::TimedOut => Self::new(
                StatusCode::GATEWAY_TIMEOUT,
                "CONNECT_TIMED_OUT",
                "Too slow to connect",
                format!(
                    "Nothing took the connection to {target} in time: the sandbox may have too much \
                     to do. Try again, or look what it does."
                ),
            ),
            ConnectError::TooMany => Self::refused(Refused::Concurrency),
            ConnectError::Changed | ConnectError::Away(_) => Self::unavailable(),
        }
    }

    pub(crate) fn garbage(target: Target) -> Self {
        Self::new(
            StatusCode::BAD_GATEWAY,
            "NOT_HTTP",
            "No answer in HTTP",
            format!(
                "What listens on {target} in the sandbox broke off or answered something that is not \
                 HTTP/1.1. Look at what the program there says; it must speak HTTP without TLS."
            ),
        )
    }

    pub(crate) fn upgrade(target: Target) -> Self {
        Self::new(
            StatusCode::BAD_GATEWAY,
            "WRONG_UPGRADE",
            "Wrong upgrade",
            format!(
                "What listens on {target} in the sandbox changed to a protocol that it was not asked \
                 for. Look at what the program there does."
            ),
        )
    }

    pub(crate) fn slow_client() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "REQUEST_TIMED_OUT",
            "The request did not come in time",
            "Nothing more of the request's body came for too long. Send it without long pauses.",
        )
    }

    pub(crate) fn broken_body() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "INVALID_REQUEST",
            "Bad request",
            "The body of the request broke off or cannot be read. Send it again.",
        )
    }

    pub(crate) fn slow_program(target: Target) -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "RESPONSE_TIMED_OUT",
            "Too slow to answer",
            format!(
                "What listens on {target} in the sandbox took the request and did not begin to answer \
                 in time. Let it answer at once and send the rest when it has it."
            ),
        )
    }

    /// The answer, in what `asked` says is understood.
    pub(crate) fn respond(self, asked: &HeaderMap) -> Response<Body> {
        let wants_html = asked
            .get_all(ACCEPT)
            .iter()
            .filter_map(|accept| accept.to_str().ok())
            .any(|accept| accept.to_ascii_lowercase().contains("text/html"));
        let (kind, text) = if wants_html {
            ("text/html; charset=utf-8", self.html())
        } else {
            let body = json!({ "code": self.code, "message": self.message });
            ("application/json", format!("{body}\n"))
        };
        let mut response = Response::new(full(text));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(MARK, HeaderValue::from_static(self.code));
        if let Some(after) = self.retry_after {
            headers.insert(RETRY_AFTER, after.as_secs().max(1).into());
        }
        response
    }

    fn html(&self) -> String {
        let Self { title, message, .. } = self;
        let status = self.status.as_u16();
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
             <style>body{{font:1.1rem/1.5 system-ui,sans-serif;max-width:38rem;margin:15vh auto;\
             padding:0 1rem}}small{{color:#666}}</style>\n\
             <h1>{title}</h1>\n<p>{message}</p>\n<p><small>{status} {code}</small></p>\n</html>\n",
            code = self.code,
        )
    }
}
