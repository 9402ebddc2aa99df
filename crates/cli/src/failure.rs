//! How a command fails: an error for people, the exit code for programs, and
//! the next step.

use tombolo_diag::{ExitCode, Report};

/// What a command answers.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// A command that did not succeed.
#[derive(Debug)]
pub(crate) struct Failure {
    code: ExitCode,
    /// What a shell would exit with, where it has a code of its own.
    shell_code: Option<u8>,
    error: anyhow::Error,
    hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(code: ExitCode, error: impl Into<anyhow::Error>) -> Self {
        Self {
            code,
            shell_code: None,
            error: error.into(),
            hint: None,
        }
    }

    /// A failure that is told in one sentence.
    pub(crate) fn message(code: ExitCode, message: impl Into<String>) -> Self {
        Self::new(code, anyhow::Error::msg(message.into()))
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says what was being done when it went wrong.
    #[must_use]
    pub(crate) fn context(mut self, context: impl Into<String>) -> Self {
        self.error = self.error.context(context.into());
        self
    }

    /// Exits as a shell does.
    #[must_use]
    pub(crate) fn exiting_with(mut self, code: u8) -> Self {
        self.shell_code = Some(code);
        self
    }

    /// What this program exits with.
    pub(crate) fn exit_code(&self) -> u8 {
        self.shell_code.unwrap_or_else(|| self.code.code())
    }

    pub(crate) fn code(&self) -> ExitCode {
        self.code
    }

    /// What to print on standard error.
    pub(crate) fn report(&self) -> String {
        let report = Report::new(self.error.as_ref());
        match &self.hint {
            Some(hint) => report.with_hint(hint).to_string(),
            None => report.to_string(),
        }
    }
}

/// An error without a better code is one that was understood and failed.
impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(ExitCode::Failure, error)
    }
}

/// Says more about an error on its way up.
pub(crate) trait OrFail<T> {
    /// Fails with this exit code.
    fn or_fail(self, code: ExitCode) -> Outcome<T>;
    /// Fails as an ordinary failure, while doing this.
    fn while_doing(self, context: impl Into<String>) -> Outcome<T>;
}

impl<T, E: Into<anyhow::Error>> OrFail<T> for Result<T, E> {
    fn or_fail(self, code: ExitCode) -> Outcome<T> {
        self.map_err(|error| Failure::new(code, error))
    }

    fn while_doing(self, context: impl Into<String>) -> Outcome<T> {
        self.map_err(|error| Failure::from(error).context(context))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_the_chain_and_the_next_step() {
        let failure = Failure::message(ExitCode::Usage, "the file is missing")
            .context("cannot copy")
            .hint("name another");
        assert_eq!(
            failure.report(),
            "error: cannot copy\n  caused by: the file is missing\n  hint: name another"
        );
        assert_eq!(failure.code(), ExitCode::Usage);
    }
}
