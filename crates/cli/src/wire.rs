//! Checks of what a person typed before it goes to a server, so that a slip
//! is explained here and at once.

use std::collections::BTreeMap;

use tombolo_api::error::ErrorCode;
use tombolo_client::{Refusal, SpawnError};
use tombolo_diag::ExitCode;
use tombolo_ids::SandboxId;

use crate::environment::Environment;
use crate::failure::{Failure, Outcome};
use crate::output;

/// What a shell exits with for a command that may not be executed (POSIX, 2.8.2).
const NOT_EXECUTABLE: u8 = 126;
/// And for one that is not there.
const NOT_FOUND: u8 = 127;

/// A sandbox's id as it was typed.
pub(crate) fn sandbox_id(given: &str) -> Outcome<SandboxId> {
    given.parse::<SandboxId>().map_err(|error| {
        Failure::new(ExitCode::Usage, error)
            .context(format!("\"{given}\" is no sandbox"))
            .hint("\"tombolo sandbox list\" shows those that there are")
    })
}

/// `NAME=VALUE`, or `NAME` for one of this command's own variables.
pub(crate) fn variables(
    given: &[String],
    environment: &Environment,
) -> Outcome<BTreeMap<String, String>> {
    given
        .iter()
        .map(|pair| match pair.split_once('=') {
            Some(("", _)) => Err(Failure::message(
                ExitCode::Usage,
                format!("--env {pair} names no variable"),
            )
            .hint("write --env NAME=VALUE")),
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => match environment.get(pair) {
                Some(value) => Ok((pair.clone(), value.to_owned())),
                None => Err(Failure::message(
                    ExitCode::Usage,
                    format!("--env {pair} passes on a variable that is not set here"),
                )
                .hint(format!("write --env {pair}=VALUE, or export {pair} first"))),
            },
        })
        .collect()
}

/// `KEY=VALUE` labels.
pub(crate) fn labels(given: &[String]) -> Outcome<BTreeMap<String, String>> {
    given
        .iter()
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(
                Failure::message(ExitCode::Usage, format!("--label {pair} is no label"))
                    .hint("write --label KEY=VALUE"),
            ),
        })
        .collect()
}

/// What a failed request means for the exit code, and the next step if this
/// side knows one that the server's words do not have.
pub(crate) fn refused(error: tombolo_client::RequestError) -> Failure {
    let (code, hint) = meaning(error.refusal());
    hinted(Failure::new(code, error), hint)
}

/// As [`refused`], for a WebSocket that was not opened.
pub(crate) fn not_connected(error: tombolo_client::ConnectError) -> Failure {
    if let Some(too_long) = error.too_long() {
        let part = too_long.largest.as_ref().map(|part| part.key.as_str());
        let hint = match part.unwrap_or_default() {
            "secrets" => {
                "make it with `tombolo sandbox create` and fewer secrets, and add the others with \
                 `tombolo egress secret put`"
            }
            "egress_policy" | "allow_net" => {
                "make it with `tombolo sandbox create` and a shorter policy, and set the whole one \
                 with `tombolo egress policy set`"
            }
            _ => "give less of it, and copy the rest in as a file with `tombolo sandbox copy`",
        };
        return Failure::new(ExitCode::Usage, error).hint(hint);
    }
    // The bounds are the server's; the name is the one that was typed.
    if let Some(bounds) = error
        .refusal()
        .and_then(|refusal| refusal.message.strip_prefix("memory_mb "))
    {
        return Failure::message(ExitCode::Usage, format!("--memory {bounds}"));
    }
    let (code, hint) = meaning(error.refusal());
    hinted(Failure::new(code, error), hint)
}

/// Whether the server refused for this reason.
pub(crate) fn is(refusal: &Refusal, code: ErrorCode) -> bool {
    refusal.code == code.as_str()
}

fn hinted(failure: Failure, hint: Option<&str>) -> Failure {
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

fn meaning(refusal: Option<&Refusal>) -> (ExitCode, Option<&'static str>) {
    let Some(refusal) = refusal else {
        return (ExitCode::Unavailable, None);
    };
    let is = |code| is(refusal, code);
    let hint = if is(ErrorCode::SandboxNotFound) {
        Some("\"tombolo sandbox list\" shows those that there are and were")
    } else if is(ErrorCode::SandboxAlreadyTerminated) {
        Some("\"tombolo sandbox list\" says when it ended and why")
    } else {
        None
    };
    (code_of(refusal.status.as_u16()), hint)
}

/// What a command that did not start means, with the exit codes of a shell.
pub(crate) fn not_started(error: SpawnError) -> Failure {
    use std::io::ErrorKind;
    let SpawnError::Refused { command, source } = &error else {
        return Failure::from(error);
    };
    let command = output::printable(command);
    // The agent says which of its steps failed: the directory's or the program's.
    let is_directory = source
        .object()
        .is_some_and(|object| object.message.contains(": chdir '"));
    let (code, words) = match source.kind() {
        _ if is_directory => {
            let words = format!("cannot start {command} in this working directory");
            return Failure::message(ExitCode::Failure, source.to_string()).context(words);
        }
        ErrorKind::NotFound => (
            NOT_FOUND,
            format!("there is no command {command} in the sandbox"),
        ),
        ErrorKind::PermissionDenied => (NOT_EXECUTABLE, format!("{command} may not be executed")),
        _ => return Failure::from(error),
    };
    Failure::message(ExitCode::Failure, words).exiting_with(code)
}

fn code_of(status: u16) -> ExitCode {
    match status {
        401 | 403 => ExitCode::NoPermission,
        429 => ExitCode::TryAgain,
        502..=504 => ExitCode::Unavailable,
        500 => ExitCode::Internal,
        _ => ExitCode::Failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_given_or_passed_on() {
        let environment = Environment::of(&[("HERE", "1")]);
        let read = |given: &str| {
            variables(&[given.to_owned()], &environment)
                .map_or_else(|failure| failure.report(), |map| format!("{map:?}"))
        };
        for (given, expected) in [
            ("A=b", r#"{"A": "b"}"#),
            ("A=", r#"{"A": ""}"#),
            ("A=b=c", r#"{"A": "b=c"}"#),
            ("HERE", r#"{"HERE": "1"}"#),
        ] {
            assert_eq!(read(given), expected);
        }
        for given in ["=b", "GONE"] {
            assert!(read(given).contains("hint: write --env"), "{given}");
        }
    }

    #[test]
    fn labels_have_a_key() {
        let read = |given: &str| labels(&[given.to_owned()]).map_err(|failure| failure.code());
        assert_eq!(read("a=b").unwrap()["a"], "b");
        for given in ["a", "=b", ""] {
            assert_eq!(read(given), Err(ExitCode::Usage), "{given}");
        }
    }
}
