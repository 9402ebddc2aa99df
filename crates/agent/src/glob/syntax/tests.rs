//! Globs against a matcher that tries everything, and against noise.

use std::ffi::OsStr;

use proptest::prelude::*;

use super::*;
use crate::pattern::Text;

const PLAIN: Syntax = Syntax {
    extended: true,
    globstar: true,
    case_insensitive: false,
};

/// Literals, `*` and `?` within one segment.
fn simple_match(glob: &[char], text: &[char]) -> bool {
    match (glob, text) {
        ([], []) => true,
        (['*', glob @ ..], text) => (0..=text.len()).any(|skip| simple_match(glob, &text[skip..])),
        (['?', glob @ ..], [_, text @ ..]) => simple_match(glob, text),
        ([literal, glob @ ..], [char, text @ ..]) => literal == char && simple_match(glob, text),
        _ => false,
    }
}

fn matches(glob: &str, text: &str) -> bool {
    let pattern = Pattern::new(&PLAIN.to_regex(glob), "").unwrap();
    pattern.is_match(&Text::new(OsStr::new(text)))
}

#[test]
fn translates_as_the_library_does() {
    let cases = [
        ("", "(?!)"),
        ("*.js", r"^[^/]*\.js/*$"),
        ("a/**/b/", "^a/+(?:[^/]*(?:/|$)+)*b/*$"),
        ("**", "^(?:[^/]*(?:/|$)+)*$"),
        ("{a,b}?", "^(?:a|b)./*$"),
        ("+(a|b)!(c)", "^(?:a|b)+(?!c)[^/]*/*$"),
        ("[!a-z[:digit:]]", r"^[^a-z\d]/*$"),
        (r"\*[\]]", r"^\*[\]]/*$"),
        ("{a", r"^\{a/*$"),
        ("a(b)", r"^a\(b\)/*$"),
        ("/", "^/+$"),
    ];
    for (glob, expected) in cases {
        assert_eq!(PLAIN.to_regex(glob), expected, "{glob}");
    }
}

proptest! {
    #[test]
    fn stars_and_marks_match_as_the_simple_matcher_says(
        glob in "[ab.*?]{0,6}",
        text in "[ab.]{0,6}",
    ) {
        // A pair of stars alone crosses separators, and an empty glob is none.
        prop_assume!(!glob.is_empty() && glob != "**");
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        let expected = simple_match(&chars(&glob), &chars(&text));
        prop_assert_eq!(matches(&glob, &text), expected);
    }

    #[test]
    fn no_glob_is_too_odd(glob in r"[ab/*?{}()\[\]|!@+^,:\\.é-]{0,24}", extended: bool, globstar: bool) {
        let syntax = Syntax { extended, globstar, ..PLAIN };
        let source = syntax.to_regex(&glob);
        prop_assert!(glob.is_empty() || (source.starts_with('^') && source.ends_with('$')));
        if let Ok(pattern) = Pattern::new(&source, "") {
            pattern.is_match(&Text::new(OsStr::new("a/b")));
        }
        is_glob(&glob);
        unescape(&glob);
        segments_of(&glob);
    }
}
