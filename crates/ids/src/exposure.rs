//! The name of an exposure: the first label of the address under which a port of
//! a sandbox is reached.

use std::fmt;
use std::str::FromStr;

use crate::EntropyError;

const BYTES_LEN: usize = 16;
const LEN: usize = 2 * BYTES_LEN;

/// 32 hexadecimal digits, lower-case; 128 random bits, so that nobody guesses one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExposureName(String);

/// Text that is no name of an exposure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name of an exposure is {LEN} hexadecimal digits, lower-case")]
pub struct ParseExposureNameError;

impl ExposureName {
    /// A new one.
    pub fn random() -> Result<Self, EntropyError> {
        let mut bytes = [0_u8; BYTES_LEN];
        getrandom::fill(&mut bytes).map_err(EntropyError)?;
        let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
        let digits = digits.filter_map(|digit| char::from_digit(digit.into(), 16));
        Ok(Self(digits.collect()))
    }

    /// As it stands in an address.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ExposureName {
    type Err = ParseExposureNameError;

    fn from_str(text: &str) -> Result<Self, ParseExposureNameError> {
        let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() == LEN && text.bytes().all(is_digit) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseExposureNameError)
        }
    }
}

impl fmt::Display for ExposureName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for ExposureName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_random_and_read_as_they_are_written() {
        let name = ExposureName::random().unwrap();
        assert_eq!(name.as_str().parse(), Ok(name.clone()));
        assert_ne!(ExposureName::random().unwrap(), name);
        let digits = "0123456789abcdef0123456789abcdef";
        for bad in [
            "",
            &digits[1..],
            &digits.to_uppercase(),
            &digits.replace('0', "g"),
        ] {
            assert_eq!(
                bad.parse::<ExposureName>(),
                Err(ParseExposureNameError),
                "{bad}"
            );
        }
    }
}
