//! Finding placeholders in a stream of characters that may be written in more
//! than one way.
//!
//! A decoder feeds *units*: the character a piece of the message means, and the
//! bytes it is written with (`D`, `%44`, `\u0044`). While units may become a
//! placeholder their bytes are held back; if they do not, they leave as they
//! came. What is held is bounded by the length of a placeholder.

use std::sync::{Arc, LazyLock};

use memchr::memmem;
use tombolo_secret::{PLACEHOLDER_LEN, PLACEHOLDER_PREFIX, Placeholder};

use crate::{
    Eligibility, Finding, Findings, SecretTable, Slot, encode::Encoding, table::SecretRule,
};

const PREFIX: &[u8] = PLACEHOLDER_PREFIX.as_bytes();
const PREFIX_LEN: usize = PREFIX.len();
/// Every placeholder begins with it, so a search may look for it alone.
pub(crate) const FIRST: u8 = b'D';

static FINDER: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(PREFIX));

/// Whether a text can contain a placeholder, written plainly.
pub(crate) fn may_contain(text: &[u8]) -> bool {
    FINDER.find(text).is_some()
}

/// After a mismatch behind n characters of the prefix: how many of them are
/// again a beginning of it (Knuth, Morris and Pratt).
const FALLBACK: [usize; PREFIX_LEN] = {
    let mut table = [0; PREFIX_LEN];
    let mut at = 1;
    while at + 1 < PREFIX_LEN {
        let mut length = table[at];
        while length > 0 && PREFIX[length] != PREFIX[at] {
            length = table[length];
        }
        if PREFIX[length] == PREFIX[at] {
            length += 1;
        }
        table[at + 1] = length;
        at += 1;
    }
    table
};

/// The beginning of a possible placeholder and the bytes it is written with.
#[derive(Clone, Debug, Default)]
struct Held {
    characters: Vec<u8>,
    raw: Vec<u8>,
    lengths: Vec<usize>,
}

impl Held {
    /// Whether a character continues what is held.
    fn fits(&self, character: u8) -> bool {
        match PREFIX.get(self.characters.len()) {
            Some(expected) => character == *expected,
            None => matches!(character, b'0'..=b'9' | b'a'..=b'f'),
        }
    }

    fn push(&mut self, character: u8, raw: &[u8]) {
        self.characters.push(character);
        self.raw.extend_from_slice(raw);
        self.lengths.push(raw.len());
    }

    /// Gives up the beginning, down to the longest that can still be one.
    fn fall_back(&mut self, out: &mut Vec<u8>) {
        let held = self.characters.len();
        // No digit is in the prefix, so behind it there is nothing to keep.
        let keep = FALLBACK.get(held).copied().unwrap_or(0);
        let gone = held - keep;
        let raw: usize = self.lengths.drain(..gone).sum();
        self.characters.drain(..gone);
        out.extend(self.raw.drain(..raw));
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.raw);
        self.characters.clear();
        self.lengths.clear();
    }
}

/// What is the same for all of one request: its secrets and what was found.
#[derive(Debug)]
pub(crate) struct Resolver {
    pub(crate) table: Arc<SecretTable>,
    pub(crate) eligibility: Arc<Eligibility>,
    pub(crate) findings: Findings,
}

impl Resolver {
    /// Itself, for one [`Scanner`] that gives it back. Until then this one has
    /// no findings.
    pub(crate) fn lend(&mut self) -> Self {
        Self {
            table: Arc::clone(&self.table),
            eligibility: Arc::clone(&self.eligibility),
            findings: std::mem::take(&mut self.findings),
        }
    }

    /// Whose value takes a placeholder's place, if any does. Keeps count.
    pub(crate) fn resolve(&mut self, placeholder: &Placeholder, slot: Slot) -> Option<&SecretRule> {
        let Some((index, secret)) = self.table.find(placeholder) else {
            self.findings.add(Finding::Foreign { slot, count: 1 });
            return None;
        };
        let name = secret.name.clone();
        match self.eligibility.check(index, secret, slot) {
            Ok(()) => {
                self.findings.add(Finding::Substituted {
                    secret: name,
                    slot,
                    count: 1,
                });
                Some(secret)
            }
            Err(reason) => {
                self.findings.add(Finding::Ineligible {
                    secret: name,
                    slot,
                    reason,
                    count: 1,
                });
                None
            }
        }
    }
}

/// One stream of units in which placeholders become values.
#[derive(Debug)]
pub(crate) struct Scanner {
    pub(crate) resolver: Resolver,
    slot: Slot,
    encoding: Encoding,
    held: Held,
}

impl Scanner {
    pub(crate) fn new(resolver: Resolver, slot: Slot, encoding: Encoding) -> Self {
        Self {
            resolver,
            slot,
            encoding,
            held: Held::default(),
        }
    }

    /// Whether nothing is held back.
    pub(crate) fn is_idle(&self) -> bool {
        self.held.raw.is_empty()
    }

    /// How many bytes are held back.
    pub(crate) fn held(&self) -> usize {
        self.held.raw.len()
    }

    /// Takes one character and how it is written.
    pub(crate) fn unit(&mut self, character: u8, raw: &[u8], out: &mut Vec<u8>) {
        while !self.held.fits(character) {
            if self.held.characters.is_empty() {
                out.extend_from_slice(raw);
                return;
            }
            self.held.fall_back(out);
        }
        self.held.push(character, raw);
        if self.held.characters.len() == PLACEHOLDER_LEN {
            self.complete(out);
        }
    }

    /// Takes bytes that are no character of a placeholder, whatever they mean.
    pub(crate) fn break_with(&mut self, raw: &[u8], out: &mut Vec<u8>) {
        self.held.flush(out);
        out.extend_from_slice(raw);
    }

    /// Takes bytes that mean themselves.
    pub(crate) fn raw(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let mut rest = bytes;
        while let Some((byte, more)) = rest.split_first() {
            if !self.is_idle() {
                self.unit(*byte, std::slice::from_ref(byte), out);
                rest = more;
                continue;
            }
            let start = FINDER.find(rest).unwrap_or_else(|| tail_start(rest));
            let (plain, possible) = rest.split_at(start);
            out.extend_from_slice(plain);
            rest = possible;
            if let Some((byte, more)) = rest.split_first() {
                self.unit(*byte, std::slice::from_ref(byte), out);
                rest = more;
            }
        }
    }

    /// Lets go of what is held: the stream, or what may hold a placeholder,
    /// ends here.
    pub(crate) fn flush(&mut self, out: &mut Vec<u8>) {
        self.held.flush(out);
    }

    fn complete(&mut self, out: &mut Vec<u8>) {
        let found = Placeholder::parse(&self.held.characters).ok();
        let secret = found.and_then(|found| self.resolver.resolve(&found, self.slot));
        match secret {
            Some(secret) => {
                self.encoding.encode(secret.value.expose(), out);
                self.held = Held::default();
            }
            None => self.held.flush(out),
        }
    }
}

/// Where the longest end of a text begins that can be the beginning of a
/// placeholder; its length if there is none.
fn tail_start(text: &[u8]) -> usize {
    let first = text.len().saturating_sub(PREFIX_LEN - 1);
    let tails = (first..text.len()).filter(|at| text.get(*at) == Some(&FIRST));
    let mut starts =
        tails.filter(|at| text.get(*at..).is_some_and(|tail| PREFIX.starts_with(tail)));
    starts.next().unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn falling_back_keeps_the_longest_border() {
        for length in 1..PREFIX_LEN {
            let text = &PREFIX[..length];
            let longest = (0..length).rev().find(|n| text.ends_with(&PREFIX[..*n]));
            assert_eq!(FALLBACK[length], longest.unwrap(), "{length}");
        }
        assert_eq!(PREFIX[0], FIRST);
        assert_eq!(FALLBACK[22], 2, "DENO_SECRET_PLACEHOLDE ends in DE");
    }

    #[test]
    fn the_tail_is_found() {
        for (text, expected) in [
            ("", 0),
            ("abc", 3),
            ("abD", 2),
            ("abDENO_SECRET_PLACEHOLDER", 2),
            ("DENO_SECRET_PLACEHOLDE", 0),
            ("DENO_X", 6),
            ("DDDENO", 2),
        ] {
            assert_eq!(tail_start(text.as_bytes()), expected, "{text}");
        }
    }
}
