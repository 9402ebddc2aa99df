//! The forms in which a value can come back, each with what takes its place.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use zeroize::Zeroizing;

use crate::encode::is_unreserved;

/// The shortest value that responses are searched for, in bytes. A shorter one
/// occurs by chance, and replacing chance damages data.
pub const SCRUB_LEN_MIN: usize = 8;
/// The longest value that is also looked for with every character escaped, in
/// bytes. Longer ones would make the search large, and are escaped so nowhere.
const ESCAPED_LEN_MAX: usize = 512;

/// A text to find and what to put in its place.
#[derive(Clone)]
pub(crate) struct Needle {
    real: Zeroizing<Vec<u8>>,
    shown: Vec<u8>,
}

impl Needle {
    pub(crate) fn new(real: Vec<u8>, shown: Vec<u8>) -> Self {
        Self::from_zeroizing(Zeroizing::new(real), shown)
    }

    pub(crate) fn from_zeroizing(real: Zeroizing<Vec<u8>>, shown: Vec<u8>) -> Self {
        Self { real, shown }
    }

    pub(crate) fn real(&self) -> &[u8] {
        &self.real
    }

    pub(crate) fn shown(&self) -> &[u8] {
        &self.shown
    }
}

impl fmt::Debug for Needle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Needle(hidden)")
    }
}

/// How one character is written; `None` leaves it as it is.
type Escape = fn(char) -> Option<String>;

/// Writers that escape some characters: what a value looks like when an encoder
/// in common use writes it.
const ESCAPES: [Escape; 20] = [
    |c| percent_unless(c, is_unreserved_char, upper),
    |c| percent_unless(c, is_unreserved_char, lower),
    // `encodeURIComponent` and `encodeURI` of ECMAScript.
    |c| percent_unless(c, is_component, upper),
    |c| percent_unless(c, is_uri, upper),
    // The form encoding of URLs (WHATWG), and Python's `quote`.
    |c| {
        if c == ' ' {
            Some("+".to_owned())
        } else {
            percent_unless(c, is_form, upper)
        }
    },
    |c| {
        if c == ' ' {
            Some("+".to_owned())
        } else {
            percent_unless(c, is_form, lower)
        }
    },
    |c| percent_unless(c, is_quoted, upper),
    // JSON: the least, with `\/`, ASCII only, and safe inside HTML.
    |c| json(c, "", false, lower),
    |c| json(c, "/", false, lower),
    |c| json(c, "", true, lower),
    |c| json(c, "", true, upper),
    |c| json(c, "/", true, lower),
    |c| json_html(c, "<>&", lower),
    |c| json_html(c, "<>&'\"", upper),
    |c| json_html(c, "<>&'\"+", upper),
    |c| json_html(c, "<>&'\"+", lower),
    // HTML and XML: names, and numbers for the apostrophe.
    |c| html(c, "&#39;", "&quot;"),
    |c| html(c, "&#x27;", "&quot;"),
    |c| html(c, "&apos;", "&quot;"),
    |c| html(c, "'", "\""),
];

/// Writers that escape every character.
const FULL_ESCAPES: [Escape; 7] = [
    |c| Some(percent(c, upper)),
    |c| Some(percent(c, lower)),
    |c| Some(unicode(c, lower)),
    |c| Some(unicode(c, upper)),
    |c| Some(format!("&#{};", u32::from(c))),
    |c| Some(format!("&#x{:x};", u32::from(c))),
    |c| Some(format!("&#x{:X};", u32::from(c))),
];

/// All forms of a value of at least [`SCRUB_LEN_MIN`] bytes. Some are equal:
/// whoever builds a search takes each once.
pub(crate) fn needles_of(value: &str, placeholder: &str) -> Vec<Needle> {
    let plain = |real: Vec<u8>| Needle::new(real, placeholder.as_bytes().to_vec());
    let mut needles = vec![plain(value.as_bytes().to_vec())];
    let short = value.len() <= ESCAPED_LEN_MAX;
    let full = FULL_ESCAPES.iter().filter(|_| short);
    for escape in ESCAPES.iter().chain(full) {
        needles.push(plain(escaped(value, *escape).into_bytes()));
    }
    for before in 0..3 {
        let inner = base64_inner(value.as_bytes(), before);
        needles.extend(url_safe(&inner).map(plain));
        needles.push(plain(inner));
    }
    needles.push(plain(
        value.bytes().flat_map(|byte| hex(byte, lower)).collect(),
    ));
    needles.push(plain(
        value.bytes().flat_map(|byte| hex(byte, upper)).collect(),
    ));
    for order in [u16::to_le_bytes, u16::to_be_bytes] {
        let wide = |text: &str| text.encode_utf16().flat_map(order).collect();
        needles.push(Needle::new(wide(value), wide(placeholder)));
    }
    needles
}

fn escaped(value: &str, escape: Escape) -> String {
    let mut text = String::with_capacity(value.len());
    for character in value.chars() {
        match escape(character) {
            Some(written) => text.push_str(&written),
            None => text.push(character),
        }
    }
    text
}

/// The characters of base64 that depend on a value alone when a number of
/// other bytes stand before it in its first group.
fn base64_inner(value: &[u8], before: usize) -> Vec<u8> {
    let mut bytes = Zeroizing::new(vec![0; before]);
    bytes.extend_from_slice(value);
    let encoded = Zeroizing::new(STANDARD_NO_PAD.encode(&bytes));
    let (first, end) = ((8 * before).div_ceil(6), 8 * bytes.len() / 6);
    let inner = encoded.as_bytes().get(first..end).unwrap_or_default();
    inner.to_vec()
}

/// The same in the other alphabet (RFC 4648, 5), if it is different.
pub(crate) fn url_safe(base64: &[u8]) -> Option<Vec<u8>> {
    let other = |byte: &u8| match byte {
        b'+' => b'-',
        b'/' => b'_',
        byte => *byte,
    };
    let different = base64.iter().any(|byte| matches!(byte, b'+' | b'/'));
    different.then(|| base64.iter().map(other).collect())
}

type Case = fn(u8) -> [u8; 2];

fn lower(byte: u8) -> [u8; 2] {
    [byte >> 4, byte & 0xf].map(|nibble| {
        if nibble < 10 {
            b'0' + nibble
        } else {
            b'a' + nibble - 10
        }
    })
}

fn upper(byte: u8) -> [u8; 2] {
    lower(byte).map(|digit| digit.to_ascii_uppercase())
}

fn hex(byte: u8, case: Case) -> [u8; 2] {
    case(byte)
}

fn percent(character: char, case: Case) -> String {
    let mut utf8 = [0; 4];
    let bytes = character.encode_utf8(&mut utf8).bytes();
    bytes
        .flat_map(|byte| {
            let [high, low] = case(byte);
            ['%', char::from(high), char::from(low)]
        })
        .collect()
}

fn percent_unless(character: char, kept: fn(char) -> bool, case: Case) -> Option<String> {
    (!kept(character)).then(|| percent(character, case))
}

fn is_unreserved_char(character: char) -> bool {
    u8::try_from(character).is_ok_and(is_unreserved)
}

fn is_component(character: char) -> bool {
    is_unreserved_char(character) || "!*'()".contains(character)
}

fn is_uri(character: char) -> bool {
    is_component(character) || ";/?:@&=+$,#".contains(character)
}

fn is_form(character: char) -> bool {
    character.is_ascii_alphanumeric() || "*-._".contains(character)
}

fn is_quoted(character: char) -> bool {
    is_unreserved_char(character) || character == '/'
}

fn unicode(character: char, case: Case) -> String {
    let mut units = [0; 2];
    let units = character.encode_utf16(&mut units).iter();
    units
        .flat_map(|unit| {
            let digits = unit
                .to_be_bytes()
                .into_iter()
                .flat_map(case)
                .map(char::from);
            ['\\', 'u'].into_iter().chain(digits)
        })
        .collect()
}

fn json(character: char, backslashed: &str, ascii: bool, case: Case) -> Option<String> {
    match character {
        '"' | '\\' => Some(format!("\\{character}")),
        '\t' => Some("\\t".to_owned()),
        _ if backslashed.contains(character) => Some(format!("\\{character}")),
        _ if ascii && !character.is_ascii() => Some(unicode(character, case)),
        _ => None,
    }
}

fn json_html(character: char, unicoded: &str, case: Case) -> Option<String> {
    if unicoded.contains(character) {
        return Some(unicode(character, case));
    }
    json(character, "", false, case)
}

fn html(character: char, apostrophe: &str, quote: &str) -> Option<String> {
    let entity = match character {
        '&' => "&amp;",
        '<' => "&lt;",
        '>' => "&gt;",
        '"' => quote,
        '\'' => apostrophe,
        _ => return None,
    };
    Some(entity.to_owned())
}

#[cfg(test)]
mod tests;
