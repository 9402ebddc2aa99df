//! Strings of JSON. There is no tree: it is enough to know whether a byte is in
//! a string and whether an escape has begun, and so documents of any size pass.

use crate::{
    encode::hex_value,
    scan::{FIRST, Scanner},
};

/// `\`, `u` and four digits.
const ESCAPE_LEN_MAX: usize = 6;

pub(super) struct JsonBody {
    scanner: Scanner,
    place: Place,
    /// An escape that has begun.
    escape: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Outside,
    String,
}

impl JsonBody {
    pub(super) fn new(scanner: Scanner) -> Self {
        Self {
            scanner,
            place: Place::Outside,
            escape: Vec::with_capacity(ESCAPE_LEN_MAX),
        }
    }

    pub(super) fn scanner(&self) -> &Scanner {
        &self.scanner
    }

    pub(super) fn held(&self) -> usize {
        self.scanner.held() + self.escape.len()
    }

    pub(super) fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        let mut rest = chunk;
        while !rest.is_empty() {
            rest = match self.place {
                Place::Outside => self.outside(rest, out),
                Place::String if self.escape.is_empty() => self.string(rest, out),
                Place::String => self.escaped(rest, out),
            };
        }
    }

    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        self.scanner.flush(out);
        out.append(&mut self.escape);
    }

    fn outside<'a>(&mut self, text: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        let Some(quote) = memchr::memchr(b'"', text) else {
            out.extend_from_slice(text);
            return &[];
        };
        self.place = Place::String;
        let (before, rest) = text.split_at(quote + 1);
        out.extend_from_slice(before);
        rest
    }

    fn string<'a>(&mut self, text: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        let mut text = text;
        if self.scanner.is_idle() {
            let start = memchr::memchr3(b'"', b'\\', FIRST, text).unwrap_or(text.len());
            let (plain, rest) = text.split_at(start);
            out.extend_from_slice(plain);
            text = rest;
        }
        let Some((byte, rest)) = text.split_first() else {
            return text;
        };
        match byte {
            b'"' => {
                self.scanner.break_with(b"\"", out);
                self.place = Place::Outside;
            }
            b'\\' => self.escape.push(b'\\'),
            byte => self.scanner.unit(*byte, &[*byte], out),
        }
        rest
    }

    fn escaped<'a>(&mut self, text: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        let Some((byte, rest)) = text.split_first() else {
            return text;
        };
        let is_unicode = self.escape.get(1) == Some(&b'u');
        if is_unicode && !byte.is_ascii_hexdigit() {
            // Not an escape after all. The byte is read again as what it is.
            self.scanner.break_with(&self.escape, out);
            self.escape.clear();
            return text;
        }
        self.escape.push(*byte);
        let complete = match self.escape.as_slice() {
            [_, b'u', digits @ ..] => digits.len() == 4,
            _ => true,
        };
        if complete {
            match meaning(&self.escape) {
                Some(character) => self.scanner.unit(character, &self.escape, out),
                None => self.scanner.break_with(&self.escape, out),
            }
            self.escape.clear();
        }
        rest
    }
}

/// The ASCII character that an escape means.
fn meaning(escape: &[u8]) -> Option<u8> {
    match escape {
        [_, b'u', b'0', b'0', high, low] => {
            let code = hex_value(*high)? << 4 | hex_value(*low)?;
            code.is_ascii().then_some(code)
        }
        // No other escape means a character that placeholders have.
        _ => None,
    }
}

/// A whole document at once.
pub(crate) fn substitute_json(scanner: Scanner, document: &[u8]) -> (Vec<u8>, Scanner) {
    let mut body = JsonBody::new(scanner);
    let mut out = Vec::with_capacity(document.len());
    body.push(document, &mut out);
    body.finish(&mut out);
    (out, body.scanner)
}
