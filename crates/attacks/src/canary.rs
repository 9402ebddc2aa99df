//! A value nobody can guess, and how to find it again in whatever form: the
//! secret that the attacks are after.

use std::fmt::Write as _;

use aho_corasick::AhoCorasick;
use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

const ENTROPY_LEN: usize = 16;
/// The digits of base32 (RFC 4648, section 6).
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
/// Bytes that base32 makes eight digits of.
const BASE32_BLOCK_LEN: usize = 5;
const BASE64_BLOCK_LEN: usize = 3;

/// What writers escape in one way or another.
const ESCAPED: &str = "\"+/<";

/// A secret value with 128 bits of chance, and characters that every encoding
/// writes differently. Those are at its end and are not looked for, so that the
/// rest is found whatever became of them.
#[derive(Debug)]
pub struct Canary {
    value: String,
    forms: Vec<(&'static str, Vec<u8>)>,
    search: AhoCorasick,
}

impl Canary {
    /// One that there has never been.
    pub fn new() -> anyhow::Result<Self> {
        let mut entropy = [0; ENTROPY_LEN];
        getrandom::fill(&mut entropy).ok().context("no entropy")?;
        let mut value = String::from("cAnArY-");
        for byte in entropy {
            write!(value, "{byte:02x}")?;
        }
        let forms = forms(&value);
        value.push_str(ESCAPED);
        let search = AhoCorasick::new(forms.iter().map(|(_, form)| form))?;
        Ok(Self {
            value,
            forms,
            search,
        })
    }

    /// The value itself.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// The name of the first form in which it is in some bytes.
    pub fn find(&self, bytes: &[u8]) -> Option<&'static str> {
        let found = self.search.find(bytes)?;
        self.forms
            .get(found.pattern().as_usize())
            .map(|(name, _)| *name)
    }
}

fn forms(value: &str) -> Vec<(&'static str, Vec<u8>)> {
    let each = |write: fn(u32) -> String| -> String {
        let written: Vec<String> = value.chars().map(|c| write(c.into())).collect();
        written.concat()
    };
    let hex = each(|code| format!("{code:02x}"));
    let percent = each(|code| format!("%{code:02X}"));
    let wide = |order: fn(u16) -> [u8; 2]| value.encode_utf16().flat_map(order).collect();
    let texts = [
        ("raw", value.to_owned()),
        ("reversed", value.chars().rev().collect()),
        (
            "JSON, every character",
            each(|code| format!("\\u{code:04x}")),
        ),
        ("HTML, every character", each(|code| format!("&#{code};"))),
        ("hexadecimal", hex.clone()),
        ("hexadecimal", hex.to_uppercase()),
        ("URL, every character", percent.to_lowercase()),
        ("URL, every character", percent),
    ];
    let mut forms: Vec<(&str, Vec<u8>)> =
        texts.map(|(name, text)| (name, text.into_bytes())).into();
    forms.push(("UTF-16", wide(u16::to_le_bytes)));
    forms.push(("UTF-16", wide(u16::to_be_bytes)));
    for offset in 0..BASE64_BLOCK_LEN {
        // Whole blocks alone, which do not depend on what is around them.
        let skipped = (BASE64_BLOCK_LEN - offset) % BASE64_BLOCK_LEN;
        let whole = whole_blocks(value, skipped, BASE64_BLOCK_LEN);
        forms.push(("base64", STANDARD_NO_PAD.encode(whole).into_bytes()));
        forms.push(("base64", URL_SAFE_NO_PAD.encode(whole).into_bytes()));
    }
    for skipped in 0..BASE32_BLOCK_LEN {
        let whole = whole_blocks(value, skipped, BASE32_BLOCK_LEN);
        forms.push(("base32", base32(whole)));
    }
    forms
}

fn whole_blocks(value: &str, skipped: usize, block_len: usize) -> &[u8] {
    let bytes = value.as_bytes().get(skipped..).unwrap_or_default();
    let len = bytes.len() / block_len * block_len;
    bytes.get(..len).unwrap_or_default()
}

fn base32(bytes: &[u8]) -> Vec<u8> {
    let digits = bytes.chunks(BASE32_BLOCK_LEN).flat_map(|block| {
        let number = block
            .iter()
            .fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        (0..8_u32).rev().map(move |place| {
            let digit = usize::try_from(number >> (5 * place) & 31).unwrap_or_default();
            BASE32.get(digit).copied().unwrap_or_default()
        })
    });
    digits.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_found_in_every_form_and_nowhere_else() {
        let canary = Canary::new().unwrap();
        let value = canary.value().to_owned();
        let hex: Vec<String> = value.bytes().map(|byte| format!("{byte:02X}")).collect();
        let wide: Vec<u8> = value.encode_utf16().flat_map(u16::to_le_bytes).collect();
        for (name, bytes) in [
            ("raw", value.clone().into_bytes()),
            ("raw", format!("{value:?}").into_bytes()),
            ("hexadecimal", hex.concat().into_bytes()),
            ("UTF-16", wide),
            ("reversed", value.chars().rev().collect::<String>().into()),
        ] {
            let around = [b"before ", bytes.as_slice(), b" after"].concat();
            assert_eq!(canary.find(&around), Some(name));
        }
        for prefix in ["", "u", "us", "use", "user"] {
            // As a program sends it: in JSON, and that in base64.
            let text = serde_json::json!({ prefix: value }).to_string();
            let encoded = STANDARD_NO_PAD.encode(&text);
            assert_eq!(canary.find(encoded.as_bytes()), Some("base64"), "{prefix}");
            let encoded = base32(text.as_bytes());
            assert_eq!(canary.find(&encoded), Some("base32"), "{prefix}");
        }
        let other = Canary::new().unwrap();
        assert_eq!(canary.find(other.value().as_bytes()), None);
        assert_eq!(canary.find(b""), None);
    }

    #[test]
    fn base32_is_that_of_the_standard() {
        // RFC 4648, section 10, the case without padding.
        assert_eq!(base32(b"fooba"), b"MZXW6YTB");
    }
}
