//! Secret values: a type that is not printed, compared or serialised by
//! accident.

use std::fmt;

use serde::Deserialize;

/// A credential on its way through. Reading it takes [`SecretValue::expose`].
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct SecretValue(String);

impl SecretValue {
    /// Wraps a value.
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// The value itself. Whoever calls this answers for where it goes.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printing_shows_nothing_of_it() {
        let secret = SecretValue::new("hunter2".to_owned());
        assert!(!format!("{secret:?} {secret:#?}").contains("hunter"));
        assert_eq!(secret.expose(), "hunter2");
    }
}
