//! Globs against a plain recursive model.

use proptest::prelude::*;

use super::*;

fn matches(glob: &str, path: &str) -> bool {
    let path = CanonicalPath::parse(path).expect("a path");
    PathGlob::parse(glob).expect("a glob").matches(&path)
}

#[test]
fn stars_stay_in_their_segment_and_two_do_not() {
    for (glob, path, expected) in [
        ("/", "/", true),
        ("/", "/a", false),
        ("/a", "/a", true),
        ("/a", "/A", false),
        ("/a", "/a/", false),
        ("/a/*", "/a/b", true),
        ("/a/*", "/a/", false),
        ("/a/*", "/a/b/c", false),
        ("/a/*/c", "/a/b/c", true),
        ("/a/b*", "/a/b", true),
        ("/a/b*d", "/a/bcd", true),
        ("/a/b*d", "/a/bc", false),
        ("/a/*.git", "/a/x.git", true),
        ("/a/*x*y*", "/a/1x2y3", true),
        ("/a/*x*y*", "/a/y1x2", false),
        ("/a/aa*aa", "/a/aaa", false),
        ("/repos/acme/**", "/repos/acme", true),
        ("/repos/acme/**", "/repos/acme/", true),
        ("/repos/acme/**", "/repos/acme/x/y", true),
        ("/repos/acme/**", "/repos/acmeevil", false),
        ("/repos/acme/**", "/repos", false),
        ("/**", "/", true),
        ("/**", "/a/b", true),
        ("/**/b", "/b", true),
        ("/**/b", "/a/a/b", true),
        ("/**/b", "/a/b/c", false),
        ("/a/**/b/*", "/a/x/b/y/b/z", true),
        ("/a/**/b/*", "/a/b", false),
        ("/repos/acme/**", "/repos/acme/../evil", false),
    ] {
        assert_eq!(matches(glob, path), expected, "{glob} {path}");
    }
}

#[test]
fn globs_that_could_never_match_are_refused() {
    for (glob, hint) in [
        ("a", "begins with a slash"),
        ("", "begins with a slash"),
        ("/a?b", "neither query nor parameters"),
        ("/a//b", "write `/a/b`"),
        ("/a/../b", "write `/b`"),
        ("/%61", "write `/a`"),
        ("/a b", "write `/a%20b`"),
        ("/a**", "whole segment"),
        ("/***", "whole segment"),
    ] {
        let error = PathGlob::parse(glob).expect_err(glob).to_string();
        assert!(error.contains(hint), "{glob}: {error}");
    }
    let long = format!("/{}", "a".repeat(GLOB_LEN_MAX));
    assert_eq!(PathGlob::parse(&long), Err(GlobError::TooLong));
}

#[test]
fn many_stars_take_little_time() {
    let glob = format!("/{}b", "**/*a*a/".repeat(60));
    let path = format!("/{}c", "aaaa/".repeat(1500));
    assert!(!matches(&glob, &path));
    let glob = format!("/{}b", "*a".repeat(400));
    let path = format!("/{}", "a".repeat(8000));
    assert!(!matches(&glob, &path));
}

fn model(glob: &[&str], path: &[&str]) -> bool {
    match (glob.split_first(), path.split_first()) {
        (None, None) => true,
        (Some((&"**", rest)), _) => {
            model(rest, path)
                || path
                    .split_first()
                    .is_some_and(|(_, tail)| model(glob, tail))
        }
        (Some((&"*", rest)), Some((segment, tail))) => !segment.is_empty() && model(rest, tail),
        (Some((part, rest)), Some((segment, tail))) => {
            let part: Vec<char> = part.chars().collect();
            let segment: Vec<char> = segment.chars().collect();
            model_segment(&part, &segment) && model(rest, tail)
        }
        _ => false,
    }
}

fn model_segment(glob: &[char], text: &[char]) -> bool {
    match (glob.split_first(), text.split_first()) {
        (None, None) => true,
        (Some(('*', rest)), _) => {
            model_segment(rest, text)
                || text
                    .split_first()
                    .is_some_and(|(_, tail)| model_segment(glob, tail))
        }
        (Some((one, rest)), Some((two, tail))) => one == two && model_segment(rest, tail),
        _ => false,
    }
}

proptest! {
    #[test]
    fn globs_follow_the_model(
        glob in "(/(\\*\\*|\\*|a|b|a\\*|\\*b|a\\*b|\\*a\\*)){1,6}",
        path in "(/(a|b|ab|aab|ba)){1,7}/?",
    ) {
        let parsed = CanonicalPath::parse(&path).expect("a path");
        let glob_parts: Vec<&str> = glob.split('/').skip(1).collect();
        let segments: Vec<&str> = parsed.segments().collect();
        let glob = PathGlob::parse(&glob).expect("a glob");
        prop_assert_eq!(glob.matches(&parsed), model(&glob_parts, &segments));
    }
}
