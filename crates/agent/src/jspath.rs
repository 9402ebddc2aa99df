//! Paths as text, the way Deno's standard library treats them: nothing here
//! asks the file system.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Resolves `.`, `..` and repeated separators; keeps a trailing one.
pub(crate) fn normalize(path: &OsStr) -> OsString {
    let bytes = path.as_bytes();
    let absolute = bytes.starts_with(b"/");
    let mut kept = kept_segments(bytes, absolute).join(&b'/');
    if kept.is_empty() && !absolute {
        kept.push(b'.');
    }
    if !kept.is_empty() && bytes.ends_with(b"/") {
        kept.push(b'/');
    }
    if absolute {
        kept.insert(0, b'/');
    }
    OsString::from_vec(kept)
}

fn kept_segments(path: &[u8], absolute: bool) -> Vec<&[u8]> {
    let mut kept: Vec<&[u8]> = Vec::new();
    for segment in path.split(|byte| *byte == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => match kept.last() {
                Some(last) if *last != b".." => {
                    kept.pop();
                }
                _ if absolute => {}
                _ => kept.push(segment),
            },
            segment => kept.push(segment),
        }
    }
    kept
}

/// Joins two paths and normalizes the result.
pub(crate) fn join(first: &OsStr, second: &OsStr) -> OsString {
    let mut joined = first.to_owned();
    if !first.is_empty() && !second.is_empty() {
        joined.push("/");
    }
    joined.push(second);
    if joined.is_empty() {
        OsString::from(".")
    } else {
        normalize(&joined)
    }
}

/// Stands in for a `..` that must stay; no path holds a nul byte.
const STAYS: &[u8] = b"\0";

/// Like [`join`], but `**/..` stays, when `**` may stand for any depth.
pub(crate) fn join_globs(first: &OsStr, second: &OsStr, globstar: bool) -> OsString {
    if !globstar {
        return join(first, second);
    }
    let mut joined = first.to_owned();
    if !second.is_empty() {
        if !first.is_empty() {
            joined.push("/");
        }
        joined.push(second);
    }
    if joined.is_empty() {
        return OsString::from(".");
    }
    let mut before: &[u8] = b"";
    let mut marked: Vec<&[u8]> = Vec::new();
    for segment in joined.as_bytes().split(|byte| *byte == b'/') {
        match segment {
            b".." if before == b"**" => marked.push(STAYS),
            segment => marked.push(segment),
        }
        if !segment.is_empty() {
            before = segment;
        }
    }
    let normal = normalize(OsStr::from_bytes(&marked.join(&b'/')));
    let segments = normal.as_bytes().split(|byte| *byte == b'/');
    let unmarked: Vec<&[u8]> = segments
        .map(|segment| if segment == STAYS { b".." } else { segment })
        .collect();
    OsString::from_vec(unmarked.join(&b'/'))
}

/// `path` as seen from `directory`, without `.`, `..` or a trailing separator.
pub(crate) fn resolve(directory: &OsStr, path: &OsStr) -> OsString {
    let mut whole = OsString::new();
    if !path.as_bytes().starts_with(b"/") {
        whole.push(directory);
        whole.push("/");
    }
    whole.push(path);
    let mut resolved = normalize(&whole).into_vec();
    if resolved.len() > 1 && resolved.ends_with(b"/") {
        resolved.pop();
    }
    OsString::from_vec(resolved)
}

/// The last segment, whatever separators follow it.
pub(crate) fn basename(path: &OsStr) -> &OsStr {
    let bytes = path.as_bytes();
    let last = bytes.rsplit(|byte| *byte == b'/');
    match last.into_iter().find(|segment| !segment.is_empty()) {
        Some(name) => OsStr::from_bytes(name),
        None if bytes.is_empty() => OsStr::new(""),
        None => OsStr::new("/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalizes() {
        let cases = [
            ("", "."),
            (".", "."),
            ("./", "./"),
            ("/", "/"),
            ("//", "/"),
            ("/..", "/"),
            ("..", ".."),
            ("../", "../"),
            ("../..", "../.."),
            ("a/..", "."),
            ("a/../..", ".."),
            ("a//b/./c/", "a/b/c/"),
            ("/a/../../b", "/b"),
            ("a/b/../../../c", "../c"),
            ("...", "..."),
        ];
        for (path, expected) in cases {
            assert_eq!(normalize(OsStr::new(path)), expected, "{path:?}");
        }
    }

    #[test]
    fn joins_and_resolves() {
        let os = OsStr::new;
        assert_eq!(join(os("."), os("a")), "a");
        assert_eq!(join(os("/"), os("a")), "/a");
        assert_eq!(join(os(""), os("")), ".");
        assert_eq!(join_globs(os("/"), os(""), true), "/");
        assert_eq!(join_globs(os("/a/**"), os(".."), true), "/a/**/..");
        assert_eq!(join_globs(os("/a/**"), os(".."), false), "/a");
        assert_eq!(join_globs(os("/a/b"), os(".."), true), "/a");
        assert_eq!(resolve(os("/home/app"), os("../x/")), "/home/x");
        assert_eq!(resolve(os("/home/app"), os("/x//y")), "/x/y");
        assert_eq!(resolve(os("/"), os("")), "/");
    }

    #[test]
    fn names_the_last_segment() {
        let cases = [
            ("/", "/"),
            ("/a", "a"),
            ("a/b/", "b"),
            ("a", "a"),
            ("", ""),
            ("//", "/"),
        ];
        for (path, expected) in cases {
            assert_eq!(basename(OsStr::new(path)), expected, "{path:?}");
        }
    }
}
