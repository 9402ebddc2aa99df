//! Answers of the proxy's own. Constant texts with words of the policy, and nothing of the
//! request (REF-14, TIM-02).

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use serde::Serialize;
use tombolo_policy::{Decision, Reason, RequestDecision};
use tombolo_substitute::Refusal;

use super::ResponseBody;
use crate::{
    audit::{Outcome, Record},
    upstream::{DialError, SendError},
};

/// Why a request is answered here and goes no further.
#[derive(Debug)]
pub(crate) struct Stop {
    status: StatusCode,
    /// What kind of answer this is, for programs.
    error: &'static str,
    /// A stable code.
    code: &'static str,
    message: String,
    rule: Option<String>,
    outcome: Outcome,
}

/// What a person, or a program that acts for one, makes of a reason.
fn words(reason: Reason) -> &'static str {
    match reason {
        Reason::NetworkOff => "This sandbox may reach no host: its allow list is empty.",
        Reason::NotListed => {
            "This sandbox may not reach this host: its allow list does not name it."
        }
        Reason::PortNotListed => {
            "This sandbox may reach this host on other ports only: its allow list names them."
        }
        Reason::AskAgain => "This host is allowed by now. Connect to it again.",
        _ => "The policy of this sandbox does not allow this request.",
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    error: &'a str,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    message: &'a str,
    request_id: &'a str,
}

impl Stop {
    /// The policy says no. `guidance` is what the author of the rule wants told.
    pub(super) fn denied(decision: &Decision, guidance: Option<&str>) -> Self {
        let message = guidance.unwrap_or_else(|| words(decision.reason));
        Self {
            status: StatusCode::FORBIDDEN,
            error: "egress_denied",
            code: decision.reason.as_str(),
            message: message.to_owned(),
            rule: Some(decision.rule.to_string()),
            outcome: Outcome::Deny,
        }
    }

    pub(super) fn denied_request(decision: &RequestDecision) -> Self {
        Self::denied(&decision.decision, decision.guidance.as_deref())
    }

    /// The request is not one that is forwarded, whatever the policy.
    pub(super) fn refused(status: StatusCode, code: &'static str, message: &str) -> Self {
        Self {
            status,
            error: "egress_refused",
            code,
            message: message.to_owned(),
            rule: None,
            outcome: Outcome::Deny,
        }
    }

    /// The rules changed while the request was under way.
    pub(super) fn no_longer_allowed(code: &'static str) -> Self {
        Self::refused(
            StatusCode::FORBIDDEN,
            code,
            "What holds for this sandbox changed while the request was under way.",
        )
    }

    /// Substitution or scrubbing cannot be done.
    pub(super) fn secret(refusal: &Refusal) -> Self {
        let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::BAD_GATEWAY);
        Self::refused(status, refusal.code(), &refusal.to_string())
    }

    /// The host did not answer as it should.
    pub(super) fn upstream(code: &'static str) -> Self {
        Self {
            status: StatusCode::BAD_GATEWAY,
            error: "upstream_failed",
            code,
            message: "The host could not be reached or did not answer properly.".to_owned(),
            rule: None,
            outcome: Outcome::Error,
        }
    }

    /// Its stable code.
    pub(crate) fn code(&self) -> &'static str {
        self.code
    }

    /// What the guest is told.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Notes it in the record.
    pub(super) fn note(&self, record: &mut Record) {
        record.status = Some(self.status.as_u16());
        record.decision = self.outcome;
        if let Some(rule) = &self.rule {
            record.rule = Some(rule.clone());
        }
        match self.outcome {
            Outcome::Error => record.err = Some(self.code),
            _ => record.reason = self.code,
        }
    }

    pub(super) fn into_response(self, request_id: &str) -> Response<ResponseBody> {
        let answer = Answer {
            error: self.error,
            reason: self.code,
            rule: self.rule.as_deref(),
            message: &self.message,
            request_id,
        };
        // Strings alone: this does not fail.
        let text = serde_json::to_vec(&answer).unwrap_or_default();
        let body = Full::new(Bytes::from(text)).map_err(|never| match never {});
        let mut response = Response::new(body.boxed_unsync());
        *response.status_mut() = self.status;
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        let no_store = HeaderValue::from_static("no-store");
        response
            .headers_mut()
            .insert(header::CACHE_CONTROL, no_store);
        response
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::secret(&refusal)
    }
}

impl From<DialError> for Stop {
    fn from(error: DialError) -> Self {
        match &error {
            DialError::Denied(decision) => Self::denied(decision, None),
            other => Self::upstream(other.code()),
        }
    }
}

impl From<SendError> for Stop {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Dial(error) => error.into(),
            other => Self::upstream(other.code()),
        }
    }
}
