//! Python's way of writing a dictionary of strings, as in `{'a': "it's"}`.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::Chars;

/// Reads a dictionary from strings to strings. `None` when it is anything else.
pub(super) fn parse_dictionary(text: &str) -> Option<BTreeMap<String, String>> {
    let mut reader = Reader {
        rest: text.chars().peekable(),
    };
    let entries = reader.dictionary()?;
    reader.skip_spaces();
    reader.rest.peek().is_none().then_some(entries)
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
}

impl Reader<'_> {
    fn dictionary(&mut self) -> Option<BTreeMap<String, String>> {
        let mut entries = BTreeMap::new();
        self.expect('{')?;
        if self.accept('}') {
            return Some(entries);
        }
        loop {
            let key = self.string()?;
            self.expect(':')?;
            let value = self.string()?;
            entries.insert(key, value);
            let more = self.accept(',');
            if self.accept('}') {
                return Some(entries);
            }
            if !more {
                return None;
            }
        }
    }

    fn string(&mut self) -> Option<String> {
        self.skip_spaces();
        let quote = self.rest.next().filter(|c| matches!(c, '\'' | '"'))?;
        let mut text = String::new();
        loop {
            match self.rest.next()? {
                '\\' => text.push(self.escape()?),
                c if c == quote => return Some(text),
                c => text.push(c),
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        match self.rest.next()? {
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'x' => self.code_point(2),
            'u' => self.code_point(4),
            'U' => self.code_point(8),
            c => Some(c),
        }
    }

    fn code_point(&mut self, digits: usize) -> Option<char> {
        let mut value = 0_u32;
        for _ in 0..digits {
            let digit = self.rest.next()?.to_digit(16)?;
            value = value.checked_mul(16)?.checked_add(digit)?;
        }
        char::from_u32(value)
    }

    fn skip_spaces(&mut self) {
        while self.rest.next_if(|c| c.is_whitespace()).is_some() {}
    }

    fn accept(&mut self, wanted: char) -> bool {
        self.skip_spaces();
        self.rest.next_if_eq(&wanted).is_some()
    }

    fn expect(&mut self, wanted: char) -> Option<()> {
        self.accept(wanted).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_escapes_follow_python() {
        let cases: &[(&str, &str)] = &[
            ("{'k': 'v'}", "v"),
            ("{'k': \"it's\"}", "it's"),
            (r#"{'k': 'say "hi" it\'s'}"#, "say \"hi\" it's"),
            (r"{'k': 'a\\b\n\t\r'}", "a\\b\n\t\r"),
            (r"{'k': '\x7f\u2028\U0001f600'}", "\x7f\u{2028}\u{1f600}"),
            ("{'k': 'a, b: {c}',}", "a, b: {c}"),
            (" { 'k' : 'v' } ", "v"),
        ];
        for (text, value) in cases {
            let parsed = parse_dictionary(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(parsed.get("k").map(String::as_str), Some(*value), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let cases = [
            "",
            "{",
            "}",
            "{'a'}",
            "{'a':}",
            "{'a': b}",
            "{'a': 'b' 'c': 'd'}",
            "{'a': 'b'} x",
            "{,}",
            r"{'a': '\xzz'}",
            r"{'a': '\Uffffffff'}",
            r"{'a': '\",
            "['a']",
        ];
        for text in cases {
            assert_eq!(parse_dictionary(text), None, "{text}");
        }
    }
}
