//! What a ciphertext is bound to, so that it cannot be moved: to another
//! organisation, to another sandbox, under another name.

use crate::SecretName;

/// Separates these ciphertexts from all others under the same keys.
const LABEL: &str = "tombolo secret v1";

/// To whom a secret belongs. Sealing and opening must agree on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecretContext<'a> {
    /// The organisation's identifier, as text.
    pub organisation: &'a str,
    /// The sandbox's identifier, as text.
    pub sandbox: &'a str,
    /// The secret's name.
    pub name: &'a SecretName,
}

impl SecretContext<'_> {
    /// The associated data of the encryption. Each part is preceded by its
    /// length, so that no two contexts give the same bytes.
    pub(crate) fn associated_data(&self) -> Vec<u8> {
        let mut data = Vec::new();
        for part in [LABEL, self.organisation, self.sandbox, self.name.as_str()] {
            data.extend_from_slice(&(part.len() as u64).to_be_bytes());
            data.extend_from_slice(part.as_bytes());
        }
        data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moving_a_letter_between_parts_changes_the_bytes() {
        let name = SecretName::parse("KEY").unwrap();
        let data = |organisation, sandbox| {
            let context = SecretContext {
                organisation,
                sandbox,
                name: &name,
            };
            context.associated_data()
        };
        assert_ne!(data("ab", "c"), data("a", "bc"));
        assert_eq!(data("ab", "c"), data("ab", "c"));
    }
}
