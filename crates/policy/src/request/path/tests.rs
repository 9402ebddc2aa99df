//! HTTP-16: one form of a path, or none.

use proptest::prelude::*;

use super::*;

fn check(raw: &str, expected: Result<&str, PathError>) {
    let parsed = CanonicalPath::parse(raw);
    let text = parsed
        .as_ref()
        .map(CanonicalPath::as_str)
        .map_err(|error| *error);
    assert_eq!(text, expected, "{raw:?}");
}

/// HTTP-16: paths that mean the same are the same.
#[test]
fn http_16_paths_that_mean_the_same_are_the_same() {
    for (raw, canonical) in [
        ("/", "/"),
        ("/pub/../admin", "/admin"),
        ("/pub/%2e%2e/admin", "/admin"),
        ("/pub/%2E./admin", "/admin"),
        ("/pub/.%2e/admin", "/admin"),
        ("/./a/./b", "/a/b"),
        ("//admin", "/admin"),
        ("/a//b///c", "/a/b/c"),
        ("/a//../b", "/b"),
        ("/a/", "/a/"),
        ("/a/.", "/a/"),
        ("/a/b/..", "/a/"),
        ("/a/..", "/"),
        ("/%61dmin", "/admin"),
        ("/%7euser", "/~user"),
        ("/a%3fb", "/a%3Fb"),
        ("/a%23b", "/a%23b"),
        ("/a%3bb", "/a%3Bb"),
        ("/a%2fb", "/a%2Fb"),
        ("/caf\u{e9}", "/caf%C3%A9"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/a[1]", "/a%5B1%5D"),
        ("/a b", "/a%20b"),
        ("/100%25", "/100%25"),
        ("/%25zz", "/%25zz"),
        ("/...", "/..."),
        ("/a:b@c,d=e+f&g!$'()*", "/a:b@c,d=e+f&g!$'()*"),
    ] {
        check(raw, Ok(canonical));
    }
}

/// HTTP-16: paths that can be read in two ways are refused.
#[test]
fn http_16_paths_that_can_be_read_in_two_ways_are_refused() {
    let long = format!("/{}", "a".repeat(PATH_LEN_MAX));
    let long_when_escaped = format!("/{}", "\u{e9}".repeat(PATH_LEN_MAX / 3));
    for (raw, error) in [
        ("", PathError::NotAbsolute),
        ("*", PathError::NotAbsolute),
        ("http://evil/", PathError::NotAbsolute),
        ("/a?b", PathError::Delimiter),
        ("/a#/../b", PathError::Delimiter),
        ("/a;x=1", PathError::Parameter),
        ("/pub/..;/admin", PathError::Parameter),
        ("/pub\\..\\admin", PathError::Backslash),
        ("/pub%5c..%5Cadmin", PathError::Backslash),
        ("/a%00b", PathError::Control),
        ("/a%0d%0ab", PathError::Control),
        ("/a\tb", PathError::Control),
        ("/a%7f", PathError::Control),
        ("/%252e%252e/admin", PathError::DoubleEncoding),
        ("/%252f", PathError::DoubleEncoding),
        ("/%25%32%65", PathError::DoubleEncoding),
        ("/a%", PathError::Escape),
        ("/a%4", PathError::Escape),
        ("/a%zz", PathError::Escape),
        ("/%u002e", PathError::Escape),
        ("/a%+1", PathError::Escape),
        ("/%c0%ae%c0%ae/", PathError::NotUtf8),
        ("/%ff", PathError::NotUtf8),
        ("/..", PathError::DotSegment),
        ("/a/../../b", PathError::DotSegment),
        ("/%2e%2e/etc", PathError::DotSegment),
        ("/a/..%2fadmin", PathError::DotSegment),
        ("/a/x%2f%2e%2e%2f", PathError::DotSegment),
        (long.as_str(), PathError::TooLong),
        (long_when_escaped.as_str(), PathError::TooLong),
    ] {
        check(raw, Err(error));
    }
    check(&long[..PATH_LEN_MAX], Ok(&long[..PATH_LEN_MAX]));
}

#[test]
fn an_encoded_slash_is_told() {
    let has = |raw| {
        CanonicalPath::parse(raw)
            .expect("a path")
            .has_encoded_slash()
    };
    assert!(has("/a%2fb") && !has("/a/b") && !has("/2F"));
}

/// What a server would see that decodes once and resolves dot segments itself.
fn resolved_by_a_server(path: &str) -> Option<Vec<String>> {
    let mut decoded = Vec::new();
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let value = match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        };
        decoded.push(value);
    }
    let decoded = String::from_utf8(decoded).ok()?;
    let mut kept = Vec::new();
    for segment in decoded
        .split('/')
        .filter(|segment| !matches!(*segment, "" | "."))
    {
        match segment {
            ".." => drop(kept.pop()?),
            segment => kept.push(segment.to_owned()),
        }
    }
    Some(kept)
}

proptest! {
    #[test]
    fn the_canonical_form_is_stable_and_plain(
        raw in "(/|\\.|%2e|%2E|%2f|%25|%41|%c3%a9|a|B|~|\\*|;|\\\\|%|é|%5c|\\?){0,24}".prop_map(|rest| format!("/{rest}"))
    ) {
        if let Ok(path) = CanonicalPath::parse(&raw) {
            prop_assert_eq!(CanonicalPath::parse(path.as_str()), Ok(path.clone()));
            prop_assert!(path.as_str().is_ascii() && path.as_str().starts_with('/'));
            let odd = |segment: &str| matches!(segment, "." | "..");
            prop_assert!(!path.segments().any(odd));
            prop_assert!(!path.as_str().contains("//"));
            // A server that decodes by itself arrives where the rules were asked about.
            if !path.has_encoded_slash() {
                prop_assert_eq!(resolved_by_a_server(path.as_str()), resolved_by_a_server(&raw));
                let segments = resolved_by_a_server(path.as_str()).expect("resolved");
                prop_assert_eq!(segments.len(), path.segments().filter(|segment| !segment.is_empty()).count());
            }
        }
    }

    #[test]
    fn any_text_is_a_path_or_none(raw in "\\PC{0,64}") {
        if let Ok(path) = CanonicalPath::parse(&raw) {
            prop_assert_eq!(CanonicalPath::parse(path.as_str()), Ok(path.clone()));
        }
    }
}
