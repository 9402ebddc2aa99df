//! How a value is written where a placeholder stood, so that it ends neither
//! the token it is in nor the message.

/// The grammar around a placeholder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// As it is.
    Raw,
    /// Everything but RFC 3986's unreserved characters as `%XX`. Forms take
    /// `%20` for a space as they take `+`.
    Percent,
    /// The inside of a JSON string (RFC 8259, 7).
    Json,
    /// XML character data or attribute value.
    Xml,
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

impl Encoding {
    /// Appends a value.
    pub(crate) fn encode(self, value: &str, out: &mut Vec<u8>) {
        match self {
            Self::Raw => out.extend_from_slice(value.as_bytes()),
            Self::Percent => value.bytes().for_each(|byte| percent(byte, out)),
            Self::Json => value.bytes().for_each(|byte| json(byte, out)),
            Self::Xml => value.bytes().for_each(|byte| xml(byte, out)),
        }
    }
}

/// RFC 3986, 2.3.
pub(crate) fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn hex_digits(byte: u8) -> [u8; 2] {
    let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
    [digit(byte >> 4), digit(byte & 0xf)]
}

fn percent(byte: u8, out: &mut Vec<u8>) {
    if is_unreserved(byte) {
        out.push(byte);
    } else {
        out.push(b'%');
        out.extend_from_slice(&hex_digits(byte));
    }
}

fn json(byte: u8, out: &mut Vec<u8>) {
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        0..=0x1f => {
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&hex_digits(byte));
        }
        _ => out.push(byte),
    }
}

fn xml(byte: u8, out: &mut Vec<u8>) {
    match byte {
        b'&' => out.extend_from_slice(b"&amp;"),
        b'<' => out.extend_from_slice(b"&lt;"),
        b'>' => out.extend_from_slice(b"&gt;"),
        b'"' => out.extend_from_slice(b"&quot;"),
        b'\'' => out.extend_from_slice(b"&#39;"),
        _ => out.push(byte),
    }
}

/// The value of a hexadecimal digit of either case.
pub(crate) fn hex_value(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_grammar_keeps_its_structure() {
        let value = "a\"\\/ <&'>\t?#%é";
        for (encoding, expected) in [
            (Encoding::Raw, "a\"\\/ <&'>\t?#%é"),
            (
                Encoding::Percent,
                "a%22%5C%2F%20%3C%26%27%3E%09%3F%23%25%C3%A9",
            ),
            (Encoding::Json, "a\\\"\\\\/ <&'>\\u0009?#%é"),
            (Encoding::Xml, "a&quot;\\/ &lt;&amp;&#39;&gt;\t?#%é"),
        ] {
            let mut out = Vec::new();
            encoding.encode(value, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{encoding:?}");
        }
    }
}
