//! The error object of failed calls and streams.

use serde::{Deserialize, Serialize};

/// An error as a JavaScript client rebuilds it.
///
/// Only the first two members are always there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
#[error("{constructor_name}: {message}")]
pub struct ErrorObject {
    /// The error's class: a JavaScript one (`TypeError`) or one of Deno's
    /// (`NotFound`, `PermissionDenied`, …).
    pub constructor_name: String,
    /// What happened, for people.
    pub message: String,
    /// A stable code for programs, as in `ENOENT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The `name` of a `DOMException`, as in `AbortError`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it was thrown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
    /// What it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Box<ErrorObject>>,
    /// The errors of an `AggregateError`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<Vec<ErrorObject>>,
}

impl ErrorObject {
    /// An error of this class with this message.
    #[must_use]
    pub fn new(constructor_name: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            constructor_name: constructor_name.into(),
            message: message.into(),
            ..Self::default()
        }
    }

    /// The same with a code for programs.
    #[must_use]
    pub fn with_code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(code.into());
        self
    }
}
