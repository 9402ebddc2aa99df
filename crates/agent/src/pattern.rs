//! JavaScript regular expressions.
//!
//! They come from the network and may take for ever on some text, so they run
//! only where nothing else waits: see `walk::Turns`.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::ffi::OsStr;

use tombolo_guest_proto::v1::Regex;

use crate::fault::{CallError, Cause};

// The library recurses into groups and along alternatives, and expands Unicode
// properties into long tables; at a fifth of what a thread's stack was measured
// to hold, these leave it and the guest's memory room.
const NESTING_MAX: usize = 200;
const ALTERNATIVES_MAX: usize = 1000;
const GROUPS_MAX: usize = 1000;
const PROPERTIES_MAX: usize = 100;
const SOURCE_LEN_MAX: usize = 16 * 1024;
/// Patterns in one list.
pub(crate) const PATTERNS_MAX: usize = 256;
const FLAGS: &str = "dgimsuvy";

/// A compiled expression.
#[derive(Debug)]
pub(crate) struct Pattern {
    regex: regress::Regex,
    /// Whether it sees code points, or code units as JavaScript by default.
    unicode: bool,
    sticky: bool,
}

/// A text to match, as bytes that programs chose.
#[derive(Debug)]
pub(crate) struct Text<'a> {
    text: Cow<'a, str>,
    units: OnceCell<Vec<u16>>,
}

impl<'a> Text<'a> {
    pub(crate) fn new(text: &'a OsStr) -> Self {
        Self {
            text: text.to_string_lossy(),
            units: OnceCell::new(),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    fn units(&self) -> &[u16] {
        self.units
            .get_or_init(|| self.text.encode_utf16().collect())
    }
}

impl Pattern {
    /// Compiles what a caller sent.
    pub(crate) fn compile_all(
        operation: &'static str,
        regexes: &[Regex],
    ) -> Result<Vec<Self>, CallError> {
        if regexes.len() > PATTERNS_MAX {
            let cause = Cause::InvalidArgument("too many patterns");
            return Err(CallError::new(operation, "", cause));
        }
        let patterns = regexes.iter().map(|regex| Self::compile(operation, regex));
        patterns.collect()
    }

    fn compile(operation: &'static str, regex: &Regex) -> Result<Self, CallError> {
        let Regex { source, flags } = regex;
        Self::new(source, flags).map_err(|error| bad_regex(operation, source, error))
    }

    /// Compiles an expression made here.
    pub(crate) fn new(source: &str, flags: &str) -> Result<Self, regress::Error> {
        check_flags(flags)?;
        check_size(source)?;
        let unicode = flags.contains(['u', 'v']);
        Ok(Self {
            regex: regress::Regex::with_flags(source, flags)?,
            unicode,
            sticky: flags.contains('y'),
        })
    }

    /// Whether `text.match(pattern)` finds something.
    pub(crate) fn is_match(&self, text: &Text<'_>) -> bool {
        let found = if text.text.is_ascii() {
            self.regex.find(&text.text)
        } else if self.unicode {
            self.regex.find_from_utf16(text.units(), 0).next()
        } else {
            self.regex.find_from_ucs2(text.units(), 0).next()
        };
        found.is_some_and(|found| !self.sticky || found.start() == 0)
    }

    pub(crate) fn find(&self, text: &str) -> Option<regress::Match> {
        self.regex.find(text)
    }
}

pub(crate) fn bad_regex(operation: &'static str, source: &str, error: regress::Error) -> CallError {
    let source_text = source.chars().take(200).collect();
    CallError::new(operation, "", Cause::BadRegex { source_text, error })
}

fn failed(text: &str) -> regress::Error {
    regress::Error {
        text: text.to_owned(),
    }
}

fn check_flags(flags: &str) -> Result<(), regress::Error> {
    for (at, flag) in flags.char_indices() {
        let repeated = flags.get(..at).is_some_and(|before| before.contains(flag));
        if repeated || !FLAGS.contains(flag) {
            return Err(failed("invalid flags"));
        }
    }
    if flags.contains('u') && flags.contains('v') {
        Err(failed("flags 'u' and 'v' exclude each other"))
    } else {
        Ok(())
    }
}

/// Counts without regard to escapes: no real expression comes near the bounds.
fn check_size(source: &str) -> Result<(), regress::Error> {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut groups, mut alternatives, mut properties) = (0, 0, 0);
    let mut before = 0;
    for byte in source.bytes() {
        match byte {
            b'(' | b'[' => {
                groups += 1;
                depth += 1;
            }
            b')' | b']' => depth = depth.saturating_sub(1),
            b'|' => alternatives += 1,
            b'p' | b'P' if before == b'\\' => properties += 1,
            _ => {}
        }
        deepest = deepest.max(depth);
        before = byte;
    }
    if deepest > NESTING_MAX {
        return Err(failed("too deeply nested"));
    }
    if groups > GROUPS_MAX || alternatives > ALTERNATIVES_MAX || properties > PROPERTIES_MAX {
        return Err(failed("too many groups, alternatives or properties"));
    }
    if source.len() > SOURCE_LEN_MAX {
        return Err(failed("too long"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(source: &str, flags: &str, text: &str) -> Option<bool> {
        let pattern = Pattern::new(source, flags).ok()?;
        Some(pattern.is_match(&Text::new(OsStr::new(text))))
    }

    #[test]
    fn matches_as_javascript_does() {
        let cases = [
            (r"\.ts$", "", "a.ts", Some(true)),
            (r"\.TS$", "i", "a.ts", Some(true)),
            ("^b", "m", "a\nb", Some(true)),
            ("^b", "", "a\nb", Some(false)),
            ("a.b", "s", "a\nb", Some(true)),
            ("b", "y", "ab", Some(false)),
            ("a", "gy", "ab", Some(true)),
            ("^.$", "", "\u{1f600}", Some(false)),
            ("^..$", "", "\u{1f600}", Some(true)),
            ("^.$", "u", "\u{1f600}", Some(true)),
            (r"^\p{L}$", "u", "é", Some(true)),
            (r"^[\p{L}--[a]]$", "v", "b", Some(true)),
            (r"(?<=a)b(?!c)", "", "abd", Some(true)),
            (r"(a)\1", "", "aa", Some(true)),
            ("", "", "", Some(true)),
            ("(", "", "", None),
            ("a", "x", "", None),
            ("a", "gg", "", None),
            ("a", "uv", "", None),
        ];
        for (source, flags, text, expected) in cases {
            assert_eq!(matches(source, flags, text), expected, "/{source}/{flags}");
        }
    }

    #[test]
    fn compiles_up_to_its_bounds_and_no_further() {
        let nested = |depth| "(".repeat(depth) + "a" + &")".repeat(depth);
        let unicode = |count| r"\p{L}|".repeat(count) + "a";
        let cases: [(&dyn Fn(usize) -> String, usize); 5] = [
            (&nested, NESTING_MAX),
            (&|count| "a|".repeat(count), ALTERNATIVES_MAX),
            (&|count| "(a)?".repeat(count), GROUPS_MAX),
            (&unicode, PROPERTIES_MAX),
            (
                &|len| "a?".repeat(len / 2) + &"a".repeat(len % 2),
                SOURCE_LEN_MAX,
            ),
        ];
        for (source, bound) in cases {
            assert_eq!(matches(&source(bound), "u", "a"), Some(true), "{bound}");
            assert_eq!(matches(&source(bound + 1), "u", "a"), None, "{bound}");
        }
    }
}
