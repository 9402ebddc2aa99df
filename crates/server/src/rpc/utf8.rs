//! Checks that bytes which come in pieces are UTF-8.

/// The longest character.
const CHARACTER_LEN_MAX: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Utf8Check {
    /// The beginning of a character whose rest has not come.
    begun: Vec<u8>,
}

impl Utf8Check {
    /// Whether all that has come can be UTF-8.
    pub(super) fn push(&mut self, mut piece: &[u8]) -> bool {
        while !self.begun.is_empty() {
            let Some((byte, rest)) = piece.split_first() else {
                return true;
            };
            self.begun.push(*byte);
            piece = rest;
            match std::str::from_utf8(&self.begun) {
                Ok(_) => self.begun.clear(),
                Err(error) if error.error_len().is_some() => return false,
                Err(_) if self.begun.len() >= CHARACTER_LEN_MAX => return false,
                Err(_) => {}
            }
        }
        match std::str::from_utf8(piece) {
            Ok(_) => true,
            Err(error) if error.error_len().is_some() => false,
            Err(error) => {
                let begun = piece.get(error.valid_up_to()..).unwrap_or_default();
                self.begun.extend_from_slice(begun);
                true
            }
        }
    }

    /// Whether the last character has come whole.
    pub(super) fn is_whole(&self) -> bool {
        self.begun.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(bytes: &[u8], step: usize) -> bool {
        let mut check = Utf8Check::default();
        bytes.chunks(step).all(|piece| check.push(piece)) && check.is_whole()
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_standard_library(bytes in proptest::collection::vec(any::<u8>(), 0..12), step in 1_usize..5) {
            prop_assert_eq!(check(&bytes, step), std::str::from_utf8(&bytes).is_ok());
        }

        #[test]
        fn text_passes_however_it_is_cut(text in "[a-zü€𝄞]{0,20}", step in 1_usize..9) {
            prop_assert!(check(text.as_bytes(), step));
            let cut = text.trim_end_matches(|last: char| last.is_ascii()).as_bytes();
            if let Some((_, begun)) = cut.split_last() {
                prop_assert!(!check(begun, step));
            }
        }
    }
}
