//! The environment variables of this process, read once at the start.

use std::collections::BTreeMap;
use std::ffi::OsString;

/// What the variables were when the program started.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    variables: BTreeMap<String, String>,
}

impl Environment {
    /// Reads this process's variables. One that is not UTF-8 cannot be one of
    /// ours and is left out.
    pub(crate) fn read() -> Self {
        Self::from_pairs(std::env::vars_os())
    }

    fn from_pairs(pairs: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let variables = pairs
            .into_iter()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self { variables }
    }

    #[cfg(test)]
    pub(crate) fn of(pairs: &[(&str, &str)]) -> Self {
        Self::from_pairs(
            pairs
                .iter()
                .map(|(name, value)| (OsString::from(name), OsString::from(value))),
        )
    }

    /// A variable that is set and not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// The names that begin with `prefix`.
    pub(crate) fn names(&self, prefix: &str) -> impl Iterator<Item = &str> {
        self.variables
            .keys()
            .map(String::as_str)
            .filter(move |name| name.starts_with(prefix))
    }
}
