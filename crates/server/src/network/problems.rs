//! Everything that is wrong with a network that is asked for, told at once.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tombolo_policy::{
    OperatorRules, PROBLEMS_MAX, PlaceholderDocument, Policy, PolicyDocument, Slot,
};

/// How much of a client's own text a message repeats.
const QUOTED_CHARS_MAX: usize = 80;

/// What is wrong: each with its place. None of them quotes a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NetworkProblems {
    found: Vec<String>,
    untold: usize,
}

impl std::error::Error for NetworkProblems {}

impl fmt::Display for NetworkProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.found.join("; "))?;
        match self.untold {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl NetworkProblems {
    pub(super) fn add(&mut self, at: impl fmt::Display, what: impl fmt::Display) {
        if self.found.len() < PROBLEMS_MAX {
            self.found.push(format!("{at}: {what}"));
        } else {
            self.untold += 1;
        }
    }

    pub(super) fn into_result(self) -> Result<(), Self> {
        if self.found.is_empty() {
            Ok(())
        } else {
            Err(self)
        }
    }

    /// Checks what a document says, and what of it is not built.
    pub(super) fn check(&mut self, document: &PolicyDocument) {
        for (name, secret) in &document.secrets {
            let at = format!("secrets.{}", quoted(name));
            let plain = PlaceholderDocument::default();
            if secret.placeholder.as_ref().is_some_and(|is| *is != plain) {
                let what = "placeholders have one form in this version; leave it out";
                self.add(format_args!("{at}.placeholder"), what);
            }
            let slots = secret.slots.iter().flatten();
            if slots.into_iter().any(|slot| *slot == Slot::Binary) {
                let what = "`binary` is not built yet; leave it out";
                self.add(format_args!("{at}.in"), what);
            }
        }
        // Which of the private ranges this machine opens is the operator's
        // decision, which the egress process knows and this server does not.
        let operator = OperatorRules::all_private();
        if let Err(error) = Policy::compile(document, &operator, &BTreeMap::new()) {
            for problem in error.problems {
                self.add(&problem.at, &problem.kind);
            }
        }
    }
}

/// A client's own text in a message about it.
pub(super) fn quoted(text: &str) -> String {
    text.chars()
        .take(QUOTED_CHARS_MAX)
        .flat_map(char::escape_debug)
        .collect()
}

/// A part of a document in its expected shape, or where it is not and why. Texts
/// of the document are not repeated: one may be a value in the wrong place.
pub(super) fn shaped<T: DeserializeOwned>(value: Value) -> Result<T, (String, String)> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let said = error.inner().to_string();
        let names_fields = ["unknown field", "missing field", "duplicate field"]
            .iter()
            .any(|start| said.starts_with(start));
        let what = if names_fields {
            quoted(&said)
        } else {
            "not of the kind that is expected here".to_owned()
        };
        (quoted(&error.path().to_string()), what)
    })
}
