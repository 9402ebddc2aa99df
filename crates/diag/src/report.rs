//! Errors as people read them: what failed, why, and what to do next.

use std::error::Error;
use std::fmt;

/// The longest cause chain that is printed.
const CAUSES_MAX: usize = 16;

/// An error together with the next step for whoever reads it.
#[derive(Debug)]
pub struct Hinted<E> {
    error: E,
    hint: String,
}

impl<E> Hinted<E> {
    pub fn hint(&self) -> &str {
        &self.hint
    }

    pub fn into_inner(self) -> E {
        self.error
    }
}

impl<E: fmt::Display> fmt::Display for Hinted<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<E: Error> Error for Hinted<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

/// Adds the next step to an error.
pub trait WithHint<T, E> {
    fn hint(self, hint: impl Into<String>) -> Result<T, Hinted<E>>;
}

impl<T, E> WithHint<T, E> for Result<T, E> {
    fn hint(self, hint: impl Into<String>) -> Result<T, Hinted<E>> {
        self.map_err(|error| Hinted {
            error,
            hint: hint.into(),
        })
    }
}

/// An error and its causes, one line each, then hints.
///
/// ```text
/// error: could not open the database
///   caused by: /var/lib/tombolo/server.db: permission denied
///   hint: run it as the user that owns the file
/// ```
#[derive(Debug)]
pub struct Report<'a> {
    error: &'a (dyn Error + 'static),
    hints: Vec<String>,
}

impl<'a> Report<'a> {
    pub fn new(error: &'a (dyn Error + 'static)) -> Self {
        Self {
            error,
            hints: Vec::new(),
        }
    }

    /// The report of an error with its hint.
    pub fn hinted<E: Error + 'static>(error: &'a Hinted<E>) -> Self {
        Self::new(&error.error).with_hint(error.hint.clone())
    }

    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.error)?;
        for cause in causes(self.error) {
            write!(f, "\n  caused by: {cause}")?;
        }
        for hint in &self.hints {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

/// An error and its causes in one line, for logs and for words that are kept.
#[must_use]
pub fn in_one_line(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    for cause in causes(error) {
        line.push_str(": ");
        line.push_str(&cause);
    }
    line
}

/// The words of an error's causes, the nearest first.
fn causes(error: &(dyn Error + 'static)) -> impl Iterator<Item = String> {
    let mut said = error.to_string();
    std::iter::successors(error.source(), |&cause| cause.source())
        .take(CAUSES_MAX)
        .map(ToString::to_string)
        // Wrappers of other people's libraries often repeat their cause.
        .filter(move |text| std::mem::replace(&mut said, text.clone()) != *text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("could not start")]
    struct Outer(#[source] Middle);

    #[derive(Debug, thiserror::Error)]
    #[error("file is busy")]
    struct Middle(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("file is busy")]
    struct Inner;

    #[test]
    fn one_line_says_each_cause_once() {
        let line = in_one_line(&Outer(Middle(Inner)));
        assert_eq!(line, "could not start: file is busy");
    }

    #[test]
    fn each_cause_is_said_once_and_hints_come_last() {
        let error = Outer(Middle(Inner));
        let report = Report::new(&error).with_hint("stop the other one");
        assert_eq!(
            report.to_string(),
            "error: could not start\n  caused by: file is busy\n  hint: stop the other one"
        );
    }

    #[test]
    fn a_hint_travels_with_its_error() {
        let failed: Result<(), _> = Err(Outer(Middle(Inner))).hint("wait");
        let error = failed.unwrap_err();
        assert_eq!(error.to_string(), "could not start");
        assert!(Report::hinted(&error).to_string().ends_with("hint: wait"));
    }
}
