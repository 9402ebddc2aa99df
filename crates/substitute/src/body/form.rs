//! Percent-encoded text: forms, queries and paths. Only what is substituted is
//! written anew; order and spelling of all else stay, because they may be
//! signed.

use crate::{
    encode::hex_value,
    scan::{FIRST, Scanner},
};

/// `%` and two digits, as far as they have come, in front of a [`Scanner`].
#[derive(Debug)]
pub(crate) struct Percent {
    pub(crate) scanner: Scanner,
    escape: Vec<u8>,
}

impl Percent {
    pub(crate) fn new(scanner: Scanner) -> Self {
        Self {
            scanner,
            escape: Vec::with_capacity(3),
        }
    }

    fn is_idle(&self) -> bool {
        self.escape.is_empty() && self.scanner.is_idle()
    }

    /// Takes one byte of encoded text.
    pub(crate) fn byte(&mut self, byte: u8, out: &mut Vec<u8>) {
        if !self.escape.is_empty() {
            if byte.is_ascii_hexdigit() {
                self.escape.push(byte);
                if let [_, high, low] = *self.escape.as_slice() {
                    let decoded = hex_value(high).zip(hex_value(low));
                    let character = decoded.map_or(0, |(high, low)| high << 4 | low);
                    self.scanner.unit(character, &self.escape, out);
                    self.escape.clear();
                }
                return;
            }
            // A lone % means itself, and no placeholder has one.
            self.give_up(out);
        }
        if byte == b'%' {
            self.escape.push(byte);
        } else {
            self.scanner.unit(byte, &[byte], out);
        }
    }

    fn give_up(&mut self, out: &mut Vec<u8>) {
        if self.escape.is_empty() {
            return;
        }
        let (percent, digits) = self.escape.split_at(1);
        self.scanner.break_with(percent, out);
        for digit in digits {
            self.scanner.unit(*digit, &[*digit], out);
        }
        self.escape.clear();
    }

    /// The text, or the part of it that may hold a placeholder, ends here.
    pub(crate) fn flush(&mut self, out: &mut Vec<u8>) {
        self.give_up(out);
        self.scanner.flush(out);
    }
}

/// What separates values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FormGrammar {
    /// `name=value&name=value`: names are never touched.
    Pairs,
    /// `segment/segment`.
    Segments,
}

pub(crate) struct FormBody {
    percent: Percent,
    grammar: FormGrammar,
    in_value: bool,
}

impl FormBody {
    pub(crate) fn new(scanner: Scanner, grammar: FormGrammar) -> Self {
        Self {
            percent: Percent::new(scanner),
            grammar,
            in_value: grammar == FormGrammar::Segments,
        }
    }

    pub(crate) fn scanner(&self) -> &Scanner {
        &self.percent.scanner
    }

    pub(super) fn held(&self) -> usize {
        self.percent.scanner.held() + self.percent.escape.len()
    }

    pub(crate) fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        let mut rest = chunk;
        while !rest.is_empty() {
            rest = if self.in_value {
                self.value(rest, out)
            } else {
                self.name(rest, out)
            };
        }
    }

    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        self.percent.flush(out);
    }

    fn name<'a>(&mut self, text: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        let Some(equals) = memchr::memchr(b'=', text) else {
            out.extend_from_slice(text);
            return &[];
        };
        // A pair without `=` is a name alone, and so is all before the last `&`.
        self.in_value = true;
        let (before, rest) = text.split_at(equals + 1);
        out.extend_from_slice(before);
        rest
    }

    fn value<'a>(&mut self, text: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        let separator = match self.grammar {
            FormGrammar::Pairs => b'&',
            FormGrammar::Segments => b'/',
        };
        let mut text = text;
        if self.percent.is_idle() {
            let start = memchr::memchr3(separator, b'%', FIRST, text).unwrap_or(text.len());
            let (plain, rest) = text.split_at(start);
            out.extend_from_slice(plain);
            text = rest;
        }
        let Some((byte, rest)) = text.split_first() else {
            return text;
        };
        if *byte == separator {
            self.percent.flush(out);
            out.push(separator);
            self.in_value = self.grammar == FormGrammar::Segments;
        } else {
            self.percent.byte(*byte, out);
        }
        rest
    }
}

/// A whole text at once.
pub(crate) fn substitute_form(
    scanner: Scanner,
    grammar: FormGrammar,
    text: &[u8],
) -> (Vec<u8>, Scanner) {
    let mut body = FormBody::new(scanner, grammar);
    let mut out = Vec::with_capacity(text.len());
    body.push(text, &mut out);
    body.finish(&mut out);
    (out, body.percent.scanner)
}
