//! Halves of surrogate pairs in JSON strings.
//!
//! A JavaScript string may hold half a pair, and `JSON.stringify` writes it as
//! an escape that stands for no character. Encoded as UTF-8, as a file's text
//! is, it becomes a replacement character; so it does here.

use bytes::Bytes;

const REPLACEMENT: &[u8; 4] = b"fffd";
/// `\uXXXX`
const ESCAPE_LEN: usize = 6;

/// JSON with each half of a pair replaced. Most JSON is given back as it came.
pub(super) fn mend(json: Bytes) -> Bytes {
    let Some(first) = next_half(&json, 0) else {
        return json;
    };
    let mut mended = json.to_vec();
    let mut half = Some(first);
    while let Some(at) = half {
        if let Some(digits) = mended.get_mut(at + 2..at + ESCAPE_LEN) {
            digits.copy_from_slice(REPLACEMENT);
        }
        half = next_half(&mended, at + ESCAPE_LEN);
    }
    mended.into()
}

/// Where the next escape is that is half a pair.
fn next_half(json: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += json.get(at..)?.iter().position(|byte| *byte == b'\\')?;
        match unit(json, at) {
            Some(0xd800..=0xdbff) => match unit(json, at + ESCAPE_LEN) {
                Some(0xdc00..=0xdfff) => at += 2 * ESCAPE_LEN,
                _ => return Some(at),
            },
            Some(0xdc00..=0xdfff) => return Some(at),
            Some(_) => at += ESCAPE_LEN,
            // Any other escape is a backslash and one more character.
            None => at += 2,
        }
    }
}

/// The UTF-16 code unit that the escape at this place stands for.
fn unit(json: &[u8], at: usize) -> Option<u16> {
    let escape = json.get(at..at + ESCAPE_LEN)?;
    let digits = escape.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mended(json: &str) -> String {
        String::from_utf8(mend(Bytes::copy_from_slice(json.as_bytes())).to_vec()).unwrap()
    }

    #[test]
    fn only_halves_are_replaced() {
        let cases = [
            (r#""plain""#, r#""plain""#),
            (r#""\ud83d\ude00""#, r#""\ud83d\ude00""#),
            (r#""\ud83d""#, r#""\ufffd""#),
            (r#""\ude00\ud83d""#, r#""\ufffd\ufffd""#),
            (r#""\ud83d\ud83d\ude00""#, r#""\ufffd\ud83d\ude00""#),
            (r#""\\ud83d""#, r#""\\ud83d""#),
            (r#""\n\uD83D x""#, r#""\n\ufffd x""#),
            (r#""\u00e9\u""#, r#""\u00e9\u""#),
            ("\\", "\\"),
            ("\\u", "\\u"),
        ];
        for (json, expected) in cases {
            assert_eq!(mended(json), expected, "{json}");
        }
    }

    proptest! {
        #[test]
        fn any_sixteen_bit_units_become_readable(units in proptest::collection::vec(any::<u16>(), 0..20)) {
            let escapes: Vec<_> = units.iter().map(|unit| format!("\\u{unit:04x}")).collect();
            let escapes = escapes.concat();
            let text: String = serde_json::from_str(&mended(&format!("\"{escapes}\""))).unwrap();
            prop_assert_eq!(text, String::from_utf16_lossy(&units));
        }

        #[test]
        fn any_bytes_keep_their_length(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let len = bytes.len();
            prop_assert_eq!(mend(Bytes::from(bytes)).len(), len);
        }
    }
}
