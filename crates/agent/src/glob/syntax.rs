//! The text of a glob: where it is split, which of its parts are patterns, and
//! the regular expression that each of these means.

use std::sync::LazyLock;

use tombolo_guest_proto::v1::ExpandGlobRequest;

use crate::pattern::Pattern;

const SEPARATORS: &str = "/+";
const MAYBE_SEPARATORS: &str = "/*";
const ANY_DEPTH: &str = "(?:[^/]*(?:/|$)+)*";
const WILDCARD: &str = "[^/]*";
/// Matches nothing.
const NEVER: &str = "(?!)";
const SPECIAL: &str = "!$()*+.=?[\\^{|";
const SPECIAL_IN_RANGE: &str = "-\\]";
const METACHARACTERS: &str = "*?{}[]()|+@!";

/// Which extensions of the syntax are in force.
#[derive(Clone, Copy, Debug)]
pub(super) struct Syntax {
    pub(super) extended: bool,
    pub(super) globstar: bool,
    pub(super) case_insensitive: bool,
}

impl Syntax {
    pub(super) fn of(request: &ExpandGlobRequest) -> Self {
        Self {
            extended: request.extended,
            globstar: request.globstar,
            case_insensitive: request.case_insensitive,
        }
    }

    /// The source of an expression that matches what `glob` matches.
    pub(super) fn to_regex(self, glob: &str) -> String {
        if glob.is_empty() {
            return NEVER.to_owned();
        }
        let trimmed = glob.trim_end_matches('/');
        let glob: Vec<char> = match trimmed {
            "" => vec!['/'],
            trimmed => trimmed.chars().collect(),
        };
        let mut source = String::from("^");
        let mut start = 0;
        while start < glob.len() {
            let mut segment = Segment::new(self, &glob, start);
            segment.translate();
            let end = segment.at;
            let (translated, ends_with_separator) = segment.finish(start);
            source.push_str(&translated);
            if !ends_with_separator {
                source.push_str(if end < glob.len() {
                    SEPARATORS
                } else {
                    MAYBE_SEPARATORS
                });
            }
            start = end;
            while glob.get(start) == Some(&'/') {
                start += 1;
            }
        }
        source.push('$');
        source
    }
}

/// A bracket that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    Brace,
    /// The quantifier in front of it, as in `+(a|b)`.
    Extended(char),
}

/// One segment of a glob being translated.
struct Segment<'a> {
    syntax: Syntax,
    glob: &'a [char],
    at: usize,
    source: String,
    groups: Vec<Group>,
    in_range: bool,
    in_escape: bool,
    ends_with_separator: bool,
}

impl<'a> Segment<'a> {
    fn new(syntax: Syntax, glob: &'a [char], at: usize) -> Self {
        Self {
            syntax,
            glob,
            at,
            source: String::new(),
            groups: Vec::new(),
            in_range: false,
            in_escape: false,
            ends_with_separator: false,
        }
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.glob.get(self.at + ahead).copied()
    }

    /// Stops at the separator after the segment, or at the end.
    fn translate(&mut self) {
        while let Some(char) = self.peek(0) {
            if char == '/' && self.groups.is_empty() {
                break;
            }
            self.translate_one(char);
            self.at += 1;
        }
    }

    fn translate_one(&mut self, char: char) {
        if self.in_escape {
            self.in_escape = false;
            let special = if self.in_range {
                SPECIAL_IN_RANGE
            } else {
                SPECIAL
            };
            self.push_literal(char, special);
        } else if char == '\\' {
            self.in_escape = true;
        } else if self.in_range || char == '[' {
            self.on_range(char);
        } else if !self.on_group(char) {
            match char {
                '?' => self.source.push('.'),
                '*' => self.on_stars(),
                char => self.push_literal(char, SPECIAL),
            }
        }
    }

    fn push_literal(&mut self, char: char, special: &str) {
        if special.contains(char) {
            self.source.push('\\');
        }
        self.source.push(char);
    }

    fn on_range(&mut self, char: char) {
        match char {
            '[' if !self.in_range => {
                self.in_range = true;
                self.source.push('[');
                match self.peek(1) {
                    Some('!') => {
                        self.at += 1;
                        self.source.push('^');
                    }
                    Some('^') => {
                        self.at += 1;
                        self.source.push_str("\\^");
                    }
                    _ => {}
                }
            }
            '[' if self.peek(1) == Some(':') && self.on_class() => {}
            ']' => {
                self.in_range = false;
                self.source.push(']');
            }
            char => self.source.push(char),
        }
    }

    /// A class of characters such as `[:alnum:]`; false when it is not one.
    fn on_class(&mut self) -> bool {
        let name: String = self
            .glob
            .iter()
            .skip(self.at + 2)
            .take_while(|char| **char != ':')
            .collect();
        let end = self.at + 2 + name.chars().count();
        if self.glob.get(end) != Some(&':') || self.glob.get(end + 1) != Some(&']') {
            return false;
        }
        self.at = end + 1;
        self.source.push_str(match name.as_str() {
            "alnum" => r"\dA-Za-z",
            "alpha" => "A-Za-z",
            "ascii" => r"\x00-\x7F",
            "blank" => "\t ",
            "cntrl" => r"\x00-\x1F\x7F",
            "digit" => r"\d",
            "graph" => r"\x21-\x7E",
            "lower" => "a-z",
            "print" => r"\x20-\x7E",
            "punct" => "!\"#$%&'()*+,\\-./:;<=>?@[\\\\\\]^_\u{2018}{|}~",
            "space" => r"\s\v",
            "upper" => "A-Z",
            "word" => r"\w",
            "xdigit" => r"\dA-Fa-f",
            _ => "",
        });
        true
    }

    /// Opens, closes or divides a group; false when `char` does none of these.
    fn on_group(&mut self, char: char) -> bool {
        let opens = self.syntax.extended && self.peek(1) == Some('(');
        match (char, self.groups.last().copied()) {
            (')', Some(Group::Extended(quantifier))) => {
                self.groups.pop();
                self.source.push(')');
                match quantifier {
                    '!' => self.source.push_str(WILDCARD),
                    '@' => {}
                    quantifier => self.source.push(quantifier),
                }
            }
            ('|', Some(Group::Extended(_))) | (',', Some(Group::Brace)) => self.source.push('|'),
            ('+' | '@' | '?' | '!' | '*', _) if opens => {
                self.at += 1;
                self.groups.push(Group::Extended(char));
                self.source.push_str(match char {
                    '!' => "(?!",
                    _ => "(?:",
                });
            }
            ('{', _) => {
                self.groups.push(Group::Brace);
                self.source.push_str("(?:");
            }
            ('}', Some(Group::Brace)) => {
                self.groups.pop();
                self.source.push(')');
            }
            _ => return false,
        }
        true
    }

    fn on_stars(&mut self) {
        let before = self.at.checked_sub(1).and_then(|at| self.glob.get(at));
        let mut stars = 1;
        while self.peek(1) == Some('*') {
            self.at += 1;
            stars += 1;
        }
        let is_edge = |char: Option<&char>| matches!(char, None | Some('/'));
        let after = self.glob.get(self.at + 1);
        if self.syntax.globstar && stars == 2 && is_edge(before) && is_edge(after) {
            self.source.push_str(ANY_DEPTH);
            self.ends_with_separator = true;
        } else {
            self.source.push_str(WILDCARD);
        }
    }

    /// The translation, and whether it takes care of the separator after it.
    fn finish(self, start: usize) -> (String, bool) {
        let is_whole = self.groups.is_empty() && !self.in_range && !self.in_escape;
        if is_whole {
            return (self.source, self.ends_with_separator);
        }
        // Something was left open: then every character means itself.
        let mut literal = Segment::new(self.syntax, self.glob, self.at);
        for char in self.glob.get(start..self.at).unwrap_or_default() {
            literal.push_literal(*char, SPECIAL);
        }
        (literal.source, false)
    }
}

/// The parts of a glob between separators.
pub(super) fn segments_of(glob: &str) -> Vec<&str> {
    let inner = glob.trim_matches('/');
    match inner {
        "" => vec![""],
        inner => inner.split('/').filter(|part| !part.is_empty()).collect(),
    }
}

static GLOB: LazyLock<Option<Pattern>> = LazyLock::new(|| {
    const SOURCE: &str = concat!(
        r"\\(.)|(^!|\*|\?|[\].+)]\?|\[[^[\\\]]+\]|\{[^{\\}]+\}",
        r"|\(\?[:!=][^\\)]+\)|\([^(|]+\|[^\\)]+\)|@\([^)]+\))"
    );
    Pattern::new(SOURCE, "").ok()
});

/// Whether `text` is a pattern, and not a name.
pub(super) fn is_glob(mut text: &str) -> bool {
    let Some(pattern) = &*GLOB else {
        return true;
    };
    while !text.is_empty() {
        let Some(found) = pattern.find(text) else {
            return false;
        };
        if found.group(2).is_some() {
            return true;
        }
        let mut end = found.end();
        let escaped = found.group(1).and_then(|range| text.get(range));
        let closing = match escaped {
            Some("{") => Some('}'),
            Some("(") => Some(')'),
            Some("[") => Some(']'),
            _ => None,
        };
        let rest = text.get(end..).unwrap_or_default();
        if let Some(at) = closing.and_then(|closing| rest.find(closing)) {
            end += at + 1;
        }
        text = text.get(end..).unwrap_or_default();
    }
    false
}

/// The name that a segment without patterns means.
pub(super) fn unescape(segment: &str) -> String {
    let mut name = String::with_capacity(segment.len());
    let mut chars = segment.chars().peekable();
    while let Some(char) = chars.next() {
        if char == '\\'
            && let Some(escaped) = chars.next_if(|next| METACHARACTERS.contains(*next))
        {
            name.push(escaped);
        } else {
            name.push(char);
        }
    }
    name
}

#[cfg(test)]
mod tests;
