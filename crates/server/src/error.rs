//! Failures as clients see them: a status, a code and a sentence. What is our
//! fault is told in the log only, next to the request's trace id.

use std::error::Error;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tombolo_api::error::{ErrorBody, ErrorCode};
use tombolo_diag::Report;
use tombolo_ids::EntropyError;
use tombolo_lifecycle::{AdmissionRefusal, ConnectRefusal, ExtendRefusal};
use tonic::Code;

use crate::call::CallError;
use crate::database::QueryError;
use crate::egress::EgressError;
use crate::exposures::ExposeError;
use crate::native::watch::WatchError;
use crate::network::{ChangeError, PlanNetworkError};
use crate::node::NodeCallError;
use crate::sandbox::{ConnectError, CreateError, ExtendError};
use crate::ssh_logins::ExposeSshError;

/// The answer to a request that failed.
#[derive(Debug)]
pub(crate) struct ApiError {
    code: ErrorCode,
    message: String,
    /// For the log.
    cause: Option<Box<dyn Error + Send + Sync>>,
}

impl ApiError {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            cause: None,
        }
    }

    /// Says what the client's error says. Not for errors of our own insides.
    pub(crate) fn saying(code: ErrorCode, error: &dyn Error) -> Self {
        Self::new(code, error.to_string())
    }

    pub(crate) fn internal(cause: impl Error + Send + Sync + 'static) -> Self {
        Self {
            code: ErrorCode::Internal,
            message: "the server failed; its log tells more under this request's trace id".into(),
            cause: Some(Box::new(cause)),
        }
    }

    fn caused(code: ErrorCode, message: &str, cause: impl Error + Send + Sync + 'static) -> Self {
        Self {
            code,
            message: message.to_owned(),
            cause: Some(Box::new(cause)),
        }
    }

    pub(crate) fn sandbox_not_found() -> Self {
        Self::new(ErrorCode::SandboxNotFound, "there is no such sandbox")
    }

    pub(crate) fn sandbox_ended() -> Self {
        Self::new(ErrorCode::SandboxAlreadyTerminated, "the sandbox has ended")
    }

    fn network_unavailable(cause: impl Error + Send + Sync + 'static) -> Self {
        let words = "the egress process that carries the network does not answer; try again";
        Self::caused(ErrorCode::NetworkUnavailable, words, cause)
    }

    pub(crate) fn not_built(feature: &str) -> Self {
        Self::new(
            ErrorCode::NotBuiltYet,
            format!("this version of Tombolo cannot do this yet: {feature}"),
        )
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if let Some(cause) = &self.cause {
            let report = Report::new(cause.as_ref()).to_string();
            tracing::error!(code = self.code.as_str(), report, "request failed");
        } else {
            tracing::debug!(
                code = self.code.as_str(),
                message = self.message,
                "request refused"
            );
        }
        let status =
            StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = ErrorBody {
            code: self.code.as_str().to_owned(),
            message: self.message,
        };
        (status, Json(body)).into_response()
    }
}

impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> Self {
        if error.is_disk_full() {
            let words = "the disk of the server's machine is full; make room and try again";
            return Self::caused(ErrorCode::NoCapacity, words, error);
        }
        Self::internal(error)
    }
}

impl From<EntropyError> for ApiError {
    fn from(error: EntropyError) -> Self {
        Self::internal(error)
    }
}

impl From<NodeCallError> for ApiError {
    fn from(error: NodeCallError) -> Self {
        match (&error, error.code()) {
            (NodeCallError::Away { .. } | NodeCallError::TimedOut { .. }, _) => Self::caused(
                ErrorCode::NodeUnavailable,
                "the node that runs sandboxes does not answer; try again",
                error,
            ),
            (_, Some(Code::DeadlineExceeded)) => Self::caused(
                ErrorCode::StartTimedOut,
                "the sandbox did not start in time, and nothing is left of it: the machine is \
                 busy; try again, later or with fewer at once",
                error,
            ),
            (_, Some(Code::ResourceExhausted)) => Self::caused(
                ErrorCode::NoCapacity,
                "the node has no room for another sandbox; end one or try again later",
                error,
            ),
            // The egress process found fault with what the client asked for.
            (_, Some(Code::InvalidArgument)) => match error.refusal() {
                Some(refusal) => Self::new(ErrorCode::InvalidConfig, refusal.message()),
                None => Self::internal(error),
            },
            (_, Some(Code::Unavailable)) => Self::network_unavailable(error),
            _ => Self::internal(error),
        }
    }
}

impl From<EgressError> for ApiError {
    fn from(error: EgressError) -> Self {
        let EgressError::Call(call) = &error else {
            return Self::internal(error);
        };
        match (call, call.refusal()) {
            (CallError::Away { .. } | CallError::TimedOut { .. }, _) => {
                Self::network_unavailable(error)
            }
            (_, Some(refusal)) => match refusal.code() {
                Code::InvalidArgument => Self::new(ErrorCode::InvalidRequest, refusal.message()),
                // Started anew, and not told of the sandbox again so far.
                Code::NotFound => Self::network_unavailable(error),
                _ => Self::internal(error),
            },
            (_, None) => Self::internal(error),
        }
    }
}

impl From<PlanNetworkError> for ApiError {
    fn from(error: PlanNetworkError) -> Self {
        match error {
            PlanNetworkError::Problems(problems) => {
                Self::saying(ErrorCode::InvalidConfig, &problems)
            }
            PlanNetworkError::Entropy(error) => Self::internal(error),
        }
    }
}

impl From<ChangeError> for ApiError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::NoNetwork => Self::saying(ErrorCode::NoNetwork, &error),
            ChangeError::NotReady => Self::saying(ErrorCode::SandboxNotReady, &error),
            ChangeError::Ended => Self::sandbox_ended(),
            ChangeError::Changed { .. } => Self::saying(ErrorCode::PolicyChanged, &error),
            ChangeError::SecretNotFound => Self::saying(ErrorCode::SecretNotFound, &error),
            ChangeError::Problems(problems) => Self::saying(ErrorCode::InvalidRequest, &problems),
            ChangeError::Database(error) => error.into(),
            ChangeError::Egress(error) => error.into(),
            ChangeError::Entropy(error) => Self::internal(error),
            ChangeError::Guest(_) | ChangeError::GuestTimedOut(_) => Self::caused(
                ErrorCode::NodeUnavailable,
                "the sandbox did not take the secret's environment variable; try again",
                error,
            ),
            ChangeError::BrokenOff(_) => Self::internal(error),
        }
    }
}

impl From<CreateError> for ApiError {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::Refused(refusal @ AdmissionRefusal::Closed) => {
                Self::saying(ErrorCode::ServerEnding, &refusal)
            }
            CreateError::Refused(refusal) => Self::saying(ErrorCode::LimitExceeded, &refusal),
            CreateError::Id(error) => error.into(),
            CreateError::Database(error) => error.into(),
            CreateError::Node(error) => error.into(),
            CreateError::Egress(error) => error.into(),
            CreateError::Ended => Self::saying(ErrorCode::SandboxAlreadyTerminated, &error),
            CreateError::ShuttingDown => Self::saying(ErrorCode::ServerEnding, &error),
        }
    }
}

impl From<ExposeError> for ApiError {
    fn from(error: ExposeError) -> Self {
        match error {
            ExposeError::NoIngress => {
                Self::not_built("exposing ports: this server was started without an ingress")
            }
            ExposeError::TooMany => Self::saying(ErrorCode::LimitExceeded, &error),
            ExposeError::NotFound => Self::new(
                ErrorCode::ExposureNotFound,
                "the sandbox has no such exposure",
            ),
            ExposeError::Entropy(error) => error.into(),
            ExposeError::Database(error) => error.into(),
        }
    }
}

impl From<WatchError> for ApiError {
    fn from(error: WatchError) -> Self {
        match error {
            WatchError::NotReadable(_) => Self::saying(ErrorCode::FileNotReadable, &error),
            WatchError::TooMany(_) | WatchError::TooManyClients => {
                Self::saying(ErrorCode::LimitExceeded, &error)
            }
            WatchError::Path(_) => Self::saying(ErrorCode::InvalidRequest, &error),
            WatchError::Away(_) => Self::caused(
                ErrorCode::NodeUnavailable,
                "the sandbox cannot be reached; try again",
                error,
            ),
            WatchError::OldAgent(_) => Self::saying(ErrorCode::NotBuiltYet, &error),
            WatchError::Failed(_) => Self::internal(error),
        }
    }
}

impl From<ExposeSshError> for ApiError {
    fn from(error: ExposeSshError) -> Self {
        match error {
            ExposeSshError::NoGateway => {
                Self::not_built("SSH: this server was started without a gateway")
            }
            ExposeSshError::TooMany => Self::saying(ErrorCode::LimitExceeded, &error),
            ExposeSshError::Entropy(error) => error.into(),
            ExposeSshError::Database(error) => error.into(),
        }
    }
}

impl From<ConnectError> for ApiError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Refused(ConnectRefusal::Ended) => Self::sandbox_ended(),
            ConnectError::Refused(refusal @ ConnectRefusal::NotReady) => {
                Self::saying(ErrorCode::SandboxNotReady, &refusal)
            }
            ConnectError::TooMany => Self::saying(ErrorCode::LimitExceeded, &error),
        }
    }
}

impl From<ExtendError> for ApiError {
    fn from(error: ExtendError) -> Self {
        match error {
            ExtendError::Refused(ExtendRefusal::Ended) => Self::sandbox_ended(),
            ExtendError::Refused(refusal @ ExtendRefusal::Past) => {
                Self::saying(ErrorCode::InvalidRequest, &refusal)
            }
            ExtendError::Node(error) => error.into(),
            ExtendError::Database(error) => error.into(),
        }
    }
}
